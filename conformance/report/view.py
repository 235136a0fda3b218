"""The page of a report: everything the template shows, computed from the record and from nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from conformance.gate import outcome as gated
from conformance.known import check_known
from conformance.record import Incident, Record
from conformance.report.agreement import SHORT, Agreements, make_agreements
from conformance.report.called import framework_of
from conformance.report.divergence import CauseText, FaultText, make_alike, make_divergence
from conformance.report.gate import GateText, Key, gate_text
from conformance.report.grouping import parts, spoken
from conformance.report.index import Index, RequirementText
from conformance.report.known import known_sentence, problem_text
from conformance.report.matrix import SPOKEN, WORDS, CellBlock, Filter, make_filters, make_matrix
from conformance.report.notes import Note, Section, make_notes
from conformance.report.outcome import (
    ORDER,
    Cause,
    Outcome,
    Result,
    answered,
    beside,
    causes,
    compared,
    gaps,
    headline,
    outcome_of,
    overall,
    version_of,
)
from conformance.report.paths import attested, what_ran
from conformance.report.scope import could_not, made, tested, which_decide
from conformance.report.wording import clipped, count, label, listed, one_line

FULL: Final = 60
"""At most so many divergences are shown in full; the others in short."""
CANDIDATES: Final = 300
"""At most so many candidates are shown one by one, those that are not fine first; all of them are summed up."""
_INCIDENTS: Final = 200
_BESIDE: Final = 20
_FACT: Final = 1_000


class Sum(Struct, frozen=True, kw_only=True):
    """What a candidate's checks on one cell come to; anchor: of the cell's part of the matrix."""

    outcome: Outcome
    parts: tuple[str, ...]
    anchor: str


class CandidateRow(Struct, frozen=True, kw_only=True):
    """A candidate: what it is, its outcome, and one sum per cell (None where it has no check)."""

    name: str
    title: str
    version: str
    environment: str
    facts: tuple[tuple[str, str], ...]
    ran: str
    device: str
    outcome: Outcome
    sums: tuple[Sum | None, ...]


class Clauses(Struct, frozen=True, kw_only=True):
    """The requirements and the catalogue of one cell."""

    cell: str
    opened: bool
    requirements: tuple[RequirementText, ...]
    faults: tuple[FaultText, ...]


class Page(Struct, frozen=True, kw_only=True):
    """The whole report. beside: what is not fine on requirements that do not decide; gate: None where it is no gate's.

    headline: the answer with what is beside it; answered: the answer alone, under which `beside` is shown.

    known: whether the list of known divergences holds, "" where the run is held to none. tested: figures with their
    names and what is to be added; made: when, from what seed, by which command. details: anchors of findings.
    left_out: which candidates are not shown one by one, "" where all are.
    """

    headline: str
    answered: str
    outcome: Outcome
    warnings: tuple[str, ...]
    beside: tuple[str, ...]
    levels: str
    left_out: str
    tested: tuple[tuple[str, str, str], ...]
    made: tuple[tuple[str, str], ...]
    could_not: tuple[tuple[str, str], ...]
    common: tuple[tuple[str, str], ...]
    candidates: tuple[CandidateRow, ...]
    cells: tuple[str, ...]
    matrix: tuple[CellBlock, ...]
    divergences: tuple[CauseText, ...]
    divergences_beside: tuple[CauseText, ...]
    unrepresentable: tuple[Note, ...]
    inconclusive: tuple[Note, ...]
    broken: tuple[Note, ...]
    incidents: tuple[Incident, ...]
    incidents_left_out: int
    unsupported: tuple[Note, ...]
    agreements: tuple[Agreements, ...]
    clauses: tuple[Clauses, ...]
    footer: str
    unasked: str
    words: tuple[tuple[Outcome, str, str], ...]
    filters: tuple[Filter, ...]
    details: Mapping[Key, str]
    gate: GateText | None
    known: str
    known_problems: tuple[str, ...]


def make_page(record: Record) -> Page:
    """The page of a record."""
    return _Builder(record).page()


def _shown(record: Record, all_results: Sequence[Result]) -> tuple[Record, str]:
    """The part of a record that is shown one by one, and what is to be said of the rest."""
    if len(all_results) <= CANDIDATES:
        return record, ""
    ranked = sorted(all_results, key=lambda result: min(map(ORDER.index, (result.outcome, overall(result.all)))))
    kept = {result.name for result in ranked[:CANDIDATES]}
    lost = Counter(result.outcome for result in ranked[CANDIDATES:])
    told = listed([f"{lost[outcome]:,} {SPOKEN.get(outcome, outcome)}" for outcome in ORDER if lost[outcome]])
    text = (
        f"{CANDIDATES} of {len(all_results):,} candidates are shown one by one, those that are not fine first; of the "
        f"{lost.total():,} others: {told}. They count in the answer and in the figures below, and the record holds "
        "them all: rnn-conformance report RECORD --format csv"
    )
    replace = msgspec.structs.replace
    return replace(
        record,
        header=replace(record.header, candidates=tuple(name for name in record.header.candidates if name in kept)),
        candidates=tuple(line for line in record.candidates if line.name in kept),
        trials=tuple(line for line in record.trials if line.candidate in kept),
        blocks=tuple(line for line in record.blocks if line.candidate in kept),
        findings=tuple(line for line in record.findings if line.candidate in kept),
    ), text


class _Builder:
    """The parts of one page, from its index; `whole` is of all candidates, of which the page may show a part."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.whole = Index(record)
        shown, self.left_out = _shown(record, self.whole.results)
        self.index = self.whole if shown is record else Index(shown)
        self.shown = shown

    def page(self) -> Page:
        record, index = self.record, self.index
        agreements = tuple(make_agreements(index))
        every = agreements if index is self.whole else tuple(make_agreements(self.whole))
        common, ran = self._common_facts(), attested(self.shown)
        told = beside(record)
        decided, others = self._divergences()
        gate = None if record.gate is None else gate_text(record, gated(record))
        listed_problems = () if gate is not None else check_known(record)
        return Page(
            gate=gate,
            known="" if record.known is None or gate is not None else known_sentence(record),
            known_problems=tuple(problem_text(problem) for problem in listed_problems),
            headline=headline(record),
            answered=answered(record),
            outcome=overall(f for result in self.whole.results for f in result.findings)
            if compared(record)
            else "untested",
            warnings=gaps(record),
            beside=(*told[:_BESIDE], *([f"{len(told) - _BESIDE} more below"] if len(told) > _BESIDE else [])),
            levels=which_decide(index),
            left_out=self.left_out,
            tested=tested(self.whole, [agreement for group in every for agreement in group.checks]),
            made=made(record),
            could_not=self._could_not(),
            common=_facts(common),
            candidates=tuple(self._row(result, common, ran) for result in self.index.results),
            cells=tuple(spoken(cell) for cell in self.index.cells),
            matrix=make_matrix(index),
            divergences=decided,
            divergences_beside=others,
            unrepresentable=self._notes("unrepresentable"),
            inconclusive=self._notes("inconclusive"),
            broken=self._notes("broken"),
            incidents=record.incidents[:_INCIDENTS],
            incidents_left_out=max(len(record.incidents) - _INCIDENTS, 0),
            unsupported=self._notes("unsupported"),
            agreements=agreements,
            clauses=tuple(self._clauses()),
            footer=self._footer(),
            unasked="no finding" if record.problem else "not asked",
            filters=make_filters(index),
            details={(f.candidate, f.requirement, f.dtype): self.index.anchors[id(f)] for f in self.index.findings},
            words=tuple((outcome, *WORDS[outcome]) for outcome in WORDS),
        )

    def _could_not(self) -> tuple[tuple[str, str], ...]:
        """What is left open; an anchor is one of the page only if its section shows something."""
        told = could_not(self.whole)
        if self.index is self.whole:
            return told
        seen = {outcome_of(finding.verdict) for finding in self.index.findings}
        return tuple((text, anchor if anchor in seen else "answer") for text, anchor in told)

    def _row(self, result: Result, common: dict[str, str], ran: Mapping[str, tuple[str, ...]]) -> CandidateRow:
        line = result.line
        own = {} if line is None else {k: v for k, v in line.facts.items() if k not in common}
        by_cell = [self.index.of(result.all, cell) for cell in self.index.cells]
        return CandidateRow(
            name=label(result.name),
            title="" if line is None else label(line.title),
            version=framework_of(line) or version_of(result),
            environment="its worker never came up" if line is None else label(line.environment),
            facts=_facts(own),
            ran=what_ran(ran[result.name]) if result.name in ran else "nothing",
            device="unknown" if line is None else label(line.facts.get("device", "not told")),
            outcome=result.outcome,
            sums=tuple(
                Sum(outcome=overall(found), parts=parts(found), anchor=f"c{index}") if found else None
                for index, found in enumerate(by_cell, start=1)
            ),
        )

    def _common_facts(self) -> dict[str, str]:
        """The facts that all of several candidates share."""
        lines = [result.line for result in self.index.results if result.line is not None]
        if len(lines) < 2:
            return {}
        first = lines[0].facts
        return {k: v for k, v in first.items() if all(line.facts.get(k) == v for line in lines)}

    def _divergences(self) -> tuple[tuple[CauseText, ...], tuple[CauseText, ...]]:
        """The causes of divergences on requirements that decide, and on the others."""
        clause = {name: place.clause for name, place in self.index.places.items()}
        decided = [cause for result in self.index.results for cause in causes(result.findings, clause)]
        others = [cause for result in self.index.results for cause in causes(result.beside, clause)]
        # The first cause of every candidate, then the second of each, and so on.
        turns: Counter[str] = Counter()
        ranked = []
        for place, cause in enumerate((*decided, *others)):
            name = cause.members[cause.lead][0].candidate
            ranked.append((turns[name], place, id(cause)))
            turns[name] += 1
        full = {identity for _, _, identity in sorted(ranked)[:FULL]}
        return (
            tuple(self._cause(cause, full=id(cause) in full) for cause in decided),
            tuple(self._cause(cause, full=id(cause) in full) for cause in others),
        )

    def _cause(self, cause: Cause, *, full: bool) -> CauseText:
        finding, verdict = cause.members[cause.lead]
        lead = make_divergence(
            finding,
            msgspec.structs.replace(verdict, faults=cause.faults),
            anchor=self.index.anchors[id(finding)],
            statement=self.index.requirements[finding.requirement].statement,
            aside=self.index.levels.aside(finding.requirement),
            together="" if cause.faults else cause.name,
            known=self.index.known(finding.requirement),
            trials=self.index.trials.get((finding.candidate, finding.requirement, finding.dtype), []),
            line=next((r.line for r in self.index.results if r.name == finding.candidate), None),
            full=full,
            finished=id(finding) in self.index.recorded,
        )
        others = tuple(
            make_alike(
                other, told, anchor=self.index.anchors[id(other)], aside=self.index.levels.aside(other.requirement)
            )
            for place, (other, told) in enumerate(cause.members)
            if place != cause.lead
        )
        return CauseText(lead=lead, others=others)

    def _notes(self, section: Section) -> tuple[Note, ...]:
        return make_notes(self.index.findings, section, self.index.anchors, self.index.levels)

    def _clauses(self) -> Iterator[Clauses]:
        listed_cells = dict.fromkeys((*self.index.cells, *self.index.faults))
        for cell in listed_cells:
            own = tuple(requirement for requirement in self.index.requirements.values() if requirement.cell == cell)
            yield Clauses(
                cell=spoken(cell),
                opened=len(listed_cells) == 1 and len(own) <= SHORT,
                requirements=own,
                faults=tuple(self.index.faults.get(cell, {}).values()),
            )

    def _footer(self) -> str:
        lines = count(self.record.lines, "line")
        state = self.record.problem or "complete"
        return f"Made from {label(self.record.path)} ({lines}, {label(state)}) and from nothing else."


def _facts(facts: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((label(name), one_line(clipped(fact, _FACT))) for name, fact in sorted(facts.items()))
