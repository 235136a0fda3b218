"""The page of a report: everything the template shows, computed from the record and from nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeAlias

from conformance.record import Incident, Record, Trial
from conformance.report.divergence import Divergence, FaultText, make_divergence
from conformance.report.notes import Note, Section, make_note
from conformance.report.outcome import (
    Outcome,
    Result,
    compared,
    core,
    diverging,
    gaps,
    headline,
    outcome_of,
    overall,
    results,
)
from conformance.report.wording import block, count, label, listed, share, visible
from conformance.verdict import Agrees, Unrepresentable, Unsupported

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

FULL: Final = 60
_INCIDENTS: Final = 200
"""At most so many divergences are shown in full; the others in short."""

Key: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One dtype in a cell of the matrix."""

    dtype: str
    outcome: Outcome
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """A candidate: what it is, and its row of the matrix (one tuple of marks per requirement)."""

    name: str
    title: str
    version: str
    environment: str
    facts: tuple[tuple[str, str], ...]
    outcome: Outcome
    cells: tuple[tuple[Mark, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementText:
    """A requirement as it stood when the record was made."""

    name: str
    level: str
    statement: str
    source: str
    cell: str
    anchor: str


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
    dtype: str
    held: str
    ruled_out: str
    faults: FaultSet
    open: str
    share: str
    compared: str
    trials: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole report."""

    headline: str
    outcome: Outcome
    warnings: tuple[str, ...]
    tested: tuple[tuple[str, str], ...]
    could_not: tuple[tuple[str, str], ...]
    common: tuple[tuple[str, str], ...]
    candidates: tuple[CandidateRow, ...]
    requirements: tuple[RequirementText, ...]
    divergences: tuple[Divergence, ...]
    unrepresentable: tuple[Note, ...]
    inconclusive: tuple[Note, ...]
    broken: tuple[Note, ...]
    incidents: tuple[Incident, ...]
    incidents_left_out: int
    unsupported: tuple[Note, ...]
    agreements: tuple[Agreement, ...]
    sets: tuple[FaultSet, ...]
    catalogues: tuple[tuple[str, tuple[FaultText, ...]], ...]
    footer: str
    unasked: str
    words: tuple[tuple[Outcome, str, str], ...]


def make_page(record: Record) -> Page:
    """The page of a record."""
    return _Builder(record).page()


class _Builder:
    """The look-ups that several parts of a page share; it lives for one page."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.results = results(record)
        ordered = [finding for result in self.results for finding in result.findings]
        self.findings = ordered
        self.anchors = {id(finding): f"f{index}" for index, finding in enumerate(ordered, start=1)}
        self.requirements = {
            entry.name: RequirementText(
                name=label(entry.name),
                level=label(entry.level),
                statement=block(entry.statement),
                source=block(entry.source),
                cell=entry.cell,
                anchor=f"r{index}",
            )
            for index, entry in enumerate(record.header.requirements, start=1)
        }
        for name in dict.fromkeys(finding.requirement for finding in ordered):
            if name not in self.requirements:
                self.requirements[name] = RequirementText(
                    name=label(name),
                    level="unknown",
                    statement="The record does not describe it.",
                    source="",
                    cell="",
                    anchor=f"r{len(self.requirements) + 1}",
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
        self.sets: dict[tuple[str, frozenset[str]], FaultSet] = {}
        self.trials: dict[Key, list[Trial]] = {}
        for trial in record.trials:
            self.trials.setdefault((trial.candidate, trial.requirement, trial.dtype), []).append(trial)

    def page(self) -> Page:
        record = self.record
        agreements = tuple(self._agreements())
        common = self._common_facts()
        return Page(
            headline=headline(record),
            outcome=overall(self.findings) if compared(record) else "untested",
            warnings=gaps(record),
            tested=self._tested(agreements),
            could_not=self._could_not(),
            common=_facts(common),
            candidates=tuple(self._row(result, common) for result in self.results),
            requirements=tuple(self.requirements.values()),
            divergences=tuple(self._divergences()),
            unrepresentable=tuple(self._notes("unrepresentable")),
            inconclusive=tuple(self._notes("inconclusive")),
            broken=tuple(self._notes("broken")),
            incidents=record.incidents[:_INCIDENTS],
            incidents_left_out=max(len(record.incidents) - _INCIDENTS, 0),
            unsupported=tuple(self._notes("unsupported")),
            agreements=agreements,
            sets=tuple(self.sets.values()),
            catalogues=tuple((label(cell), tuple(known.values())) for cell, known in self.faults.items()),
            footer=self._footer(),
            unasked="no finding" if record.problem else "not asked",
            words=tuple((outcome, *WORDS[outcome]) for outcome in WORDS),
        )

    def known(self, requirement: str) -> dict[str, FaultText]:
        """The described faults of a requirement's cell."""
        entry = self.requirements.get(requirement)
        return {} if entry is None else self.faults.get(entry.cell, {})

    def _row(self, result: Result, common: dict[str, str]) -> CandidateRow:
        line = result.line
        own = {} if line is None else {k: v for k, v in line.facts.items() if k not in common}
        cells = [
            tuple(
                Mark(dtype=_dtype(f.dtype), outcome=outcome_of(f.verdict), anchor=self.anchors[id(f)])
                for f in result.findings
                if f.requirement == name
            )
            for name in self.requirements
        ]
        return CandidateRow(
            name=label(result.name),
            title="" if line is None else label(line.title),
            version=version_of(result),
            environment="its worker never came up" if line is None else label(line.environment),
            facts=_facts(own),
            outcome=result.outcome,
            cells=tuple(cells),
        )

    def _common_facts(self) -> dict[str, str]:
        """The facts that all of several candidates share."""
        lines = [result.line for result in self.results if result.line is not None]
        if len(lines) < 2:
            return {}
        first = lines[0].facts
        return {k: v for k, v in first.items() if all(line.facts.get(k) == v for line in lines)}

    def _tested(self, agreements: Sequence[Agreement]) -> tuple[tuple[str, str], ...]:
        header, footer = self.record.header, self.record.footer
        findings = self.findings
        dtypes = dict.fromkeys(label(f.dtype) for f in findings if not isinstance(f.verdict, Unsupported))
        phases = [
            f"{len(list(group)):,} {phase}" for phase, group in groupby(sorted(t.phase for t in self.record.trials))
        ]
        trials = count(len(self.record.trials), "trial") + (f" ({', '.join(phases)})" if phases else "")
        numbers = sum(v.compared if isinstance(v, Agrees) else 0 for v in (core(f.verdict) for f in findings))
        numbers += sum(v.evidence.compared for _, v in diverging(findings))
        items = [
            ("Candidates", str(len(self.results))),
            ("Requirements", f"{len(self.requirements)}, in {listed(list(dtypes)) or 'no dtype'}"),
            ("Checks", f"{len(findings)}, by {trials}"),
            ("Numbers compared", f"{numbers:,}"),
            ("Faults ruled out", self._ruled_out(agreements)),
            ("Seed", f"{header.seed}, {count(header.examples, 'generated case')} per check"),
            ("Started", label(header.started)),
            ("Finished", "did not finish" if footer is None else label(footer.finished)),
            ("Harness", f"rnn-conformance {label(header.harness)}"),
            ("Command", visible(shlex.join(["rnn-conformance", *map(label, header.arguments)]))),
        ]
        return tuple(items)

    def _ruled_out(self, agreements: Sequence[Agreement]) -> str:
        amounts = sorted({len(agreement.faults.faults) for agreement in agreements})
        if not amounts:
            return "none: no check agrees"
        span = f"{amounts[0]}" if len(amounts) == 1 else f"{amounts[0]} to {amounts[-1]}"
        whole = all(agreement.open == "none" for agreement in agreements)
        return f"{span} per agreeing check" + (", every one that could show" if whole else "")

    def _could_not(self) -> tuple[tuple[str, str], ...]:
        """What the record leaves open, each with the anchor of its section."""
        findings = self.findings
        tally = {o: sum(outcome_of(f.verdict) == o for f in findings) for o in WORDS}
        items = [(reason, "answer") for reason in gaps(self.record)]
        if tally["broken"]:
            items.append((f"{count(tally['broken'], 'check')} broken: no observation", "broken"))
        if tally["inconclusive"]:
            items.append((f"{count(tally['inconclusive'], 'check')} inconclusive", "inconclusive"))
        places = dict.fromkeys(
            (f.candidate, f.verdict.parameters) for f in findings if isinstance(f.verdict, Unrepresentable)
        )
        for candidate, parameters in list(places)[:10]:
            names = listed([label(name) for name in parameters], most=8)
            items.append((f"{label(candidate)} has no place for {names}", "unrepresentable"))
        if len(places) > 10:
            items.append((f"{len(places) - 10} more candidates with parameters they cannot hold", "unrepresentable"))
        if tally["unsupported"]:
            items.append((f"{count(tally['unsupported'], 'check')} declared unsupported", "unsupported"))
        if self.record.incidents:
            items.append((f"{count(len(self.record.incidents), 'incident')} with workers", "broken"))
        return tuple(items)

    def _divergences(self) -> Iterable[Divergence]:
        pairs = diverging(self.findings)
        recorded = {id(finding) for finding in self.record.findings}
        # First one check of every candidate and fault set, then a second one of each, and so on.
        seen: dict[tuple[str, tuple[str, ...]], int] = {}
        turns = []
        for place, (finding, verdict) in enumerate(pairs):
            turn = seen.get((finding.candidate, verdict.faults), 0)
            seen[finding.candidate, verdict.faults] = turn + 1
            turns.append((turn, place))
        full = {place for _, place in sorted(turns)[:FULL]}
        for place, (finding, verdict) in enumerate(pairs):
            entry = self.requirements.get(finding.requirement)
            yield make_divergence(
                finding,
                verdict,
                anchor=self.anchors[id(finding)],
                statement="" if entry is None else entry.statement,
                known=self.known(finding.requirement),
                trials=self.trials.get((finding.candidate, finding.requirement, finding.dtype), []),
                full=place in full,
                finished=id(finding) in recorded,
            )

    def _notes(self, section: Section) -> Iterable[Note]:
        for finding in self.findings:
            note = make_note(finding, section, self.anchors[id(finding)])
            if note is not None:
                yield note

    def _agreements(self) -> Iterable[Agreement]:
        for finding in self.findings:
            verdict = core(finding.verdict)
            if not isinstance(verdict, Agrees) or verdict.compared < 1:
                continue
            left = sorted(set(finding.visible) - verdict.excluded)
            held = finding.verdict.parameters if isinstance(finding.verdict, Unrepresentable) else ()
            yield Agreement(
                anchor=self.anchors[id(finding)] + ("a" * isinstance(finding.verdict, Unrepresentable)),
                candidate=label(finding.candidate),
                requirement=label(finding.requirement),
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
        entry = self.requirements.get(requirement)
        key = ("" if entry is None else entry.cell, names)
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
