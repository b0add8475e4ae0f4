"""What `logger=tensorboard` writes, read by TensorBoard's own reader."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, log_loss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data
from torch.utils.tensorboard import SummaryWriter

from recipes import quick_recipe
from seedvote import board, inference, train
from seedvote.assembly import stored_data
from seedvote.board import image_grid
from seedvote.events import Observation, Progress
from seedvote.store import read_member, read_run
from seedvote.types import EpochRecord

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("data.limit=200", "epochs=3", "model.hidden=[16]", "run=it", "n_seeds=3")
ENGINES = {
    "sequential": ("engine=sequential",),
    "process": ("engine=process", "engine.workers=2"),
    "fused": ("engine=fused", "+engine.workers=1"),
    "crew": ("engine=fused", "+engine.workers=2"),
}
CURVES = {"train/loss", "validation/loss", "validation/accuracy", "learning_rate"}
COLUMNS = {
    "train/loss": "train_loss",
    "validation/loss": "validation_loss",
    "validation/accuracy": "validation_accuracy",
    "learning_rate": "learning_rate",
}


def logs(run):
    """Every log of a run, by name, with all that is in it."""
    everything = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0, "graph": 0}
    found = {}
    for place in sorted((run / "tensorboard").iterdir()):
        if not place.name.startswith("."):
            found[place.name] = EventAccumulator(str(place), everything)
            found[place.name].Reload()
    return found


def curve(log, tag):
    return [(event.step, event.value) for event in log.Scalars(tag)]


def member(run, seed):
    return json.loads((run / f"seed-{seed:04d}" / "member.json").read_text())


def weights(run, seed):
    return (run / f"seed-{seed:04d}" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same run from all engines with a log, and one without (`bare`)."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        runs = {name: (*engine, "logger=tensorboard") for name, engine in ENGINES.items()}
        for name, arguments in (runs | {"bare": ENGINES["sequential"]}).items():
            patch.setattr(sys, "argv", ["seedvote.train", *QUICK, *arguments, f"checkpoints={name}"])
            with pytest.raises(SystemExit) as exit_:
                train.main()
            assert exit_.value.code == 0
    return place


@pytest.mark.parametrize("engine", ["sequential", "process"])
def test_a_log_changes_no_weights(engine, plain):
    for seed in range(3):
        assert weights(plain / engine / "it", seed) == weights(plain / "bare" / "it", seed)
    assert not (plain / "bare" / "it" / "tensorboard").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_curves_of_members_are_their_histories(engine, plain):
    run = plain / engine / "it"
    found = logs(run)
    assert set(found) == {
        "recipe", "seed-0000", "seed-0001", "seed-0002", "vote-of-2-seeds-0-to-1", "vote-of-3-seeds-0-to-2",
    }  # fmt: skip
    for seed in range(3):
        log, record = found[f"seed-{seed:04d}"], member(run, seed)
        assert set(log.Tags()["scalars"]) == CURVES | {f"final/{name}" for name in CURVES - {"learning_rate"}}
        for tag, column in COLUMNS.items():
            values = [(row["epoch"], np.float32(row[column])) for row in record["history"]]
            assert curve(log, tag) == values
            if tag != "learning_rate":
                assert curve(log, f"final/{tag}") == [values[-1]]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_votes_last_point_is_the_vote_of_what_is_stored(engine, plain, monkeypatch):
    monkeypatch.chdir(plain)
    run = plain / engine / "it"
    ensemble = inference.load(run)
    validation = stored_data(ensemble.run, {}, trust=False).validation
    probabilities = torch.from_numpy(ensemble.predict_logits(validation.inputs)).double().softmax(2).numpy()
    found = logs(run)
    for name, size in (("vote-of-2-seeds-0-to-1", 2), ("vote-of-3-seeds-0-to-2", 3)):
        mean = probabilities[:size].mean(0)
        accuracies, losses = curve(found[name], "validation/accuracy"), curve(found[name], "validation/loss")
        assert [step for step, _ in accuracies] == [step for step, _ in losses] == [1, 2, 3]
        assert accuracies[-1][1] == pytest.approx(accuracy_score(validation.labels, mean.argmax(1)))
        assert losses[-1][1] == pytest.approx(log_loss(validation.labels, mean), rel=1e-5)
        assert curve(found[name], "final/validation/loss") == losses[-1:]


@pytest.mark.parametrize("engine", ["process", "fused", "crew"])
def test_the_log_is_the_same_whatever_the_engine(engine, plain):
    exact = engine == "process"
    expected, found = logs(plain / "sequential" / "it"), logs(plain / engine / "it")
    assert set(found) == set(expected)
    for name, log in found.items():
        assert log.Tags() == expected[name].Tags()
        for tag in log.Tags()["scalars"]:
            steps, values = zip(*curve(log, tag), strict=True)
            wanted_steps, wanted = zip(*curve(expected[name], tag), strict=True)
            assert steps == wanted_steps
            assert values == (wanted if exact else pytest.approx(wanted, rel=1e-4))
        for tag in log.Tags()["histograms"]:
            for event, other in zip(log.Histograms(tag), expected[name].Histograms(tag), strict=True):
                one, two = event.histogram_value, other.histogram_value
                assert event.step == other.step
                assert one.num == two.num
                assert one.sum_squares == (two.sum_squares if exact else pytest.approx(two.sum_squares, rel=1e-3))
                assert not exact or (one.bucket == two.bucket and one.bucket_limit == two.bucket_limit)


@pytest.mark.parametrize("engine", ENGINES)
def test_histograms_are_of_the_members_weights(engine, plain):
    run = plain / engine / "it"
    for seed in range(3):
        log = logs(run)[f"seed-{seed:04d}"]
        tensors = load_file(run / f"seed-{seed:04d}" / "model.safetensors")
        kinds = ("weights", "gradients")
        assert set(log.Tags()["histograms"]) == {f"{kind}/{name}" for kind in kinds for name in tensors}
        for name, tensor in tensors.items():
            assert [event.step for event in log.Histograms(f"gradients/{name}")] == [1, 2, 3]
            *_, last = log.Histograms(f"weights/{name}")
            value = last.histogram_value
            assert (value.num, value.min, value.max) == (tensor.size, tensor.min(), tensor.max())
            assert value.sum == pytest.approx(tensor.sum(dtype=np.float64))
            assert value.sum_squares == pytest.approx(np.square(tensor, dtype=np.float64).sum())
            assert value.bucket[0] == 0
            counts, edges = np.histogram(tensor.astype(np.float64), 64)
            np.testing.assert_array_equal(value.bucket[1:], counts)
            np.testing.assert_allclose(value.bucket_limit, edges)


def test_the_recipe_is_shown(plain):
    log = logs(plain / "sequential" / "it")["recipe"]
    graph = log.Graph()
    assert sum("Linear" in node.name and node.op == "aten::linear" for node in graph.node) == 2
    texts = {
        tag: log.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in log.Tags()["tensors"] if "text" in tag
    }
    assert "hidden:" in texts["config/text_summary"]
    assert "1,040" in texts["layers/text_summary"]
    (image,) = log.Images("training images of seed 0")
    assert Image.open(io.BytesIO(image.encoded_image_string)).size == (image.width, image.height) == (82, 82)


def test_hyperparameters_stand_with_the_final_scores(plain):
    found = logs(plain / "sequential" / "it")
    for name, seed, members in (("seed-0002", 2.0, 1.0), ("vote-of-3-seeds-0-to-2", "vote", 3.0)):
        content = found[name].PluginTagToContent("hparams")["_hparams_/session_start_info"]
        values = parse_session_start_info_plugin_data(content).hparams
        value = values["seed"].string_value or values["seed"].number_value
        assert value == seed
        assert values["members"].number_value == members
        assert values["epochs"].number_value == 3
        assert values["model.hidden"].string_value == "[16]"
        assert values["optimizer.lr"].number_value == 0.003
        assert "_hparams_/experiment" in found[name].PluginTagToContent("hparams")


def test_the_same_command_again_writes_nothing_and_more_seeds_add_their_own(plain, call, workplace):
    shutil.copytree(plain / "sequential", workplace / "sequential")
    run = workplace / "sequential" / "it"
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "run.json"}
    arguments = (*QUICK[:-1], "engine=sequential", "checkpoints=sequential", "logger=tensorboard")
    assert call("train", *arguments, "n_seeds=3").status == 0
    assert {path: path.read_bytes() for path in files} == files
    assert call("train", *arguments, "n_seeds=5").status == 0
    assert {path for path in files if path.read_bytes() != files[path]} == {
        run / "train.log", *(run / "tensorboard" / ".vote").glob("*.safetensors"),
    }  # fmt: skip
    found = logs(run)
    larger = {"vote-of-4-seeds-0-to-3", "vote-of-5-seeds-0-to-4"}
    assert set(found) == {*logs(plain / "sequential" / "it"), "seed-0003", "seed-0004", *larger}
    for name in larger:
        assert [step for step, _ in curve(found[name], "validation/loss")] == [1, 2, 3]


def killed_once(place, arguments, enough, how=signal.SIGKILL):
    """Train until something is there, and kill."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "seedvote.train", *arguments], cwd=place, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as training:  # fmt: skip
        deadline = time.monotonic() + 120
        while not enough() and time.monotonic() < deadline:
            time.sleep(0.02)
        training.send_signal(how)
        training.wait(60)


@pytest.mark.parametrize(("engine", "how"), [
    ("sequential", signal.SIGKILL), ("process", signal.SIGKILL), ("fused", signal.SIGTERM),
])  # fmt: skip
def test_a_run_that_was_broken_goes_on_in_its_log(engine, how, workplace, call):
    epochs = 100  # so many that a worker, which may be far ahead of what it told, is not done when the kill comes
    arguments = (
        "data.limit=100", f"epochs={epochs}", "model.hidden=[16]", "run=it", "n_seeds=2", "save_every=0",
        *ENGINES[engine], "logger=tensorboard",
    )  # fmt: skip
    run = workplace / "checkpoints" / "it"
    log = run / "train.log"
    killed_once(workplace, arguments, lambda: log.exists() and " epoch 5," in log.read_text(), how)
    time.sleep(1.1)  # files of one second are told apart by the process alone
    assert not (run / "seed-0001" / "member.json").exists()
    assert call("train", *arguments).status == 0
    found = logs(run)
    assert set(found) == {"recipe", "seed-0000", "seed-0001", "vote-of-2-seeds-0-to-1"}
    for name, one in found.items():
        for tag in CURVES & set(one.Tags()["scalars"]):
            steps = [step for step, _ in curve(one, tag)]
            if engine == "process" and name.startswith("vote"):
                # What workers told while their parent was killed is lost to the vote.
                assert steps == sorted(set(steps)) and steps[-1] == epochs
            else:
                assert steps == list(range(1, epochs + 1)), (name, tag)
        if name.startswith("seed"):
            history = member(run, int(name[-4:]))["history"]
            losses = [np.float32(row["train_loss"]) for row in history]
            assert [value for _, value in curve(one, "train/loss")] == losses
            steps = [event.step for event in one.Histograms("weights/1.weight")]
            assert sorted(set(steps)) == steps
            assert steps[-1] == epochs


@pytest.mark.parametrize("written", [None, 0, 2])
def test_what_a_broken_process_did_not_come_to_write_is_taken_from_the_saved_state(written, call, workplace):
    arguments = ("data.limit=100", "epochs=20", "model.hidden=[16]", "run=it", "n_seeds=2", "save_every=0")
    run = workplace / "checkpoints" / "it"
    state = run / "seed-0001" / "state.safetensors"
    one = (*arguments, "engine=sequential")
    killed_once(workplace, one, lambda: state.exists() and " seed 1: epoch 5," in (run / "train.log").read_text())
    if written is not None:  # whole epochs, and of the next one what was on disk when the kill came
        with SummaryWriter(str(run / "tensorboard" / "seed-0001")) as log:
            for epoch in range(1, written + 1):
                for tag in CURVES:
                    log.add_scalar(tag, 0.5, epoch)
            log.add_scalar("train/loss", 0.5, written + 1)
            log.add_scalar("validation/loss", 0.5, written + 1)
        time.sleep(1.1)  # files of one second are told apart by the process alone
    assert call("train", *one, "logger=tensorboard").status == 0
    found = logs(run)
    assert "seed-0000" not in found  # was done when the log was asked for
    for tag in CURVES:
        assert [step for step, _ in curve(found["seed-0001"], tag)] == list(range(1, 21))


def test_a_member_that_was_done_before_it_was_told_of_has_a_whole_log(plain, call, workplace):
    shutil.copytree(plain / "bare", workplace / "checkpoints")
    run = read_run(workplace / "checkpoints" / "it")
    history = [EpochRecord(**row) for row in read_member(run, 1).history]
    data = stored_data(run, {}, trust=False)
    log = board.Board(run, quick_recipe(data), data)
    log.epoch(Progress(1, history[2], Observation({}, {}, np.zeros((len(data.validation), 10), np.float32))))
    log.close()
    written = curve(logs(run.path)["seed-0001"], "train/loss")
    assert written == [(row.epoch, np.float32(row.train_loss)) for row in history]


def test_a_member_that_is_trained_anew_begins_its_log_anew(plain, call, workplace):
    shutil.copytree(plain / "sequential", workplace / "sequential")
    run = workplace / "sequential" / "it"
    before = {tag: curve(logs(run)["seed-0001"], tag) for tag in CURVES}
    (run / "seed-0001" / "model.safetensors").write_bytes(b"x")
    arguments = (*QUICK, "engine=sequential", "checkpoints=sequential", "logger=tensorboard", "on_damaged=retrain")
    assert call("train", *arguments).status == 0
    found = logs(run)
    assert {tag: curve(found["seed-0001"], tag) for tag in CURVES} == before
    assert [step for step, _ in curve(found["vote-of-3-seeds-0-to-2"], "validation/loss")] == [1, 2, 3]


def test_members_that_stop_early_or_diverge_have_shorter_curves(call, workplace):
    run = workplace / "checkpoints" / "it"
    early = ("data.limit=200", "epochs=30", "patience=1", "optimizer.lr=0.1", "run=it", "n_seeds=2")
    assert call("train", *early, "engine=sequential", "logger=tensorboard").status == 0
    lengths = [len(member(run, seed)["history"]) for seed in (0, 1)]
    assert max(lengths) < 30
    found = logs(run)
    for seed in (0, 1):
        assert len(curve(found[f"seed-{seed:04d}"], "train/loss")) == lengths[seed]
        kept = member(run, seed)
        (final,) = curve(found[f"seed-{seed:04d}"], "final/validation/loss")
        assert final == (kept["kept_epoch"], np.float32(kept["history"][kept["kept_epoch"] - 1]["validation_loss"]))
    votes = curve(found["vote-of-2-seeds-0-to-1"], "validation/loss")
    assert [step for step, _ in votes] == list(range(1, min(lengths) + 1))
    wild = (*QUICK[:-2], "run=wild", "n_seeds=2", "optimizer=sgd", "optimizer.lr=1e30", "optimizer.weight_decay=0")
    assert call("train", *wild, "logger=tensorboard").status == 1
    assert not any(log.Tags()["scalars"] for log in logs(workplace / "checkpoints" / "wild").values())


def test_variants_of_a_recipe_are_shown_each(call, workplace):
    variants = "members=[{epochs:2},{model.hidden:[8],optimizer.lr:0.1}]"
    assert call("train", *QUICK, variants, "engine=sequential", "logger=tensorboard", "diagnose=true").status == 0
    found = logs(workplace / "checkpoints" / "it")
    assert set(found) == {
        "recipe-1", "recipe-2", "seed-0000", "seed-0001", "seed-0002",
        "vote-of-2-seeds-0-to-1", "vote-of-3-seeds-0-to-2",
    }  # fmt: skip
    for name, units in (("recipe-1", "1,040"), ("recipe-2", "520")):
        assert units in found[name].Tensors("layers/text_summary")[0].tensor_proto.string_val[0].decode()
    lengths = {name: len(log.Scalars("validation/loss")) for name, log in found.items() if "recipe" not in name}
    assert lengths == {
        "seed-0000": 2, "seed-0001": 3, "seed-0002": 2, "vote-of-2-seeds-0-to-1": 2, "vote-of-3-seeds-0-to-2": 2,
    }  # fmt: skip
    assert [step for step, _ in curve(found["vote-of-3-seeds-0-to-2"], "final/validation/loss")] == [2]
    content = found["seed-0001"].PluginTagToContent("hparams")["_hparams_/session_start_info"]
    values = parse_session_start_info_plugin_data(content).hparams
    assert (values["epochs"].number_value, values["optimizer.lr"].number_value) == (3, 0.1)
    log = (workplace / "checkpoints" / "it" / "train.log").read_text()
    assert all(f"first step of seed {seed}" in log and f"layers of seed {seed}:" in log for seed in (0, 1))
    assert "first step of seed 2" not in log


def test_without_tensorboard_it_says_what_to_install(call, workplace, monkeypatch):
    monkeypatch.setattr(board, "find_spec", lambda name: None)
    outcome = call("train", *QUICK, "logger=tensorboard")
    assert outcome.status == 2
    assert outcome.err == (
        "error: logger=tensorboard needs the package tensorboard, which is not installed: run "
        "`pip install 'seedvote[tensorboard]'`, or leave logger= out\n"
    )
    assert list(workplace.iterdir()) == []


def test_tensorboard_is_imported_only_when_it_is_asked_for(workplace):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['train', *{QUICK[:-1]}, 'n_seeds=1', 'engine=sequential']\n"
        "try: runpy.run_module('seedvote.train', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([name for name in sys.modules if 'tensorboard' in name])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=workplace, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_logger_is_refused(call, workplace):
    outcome = call("train", *QUICK, "logger=tensorbord")
    assert outcome.status == 2
    assert "logger 'tensorbord' is not known: did you mean 'tensorboard'?" in outcome.err


def test_logs_that_cannot_be_written_cost_no_member(call, workplace, plain):
    (workplace / "checkpoints" / "it").mkdir(parents=True)
    (workplace / "checkpoints" / "it" / "tensorboard").write_text("in the way")
    outcome = call("train", *QUICK, "engine=sequential", "logger=tensorboard")
    assert outcome.status == 0
    assert outcome.err.count("warning: TensorBoard's logs end here, the disk does not take them: ") == 1
    assert weights(workplace / "checkpoints" / "it", 2) == weights(plain / "sequential" / "it", 2)


def test_a_disk_that_fills_up_costs_no_member(call, workplace, plain, monkeypatch):
    from tensorboard.compat.tensorflow_stub.io.gfile import GFile

    own = GFile.write

    def full(file, content):
        if "seed-0001" in str(file.filename):
            raise OSError(28, "No space left on device")
        return own(file, content)

    monkeypatch.setattr(GFile, "write", full)
    outcome = call("train", *QUICK, "engine=sequential", "logger=tensorboard")
    assert outcome.status == 0
    assert outcome.err.count("warning: TensorBoard's logs end here") == 1
    for seed in range(3):
        assert weights(workplace / "checkpoints" / "it", seed) == weights(plain / "sequential" / "it", seed)


@pytest.mark.parametrize("name", ["tensorboard", "tensorboard/seed-0001", "tensorboard/vote-of-2-seeds-0-to-1"])
def test_nothing_is_written_through_a_link_that_leads_out(name, call, workplace):
    (workplace / "elsewhere").mkdir()
    link = workplace / "checkpoints" / "it" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(workplace / "elsewhere")
    outcome = call("train", *QUICK, "engine=sequential", "logger=tensorboard")
    assert outcome.status == 2
    assert f"a symbolic link leads checkpoints/it/{name} out of checkpoints/it" in outcome.err
    assert not list((workplace / "elsewhere").iterdir())


def test_the_grid_shows_what_the_network_gets(colour_images):
    data = colour_images
    grid = image_grid(quick_recipe(data, batch_size=5), data, seed=3)
    assert grid.shape == (3, 36, 5 * 34 + 2)
    raw = {tuple(image.flatten().tolist()) for image in data.train.inputs}
    shown = [grid[:, 2:34, 2 + 34 * place : 34 + 34 * place] for place in range(5)]
    cells = {tuple((cell * 255).round().to(torch.uint8).flatten().tolist()) for cell in shown}
    assert len(cells) == 5
    assert cells <= raw

    def inverted(inputs, generator):
        return -inputs

    first = image_grid(quick_recipe(data, batch_size=5, augment=inverted), data, seed=3)
    mean = torch.tensor(data.normalization.mean).view(3, 1, 1) / 255
    expected = (2 * mean - shown[0]).clamp(0, 1)
    torch.testing.assert_close(first[:, 2:34, 2:34], expected)
