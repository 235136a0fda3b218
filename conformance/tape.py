"""The tape: an algebra over another algebra's values that records how each operation passes an adjoint back.

No cell writes a backward pass: its step, evaluated over `Tape`, is one (reverse-mode differentiation: Linnainmaa 1976;
Griewank & Walther, Evaluating Derivatives, 2008, chapter 3). Over `Exact` it gives float64 adjoints; over
`RunningError` these with a bound on the rounding error of any backward pass that follows the same equations; over
`Spread` with a variance; over `Rounded` an emulated kernel; over `Perturbed` samples of conforming ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast

import numpy as np
from msgspec import Struct, field
from msgspec.structs import asdict, replace

from conformance.algebra import SIGMOID, Activation, Algebra, Bounded, Exact, Rounded, Rows, RunningError, gamma
from conformance.errors import SpecError
from conformance.rounding import Array, Format, round_to
from conformance.spread import Scattered, Spread

V = TypeVar("V")

KAPPA: Final = 8.0
"""Standard deviations that a conforming gradient may be off; the largest seen in released frameworks is 5.0."""

SAMPLES: Final = 16
"""Samples of a perturbed evaluation."""


# --- values of any algebra --------------------------------------------------------------------------------------------


def mapped(value: V, change: Callable[[Array], Array]) -> V:
    """A change of layout of whatever arrays a value holds."""
    if isinstance(value, np.ndarray):
        return cast("V", change(value))
    held = asdict(cast("Any", value))
    return type(value)(**{k: change(v) if isinstance(v, np.ndarray) else v for k, v in held.items()})


def centre(value: object) -> Array:
    """The float64 array that a value stands for."""
    return value if isinstance(value, np.ndarray) else cast("Array", cast("Any", value).value)


def zeros_like(value: V) -> V:
    """Exact zeros in the shape of a value."""
    return mapped(value, np.zeros_like)


def negative(value: V) -> V:
    """Negation is exact."""
    if isinstance(value, np.ndarray):
        return cast("V", -value)
    return cast("V", replace(cast("Any", value), value=-cast("Any", value).value))


def summed(terms: Sequence[V], ops: Algebra[V]) -> V:
    """The sum of at least one term; a single one is not rounded again."""
    return terms[0] if len(terms) == 1 else ops.total(*terms)


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


class ExactSums(Struct, frozen=True):
    """Sums in float64."""

    def outer(self, left: Array, right: Array, slots: int) -> Array:
        return left.T @ right

    def rows(self, value: Array, slots: int) -> Array:
        total: Array = value.sum(axis=0)
        return total

    def kinked(self, slope: Array, argument: Array, kinks: Kinks) -> Array:
        return slope


class RoundedSums(ExactSums, frozen=True):
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


class BoundedSums(Struct, frozen=True):
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


class SpreadSums(Struct, frozen=True):
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


class Perturbed(Exact, frozen=True):
    """Evaluation in which every rounding is a random error, in several samples along a leading axis.

    As in stochastic arithmetic (Vignes 2004, Numerical Algorithms 37), with uniform errors. In the first half of the
    samples they are drawn for every element, in the second half once for all units of a row: units with equal weights
    round alike. Where nothing rounds it is exact.
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


class PerturbedSums(ExactSums, frozen=True):
    """Sums with random errors: step by step, every partial sum stored."""

    ops: Perturbed

    def outer(self, left: Array, right: Array, slots: int) -> Array:
        steps = _slotwise(left, slots).swapaxes(-1, -2) @ _slotwise(right, slots)
        return self.ops.total(*(steps[..., slot, :, :] for slot in reversed(range(slots))))

    def rows(self, value: Array, slots: int) -> Array:
        steps = _slotwise(value, slots).sum(axis=-2)
        total = self.ops.total(*(steps[..., slot, None, :] for slot in reversed(range(slots))))
        return total[..., 0, :]


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


class Derivative(Struct, frozen=True, kw_only=True):
    """The derivative of an activation.

    formula: (argument, value, algebra) -> slope, as frameworks evaluate it: from the rounded value where they can.
    """

    formula: Callable[[Any, Any, Algebra[Any]], Any]
    kinks: Kinks = ()


def one_minus(value: V, ops: Algebra[V]) -> V:
    """``1 - value``."""
    return ops.total(ops.lift(np.ones((1, 1))), negative(value))


def _sigmoid_slope(a: V, f: V, ops: Algebra[V]) -> V:
    """``f (1 - f)``."""
    return ops.times(f, one_minus(f, ops))


def _tanh_slope(a: V, f: V, ops: Algebra[V]) -> V:
    """``1 - f^2``."""
    return one_minus(ops.times(f, f), ops)


def _g_slope(a: V, f: V, ops: Algebra[V]) -> V:
    """1 for a >= 0, that of the sigmoid for a < 0."""
    linear = (centre(a) >= 0).astype(np.float64)
    return ops.total(ops.lift(linear), ops.times(ops.lift(1.0 - linear), _sigmoid_slope(a, f, ops)))


def _between(low: float, high: float, slope: float) -> Derivative:
    """A constant slope for low < a < high, 0 outside."""

    def formula(a: V, f: V, ops: Algebra[V]) -> V:
        inside = (centre(a) > low) & (centre(a) < high)
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

WRONG_DERIVATIVES: Final[Mapping[str, Derivative]] = {
    "value": Derivative(formula=lambda a, f, ops: f),
    "one_minus_squared_argument": Derivative(formula=lambda a, f, ops: one_minus(ops.times(a, a), ops)),
}
"""By the name of `conformance.gradient_faults.Slope`."""


# --- the tape ---------------------------------------------------------------------------------------------------------

Take: TypeAlias = Callable[[Any], Any]
"""Those rows of a recorded value that the adjoint at hand has."""

Pull: TypeAlias = Callable[[Any, Take], Any]
"""(adjoint of a result, take) -> adjoint of one of its arguments: a vector-Jacobian product."""


class Node(Struct, Generic[V], frozen=True, eq=False):
    """A value, and how an adjoint of it passes to what it was computed from.

    state: whether it depends on the state before the step; outer: whether it depends on x or a parameter.
    products: matrices of the products that it is, or is the sum of.
    """

    value: V
    edges: tuple[tuple[Node[V], Pull], ...] = ()
    state: bool = False
    outer: bool = False
    products: frozenset[str] = frozenset()


class Tape(Struct, Generic[V], kw_only=True, eq=False):
    """An algebra over nodes that records the step; a step works row by row.

    slots: the number of slots recorded at once, with equally many rows each.
    names: canonical names of parameters by the identity of their arrays, which is how a step mentions them.
    slopes: derivatives in place of the right ones, by the name of the activation.
    stopped: matrices; nothing passes back through the activation whose argument holds a product with one.
    operands: what gradients of matrices are taken with in place of the leaf of that name that they multiply.
    other_layout: leaves whose adjoints are taken with matrices in the other layout.
    """

    ops: Algebra[V]
    slots: int
    names: Mapping[int, str] = field(default_factory=dict)
    slopes: Mapping[str, Derivative] = field(default_factory=dict)
    stopped: frozenset[str] = frozenset()
    operands: Mapping[str, Array] = field(default_factory=dict)
    other_layout: frozenset[str] = frozenset()
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
        leaf = next((name for name, node in self.leaves.items() if node is vector), "")
        back = matrix.reshape(matrix.T.shape) if leaf in self.other_layout else matrix.T
        operand = ops.lift(self.operands[leaf]) if leaf in self.operands else vector.value
        edges: list[tuple[Node[V], Pull]] = [(vector, lambda g, take: ops.dot(back, g))]
        name = self.names.get(id(matrix), "")
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
        if argument.products & self.stopped:
            return self._computed(value)
        derivative = self.slopes.get(function.name, DERIVATIVES.get(function.name))
        if derivative is None:
            raise SpecError("no derivative of this activation", got=function.name, wanted=" | ".join(DERIVATIVES))
        slope = derivative.formula(argument.value, value, self.ops)
        if derivative.kinks:
            slope = sums_of(self.ops).kinked(slope, argument.value, derivative.kinks)
        return self._computed(value, (argument, lambda g, take: self.ops.times(g, take(slope))))

    def mix(self, weight: Node[V], low: Node[V], high: Node[V]) -> Node[V]:
        ops = self.ops
        kept = one_minus(weight.value, ops)

        def to_weight(g: V, take: Take) -> V:
            return ops.total(ops.times(g, take(high.value)), negative(ops.times(g, take(low.value))))

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
            return negative(ops.quotient(ops.times(g, take(value)), take(denominator.value)))

        return self._computed(
            value,
            (numerator, lambda g, take: ops.quotient(g, take(denominator.value))),
            (denominator, to_denominator),
        )

    def select(self, rows: Array, yes: Node[V], no: Node[V]) -> Node[V]:
        ops = self.ops

        def mask(take: Take) -> Array:
            return cast("Array", take(rows[:, None]))[:, 0]

        return self._computed(
            ops.select(rows, yes.value, no.value),
            (yes, lambda g, take: ops.select(mask(take), g, zeros_like(g))),
            (no, lambda g, take: ops.select(mask(take), zeros_like(g), g)),
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
        batch = centre(seeds[0][1]).shape[-2] // count

        def take(value: Any) -> Any:
            # What has no row for every slot (a constant, a bias) is the same in all of them.
            if slot is None or centre(value).ndim < 2 or centre(value).shape[-2] != self.slots * batch:
                return value
            rows = slice(slot * batch, (slot + 1) * batch)
            return value[..., rows, :] if isinstance(value, np.ndarray) else self.ops.rows(value, rows)

        adjoints: dict[Node[V], list[V]] = {}
        for node, adjoint in seeds:
            adjoints.setdefault(node, []).append(adjoint)
        for node in reversed(self.nodes):
            if not node.edges or node not in adjoints:
                continue
            adjoint = summed(adjoints.pop(node), self.ops)
            for source, pull in node.edges:
                if wanted(source):
                    adjoints.setdefault(source, []).append(pull(adjoint, take))
        return {name: adjoints.get(node, []) for name, node in self.leaves.items()}
