"""The simple recurrent network: cells ``elman`` (tanh) and ``elman_relu``.

    h' = tanh(W_x x + b_x + W_h h + b_h)

``elman_relu`` has relu(a) = max(a, 0) in place of tanh.

Source: Elman 1990, Cognitive Science 14(2) (context units that hold the previous hidden state; there with the logistic
function). Activations and two biases as in cuDNN and ``torch.nn.RNN``; only b_x + b_h matters. With relu: Le, Jaitly &
Hinton 2015, arXiv:1504.00941.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct, field

from conformance.algebra import RELU, TANH, Activation, Algebra
from conformance.case import Parameters
from conformance.cells.cell import Cell
from conformance.rounding import Array

V = TypeVar("V")

PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "W_x": ("H", "D"),
    "W_h": ("H", "H"),
    "b_x": ("H",),
    "b_h": ("H",),
}

# The next state: (parameters, x, h, activation, algebra) -> h'.
# Typed loosely in the algebra's value: Python cannot say "for every V" in a field.
Update = Callable[[Parameters, Any, Any, Activation, Any], Any]


def activated_sum(p: Parameters, x: V, h: V, activation: Activation, ops: Algebra[V]) -> V:
    """``tanh(W_x x + b_x + W_h h + b_h)``."""
    return ops.apply(
        activation,
        ops.total(ops.dot(p["W_x"], x), ops.lift(p["b_x"]), ops.dot(p["W_h"], h), ops.lift(p["b_h"])),
    )


class Equations(Struct, frozen=True, kw_only=True):
    """The parts of a simple step that implementations get wrong; a fault replaces one of them."""

    activation: Activation = TANH
    update: Update = field(default=activated_sum)


def project(p: Parameters, x: V, h: V, start: Array, ops: Algebra[V], eq: Equations) -> dict[str, V]:
    """The next state h on flattened rows, (N, H); x: (N, D); h: (N, H)."""
    return {"h": eq.update(p, x, h, eq.activation, ops)}


def emit(
    p: Parameters, parts: Mapping[str, V], h: V, memory: tuple[V, V] | None, ops: Algebra[V], eq: Equations
) -> dict[str, V]:
    """The next state h, (N, H)."""
    return dict(parts)


ELMAN: Final = Cell(
    name="elman",
    title="simple recurrent network (Elman), tanh",
    source="Elman 1990, Cognitive Science 14(2); documented equations of torch.nn.RNN",
    parameters=PARAMETERS,
    intermediates=("h",),
    equations=Equations(),
    project=project,
    emit=emit,
)

ELMAN_RELU: Final = Cell(
    name="elman_relu",
    title="simple recurrent network (Elman), ReLU",
    source="documented equations of torch.nn.RNN with relu; Le, Jaitly & Hinton 2015, arXiv:1504.00941",
    parameters=PARAMETERS,
    intermediates=("h",),
    equations=Equations(activation=RELU),
    project=project,
    emit=emit,
)
