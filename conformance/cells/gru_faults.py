"""The faults of both GRU forms."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec.structs import replace

from conformance.algebra import SIGMOID, TANH, Activation, Algebra
from conformance.case import Parameters
from conformance.cells.fault import Fault, Told, zeroed
from conformance.cells.gru import Equations, Update, keep_with_z, reset_after, reset_before, write_with_z
from conformance.cells.misreadings import (
    Equate,
    Make,
    activation_faults,
    bias_faults,
    bias_plus1,
    factory,
    gate_faults,
    interleaved_gates,
    matrix_faults,
    one_gate_faults,
    order_fault,
    sharing_faults,
    without,
)
from conformance.cells.precision import precision_faults
from conformance.cells.sequencing import sequencing_faults
from conformance.rounding import Array


def _drop_reset_at_start(p: Parameters, r: Any, h: Any, start: Array, ops: Algebra[Any]) -> Any:
    nothing = ops.times(ops.lift(np.zeros((1, 1))), r)
    return ops.select(start, nothing, reset_after(p, r, h, start, ops))


def _ignore_reset(p: Parameters, r: Any, h: Any, start: Array, ops: Algebra[Any]) -> Any:
    return ops.total(ops.dot(p["W_hn"], h), ops.lift(p["b_hn"]))


def _bias_outside_reset(p: Parameters, r: Any, h: Any, start: Array, ops: Algebra[Any]) -> Any:
    return ops.total(ops.times(r, ops.dot(p["W_hn"], h)), ops.lift(p["b_hn"]))


def _candidate_whole(z: Any, n: Any, h: Any, ops: Algebra[Any]) -> Any:
    return ops.total(n, ops.times(z, h))


def _state_whole(z: Any, n: Any, h: Any, ops: Algebra[Any]) -> Any:
    return ops.total(h, ops.times(z, n))


def _state_left_out(z: Any, n: Any, h: Any, ops: Algebra[Any]) -> Any:
    return ops.mix(z, n, ops.times(ops.lift(np.zeros((1, 1))), h))


def _candidate_only(z: Any, n: Any, h: Any, ops: Algebra[Any]) -> Any:
    return ops.times(z, n)


def _update_faults(fault: Make, eq: Equate) -> tuple[Fault, ...]:
    """What the update gate does; each reads differently in the convention in which z mixes the candidate in."""
    kept, written = "h' = (1 - z) * n + z * h", "h' = (1 - z) * h + z * n"

    def update_fault(name: str, here: tuple[str, str], there: tuple[str, str], update: Update) -> Fault:
        return fault(
            name,
            here[0],
            kept,
            here[1],
            equations=eq(update=update),
            complement=Told(statement=there[0], right=written, equation=there[1]),
        )

    return (
        update_fault(
            "update_flip",
            ("the update convention is flipped: z mixes the candidate in", written),
            ("the update convention is flipped: z keeps the state", kept),
            Update(write_with_z, keep_with_z),
        ),
        update_fault(
            "update_without_complement",
            ("the candidate is added whole, without the factor 1 - z", "h' = n + z * h"),
            ("the state is kept whole, without the factor 1 - z", "h' = h + z * n"),
            Update(_candidate_whole, _state_whole),
        ),
        update_fault(
            "update_forgets",
            ("the state is left out of the update: the term z * h is missing", "h' = (1 - z) * n"),
            ("the state is left out of the update: the term (1 - z) * h is missing", "h' = z * n"),
            Update(_state_left_out, _candidate_only),
        ),
    )


def gru_faults(form: str) -> tuple[Fault, ...]:
    """The catalogue of one GRU form; its equations differ from the correct ones in one place."""
    after = form == "gru"
    right = Equations() if after else Equations(reset=reset_before)
    r_line = "r = sigmoid(W_xr x + b_xr + W_hr h + b_hr)"
    z_line = "z = sigmoid(W_xz x + b_xz + W_hz h + b_hz)"
    recurrent = "r * (W_hn h + b_hn)" if after else "W_hn (r * h) + b_hn"
    n_line = f"n = tanh(W_xn x + b_xn + {recurrent})"
    gates, fault = "rzn", factory(right)

    def eq(gate: Activation | None = None, **changes: Any) -> Equations:
        """The equations with some parts replaced; `gate` stands for both gates."""
        both = right if gate is None else replace(right, reset_gate=gate, update_gate=gate)
        return replace(both, **changes)

    reset_faults: tuple[Fault, ...]
    if after:
        reset_faults = (
            fault(
                "drop_rbhn_t0",
                "the term r * b_hn is missing on the first step when the initial state is left out",
                f"{n_line}, also at step 0, where h = 0 leaves r * b_hn",
                "n = tanh(W_xn x + b_xn) at step 0",
                equations=eq(reset=_drop_reset_at_start),
            ),
            fault(
                "reset_before",
                "the reset gate masks the state before the matrix product instead of after it",
                n_line,
                "n = tanh(W_xn x + b_xn + W_hn (r * h) + b_hn)",
                equations=eq(reset=reset_before),
            ),
            fault(
                "bhn_outside_reset",
                "b_hn is added outside the reset gate",
                n_line,
                "n = tanh(W_xn x + b_xn + r * (W_hn h) + b_hn)",
                equations=eq(reset=_bias_outside_reset),
            ),
        )
    else:
        reset_faults = (
            fault(
                "reset_after",
                "the reset gate masks the matrix product instead of the state before it",
                n_line,
                "n = tanh(W_xn x + b_xn + r * (W_hn h + b_hn))",
                equations=eq(reset=reset_after),
            ),
        )
    biases = (
        *bias_faults(fault, gates, {"r": r_line, "z": z_line, "n": n_line}),
        bias_plus1(fault, "z", "z_bias_plus1", "update gate", z_line),
        bias_plus1(fault, "r", "r_bias_plus1", "reset gate", r_line),
    )
    layouts = (
        order_fault(fault, gates, "zrn", "swap_rz", "the rows of r and z are exchanged"),
        order_fault(fault, gates, "rnz", "swap_zn", "the rows of z and n are exchanged"),
        order_fault(fault, gates, "nrz", "rotate_gates", "the gate rows are rotated by one"),
        order_fault(
            fault,
            gates,
            "zrn",
            "swap_rz_h_only",
            "the rows of r and z are exchanged on the hidden side only",
            ("W_h", "b_h"),
        ),
        interleaved_gates(fault, gates),
        *matrix_faults(fault, gates),
        *sharing_faults(fault, gates, gates, "gates", "the gates and the candidate"),
        *sharing_faults(fault, gates, "rz", "rz", "the gates r and z"),
    )
    equations = (
        *_update_faults(fault, eq),
        fault(
            "reset_ignored",
            "the reset gate is not applied",
            n_line,
            "n = tanh(W_xn x + b_xn + W_hn h + b_hn)",
            equations=eq(reset=_ignore_reset),
        ),
        fault(
            "candidate_without_state",
            "the candidate does not see the state: W_hn h is left out",
            n_line,
            n_line.replace("(W_hn h + b_hn)", "b_hn") if after else without(n_line, "W_hn (r * h)"),
            parameters=zeroed("W_hn"),
        ),
        *gate_faults(fault, eq, f"{r_line}; {z_line}"),
        *one_gate_faults(fault, eq, "r", "reset", r_line, "reset_gate"),
        *one_gate_faults(fault, eq, "z", "update", z_line, "update_gate"),
        fault(
            "activations_swapped",
            "the activations are exchanged: the gates use tanh, the candidate the sigmoid",
            f"{r_line}; {z_line}; {n_line}",
            "tanh and sigmoid exchanged in all three",
            equations=eq(gate=TANH, candidate=SIGMOID),
        ),
        *activation_faults(fault, eq, n_line, part="candidate", subject="the candidate", none="no_tanh", suffix="new"),
    )
    return (*reset_faults, *biases, *layouts, *equations, *sequencing_faults(fault), *precision_faults(fault))
