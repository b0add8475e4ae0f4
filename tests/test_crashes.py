"""Training that is stopped, killed, crowded or out of memory comes to the same end."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_store import record
from tqdm import tqdm

from recipes import quick_recipe
from seedvote import augmentation, interruption, models, schedules
from seedvote.data import fitted, preprocessing
from seedvote.engines import fused, group
from seedvote.engines.fused import Fused
from seedvote.engines.sequential import Sequential
from seedvote.events import Failure, Note, Paused
from seedvote.store import RunKeeper, open_run, read_member, read_snapshot
from seedvote.types import TrainedMember

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import kill_training  # noqa: E402
import train_at_once  # noqa: E402

CPU = torch.device("cpu")
FACTS = {"device": "cpu", "threads": 1, "versions": {"torch": "2"}}
SEEDS = [0, 1, 2]
# Of three members, two are a pair, and the third has a twin where it must have one.
ENGINES = {"sequential": Sequential(), "fused": Fused(width=2, workers=1)}
QUICK = ("data.limit=100", "epochs=60", "batch_size=16", "model.hidden=[16]", "n_seeds=3", "run=it", "device=cpu")


def step_wise(optimizer, total_steps):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)


def plateau(optimizer, total_steps):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.3)


def one_cycle(optimizer, total_steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps)


def recipes(data, colours):
    images = functools.partial(augmentation.images, crop=1, rotate=5.0)
    shape, classes = data.input_shape, len(data.classes)
    sgd = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    small = functools.partial(models.resnet, shape, classes, depth=8, width=4)
    return {
        "mlp": (quick_recipe(data, epochs=3, augment=images, clip_norm=1.0), data),
        "lenet": (
            quick_recipe(
                colours,
                build_model=functools.partial(models.lenet, (3, 32, 32), 4, dropout=0.3),
                batch_size=8,
                epochs=4,
            ),
            colours,
        ),
        "resnet": (quick_recipe(data, build_model=small, build_optimizer=sgd, batch_size=64), data),
        "adam": (quick_recipe(data, build_optimizer=functools.partial(torch.optim.Adam, amsgrad=True)), data),
        "rmsprop": (quick_recipe(data, build_optimizer=functools.partial(torch.optim.RMSprop, momentum=0.5)), data),
        "adafactor": (quick_recipe(data, build_optimizer=torch.optim.Adafactor), data),
        "adagrad": (quick_recipe(data, build_optimizer=torch.optim.Adagrad), data),
        "frozen": (quick_recipe(data, build_model=small, build_optimizer=sgd, frozen=("Conv2d",)), data),
        "recurrent": (
            quick_recipe(data, build_model=functools.partial(models.recurrent, shape, classes, hidden=8, dropout=0.3)),
            data,
        ),
        "step schedule": (quick_recipe(data, build_scheduler=step_wise), data),
        "epoch schedule": (quick_recipe(data, build_scheduler=step_wise, interval="epoch", epochs=6), data),
        "plateau": (
            quick_recipe(data, build_scheduler=plateau, interval="validation", epochs=6, max_norm=0.8, l1=1e-3),
            data,
        ),
        "one cycle": (quick_recipe(data, build_scheduler=one_cycle, clip_value=0.05), data),
        "nadam": (quick_recipe(data, build_optimizer=torch.optim.NAdam), data),
        "asgd": (quick_recipe(data, build_optimizer=torch.optim.ASGD), data),
        "constant schedule": (quick_recipe(data, build_scheduler=schedules.constant), data),
        "bootstrap": (
            quick_recipe(data, bootstrap=True),
            dataclasses.replace(data, preprocessing=fitted(preprocessing.zca_whitening, data)),
        ),
        "early stopping": (
            quick_recipe(data, epochs=12, patience=1, build_optimizer=functools.partial(torch.optim.SGD, lr=3.0)),
            data,
        ),
    }


@pytest.fixture
def stop_at(monkeypatch):
    """Ask training to stop with some probability at each look at whether it shall."""
    real, sizes = fused.stack_sizes, []

    def install(probability, seed=0):
        chance = random.Random(seed)
        asked, trying = [], []

        def requested():
            if not asked and not trying and chance.random() < probability:
                asked.append(signal.SIGTERM)
            return asked[0] if asked else None

        def once(*arguments):
            """Try sizes of stacks undisturbed, and only for the first of many trainings."""
            trying.append(1)
            sizes.extend([] if sizes else [real(*arguments)])
            trying.clear()
            return sizes[0]

        monkeypatch.setattr(fused, "stack_sizes", once)
        for module in ("training", "engines.group", "engines.fused", "engines.sequential"):
            monkeypatch.setattr(f"seedvote.{module}.requested", requested)
        return asked.clear

    return install


def trained(engine, recipe, data, run, save_every=1e9, go_on=lambda: None):
    """Train until all members are stored; return what is stored of them and how often training paused."""
    pauses, failures = 0, []
    for _ in range(200):
        if not (missing := run.missing(SEEDS)):
            break
        # A new keeper and new networks each time, as in a new process.
        for event in engine.train(missing, recipe, data, CPU, RunKeeper(run, FACTS, save_every)):
            pauses += isinstance(event, Paused)
            failures += [event] if isinstance(event, Failure) else []
        go_on()
    assert not failures and not run.missing(SEEDS)
    histories = [[{**row, "seconds": 0} for row in read_member(run, seed).history] for seed in SEEDS]
    return [run.weights_path(seed).read_bytes() for seed in SEEDS], histories, pauses


STACKABLE = (
    "mlp", "lenet", "resnet", "adam", "rmsprop", "adafactor", "adagrad", "nadam", "asgd", "frozen", "step schedule",
    "epoch schedule", "plateau", "one cycle", "constant schedule", "bootstrap", "early stopping",
)  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "name"), [*itertools.product(ENGINES, STACKABLE), ("sequential", "recurrent")], ids=str
)
def test_however_often_training_is_interrupted_the_weights_are_the_same(
    engine, name, small_digits, colour_images, tmp_path, stop_at
):
    recipe, data = recipes(small_digits, colour_images)[name]
    whole = trained(ENGINES[engine], recipe, data, open_run(tmp_path, "whole", record(SEEDS)))
    assert whole[2] == 0
    for chance in range(2):
        go_on = stop_at(0.3, chance)
        broken = trained(ENGINES[engine], recipe, data, open_run(tmp_path, f"{chance}", record(SEEDS)), go_on=go_on)
        assert broken[2] >= 3
        assert broken[:2] == whole[:2]
    if name == "early stopping":
        assert any(len(history) < 12 for history in whole[1])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_crash_goes_on_from_the_last_save(engine, small_digits, tmp_path, monkeypatch):
    recipe = recipes(small_digits, small_digits)["mlp"][0]
    whole = trained(ENGINES[engine], recipe, small_digits, open_run(tmp_path, "whole", record(SEEDS)))
    run = open_run(tmp_path, "broken", record(SEEDS))
    module = "seedvote.training" if engine == "sequential" else "seedvote.engines.group"
    real = sys.modules[module].train_epoch
    steps = 0

    def crashing(*arguments):
        nonlocal steps
        for _ in real(*arguments):
            steps += 1
            if steps % 9 == 0:
                raise KeyError("crash")
            yield

    monkeypatch.setattr(f"{module}.train_epoch", crashing)
    crashes = 0
    while run.missing(SEEDS):
        try:
            for _ in ENGINES[engine].train(run.missing(SEEDS), recipe, small_digits, CPU, RunKeeper(run, FACTS, 0)):
                pass
        except KeyError:
            crashes += 1
            assert any(run.snapshot_path(seed).exists() for seed in SEEDS)
    # Were training begun anew, its 15 steps a member would never be reached.
    assert crashes >= 2
    assert [run.weights_path(seed).read_bytes() for seed in SEEDS] == whole[0]
    assert not list(run.path.rglob("state.safetensors"))


def test_a_damaged_state_is_set_aside_and_the_member_begins_anew(small_digits, tmp_path, stop_at):
    recipe = recipes(small_digits, small_digits)["mlp"][0]
    whole = trained(Sequential(), recipe, small_digits, open_run(tmp_path, "whole", record(SEEDS)))
    run = open_run(tmp_path, "broken", record(SEEDS))
    go_on = stop_at(0.3)
    list(Sequential().train(SEEDS, recipe, small_digits, CPU, RunKeeper(run, FACTS, 1e9)))
    go_on()
    state = run.snapshot_path(0)
    assert read_snapshot(state, 0, run.record.recipe_hash).step
    content = bytearray(state.read_bytes())
    content[-3] ^= 1
    state.write_bytes(content)
    with pytest.raises(ValueError, match="its digest does not fit"):
        read_snapshot(state, 0, run.record.recipe_hash)
    stop_at(0)
    events = list(Sequential().train(SEEDS, recipe, small_digits, CPU, RunKeeper(run, FACTS, 1e9)))
    memory, note = [event.text for event in events if isinstance(event, Note)]
    assert memory.startswith("memory ")
    assert note.startswith("seed 0 starts from its first epoch: ")
    assert note.endswith("the file is kept as state.safetensors.damaged-1")
    assert [run.weights_path(seed).read_bytes() for seed in SEEDS] == whole[0]


def started(workplace, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "seedvote.train", *QUICK, *arguments],
        cwd=workplace, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("engine", ["sequential", "fused", "process"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(engine, number, status, workplace):
    arguments = (f"engine={engine}", "epochs=2000", "save_every=0")
    with started(workplace, *arguments) as training:
        wait_for(lambda: any(workplace.rglob("state.safetensors")))
        training.send_signal(number)
        _, errors = training.communicate(timeout=60)
    assert training.returncode == status
    assert "Traceback" not in errors
    assert "interrupted: 0 of 3 members are stored in checkpoints/it\n" in errors
    assert "the same command goes on from there:\n  python -m seedvote.train data.limit=100" in errors
    told = [line for line in errors.splitlines() if " is saved after " in line]
    assert told
    for line in told:
        seed = int(line.split()[1])
        path = workplace / "checkpoints" / "it" / f"seed-{seed:04d}" / "state.safetensors"
        found = json.loads((workplace / "checkpoints" / "it" / "run.json").read_text())
        snapshot = read_snapshot(path, seed, found["recipe_hash"])
        assert f"seed {seed} is saved after {len(snapshot.history)} epochs" in line


def test_a_second_ctrl_c_ends_at_once():
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    before = signal.getsignal(signal.SIGINT)
    with interruption.deferred():
        interrupt()
        assert interruption.requested() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_processes_that_train_one_run_share_its_members(engine, workplace, call):
    arguments = ("engine=fused", "engine.width=2", "engine.workers=1") if engine == "fused" else (f"engine={engine}",)
    three = [started(workplace, *arguments, "n_seeds=6", "epochs=10") for _ in range(3)]
    outputs = [training.communicate(timeout=120) for training in three]
    assert [training.returncode for training in three] == [0, 0, 0], outputs
    # A line for a member is printed by the process that trained it.
    lines = [line for output, _ in outputs for line in output.splitlines() if ": validation accuracy" in line]
    assert sorted(int(line.split()[1].rstrip(":")) for line in lines) == list(range(6))
    assert call("verify").status == 0


def test_who_waits_for_a_process_that_dies_trains_its_member(workplace):
    first = started(workplace, "engine=sequential", "epochs=3000", "n_seeds=1")
    wait_for(lambda: (workplace / "checkpoints" / "it" / "seed-0000" / ".lock").exists())
    second = started(workplace, "engine=sequential", "epochs=3000", "n_seeds=1")
    seen = second.stdout.readline()
    while "waiting" not in seen:
        seen = second.stdout.readline()
        assert seen, second.stderr.read()
    assert seen == "waiting    for another process, which trains seeds 0\n"
    first.kill()
    first.communicate()
    state = workplace / "checkpoints" / "it" / "seed-0000" / "state.safetensors"
    before = state.stat().st_mtime_ns if state.exists() else 0
    wait_for(lambda: state.exists() and state.stat().st_mtime_ns != before)
    second.terminate()
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 143
    assert "seed 0 is saved after" in errors


class Crowded:
    """A training step for which there is memory only if few enough members are stacked."""

    def __init__(self, largest, real):
        self.largest, self.real, self.tried = largest, real, []

    def __call__(self, stack, recipe, data):
        self.tried.append(stack.network.count)
        if stack.network.count > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.real(stack, recipe, data)


def test_a_group_that_does_not_fit_the_memory_is_halved(small_digits, tmp_path, monkeypatch):
    recipe = recipes(small_digits, small_digits)["mlp"][0]
    seeds = list(range(6))
    whole = {
        event.seed: event
        for event in Fused(workers=1).train(seeds, recipe, small_digits, CPU)
        if isinstance(event, TrainedMember)
    }
    crowded = Crowded(2, group.train_epoch)
    monkeypatch.setattr(group, "train_epoch", crowded)
    run = open_run(tmp_path, "it", record(seeds))
    events = list(Fused(workers=1).train(seeds, recipe, small_digits, CPU, RunKeeper(run, FACTS, 1e9)))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert (
        notes[1] == "the stacked members of seeds 0, 1, 2, 3, 4, 5 do not fit the memory: going on with engine.width=3"
    )
    assert sorted(event.seed for event in events if isinstance(event, TrainedMember)) == seeds
    assert not [event for event in events if isinstance(event, Failure)]
    assert crowded.tried[:2] == [6, 3] and crowded.tried[-1] <= 2
    for event in events:
        if isinstance(event, TrainedMember):
            assert all(torch.equal(event.state[name], tensor) for name, tensor in whole[event.seed].state.items())


def test_too_little_memory_for_one_member_is_said_and_the_setting_named(small_digits, monkeypatch):
    recipe = recipes(small_digits, small_digits)["mlp"][0]
    monkeypatch.setattr(group, "train_epoch", Crowded(0, group.train_epoch))
    events = list(Fused(workers=1).train([0, 1], recipe, small_digits, CPU))
    failures = {event.seed: event.reason for event in events if isinstance(event, Failure)}
    assert failures == dict.fromkeys([0, 1], "out of memory: lower batch_size, engine.workers or the size of the model")


def test_a_damaged_member_is_named_and_trained_anew_on_request(call, workplace):
    quick = (*QUICK, "epochs=2", "engine=sequential")
    assert call("train", *quick).status == 0
    member = workplace / "checkpoints" / "it" / "seed-0001"
    before = (member / "model.safetensors").read_bytes()
    (member / "model.safetensors").write_bytes(before[:-4] + b"oops")
    checked = call("verify")
    assert checked.status == 1
    assert "2 of 3 members are finished and sound" in checked.out
    assert "damaged    seed 1: " in checked.err and "on_damaged=retrain" in checked.err
    assert "on_damaged=retrain` to train damaged ones anew" in call("predict").err
    refused = call("train", *quick)
    assert refused.status == 2
    assert refused.err.startswith("error: seed 1: ") and "on_damaged=retrain" in refused.err
    again = call("train", *quick, "on_damaged=retrain")
    assert again.status == 0
    assert "kept as member.json.damaged-1, model.safetensors.damaged-1" in again.out
    assert (member / "model.safetensors").read_bytes() == before
    assert (member / "model.safetensors.damaged-1").read_bytes().endswith(b"oops")
    checked = call("verify")
    assert checked.status == 0
    assert "model.safetensors.damaged-1 was damaged and set aside" in checked.out


def test_verify_tells_apart_what_is_missing_half_trained_and_damaged(call, workplace, monkeypatch):
    quick = (*QUICK, "epochs=2", "engine=sequential")
    assert call("train", *quick, "n_seeds=4").status == 0
    run = workplace / "checkpoints" / "it"
    (run / "seed-0001" / "member.json").unlink()
    (run / "seed-0002" / "member.json").unlink()
    (run / "seed-0002" / "state.safetensors").write_bytes(b"x" * 100)
    (run / "seed-0003").rename(run / "seed-0007")
    outcome = call("verify")
    assert outcome.status == 1
    rows = [line.split()[1:-1] for line in outcome.out.splitlines() if line.startswith("seed ")]
    assert rows == [
        ["0", "2", "sound"],
        ["1", "-", "not", "trained"],
        ["2", "-", "damaged"],
        ["3", "-", "not", "trained"],
    ]
    assert "seed-0007 is no member that run.json names" in outcome.out
    assert "state.safetensors cannot be read" in outcome.err
    (run / "run.json").write_text("{}")
    assert call("verify", "run=it").status == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of itself")
def test_who_is_killed_while_drawing_a_bar_keeps_the_bars_of_nobody_else(tmp_path, monkeypatch):
    drawing = tmp_path / "drawing"

    def draw():
        with tqdm.get_lock():
            drawing.touch()
            time.sleep(60)

    with tqdm.get_lock():  # made before the fork, as by every training in this process
        pass
    monkeypatch.setattr(kill_training.train, "main", draw)
    child = kill_training.process([])
    try:
        until = time.monotonic() + 30
        while not drawing.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for lock in tqdm.get_lock().locks:
        assert lock.acquire(timeout=5)
        lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of itself")
@pytest.mark.parametrize("engine", ["sequential", "fused engine.workers=1"])
def test_kills_at_random_moments_lose_nothing(engine, tmp_path):
    tally = kill_training.storm(engine, 3, random.Random(0), tmp_path)
    assert tally.kills == 3 and tally.resumed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of itself")
def test_processes_on_one_run_that_are_killed_store_each_member_once(tmp_path):
    chance = random.Random(0)
    for attempt in range(5):  # a round may end before its kills come
        started, kills = train_at_once.crowd("sequential", 1, chance, tmp_path / str(attempt))
        assert started == 2 + kills
        if kills:
            return
    pytest.fail("no process was killed while it trained")
