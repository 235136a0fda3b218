"""The faults of the simple recurrent network, with tanh and with ReLU."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from conformance.algebra import RELU, TANH, Activation, Algebra
from conformance.case import Parameters
from conformance.cells.elman import Equations, activated_sum
from conformance.cells.fault import Fault
from conformance.cells.misreadings import activation_faults, bias_faults, factory, matrix_faults, no_bias
from conformance.cells.precision import precision_faults
from conformance.cells.sequencing import sequencing_faults


def _biases_outside(p: Parameters, x: Any, h: Any, activation: Activation, ops: Algebra[Any]) -> Any:
    inner = ops.apply(activation, ops.total(ops.dot(p["W_x"], x), ops.dot(p["W_h"], h)))
    return ops.total(inner, ops.lift(p["b_x"]), ops.lift(p["b_h"]))


def _state_outside(p: Parameters, x: Any, h: Any, activation: Activation, ops: Algebra[Any]) -> Any:
    inner = ops.apply(activation, ops.total(ops.dot(p["W_x"], x), ops.lift(p["b_x"])))
    return ops.total(inner, ops.dot(p["W_h"], h), ops.lift(p["b_h"]))


def _input_outside(p: Parameters, x: Any, h: Any, activation: Activation, ops: Algebra[Any]) -> Any:
    inner = ops.apply(activation, ops.total(ops.dot(p["W_h"], h), ops.lift(p["b_h"])))
    return ops.total(inner, ops.dot(p["W_x"], x), ops.lift(p["b_x"]))


def _residual(p: Parameters, x: Any, h: Any, activation: Activation, ops: Algebra[Any]) -> Any:
    return ops.total(h, activated_sum(p, x, h, activation, ops))


def _twice(p: Parameters, x: Any, h: Any, activation: Activation, ops: Algebra[Any]) -> Any:
    return ops.apply(activation, activated_sum(p, x, h, activation, ops))


def elman_faults(form: str) -> tuple[Fault, ...]:
    """The catalogue of one form; its equations differ from the correct ones in one place."""
    activation = TANH if form == "elman" else RELU
    right = Equations(activation=activation)
    f = activation.name
    h_line = f"h' = {f}(W_x x + b_x + W_h h + b_h)"
    fault = factory(right)

    def eq(**changes: Any) -> Equations:
        return replace(right, **changes)

    own: tuple[Fault, ...] = ()
    if activation is TANH:
        own = (
            fault(
                "tanh_twice",
                "tanh is applied twice",
                h_line,
                "h' = tanh(tanh(W_x x + b_x + W_h h + b_h))",
                equations=eq(update=_twice),
            ),
        )
    return (
        *bias_faults(fault, "", {}),
        no_bias(fault, ""),
        *matrix_faults(fault, ""),
        *activation_faults(
            fault,
            eq,
            h_line,
            part="activation",
            subject="the state",
            none="no_activation",
            suffix="state",
            right=activation,
        ),
        *own,
        fault(
            "biases_outside",
            "the biases are added after the activation",
            h_line,
            f"h' = {f}(W_x x + W_h h) + b_x + b_h",
            equations=eq(update=_biases_outside),
        ),
        fault(
            "state_outside",
            "the recurrent term is added after the activation",
            h_line,
            f"h' = {f}(W_x x + b_x) + W_h h + b_h",
            equations=eq(update=_state_outside),
        ),
        fault(
            "input_outside",
            "the input term is added after the activation",
            h_line,
            f"h' = {f}(W_h h + b_h) + W_x x + b_x",
            equations=eq(update=_input_outside),
        ),
        fault(
            "residual",
            "the state before the step is added to the one after it",
            h_line,
            f"h' = h + {f}(W_x x + b_x + W_h h + b_h)",
            equations=eq(update=_residual),
        ),
        *sequencing_faults(fault),
        *precision_faults(fault),
    )
