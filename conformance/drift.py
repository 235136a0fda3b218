"""Drift: bits of a conforming implementation that moved between two releases, apart from what it means.

Another order of summation or another sigmoid moves the last bits of everything, and nobody is wronged by it as long
as both releases stay inside the bound. A *probe* keeps what a candidate gave for a shipped case, so that it can be
compared with that of another release, now or from a record. Where one of the two is outside its bound the difference
is a matter of the verdicts, and no drift.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from msgspec import Struct

from conformance.case import Case
from conformance.compare import Observed, compare
from conformance.record import Pair, Probe
from conformance.rounding import DTYPES, Array, format_of

DriftKind = Literal["identical", "drift", "beyond", "apart"]


class Drift(Struct, frozen=True, kw_only=True):
    """How far the bits of one case moved.

    kind: ``identical``, ``drift`` (both inside their bounds), ``beyond`` (one is not: the verdicts tell of it), or
        ``apart`` (they are not of the same case, or not readable: nothing is measured).
    difference: the largest absolute one; ulps: the same in units in the last place of the larger value there;
        share: the largest multiple of the bound of a single step, which may exceed 1 where a sequence amplifies
        rounding; moved: of `compared` numbers.
    """

    pair: Pair
    cell: str
    initial: str
    dtype: str
    kind: DriftKind
    difference: float = 0.0
    ulps: float = 0.0
    share: float = 0.0
    moved: int = 0
    compared: int = 0


def probe(candidate: str, requirement: str, case: Case, observed: Observed) -> Probe:
    """What a candidate gave for a case, to be kept in a record."""
    comparison = compare(case, observed)
    worst = comparison.worst
    parts = comparison.parts.items()
    return Probe(
        candidate=candidate,
        requirement=requirement,
        dtype=case.dtype,
        cell=case.cell,
        initial=case.initial,
        digest=case.digest,
        share=worst if math.isfinite(worst) else None,
        values={name: _packed(part.observed, case.dtype) for name, part in parts},
        bounds={name: _packed(part.bound, case.dtype) for name, part in parts},
    )


def _packed(values: Array, dtype: str) -> str:
    with np.errstate(over="ignore", under="ignore"):
        return base64.b64encode(values.astype(_container(dtype)).tobytes()).decode("ascii")


def _container(dtype: str) -> str:
    return "<f8" if dtype == "float64" else "<f4"


def _unpacked(probe: Probe) -> tuple[Array, Array] | None:
    """All values and bounds of a probe in one row each; None where they are not what a probe holds."""
    try:
        values, bounds = (_row(side, probe.dtype) for side in (probe.values, probe.bounds))
    except (binascii.Error, ValueError):
        return None
    return (values, bounds) if values.size and values.size == bounds.size else None


def _row(packed: Mapping[str, str], dtype: str) -> Array:
    raw = b"".join(base64.b64decode(packed[name], validate=True) for name in sorted(packed))
    return np.frombuffer(raw, _container(dtype)).astype(np.float64)


def drifts(before: Sequence[Probe], after: Sequence[Probe], pairs: Sequence[Pair]) -> tuple[Drift, ...]:
    """The drift of every probe of the later release that the earlier one has as well."""
    earlier = {(p.candidate, p.requirement, p.dtype): p for p in before}
    sides = {pair.after: pair for pair in pairs if pair.before and pair.after}
    return tuple(
        measured(sides[late.candidate], early, late)
        for late in after
        if late.candidate in sides
        and (early := earlier.get((sides[late.candidate].before, late.requirement, late.dtype))) is not None
    )


def measured(pair: Pair, before: Probe, after: Probe) -> Drift:
    """Compare two probes, number by number."""

    def told(kind: DriftKind, **figures: float) -> Drift:
        return Drift(pair=pair, cell=after.cell, initial=after.initial, dtype=after.dtype, kind=kind, **figures)  # type: ignore[arg-type]  # counts are whole

    first, second = _unpacked(before), _unpacked(after)
    if after.dtype not in DTYPES or before.dtype != after.dtype:
        return told("apart")
    if before.digest != after.digest or before.values.keys() != after.values.keys() or first is None or second is None:
        return told("apart")
    (old, bound), (new, _) = first, second
    if old.size != new.size:
        return told("apart")
    inside = all(share is not None and share <= 1.0 for share in (before.share, after.share))
    same = old.tobytes() == new.tobytes()
    if not inside:
        return told("beyond", compared=old.size)
    if same:
        return told("identical", compared=old.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Equal infinities have not moved; other gaps that are not finite are the verdicts' matter.
        gap = np.abs(np.where(old == new, 0.0, new - old))
        gap = np.where(np.isfinite(gap), gap, 0.0)
        share = np.where(gap == 0.0, 0.0, gap / bound)
    place = int(np.argmax(gap))
    scale = max(abs(float(old[place])), abs(float(new[place])))
    spacing = math.ldexp(2.0 * format_of(after.dtype).storage, math.frexp(scale)[1] - 1)
    bits = old.view(np.uint64) != new.view(np.uint64)
    return told(
        "drift",
        difference=float(gap[place]),
        ulps=float(gap[place]) / max(spacing, math.ulp(0.0)),
        share=float(np.max(np.where(np.isfinite(share), share, 0.0))),
        moved=int(np.count_nonzero(bits)),
        compared=old.size,
    )
