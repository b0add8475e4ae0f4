"""What several test files need."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from seedvote.data import digits, prepare
from seedvote.inference import Ensemble
from seedvote.matmul import choose_matmul, precision, set_precision
from seedvote.types import Data, Source, Split

ROOT = Path(__file__).resolve().parent.parent

# As the commands have it.
torch.set_num_threads(1)
choose_matmul("auto")


@pytest.fixture(scope="session")
def small_digits() -> Data:
    """200 training digits, enough for a few quick epochs."""
    return prepare(digits(), name="digits", split_seed=0, validation=0.1, test=0.5, limit=200, normalize=True)


@pytest.fixture(scope="session")
def colour_images() -> Data:
    """40 colour images of 32x32 pixels, noise in four classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
    source = Source(Split(images, torch.arange(40) % 4), None, tuple("abcd"))
    return prepare(source, name="x", split_seed=0, validation=0.2, test=0.2, limit=None, normalize=True)


@dataclass(frozen=True)
class Outcome:
    """What a command printed and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Numbers of threads that torch has in turn."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["none", "bf16"])
def multiplied_by(request: pytest.FixtureRequest) -> Iterator[str]:
    """Torch's own choice of who multiplies float32 matrices, and oneDNN where that keeps their precision."""
    before = precision()
    set_precision("none")
    if request.param == "bf16":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("seedvote.matmul.processor", lambda: "AMD EPYC")
            chosen = choose_matmul("auto")
        if chosen is None:
            pytest.skip("here oneDNN would round to bfloat16, or is not there")
    yield request.param
    set_precision(before)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to run commands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run an entry module in this process: quicker than a process of its own, and otherwise the same."""

    def run(name: str, *arguments: str) -> Outcome:
        module = importlib.import_module(f"seedvote.{name}")
        monkeypatch.setattr(sys, "argv", [f"seedvote.{name}", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            module.main()
        printed = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Outcome(exit_.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def process(workplace: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run an entry module in a process of its own, without a terminal."""

    def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=workplace, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def runs_trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of small runs: `it` of five members, on the same data `rival` of one, `other` of two; a sample."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for arguments in (
            ["run=it", "n_seeds=5", "epochs=3", "model.hidden=[16]"],
            ["run=rival", "n_seeds=1", "epochs=3", "model.hidden=[64]"],
            ["run=other", "n_seeds=2", "epochs=2", "model.hidden=[32]"],
            ["run=small", "n_seeds=2", "epochs=1", "model.hidden=[16]", "data.limit=60"],
        ):
            patch.setattr(sys, "argv", ["seedvote.train", *arguments])
            with pytest.raises(SystemExit) as exit_:
                importlib.import_module("seedvote.train").main()
            assert exit_.value.code == 0
    return place / "checkpoints"


@pytest.fixture
def runs(runs_trained_once: Path, workplace: Path) -> Path:
    """A copy of these runs under `checkpoints` in an empty working directory."""
    shutil.copytree(runs_trained_once, workplace / "checkpoints")
    return workplace / "checkpoints"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds whose networks were run on more than one sample, in order."""
    seeds: list[int] = []
    own = Ensemble.member_logits

    def counted(self, position, inputs):
        if len(inputs) > 1:
            seeds.append(self.seeds[position])
        return own(self, position, inputs)

    monkeypatch.setattr(Ensemble, "member_logits", counted)
    return seeds
