"""Geometry of a heat map: the largest share of the bound over time and units. Nothing here is markup."""

from __future__ import annotations

import math
from typing import Final, Literal

from msgspec import Struct

from conformance.report.wording import UNBOUNDED, share
from conformance.verdict import ShareMap

Level = Literal["inside", "low", "middle", "high", "highest", "lost"]
LEFT, TOP, BOTTOM = 74, 6, 44
_WIDTH: Final = 470
_LARGEST, _SMALLEST, _READABLE = 40.0, 6.0, 17.0
_LABELS: Final = 12


class Square(Struct, frozen=True, kw_only=True):
    """One entry: its place, how far outside, the digit to write into it, and what it says."""

    x: float
    y: float
    level: Level
    digit: str
    says: str


class HeatMap(Struct, frozen=True, kw_only=True):
    """The whole picture. size: of a square; ticks: (place, text); rows: the table behind it."""

    width: float
    height: float
    size: float
    squares: tuple[Square, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    units: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    middle: tuple[float, float]
    said: str


def heat_map(found: ShareMap | None) -> HeatMap | None:
    """The picture of a map; None where there is none, or where its rows are not of one length."""
    if found is None or not found.shares or not found.shares[0] or len({len(row) for row in found.shares}) > 1:
        return None
    across, down = len(found.shares), len(found.shares[0])
    size = round(max(min(_WIDTH / across, _LARGEST), _SMALLEST), 1)
    steps = [_span(index, found.steps) for index in range(across)]
    units = [_span(index, found.units) for index in range(down)]
    squares = tuple(
        Square(
            x=round(LEFT + size * t, 1),
            y=round(TOP + size * u, 1),
            level=_level(value),
            digit=_digit(value) if size >= _READABLE else "",
            says=f"step {steps[t]}, unit {units[u]}: {_said(value)}",
        )
        for t, row in enumerate(found.shares)
        for u, value in enumerate(row)
    )
    outside = sum(square.level != "inside" for square in squares)
    return HeatMap(
        width=round(LEFT + size * across + 14, 1),
        height=round(TOP + size * down + BOTTOM, 1),
        size=size,
        squares=squares,
        x_ticks=tuple((round(LEFT + size * (t + 0.5), 1), steps[t]) for t in _chosen(across)),
        y_ticks=tuple((round(TOP + size * (u + 0.5) + 4, 1), units[u]) for u in _chosen(down)),
        units=tuple(units),
        rows=tuple((steps[t], tuple(_said(value) for value in row)) for t, row in enumerate(found.shares)),
        middle=(round(LEFT + size * across / 2, 1), round(TOP + size * down / 2, 1)),
        said=f"{outside} of {len(squares)} places lie outside their bound",
    )


def _span(index: int, every: int) -> str:
    return str(index) if every == 1 else f"{index * every} to {(index + 1) * every - 1}"


def _chosen(amount: int) -> range:
    return range(0, amount, max(math.ceil(amount / _LABELS), 1))


def _level(value: float | None) -> Level:
    if value is None or not math.isfinite(value) or value >= UNBOUNDED:
        return "lost"
    if value <= 1:
        return "inside"
    return "low" if value < 10 else "middle" if value < 1e3 else "high" if value < 1e5 else "highest"


def _digit(value: float | None) -> str:
    """How many powers of ten outside, as one sign; "" inside."""
    match _level(value):
        case "inside":
            return ""
        case "lost":
            return "\N{INFINITY}"
        case _:
            assert value is not None
            power = math.floor(math.log10(value))
            return str(power) if power < 10 else "9+"


def _said(value: float | None) -> str:
    return share(value) if value is not None else "infinite"
