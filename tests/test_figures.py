"""Figures show the numbers of the comparison, and are never empty."""

from __future__ import annotations

import io
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from seedvote import figures
from studies import made_up, studied, study

EVERYTHING = ["spread", "committees", "reliability", "disagreement", "selective", "pictures"]


@pytest.fixture(scope="module")
def found():
    return study(6, 300)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def drawn(found, pictures):
    return figures.draw(found, pictures)


def test_there_is_one_of_each(drawn, found):
    assert list(drawn) == EVERYTHING
    assert list(figures.draw(found)) == EVERYTHING[:-1]


@pytest.mark.parametrize("name", EVERYTHING)
def test_files_are_whole_and_not_blank(name, drawn):
    drawing = figures.render(drawn[name])
    picture = np.asarray(Image.open(io.BytesIO(drawing.png)).convert("L"))
    assert picture.shape[1] == pytest.approx(200 * drawing.width, abs=1)
    ink = (picture < 200).mean()
    assert ink > 0.005, "nearly nothing is drawn"
    root = ET.fromstring(drawing.svg)
    assert root.tag.endswith("svg")
    links = [value for each in root.iter() for key, value in each.attrib.items() if key.endswith("href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert figures.render(drawn[name]) == drawing


def values(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def test_the_spread_shows_every_seed_and_the_vote(drawn, found):
    lines = values(drawn["spread"].axes[0])
    accuracies = [100 * member.test.accuracy for member in found.members.each]
    np.testing.assert_allclose(lines["single seeds"][:, 0], accuracies)
    (vote,) = [line for label, line in lines.items() if label.startswith("soft vote")]
    np.testing.assert_allclose(vote[:, 0], 100 * found.primary.scores.accuracy)
    (chosen,) = [line for label, line in lines.items() if label.startswith("best on validation")]
    np.testing.assert_allclose(chosen[0, 0], 100 * found.chosen.test.accuracy)


def test_dots_at_one_place_are_stacked():
    dots = values(figures.spread(study(20, 12)).axes[0])["single seeds"]
    assert len({tuple(dot) for dot in dots.tolist()}) == 20


def test_the_curve_is_the_comparisons(drawn, found):
    lines = values(drawn["committees"].axes[0])
    np.testing.assert_allclose(lines["soft vote of k"][:, 0], found.curve.sizes)
    np.testing.assert_allclose(lines["soft vote of k"][:, 1], 100 * np.array(found.curve.accuracy))


def test_reliability_is_drawn_before_and_after(drawn, found):
    offsets = {each.get_label(): each.get_offsets() for each in drawn["reliability"].axes[0].collections}
    full = [each for each in found.calibration.reliability_before if each.count]
    np.testing.assert_allclose(offsets["soft vote"][:, 1], [100 * each.accuracy for each in full])
    assert any(label.startswith("temperature") for label in offsets)


def test_disagreement_and_risk(drawn, found):
    (image,) = drawn["disagreement"].axes[0].get_images()
    np.testing.assert_allclose(image.get_array(), 100 * found.diversity.disagreement_matrix)
    assert len(drawn["selective"].axes[0].get_lines()) == 4


def test_the_contact_sheet_says_who_voted_for_what(drawn, found, pictures):
    won, lost = figures.pictures_to_show(found)
    cells = [axes for axes in drawn["pictures"].axes if axes.get_images()]
    assert len(cells) == len(won) + len(lost)
    for cell, sample in zip(cells, won + lost, strict=True):
        np.testing.assert_array_equal(cell.get_images()[0].get_array(), pictures[sample, 0])
        own = found.decisions.member_labels[:, sample]
        text = " ".join(cell.texts[0].get_text().split())
        for place, label in enumerate(own):
            seeds = " ".join(str(found.seeds[other]) for other in np.flatnonzero(own == label))
            assert f"c{label}: seeds {seeds}" in text, place
        assert f"true: c{found.decisions.targets[sample]}" in cell.get_title()


def test_many_members_are_counted_on_the_contact_sheet(pictures):
    sheet = figures.contact_sheet(study(20, 300), pictures)
    assert "members" in sheet.axes[0].texts[0].get_text()
    figures.render(sheet)


def test_names_cannot_be_mathematics(pictures):
    names = ["$x_", "a\nb", "a name that is much longer than its place", "d"]
    found = studied(made_up(3, 100, seed=9), made_up(3, 300, seed=8), names=names)
    figures.render(figures.contact_sheet(found, pictures))


@pytest.mark.parametrize(("members", "rule"), [(1, "soft"), (2, "majority"), (40, "majority")])
def test_any_number_of_members_can_be_drawn(members, rule):
    drawn = figures.draw(study(members, 60, rule=rule), note="sample, not a result")
    assert set(drawn) <= set(EVERYTHING)
    assert ("spread" in drawn) == (members > 1)
    for figure in drawn.values():
        assert figure.get_suptitle() == "sample, not a result"
        figures.render(figure)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_members_that_are_all_right_or_all_wrong_are_drawn_within_what_is_possible(accuracy):
    logits, targets = made_up(4, 60, own=0.1, skill=60.0)
    same = (logits, targets if accuracy else (targets + 1) % 4)
    drawn = figures.draw(studied(same, same))
    for axis in (drawn["spread"].axes[0].get_xlim(), drawn["committees"].axes[0].get_ylim()):
        assert axis[0] > -2 and axis[1] < 102
        assert axis[1] - axis[0] > 0.19
    (image,) = drawn["disagreement"].axes[0].get_images()
    assert image.get_clim() == (0, 0.1)
    low, high = drawn["selective"].axes[0].get_ylim()
    assert low < 0 < high  # a line at 0 is seen


def test_runs_are_drawn_with_their_seeds_and_votes():
    runs = [("alone", study(1)), ("it", study(6)), ("many", study(40, 100))]
    figure = figures.draw_runs(runs, "sample, not a result")
    assert figure.get_suptitle() == "sample, not a result"
    (axes,) = figure.axes
    drawn = [line.get_xdata() for line in axes.get_lines() if line.get_marker() == "o"]
    for (_, found), dots in zip(runs, drawn, strict=True):
        np.testing.assert_allclose(dots, [100 * member.test.accuracy for member in found.members.each])
    votes = [line.get_xdata()[0] for line in axes.get_lines() if line.get_marker() == "D"]
    assert votes == pytest.approx([100 * found.primary.scores.accuracy for _, found in runs[1:]])
    assert [text.get_text() for text in axes.texts] == ["alone", "it", "many"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["single seeds", "mean seed", "soft vote, 95 % interval"]
    figures.render(figure)


def test_the_drawing_library_keeps_no_state():
    assert "matplotlib.pyplot" not in sys.modules
