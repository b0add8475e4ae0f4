"""Every YAML under conf/ composes and builds."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import hydra
import pytest
from conftest import ROOT
from hydra.core.config_store import ConfigStore

from seedvote.assembly import build_recipe
from seedvote.augmentation import images
from seedvote.config import CONF_DIR, checked, recipe_of, with_variants
from seedvote.models.pieces import NORMS
from seedvote.schemas import TrainConfig
from seedvote.store import read_run
from seedvote.targets import bound_target

GROUPS = ("preprocess", "augment", "model", "init", "optimizer", "scheduler", "engine", "experiment")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted(Path(CONF_DIR, group).glob("*.yaml"))]


def composed(*overrides: str) -> TrainConfig:
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        config = checked(hydra.compose("train", list(overrides)), TrainConfig)
        return with_variants(
            config, lambda changes: hydra.compose("train", [f"{key}={value}" for key, value in changes.items()])
        )


def test_bootstrap_samples_change_the_hash_of_no_other_recipe():
    plain, drawn = recipe_of(composed()), recipe_of(composed("data.bootstrap=true"))
    assert "bootstrap" not in plain["data"] and plain["vary"] == ["init", "order", "augment", "dropout"]
    assert drawn == {
        **plain, "data": {**plain["data"], "bootstrap": True}, "vary": [*plain["vary"], "sample"]
    }  # fmt: skip
    only = recipe_of(composed("experiment=bootstrap_only"))
    assert only["vary"] == ["sample"] and only["data"]["bootstrap"]


def test_bootstrap_samples_reach_the_recipe(small_digits):
    assert build_recipe(recipe_of(composed("data.bootstrap=true")), small_digits).bootstrap
    assert not build_recipe(recipe_of(composed()), small_digits).bootstrap


def test_augmentation_is_called_without_hydra_at_every_step(colour_images):
    augment = build_recipe(recipe_of(composed("augment=crop_flip")), colour_images).augment
    assert type(augment) is functools.partial and augment.func is images
    assert augment.keywords == bound_target(recipe_of(composed("augment=crop_flip"))["augment"], "augment").keywords


def test_there_are_choices():
    assert {group for group, _ in CHOICES} == set(GROUPS)


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=lambda value: str(value))
def test_every_choice_composes_and_builds(group, choice, colour_images):
    config = composed(f"{group}={choice}")
    recipe = build_recipe(recipe_of(config), colour_images)
    assert recipe.epochs == config.epochs
    assert bound_target(config.engine, "engine")().name


PIECES = [(f"{group}={choice}",) for group, choice in CHOICES if group in ("optimizer", "scheduler")]
PIECES += [("l1=0.001", "clip_norm=1", "max_norm=1"), ("clip_value=0.1", "+model.input_dropout=0.2"),
           ("optimizer._target_=torch.optim.NAdam",)]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES, ids=" ".join)
def test_every_piece_of_a_recipe_trains_on_digits(piece, call, workplace):
    small = ("data.limit=64", "epochs=2", "batch_size=16", "n_seeds=2", "model.hidden=[8]", "engine=fused")
    outcome = call("train", *small, "engine.workers=1", *piece)
    assert outcome.status == 0, outcome.err
    members = [json.loads(path.read_text()) for path in workplace.glob("checkpoints/*/seed-*/member.json")]
    assert [(member["engine"], len(member["history"])) for member in members] == [("fused", 2)] * 2


NORMED = {
    "mlp": ("model.hidden=[8,8]", [norm for norm in NORMS if norm != "instance"]),
    "resnet": ("model.depth=8", NORMS),
}


@pytest.mark.parametrize(("model", "norm"), [(model, norm) for model in NORMED for norm in NORMED[model][1]])
def test_every_norm_trains_on_digits(model, norm, call, workplace):
    small = ("data.limit=32", "epochs=1", "batch_size=16", "n_seeds=2", NORMED[model][0], "engine=sequential")
    outcome = call("train", *small, f"model={model}", f"model.norm={norm}", "run=it")
    assert outcome.status == 0, outcome.err
    assert read_run(Path("checkpoints/it")).record.recipe["model"]["norm"] == norm
    assert f"| `{norm}` |" in (ROOT / "docs" / "recipes.md").read_text()


def test_pieces_that_came_later_change_the_recipe_only_where_they_are_used():
    before = recipe_of(composed())
    assert not {"l1", "clip_value", "max_norm"} & before.keys()
    assert recipe_of(composed("l1=0.0", "clip_value=null", "max_norm=null")) == before
    assert recipe_of(composed("l1=0.1", "max_norm=2")) == {**before, "l1": 0.1, "max_norm": 2.0}


@pytest.mark.parametrize("path", sorted(Path(CONF_DIR).rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_says_what_it_is(path):
    if path.parent.name != "help":
        assert path.read_text().startswith("# ")


def test_no_python_lies_among_the_configs():
    assert not list(Path(CONF_DIR).rglob("*.py"))
