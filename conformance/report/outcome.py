"""What a record amounts to: the order of outcomes, the answer in one sentence, the exit code.

Every surface (HTML, terminal, exit code) asks here, so that none of them can disagree with another. Nothing is
a pass by default: a candidate without a finding, a check that compared nothing and a record that breaks off are
all "not shown".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, assert_never

from conformance.record import CandidateLine, FaultEntry, Finding, Record, Trial
from conformance.report.wording import count, label, listed
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, Verdict

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
Core: TypeAlias = Agrees | Diverges | Inconclusive | Broken | Unsupported | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that a record says about one candidate; line is None when its worker never came up."""

    name: str
    line: CandidateLine | None
    findings: tuple[Finding, ...]
    outcome: Outcome


def core(verdict: Verdict) -> Core:
    """The verdict of the comparison itself: of the representable subspace, where that is all there is."""
    match verdict:
        case Unrepresentable():
            return verdict.subspace
        case Agrees() | Diverges() | Unsupported() | Inconclusive() | Broken():
            return verdict
        case _:
            assert_never(verdict)


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
    lines = {line.name: line for line in record.candidates}
    by_name: dict[str, list[Finding]] = {name: [] for name in record.header.candidates}
    for finding in findings(record):
        by_name.setdefault(finding.candidate, []).append(finding)
    return tuple(
        Result(name=name, line=lines.get(name), findings=tuple(own), outcome=overall(own))
        for name, own in by_name.items()
    )


def compared(record: Record) -> bool:
    """Whether anything at all was compared with the reference."""
    verdicts = [finding.verdict for finding in record.findings]
    verdicts += [trial.verdict for trial in record.trials]
    return any(_compared(core(verdict)) for verdict in verdicts)


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
    reasons: list[str] = []
    if record.problem:
        reasons.append(f"the record is {label(record.problem)}")
    if not compared(record):
        reasons.append("nothing was compared")
    seen = {finding.candidate for finding in record.findings}
    untested = [label(result.name) for result in results(record) if result.name not in seen]
    if untested:
        reasons.append(f"no finding for {listed(untested, most=5)}")
    seen = {finding.requirement for finding in record.findings}
    unasked = [label(entry.name) for entry in record.header.requirements if entry.name not in seen]
    if unasked:
        reasons.append(f"no finding on {listed(unasked, most=5)}")
    return tuple(reasons)


def exit_code(record: Record) -> int:
    """1 when anything diverges; 3 when anything is broken, inconclusive or missing; else 0."""
    outcomes = {result.outcome for result in results(record)}
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


def fault_names(verdict: Diverges) -> str:
    """The faults that explain a divergence; with several, the cases cannot tell them apart."""
    return listed([label(name) for name in verdict.faults], last="or", most=4) or NOT_IN_CATALOGUE


def behaves_like(own: Sequence[Finding]) -> str:
    """The faults that explain all divergences of one candidate, or else each divergence in turn."""
    verdicts = [verdict for _, verdict in diverging(own)]
    common = set[str]().union(*(v.faults for v in verdicts)).intersection(*(v.faults for v in verdicts))
    if common:
        return listed([label(name) for name in sorted(common)], last="or", most=4)
    named = listed(list(dict.fromkeys(fault_names(v) for v in verdicts if v.faults)), most=3)
    if not named:
        return NOT_IN_CATALOGUE
    unnamed = not all(v.faults for v in verdicts)
    return f"{named}, and elsewhere like {NOT_IN_CATALOGUE}" if unnamed else named


_COUNTED: Final[dict[Outcome, tuple[str, str]]] = {
    "agrees": ("agrees", "agree"),
    "unrepresentable": ("cannot represent every parameter", "cannot represent every parameter"),
    "inconclusive": ("is inconclusive", "are inconclusive"),
    "broken": ("is broken", "are broken"),
    "untested": ("has no finding", "have no finding"),
    "unsupported": ("offers none of what was asked", "offer none of what was asked"),
}


def headline(record: Record) -> str:
    """The answer in one sentence."""
    all_results = results(record)
    total = len(all_results)
    worst = [result for result in all_results if result.outcome == "diverges"]
    if worst:
        verb = "diverges" if len(worst) == 1 else "diverge"
        told = [f"{label(result.name)} behaves like {behaves_like(result.findings)}" for result in worst[:3]]
        if len(worst) > 3:
            told.append(f"{len(worst) - 3} more below")
        sentence = f"{len(worst)} of {count(total, 'candidate')} {verb}: {'; '.join(told)}"
        return f"{sentence}{_statement(record, worst)}."
    if not compared(record):
        return "Nothing was compared: this record is no evidence of agreement."
    if record.problem:
        return f"Nothing diverges so far, but the record is {label(record.problem)}."
    counts = Counter(result.outcome for result in all_results)
    if counts["agrees"] == total and not gaps(record):
        if total == 1:
            return f"{label(all_results[0].name)} agrees with the reference."
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
    return "" if entry is None else f" \N{EM DASH} {label(entry.statement)}"
