"""What the harness's own times amount to: medians of paired ratios beside their targets, and how costs grow.

Nothing is told of times where an answer was refused, of a side that got through no case, or of rounds without a pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final, Literal, Protocol

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.ratio import Ratio
from conformance.record import HarnessLine, HarnessPoint, HarnessSide
from conformance.report.speed_chart import Growth, growth
from conformance.report.wording import count, label, listed, number

Clock = Literal["seconds", "cpu"]


class Aim(Struct, frozen=True, kw_only=True):
    """A ratio of two sides, a case each, and where it is to lie: at most `most`, or at least `least`.

    says: what the ratio means, in words. clock: whose ratio decides. A share of a run that keeps several cores busy is
    one of its CPU seconds.
    """

    title: str
    says: str
    above: str
    below: str
    most: float = math.inf
    least: float = 0.0
    clock: Clock = "seconds"


AIMS: Final = (
    Aim(
        title="engine / floor",
        says="a campaign beside the frameworks alone, one after another",
        above="engine",
        below="floor",
        most=0.8,
    ),
    Aim(
        title="engine / adapters",
        says="the same beside the adapters' own time, which has loading, naming and attesting in it",
        above="engine",
        below="adapters",
    ),
    Aim(title="case by case / engine", says="what sending cases in blocks saves", above="case by case", below="engine"),
    Aim(
        title="by hand / engine, warm",
        says="cases that a campaign answers while a check by hand answers one",
        above="by hand",
        below="engine",
        least=500,
    ),
    Aim(
        title="by hand / engine, cold",
        says="the same as whole processes, imports and compilation included",
        above="by hand, cold",
        below="engine, cold",
        least=15,
    ),
    Aim(
        title="judging / engine",
        says="the share of a campaign that goes into judging",
        above="judging",
        below="engine",
        most=0.1,
        clock="cpu",
    ),
    Aim(
        title="first verdict / by hand",
        says="time to a first verdict beside that of a check by hand",
        above="first verdict",
        below="first verdict by hand",
        most=0.06,
    ),
    Aim(
        title="framework alone / by hand",
        says="what of that a process takes that imports NumPy and MLX and calls a GRU once",
        above="framework alone",
        below="first verdict by hand",
    ),
    Aim(
        title="pytest / its imports",
        says="a question asked with pytest beside its imports alone",
        above="pytest",
        below="imports",
        most=2.5,
    ),
)
_LONGEST: Final = 600
_AXES: Final = {"steps": "steps, T", "units": "units, H", "cases": "cases", "candidates": "candidates"}


class Told(Struct, frozen=True, kw_only=True):
    """What is told of an aim: text of the ratio of seconds, of CPU seconds, of the target, and whether it is met.

    deciding: the figure that is held against the target.
    """

    title: str
    says: str
    ratio: str
    cpu: str
    target: str
    met: str
    deciding: str = ""
    why: str = ""


class HarnessView(Struct, frozen=True, kw_only=True):
    """One measurement, in words and pictures."""

    title: str
    told: tuple[Told, ...]
    sides: tuple[tuple[str, str, str, str, str], ...]
    points: tuple[tuple[str, str, str, str, str], ...]
    pictures: tuple[Growth, ...]
    facts: tuple[tuple[str, str], ...]
    refused: tuple[str, ...]


def side_of(line: HarnessLine, name: str) -> HarnessSide | None:
    """A side by its name, if it was timed."""
    return next((side for side in line.sides if side.name == name and side.seconds), None)


def ratio_of(line: HarnessLine, above: str, below: str, clock: Clock = "seconds") -> Ratio | None:
    """The median of paired ratios, for a case each, with the least and the most of them.

    None where nothing may be told: an answer was refused, a side was not timed, got through no case, or has other
    rounds than its partner.
    """
    one, other = side_of(line, above), side_of(line, below)
    if line.refused or one is None or other is None or one.cases < 1 or other.cases < 1:
        return None
    tops, bottoms = getattr(one, clock), getattr(other, clock)
    if len(tops) != len(bottoms) or not all(math.isfinite(v) and v > 0 for v in (*tops, *bottoms)):
        return None
    ratios = sorted((a / one.cases) / (b / other.cases) for a, b in zip(tops, bottoms, strict=True))
    if not ratios:
        return None
    return Ratio(median=median(ratios), low=ratios[0], high=ratios[-1], rounds=len(ratios))


def told(line: HarnessLine) -> Iterator[Told]:
    """Every aim, and what is told of it."""
    for aim in AIMS:
        ratio, cpu = (ratio_of(line, aim.above, aim.below, clock) for clock in ("seconds", "cpu"))
        limited = math.isfinite(aim.most) or aim.least > 0
        target = f"at most {aim.most:g}" if math.isfinite(aim.most) else f"at least {aim.least:g}" if limited else ""
        target += " CPU" if aim.clock == "cpu" else ""
        deciding, met = (cpu if aim.clock == "cpu" else ratio), ""
        if limited and deciding is not None:
            met = "met" if aim.least <= deciding.median <= aim.most else "not met"
        yield Told(
            title=aim.title,
            says=aim.says,
            ratio=_text(ratio),
            cpu="" if cpu is None else _figure(cpu.median),
            target=target,
            met=met,
            deciding="" if deciding is None else _figure(deciding.median),
            why="" if ratio is not None else _missing(line, aim),
        )


def _missing(line: HarnessLine, aim: Aim) -> str:
    if line.refused:
        return "not every answer agrees: no time is told"
    lost = [side.left_out for side in line.sides if side.name in (aim.above, aim.below) and side.left_out]
    return label(lost[0]) if lost else "not measured"


def _text(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    if ratio.rounds == 1:
        return _figure(ratio.median)
    return f"{_figure(ratio.median)} [{_figure(ratio.low)}, {_figure(ratio.high)}]"


def _figure(value: float) -> str:
    """Three digits, without an exponent where a reader needs none: 0.0588, 1,400."""
    return f"{float(f'{value:.3g}'):,.0f}" if 1000 <= value < 1e6 else number(value, 3)


def _each(seconds: tuple[float, ...], cases: int) -> str:
    return _time(median(seconds) / cases) if seconds and cases else ""


def _time(seconds: float) -> str:
    return f"{number(seconds, 3)} s" if seconds >= 1 else f"{number(seconds * 1e3, 3)} ms"


def _point(point: HarnessPoint) -> tuple[str, str, str, str, str]:
    cases = max(point.cases, 1)
    return (
        label(point.axis),
        str(point.value),
        str(point.cases),
        _time(point.seconds / cases),
        _time(point.cpu / cases),
    )


def view(line: HarnessLine) -> HarnessView:
    """Everything that a report shows of a measurement."""
    pictures = []
    for axis, words in _AXES.items():
        own = [point for point in line.points if point.axis == axis]
        series = {
            "wall clock": [(point.value, point.seconds / max(point.cases, 1)) for point in own],
            "CPU": [(point.value, point.cpu / max(point.cases, 1)) for point in own],
        }
        picture = growth("Seconds for a case", "seconds", series)
        # One size is no growth: the table has it.
        if picture is not None and not line.refused and len({point.value for point in own}) > 1:
            pictures.append(picture.against(words))
    facts = [
        *((f"{label(name)}: shapes", str(amount)) for name, amount in line.programs.items()),
        *((f"{label(name)}: peak memory", f"{amount / 2**20:.0f} MiB") for name, amount in line.memory.items()),
        *((label(name), label(text)) for name, text in sorted(line.machine.items())),
    ]
    return HarnessView(
        title=f"{label(line.requirement)}, {label(line.dtype)}: {listed([label(name) for name in line.candidates])}",
        told=tuple(told(line)),
        sides=tuple(
            (
                label(side.name),
                (side.left_out or side.contains)[:_LONGEST],
                f"{len(side.seconds)} \N{MULTIPLICATION SIGN} {side.cases}",
                "" if line.refused else _each(side.seconds, side.cases),
                "" if line.refused else _each(side.cpu, side.cases),
            )
            for side in line.sides
        ),
        points=() if line.refused else tuple(map(_point, line.points)),
        pictures=tuple(pictures),
        facts=tuple(facts),
        refused=tuple(label(text) for text in line.refused),
    )


def missed(line: HarnessLine) -> bool:
    """Whether a target was measured and not met."""
    return any(one.met == "not met" for one in told(line))


def harness_headline(line: HarnessLine) -> str:
    """The answer in one sentence."""
    found = list(told(line))
    aimed = [one for one in found if one.target]
    met, short = (sum(one.met == word for one in aimed) for word in ("met", "not met"))
    if line.refused:
        return f"no time is told: {label(line.refused[0])}."
    lost = [f"{one.title} is {one.deciding} ({one.target})" for one in aimed if one.met == "not met"]
    text = f"{met} of {count(len(aimed), 'target')} met"
    text += f"; {short} not met: {listed(lost)}" if short else ""
    text += f"; {len(aimed) - met - short} not measured" if met + short < len(aimed) else ""
    return f"{text}."


class Writer(Protocol):
    """As `conformance.report.speed_text.Writer`."""

    def text(self, content: str, style: str = "") -> Text:
        """Harmless text for a table."""

    def line(self, content: str, style: str = "", *, indent: int = 0) -> None:
        """A line, wrapped at the console's width."""


def print_harness(line: HarnessLine, console: Console, writer: Writer) -> None:
    """The same on a terminal."""
    shown = view(line)
    writer.line(f"What the harness costs: {shown.title}", "bold")
    for text in shown.refused:
        writer.line(f"Not told: {text}.", "bold yellow")
    _print(
        console,
        writer,
        ("a case", "seconds [range]", "CPU", "target", ""),
        [(one.title, one.ratio, one.cpu, one.target, one.met) for one in shown.told],
    )
    for one in shown.told:
        writer.line(f"{one.title}: {one.says}{f'; {one.why}' if one.why else ''}", "dim", indent=2)
    writer.line("")
    _print(
        console,
        writer,
        ("side", "a case", "CPU", "rounds \N{MULTIPLICATION SIGN} cases"),
        [(name, wall, cpu, rounds) for name, _, rounds, wall, cpu in shown.sides],
    )
    for name, contains, *_ in shown.sides:
        writer.line(f"{name}: {contains}", "dim", indent=2)
    writer.line("")
    _print(console, writer, ("against", "value", "cases", "a case", "CPU a case"), shown.points)
    for name, fact in shown.facts:
        writer.line(f"{name}: {fact}", "dim", indent=2)


def _print(console: Console, writer: Writer, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    # Where it is too narrow, names give way, never what is told of them.
    for place, heading in enumerate(headings):
        table.add_column(Text(heading), overflow="fold", no_wrap=place > 0)
    for row in rows:
        table.add_row(*map(writer.text, row))
    console.print(table)
    writer.line("")
