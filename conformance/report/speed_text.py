"""Timings on a terminal: a table per comparison, and one of what scans cost against the number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.record import BenchLine, Record, ScanLine
from conformance.report.bench import published_text, scan_remarks
from conformance.report.harness import print_harness
from conformance.report.speed import (
    Conclusion,
    Kind,
    conclusion,
    crowded,
    measured,
    ratio_text,
    remarks,
    shape_words,
    short,
    speed_problems,
    spread_of,
    spread_text,
    time_text,
)
from conformance.report.wording import label, listed

_STYLES: Final[dict[Kind, str]] = {
    "faster": "green",
    "slower": "red",
    "wide": "yellow",
    "same path": "yellow",
    "refused": "yellow",
    "broken": "bold yellow",
    "left out": "dim",
    "control": "dim",
    "baseline": "",
    "alike": "",
}


_EXPLAINED: Final[tuple[Kind, ...]] = ("same path", "refused", "broken", "left out")


class Writer(Protocol):
    """Writes text without markup, in characters that the console has."""

    def text(self, content: str, style: str = "") -> Text:
        """Harmless text for a table."""

    def line(self, content: str, style: str = "", *, indent: int = 0) -> None:
        """A line, wrapped at the console's width."""


def print_speed(record: Record, console: Console, writer: Writer) -> None:
    """Print every comparison; the headline is left to the caller."""
    for line in record.benches:
        _comparison(line, console, writer)
    for baseline, own in _groups(record.scans).items():
        _scan(baseline, own, console, writer)
    for each in record.harness:
        print_harness(each, console, writer)
    for problem in speed_problems(record):
        writer.line(f"Not a full answer: {problem}.", "bold yellow")
    if any(line.machine for line in measured(record)):
        facts = next(line.machine for line in measured(record) if line.machine)
        writer.line(f"machine: {', '.join(f'{label(k)} {label(v)}' for k, v in sorted(facts.items()))}", "dim")


def _table(headings: Sequence[str]) -> Table:
    """A table in which names give way when it is too narrow, never what is told of them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(Text(heading), overflow="fold", no_wrap=heading != "side")
    return table


def _comparison(line: BenchLine, console: Console, writer: Writer) -> None:
    writer.line(f"{label(line.title)}: {shape_words(line)}", "bold")
    if line.left_out:
        published = published_text(line)
        writer.line(label(line.left_out) + (f" ({published})" if published else ""), "dim", indent=2)
        writer.line("")
        return
    table = _table(("side", "a call [quartiles]", "times faster [95 %]", "CPU", ""))
    notes: dict[str, list[str]] = {}
    for side in line.sides:
        told, name = conclusion(line, side), label(side.candidate) + (" again" if side.control else "")
        explained = told.text if told.kind in _EXPLAINED or told.ratio is None else ""
        for text in (explained, *remarks(side, line.shape[0])):
            if told.kind != "baseline" and text:
                notes.setdefault(text, []).append(name)
        table.add_row(
            writer.text(name),
            writer.text(spread_text(spread_of(side))),
            writer.text(ratio_text(told.ratio), _STYLES[told.kind]),
            writer.text(ratio_text(told.cpu).partition(" ")[0], "dim"),
            writer.text(short(told), _STYLES[told.kind]),
        )
    console.print(table)
    for text, names in notes.items():
        writer.line(f"{listed(names)}: {text}", "dim", indent=2)
    if line.published is not None:
        writer.line(published_text(line), "dim", indent=2)
    how = "; ".join(text for text in (label(line.ended), crowded(line)) if text)
    writer.line(f"{how}." if how else "", "dim", indent=2)
    writer.line("")


def _against(told: Conclusion) -> str:
    """A conclusion in a word or two, with its ratio where it is one."""
    times = ratio_text(told.ratio).partition(" ")[0]
    return f"{times} {short(told)}" if told.kind in ("faster", "slower") else short(told)


def _groups(scans: Sequence[ScanLine]) -> dict[str, list[ScanLine]]:
    groups: dict[str, list[ScanLine]] = {}
    for line in scans:
        batch, _, features, hidden = line.shape
        name = f"{label(line.cell)}, batch {batch}, {features} inputs, {hidden} units, {label(line.dtype)}"
        groups.setdefault(f"{name}; ratios to {label(line.baseline)}", []).append(line)
    return groups


def _scan(title: str, own: Sequence[ScanLine], console: Console, writer: Writer) -> None:
    writer.line(f"Scanning a cell: {title}", "bold")
    table = _table(("T", "side", "trace", "compile", "characters", "a call", "result"))
    for line in own:
        for place, side in enumerate(line.sides):
            told, found, costs = conclusion(line, side), spread_of(side), side.costs
            table.add_row(
                writer.text("" if place else str(line.shape[1])),
                writer.text(label(side.candidate)),
                writer.text("" if costs is None else time_text(costs.trace_seconds)),
                writer.text("" if costs is None else time_text(costs.compile_seconds)),
                writer.text("" if costs is None else f"{costs.characters:,}"),
                writer.text("" if found is None else time_text(found.median)),
                writer.text(_against(told), _STYLES[told.kind]),
            )
    console.print(table)
    for text in scan_remarks(own):
        writer.line(text, "dim", indent=2)
    writer.line("")
