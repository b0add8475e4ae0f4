"""The experiments run from end to end in sample mode, and the fan-out is what theory says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

SCRIPTS = ROOT / "scripts" / "experiments"
SHARED = Path(os.environ.get("SEEDVOTE_TEST_DATA", ROOT / ".." / "shared" / "datasets")).resolve()

sys.path.insert(0, str(SCRIPTS))

import fan_out  # noqa: E402


def run(name, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", "--sample", "--output", "out", *arguments],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def check(done, name, workplace, rows):
    assert done.returncode == 0, done.stderr
    table = (workplace / "out" / f"{name}.md").read_text()
    assert done.stdout.startswith(table)
    assert len(table.splitlines()) == 2 + rows
    json.loads((workplace / "out" / f"{name}.json").read_text())
    with Image.open(workplace / "out" / f"{name}.png") as picture:
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 20


def test_the_spread_of_fresh_networks_grows_with_depth_as_predicted():
    width = 64
    spreads = fan_out.standard_deviations(400, 8, width)
    found = np.log(spreads).std(axis=0, ddof=1)
    predicted = np.array([fan_out.predicted(layer, width) for layer in range(1, 9)])
    # 400 networks know an SD to about 3.5 %; the formula is of first order in depth over width.
    assert np.all(np.abs(found / predicted - 1) < 0.2)
    assert np.all(np.diff(found) > 0)


def test_fan_out(workplace):
    check(run("fan_out"), "fan_out", workplace, 5)


@pytest.mark.slow
def test_sources_of_variance(workplace):
    check(run("sources_of_variance"), "sources_of_variance", workplace, 6)
    found = json.loads((workplace / "out" / "sources_of_variance.json").read_text())
    assert found["nothing"]["deviation"] == 0 and found["nothing"]["disagreement"] == 0
    assert found["all of these"]["disagreement"] > 0


@pytest.mark.slow
def test_does_it_matter(workplace):
    check(run("does_it_matter"), "does_it_matter", workplace, 4)


@pytest.mark.slow
@pytest.mark.datasets
@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason=f"no MNIST files under {SHARED}")
def test_seeds_or_architectures(workplace):
    check(run("seeds_or_architectures", "--root", str(SHARED / "mnist")), "seeds_or_architectures", workplace, 6)
    found = json.loads((workplace / "out" / "seeds_or_architectures.json").read_text())
    # A network alone is its own committee.
    assert found["one, wider"]["vote"] == found["one, wider"]["single"]


@pytest.mark.slow
@pytest.mark.datasets
@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason=f"no MNIST files under {SHARED}")
def test_init_schemes(workplace):
    check(run("init_schemes", "--root", str(SHARED / "mnist")), "init_schemes", workplace, 6)
