"""Faults of precision: the declared dtype is not the one really computed in.

Each is a coarser arithmetic for the same equations. An output inside the bound of the declared dtype is inside that of
every coarser one, so these hypotheses explain more than others; what they are for is to name the *smallest* arithmetic
that explains an output which the declared one does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from conformance.cells.fault import Fault
from conformance.rounding import FORMATS, DtypeName, Format

PRECISION: Final = ("float32_inside", "tf32_products", "bfloat16_products", "bfloat16_inside")
"""Their names, the finest arithmetic of a declared dtype first."""


def _inside(declared: str, name: DtypeName) -> Callable[[Format], Format | None]:
    return lambda fmt: FORMATS[name] if fmt.name == declared and fmt.activation < FORMATS[name].storage else None


def _operands(unit: float) -> Callable[[Format], Format | None]:
    return lambda fmt: replace(fmt, operands=unit) if fmt.name == "float32" and fmt.operands < unit else None


def precision_faults(fault: Callable[..., Fault]) -> tuple[Fault, ...]:
    """The faults of precision, made by a cell's own factory; each applies to one declared dtype."""
    right = "the declared dtype throughout"
    return (
        fault(
            "float32_inside",
            "float64 arrays, or their activations, are computed in float32",
            right,
            "sigmoid, tanh or everything in float32",
            arithmetic=_inside("float64", "float32"),
        ),
        fault(
            "tf32_products",
            "the operands of float32 products are rounded to TF32",
            right,
            "products of operands with 11 significant bits",
            arithmetic=_operands(2.0**-11),
        ),
        fault(
            "bfloat16_products",
            "the operands of float32 products are rounded to bfloat16",
            right,
            "products of operands with 8 significant bits",
            arithmetic=_operands(2.0**-8),
        ),
        fault(
            "bfloat16_inside",
            "float16 arrays are computed in bfloat16",
            right,
            "bfloat16 throughout",
            arithmetic=_inside("float16", "bfloat16"),
        ),
    )
