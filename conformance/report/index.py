"""What the parts of a page look up: findings by anchor, requirements and faults as they are told, columns."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from conformance.record import Finding, Record, Trial
from conformance.report.divergence import FaultText
from conformance.report.gate import Key
from conformance.report.grouping import cells, places
from conformance.report.outcome import Result, levels, results
from conformance.report.wording import block, label


class RequirementText(Struct, frozen=True, kw_only=True):
    """A requirement as it stood when the record was made. aside: its level, where that does not decide."""

    name: str
    clause: str
    level: str
    aside: str
    statement: str
    source: str
    cell: str
    anchor: str


class Column(Struct, frozen=True, kw_only=True):
    """A candidate's column. key, framework: what the filter calls the candidate and its framework."""

    name: str
    key: str
    framework: str


class Index:
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
        self.recorded = {id(finding) for finding in record.findings}
        self.trials: dict[Key, list[Trial]] = {}
        for trial in record.trials:
            self.trials.setdefault((trial.candidate, trial.requirement, trial.dtype), []).append(trial)

    def known(self, requirement: str) -> dict[str, FaultText]:
        """The described faults of a requirement's cell."""
        return self.faults.get(self.places[requirement].cell, {})

    def of(self, own: Iterable[Finding], cell: str) -> list[Finding]:
        """The findings about one cell."""
        return [finding for finding in own if self.places[finding.requirement].cell == cell]


def _framework(result: Result) -> str:
    """The framework's own name, else that of the adapter, which stands for it."""
    if result.line is None:
        return label(re.split("[:=@]", result.name, maxsplit=1)[0])
    return label(result.line.framework or result.line.adapter)


def dtype_text(name: str) -> str:
    """A dtype, or what stands in its place where a requirement is declared out in all of them."""
    return "any dtype" if name == "any" else label(name)
