"""Stored measurements as a Markdown table and a figure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from engine_benchmark.contestants import CONTESTANTS, PLAIN
from seedvote.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, STYLE

Record = dict[str, Any]
HEADER = (
    "contestant", "n", "seconds", "times as quick as the plain loop", "first step, s", "compiling, s",
    "ms a member's step", "GFLOP/s", "of peak: one core, all", "memory, MiB", "loss", "accuracy, %",
)  # fmt: skip
MARGIN = 1.4  # how much wider than from the fewest to the most members a figure is at each end
LINES = dict(zip(CONTESTANTS, (
    (GREY, "o", "-"), (GREY, "s", "--"), (BLUE, "v", ":"), (BLUE, "^", "--"), (ORANGE, "D", "-"), (ORANGE, "*", ":"),
    (GREEN, "P", "-"), (GREEN, "X", "--"), (PURPLE, "h", "-"),
), strict=True))  # fmt: skip


def write_results(output: Path, records: Sequence[Record]) -> None:
    """Write ``engines.md`` and ``engines.png`` from everything that was measured.

    Raises:
        SystemExit: nothing was measured.
    """
    if not of_kind(records, "training"):
        raise SystemExit(f"{output} holds no measurement: run without --table first")
    text = table(records)
    (output / "engines.md").write_text(text)
    with matplotlib.rc_context(STYLE):
        figure(records).savefig(output / "engines.png", dpi=150)
    print(f"{text}\nwritten    {output / 'engines.md'} and .png")


def table(records: Sequence[Record]) -> str:
    """Return all tables, one for each case, length and number of members, with what they were measured on."""
    dates = sorted({record["date"] for record in records})
    here = ", ".join(f"{name} {value}" for name, value in records[0]["machine"].items())
    parts = [f"Measured {dates[0]} to {dates[-1]}. {here}."]
    if any(record["sample"] for record in records):
        parts.insert(0, "**Sample, not a result.**")
    peaks = {
        name: [record["found"][name] / 1e9 for record in of_kind(records, "peak")] for name in ("one_core", "all_cores")
    }
    if peaks["one_core"]:
        shown = (f"{spread(values, '.0f')} GFLOP/s on {name.replace('_', ' ')}" for name, values in peaks.items())
        parts.append(f"Peak of a float32 matrix product: {', '.join(shown)}.")
    for setting, own in grouped(records, "training", "case", "epochs", "limit", "members").items():
        parts.append(_section(setting, own, {name: statistics.median(found) for name, found in peaks.items() if found}))
    votes = grouped(records, "voting", "case", "epochs", "limit")
    if votes:
        parts.append(_votes(votes))
    return "\n\n".join(parts) + "\n"


def _section(setting: tuple[Any, ...], records: Sequence[Record], peaks: dict[str, float]) -> str:
    case, epochs, limit, members = setting
    flops = records[0]["found"]["flops"]
    title = f"## {case}, N = {members}\n\n{epochs} epochs of {limit or 'all'} samples, {flops / 1e6:.1f} MFLOP a step."
    rows = []
    for contestant in CONTESTANTS:
        own = [record for record in records if record["key"]["contestant"] == contestant]
        if own:
            rows.append([contestant, str(len(own)), *_cells(own, ratios(records, contestant), peaks)])
    return f"{title}\n\n{markdown(HEADER, rows)}"


def _cells(own: Sequence[Record], quicker: Sequence[float], peaks: dict[str, float]) -> list[str]:
    def cell(name: str, form: str, scale: float = 1.0, show: Callable[..., str] = spread) -> str:
        values = [record["found"][name] for record in own if record["found"][name] is not None]
        return show([scale * value for value in values], form) if values else "-"

    steps = [record["found"]["member_step"] for record in own if record["found"]["member_step"]]
    rate = own[0]["found"]["flops"] / statistics.median(steps) / 1e9 if steps else None
    shares = ", ".join(f"{100 * rate / peak:.0f} %" for peak in peaks.values()) if rate and peaks else "-"
    return [
        cell("seconds", ".1f"), spread(quicker, ".2f") if quicker else "-", cell("first_step", ".2f", show=middle),
        cell("compile", ".1f", show=middle), cell("member_step", ".2f", 1000), "-" if rate is None else f"{rate:.1f}",
        shares, cell("peak_bytes", ".0f", 1 / 2**20, middle), cell("train_loss", ".4f", show=middle),
        cell("accuracy", ".2f", 100, middle),
    ]  # fmt: skip


def _votes(votes: dict[tuple[Any, ...], list[Record]]) -> str:
    rows = []
    for (case, *_), records in votes.items():
        found = [record["found"] for record in records]
        rows.append([
            case, str(len(found)), str(found[0]["samples"]), spread([1000 * each["one"] for each in found], ".1f"),
            spread([1000 * each["ten"] for each in found], ".1f"), spread([each["ratio"] for each in found], ".2f"),
        ])  # fmt: skip
    header = ("case", "n", "samples", "one member, ms", "vote of ten, ms", "vote / member")
    return f"## A vote of ten against one member's prediction\n\n{markdown(header, rows)}"


def figure(records: Sequence[Record]) -> Figure:
    """Draw, for each case, how many times as quick as the plain loop contestants are, and memory, against N.

    Cases that were measured with one number of members are left to the table, where others were with several.
    """
    settings = grouped(records, "training", "case", "epochs", "limit")
    several = {setting: own for setting, own in settings.items() if len({each["key"]["members"] for each in own}) > 1}
    settings = several or settings
    everywhere = sorted({record["key"]["members"] for own in settings.values() for record in own})
    drawn = Figure(figsize=(max(4.8, 3.4 * len(settings)), 6.4), layout="constrained")
    axes = drawn.subplots(2, len(settings), squeeze=False, sharex=True)
    for column, (setting, own) in enumerate(settings.items()):
        counts = sorted({record["key"]["members"] for record in own})
        for contestant in CONTESTANTS:
            quicker, memory = {}, {}
            for count in counts:
                there = [record for record in own if record["key"]["members"] == count]
                mine = [record["found"] for record in there if record["key"]["contestant"] == contestant]
                quicker[count] = ratios(there, contestant)
                memory[count] = [found["peak_bytes"] / 2**30 for found in mine if found["peak_bytes"]]
            _line(axes[0, column], contestant, quicker)
            _line(axes[1, column], contestant, memory)
        axes[0, column].set_title(setting[0])
        axes[0, column].axhline(1, color=GREY, linewidth=0.5)
        axes[1, column].set(xlabel="members", xscale="log", xticks=everywhere, xticklabels=everywhere)
        axes[1, column].minorticks_off()
    axes[0, 0].set_xlim(everywhere[0] / MARGIN, everywhere[-1] * MARGIN)  # all share it
    for place in axes.flat:
        place.set_ylim(0, 1.05 * place.get_ylim()[1])
    axes[0, 0].set_ylabel("times as quick as the plain loop")
    axes[1, 0].set_ylabel("memory at its peak, GiB")
    lines = {line.get_label(): line for place in axes.flat for line in place.containers}
    drawn.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, fontsize=9)
    return drawn


def _line(axes: Any, contestant: str, values: dict[int, list[float]]) -> None:
    found = {count: numbers for count, numbers in values.items() if numbers}
    if not found:
        return
    middles = [statistics.median(numbers) for numbers in found.values()]
    pairs = list(zip(found.values(), middles, strict=True))
    reach = [[middle - min(numbers) for numbers, middle in pairs], [max(numbers) - middle for numbers, middle in pairs]]
    colour, marker, style = LINES[contestant]
    aside = 1.03 ** (list(CONTESTANTS).index(contestant) - len(CONTESTANTS) / 2)  # not one on top of the other
    axes.errorbar(
        [count * aside for count in found], middles, reach, color=colour, marker=marker, linestyle=style,
        label=contestant, linewidth=1.2, markersize=5, capsize=2,
    )  # fmt: skip


def ratios(records: Sequence[Record], contestant: str) -> list[float]:
    """Return how many times as quick as the plain loop a contestant was, for each repeat that has both."""
    seconds: dict[str, dict[int, float]] = {PLAIN: {}, contestant: {}}
    for record in records:
        if record["key"]["contestant"] in seconds:
            seconds[record["key"]["contestant"]][record["key"]["repeat"]] = record["found"]["seconds"]
    plain = seconds[PLAIN]
    return [plain[repeat] / own for repeat, own in seconds[contestant].items() if repeat in plain]


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    """Return the records of a kind of measurement."""
    return [record for record in records if record["key"]["kind"] == kind]


def grouped(records: Sequence[Record], kind: str, *names: str) -> dict[tuple[Any, ...], list[Record]]:
    """Return the records of a kind by what their keys say, in the order of the first of each."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for record in of_kind(records, kind):
        found.setdefault(tuple(record["key"][name] for name in names), []).append(record)
    return found


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def middle(values: Sequence[float], form: str) -> str:
    """Return the median."""
    return format(statistics.median(values), form)


def spread(values: Sequence[float], form: str) -> str:
    """Return median and range."""
    ends = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
    return middle(values, form) + ends
