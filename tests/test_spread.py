"""The spread of rounding errors: wide enough for conforming kernels, and narrower than the rigorous bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.algebra import SIGMOID, TANH, Activation, Rounded
from conformance.case import Case, Shape
from conformance.cells.registry import cell_named
from conformance.compare import Observed, compare
from conformance.faults import catalogue
from conformance.judge import observed_of, planted
from conformance.rounding import DTYPES, FORMATS, Array, format_of
from conformance.signature import Signature, build
from conformance.spread import Scattered, Spread, spread

SHAPES = (
    Shape(batch=2, time=8, features=5, hidden=4),
    Shape(batch=1, time=128, features=4, hidden=8),
    Shape(batch=2, time=4, features=5, hidden=128),
)


class Kernel(Rounded, frozen=True):
    """Float32 arithmetic that accumulates in float32, forward or backward, and may fold the biases."""

    forward: bool = True
    folded: bool = True

    def dot(self, matrix: Array, vector: Array) -> Array:
        """Term by term."""
        terms = range(matrix.shape[1])
        total = np.zeros((vector.shape[0], matrix.shape[0]), dtype=np.float32)
        for term in terms if self.forward else reversed(terms):
            product = np.float32(vector[:, term, None]) * np.float32(matrix[None, :, term])
            total += product
        return total.astype(np.float64)

    def total(self, *terms: Array) -> Array:
        """The biases, which are second and fourth, first."""
        order: Sequence[Array] = (terms[1], terms[3], terms[0], terms[2]) if self.folded and len(terms) == 4 else terms
        return Rounded.total(self, *order)


def generic(cell: str, dtype: str, shape: Shape, scale: float, seed: int = 3) -> Case:
    """A case with generic numbers of one scale."""
    signature = Signature(shape=shape, batched=True, seed=seed, scale=scale, decimals=12, fills=())
    return build(signature, cell=cell, dtype=dtype, initial="given")


def worst(case: Case, observed: Observed) -> float:
    """The largest error in standard deviations."""
    deviations = spread(case, observed)
    parts = compare(case, observed).parts
    assert deviations.keys() == parts.keys()
    return max(float(np.max(part.residual / deviations[name])) for name, part in parts.items())


@pytest.mark.parametrize("scale", [1e-3, 0.8, 6.0, 20.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", ["gru", "gru_v1"])
def test_float32_kernels_stay_within_four_deviations(cell: str, shape: Shape, scale: float) -> None:
    """Whatever the order of summation, with biases folded or apart, long, wide, chaotic and saturating."""
    case = generic(cell, "float32", shape, scale)
    for forward, folded in ((True, False), (False, True)):
        run = cell_named(cell).run(case, ops=Kernel(FORMATS["float32"], forward=forward, folded=folded))
        assert worst(case, observed_of(run)) < 4.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounded_kernels_stay_within_four_deviations(dtype: str) -> None:
    """The same in every format, where storage rounds more than the accumulator does."""
    case = generic("gru", dtype, SHAPES[1], 0.8)
    run = cell_named("gru").run(case, ops=Rounded(format_of(dtype)))
    assert 0.01 < worst(case, observed_of(run)) < 4.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_six_deviations_are_not_far_from_the_bound(dtype: str) -> None:
    """The model is neither empty nor vast: the bound is between two and forty deviations in the middle."""
    case = generic("gru", dtype, SHAPES[0], 0.8)
    observed = observed_of(cell_named("gru").run(case, ops=Rounded(format_of(dtype))))
    ratio = np.median(compare(case, observed).parts["outputs"].bound / spread(case, observed)["outputs"])
    assert 2.0 < ratio < 40.0


def test_the_spread_of_a_fault_is_around_the_fault() -> None:
    """What follows a mutated equation lies within the spread of that hypothesis, and far outside the reference's."""
    case = generic("gru", "float32", SHAPES[0], 0.8)
    fault = catalogue("gru")["update_flip"]
    observed = planted(case, fault)
    deviations = spread(case, observed, fault)
    residuals = {name: part.residual for name, part in compare(case, observed, fault).parts.items()}
    assert max(float(np.max(residuals[name] / deviations[name])) for name in residuals) < 4.0
    assert worst(case, observed) > 1e3


def sampled(function: Activation, deviation: float, at: float) -> float:
    """The standard deviation of an activation of a normal argument."""
    drawn = np.random.default_rng(1).normal(at, deviation, 200_000)
    return float(np.std(function.function(drawn)))


@pytest.mark.parametrize("at", [-6.0, 0.0, 2.0])
@pytest.mark.parametrize("deviation", [1e-4, 0.1, 1.0])
@pytest.mark.parametrize("function", [SIGMOID, TANH], ids=lambda function: function.name)
def test_an_activation_carries_the_spread_of_its_argument(function: Activation, deviation: float, at: float) -> None:
    """At least what sampling gives, also where the activation bends over the spread."""
    argument = Scattered(np.array([[at]]), np.array([[deviation**2]]))
    carried = Spread(FORMATS["float64"]).apply(function, argument)
    assert np.sqrt(carried.variance[0, 0]) > 0.98 * sampled(function, deviation, at)


def test_the_variance_of_a_dot_product_is_that_of_its_rounding_errors() -> None:
    """Sums of a thousand random terms in float32: the model is above the measured mean square, and not ten times."""
    generator = np.random.default_rng(7)
    matrix = generator.standard_normal((200, 256)).astype(np.float32).astype(np.float64)
    vector = generator.standard_normal((50, 256)).astype(np.float32).astype(np.float64)
    computed = Kernel(FORMATS["float32"]).dot(matrix, vector)
    modelled = Spread(FORMATS["float32"]).dot(matrix, Scattered(vector, np.zeros_like(vector)))
    ratio = np.mean((computed - vector @ matrix.T) ** 2) / np.mean(modelled.variance)
    assert 0.1 < ratio < 1.0


def test_a_coarser_format_spreads_what_it_rounds() -> None:
    """Inputs of a case in float32 that is computed in bfloat16 are rounded; its own inputs are exact."""
    values = np.ones((1, 1))
    exact = Spread(FORMATS["float32"]).lift(values)
    rounded = Spread(FORMATS["bfloat16"], coarser=True).lift(values)
    assert exact.variance[0, 0] == 0.0
    assert rounded.variance[0, 0] == pytest.approx(2.0**-16 / 3.0)


def test_longer_sequences_are_not_wider() -> None:
    """Teacher forcing: the spread is that of one step, whatever came before."""
    short, long = (generic("gru", "float32", replace(SHAPES[0], time=time), 6.0) for time in (8, 64))
    medians = []
    for case in (short, long):
        observed = observed_of(cell_named("gru").run(case, ops=Rounded(FORMATS["float32"])))
        medians.append(float(np.median(spread(case, observed)["outputs"])))
    assert medians[1] < 3.0 * medians[0]
