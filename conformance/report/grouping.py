"""A record's requirements by cell and clause, and what is found on many of them in a few words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from conformance.record import Finding, Record
from conformance.report.outcome import ORDER, Outcome, findings, outcome_of
from conformance.report.wording import label, listed

UNKNOWN: Final = "not described"
"""Stands for the cell of requirements that the record does not describe."""

_WORDS: Final[Mapping[Outcome, tuple[str, str]]] = {
    "diverges": ("diverges", "diverge"),
    "broken": ("broken", "broken"),
    "inconclusive": ("inconclusive", "inconclusive"),
    "untested": ("without a finding", "without a finding"),
    "unrepresentable": ("unrepresentable", "unrepresentable"),
    "agrees": ("agrees", "agree"),
    "unsupported": ("unsupported", "unsupported"),
}


class Place(Struct, frozen=True, kw_only=True):
    """Where a requirement belongs. clause: its name without the cell's, the whole name where it has no such part."""

    cell: str
    clause: str


def places(record: Record) -> dict[str, Place]:
    """The place of every requirement that the header describes or a finding names, cell by cell."""
    found = {entry.name: _place(entry.name, entry.cell) for entry in record.header.requirements}
    for finding in findings(record):
        found.setdefault(finding.requirement, Place(cell="", clause=finding.requirement))
    order = {cell: index for index, cell in enumerate(dict.fromkeys(place.cell for place in found.values()))}
    return dict(sorted(found.items(), key=lambda item: order[item[1].cell]))


def _place(name: str, cell: str) -> Place:
    clause = name.removeprefix(f"{cell}_") if cell else name
    return Place(cell=cell, clause=clause or name)


def cells(known: Mapping[str, Place]) -> tuple[str, ...]:
    """The cells of some requirements, each once."""
    return tuple(dict.fromkeys(place.cell for place in known.values()))


def spoken(cell: str) -> str:
    """A cell's name for a reader."""
    return label(cell) or UNKNOWN


def tally(own: Iterable[Finding]) -> str:
    """How many findings ended how, worst first: ``all 24 agree``, ``2 diverge and 22 agree``."""
    return listed(parts(own))


def parts(own: Iterable[Finding]) -> tuple[str, ...]:
    """The same, outcome by outcome."""
    counts = Counter(outcome_of(finding.verdict) for finding in own)
    total = counts.total()
    if total > 1 and counts["agrees"] == total:
        return (f"all {total} agree",)
    return tuple(f"{counts[o]} {_WORDS[o][counts[o] != 1]}" for o in ORDER if counts[o])


def by_requirement(own: Sequence[Finding]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Requirements with the dtypes in which they are found on, in order."""
    found: dict[str, list[str]] = {}
    for finding in own:
        found.setdefault(finding.requirement, []).append(finding.dtype)
    return tuple((name, tuple(dict.fromkeys(dtypes))) for name, dtypes in found.items())
