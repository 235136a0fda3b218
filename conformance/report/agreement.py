"""Agreeing checks, and the sets of faults that they rule out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from conformance.record import Finding
from conformance.report.divergence import FaultText
from conformance.report.grouping import spoken
from conformance.report.index import Index
from conformance.report.wording import count, label, listed, share
from conformance.verdict import Agrees, Unrepresentable, core

SHORT: Final = 40
"""Longer tables are folded."""


class FaultSet(Struct, frozen=True, kw_only=True):
    """A set of faults that one or several agreeing checks rule out, in the order of the catalogue."""

    anchor: str
    letter: str
    faults: tuple[FaultText, ...]


class Agreement(Struct, frozen=True, kw_only=True):
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


class Agreements(Struct, frozen=True, kw_only=True):
    """The agreeing checks of one cell, and the sets of faults that they rule out."""

    cell: str
    text: str
    opened: bool
    checks: tuple[Agreement, ...]
    sets: tuple[FaultSet, ...]


def make_agreements(index: Index) -> Iterator[Agreements]:
    """The agreements, cell by cell."""
    sets = _Sets(index)
    for cell in index.cells:
        checks = tuple(_agreeing(index, sets, index.of(index.findings, cell)))
        if checks:
            own = {id(check.faults): check.faults for check in checks}
            yield Agreements(
                cell=spoken(cell),
                text=f"{count(len(checks), 'agreeing check')} of {spoken(cell)}",
                opened=len(index.cells) == 1 and len(checks) <= SHORT,
                checks=checks,
                sets=tuple(own.values()),
            )


def _agreeing(index: Index, sets: _Sets, own: Iterable[Finding]) -> Iterable[Agreement]:
    for finding in own:
        verdict = core(finding.verdict)
        if not isinstance(verdict, Agrees) or verdict.compared < 1:
            continue
        left = sorted(set(finding.visible) - verdict.excluded)
        held = finding.verdict.parameters if isinstance(finding.verdict, Unrepresentable) else ()
        yield Agreement(
            anchor=index.anchors[id(finding)] + ("a" * isinstance(finding.verdict, Unrepresentable)),
            candidate=label(finding.candidate),
            requirement=label(finding.requirement),
            aside=index.levels.aside(finding.requirement),
            dtype=label(finding.dtype),
            held=listed([label(name) for name in held], most=8),
            ruled_out=f"{len(verdict.excluded)} of {len(verdict.excluded | set(finding.visible))}",
            faults=sets.of(finding.requirement, verdict.excluded),
            open=listed([label(name) for name in left], most=40) or "none",
            share=share(verdict.share),
            compared=f"{verdict.compared:,}",
            trials=f"{finding.trials:,}",
        )


class _Sets:
    """The sets of faults of one page, numbered in the order in which they are met."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._made: dict[tuple[str, frozenset[str]], FaultSet] = {}

    def of(self, requirement: str, names: frozenset[str]) -> FaultSet:
        """The set of these faults; one and the same for equal ones."""
        known = self._index.known(requirement)
        key = (self._index.places[requirement].cell, names)
        if key not in self._made:
            place = len(self._made) + 1
            order = {name: index for index, name in enumerate(known)}
            ranked = sorted(names, key=lambda name: (order.get(name, len(order)), name))
            faults = tuple(known.get(name) or FaultText(name=label(name)) for name in ranked)
            self._made[key] = FaultSet(anchor=f"s{place}", letter=str(place), faults=faults)
        return self._made[key]
