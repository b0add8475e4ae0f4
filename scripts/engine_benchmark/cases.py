"""What is trained in the benchmark: model, data, batch size and optimizer, the same for every contestant.

The recipe is the plainest that all contestants can follow: one group of parameters under weight decay, a cosine
schedule in epochs, no label smoothing, no augmentation, validation after each epoch.
"""

from __future__ import annotations

import dataclasses
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

VALIDATION = 0.1  # of what the data set offers as training data
DIGITS_TEST = 0.5  # digits have no test split of their own
EVALUATION_BATCH = 256  # seedvote's, and so everybody's


@dataclass(frozen=True)
class Case:
    """What is trained.

    limit: training samples, ``None`` for all that there are; the validation split is cut in proportion.
    """

    model: str
    data: str
    batch_size: int
    optimizer: str
    learning_rate: float
    epochs: int
    limit: int | None
    options: tuple[str, ...] = ()

    @property
    def overrides(self) -> list[str]:
        """The recipe on the command line of ``python -m seedvote.train``, without the data."""
        return [
            f"model={self.model}", *self.options, "augment=none",
            f"optimizer={self.optimizer}", f"optimizer.lr={self.learning_rate}", "scheduler=cosine", "decay_all=true",
            "label_smoothing=0", f"epochs={self.epochs}", f"batch_size={self.batch_size}", "device=cpu", "threads=1",
        ]  # fmt: skip


def _cases() -> dict[str, Case]:
    rates = {"mlp": {"sgd": 0.05, "adamw": 0.003}, "lenet": {"sgd": 0.02, "adamw": 0.002},
             "resnet": {"sgd": 0.1, "adamw": 0.003}}  # fmt: skip
    models = (
        ("mlp", "digits", 64, 40, None, ()),
        ("lenet", "mnist", 64, 2, 16384, ()),
        ("lenet", "mnist", 128, 2, 16384, ()),
        ("resnet", "cifar10", 128, 2, 4096, ("model.depth=8",)),
    )
    return {
        f"{model}-{batch}-{optimizer}": Case(model, data, batch, optimizer, rate, epochs, limit, options)
        for model, data, batch, epochs, limit, options in models
        for optimizer, rate in rates[model].items()
    }


CASES = _cases()


def changed(name: str, epochs: int | None, limit: int | None) -> Case:
    """Return a case by its name, with another length or other data where these are given."""
    new = {"epochs": epochs, "limit": limit}
    return dataclasses.replace(CASES[name], **{key: value for key, value in new.items() if value is not None})


def write_arrays(case: Case, root: Path, place: Path) -> Path:
    """Write the data of a case as a file that ``data=arrays`` reads, and return its path.

    root: where MNIST and CIFAR-10 lie, directly or in ``mnist`` and ``cifar10``; CIFAR-10 as torchvision downloads it,
    or as folders ``train/<class>`` and ``test/<class>``, plain or in zip archives.

    Raises:
        ValueError: the data is not there.
    """
    file = place / f"{case.data}-{case.limit or 'all'}.npz"
    if not file.exists():
        part = file.with_suffix(".part.npz")
        np.savez(part, allow_pickle=False, **_arrays(case, root))
        part.replace(file)
    return file


def _arrays(case: Case, root: Path) -> dict[str, np.ndarray]:
    from seedvote.data import digits, torchvision_dataset

    if case.data == "digits":
        source = digits()
        taken = _drawn(len(source.train), case.limit, 1 - VALIDATION - DIGITS_TEST)
        return {"inputs": source.train.inputs.numpy()[taken], "labels": source.train.labels.numpy()[taken]}
    here = root / case.data if (root / case.data).is_dir() else root
    if case.data == "mnist":
        source = torchvision_dataset("MNIST", str(here), download=False)
    elif (here / "train").is_dir() or any(here.glob("*.zip")):
        source = _folders(here)
    else:
        source = torchvision_dataset("CIFAR10", str(here), download=False)
    assert source.test is not None
    taken = _drawn(len(source.train), case.limit, 1 - VALIDATION)
    return {
        "train_inputs": source.train.inputs.numpy()[taken], "train_labels": source.train.labels.numpy()[taken],
        "test_inputs": source.test.inputs.numpy(), "test_labels": source.test.labels.numpy(),
    }  # fmt: skip


def _drawn(count: int, limit: int | None, share: float) -> np.ndarray:
    """Draw the samples of which ``share``, ``limit`` in number, will be the training split."""
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order if limit is None else order[: round(limit / share)])


def _folders(here: Path) -> Any:
    from seedvote.data import image_folder

    with tempfile.TemporaryDirectory() as place:
        root = here
        if not (here / "train").is_dir():
            root = Path(place) / "unpacked"
            for archive in sorted(here.glob("*.zip")):
                zipfile.ZipFile(archive).extractall(root)
        source = image_folder(str(root), size=32, channels=3, cache=str(Path(place) / "cache"), workers=None)
        # The cache is mapped into memory, and goes with its directory.
        splits = [dataclasses.replace(split, inputs=split.inputs.clone()) for split in (source.train, source.test)]
    return dataclasses.replace(source, train=splits[0], test=splits[1])


def prepared(case: Case, file: Path) -> tuple[Any, Any]:
    """Return the recipe and the data of a case, as ``python -m seedvote.train`` composes and loads them."""
    import hydra
    from hydra.core.config_store import ConfigStore

    from seedvote.assembly import build_recipe, load_data
    from seedvote.config import CONF_DIR, checked, location_of, recipe_of
    from seedvote.schemas import TrainConfig

    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        config = checked(hydra.compose("train", [*case.overrides, *data_overrides(case, file)]), TrainConfig)
    data = load_data(recipe_of(config), location_of(config))
    return build_recipe(recipe_of(config), data), data


def data_overrides(case: Case, file: Path) -> list[str]:
    """Return the data of a case on the command line of ``python -m seedvote.train``."""
    test = f"data.test={DIGITS_TEST}" if case.data == "digits" else "data.test=null"
    return ["data=arrays", f"data.file={file}", f"data.validation={VALIDATION}", test]
