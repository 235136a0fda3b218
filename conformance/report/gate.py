"""What a gate found, in words: one paragraph, a row for what changed alike, a row for what drifted alike.

Terminal, HTML, JUnit, annotations and step summary all take their words from here, so that none of them can say
something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias, assert_never

from msgspec import Struct
from rich.console import Console
from rich.text import Text

from conformance.drift import Drift
from conformance.gate import KINDS, Answer, Change, Kind, Outcome
from conformance.record import CandidateLine, FaultEntry, Finding, Incident, Record
from conformance.report.called import framework_of
from conformance.report.known import problem_text
from conformance.report.wording import block, count, label, listed, number, one_line
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unsupported, core

_MOST: Final = 6
_FEW: Final = 3
_LINES: Final = 4
Key: TypeAlias = tuple[str, str, str]
"""Candidate, requirement and dtype of a finding."""
Tone: TypeAlias = Literal["diverges", "inconclusive", "agrees", "unsupported"]
TONES: Final[dict[Kind, Tone]] = {
    "regressed": "diverges",
    "changed": "inconclusive",
    "inconclusive": "inconclusive",
    "gone": "inconclusive",
    "fixed": "agrees",
    "new": "unsupported",
    "unchanged": "unsupported",
}
MEANINGS: Final[dict[Kind, str]] = {
    "regressed": "it agreed, and does not any more; or it answered, and breaks",
    "changed": "it was wrong or broke, and is wrong or breaks in another way: another fault, another size",
    "inconclusive": "one of the two sides could not tell",
    "gone": "it is not offered any more",
    "fixed": "it was wrong or broke, and agrees now",
    "new": "there is nothing to hold it against",
    "unchanged": "it is as it was",
}
_SAID: Final[dict[Kind, str]] = {"changed": "wrong in another way", "gone": "not offered any more"}
_ANSWERS: Final[dict[Answer, tuple[str, Tone]]] = {
    "safe": ("Safe", "agrees"),
    "regressed": ("Regressed", "diverges"),
    "could not tell": ("Could not tell", "inconclusive"),
    "changed": ("Neither safe nor regressed", "inconclusive"),
}


class ChangeRow(Struct, frozen=True, kw_only=True):
    """Changes of one variant and requirement of which the same is to be said.

    cause: the fault that came or went, "" where none is named; aside: "does not decide", or "".
    before_key, after_key: the first finding of each side, None where it has none.
    """

    kind: Kind
    tone: Tone
    variant: str
    requirement: str
    cause: str
    dtypes: str
    before: str
    after: str
    why: str
    aside: str
    before_key: Key | None
    after_key: Key | None


class DriftRow(Struct, frozen=True, kw_only=True):
    """Drift of one variant and cell. moved: how many of its probes; the figures are the largest ones."""

    variant: str
    cell: str
    moved: str
    difference: str
    ulps: str
    share: str


class Absence(Struct, frozen=True, kw_only=True):
    """A candidate that never came up. what: why, in a sentence; details: what was found and what to do, in lines."""

    candidate: str
    what: str
    details: str


class GateText(Struct, frozen=True, kw_only=True):
    """The gate's section of a report."""

    answer: str
    title: str
    tone: Tone
    before: str
    after: str
    paragraph: str
    counts: tuple[tuple[Kind, Tone, int, str], ...]
    rows: tuple[ChangeRow, ...]
    unchanged: int
    drifts: tuple[DriftRow, ...]
    drift: str
    problems: tuple[tuple[str, str], ...]
    incidents: tuple[str, ...]
    absent: tuple[Absence, ...]
    doubts: tuple[str, ...]


def gate_text(record: Record, outcome: Outcome) -> GateText:
    """All that is to be said about a gate."""
    title, tone = _ANSWERS[outcome.answer]
    counts = tuple((kind, TONES[kind], amount, MEANINGS[kind]) for kind in KINDS if (amount := len(outcome.of(kind))))
    return GateText(
        answer=title,
        title=f"{_move(outcome)}: {sentence(outcome)}",
        tone="diverges" if outcome.problems else tone,
        before=_side(outcome, before=True),
        after=_side(outcome, before=False),
        paragraph=paragraph(record, outcome),
        counts=counts,
        rows=rows(outcome),
        unchanged=len(outcome.of("unchanged")),
        drifts=drift_rows(outcome.drifts),
        drift=drift_text(outcome.drifts),
        problems=tuple((problem.kind, problem_text(problem)) for problem in outcome.problems),
        incidents=tuple(dict.fromkeys(f"{label(i.candidate)}: {label(i.what)}" for i in _exits(record.incidents))),
        absent=tuple(_absent(outcome)),
        doubts=tuple(label(doubt) for doubt in outcome.doubts),
    )


def _absent(outcome: Outcome) -> Iterable[Absence]:
    """The candidates of which nothing could be asked, each once."""
    told: set[str] = set()
    for change in outcome.changes:
        for finding in (change.before, change.after):
            if finding is None or finding.candidate in told or not _never_up(finding):
                continue
            told.add(finding.candidate)
            verdict = core(finding.verdict)
            assert isinstance(verdict, Broken)
            tail = verdict.stderr_tail.rstrip()
            if verdict.kind == "start" or tail.startswith("Traceback"):  # the message has the error itself
                tail = "\n".join(tail.splitlines()[-_LINES:])
            yield Absence(candidate=label(finding.candidate), what=one_line(verdict.message), details=block(tail))


def _never_up(finding: Finding | None) -> bool:
    """Whether it says that its candidate has no environment, or does not start in it."""
    verdict = None if finding is None else core(finding.verdict)
    return isinstance(verdict, Broken) and verdict.kind in ("environment", "start")


def _exits(incidents: Iterable[Incident]) -> Iterable[Incident]:
    """Workers that broke after every result was delivered: told, and nothing else."""
    return (incident for incident in incidents if "after delivering every result" in incident.what)


def _move(outcome: Outcome) -> str:
    """Both sides in a few words: ``MLX 0.31.1 -> 0.32.4`` where one framework moves between two releases."""
    before, after = _sides(outcome)
    frameworks = {line.framework for side in (True, False) for line in _came(outcome, before=side)}
    (name,) = frameworks if len(frameworks) == 1 else ("",)
    arrow = "\N{RIGHTWARDS ARROW}"
    if name and before.startswith(f"{label(name)} ") and after.startswith(f"{label(name)} "):
        return f"{before} {arrow} {after.removeprefix(label(name)).lstrip()}"
    asked = [label(side).partition("==") for side in (outcome.gate.before, outcome.gate.after)]
    if not outcome.gate.source and asked[0][0] == asked[1][0] and asked[0][2] and asked[1][2]:
        return f"{asked[0][0]} {asked[0][2]} {arrow} {asked[1][2]}"
    return f"{before} {arrow} {after}"


def _sides(outcome: Outcome) -> tuple[str, str]:
    """What a sentence calls both sides: framework and release, where that tells them apart; else as they were asked."""
    told = [list(dict.fromkeys(framework_of(line) for line in _came(outcome, before=side))) for side in (True, False)]
    if all(len(names) == 1 and names[0] for names in told) and told[0] != told[1]:
        return told[0][0], told[1][0]
    return _side(outcome, before=True), _side(outcome, before=False)


def _came(outcome: Outcome, *, before: bool) -> Sequence[CandidateLine]:
    """The candidates of one side that came up."""
    lines: Iterable[CandidateLine] = (outcome.lines_before if before else outcome.lines_after).values()
    names = {pair.before if before else pair.after for pair in outcome.gate.pairs}
    return [line for line in lines if line.name in names]


def sentence(outcome: Outcome) -> str:
    """The answer, and how many requirements changed: ``safe; 1 requirement fixed``."""
    told: list[str] = [] if outcome.answer == "regressed" else [outcome.answer]
    for kind in KINDS:
        for decides in (True, False):
            names = {change.requirement for change in outcome.of(kind, decides=decides)}
            if names and kind != "unchanged":
                aside = "" if decides else ", which does not decide" if len(names) == 1 else ", which do not decide"
                told.append(f"{count(len(names), 'requirement')} {_SAID.get(kind, kind)}{aside}")
    if told == [outcome.answer]:
        told.append("nothing changed")
    if outcome.problems:
        told.append("the list of known divergences does not hold")
    return "; ".join(told)


def _side(outcome: Outcome, *, before: bool) -> str:
    """What one side is: as it was asked for, and the releases that came."""
    gate = outcome.gate
    versions = list(dict.fromkeys(label(line.version) for line in _came(outcome, before=before) if line.version))
    asked = gate.before if before else gate.after
    told = label(asked)
    if any(version not in asked for version in versions):
        told += f" ({listed(versions)})"
    return f"{told} as in {label(gate.source)}" if before and gate.source else told


def paragraph(record: Record, outcome: Outcome) -> str:
    """The verdict in words."""
    before, after = _sides(outcome)
    regressed, fixed = outcome.of("regressed", decides=True), outcome.of("fixed")
    sentences: list[str] = []
    match outcome.answer:
        case "regressed":
            sentences.append(f"Regressed: {_told(record, regressed, after=True)}, from {before} to {after}.")
        case "safe":
            sentences.append(f"Safe: nothing that decides is worse in {after} than in {before}.")
        case "could not tell":
            sentences.append(f"Could not tell whether {after} is as good as {before}: {listed(outcome.doubts)}.")
        case "changed":
            sentences.append(
                f"Neither safe nor regressed: nothing that agreed in {before} is worse in {after}, but what was "
                "wrong or broke before is now wrong or breaks in another way."
            )
        case _:
            assert_never(outcome.answer)
    if changed := outcome.of("changed", decides=True):
        sentences.append(f"Changed: {_otherwise(record, changed)}.")
        if any(_silenced(change) for change in changed):
            sentences.append("What raised an error before now goes wrong in silence: see whether you use it.")
    if fixed:
        sentences.append(f"Fixed: {_told(record, fixed, after=False)}.")
    if outcome.answer == "regressed" and outcome.doubts:
        sentences.append(f"Beside that, {listed(outcome.doubts)}.")
    aside = outcome.of("regressed", decides=False)
    if aside:
        sentences.append(f"Worse, but not deciding: {_told(record, aside, after=True)}.")
    unchanged = outcome.of("unchanged")
    wrong = [c for c in unchanged if c.after is not None and not isinstance(core(c.after.verdict), Agrees)]
    said = (
        f"{count(len(unchanged), 'check')} of {len(outcome.changes)} {'is' if len(unchanged) == 1 else 'are'} unchanged"
    )
    more = f", {len(wrong)} of them wrong on both sides ({_told(record, wrong, after=True)})" if wrong else ""
    sentences.append(f"{said}{more}.")
    if drift := drift_text(outcome.drifts):
        sentences.append(drift)
    if outcome.problems:
        sentences.append(
            f"The list of known divergences does not hold in {count(len(outcome.problems), 'place')}: "
            f"{listed([problem_text(p) for p in outcome.problems], most=3)}."
        )
    return " ".join(sentences)


def _told(record: Record, changes: Sequence[Change], *, after: bool) -> str:
    """Requirements by what is wrong with them: ``gru_hidden_none, drop_rbhn_t0 (...) in mlx:none``."""
    alike: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for change in changes:
        finding = change.after if after else change.before
        names, dtypes, variants = alike.setdefault(_cause(record, finding), ([], [], []))
        names.append(label(change.requirement))
        dtypes.append(label(change.dtype))
        variants.append(label(change.variant))
    return "; ".join(
        f"{listed(_once(names), most=_MOST)}, {cause} in {listed(_once(variants), most=3)} ({', '.join(_once(dtypes))})"
        for cause, (names, dtypes, variants) in alike.items()
    )


def _otherwise(record: Record, changes: Sequence[Change]) -> str:
    """Requirements by how they were wrong and how they are now."""
    alike: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        before, after = _cause(record, change.before), _cause(record, change.after)
        if before == after:  # the size or the signal is another one
            before, after = phrase(change.before), phrase(change.after)
        alike.setdefault((before, after), []).append(change)
    return "; ".join(f"{_where(own)}: {before} before, {after} now" for (before, after), own in alike.items())


def _where(changes: Sequence[Change]) -> str:
    names, variants, dtypes = (
        _once(label(text) for text in texts)
        for texts in zip(*((c.requirement, c.variant, c.dtype) for c in changes), strict=True)
    )
    return f"{listed(names, most=_MOST)} in {listed(variants, most=3)} ({', '.join(dtypes)})"


def _silenced(change: Change) -> bool:
    """Whether what broke gives a wrong answer now."""
    first, second = (None if f is None else core(f.verdict) for f in (change.before, change.after))
    return isinstance(first, Broken) and isinstance(second, Diverges)


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _cause(record: Record, finding: Finding | None) -> str:
    verdict = None if finding is None else core(finding.verdict)
    match verdict:
        case Diverges(faults=faults):
            entry = _entry(record, faults[0]) if faults else None
            named = _named(verdict)
            return f"{named} ({label(entry.statement)})" if entry is not None and len(faults) == 1 else named
        case Broken(kind=kind):
            return f"no answer ({kind})"
        case _:
            return phrase(finding)


def _named(verdict: Diverges) -> str:
    return listed([label(fault) for fault in verdict.faults], last="or", most=3) or "none of the catalogue's faults"


def _entry(record: Record, name: str) -> FaultEntry | None:
    return next((e for entries in record.header.faults.values() for e in entries if e.name == name), None)


def phrase(finding: Finding | None) -> str:
    """What one side shows."""
    if finding is None:
        return "not asked"
    verdict = core(finding.verdict)
    match verdict:
        case Agrees(share=share):
            return f"agrees, largest share of the bound {number(share, 2)}"
        case Diverges(evidence=evidence):
            return f"diverges: {_named(verdict)}, largest difference {number(evidence.largest_difference, 3)}"
        case Broken(kind=kind, message=message):
            return f"broken ({kind}): {label(message)}"
        case Inconclusive(why=why):
            return f"inconclusive: {label(why)}"
        case Unsupported(what=what):
            return f"not offered: {label(what)}"
        case None:
            return "nothing was tried"
        case _:
            assert_never(verdict)


def _faults(finding: Finding | None) -> str:
    verdict = None if finding is None else core(finding.verdict)
    return listed([label(f) for f in verdict.faults], last="or", most=3) if isinstance(verdict, Diverges) else ""


def _short(finding: Finding | None) -> str:
    """What one side shows without its figures: rows of which this is the same are one row."""
    verdict = None if finding is None else core(finding.verdict)
    match verdict:
        case Agrees():
            return "agrees"
        case Diverges():
            return f"diverges: {_named(verdict)}"
        case _:
            return phrase(finding)


def _key(finding: Finding | None) -> Key | None:
    return None if finding is None else (finding.candidate, finding.requirement, finding.dtype)


def rows(outcome: Outcome) -> tuple[ChangeRow, ...]:
    """Everything that is not unchanged, dtypes of one requirement together.

    Where a side never came up, nothing is to be said of single requirements: all of a variant are one row.
    """
    alike: dict[tuple[str, ...], list[Change]] = {}
    for change in outcome.changes:
        if change.kind != "unchanged":
            said = (_short(change.before), _short(change.after), change.why, "" if change.decides else "aside")
            single = "" if _never_up(change.before) or _never_up(change.after) else change.requirement
            alike.setdefault((change.kind, change.variant, single, *said), []).append(change)
    return tuple(_row(own) for own in alike.values())


def _row(own: Sequence[Change]) -> ChangeRow:
    first, names = own[0], _once(label(change.requirement) for change in own)
    before, after = (phrase(finding) if len(names) == 1 else _short(finding) for finding in (first.before, first.after))
    said = first.why.partition(": ")[2]
    why = (
        "" if said and label(said) in f"{before}\n{after}" else first.why
    )  # a side that could not tell says why itself
    return ChangeRow(
        kind=first.kind,
        tone=TONES[first.kind],
        variant=label(first.variant),
        requirement=listed(names, most=_FEW),
        cause=_faults(first.after) or _faults(first.before),
        dtypes=", ".join(_once(label(change.dtype) for change in own)),
        before=before,
        after=after,
        why=label(why),
        aside="" if first.decides else "does not decide",
        before_key=_key(first.before),
        after_key=_key(first.after),
    )


def drift_rows(found: Sequence[Drift]) -> tuple[DriftRow, ...]:
    """Drift by variant and cell, where there is any."""
    alike: dict[tuple[str, str], list[Drift]] = {}
    for drift in found:
        if drift.kind in ("identical", "drift"):
            alike.setdefault((drift.pair.after, drift.cell), []).append(drift)
    return tuple(
        DriftRow(
            variant=label(variant),
            cell=label(cell),
            moved=f"{len(moved)} of {len(own)}",
            difference=number(max(d.difference for d in moved), 3),
            ulps=number(max(d.ulps for d in moved), 3),
            share=number(max(d.share for d in moved), 3),
        )
        for (variant, cell), own in alike.items()
        if (moved := [d for d in own if d.kind == "drift"])
    )


def drift_text(found: Sequence[Drift]) -> str:
    """Drift in a sentence; it never decides."""
    measured = [d for d in found if d.kind in ("identical", "drift")]
    moved = [d for d in measured if d.kind == "drift"]
    if not measured:
        return ""
    if not moved:
        return f"Bits are identical on {'the one probe' if len(measured) == 1 else f'all {len(measured)} probes'}."
    worst = [(dtype, [d for d in moved if d.dtype == dtype]) for dtype in _once(d.dtype for d in moved)]
    told = [
        f"{number(max(d.difference for d in own), 2)} in {label(dtype)} ({number(max(d.ulps for d in own), 3)} ulp)"
        for dtype, own in worst
    ]
    return (
        f"Bits moved inside the bounds on {len(moved)} of {len(measured)} probes, by at most {listed(told)}: "
        "informational, no regression."
    )


def print_gate(text: GateText, console: Console) -> None:
    """What changed, then the verdict; nothing is read as markup."""

    def line(content: str, style: str = "") -> None:
        encoded = content.encode(console.encoding, "backslashreplace").decode(console.encoding)
        console.print(Text(encoded, style=style))

    styles = {"diverges": "bold red", "inconclusive": "yellow", "agrees": "green", "unsupported": ""}
    for row in text.rows:
        aside = f" ({row.aside})" if row.aside else ""
        cause = f", {row.cause}" if row.cause else ""
        line(f"{row.kind}: {row.requirement}{cause} ({row.variant}, {row.dtypes}){aside}", styles[row.tone])
        why = f" [{row.why}]" if row.why else ""
        line(f"  before: {row.before}\n  after:  {row.after}{why}")
    for drift in text.drifts:
        line(
            f"drift: {drift.variant}, {drift.cell}: {drift.moved} probes, at most {drift.difference}, "
            f"{drift.ulps} ulp, {drift.share} of the bound of a step"
        )
    for incident in text.incidents:
        line(f"noted: {incident}", "yellow")
    for absence in text.absent:
        line(f"not available: {absence.candidate}: {absence.what}", "yellow")
        for detail in absence.details.splitlines():
            line(detail)
    for _, problem in text.problems:
        line(problem, "bold red")
    line("")
    line(text.paragraph, "bold")
