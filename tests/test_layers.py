"""The direction of the imports, as docs/architecture.md draws it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "seedvote"

LAYERS = [
    {"types", "errors", "version"},
    {"config", "targets", "seeding", "models", "schedules", "device", "files", "interruption", "chunks", "stats"},
    {"data", "augmentation", "course", "initialization", "metrics", "optimization", "store", "voting"},
    {"training", "inference", "comparison"},
    {"engines", "report", "predictions", "logits", "figures"},
    {"assembly", "command", "verdict"},
    {"summary", "sections", "captions"},
    {"page"},
    {"train", "predict", "compare"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
# Layer 0 is a layer of its own parts: none of them imports another.
MAY_IMPORT_HYDRA = {"config", "targets", "command"}


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_has_a_layer():
    assert {unit(path) for path in MODULES} == set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_lower_layers(path):
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "seedvote":
            continue
        assert len(parts) > 1 and parts[1] in LEVEL, f"{path} imports the package root"
        other = parts[1]
        assert other == unit(path) or LEVEL[other] < LEVEL[unit(path)], f"{unit(path)} imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_hydra_stops_at_the_door(path):
    used = {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}
    assert not used or unit(path) in MAY_IMPORT_HYDRA


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unpickles_or_evaluates(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "compile", "__import__", "torch.load", "torch.save"}, called
            assert not called.startswith(("pickle.", "marshal.", "shelve.", "joblib.")), called
            if called in {"np.load", "numpy.load"}:
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("allow_pickle") == "False", f"{path}: {ast.unparse(node)}"
    assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "marshal", "shelve", "dill", "joblib"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 340
