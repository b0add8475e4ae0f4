"""``python -m seedvote.predict``: let the members of a run vote, and set single seeds beside the vote."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedvote.command import check_vote_names, run_command
from seedvote.schemas import PredictConfig

# What imports torch is imported when it is needed, so that help and wrong command lines answer at once.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from seedvote.inference import Ensemble
    from seedvote.types import Data
    from seedvote.voting import Vote


def predict(config: PredictConfig) -> int:
    """Predict the test split, or new inputs; return the exit status."""
    check_vote_names(config.vote, config.tie, config.on_bad_member)
    import torch

    from seedvote.inference import load
    from seedvote.matmul import choose_matmul
    from seedvote.store import find_run

    if config.threads:
        torch.set_num_threads(config.threads)
    choose_matmul(config.matmul)
    run = find_run(Path(config.checkpoints), config.run)
    ensemble = load(
        run.path,
        device=config.device,
        on_bad_member=config.on_bad_member,
        trust=config.trust,
        fold_batchnorm=config.fold_batchnorm,
    )
    if config.images is not None or config.arrays is not None:
        return _predict_new(ensemble, config)
    return _predict_test(ensemble, config)


def _predict_test(ensemble: Ensemble, config: PredictConfig) -> int:
    from seedvote.assembly import stored_data
    from seedvote.logits import split_logits

    data = stored_data(ensemble.run, vars(config.data), config.trust)
    targets = data.test.labels.numpy()
    ensemble = _with_head(ensemble, config, data)
    logits = split_logits(ensemble, data.test, "test").logits
    ensemble, logits, votes = _votes(ensemble, logits, config, data)
    _introduce(ensemble, f"{data.name}: test split, {len(targets)} samples")
    _compare(ensemble, logits, votes, targets)
    _write(ensemble, logits, votes[config.vote], config, "predictions", targets=targets)
    return 1 if ensemble.dropped else 0


def _predict_new(ensemble: Ensemble, config: PredictConfig) -> int:
    import torch

    from seedvote.assembly import stored_data
    from seedvote.data import read_arrays, read_image_folder

    record = ensemble.run.record
    shape = tuple(record.input_shape)
    targets, files = None, None
    unreadable: list[str] = []
    if config.images is not None:
        place = Path(config.images)
        if record.input_dtype != "uint8":
            raise ValueError(
                f"run {ensemble.run.name!r} was trained on {record.input_dtype} arrays, not on pictures: use arrays="
            )
        inputs, files, unreadable = read_image_folder(config.images, shape)
    else:
        assert config.arrays is not None
        place = Path(config.arrays)
        inputs, labels = read_arrays(config.arrays, shape, getattr(torch, record.input_dtype))
        targets = None if labels is None else labels.numpy()
    if targets is not None and targets.max() >= len(ensemble.classes):
        raise ValueError(
            f"{place} has the label {targets.max()}, but run {ensemble.run.name!r} knows the classes "
            f"0 .. {len(ensemble.classes) - 1}"
        )
    needed = config.vote == "weighted" or config.head == "knn"
    data = stored_data(ensemble.run, vars(config.data), config.trust) if needed else None
    ensemble = _with_head(ensemble, config, data)
    ensemble, logits, votes = _votes(ensemble, ensemble.predict_logits(inputs), config, data)
    _introduce(ensemble, f"{place}: {len(inputs)} samples")
    if targets is not None:
        _compare(ensemble, logits, votes, targets)
    else:
        _count(ensemble, votes[config.vote])
    stem = f"predictions-{place.resolve().stem}"
    _write(ensemble, logits, votes[config.vote], config, stem, targets=targets, files=files)
    if unreadable:
        print(f"warning: {len(unreadable)} files were left out", *unreadable, sep="\n  ", file=sys.stderr)
    return 1 if unreadable or ensemble.dropped else 0


def _with_head(ensemble: Ensemble, config: PredictConfig, data: Data | None) -> Ensemble:
    if config.head == "softmax":
        return ensemble
    assert data is not None
    return ensemble.with_neighbors(data.train, data.validation)


def _votes(
    ensemble: Ensemble, logits: npt.NDArray[np.float32], config: PredictConfig, data: Data | None
) -> tuple[Ensemble, npt.NDArray[np.float32], dict[str, Vote]]:
    """Vote by majority, softly and by the rule that was asked for; members that cannot vote are left out first."""
    from seedvote import voting
    from seedvote.logits import split_logits

    def cast(rule: str, weights: Any = None) -> Vote:
        return voting.vote(
            logits,
            rule,
            tie=config.tie,
            weights=weights,
            seeds=ensemble.seeds,
            on_bad_member=config.on_bad_member,
        )

    usable = cast("majority").members
    if len(usable) < len(logits):
        ensemble, logits = ensemble.only(usable, "its logits are not finite"), logits[list(usable)]
    votes = {rule: cast(rule) for rule in dict.fromkeys(("majority", "soft", config.vote)) if rule != "weighted"}
    if config.vote == "weighted":
        assert data is not None
        validation = split_logits(ensemble, data.validation, "validation").logits
        votes["weighted"] = cast("weighted", voting.stacking_weights(validation, data.validation.labels.numpy()))
    return ensemble, logits, votes


def _introduce(ensemble: Ensemble, what: str) -> None:
    from seedvote.errors import listed
    from seedvote.report import SAMPLE

    run = ensemble.run
    print(f"run        {run.path}{'   ' + SAMPLE if run.record.sample else ''}")
    print(f"members    {len(ensemble.members)}: seeds {listed(ensemble.seeds)}")
    for seed, reason in ensemble.dropped.items():
        print(f"dropped    seed {seed}: {reason}")
    print(f"inputs     {what}\n")


def _compare(
    ensemble: Ensemble,
    logits: npt.NDArray[np.float32],
    votes: dict[str, Vote],
    targets: npt.NDArray[np.int64],
) -> None:
    from seedvote.report import SAMPLE, comparison_table

    print(comparison_table(ensemble.members, logits, votes, targets))
    if ensemble.run.record.sample:
        print(SAMPLE)


def _count(ensemble: Ensemble, vote: Vote) -> None:
    from seedvote.report import table
    from seedvote.voting import ABSTAINED

    counts = [(name, int((vote.labels == label).sum())) for label, name in enumerate(ensemble.classes)]
    counts.append(("abstained", int((vote.labels == ABSTAINED).sum())))
    print(table(["predicted", "samples"], [[name, str(count)] for name, count in counts if count]))


def _write(
    ensemble: Ensemble,
    logits: npt.NDArray[np.float32],
    vote: Vote,
    config: PredictConfig,
    stem: str,
    **known: Any,
) -> None:
    from seedvote.metrics import member_labels
    from seedvote.predictions import Prediction, write_csv, write_npz

    directory = Path(config.output) if config.output is not None else ensemble.run.path
    directory.mkdir(parents=True, exist_ok=True)
    prediction = Prediction(vote, member_labels(logits), ensemble.seeds, ensemble.classes, **known)
    write_csv(directory / f"{stem}.csv", prediction)
    write_npz(directory / f"{stem}.npz", prediction)
    print(f"\nwritten    {directory / stem}.csv and .npz ({config.vote} vote)")


def main() -> None:
    """Run the command."""
    run_command("predict", PredictConfig, predict)


if __name__ == "__main__":
    main()
