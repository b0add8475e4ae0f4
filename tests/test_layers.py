"""The direction of the imports, as docs/architecture.md draws it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "seedvote"

LAYERS = [
    {"types", "errors", "limits", "schemas", "version"},
    {
        "config_checks",
        "targets",
        "variants",
        "seeding",
        "models",
        "regularization",
        "schedules",
        "device",
        "events",
        "files",
        "folding",
        "interruption",
        "chunks",
        "neighbors",
        "spreading",
        "stats",
    },
    {
        "config",
        "data",
        "augmentation",
        "course",
        "initialization",
        "metrics",
        "observation",
        "optimization",
        "provenance",
        "store",
        "voting",
    },
    {"training", "inference", "inspection", "comparison", "run_log", "running_vote", "matmul"},
    {"engines", "report", "predictions", "logits", "figures", "board"},
    {"assembly", "command", "verdict", "monitoring"},
    {"summary", "sections", "captions", "study"},
    {"page"},
    {"publication"},
    {"train", "predict", "compare", "verify"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
# Layer 0 is a layer of its own parts: none of them imports another.
MAY_IMPORT_HYDRA = {"schemas", "config", "targets", "command"}


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


# Modules that make code or objects out of files, and functions that run whatever they are given.
RUNNING_MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy", "codeop", "imp",
    "ctypes", "cffi", "pty", "torch.hub", "torch.serialization", "torch.package", "torch.utils.cpp_extension",
}  # fmt: skip
RUNNING_CALLS = {
    "eval", "exec", "compile", "__import__", "breakpoint", "importlib.import_module", "importlib.__import__",
    "importlib.reload", "pkgutil.resolve_name", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "torch.load", "torch.save", "torch.jit.load", "torch.export.load",
    "hydra.utils.get_object", "hydra.utils.get_class", "hydra.utils.get_method", "hydra.utils.call",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
}  # fmt: skip
# Where names of a config become objects, behind the check of what a stranger's run may name.
MAY_INSTANTIATE = {"targets"}


def full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def forbidden(source: str, module: str = "") -> list[str]:
    """What in a source unpickles, evaluates, imports by a name that is not in the source, or starts a shell."""
    tree = ast.parse(source)
    names = full_names(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):  # also where it is only handed on: map(eval, ...)
            first, dot, rest = ast.unparse(node).partition(".")
            name = (names.get(first, first) + dot + rest).removeprefix("builtins.")
            running = any(name.startswith(f"{running}.") or name == running for running in RUNNING_MODULES)
            if running or name in RUNNING_CALLS or name.startswith(("os.exec", "os.spawn", "os.posix_spawn")):
                found.append(name)
            if name == "hydra.utils.instantiate" and module not in MAY_INSTANTIATE:
                found.append(name)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {node.module}
            found += [name for name in modules if name in RUNNING_MODULES]
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            called = names.get(first, first) + dot + rest
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            reads_arrays = called in {"numpy.load", "np.load"} or called.endswith(
                ("format.read_array", "lib.format.read_array")
            )
            if reads_arrays and options.get("allow_pickle") != "False":
                found.append(called)
            if options.get("shell", "False") != "False" or options.get("weights_only", "True") != "True":
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unpickles_or_evaluates(path):
    assert forbidden(path.read_text(), unit(path)) == []


@pytest.mark.parametrize("source", [
    "import pickle", "import dill as d", "from pickle import loads",
    "import torch\ntorch.load('x', weights_only=False)", "from torch import load\nload('x')",
    "import torch as t\nt.save(1, 'x')",
    "eval('1')", "list(map(eval, 'x'))",
    "import builtins\nbuiltins.exec('1')", "__import__('os')", "import importlib\nimportlib.import_module(name)",
    "from importlib import import_module as f\nf(name)", "import os\nos.system('ls')",
    "from os import popen\npopen('ls')",
    "import os\nos.execvp('ls', [])", "import subprocess\nsubprocess.run('ls', shell=True)",
    "import yaml\nyaml.load(x)",
    "import numpy\nnumpy.load('x')", "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import numpy as np\nnp.lib.format.read_array(x)", "from numpy import load\nload('x')",
    "from hydra.utils import instantiate\ninstantiate(x)", "import torch\ntorch.hub.load('x', 'y')",
    "import torch\ntorch.jit.load('x')", "import runpy", "import ctypes",
])  # fmt: skip
def test_the_forbidden_is_found_under_any_name(source):
    assert forbidden(source)


@pytest.mark.parametrize("source", [
    "import re\nre.compile('x')", "model.eval()", "import numpy as np\nnp.load('x', allow_pickle=False)",
    "import yaml\nyaml.safe_load(x)", "import subprocess\nsubprocess.run(['ls'])", "import torch\ntorch.compile(model)",
])  # fmt: skip
def test_the_harmless_is_not(source):
    assert forbidden(source) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 340
