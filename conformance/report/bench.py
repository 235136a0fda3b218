"""The part of a report that is about speed: everything its templates show, from the record and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from conformance.record import BenchLine, BenchSide, Incident, Record, ScanLine
from conformance.report.harness import HarnessView, missed
from conformance.report.harness import view as harness_view
from conformance.report.speed import (
    Conclusion,
    Kind,
    Measured,
    baseline_of,
    conclusion,
    control_of,
    cores_of,
    crowded,
    ratio_text,
    remarks,
    shape_words,
    share_text,
    short,
    speed_exit_code,
    speed_headline,
    speed_limits,
    speed_problems,
    spread_of,
    spread_text,
    time_text,
)
from conformance.report.speed_chart import Growth, Intervals, growth, intervals
from conformance.report.wording import count, label, listed, number

MOST: Final = 200
"""At most so many comparisons, and numbers of steps, are shown."""
_LIMITS: Final = 20
_OUTCOMES: Final = {0: "agrees", 1: "diverges"}


class SideRow(Struct, frozen=True, kw_only=True):
    """One side of a comparison, in words."""

    name: str
    version: str
    kind: Kind
    told: str
    ratio: str
    spread: str
    rounds: str
    cores: str
    cpu: str
    prepared: str
    share: str
    path: str
    remark: str
    trace: str = ""
    compiled: str = ""
    characters: str = ""
    operations: str = ""


class ComparisonView(Struct, frozen=True, kw_only=True):
    """One comparison: its sides, the picture of their ratios, and how it was made."""

    anchor: str
    title: str
    name: str
    shape: str
    rows: tuple[SideRow, ...]
    picture: Intervals | None
    published: str
    left_out: str
    how: str
    machine: tuple[tuple[str, str], ...]


class Glance(Struct, frozen=True, kw_only=True):
    """A comparison in one row: the baseline's time, and what is told of every column's candidate."""

    title: str
    shape: str
    anchor: str
    name: str
    baseline: str
    told: tuple[tuple[Kind, str, str] | None, ...]
    published: str
    left_out: str


class ScanView(Struct, frozen=True, kw_only=True):
    """The scans of one shape: pictures, and a table with a part for every number of steps."""

    anchor: str
    title: str
    baseline: str
    pictures: tuple[Growth, ...]
    steps: tuple[tuple[int, tuple[SideRow, ...], str], ...]
    remarks: tuple[str, ...]


class Speed(Struct, frozen=True, kw_only=True):
    """All that a record says about speed."""

    columns: tuple[str, ...]
    glance: tuple[Glance, ...]
    comparisons: tuple[ComparisonView, ...]
    scans: tuple[ScanView, ...]
    more: int
    harness: tuple[HarnessView, ...] = ()


class SpeedPage(Struct, frozen=True, kw_only=True):
    """A report about speed alone. limits: what it could not tell, of which `more_limits` further ones are not shown."""

    headline: str
    started: str
    outcome: str
    warnings: tuple[str, ...]
    limits: tuple[str, ...]
    more_limits: int
    speed: Speed
    facts: tuple[tuple[str, str], ...]
    candidates: tuple[tuple[str, str, str, str, tuple[tuple[str, str], ...]], ...]
    incidents: tuple[Incident, ...]
    footer: str


def make_speed(record: Record) -> Speed | None:
    """The part about speed; None when the record has none."""
    if not record.benches and not record.scans and not record.harness:
        return None
    benches = record.benches[:MOST]
    columns = tuple(
        dict.fromkeys(side.candidate for line in benches for side in line.sides if side.candidate != line.baseline)
    )
    return Speed(
        columns=tuple(label(name) for name in columns),
        glance=tuple(_glance(line, columns, place) for place, line in enumerate(benches, start=1)),
        comparisons=tuple(_comparison(line, place) for place, line in enumerate(benches, start=1)),
        scans=tuple(_scans(record.scans[:MOST])),
        harness=tuple(map(harness_view, record.harness[:MOST])),
        more=max(len(record.benches) - MOST, 0) + max(len(record.scans) - MOST, 0),
    )


def make_speed_page(record: Record) -> SpeedPage:
    """The page of a record that is about speed alone."""
    speed = make_speed(record)
    assert speed is not None
    header, footer, code = record.header, record.footer, speed_exit_code(record)
    lines, state = count(record.lines, "line"), label(record.problem or "complete")
    limits = speed_limits(record)
    return SpeedPage(
        headline=speed_headline(record),
        started=label(header.started),
        outcome="inconclusive"
        if any(map(missed, record.harness)) and not code
        else _OUTCOMES.get(code, "inconclusive"),
        warnings=speed_problems(record),
        limits=limits[:_LIMITS],
        more_limits=max(len(limits) - _LIMITS, 0),
        speed=speed,
        facts=(
            ("Started", label(header.started)),
            ("Finished", "did not finish" if footer is None else label(footer.finished)),
            ("Harness", f"rnn-conformance {label(header.harness)}"),
            ("Command", shlex.join(["rnn-conformance", *map(label, header.arguments)])),
        ),
        candidates=tuple(
            (
                label(line.name),
                label(line.title),
                label(line.version),
                label(line.environment),
                tuple((label(k), label(v)) for k, v in sorted(line.facts.items())),
            )
            for line in record.candidates
        ),
        incidents=record.incidents[:MOST],
        footer=f"Made from {label(record.path)} ({lines}, {state}) and from nothing else.",
    )


def published_text(line: BenchLine) -> str:
    """What was published for a comparison, "" for nothing."""
    if line.published is None:
        return ""
    told = line.published
    ratio = f"about {number(told.ratio, 3)}\N{MULTIPLICATION SIGN}"
    if told.baseline is not None and told.other is not None:
        ratio += f" ({time_text(told.baseline)} \N{RIGHTWARDS ARROW} {time_text(told.other)})"
    return f"published: {ratio}; {label(told.source)}"


def _glance(line: BenchLine, columns: Sequence[str], place: int) -> Glance:
    baseline = baseline_of(line)
    own = {side.candidate: side for side in line.sides if not side.control}
    found = None if baseline is None else spread_of(baseline)
    return Glance(
        title=label(line.title),
        shape=shape_words(line),
        anchor=f"b{place}",
        name=label(line.baseline),
        baseline="" if found is None else time_text(found.median),
        told=tuple(_short(conclusion(line, own[name])) if name in own else None for name in columns),
        published=published_text(line),
        left_out=label(line.left_out),
    )


def _short(told: Conclusion) -> tuple[Kind, str, str]:
    """The kind, its word, and the ratio where it is one."""
    return told.kind, short(told), ratio_text(told.ratio) if told.kind in ("faster", "slower") else ""


def _row(line: Measured, side: BenchSide) -> SideRow:
    told, found = conclusion(line, side), spread_of(side)
    costs, cores = side.costs, cores_of(side)
    return SideRow(
        name=label(side.candidate) + (" again" if side.control else ""),
        version=label(side.version),
        kind=told.kind,
        told=told.text,
        ratio=ratio_text(told.ratio),
        spread=spread_text(found),
        rounds="" if found is None else f"{found.count:,} \N{MULTIPLICATION SIGN} {side.calls:,}",
        cores="" if cores is None else number(cores, 2),
        cpu=ratio_text(told.cpu),
        prepared=time_text(side.prepare_seconds),
        share=share_text(side),
        path=label(side.path),
        remark="; ".join(remarks(side, line.shape[0])),
        trace="" if costs is None else time_text(costs.trace_seconds),
        compiled="" if costs is None else time_text(costs.compile_seconds),
        characters="" if costs is None else f"{costs.characters:,}",
        operations="" if costs is None else f"{costs.operations:,}",
    )


def _comparison(line: BenchLine, place: int) -> ComparisonView:
    rows = tuple(_row(line, side) for side in line.sides)
    drawn = []
    for side, row in zip(line.sides, rows, strict=True):
        told = conclusion(line, side)
        if told.ratio is not None:
            drawn.append((row.name, told.kind, told.ratio, row.ratio))
    return ComparisonView(
        anchor=f"b{place}",
        title=label(line.title),
        name=label(line.name),
        shape=shape_words(line),
        rows=() if line.left_out else rows,
        picture=intervals(drawn, control_of(line)),
        published=published_text(line),
        left_out=label(line.left_out),
        how="; ".join(text for text in (label(line.ended), crowded(line)) if text),
        machine=tuple((label(k), label(v)) for k, v in sorted(line.machine.items())),
    )


def _scans(lines: Sequence[ScanLine]) -> Iterator[ScanView]:
    """One view for every cell and shape but for the number of steps."""
    groups: dict[tuple[str, str, int, int, int, str], list[ScanLine]] = {}
    for line in lines:
        batch, _, features, hidden = line.shape
        groups.setdefault((line.cell, line.dtype, batch, features, hidden, line.baseline), []).append(line)
    for place, ((cell, dtype, batch, features, hidden, baseline), own) in enumerate(groups.items(), start=1):
        names = dict.fromkeys(side.candidate for line in own for side in line.sides)
        yield ScanView(
            anchor=f"s{place}",
            title=f"{label(cell)}, batch {batch}, {features} inputs, {hidden} units, {label(dtype)}",
            baseline=label(baseline),
            pictures=tuple(_pictures(own, list(names))),
            steps=tuple(
                (line.shape[1], tuple(_row(line, side) for side in line.sides), label(line.ended)) for line in own
            ),
            remarks=scan_remarks(own)[:MOST],
        )


def scan_remarks(own: Sequence[ScanLine]) -> tuple[str, ...]:
    """What else a reader must know of the sides, and of a machine that was busy, each thing once.

    Sides of which the same is to be said share a sentence; numbers of steps are named where it does not hold for all.
    """
    asked: dict[str, dict[int, None]] = {}
    ran: dict[str, dict[int, None]] = {}
    found: dict[tuple[str, bool], dict[str, dict[int, None]]] = {}
    for line in own:
        for side in line.sides:
            name, steps = label(side.candidate), line.shape[1]
            left_out = bool(side.left_out)
            asked.setdefault(name, {})[steps] = None
            if not left_out:
                ran.setdefault(name, {})[steps] = None
            for text in (label(side.left_out),) if left_out else remarks(side, line.shape[0]):
                found.setdefault((text, left_out), {}).setdefault(name, {})[steps] = None
    told = [f"{_whose(sides, asked if out else ran)}: {text}" for (text, out), sides in found.items()]
    busy = [line for line in own if crowded(line)]
    if busy:
        worst = min(busy, key=lambda line: min(c for side in line.sides if (c := cores_of(side)) is not None))
        at = listed(list(dict.fromkeys(str(line.shape[1]) for line in busy)))
        told.append(f"T = {at}: {crowded(worst)}{' at worst' if busy[1:] else ''}")
    return tuple(told)


def _whose(sides: Mapping[str, Mapping[int, None]], asked: Mapping[str, Mapping[int, None]]) -> str:
    """Sides, and the numbers of steps where it is not every one of theirs: ``a and b; c at T = 64``."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, steps in sides.items():
        alike.setdefault(() if steps.keys() == asked[name].keys() else tuple(steps), []).append(name)
    return "; ".join(
        listed(names) + (f" at T = {listed([str(step) for step in steps])}" if steps else "")
        for steps, names in alike.items()
    )


def _pictures(own: Sequence[ScanLine], names: Sequence[str]) -> Iterator[Growth]:
    """Tracing and compiling, program size, and run time, each against the number of steps."""
    ready: dict[str, list[tuple[int, float]]] = {label(name): [] for name in names}
    size: dict[str, list[tuple[int, float]]] = {label(name): [] for name in names}
    ran: dict[str, list[tuple[int, float]]] = {label(name): [] for name in names}
    for line in own:
        for side in line.sides:
            name, time = label(side.candidate), line.shape[1]
            if side.costs is not None:
                ready[name].append((time, side.costs.trace_seconds + side.costs.compile_seconds))
                size[name].append((time, float(side.costs.characters)))
            found = spread_of(side)
            if found is not None:
                ran[name].append((time, found.median))
    for title, unit, series in (
        ("Tracing and compiling", "seconds", ready),
        ("Size of the traced program", "characters", size),
        ("Running, a call", "seconds", ran),
    ):
        picture = growth(title, unit, series)
        if picture is not None:
            yield picture
