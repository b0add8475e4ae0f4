"""Time the training of ten members: each engine against the plain PyTorch loop, side by side and interleaved.

    python scripts/benchmark_engines.py mlp                       # the default recipe on digits
    python scripts/benchmark_engines.py lenet --root DIR --limit 16384 --epochs 1

Each contestant trains the same members for the same epochs with the same recipe, in a process of its own, from
data in memory to trained members; starting workers counts, importing torch in the first process does not. Prints a
Markdown table of medians and ratios. The plain loop is what PyTorch's own tutorial teaches: a DataLoader that shuffles,
torch's default number of threads, one member after another.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

CONTESTANTS = ("plain loop", "plain loop, one thread", "sequential", "process", "fused", "auto")


def main() -> None:
    """Run every contestant so many times and print the table; or be one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("mlp", "lenet", "resnet"))
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--limit", type=int, default=None, help="training samples")
    parser.add_argument("--root", default="data", help="where MNIST or CIFAR-10 lies")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=CONTESTANTS, help="run this contestant once and print its seconds")
    options = parser.parse_args()
    if options.only:
        print(seconds_of(options))
        return
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(options.repeats):
        for name in CONTESTANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            times[name].append(float(found.stdout.split()[-1]))
            print(f"{name}: {times[name][-1]:.1f} s", file=sys.stderr)
    print_table(options, times)


def print_table(options: argparse.Namespace, times: dict[str, list[float]]) -> None:
    """Print medians with their range and how many times quicker each is than the plain loop."""
    import torch

    setting = ", ".join(f"{key}={value}" for key, value in vars(options).items() if key not in ("root", "only"))
    print(f"{setting}; {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}\n")
    print("| contestant | seconds, median (range) | times as quick as the plain loop |\n|---|---|---|")
    plain = statistics.median(times["plain loop"])
    for name, measured in times.items():
        median = statistics.median(measured)
        print(f"| {name} | {median:.1f} ({min(measured):.1f} to {max(measured):.1f}) | {plain / median:.2f} |")


def seconds_of(options: argparse.Namespace) -> float:
    """Train all members as one contestant does it and return the wall time."""
    import torch

    from seedvote.engines.auto import Auto
    from seedvote.engines.fused import Fused
    from seedvote.engines.process import Process
    from seedvote.engines.sequential import Sequential
    from seedvote.types import TrainedMember

    recipe, data = prepared(options)
    seeds = list(range(options.members))
    if options.only.startswith("plain"):
        if options.only.endswith("one thread"):
            torch.set_num_threads(1)
        started = time.perf_counter()
        for seed in seeds:
            plain_loop(seed, recipe, data)
        return time.perf_counter() - started
    torch.set_num_threads(1)
    engine = {"sequential": Sequential, "process": Process, "fused": Fused, "auto": Auto}[options.only]()
    started = time.perf_counter()
    members = [
        event for event in engine.train(seeds, recipe, data, torch.device("cpu")) if isinstance(event, TrainedMember)
    ]
    seconds = time.perf_counter() - started
    assert len(members) == len(seeds)
    return seconds


def prepared(options: argparse.Namespace) -> tuple[Any, Any]:
    """Compose the shipped recipe for a model and its data set."""
    import dataclasses

    import hydra
    from hydra.core.config_store import ConfigStore

    from seedvote.assembly import build_recipe, load_data
    from seedvote.config import CONF_DIR, checked, location_of, recipe_of
    from seedvote.schemas import TrainConfig
    from seedvote.types import Split

    data_set = {"mlp": "digits", "lenet": "mnist", "resnet": "cifar10"}[options.model]
    overrides = [f"data={data_set}", f"model={options.model}", "augment=none"]
    overrides += [] if data_set == "digits" else [f"data.root={options.root}"]
    overrides += ["model.depth=8"] if options.model == "resnet" else []
    overrides += [] if options.epochs is None else [f"epochs={options.epochs}"]
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with hydra.initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        config = checked(hydra.compose("train", overrides), TrainConfig)
    data = load_data(recipe_of(config), location_of(config))
    if options.limit:
        train = Split(data.train.inputs[: options.limit], data.train.labels[: options.limit])
        data = dataclasses.replace(data, train=train)
    return build_recipe(recipe_of(config), data), data


def plain_loop(seed: int, recipe: Any, data: Any) -> Any:
    """Train one member the way PyTorch's tutorial does."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from seedvote.data import normalized
    from seedvote.optimization import parameter_groups

    torch.manual_seed(seed)
    model = recipe.build_model()
    optimizer = recipe.build_optimizer(parameter_groups(model.parameters(), recipe.decay_all))
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    train, validation = (
        DataLoader(
            TensorDataset(normalized(split.inputs, data.normalization), split.labels),
            batch_size=recipe.batch_size,
            shuffle=shuffle,
        )
        for split, shuffle in ((data.train, True), (data.validation, False))
    )
    scheduler = recipe.build_scheduler(optimizer, recipe.epochs * len(train))
    for _ in range(recipe.epochs):
        model.train()
        for inputs, labels in train:
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            for inputs, labels in validation:
                (model(inputs).argmax(1) == labels).sum().item()
    return model


if __name__ == "__main__":
    main()
