"""Every number of a comparison against scikit-learn, scipy, or a few lines of numpy."""

from __future__ import annotations

import dataclasses
import json
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest, entropy
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score

from seedvote import stats, voting
from seedvote.comparison import Plan, against, plain, rules, weights
from seedvote.comparison.alone import alone
from studies import made_up, studied, study

MEMBERS = 5


@pytest.fixture(scope="module")
def validation():
    return made_up(MEMBERS, 150, seed=1)


@pytest.fixture(scope="module")
def test_split():
    return made_up(MEMBERS, 300, seed=2)


@pytest.fixture(scope="module", params=["soft", "majority", "median", "weighted"])
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
    assert dataclasses.astuple(found.calibration.before) == dataclasses.astuple(found.primary.scores)[:4]


OTHERS = [rule for rule in voting.RULES if rule not in ("soft", "majority")]


@pytest.mark.parametrize("rule", ["majority", "borda"])
def test_counts_of_votes_are_no_probabilities(rule, validation, test_split):
    found = studied(validation, test_split, rule=rule)
    scores = found.primary.scores
    assert (scores.negative_log_likelihood, scores.brier, scores.expected_calibration_error) == (None,) * 3
    assert f"{rule} counts" in scores.reason
    assert (found.calibration.rule, found.calibration.temperature) == (rule, None)
    assert found.calibration.reason == scores.reason
    assert {each.measure for each in found.selective} == {"negative_mutual_information", "agreement"}
    assert found.measures_left_out == dict.fromkeys(("max_probability", "negative_entropy"), scores.reason)
    shares = np.stack([test_split[0].argmax(2) == label for label in range(4)]).mean(1)
    if rule == "majority":  # the surest are those whose votes agree most, and the errors are the majority's
        right = found.decisions.vote_labels == test_split[1]
        (curve,) = [each for each in found.selective if each.measure == "agreement"]
        levels = shares.max(0)
        covered = levels >= levels[levels > 0.7].min()
        place = np.searchsorted(curve.coverage, covered.mean())
        assert curve.coverage[place] == pytest.approx(covered.mean(), abs=0.01)
        assert curve.risk[place] == pytest.approx(1 - right[covered].mean(), abs=0.01)


@pytest.mark.parametrize("rule", ["geometric", "median", "trimmed_mean", "weighted"])
def test_calibration_and_sureness_are_the_primary_rules_own(rule, validation, test_split):
    found = studied(validation, test_split, rule=rule)
    own, test = (
        voting.vote(split[0], rule, weights=found.primary.weights).probabilities for split in (validation, test_split)
    )

    def loss(temperature, rows, targets):
        return log_loss(targets, softmax(np.log(np.maximum(rows, 2.3e-16)) / temperature, axis=1), labels=range(4))

    best = minimize_scalar(lambda t: loss(t, own, validation[1]), bounds=(0.05, 20), method="bounded").x
    assert found.calibration.rule == rule
    assert found.calibration.temperature == pytest.approx(best, rel=1e-3)
    assert found.calibration.after.negative_log_likelihood == pytest.approx(loss(best, test, test_split[1]), rel=1e-4)
    wrong = found.decisions.vote_labels != test_split[1]
    for measure, sureness in (("max_probability", test.max(1)), ("negative_entropy", -entropy(test, axis=1))):
        (curve,) = [each for each in found.selective if each.measure == measure]
        order = np.argsort(-sureness, kind="stable")
        assert curve.rule == rule
        assert curve.area == pytest.approx((np.cumsum(wrong[order]) / np.arange(1, 301)).mean(), rel=1e-6)


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


@pytest.mark.parametrize("rule", OTHERS)
@pytest.mark.parametrize("tie", voting.TIES)
def test_committees_by_any_other_rule_vote_as_the_vote_does(rule, tie):
    generator = np.random.default_rng(3)
    logits = generator.integers(0, 3, (6, 400, 3)).astype(np.float32)
    targets = generator.integers(0, 3, 400)
    split = alone(logits, targets)
    plan = Plan(rule, tie)
    whole = voting.stacking_weights(logits, targets) if rule == "weighted" else None
    weigh = rules.weighing(split, whole)
    found = rules.committees(plan, split, weigh)
    assert len(found.halves) == 20
    for chosen, answer in zip(found.halves, found.halves_right, strict=True):
        vote = voting.vote(logits[chosen], rule, tie=tie, weights=None if whole is None else weigh(chosen))
        np.testing.assert_array_equal(answer, vote.labels == targets)
    assert found.curve.accuracy[-1] == (voting.vote(logits, rule, tie=tie, weights=whole).labels == targets).mean()


@pytest.mark.parametrize("members", [2, 5])
def test_weights_of_a_committee_are_the_votes_to_within_their_bound(members, validation):
    split = alone(*validation)
    logits = validation[0][:members]
    exact = voting.stacking_weights(logits, validation[1])
    found = weights.stacked_weights(split, np.ones(MEMBERS))(np.arange(members)) if members < MEMBERS else None
    if found is None:
        probabilities = softmax(logits.astype(float), axis=2)[:, np.arange(150), validation[1]]
        found = weights.likeliest_weights(np.log(probabilities))
    assert found.sum() == pytest.approx(1) and found.min() >= 0
    losses = [
        -np.log(each / each.sum() @ softmax(logits.astype(float), axis=2)[:, np.arange(150), validation[1]]).mean()
        for each in (found, exact)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert np.abs(found - exact / exact.sum()).max() < 0.02


def test_weights_that_do_not_converge_are_fitted_the_slow_way(monkeypatch, validation):
    probabilities = softmax(validation[0].astype(float), axis=2)[:, np.arange(150), validation[1]]
    monkeypatch.setattr(weights, "_ITERATIONS", 1)
    expected = voting.likeliest_mixture(np.log(probabilities))
    np.testing.assert_array_equal(weights.likeliest_weights(np.log(probabilities)), expected)
    nobody = np.full((3, 4), -np.inf)
    np.testing.assert_allclose(weights.likeliest_weights(nobody), 1 / 3)


def test_fewer_committees_are_asked_where_they_take_long(monkeypatch):
    full = study(10, 100, rule="median")
    monkeypatch.setattr(rules, "_AFFORDABLE", 1)
    few = study(10, 100, rule="median")
    assert max(full.curve.committees) == 200
    assert max(few.curve.committees) == 10
    assert few.curve.accuracy[-1] == full.curve.accuracy[-1] == few.primary.scores.accuracy
    assert few.procedure.interval.lower < few.procedure.difference < few.procedure.interval.upper
    no_nan(few)


def test_the_exact_curve_of_a_plurality_splits_ties(validation, test_split):
    found = studied(validation, test_split).curve_plurality
    labels, targets = test_split[0].argmax(2), test_split[1]
    for size, accuracy in zip(found.sizes, found.accuracy, strict=True):
        hits = []
        for some in combinations(range(MEMBERS), size):
            counts = np.stack([(labels[list(some)] == label).sum(0) for label in range(4)])
            top = counts == counts.max(0)
            hits.append((top[targets, np.arange(300)] / top.sum(0)).mean())
        assert accuracy == pytest.approx(np.mean(hits), abs=1e-12)


@pytest.mark.parametrize("rule", ["soft", "majority", "median", "geometric", "borda", "trimmed_mean"])
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


def test_the_primary_rule_is_one_of_the_rules(validation, test_split):
    with pytest.raises(ValueError, match="vote 'boarda' is not known: did you mean 'borda'"):
        studied(validation, test_split, rule="boarda")


def test_nothing_slow_is_tried_on_a_large_comparison(monkeypatch, validation, test_split):
    monkeypatch.setattr("seedvote.comparison.compute._QUICK_ELEMENTS", 100)
    found = studied(validation, test_split)
    assert set(found.rules_left_out) == set(voting.RULES) - {vote.rule for vote in found.votes} != set()
    assert all("would take minutes" in reason for reason in found.rules_left_out.values())
    named = studied(validation, test_split, rule="median")
    assert named.primary.rule == "median"
    assert "median" not in named.rules_left_out


def test_large_comparisons_in_float32_say_the_same(monkeypatch, validation, test_split):
    exact = studied(validation, test_split)
    monkeypatch.setattr("seedvote.comparison.alone._DOUBLE_ELEMENTS", 100)
    rough = studied(validation, test_split)
    assert rough.curve == exact.curve
    assert rough.calibration.temperature == pytest.approx(exact.calibration.temperature, rel=1e-4)


def test_a_rival_is_tested_on_the_same_samples(validation, test_split):
    ours = studied(validation, test_split)
    weaker = made_up(3, 300, seed=2, skill=0.8)
    theirs = studied(made_up(3, 150, seed=1, skill=0.8), weaker)
    found = against(ours, theirs, [("a", 3), ("a", 4), ("b", 3)])
    vote = ours.decisions.vote_labels == test_split[1]
    members = weaker[0].argmax(2) == test_split[1]
    assert found.against_members.difference == pytest.approx(vote.mean() - members.mean())
    assert found.against_vote.difference == pytest.approx(vote.mean() - theirs.primary.scores.accuracy)
    place = theirs.members.chosen - 10
    reference = members[place]
    assert found.runs == ("a", "b")
    assert (found.chosen_run, found.chosen) == [("a", 3), ("a", 4), ("b", 3)][place]
    assert found.against_chosen.won == (vote & ~reference).sum()
    assert found.against_members.interval.lower > 0
    assert found.training_ratio["of_one_member"] == pytest.approx(15 / 2)
    assert found.training_ratio["of_the_vote"] == pytest.approx(15 / 6)
    json.dumps(plain(found), allow_nan=False)
    with pytest.raises(ValueError, match="same test samples"):
        against(ours, study(3, 200), [("a", 0)] * 3)


def no_nan(found):
    return json.dumps(plain(found), allow_nan=False)


def test_json_holds_every_field_but_the_pictures(found):
    values = json.loads(no_nan(found))
    assert set(values) == {field.name for field in dataclasses.fields(found)} - {"decisions"}
    assert values["votes"][0]["chosen"]["won_samples"] == found.primary.chosen.won_samples.tolist()
    with pytest.raises(AssertionError):
        plain(stats.Summary(float("nan"), None, 0.0, 0.0, 1))


@pytest.mark.parametrize("rule", voting.RULES)
def test_one_member(rule):
    found = study(1, rule=rule)
    no_nan(found)
    assert found.primary.gain.difference == 0
    assert found.primary.scores.accuracy == found.members.test.accuracy.mean
    assert found.members.test.accuracy.deviation is None
    assert found.procedure.p_value is None
    assert "at least 4 members" in found.procedure.reason
    assert found.spread.accuracy.real is None
    assert found.diversity.disagreement is None
    assert found.forecast.accuracy is None
    none = "one member has nobody to agree with"
    assert found.measures_left_out["agreement"] == found.measures_left_out["negative_mutual_information"] == none
    assert len(found.selective) + len(found.measures_left_out) == 4


@pytest.mark.parametrize("rule", voting.RULES)
def test_two_members(rule):
    found = study(2, rule=rule)
    no_nan(found)
    assert found.procedure.reason
    assert found.curve.sizes == (1, 2)
    assert found.forecast.reason


@pytest.mark.parametrize("rule", voting.RULES)
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


@pytest.mark.parametrize("rule", voting.RULES)
def test_a_perfect_score(rule):
    def perfect(samples, seed):
        logits, targets = made_up(4, samples, seed=seed, own=0.1)
        logits[:, np.arange(samples), targets] += 50
        return logits, targets

    found = studied(perfect(80, 5), perfect(120, 6), rule=rule)
    no_nan(found)
    assert found.members.test.accuracy.minimum == found.primary.scores.accuracy == 1
    assert found.primary.interval.upper == 1 > found.primary.interval.lower
    assert found.calibration.at_bound or rule in ("majority", "borda")
    assert not found.confusions
    assert all(each.area == 0 for each in found.selective)


@pytest.mark.parametrize("rule", voting.RULES)
def test_a_class_that_test_lacks(rule):
    logits, targets = made_up(4, 200, 5, seed=7)
    kept = targets != 3
    found = studied(made_up(4, 100, 5, seed=8), (logits[:, kept], targets[kept]), rule=rule)
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
