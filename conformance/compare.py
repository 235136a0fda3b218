"""Comparison: an observed sequence against a hypothesis, step by step, within a derived bound.

Teacher forcing: each step is predicted in float64 *from the observed state before it*, so the bound covers
the rounding of one step only; nothing accumulates, chaos does not matter, and the result is local to (batch,
time, unit). A comparison returns evidence, never a bool, and refuses to compare nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conformance.algebra import Bounded, RunningError
from conformance.case import Case
from conformance.cells.fault import Fault
from conformance.cells.registry import cell_named
from conformance.errors import CaseError
from conformance.rounding import Array, format_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a candidate returned, batched: outputs (B, T, H), final_state (B, H), in float64."""

    outputs: Array
    final_state: Array

    @property
    def slots(self) -> Array:
        """Outputs and final state together, (T + 1, B, H)."""
        return np.concatenate([np.swapaxes(self.outputs, 0, 1), self.final_state[None]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Residuals of one hypothesis, all (T + 1, B, H); the last slot is the final state.

    share: |observed - predicted| / bound; infinite where the observation is not finite. A conforming
    implementation of the hypothesis has share <= 1 everywhere.
    """

    predicted: Array
    bound: Array
    residual: Array
    share: Array

    @property
    def worst(self) -> float:
        """The largest share of the bound used."""
        return float(self.share.max())

    @property
    def explains(self) -> bool:
        """Whether the hypothesis explains every element."""
        return self.worst <= 1.0


def compare(case: Case, observed: Observed, fault: Fault | None = None) -> Comparison:
    """Compare `observed` with the reference, or with the mutated reference of `fault`.

    Raises
    ------
    CaseError: shapes differ from the case's, or there is nothing to compare.
    """
    size = case.shape
    wanted = (size.batch, size.time, size.hidden)
    if observed.outputs.shape != wanted or observed.final_state.shape != (size.batch, size.hidden):
        raise CaseError(
            "the observation does not have the shape of the case",
            where=case.origin,
            got=f"outputs {observed.outputs.shape}, final_state {observed.final_state.shape}",
            wanted=f"outputs {wanted}, final_state {(size.batch, size.hidden)}",
        )
    slots = observed.slots
    if slots.size == 0:
        raise CaseError("nothing to compare", where=case.origin)
    ops = RunningError(format_of(case.dtype))
    understood = case if fault is None else fault.misread(case)
    # A state that is not finite predicts nothing; the element itself already counts as outside.
    usable = np.where(np.isfinite(observed.outputs), observed.outputs, 0.0)
    cell = cell_named(case.cell)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        rows: Bounded = cell.predict(
            understood,
            usable,
            ops,
            equations=None if fault is None else fault.equations,
            wiring=None if fault is None else fault.wiring(size.time),
            lanes=None if fault is None else fault.lanes(case),
        )["h"]
        predicted = rows.value.reshape(slots.shape)
        bound = rows.error.reshape(slots.shape) * ops.reference_share
        residual = np.abs(slots - predicted)
        share = residual / bound
    # 0/0 is agreement to the last bit; anything else that is not a number is not.
    share = np.where(residual == 0.0, 0.0, share)
    share = np.where(np.isfinite(slots), np.where(np.isnan(share), np.inf, share), np.inf)
    return Comparison(predicted=predicted, bound=bound, residual=residual, share=share)
