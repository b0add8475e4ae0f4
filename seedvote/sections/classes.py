"""Classes and their confusions, on the page of one run."""

from __future__ import annotations

from seedvote.comparison import Comparison
from seedvote.report import percent
from seedvote.sections.tables import LONGEST_TABLE, UNDEFINED, Section, Table, p_cell
from seedvote.verdict import signed

MOST_CONFUSIONS = 10


def classes(comparison: Comparison) -> Section:
    """Share of each class decided right, and what is taken for what: by single seeds, and by the vote."""
    several = len(comparison.seeds) > 1
    tables = [_recalls(comparison, several)]
    if comparison.confusions:
        tables.append(_confusions(comparison, several))
    missing = [one for one in comparison.per_class if one.reason is not None]
    sentences = [f"{one.name}: {UNDEFINED}, as there is {one.reason}." for one in missing[:LONGEST_TABLE]]
    return Section("Classes", sentences, [], tables)


def _recalls(comparison: Comparison, several: bool) -> Table:
    found = sorted(comparison.per_class, key=lambda one: (one.difference is None, -abs(one.difference or 0), one.label))
    rows = []
    for one in sorted(found[:LONGEST_TABLE], key=lambda each: each.label):
        row = [one.name, str(one.support), UNDEFINED if one.single is None else percent(one.single)]
        if several:
            row += [
                UNDEFINED if one.vote is None else percent(one.vote),
                UNDEFINED if one.difference is None else signed(one.difference),
                UNDEFINED if one.p_holm is None else p_cell(one.p_holm),
            ]
        rows.append(row)
    which = f"the {LONGEST_TABLE} that change most" if several else f"the first {LONGEST_TABLE}"
    more = f"; {which} of {len(found)}" if len(found) > LONGEST_TABLE else ""
    header = ("class", "samples", "single seed", *(("vote", "points", "p (Holm)") if several else ()))
    return Table(f"Share of each class decided right{more}", header, rows)


def _confusions(comparison: Comparison, several: bool) -> Table:
    names = comparison.classes
    rows = []
    for one in comparison.confusions[:MOST_CONFUSIONS]:
        row = [f"{names[one.true]} → {names[one.decided]}", f"{one.single:.1f}"]
        if several:
            row += [str(one.vote), f"{one.vote - one.single:+.1f}".replace("-", "−")]
        rows.append(row)
    what = (
        "that change most" if any(one.vote != one.single for one in comparison.confusions) else "that are most frequent"
    )
    header = ("true → decided", "single seed", *(("vote", "change") if several else ()))
    return Table(f"Confusions {what}, in samples", header, rows)
