"""Rounding and running error: each bound covers what it claims, checked against exact and high-precision values."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.algebra import (
    HARD_SIGMOID,
    HARD_SIGMOID6,
    HARD_TANH,
    IDENTITY,
    RELU,
    SIGMOID,
    TANH,
    Activation,
    Bounded,
    Exact,
    Rounded,
    RunningError,
)
from conformance.rounding import DTYPES, FORMATS, DtypeName, round_to

ACTIVATIONS = (SIGMOID, TANH, IDENTITY, RELU, HARD_TANH, HARD_SIGMOID, HARD_SIGMOID6)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_bfloat16_rounds_to_the_nearest_even(value: float) -> None:
    """The rounded value is the nearest of its neighbours in exact arithmetic, ties to the even one."""
    rounded = float(round_to("bfloat16", np.array([value]))[0])
    if abs(value) > FORMATS["bfloat16"].largest:
        return  # overflow has its own test
    bits = int(np.array([rounded], dtype=np.float32).view(np.uint32)[0])
    assert bits & 0xFFFF == 0, "not a bfloat16 value"
    neighbours = [
        np.array([(bits + step) & 0xFFFFFFFF], dtype=np.uint32).view(np.float32)[0] for step in (-65536, 65536)
    ]
    distance = abs(Fraction(rounded) - Fraction(value))
    for other in neighbours:
        if np.isfinite(other):
            other_distance = abs(Fraction(float(other)) - Fraction(value))
            assert distance < other_distance or (distance == other_distance and bits >> 16 & 1 == 0) or other == rounded


@given(st.integers(-(2**10), 2**10), st.integers(-150, 130), st.sampled_from([0.0, 2.0**-40, -(2.0**-40)]))
def test_bfloat16_is_rounded_at_ties_in_subnormals_and_past_the_end(
    significand: int, exponent: int, off: float
) -> None:
    """As exact arithmetic rounds to a multiple of the spacing, among others that are not finite; signs are kept."""
    value = float(np.ldexp(significand + off * significand, exponent))
    bits = max(int(np.frexp(value)[1]) - 8, -133)
    wanted = float(np.ldexp(float(round(Fraction(value) / Fraction(2) ** bits)), bits))
    wanted = float(np.copysign(wanted if abs(wanted) <= FORMATS["bfloat16"].largest else np.inf, value))
    for others in ([], [np.nan, np.inf, -np.inf, -0.0, 0.0]):
        rounded = round_to("bfloat16", np.array([value, *others]))
        assert rounded.tobytes() == np.array([wanted, *others]).tobytes()


def test_bfloat16_is_not_rounded_twice() -> None:
    """A value just above a tie goes up, though rounding through float32 would make it a tie and go down."""
    value = 1.0 + 2.0**-8 + 2.0**-30
    through = np.float32(value)
    assert float(through) == 1.0 + 2.0**-8
    assert round_to("bfloat16", np.array([value]))[0] == 1.0 + 2.0**-7


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_becomes_infinite(dtype: DtypeName) -> None:
    """The largest value stays, and one past the rounding threshold is infinite."""
    largest = FORMATS[dtype].largest
    assert round_to(dtype, np.array([largest]))[0] == largest
    if dtype != "float64":
        assert np.isinf(round_to(dtype, np.array([largest * 1.01]))[0])


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda f: f.name)
@given(a=st.floats(-40, 40), d=st.floats(0, 8), s=st.floats(-1, 1))
def test_the_change_of_an_activation_is_bounded(function: Activation, a: float, d: float, s: float) -> None:
    """|f(a + s d) - f(a)| lies within the bound for |s| <= 1, in 50-digit arithmetic."""
    ops = RunningError(FORMATS["float64"])
    bounded = ops.apply(function, Bounded(np.array([a]), np.array([d])))
    moved = _exactly(function, mpmath.mpf(a) + mpmath.mpf(s) * mpmath.mpf(d))
    assert abs(moved - mpmath.mpf(float(bounded.value[0]))) <= mpmath.mpf(float(bounded.error[0]))


def _exactly(function: Activation, a: mpmath.mpf) -> mpmath.mpf:
    with mpmath.workdps(50):
        match function.name:
            case "sigmoid":
                return 1 / (1 + mpmath.exp(-a))
            case "tanh":
                return mpmath.tanh(a)
            case "identity":
                return a
            case "relu":
                return max(a, mpmath.mpf(0))
            case "hard_tanh":
                return max(min(a, mpmath.mpf(1)), mpmath.mpf(-1))
            case "hard_sigmoid":
                return max(min(a / 5 + mpmath.mpf(1) / 2, mpmath.mpf(1)), mpmath.mpf(0))
            case _:
                return max(min(a / 6 + mpmath.mpf(1) / 2, mpmath.mpf(1)), mpmath.mpf(0))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("length", [1, 7, 64, 1000])
def test_dot_products_in_any_order_lie_within_their_bound(dtype: DtypeName, length: int) -> None:
    """Forward, backward, pairwise and blocked summation in the accumulator's format, then stored."""
    generator = np.random.default_rng(length)
    matrix = round_to(dtype, generator.normal(size=(5, length)) * 10.0 ** generator.integers(-3, 3, size=(5, length)))
    vector = round_to(dtype, generator.normal(size=(9, length)))
    ops = RunningError(FORMATS[dtype])
    bounded = ops.dot(matrix, ops.lift(vector))
    products = (vector[:, None, :] * matrix[None]).astype(np.float32)  # exact for 16-bit inputs, rounded for float32
    for order in (products, products[..., ::-1], generator.permuted(products, axis=-1)):
        serial = np.zeros(order.shape[:-1], np.float32)
        for k in range(length):
            serial = serial + order[..., k]
        for result in (serial, order.sum(axis=-1)):
            stored = round_to(dtype, result.astype(np.float64))
            assert (np.abs(stored - bounded.value) <= bounded.error).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_three_forms_of_the_update_lie_within_one_bound(dtype: DtypeName) -> None:
    """(1-z) n + z h, n + z (h - n) and n - z n + z h, every operation rounded."""
    generator = np.random.default_rng(4)
    z, n, h = (round_to(dtype, generator.uniform(low, 1, size=(200, 5))) for low in (0, -1, -1))
    ops = RunningError(FORMATS[dtype])
    bounded = ops.mix(ops.lift(z), ops.lift(n), ops.lift(h))

    def r(values: np.ndarray) -> np.ndarray:
        return round_to(dtype, values)

    forms = (r(r(r(1 - z) * n) + r(z * h)), r(n + r(z * r(h - n))), r(r(n - r(z * n)) + r(z * h)))
    worst = max(float((np.abs(form - bounded.value) / bounded.error).max()) for form in forms)
    assert worst <= 1.0
    assert worst > 0.05 or dtype == "float64", "never used to a twentieth: too loose"


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_in_any_association_lie_within_their_bound(dtype: DtypeName) -> None:
    """Four terms, added in all the ways frameworks add a dot product and two biases."""
    generator = np.random.default_rng(5)
    terms = [round_to(dtype, generator.normal(size=(100, 4)) * 10.0 ** generator.integers(-2, 3)) for _ in range(4)]
    ops = RunningError(FORMATS[dtype])
    bounded = ops.total(*(ops.lift(term) for term in terms))
    a, b, c, d = terms

    def r(values: np.ndarray) -> np.ndarray:
        return round_to(dtype, values)

    for form in (r(r(r(a + b) + c) + d), r(r(a + b) + r(c + d)), r(a + r(b + r(c + d))), r(r(a + d) + r(b + c))):
        assert (np.abs(form - bounded.value) <= bounded.error).all()


def test_exact_and_rounded_agree_where_nothing_rounds() -> None:
    """On small integers both plain algebras give the same numbers."""
    left, right = np.arange(6.0).reshape(2, 3), np.ones((4, 3))
    exact, rounded = Exact(), Rounded(FORMATS["float16"])
    np.testing.assert_array_equal(exact.dot(right, left), rounded.dot(right, left))
    np.testing.assert_array_equal(exact.total(left, left, left), rounded.total(left, left, left))
    np.testing.assert_array_equal(exact.mix(left * 0, left, left), rounded.mix(left * 0, left, left))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sigmoid_whose_exponential_overflows_lies_within_its_bound(dtype: DtypeName) -> None:
    """1 / (1 + exp(-a)) with every operation rounded, far into the tail where exp(-a) is infinite."""
    a = round_to(dtype, np.linspace(-90.0, 40.0, 20001))
    with np.errstate(over="ignore"):
        computed = round_to(dtype, 1.0 / round_to(dtype, 1.0 + round_to(dtype, np.exp(-a))))
    ops = RunningError(FORMATS[dtype])
    bounded = ops.apply(SIGMOID, ops.lift(a))
    share = np.abs(computed - bounded.value) / bounded.error
    assert share.max() <= 1.0
    assert dtype != "float16" or (computed[a < -11.2] == 0).all(), "nothing overflows: the test shows nothing"


def test_what_is_no_number_is_never_exactly_known() -> None:
    """Of an infinity or NaN the error is NaN, which no comparison passes; of numbers it is zero."""
    ops = RunningError(FORMATS["float32"])
    assert not ops.lift(np.array([1.0, -2.0])).error.any()
    with np.errstate(invalid="ignore"):  # as `compare` evaluates
        error = ops.lift(np.array([1.0, np.inf, -np.inf, np.nan])).error
    assert np.array_equal(error, [0.0, np.nan, np.nan, np.nan], equal_nan=True)
