"""What every cell offers: canonical parameters, a step over an algebra, the sequence, and the wiring of time.

The *wiring* says, for every output slot of every row, which input it consumes and which slot's state it starts from.
The correct wiring is ``slot t: input t, state t - 1``; reversal and lengths are other wirings of the same step, and so
are faults of time and state. One wiring serves twice: run in order it is an implementation; applied to an *observed*
sequence it predicts each slot from the observed state before it (teacher forcing), all slots at once.

A step has three parts, so that what is observed can be evaluated for all slots at once and only what is hidden step by
step: `project` (everything that depends on the input and the state h alone), `carry` (the memory c of an LSTM, which
most frameworks do not return) and `emit` (the next state). What is not observed (c, and the states of all layers but
the last) is carried along as the algebra's values: with a running error bound, its uncertainty is part of the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from conformance.algebra import Activation, Algebra, Exact
from conformance.case import Case, Parameters, unchecked
from conformance.errors import CaseError
from conformance.rounding import Array
from conformance.worker.names import block, prefix_of

V = TypeVar("V")
E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)
Indices: TypeAlias = NDArray[np.intp]

INITIAL: Final = -1
NOTHING: Final = -2
NO_INPUT: Final = -1


class Rows(Struct, frozen=True, kw_only=True, eq=False):
    """What a wiring is made for: T, the real steps of each row (B,), and whether rows are consumed from their end.

    backward: whether this is the backward one of two directions.
    """

    time: int
    lengths: Indices
    reverse: bool = False
    backward: bool = False


class Wiring(Struct, frozen=True, kw_only=True, eq=False):
    """Slots 0 ... T-1 are the outputs in the order returned; slot T is the final state.

    inputs: (T+1, B) time index consumed by a slot, NO_INPUT where the state is only copied.
    states: (T+1, B) slot whose value is the state before this one, INITIAL for the initial state, NOTHING for zeros.
    order: the slots in an order in which each state exists before it is used.
    """

    inputs: Indices
    states: Indices
    order: Indices


def wire(rows: Rows) -> Wiring:
    """The correct wiring: each row in its direction; slots past its end are zeros, the final state is its last."""
    time, lengths = rows.time, rows.lengths[None]
    slots = np.arange(time)[:, None]
    real = slots < lengths
    if rows.reverse:
        before = np.where(slots + 1 < lengths, slots + 1, INITIAL)
        last_input, last_state = np.zeros_like(lengths), np.where(lengths > 1, 1, INITIAL)
        order = np.append(np.arange(time)[::-1], time)
    else:
        before = np.broadcast_to(slots - 1, real.shape)
        last_input, last_state = lengths - 1, lengths - 2
        order = np.arange(time + 1)
    inputs = np.where(real, slots, NO_INPUT)
    states = np.where(real, before, NOTHING)
    return Wiring(
        inputs=np.concatenate([inputs, np.where(lengths > 0, last_input, NO_INPUT)]),
        states=np.concatenate([states, np.where(lengths > 0, last_state, INITIAL)]),
        order=order,
    )


def rows_of(case: Case, direction: int = 0) -> Rows:
    """The rows of a case in one direction."""
    size = case.shape
    lengths = np.full(size.batch, size.time) if case.lengths is None else np.array(case.lengths, dtype=np.intp)
    return Rows(time=size.time, lengths=lengths, reverse=case.reverse != bool(direction), backward=bool(direction))


@lru_cache(maxsize=512)
def _wired(
    wiring: Callable[[Rows], Wiring],
    time: int,
    lengths: tuple[int, ...] | int,
    reverse: bool,  # noqa: FBT001 (private)
    direction: int,
) -> Wiring:
    """A wiring of rows of these lengths, or of so many whole ones: every hypothesis about a case asks for the same."""
    each = np.full(lengths, time) if isinstance(lengths, int) else np.array(lengths, dtype=np.intp)
    made = wiring(Rows(time=time, lengths=each, reverse=reverse != bool(direction), backward=bool(direction)))
    for indices in (made.inputs, made.states, made.order):
        indices.setflags(write=False)
    return made


Block: TypeAlias = tuple[int, int]
"""A layer and a direction (0 forward, 1 backward)."""


def itself(block: Block) -> Block:
    """Every block uses what is its own."""
    return block


class Variation(Struct, frozen=True, kw_only=True):
    """How a sequence departs from the correct one; by default not at all.

    equations: replaces the cell's own. wiring: replaces `wire`. lane0: every row continues from row 0's previous state.
    weights_of, states_of: the block whose parameters, or initial state, a block takes. swapped: outputs of the
    directions are joined in the wrong order. h0_through: a function that an initial state passes through, unless it is
    omitted. opposite: a scan composes its steps in the opposite order.
    """

    equations: Any = None
    wiring: Callable[[Rows], Wiring] = wire
    lane0: bool = False
    weights_of: Callable[[Block], Block] = itself
    states_of: Callable[[Block], Block] = itself
    swapped: bool = False
    h0_through: Activation | None = None
    opposite: bool = False


CORRECT: Final = Variation()


class Project(Protocol[E_contra]):
    """The part of a step that depends on the input and the state h alone; see `conformance.cells.gru.project`."""

    def __call__(self, p: Parameters, x: V, h: V, start: Array, ops: Algebra[V], eq: E_contra, /) -> dict[str, V]:
        """Named parts on flattened rows."""


class Carry(Protocol[E_contra]):
    """The next memory c from the parts and the memory before; see `conformance.cells.lstm.carry`."""

    def __call__(self, p: Parameters, parts: Mapping[str, V], c: V, ops: Algebra[V], eq: E_contra, /) -> V:
        """The memory after the step on flattened rows."""


class Emit(Protocol[E_contra]):
    """The named intermediates of a step, its next state h among them."""

    def __call__(
        self,
        p: Parameters,
        parts: Mapping[str, V],
        h: V,
        memory: tuple[V, V] | None,
        ops: Algebra[V],
        eq: E_contra,
        /,
    ) -> dict[str, V]:
        """Intermediates on flattened rows; `memory` is c before and after the step, None for cells without."""


class Trace(Struct, Generic[V], frozen=True, kw_only=True):
    """A whole sequence as an algebra's values on flattened rows.

    outputs: (T*B, directions * P), slot by slot; final_state: (B, layers * directions * P); cells and final_cell: the
    same for c, None for cells without; intermediates of the last layer, (T*B, directions * H) each.
    """

    outputs: V
    final_state: V
    cells: V | None
    final_cell: V | None
    intermediates: dict[str, V]

    def arrays(self) -> dict[str, V | None]:
        """All but the intermediates, by the names that observations have."""
        return {
            "outputs": self.outputs,
            "cells": self.cells,
            "final_state": self.final_state,
            "final_cell": self.final_cell,
        }


class Sequence(Struct, frozen=True, kw_only=True):
    """A whole sequence: outputs (B, T, S), final_state, cells, final_cell, and every intermediate (B, T, .) by name."""

    outputs: Array
    final_state: Array
    cells: Array | None
    final_cell: Array | None
    intermediates: dict[str, Array]


class Seen(Struct, frozen=True, kw_only=True):
    """What of a sequence was observed, finite: outputs (B, T, S), and all memories c where they were returned."""

    outputs: Array
    cells: Array | None = None


class _Run(Struct, Generic[V], frozen=True, kw_only=True):
    """One block's slots on flattened rows ((T+1)*B, .): states, memories, intermediates."""

    h: V
    c: V | None
    intermediates: dict[str, V]


class Complement(Struct, Generic[E], frozen=True, kw_only=True):
    """How a cell is computed by implementations whose update gate is the complement of the canonical one.

    negated: the parameters whose sign differs there; equations: any variation of the canonical equations in that form.
    """

    negated: tuple[str, ...]
    equations: Callable[[E], E]

    def parameters(self, p: Parameters) -> dict[str, Array]:
        """Canonical parameters as such an implementation has them, and back: exact, since only signs change."""
        return {name: -value if name.rpartition(".")[2] in self.negated else value for name, value in p.items()}


class Cell(Struct, Generic[E], frozen=True, kw_only=True):
    """A recurrence.

    parameters: canonical name -> shape in the letters D (features), H (hidden) and P (output), matrices (out, in).
    equations: the correct equations; project, carry and emit evaluate any variation of them.
    carried: names of the parts that `carry` needs; empty for a cell without memory.
    projected: whether the state h is a projection, of P units, of the H hidden ones; else P = H.
    positive: whether states stay positive where the initial one is (the log-space forms of minGRU and minLSTM), so that
        they have logarithms. A scan with logarithms then wants an initial state that is not negative; zero is the
        limit, log 0 = -inf, and stands for a state that is left out. Step by step any state will do.
    complement: the cell's other convention, that of cases evaluated as "complement"; None where there is none.
    source: where the equations stand.
    """

    name: str
    title: str
    source: str
    parameters: Mapping[str, tuple[str, ...]]
    intermediates: tuple[str, ...]
    equations: E
    project: Project[E]
    emit: Emit[E]
    carry: Carry[E] | None = None
    carried: tuple[str, ...] = ()
    projected: bool = False
    positive: bool = False
    complement: Complement[E] | None = None

    def native(self, case: Case, variation: Variation = CORRECT) -> tuple[Cell[E], Case, Variation]:
        """All three in the convention in which the case is evaluated: that of `project` and `emit`, step by step."""
        if case.evaluation != "complement" or self.complement is None:
            return self, case, variation
        cell = replace(self, equations=self.complement.equations(self.equations), complement=None)
        changes = {"parameters": self.complement.parameters(case.parameters), "evaluation": "sequential"}
        if variation.equations is not None:
            variation = replace(variation, equations=self.complement.equations(variation.equations))
        return cell, unchecked(case, changes), variation

    def shapes(self, sizes: Mapping[str, int], layers: int = 1, directions: int = 1) -> dict[str, tuple[int, ...]]:
        """The shapes of all canonical arrays, for sizes D, H and P; upper layers take the outputs of the one below."""
        result: dict[str, tuple[int, ...]] = {}
        for layer in range(layers):
            own = dict(sizes) if layer == 0 else {**sizes, "D": directions * sizes["P"]}
            for direction in range(directions):
                prefix = prefix_of(layer, direction)
                for name, letters in self.parameters.items():
                    result[prefix + name] = tuple(own[letter] for letter in letters)
        return result

    def check(self, case: Case) -> None:
        """Raise CaseError unless the case has exactly this cell's parameters and states in the right shapes."""
        if case.cell != self.name:
            raise CaseError("the case belongs to another cell", got=case.cell, wanted=self.name)
        if case.evaluation == "complement" and self.complement is None:
            raise CaseError("only a GRU's update gate has a complement", where=case.origin, got=f"cell {self.name}")
        if (case.c0 is None) != (self.carry is None):
            wanted = "no c0" if self.carry is None else "c0"
            raise CaseError(f"a {self.name} case needs {wanted}", where=case.origin)
        size = case.shape
        if size.output != size.hidden and not self.projected:
            raise CaseError(f"h0 of a {self.name} case must be as wide as c0", where=case.origin, got=str(size.output))
        if self.positive and case.evaluation == "log-scan" and np.any(case.h0 < 0):
            raise CaseError(
                "a scan with logarithms is undefined for an initial state that is negative",
                where=case.origin,
                got=str(float(case.h0.min())),
                wanted="h0 >= 0, or a variant that scans without logarithms or goes step by step",
            )
        shapes = self.shapes({"D": size.features, "H": size.hidden, "P": size.output}, size.layers, size.directions)
        missing = shapes.keys() - case.parameters.keys()
        extra = case.parameters.keys() - shapes.keys()
        if missing or extra:
            raise CaseError(
                f"a {self.name} case has the wrong parameters",
                where=case.origin,
                got=f"missing {sorted(missing)}, unknown {sorted(extra)}",
                wanted=", ".join(shapes),
            )
        for name, wanted_shape in shapes.items():
            if case.parameters[name].shape[-len(wanted_shape) :] != wanted_shape:
                raise CaseError(
                    f"parameter {name} has the wrong shape",
                    where=case.origin,
                    got=str(case.parameters[name].shape),
                    wanted=f"{wanted_shape} = ({', '.join(self.parameters[name.rpartition('.')[2]])})",
                )

    def run(self, case: Case, *, ops: Algebra[Array] | None = None, variation: Variation = CORRECT) -> Sequence:
        """Run the sequence, in float64 unless another plain algebra is given."""
        trace = self.evaluate(case, ops if ops is not None else Exact(), variation=variation)
        size = case.shape

        def unfold(rows: Array) -> Array:
            return np.swapaxes(rows.reshape(size.time, size.batch, rows.shape[-1]), 0, 1)

        return Sequence(
            outputs=unfold(trace.outputs),
            final_state=trace.final_state,
            cells=None if trace.cells is None else unfold(trace.cells),
            final_cell=trace.final_cell,
            intermediates={name: unfold(value) for name, value in trace.intermediates.items()},
        )

    def evaluate(
        self, case: Case, ops: Algebra[V], *, variation: Variation = CORRECT, seen: Seen | None = None
    ) -> Trace[V]:
        """Evaluate a sequence, or predict every slot of it from the observed states before it (teacher forcing).

        Without `seen` every slot continues from the computed one. With `seen` the last layer's states (and memories,
        where they were observed) are the observed ones; lower layers run freely from the initial state.
        """
        self.check(case)
        if case.evaluation == "complement":
            cell, case, variation = self.native(case, variation)
            return cell.evaluate(case, ops, variation=variation, seen=seen)
        size = case.shape
        flat = _flat(case.x) if size.time else np.zeros((size.batch, size.features))
        inputs = _taken(ops, flat)
        finals: list[V] = []
        final_cells: list[V] = []
        for layer in range(size.layers):
            top = layer == size.layers - 1
            runs = []
            for direction in range(size.directions):
                column = size.directions - 1 - direction if variation.swapped else direction
                own = _columns(seen, column, size.output, size.hidden) if top else None
                runs.append(self._block(case, (layer, direction), inputs, ops, variation, own))
            last = slice(size.time * size.batch, None)
            finals += [ops.rows(run.h, last) for run in runs]
            final_cells += [ops.rows(run.c, last) for run in runs if run.c is not None]
            joined = runs[::-1] if variation.swapped else runs
            outputs = _beside(ops, [ops.rows(run.h, slice(0, size.time * size.batch)) for run in joined])
            inputs = _rows_of(ops, outputs)
        outer = slice(0, size.time * size.batch)
        memories = [run.c for run in joined if run.c is not None]
        return Trace(
            outputs=outputs,
            final_state=_beside(ops, finals),
            cells=_beside(ops, [ops.rows(c, outer) for c in memories]) if memories else None,
            final_cell=_beside(ops, final_cells) if final_cells else None,
            intermediates={
                name: _beside(ops, [ops.rows(run.intermediates[name], outer) for run in runs])
                for name in self.intermediates
            },
        )

    def _block(
        self,
        case: Case,
        block_: Block,
        inputs: Callable[[Indices], V],
        ops: Algebra[V],
        variation: Variation,
        seen: Seen | None,
    ) -> _Run[V]:
        """One layer and direction."""
        size = case.shape
        wiring = _wired(variation.wiring, size.time, case.lengths or size.batch, case.reverse, block_[1])
        source_layer, source_direction = variation.states_of(block_)
        index = source_layer * size.directions + source_direction
        initial = [case.h0[..., index * size.output : (index + 1) * size.output]]
        if case.c0 is not None:
            initial.append(case.c0[..., index * size.hidden : (index + 1) * size.hidden])
        flow = _Flow(
            cell=self,
            p=block(case.parameters, *variation.weights_of(block_)),
            eq=variation.equations if variation.equations is not None else self.equations,
            ops=ops,
            wiring=wiring,
            omitted=1.0 if case.initial == "omitted" else 0.0,
            lane0=variation.lane0,
            h0_through=None if case.initial == "omitted" else variation.h0_through,
        )
        return flow.free(inputs, initial) if seen is None else flow.forced(inputs, initial, seen)


class _Flow(Struct, Generic[V], frozen=True, kw_only=True):
    """The flow of states through the slots of one block."""

    cell: Cell[Any]
    p: Parameters
    eq: Any
    ops: Algebra[V]
    wiring: Wiring
    omitted: float
    lane0: bool
    h0_through: Activation | None

    @property
    def batch(self) -> int:
        return int(self.wiring.inputs.shape[1])

    def _lanes(self) -> Indices:
        return np.zeros(self.batch, dtype=np.intp) if self.lane0 else np.arange(self.batch)

    def _inputs(self, slot: int | slice) -> Indices:
        """Rows of the inputs that slots consume; any row where they consume none."""
        rows: Indices = np.maximum(self.wiring.inputs[slot], 0) * self.batch + np.arange(self.batch)
        return rows.ravel()

    def _start(self, slot: int | slice) -> Array:
        """1 in rows that start from an initial state which the caller left out."""
        start: Array = np.where(self.wiring.states[slot] == INITIAL, self.omitted, 0.0)
        return start.ravel()

    def _copied(self, slot: int | slice, before: V, after: V) -> V:
        copied = (self.wiring.inputs[slot] == NO_INPUT).ravel()
        return self.ops.select(copied.astype(np.float64), before, after) if copied.any() else after

    def _before(self, initial: Array, observed: Array) -> V:
        """The state before every slot: zeros, the initial state, or an observed slot, as `states` says."""
        slots = _flat(observed)
        bank = np.empty((*slots.shape[:-2], 2 * self.batch + slots.shape[-2], slots.shape[-1]))
        bank[..., : self.batch, :] = 0.0
        bank[..., self.batch : 2 * self.batch, :] = initial
        bank[..., 2 * self.batch :, :] = slots
        source = ((self.wiring.states + 2) * self.batch + self._lanes()).ravel()
        return self.ops.lift(np.take(bank, source, axis=-2))

    def _transformed(self, h: V) -> V:
        """The states before all slots, the initial ones as the implementation takes them."""
        if self.h0_through is None:
            return h
        initial = (self.wiring.states == INITIAL).ravel().astype(np.float64)
        return self.ops.select(initial, self.ops.apply(self.h0_through, h), h)

    def forced(self, inputs: Callable[[Indices], V], initial: list[Array], seen: Seen) -> _Run[V]:
        """Every slot from the observed state before it; a memory that was not observed is carried step by step."""
        every = slice(None)
        h = self._transformed(self._before(initial[0], seen.outputs))
        parts = self.cell.project(self.p, inputs(self._inputs(every)), h, self._start(every), self.ops, self.eq)
        memory: tuple[V, V] | None = None
        if self.cell.carry is not None:
            if seen.cells is not None:
                before = self._before(initial[1], seen.cells)
                after = self.cell.carry(self.p, parts, before, self.ops, self.eq)
                memory = before, self._copied(every, before, after)
            else:
                memory = self._carried(parts, self.ops.lift(initial[1]))
        results = self.cell.emit(self.p, parts, h, memory, self.ops, self.eq)
        return _Run(
            h=self._copied(every, h, results["h"]), c=None if memory is None else memory[1], intermediates=results
        )

    def _carried(self, parts: Mapping[str, V], initial: V) -> tuple[V, V]:
        """The memories before and after every slot."""
        assert self.cell.carry is not None
        before: dict[int, V] = {}
        after: dict[int, V] = {}
        for slot in map(int, self.wiring.order):
            rows = slice(slot * self.batch, (slot + 1) * self.batch)
            own = {name: self.ops.rows(parts[name], rows) for name in self.cell.carried}
            before[slot] = self._gathered(slot, initial, after)
            computed = self.cell.carry(self.p, own, before[slot], self.ops, self.eq)
            after[slot] = self._copied(slot, before[slot], computed)
        slots = range(len(after))
        return self.ops.stack([before[s] for s in slots]), self.ops.stack([after[s] for s in slots])

    def _gathered(self, slot: int, initial: V, done: Mapping[int, V]) -> V:
        """The state before a slot, from the slots that are done."""
        states = self.wiring.states[slot]
        uniform = states.size > 0 and bool(np.all(states == states[0]))
        if uniform and not self.lane0 and states[0] != NOTHING:
            return initial if states[0] == INITIAL else done[int(states[0])]
        nothing = self.ops.times(self.ops.lift(np.zeros((1, 1))), initial)
        bank = [nothing, initial, *(done.get(s, nothing) for s in range(len(self.wiring.order) - 1))]
        return self.ops.rows(self.ops.stack(bank), (states + 2) * self.batch + self._lanes())

    def free(self, inputs: Callable[[Indices], V], initial: list[Array]) -> _Run[V]:
        """Every slot from the computed one before it."""
        start = [self.ops.lift(values) for values in initial]
        if self.h0_through is not None:
            start[0] = self.ops.apply(self.h0_through, start[0])
        h: dict[int, V] = {}
        c: dict[int, V] = {}
        results: dict[int, dict[str, V]] = {}
        for slot in map(int, self.wiring.order):
            before = self._gathered(slot, start[0], h)
            parts = self.cell.project(self.p, inputs(self._inputs(slot)), before, self._start(slot), self.ops, self.eq)
            memory: tuple[V, V] | None = None
            if self.cell.carry is not None:
                held = self._gathered(slot, start[1], c)
                c[slot] = self._copied(slot, held, self.cell.carry(self.p, parts, held, self.ops, self.eq))
                memory = held, c[slot]
            results[slot] = self.cell.emit(self.p, parts, before, memory, self.ops, self.eq)
            h[slot] = self._copied(slot, before, results[slot]["h"])
        slots = range(len(h))
        return _Run(
            h=self.ops.stack([h[s] for s in slots]),
            c=self.ops.stack([c[s] for s in slots]) if c else None,
            intermediates={name: self.ops.stack([results[s][name] for s in slots]) for name in self.cell.intermediates},
        )


def _taken(ops: Algebra[V], values: Array) -> Callable[[Indices], V]:
    """Some rows of an exactly known array, lifted after they are taken: cheaper than the other way round."""
    return lambda rows: ops.lift(np.take(values, rows, axis=-2))


def _rows_of(ops: Algebra[V], value: V) -> Callable[[Indices], V]:
    """Some rows of what a lower layer gives."""
    return lambda rows: ops.rows(value, rows)


def _beside(ops: Algebra[V], values: list[V]) -> V:
    return values[0] if len(values) == 1 else ops.beside(values)


def _flat(values: Array) -> Array:
    """(..., B, T, F) as rows (..., T*B, F), slot by slot."""
    moved = np.swapaxes(values, -2, -3)
    return moved.reshape(*moved.shape[:-3], moved.shape[-3] * moved.shape[-2], moved.shape[-1])


def _columns(seen: Seen | None, direction: int, output: int, hidden: int) -> Seen | None:
    """What was observed of one direction."""
    if seen is None:
        return None
    return replace(
        seen,
        outputs=seen.outputs[..., direction * output : (direction + 1) * output],
        cells=None if seen.cells is None else seen.cells[..., direction * hidden : (direction + 1) * hidden],
    )
