"""Geometry of the two drawings of a report: residuals over time, and one hypothesis against its bound.

Both have logarithmic axes, which have no place for zero and for numbers that are not finite; those get rows of
their own below and above. The templates turn the geometry into SVG; nothing here is markup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from conformance.report.wording import UNBOUNDED
from conformance.verdict import StepRow

WIDTH: Final = 560
HEIGHT: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 74, 14, 14, 52
_MARKED: Final = 60
"""More points than this are drawn without markers."""


class Tick(Struct, frozen=True, kw_only=True):
    """A labelled place on an axis, in drawing units."""

    at: float
    text: str


class Series(Struct, frozen=True, kw_only=True):
    """One line of the chart: `path` is SVG path data, `points` the markers to draw."""

    kind: str
    path: str
    points: tuple[tuple[float, float], ...]


class Chart(Struct, frozen=True, kw_only=True):
    """Per-step residual, bound and free-running difference; `shade` is the area inside the bound."""

    series: tuple[Series, ...]
    shade: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    first: float
    """Where the first step outside its bound lies."""


def step_chart(rows: Sequence[StepRow], first: int) -> Chart | None:
    """The chart of some steps, in their order; None when there are none."""
    if not rows:
        return None
    values = [value for row in rows for value in (row.residual, row.bound, row.difference)]
    place, y_ticks = _vertical(values)
    across = _horizontal([row.step for row in rows])
    pick: dict[str, Callable[[StepRow], float | None]] = {
        "bound": lambda row: row.bound,
        "difference": lambda row: row.difference,
        "residual": lambda row: row.residual,
    }
    series = tuple(
        _series(kind, [(across(row.step), place(value(row))) for row in rows]) for kind, value in pick.items()
    )
    floor = HEIGHT - BOTTOM
    edge = series[0].path.replace("M", "L", 1)
    shade = f"M{_r(across(rows[0].step))},{floor}{edge}L{_r(across(rows[-1].step))},{floor}Z"
    every = _whole((rows[-1].step - rows[0].step) / 8)
    chosen = [row.step for row in rows if row.step % every == 0]
    return Chart(
        series=series,
        shade=shade if len(rows) > 1 else "",
        x_ticks=tuple(Tick(at=_r(across(step)), text=str(step)) for step in chosen),
        y_ticks=y_ticks,
        first=_r(across(first)),
    )


def _series(kind: str, points: list[tuple[float, float]]) -> Series:
    rounded = [(_r(x), _r(y)) for x, y in points]
    path = "".join(f"{'L' if index else 'M'}{x},{y}" for index, (x, y) in enumerate(rounded))
    return Series(kind=kind, path=path, points=tuple(rounded) if len(rounded) <= _MARKED else ())


def _whole(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least `least`."""
    size = 1
    while size * 5 < least:
        size *= 10
    return next(size * factor for factor in (1, 2, 5) if size * factor >= least)


def _horizontal(steps: Sequence[int]) -> Callable[[int], float]:
    low, high = min(steps), max(steps)
    left, right = LEFT + 16.0, WIDTH - RIGHT - 16.0
    if low == high:
        left, right, high = (left + right) / 2, (left + right) / 2, low + 1
    return lambda step: left + (right - left) * (min(max(step, low), high) - low) / (high - low)


def _vertical(values: Sequence[float | None]) -> tuple[Callable[[float | None], float], tuple[Tick, ...]]:
    """Where a value lies, and the decades to label."""
    logs = [math.log10(value) for value in values if _finite(value) and value is not None and value > 0]
    low = math.floor(min(logs)) if logs else -1
    high = max(math.ceil(max(logs)) if logs else 0, low + 1)
    zero = any(value == 0 for value in values)
    lost = not all(_finite(value) for value in values)
    top = TOP + (26.0 if lost else 6.0)
    bottom = HEIGHT - BOTTOM - (26.0 if zero else 0.0)

    def place(value: float | None) -> float:
        if value is None or not _finite(value):
            return TOP + 6.0
        if value <= 0:
            return HEIGHT - BOTTOM - 4.0
        return bottom - (bottom - top) * (math.log10(value) - low) / (high - low)

    every = math.ceil((high - low) / 6)
    ticks = [Tick(at=_r(place(10.0**power)), text=_power(power)) for power in range(low, high + 1, every)]
    if zero:
        ticks.append(Tick(at=_r(place(0.0)), text="0"))
    if lost:
        ticks.append(Tick(at=_r(place(None)), text="not finite"))
    return place, tuple(ticks)


def _power(power: int) -> str:
    return {0: "1", 1: "10", -1: "0.1"}.get(power, f"1e{power}")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _r(value: float) -> float:
    return round(value, 1)


GAUGE_WIDTH: Final = 120
_GAUGE_LOW, _GAUGE_HIGH = -2.0, 8.0
GAUGE_BOUND: Final = GAUGE_WIDTH * -_GAUGE_LOW / (_GAUGE_HIGH - _GAUGE_LOW)
"""Where a share of one, the bound itself, lies on a gauge."""


def gauge(share: float) -> float:
    """Where a hypothesis's share of its bound lies between 0 and `GAUGE_WIDTH`, logarithmically."""
    if not math.isfinite(share) or share >= UNBOUNDED:
        return float(GAUGE_WIDTH)
    if share <= 0:
        return 0.0
    place = (math.log10(share) - _GAUGE_LOW) / (_GAUGE_HIGH - _GAUGE_LOW)
    return _r(GAUGE_WIDTH * min(max(place, 0.0), 1.0))
