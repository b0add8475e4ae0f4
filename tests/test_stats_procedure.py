"""Random seeds and random examples: variance components and the procedure, with a small simulation of their honesty."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import f_oneway

from seedvote import stats
from seedvote.stats.procedure import crossed_variance


def draw(seed, members=6, samples=80, classes=3):
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=samples)
    logits = generator.normal(size=(members, samples, classes)) + generator.normal(size=(samples, classes))
    logits[:, np.arange(samples), targets] += 1
    return softmax(logits, axis=2), targets


def test_components_are_those_of_the_textbook_sums_of_squares():
    correct = np.random.default_rng(0).random((5, 40)) < np.linspace(0.3, 0.9, 40)
    cells = correct.astype(float)
    rows, columns, overall = cells.mean(axis=1, keepdims=True), cells.mean(axis=0), cells.mean()
    of_seeds = 40 * np.square(rows - overall).sum() / 4
    of_examples = 5 * np.square(columns - overall).sum() / 39
    of_residual = np.square(cells - rows - columns + overall).sum() / (4 * 39)
    result = stats.variance_components(correct)
    assert result.residual == pytest.approx(of_residual, abs=1e-12)
    assert result.seed_raw == pytest.approx((of_seeds - of_residual) / 40, abs=1e-12)
    assert result.example_raw == pytest.approx((of_examples - of_residual) / 5, abs=1e-12)
    assert (result.seed, result.example) == (max(result.seed_raw, 0), max(result.example_raw, 0))
    # Without the examples' share, the mean square of the seeds is that of a one-way analysis.
    within = np.square(cells - rows).sum() / (5 * 39)
    assert f_oneway(*cells).statistic == pytest.approx(of_seeds / within)


def test_the_spread_between_seeds_is_cut_into_real_and_noise():
    generator = np.random.default_rng(1)
    correct = generator.random((8, 3000)) < np.linspace(0.85, 0.92, 8)[:, np.newaxis]
    spread = stats.seed_spread(correct)
    assert spread.observed == pytest.approx(correct.mean(axis=1).var(ddof=1))
    assert spread.real_raw + spread.noise == pytest.approx(spread.observed)
    assert spread.real**0.5 == pytest.approx(np.linspace(0.85, 0.92, 8).std(ddof=1), rel=0.3)
    assert spread.split_half == pytest.approx(spread.real_raw, rel=0.25)
    assert spread.binomial == pytest.approx(correct.mean() * (1 - correct.mean()) / 3000)
    assert spread.cochran_p < 1e-6
    assert spread == stats.seed_spread(correct)
    assert stats.seed_spread(correct, splits=0).split_half is None


def test_cochrans_q_is_that_of_statsmodels():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    correct = np.random.default_rng(2).random((4, 60)) < np.array([[0.6], [0.7], [0.75], [0.8]])
    expected = tables.cochrans_q(correct.T.astype(int)).pvalue
    assert stats.seed_spread(correct).cochran_p == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("shape", [(1, 10), (3, 1)])
def test_too_few_for_components(shape):
    correct = np.ones(shape, dtype=bool)
    assert stats.variance_components(correct).residual is None
    assert stats.seed_spread(correct).observed is None
    assert "at least two members and two samples" in stats.seed_spread(correct).reason


def test_equal_seeds_have_no_spread():
    correct = np.repeat(np.random.default_rng(3).random((1, 30)) < 0.6, 4, axis=0)
    spread = stats.seed_spread(correct)
    assert (spread.observed, spread.real, spread.noise, spread.split_half, spread.cochran_p) == (0, 0, 0, 0, 1)
    components = stats.variance_components(correct)
    assert (components.seed, components.residual) == (0, 0) and components.example > 0


def test_the_variance_of_a_mean_over_seeds_and_examples_is_the_two_way_formula():
    """For a linear statistic, the mean correctness, ``(MS_seed + MS_example - MS_residual) / (M S)`` is known."""
    correct = np.random.default_rng(4).random((6, 50)) < np.linspace(0.1, 0.9, 6)[:, np.newaxis]
    members, samples = correct.shape
    for kept in (3, 5):
        replicates = np.array([correct[list(chosen)].mean(axis=0) for chosen in combinations(range(6), kept)])
        crossed = crossed_variance(correct.mean(axis=0), replicates, members, kept)
        components = stats.variance_components(correct)
        expected = components.seed_raw / members
        assert crossed.seeds == pytest.approx(expected, rel=1e-9)
        examples = correct.mean(axis=0).var(ddof=1) / samples
        assert crossed.examples == pytest.approx(examples, rel=1e-9)
        assert crossed.total == pytest.approx(expected + examples, rel=1e-9)
        assert crossed.seed_share == pytest.approx(expected / (expected + examples))
        freedom = (expected + examples) ** 2 / (expected**2 / 5 + examples**2 / 49)
        assert crossed.degrees_of_freedom(5, 49) == pytest.approx(freedom)


def test_a_negative_variance_between_seeds_takes_a_little_and_never_all():
    # Members take turns in being right, so that every committee is as good: less than no spread between seeds.
    correct = np.arange(60) % 6 == np.arange(6)[:, np.newaxis]
    noisy = np.random.default_rng(0).random(60) < 0.5
    replicates = np.array([correct[list(chosen)].mean(axis=0) for chosen in combinations(range(6), 3)])
    crossed = crossed_variance(noisy.astype(float), replicates, 6, 3)
    assert -0.15 * crossed.examples <= crossed.seeds < 0
    assert crossed.seed_share == 0 and crossed.degrees_of_freedom(5, 59) == pytest.approx(
        (crossed.total / crossed.examples) ** 2 * 59
    )


def test_half_committees():
    np.testing.assert_array_equal(stats.half_committees(4), list(combinations(range(4), 3)))
    assert stats.half_committees(6).shape == (20, 3)
    many = stats.half_committees(30)
    assert many.shape == (200, 15) and len({tuple(row) for row in many.tolist()}) == 200
    assert (np.diff(many, axis=1) > 0).all()
    np.testing.assert_array_equal(many, stats.half_committees(30))
    assert stats.half_committees(3).shape == (0, 3)


def test_every_way_to_let_committees_vote_agrees():
    probabilities, targets = draw(5)
    halves = stats.half_committees(6)
    expected = [probabilities[row].mean(axis=0).argmax(axis=1) == targets for row in halves]
    fast = stats.soft_correct_of_each(probabilities, targets, halves)
    np.testing.assert_array_equal(fast, expected)

    def soft(members):
        return probabilities[members].mean(axis=0).argmax(axis=1) == targets

    np.testing.assert_array_equal(stats.correct_of_each(soft, halves, len(targets)), expected)
    labels = probabilities.argmax(axis=2)
    plural = stats.plurality_correct_of_each(labels, targets, halves)
    np.testing.assert_array_equal(plural, [stats.plurality_correct(labels[row], targets) for row in halves])


@pytest.mark.parametrize("members", [1, 2, 3])
def test_few_members_say_nothing_about_other_seeds(members):
    probabilities, targets = draw(6, members)
    labels = probabilities.argmax(axis=2)
    halves = stats.half_committees(members)
    votes = stats.soft_correct_of_each(probabilities, targets, halves)
    vote = probabilities.mean(axis=0).argmax(axis=1) == targets
    result = stats.procedure_difference(labels == targets, vote, halves, votes)
    assert result.p_value is None and result.interval.lower is None
    assert result.reason.startswith("at least 4 members") and result.reason == result.interval.reason
    assert result.difference == pytest.approx(vote.mean() - (labels == targets).mean())


def test_equal_members_and_perfect_members_have_no_interval():
    halves = stats.half_committees(5)
    for correct in (np.ones((5, 20), dtype=bool), np.repeat(np.arange(20)[np.newaxis] < 12, 5, axis=0)):
        result = stats.procedure_difference(correct, correct[0], halves, np.repeat(correct[:1], len(halves), axis=0))
        assert result.difference == 0 and result.p_value is None and "any spread" in result.reason


def test_a_procedure_has_an_interval_that_is_hardly_narrower_than_the_committees():
    probabilities, targets = draw(7, 10, 400)
    correct = probabilities.argmax(axis=2) == targets
    vote = probabilities.mean(axis=0).argmax(axis=1) == targets
    halves = stats.half_committees(10)
    result = stats.procedure_difference(
        correct, vote, halves, stats.soft_correct_of_each(probabilities, targets, halves)
    )
    differences = vote - correct.mean(axis=0)
    assert result.standard_error >= 0.85**0.5 * differences.std(ddof=1) / 400**0.5 - 1e-12
    assert result.interval.lower < result.difference < result.interval.upper
    assert 0 <= result.seed_share <= 1 and result.committee_size == 10
    assert (result.p_value < 0.05) == (result.interval.lower > 0)


@pytest.mark.parametrize(
    ("committees", "message"),
    [
        ([[0, 1, 2, 3], [0, 1, 2, 3]], "fewer than 4 positions"),
        ([[0, 1]], "at least two rows"),
        ([[0, 0], [1, 2]], "distinct positions in 0 .. 3"),
        ([[0, 4], [1, 2]], "distinct positions in 0 .. 3"),
    ],
)
def test_committees_that_are_none(committees, message):
    correct = np.eye(4, dtype=bool)
    with pytest.raises(ValueError, match=message):
        stats.procedure_difference(correct, correct[0], committees, np.ones((len(committees), 4)))


def test_the_procedure_is_honest_about_a_vote_that_gains_nothing():
    """A symmetric world, so that no vote can gain; scripts/simulate_statistics.py is the full simulation."""
    generator = np.random.default_rng(8)
    halves = stats.half_committees(10)
    committees = np.zeros((len(halves), 10))
    np.put_along_axis(committees, halves, 1.0, axis=1)
    covered, committee = [], []
    for _ in range(400):
        margins = generator.normal(0, 0.5, (10, 1)) + generator.normal(0, 1, 200) + generator.normal(0, 0.5, (10, 200))
        correct = margins > 0
        vote, votes = ((np.sign(shares - 0.5) + 1) / 2 for shares in (correct.mean(axis=0), committees @ correct / 5))
        covered.append(stats.procedure_difference(correct, vote, halves, votes).p_value > 0.05)
        committee.append(stats.committee_difference(correct, vote, resamples=100).p_value > 0.05)
    assert 0.92 <= np.mean(covered) <= 0.98  # four Monte-Carlo standard errors around 95 %
    assert np.mean(committee) < np.mean(covered)  # a test for these seeds says too much about others
