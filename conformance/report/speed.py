"""What timings amount to: a ratio with its interval, or why there is none.

Every surface asks here. A speed-up is told only of two sides that both compute what the reference does, by different
code, where the interval excludes one and lies beyond what the same code differed by in the same rounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from conformance.ratio import Ratio, Spread, paired_ratio, spread
from conformance.record import BenchLine, BenchSide, Record, ScanLine
from conformance.report.harness import harness_headline
from conformance.report.wording import count, label, listed, number, share
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, Verdict

Measured: TypeAlias = BenchLine | ScanLine
Kind = Literal["baseline", "control", "faster", "slower", "alike", "wide", "same path", "refused", "broken", "left out"]
WIDE: Final = 0.25
"""An interval whose ends are apart by more than this share tells nothing of sides that it does not tell apart."""

ONE_CORE: Final = 0.85
"""A side that computes and has less of a core than this had to wait for others."""


class Conclusion(Struct, frozen=True, kw_only=True):
    """What is told of a side.

    ratio: baseline seconds / its seconds, only where it may be told. cpu: the same of CPU seconds, which wait for
    nobody and count all threads: beside the answer, not part of it.
    """

    kind: Kind
    text: str
    ratio: Ratio | None = None
    cpu: Ratio | None = None


# The parts of an attested path that spell how it was called, and not what ran: plain argument names, and features.
_SPELLING: Final = re.compile(
    r"\((?:[a-z_][a-z0-9_]*(?:=[^,()]*)?(?:, ?)?)*\)"
    r"|, (?:first called with(?:out)? \w+|no switch in this release)"
    r"|(?: \+[a-z_]+)+$",
    re.ASCII,
)


def implementation(side: BenchSide) -> tuple[str, str, str]:
    """What ran: adapter, release and environment, and the path without what only spells the call."""
    adapter = side.candidate.partition(":")[0].partition("=")[0].partition("@")[0]
    return adapter, f"{side.version} {side.environment}", _SPELLING.sub("", side.path).strip()


def same_path(one: BenchSide, other: BenchSide) -> bool:
    """Whether the same code ran on both sides, however it was called."""
    return implementation(one) == implementation(other)


def baseline_of(line: Measured) -> BenchSide | None:
    """The side that the others are compared with."""
    return next((side for side in line.sides if side.candidate == line.baseline and not side.control), None)


def control_of(line: Measured) -> Ratio | None:
    """What the baseline differed by from itself, in another process and the same rounds."""
    one = baseline_of(line)
    other = next((side for side in line.sides if side.candidate == line.baseline and side.control), None)
    if one is None or other is None or refusal(one) or refusal(other) or not same_path(one, other):
        return None
    return paired_ratio(one.seconds, other.seconds)


def spread_of(side: BenchSide) -> Spread | None:
    """The spread of a side's calls; None where they may not be told."""
    return None if refusal(side) else spread(side.seconds)


def refusal(side: BenchSide) -> str:
    """Why nothing may be told of a side's speed, "" where it may."""
    if side.left_out:
        return label(side.left_out)
    return _refused(side.verdict)


def _refused(verdict: Verdict | None) -> str:
    match verdict:
        case None:
            return "not run"
        case Agrees():
            return "" if verdict.compared > 0 else "nothing was compared with the reference"
        case Unrepresentable():
            return _refused(verdict.subspace)
        case Diverges():
            faults = f" like {listed([label(name) for name in verdict.faults], 'or', most=3)}" if verdict.faults else ""
            return f"computes something else{faults}: its speed is not compared"
        case Inconclusive():
            return label(verdict.why)
        case Broken():
            return f"broken: {label(verdict.message)}"
        case Unsupported():
            return f"unsupported: {label(verdict.reason)}"
        case _:
            assert_never(verdict)


def conclusion(line: Measured, side: BenchSide) -> Conclusion:
    """What is told of one side against the baseline."""
    if side.left_out:
        return Conclusion(kind="left out", text=label(side.left_out))
    why = refusal(side)
    if why:
        broken = isinstance(side.verdict, Broken)
        return Conclusion(kind="broken" if broken else "refused", text=why)
    baseline = baseline_of(line)
    if side is baseline:
        return Conclusion(kind="baseline", text="the baseline")
    if baseline is None or refusal(baseline):
        return Conclusion(kind="refused", text="no ratio: there is no baseline that may be compared with")
    if side.control:
        return replace(_control(line), cpu=paired_ratio(baseline.cpu, side.cpu))
    if same_path(baseline, side):
        return Conclusion(
            kind="same path", text="no speed-up reported: the same path ran on both sides, whatever the clock says"
        )
    ratio = paired_ratio(baseline.seconds, side.seconds)
    if ratio is None:
        return Conclusion(kind="refused", text=f"no ratio: {count(len(side.seconds), 'round')} do not give an interval")
    told = _told(ratio, control_of(line), controlled=any(other.control for other in line.sides))
    cpu = None if told.ratio is None else paired_ratio(baseline.cpu, side.cpu)
    if told.kind in ("faster", "slower") and crowded(line) and not _shown(told.kind, cpu):
        # Who waits for a core is not who computes: a scheduler may keep one process waiting for minutes.
        text = "too noisy to tell: the machine was busy, and CPU seconds do not show it"
        return Conclusion(kind="wide", text=text, ratio=told.ratio, cpu=cpu)
    return replace(told, cpu=cpu)


def _shown(kind: Kind, cpu: Ratio | None) -> bool:
    """Whether CPU seconds show the same difference."""
    return cpu is not None and (cpu.low > 1 if kind == "faster" else cpu.high < 1)


def _control(line: Measured) -> Conclusion:
    ratio = control_of(line)
    if ratio is None:
        return Conclusion(kind="control", text="the baseline once more: no ratio")
    return Conclusion(
        kind="control", text="the same code in another process: what differs less is not told apart", ratio=ratio
    )


def _told(ratio: Ratio, control: Ratio | None, *, controlled: bool) -> Conclusion:
    least = 1.0 if control is None else control.distance
    if controlled and control is None:
        return Conclusion(kind="refused", text="no ratio: the baseline could not be compared with itself")
    if ratio.low > least:
        return Conclusion(kind="faster", text="faster", ratio=ratio)
    if ratio.high < 1 / least:
        return Conclusion(kind="slower", text="slower", ratio=ratio)
    if ratio.width > WIDE:
        return Conclusion(kind="wide", text="too noisy to tell", ratio=ratio)
    beyond = ratio.low > 1 or ratio.high < 1
    text = "no difference seen beyond that of the same code" if beyond else "no difference seen"
    return Conclusion(kind="alike", text=text, ratio=ratio)


def short(told: Conclusion) -> str:
    """A conclusion in a word or two."""
    words: dict[Kind, str] = {
        "alike": "no difference",
        "wide": "too noisy",
        "refused": "not compared",
        "left out": "not measured",
        "control": "same code",
    }
    return words.get(told.kind, told.kind)


def ratio_text(ratio: Ratio | None) -> str:
    """``1.23x [1.20, 1.26]``, "" for none."""
    if ratio is None:
        return ""
    return f"{_times(ratio.median)}\N{MULTIPLICATION SIGN} [{_times(ratio.low)}, {_times(ratio.high)}]"


def _times(value: float) -> str:
    return number(value, 3) if value >= 100 or value < 0.01 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def time_text(seconds: float | None) -> str:
    """Seconds in the unit that suits them."""
    if seconds is None:
        return ""
    factor, unit = _unit(seconds)
    return f"{number(seconds * factor, 3)} {unit}"


def _unit(seconds: float) -> tuple[float, str]:
    if seconds < 1e-3:
        return 1e6, "\N{MICRO SIGN}s"
    return (1e3, "ms") if seconds < 1 else (1.0, "s")


def spread_text(found: Spread | None) -> str:
    """``1.5 ms [1.4, 1.7]``: the median and its quartiles in one unit."""
    if found is None:
        return ""
    factor, _ = _unit(found.median)
    return f"{time_text(found.median)} [{number(found.low * factor, 3)}, {number(found.high * factor, 3)}]"


def crowded(line: Measured) -> str:
    """What to say of a machine that was too busy to give every side one core, "" where it was not."""
    had = [cores for side in line.sides if (cores := cores_of(side)) is not None]
    if not had or min(had) >= ONE_CORE:
        return ""
    return f"the machine was busy: a side had {number(min(had), 2)} of a core"


def cores_of(side: BenchSide) -> float | None:
    """How many cores a side's calls kept busy; None where it was not timed."""
    wall, busy = spread_of(side), spread(side.cpu)
    return None if wall is None or busy is None else busy.median / wall.median


def share_text(side: BenchSide) -> str:
    """The largest share of the bound that a side used, or how far it is beyond."""
    verdict = side.verdict.subspace if isinstance(side.verdict, Unrepresentable) else side.verdict
    match verdict:
        case Agrees():
            return share(verdict.share)
        case Diverges():
            return share(verdict.evidence.share)
        case _:
            return ""


def remarks(side: BenchSide, batch: int) -> tuple[str, ...]:
    """What else a reader must know of a side: parameters at zero, and rows that were not judged."""
    told = []
    if side.zeroed:
        told.append(f"with {listed([label(name) for name in side.zeroed], most=4)} at zero: it has no place for it")
    if 0 < side.rows < batch:
        told.append(f"{side.rows} of {batch} rows judged")
    return tuple(told)


def shape_words(line: Measured) -> str:
    """The sizes of a comparison."""
    batch, time, features, hidden = line.shape
    return f"batch {batch}, {count(time, 'step')}, {features} inputs, {hidden} units, {label(line.dtype)}"


def is_benchmark(record: Record) -> bool:
    """Whether a record is about speed alone: it asked no requirement and has timings."""
    asked = (record.header.requirements, record.findings, record.trials)
    return not any(asked) and bool(record.benches or record.scans or record.harness)


def speed_headline(record: Record) -> str:
    """The answer of a benchmark in one sentence."""
    if record.harness and not measured(record):
        problems = speed_problems(record)
        return harness_headline(record.harness[0]) if not record.problem else f"{problems[0]}."
    lines = measured(record)
    ran = [line for line in lines if any(side.seconds for side in line.sides)]
    text = f"{len(ran)} of {count(len(lines), 'comparison')} measured here"
    problems, told = speed_problems(record), _pairs(ran)
    if len(lines) == 1 and told and not problems:
        (only,) = lines
        subject = label(only.title) if isinstance(only, BenchLine) else f"a scan of {label(only.cell)}"
        return f"{_sayings(told)}: {subject}, {shape_words(only)}."
    text += f"; {_sayings(told) if len(ran) == 1 else _tally(told)}" if told else "; nothing to tell of any side"
    return f"{text}; but {problems[0]}." if problems else f"{text}."


_Pair: TypeAlias = tuple[str, str, Conclusion]
"""A candidate, its baseline, and what is told of it."""


def _pairs(lines: Sequence[Measured]) -> list[_Pair]:
    return [
        (label(side.candidate), label(line.baseline), told)
        for line in lines
        for side in line.sides
        if not side.control and (told := conclusion(line, side)).kind in _COUNTED
    ]


_COUNTED: Final[dict[Kind, str]] = {
    "faster": "faster",
    "slower": "slower",
    "alike": "without a difference",
    "wide": "too noisy to tell",
    "same path": "on the same path",
}
_NAMED: Final = 3
"""Of so many candidates something is told in the first sentence."""


def _sayings(told: Sequence[_Pair]) -> str:
    """One comparison in words, a candidate after the other."""
    parts = [_saying(*pair) for pair in told[:_NAMED]]
    return "; ".join([*parts, *([f"{len(told) - _NAMED} more below"] if told[_NAMED:] else [])])


def _saying(name: str, baseline: str, told: Conclusion) -> str:
    match told.kind:
        case "faster" | "slower":
            return f"{name} is {ratio_text(told.ratio)} as fast as {baseline}"
        case "alike":
            return f"no difference seen between {name} and {baseline}"
        case "same path":
            return f"{name} ran the same path as {baseline}"
        case _:
            return f"too noisy to tell {name} from {baseline}"


def _tally(told: Sequence[_Pair]) -> str:
    """Many comparisons: how often each candidate was what, by baseline."""
    found: dict[tuple[str, str], list[Kind]] = {}
    for name, baseline, one in told:
        found.setdefault((baseline, name), []).append(one.kind)
    parts, last = [], ""
    for (baseline, name), kinds in list(found.items())[:_NAMED]:
        against = "" if baseline == last else f"against {baseline}, "
        amounts = [f"{word} in {kinds.count(kind)}" for kind, word in _COUNTED.items() if kind in kinds]
        parts.append(f"{against}{name} is {listed(amounts)}")
        last = baseline
    return "; ".join([*parts, *([f"{len(found) - _NAMED} more below"] if len(found) > _NAMED else [])])


def speed_limits(record: Record) -> tuple[str, ...]:
    """What the timings could not tell, and why, each thing once."""
    found: dict[str, list[str]] = {}
    for line in measured(record):
        where = _place(line)
        if isinstance(line, BenchLine) and line.left_out:
            found.setdefault(label(line.left_out), []).append(where)
            continue
        if busy := crowded(line):
            found.setdefault(busy, []).append(where)
        for side in line.sides:
            told = conclusion(line, side)
            if told.kind in ("wide", "same path", "refused", "broken", "left out"):
                found.setdefault(f"{label(side.candidate)}: {told.text}", []).append(where)
    return tuple(f"{text} ({listed(list(dict.fromkeys(places)), most=3)})" for text, places in found.items())


def _place(line: Measured) -> str:
    return label(line.title) if isinstance(line, BenchLine) else f"T = {line.shape[1]}"


def speed_problems(record: Record) -> tuple[str, ...]:
    """What a reader must not overlook: sides that diverge, broke or took another path, and what was not finished."""
    found = []
    if record.problem:
        found.append(f"the record is {label(record.problem)}")
    found += [
        f"{label(side.candidate)} on {name_of(line)}: {why}"
        for line in measured(record)
        for side in line.sides
        if not side.left_out and side.verdict is not None and (why := refusal(side))
    ]
    found += [label(text) for line in record.harness for text in line.refused]
    return tuple(dict.fromkeys(found))


def speed_exit_code(record: Record) -> int:
    """1 when a side computes something else; 3 when one broke or was not told, or nothing was measured; else 0."""
    verdicts = [side.verdict for side in all_sides(measured(record)) if side.verdict is not None]
    if any(isinstance(_inner(verdict), Diverges) for verdict in verdicts):
        return 1
    timed = any(side.seconds for line in (*measured(record), *record.harness) for side in line.sides)
    return 3 if speed_problems(record) or not timed else 0


def _inner(verdict: Verdict) -> Verdict | None:
    return verdict.subspace if isinstance(verdict, Unrepresentable) else verdict


def measured(record: Record) -> tuple[Measured, ...]:
    """The lines of a record that are about speed."""
    return (*record.benches, *record.scans)


def all_sides(lines: Iterable[Measured]) -> Sequence[BenchSide]:
    """Every side of every line."""
    return [side for line in lines for side in line.sides]


def name_of(line: Measured) -> str:
    """What a line is called in a sentence."""
    return label(line.name) if isinstance(line, BenchLine) else f"the scan of {count(line.shape[1], 'step')}"
