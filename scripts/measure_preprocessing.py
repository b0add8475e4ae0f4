"""Show what a preprocessing does to noise and to accuracy: the shipped recipe on digits, the same seeds throughout.

    python scripts/measure_preprocessing.py --members 20

For each choice of ``preprocess``: accuracy of single members on validation and test, mean and standard deviation over
the seeds; accuracy on test images to which Gaussian noise of 0.1 and 0.3 pixel standard deviations was added; and how
much of the variance of the network's input is noise if that of 0.1 is added (without any network: of the map alone).
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.config_store import ConfigStore

from seedvote.assembly import build_recipe, load_data
from seedvote.config import CONF_DIR, checked, location_of, recipe_of
from seedvote.data import fitted, network_inputs, preprocessed
from seedvote.engines.fused import Fused
from seedvote.schemas import TrainConfig
from seedvote.targets import bound_target
from seedvote.types import Data, TrainedMember

CHOICES = {
    "none": [],
    "mean": ["preprocess=mean"],
    "standardize": ["preprocess=standardize"],
    "pca, 95 % of the variance": ["preprocess=pca"],
    "pca_whitening, epsilon 0": ["preprocess=pca_whitening", "preprocess.epsilon=0"],
    "pca_whitening, 0.95, epsilon 0": [
        "preprocess=pca_whitening",
        "preprocess.components=0.95",
        "preprocess.epsilon=0",
    ],
    "zca_whitening, epsilon 0": ["preprocess=zca_whitening", "preprocess.epsilon=0"],
    "zca_whitening, epsilon 0.001": ["preprocess=zca_whitening", "preprocess.epsilon=0.001"],
    "zca_whitening, epsilon 0.01": ["preprocess=zca_whitening", "preprocess.epsilon=0.01"],
    "zca_whitening, epsilon 0.1": ["preprocess=zca_whitening"],
    "zca_whitening, epsilon 1": ["preprocess=zca_whitening", "preprocess.epsilon=1"],
}
NOISES = (0.1, 0.3)


def main() -> None:
    """Train the members of each choice and print a row for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--override", nargs="*", default=[], help="of the recipe, such as epochs=5")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.members} seeds; torch {torch.__version__}, {platform.machine()}\n")
    print("| preprocess | validation % | test % | noise 0.1 | noise 0.3 | noise in the input |")
    print("|---|---|---|---|---|---|")
    for name, overrides in CHOICES.items():
        config = composed([*options.override, *overrides])
        data = load_data(recipe_of(config), location_of(config))
        data = dataclasses.replace(data, preprocessing=fitted(bound_target(config.preprocess, "preprocess"), data))
        accuracies = members_accuracies(options.members, build_recipe(recipe_of(config), data), data)
        cells = [f"{100 * each.mean():.2f} ± {100 * each.std(ddof=1):.2f}" for each in accuracies.T]
        print(f"| {name} | {' | '.join(cells)} | {noise_share(data, NOISES[0]):.1%} |", flush=True)


def composed(overrides: list[str]) -> TrainConfig:
    """Compose the shipped recipe with some changes."""
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        return checked(hydra.compose("train", overrides), TrainConfig)


@torch.inference_mode()
def members_accuracies(members: int, recipe: Any, data: Data) -> np.ndarray[Any, Any]:
    """Train members and return their accuracies ``[M, 2 + noises]`` (fractions)."""
    test = network_inputs(data.test.inputs, data.normalization)
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    parts = [(network_inputs(data.validation.inputs, data.normalization), data.validation.labels)]
    parts += [(test + size * noise, data.test.labels) for size in (0.0, *NOISES)]
    network, rows = recipe.build_model().eval(), []
    with torch.inference_mode(False):
        events = list(Fused(workers=1).train(range(members), recipe, data, torch.device("cpu")))
    for event in events:
        if isinstance(event, TrainedMember):
            network.load_state_dict(event.state)
            right = [network(preprocessed(inputs, data.preprocessing)).argmax(1) == labels for inputs, labels in parts]
            rows.append([float(each.double().mean()) for each in right])
    return np.array(rows)


def noise_share(data: Data, size: float) -> float:
    """Return which part of the variance of a network's input is noise, if its input has noise of a size."""
    clean = network_inputs(data.train.inputs, data.normalization)
    noise = size * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    before = preprocessed(clean, data.preprocessing).flatten(1)
    added = preprocessed(clean + noise, data.preprocessing).flatten(1) - before
    signal, noise_variance = (float(part.double().var(0).sum()) for part in (before, added))
    return noise_variance / (signal + noise_variance)


if __name__ == "__main__":
    main()
