"""The benchmark measures what it says, goes on where it was cut off, and its contestants train the same members."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

import benchmark_engines  # noqa: E402
from engine_benchmark import contestants, presentation  # noqa: E402
from engine_benchmark.cases import CASES, changed, prepared, write_arrays  # noqa: E402
from engine_benchmark.measure import member_step, resident_bytes, step_flops  # noqa: E402


def run(workplace, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, SCRIPTS / "benchmark_engines.py", "--sample", "--output", "out", *arguments],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (workplace / "out" / "measurements.jsonl").read_text().splitlines()
    return done, [json.loads(line) for line in lines]


def training(contestant, repeat, seconds, **key):
    key = {"kind": "training", "contestant": contestant, "repeat": repeat, "members": 2, "case": "mlp-64-sgd", **key}
    found = {
        "seconds": seconds, "first_step": 0.5, "compile": None, "member_step": 0.001, "flops": 10**6,
        "peak_bytes": 2**30, "train_loss": 0.1, "accuracy": 0.97,
    }  # fmt: skip
    machine = {"processor": "p"}
    return {"key": {"epochs": 2, "limit": None, **key}, "date": "d", "machine": machine, "found": found, "sample": True}


@pytest.mark.parametrize(("epochs", "seconds"), [
    ([(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (1, 6)], 0.1),  # one after the other: 4 s for 4 epochs
    ([(0, 1), (1, 1), (0, 3), (1, 3)], 0.1),  # side by side: 2 s for 2 epochs
    ([(0, 1), (1, 2), (0, 3), (1, 4)], 0.15),  # overlapping: 3 s
    ([(0, 1), (1, 2)], None),
])  # fmt: skip
def test_a_members_step_is_timed_without_first_epochs(epochs, seconds):
    found = member_step(epochs, 10)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_operations_of_an_mlp_are_those_of_its_matrix_products(tmp_path):
    case = changed("mlp-64-adamw", 1, 128)
    recipe, data = prepared(case, write_arrays(case, tmp_path, tmp_path))
    assert (len(data.train), len(data.validation)) == (128, 32)
    assert (recipe.epochs, recipe.batch_size, recipe.label_smoothing, recipe.decay_all) == (1, 64, 0, True)
    weights = [64 * 512, 512 * 256, 256 * 10]
    # Forwards, gradients of weights, gradients of inputs, which the first layer does not need.
    assert step_flops(recipe, data) == 2 * 64 * (3 * sum(weights) - weights[0])


def test_every_case_composes():
    assert {case.model for case in CASES.values()} == {"mlp", "lenet", "resnet"}
    assert {case.optimizer for case in CASES.values()} == {"sgd", "adamw"}


def test_memory_counts_child_processes():
    alone = resident_bytes(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # fmt: skip
        child.stdout.readline()
        its = resident_bytes(child.pid)
        assert its > 2**20
        assert resident_bytes(os.getpid()) >= alone + its // 2
        child.communicate(b"\n")


def test_ratios_are_taken_within_a_repeat():
    records = [
        training("plain loop", 0, 10.0), training("fused", 0, 5.0), training("plain loop", 1, 30.0),
        training("fused", 1, 10.0), training("fused", 2, 1.0),
    ]  # fmt: skip
    assert presentation.ratios(records, "fused") == [2.0, 3.0]
    text = presentation.table(records)
    assert text.startswith("**Sample, not a result.**")
    row = next(line for line in text.splitlines() if line.startswith("| fused"))
    assert "2.50 (2.00 to 3.00)" in row and "5.0 (1.0 to 10.0)" in row and "| 1024 |" in row and "97.00" in row


def test_times_of_two_machines_are_not_set_beside_each_other(tmp_path):
    with pytest.raises(SystemExit, match="another processor"):
        benchmark_engines.check_machine({"processor": "q"}, [training("fused", 0, 1.0)], tmp_path)


def test_a_line_that_was_cut_off_is_measured_again(tmp_path):
    file = tmp_path / "measurements.jsonl"
    benchmark_engines.append(file, {"key": 1})
    with file.open("a") as stream:
        stream.write('{"key": 2')
    benchmark_engines.append(file, {"key": 3})
    assert benchmark_engines.stored(file) == [{"key": 1}, {"key": 3}]


def test_contestants_take_turns_in_another_order_each_repeat():
    options = benchmark_engines.arguments().parse_args(
        ["--cases", "lenet-64-sgd", "--members", "2", "--repeats", "2", "--contestants", "plain loop", "fused"]
    )
    names = [key["contestant"] for key in benchmark_engines.wanted(options) if key["kind"] == "training"]
    assert names == ["plain loop", "fused", "fused", "plain loop"]


def test_a_contestant_whose_package_is_missing_is_left_out_with_a_word(monkeypatch, capsys):
    monkeypatch.setitem(contestants.NEEDED, "JAX vmap", ("no_such_package",))
    options = benchmark_engines.arguments().parse_args(["--contestants", "JAX vmap", "--cases", "mlp-64-sgd"])
    assert not [key for key in benchmark_engines.wanted(options) if key["kind"] == "training"]
    assert capsys.readouterr().err == "left out   JAX vmap: pip install no_such_package\n"


@pytest.mark.slow
def test_the_sample_runs_and_is_not_measured_twice(workplace):
    done, records = run(workplace)
    assert [record["key"]["kind"] for record in records] == ["peak", "voting", *["training"] * 3]
    assert (workplace / "out" / "engines.md").read_text() in done.stdout
    with Image.open(workplace / "out" / "engines.png") as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 20
    found = {record["key"]["contestant"]: record["found"] for record in records[2:]}
    # The same members; another order of the samples is another member, but as far trained.
    assert found["fused"]["train_loss"] == pytest.approx(found["sequential"]["train_loss"], abs=1e-3)
    assert found["plain loop"]["train_loss"] == pytest.approx(found["sequential"]["train_loss"], abs=0.4)
    for values in found.values():
        assert 0 < values["first_step"] < values["seconds"] and values["member_step"] > 0
        assert values["train_loss"] < 2.2 and values["peak_bytes"] > 2**26
    assert records[0]["found"]["one_core"] > 1e8
    assert records[1]["found"]["ten"] > records[1]["found"]["one"] > 0
    again, same = run(workplace)
    assert same == records and "training" not in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("contestant", "package"), [
    ("JAX vmap", "optax"), ("TorchEnsemble", "torchensemble"), ("TorchEnsemble, jobs", "torchensemble"),
])  # fmt: skip
def test_rivals_train_as_far(workplace, contestant, package):
    pytest.importorskip(package)
    _, records = run(workplace, "--epochs", "30", "--contestants", "sequential", contestant)
    found = {record["key"]["contestant"]: record["found"] for record in records[2:]}
    assert found[contestant]["accuracy"] > 0.8
    assert found[contestant]["train_loss"] == pytest.approx(found["sequential"]["train_loss"], abs=0.02)


@pytest.mark.parametrize("name", ["mlp-64-sgd", "mlp-64-adamw"])
def test_optax_takes_the_steps_of_torchs_optimizer(name, tmp_path):
    optax = pytest.importorskip("optax")
    from engine_benchmark.jax_members import optimizer_of

    case = changed(name, 3, 128)
    recipe, _ = prepared(case, write_arrays(case, tmp_path, tmp_path))
    gradients = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0]))
    theirs = weight.detach().numpy().copy()
    torchs = recipe.build_optimizer([weight])
    schedule = recipe.build_scheduler(torchs, 3)
    optaxs = optimizer_of(case, 2)
    state = optaxs.init(theirs)
    for number, gradient in enumerate(gradients):  # two steps an epoch
        weight.grad = torch.from_numpy(gradient)
        torchs.step()
        if number % 2:
            schedule.step()
        updates, state = optaxs.update(gradient, state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        assert np.allclose(weight.detach().numpy(), theirs, rtol=1e-5, atol=1e-6)
