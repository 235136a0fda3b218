"""What every cell offers: canonical parameters, a step over an algebra, the sequence, and the wiring of time.

The *wiring* says, for every output slot, which input it consumes and which slot's state it starts from. The
correct wiring is ``slot t: input t, state t - 1``; faults of time and state (reversal, shifts, a state that is
not carried) are other wirings of the same step. One wiring serves twice: run in order it is an
implementation; applied to an *observed* sequence it predicts each slot from the observed state before it
(teacher forcing), all slots at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from conformance.algebra import Algebra, Exact
from conformance.case import Case, Parameters
from conformance.errors import CaseError
from conformance.rounding import Array

V = TypeVar("V")
E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)

INITIAL = -1
NO_INPUT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Slots 0 ... T-1 are the outputs in the order returned; slot T is the final state.

    inputs: (T+1,) time index consumed by a slot, NO_INPUT where the state is only copied.
    states: (T+1,) slot whose value is the state before this one, INITIAL for the initial state.
    order: the slots in an order in which each state exists before it is used.
    """

    inputs: NDArray[np.intp]
    states: NDArray[np.intp]
    order: NDArray[np.intp]


def in_order(time: int) -> Wiring:
    """The correct wiring: slot t consumes input t from state t - 1; the final state is the last output."""
    slots = np.arange(time)
    return Wiring(inputs=np.append(slots, time - 1), states=np.append(slots - 1, time - 2), order=np.arange(time + 1))


class StepFunction(Protocol[E_contra]):
    """The signature of a cell's step; see `conformance.cells.gru.step`."""

    def __call__(self, p: Parameters, x: V, h: V, start: Array, ops: Algebra[V], eq: E_contra, /) -> dict[str, V]:
        """One step on flattened rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """A whole sequence: outputs (B, T, H), final_state (B, H), and every intermediate (B, T, H) by name."""

    outputs: Array
    final_state: Array
    intermediates: dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(Generic[E]):
    """A recurrence.

    parameters: canonical name -> shape in the letters D (features) and H (hidden), matrices (out, in).
    equations: the correct equations; `step` evaluates any variation of them.
    """

    name: str
    title: str
    parameters: Mapping[str, tuple[str, ...]]
    intermediates: tuple[str, ...]
    equations: E
    step: StepFunction[E]

    def check(self, case: Case) -> None:
        """Raise CaseError unless the case has exactly this cell's parameters in the right shapes."""
        if case.cell != self.name:
            raise CaseError("the case belongs to another cell", got=case.cell, wanted=self.name)
        sizes = {"D": case.shape.features, "H": case.shape.hidden}
        missing = self.parameters.keys() - case.parameters.keys()
        extra = case.parameters.keys() - self.parameters.keys()
        if missing or extra:
            raise CaseError(
                f"a {self.name} case has the wrong parameters",
                where=case.origin,
                got=f"missing {sorted(missing)}, unknown {sorted(extra)}",
                wanted=", ".join(self.parameters),
            )
        for name, letters in self.parameters.items():
            wanted = tuple(sizes[letter] for letter in letters)
            if case.parameters[name].shape != wanted:
                raise CaseError(
                    f"parameter {name} has the wrong shape",
                    where=case.origin,
                    got=str(case.parameters[name].shape),
                    wanted=f"{wanted} = ({', '.join(letters)})",
                )

    def run(
        self,
        case: Case,
        *,
        ops: Algebra[Array] | None = None,
        equations: E | None = None,
        wiring: Wiring | None = None,
        lanes: NDArray[np.intp] | None = None,
    ) -> Sequence:
        """Run the sequence, in float64 unless another plain algebra is given.

        equations, wiring, lanes: variations, for planting faults; by default the correct ones. `lanes` (B,)
        says from which batch row each row takes its previous state.
        """
        self.check(case)
        algebra = ops if ops is not None else Exact()
        eq = equations if equations is not None else self.equations
        time = case.shape.time
        wiring = wiring if wiring is not None else in_order(time)
        slots = np.zeros((time + 1, case.shape.batch, case.shape.hidden))
        names = {name: np.zeros_like(slots) for name in self.intermediates}
        unset = 1.0 if case.initial == "omitted" else 0.0
        for slot in wiring.order:
            source = wiring.states[slot]
            state = case.h0 if source == INITIAL else slots[source]
            if lanes is not None:
                state = state[lanes]
            if wiring.inputs[slot] == NO_INPUT:
                slots[slot] = state
                continue
            start = np.full(case.shape.batch, unset if source == INITIAL else 0.0)
            results = self.step(case.parameters, case.x[:, wiring.inputs[slot]], state, start, algebra, eq)
            slots[slot] = results["h"]
            for name in self.intermediates:
                names[name][slot] = results[name]
        return Sequence(
            outputs=np.swapaxes(slots[:time], 0, 1),
            final_state=slots[time],
            intermediates={name: np.swapaxes(values[:time], 0, 1) for name, values in names.items()},
        )

    def predict(
        self,
        case: Case,
        outputs: Array,
        ops: Algebra[V],
        *,
        equations: E | None = None,
        wiring: Wiring | None = None,
        lanes: NDArray[np.intp] | None = None,
    ) -> dict[str, V]:
        """Predict every slot from the observed states: teacher forcing, all slots in one evaluation.

        outputs: observed states (B, T, H), finite.
        Returns the intermediates on flattened rows ((T+1)*B, H), slot-major; a slot without input holds its
        copied state under ``h`` and an ordinary step's values elsewhere.
        """
        time, batch = case.shape.time, case.shape.batch
        eq = equations if equations is not None else self.equations
        wiring = wiring if wiring is not None else in_order(time)
        states = np.concatenate([case.h0[None], np.swapaxes(outputs, 0, 1)])[wiring.states + 1]
        if lanes is not None:
            states = states[:, lanes]
        inputs = np.swapaxes(case.x, 0, 1)[np.maximum(wiring.inputs, 0)]
        unset = 1.0 if case.initial == "omitted" else 0.0
        start = np.repeat(np.where(wiring.states == INITIAL, unset, 0.0), batch)
        x = ops.lift(inputs.reshape((time + 1) * batch, -1))
        h = ops.lift(states.reshape((time + 1) * batch, -1))
        results = self.step(case.parameters, x, h, start, ops, eq)
        copied = wiring.inputs == NO_INPUT
        if copied.any():
            rows = cast("Array", np.repeat(copied.astype(np.float64), batch))
            results["h"] = ops.select(rows, h, results["h"])
        return results
