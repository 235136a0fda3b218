"""Faults of gradients: implementations whose forward pass is right and whose backward pass is not.

A gradient fault is data, as a forward fault is: it says where the backward pass departs from the mechanical derivative
of the cell's step (`conformance.gradient`). So it serves twice: planted, it must be caught; as a hypothesis, with its
own bound, it names what an observed gradient follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Literal

import numpy as np
from msgspec import Struct, field
from msgspec.structs import astuple

from conformance.algebra import SIGMOID, TANH, Activation
from conformance.case import Case
from conformance.cells.cell import Cell
from conformance.cells.registry import cell_named
from conformance.rounding import Array

Cotangents = Mapping[str, Array]
Slope = Literal["value", "one_minus_squared_argument"]
"""A wrong derivative of an activation f(a): f itself, or 1 - a^2."""

GATES: Final = {"r": "reset", "z": "update", "i": "input", "f": "forget", "o": "output"}


class GradientFault(Struct, frozen=True, kw_only=True):
    """One named defect of a backward pass.

    statement, equation, right: as of a forward fault.
    cotangents: what the implementation takes the cotangents to be.
    cut: the states, of ``h`` and ``c``, through which no gradient passes from a step to the one before it.
    stopped: input matrices; nothing passes back through the activation whose argument holds a product with one.
    slopes: wrong derivatives, by the name of the activation.
    operand_after: gradients of matrices that multiply h_{t-1} are taken with h_t.
    other_layout: the gradient of x is taken with input matrices in the other layout.
    counted: which (slot, row) pairs enter the sum of a bias gradient, as ones in (T, B): (name, T, B) -> mask.
    scale: a factor on every gradient: (case, name) -> factor.
    mirrored: the gradient of x is returned from its end.
    """

    name: str
    statement: str
    equation: str
    right: str
    cotangents: Callable[[Cotangents], Cotangents] | None = None
    cut: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()
    slopes: Mapping[str, Slope] = field(default_factory=dict)
    operand_after: bool = False
    other_layout: bool = False
    counted: Callable[[str, int, int], Array] | None = None
    scale: Callable[[Case, str], float] | None = None
    mirrored: bool = False


def gradient_catalogue(cell: str) -> dict[str, GradientFault]:
    """The gradient faults that a cell can have, by name."""
    return _catalogue(cell)


@cache
def _catalogue(name: str) -> dict[str, GradientFault]:
    cell = cell_named(name)
    found = (*_of_time(cell), *_of_gates(cell), *_of_activations(cell), *_of_parameters(cell), *_of_everything())
    return {fault.name: fault for fault in found}


def _final_state_ignored(given: Cotangents) -> Cotangents:
    return {**given, "final_state": np.zeros_like(given["final_state"])} if "final_state" in given else given


def _last_output_only(given: Cotangents) -> Cotangents:
    if "outputs" not in given:
        return given
    last = np.zeros_like(given["outputs"])
    last[:, -1:] = given["outputs"][:, -1:]
    return {**given, "outputs": last}


def _without(name: str) -> Callable[[Case, str], float]:
    return lambda case, gradient: 0.0 if gradient == name else 1.0


def _mean_over_rows(case: Case, gradient: str) -> float:
    return 1.0 if gradient in ("x", "h0", "c0") else 1.0 / case.shape.batch


def _doubled(case: Case, gradient: str) -> float:
    return 2.0


def _first_row(name: str, time: int, batch: int) -> Array:
    mask = np.zeros((time, batch))
    mask[:, :1] = 1.0
    return mask


def _last_step(name: str, time: int, batch: int) -> Array:
    mask = np.zeros((time, batch))
    mask[-1:] = 1.0
    return mask


def _b_hn_after_first(name: str, time: int, batch: int) -> Array:
    mask = np.ones((time, batch))
    if name == "b_hn":
        mask[:1] = 0.0
    return mask


def _of_time(cell: Cell[Any]) -> tuple[GradientFault, ...]:
    """Faults in how gradients pass from step to step."""
    through_time = "dh_{t-1} = G_{t-1} + (dh_t / dh_{t-1})^T dh_t"
    found = [
        GradientFault(
            name="state_detached",
            statement="no gradient passes through the state from a step to the one before it (truncated to one step)",
            right=through_time,
            equation="dh_{t-1} = G_{t-1}",
            cut=frozenset({"h"}),
        ),
        GradientFault(
            name="h0_gradient_zero",
            statement="the initial state gets no gradient",
            right="dh0 = (dh_0 / dh0)^T dh_0",
            equation="dh0 = 0",
            scale=_without("h0"),
        ),
        GradientFault(
            name="final_state_gradient_ignored",
            statement="the gradient with respect to the final state is ignored",
            right="dh_{T-1} = G_{T-1} + G_final",
            equation="dh_{T-1} = G_{T-1}",
            cotangents=_final_state_ignored,
        ),
        GradientFault(
            name="only_last_step",
            statement="the gradients with respect to all outputs but the last are ignored",
            right=through_time,
            equation="dh_{t-1} = (dh_t / dh_{t-1})^T dh_t for t < T",
            cotangents=_last_output_only,
        ),
    ]
    if cell.carry is not None:
        found += [
            GradientFault(
                name="cell_state_detached",
                statement="no gradient passes through the memory c from a step to the one before it",
                right="dc_{t-1} = f * dc_t + ...",
                equation="dc_{t-1} = 0",
                cut=frozenset({"c"}),
            ),
            GradientFault(
                name="c0_gradient_zero",
                statement="the initial memory gets no gradient",
                right="dc0 = f_0 * dc_0 + ...",
                equation="dc0 = 0",
                scale=_without("c0"),
            ),
            GradientFault(
                name="final_cell_gradient_ignored",
                statement="the gradient with respect to the final memory is ignored",
                right="dc_{T-1} = G_final_cell + ...",
                equation="dc_{T-1} = 0 + ...",
                cotangents=lambda given: {name: value for name, value in given.items() if name != "final_cell"},
            ),
        ]
    return tuple(found)


def _input_matrix(cell: Cell[Any], gate: str) -> str | None:
    return next((name for name in (f"W_x{gate}", f"W_{gate}") if name in cell.parameters), None)


def _of_gates(cell: Cell[Any]) -> tuple[GradientFault, ...]:
    """No gradient through one gate."""
    return tuple(
        GradientFault(
            name=f"{title}_gate_gradient_missing",
            statement=f"no gradient passes through the {title} gate {gate}",
            right=f"da_{gate} = {gate} (1 - {gate}) d{gate}",
            equation=f"da_{gate} = 0",
            stopped=frozenset({matrix}),
        )
        for gate, title in GATES.items()
        if (matrix := _input_matrix(cell, gate)) is not None
    )


def _of_activations(cell: Cell[Any]) -> tuple[GradientFault, ...]:
    """Wrong derivatives, where the cell uses the activation."""
    values = astuple(cell.equations)
    used = {value.name for value in values if isinstance(value, Activation)}
    found = []
    if TANH.name in used:
        found.append(
            GradientFault(
                name="tanh_slope_of_argument",
                statement="the derivative of tanh is taken as 1 - a^2 with the argument a in place of tanh(a)",
                right="f = tanh(a), df/da = 1 - f^2",
                equation="df/da = 1 - a^2",
                slopes={TANH.name: "one_minus_squared_argument"},
            )
        )
    if SIGMOID.name in used:
        found.append(
            GradientFault(
                name="sigmoid_slope_is_value",
                statement="the derivative of the sigmoid is taken to be its value",
                right="f = sigmoid(a), df/da = f (1 - f)",
                equation="df/da = f",
                slopes={SIGMOID.name: "value"},
            )
        )
    return tuple(found)


def _of_parameters(cell: Cell[Any]) -> tuple[GradientFault, ...]:
    """Faults in the sums over rows and steps."""
    bias = "db = sum over t and b of da_t[b]"
    found = [
        GradientFault(
            name="mean_over_batch",
            statement="gradients of parameters are averaged over the batch instead of summed",
            right="dW = sum over b of da[b] x[b]^T",
            equation="dW = 1/B sum over b of da[b] x[b]^T",
            scale=_mean_over_rows,
        ),
        GradientFault(
            name="bias_gradient_row0",
            statement="gradients of biases are those of the first row of the batch",
            right=bias,
            equation="db = sum over t of da_t[0]",
            counted=_first_row,
        ),
        GradientFault(
            name="bias_gradient_last_step",
            statement="gradients of biases are those of the last step",
            right=bias,
            equation="db = sum over b of da_{T-1}[b]",
            counted=_last_step,
        ),
    ]
    if any(name.startswith("W_h") for name in cell.parameters):
        found.append(
            GradientFault(
                name="recurrent_operand_after",
                statement="gradients of recurrent matrices are taken with the state after the step",
                right="dW_h = sum over t of da_t h_{t-1}^T",
                equation="dW_h = sum over t of da_t h_t^T",
                operand_after=True,
            )
        )
    if "b_hn" in cell.parameters:
        found.append(
            GradientFault(
                name="bhn_gradient_missing_t0",
                statement="b_hn gets no gradient from the first step",
                right="db_hn = sum over t of dq_t",
                equation="db_hn = sum over t > 0 of dq_t",
                counted=_b_hn_after_first,
            )
        )
    return tuple(found)


def _of_everything() -> tuple[GradientFault, ...]:
    return (
        GradientFault(
            name="input_matrix_layout",
            statement="the gradient of x is taken with the input matrices in the other layout",
            right="dx = W_x^T da",
            equation="dx = (the buffer of W_x read as (D, H)) da; W_x da where it is square",
            other_layout=True,
        ),
        GradientFault(
            name="input_gradient_reversed",
            statement="the gradient of x is returned from its end",
            right="dx[t] = dS / dx_t",
            equation="dx[t] = dS / dx_{T-1-t}",
            mirrored=True,
        ),
        GradientFault(
            name="doubled",
            statement="every gradient is twice what it should be",
            right="dS",
            equation="2 dS",
            scale=_doubled,
        ),
    )
