"""Three ways to evaluate one set of equations: exactly, with a running error bound, or rounded like a kernel.

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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import numpy as np

from conformance.rounding import Array, Format, round_to

V = TypeVar("V")


def gamma(count: int, unit: float) -> float:
    """Higham's gamma_n(u): the relative error bound of n successive roundings."""
    return count * unit / (1.0 - count * unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A monotone, Lipschitz activation function.

    slope: its derivative in terms of (argument, value).
    bend: a constant L with |f''| <= L |f'|, which makes ``slope * expm1(L d) / L`` a bound on the change of f
        over a distance d (Gronwall); None where f'' has no such constant (piecewise linear functions).
    """

    name: str
    function: Callable[[Array], Array]
    slope: Callable[[Array, Array], Array]
    bend: float | None


def _logistic(a: Array) -> Array:
    # 1/(1 + e^-|a|) never overflows; the other branch keeps full relative accuracy for a < 0.
    decay = np.exp(-np.abs(a))
    result: Array = np.where(a >= 0, 1.0, decay) / (1.0 + decay)
    return result


SIGMOID: Final = Activation(name="sigmoid", function=_logistic, slope=lambda a, f: f * (1.0 - f), bend=1.0)
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


class Algebra(Protocol[V]):
    """The operations a cell's step is written in; rows are flattened (N, ...) and matrices are (out, in)."""

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

    def select(self, rows: Array, yes: V, no: V) -> V:
        """`yes` in the rows (N,) that are non-zero, `no` in the others."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Plain float64 evaluation: the reference."""

    def lift(self, values: Array) -> Array:
        return values

    def dot(self, matrix: Array, vector: Array) -> Array:
        return vector @ matrix.T

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

    def select(self, rows: Array, yes: Array, no: Array) -> Array:
        return np.where(rows[:, None] != 0, yes, no)


@dataclass(frozen=True, slots=True)
class Rounded:
    """An emulated kernel: float64 operations, each result rounded to the format."""

    format: Format

    def _round(self, values: Array) -> Array:
        return round_to(self.format.name, values)

    def lift(self, values: Array) -> Array:
        return values

    def dot(self, matrix: Array, vector: Array) -> Array:
        return self._round(vector @ matrix.T)

    def total(self, *terms: Array) -> Array:
        result = terms[0]
        for term in terms[1:]:
            result = self._round(result + term)
        return result

    def times(self, left: Array, right: Array) -> Array:
        return self._round(left * right)

    def apply(self, function: Activation, argument: Array) -> Array:
        return self._round(function.function(argument))

    def mix(self, weight: Array, low: Array, high: Array) -> Array:
        kept = self._round(self._round(1.0 - weight) * low)
        return self._round(kept + self._round(weight * high))

    def select(self, rows: Array, yes: Array, no: Array) -> Array:
        return np.where(rows[:, None] != 0, yes, no)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A float64 value and a bound on the distance of any conforming computed value from it."""

    value: Array
    error: Array


@dataclass(frozen=True, slots=True)
class RunningError:
    """Evaluation with a running error bound for one format.

    The float64 reference is itself rounded; its own error is at most ``2**-53 / accumulator`` of the bound
    of the candidate (the same recursion with a smaller u), which `reference_share` adds: it doubles the bound
    of float64 candidates and vanishes elsewhere.
    """

    format: Format

    @property
    def reference_share(self) -> float:
        return 1.0 + 2.0**-53 / self.format.accumulator

    def lift(self, values: Array) -> Bounded:
        return Bounded(values, np.zeros_like(values))

    def dot(self, matrix: Array, vector: Bounded) -> Bounded:
        """Any order of summation, blocked or fused: |fl(Wv) - Wv| <= gamma_n(u_a) |W||v| (Higham 3.5).

        n products may each underflow; where the accumulator is wider than storage, storing rounds once more.
        """
        fmt = self.format
        count = matrix.shape[1]
        magnitude = np.abs(matrix).T
        value = vector.value @ matrix.T
        error = gamma(count, fmt.accumulator) * (np.abs(vector.value) @ magnitude)
        error += count * fmt.accumulator_underflow
        if vector.error.any():
            error += (1.0 + gamma(count, fmt.accumulator)) * (vector.error @ magnitude)
        if fmt.storage > fmt.accumulator:
            error += fmt.storage * (np.abs(value) + error) + fmt.underflow
        return Bounded(value, error)

    def total(self, *terms: Bounded) -> Bounded:
        """N terms in any association: each passes through at most n - 1 additions (Higham 4.2).

        This also covers a bias folded beforehand (one of the n - 1 additions, rounded to storage).
        """
        value = terms[0].value
        error = terms[0].error
        magnitude = np.abs(terms[0].value) + terms[0].error
        for term in terms[1:]:
            value = value + term.value
            error = error + term.error
            magnitude = magnitude + np.abs(term.value) + term.error
        return Bounded(value, error + gamma(len(terms) - 1, self.format.storage) * magnitude)

    def times(self, left: Bounded, right: Bounded) -> Bounded:
        """(l + dl)(r + dr)(1 + u) - l r."""
        value = left.value * right.value
        carried = np.abs(left.value) * right.error + np.abs(right.value) * left.error + left.error * right.error
        rounding = self.format.storage * (np.abs(value) + carried) + self.format.underflow
        return Bounded(value, carried + rounding)

    def apply(self, function: Activation, argument: Bounded) -> Bounded:
        """Change of f over the argument's error, plus the error of the kernel that computes f.

        With |f''| <= L|f'|, f'(a + s) <= f'(a) exp(L|s|), so |f(a + d) - f(a)| <= f'(a) (exp(L d) - 1)/L for
        all d: sharp, and free of the cancellation of f(a + d) - f(a) in float64. For a wide d the monotone
        range is sharper.
        """
        fmt = self.format
        a, d = argument.value, argument.error
        value = function.function(a)
        if function.bend is None:
            carried = function.slope(a, value) * d
        else:
            carried = function.slope(a, value) * np.expm1(function.bend * np.minimum(d, 1.0)) / function.bend
            wide = d > 0.25
            if wide.any():
                aw, dw, vw = a[wide], d[wide], value[wide]
                carried[wide] = np.maximum(function.function(aw + dw) - vw, vw - function.function(aw - dw))
        if function.name == "sigmoid":
            ulps, floor = fmt.sigmoid_ulps + fmt.sigmoid_ulps_per_argument * np.abs(a), fmt.sigmoid_floor
        else:
            ulps, floor = np.full_like(a, fmt.tanh_ulps), fmt.underflow
        kernel = fmt.storage * ulps * (np.abs(value) + carried) + floor
        return Bounded(value, carried + kernel)

    def mix(self, weight: Bounded, low: Bounded, high: Bounded) -> Bounded:
        """The update, multilinear in its arguments; 3 u (|low| + w|high|), w in [0, 1], covers the forms

        ``(1-w)*low + w*high``, ``low + w*(high-low)`` and ``low - w*low + w*high``. Each has at most two
        products, and each of these may underflow (a sum never does: it is exact there).
        """
        value = (1.0 - weight.value) * low.value + weight.value * high.value
        carried = (
            np.abs(high.value - low.value) * weight.error
            + (np.abs(1.0 - weight.value) + weight.error) * low.error
            + (np.abs(weight.value) + weight.error) * high.error
        )
        kept = np.maximum(np.abs(1.0 - weight.value), 1.0) + weight.error
        added = np.abs(weight.value) + weight.error
        magnitude = kept * (np.abs(low.value) + low.error) + added * (np.abs(high.value) + high.error)
        rounding = gamma(3, self.format.storage) * magnitude + 2.0 * self.format.underflow
        return Bounded(value, carried + rounding)

    def select(self, rows: Array, yes: Bounded, no: Bounded) -> Bounded:
        mask = rows[:, None] != 0
        return Bounded(np.where(mask, yes.value, no.value), np.where(mask, yes.error, no.error))
