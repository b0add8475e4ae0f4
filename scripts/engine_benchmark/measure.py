"""What is measured, each in a process of its own: a training, the machine's peak, a vote."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from engine_benchmark.cases import EVALUATION_BATCH, Case, data_overrides, prepared, write_arrays
from engine_benchmark.contestants import JAX

SCRIPT = Path(__file__).resolve().parent.parent / "benchmark_engines.py"
# A newcomer's shell has none of these: "default threads" means torch's own default, and bytecode is kept.
NOT_INHERITED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS", "PYTHONDONTWRITEBYTECODE")
BETWEEN_LOOKS = 0.1  # seconds between two looks at the memory
SCORED = 10_000  # training samples on which the members' losses are compared
VOTERS, VOTED_ON, VOTES = 10, 2000, 5
MATRIX, PRODUCTS = 2048, 8


def training(contestant: str, case: Case, members: int, root: Path, data: Path) -> dict[str, Any]:
    """Let one contestant train so many members, and return times, memory and scores.

    root: where data sets lie. data: a directory for prepared ones.

    Raises:
        RuntimeError: it failed; with what it said last.
    """
    file = write_arrays(case, root, data)
    recipe, splits = prepared(case, file)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        job = {
            "contestant": contestant, "case": dataclasses.asdict(case), "members": members,
            "file": str(file), "place": str(place), "prepared": str(place / "prepared.npz"),
        }  # fmt: skip
        if contestant == JAX:
            _write_prepared(splits, Path(job["prepared"]))
        peak = _in_child(job)
        result = json.loads((place / "result.json").read_text())
        epochs = result.pop("epochs")
        steps = math.ceil(len(splits.train) / case.batch_size)
        scores = [_scores(recipe, splits, place / f"member-{seed}.safetensors") for seed in range(members)]
    return {
        **result, "peak_bytes": peak, "member_step": member_step(epochs, steps), "flops": step_flops(recipe, splits),
        "train_loss": statistics.mean(loss for loss, _ in scores),
        "accuracy": statistics.mean(accuracy for _, accuracy in scores),
    }  # fmt: skip


def member_step(epochs: Sequence[tuple[int, float]], steps: int) -> float | None:
    """Return the seconds that one step of one member takes after each member's first epoch; validation included.

    epochs: which member ended an epoch, and when. A member's epochs after the first cover an interval; the members'
    intervals together, overlaps counted once, are the time in which these epochs were trained. ``None`` with one epoch.
    """
    ends: dict[int, list[float]] = {}
    for seed, end in epochs:
        ends.setdefault(seed, []).append(end)
    count = sum(len(times) - 1 for times in ends.values())
    covered, until = 0.0, 0.0
    for first, last in sorted((min(times), max(times)) for times in ends.values()):
        covered += max(0.0, last - max(first, until))
        until = max(until, last)
    return covered / (count * steps) if count else None


def _in_child(job: Mapping[str, Any]) -> int | None:
    """Run a job and return the peak of the memory (bytes) of its process and all below it; ``None`` without /proc."""
    environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parent.parent), environment.get("PYTHONPATH", "")])
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--job", json.dumps(job)], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
        )  # fmt: skip
        peak = 0
        try:
            while child.poll() is None:
                peak = max(peak, resident_bytes(child.pid))
                time.sleep(BETWEEN_LOOKS)
        finally:
            child.kill()
            child.wait()
        if child.returncode:
            said.seek(0)
            raise RuntimeError(f"ended with status {child.returncode}: {said.read()[-2000:].strip()}")
    return peak or None


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and all below it; pages that they share count in each. 0: not known."""
    try:
        total = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except (OSError, IndexError):
        return 0
    for task in tasks:
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        total += sum(resident_bytes(int(child)) for child in children)
    return total


def _write_prepared(data: Any, file: Path) -> None:
    from seedvote.data import normalized

    contents = {"classes": np.array(len(data.classes))}
    for name, split in (("train", data.train), ("validation", data.validation)):
        contents[f"{name}_inputs"] = normalized(split.inputs, data.normalization).numpy()
        contents[f"{name}_labels"] = split.labels.numpy()
    np.savez(file, allow_pickle=False, **contents)


def _scores(recipe: Any, data: Any, weights: Path) -> tuple[float, float]:
    """Return a member's mean loss (nats) on the training split, dropout off, and its accuracy on validation."""
    from safetensors.torch import load_file

    from seedvote.training import evaluate
    from seedvote.types import Split

    model = recipe.build_model()
    model.load_state_dict(load_file(weights))
    train = Split(data.train.inputs[:SCORED], data.train.labels[:SCORED])
    return evaluate(model, train, data)[0], evaluate(model, data.validation, data)[1]


def step_flops(recipe: Any, data: Any) -> int:
    """Count the floating-point operations of the matrix products and convolutions of one step of one member."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from seedvote.data import normalized

    model = recipe.build_model()
    batch = slice(recipe.batch_size)
    with FlopCounterMode(display=False) as counter:
        logits = model(normalized(data.train.inputs[batch], data.normalization))
        torch.nn.functional.cross_entropy(logits, data.train.labels[batch]).backward()
    return int(counter.get_total_flops())


def machine() -> dict[str, Any]:
    """Describe the machine and the versions; what is here must be the same for results to be compared."""
    from seedvote.provenance import hardware, versions

    packages = {}
    for name in ("torchensemble", "jax", "optax"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    own = {key: value for key, value in hardware().items() if key in ("processor", "cores", "system")}
    return {**own, "vectors": vector_level(), **versions(), **packages, "commit": commit()}


def commit() -> str:
    """Return the commit of the code that is measured, with ``-dirty`` where files differ from it."""
    asked = ["git", "-C", str(SCRIPT.parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def vector_level() -> str:
    """Return the widest vector instructions that torch uses here."""
    import torch

    return f"{torch.backends.cpu.get_cpu_capability()} ({platform.machine()})"


def peak() -> dict[str, Any]:
    """Measure the machine's peak in float32, in operations a second: matrix products on one core and on all."""
    with tempfile.TemporaryDirectory() as place:
        _in_child({"contestant": "peak", "place": place})
        found: dict[str, Any] = json.loads((Path(place) / "result.json").read_text())
    return found


def measure_peak(job: Mapping[str, Any]) -> None:
    """Be the process that measures the peak: the quickest of some large products, whoever multiplies."""
    import torch

    from seedvote.matmul import choose_matmul

    found = {}
    for name, threads in (("one_core", 1), ("all_cores", len(os.sched_getaffinity(0)))):
        torch.set_num_threads(threads)
        left, right = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
        times = []
        for choice in ("torch", "auto"):
            choose_matmul(choice)
            times += [_seconds(lambda a=left, b=right: a @ b) for _ in range(PRODUCTS)]
        found[name] = 2 * MATRIX**3 / min(times)
    (Path(job["place"]) / "result.json").write_text(json.dumps(found))


def voting(case: Case, root: Path, data: Path) -> dict[str, Any]:
    """Measure the prediction of one member and the vote of ten, seconds for the same samples."""
    file = write_arrays(case, root, data)
    with tempfile.TemporaryDirectory() as place:
        _in_child({
            "contestant": "voting", "place": place, "model": case.model,
            "overrides": [*case.overrides, *data_overrides(case, file)], "file": str(file),
        })  # fmt: skip
        found: dict[str, Any] = json.loads((Path(place) / "result.json").read_text())
    return found


def measure_voting(job: Mapping[str, Any]) -> None:
    """Be the process that votes: with weights of one short epoch, which take as long as any others."""
    import seedvote
    from seedvote.matmul import choose_matmul

    choose_matmul("auto")
    place = Path(job["place"])
    settings = (f"n_seeds={VOTERS}", "epochs=1", "data.limit=256", "engine=fused", "engine.workers=1", "run=it")
    subprocess.run(
        [sys.executable, "-m", "seedvote.train", *job["overrides"], *settings, f"checkpoints={place}"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    together = seedvote.load(place / "it", device="cpu")
    alone = together.only([0], "is compared with the vote")
    with np.load(job["file"], allow_pickle=False) as contents:
        inputs = contents["test_inputs" if "test_inputs" in contents else "inputs"][:VOTED_ON]
    alone.predict_logits(inputs[:EVALUATION_BATCH])
    pairs = [
        (_seconds(lambda: alone.predict_logits(inputs)), _seconds(lambda: together.predict(inputs)))
        for _ in range(VOTES)
    ]
    one, ten = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(second / first for first, second in pairs)
    found = {"samples": len(inputs), "one": one, "ten": ten, "ratio": ratio}
    (place / "result.json").write_text(json.dumps(found))


def _seconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
