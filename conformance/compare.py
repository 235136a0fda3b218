"""Comparison: an observed sequence against a hypothesis, step by step, within a derived bound.

Teacher forcing: each step is predicted in float64 *from the observed state before it*, so the bound covers
the rounding of one step only; nothing accumulates, chaos does not matter, and the result is local to (batch,
time, unit). A prefix scan does not compute its states from those before them; it is predicted from the inputs, see
`conformance.cells.scan`. A comparison returns evidence, never a bool, and refuses to compare nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from conformance.algebra import Bounded, RunningError
from conformance.case import Case, stacked
from conformance.cells.cell import CORRECT, Seen
from conformance.cells.fault import Fault
from conformance.cells.registry import cell_named
from conformance.cells.scan import scanned
from conformance.errors import CaseError, ShapeError
from conformance.rounding import Array, Format, format_of


class Observed(Struct, frozen=True, kw_only=True):
    """What a candidate returned, batched and in float64.

    outputs: (B, T, S); final_state: (B, layers * S); cells, final_cell: the memory of an LSTM, None where it was not
    returned; gradients and inputs_after: by canonical name.
    """

    outputs: Array
    final_state: Array
    cells: Array | None = None
    final_cell: Array | None = None
    gradients: Mapping[str, Array] = field(default_factory=dict)
    inputs_after: Mapping[str, Array] = field(default_factory=dict)

    def arrays(self) -> dict[str, Array]:
        """What is compared, slot by slot: outputs and cells (T, B, .), final_state and final_cell (1, B, .)."""
        found = {"outputs": np.swapaxes(self.outputs, -3, -2)}
        if self.cells is not None:
            found["cells"] = np.swapaxes(self.cells, -3, -2)
        found["final_state"] = self.final_state[..., None, :, :]
        if self.final_cell is not None:
            found["final_cell"] = self.final_cell[..., None, :, :]
        return found

    def row(self, place: int) -> Observed:
        """One of many forward observations that are stacked."""
        return self.rows(place)

    def rows(self, place: int | slice) -> Observed:
        """Some of many forward observations that are stacked."""
        return Observed(
            outputs=self.outputs[place],
            final_state=self.final_state[place],
            cells=None if self.cells is None else self.cells[place],
            final_cell=None if self.final_cell is None else self.final_cell[place],
        )

    @property
    def finite(self) -> bool:
        """Whether every number is finite."""
        return all(bool(np.all(np.isfinite(values))) for values in self.arrays().values())


class Part(Struct, frozen=True, kw_only=True):
    """One array of a comparison, slot by slot (T or 1, B, units).

    share: |observed - predicted| / bound; infinite where the observation is not what it must be and no bound helps.
    """

    observed: Array
    predicted: Array
    bound: Array
    residual: Array
    share: Array


class Comparison(Struct, frozen=True, kw_only=True):
    """Residuals of one hypothesis by array. A conforming implementation of the hypothesis has shares <= 1 everywhere.

    compared: how many numbers were compared; padding that is not specified does not count.
    """

    parts: Mapping[str, Part]
    compared: int

    @property
    def worst(self) -> float:
        """The largest share of the bound used."""
        return max(float(part.share.max(initial=0.0)) for part in self.parts.values())

    @property
    def explains(self) -> bool:
        """Whether the hypothesis explains every element."""
        return self.worst <= 1.0

    @property
    def bounded(self) -> bool:
        """Whether every bound is finite: where one is not, everything would lie inside it."""
        return all(bool(np.all(np.isfinite(p.bound) | ~np.isfinite(p.predicted))) for p in self.parts.values())


def compare(case: Case, observed: Observed, fault: Fault | None = None, *, cut: int = 0) -> Comparison:
    """Compare `observed` with the reference, or with the mutated reference of `fault`.

    cut: the step at which a second call took over with the state that the first returned, 0 for none: step by step it
        makes no difference, in a scan it does.

    Raises
    ------
    CaseError: shapes differ from the case's, or there is nothing to compare.
    """
    check_shapes(case, observed)
    declared = case.format
    fmt = declared if fault is None else fault.format(case)
    ops = RunningError(fmt, coarser=fmt.storage > format_of(case.dtype).storage)
    understood = case if fault is None else fault.misread(case)
    variation = CORRECT if fault is None else fault.variation
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if case.stepwise:
            trace = cell_named(case.cell).evaluate(understood, ops, variation=variation, seen=seen(case, observed))
        else:
            trace = scanned(cell_named(case.cell), understood, ops, variation, cut=cut)
        predicted = trace.arrays()
        free = case.lengths is not None and case.padding == "free"
        share = ops.reference_share
        parts = {
            name: part_of(case, values, predicted[name], share, declared, padded=free and name in PER_STEP)
            for name, values in observed.arrays().items()
        }
    parts = _after_overflow(case, parts)
    compared = sum(part.share.size for part in parts.values()) - uncompared(case)
    if compared <= 0:
        raise CaseError("nothing to compare", where=case.origin)
    return Comparison(parts=parts, compared=compared)


def shares(cases: Sequence[Case], observed: Sequence[Observed]) -> Array:
    """The largest share of the bound that each observation uses (K,), for K plain cases of one cell, dtype and shape.

    Infinite where the bound is: nothing would be shown there. All cases are evaluated at once, which is much
    faster for small ones.

    Raises
    ------
    CaseError: the cases cannot be stacked, or as `compare`.
    """
    kinds = {
        (c.cell, c.dtype, c.initial, c.shape, c.reverse, c.evaluation, c.lengths, c.padding, c.special, c.arithmetic)
        for c in cases
    }
    returned = {
        tuple(None if v is None else v.shape for v in (o.outputs, o.final_state, o.cells, o.final_cell))
        for o in observed
    }
    if len(kinds) != 1 or len(returned) != 1 or not cases[0].stepwise:
        raise CaseError("only plain cases of one kind can be judged together", got=f"{len(kinds)} kinds")
    if len(cases) != len(observed):
        raise CaseError("as many observations as cases", got=str(len(observed)), wanted=str(len(cases)))
    check_shapes(cases[0], observed[0])
    return shares_of(stacked(cases), together(observed))


def together(observed: Sequence[Observed]) -> Observed:
    """Forward observations of one form with an axis in front."""
    return Observed(
        outputs=np.array([o.outputs for o in observed]),
        final_state=np.array([o.final_state for o in observed]),
        cells=_stacked([o.cells for o in observed]),
        final_cell=_stacked([o.final_cell for o in observed]),
    )


def shares_of(case: Case, observed: Observed) -> Array:
    """As `shares`, for cases and observations that are stacked already: an axis (K,) before all others."""
    declared = case.format
    ops = RunningError(declared)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        trace = cell_named(case.cell).evaluate(case, ops, seen=seen(case, observed))
        predicted = trace.arrays()
        worst = np.zeros(len(observed.outputs))
        free = case.lengths is not None and case.padding == "free"
        for name, values in observed.arrays().items():
            padded = free and name in PER_STEP
            part = part_of(case, values, predicted[name], ops.reference_share, declared, padded=padded)
            share = part.share
            if (unbounded := np.isinf(part.bound)).any():
                lost = unbounded & np.isfinite(part.predicted)
                if padded:
                    lost &= ~unspecified(case)[..., None]
                share = np.where(lost, np.inf, share)
            worst = np.maximum(worst, share.reshape(len(worst), -1).max(axis=1))
    return worst


def _stacked(values: Sequence[Array | None]) -> Array | None:
    found = [value for value in values if value is not None]
    return np.array(found) if found else None


def _after_overflow(case: Case, parts: dict[str, Part]) -> dict[str, Part]:
    """Nothing can be predicted from a state that is rightly not finite: from there on a row's bound is infinite."""
    outputs = parts["outputs"]
    if case.special or np.all(np.isfinite(outputs.observed)):
        return parts
    beyond = ~np.isfinite(outputs.observed) & (outputs.share == 0.0) & ~unspecified(case)[..., None]
    lost = np.any(beyond, axis=2, keepdims=True)
    some = np.any(lost, axis=0, keepdims=True)
    if case.directions == 2:
        after = some | np.zeros_like(lost)
    else:
        ordered = np.flip(lost, axis=0) if case.reverse else lost
        before = np.concatenate([np.zeros_like(ordered[:1]), np.logical_or.accumulate(ordered, axis=0)[:-1]])
        after = np.flip(before, axis=0) if case.reverse else before

    def unknown(name: str, part: Part) -> Part:
        rows = after if name in PER_STEP else some
        return replace(part, bound=np.where(rows, np.inf, part.bound), share=np.where(rows, 0.0, part.share))

    return {name: unknown(name, part) for name, part in parts.items()}


PER_STEP = ("outputs", "cells")


def seen(case: Case, observed: Observed) -> Seen:
    """What of an observation later states are predicted from."""

    def usable(values: Array) -> Array:
        # A state that is not finite predicts nothing; the element itself already counts as outside.
        return values if case.special else np.where(np.isfinite(values), values, 0.0)

    return Seen(outputs=usable(observed.outputs), cells=None if observed.cells is None else usable(observed.cells))


def check_shapes(case: Case, observed: Observed) -> None:
    """Raise ShapeError unless every array has the shape that the case asks for."""
    size = case.shape
    units = {"outputs": size.output, "final_state": size.output, "cells": size.hidden, "final_cell": size.hidden}
    for name, values in observed.arrays().items():
        slots, blocks = (size.time, 1) if name in PER_STEP else (1, size.layers)
        wanted = (slots, size.batch, blocks * size.directions * units[name])
        if values.shape != wanted:
            raise ShapeError(
                "the observation does not have the shape of the case",
                where=f"{case.origin}, {name}, as (slots, B, units)",
                got=str(values.shape),
                wanted=str(wanted),
            )


def unspecified(case: Case) -> NDArray[np.bool_]:
    """(T, B), true where an output past its row's end is not specified."""
    size = case.shape
    if case.lengths is None or case.padding != "free":
        return np.zeros((size.time, size.batch), dtype=bool)
    return np.arange(size.time)[:, None] >= np.array(case.lengths)[None]


def uncompared(case: Case) -> int:
    """How many numbers of the outputs are not specified, and not compared."""
    return int(unspecified(case).sum()) * case.shape.output * case.shape.directions


def part_of(
    case: Case, observed: Array, rows: Bounded | None, reference_share: float, declared: Format, *, padded: bool
) -> Part:
    """One array of a comparison, from the predicted rows and their error; padded: it has slots past a row's end."""
    assert rows is not None
    predicted = rows.value.reshape(observed.shape)
    bound = rows.error.reshape(observed.shape) * reference_share
    finite = np.all(np.isfinite(bound))
    if not finite:
        # An infinite error times a zero is no number, and no bound either.
        bound = np.where(np.isnan(bound) & np.isfinite(predicted), np.inf, bound)
    residual = np.abs(observed - predicted)
    share = residual / bound
    if not padded and finite and np.all(np.isfinite(share)):
        return Part(observed=observed, predicted=predicted, bound=bound, residual=residual, share=share)
    # Nothing is outside an infinite bound; `bounded` says that nothing is shown there either.
    outside = (np.isnan(share) | ~np.isfinite(observed)) & ~np.isinf(bound)
    share = np.where(outside, np.inf, np.where(np.isinf(bound), 0.0, share))
    # 0/0 is agreement to the last bit, and so are equal infinities and NaN where the equations give NaN.
    same = (observed == predicted) | (np.isnan(observed) & np.isnan(predicted))
    # A value past the largest finite one may come out infinite.
    overflow = np.isinf(observed) & (np.sign(observed) * predicted + bound >= declared.largest)
    share = np.where(same | overflow, 0.0, share)
    if padded:
        share = np.where(unspecified(case)[..., None], 0.0, share)
    return Part(observed=observed, predicted=predicted, bound=bound, residual=residual, share=share)
