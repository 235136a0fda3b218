"""The minimal gated recurrent unit, cells ``mingru`` and ``mingru_log``.

    z  = sigmoid(W_z x + b_z)
    n  = W_n x + b_n                  mingru
    n  = g(W_n x + b_n)               mingru_log
    h' = (1 - z) * h + z * n

with ``g(a) = a + 0.5 for a >= 0, sigmoid(a) for a < 0``. No gate sees the state: h' is linear in h, and a sequence is a
prefix scan (see `conformance.cells.scan`). g keeps n positive, so that the scan can be done with logarithms; then the
initial state must not be negative.

Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, section 3.1 and, for g and the logarithmic
form, appendix B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct, field

from conformance.algebra import SIGMOID, Activation, Algebra, G
from conformance.case import Parameters
from conformance.cells.cell import Cell
from conformance.rounding import Array

V = TypeVar("V")

PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("W_z", "W_n"), ("H", "D")),
    **dict.fromkeys(("b_z", "b_n"), ("H",)),
}

# (z, n, h, algebra) -> the next state; linear in (n, h) together, which is what a scan relies on.
# Typed loosely in the algebra's value: Python cannot say "for every V" in a field.
Update = Callable[[Any, Any, Any, Any], Any]


def mix_in(z: V, n: V, h: V, ops: Algebra[V]) -> V:
    """``(1 - z) * h + z * n``."""
    return ops.mix(z, h, n)


class Equations(Struct, frozen=True, kw_only=True):
    """The parts of a minGRU step that implementations get wrong; a fault replaces one of them.

    candidate: the activation of n; None for none.
    """

    gate: Activation = SIGMOID
    candidate: Activation | None = None
    update: Update = field(default=mix_in)


def project(p: Parameters, x: V, h: V, start: Array, ops: Algebra[V], eq: Equations) -> dict[str, V]:
    """z, its pre-activation k, and n of one step on flattened rows x (N, D); they depend on nothing else."""
    k = ops.total(ops.dot(p["W_z"], x), ops.lift(p["b_z"]))
    n = ops.total(ops.dot(p["W_n"], x), ops.lift(p["b_n"]))
    return {
        "k": k,
        "z": ops.apply(eq.gate, k),
        "n": n if eq.candidate is None else ops.apply(eq.candidate, n),
    }


def emit(
    p: Parameters, parts: Mapping[str, V], h: V, memory: tuple[V, V] | None, ops: Algebra[V], eq: Equations
) -> dict[str, V]:
    """k, z, n and the next state h, each (N, H)."""
    return {**parts, "h": eq.update(parts["z"], parts["n"], h, ops)}


MINGRU: Final = Cell(
    name="mingru",
    title="minGRU",
    source="Feng et al. 2024, arXiv:2410.01201, section 3.1",
    parameters=PARAMETERS,
    intermediates=("z", "n", "h"),
    equations=Equations(),
    project=project,
    emit=emit,
)

MINGRU_LOG: Final = Cell(
    name="mingru_log",
    title="minGRU, the form for logarithms",
    source="Feng et al. 2024, arXiv:2410.01201, appendix B",
    parameters=PARAMETERS,
    intermediates=("z", "n", "h"),
    equations=Equations(candidate=G),
    project=project,
    emit=emit,
    positive=True,
)
