from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from seedvote.data import prepare

CONF = Path(__file__).parents[1] / "conf" / "data"
PREPARATION = {"validation", "test", "limit", "normalize"}


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_data_file_names_a_target_and_exactly_its_arguments(file):
    loaded = OmegaConf.load(file)
    settings = dict(loaded.get("data", loaded).items_ex(resolve=False))
    module, _, function = settings.pop("_target_").rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    assert settings.pop("name") == file.stem
    assert set(settings) >= PREPARATION
    assert set(inspect.signature(prepare).parameters) >= PREPARATION
    assert set(settings) - PREPARATION == set(parameters)
    assert file.read_text(encoding="utf-8").startswith("# ")


def test_every_data_set_has_a_file():
    names = {file.stem for file in CONF.glob("*.yaml")}
    assert names >= {
        "digits", "mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "svhn", "usps", "image_folder",
        "arrays",
    }  # fmt: skip
