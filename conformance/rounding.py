"""Floating-point formats: unit roundoffs, underflow, and rounding float64 values into a format.

A case declares one format; its inputs are rounded to it before anything is compared, so that a candidate and
the float64 reference start from the same real numbers. Arrays keep a float64 (or float32) container that
holds the rounded values exactly: NumPy itself has no bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from conformance.errors import CaseError

Array: TypeAlias = NDArray[np.float64]
DtypeName = Literal["float64", "float32", "float16", "bfloat16"]
DTYPES: Final[tuple[DtypeName, ...]] = get_args(DtypeName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
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
    """Round straight from float64: going through float32 first would round twice."""
    fmt = FORMATS["bfloat16"]
    _, exponent = np.frexp(array)
    # frexp gives a mantissa in [0.5, 1): 8 significant bits make the spacing 2**(exponent - 8),
    # but never finer than that of the smallest normal (subnormals are evenly spaced).
    spacing = np.ldexp(1.0, np.maximum(exponent - 8, -126 - 7))
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.where(np.isfinite(array), np.rint(array / spacing) * spacing, array)
    return np.where(np.abs(rounded) > fmt.largest, np.copysign(np.inf, rounded), rounded)


def round_to_unit(unit: float, values: Array) -> Array:
    """Round to floating-point numbers of unit roundoff `unit` = 2**-p without bounds on the exponent, ties to even."""
    fraction, exponent = np.frexp(values)
    with np.errstate(invalid="ignore"):
        rounded: Array = np.ldexp(np.rint(fraction / unit) * unit, exponent)
    return np.where(np.isfinite(values), rounded, values)
