"""What a record amounts to: the order of outcomes, the answer in one sentence, the exit code.

Every surface (HTML, terminal, exit code) asks here, so that none of them can disagree with another. Nothing is
a pass by default: a candidate without a finding, a check that compared nothing and a record that breaks off are
all "not shown".

Requirements have levels, and only those that *decide* count for outcomes, gaps and the exit code: the MUST ones, or
all of a record that asks none of them. What is found on the others is told beside the answer, never left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, assert_never

from msgspec import Struct

from conformance.known import check_known
from conformance.record import CandidateLine, FaultEntry, Finding, Record, Trial
from conformance.report.called import called, called_together
from conformance.report.speed import is_benchmark, speed_exit_code, speed_headline
from conformance.report.wording import count, label, listed
from conformance.verdict import (
    Agrees,
    Broken,
    Core,
    Diverges,
    Inconclusive,
    Unrepresentable,
    Unsupported,
    Verdict,
    core,
)

Outcome = Literal["diverges", "broken", "inconclusive", "untested", "unrepresentable", "agrees", "unsupported"]
ORDER: Final[tuple[Outcome, ...]] = (
    "diverges",
    "broken",
    "inconclusive",
    "untested",
    "unrepresentable",
    "agrees",
    "unsupported",
)
"""Worst first; "untested" is a candidate without any finding."""

NOT_IN_CATALOGUE: Final = "none of the catalogue's faults"
Level = Literal["MUST", "SHOULD", "informational"]
LEVELS: Final[tuple[Level, ...]] = ("MUST", "SHOULD", "informational")
OPEN: Final[tuple[Outcome, ...]] = ("diverges", "broken", "inconclusive")
"""What is not fine."""


class Levels(Struct, frozen=True, kw_only=True):
    """The level of every requirement of a record, and which of them decide.

    known: by name; a requirement that is not described, or whose level is no level, is a MUST.
    must: whether the record asks, or has found anything about, a requirement of level MUST.
    """

    known: Mapping[str, Level]
    must: bool

    def of(self, requirement: str) -> Level:
        """The level of a requirement."""
        return self.known.get(requirement, "MUST")

    def decides(self, requirement: str) -> bool:
        """Whether what is found on a requirement counts for the outcome."""
        return not self.must or self.of(requirement) == "MUST"

    def aside(self, requirement: str) -> str:
        """The level of a requirement that does not decide, "" for one that does."""
        return "" if self.decides(requirement) else self.of(requirement)


def levels(record: Record) -> Levels:
    """The levels of a record's requirements."""
    told: dict[str, set[str]] = {}
    for entry in record.header.requirements:
        told.setdefault(entry.name, set()).add(entry.level)
    # A name that is described twice has one level only if both descriptions say so.
    known: dict[str, Level] = {
        name: next((level for level in LEVELS[1:] if texts == {level}), "MUST") for name, texts in told.items()
    }
    named = {finding.requirement for finding in record.findings} | {trial.requirement for trial in record.trials}
    return Levels(known=known, must=any(known.get(name, "MUST") == "MUST" for name in named | known.keys()))


class Result(Struct, frozen=True, kw_only=True):
    """All that a record says about one candidate; line is None when its worker never came up.

    findings: those that decide, and make the outcome; beside: those that do not.
    """

    name: str
    line: CandidateLine | None
    findings: tuple[Finding, ...]
    beside: tuple[Finding, ...]
    outcome: Outcome

    @property
    def all(self) -> tuple[Finding, ...]:
        """Every finding, those that decide first."""
        return (*self.findings, *self.beside)


def outcome_of(verdict: Verdict) -> Outcome:
    """What a verdict counts as; a subspace that does not agree outweighs being unrepresentable."""
    inner = core(verdict)
    match inner:
        case None:
            return "unrepresentable"
        case Diverges():
            return "diverges"
        case Broken():
            return "broken"
        case Inconclusive():
            return "inconclusive"
        case Agrees():
            if inner.compared < 1:
                return "inconclusive"
            return "unrepresentable" if isinstance(verdict, Unrepresentable) else "agrees"
        case Unsupported():
            return "unsupported"
        case _:
            assert_never(inner)


def overall(own: Iterable[Finding]) -> Outcome:
    """The worst outcome of some findings; what is declared unsupported counts only when there is nothing else."""
    seen = {outcome_of(finding.verdict) for finding in own}
    return next((outcome for outcome in ORDER if outcome in seen), "untested")


def findings(record: Record) -> tuple[Finding, ...]:
    """The record's findings, and what its trials already show about checks that were not finished.

    A run that breaks off may have seen a divergence without coming to the finding; no later trial of that check
    could have taken it back.
    """
    done = {(finding.candidate, finding.requirement, finding.dtype) for finding in record.findings}
    unfinished: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in record.trials:
        key = (trial.candidate, trial.requirement, trial.dtype)
        if key not in done:
            unfinished.setdefault(key, []).append(trial)
    return (*record.findings, *(finding for trials in unfinished.values() for finding in _so_far(trials)))


def _so_far(trials: Sequence[Trial]) -> Iterable[Finding]:
    verdicts = [verdict for trial in trials if isinstance(verdict := core(trial.verdict), Diverges)]
    if verdicts:
        worst = max(verdicts, key=lambda v: (v.evidence.finite, v.evidence.largest_difference or 0.0))
        common = frozenset(worst.faults).intersection(*(v.faults for v in verdicts))
        yield Finding(
            candidate=trials[0].candidate,
            requirement=trials[0].requirement,
            dtype=trials[0].dtype,
            verdict=Diverges(faults=tuple(sorted(common)), evidence=worst.evidence),
            trials=len(trials),
            seconds=sum(trial.seconds or 0.0 for trial in trials),
        )


def results(record: Record) -> tuple[Result, ...]:
    """One result per candidate, in the order of the header."""
    lines, decides = {line.name: line for line in record.candidates}, levels(record).decides
    by_name: dict[str, tuple[list[Finding], list[Finding]]] = {name: ([], []) for name in record.header.candidates}
    for finding in findings(record):
        deciding, beside = by_name.setdefault(finding.candidate, ([], []))
        (deciding if decides(finding.requirement) else beside).append(finding)
    return tuple(
        Result(
            name=name,
            line=lines.get(name),
            findings=tuple(deciding),
            beside=tuple(beside),
            outcome=overall(deciding),
        )
        for name, (deciding, beside) in by_name.items()
    )


def compared(record: Record) -> bool:
    """Whether anything at all was compared that decides."""
    decides = levels(record).decides
    lines: tuple[Finding | Trial, ...] = (*record.findings, *record.trials)
    return any(_compared(core(line.verdict)) for line in lines if decides(line.requirement))


def _compared(verdict: Core) -> bool:
    match verdict:
        case Diverges():
            return True
        case Agrees():
            return verdict.compared > 0
        case Inconclusive():
            # Without missing faults the comparison itself means nothing.
            return bool(verdict.missing)
        case Broken() | Unsupported() | None:
            return False
        case _:
            assert_never(verdict)


def gaps(record: Record) -> tuple[str, ...]:
    """Why the absence of a divergence would show nothing; empty when it shows something."""
    decides = levels(record).decides
    own = [finding for finding in record.findings if decides(finding.requirement)]
    must = " on a MUST requirement" if len(own) < len(record.findings) else ""
    reasons: list[str] = []
    if record.problem:
        reasons.append(f"the record is {label(record.problem)}")
    if not compared(record):
        reasons.append(f"nothing was compared{must}")
    seen = {finding.candidate for finding in own}
    untested = [label(result.name) for result in results(record) if result.name not in seen]
    if untested:
        reasons.append(f"no finding{must} for {listed(untested, most=5)}")
    unasked = [label(name) for name in unfound(record) if decides(name)]
    if unasked:
        reasons.append(f"no finding on {listed(unasked, most=5)}")
    return tuple(reasons)


def unfound(record: Record) -> tuple[str, ...]:
    """The requirements of the header that no finding is about."""
    seen = {finding.requirement for finding in record.findings}
    return tuple(entry.name for entry in record.header.requirements if entry.name not in seen)


def exit_code(record: Record) -> int:
    """1 when anything that decides diverges; 3 when any of that is broken, inconclusive or missing; else 0.

    A run that is held to a list of known divergences fails where the two differ, and only there: what diverges and is
    listed, on whatever level, does not count.
    """
    if is_benchmark(record):
        return speed_exit_code(record)
    outcomes = {result.outcome for result in results(record)}
    if record.known is not None:
        if check_known(record):
            return 1
        outcomes = {outcome_of(f.verdict) for result in results(record) for f in result.findings} - {"diverges"}
        outcomes |= {result.outcome for result in results(record) if result.outcome == "untested"}
    if "diverges" in outcomes:
        return 1
    return 3 if gaps(record) or outcomes & {"broken", "inconclusive", "untested"} else 0


def fault_entry(record: Record, requirement: str, name: str) -> FaultEntry | None:
    """The catalogue entry of a fault that a finding on `requirement` names."""
    cell = next((entry.cell for entry in record.header.requirements if entry.name == requirement), "")
    return next((entry for entry in record.header.faults.get(cell, ()) if entry.name == name), None)


def diverging(own: Iterable[Finding]) -> tuple[tuple[Finding, Diverges], ...]:
    """The findings that diverge, each with its divergence."""
    pairs = ((finding, core(finding.verdict)) for finding in own)
    return tuple((finding, verdict) for finding, verdict in pairs if isinstance(verdict, Diverges))


def fault_names(faults: Sequence[str]) -> str:
    """The faults that explain a divergence; with several, the cases cannot tell them apart."""
    return listed([label(name) for name in faults], last="or", most=4) or NOT_IN_CATALOGUE


class Cause(Struct, frozen=True, kw_only=True):
    """Divergences of one candidate that one fault, or set of faults, explains.

    faults: what explains all of them; pairs: where no fault does, the pairs of faults that do together.
    members: the divergences in the order of the record; lead: the place among them of the one to show.
    """

    faults: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    members: tuple[tuple[Finding, Diverges], ...]
    lead: int

    @property
    def name(self) -> str:
        """What the divergences are like, "" where nothing of the catalogue explains them."""
        together = [f"{label(one)} together with {label(other)}" for one, other in self.pairs]
        return listed([label(name) for name in self.faults] or together, last="or", most=4)


_Explanation: TypeAlias = tuple[str] | tuple[str, str]


def _explanations(verdict: Diverges) -> frozenset[_Explanation]:
    """Each fault that explains a divergence alone, or else each pair that does together."""
    alone: list[_Explanation] = [(name,) for name in verdict.faults]
    return frozenset(alone or verdict.evidence.pairs)


def causes(own: Sequence[Finding], clause: Mapping[str, str]) -> tuple[Cause, ...]:
    """Group the divergences of one candidate by what explains them, in the order of their first one.

    Divergences that are explained belong together while something explains all of them; so do those that return
    numbers that are not finite; and the others when they are about the same clause (of whatever cell).
    clause: requirement -> its name without the cell.
    """
    pairs = diverging(own)
    told = [_explanations(verdict) for _, verdict in pairs]
    named: list[tuple[frozenset[_Explanation], list[int]]] = []
    # The most definite divergences first: those that much explains then join what they may.
    for place in sorted(range(len(pairs)), key=lambda index: (len(told[index]), index)):
        if not told[place]:
            continue
        for index, (common, places) in enumerate(named):
            if common & told[place]:
                named[index] = common & told[place], [*places, place]
                break
        else:
            named.append((told[place], [place]))
    unnamed: dict[tuple[bool, str], list[int]] = {}
    for place, (finding, verdict) in enumerate(pairs):
        if not told[place]:
            finite = verdict.evidence.finite
            asked = clause.get(finding.requirement, finding.requirement) if finite else ""
            unnamed.setdefault((finite, asked), []).append(place)
    groups = [*named, *((frozenset[_Explanation](), places) for places in unnamed.values())]
    return tuple(
        _cause(explanations, [pairs[place] for place in sorted(places)])
        for explanations, places in sorted(groups, key=lambda group: min(group[1]))
    )


def _cause(explanations: Iterable[_Explanation], members: Sequence[tuple[Finding, Diverges]]) -> Cause:
    def shows(place: int) -> tuple[bool, bool, int]:
        finding, verdict = members[place]
        return finding.example is None, not verdict.evidence.steps, place

    ranked = sorted(explanations)
    return Cause(
        faults=tuple(one[0] for one in ranked if len(one) == 1),
        pairs=tuple((one[0], one[1]) for one in ranked if len(one) == 2),
        members=tuple(members),
        lead=min(range(len(members)), key=shows),
    )


def behaves_like(own: Sequence[Finding]) -> str:
    """The faults that explain all divergences of one candidate, or else each divergence in turn."""
    found = causes(own, {})
    named = [cause.name for cause in found if cause.name]
    if not named:
        return NOT_IN_CATALOGUE
    told = listed(list(dict.fromkeys(named)), most=3)
    return f"{told}, and elsewhere like {NOT_IN_CATALOGUE}" if any(not cause.name for cause in found) else told


_COUNTED: Final[dict[Outcome, tuple[str, str]]] = {
    "agrees": ("agrees", "agree"),
    "unrepresentable": ("cannot represent every parameter", "cannot represent every parameter"),
    "inconclusive": ("is inconclusive", "are inconclusive"),
    "broken": ("is broken", "are broken"),
    "untested": ("has no finding", "have no finding"),
    "unsupported": ("offers none of what was asked", "offer none of what was asked"),
}
_BESIDE: Final[dict[Outcome, tuple[str, str]]] = {
    "diverges": ("differs", "differ"),
    "broken": ("is broken", "are broken"),
    "inconclusive": ("is inconclusive", "are inconclusive"),
}


def headline(record: Record) -> str:
    """The answer in one sentence; what is found on requirements that do not decide follows it."""
    answer, told = answered(record), beside(record)
    if not told or is_benchmark(record):
        return answer
    shown = told if len(told) <= 2 else (*told[:2], f"{len(told) - 2} more below")
    if _agreed(record):
        return f"{answer[:-1]}; {'; '.join(shown)}."
    return f"{answer} Beside that, {'; '.join(shown)}."


def answered(record: Record) -> str:
    """The answer alone, for whoever shows `beside` under it."""
    return speed_headline(record) if is_benchmark(record) else _answer(record)


def _agreed(record: Record) -> bool:
    """Whether every candidate agrees, and nothing is missing."""
    return all(result.outcome == "agrees" for result in results(record)) and not gaps(record)


def beside(record: Record) -> tuple[str, ...]:
    """What is not fine on requirements that do not decide, for all candidates about which the same is to be said."""
    known = levels(record)
    alike: dict[tuple[tuple[Outcome, Level, tuple[str, ...]], ...], list[tuple[str, CandidateLine | None]]] = {}
    for result in results(record):
        worst = {name: overall(f for f in result.beside if f.requirement == name) for name in _asked(result.beside)}
        phrases = tuple(
            (outcome, level, names)
            for outcome in OPEN
            for level in LEVELS
            if (names := tuple(n for n, o in worst.items() if o == outcome and known.of(n) == level))
        )
        if phrases:
            named = tuple((o, lv, tuple(_with_fault(result.beside, n) for n in ns)) for o, lv, ns in phrases)
            alike.setdefault(named, []).append((result.name, result.line))
    return tuple(
        f"{called_together(names, most=3)} "
        + listed(
            [
                f"{_BESIDE[outcome][len(names) > 1]} on {count(len(asked), f'{level} requirement')}"
                f" ({listed(asked, most=2)})"
                for outcome, level, asked in phrases
            ]
        )
        for phrases, names in alike.items()
    )


def _asked(own: Iterable[Finding]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(finding.requirement for finding in own))


def _with_fault(own: Iterable[Finding], requirement: str) -> str:
    """A requirement, and the faults that explain a divergence on it."""
    pairs = diverging(finding for finding in own if finding.requirement == requirement)
    named = behaves_like([finding for finding, _ in pairs]) if any(_explanations(v) for _, v in pairs) else ""
    return f"{label(requirement)}: {named}" if named else label(requirement)


def _answer(record: Record) -> str:
    all_results = results(record)
    total = len(all_results)
    worst = [result for result in all_results if result.outcome == "diverges"]
    if worst:
        verb = "diverges" if len(worst) == 1 else "diverge"
        told = [f"{called(one.name, one.line)} behaves like {behaves_like(one.findings)}" for one in worst[:3]]
        if len(worst) > 3:
            told.append(f"{len(worst) - 3} more below")
        sentence = f"{len(worst)} of {count(total, 'candidate')} {verb}: {'; '.join(told)}"
        return f"{sentence}{_statement(record, worst)}."
    if not compared(record):
        must = " on a MUST requirement" if any(result.beside for result in all_results) else ""
        return f"Nothing was compared{must}: this record is no evidence of agreement."
    if record.problem:
        return f"Nothing diverges so far, but the record is {label(record.problem)}."
    counts = Counter(result.outcome for result in all_results)
    if _agreed(record):
        if total == 1:
            return f"{called(all_results[0].name, all_results[0].line)} agrees with the reference."
        return f"All {total} candidates agree with the reference."
    told = [f"{counts[o]} {_COUNTED[o][counts[o] != 1]}" for o in reversed(ORDER) if counts[o] and o in _COUNTED]
    lacking = "".join(f"; {reason}" for reason in gaps(record) if not counts["untested"])
    return f"Nothing diverges, but not all is shown: of {count(total, 'candidate')} {listed(told)}{lacking}."


def _statement(record: Record, worst: Sequence[Result]) -> str:
    """The fault's own sentence, when there is one candidate and one fault to speak of."""
    if len(worst) != 1:
        return ""
    pairs = diverging(worst[0].findings)
    name = behaves_like(worst[0].findings)
    entry = fault_entry(record, pairs[0][0].requirement, name)
    return "" if entry is None or not entry.statement else f" \N{EM DASH} {label(entry.statement)}"


def version_of(result: Result) -> str:
    """The exact version under test: as the worker says, else as the candidate's spec asks."""
    if result.line is not None and result.line.version:
        return label(result.line.version)
    asked = result.name.partition("==")[2]
    return f"asked: {label(asked)}" if asked else "unknown"
