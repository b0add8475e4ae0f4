"""What the recipe of a stranger's run may name, and what it may not, however it is dressed up."""

from __future__ import annotations

import functools
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from forgery import rewritten

from seedvote.assembly import stored_data
from seedvote.inference import load
from seedvote.store import read_run
from seedvote.targets import bound_target, check_trusted, scheduler_builder

NETWORKS = [
    {"_target_": "seedvote.models.mlp", "hidden": [3]},
    {"_target_": "seedvote.models.torchvision_model", "name": "resnet18"},
    {"_target_": "seedvote.models.densenet", "norm": "group"},
    {"_target_": "seedvote.models.classic.lenet"},
    {"_target_": "seedvote.models.DenseLayer"},
    {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2},
    {"_target_": "torch.nn.modules.linear.Linear"},
    {"_target_": "torchvision.models.resnet18"},
    {"_target_": "torchvision.models.resnet.resnet18"},
    {"_target_": "torchvision.models.ResNet", "block": {"_target_": "torchvision.models.resnet.BasicBlock"}},
    {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Flatten"}, {"_target_": "torch.nn.ReLU"}]},
]  # fmt: skip
SOURCES = [
    {"_target_": "seedvote.data.digits"},
    {"_target_": "seedvote.data.builtin.digits"},
    {"_target_": "seedvote.data.arrays", "file": "a.npz"},
    {"_target_": "seedvote.data.image_folder", "root": "photos", "size": 8},
    {"_target_": "seedvote.data.torchvision_dataset", "dataset": "MNIST"},
]
# Names that begin with a trusted package, and lead to something else, or to something that does more than build.
DISGUISED = [
    "os.system", "builtins.eval", "builtins.exec", "subprocess.run", "importlib.import_module", "pickle.loads",
    "torch.load", "torch.save", "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.jit.load",
    "torch.utils.cpp_extension.load_inline", "torch.serialization.load", "torch.nn", "torch.nn.", "torch.nn..Linear",
    "torch.nn.functional.torch.hub.load", "torch.nn.modules.module.os.system", "torch.nn.modules.module.torch.load",
    "torch.nn.modules.module.OrderedDict", "torch.nn.modules.module.register_module_forward_hook",
    "torch.nn.modules.container.operator.attrgetter", "torch.nn.Module.__init__.__globals__",
    "torch.nn.Module.load_state_dict", "torch.nn.Module.__class__.__base__", "torch.nn.functional.relu",
    "torch.nn.init.normal_", "torch.nn.Linear.forward", "torch.nn.parallel.distributed.inspect.currentframe",
    "torch.nn.utils.rnn.PackedSequence", "torch.nn.factory_kwargs", "torch.nn.Parameter", "torch.nnx.Linear",
    "torchvision.models.resnet.load_state_dict_from_url", "torchvision.models._api.load_state_dict_from_url",
    "torchvision.models._api.WeightsEnum.get_state_dict", "torchvision.models._api.Weights",
    "torchvision.models.ResNet18_Weights.IMAGENET1K_V1.get_state_dict", "torchvision.models.get_model_weights",
    "torchvision.models._api.importlib.import_module", "torchvision.models._api.sys.exit",
    "torchvision.models.detection.fasterrcnn_resnet50_fpn", "torchvision.models.get_model",
    "seedvote.models.math.prod", "seedvote.models.nn.functional.torch.load", "seedvote.models.unknown",
    "seedvote.models.__builtins__.eval", "seedvote.models.mlp.__globals__.__getitem__", "seedvote.models.F.torch.load",
    "seedvote.models.sequences.torch.load", "seedvote.models.pieces.nn.functional.torch.load",
    "seedvote.models.vision.nn.functional.relu", "seedvote.models.constrained_time.math.isqrt",
    "seedvote.models.pieces._check_norm", "seedvote.models.pieces.ACTIVATIONS", "seedvote.models.sequences.CELLS.pop",
    "seedvote.data.builtin.os.system", "seedvote.data.builtin.np.load", "seedvote.data.builtin.Path.touch",
    "seedvote.data.image_folder.replaced", "seedvote.data.archive.zipfile.ZipFile.extractall", "seedvote.data.prepare",
    "seedvote.data.builtin._opened", "seedvote.data.read_image_folder", "seedvote.files.replaced",
    "seedvote.store.open_run",
    "seedvote.train.main", "seedvote.engines.workers.train_in_processes", "", ".", "seedvote", "no.such.thing", "\x00",
    None, 3, True, ["os.system"], {"_target_": "os.system"}, {"a": "torch.nn.Linear"}, "TORCH.NN.LINEAR",
    " torch.nn.Linear",
    "torch.nn.Linear;import os", "torch/nn/Linear", "torch.nn:Linear", "torch.nn." + "modules." * 300 + "Linear",
]  # fmt: skip


@pytest.mark.parametrize("spec", NETWORKS, ids=lambda spec: spec["_target_"])
def test_networks_of_seedvote_torch_and_torchvision_are_trusted(spec):
    check_trusted(spec, "it", "model")
    with pytest.raises(ValueError, match="names code outside seedvote.* as its data: "):
        check_trusted(spec, "it", "data")


@pytest.mark.parametrize("spec", SOURCES, ids=lambda spec: spec["_target_"])
def test_data_sources_of_seedvote_are_trusted(spec):
    check_trusted(spec, "it", "data")
    with pytest.raises(ValueError, match="names code outside seedvote.* as its model: "):
        check_trusted(spec, "it", "model")


@pytest.mark.parametrize("target", DISGUISED, ids=str)
@pytest.mark.parametrize("part", ["data", "model"])
def test_nothing_else_is_and_nothing_of_it_runs(target, part):
    good = {"data": "seedvote.data.digits", "model": "torch.nn.ReLU"}[part]
    nested = {"_target_": target, "_args_": ["touch sprung"]}
    for spec in (
        {"_target_": target},
        {"_target_": target, "_partial_": True},
        {"_target_": target, "_recursive_": False, "_convert_": "object"},
        {"_target_": good, "_args_": [nested]},
        {"_target_": good, "option": nested},
        {"_target_": good, "option": [[{"deep": (nested,)}]]},
        {"_target_": good, "option": {**nested, "_partial_": True}},
        {"_target_": good, "_recursive_": False, "option": nested},
        {"option": nested},
    ):
        with pytest.raises(
            ValueError, match=r"^run 'it' names code outside seedvote, torch\.nn and torchvision\.models"
        ):
            check_trusted(spec, "it", part)
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    "value", ["${oc.env:HOME}", "a${b}c", "${oc.decode:x}", "\\${x}", "${", "${hydra:runtime.cwd}"]
)
def test_interpolations_are_not_looked_up(value):
    for option in (value, [value], {"x": [{"y": value}]}):
        with pytest.raises(ValueError, match="holds the interpolation"):
            check_trusted({"_target_": "torch.nn.ReLU", "inplace": option}, "it", "model")
    with pytest.raises(ValueError, match="names code outside"):
        check_trusted({"_target_": value}, "it", "model")


def test_importing_a_name_of_a_stranger_imports_nothing_of_theirs(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text("import pathlib\npathlib.Path('sprung').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for target in (
        "theirs.Network",
        "torch.nn.theirs.Network",
        "torchvision.models.theirs",
        "seedvote.models.theirs.x",
    ):
        with pytest.raises(ValueError, match="names code outside"):
            check_trusted({"_target_": target}, "it", "model")
    assert "theirs" not in sys.modules
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("key", ["_recursive_", "_partial_", "_convert_", "_args_"])
@pytest.mark.parametrize("value", ["x", 3, None, {"a": 1}, ["x"], "???"])
def test_keys_of_hydra_with_strange_values_are_mistakes_not_crashes(key, value):
    try:
        bound_target({"_target_": "torch.nn.ReLU", key: value}, "model")
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_weights_from_elsewhere_are_not_unpickled(runs, workplace):
    """torchvision's own loader would: a method of its weights that is given an address."""
    (workplace / "trap.pth").write_bytes(pickle.dumps(Trap()))
    weights = {"_target_": "torch.nn.ParameterDict", "parameters": {"url": (workplace / "trap.pth").as_uri()}}
    loader = {"_target_": "torchvision.models._api.WeightsEnum.get_state_dict", "_args_": [weights], "model_dir": "."}
    rewritten(runs / "small", lambda values: values["recipe"].update(model=loader))
    with pytest.raises(ValueError, match="names code outside seedvote"):
        load(runs / "small")
    assert not (workplace / "sprung").exists()


LOCATIONS = {
    "a target": {"_target_": "os.mkdir", "path": "sprung"},
    "a target inside": {"root": {"_target_": "os.mkdir", "_args_": ["sprung"]}},
    "a target in a list": {"file": [{"_target_": "os.mkdir", "_args_": ["sprung"]}]},
    "an interpolation": {"root": "${oc.env:HOME}"},
    "another key": {"validation": 0.5},
    "a number": {"root": 3},
}


@pytest.mark.parametrize("location", LOCATIONS)
def test_the_place_of_the_data_names_no_code(location, runs, workplace):
    """The hash of the recipe does not cover it, so nobody has to know the run to change it."""
    rewritten(runs / "small", lambda values: values.update(location=LOCATIONS[location]))
    with pytest.raises(ValueError, match=r"in its location is no place of data|interpolation"):
        stored_data(read_run(runs / "small"), {}, trust=False)
    assert not (workplace / "sprung").exists()


def test_a_source_of_the_data_inside_another_is_not_called(runs, workplace):
    inner = {
        "_target_": "seedvote.data.image_folder",
        "root": ".",
        "size": 8,
        "channels": 1,
        "cache": "sprung",
        "workers": 1,
    }
    for key, words in (("file", "needs the option file"), ("x", "names code outside seedvote")):
        changed = {"_target_": "seedvote.data.arrays", key: inner}
        rewritten(runs / "small", functools.partial(moved, changed, {}))
        with pytest.raises(ValueError, match=words):
            stored_data(read_run(runs / "small"), {}, trust=False)
    assert not (workplace / "sprung").exists()


def moved(data, location, values):
    values["recipe"]["data"], values["location"] = data, location


def test_nothing_is_written_or_fetched_where_a_run_says(runs, workplace, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "own"))
    torchvision_data = {"_target_": "seedvote.data.torchvision_dataset", "dataset": "MNIST", "name": "mnist"}
    photos = {"_target_": "seedvote.data.image_folder", "size": 8, "channels": 1, "name": "photos", "cache": "sprung"}
    (workplace / "photos" / "cat").mkdir(parents=True)
    (workplace / "photos" / "cat" / "a.png").write_bytes(b"")
    for torn in (
        (torchvision_data, {"root": "sprung", "download": True}),
        ({**torchvision_data, "download": True, "root": "sprung"}, {"download": True}),
        (photos, {"root": "photos", "cache": str(workplace / "sprung"), "workers": 1}),
        (photos, {"root": "photos", "cache": None, "workers": 1}),
    ):
        rewritten(runs / "small", functools.partial(moved, *torn))
        with pytest.raises(ValueError, match=r"."):
            stored_data(read_run(runs / "small"), {}, trust=False)
    assert not (workplace / "sprung").exists()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"_target_": "seedvote.models.mlp", "hidden": [10**9, 10**9]}, "GiB"),
        ({"_target_": "seedvote.models.mlp", "hidden": [10**30]}, "cannot be built"),
        ({"_target_": "seedvote.models.mlp", "hidden": "abc"}, "model.hidden must be a list"),
        ({"_target_": "seedvote.models.mlp", "hidden": None}, "cannot be built"),
        ({"_target_": "seedvote.models.mlp", "hidden": [[3]]}, "cannot be built"),
        ({"_target_": "seedvote.models.mlp", "strange": 1}, "option of seedvote.models.mlp"),
        ({"_target_": "seedvote.models.resnet", "depth": 6 * 10**9 + 2}, "depth"),
        ({"_target_": "seedvote.models.densenet", "depth": 1000, "growth": 2**20}, "GiB"),
        ({"_target_": "seedvote.models.constrained_time_cnn", "budget": 2**62}, "GiB"),
        ({"_target_": "seedvote.models.constrained_time_cnn", "budget": 10**30}, "cannot be built"),
        ({"_target_": "seedvote.models.recurrent", "hidden": 2**20, "layers": 1000}, "GiB"),
        ({"_target_": "seedvote.models.mlp", "norm": None}, "model.norm must be str"),
        ({"_target_": "torch.nn.Linear", "in_features": 10**7, "out_features": 10**7}, "GiB"),
        ({"_target_": "torch.nn.Linear", "in_features": "x", "out_features": None}, "cannot be built"),
        ({"_target_": "torch.nn.Linear", "_partial_": "x"}, ""),
        ({"_target_": "seedvote.models.image_shape", "model": "x"}, "names a network that"),
        ({"hidden": [3]}, "run.json is damaged: recipe cannot be what a training wrote"),
        ([1], "run.json is damaged: recipe cannot be what a training wrote"),
    ],
)
def test_networks_that_cannot_be_built_are_refused_before_memory_is_taken(model, words, runs):
    rewritten(runs / "small", lambda values: values["recipe"].update(model=model))
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        load(runs / "small")
    assert words in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [
    ("input_shape", []), ("input_shape", [0, 8, 8]), ("input_shape", [-1, 8, 8]), ("input_shape", [10**18]),
    ("input_shape", [1, 8]), ("input_dtype", "float8"), ("mean", []), ("mean", [1.0] * 3), ("std", [0.0]), ("std", []),
    ("classes", []), ("classes", ["a"]), ("classes", ["a", "a"]), ("classes", ["a", "long" * 100]), ("seeds", []),
    ("seeds", [0, 0]), ("seeds", [-1]), ("seeds", [10**300]),
])  # fmt: skip
def test_values_that_no_training_wrote_are_refused(field, value, runs):
    rewritten(runs / "small", lambda values: values.update({field: value}))
    with pytest.raises(ValueError, match=rf"run\.json is damaged: .*{field}.* cannot be what a training wrote"):
        load(runs / "small")


def test_links_that_leave_a_run_are_neither_read_nor_written(runs, workplace, call):
    outside = workplace / "outside"
    shutil.copytree(runs / "it", outside)
    before = {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
    shutil.rmtree(runs / "it" / "seed-0001")
    (runs / "it" / "seed-0001").symlink_to(outside / "seed-0001")
    (runs / "it" / "seed-0002" / "model.safetensors").unlink()
    (runs / "it" / "seed-0002" / "model.safetensors").symlink_to(outside / "seed-0002" / "model.safetensors")
    with pytest.raises(ValueError, match=r"seed 1 a symbolic link leads .*seed-0001.* out of .*; seed 2 a symbolic"):
        load(runs / "it")
    assert load(runs / "it", on_bad_member="drop").seeds == (0, 3, 4)
    (runs / "it" / "report").symlink_to(outside)
    outcome = call("compare", "run=it", "on_bad_member=drop")
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: a symbolic link leads {Path('checkpoints') / 'it' / 'report'} out of ")
    assert {path: path.stat().st_mtime_ns for path in outside.rglob("*")} == before


def test_weights_larger_than_the_network_are_not_read(runs):
    with (runs / "small" / "seed-0000" / "model.safetensors").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: it is far larger than the network's weights"):
        load(runs / "small")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes as files are for POSIX")
@pytest.mark.parametrize("name", ["model.safetensors", "member.json", "logits-test.safetensors"])
def test_pipes_in_the_place_of_a_members_files_are_not_waited_for(name, runs, call):
    path = runs / "small" / "seed-0000" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    outcome = call("predict", "run=small", "on_bad_member=drop")
    assert outcome.status == (0 if name.startswith("logits") else 1)


def test_what_the_user_names_is_not_checked():
    assert bound_target({"_target_": "torch.optim.SGD", "lr": 0.1}, "optimizer").func is torch.optim.SGD


def test_a_schedule_is_told_how_many_steps_there_are_if_it_asks():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    package = "torch.optim.lr_scheduler"
    cycle = scheduler_builder({"_target_": f"{package}.OneCycleLR", "max_lr": 0.1, "interval": "step"})
    assert pickle.loads(pickle.dumps(cycle))(optimizer, 70).total_steps == 70
    step = scheduler_builder({"_target_": f"{package}.StepLR", "step_size": 3, "interval": "epoch"})
    assert pickle.loads(pickle.dumps(step))(optimizer, 70).step_size == 3
    own = scheduler_builder({"_target_": "seedvote.schedules.warmup_cosine", "warmup": 0.5})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    assert own(optimizer, 8).get_last_lr() == [pytest.approx(0.1 / 5)]
