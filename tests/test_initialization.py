"""`init=` from the command line to members: every choice, every engine, and what docs/initialization.md shows."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from test_conf import composed

import recipes
from seedvote.assembly import build_recipe
from seedvote.config import CONF_DIR, recipe_of
from seedvote.engines.fused import Fused
from seedvote.engines.process import Process
from seedvote.engines.sequential import Sequential
from seedvote.initialization import initial_model
from seedvote.seeding import Streams
from seedvote.types import Recipe, TrainedMember

CHOICES = sorted(path.stem for path in Path(CONF_DIR, "init").glob("*.yaml"))
DOCUMENT = (ROOT / "docs" / "initialization.md").read_text()
QUICK = ["data.limit=60", "epochs=1", "n_seeds=2", "engine=sequential", "model.hidden=[16]"]
SAME_FOR_ALL = {"constant", "identity"}


def recipe_with(data, *overrides: str) -> Recipe:
    return build_recipe(recipe_of(composed(*overrides)), data)


def first_weights(recipe: Recipe, seed: int) -> dict[str, torch.Tensor]:
    return initial_model(recipe, Streams(seed, recipe.vary, recipe.shared_seed)).state_dict()


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_trains_on_digits(choice, call, workplace):
    outcome = call("train", f"init={choice}", "run=it", *QUICK)
    assert outcome.status == 0, outcome.err
    for seed in (0, 1):
        member = json.loads((workplace / "checkpoints" / "it" / f"seed-000{seed}" / "member.json").read_text())
        assert member["diverged"] is None
        assert np.isfinite(member["history"][0]["validation_loss"])


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_suits_every_network_and_follows_the_seed_alone(choice, colour_images):
    values = recipe_of(composed(f"init={choice}", "model.hidden=[16]"))
    for model in (
        values["model"],
        {"_target_": "seedvote.models.lenet"},
        {"_target_": "seedvote.models.resnet", "depth": 8, "width": 8},
    ):
        recipe = build_recipe({**values, "model": model}, colour_images)
        torch.manual_seed(1)
        one, other = first_weights(recipe, 3), first_weights(recipe, 4)
        torch.manual_seed(2)
        before = torch.get_rng_state()
        again = first_weights(recipe, 3)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.isfinite(tensor).all() for tensor in one.values())
        assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()) == (choice in SAME_FOR_ALL)


def careless(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw from the global generator, as user code may."""
    torch.nn.init.normal_(model[1].weight)


def test_a_scheme_that_draws_from_the_global_generator_still_follows_the_seed(small_digits):
    recipe = recipes.quick_recipe(small_digits, initialize=careless)
    torch.manual_seed(1)
    one = first_weights(recipe, 3)
    torch.manual_seed(2)
    assert torch.equal(first_weights(recipe, 3)["1.weight"], one["1.weight"])
    assert not torch.equal(first_weights(recipe, 4)["1.weight"], one["1.weight"])


def test_a_shared_init_stream_gives_all_members_the_same_first_weights(small_digits):
    recipe = recipe_with(small_digits, "init=kaiming_normal", "vary=[order]", "model.hidden=[16]")
    assert torch.equal(first_weights(recipe, 1)["1.weight"], first_weights(recipe, 2)["1.weight"])


def test_lsuv_measures_on_training_inputs_that_the_split_seed_chooses(small_digits):
    def inputs(*overrides: str) -> np.ndarray:
        return recipe_with(small_digits, "init=lsuv", "init.samples=20", *overrides).initialize.keywords["inputs"]

    train = small_digits.train.inputs.numpy().astype(np.float64)
    everything = (train - train.mean()) / train.std()
    places = [np.abs(everything - one).max((1, 2, 3)).argmin() for one in inputs()]
    assert len(set(places)) == 20
    assert np.allclose(everything[places], inputs(), atol=1e-5)
    assert np.array_equal(inputs(), inputs("shared_seed=5"))
    assert not np.array_equal(inputs(), inputs("split_seed=1"))
    everyone = recipe_with(small_digits, "init=lsuv").initialize.keywords["inputs"]
    assert len(everyone) == len(small_digits.train) == 200
    with pytest.raises(ValueError, match=r"^init.samples must be a whole number of at least 2, got 1$"):
        inputs("init.samples=1")


def states(engine, recipe, data) -> dict[int, dict[str, torch.Tensor]]:
    events = engine.train([0, 1], recipe, data, torch.device("cpu"))
    return {event.seed: dict(event.state) for event in events if isinstance(event, TrainedMember)}


@pytest.mark.parametrize("choice", ["lsuv", "rules", "orthogonal"])
def test_stacked_members_start_where_members_alone_start(choice, small_digits):
    recipe = recipe_with(small_digits, f"init={choice}", "epochs=1", "batch_size=32", "model.hidden=[16]")
    together = states(Fused(workers=1), recipe, small_digits)
    for seed, state in states(Sequential(), recipe, small_digits).items():
        torch.testing.assert_close(together[seed], state, rtol=1e-4, atol=1e-5)


def test_a_worker_process_draws_the_same_weights(small_digits):
    """LSUV, for the inputs that go with it, and then a user's function, which goes by name."""
    lsuv = recipe_with(small_digits, "init=lsuv", "epochs=1", "model.hidden=[16]")
    rules = [{"match": "*.weight", "add": ["default", {"_target_": "recipes.signs", "size": 0.1}]}]
    spec = {"_target_": "seedvote.initialization.by_rules", "rules": rules}
    by_rules = build_recipe({**recipe_of(composed()), "init": spec}, small_digits).initialize
    recipe = dataclasses.replace(
        lsuv, initialize=functools.partial(recipes.one_after_the_other, lsuv.initialize, by_rules)
    )
    apart = states(Process(workers=1), recipe, small_digits)
    for seed, state in states(Sequential(), recipe, small_digits).items():
        assert all(torch.equal(apart[seed][name], tensor) for name, tensor in state.items())


def test_wrong_rules_stop_the_command_before_anything_is_written(call, workplace):
    outcome = call("train", "init=rules", 'init.rules=[{match: "Conv2d", scheme: orthogonal}]', *QUICK)
    assert outcome.status == 2
    assert outcome.err.strip() == (
        "error: init.rules[0] matches nothing: 'Conv2d' is not known: "
        "there are 1.bias, 1.weight, 4.bias, 4.weight, Linear"
    )
    assert not (workplace / "checkpoints").exists()


def test_rules_on_the_command_line(call, workplace):
    rules = 'init.rules=[{match: "*.weight", mul: [{scheme: orthogonal}, 2.0]}]'
    assert call("train", "init=rules", rules, "run=it", *QUICK).status == 0
    recipe = json.loads((workplace / "checkpoints" / "it" / "run.json").read_text())["recipe"]
    assert recipe["init"]["rules"] == [{"match": "*.weight", "mul": [{"scheme": "orthogonal"}, 2.0]}]
    assert call("predict", "run=it").status == 0


def examples() -> list[tuple[str, str]]:
    """The document's rule files, each with the command that comes after it."""
    return re.findall(r"```yaml\n(.*?)```.*?```sh\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture
def written(workplace, monkeypatch):
    """The files that the document shows, beside each other."""
    monkeypatch.syspath_prepend(str(workplace))
    for text in re.findall(r"```(?:yaml|python)\n(.*?)```", DOCUMENT, re.DOTALL):
        path = workplace / re.match(r"# (\S+)\n", text).group(1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return workplace


def test_the_document_has_two_examples_of_rules():
    assert [re.findall(r"init=(\w+)", command) for _, command in examples()] == [["quiet"], ["halves"]]


def test_the_documents_commands_run(call, written):
    commands = re.findall(r"```sh\npython -m seedvote.train (.*?)\n```", DOCUMENT)
    assert len(commands) == 3
    for number, command in enumerate(commands):
        small = ["model.depth=8", "model.width=4"] if "resnet" in command else ["model.hidden=[16]"]
        outcome = call("train", *command.split(), f"run=it{number}", *QUICK[:4], *small)
        assert outcome.status == 0, outcome.err
    # A stored run that names code of the user's needs no trust: nothing but training ever imports it.
    (written / "my_init.py").unlink()
    assert call("predict", "run=it2").status == 0


def test_the_documents_examples_do_what_it_says(written, small_digits, colour_images, monkeypatch):
    def first(data, text: str, *overrides: str) -> dict[str, torch.Tensor]:
        init = OmegaConf.to_container(OmegaConf.create(text))
        return first_weights(build_recipe({**recipe_of(composed(*overrides)), "init": init}, data), 0)

    (quiet, _), (halves, _) = examples()
    weights = first(colour_images, quiet, "model=resnet", "model.depth=8")
    assert all(not tensor.any() for name, tensor in weights.items() if name.endswith("norm2.weight"))
    assert all(tensor.any() for name, tensor in weights.items() if name.endswith("norm1.weight"))
    assert float(weights["5.conv2.weight"].var()) == pytest.approx(2 / (64 * 9), rel=0.03)
    assert float(weights["8.weight"].std()) == pytest.approx(0.01, rel=0.1) and not weights["8.bias"].any()

    weights = first(small_digits, halves, "model.hidden=[32]")
    own = first(small_digits, "_target_: seedvote.initialization.default", "model.hidden=[32]")
    assert torch.allclose(weights["1.weight"][:16], torch.eye(16, 64), atol=0.06)
    assert weights["1.weight"][16:].unique().tolist() == pytest.approx([-0.05, 0.05])
    assert torch.equal(weights["1.bias"], own["1.bias"])
    for name in ("4.weight", "4.bias"):
        assert torch.equal(weights[name], own[name] * 0.1)


def test_the_document_lists_every_choice():
    listed = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\|[^|]*\|$", DOCUMENT, re.MULTILINE)
    assert sorted(listed) == CHOICES


def test_a_users_scheme_for_the_network_may_ask_for_inputs(small_digits, written):
    (written / "mine.py").write_text(
        "def scheme(model, generator, inputs, samples=7):\n    model.seen = inputs.shape\n"
    )
    values = {"_target_": "mine.scheme"}
    recipe = build_recipe({**recipe_of(composed()), "init": values}, small_digits)
    assert initial_model(recipe, Streams(0)).seen == (7, 1, 8, 8)
    recipe = build_recipe({**recipe_of(composed()), "init": {**values, "samples": 9}}, small_digits)
    assert initial_model(recipe, Streams(0)).seen == (9, 1, 8, 8)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"_target_": "nowhere.fn"}, "init._target_=nowhere.fn cannot be used: "),
        (
            {"_target_": "seedvote.initialization.lsuv", "sample": 3},
            "option of seedvote.initialization.lsuv 'init.sample'",
        ),
        (
            {"_target_": "seedvote.initialization.by_rules", "rules": [{"match": "*", "_target_": "nowhere.fn"}]},
            "init.rules[0]._target_=nowhere.fn cannot be used: ",
        ),
        (
            {
                "_target_": "seedvote.initialization.by_rules",
                "rules": [{"match": "*", "_target_": "my_init.signs", "sise": 1}],
            },
            "option of my_init.signs 'init.rules[0].sise' is not known: there are generator, module, name, size",
        ),
        (
            {"_target_": "seedvote.initialization.by_rules", "rules": [{"match": "*", "_target_": "my_init.signs"}]},
            "init.rules[0]: my_init.signs must take (module, name, tensor, generator) and its options: missing a",
        ),
    ],
)
def test_mistakes_in_targets_are_named(init, message, small_digits, written):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build_recipe({**recipe_of(composed()), "init": init}, small_digits)
