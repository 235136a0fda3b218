"""The page of a report: everything the template shows, computed from the record and from nothing else."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import msgspec

from conformance.gate import outcome as gated
from conformance.known import check_known
from conformance.record import Finding, Incident, Record, Trial
from conformance.report.divergence import CauseText, FaultText, make_alike, make_divergence
from conformance.report.gate import GateText, Key, gate_text
from conformance.report.grouping import cells, parts, places, spoken
from conformance.report.known import known_sentence, problem_text
from conformance.report.notes import Note, Section, make_notes
from conformance.report.outcome import (
    OPEN,
    Cause,
    Outcome,
    Result,
    beside,
    causes,
    compared,
    diverging,
    gaps,
    headline,
    levels,
    outcome_of,
    overall,
    results,
    unfound,
)
from conformance.report.paths import attested, what_ran
from conformance.report.sources import source_items
from conformance.report.wording import block, count, label, listed, share, visible
from conformance.verdict import Agrees, Unrepresentable, Unsupported, core

WORDS: Final[dict[Outcome, tuple[str, str]]] = {
    "diverges": ("\N{BALLOT X}", "computes something else"),
    "broken": ("!", "no observation: the worker crashed, hung, raised or broke its contract"),
    "inconclusive": ("?", "nothing diverged, but nothing is shown either"),
    "untested": ("\N{MIDDLE DOT}", "the record holds no finding"),
    "unrepresentable": (
        "\N{ALMOST EQUAL TO}",
        "has no place for a parameter; with it at zero, it agrees where it was tried",
    ),
    "agrees": ("\N{CHECK MARK}", "inside the bound everywhere, where the listed faults would not have been"),
    "unsupported": ("\N{EN DASH}", "declared before the run: not offered"),
}
"""Every outcome with its symbol and its meaning."""

_SPOKEN: Final[dict[str, str]] = {"untested": "no finding"}

FULL: Final = 60
"""At most so many divergences are shown in full; the others in short."""
_INCIDENTS: Final = 200
_BESIDE: Final = 20
_FEW: Final = 6
"""Up to so many rows of one cell are shown unfolded, whatever they hold."""
_SHORT: Final = 40
"""Longer tables are folded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The dtypes of one place of the matrix that ended alike, each with the anchor of its details."""

    outcome: Outcome
    dtypes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What a candidate's checks on one cell come to; anchor: of the cell's part of the matrix."""

    outcome: Outcome
    parts: tuple[str, ...]
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementText:
    """A requirement as it stood when the record was made. aside: its level, where that does not decide."""

    name: str
    clause: str
    level: str
    aside: str
    statement: str
    source: str
    cell: str
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    """A requirement and its marks, one tuple per candidate of the block."""

    requirement: RequirementText
    marks: tuple[tuple[Mark, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A candidate's column. key, framework: what the filter calls the candidate and its framework."""

    name: str
    key: str
    framework: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One choice by which checks are shown: options are pairs of value and text, of groups under a heading or ""."""

    name: str
    label: str
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellBlock:
    """The part of the matrix about one cell. shown: the rows to see at once; folded: those on which all is fine."""

    anchor: str
    name: str
    text: str
    opened: bool
    candidates: tuple[Column, ...]
    shown: tuple[MatrixRow, ...]
    folded: tuple[MatrixRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSet:
    """A set of faults that one or several agreeing checks rule out, in the order of the catalogue."""

    anchor: str
    letter: str
    faults: tuple[FaultText, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """An agreeing check: what it rules out, and how close to its bound it came."""

    anchor: str
    candidate: str
    requirement: str
    aside: str
    dtype: str
    held: str
    ruled_out: str
    faults: FaultSet
    open: str
    share: str
    compared: str
    trials: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreements:
    """The agreeing checks of one cell, and the sets of faults that they rule out."""

    cell: str
    text: str
    opened: bool
    checks: tuple[Agreement, ...]
    sets: tuple[FaultSet, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clauses:
    """The requirements and the catalogue of one cell."""

    cell: str
    opened: bool
    requirements: tuple[RequirementText, ...]
    faults: tuple[FaultText, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole report. beside: what is not fine on requirements that do not decide; gate: None where it is no gate's.

    known: whether the list of known divergences holds, "" where the run is held to none. tested: figures with their
    names and what is to be added; made: when, from what seed, by which command. details: anchors of findings.
    """

    headline: str
    outcome: Outcome
    warnings: tuple[str, ...]
    beside: tuple[str, ...]
    levels: str
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


class _Builder:
    """The look-ups that several parts of a page share; it lives for one page."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.results = results(record)
        self.levels = levels(record)
        self.findings = [finding for result in self.results for finding in result.all]
        self.anchors = {id(finding): f"f{index}" for index, finding in enumerate(self.findings, start=1)}
        self.places = places(record)
        self.cells = cells(self.places)
        described = {entry.name: entry for entry in record.header.requirements}
        self.requirements: dict[str, RequirementText] = {}
        for index, (name, place) in enumerate(self.places.items(), start=1):
            entry = described.get(name)
            self.requirements[name] = RequirementText(
                name=label(name),
                clause=label(place.clause),
                level="unknown" if entry is None else label(entry.level),
                aside=self.levels.aside(name),
                statement="The record does not describe it." if entry is None else block(entry.statement),
                source="" if entry is None else block(entry.source),
                cell=place.cell,
                anchor=f"r{index}",
            )
        self.faults = {
            cell: {
                entry.name: FaultText(
                    name=label(entry.name),
                    statement=block(entry.statement),
                    equation=block(entry.equation),
                    right=block(entry.right),
                    anchor=f"x{number_of_cell}-{index}",
                )
                for index, entry in enumerate(entries, start=1)
            }
            for number_of_cell, (cell, entries) in enumerate(sorted(record.header.faults.items()), start=1)
        }
        frameworks = list(dict.fromkeys(_framework(result) for result in self.results))
        self.columns = {
            result.name: Column(
                name=label(result.name), key=f"c{place}", framework=f"f{frameworks.index(_framework(result))}"
            )
            for place, result in enumerate(self.results)
        }
        self.frameworks = tuple((f"f{place}", f"every {name}") for place, name in enumerate(frameworks))
        self.sets: dict[tuple[str, frozenset[str]], FaultSet] = {}
        self.recorded = {id(finding) for finding in record.findings}
        self.trials: dict[Key, list[Trial]] = {}
        for trial in record.trials:
            self.trials.setdefault((trial.candidate, trial.requirement, trial.dtype), []).append(trial)

    def page(self) -> Page:
        record = self.record
        agreements = tuple(self._agreements())
        common, ran = self._common_facts(), attested(record)
        told = beside(record)
        decided, others = self._divergences()
        gate = None if record.gate is None else gate_text(record, gated(record))
        listed_problems = () if gate is not None else check_known(record)
        return Page(
            gate=gate,
            known="" if record.known is None or gate is not None else known_sentence(record),
            known_problems=tuple(problem_text(problem) for problem in listed_problems),
            headline=headline(record),
            outcome=overall(f for result in self.results for f in result.findings) if compared(record) else "untested",
            warnings=gaps(record),
            beside=(*told[:_BESIDE], *([f"{len(told) - _BESIDE} more below"] if len(told) > _BESIDE else [])),
            levels=self._which_decide(),
            tested=self._tested([agreement for group in agreements for agreement in group.checks]),
            made=self._made(),
            could_not=self._could_not(),
            common=_facts(common),
            candidates=tuple(self._row(result, common, ran) for result in self.results),
            cells=tuple(spoken(cell) for cell in self.cells),
            matrix=tuple(self._block(cell) for cell in self.cells),
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
            filters=self._filters(),
            details={(f.candidate, f.requirement, f.dtype): self.anchors[id(f)] for f in self.findings},
            words=tuple((outcome, *WORDS[outcome]) for outcome in WORDS),
        )

    def _filters(self) -> tuple[Filter, ...]:
        """The choices that leave something to choose from."""
        columns = tuple((column.key, column.name) for column in self.columns.values())
        seen = {outcome_of(finding.verdict) for finding in self.findings}
        dtypes = dict.fromkeys(_dtype(finding.dtype) for finding in self.findings)
        levels_ = dict.fromkeys(one.level for one in self.requirements.values())
        alike = len(self.frameworks) < len(columns)
        found = (
            ("candidate", "Candidate", (*((("Framework", self.frameworks),) if alike else ()), ("Candidate", columns))),
            ("cell", "Cell", (("", tuple((b, spoken(b)) for b in self.cells)),)),
            ("verdict", "Verdict", (("", tuple((o, _SPOKEN.get(o, o)) for o in WORDS if o in seen)),)),
            ("dtype", "dtype", (("", tuple((name, name) for name in dtypes)),)),
            ("level", "Level", (("", tuple((name, name) for name in sorted(levels_))),)),
        )
        return tuple(
            Filter(name=name, label=text, groups=groups)
            for name, text, groups in found
            if sum(len(options) for _, options in groups) > 1
        )

    def known(self, requirement: str) -> dict[str, FaultText]:
        """The described faults of a requirement's cell."""
        return self.faults.get(self.places[requirement].cell, {})

    def _of(self, own: Iterable[Finding], cell: str) -> list[Finding]:
        return [finding for finding in own if self.places[finding.requirement].cell == cell]

    def _row(self, result: Result, common: dict[str, str], ran: Mapping[str, tuple[str, ...]]) -> CandidateRow:
        line = result.line
        own = {} if line is None else {k: v for k, v in line.facts.items() if k not in common}
        by_cell = [self._of(result.all, cell) for cell in self.cells]
        return CandidateRow(
            name=label(result.name),
            title="" if line is None else label(line.title),
            version=version_of(result),
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

    def _block(self, cell: str) -> CellBlock:
        own = {result.name: self._of(result.all, cell) for result in self.results}
        asked = {name: found for name, found in own.items() if found}
        rows, fine = [], []
        for name, requirement in self.requirements.items():
            if requirement.cell != cell:
                continue
            found = [[f for f in findings if f.requirement == name] for findings in asked.values()]
            outcomes = {outcome_of(finding.verdict) for findings in found for finding in findings}
            fine.append(bool(outcomes) and not outcomes.intersection(OPEN))
            rows.append(MatrixRow(requirement=requirement, marks=tuple(self._marks(findings) for findings in found)))
        fold = len(rows) > _FEW
        failing = sum(not all_fine for all_fine in fine)
        text = f"{count(len(rows), 'requirement')}, {count(len(asked), 'candidate')}: "
        text += f"not all is fine on {failing}" if failing else "all is fine"
        return CellBlock(
            anchor=f"c{self.cells.index(cell) + 1}",
            name=spoken(cell),
            text=text,
            opened=failing > 0 or len(self.cells) == 1,
            candidates=tuple(self.columns[name] for name in asked),
            shown=tuple(row for row, all_fine in zip(rows, fine, strict=True) if not (fold and all_fine)),
            folded=tuple(row for row, all_fine in zip(rows, fine, strict=True) if fold and all_fine),
        )

    def _marks(self, own: Iterable[Finding]) -> tuple[Mark, ...]:
        alike: dict[Outcome, list[tuple[str, str]]] = {}
        for finding in own:
            alike.setdefault(outcome_of(finding.verdict), []).append((_dtype(finding.dtype), self.anchors[id(finding)]))
        return tuple(Mark(outcome=outcome, dtypes=tuple(dtypes)) for outcome, dtypes in alike.items())

    def _which_decide(self) -> str:
        """How the levels are to be read, where there are several."""
        if not self.levels.must:
            return "No MUST requirement was asked, so the SHOULD and informational ones decide."
        if any(requirement.aside for requirement in self.requirements.values()):
            return "MUST requirements decide; what the SHOULD and informational ones find is told beside the answer."
        return ""

    def _common_facts(self) -> dict[str, str]:
        """The facts that all of several candidates share."""
        lines = [result.line for result in self.results if result.line is not None]
        if len(lines) < 2:
            return {}
        first = lines[0].facts
        return {k: v for k, v in first.items() if all(line.facts.get(k) == v for line in lines)}

    def _tested(self, agreements: Sequence[Agreement]) -> tuple[tuple[str, str, str], ...]:
        """How much: every figure with what is to be added to it."""
        findings = self.findings
        dtypes = dict.fromkeys(label(f.dtype) for f in findings if not isinstance(f.verdict, Unsupported))
        phases = [
            f"{len(list(group)):,} {phase}" for phase, group in groupby(sorted(t.phase for t in self.record.trials))
        ]
        blocks = self.record.blocks
        phases += [f"{sum(line.agreeing for line in blocks):,} in {count(len(blocks), 'block')}"] if blocks else []
        tried = len(self.record.trials) + sum(line.agreeing for line in blocks)
        trials = count(tried, "trial") + (f" ({', '.join(phases)})" if phases else "")
        numbers = sum(v.compared if isinstance(v, Agrees) else 0 for v in (core(f.verdict) for f in findings))
        numbers += sum(v.evidence.compared for _, v in diverging(findings))
        cases = len({trial.case.digest for trial in self.record.trials})
        cases += sum({line.digest: line.cases for line in blocks}.values())
        return (
            ("Candidates", str(len(self.results)), f"of {count(len(self.frameworks), 'framework')}"),
            ("Requirements", str(len(self.requirements)), f"in {listed(list(dtypes)) or 'no dtype'}"),
            ("Checks", f"{len(findings):,}", f"by {trials}"),
            ("Cases", f"{cases:,}", "different ones, digest by digest"),
            ("Numbers compared", f"{numbers:,}", "each against a bound of its own"),
            ("Faults ruled out", *self._ruled_out(agreements)),
        )

    def _made(self) -> tuple[tuple[str, str], ...]:
        """When and how the record came about."""
        header, footer = self.record.header, self.record.footer
        campaign = f"; a campaign of {header.cases:,} cases" if header.cases else ""
        campaign += f", {count(header.fresh_shapes, 'block')} in fresh shapes" if header.fresh_shapes else ""
        campaign += f", shard {header.shard[0]} of {header.shard[1]}" if header.shard[1] > 1 else ""
        return (
            ("Started", label(header.started)),
            ("Finished", "did not finish" if footer is None else label(footer.finished)),
            ("Seed", f"{header.seed}, {count(header.examples, 'generated case')} per check{campaign}"),
            ("Harness", f"rnn-conformance {label(header.harness)}"),
            ("Command", visible(shlex.join(["rnn-conformance", *map(label, header.arguments)]))),
            *source_items(self.record),
        )

    def _ruled_out(self, agreements: Sequence[Agreement]) -> tuple[str, str]:
        amounts = sorted({len(agreement.faults.faults) for agreement in agreements})
        if not amounts:
            return "none", "no check agrees"
        span = f"{amounts[0]}" if len(amounts) == 1 else f"{amounts[0]} to {amounts[-1]}"
        whole = all(agreement.open == "none" for agreement in agreements)
        return span, "per agreeing check" + (", every one that could show" if whole else "")

    def _could_not(self) -> tuple[tuple[str, str], ...]:
        """What the record leaves open, each with the anchor of its section."""
        findings = self.findings
        by_outcome = {o: [f for f in findings if outcome_of(f.verdict) == o] for o in WORDS}
        items = [(reason, "answer") for reason in gaps(self.record)]
        unasked = [label(name) for name in unfound(self.record) if not self.levels.decides(name)]
        if unasked:
            items.append(
                (
                    f"no finding on {listed(unasked, most=5)}, which {'do' if unasked[1:] else 'does'} not decide",
                    "answer",
                )
            )
        if not self.levels.must:
            items.append((self._which_decide(), "answer"))
        if by_outcome["broken"]:
            items.append((f"{self._checks(by_outcome['broken'])} broken: no observation", "broken"))
        if by_outcome["inconclusive"]:
            items.append((f"{self._checks(by_outcome['inconclusive'])} inconclusive", "inconclusive"))
        places = dict.fromkeys(
            (f.candidate, f.verdict.parameters) for f in findings if isinstance(f.verdict, Unrepresentable)
        )
        for candidate, parameters in list(places)[:10]:
            names = listed([label(name) for name in parameters], most=8)
            items.append((f"{label(candidate)} has no place for {names}", "unrepresentable"))
        if len(places) > 10:
            items.append((f"{len(places) - 10} more candidates with parameters they cannot hold", "unrepresentable"))
        if by_outcome["unsupported"]:
            what = dict.fromkeys(
                label(f.verdict.what) for f in by_outcome["unsupported"] if isinstance(f.verdict, Unsupported)
            )
            told = f" ({listed(list(what), most=4)})" if what else ""
            items.append((f"{self._checks(by_outcome['unsupported'])} declared unsupported{told}", "unsupported"))
        if self.record.incidents:
            items.append((f"{count(len(self.record.incidents), 'incident')} with workers", "broken"))
        return tuple(items)

    def _checks(self, own: Sequence[Finding]) -> str:
        """How many checks, and how many of them do not decide."""
        others = sum(not self.levels.decides(finding.requirement) for finding in own)
        return count(len(own), "check") + (f" ({others} on requirements that do not decide)" if others else "")

    def _divergences(self) -> tuple[tuple[CauseText, ...], tuple[CauseText, ...]]:
        """The causes of divergences on requirements that decide, and on the others."""
        clause = {name: place.clause for name, place in self.places.items()}
        decided = [cause for result in self.results for cause in causes(result.findings, clause)]
        others = [cause for result in self.results for cause in causes(result.beside, clause)]
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
            anchor=self.anchors[id(finding)],
            statement=self.requirements[finding.requirement].statement,
            aside=self.levels.aside(finding.requirement),
            together="" if cause.faults else cause.name,
            known=self.known(finding.requirement),
            trials=self.trials.get((finding.candidate, finding.requirement, finding.dtype), []),
            line=next((r.line for r in self.results if r.name == finding.candidate), None),
            full=full,
            finished=id(finding) in self.recorded,
        )
        others = tuple(
            make_alike(other, told, anchor=self.anchors[id(other)], aside=self.levels.aside(other.requirement))
            for place, (other, told) in enumerate(cause.members)
            if place != cause.lead
        )
        return CauseText(lead=lead, others=others)

    def _notes(self, section: Section) -> tuple[Note, ...]:
        return make_notes(self.findings, section, self.anchors, self.levels)

    def _agreements(self) -> Iterator[Agreements]:
        for cell in self.cells:
            checks = tuple(self._agreeing(self._of(self.findings, cell)))
            if checks:
                sets = {id(check.faults): check.faults for check in checks}
                yield Agreements(
                    cell=spoken(cell),
                    text=f"{count(len(checks), 'agreeing check')} of {spoken(cell)}",
                    opened=len(self.cells) == 1 and len(checks) <= _SHORT,
                    checks=checks,
                    sets=tuple(sets.values()),
                )

    def _clauses(self) -> Iterator[Clauses]:
        listed_cells = dict.fromkeys((*self.cells, *self.faults))
        for cell in listed_cells:
            own = tuple(requirement for requirement in self.requirements.values() if requirement.cell == cell)
            yield Clauses(
                cell=spoken(cell),
                opened=len(listed_cells) == 1 and len(own) <= _SHORT,
                requirements=own,
                faults=tuple(self.faults.get(cell, {}).values()),
            )

    def _agreeing(self, own: Iterable[Finding]) -> Iterable[Agreement]:
        for finding in own:
            verdict = core(finding.verdict)
            if not isinstance(verdict, Agrees) or verdict.compared < 1:
                continue
            left = sorted(set(finding.visible) - verdict.excluded)
            held = finding.verdict.parameters if isinstance(finding.verdict, Unrepresentable) else ()
            yield Agreement(
                anchor=self.anchors[id(finding)] + ("a" * isinstance(finding.verdict, Unrepresentable)),
                candidate=label(finding.candidate),
                requirement=label(finding.requirement),
                aside=self.levels.aside(finding.requirement),
                dtype=label(finding.dtype),
                held=listed([label(name) for name in held], most=8),
                ruled_out=f"{len(verdict.excluded)} of {len(verdict.excluded | set(finding.visible))}",
                faults=self._set(finding.requirement, verdict.excluded),
                open=listed([label(name) for name in left], most=40) or "none",
                share=share(verdict.share),
                compared=f"{verdict.compared:,}",
                trials=f"{finding.trials:,}",
            )

    def _set(self, requirement: str, names: frozenset[str]) -> FaultSet:
        known = self.known(requirement)
        key = (self.places[requirement].cell, names)
        if key not in self.sets:
            place = len(self.sets) + 1
            order = {name: index for index, name in enumerate(known)}
            ranked = sorted(names, key=lambda name: (order.get(name, len(order)), name))
            faults = tuple(known.get(name) or FaultText(name=label(name)) for name in ranked)
            self.sets[key] = FaultSet(anchor=f"s{place}", letter=str(place), faults=faults)
        return self.sets[key]

    def _footer(self) -> str:
        lines = count(self.record.lines, "line")
        state = self.record.problem or "complete"
        return f"Made from {label(self.record.path)} ({lines}, {label(state)}) and from nothing else."


def _framework(result: Result) -> str:
    """The adapter, which stands for a framework."""
    return label(re.split("[:=@]", result.name, maxsplit=1)[0] if result.line is None else result.line.adapter)


def _dtype(name: str) -> str:
    """A dtype, or what stands in its place where a requirement is declared out in all of them."""
    return "any dtype" if name == "any" else label(name)


def _facts(facts: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((label(name), label(fact)) for name, fact in sorted(facts.items()))


def version_of(result: Result) -> str:
    """The exact version under test: as the worker says, else as the candidate's spec asks."""
    if result.line is not None and result.line.version:
        return label(result.line.version)
    asked = result.name.partition("==")[2]
    return f"asked: {label(asked)}" if asked else "unknown"
