"""The minimal long short-term memory, cells ``minlstm`` and ``minlstm_log``.

    f  = sigmoid(W_f x + b_f)
    i  = sigmoid(W_i x + b_i)
    f' = f / (f + i)
    i' = i / (f + i)
    n  = W_n x + b_n                  minlstm
    n  = g(W_n x + b_n)               minlstm_log
    h' = f' * h + i' * n

with g as in `conformance.cells.mingru`. There is one state; no gate sees it. The intermediates called f and i are the
normalised gates f' and i', which sum to one.

Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, section 3.2 and appendix B.
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
    **dict.fromkeys(("W_f", "W_i", "W_n"), ("H", "D")),
    **dict.fromkeys(("b_f", "b_i", "b_n"), ("H",)),
}

# (pre-activations of f and of i, their activation, algebra) -> the weights of the state and of the candidate.
Gates = Callable[[Any, Any, Activation, Any], tuple[Any, Any]]


def normalised(forget: V, accept: V, gate: Activation, ops: Algebra[V]) -> tuple[V, V]:
    """``f / (f + i), i / (f + i)``."""
    f, i = ops.apply(gate, forget), ops.apply(gate, accept)
    both = ops.total(f, i)
    return ops.quotient(f, both), ops.quotient(i, both)


class Equations(Struct, frozen=True, kw_only=True):
    """The parts of a minLSTM step that implementations get wrong; a fault replaces one of them.

    candidate: the activation of n; None for none.
    """

    gate: Activation = SIGMOID
    gates: Gates = field(default=normalised)
    candidate: Activation | None = None


def project(p: Parameters, x: V, h: V, start: Array, ops: Algebra[V], eq: Equations) -> dict[str, V]:
    """f', i' and n of one step on flattened rows x (N, D); they depend on nothing else."""
    forget = ops.total(ops.dot(p["W_f"], x), ops.lift(p["b_f"]))
    accept = ops.total(ops.dot(p["W_i"], x), ops.lift(p["b_i"]))
    f, i = eq.gates(forget, accept, eq.gate, ops)
    n = ops.total(ops.dot(p["W_n"], x), ops.lift(p["b_n"]))
    return {"f": f, "i": i, "n": n if eq.candidate is None else ops.apply(eq.candidate, n)}


def emit(
    p: Parameters, parts: Mapping[str, V], h: V, memory: tuple[V, V] | None, ops: Algebra[V], eq: Equations
) -> dict[str, V]:
    """f', i', n and the next state h, each (N, H)."""
    return {**parts, "h": ops.total(ops.times(parts["f"], h), ops.times(parts["i"], parts["n"]))}


MINLSTM: Final = Cell(
    name="minlstm",
    title="minLSTM",
    source="Feng et al. 2024, arXiv:2410.01201, section 3.2",
    parameters=PARAMETERS,
    intermediates=("f", "i", "n", "h"),
    equations=Equations(),
    project=project,
    emit=emit,
)

MINLSTM_LOG: Final = Cell(
    name="minlstm_log",
    title="minLSTM, the form for logarithms",
    source="Feng et al. 2024, arXiv:2410.01201, appendix B",
    parameters=PARAMETERS,
    intermediates=("f", "i", "n", "h"),
    equations=Equations(candidate=G),
    project=project,
    emit=emit,
    positive=True,
)
