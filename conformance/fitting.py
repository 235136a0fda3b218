"""How many hypotheses fit one observation, or one many: as `conformance.compare` says of each, evaluated together.

Hypotheses that differ only in how they misread parameters are cases of one shape; small ones together take hardly
longer than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from conformance.algebra import Bounded, RunningError
from conformance.case import Case, unchecked
from conformance.cells.cell import Trace
from conformance.cells.fault import Fault
from conformance.cells.registry import cell_named
from conformance.compare import PER_STEP, Observed, check_shapes, compare, part_of, seen, together
from conformance.rounding import format_of

# Below so many, and with wide states, one by one is as fast.
_WORTH_STACKING = 3
_NOT_STACKED_ABOVE = 128
_AT_ONCE = 32
_STACKED = 64
_OBSERVED = Observed.__struct_fields__
_WORDS = ("equation", "right", "complement")
_ALIKE = tuple(name for name in Fault.__struct_fields__ if name not in ("name", "statement", "parameters", *_WORDS))
_NONE = Fault(name="", statement="")


class Fit(Struct, frozen=True, kw_only=True):
    """How a hypothesis fits: `Comparison.worst` and `Comparison.bounded`."""

    worst: float
    bounded: bool

    @property
    def explains(self) -> bool:
        """Whether the hypothesis explains every element, infinite bounds or not."""
        return self.worst <= 1.0


class Foretold(Observed, frozen=True, kw_only=True):
    """An observation of which it is known that some hypotheses do not fit, and how badly: see `foretold`."""

    misfits: Mapping[str, Fit]


def fits(case: Case, observed: Observed, faults: Sequence[Fault]) -> dict[str, Fit]:
    """How each of these faults fits an observation; as `compare` says, one by one.

    Most faults misread parameters and compute as the correct cell does: these are evaluated at once, as cases of one
    shape, which is several times faster for small ones.

    Raises
    ------
    CaseError: as `compare`.
    """
    check_shapes(case, observed)
    found = dict(observed.misfits) if isinstance(observed, Foretold) else {}
    usual = misreadings(case, [fault for fault in faults if fault.name not in found]) if observed.finite else []
    found |= _fits_alike(case, observed, usual) if usual else {}
    for fault in faults:
        if fault.name not in found:
            comparison = compare(case, observed, fault)
            found[fault.name] = Fit(worst=comparison.worst, bounded=comparison.bounded)
    return {fault.name: found[fault.name] for fault in faults}


def foretold(case: Case, observed: Sequence[Observed], faults: Sequence[Fault]) -> tuple[Observed, ...]:
    """The same observations of one case, with what is found out at once about all of them: which faults do not fit.

    Every hypothesis is evaluated along all of them together, as `shares` evaluates cases; many times faster for small
    ones. What fits is not told: `fits` compares it by itself, so nothing is explained because of this.

    Raises
    ------
    CaseError: as `compare`.
    """
    plain = [place for place, each in enumerate(observed) if each.finite and not case.special and case.stepwise]
    found = list(observed)
    for begin in range(0, len(plain), _AT_ONCE):
        places = plain[begin : begin + _AT_ONCE]
        some = [observed[place] for place in places]
        for each in some:
            check_shapes(case, each)
        by_fault = {fault.name: _fits_along(case, together(some), fault) for fault in faults}
        for row, place in enumerate(places):
            misfits = {name: rows[row] for name, rows in by_fault.items() if not rows[row].explains}
            known = {name: getattr(observed[place], name) for name in _OBSERVED}
            found[place] = Foretold(**known, misfits=misfits)
    return tuple(found)


def fits_of_many(case: Case, observed: Observed, faults: Sequence[Fault]) -> dict[str, Fit]:
    """As `fits`, for thousands of faults: all that differ in how parameters are misread alone are evaluated at once.

    Raises
    ------
    CaseError: as `compare`.
    """
    check_shapes(case, observed)
    alike: dict[tuple[Any, ...], list[Fault]] = {}
    if case.stepwise and observed.finite and case.shape.hidden <= _NOT_STACKED_ABOVE:
        for fault in faults:
            if fault.parameters is not None and fault.arithmetic is None:
                alike.setdefault(tuple(getattr(fault, name) for name in _ALIKE), []).append(fault)
    found: dict[str, Fit] = {}
    for group in alike.values():
        for begin in range(0, len(group), _STACKED):
            some = group[begin : begin + _STACKED]
            found |= _fits_alike(case, observed, some) if len(some) >= _WORTH_STACKING else {}
    found |= fits(case, observed, [fault for fault in faults if fault.name not in found])
    return {fault.name: found[fault.name] for fault in faults}


def misreadings(case: Case, faults: Sequence[Fault]) -> list[Fault]:
    """Those faults that are another reading of the parameters and nothing else; none where stacks are not faster."""
    if not case.stepwise or case.shape.hidden > _NOT_STACKED_ABOVE:
        return []
    usual, own = [], (None, cell_named(case.cell).equations)
    for fault in faults:
        others = (name for name in _ALIKE if name != "equations")
        if fault.parameters is not None and all(getattr(fault, name) == getattr(_NONE, name) for name in others):
            usual += [fault] if fault.equations in own else []
    return usual if len(usual) >= _WORTH_STACKING else []


def readings(case: Case, alike: Sequence[Fault]) -> Case:
    """How faults that are alike but for the parameters read a case: one entry for each, on an axis in front."""
    read = [fault.misread(case) for fault in alike]
    stack = {name: np.array([one.parameters[name] for one in read]) for name in case.parameters}
    parameters = {name: each[:, None] if each.ndim == 2 else each for name, each in stack.items()}
    return unchecked(read[0], {"parameters": parameters})


def readings_and_own(case: Case, alike: Sequence[Fault]) -> Case:
    """The same, after the case as it is."""
    return readings(case, [_NONE, *alike])


def _fits_alike(case: Case, observed: Observed, alike: Sequence[Fault]) -> dict[str, Fit]:
    ops = RunningError(case.format)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        trace = cell_named(case.cell).evaluate(
            readings(case, alike), ops, variation=alike[0].variation, seen=seen(case, observed)
        )
    found = _fits(case, observed, trace, ops.reference_share, len(alike))
    return {fault.name: fit for fault, fit in zip(alike, found, strict=True)}


def _fits_along(case: Case, observed: Observed, fault: Fault) -> list[Fit]:
    """How a fault fits each of several observations, which have an axis in front."""
    fmt = fault.format(case)
    ops = RunningError(fmt, coarser=fmt.storage > format_of(case.dtype).storage)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        trace = cell_named(case.cell).evaluate(
            fault.misread(case), ops, variation=fault.variation, seen=seen(case, observed)
        )
    return _fits(case, observed, trace, ops.reference_share, len(observed.outputs))


def _fits(case: Case, observed: Observed, trace: Trace[Bounded], reference_share: float, count: int) -> list[Fit]:
    """`count` fits: of what was predicted, or observed, or both, with an axis of that length in front."""
    predicted = trace.arrays()
    free = case.lengths is not None and case.padding == "free"
    worst, bounded = np.zeros(count), np.ones(count, dtype=bool)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for name, values in observed.arrays().items():
            rows = predicted[name]
            assert rows is not None
            value, error = (np.broadcast_to(a, (count, *a.shape[-2:])) for a in (rows.value, rows.error))
            each = np.broadcast_to(values, (count, *values.shape[-3:]))
            part = part_of(
                case, each, Bounded(value, error), reference_share, case.format, padded=free and name in PER_STEP
            )
            worst = np.maximum(worst, part.share.reshape(count, -1).max(axis=1, initial=0.0))
            bounded &= (np.isfinite(part.bound) | ~np.isfinite(part.predicted)).reshape(count, -1).all(axis=1)
    return [Fit(worst=float(share), bounded=bool(known)) for share, known in zip(worst, bounded, strict=True)]
