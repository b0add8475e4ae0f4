"""The built wheel works from another directory, in an environment where the checkout is out of sight."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The contents of a wheel that was built by way of an sdist."""
    place = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(ROOT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def test_the_wheel_holds_every_module_and_config(site):
    for folder, pattern, inside in (
        ("seedvote", "*.py", "seedvote"),
        ("seedvote", "*.html", "seedvote"),
        ("conf", "*.yaml", "seedvote/conf"),
    ):
        wanted = {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob(pattern)}
        found = {path.relative_to(site / inside) for path in (site / inside).rglob(pattern)}
        assert wanted == found
        assert found
    assert not (site / "tests").exists()


def test_the_wheel_trains_from_another_directory(site, tmp_path):
    code = (
        "import seedvote.config, runpy, sys\n"
        f"assert seedvote.config.CONF_DIR == {str(site / 'seedvote' / 'conf')!r}, seedvote.config.CONF_DIR\n"
        "sys.argv = ['seedvote.train', 'data.limit=60', 'epochs=1', 'n_seeds=1']\n"
        "runpy.run_module('seedvote.train', run_name='__main__')\n"
    )
    found = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert list(tmp_path.glob("checkpoints/digits-mlp-*/seed-0000/model.safetensors"))
