"""Every number of a comparison against scikit-learn, scipy, or a few lines of numpy."""

from __future__ import annotations

import dataclasses
import json
from itertools import combinations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score

from seedvote import stats, voting
from seedvote.comparison import against, plain
from studies import made_up, studied, study

MEMBERS = 5


@pytest.fixture(scope="module")
def validation():
    return made_up(MEMBERS, 150, seed=1)


@pytest.fixture(scope="module")
def test_split():
    return made_up(MEMBERS, 300, seed=2)


@pytest.fixture(scope="module", params=["soft", "majority"])
def found(request, validation, test_split):
    return studied(validation, test_split, rule=request.param)


@pytest.fixture(scope="module")
def right(test_split):
    return test_split[0].argmax(2) == test_split[1]


def test_members_are_scored_as_others_score_them(found, test_split, validation):
    for place, member in enumerate(found.members.each):
        for (logits, targets), scores in ((validation, member.validation), (test_split, member.test)):
            rows = softmax(logits[place].astype(float), axis=1)
            assert scores.accuracy == pytest.approx(accuracy_score(targets, rows.argmax(1)))
            assert scores.negative_log_likelihood == pytest.approx(log_loss(targets, rows, labels=range(4)))
            assert scores.brier == pytest.approx(np.square(rows - np.eye(4)[targets]).sum(1).mean())
        hits = binomtest(round(300 * member.test.accuracy), 300).proportion_ci(0.95, "wilson")
        assert (member.interval.lower, member.interval.upper) == pytest.approx((hits.low, hits.high))
    accuracies = [member.test.accuracy for member in found.members.each]
    summary = found.members.test.accuracy
    assert summary.mean == pytest.approx(np.mean(accuracies))
    assert summary.deviation == pytest.approx(np.std(accuracies, ddof=1))
    assert (summary.minimum, summary.maximum, summary.count) == (min(accuracies), max(accuracies), MEMBERS)


def test_the_member_is_chosen_on_validation_and_never_on_test(found, validation, test_split):
    on_validation = [accuracy_score(validation[1], member.argmax(1)) for member in validation[0]]
    on_test = [accuracy_score(test_split[1], member.argmax(1)) for member in test_split[0]]
    assert found.members.chosen == 10 + int(np.argmax(on_validation))
    best = found.members.best_on_test
    assert best.seed == 10 + int(np.argmax(on_test))
    assert best.seed != found.members.chosen  # or the fixture would show nothing
    assert best.effect.observed_excess == pytest.approx(max(on_test) - np.mean(on_test))


def test_test_labels_choose_and_fit_nothing(validation, test_split):
    before = studied(validation, test_split)
    shuffled = np.random.default_rng(0).permutation(test_split[1])
    after = studied(validation, (test_split[0], shuffled))
    assert before.members.chosen == after.members.chosen
    assert before.calibration.temperature == after.calibration.temperature
    assert before.curve_on_validation == after.curve_on_validation
    weights = [next(vote.weights for vote in each.votes if vote.rule == "weighted") for each in (before, after)]
    assert weights[0] == weights[1]
    assert after.members.test.accuracy.mean < before.members.test.accuracy.mean


def test_votes_are_scored_tested_and_corrected(found, test_split, right):
    logits, targets = test_split
    assert [vote.rule for vote in found.votes if vote.primary] == [found.plan.rule]
    assert {vote.rule for vote in found.votes} == set(voting.RULES)
    reference = right[found.members.chosen - 10]
    for vote in found.votes:
        weights = vote.weights
        labels = voting.vote(logits, vote.rule, weights=weights).labels
        hits = labels == targets
        assert vote.scores.accuracy == pytest.approx(accuracy_score(targets, labels))
        assert vote.gain.difference == pytest.approx(hits.mean() - right.mean())
        assert vote.chosen.won == (hits & ~reference).sum()
        assert vote.chosen.lost == (~hits & reference).sum()
        assert vote.chosen.p_exact == pytest.approx(
            binomtest(vote.chosen.won, vote.chosen.won + vote.chosen.lost).pvalue
        )
        assert (vote.weights is None) == (vote.rule != "weighted")
    secondary = [vote for vote in found.votes if not vote.primary]
    ordered = sorted(secondary, key=lambda vote: vote.gain.p_value)
    largest = 0.0
    for rank, vote in enumerate(ordered):
        largest = max(largest, min(1, (len(ordered) - rank) * vote.gain.p_value))
        assert vote.p_holm == pytest.approx(largest)
    assert found.primary.p_holm is None


def test_soft_probabilities_are_the_mean(validation, test_split):
    found = studied(validation, test_split)
    mean = softmax(test_split[0].astype(float), axis=2).mean(0)
    assert found.primary.scores.negative_log_likelihood == pytest.approx(log_loss(test_split[1], mean, labels=range(4)))
    assert found.calibration.before == found.primary.scores


@pytest.mark.parametrize("rule", ["soft", "majority"])
@pytest.mark.parametrize("tie", voting.TIES)
def test_committees_vote_as_the_vote_does(rule, tie):
    # Coarse logits, so that there are ties of every kind.
    generator = np.random.default_rng(3)
    logits = generator.integers(0, 3, (6, 400, 3)).astype(np.float32)
    targets = generator.integers(0, 3, 400)
    committees = np.array(list(combinations(range(6), 4)))
    probabilities = softmax(logits.astype(float), axis=2)
    plurality = rule == "majority"
    answers = stats.subsets_right(committees, probabilities, targets, plurality=plurality, tie=tie)
    for chosen, answer in zip(committees, answers, strict=True):
        vote = voting.vote(logits[chosen], rule, tie=tie)
        np.testing.assert_array_equal(answer, vote.labels == targets)
    assert rule == "soft" or vote.tied.sum() > 20


@pytest.mark.parametrize("rule", ["soft", "majority"])
def test_the_curve_is_the_mean_over_all_committees(rule, test_split, validation):
    found = studied(validation, test_split, rule=rule)
    logits, targets = test_split
    assert found.curve.sizes == (1, 2, 3, 4, 5)
    assert found.curve.exact
    for size, accuracy in zip(found.curve.sizes, found.curve.accuracy, strict=True):
        chosen = combinations(range(MEMBERS), size)
        each = [(voting.vote(logits[list(some)], rule).labels == targets).mean() for some in chosen]
        assert accuracy == pytest.approx(np.mean(each))
    assert found.curve.accuracy[-1] == pytest.approx(found.primary.scores.accuracy)
    assert found.curve.accuracy[0] == pytest.approx(found.members.test.accuracy.mean)
    good = [size for size, value in zip(found.curve.sizes, found.curve.accuracy, strict=True)
            if value >= found.curve.accuracy[-1] - 0.001]  # fmt: skip
    assert found.curve.worthwhile == good[0]


@pytest.mark.parametrize("rule", ["soft", "majority"])
def test_many_members_are_sampled_and_the_forecast_goes_on(rule):
    found = study(24, 200, rule=rule)
    assert found.curve.sizes[-1] == 24
    assert not found.curve.exact
    assert max(found.curve.committees) <= 200
    assert found.forecast.sizes == (48, 96)
    law = [found.forecast.limit - found.forecast.slope / size for size in found.forecast.sizes]
    assert found.forecast.accuracy == pytest.approx(law)
    assert found.curve.accuracy[-1] - 0.02 < found.forecast.accuracy[0] < 1
    again = study(24, 200, rule=rule)
    assert again.curve == found.curve
    assert again.forecast == found.forecast


def test_the_procedure_asks_about_the_same_difference(found):
    assert found.procedure.difference == pytest.approx(found.primary.gain.difference)
    assert found.procedure.committee_size == MEMBERS
    interval, own = found.procedure.interval, found.primary.gain.interval
    assert interval.lower < found.procedure.difference < interval.upper
    assert interval.upper - interval.lower > 0.8 * (own.upper - own.lower)


def test_beating_a_seed_is_counted(found, right):
    vote = found.primary.scores.accuracy
    accuracies = right.mean(1)
    odds = ((accuracies < vote - 1e-9).sum() + 0.5 * (abs(accuracies - vote) < 1e-9).sum()) / MEMBERS
    assert found.beats_seed.probability == pytest.approx(odds)


def test_classes_and_confusions_against_scikit_learn(found, test_split):
    logits, targets = test_split
    labels = found.decisions.vote_labels
    recall = recall_score(targets, labels, average=None)
    singles = np.mean([recall_score(targets, member.argmax(1), average=None) for member in logits], axis=0)
    for one in found.per_class:
        assert one.vote == pytest.approx(recall[one.label])
        assert one.single == pytest.approx(singles[one.label])
        assert one.difference == pytest.approx(recall[one.label] - singles[one.label])
        assert one.support == (targets == one.label).sum()
        assert one.p_value <= one.p_holm <= 1
    after = confusion_matrix(targets, labels)
    before = np.mean([confusion_matrix(targets, member.argmax(1)) for member in logits], axis=0)
    cells = {(cell.true, cell.decided): (cell.single, cell.vote) for cell in found.confusions}
    for row, column in np.ndindex(4, 4):
        if row != column and (before[row, column] or after[row, column]):
            assert cells.pop((row, column)) == pytest.approx((before[row, column], after[row, column]))
    assert not cells
    changes = [abs(cell.vote - cell.single) for cell in found.confusions]
    assert changes == sorted(changes, reverse=True)


def test_selective_prediction_counts_errors_among_the_surest(validation, test_split):
    found = studied(validation, test_split)
    logits, targets = test_split
    mean = softmax(logits.astype(float), axis=2).mean(0)
    order = np.argsort(-mean.max(1), kind="stable")
    wrong = (mean.argmax(1) != targets)[order]
    risk = np.cumsum(wrong) / np.arange(1, 301)
    (curve,) = [each for each in found.selective if each.measure == "max_probability"]
    assert curve.area == pytest.approx(risk.mean())
    assert curve.accuracy_at["80"] == pytest.approx(1 - risk[239])
    assert curve.coverage[-1] == 1
    assert curve.risk[-1] == pytest.approx(1 - found.primary.scores.accuracy)


def test_one_rule_is_primary_and_it_is_a_quick_one(validation, test_split):
    with pytest.raises(ValueError, match="vote 'borda' is not known"):
        studied(validation, test_split, rule="borda")


def test_nothing_slow_is_tried_on_a_large_comparison(monkeypatch, validation, test_split):
    monkeypatch.setattr("seedvote.comparison.compute._QUICK_ELEMENTS", 100)
    found = studied(validation, test_split)
    assert set(found.rules_left_out) == set(voting.RULES) - {vote.rule for vote in found.votes} != set()
    assert all("would take minutes" in reason for reason in found.rules_left_out.values())


def test_large_comparisons_in_float32_say_the_same(monkeypatch, validation, test_split):
    exact = studied(validation, test_split)
    monkeypatch.setattr("seedvote.comparison.compute._DOUBLE_ELEMENTS", 100)
    rough = studied(validation, test_split)
    assert rough.curve == exact.curve
    assert rough.calibration.temperature == pytest.approx(exact.calibration.temperature, rel=1e-4)


def test_a_rival_is_tested_on_the_same_samples(validation, test_split):
    ours = studied(validation, test_split)
    weaker = made_up(3, 300, seed=2, skill=0.8)
    theirs = studied(made_up(3, 150, seed=1, skill=0.8), weaker)
    found = against(ours, theirs)
    vote = ours.decisions.vote_labels == test_split[1]
    members = weaker[0].argmax(2) == test_split[1]
    assert found.against_members.difference == pytest.approx(vote.mean() - members.mean())
    assert found.against_vote.difference == pytest.approx(vote.mean() - theirs.primary.scores.accuracy)
    reference = members[theirs.members.chosen - 10]
    assert found.against_chosen.won == (vote & ~reference).sum()
    assert found.against_members.interval.lower > 0
    assert found.training_ratio["of_one_member"] == pytest.approx(15 / 2)
    assert found.training_ratio["of_the_vote"] == pytest.approx(15 / 6)
    json.dumps(plain(found), allow_nan=False)
    with pytest.raises(ValueError, match="same test samples"):
        against(ours, study(3, 200))


def no_nan(found):
    return json.dumps(plain(found), allow_nan=False)


def test_json_holds_every_field_but_the_pictures(found):
    values = json.loads(no_nan(found))
    assert set(values) == {field.name for field in dataclasses.fields(found)} - {"decisions"}
    assert values["votes"][0]["chosen"]["won_samples"] == found.primary.chosen.won_samples.tolist()
    with pytest.raises(AssertionError):
        plain(stats.Summary(float("nan"), None, 0.0, 0.0, 1))


def test_one_member():
    found = study(1)
    no_nan(found)
    assert found.primary.gain.difference == 0
    assert found.primary.scores.accuracy == found.members.test.accuracy.mean
    assert found.members.test.accuracy.deviation is None
    assert found.procedure.p_value is None
    assert "at least 4 members" in found.procedure.reason
    assert found.spread.accuracy.real is None
    assert found.diversity.disagreement is None
    assert found.forecast.accuracy is None


@pytest.mark.parametrize("rule", ["soft", "majority"])
def test_two_members(rule):
    found = study(2, rule=rule)
    no_nan(found)
    assert found.procedure.reason
    assert found.curve.sizes == (1, 2)
    assert found.forecast.reason


@pytest.mark.parametrize("rule", ["soft", "majority"])
def test_members_that_are_all_alike(rule):
    def alike(split):
        return np.repeat(split[0][:1], 5, axis=0), split[1]

    found = studied(alike(made_up(1, 90, seed=3)), alike(made_up(1, 200, seed=4)), rule=rule)
    no_nan(found)
    assert found.primary.gain.difference == 0
    assert found.primary.gain.p_value == 1
    assert found.primary.gain.interval.lower is None and found.primary.gain.interval.reason
    assert found.members.test.accuracy.deviation == 0
    assert found.procedure.reason
    assert found.diversity.disagreement == 0
    assert np.ptp(found.curve.accuracy) < 1e-12


def test_a_perfect_score():
    def perfect(samples, seed):
        logits, targets = made_up(4, samples, seed=seed, own=0.1)
        logits[:, np.arange(samples), targets] += 50
        return logits, targets

    found = studied(perfect(80, 5), perfect(120, 6))
    no_nan(found)
    assert found.members.test.accuracy.minimum == found.primary.scores.accuracy == 1
    assert found.primary.interval.upper == 1 > found.primary.interval.lower
    assert found.calibration.at_bound
    assert not found.confusions
    assert all(each.area == 0 for each in found.selective)


def test_a_class_that_test_lacks():
    logits, targets = made_up(4, 200, 5, seed=7)
    kept = targets != 3
    found = studied(made_up(4, 100, 5, seed=8), (logits[:, kept], targets[kept]))
    no_nan(found)
    missing = found.per_class[3]
    assert (missing.support, missing.single, missing.vote, missing.p_holm) == (0, None, None, None)
    assert missing.reason == "no test sample of this class"
    assert all(one.reason is None for one in found.per_class if one.label != 3)


def test_abstentions_are_wrong_and_counted():
    found = study(4, 300, rule="majority", tie="abstain", own=2.0)
    no_nan(found)
    assert found.primary.abstained == found.primary.tied > 0
    assert found.primary.abstained == (found.decisions.vote_labels == -1).sum()
