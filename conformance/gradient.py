"""Gradients: an observed backward pass against the mechanical derivative of a cell's own step, within a bound.

The gradient wanted is that of S = sum of all products of a case's cotangents with outputs, final_state (and
final_cell), with respect to x, h0, c0 and every canonical parameter.

No cell writes a backward pass. `Tape` is an algebra over another algebra's values that records how each operation
passes an adjoint back (reverse-mode differentiation: Linnainmaa 1976; Griewank & Walther, Evaluating Derivatives, 2008,
chapter 3). Over `Exact` it gives float64 gradients; over `RunningError` these with a bound on the rounding error of any
backward pass that follows the same equations; over `Spread` with a variance; over `Rounded` an emulated kernel.

The step is linearised along the *observed* trajectory, all steps at once; then adjoints run backwards through the steps
(back-propagation through time: Werbos 1990). Unlike states, adjoints are not observed, so their errors accumulate over
the steps, and a rigorous bound soon exceeds the gradient itself: see `_predicted` for what is used then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast

import numpy as np

from conformance.algebra import SIGMOID, Activation, Algebra, Bounded, Rounded, Rows, RunningError, alike, gamma
from conformance.case import Case, Parameters
from conformance.cells.cell import CORRECT, INITIAL, NO_INPUT, NOTHING, Indices, Seen, Variation, rows_of
from conformance.cells.fault import Fault, Transform
from conformance.cells.registry import cell_named
from conformance.compare import Comparison, Observed, Part, seen
from conformance.errors import CaseError, SpecError
from conformance.faults import catalogue
from conformance.gradient_faults import GradientFault, gradient_catalogue
from conformance.judge import TrialVerdict, judge, observed_of, probe, rules_out, sharpest
from conformance.rounding import Array, Format, format_of, round_to
from conformance.spread import Scattered, Spread
from conformance.verdict import Agrees, Diverges, Evidence, Inconclusive

V = TypeVar("V")

STATES: Final = ("x", "h0", "c0")

KAPPA: Final = 8.0
"""Standard deviations that a conforming gradient may be off; the largest seen in released frameworks is 5.0."""

USEFUL: Final = 1.0 / 32.0
"""A rigorous bound is used up to this fraction of the root mean square of a gradient."""

SAMPLES: Final = 16
"""Perturbed backward passes that a spread is calibrated with."""


# --- values of any algebra --------------------------------------------------------------------------------------------


def _mapped(value: V, change: Callable[[Array], Array]) -> V:
    """A change of layout of whatever arrays a value holds."""
    if isinstance(value, np.ndarray):
        return cast("V", change(value))
    held = {each.name: getattr(value, each.name) for each in fields(cast("Any", value))}
    return type(value)(**{k: change(v) if isinstance(v, np.ndarray) else v for k, v in held.items()})


def _centre(value: object) -> Array:
    """The float64 array that a value stands for."""
    return value if isinstance(value, np.ndarray) else cast("Array", cast("Any", value).value)


def _negative(value: V) -> V:
    """Negation is exact."""
    if isinstance(value, np.ndarray):
        return cast("V", -value)
    return cast("V", replace(cast("Any", value), value=-cast("Any", value).value))


# --- what differentiation needs beyond an algebra ---------------------------------------------------------------------

Kinks: TypeAlias = tuple[tuple[float, float], ...]
"""Where a derivative jumps, and by how much."""


class Sums(Protocol[V]):
    """Sums over all slots and rows, and the derivative at a kink, for one algebra."""

    def outer(self, left: V, right: V, slots: int) -> V:
        """The sum over rows of outer products: left (N, O), right (N, I) -> (O, I); N = slots * batch."""

    def rows(self, value: V, slots: int) -> V:
        """The sum over the rows of `value`, (N, F) -> (F,)."""

    def kinked(self, slope: V, argument: V, kinks: Kinks) -> V:
        """`slope`, uncertain where the argument may lie on the other side of a kink."""


@dataclass(frozen=True, slots=True)
class ExactSums:
    """Sums in float64."""

    def outer(self, left: Array, right: Array, slots: int) -> Array:
        return left.T @ right

    def rows(self, value: Array, slots: int) -> Array:
        total: Array = value.sum(axis=0)
        return total

    def kinked(self, slope: Array, argument: Array, kinks: Kinks) -> Array:
        return slope


@dataclass(frozen=True, slots=True)
class RoundedSums:
    """Sums as automatic differentiation takes them: step by step from the last, every partial sum stored."""

    format: Format

    def _partial(self, terms: Array) -> Array:
        total = np.zeros(terms.shape[1:])
        for term in terms[::-1]:
            total = round_to(self.format.name, total + round_to(self.format.name, term))
        return total

    def outer(self, left: Array, right: Array, slots: int) -> Array:
        return self._partial(_slotwise(left, slots).swapaxes(1, 2) @ _slotwise(right, slots))

    def rows(self, value: Array, slots: int) -> Array:
        return self._partial(_slotwise(value, slots).sum(axis=1))

    def kinked(self, slope: Array, argument: Array, kinks: Kinks) -> Array:
        return slope


@dataclass(frozen=True, slots=True)
class BoundedSums:
    """Sums with a running error bound."""

    format: Format

    def outer(self, left: Bounded, right: Bounded, slots: int) -> Bounded:
        """Products of one step, or of all, in the accumulator, and a stored partial sum for every step."""
        fmt = self.format
        count = left.value.shape[0]
        far = np.abs(left.value) + left.error
        carried = far.T @ right.error + left.error.T @ np.abs(right.value)
        magnitude = far.T @ (np.abs(right.value) + right.error)
        unit = gamma(count, fmt.accumulator) + gamma(slots, fmt.storage) + 2.0 * fmt.operands + fmt.operands**2
        floor = count * fmt.accumulator_underflow + slots * fmt.underflow
        return Bounded(left.value.T @ right.value, carried + unit * magnitude + floor)

    def rows(self, value: Bounded, slots: int) -> Bounded:
        """Any order; where a framework reduces over the batch in storage, every partial sum is stored."""
        magnitude = (np.abs(value.value) + value.error).sum(axis=0)
        rounding = gamma(value.value.shape[0] - 1, self.format.storage) * magnitude
        return Bounded(value.value.sum(axis=0), value.error.sum(axis=0) + rounding)

    def kinked(self, slope: Bounded, argument: Bounded, kinks: Kinks) -> Bounded:
        error = slope.error
        for place, jump in kinks:
            error = error + jump * (np.abs(argument.value - place) <= argument.error)
        return Bounded(slope.value, error)


@dataclass(frozen=True, slots=True)
class SpreadSums:
    """Sums with a variance."""

    format: Format

    def _ordered(self, count: int, unit: float, squares: Array, total: Array) -> Array:
        """Partial sums of `count` terms t in a random order, and the terms, each rounded: see `Spread.dot`."""
        return unit**2 / 3.0 * ((1.0 + count / 2.0) * squares + count / 3.0 * total**2)

    def outer(self, left: Scattered, right: Scattered, slots: int) -> Scattered:
        """As `Spread.dot` over all rows, and stored partial sums of the steps."""
        fmt = self.format
        value = left.value.T @ right.value
        squares = (left.value**2).T @ right.value**2
        carried = (left.value**2).T @ right.variance + left.variance.T @ (right.value**2 + right.variance)
        inside = self._ordered(left.value.shape[0], fmt.accumulator, squares, value)
        operands = 2.0 / 3.0 * fmt.operands**2 * squares
        steps = _slotwise(left.value, slots).swapaxes(1, 2) @ _slotwise(right.value, slots)
        stored = self._ordered(slots, fmt.storage, (steps**2).sum(axis=0), value)
        return Scattered(value, carried + inside + operands + stored + slots * fmt.underflow**2)

    def rows(self, value: Scattered, slots: int) -> Scattered:
        total = value.value.sum(axis=0)
        rounding = self._ordered(value.value.shape[0], self.format.storage, (value.value**2).sum(axis=0), total)
        return Scattered(total, value.variance.sum(axis=0) + rounding)

    def kinked(self, slope: Scattered, argument: Scattered, kinks: Kinks) -> Scattered:
        """Up to two standard deviations off, either side is as likely; farther off, `KAPPA` of them are a jump."""
        variance = slope.variance
        for place, jump in kinks:
            far = (argument.value - place) ** 2
            variance = variance + jump**2 / 4.0 * (far <= 4.0 * argument.variance)
            variance = variance + (jump / KAPPA) ** 2 * (far <= KAPPA**2 * argument.variance)
        return Scattered(slope.value, variance)


@dataclass(frozen=True, slots=True)
class Perturbed:
    """Evaluation in which every rounding is a random error, in several samples along a leading axis.

    As in stochastic arithmetic (Vignes 2004, Numerical Algorithms 37), with uniform errors. In the first half of the
    samples they are drawn for every element, in the second half once for all units of a row: units with equal weights
    round alike.
    """

    format: Format
    generator: np.random.Generator
    coarser: bool = False

    def _noise(self, values: Array, width: Array | float) -> Array:
        """`values`, in every sample, with errors uniform in -width ... width."""
        shape = values.shape[-2:] if values.ndim > 1 else (1, *values.shape)
        own = self.generator.uniform(-1.0, 1.0, (SAMPLES // 2, *shape))
        shared = np.broadcast_to(self.generator.uniform(-1.0, 1.0, (SAMPLES // 2, shape[0], 1)), own.shape)
        return values + width * np.concatenate([own, shared])

    def _stored(self, values: Array) -> Array:
        return self._noise(values, self.format.storage * np.abs(values) + self.format.underflow)

    def lift(self, values: Array) -> Array:
        return self._stored(values) if self.coarser else values

    def dot(self, matrix: Array, vector: Array) -> Array:
        fmt = self.format
        count = matrix.shape[-1]
        value = vector @ matrix.swapaxes(-1, -2)
        terms = vector**2 @ (matrix**2).swapaxes(-1, -2)
        units = fmt.accumulator**2 * (1.0 + count / 2.0) + 2.0 * fmt.operands**2
        width = np.sqrt(units * terms + fmt.accumulator**2 * (count / 3.0) * value**2)
        computed = self._noise(value, width)
        return self._stored(computed) if fmt.storage > fmt.accumulator else computed

    def total(self, *terms: Array) -> Array:
        result = terms[0]
        for term in terms[1:]:
            result = self._stored(result + term)
        return result

    def times(self, left: Array, right: Array) -> Array:
        return self._stored(left * right)

    def apply(self, function: Activation, argument: Array) -> Array:
        value = function.function(argument)
        fmt = self.format
        return self._noise(value, max(fmt.storage, fmt.activation) * fmt.tanh_ulps * np.abs(value) + fmt.underflow)

    def mix(self, weight: Array, low: Array, high: Array) -> Array:
        kept = self._stored(self._stored(1.0 - weight) * low)
        return self._stored(kept + self._stored(weight * high))

    def quotient(self, numerator: Array, denominator: Array) -> Array:
        return self._stored(numerator / denominator)

    def select(self, rows: Array, yes: Array, no: Array) -> Array:
        return np.where(rows[..., :, None] != 0, yes, no)

    def rows(self, value: Array, index: Rows) -> Array:
        return value[..., index, :]

    def stack(self, values: Sequence[Array]) -> Array:
        return np.concatenate(alike(values), axis=-2)

    def beside(self, values: Sequence[Array]) -> Array:
        lead = np.broadcast_shapes(*(value.shape[:-1] for value in values))
        return np.concatenate([np.broadcast_to(value, (*lead, value.shape[-1])) for value in values], axis=-1)


@dataclass(frozen=True, slots=True)
class PerturbedSums:
    """Sums with random errors: step by step, every partial sum stored."""

    ops: Perturbed

    def outer(self, left: Array, right: Array, slots: int) -> Array:
        steps = _slotwise(left, slots).swapaxes(-1, -2) @ _slotwise(right, slots)
        return self.ops.total(*(steps[..., slot, :, :] for slot in reversed(range(slots))))

    def rows(self, value: Array, slots: int) -> Array:
        steps = _slotwise(value, slots).sum(axis=-2)
        total = self.ops.total(*(steps[..., slot, None, :] for slot in reversed(range(slots))))
        return total[..., 0, :]

    def kinked(self, slope: Array, argument: Array, kinks: Kinks) -> Array:
        return slope


def _slotwise(rows: Array, slots: int) -> Array:
    return rows.reshape(*rows.shape[:-2], slots, -1, rows.shape[-1])


def sums_of(ops: Algebra[Any]) -> Sums[Any]:
    """The sums that belong to an algebra."""
    match ops:
        case RunningError(format=fmt):
            return BoundedSums(fmt)
        case Spread(format=fmt):
            return SpreadSums(fmt)
        case Rounded(format=fmt):
            return RoundedSums(fmt)
        case Perturbed():
            return PerturbedSums(ops)
        case _:
            return ExactSums()


# --- derivatives of activations ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivative:
    """The derivative of an activation.

    formula: (argument, value, algebra) -> slope, as frameworks evaluate it: from the rounded value where they can.
    """

    formula: Callable[[Any, Any, Algebra[Any]], Any]
    kinks: Kinks = ()


def _less_than_one(value: V, ops: Algebra[V]) -> V:
    return ops.total(ops.lift(np.ones((1, 1))), _negative(value))


def _sigmoid_slope(a: V, f: V, ops: Algebra[V]) -> V:
    """``f (1 - f)``."""
    return ops.times(f, _less_than_one(f, ops))


def _tanh_slope(a: V, f: V, ops: Algebra[V]) -> V:
    """``1 - f^2``."""
    return _less_than_one(ops.times(f, f), ops)


def _g_slope(a: V, f: V, ops: Algebra[V]) -> V:
    """1 for a >= 0, that of the sigmoid for a < 0."""
    linear = (_centre(a) >= 0).astype(np.float64)
    return ops.total(ops.lift(linear), ops.times(ops.lift(1.0 - linear), _sigmoid_slope(a, f, ops)))


def _between(low: float, high: float, slope: float) -> Derivative:
    """A constant slope for low < a < high, 0 outside."""

    def formula(a: V, f: V, ops: Algebra[V]) -> V:
        inside = (_centre(a) > low) & (_centre(a) < high)
        return ops.lift(np.where(inside, slope, 0.0))

    return Derivative(formula=formula, kinks=tuple((place, slope) for place in (low, high) if np.isfinite(place)))


DERIVATIVES: Final[Mapping[str, Derivative]] = {
    "sigmoid": Derivative(formula=_sigmoid_slope),
    "tanh": Derivative(formula=_tanh_slope),
    "g": Derivative(formula=_g_slope, kinks=((0.0, 0.75),)),
    "softplus": Derivative(formula=lambda a, f, ops: ops.apply(SIGMOID, a)),
    "identity": _between(-np.inf, np.inf, 1.0),
    "relu": _between(0.0, np.inf, 1.0),
    "hard_tanh": _between(-1.0, 1.0, 1.0),
    "hard_sigmoid": _between(-2.5, 2.5, 0.2),
    "hard_sigmoid6": _between(-3.0, 3.0, 1.0 / 6.0),
}
"""By the name of the activation."""

WRONG_SLOPES: Final[Mapping[str, Derivative]] = {
    "value": Derivative(formula=lambda a, f, ops: f),
    "one_minus_squared_argument": Derivative(formula=lambda a, f, ops: _less_than_one(ops.times(a, a), ops)),
}


# --- the tape ---------------------------------------------------------------------------------------------------------

Take: TypeAlias = Callable[[Any], Any]
"""Those rows of a recorded value that the adjoint at hand has."""

Pull: TypeAlias = Callable[[Any, Take], Any]
"""(adjoint of a result, take) -> adjoint of one of its arguments: a vector-Jacobian product."""


@dataclass(frozen=True, slots=True, eq=False)
class Node(Generic[V]):
    """A value, and how an adjoint of it passes to what it was computed from.

    state: whether it depends on the state before the step; outer: whether it depends on x or a parameter.
    products: matrices of the products that it is, or is the sum of.
    """

    value: V
    edges: tuple[tuple[Node[V], Pull], ...] = ()
    state: bool = False
    outer: bool = False
    products: frozenset[str] = frozenset()


NO_FAULT: Final = GradientFault(name="", statement="", right="", equation="")


@dataclass(slots=True, kw_only=True, eq=False)
class Tape(Generic[V]):
    """An algebra over nodes that records the step; a step works row by row.

    names: canonical names of parameters by the identity of their arrays, which is how a step mentions them.
    slots: the number of slots recorded at once, with equally many rows each.
    after: the state after the step, for `GradientFault.operand_after`.
    """

    ops: Algebra[V]
    slots: int
    names: Mapping[int, str] = field(default_factory=dict)
    fault: GradientFault = NO_FAULT
    after: Array | None = None
    nodes: list[Node[V]] = field(default_factory=list)
    leaves: dict[str, Node[V]] = field(default_factory=dict)

    def leaf(self, name: str, value: V, *, state: bool = False) -> Node[V]:
        """A value that a gradient is wanted for: of the state before the step, or of x or a parameter."""
        if name not in self.leaves:
            self.leaves[name] = self._record(Node(value=value, state=state, outer=not state))
        return self.leaves[name]

    def _record(self, node: Node[V]) -> Node[V]:
        self.nodes.append(node)
        return node

    def _computed(self, value: V, *edges: tuple[Node[V], Pull], products: frozenset[str] = frozenset()) -> Node[V]:
        return self._record(
            Node(
                value=value,
                edges=edges,
                state=any(node.state for node, _ in edges),
                outer=any(node.outer for node, _ in edges),
                products=products,
            )
        )

    def lift(self, values: Array) -> Node[V]:
        name = self.names.get(id(values))
        if name is None:
            return self._record(Node(value=self.ops.lift(values)))
        return self.leaf(name, self.ops.lift(values))

    def dot(self, matrix: Array, vector: Node[V]) -> Node[V]:
        ops, sums = self.ops, sums_of(self.ops)
        name = self.names.get(id(matrix), "")
        back = matrix.T
        if self.fault.other_layout and vector is self.leaves.get("x"):
            back = matrix.reshape(back.shape)
        operand = vector.value
        if self.fault.operand_after and self.after is not None and vector is self.leaves.get("h"):
            operand = ops.lift(self.after)
        edges: list[tuple[Node[V], Pull]] = [(vector, lambda g, take: ops.dot(back, g))]
        if name:
            edges.append((self.leaf(name, ops.lift(matrix)), lambda g, take: sums.outer(g, take(operand), self.slots)))
        return self._computed(ops.dot(matrix, vector.value), *edges, products=frozenset({name}))

    def total(self, *terms: Node[V]) -> Node[V]:
        products = frozenset[str]().union(*(term.products for term in terms))
        value = self.ops.total(*(term.value for term in terms))
        return self._computed(value, *((term, lambda g, take: g) for term in terms), products=products)

    def times(self, left: Node[V], right: Node[V]) -> Node[V]:
        ops = self.ops
        return self._computed(
            ops.times(left.value, right.value),
            (left, lambda g, take: ops.times(g, take(right.value))),
            (right, lambda g, take: ops.times(g, take(left.value))),
        )

    def apply(self, function: Activation, argument: Node[V]) -> Node[V]:
        value = self.ops.apply(function, argument.value)
        if argument.products & self.fault.stopped:
            return self._computed(value)
        wrong = self.fault.slopes.get(function.name)
        derivative = DERIVATIVES.get(function.name) if wrong is None else WRONG_SLOPES[wrong]
        if derivative is None:
            raise SpecError("no derivative of this activation", got=function.name, wanted=" | ".join(DERIVATIVES))
        slope = derivative.formula(argument.value, value, self.ops)
        if derivative.kinks:
            slope = sums_of(self.ops).kinked(slope, argument.value, derivative.kinks)
        return self._computed(value, (argument, lambda g, take: self.ops.times(g, take(slope))))

    def mix(self, weight: Node[V], low: Node[V], high: Node[V]) -> Node[V]:
        ops = self.ops
        kept = _less_than_one(weight.value, ops)

        def to_weight(g: V, take: Take) -> V:
            return ops.total(ops.times(g, take(high.value)), _negative(ops.times(g, take(low.value))))

        return self._computed(
            ops.mix(weight.value, low.value, high.value),
            (weight, to_weight),
            (low, lambda g, take: ops.times(g, take(kept))),
            (high, lambda g, take: ops.times(g, take(weight.value))),
        )

    def quotient(self, numerator: Node[V], denominator: Node[V]) -> Node[V]:
        ops = self.ops
        value = ops.quotient(numerator.value, denominator.value)

        def to_denominator(g: V, take: Take) -> V:
            """``-g q / d``."""
            return _negative(ops.quotient(ops.times(g, take(value)), take(denominator.value)))

        return self._computed(
            value,
            (numerator, lambda g, take: ops.quotient(g, take(denominator.value))),
            (denominator, to_denominator),
        )

    def select(self, rows: Array, yes: Node[V], no: Node[V]) -> Node[V]:
        ops = self.ops

        def mask(take: Take) -> Array:
            return cast("Array", take(rows[:, None]))[:, 0]

        def nothing(g: V) -> V:
            return _mapped(g, np.zeros_like)

        return self._computed(
            ops.select(rows, yes.value, no.value),
            (yes, lambda g, take: ops.select(mask(take), g, nothing(g))),
            (no, lambda g, take: ops.select(mask(take), nothing(g), g)),
        )

    def rows(self, value: Node[V], index: Rows) -> Node[V]:
        raise SpecError("a step works row by row", got="rows of a value inside a step")

    def stack(self, values: Sequence[Node[V]]) -> Node[V]:
        raise SpecError("a step works row by row", got="stacked values inside a step")

    def beside(self, values: Sequence[Node[V]]) -> Node[V]:
        raise SpecError("a step works on whole rows", got="joined columns inside a step")

    def sweep(
        self, seeds: Sequence[tuple[Node[V], V]], slot: int | None, wanted: Callable[[Node[V]], bool]
    ) -> dict[str, list[V]]:
        """The contributions to the adjoint of every leaf, from adjoints of some nodes: of one slot, or of all."""
        count = self.slots if slot is None else 1
        batch = _centre(seeds[0][1]).shape[-2] // count

        def take(value: Any) -> Any:
            # What has no row for every slot (a constant, a bias) is the same in all of them.
            if slot is None or _centre(value).ndim < 2 or _centre(value).shape[-2] != self.slots * batch:
                return value
            return _mapped(value, lambda array: array[..., slot * batch : (slot + 1) * batch, :])

        adjoints: dict[Node[V], list[V]] = {}
        for node, adjoint in seeds:
            adjoints.setdefault(node, []).append(adjoint)
        for node in reversed(self.nodes):
            if not node.edges or node not in adjoints:
                continue
            terms = adjoints.pop(node)
            adjoint = terms[0] if len(terms) == 1 else self.ops.total(*terms)
            for source, pull in node.edges:
                if wanted(source):
                    adjoints.setdefault(source, []).append(pull(adjoint, take))
        return {name: adjoints.get(node, []) for name, node in self.leaves.items()}


# --- back-propagation through time ------------------------------------------------------------------------------------


def gradients(
    case: Case,
    along: Seen,
    ops: Algebra[V],
    *,
    fault: Fault | GradientFault | None = None,
) -> dict[str, V]:
    """The gradients of a case along an observed trajectory, as an algebra's values, in their own shapes.

    Raises
    ------
    CaseError: the case has no cotangents, several layers or directions, lengths, or is evaluated as a scan.
    """
    _check(case)
    forward = fault if isinstance(fault, Fault) else None
    backward = fault if isinstance(fault, GradientFault) else NO_FAULT
    understood = case if forward is None else forward.misread(case)
    variation = CORRECT if forward is None else forward.variation
    found = _Backward(case=understood, along=along, ops=ops, fault=backward, variation=variation).run()
    if forward is not None:
        found |= {"h0": _mapped(found["h0"], np.zeros_like)} if forward.no_h0 else {}
        found |= {"c0": _mapped(found["c0"], np.zeros_like)} if forward.no_c0 and "c0" in found else {}
        if forward.parameters is not None:
            found = _read_back(found, case.parameters, forward.parameters, ops)
    return found


def _check(case: Case) -> None:
    if not case.cotangents:
        raise CaseError("a case without cotangents has no gradients", where=case.origin)
    odd = [name for name in case.features if name in ("lengths", "layers", "bidirectional")]
    if case.evaluation != "sequential":
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target(Generic[V]):
    """Collected contributions to adjoints, by slot; INITIAL is the initial state."""

    terms: dict[int, list[V]] = field(default_factory=dict)

    def add(self, slot: int, *values: V) -> None:
        self.terms.setdefault(slot, []).extend(values)

    def total(self, slot: int, ops: Algebra[V]) -> V | None:
        values = self.terms.get(slot, [])
        return values[0] if len(values) == 1 else ops.total(*values) if values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backward(Generic[V]):
    """One backward pass."""

    case: Case
    along: Seen
    ops: Algebra[V]
    fault: GradientFault
    variation: Variation

    def run(self) -> dict[str, V]:
        """The gradients by canonical name."""
        case, ops = self.case, self.ops
        size = case.shape
        wiring = self.variation.wiring(rows_of(case))
        slots = size.time + 1
        tape, ends = self._recorded(slots)
        states: dict[str, _Target[V]] = {name: _Target() for name in ends}
        self._seed(states)
        seeds: dict[str, list[V]] = {name: [] for name in ends}
        inputs: _Target[V] = _Target()
        for slot in map(int, wiring.order[::-1]):
            adjoints = {name: states[name].total(slot, ops) for name in ends}
            copied = (wiring.inputs[slot] == NO_INPUT).astype(np.float64)
            live: dict[str, V] = {}
            for name, adjoint in adjoints.items():
                nothing = ops.lift(np.zeros((size.batch, _centre(ends[name].value).shape[-1])))
                live[name] = nothing if adjoint is None else adjoint
                if copied.any() and adjoint is not None:
                    passed = ops.select(copied, adjoint, nothing)
                    live[name] = ops.select(copied, nothing, adjoint)
                    self._pass_back(states[name], passed, wiring.states[slot])
                seeds[name].append(live[name])
            if any(adjoint is not None for adjoint in adjoints.values()) and not copied.all():
                pairs = [(ends[name], live[name]) for name in ends if adjoints[name] is not None]
                found = tape.sweep(pairs, slot, lambda node: node.state)
                for name in ends:
                    for term in found.get(name, []):
                        self._pass_back(states[name], term, wiring.states[slot], name)
        order = np.argsort(wiring.order[::-1])
        joined = [(ends[name], ops.stack([seeds[name][i] for i in order])) for name in ends]
        found = tape.sweep(joined, None, lambda node: node.outer)
        self._pass_inputs(inputs, found.pop("x", []), wiring.inputs)
        result = {"x": self._x(inputs)}
        for name, start in (("h", "h0"), ("c", "c0")):
            if name in ends:
                width = _centre(ends[name].value).shape[-1]
                value = states[name].total(INITIAL, ops)
                result[start] = ops.lift(np.zeros((size.batch, width))) if value is None else value
        for name, parameter in case.parameters.items():
            result[name] = self._parameter(name, parameter, found.get(name, []), slots)
        return {name: self._scaled(name, value) for name, value in result.items()}

    def _recorded(self, slots: int) -> tuple[Tape[V], dict[str, Node[V]]]:
        """The tape of all slots, and the states after the step."""
        case, ops, cell = self.case, self.ops, cell_named(self.case.cell)
        cell.check(case)
        size = case.shape
        wiring = self.variation.wiring(rows_of(case))
        lanes = np.zeros(size.batch, dtype=np.intp) if self.variation.lane0 else np.arange(size.batch)
        source = ((wiring.states + 2) * size.batch + lanes).ravel()
        observed = _flat(self.along.outputs)
        bank = np.concatenate([np.zeros_like(case.h0), case.h0, observed])
        fresh: Parameters = {name: np.array(value) for name, value in case.parameters.items()}
        tape: Tape[V] = Tape(
            ops=ops,
            slots=slots,
            names={id(value): name for name, value in fresh.items()},
            fault=self.fault,
            after=np.concatenate([observed, self._last()]),
        )
        eq = cell.equations if self.variation.equations is None else self.variation.equations
        xs = _flat(case.x) if size.time else np.zeros((size.batch, size.features))
        x = tape.leaf("x", ops.lift(xs[(np.maximum(wiring.inputs, 0) * size.batch + np.arange(size.batch)).ravel()]))
        h = tape.leaf("h", ops.lift(bank[source]), state=True)
        start = np.where(wiring.states == INITIAL, float(case.initial == "omitted"), 0.0).ravel()
        ring: Any = tape
        parts = cell.project(fresh, x, h, start, ring, eq)
        if cell.carry is None:
            return tape, {"h": cell.emit(fresh, parts, h, None, ring, eq)["h"]}
        c = tape.leaf("c", ops.rows(self._memories(), source), state=True)
        after = cell.carry(fresh, parts, c, ring, eq)
        return tape, {"h": cell.emit(fresh, parts, h, (c, after), ring, eq)["h"], "c": after}

    def _last(self) -> Array:
        """The final state, as observed last."""
        if not self.case.shape.time:
            return self.case.h0
        return self.along.outputs[:, 0 if self.case.reverse else -1]

    def _memories(self) -> V:
        """Zeros, c0 and the memory after every slot, observed or rebuilt, as rows."""
        case, ops = self.case, self.ops
        assert case.c0 is not None
        if self.along.cells is not None:
            after = ops.lift(_flat(self.along.cells))
        else:
            trace = cell_named(case.cell).evaluate(case, ops, variation=self.variation, seen=self.along)
            assert trace.cells is not None
            after = trace.cells
        return ops.stack([ops.lift(np.zeros_like(case.c0)), ops.lift(case.c0), after])

    def _seed(self, states: Mapping[str, _Target[V]]) -> None:
        """Cotangents enter at their slots; those of the final state at the output that it equals."""
        case = self.case
        given: Mapping[str, Array] = case.cotangents
        if self.fault.cotangents is not None:
            given = self.fault.cotangents(given)
        if "outputs" in given:
            for step in range(case.shape.time):
                states["h"].add(step, self.ops.lift(given["outputs"][:, step]))
        wiring = self.variation.wiring(rows_of(case))
        final = case.shape.time
        same = [
            step
            for step in range(final)
            if np.array_equal(wiring.inputs[step], wiring.inputs[final])
            and np.array_equal(wiring.states[step], wiring.states[final])
        ]
        for name, state in (("final_state", "h"), ("final_cell", "c")):
            if name in given:
                states[state].add(same[0] if same else final, self.ops.lift(given[name]))

    def _pass_back(self, target: _Target[V], adjoint: V, sources: Indices, state: str = "") -> None:
        """An adjoint of states before a slot goes to the slots (and rows) that these came from."""
        lanes = np.zeros(len(sources), dtype=np.intp) if self.variation.lane0 else np.arange(len(sources))
        for slot in map(int, np.unique(sources)):
            if slot == NOTHING or (slot != INITIAL and state in self.fault.cut):
                continue
            mask = (sources == slot).astype(np.float64)
            nothing = _mapped(adjoint, np.zeros_like)
            own = adjoint if mask.all() else self.ops.select(mask, adjoint, nothing)
            if np.array_equal(lanes, np.arange(len(lanes))):
                target.add(slot, own)
                continue
            for row, lane in enumerate(lanes):
                index = np.full(len(lanes), len(lanes))
                index[lane] = row
                target.add(slot, self.ops.rows(self.ops.stack([own, nothing]), index))

    def _pass_inputs(self, target: _Target[V], terms: Sequence[V], inputs: Indices) -> None:
        """Adjoints of inputs go to the times that were consumed."""
        batch = self.case.shape.batch
        if not terms or not self.case.shape.time:
            return
        every = terms[0] if len(terms) == 1 else self.ops.total(*terms)
        for slot, times in enumerate(inputs):
            own = self.ops.rows(every, slice(slot * batch, (slot + 1) * batch))
            for time in map(int, np.unique(times)):
                if time != NO_INPUT:
                    mask = (times == time).astype(np.float64)
                    nothing = _mapped(own, np.zeros_like)
                    target.add(time, own if mask.all() else self.ops.select(mask, own, nothing))

    def _x(self, inputs: _Target[V]) -> V:
        """(B, T, D)."""
        size = self.case.shape
        if not size.time:
            return self.ops.lift(np.zeros((size.batch, 0, size.features)))
        steps: list[V] = []
        for time in range(size.time):
            value = inputs.total(size.time - 1 - time if self.fault.mirrored else time, self.ops)
            steps.append(self.ops.lift(np.zeros((size.batch, size.features))) if value is None else value)
        return _mapped(
            self.ops.stack(steps),
            lambda rows: np.swapaxes(rows.reshape(*rows.shape[:-2], size.time, size.batch, size.features), -2, -3),
        )

    def _parameter(self, name: str, value: Array, terms: Sequence[V], slots: int) -> V:
        """Sums over rows; a bias gets the adjoints of all rows, which are added here."""
        if not terms:
            return self.ops.lift(np.zeros_like(value))
        total = terms[0] if len(terms) == 1 else self.ops.total(*terms)
        if value.ndim > 1:
            return total
        if self.fault.counted is not None:
            size = self.case.shape
            counted = self.fault.counted(name, size.time, size.batch)
            mask = np.concatenate([counted, np.ones((1, size.batch))]).ravel()
            total = self.ops.select(mask, total, _mapped(total, np.zeros_like))
        return cast("V", sums_of(self.ops).rows(total, slots))

    def _scaled(self, name: str, value: V) -> V:
        factor = 1.0 if self.fault.scale is None else self.fault.scale(self.case, name)
        if factor == 1.0:
            return value
        axes = 3 if name == "x" else 2 if name in STATES else self.case.parameters[name].ndim
        shape = _centre(value).shape
        row = self.ops.times(self.ops.lift(np.full((1, 1), factor)), _mapped(value, _as_row(axes)))
        return _mapped(row, _as_shape(shape[len(shape) - axes :]))


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
    rows = ops.beside([_mapped(found[name], _as_row(given[name].ndim)) for name in names])
    if np.any(factors != 1.0):
        rows = ops.times(ops.lift(factors[None]), rows)
    start = 0
    for name, value in given.items():
        own = [] if name in names else [_mapped(found[name], _as_row(value.ndim))]
        # The misread numbers that came from each of these, in as many rounds as one was used.
        own += [_mapped(rows, _columns(taken)) for taken in _rounds(sources, start, value.size)]
        total = ops.lift(np.zeros((1, value.size))) if not own else own[0] if len(own) == 1 else ops.total(*own)
        result[name] = _mapped(total, _as_shape(value.shape))
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


def compare_gradients(case: Case, observed: Observed, fault: Fault | GradientFault | None = None) -> Comparison:
    """Compare observed gradients with the reference, or with the mutated one of `fault`, along the observed outputs.

    Parts go by the name of the gradient, as (1, rows, columns); those of x are (1, B * T, D).

    Raises
    ------
    CaseError: a gradient is missing, unknown or of another shape, or there is nothing to compare.
    """
    check_gradients(case, observed)
    declared = format_of(case.dtype)
    fmt = fault.format(case) if isinstance(fault, Fault) else declared
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        predicted = _predicted(case, seen(case, observed), fmt, fault)
        parts = {
            name: _part(values, predicted[name].value, predicted[name].error, declared)
            for name, values in observed.gradients.items()
        }
    return Comparison(parts=parts, compared=sum(part.share.size for part in parts.values()))


def _predicted(case: Case, along: Seen, fmt: Format, fault: Fault | GradientFault | None) -> dict[str, Bounded]:
    """Every gradient and what a conforming one may differ by.

    That is the rigorous bound where it is useful, and `KAPPA` standard deviations where it is not and they are less.
    """
    coarser = fmt is not format_of(case.dtype)
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
    ops = Rounded(fault.format(case) if isinstance(fault, Fault) else format_of(case.dtype))
    forward = observed_of(cell_named(case.cell).run(case, ops=Rounded(format_of(case.dtype))))
    return replace(forward, gradients=gradients(case, seen(case, forward), ops, fault=fault))


# --- judgement --------------------------------------------------------------------------------------------------------


# A gradient fault counts as visible on the probe when it moves some gradient by more than this.
_VISIBLE: Final = 1e-6


def judge_gradients(case: Case, observed: Observed, against: Sequence[str] | frozenset[str]) -> TrialVerdict:
    """The verdict on the gradients of one case; on its outputs, where these diverge already.

    against: the faults, of gradients or of the forward pass, still to be ruled out; as for `conformance.judge.judge`.

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
        residuals = _hypotheses(case, observed)
        return Diverges(
            faults=sharpest(name for name, share in residuals.items() if share <= 1.0),
            evidence=_evidence(case, observed, reference, residuals),
        )
    if not reference.bounded:
        return Inconclusive(why="the bound of the gradients overflows on this case: everything would lie inside it")
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
        return not _finite_gradients(gradients(case, seen(case, observed), Rounded(format_of(case.dtype))))


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
        return not compare_gradients(case, observed, own[name]).explains
    return rules_out(case, observed, catalogue(case.cell)[name])


def _hypotheses(case: Case, observed: Observed) -> dict[str, float]:
    """For every fault of either catalogue the largest share of its own bound; nothing explains what is not finite."""
    if not _finite_gradients(observed.gradients):
        return {}
    found: dict[str, float] = {}
    every: dict[str, Fault | GradientFault] = {**catalogue(case.cell), **gradient_catalogue(case.cell)}
    for name, fault in every.items():
        if isinstance(fault, Fault) and fault.arithmetic is not None and fault.format(case) is format_of(case.dtype):
            continue  # a precision that is not this dtype's
        try:
            comparison = compare_gradients(case, observed, fault)
        except SpecError:
            continue  # its gradient is not known here
        found[name] = comparison.worst if comparison.bounded else np.inf
    return found


def _evidence(case: Case, observed: Observed, reference: Comparison, residuals: Mapping[str, float]) -> Evidence:
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
