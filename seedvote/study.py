"""Stored runs with their data and logits, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seedvote import voting
from seedvote.assembly import stored_data
from seedvote.comparison import Comparison, Cost, Plan, compare
from seedvote.inference import Ensemble, load
from seedvote.logits import SplitLogits, split_logits
from seedvote.stats import summarize
from seedvote.store import MemberRecord, Run
from seedvote.types import Data


@dataclass(frozen=True)
class Settings:
    """How runs are loaded and compared.

    plan: what is fixed before test data is read. location: keys of the data's location that are other today. seeds:
    of the members to take, ``None`` for all. head: what they answer with, ``softmax`` or ``knn``. The rest as in
    ``seedvote.load``.
    """

    plan: Plan
    device: str
    on_bad_member: str
    trust: bool
    location: Mapping[str, str | None]
    seeds: Sequence[int] | None = None
    head: str = "softmax"


@dataclass(frozen=True, eq=False)
class Study:
    """A run with its data, the members that could vote, and their comparison.

    A rival may be several runs, whose members then vote as one committee: ensembles has them all.
    """

    ensembles: tuple[Ensemble, ...]
    data: Data
    comparison: Comparison

    @property
    def run(self) -> Run:
        """The run, or the first of several."""
        return self.ensembles[0].run

    @property
    def name(self) -> str:
        """What the run is called, or the runs."""
        return " + ".join(ensemble.run.name for ensemble in self.ensembles)

    @property
    def members(self) -> list[tuple[str, int]]:
        """Run and seed of each member."""
        return [(ensemble.run.name, seed) for ensemble in self.ensembles for seed in ensemble.seeds]

    @property
    def dropped(self) -> dict[str, str]:
        """Members that were left out, and why: by seed, and where there are several runs by run and seed."""
        several = len(self.ensembles) > 1
        return {
            f"{seed} of {ensemble.run.name}" if several else str(seed): reason
            for ensemble in self.ensembles
            for seed, reason in ensemble.dropped.items()
        }


@dataclass(frozen=True, eq=False)
class _Asked:
    """The members of a run and what they said about both splits."""

    ensemble: Ensemble
    data: Data
    validation: SplitLogits
    test: SplitLogits


def study(runs: Sequence[Run], settings: Settings) -> Study:
    """Get the logits of validation and test, from the cache where it has them, and compare.

    runs: one, or several on the same data whose members vote as one committee, in which they are numbered from 0.

    Raises:
        ValueError: a run cannot be loaded, or has no member that can vote.
    """
    asked = [_ask(run, settings) for run in runs]
    data, members = asked[0].data, [member for each in asked for member in each.ensemble.members]
    seeds = asked[0].ensemble.seeds if len(asked) == 1 else tuple(range(len(members)))
    comparison = compare(
        (_together([each.validation for each in asked]), data.validation.labels.numpy()),
        (_together([each.test for each in asked]), data.test.labels.numpy()),
        seeds=seeds,
        classes=asked[0].ensemble.classes,
        cost=_cost(members, [each.test for each in asked], len(data.test)),
        plan=settings.plan,
    )
    return Study(tuple(each.ensemble for each in asked), data, comparison)


def _ask(run: Run, settings: Settings) -> _Asked:
    bad = settings.on_bad_member
    ensemble = load(run.path, device=settings.device, on_bad_member=bad, trust=settings.trust, seeds=settings.seeds)
    data = stored_data(run, settings.location, settings.trust)
    if settings.head == "knn":
        ensemble = ensemble.with_neighbors(data.train, data.validation)
    validation = split_logits(ensemble, data.validation, "validation")
    test = split_logits(ensemble, data.test, "test")
    votes = [
        voting.vote(part.logits, "majority", seeds=ensemble.seeds, on_bad_member=bad) for part in (validation, test)
    ]
    usable = sorted({*votes[0].members} & {*votes[1].members})
    if not usable:
        raise ValueError(
            f"run {run.name!r} has no member whose logits are finite on validation and test: train it again"
        )
    if len(usable) < len(ensemble.seeds):
        ensemble = ensemble.only(usable, "its logits are not finite")
        validation, test = _only(validation, usable), _only(test, usable)
    return _Asked(ensemble, data, validation, test)


def _only(said: SplitLogits, places: Sequence[int]) -> SplitLogits:
    seconds, devices = [said.seconds[place] for place in places], [said.devices[place] for place in places]
    return SplitLogits(said.logits[list(places)], tuple(seconds), tuple(devices), said.computed)


def _together(parts: Sequence[SplitLogits]) -> npt.NDArray[np.float32]:
    return parts[0].logits if len(parts) == 1 else np.concatenate([part.logits for part in parts])


def _cost(members: Sequence[MemberRecord], said: Sequence[SplitLogits], samples: int) -> Cost:
    training = [member.seconds for member in members]
    inference = [seconds for part in said for seconds in part.seconds]
    return Cost(
        summarize(training),
        sum(training),
        summarize(inference),
        sum(inference),
        samples,
        tuple(sorted({member.engine for member in members})),
        tuple(sorted({member.device for member in members})),
        tuple(sorted({device for part in said for device in part.devices})),
    )
