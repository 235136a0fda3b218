"""Ways to evaluate one set of equations: exactly, with a running error bound, or rounded like a kernel.

A cell writes its step once, in terms of the operations of `Algebra`; a fault mutates those equations once.
Evaluated with

* `Exact`: the float64 reference;
* `RunningError`: the reference together with a bound on the rounding error of *any* implementation that
  evaluates the same equations in a declared format: whatever the order of summation, with or without fused
  multiply-add, with biases folded or apart (running error analysis: Wilkinson 1963; Higham, Accuracy and
  Stability of Numerical Algorithms, 2002, sections 3.1 and 3.3);
* `Rounded`: an emulated kernel of that format, which rounds after every operation; it plants faults in
  float32, float16 and bfloat16.

Derivation of each bound is given at its operation. Write gamma_n(u) = n u / (1 - n u).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from conformance.rounding import Array, Format, round_to, round_to_unit

V = TypeVar("V")


def gamma(count: int, unit: float) -> float:
    """Higham's gamma_n(u): the relative error bound of n successive roundings."""
    return count * unit / (1.0 - count * unit)


class Activation(Struct, frozen=True, kw_only=True):
    """A monotone, Lipschitz activation function.

    slope: its derivative in terms of (argument, value).
    bend: a constant L with |f''| <= L |f'|, which makes ``slope * expm1(L d) / L`` a bound on the change of f
        over a distance d (Gronwall); None where f'' has no such constant (piecewise linear functions).
    kink: the one point where `bend` does not hold, because the derivative jumps there; it is at most 1 on both sides.
    jump: by how much f itself jumps there (a faulty one may); then it is monotone on either side only.
    logistic: whether a kernel of it computes a sigmoid.
    """

    name: str
    function: Callable[[Array], Array]
    slope: Callable[[Array, Array], Array]
    bend: float | None
    kink: float | None = None
    jump: float = 0.0
    logistic: bool = False


def _logistic(a: Array) -> Array:
    # Accurate everywhere, relatively for a < 0, too; held below the argument at which exp overflows, where the result
    # is below every normal number.
    result: Array = 1.0 / (1.0 + np.exp(np.minimum(-a, 709.0)))
    return result


SIGMOID: Final = Activation(
    name="sigmoid", function=_logistic, slope=lambda a, f: f * (1.0 - f), bend=1.0, logistic=True
)
TANH: Final = Activation(name="tanh", function=np.tanh, slope=lambda a, f: 1.0 - f * f, bend=2.0)
IDENTITY: Final = Activation(name="identity", function=lambda a: a, slope=lambda a, f: np.ones_like(a), bend=None)
RELU: Final = Activation(
    name="relu", function=lambda a: np.maximum(a, 0.0), slope=lambda a, f: np.ones_like(a), bend=None
)
HARD_TANH: Final = Activation(
    name="hard_tanh", function=lambda a: np.clip(a, -1.0, 1.0), slope=lambda a, f: np.ones_like(a), bend=None
)
HARD_SIGMOID: Final = Activation(
    name="hard_sigmoid",
    function=lambda a: np.clip(0.2 * a + 0.5, 0.0, 1.0),
    slope=lambda a, f: np.full_like(a, 0.2),
    bend=None,
)
HARD_SIGMOID6: Final = Activation(
    name="hard_sigmoid6",
    function=lambda a: np.clip(a / 6.0 + 0.5, 0.0, 1.0),
    slope=lambda a, f: np.full_like(a, 1.0 / 6.0),
    bend=None,
)
# Feng et al. 2024, appendix B: continuous, positive, and linear for a >= 0, where its derivative jumps from 1/4 to 1.
G: Final = Activation(
    name="g",
    function=lambda a: np.where(a >= 0, a + 0.5, _logistic(a)),
    slope=lambda a, f: np.where(a >= 0, 1.0, f * (1.0 - f)),
    bend=1.0,
    kink=0.0,
    logistic=True,
)


Rows: TypeAlias = NDArray[np.intp] | slice


def alike(values: Sequence[Array]) -> Sequence[Array]:
    """The values with equal leading axes."""
    lead = np.broadcast_shapes(*(value.shape[:-2] for value in values))
    return [np.broadcast_to(value, lead + value.shape[-2:]) for value in values] if lead else values


class Algebra(Protocol[V]):
    """The operations a cell's step is written in; rows are flattened (N, ...) and matrices are (out, in).

    Every operation works on the last two axes: cases of one shape may be stacked along axes before these.
    """

    def lift(self, values: Array) -> V:
        """An exactly known array."""

    def dot(self, matrix: Array, vector: V) -> V:
        """Rows of `vector` (N, in) times the transpose of `matrix` (out, in): (N, out)."""

    def total(self, *terms: V) -> V:
        """The sum of the terms, in any order and association."""

    def times(self, left: V, right: V) -> V:
        """The elementwise product."""

    def apply(self, function: Activation, argument: V) -> V:
        """The activation of `argument`."""

    def mix(self, weight: V, low: V, high: V) -> V:
        """``(1 - weight) * low + weight * high``, for a weight in [0, 1]."""

    def quotient(self, numerator: V, denominator: V) -> V:
        """The elementwise quotient, for a denominator other than zero."""

    def select(self, rows: Array, yes: V, no: V) -> V:
        """`yes` in the rows (N,) that are non-zero, `no` in the others."""

    def rows(self, value: V, index: Rows) -> V:
        """Some rows of `value`."""

    def stack(self, values: Sequence[V]) -> V:
        """The rows of all values, one after another."""

    def beside(self, values: Sequence[V]) -> V:
        """The columns of all values, side by side."""


class Exact(Struct, frozen=True):
    """Plain float64 evaluation: the reference."""

    def lift(self, values: Array) -> Array:
        return values

    def dot(self, matrix: Array, vector: Array) -> Array:
        return vector @ matrix.swapaxes(-1, -2)

    def total(self, *terms: Array) -> Array:
        result = terms[0]
        for term in terms[1:]:
            result = result + term
        return result

    def times(self, left: Array, right: Array) -> Array:
        return left * right

    def apply(self, function: Activation, argument: Array) -> Array:
        return function.function(argument)

    def mix(self, weight: Array, low: Array, high: Array) -> Array:
        return (1.0 - weight) * low + weight * high

    def quotient(self, numerator: Array, denominator: Array) -> Array:
        # 0/0 is NaN where both gates of a minLSTM vanish, and a value like any other.
        with np.errstate(divide="ignore", invalid="ignore"):
            return numerator / denominator

    def select(self, rows: Array, yes: Array, no: Array) -> Array:
        return np.where(rows[..., :, None] != 0, yes, no)

    def rows(self, value: Array, index: Rows) -> Array:
        return value[..., index, :]

    def stack(self, values: Sequence[Array]) -> Array:
        return np.concatenate(alike(values), axis=-2)

    def beside(self, values: Sequence[Array]) -> Array:
        return np.concatenate(values, axis=-1)


class Rounded(Struct, frozen=True):
    """An emulated kernel: float64 operations, each result rounded to the format."""

    format: Format

    def _round(self, values: Array) -> Array:
        return round_to(self.format.name, values)

    def lift(self, values: Array) -> Array:
        # A coarser arithmetic than that of the case rounds its inputs, too.
        return self._round(values)

    def dot(self, matrix: Array, vector: Array) -> Array:
        if self.format.operands:
            matrix, vector = (round_to_unit(self.format.operands, a) for a in (matrix, vector))
        return self._round(vector @ self._round(matrix).swapaxes(-1, -2))

    def total(self, *terms: Array) -> Array:
        result = terms[0]
        for term in terms[1:]:
            result = self._round(result + term)
        return result

    def times(self, left: Array, right: Array) -> Array:
        return self._round(left * right)

    def apply(self, function: Activation, argument: Array) -> Array:
        value = function.function(argument)
        return self._round(round_to_unit(self.format.activation, value) if self.format.activation else value)

    def mix(self, weight: Array, low: Array, high: Array) -> Array:
        kept = self._round(self._round(1.0 - weight) * low)
        return self._round(kept + self._round(weight * high))

    def quotient(self, numerator: Array, denominator: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._round(numerator / denominator)

    def select(self, rows: Array, yes: Array, no: Array) -> Array:
        return np.where(rows[..., :, None] != 0, yes, no)

    def rows(self, value: Array, index: Rows) -> Array:
        return value[..., index, :]

    def stack(self, values: Sequence[Array]) -> Array:
        return np.concatenate(alike(values), axis=-2)

    def beside(self, values: Sequence[Array]) -> Array:
        return np.concatenate(values, axis=-1)


_ZERO: Final = np.zeros(())


class Bounded(Struct, frozen=True):
    """A float64 value and a bound on the distance of any conforming computed value from it.

    products, count: for the result of a matrix product, the sum of the products' magnitudes and their number: a kernel
    may add other terms between them.
    """

    value: Array
    error: Array
    products: Array | None = None
    count: int = 0


class RunningError(Struct, frozen=True):
    """Evaluation with a running error bound for one format.

    The float64 reference is itself rounded; its own error is at most ``2**-53 / accumulator`` of the bound
    of the candidate (the same recursion with a smaller u), which `reference_share` adds: it doubles the bound
    of float64 candidates and vanishes elsewhere.

    coarser: the format is not that of the case, whose inputs, parameters and observed states are rounded to it.
    """

    format: Format
    coarser: bool = False

    @property
    def reference_share(self) -> float:
        return 1.0 + 2.0**-53 / self.format.accumulator

    @property
    def input_unit(self) -> float:
        """The rounding of inputs and states to a format coarser than that of the case; 0 for the case's own."""
        return self.format.storage if self.coarser else 0.0

    def lift(self, values: Array) -> Bounded:
        # A view of one zero, but not for infinities and NaN: their error is no number, so nothing passes for bounded.
        if self.input_unit == 0.0 and np.isfinite(values).all():
            return Bounded(values, np.broadcast_to(_ZERO, values.shape))
        return Bounded(values, self.input_unit * np.abs(values))

    def dot(self, matrix: Array, vector: Bounded) -> Bounded:
        """Any order of summation, blocked or fused: |fl(Wv) - Wv| <= gamma_n(u_a) |W||v| (Higham 3.5).

        n products may each underflow; where the accumulator is wider than storage, storing rounds once more. Operands
        rounded to u_m beforehand (TF32) change each product by at most 2 u_m + u_m^2.
        """
        fmt = self.format
        count = matrix.shape[-1]
        magnitude = np.abs(matrix).swapaxes(-1, -2)
        value = vector.value @ matrix.swapaxes(-1, -2)
        unit = gamma(count, fmt.accumulator) + 2.0 * fmt.operands + fmt.operands**2
        unit += self.input_unit
        products = np.abs(vector.value) @ magnitude
        error = unit * products
        # A kernel may flush a product, or an operand (a state, an input) below the normal range before it.
        error += fmt.accumulator_underflow * (count + np.ones((1, count)) @ magnitude)
        if vector.error.any():
            error += (1.0 + unit) * (vector.error @ magnitude)
        if fmt.storage > fmt.accumulator:
            error += fmt.storage * (np.abs(value) + error) + fmt.underflow
        return Bounded(value, error, products, count)

    def total(self, *terms: Bounded) -> Bounded:
        """N terms in any association: each passes through at most n - 1 additions (Higham 4.2).

        This also covers a bias folded beforehand (one of the n - 1 additions, rounded to storage). A kernel may also
        start its accumulator at a bias, or run over [x; h] at once: then all products and terms are summed in one any
        order, and each passes through all of these additions, at the accumulator's unit. `dot` has counted its own.
        """
        unit, stored = self.format.accumulator, self.format.storage
        count = len(terms) - 1
        additions = sum(term.count for term in terms) + count
        narrow = additions == count or stored > unit
        value = error = np.zeros(())
        # Small arrays (biases, exactly known) first: sums of large ones are what costs.
        for term in sorted(terms, key=lambda term: term.value.size):
            if additions > count:
                summed = np.abs(term.value) + term.error if term.products is None else term.products
                own = summed * (gamma(additions, unit) - gamma(term.count, unit))
                own += term.error
            else:
                own = term.error
            if narrow:
                own = own + gamma(count, stored) * (np.abs(term.value) + term.error)
            value, error = value + term.value, error + own
        return Bounded(value, error)

    def times(self, left: Bounded, right: Bounded) -> Bounded:
        """(l + dl)(r + dr)(1 + u) - l r."""
        value = left.value * right.value
        of_left, of_right = np.abs(left.value), np.abs(right.value)
        carried = of_left * right.error + of_right * left.error + left.error * right.error
        rounding = self.format.storage * (np.abs(value) + carried)
        rounding += self.format.underflow * (1.0 + of_left + of_right)
        return Bounded(value, carried + rounding)

    def apply(self, function: Activation, argument: Bounded) -> Bounded:
        """Change of f over the argument's error, plus the error of the kernel that computes f.

        With |f''| <= L|f'|, f'(a + s) <= f'(a) exp(L|s|), so |f(a + d) - f(a)| <= f'(a) (exp(L d) - 1)/L for
        all d, which for L d <= 1 is at most f'(a) d (1 + L d): sharp, and free of the cancellation of f(a + d) - f(a)
        in float64. For a wide d the monotone range is sharper. Across a kink the derivative is at most 1, whatever it
        is at a.
        """
        fmt = self.format
        a, d = argument.value, argument.error
        value = function.function(a)
        if function.bend is None:
            # Where f is constant over the whole interval nothing is carried.
            flat = (function.function(a - d) == function.function(a + d)) & (d > 2.0**-50 * np.abs(a))
            carried = np.where(flat, 0.0, function.slope(a, value) * d)
        else:
            carried = function.bend * d
            carried += 1.0
            carried *= d
            carried *= function.slope(a, value)
            wide = d > 0.25
            if function.kink is not None:
                across = np.abs(a - function.kink) <= d
                carried = np.where(across, d + function.jump, carried)
                wide &= ~across
            if wide.any():
                aw, dw, vw = a[wide], d[wide], value[wide]
                carried[wide] = np.maximum(function.function(aw + dw) - vw, vw - function.function(aw - dw))
        ulps: Array | float
        if function.logistic:
            ulps, floor = fmt.sigmoid_ulps, fmt.sigmoid_floor
            if fmt.sigmoid_ulps_per_argument:
                ulps = np.abs(a) * fmt.sigmoid_ulps_per_argument + ulps
            if function.kink is not None:
                # Above it, out of reach of the error, one addition.
                ulps = np.where(a - d > function.kink, 1.0, ulps)
        else:
            ulps, floor = fmt.tanh_ulps, fmt.underflow
        infinite = np.isinf(a)
        if infinite.any():
            # There f has its limit, whatever the error of a finite argument might have done.
            carried = np.where(infinite, 0.0, carried)
            ulps = np.where(infinite, fmt.tanh_ulps, ulps)
        kernel = np.abs(value)
        kernel += carried
        kernel *= max(fmt.storage, fmt.activation) * ulps
        kernel += floor
        kernel += carried
        return Bounded(value, kernel)

    def mix(self, weight: Bounded, low: Bounded, high: Bounded) -> Bounded:
        """The update, multilinear in its arguments; 3 u (|low| + w|high|), w in [0, 1], covers the forms

        ``(1-w)*low + w*high``, ``low + w*(high-low)`` and ``low - w*low + w*high``. Each has at most two
        products, and each of these may underflow (a sum never does: it is exact there).
        """
        rest = 1.0 - weight.value
        value = rest * low.value + weight.value * high.value
        added = np.abs(weight.value) + weight.error
        carried = np.abs(high.value - low.value) * weight.error + (np.abs(rest) + weight.error) * low.error
        carried += added * high.error
        kept = np.maximum(np.abs(rest), 1.0) + weight.error
        magnitude = kept * (np.abs(low.value) + low.error) + added * (np.abs(high.value) + high.error)
        rounding = gamma(3, self.format.storage) * magnitude + 4.0 * self.format.underflow
        return Bounded(value, carried + rounding)

    def quotient(self, numerator: Bounded, denominator: Bounded) -> Bounded:
        """(n + dn)/(d + dd) - n/d = (dn - q dd)/(d + dd), for a denominator that keeps its sign within its error.

        A share, the quotient of one of several non-negative terms by their sum, lies in [0, 1]. Where the denominator
        may be lost altogether, 0/0 is as conforming as anything: no bound.
        """
        value = numerator.value / denominator.value
        least = np.abs(denominator.value) - denominator.error
        carried = (numerator.error + np.abs(value) * denominator.error) / np.where(least > 0, least, np.nan)
        share = (numerator.value >= 0) & (numerator.value <= denominator.value)
        carried = np.where(share, np.minimum(carried, 1.0), carried)
        carried = np.where(least > 0, carried, np.inf)
        return Bounded(value, carried + self.format.storage * (np.abs(value) + carried) + self.format.underflow)

    def select(self, rows: Array, yes: Bounded, no: Bounded) -> Bounded:
        mask = rows[..., :, None] != 0
        return Bounded(np.where(mask, yes.value, no.value), np.where(mask, yes.error, no.error))

    def rows(self, value: Bounded, index: Rows) -> Bounded:
        return Bounded(value.value[..., index, :], value.error[..., index, :])

    def stack(self, values: Sequence[Bounded]) -> Bounded:
        return Bounded(
            np.concatenate(alike([v.value for v in values]), axis=-2),
            np.concatenate(alike([v.error for v in values]), axis=-2),
        )

    def beside(self, values: Sequence[Bounded]) -> Bounded:
        return Bounded(
            np.concatenate([v.value for v in values], axis=-1), np.concatenate([v.error for v in values], axis=-1)
        )
