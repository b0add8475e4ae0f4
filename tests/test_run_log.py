from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from seedvote.run_log import RunLog

ROOT = Path(__file__).resolve().parent.parent
ENTRY = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 \[(\d+)\] (.*)")


def log_of(path):
    return RunLog(SimpleNamespace(path=path))


def entries(path):
    """The entries of a log, with their further lines."""
    found = []
    for line in (path / "train.log").read_text().splitlines():
        if line.startswith("    "):
            found[-1] += f"\n{line[4:]}"
        else:
            found.append(ENTRY.fullmatch(line)[2])
    return found


def test_entries_are_appended(tmp_path):
    for text in ("one", "two\nlines", "\x1b[2Jthree \x07\x85 \udcff ü"):
        log = log_of(tmp_path)
        log.write(text)
        log.close()
    assert entries(tmp_path) == ["one", "two\nlines", "\\x1b[2Jthree \\x07\\x85 \\udcff ü"]
    assert ENTRY.match((tmp_path / "train.log").read_text())[1] == str(os.getpid())


def test_entries_of_several_processes_stay_whole(tmp_path):
    code = (
        "import sys; from types import SimpleNamespace; from pathlib import Path\n"
        "from seedvote.run_log import RunLog\n"
        "log = RunLog(SimpleNamespace(path=Path(sys.argv[1])))\n"
        "for number in range(300): log.write(f'{number}\\n' + '\\n'.join(sys.argv[2] * 200 for _ in range(20)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), mark], env=environment) for mark in "ab"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    found = entries(tmp_path)
    assert len(found) == 600
    for mark in "ab":
        own = [entry for entry in found if mark in entry]
        assert own == [f"{number}\n" + "\n".join([mark * 200] * 20) for number in range(300)]


def test_a_log_that_cannot_be_written_is_told_once(tmp_path, capsys):
    (tmp_path / "train.log").mkdir()
    log = log_of(tmp_path)
    for _ in range(3):
        log.write("x")
    assert capsys.readouterr().err == f"warning: {tmp_path}/train.log cannot be written: Is a directory\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are pipes in the file system only on POSIX")
def test_a_pipe_in_its_place_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "train.log")
    log_of(tmp_path).write("x")
    assert "train.log cannot be written" in capsys.readouterr().err
    reader = os.open(tmp_path / "train.log", os.O_RDONLY | os.O_NONBLOCK)
    log_of(tmp_path).write("x")
    assert "train.log cannot be written: it is no regular file" in capsys.readouterr().err
    os.close(reader)


def test_a_link_that_leads_out_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="a symbolic link leads .*train.log out of"):
        log_of(tmp_path / "run")


def test_warnings_are_noted_and_still_shown(tmp_path):
    log, shown = log_of(tmp_path), []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *arguments, **_: shown.append(str(arguments[0]))
        own = warnings.showwarning
        with log.warnings():
            warnings.warn("careful", RuntimeWarning, stacklevel=1)
        assert warnings.showwarning is own
    assert shown == ["careful"]
    assert entries(tmp_path) == ["warning: RuntimeWarning: careful"]


QUICK = ("data.limit=100", "epochs=2", "model.hidden=[16]", "run=it")


def test_training_writes_down_what_it_does(call, workplace):
    run = workplace / "checkpoints" / "it"
    assert call("train", *QUICK, "n_seeds=2", "engine=sequential").status == 0
    found = entries(run)
    assert found[0] == "training 2 members: seeds 0, 1"
    named = dict(entry.split(":", 1) for entry in found[1:] if ":" in entry)
    config = yaml.safe_load(named["config"])
    assert (config["epochs"], config["model"]["hidden"], config["checkpoints"]) == (2, [16], "checkpoints")
    command = "python -m seedvote.train data.limit=100 epochs=2 'model.hidden=[16]' run=it n_seeds=2 engine=sequential"
    assert named["command"] == f" {command}"
    assert named["data"].startswith(" digits: 100 train, 100 validation, 100 test; fingerprint ")
    rows = [row.split() for row in named["layers of seed 0"].splitlines()]
    assert ["1", "Linear", "16", "1,040"] in rows
    assert ["in", "all", "1,210"] in rows
    for seed in (0, 1):
        own = [entry for entry in found if entry.startswith(f"seed {seed}: ")]
        assert [entry.split(":")[1].split(",")[0] for entry in own] == [
            " epoch 1",
            " epoch 2",
            " finished; stored with the weights of epoch 2",
        ]
    assert found[-1] == "end: 2 of 2 members are stored"


def test_where_the_data_lay_is_written_down(call, workplace, tmp_path):
    import numpy as np

    dice = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", inputs=dice.normal(size=(90, 5)).astype(np.float32), labels=np.arange(90) % 3)
    assert call("train", *QUICK[1:], "data=arrays", "data.file=x.npz", "n_seeds=1").status == 0
    found = entries(workplace / "checkpoints" / "it")
    assert any(entry.startswith("data: ") and f", file {tmp_path / 'x.npz'}: " in entry for entry in found)


def test_what_goes_wrong_is_written_down(call, workplace):
    wild = (*QUICK, "optimizer=sgd", "optimizer.lr=1e30", "optimizer.weight_decay=0")
    assert call("train", *wild, "n_seeds=1").status == 1
    assert any(
        "seed 0: diverged, the training loss became" in entry for entry in entries(workplace / "checkpoints" / "it")
    )


def test_a_log_that_cannot_be_written_costs_no_member(call, workplace):
    (workplace / "checkpoints" / "it" / "train.log").mkdir(parents=True)
    outcome = call("train", *QUICK, "n_seeds=1")
    assert outcome.status == 0
    assert outcome.err.count("warning: checkpoints/it/train.log cannot be written") == 1


def test_an_interruption_is_written_down(call, workplace):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    slow = ("data.limit=100", "epochs=100000", "run=it", "n_seeds=1", "engine=sequential")
    log = workplace / "checkpoints" / "it" / "train.log"
    with subprocess.Popen(
        [sys.executable, "-m", "seedvote.train", *slow], cwd=workplace, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as training:  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (log.exists() and "epoch 3," in log.read_text()):
            time.sleep(0.05)
        training.send_signal(signal.SIGTERM)
        assert training.wait(60) == 143
    found = entries(log.parent)
    assert re.fullmatch(r"seed 0: saved after \d+ epochs and \d+ steps", found[-2])
    assert found[-1] == "end: interrupted by signal 15; 0 of 1 members are stored"
