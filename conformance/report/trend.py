"""A matrix of releases as text and as one HTML file with a drawing, a pure function of the matrix.

Every state has a mark of its own (a letter, numbered where several states share one), so that nothing depends on
colour; the fill only repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from markupsafe import Markup
from msgspec import Struct
from rich.table import Table
from rich.text import Text

from conformance.bisect import State
from conformance.report.affected import affected, asked_of, could_not, trend_headline, trend_outcome
from conformance.report.history import reasons, told, warnings
from conformance.report.html import page_environment, part, style_digest
from conformance.report.wording import label
from conformance.trend import Matrix, Row

CELL: Final = 30
LABEL: Final = 250
_LIMITS: Final = 20
_LONG: Final = 12
"""Longer tables are folded."""
HEAD: Final = 64
PAD: Final = 8

_FILLS: Final = {"A": "agrees", "D": "diverges", "N": "unavailable"}
_LETTERS: Final = {"agrees": "A", "diverges": "D", "breaks": "B", "does not start": "S", "inconclusive": "I"}


class Mark(Struct, frozen=True, kw_only=True):
    """How a state is shown: a letter or two, the kind of fill, and its label in words."""

    text: str
    fill: str
    label: str


class Cell(Struct, frozen=True, kw_only=True):
    """One state in the drawing and in the table; `x` and `y` are of the cell's corner."""

    version: str
    mark: Mark
    detail: str
    x: int
    y: int


class Line(Struct, frozen=True, kw_only=True):
    """One question: its name in two parts, its cells, and its history in words."""

    name: str
    dtype: str
    y: int
    cells: tuple[Cell, ...]
    words: str
    notes: tuple[str, ...]


def marks(matrix: Matrix) -> dict[str, Mark]:
    """A mark for every label that the matrix holds, in the order in which they come."""
    found: dict[str, Mark] = {}
    used: dict[str, int] = {}
    for row in matrix.rows:
        for version in matrix.versions:
            state = row.states[version]
            if state.label in found:
                continue
            letter = _letter(state)
            used[letter] = used.get(letter, 0) + 1
            text = letter if used[letter] == 1 else f"{letter}{used[letter]}"
            found[state.label] = Mark(text=text, fill=_FILLS.get(letter, "other"), label=state.label)
    return found


def _letter(state: State) -> str:
    if state.kind == "unavailable":
        return "N"
    return next((letter for word, letter in _LETTERS.items() if state.label.startswith(word)), "O")


def trend_table(matrix: Matrix) -> Table:
    """The matrix on a terminal: a strip of marks for each question, and the same in words."""
    table = Table("requirement", "dtype", "releases", "in words")
    table.columns[0].overflow = "fold"
    used = marks(matrix)
    for row in matrix.rows:
        strip = " ".join(used[row.states[version].label].text for version in matrix.versions)
        history = row.history(matrix.versions)
        words = "; ".join([told(history), *warnings(history)])
        table.add_row(*map(Text, (f"{row.requirement} ({row.variant})", row.dtype, strip, words)))
    return table


def legend(matrix: Matrix) -> list[str]:
    """What the marks mean, and which releases the strip stands for."""
    lines = [f"{mark.text}: {mark.label}" for mark in marks(matrix).values()]
    return [f"releases: {' '.join(matrix.versions)}", *lines]


def explained(matrix: Matrix) -> Mapping[str, str]:
    """Why releases gave no answer or were left out."""
    return {**matrix.left_out, **reasons(row.history(matrix.versions) for row in matrix.rows)}


def render_trend(matrix: Matrix) -> str:
    """The matrix as one HTML document: a drawing, and a table with everything that it shows."""
    style, script = part("report.css") + "\n" + part("trend.css"), part("report.js")
    used, left = marks(matrix), _margin(matrix)
    lines = tuple(_line(matrix, index, used, left) for index in range(len(matrix.rows)))
    limits = could_not(matrix)
    return (
        page_environment()
        .get_template("trend.html.j2")
        .render(
            matrix=matrix,
            style=Markup(style),  # noqa: S704  our own files
            script=Markup(script),  # noqa: S704  our own file
            policy=f"default-src 'none'; style-src '{style_digest(style)}'; script-src '{style_digest(script)}'; "
            "base-uri 'none'; form-action 'none'",
            headline=trend_headline(matrix),
            outcome=trend_outcome(matrix),
            made=label(matrix.origin.get("finished", "")),
            told=_alike(lines),
            causes=affected(matrix),
            limits=limits[:_LIMITS],
            more_limits=max(len(limits) - _LIMITS, 0),
            asked=asked_of(matrix.rows),
            lines=lines,
            heads=[(version, left + CELL * index + CELL // 2) for index, version in enumerate(matrix.versions)],
            marks=tuple(used.values()),
            origin=tuple(matrix.origin.items()),
            folded=len(matrix.versions) > _LONG,
            width=left + CELL * len(matrix.versions) + HEAD,
            height=HEAD + CELL * len(lines) + PAD,
            head=HEAD - PAD,
            cell=CELL,
        )
    )


def _margin(matrix: Matrix) -> int:
    """The room that the names of rows need."""
    longest = max((len(text) for row in matrix.rows for text in (_name(matrix, row), row.dtype)), default=0)
    return min(LABEL, 16 + 7 * longest)


def _name(matrix: Matrix, row: Row) -> str:
    """The requirement, and the variant where there are several."""
    single = len({other.variant for other in matrix.rows}) == 1
    return label(row.requirement) + ("" if single else f" ({label(row.variant)})")


def _alike(lines: Sequence[Line]) -> tuple[tuple[str, str, str, tuple[str, ...]], ...]:
    """Histories in words, dtypes of one requirement together where they are the same."""
    found: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for line in lines:
        found.setdefault((line.name, line.words, line.notes), []).append(line.dtype)
    return tuple((name, ", ".join(dtypes), words, notes) for (name, words, notes), dtypes in found.items())


def _line(matrix: Matrix, index: int, used: Mapping[str, Mark], left: int) -> Line:
    row, y = matrix.rows[index], HEAD + CELL * index
    history = row.history(matrix.versions)
    return Line(
        name=_name(matrix, row),
        dtype=label(row.dtype),
        y=y,
        cells=tuple(
            Cell(
                version=version,
                mark=used[row.states[version].label],
                detail=row.states[version].detail,
                x=left + CELL * column,
                y=y,
            )
            for column, version in enumerate(matrix.versions)
        ),
        words=told(history),
        notes=tuple(warnings(history)),
    )
