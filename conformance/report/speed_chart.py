"""Geometry of the drawings of a benchmark: intervals of ratios, and costs against the number of steps.

All axes are logarithmic and hold positive finite numbers only. Nothing here is markup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from conformance.ratio import Ratio
from conformance.report.chart import Tick

WIDTH: Final = 560
HEIGHT: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 74, 14, 14, 52
ROW: Final = 46
NAME: Final = 14
"""How far below the top of its row a name stands; its interval is below it, so that no name is too long."""
_LARGEST: Final = 1e9
_LEAST, _MOST = 1e-300, 1e300
_NICE: Final = (1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000, 1e4, 1e6)


class Bar(Struct, frozen=True, kw_only=True):
    """The interval of one side: ends and median across, y: where it lies; its name stands above, at y - `NAME`."""

    name: str
    kind: str
    low: float
    at: float
    high: float
    y: float
    text: str


class Intervals(Struct, frozen=True, kw_only=True):
    """Ratios on a common axis. one: where equality lies; band: what the same code differed by, from and to."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    one: float
    band: tuple[float, float] | None
    height: int


def intervals(rows: Sequence[tuple[str, str, Ratio, str]], control: Ratio | None) -> Intervals | None:
    """The picture of some ratios, each with its name, kind and text; None when there are none."""
    if not rows:
        return None
    found = [*(ratio for _, _, ratio, _ in rows), *([control] if control is not None else [])]
    reach = math.log(min(_LARGEST, max(1.1, *(ratio.distance for ratio in found)))) * 1.06
    left, right = 20.0, WIDTH - 20.0
    middle = (left + right) / 2

    def across(value: float) -> float:
        return round(middle + (right - left) / 2 * math.log(min(max(value, 1 / _LARGEST), _LARGEST)) / reach, 1)

    inside = [value for value in _NICE if math.log(value) <= reach]
    chosen = inside if len(inside) <= 4 else [inside[0], inside[len(inside) // 2], inside[-1]]
    values = sorted({*chosen, *(1 / value for value in chosen)})
    height = TOP + ROW * len(rows) + 48
    return Intervals(
        bars=tuple(
            Bar(
                name=name,
                kind=kind,
                low=across(ratio.low),
                at=across(ratio.median),
                high=across(ratio.high),
                y=TOP + ROW * place + 32.0,
                text=text,
            )
            for place, (name, kind, ratio, text) in enumerate(rows)
        ),
        ticks=tuple(Tick(at=across(value), text=_factor(value)) for value in values),
        one=across(1.0),
        band=None if control is None else (across(1 / control.distance), across(control.distance)),
        height=height,
    )


def _factor(value: float) -> str:
    return f"{value:.3g}\N{MULTIPLICATION SIGN}" if value >= 1 else f"{value:.2g}\N{MULTIPLICATION SIGN}"


class Line(Struct, frozen=True, kw_only=True):
    """One side's numbers: SVG path data and its points."""

    name: str
    place: int
    path: str
    points: tuple[tuple[float, float], ...]


class Growth(Struct, frozen=True, kw_only=True):
    """Numbers against the number of steps, or something else, both logarithmic."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    across: str = "steps, T"

    def against(self, across: str) -> Growth:
        """The same picture with another name across."""
        return replace(self, across=across)


def growth(title: str, unit: str, series: Mapping[str, Sequence[tuple[int, float]]]) -> Growth | None:
    """The picture of some series of (steps, number); what is not positive and finite has no place in it."""
    kept = {
        name: [(t, min(max(v, _LEAST), _MOST)) for t, v in points if t > 0 and 0 < v < math.inf]
        for name, points in series.items()
    }
    every = [point for points in kept.values() for point in points]
    if not every:
        return None
    across, _ = _axis([float(t) for t, _ in every], LEFT + 16.0, WIDTH - RIGHT - 16.0, whole=False)
    up, decades = _axis([v for _, v in every], HEIGHT - BOTTOM - 6.0, TOP + 6.0, whole=True)
    lines = []
    for place, (name, points) in enumerate(kept.items()):
        drawn = tuple((across(float(t)), up(v)) for t, v in sorted(points))
        path = "".join(f"{'L' if index else 'M'}{x},{y}" for index, (x, y) in enumerate(drawn))
        lines.append(Line(name=name, place=place, path=path, points=drawn))
    times = sorted({t for t, _ in every})
    step = math.ceil(len(times) / 8)
    return Growth(
        title=title,
        unit=unit,
        lines=tuple(lines),
        x_ticks=tuple(Tick(at=across(float(t)), text=str(t)) for t in times[::step]),
        y_ticks=tuple(Tick(at=up(value), text=_decade(value)) for value in decades),
    )


def _decade(value: float) -> str:
    """A power of ten: 0.01, 100, 10k, 1M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if limit <= value < limit * 1000:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"


def _axis(
    values: Sequence[float], begin: float, end: float, *, whole: bool
) -> tuple[Callable[[float], float], list[float]]:
    """Where a value lies, and the powers of ten (at most seven) on the axis."""
    low, high = math.log10(min(values)), math.log10(max(values))
    if whole:
        low, high = math.floor(low), math.ceil(high)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5

    def place(value: float) -> float:
        return round(begin + (end - begin) * (math.log10(value) - low) / (high - low), 1)

    every = max(1, math.ceil((high - low) / 6))
    return place, [10.0**power for power in range(math.ceil(low), math.floor(high) + 1, every)]
