"""Gradients: an observed backward pass against the mechanical derivative of a cell's own step, within a bound.

The gradient wanted is that of S = sum of all products of a case's cotangents with outputs, final_state (and
final_cell), with respect to x, h0, c0 and every canonical parameter.

The step is linearised along the *observed* trajectory, all steps at once (`conformance.tape`); then adjoints run
backwards through the steps (back-propagation through time: Werbos 1990). Unlike states, adjoints are not observed, so
their errors accumulate over the steps, and a rigorous bound soon exceeds the gradient itself: see `_predicted` for what
is used then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from conformance.algebra import Algebra, Bounded, Rounded, RunningError
from conformance.case import Case, Parameters, unchecked
from conformance.cells.cell import CORRECT, INITIAL, NO_INPUT, NOTHING, Indices, Seen, Variation, Wiring, rows_of
from conformance.cells.fault import Fault, Transform
from conformance.cells.precision import PRECISION
from conformance.cells.registry import cell_named
from conformance.compare import Comparison, Observed, Part, compare, seen
from conformance.errors import CaseError, SpecError
from conformance.faults import catalogue
from conformance.gradient_faults import GradientFault, gradient_catalogue
from conformance.judge import TrialVerdict, deviation, judge, observed_of, probe, rules_out, sharpest
from conformance.rounding import Array, Format, format_of
from conformance.spread import Spread
from conformance.tape import (
    KAPPA,
    SAMPLES,
    WRONG_DERIVATIVES,
    Node,
    Perturbed,
    Tape,
    centre,
    mapped,
    negative,
    summed,
    sums_of,
    zeros_like,
)
from conformance.verdict import Agrees, Diverges, Evidence, Inconclusive

V = TypeVar("V")

STATES: Final = ("x", "h0", "c0")
"""What a gradient is wanted for beside the parameters."""

USEFUL: Final = 1.0 / 32.0
"""A rigorous bound is used up to this fraction of the root mean square of a gradient."""

_NO_FAULT: Final = GradientFault(name="", statement="", right="", equation="")


# --- back-propagation through time ------------------------------------------------------------------------------------


def gradients(case: Case, along: Seen, ops: Algebra[V], *, fault: Fault | GradientFault | None = None) -> dict[str, V]:
    """The gradients of a case along an observed trajectory, as an algebra's values, in their own shapes.

    Raises
    ------
    CaseError: the case has no cotangents, several layers or directions, lengths, or is evaluated as a scan.
    """
    _check(case)
    if not isinstance(fault, Fault):
        return _Backward.of(case, along, ops, CORRECT, _NO_FAULT if fault is None else fault).gradients()
    through = None if case.initial == "omitted" else fault.h0_through
    understood = fault.misread(case)
    if through is not None:
        understood = unchecked(understood, {"h0": through.function(case.h0)})
    found = _Backward.of(understood, along, ops, fault.variation, _NO_FAULT).gradients()
    if through is not None:
        slope = through.slope(case.h0, understood.h0)
        found["h0"] = ops.times(ops.lift(slope), found["h0"])
    if fault.inputs is not None:
        found["x"] = mapped(found["x"], _put_back(fault.inputs, case.x.shape))
    lost = {"h0": fault.no_h0, "c0": fault.no_c0}
    found = {name: zeros_like(value) if lost.get(name, False) else value for name, value in found.items()}
    misreading = fault.misreading(case)
    return found if misreading is None else _read_back(found, case.parameters, misreading, ops)


def _check(case: Case) -> None:
    if not case.cotangents:
        raise CaseError("a case without cotangents has no gradients", where=case.origin)
    odd = [name for name in case.features if name in ("lengths", "layers", "bidirectional")]
    if not case.stepwise:
        odd.append(case.evaluation)
    if odd:
        raise CaseError("gradients are judged for one layer and direction, whole rows, step by step", got=str(odd))
    size = case.shape
    wanted = {"outputs": (size.batch, size.time, size.output), "final_state": (size.batch, size.output)}
    if case.c0 is not None:
        wanted["final_cell"] = (size.batch, size.hidden)
    for name, value in case.cotangents.items():
        if value.shape != wanted.get(name):
            raise CaseError("no such cotangent", where=case.origin, got=f"{name} {value.shape}", wanted=str(wanted))


class _Backward(Struct, Generic[V], frozen=True, kw_only=True):
    """One backward pass.

    case: in the convention in which it is evaluated; negated: the parameters whose canonical sign is the other one.
    lanes: (B,) the row whose states each row continues from.
    tape, ends: the step of all slots, recorded, and the states after it, ``h`` and ``c``.
    pending: contributions to the adjoints of these states, by slot; INITIAL is the initial state.
    """

    case: Case
    ops: Algebra[V]
    fault: GradientFault
    negated: tuple[str, ...]
    wiring: Wiring
    lanes: Indices
    tape: Tape[V]
    ends: Mapping[str, Node[V]]
    pending: Mapping[str, defaultdict[int, list[V]]]

    @classmethod
    def of(cls, case: Case, along: Seen, ops: Algebra[V], variation: Variation, fault: GradientFault) -> _Backward[V]:
        """The pass with its step recorded, and nothing passed back yet."""
        canonical = cell_named(case.cell)
        canonical.check(case)
        negated = canonical.complement.negated if canonical.complement and case.evaluation == "complement" else ()
        cell, case, variation = canonical.native(case, variation)
        size = case.shape
        wiring = variation.wiring(rows_of(case))
        lanes = np.zeros(size.batch, dtype=np.intp) if variation.lane0 else np.arange(size.batch)
        source = ((wiring.states + 2) * size.batch + lanes).ravel()
        consumed = (np.maximum(wiring.inputs, 0) * size.batch + np.arange(size.batch)).ravel()
        start = np.where(wiring.states == INITIAL, float(case.initial == "omitted"), 0.0).ravel()
        observed = _flat(along.outputs)
        xs = _flat(case.x) if size.time else np.zeros((size.batch, size.features))
        bank = np.concatenate([np.zeros_like(case.h0), case.h0, observed])
        final = case.h0 if not size.time else along.outputs[:, 0 if case.reverse else -1]
        # The tape knows a parameter by its array: no two may share one.
        fresh: Parameters = {name: np.array(value) for name, value in case.parameters.items()}
        tape: Tape[V] = Tape(
            ops=ops,
            slots=size.time + 1,
            names={id(value): name for name, value in fresh.items()},
            slopes={name: WRONG_DERIVATIVES[slope] for name, slope in fault.slopes.items()},
            stopped=fault.stopped,
            operands={"h": np.concatenate([observed, final])} if fault.operand_after else {},
            other_layout=frozenset({"x"}) if fault.other_layout else frozenset(),
        )
        eq: Any = cell.equations if variation.equations is None else variation.equations
        x = tape.leaf("x", ops.lift(xs[consumed]))
        h = tape.leaf("h", ops.lift(bank[source]), state=True)
        parts = cell.project(fresh, x, h, start, tape, eq)
        memory: tuple[Node[V], Node[V]] | None = None
        if cell.carry is not None:
            c = tape.leaf("c", ops.rows(_memories(case, along, ops, variation), source), state=True)
            memory = c, cell.carry(fresh, parts, c, tape, eq)
        ends = {"h": cell.emit(fresh, parts, h, memory, tape, eq)["h"]}
        if memory is not None:
            ends["c"] = memory[1]
        return cls(
            case=case,
            ops=ops,
            fault=fault,
            negated=negated,
            wiring=wiring,
            lanes=lanes,
            tape=tape,
            ends=ends,
            pending={name: defaultdict(list) for name in ends},
        )

    def gradients(self) -> dict[str, V]:
        """The gradients by canonical name."""
        self._seed()
        live = self._through_time()
        joined = [(end, self.ops.stack(live[name])) for name, end in self.ends.items()]
        found = self.tape.sweep(joined, None, lambda node: node.outer)
        result = {"x": self._x(found.pop("x", []))}
        for name, initial in (("h", "h0"), ("c", "c0")):
            if name in self.ends:
                terms = self.pending[name][INITIAL]
                result[initial] = summed(terms, self.ops) if terms else self._nothing(self._width(name))
        for name, parameter in self.case.parameters.items():
            result[name] = self._parameter(name, parameter, found.get(name, []))
        result = {name: self._scaled(name, value) for name, value in result.items()}
        return {name: negative(value) if name in self.negated else value for name, value in result.items()}

    def _width(self, state: str) -> int:
        return int(centre(self.ends[state].value).shape[-1])

    def _nothing(self, width: int) -> V:
        return self.ops.lift(np.zeros((self.case.shape.batch, width)))

    def _seed(self) -> None:
        """Cotangents enter at their slots; those of the final state at the output that it equals."""
        given: Mapping[str, Array] = self.case.cotangents
        if self.fault.cotangents is not None:
            given = self.fault.cotangents(given)
        final = self.case.shape.time
        if "outputs" in given:
            for step in range(final):
                self.pending["h"][step].append(self.ops.lift(given["outputs"][:, step]))
        inputs, states = self.wiring.inputs, self.wiring.states
        same = (inputs[:final] == inputs[final]).all(axis=1) & (states[:final] == states[final]).all(axis=1)
        slot = int(np.argmax(same)) if same.any() else final
        for name, state in (("final_state", "h"), ("final_cell", "c")):
            if name in given:
                self.pending[state][slot].append(self.ops.lift(given[name]))

    def _through_time(self) -> dict[str, list[V]]:
        """The adjoints of the states after every slot that pass through its step, from the last slot to the first."""
        found: dict[str, dict[int, V]] = {name: {} for name in self.ends}
        for slot in map(int, self.wiring.order[::-1]):
            pairs = []
            copied = self.wiring.inputs[slot] == NO_INPUT
            for name, end in self.ends.items():
                terms = self.pending[name][slot]
                live = nothing = self._nothing(self._width(name))
                if terms:
                    live = summed(terms, self.ops)
                    if copied.any():
                        rows = copied.astype(np.float64)
                        passed = self.ops.select(rows, live, nothing)
                        live = self.ops.select(rows, nothing, live)
                        self._pass_back(name, passed, slot)
                    pairs.append((end, live))
                found[name][slot] = live
            if pairs and not copied.all():
                contributions = self.tape.sweep(pairs, slot, lambda node: node.state)
                for name in self.ends:
                    for term in contributions.get(name, []):
                        self._pass_back(name, term, slot, cut=name in self.fault.cut)
        return {name: [slots[slot] for slot in sorted(slots)] for name, slots in found.items()}

    def _pass_back(self, state: str, adjoint: V, slot: int, *, cut: bool = False) -> None:
        """An adjoint of the states before a slot goes to the slots (and rows) that these came from.

        cut: it goes to the initial state only.
        """
        batch = len(self.lanes)
        sources = self.wiring.states[slot]
        for source in map(int, np.unique(sources)):
            if source == NOTHING or (source != INITIAL and cut):
                continue
            own = self._masked(adjoint, sources == source)
            target = self.pending[state][source]
            if np.array_equal(self.lanes, np.arange(batch)):
                target.append(own)
                continue
            for row, lane in enumerate(self.lanes):
                index = np.full(batch, batch)
                index[lane] = row
                target.append(self.ops.rows(self.ops.stack([own, zeros_like(adjoint)]), index))

    def _masked(self, value: V, rows: NDArray[np.bool_]) -> V:
        """`value` in these rows (N,), zero in the others."""
        return value if rows.all() else self.ops.select(rows.astype(np.float64), value, zeros_like(value))

    def _x(self, terms: Sequence[V]) -> V:
        """(B, T, D): adjoints of inputs go to the times that were consumed."""
        size, ops = self.case.shape, self.ops
        if not size.time:
            return ops.lift(np.zeros((size.batch, 0, size.features)))
        consumers: dict[int, list[V]] = defaultdict(list)
        if terms:
            every = summed(terms, ops)
            for slot, times in enumerate(self.wiring.inputs):
                own = ops.rows(every, slice(slot * size.batch, (slot + 1) * size.batch))
                for time in map(int, np.unique(times)):
                    if time != NO_INPUT:
                        consumers[time].append(self._masked(own, times == time))
        order = range(size.time)[:: -1 if self.fault.mirrored else 1]
        steps = [summed(consumers[t], ops) if consumers[t] else self._nothing(size.features) for t in order]
        return mapped(
            ops.stack(steps),
            lambda rows: np.swapaxes(rows.reshape(*rows.shape[:-2], size.time, size.batch, size.features), -2, -3),
        )

    def _parameter(self, name: str, value: Array, terms: Sequence[V]) -> V:
        """Sums over rows; a bias gets the adjoints of all rows, which are added here."""
        if not terms:
            return self.ops.lift(np.zeros_like(value))
        total = summed(terms, self.ops)
        if value.ndim > 1:
            return total
        if self.fault.counted is not None:
            size = self.case.shape
            counted = self.fault.counted(name, size.time, size.batch)
            total = self._masked(total, np.concatenate([counted, np.ones((1, size.batch))]).ravel() != 0.0)
        result: V = sums_of(self.ops).rows(total, self.tape.slots)
        return result

    def _scaled(self, name: str, value: V) -> V:
        factor = 1.0 if self.fault.scale is None else self.fault.scale(self.case, name)
        if factor == 1.0:
            return value
        axes = 3 if name == "x" else 2 if name in STATES else self.case.parameters[name].ndim
        shape = centre(value).shape
        row = self.ops.times(self.ops.lift(np.full((1, 1), factor)), mapped(value, _as_row(axes)))
        return mapped(row, _as_shape(shape[len(shape) - axes :]))


def _memories(case: Case, along: Seen, ops: Algebra[V], variation: Variation) -> V:
    """Zeros, c0 and the memory after every slot, observed or rebuilt, as rows."""
    assert case.c0 is not None
    if along.cells is not None:
        after = ops.lift(_flat(along.cells))
    else:
        trace = cell_named(case.cell).evaluate(case, ops, variation=variation, seen=along)
        assert trace.cells is not None
        after = trace.cells
    return ops.stack([ops.lift(np.zeros_like(case.c0)), ops.lift(case.c0), after])


def _put_back(inputs: Callable[[Array], Array], shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """From the layout of a misread x (..., B, T, D) to that of x itself."""
    order = np.argsort(inputs(np.arange(float(np.prod(shape))).reshape(shape)).ravel())

    def back(array: Array) -> Array:
        lead = array.shape[: array.ndim - len(shape)]
        return array.reshape(*lead, -1)[..., order].reshape(*lead, *shape)

    return back


def _as_row(axes: int) -> Callable[[Array], Array]:
    """The last `axes` axes as one row."""
    return lambda array: array.reshape(*array.shape[: array.ndim - axes], 1, -1)


def _as_shape(shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """One row as an array of this shape."""
    return lambda array: array.reshape(*array.shape[:-2], *shape)


def _flat(values: Array) -> Array:
    """(B, T, F) as rows (T*B, F), slot by slot."""
    return np.swapaxes(values, 0, 1).reshape(-1, values.shape[-1])


def _read_back(found: Mapping[str, V], given: Parameters, misread: Transform, ops: Algebra[V]) -> dict[str, V]:
    """Gradients of the parameters as they are, from those of the parameters as they were misread."""
    result = dict(found)
    sources, factors, names = _misreading(given, misread)
    rows = ops.beside([mapped(found[name], _as_row(given[name].ndim)) for name in names])
    if np.any(factors != 1.0):
        rows = ops.times(ops.lift(factors[None]), rows)
    start = 0
    for name, value in given.items():
        own = [] if name in names else [mapped(found[name], _as_row(value.ndim))]
        # The misread numbers that came from each of these, in as many rounds as one was used.
        own += [mapped(rows, _columns(taken)) for taken in _rounds(sources, start, value.size)]
        total = summed(own, ops) if own else ops.lift(np.zeros((1, value.size)))
        result[name] = mapped(total, _as_shape(value.shape))
        start += value.size
    return result


def _misreading(given: Parameters, misread: Transform) -> tuple[Indices, Array, tuple[str, ...]]:
    """Where every misread number comes from among all parameters in order (-1: nowhere), its factor, and whose it is.

    Found by misreading random numbers twice: where one number is a multiple of one other, their ratio tells which.

    Raises
    ------
    SpecError: a misread number is not a multiple of one number, and a constant.
    """
    generator = np.random.default_rng(0)
    first, second = (
        {name: generator.uniform(1.0, 2.0, value.shape) for name, value in given.items()} for _ in range(2)
    )
    offset = misread({name: np.zeros_like(value) for name, value in given.items()})
    names = tuple(offset)

    def joined(arrays: Mapping[str, Array], which: Sequence[str]) -> Array:
        return np.concatenate([arrays[name].ravel() for name in which])

    before = joined(offset, names)
    one, two = (joined(misread(draw), names) - before for draw in (first, second))
    ratios = joined(second, tuple(given)) / joined(first, tuple(given))
    order = np.argsort(ratios)
    used = one != 0.0
    wanted = np.divide(two, one, out=np.ones_like(one), where=used)
    places = np.clip(np.searchsorted(ratios[order], wanted - 1e-9), 0, len(order) - 1)
    sources = np.where(used, order[places], -1)
    factors = np.where(used, one / joined(first, tuple(given))[sources], 0.0)
    if not np.allclose(ratios[sources][used], wanted[used], rtol=1e-8, atol=0.0):
        raise SpecError("gradients cannot be read back through this misreading of parameters")
    return np.asarray(sources, dtype=np.intp), np.round(factors, 9).astype(np.float64), names


def _rounds(sources: Indices, start: int, size: int) -> list[Indices]:
    """For each of `size` numbers from `start` on, the positions in `sources` that hold it, one per round; -1: none."""
    found: list[Indices] = []
    for position in np.flatnonzero((sources >= start) & (sources < start + size)):
        place = sources[position] - start
        free = next((taken for taken in found if taken[place] < 0), None)
        if free is None:
            free = np.full(size, -1)
            found.append(free)
        free[place] = position
    return found


def _columns(taken: Indices) -> Callable[[Array], Array]:
    """These columns, zero where there is none."""
    return lambda array: np.where(taken < 0, 0.0, array[..., taken])


# --- comparison -------------------------------------------------------------------------------------------------------


Enclosed: TypeAlias = dict[str, dict[str, Bounded]]
"""Hypothesis -> every gradient within its rigorous bound, of one case along one trajectory."""


def compare_gradients(
    case: Case,
    observed: Observed,
    fault: Fault | GradientFault | None = None,
    *,
    roughly: bool = False,
    enclosed: Enclosed | None = None,
) -> Comparison:
    """Compare observed gradients with the reference, or with the mutated one of `fault`, along the observed outputs.

    roughly: within the rigorous bound alone, which is never below the one that judges, and much cheaper: what does not
    explain roughly does not explain. enclosed: what is known of that bound; what is found out is added. Parts go by the
    name of the gradient, as (1, rows, columns); those of x are (1, B * T, D).

    Raises
    ------
    CaseError: a gradient is missing, unknown or of another shape, or there is nothing to compare.
    """
    check_gradients(case, observed)
    declared = case.format
    fmt = fault.format(case) if isinstance(fault, Fault) else declared
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        name, known = "" if fault is None else fault.name, {} if enclosed is None else enclosed
        if roughly and name in known:
            predicted = known[name]
        else:
            predicted = (_enclosed if roughly else _predicted)(case, seen(case, observed), fmt, fault)
        if roughly:
            known[name] = predicted
        parts = {
            name: _part(values, predicted[name].value, predicted[name].error, declared)
            for name, values in observed.gradients.items()
        }
    return Comparison(parts=parts, compared=sum(part.share.size for part in parts.values()))


def _enclosed(case: Case, along: Seen, fmt: Format, fault: Fault | GradientFault | None) -> dict[str, Bounded]:
    """Every gradient within its rigorous bound; one that is no number is none, and encloses everything."""
    ops = RunningError(fmt, coarser=fmt.storage > format_of(case.dtype).storage)
    return {
        name: Bounded(each.value, np.where(np.isnan(each.error), np.inf, ops.reference_share * each.error))
        for name, each in gradients(case, along, ops, fault=fault).items()
    }


def _predicted(case: Case, along: Seen, fmt: Format, fault: Fault | GradientFault | None) -> dict[str, Bounded]:
    """Every gradient and what a conforming one may differ by.

    That is the rigorous bound where it is useful, and `KAPPA` standard deviations where it is not and they are less.
    """
    coarser = fmt.storage > format_of(case.dtype).storage
    bounded = RunningError(fmt, coarser=coarser)
    rigorous = gradients(case, along, bounded, fault=fault)
    useless = {
        name
        for name, each in rigorous.items()
        if not np.all(each.error <= USEFUL * np.sqrt(np.sum(each.value**2) / max(each.value.size, 1)))
    }
    spread = _calibrated(case, along, fmt, fault, coarser=coarser) if useless else {}
    allowed = {
        name: np.fmin(each.error, KAPPA * spread[name]) if name in useless else each.error
        for name, each in rigorous.items()
    }
    return {name: Bounded(each.value, bounded.reference_share * allowed[name]) for name, each in rigorous.items()}


def _calibrated(
    case: Case, along: Seen, fmt: Format, fault: Fault | GradientFault | None, *, coarser: bool
) -> dict[str, Array]:
    """Standard deviations of conforming gradients.

    `Spread` takes the errors of different elements as independent. They are not where one error reaches an element on
    many ways of the same sign (positive or equal weights). So perturbed backward passes are made: where they show more,
    for the elements of an array together or for one element, that is taken.
    """
    scattered = gradients(case, along, Spread(fmt, coarser=coarser), fault=fault)
    generator = np.random.default_rng(SAMPLES)
    perturbed = gradients(case, along, Perturbed(fmt, generator, coarser=coarser), fault=fault)
    found = {}
    for name, each in scattered.items():
        squares = np.broadcast_to((perturbed[name] - each.value) ** 2, (SAMPLES, *each.value.shape))
        kinds = squares.reshape(2, SAMPLES // 2, *each.value.shape).mean(axis=1)
        factors = kinds / np.maximum(each.variance, np.finfo(np.float64).tiny)
        factor = factors.reshape(2, -1).mean(axis=1).max() if each.value.size else 1.0
        found[name] = np.sqrt(np.maximum(each.variance * np.maximum(factor, 1.0), kinds.max(axis=0)))
    return found


def _part(observed: Array, predicted: Array, bound: Array, declared: Format) -> Part:
    residual = np.abs(observed - predicted)
    share = residual / bound
    share = np.where(np.isnan(share) | ~np.isfinite(observed), np.inf, share)
    overflow = np.isinf(observed) & (np.sign(observed) * predicted + bound >= declared.largest)
    share = np.where((observed == predicted) | overflow, 0.0, share)
    layout = (1, -1, observed.shape[-1])
    return Part(
        observed=observed.reshape(layout),
        predicted=predicted.reshape(layout),
        bound=bound.reshape(layout),
        residual=residual.reshape(layout),
        share=share.reshape(layout),
    )


def check_gradients(case: Case, observed: Observed) -> None:
    """Raise CaseError unless there are gradients, of what the case has, in its shapes.

    Those of h0 and c0 may be missing where the initial state is omitted, and that of a parameter which is zero: the
    candidate may have no place for it.
    """
    wanted: dict[str, Array] = {"x": case.x, "h0": case.h0, **({} if case.c0 is None else {"c0": case.c0})}
    optional = set() if case.initial != "omitted" else {"h0", "c0"}
    wanted |= case.parameters
    optional |= {name for name, value in case.parameters.items() if not value.any()}
    missing = wanted.keys() - observed.gradients.keys() - optional
    unknown = observed.gradients.keys() - wanted.keys()
    if missing or unknown:
        raise CaseError(
            "the gradients are not those of the case",
            where=case.origin,
            got=f"missing {sorted(missing)}, unknown {sorted(unknown)}",
            wanted=", ".join(wanted),
        )
    for name, value in observed.gradients.items():
        if value.shape != wanted[name].shape:
            raise CaseError(
                f"the gradient of {name} does not have its shape",
                where=case.origin,
                got=str(value.shape),
                wanted=str(wanted[name].shape),
            )
    if not sum(value.size for value in observed.gradients.values()):
        raise CaseError("nothing to compare", where=case.origin)


def planted_gradients(case: Case, fault: Fault | GradientFault | None = None) -> Observed:
    """What an implementation with a right forward pass and this backward pass would return, emulated in the dtype."""
    ops = Rounded(fault.format(case) if isinstance(fault, Fault) else case.format)
    forward = observed_of(cell_named(case.cell).run(case, ops=Rounded(case.format)))
    return replace(forward, gradients=gradients(case, seen(case, forward), ops, fault=fault))


# --- judgement --------------------------------------------------------------------------------------------------------


# A gradient fault counts as visible on the probe when it moves some gradient by more than this.
_VISIBLE: Final = 1e-6


def judge_gradients(
    case: Case, observed: Observed, against: Sequence[str] | frozenset[str], enclosed: Enclosed | None = None
) -> TrialVerdict:
    """The verdict on the gradients of one case; on its outputs, where these diverge already.

    against: the faults, of gradients or of the forward pass, still to be ruled out; as for `conformance.judge.judge`.
    enclosed: what is known already of this case along these very outputs, for observations that differ in their
        gradients only; what is found out is added.

    Raises
    ------
    CaseError: as `compare_gradients`.
    """
    outputs = judge(case, observed, ())
    if not isinstance(outputs, Agrees):
        return outputs
    reference = compare_gradients(case, observed)
    if _overflows(case, observed):
        return Inconclusive(why="the states or the gradients of this case overflow", missing=frozenset(against))
    if not reference.explains:
        residuals = _hypotheses(case, observed, {} if enclosed is None else enclosed)
        return Diverges(
            faults=sharpest(name for name, share in residuals.items() if share <= 1.0),
            evidence=_evidence(observed, reference, residuals),
        )
    if not reference.bounded:
        return Inconclusive(why="the bound of the gradients overflows: everything would lie inside it", blank=True)
    wanted = frozenset(against)
    excluded = frozenset(name for name in wanted if _rules_out(case, observed, name))
    if wanted and not excluded:
        return Inconclusive(why="the gradients look the same under every fault asked about", missing=wanted)
    return Agrees(excluded=excluded, share=reference.worst, compared=outputs.compared + reference.compared)


def _overflows(case: Case, observed: Observed) -> bool:
    """Whether there is no finite trajectory, or an emulated conforming backward pass along it overflows, too."""
    if not observed.finite:
        return True
    if _finite_gradients(observed.gradients):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return not _finite_gradients(gradients(case, seen(case, observed), Rounded(case.format)))


def _finite_gradients(arrays: Mapping[str, Array]) -> bool:
    return all(bool(np.isfinite(values).all()) for values in arrays.values())


@cache
def visible_gradient_faults(cell: str, zeroed: tuple[str, ...] = ()) -> frozenset[str]:
    """The gradient faults that can show with these parameters at zero, decided on one fixed generic probe."""
    case = probe(cell, "given", features=("gradients",)).zeroed(zeroed)
    right = planted_gradients(case).gradients
    return frozenset(
        name
        for name, fault in gradient_catalogue(cell).items()
        if any(
            float(np.abs(value - right[key]).max()) > _VISIBLE
            for key, value in planted_gradients(case, fault).gradients.items()
            if key not in zeroed
        )
    )


def _rules_out(case: Case, observed: Observed, name: str) -> bool:
    own = gradient_catalogue(case.cell)
    if name in own:
        roughly = compare_gradients(case, observed, own[name], roughly=True)
        return not (roughly.explains and compare_gradients(case, observed, own[name]).explains)
    return rules_out(case, observed, catalogue(case.cell)[name])


def gradient_deviation(
    case: Case, observed: Observed, faults: Collection[str], *, rivals: Iterable[str] = ()
) -> str | None:
    """As `conformance.judge.deviation`, of what `judge_gradients` tells."""
    outputs = compare(case, observed)
    if not outputs.explains:
        return deviation(case, observed, faults, rivals=rivals)
    if not outputs.bounded or _overflows(case, observed) or compare_gradients(case, observed).explains:
        return ""
    known, told = _known(case), sharpest(faults)
    if not _finite_gradients(observed.gradients):
        return next(iter(told), None)
    order = dict.fromkeys((*told, *rivals, *(name for name in known if name not in faults)))
    asked = [name for name in order if name in told or not _outdone(name, told)]
    return next((name for name in asked if _explains(case, observed, known.get(name)) != (name in told)), None)


def _explains(case: Case, observed: Observed, fault: Fault | GradientFault | None) -> bool:
    return fault is not None and _share(case, observed, fault, {}) <= 1.0


def _outdone(name: str, told: Sequence[str]) -> bool:
    """Whether a hypothesis may explain and is not told all the same: an arithmetic, beside what `sharpest` prefers."""
    if name not in PRECISION or not told:
        return False
    return told[0] not in PRECISION or PRECISION.index(told[0]) < PRECISION.index(name)


def _hypotheses(case: Case, observed: Observed, enclosed: Enclosed) -> dict[str, float]:
    """For every fault of either catalogue the largest share of its own bound; nothing explains what is not finite."""
    if not _finite_gradients(observed.gradients):
        return {}
    found = {name: _share(case, observed, fault, enclosed) for name, fault in _known(case).items()}
    return {name: share for name, share in found.items() if not np.isnan(share)}


def _known(case: Case) -> dict[str, Fault | GradientFault]:
    """The faults of either catalogue, without precisions that are not those of the case's dtype."""
    every: dict[str, Fault | GradientFault] = {**catalogue(case.cell), **gradient_catalogue(case.cell)}
    return {
        name: fault
        for name, fault in every.items()
        if not (isinstance(fault, Fault) and fault.arithmetic is not None and fault.arithmetic(case.format) is None)
    }


def _share(case: Case, observed: Observed, fault: Fault | GradientFault, enclosed: Enclosed) -> float:
    """The largest share of the fault's own bound; NaN where its gradient is not known here.

    Where the rigorous bound alone rules the fault out it is the share of that one, which is not above the other: most
    hypotheses are far off, and calibrating the bound that judges is what costs.
    """
    try:
        roughly = compare_gradients(case, observed, fault, roughly=True, enclosed=enclosed)
        if not roughly.explains:
            return roughly.worst
        comparison = compare_gradients(case, observed, fault)
    except SpecError:
        return np.nan
    return comparison.worst if comparison.bounded else np.inf


def _evidence(observed: Observed, reference: Comparison, residuals: Mapping[str, float]) -> Evidence:
    """The first gradient outside its bound, at its largest share."""
    name, part = next((name, part) for name, part in reference.parts.items() if part.share.max(initial=0.0) > 1.0)
    flat = int(np.argmax(part.share))
    place = np.unravel_index(flat, observed.gradients[name].shape)
    parts = reference.parts.values()
    return Evidence(
        output=f"gradient of {name}",
        first=(0, 0, flat),
        where=_where(name, tuple(map(int, place))),
        expected=_finite(part.predicted.flat[flat]),
        observed=_finite(part.observed.flat[flat]),
        bound=_finite(part.bound.flat[flat]),
        largest_difference=_finite(max(float(each.residual.max(initial=0.0)) for each in parts)),
        share=_finite(reference.worst),
        outside=sum(int((each.share > 1.0).sum()) for each in parts),
        compared=reference.compared,
        finite=_finite_gradients(observed.gradients),
        residuals={key: min(share, 1e300) for key, share in residuals.items()},
    )


def _where(name: str, place: tuple[int, ...]) -> str:
    """An element in words, zero-based as in the arrays."""
    axes = {"x": ("batch", "step", "feature"), "h0": ("batch", "unit"), "c0": ("batch", "unit")}
    letters = axes.get(name, ("row", "column") if len(place) > 1 else ("unit",))
    return ", ".join(f"{axis} {index}" for axis, index in zip(letters, place, strict=True))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
