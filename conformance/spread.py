"""The spread of rounding errors: a standard deviation beside the rigorous bound.

A running error bound adds the worst case of every rounding; real roundings have random signs, so that errors of
conforming implementations fill a few per cent of it. `Spread` follows the same equations with variances. It is a
model, not a proof: what it says is "this is unlikely", never "this is impossible", and nothing diverges by it.

Modelled: every rounding as an independent error, uniform in [-u|v|, u|v|], of variance u^2 v^2 / 3; dot products in any
order of summation; activation kernels within their ulps; storing what was accumulated in a wider format; operands
rounded beforehand; what is rounded once per run (a folded bias), counted at every element as if it were drawn anew; the
reference's own rounding.

Not modelled: that errors at different elements depend on each other. They do where the same numbers are computed
again (a constant input, a state at rest, a bias folded once per run, units with equal weights), where a state that was
not observed is carried along, and where one error enters many units through a matrix. Whoever averages over elements
has to allow for it: see `conformance.diagnosis.leanings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from conformance.algebra import Activation, Rows, alike
from conformance.case import Case
from conformance.cells.cell import CORRECT
from conformance.cells.fault import Fault
from conformance.cells.registry import cell_named
from conformance.compare import Observed, check_shapes, seen
from conformance.rounding import Array, Format

# Over this distance an activation may bend: its slope is then taken as that of a secant.
_STRAIGHT: Final = 0.05
_SIGMAS: Final = 6.0


class Scattered(Struct, frozen=True):
    """A float64 value and the variance of a conforming computed value around it."""

    value: Array
    variance: Array


class Spread(Struct, frozen=True):
    """Evaluation with the variance of rounding errors in one format.

    coarser: the format is not that of the case, whose inputs, parameters and observed states are rounded to it.
    """

    format: Format
    coarser: bool = False

    @property
    def reference_share(self) -> float:
        """The factor of the variance that accounts for the float64 reference, whose roundings are of the same kind."""
        return 1.0 + (2.0**-53 / self.format.accumulator) ** 2

    def _rounding(self, squares: Array) -> Array:
        """The variance of roundings to storage of values with this sum of squares."""
        result: Array = (self.format.storage**2 * squares + self.format.underflow**2) / 3.0
        return result

    def lift(self, values: Array) -> Scattered:
        """Exact, but for the rounding of a case's values to a coarser format."""
        unit = self.format.storage if self.coarser else 0.0
        return Scattered(values, (unit * values) ** 2 / 3.0)

    def dot(self, matrix: Array, vector: Scattered) -> Scattered:
        """N products t_i and n - 1 additions: u_a^2/3 [(1 + n/2) sum t_i^2 + (n/3) a^2].

        In a random order the partial sum of k terms has a mean square between (k/n) sum t_i^2 + (k/n)^2 a^2 and less;
        summed over k this is n/2 sum t_i^2 + n/3 a^2. Each operand rounded to u_m adds u_m^2/3 sum t_i^2.
        """
        fmt = self.format
        count = matrix.shape[-1]
        squares = (matrix**2).swapaxes(-1, -2)
        value = vector.value @ matrix.swapaxes(-1, -2)
        terms = vector.value**2 @ squares
        units = fmt.accumulator**2 * (1.0 + count / 2.0) + 2.0 * fmt.operands**2
        units += fmt.storage**2 if self.coarser else 0.0
        variance = (units * terms + fmt.accumulator**2 * (count / 3.0) * value**2) / 3.0
        variance += count * fmt.accumulator_underflow**2 / 3.0
        variance += vector.variance @ squares
        if fmt.storage > fmt.accumulator:
            variance += self._rounding(value**2)
        return Scattered(value, variance)

    def total(self, *terms: Scattered) -> Scattered:
        """N - 1 additions in a random order, as in `dot`; a bias folded beforehand is one of them."""
        value = terms[0].value
        variance = terms[0].variance
        squares = terms[0].value ** 2
        for term in terms[1:]:
            value = value + term.value
            variance = variance + term.variance
            squares = squares + term.value**2
        added = len(terms) - 1
        return Scattered(value, variance + self._rounding(added * (squares / 2.0 + value**2 / 3.0)))

    def times(self, left: Scattered, right: Scattered) -> Scattered:
        """The variance of a product of independent factors, and one rounding."""
        value = left.value * right.value
        carried = left.value**2 * right.variance + right.value**2 * left.variance + left.variance * right.variance
        return Scattered(value, carried + self._rounding(value**2))

    def apply(self, function: Activation, argument: Scattered) -> Scattered:
        """The slope times the argument's spread, or the steeper secant over six of it where that is far."""
        fmt = self.format
        a = argument.value
        value = function.function(a)
        slope = np.abs(function.slope(a, value))
        reach = _SIGMAS * np.sqrt(argument.variance)
        wide = (reach > _STRAIGHT) & np.isfinite(reach)
        if wide.any():
            aw, dw, vw = a[wide], reach[wide], value[wide]
            secant = np.maximum(np.abs(function.function(aw + dw) - vw), np.abs(vw - function.function(aw - dw))) / dw
            slope = slope.copy()
            slope[wide] = np.maximum(slope[wide], secant)
        if function.name == "sigmoid":
            ulps, floor = fmt.sigmoid_ulps + fmt.sigmoid_ulps_per_argument * np.abs(a), fmt.sigmoid_floor
        else:
            ulps, floor = np.full_like(a, fmt.tanh_ulps), fmt.underflow
        ulps = np.where(np.isinf(a), fmt.tanh_ulps, ulps)
        carried = np.where(np.isinf(a), 0.0, slope**2 * argument.variance)
        kernel = (max(fmt.storage, fmt.activation) * ulps * value) ** 2 + floor**2
        return Scattered(value, carried + kernel / 3.0)

    def mix(self, weight: Scattered, low: Scattered, high: Scattered) -> Scattered:
        """The update, multilinear in its arguments; of its three usual forms the one that rounds most."""
        w, a, b = weight.value, low.value, high.value
        value = (1.0 - w) * a + w * b
        carried = (b - a) ** 2 * weight.variance + ((1.0 - w) ** 2 + weight.variance) * low.variance
        carried = carried + (w**2 + weight.variance) * high.variance
        kept, added = ((1.0 - w) * a) ** 2, (w * b) ** 2
        apart = 2.0 * kept + added  # (1-w)*low + w*high
        across = 2.0 * (w * (b - a)) ** 2  # low + w*(high-low)
        spelled = (w * a) ** 2 + kept + added  # low - w*low + w*high
        return Scattered(value, carried + self._rounding(np.maximum(np.maximum(apart, across), spelled) + value**2))

    def quotient(self, numerator: Scattered, denominator: Scattered) -> Scattered:
        """First order in both spreads, and one rounding."""
        value = numerator.value / denominator.value
        carried = (numerator.variance + value**2 * denominator.variance) / denominator.value**2
        return Scattered(value, carried + self._rounding(value**2))

    def select(self, rows: Array, yes: Scattered, no: Scattered) -> Scattered:
        """As in the algebra; rounds nothing."""
        mask = rows[..., :, None] != 0
        return Scattered(np.where(mask, yes.value, no.value), np.where(mask, yes.variance, no.variance))

    def rows(self, value: Scattered, index: Rows) -> Scattered:
        """As in the algebra; rounds nothing."""
        return Scattered(value.value[..., index, :], value.variance[..., index, :])

    def stack(self, values: Sequence[Scattered]) -> Scattered:
        """As in the algebra; rounds nothing."""
        return Scattered(
            np.concatenate(alike([v.value for v in values]), axis=-2),
            np.concatenate(alike([v.variance for v in values]), axis=-2),
        )

    def beside(self, values: Sequence[Scattered]) -> Scattered:
        """As in the algebra; rounds nothing."""
        return Scattered(
            np.concatenate([v.value for v in values], axis=-1),
            np.concatenate([v.variance for v in values], axis=-1),
        )


def scatter(case: Case, observed: Observed, fault: Fault | None = None) -> dict[str, Scattered]:
    """The teacher-forced prediction of a hypothesis and its variance, by array, slot by slot (T or 1, B, units).

    Raises
    ------
    CaseError: shapes differ from the case's.
    """
    check_shapes(case, observed)
    declared = case.format
    fmt = declared if fault is None else fault.format(case)
    ops = Spread(fmt, coarser=fmt is not declared)
    understood = case if fault is None else fault.misread(case)
    variation = CORRECT if fault is None else fault.variation
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        trace = cell_named(case.cell).evaluate(understood, ops, variation=variation, seen=seen(case, observed))
    predicted = trace.arrays()
    found = {}
    for name, values in observed.arrays().items():
        rows = predicted[name]
        assert rows is not None
        variance = rows.variance.reshape(values.shape) * ops.reference_share
        found[name] = Scattered(rows.value.reshape(values.shape), variance)
    return found


def spread(case: Case, observed: Observed, fault: Fault | None = None) -> dict[str, Array]:
    """Standard deviations of a conforming implementation's error around the prediction, shaped like comparison parts.

    Raises
    ------
    CaseError: shapes differ from the case's.
    """
    return {name: np.sqrt(part.variance) for name, part in scatter(case, observed, fault).items()}
