"""The page: whole by itself, safe with any name, readable in a browser at any width."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from browser import CHROMIUM, browser
from seedvote import figures, sections
from seedvote.comparison import against, compare
from seedvote.page import Origin, page, runs_page
from seedvote.report import percent
from seedvote.verdict import runs_headline, signed, verdict
from studies import cost, made_up, studied, study

WIDTHS = (390, 1280)
NAMES = ("digits-mlp-3f9a1c", "a-run-with-a-name-that-is-much-too-long-for-a-phone-0123456789", "alone", "alike")


def written(comparison, pictures=None, *, sample="", rivals=(), run="digits-mlp", dropped=None):
    drawings = {name: figures.render(each) for name, each in figures.draw(comparison, pictures, sample).items()}
    origin = Origin(run, "digits", sample, dropped or {}, {"command": "python -m seedvote.compare", "hash": "f" * 64})
    return page(comparison, verdict(comparison), drawings, origin, rivals)


@pytest.fixture(scope="module")
def found():
    return study(6, 300)


@pytest.fixture(scope="module")
def rival():
    return studied(made_up(3, 150, seed=1000), made_up(3, 300, seed=0))


@pytest.fixture(scope="module")
def html(found, rival):
    pictures = np.random.default_rng(0).integers(0, 256, (300, 3, 8, 8), dtype=np.uint8)
    return written(
        found,
        pictures,
        sample="sample, not a result",
        rivals=[("wide", against(found, rival, [("wide", 0), ("wide", 1), ("deep", 0)]))],
    )


@pytest.fixture(scope="module")
def runs(found):
    named = zip(NAMES, (found, study(30, 300), study(1, 300), alike()), strict=True)
    return list(named)


def alike():
    logits, targets = made_up(1, 300, seed=4)
    same = (logits.repeat(4, axis=0), targets)
    return studied(same, same)


@pytest.fixture(scope="module")
def html_of_runs(runs):
    drawing = figures.render(figures.draw_runs(runs, "sample, not a result"))
    facts = {"command": "python -m seedvote.compare runs=[a,b]"}
    origin = Origin("all", "digits", "sample, not a result", {"3 of alone": "its logits are not finite"}, facts)
    return runs_page(runs, CORRECTED, drawing, origin)


CORRECTED = {NAMES[0]: 0.003, NAMES[1]: 0.2, NAMES[3]: 1.0}


class Reader(HTMLParser):
    """Notes what opens and closes, every address and every text."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.texts, self.images = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href", "srcset", "data")]
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_it_needs_nothing_but_itself(html):
    reader = read(html)
    assert reader.addresses
    assert all(address.startswith("data:") for address in reader.addresses)
    assert "<script" not in html
    assert not re.search(r"@import|url\(", html)
    assert "default-src 'none'" in html


def test_the_verdict_stands_on_top_and_figures_have_texts(html, found):
    reader = read(html)
    text = " ".join(" ".join(reader.texts).split())
    assert text.index(verdict(found).headline) < text.index("Scores")
    assert "sample, not a result" in text
    assert "'wide'" in text
    assert len(reader.images) == 6
    assert all(len(image["alt"]) > 30 for image in reader.images)
    assert len({image["alt"] for image in reader.images}) == 6


def test_names_are_text_and_never_markup():
    names = ["<script>alert(1)</script>", 'a"b', "c&d", "<img src=x>"]
    split = made_up(3, 100, seed=3)
    comparison = compare(made_up(3, 50, seed=4), split, seeds=(0, 1, 2), classes=names, cost=cost(3, 100))
    text = written(comparison, run="<b>run</b>", dropped={7: "<i>why</i>"})
    reader = read(text)
    assert "<script" not in text and "<b>" not in text and "<i>" not in text
    assert names[0] in "".join(reader.texts)


CASES = {
    "one member": lambda: study(1),
    "one member that counts votes": lambda: study(1, rule="majority"),
    "two members": lambda: study(2),
    "many classes": lambda: study(4, 400, 40),
    "many members": lambda: study(30, 100, rule="majority"),
    "no probabilities": lambda: study(5, rule="borda"),
    "weights": lambda: study(5, rule="weighted"),
    "all alike": alike,
    "a perfect score": lambda: study(4, skill=60.0),
    "abstentions": lambda: study(4, rule="majority", tie="abstain", own=2.0),
}


@pytest.mark.parametrize("case", CASES)
def test_no_table_shows_what_is_no_number(case):
    comparison = CASES[case]()
    for section in sections.build(comparison, verdict(comparison)):
        for table in section.tables:
            assert table.rows
            for row in table.rows:
                assert len(row) == len(table.header)
                assert not [cell for cell in row if not isinstance(cell, str) or re.search(r"\bnan\b|None|inf\b", cell)]
        assert not [text for text in section.sentences if re.search(r"\bnan\b|None", text)]


def test_the_page_of_several_runs_says_everything_in_words_and_tables(html_of_runs, runs):
    reader = read(html_of_runs)
    text = " ".join(" ".join(reader.texts).split())
    assert runs_headline(runs, CORRECTED) in text
    assert "Left out: seed 3 of alone, its logits are not finite." in text
    assert all(address.startswith("data:") for address in reader.addresses)
    (image,) = reader.images
    for name, each in runs:
        assert name in text
        assert f"{name}: seeds from {percent(each.members.test.accuracy.minimum)}" in image["alt"]
    (spread, gains, *others) = [table for section in sections.build_runs(runs, CORRECTED) for table in section.tables]
    single = runs[0][1].members.test.accuracy
    gain = runs[0][1].primary.gain
    assert gains.rows[0][2] == f"{100 * single.mean:.2f} ± {100 * single.deviation:.2f} %"
    assert gains.rows[0][4] == signed(gain.difference)
    assert gains.rows[0][5] == f"{signed(gain.interval.lower)} to {signed(gain.interval.upper)}"
    assert gains.rows[0][6] == "0.003"
    assert gains.rows[2][3:] == ["–"] * 5  # one member has no vote
    assert gains.rows[3][5] == "not defined"
    costs = others[-1]
    assert costs.rows[0][1:5] == ["3.5 s", "21 s", "10 ms", "60 ms"]
    for table in (spread, gains, *others):
        for row in table.rows:
            assert len(row) == len(table.header)
            assert not [cell for cell in row if not isinstance(cell, str) or re.search(r"\bnan\b|None|inf\b", cell)]


def test_one_member_that_counts_votes_has_a_page_without_figures():
    reader = read(written(study(1, rule="majority")))
    assert reader.images == []
    assert "By mutual information and vote agreement it is not defined" in " ".join("".join(reader.texts).split())


@pytest.mark.parametrize("rule", ["majority", "borda"])
def test_what_a_rule_does_not_have_is_said_and_not_drawn(rule):
    comparison = study(5, rule=rule)
    assert "reliability" not in figures.draw(comparison)
    text = " ".join(" ".join(read(written(comparison)).texts).split())
    assert f"Calibration of the {rule} vote is not defined: {rule} counts" in text
    assert f"By top probability and entropy it is not defined: {rule} counts" in text
    assert f"{rule} vote sure by" in text
    assert "NLL, Brier and ECE of" in text


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_several_runs_without_error_overflow_or_request(width, html_of_runs, runs, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(html_of_runs)
    with browser(tmp_path / "profile") as window:
        shown = window.open(path, width)
        paper = window.width_in_print()
        printed = window.printed()
    assert shown["errors"] == shown["requests"] == shown["scrolled"] == []
    assert shown["width"] <= width
    assert shown["headline"] == runs_headline(runs, CORRECTED)
    ((alt, natural, drawn),) = shown["pictures"]
    assert alt
    assert natural > 100
    assert 250 < drawn <= width
    assert len(shown["tables"]) == 4
    for caption, columns, rows, row_headers in shown["tables"]:
        assert caption
        assert columns > 1
        assert rows == row_headers > 0
    assert paper <= 718
    assert printed.startswith(b"%PDF")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_shows_it_without_error_overflow_or_request(width, dark, html, found, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(html)
    with browser(tmp_path / "profile") as window:
        shown = window.open(path, width, dark=dark)
        picture = window.picture()
        paper = window.width_in_print()
    assert shown["errors"] == []
    assert shown["requests"] == []
    assert shown["width"] <= width
    assert shown["scrolled"] == []
    assert shown["headline"] == verdict(found).headline
    assert len(shown["pictures"]) == 6
    for alt, natural, drawn in shown["pictures"]:
        assert alt
        assert natural > 100
        assert 250 < drawn <= width
    for caption, columns, rows, row_headers in shown["tables"]:
        assert caption
        assert columns > 1
        assert rows == row_headers > 0
    assert len(picture) > 20_000
    assert paper <= 718


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_the_browser_test_would_notice(tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        '<!DOCTYPE html><meta name="viewport" content="width=device-width"><p class="headline">x</p>'
        '<div style="width: 900px">wide</div><img src="https://example.invalid/a.png">'
        '<script>console.error("oh"); nothing()</script>'
    )
    with browser(tmp_path / "profile") as window:
        shown = window.open(path, 390)
        paper = window.width_in_print()
    assert shown["width"] > 390
    assert paper > 718
    assert shown["scrolled"]
    assert shown["requests"] == ["https://example.invalid/a.png"]
    assert len(shown["errors"]) >= 2
    assert not shown["pictures"][0][1]
