"""The matrix of a page, cell by cell: requirements by candidates, and the filters over it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from conformance.record import Finding
from conformance.report.grouping import spoken
from conformance.report.index import Column, Index, RequirementText, dtype_text
from conformance.report.outcome import OPEN, Outcome, outcome_of
from conformance.report.wording import count

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

SPOKEN: Final[dict[str, str]] = {"untested": "no finding"}

_FEW: Final = 6
"""Up to so many rows of one cell are shown unfolded, whatever they hold."""


class Mark(Struct, frozen=True, kw_only=True):
    """The dtypes of one place of the matrix that ended alike, each with the anchor of its details."""

    outcome: Outcome
    dtypes: tuple[tuple[str, str], ...]


class MatrixRow(Struct, frozen=True, kw_only=True):
    """A requirement and its marks, one tuple per candidate of the block."""

    requirement: RequirementText
    marks: tuple[tuple[Mark, ...], ...]


class Filter(Struct, frozen=True, kw_only=True):
    """One choice by which checks are shown: options are pairs of value and text, of groups under a heading or ""."""

    name: str
    label: str
    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


class CellBlock(Struct, frozen=True, kw_only=True):
    """The part of the matrix about one cell. shown: the rows to see at once; folded: those on which all is fine."""

    anchor: str
    name: str
    text: str
    opened: bool
    candidates: tuple[Column, ...]
    shown: tuple[MatrixRow, ...]
    folded: tuple[MatrixRow, ...]


def make_matrix(index: Index) -> tuple[CellBlock, ...]:
    """The parts of the matrix, one for each cell."""
    return tuple(_block(index, cell) for cell in index.cells)


def _block(index: Index, cell: str) -> CellBlock:
    own = {result.name: index.of(result.all, cell) for result in index.results}
    asked = {name: found for name, found in own.items() if found}
    rows, fine = [], []
    for name, requirement in index.requirements.items():
        if requirement.cell != cell:
            continue
        found = [[f for f in findings if f.requirement == name] for findings in asked.values()]
        outcomes = {outcome_of(finding.verdict) for findings in found for finding in findings}
        fine.append(bool(outcomes) and not outcomes.intersection(OPEN))
        rows.append(MatrixRow(requirement=requirement, marks=tuple(_marks(index, findings) for findings in found)))
    fold = len(rows) > _FEW
    failing = sum(not all_fine for all_fine in fine)
    text = f"{count(len(rows), 'requirement')}, {count(len(asked), 'candidate')}: "
    text += f"not all is fine on {failing}" if failing else "all is fine"
    return CellBlock(
        anchor=f"c{index.cells.index(cell) + 1}",
        name=spoken(cell),
        text=text,
        opened=failing > 0 or len(index.cells) == 1,
        candidates=tuple(index.columns[name] for name in asked),
        shown=tuple(row for row, all_fine in zip(rows, fine, strict=True) if not (fold and all_fine)),
        folded=tuple(row for row, all_fine in zip(rows, fine, strict=True) if fold and all_fine),
    )


def _marks(index: Index, own: Iterable[Finding]) -> tuple[Mark, ...]:
    alike: dict[Outcome, list[tuple[str, str]]] = {}
    for finding in own:
        place = (dtype_text(finding.dtype), index.anchors[id(finding)])
        alike.setdefault(outcome_of(finding.verdict), []).append(place)
    return tuple(Mark(outcome=outcome, dtypes=tuple(dtypes)) for outcome, dtypes in alike.items())


def make_filters(index: Index) -> tuple[Filter, ...]:
    """The choices that leave something to choose from."""
    columns = tuple((column.key, column.name) for column in index.columns.values())
    seen = {outcome_of(finding.verdict) for finding in index.findings}
    dtypes = dict.fromkeys(dtype_text(finding.dtype) for finding in index.findings)
    levels_ = dict.fromkeys(one.level for one in index.requirements.values())
    alike = len(index.frameworks) < len(columns)
    found = (
        ("candidate", "Candidate", (*((("Framework", index.frameworks),) if alike else ()), ("Candidate", columns))),
        ("cell", "Cell", (("", tuple((b, spoken(b)) for b in index.cells)),)),
        ("verdict", "Verdict", (("", tuple((o, SPOKEN.get(o, o)) for o in WORDS if o in seen)),)),
        ("dtype", "dtype", (("", tuple((name, name) for name in dtypes)),)),
        ("level", "Level", (("", tuple((name, name) for name in sorted(levels_))),)),
    )
    return tuple(
        Filter(name=name, label=text, groups=groups)
        for name, text, groups in found
        if sum(len(options) for _, options in groups) > 1
    )
