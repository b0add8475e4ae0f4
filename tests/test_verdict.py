"""A difference is called a gain only if it is one, in words that say how sure that is."""

from __future__ import annotations

import dataclasses

import pytest

from seedvote.comparison import against
from seedvote.stats import Interval
from seedvote.verdict import duration, interval_text, p_text, rival_sentences, signed, verdict
from studies import made_up, studied, study


@pytest.fixture(scope="module")
def clear():
    """Members that gain much from each other."""
    return study(8, 400, own=1.5)


def with_gain(comparison, **changes):
    gain = dataclasses.replace(comparison.primary.gain, **changes)
    votes = (dataclasses.replace(comparison.primary, gain=gain), *comparison.votes[1:])
    return dataclasses.replace(comparison, votes=votes)


def test_a_gain_is_stated_with_its_interval_and_p_value(clear):
    found = verdict(clear)
    gain = clear.primary.gain
    assert found.committee == "gain"
    assert found.headline == (
        f"The soft vote of 8 beats a single seed by {100 * gain.difference:.2f} points (95 % interval "
        f"+{100 * gain.interval.lower:.2f} to +{100 * gain.interval.upper:.2f}, p < 0.001) on these 400 test samples: "
        f"{100 * clear.primary.scores.accuracy:.2f} % against {100 * clear.members.test.accuracy.mean:.2f} % for the "
        "mean seed."
    )
    assert found.procedure == "gain"
    assert found.fresh.startswith("A fresh committee of 8 can be expected to beat a fresh seed too: +")
    assert "How many seeds are worth it: " in found.how_many
    assert "16 are forecast to reach" in found.how_many


@pytest.mark.parametrize(
    ("difference", "lower", "upper", "p_value", "outcome"),
    [
        (0.01, -0.001, 0.02, 0.01, "no gain"),  # the interval holds 0
        (0.01, 0.001, 0.02, 0.06, "no gain"),  # the p-value is too large
        (0.01, 0.001, 0.02, 0.05, "no gain"),
        (0.01, 0.001, 0.02, 0.049, "gain"),
        (-0.01, -0.02, -0.001, 0.01, "loss"),
        (-0.01, -0.02, 0.001, 0.01, "no gain"),
    ],
)
def test_both_the_interval_and_the_p_value_must_say_so(clear, difference, lower, upper, p_value, outcome):
    interval = Interval(lower, upper, 0.95)
    found = verdict(with_gain(clear, difference=difference, interval=interval, p_value=p_value))
    assert found.committee == outcome
    assert found.headline.startswith("No gain: ") == (outcome == "no gain")
    assert ("loses to a single seed by 1.00 points" in found.headline) == (outcome == "loss")
    assert ("How many seeds are worth it: one, as no gain" in found.how_many) == (outcome != "gain")


def test_a_gain_of_this_committee_may_say_nothing_about_a_fresh_one(clear):
    unsure = dataclasses.replace(clear.procedure, interval=Interval(-0.01, 0.05, 0.95), p_value=0.2)
    found = verdict(dataclasses.replace(clear, procedure=unsure))
    assert (found.committee, found.procedure) == ("gain", "no gain")
    assert found.fresh.startswith("But with other seeds it may come out otherwise")
    assert "does not settle it" in found.fresh


def test_few_seeds_that_differ_much_make_an_interval_rough(clear):
    assert "rough" not in verdict(clear).fresh
    by_seeds = dataclasses.replace(clear.procedure, seed_share=0.75)
    for procedure in (by_seeds, dataclasses.replace(by_seeds, interval=Interval(-0.01, 0.05, 0.95), p_value=0.2)):
        found = verdict(dataclasses.replace(clear, procedure=procedure)).fresh
        assert found.endswith(
            "75 % of that variance is other seeds, which 8 are few to judge by: take the interval as rough."
        )
    many = dataclasses.replace(by_seeds, committee_size=30)
    assert "rough" not in verdict(dataclasses.replace(clear, procedure=many)).fresh


def test_the_member_chosen_on_validation_is_named(clear):
    chosen = clear.primary.chosen
    found = verdict(clear).chosen
    assert found.startswith(f"Against seed {clear.members.chosen}, the best on validation (")
    assert f"wins {chosen.won} and loses {chosen.lost} samples" in found
    assert f"(McNemar mid-p {p_text(chosen.p_mid)}, exact {p_text(chosen.p_exact)})" in found


def test_the_mid_p_value_decides_about_the_chosen_member(clear):
    between = dataclasses.replace(clear.primary.chosen, won=12, lost=3, p_exact=0.06, p_mid=0.04)
    votes = (dataclasses.replace(clear.primary, chosen=between), *clear.votes[1:])
    found = verdict(dataclasses.replace(clear, votes=votes)).chosen
    assert found.endswith("it is better (McNemar mid-p p = 0.04, exact p = 0.06).")


def test_the_best_on_test_is_called_a_selection_effect(clear):
    found = verdict(clear).best_on_test
    assert found.startswith(f"Selection effect: the best seed on test, {clear.members.best_on_test.seed} with ")
    assert "are luck" in found


def test_one_member_is_no_committee():
    found = verdict(study(1))
    assert (found.committee, found.procedure) == ("not defined", "not defined")
    assert "has nobody to vote with" in found.headline
    assert "at least 4 members are needed" in found.fresh
    assert found.chosen == found.how_many == found.best_on_test == ""


def test_members_that_agree_on_everything_gain_nothing():
    logits, targets = made_up(1, 200, seed=4)
    same = (logits.repeat(4, axis=0), targets)
    found = verdict(studied(same, same))
    assert found.committee == "no gain"
    assert "decides like every one of its members" in found.headline


def test_a_sample_says_so_first(clear):
    assert verdict(clear, sample=True).headline.startswith("Sample, not a result (data.limit is set): The soft vote")


def test_a_rival_is_named_with_its_cost(clear):
    weak = studied(made_up(2, 200, seed=1000, skill=0.5), made_up(2, 400, seed=0, skill=0.5))
    lines = rival_sentences(clear, against(clear, weak, [("wide", 0), ("wide", 1)]), "wide")
    assert lines[0].startswith("The soft vote of 8 beats a single seed of 'wide' (")
    assert lines[1].startswith("The soft vote of 8 beats the soft vote of 2 of 'wide' (")
    assert lines[2] == (
        "It takes 24 times the training and 8 times the inference seconds of one seed of 'wide', "
        "and 12 and 4 times those of its vote."
    )


def test_numbers_are_written_for_people():
    assert signed(0.00184) == "+0.18"
    assert signed(-0.00184) == "−0.18"
    assert signed(-0.00001) == signed(0.0) == "0.00"
    assert interval_text(Interval(-0.001, 0.0025, 0.9)) == "90 % interval −0.10 to +0.25"
    assert interval_text(Interval(None, None, 0.95, "why")) == "95 % interval not defined"
    assert [p_text(p) for p in (1e-12, 0.00999, 0.049, 0.5, 1.0)] == [
        "p < 0.001", "p = 0.01", "p = 0.049", "p = 0.50", "p = 1.00",
    ]  # fmt: skip
    assert [duration(s) for s in (5e-5, 0.05, 0.5, 100, 3000, 9000)] == [
        "50 µs", "50 ms", "0.5 s", "100 s", "50 min", "2.5 h",
    ]  # fmt: skip
