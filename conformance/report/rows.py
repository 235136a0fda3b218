"""A record as tables: a row per finding, a row per trial, with names and numbers as they stand in the record.

Nothing is left out that would make a record look better than it is: a candidate without any finding has a row with the
outcome ``untested``, and every row says whether the record is whole.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from conformance.known import check_known
from conformance.record import CandidateLine, Finding, Record, RequirementEntry, Trial
from conformance.report.outcome import Outcome, findings, levels, outcome_of, results
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, Verdict, core

Standing = Literal["fails", "doubtful", "aside", "known", "fine", "not asked"]
"""What a finding means for the answer.

fails: it diverges and decides; doubtful: it decides and shows nothing; aside: it is not fine, and does not decide;
known: it is not fine, and the list of known divergences, to which the run is held, says so.
"""
_DOUBTFUL: Final[frozenset[Outcome]] = frozenset(("broken", "inconclusive", "untested"))


class FindingRow(Struct, frozen=True, kw_only=True):
    """One finding. whole: whether the record is; machine facts and version: as the candidate's worker said.

    faults: what explains a divergence; output, first, expected, observed, bound: the first element outside its bound;
    share: the largest residual as a multiple of its bound; ruled_out, visible: how many faults agreement ruled out, and
    how many could show; what: in words, what is missing, broke, or was declared out, with its owner and link.
    """

    record: str
    whole: bool
    candidate: str
    adapter: str
    variant: str
    version: str
    platform: str
    device: str
    outcome: Outcome
    standing: Standing
    cell: str = ""
    requirement: str = ""
    level: str = "MUST"
    decides: bool = True
    relation: str = ""
    initial: str = ""
    dtype: str = ""
    faults: tuple[str, ...] = ()
    trials: int = 0
    seconds: float = 0.0
    share: float | None = None
    largest_difference: float | None = None
    output: str = ""
    first_batch: int | None = None
    first_step: int | None = None
    first_unit: int | None = None
    expected: float | None = None
    observed: float | None = None
    bound: float | None = None
    ruled_out: int = 0
    visible: int = 0
    zeroed: tuple[str, ...] = ()
    what: str = ""
    owner: str = ""
    link: str = ""


class TrialRow(Struct, frozen=True, kw_only=True):
    """One case on one candidate. digest: of the case; batch to units: its shape; seconds: the adapter's own."""

    record: str
    whole: bool
    candidate: str
    requirement: str
    dtype: str
    phase: str
    digest: str
    origin: str
    batch: int
    steps: int
    inputs: int
    units: int
    batched: bool
    initial: str
    outcome: Outcome
    faults: tuple[str, ...]
    share: float | None
    largest_difference: float | None
    path: str
    seconds: float | None


Row: TypeAlias = FindingRow | TrialRow


def finding_rows(record: Record) -> tuple[FindingRow, ...]:
    """A row per finding, in the order of the record, those of unfinished checks that diverge already, too."""
    lines = {line.name: line for line in record.candidates}
    entries = {entry.name: entry for entry in record.header.requirements}
    stand = _Standings(record)
    told = [_finding_row(record, f, lines.get(f.candidate), entries.get(f.requirement), stand) for f in stand.findings]
    for result in results(record):
        if result.outcome == "untested":
            what = "no finding on a MUST requirement" if result.beside else "the record holds no finding"
            told.append(_row(record, result.name, result.line, outcome="untested", standing="doubtful", what=what))
    return tuple(told)


def trial_rows(record: Record) -> tuple[TrialRow, ...]:
    """A row per trial, in the order of the record."""
    return tuple(_trial_row(record, trial) for trial in record.trials)


class _Standings:
    """What each finding of a record means for its answer."""

    def __init__(self, record: Record) -> None:
        self.findings = findings(record)
        self.levels = levels(record)
        self._held = record.known is not None
        self._wrong = {(p.candidate, p.requirement, p.dtype) for p in check_known(record)}

    def of(self, finding: Finding) -> Standing:
        outcome = outcome_of(finding.verdict)
        diverges = outcome == "diverges"
        if (finding.candidate, finding.requirement, finding.dtype) in self._wrong:
            return "fails"
        if self._held and diverges:
            return "known"
        if outcome == "unsupported":
            return "not asked"
        if not diverges and outcome not in _DOUBTFUL:
            return "fine"
        if not self.levels.decides(finding.requirement):
            return "aside"
        return "fails" if diverges else "doubtful"


def _finding_row(
    record: Record,
    finding: Finding,
    line: CandidateLine | None,
    entry: RequirementEntry | None,
    stand: _Standings,
) -> FindingRow:
    verdict = finding.verdict
    inner = core(verdict)
    seen = inner.evidence if isinstance(inner, Diverges) else None
    first: tuple[int | None, int | None, int | None] = (None, None, None) if seen is None else seen.first
    what, owner, link = _words(verdict)
    return _row(
        record,
        finding.candidate,
        line,
        cell="" if entry is None else entry.cell,
        requirement=finding.requirement,
        level=stand.levels.of(finding.requirement),
        decides=stand.levels.decides(finding.requirement),
        relation="" if entry is None else entry.relation,
        initial="" if entry is None else entry.initial,
        dtype=finding.dtype,
        outcome=outcome_of(verdict),
        standing=stand.of(finding),
        faults=inner.faults if isinstance(inner, Diverges) else (),
        trials=finding.trials,
        seconds=finding.seconds,
        share=_share(verdict),
        largest_difference=None if seen is None else seen.largest_difference,
        output="" if seen is None else seen.output,
        first_batch=first[0],
        first_step=first[1],
        first_unit=first[2],
        expected=None if seen is None else seen.expected,
        observed=None if seen is None else seen.observed,
        bound=None if seen is None else seen.bound,
        ruled_out=len(inner.excluded) if isinstance(inner, Agrees) else 0,
        visible=len(finding.visible),
        zeroed=verdict.parameters if isinstance(verdict, Unrepresentable) else (),
        what=what,
        owner=owner,
        link=link,
    )


def _words(verdict: Verdict) -> tuple[str, str, str]:
    """What a verdict says in words; whose matter it is, and where that is followed."""
    inner = core(verdict)
    told = ""
    match inner:
        case Broken():
            told = f"{inner.kind}: {inner.message}"
        case Inconclusive():
            told = inner.why
        case Unsupported():
            return f"{inner.what}: {inner.reason}", inner.owner, inner.link
        case Diverges():
            told = inner.evidence.where
        case Agrees() | None:
            pass
    if isinstance(verdict, Unrepresentable):
        place = f"no place for {', '.join(verdict.parameters)}: {verdict.reason}"
        return f"{place}; {told}" if told else place, verdict.owner, verdict.link
    return told, "", ""


def _share(verdict: Verdict) -> float | None:
    match core(verdict):
        case Agrees(share=share):
            return share
        case Diverges(evidence=evidence):
            return evidence.share
        case _:
            return None


def _row(record: Record, name: str, line: CandidateLine | None, **told: Any) -> FindingRow:
    """A row of a candidate, as far as its worker told what it is."""
    facts = {} if line is None else line.facts
    return FindingRow(
        record=record.path,
        whole=not record.problem,
        candidate=name,
        adapter="" if line is None else line.adapter,
        variant="" if line is None else line.variant,
        version="" if line is None else line.version,
        platform=facts.get("platform", ""),
        device=facts.get("device", ""),
        **told,
    )


def _trial_row(record: Record, trial: Trial) -> TrialRow:
    inner = core(trial.verdict)
    case = trial.case
    return TrialRow(
        record=record.path,
        whole=not record.problem,
        candidate=trial.candidate,
        requirement=trial.requirement,
        dtype=trial.dtype,
        phase=trial.phase,
        digest=case.digest,
        origin=case.origin,
        batch=case.shape[0],
        steps=case.shape[1],
        inputs=case.shape[2],
        units=case.shape[3],
        batched=case.batched,
        initial=case.initial,
        outcome=outcome_of(trial.verdict),
        faults=inner.faults if isinstance(inner, Diverges) else (),
        share=_share(trial.verdict),
        largest_difference=inner.evidence.largest_difference if isinstance(inner, Diverges) else None,
        path=trial.path,
        seconds=trial.seconds,
    )
