"""Members that differ in more than their seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from forgery import rewritten
from safetensors.numpy import load_file

import seedvote
from seedvote.variants import labels, recipe_of_member, variants_of

QUICK = ("data.limit=100", "epochs=2", "batch_size=32", "model.hidden=[16]", "device=cpu")
MIXED = (
    "members=[{optimizer.lr:0.01},{model:resnet,model.depth:8,model.width:4,epochs:1},"
    "{model.hidden:[8],init:orthogonal}]"
)
ALONE = (  # what the entries stand for, said at length
    ("optimizer.lr=0.01",),
    ("model=resnet", "model.depth=8", "model.width=4", "epochs=1"),
    ("model.hidden=[8]", "init=orthogonal"),
)


def weights(workplace, run, seed):
    return load_file(workplace / "checkpoints" / run / f"seed-{seed:04d}" / "model.safetensors")


def plain(number, engine="sequential"):
    """The command line of a run all of whose members are of one variant."""
    base = [argument for argument in QUICK if number != 1 or not argument.startswith(("model", "epochs"))]
    return [*base, *ALONE[number], f"run=plain-{number}", f"engine={engine}"]


@pytest.mark.parametrize("engine", ["sequential", "process", "fused", "auto"])
def test_a_member_is_what_it_would_be_in_a_run_of_its_variant_alone(engine, call, workplace):
    assert call("train", *QUICK, MIXED, "n_seeds=5", "run=mixed", f"engine={engine}").status == 0
    for number in range(3):
        seeds = [seed for seed in range(5) if seed % 3 == number]
        reference = "fused" if engine == "fused" else "sequential"
        assert call("train", *plain(number, reference), f"seeds={seeds}").status == 0
        for seed in seeds:
            own, same = weights(workplace, "mixed", seed), weights(workplace, f"plain-{number}", seed)
            assert own.keys() == same.keys()
            assert all(np.array_equal(own[name], same[name]) for name in own)


def test_members_can_be_added_predicted_with_and_compared(call, workplace):
    assert call("train", *QUICK, MIXED, "n_seeds=2", "run=mixed").status == 0
    added = call("train", *QUICK, MIXED, "n_seeds=5", "run=mixed")
    assert added.status == 0
    assert "2 are there already; training seeds 2, 3, 4" in added.out
    for seeds in ("1, 4", "0, 3", "2"):
        assert f": seeds {seeds}\n" in added.out
    together = seedvote.load(workplace / "checkpoints" / "mixed")
    inputs = np.random.default_rng(0).integers(0, 17, (7, 1, 8, 8)).astype(np.uint8)
    logits = together.predict_logits(inputs)
    for number in range(3):
        seeds = [seed for seed in range(5) if seed % 3 == number]
        assert call("train", *plain(number), f"seeds={seeds}").status == 0
        alone = seedvote.load(workplace / "checkpoints" / f"plain-{number}").predict_logits(inputs)
        assert np.array_equal(logits[seeds], alone)
    some = seedvote.load(workplace / "checkpoints" / "mixed", seeds=[4, 2])
    assert np.array_equal(some.predict_logits(inputs), logits[[2, 4]])
    assert call("predict", "run=mixed").status == 0
    compared = call("compare", "run=mixed")
    assert compared.status == 0
    assert "variant    resnet, " in compared.out and ": seeds 1, 4\n" in compared.out
    assert "<dt>variants</dt>" in (workplace / "checkpoints" / "mixed" / "report" / "report.html").read_text()
    assert call("verify", "run=mixed").status == 0


def test_a_run_of_several_models_is_called_mixed_and_its_recipe_names_what_differs(call, workplace):
    assert call("train", *QUICK, MIXED, "n_seeds=1").status == 0
    (run,) = (workplace / "checkpoints").iterdir()
    recipe = json.loads((run / "run.json").read_text())["recipe"]
    assert run.name.startswith("digits-mixed-")
    first, second, third = recipe["members"]
    assert list(first) == ["optimizer"] and first["optimizer"]["lr"] == 0.01
    assert set(second) == {"model", "epochs"} and second["model"]["depth"] == 8
    assert set(third) == {"model", "init"} and third["model"]["hidden"] == [8]
    assert variants_of(recipe)[1] == recipe_of_member(recipe, 4)
    assert recipe_of_member(recipe, 4)["epochs"] == 1 and recipe_of_member(recipe, 5)["epochs"] == 2


def test_without_variants_a_recipe_is_what_it_always_was(call, workplace):
    assert call("train", *QUICK, "n_seeds=1", "run=it").status == 0
    recipe = json.loads((workplace / "checkpoints" / "it" / "run.json").read_text())["recipe"]
    assert "members" not in recipe
    assert variants_of(recipe) == [recipe]
    assert labels(recipe) == ["variant 0"]


@pytest.mark.parametrize(
    ("members", "sentences"),
    [
        ("[]", ["members must be a list with an entry for each variant"]),
        ("mlp", ["members must be a list with an entry for each variant"]),
        ("[mlp,{}]", ["members, entry 1 must be of the form {KEY:VALUE,...}, got 'mlp'"]),
        ("[{},{device:cuda}]", ["members, entry 2 sets device, which all members of a run share: leave it out"]),
        ("[{data.limit:7}]", ["members, entry 1 sets data, which all members of a run share: leave it out"]),
        ("[{experiment:init_only}]", ["members, entry 1 sets vary, which all members of a run share: leave it out"]),
        ("[{modle:mlp}]", ["members, entry 1: ", "did you mean 'model'?"]),
        ("[{model:lenett}]", ["members, entry 1: model 'lenett' is not known: did you mean 'lenet'?"]),
        (
            "[{epochs:0},{optimizer.lr:nan},{batch_size:x}]",
            [
                "members, entry 1: epochs must be at least 1, got 0",
                "members, entry 2: ",
                "members, entry 3: batch_size",
            ],
        ),
        ("[{},{model:lenet}]", ["members, entry 2: model lenet wants images of 28x28 or 32x32 pixels, got 8x8"]),
    ],
)
def test_a_wrong_entry_is_named_and_nothing_is_written(members, sentences, call, workplace):
    outcome = call("train", *QUICK, f"members={members}")
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    for sentence in sentences:
        assert sentence in outcome.err
    assert not list(workplace.iterdir())


def test_labels_say_what_sets_variants_apart():
    def model(name, **options):
        return {"_target_": f"seedvote.models.{name}", **options}

    recipe = {"model": model("mlp", hidden=[8]), "epochs": 3, "optimizer": {"_target_": "a.SGD", "lr": 0.1}}
    recipe["members"] = [
        {},
        {"model": model("mlp", hidden=[4]), "epochs": 5},
        {"model": model("lenet"), "optimizer": {"_target_": "a.SGD", "lr": 0.2}},
    ]
    assert labels(recipe) == [
        "mlp, model.hidden.0=8, epochs=3, optimizer.lr=0.1",
        "mlp, model.hidden.0=4, epochs=5, optimizer.lr=0.1",
        "lenet, epochs=3, optimizer.lr=0.2",
    ]


@pytest.mark.parametrize(
    "members", [[], [3], {"0": {}}, [{"model": 3}], [{"model": {}}], [{"data": {"_target_": "x"}}], [{"members": []}]]
)
def test_a_stored_recipe_with_variants_of_another_form_is_refused(members, call, workplace):
    assert call("train", *QUICK, "n_seeds=1", "run=it").status == 0
    rewritten(workplace / "checkpoints" / "it", lambda values: values["recipe"].update(members=members))
    with pytest.raises(ValueError, match="is damaged: members cannot be what a training wrote"):
        seedvote.load(workplace / "checkpoints" / "it")


def test_the_networks_of_all_variants_of_a_strangers_run_need_trust(call, workplace):
    assert call("train", *QUICK, "members=[{},{model.hidden:[8]}]", "n_seeds=2", "run=it").status == 0

    def smuggle(values):
        values["recipe"]["members"][1]["model"] = {"_target_": "os.getcwd"}

    rewritten(workplace / "checkpoints" / "it", smuggle)
    with pytest.raises(ValueError, match=r"names code outside seedvote.*os\.getcwd"):
        seedvote.load(workplace / "checkpoints" / "it")
