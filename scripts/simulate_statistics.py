"""Simulate correctness with a known truth and count how often the tests and intervals of seedvote.stats are right.

    OMP_NUM_THREADS=1 python scripts/simulate_statistics.py            # writes the tables of docs/statistics.md
    python scripts/simulate_statistics.py --simulations 200 --seeds 0 --print    # a quick look

The world: member m decides sample s between two classes by the sign of ``mean + a_m + b_s + e_ms``, with normal seed
effects a (deviation ``seeds``), example effects b (deviation 1; on a fraction ``easy`` of the samples everybody is
right) and noise e (deviation 0.5). Two classes are the hardest case for a vote, as even committees tie. The soft vote
averages Phi of those margins. Truth comes from Gauss-Hermite quadrature over b, not from the code under test.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import scipy
from scipy.special import log_ndtr, ndtr
from scipy.stats import binom

from seedvote import stats

PAGE = Path(__file__).resolve().parent.parent / "docs" / "statistics.md"
START, END = "<!-- simulation: start -->", "<!-- simulation: end -->"
NOISE = 0.5
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(61)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@dataclass(frozen=True)
class World:
    """One setting; ``null`` is symmetric about accuracy 1/2 on the samples that are not easy: no vote can gain."""

    name: str
    members: int = 10
    samples: int = 500
    seeds: float = 0.1
    mean: float = 0.8
    easy: float = 0.4

    def draw(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Seed effects [M] and margins [M, S]."""
        effects = generator.normal(0, self.seeds, self.members)
        examples = generator.normal(self.mean, 1, self.samples)
        examples[generator.random(self.samples) < self.easy] = 1e3
        noise = generator.normal(0, NOISE, (self.members, self.samples))
        return effects, effects[:, np.newaxis] + examples + noise


TYPICAL = World("seeds differ a little")
ALIKE = World("seeds do not differ", seeds=0.0)
MANY = World("seeds do not differ, 2000 samples", seeds=0.0, samples=2000)
APART = World("seeds differ a lot", seeds=0.5)
WILD = World("seeds differ wildly", seeds=1.0, easy=0.0)
NULL = World("no gain, seeds differ", seeds=0.2, mean=0.0, easy=0.6)
NULL_APART = World("no gain, seeds differ a lot", seeds=0.5, mean=0.0, easy=0.4)
SMALL = World("5 members", members=5, seeds=0.2)
TINY = World("4 members", members=4, seeds=0.2)


def plurality_votes(correct: np.ndarray, committees: np.ndarray) -> np.ndarray:
    """Two classes: the share of right members decides, an even split counts half; committees [R, M] of 0 and 1."""
    share = committees @ correct / committees.sum(axis=1, keepdims=True)
    return np.where(np.abs(share - 0.5) < 1e-9, 0.5, (share > 0.5).astype(float))


def soft_votes(margins: np.ndarray, committees: np.ndarray) -> np.ndarray:
    return (committees @ ndtr(margins) / committees.sum(axis=1, keepdims=True) > 0.5).astype(float)


def geometric_votes(margins: np.ndarray, committees: np.ndarray) -> np.ndarray:
    """The sum of the logits of Phi decides."""
    return (committees @ (log_ndtr(margins) - log_ndtr(-margins)) > 0).astype(float)


VOTES = {"plurality": plurality_votes, "soft": soft_votes, "geometric": geometric_votes}


def majority_gain(right: np.ndarray) -> np.ndarray:
    """P(a majority of members with these chances [M, nodes] is right), an even split half."""
    members = len(right)
    counts = np.zeros((members + 1, right.shape[1]))
    counts[0] = 1
    for chance in right:
        counts[1:] = counts[1:] * (1 - chance) + counts[:-1] * chance
        counts[0] *= 1 - chance
    tie = counts[members // 2] / 2 if members % 2 == 0 else 0.0
    return counts[members // 2 + 1 :].sum(axis=0) + tie


def committee_truth(world: World, effects: np.ndarray) -> tuple[float, np.ndarray]:
    """Gain of this committee's plurality on all examples there are, and its members' accuracies."""
    chances = ndtr((effects[:, np.newaxis] + world.mean + NODES) / NOISE)
    singles = world.easy + (1 - world.easy) * chances @ WEIGHTS
    vote = world.easy + (1 - world.easy) * float(majority_gain(chances) @ WEIGHTS)
    return vote - float(singles.mean()), singles


def procedure_truth(world: World, rule: str, members: int) -> tuple[float, float]:
    """Accuracy of fresh committees and of fresh seeds: given an example, fresh members are independent."""
    deviation = float(np.hypot(NOISE, world.seeds))
    chances = ndtr((world.mean + NODES) / deviation)
    if rule == "plurality":
        votes = (
            binom.sf(members // 2, members, chances) if members % 2 == 0 else binom.sf(members / 2, members, chances)
        )
        votes = votes + (binom.pmf(members // 2, members, chances) / 2 if members % 2 == 0 else 0)
    else:
        generator = np.random.default_rng(1)
        votes = np.empty(len(NODES))
        everyone = np.ones((1, members))
        for place, node in enumerate(world.mean + NODES):
            margins = node + generator.normal(0, deviation, (members, 100_000))
            votes[place] = VOTES[rule](margins, everyone).mean() if abs(node) < 4 else node > 0
    return tuple(world.easy + (1 - world.easy) * float(values @ WEIGHTS) for values in (votes, chances))


Rows = Iterator[tuple[str, str, float]]  # what, expected in per cent, share of simulations


def nulls_given_seeds(world: World, count: int, generator: np.random.Generator) -> Rows:
    """A rule that asks a random member each time is no better than its members, whatever the seeds."""
    sign_flip, holm = [], []
    for _ in range(count):
        _, margins = world.draw(generator)
        correct = margins > 0
        p_values = []
        for _ in range(4):
            asked = generator.integers(world.members, size=world.samples)
            vote = correct[asked, np.arange(world.samples)]
            p_values.append(stats.sign_flip(vote - correct.mean(axis=0)))
        sign_flip.append(p_values[0] <= 0.05)
        holm.append(min(stats.holm(p_values)) <= 0.05)
    yield "sign-flip test", "5", float(np.mean(sign_flip))
    yield "any of 4 sign-flip tests after Holm", "at most 5", float(np.mean(holm))


def nulls_of_equal_members(world: World, count: int, generator: np.random.Generator) -> Rows:
    """Members without seed effects are equally good: one as "the vote" against another, and Cochran's Q."""
    exact, middle, cochran = [], [], []
    for _ in range(count):
        correct = world.draw(generator)[1] > 0
        test = stats.mcnemar(correct[0], correct[1])
        exact.append(test.p_exact <= 0.05)
        middle.append(test.p_mid <= 0.05)
        cochran.append(stats.seed_spread(correct, splits=0).cochran_p <= 0.05)
    yield "McNemar, exact", "at most 5", float(np.mean(exact))
    yield "McNemar, mid-p", "5", float(np.mean(middle))
    yield "Cochran's Q", "5", float(np.mean(cochran))


def intervals_given_seeds(world: World, count: int, generator: np.random.Generator) -> Rows:
    everyone = np.ones((1, world.members))
    committee, accuracy = [], []
    for _ in range(count):
        effects, margins = world.draw(generator)
        correct = margins > 0
        truth, singles = committee_truth(world, effects)
        vote = plurality_votes(correct, everyone)[0]
        interval = stats.committee_difference(
            correct, vote, resamples=1999, seed=int(generator.integers(2**31))
        ).interval
        committee.append(interval.lower <= truth <= interval.upper)
        single = stats.wilson(int(correct[0].sum()), world.samples)
        accuracy.append(single.lower <= singles[0] <= single.upper)
    yield "interval of this committee's gain (BCa)", "95", float(np.mean(committee))
    yield "interval of an accuracy (Wilson)", "95", float(np.mean(accuracy))


def procedures(world: World, rule: str, count: int, generator: np.random.Generator) -> Rows:
    vote, single = procedure_truth(world, rule, world.members)
    halves = stats.half_committees(world.members)
    committees = np.zeros((len(halves), world.members))
    np.put_along_axis(committees, halves, 1.0, axis=1)
    everyone = np.ones((1, world.members))
    covered, rejected = [], []
    for _ in range(count):
        margins = world.draw(generator)[1]
        correct = margins > 0
        voting, given = VOTES[rule], correct if rule == "plurality" else margins
        result = stats.procedure_difference(correct, voting(given, everyone)[0], halves, voting(given, committees))
        covered.append(result.interval.lower <= vote - single <= result.interval.upper)
        rejected.append(result.p_value <= 0.05)
    yield f"interval of the procedure's gain, {rule}", "95", float(np.mean(covered))
    if world.mean == 0:
        yield f"test of the procedure's gain, {rule}", "5", float(np.mean(rejected))


def forecasts(world: World, count: int, generator: np.random.Generator) -> Rows:
    sizes = (2, 4)
    truths = [procedure_truth(world, "plurality", times * world.members)[0] for times in sizes]
    covered = []
    for _ in range(count):
        labels = (world.draw(generator)[1] > 0).astype(int)
        targets = np.ones(world.samples, dtype=int)
        curves = stats.plurality_curves_without(labels, targets)
        intervals = stats.forecast(stats.plurality_curve(labels, targets), curves).intervals
        covered.append([each.lower <= truth <= each.upper for each, truth in zip(intervals, truths, strict=True)])
    for times, share in zip(sizes, np.mean(covered, axis=0), strict=True):
        yield f"interval of the forecast for {times}M, plurality", "95", float(share)


def estimates(world: World, count: int, generator: np.random.Generator) -> list[tuple[str, float, float]]:
    """Mean of an estimate and mean of the truth, as deviations in points of accuracy."""
    spreads, halves, truths, excess, real, expected, expected_real = ([] for _ in range(7))
    for _ in range(count):
        effects, margins = world.draw(generator)
        correct = margins > 0
        singles = committee_truth(world, effects)[1]
        spread = stats.seed_spread(correct, splits=20, seed=int(generator.integers(2**31)))
        selection = stats.selection_effect(correct)
        spreads.append(spread.real_raw)
        halves.append(spread.split_half)
        truths.append(singles.var(ddof=1))
        best = int(correct.sum(axis=1).argmax())
        excess.append(selection.observed_excess)
        real.append(singles[best] - singles.mean())
        expected.append(selection.expected_excess)
        expected_real.append(selection.expected_real)
    mean = {name: float(np.mean(values)) for name, values in locals().items() if isinstance(values, list)}
    return [
        ("real deviation between seeds", 100 * max(mean["spreads"], 0) ** 0.5, 100 * mean["truths"] ** 0.5),
        ("the same from split halves", 100 * max(mean["halves"], 0) ** 0.5, 100 * mean["truths"] ** 0.5),
        ("excess of the best seed on test", 100 * mean["expected"], 100 * mean["excess"]),
        ("the part of it that is real", 100 * mean["expected_real"], 100 * mean["real"]),
    ]


def described(world: World) -> str:
    """A line of the table of worlds, in per cent and points."""
    vote, single = procedure_truth(world, "plurality", world.members)
    effects = np.random.default_rng(0).normal(0, world.seeds, 4000)
    spread = committee_truth(world, effects)[1].std() if world.seeds else 0.0
    gain = round(100 * (vote - single), 1) + 0.0  # never minus nothing
    return (
        f"| {world.name} | {world.members} | {world.samples} | {100 * single:.1f} | {100 * spread:.1f} | {gain:+.1f} |"
    )


def verdict(expected: str, share: float) -> str:
    nominal = 0.95 if expected == "95" else 0.05
    if abs(share - nominal) <= 0.01 + 1e-9:
        return "yes"
    careful = share > nominal if expected == "95" else share < nominal
    return "yes, as it must" if careful and expected == "at most 5" else "careful" if careful else "**too bold**"


Results = tuple[list[tuple[str, str, str, float]], list[tuple[str, str, float, float]]]


def one_more_rule(count: int, seed: int) -> list[tuple[str, str, str, float]]:
    """The procedure by one more rule, with random numbers of its own: what, world, and what came out."""
    work = (TYPICAL, NULL)
    found = []
    for world, stream in zip(work, np.random.SeedSequence((seed, 1)).spawn(len(work)), strict=True):
        for what, expected, share in procedures(world, "geometric", count, np.random.default_rng(stream)):
            found.append((what, world.name, expected, share))
            print(seed, *found[-1], sep=" | ", flush=True)
    return found


def simulated(count: int, seed: int) -> Results:
    """All lines of both tables with random numbers of their own: what, world, and what came out."""
    work = [
        *[(world, nulls_given_seeds, ()) for world in (TYPICAL, APART)],
        *[(world, nulls_of_equal_members, ()) for world in (ALIKE, MANY)],
        *[(world, intervals_given_seeds, ()) for world in (TYPICAL, APART)],
        *[(world, procedures, (rule,)) for rule in ("plurality", "soft")
          for world in (ALIKE, TYPICAL, APART, WILD, NULL, NULL_APART, SMALL, TINY)],
        *[(world, forecasts, ()) for world in (TYPICAL, APART, SMALL)],
    ]  # fmt: skip
    means = (TYPICAL, APART, WILD, SMALL)
    streams = np.random.SeedSequence(seed).spawn(len(work) + len(means))
    shares, estimated = [], []
    for (world, simulate, extra), stream in zip(work, streams, strict=False):
        for what, expected, share in simulate(world, *extra, count, np.random.default_rng(stream)):
            shares.append((what, world.name, expected, share))
            print(seed, *shares[-1], sep=" | ", flush=True)
    for world, stream in zip(means, streams[-len(means) :], strict=True):
        for what, estimate, truth in estimates(world, count, np.random.default_rng(stream)):
            estimated.append((what, world.name, estimate, truth))
            print(seed, *estimated[-1], sep=" | ", flush=True)
    return shares + one_more_rule(count, seed), estimated


def tables(count: int, seeds: list[int]) -> str:
    started = time.perf_counter()
    worlds = (TYPICAL, APART, ALIKE, MANY, WILD, NULL, NULL_APART, SMALL, TINY)
    found = [simulated(count, seed) for seed in seeds]
    lines = [
        "| world | M | S | accuracy of a seed, % | its deviation between seeds, points | gain of a plurality, points |",
        "|---|---|---|---|---|---|",
        *map(described, worlds),
        "",
    ]
    got = [f"seed {seed}, %" for seed in seeds]
    lines += [
        f"| test or interval | world | wanted, % | {' | '.join(got)} | ± | holds |",
        "|---" * (5 + len(got)) + "|",
    ]
    for rows in zip(*(shares for shares, _ in found), strict=True):
        what, world, expected, _ = rows[0]
        share = float(np.mean([row[3] for row in rows]))
        error = 100 * (max(share * (1 - share), 1 / count) / count) ** 0.5
        each = " | ".join(f"{100 * row[3]:.1f}" for row in rows)
        lines.append(f"| {what} | {world} | {expected} | {each} | {error:.1f} | {verdict(expected, share)} |")
    lines += ["", "| mean estimate, points of accuracy | world | estimate | truth |", "|---|---|---|---|"]
    for rows in zip(*(estimated for _, estimated in found), strict=True):
        what, world, _, _ = rows[0]
        estimate, truth = np.mean([row[2:] for row in rows], axis=0)
        lines.append(f"| {what} | {world} | {estimate:.2f} | {truth:.2f} |")
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    note = (
        f"n = {count} simulations for each line and seed, {date.today()}, {versions}, "
        f"{time.perf_counter() - started:.0f} s on one core. ± is the Monte-Carlo standard error of one seed's number; "
        "`holds` is about the mean."
    )
    return "\n".join([note, "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--print", action="store_true", help="only print; leave docs/statistics.md alone")
    options = parser.parse_args()
    written = tables(options.simulations, options.seeds)
    if not options.print:
        before, _, rest = PAGE.read_text().partition(START)
        PAGE.write_text(f"{before}{START}\n{written}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
