"""Floating-point formats: unit roundoffs, underflow, and rounding float64 values into a format.

A case declares one format; its inputs are rounded to it before anything is compared, so that a candidate and
the float64 reference start from the same real numbers. Arrays keep a float64 (or float32) container that
holds the rounded values exactly: NumPy itself has no bfloat16.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from conformance.errors import CaseError

Array: TypeAlias = NDArray[np.float64]
DtypeName = Literal["float64", "float32", "float16", "bfloat16"]
DTYPES: Final[tuple[DtypeName, ...]] = get_args(DtypeName)


class Format(Struct, frozen=True, kw_only=True):
    """What one declared dtype promises about arithmetic (Higham, Accuracy and Stability, 2002, section 2.2).

    Attributes
    ----------
    storage: unit roundoff u of stored values (2**-p for p significant bits, round to nearest).
    accumulator: unit roundoff u_a inside a dot product; CPU fp16 and bf16 kernels accumulate in float32.
    underflow, accumulator_underflow: the largest absolute error of a result below the normal range: the
        smallest normal number where kernels may flush to zero; half the subnormal spacing in float16, whose
        subnormals no known kernel flushes.
    sigmoid_floor: sigmoid values that a kernel may lose: 1 / (1 + exp(-a)) is zero where exp(-a) overflows, which
        in float16 happens from a = -11.1 on, at a value of 1.53e-5 (twice that is allowed); elsewhere the lost
        values lie below the normal range.
    largest: the largest finite value.
    sigmoid_ulps, tanh_ulps: errors of released activation kernels, in units of u times the value; the
        sigmoid's grows by |a| because exp(-a) inherits the rounding of its argument.
    operands: unit roundoff u_m to which the operands of a product are rounded beforehand (TF32: 2**-11); 0 for none.
    activation: unit roundoff of activation kernels where it is larger than that of storage; 0 where it is not.
    """

    name: DtypeName
    storage: float
    accumulator: float
    underflow: float
    accumulator_underflow: float
    sigmoid_floor: float
    largest: float
    sigmoid_ulps: float
    sigmoid_ulps_per_argument: float
    tanh_ulps: float
    operands: float = 0.0
    activation: float = 0.0


FORMATS: Final[dict[DtypeName, Format]] = {
    "float64": Format(
        name="float64",
        storage=2.0**-53,
        accumulator=2.0**-53,
        underflow=2.0**-1022,
        accumulator_underflow=2.0**-1022,
        sigmoid_floor=2.0**-1022,
        largest=float(np.finfo(np.float64).max),
        sigmoid_ulps=4.0,
        sigmoid_ulps_per_argument=1.0,
        tanh_ulps=8.0,
    ),
    "float32": Format(
        name="float32",
        storage=2.0**-24,
        accumulator=2.0**-24,
        underflow=2.0**-126,
        accumulator_underflow=2.0**-126,
        sigmoid_floor=2.0**-126,
        largest=float(np.finfo(np.float32).max),
        sigmoid_ulps=4.0,
        sigmoid_ulps_per_argument=1.0,
        tanh_ulps=8.0,
    ),
    "float16": Format(
        name="float16",
        storage=2.0**-11,
        accumulator=2.0**-24,
        underflow=2.0**-25,
        accumulator_underflow=2.0**-126,
        sigmoid_floor=2.0**-15,
        largest=65504.0,
        sigmoid_ulps=2.5,
        sigmoid_ulps_per_argument=0.0,
        tanh_ulps=2.0,
    ),
    "bfloat16": Format(
        name="bfloat16",
        storage=2.0**-8,
        accumulator=2.0**-24,
        underflow=2.0**-126,
        accumulator_underflow=2.0**-126,
        sigmoid_floor=2.0**-126,
        largest=float.fromhex("0x1.fep127"),
        sigmoid_ulps=2.5,
        sigmoid_ulps_per_argument=0.0,
        tanh_ulps=2.0,
    ),
}


# What a candidate may declare to compute in, beside the declared dtype throughout.
Arithmetic = Literal["", "tf32-products", "bfloat16-products", "float32-activations", "float32-throughout"]


def arithmetic_of(dtype: str, declared: Arithmetic) -> Format:
    """The format of `dtype` in a declared arithmetic; CaseError when that does not belong to the dtype."""
    fmt = format_of(dtype)
    match declared:
        case "":
            return fmt
        case "tf32-products" if dtype == "float32":
            return replace(fmt, operands=2.0**-11)
        case "bfloat16-products" if dtype == "float32":
            return replace(fmt, operands=2.0**-8)
        case "float32-activations" if dtype == "float64":
            return replace(fmt, activation=FORMATS["float32"].storage)
        case "float32-throughout" if dtype == "float64":
            return FORMATS["float32"]
        case _:
            raise CaseError(
                "no such arithmetic", got=f"{declared!r} for {dtype}", wanted=" | ".join(get_args(Arithmetic))
            )


def format_of(dtype: str) -> Format:
    """The format named `dtype`; CaseError when there is none."""
    for name, fmt in FORMATS.items():
        if name == dtype:
            return fmt
    raise CaseError("unknown dtype", got=repr(dtype), wanted=" | ".join(DTYPES))


def round_to(dtype: str, values: Array) -> Array:
    """Round float64 `values` to the nearest value of `dtype`, ties to even, kept in a float64 array.

    Subnormals are kept (gradual underflow); magnitudes past the format's range become infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    match format_of(dtype).name:
        case "float64":
            return array.copy()
        case "float32":
            with np.errstate(over="ignore"):
                return array.astype(np.float32).astype(np.float64)
        case "float16":
            with np.errstate(over="ignore"):
                return array.astype(np.float16).astype(np.float64)
        case "bfloat16":
            return _round_to_bfloat16(array)


def _round_to_bfloat16(array: Array) -> Array:
    """Round straight from float64: going through float32 first would round twice.

    8 significant bits make the spacing 2**(e - 7) for a value in [2**e, 2**(e + 1)), but never finer than that of the
    smallest normal number: subnormals are evenly spaced. A number 1.5 * 2**52 times as large as the spacing has that
    spacing itself, as float64, so that adding it rounds, ties to even, and taking it away is exact.
    """
    largest = FORMATS["bfloat16"].largest
    usual = np.abs(array).max(initial=0.0) <= largest
    values = array if usual else np.where(np.abs(array) <= largest, array, 0.0)
    exponents = np.maximum(values.view(np.uint64) & _EXPONENT, _SMALLEST_NORMAL)
    shift = (exponents + _SHIFT).view(np.float64)
    rounded = np.asarray(np.copysign((values + shift) - shift, values))
    if usual:
        return rounded
    # NaN stays what it is. Half a spacing past the largest value is a tie with an odd one: it goes to infinity, too.
    beyond = np.abs(array) >= largest + 2.0 ** (127 - 8)
    past = np.where(beyond, np.copysign(np.inf, array), np.copysign(largest, array))
    return np.where(np.abs(array) <= largest, rounded, np.where(np.isnan(array), array, past))


# Of float64 as bits: the exponent; 2**-126, below which bfloat16 is evenly spaced; what makes 2**e 1.5 * 2**(e + 45).
_EXPONENT: Final = np.uint64(0x7FF << 52)
_SMALLEST_NORMAL: Final = np.uint64((1023 - 126) << 52)
_SHIFT: Final = np.uint64((45 << 52) | (1 << 51))


def round_to_unit(unit: float, values: Array) -> Array:
    """Round to floating-point numbers of unit roundoff `unit` = 2**-p without bounds on the exponent, ties to even."""
    fraction, exponent = np.frexp(values)
    with np.errstate(invalid="ignore"):
        rounded: Array = np.ldexp(np.rint(fraction / unit) * unit, exponent)
    return np.where(np.isfinite(values), rounded, values)
