"""The faults of both GRU forms: 39 hypotheses for reset-after, 37 for reset-before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.algebra import (
    HARD_SIGMOID,
    HARD_SIGMOID6,
    HARD_TANH,
    IDENTITY,
    RELU,
    SIGMOID,
    TANH,
    Algebra,
)
from conformance.case import Parameters
from conformance.cells.fault import Fault, Transform, scaled, zeroed
from conformance.cells.gru import Equations, reset_after, reset_before
from conformance.cells.sequencing import sequencing_faults
from conformance.rounding import Array


def _rename(**sources: str) -> Transform:
    """Gate g takes the rows of gate `sources[g]`, on both sides."""
    stems = ("W_x", "W_h", "b_x", "b_h")
    return lambda p: {f"{stem}{gate}": p[f"{stem}{source}"] for gate, source in sources.items() for stem in stems}


def _swap_rz_hidden(p: Parameters) -> Mapping[str, Array]:
    return {"W_hr": p["W_hz"], "W_hz": p["W_hr"], "b_hr": p["b_hz"], "b_hz": p["b_hr"]}


def _interleaved(p: Parameters) -> Mapping[str, Array]:
    """Rows stored gate by gate, read as if the three gates of one unit stood together."""
    result: dict[str, Array] = {}
    for stem in ("W_x", "W_h", "b_x", "b_h"):
        stacked = np.concatenate([p[f"{stem}{gate}"] for gate in "rzn"])
        for index, gate in enumerate("rzn"):
            result[f"{stem}{gate}"] = stacked[index::3]
    return result


def _transposed_hidden(p: Parameters) -> Mapping[str, Array]:
    return {name: p[name].T for name in ("W_hr", "W_hz", "W_hn")}


def _transposed_input(p: Parameters) -> Mapping[str, Array]:
    """The buffer of an (H, D) matrix read as (D, H) and transposed, as after a forgotten ``.T``."""
    return {name: p[name].reshape(p[name].shape[::-1]).T for name in ("W_xr", "W_xz", "W_xn")}


def _drop_reset_at_start(p: Parameters, r: Any, h: Any, start: Array, ops: Algebra[Any]) -> Any:
    nothing = ops.times(ops.lift(np.zeros((1, 1))), r)
    return ops.select(start, nothing, reset_after(p, r, h, start, ops))


def _ignore_reset(p: Parameters, r: Any, h: Any, start: Array, ops: Algebra[Any]) -> Any:
    return ops.total(ops.dot(p["W_hn"], h), ops.lift(p["b_hn"]))


def _bias_outside_reset(p: Parameters, r: Any, h: Any, start: Array, ops: Algebra[Any]) -> Any:
    return ops.total(ops.times(r, ops.dot(p["W_hn"], h)), ops.lift(p["b_hn"]))


def _flip_update(z: Any, n: Any, h: Any, ops: Algebra[Any]) -> Any:
    return ops.mix(z, h, n)


def gru_faults(form: str) -> tuple[Fault, ...]:
    """The catalogue of one GRU form; its equations differ from the correct ones in one place."""
    after = form == "gru"
    right = Equations() if after else Equations(reset=reset_before)
    r_line = "r = sigmoid(W_xr x + b_xr + W_hr h + b_hr)"
    z_line = "z = sigmoid(W_xz x + b_xz + W_hz h + b_hz)"
    gates = f"{r_line}; {z_line}"
    recurrent = "r * (W_hn h + b_hn)" if after else "W_hn (r * h) + b_hn"
    no_b_hn = "r * (W_hn h)" if after else "W_hn (r * h)"
    n_line = f"n = tanh(W_xn x + b_xn + {recurrent})"
    h_line = "h' = (1 - z) * n + z * h"
    order = "rows in the order r, z, n"

    def fault(name: str, statement: str, right_equation: str, equation: str, **changes: Any) -> Fault:
        chosen = {"equations": right, **changes}
        return Fault(name=name, statement=statement, right=right_equation, equation=equation, **chosen)

    def eq(**changes: Any) -> Equations:
        return replace(right, **changes)

    def without(line: str, term: str) -> str:
        return line.replace(f" + {term}", "", 1)

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
    hidden_biases, input_biases = ("b_hr", "b_hz", "b_hn"), ("b_xr", "b_xz", "b_xn")
    biases = (
        fault(
            "drop_bhn",
            "b_hn is never added",
            n_line,
            n_line.replace(recurrent, no_b_hn),
            parameters=zeroed("b_hn"),
        ),
        fault("drop_bhr", "b_hr is never added", r_line, without(r_line, "b_hr"), parameters=zeroed("b_hr")),
        fault("drop_bhz", "b_hz is never added", z_line, without(z_line, "b_hz"), parameters=zeroed("b_hz")),
        fault(
            "drop_bh",
            "no hidden-side bias is added",
            "W_h h + b_h",
            "W_h h",
            parameters=zeroed(*hidden_biases),
        ),
        fault("drop_bir", "b_xr is never added", r_line, without(r_line, "b_xr"), parameters=zeroed("b_xr")),
        fault("drop_biz", "b_xz is never added", z_line, without(z_line, "b_xz"), parameters=zeroed("b_xz")),
        fault("drop_bin", "b_xn is never added", n_line, without(n_line, "b_xn"), parameters=zeroed("b_xn")),
        fault("drop_bi", "no input-side bias is added", "W_x x + b_x", "W_x x", parameters=zeroed(*input_biases)),
        fault(
            "bi_twice",
            "the input-side biases are added twice",
            "W_x x + b_x",
            "W_x x + 2 b_x",
            parameters=scaled(2.0, *input_biases),
        ),
        fault(
            "bh_twice",
            "the hidden-side biases are added twice",
            "W_h h + b_h",
            "W_h h + 2 b_h",
            parameters=scaled(2.0, *hidden_biases),
        ),
        fault(
            "z_bias_plus1",
            "1 is added to the update gate's pre-activation",
            z_line,
            z_line.replace("b_hz)", "b_hz + 1)"),
            parameters=lambda p: {"b_xz": p["b_xz"] + 1.0},
        ),
        fault(
            "r_bias_plus1",
            "1 is added to the reset gate's pre-activation",
            r_line,
            r_line.replace("b_hr)", "b_hr + 1)"),
            parameters=lambda p: {"b_xr": p["b_xr"] + 1.0},
        ),
    )
    layouts = (
        fault(
            "swap_rz",
            "the rows of r and z are exchanged",
            order,
            "read as z, r, n",
            parameters=_rename(r="z", z="r"),
        ),
        fault(
            "swap_zn",
            "the rows of z and n are exchanged",
            order,
            "read as r, n, z",
            parameters=_rename(z="n", n="z"),
        ),
        fault(
            "rotate_gates",
            "the gate rows are rotated by one",
            order,
            "read as n, r, z: r takes the rows of z, z those of n, n those of r",
            parameters=_rename(r="z", z="n", n="r"),
        ),
        fault(
            "swap_rz_h_only",
            "the rows of r and z are exchanged on the hidden side only",
            order,
            "W_h and b_h read as z, r, n",
            parameters=_swap_rz_hidden,
        ),
        fault(
            "interleaved_gates",
            "rows stored gate by gate are read as interleaved per unit",
            "unit j of gate g in row g H + j",
            "unit j of gate g in row 3 j + g",
            parameters=_interleaved,
        ),
        fault(
            "Wh_transposed",
            "the recurrent matrices are transposed",
            "W_h h",
            "W_h^T h",
            parameters=_transposed_hidden,
        ),
        fault(
            "Wx_transposed",
            "the input matrices are read in the other layout",
            "W_x as (H, D)",
            "the buffer of W_x read as (D, H)",
            parameters=_transposed_input,
        ),
        fault(
            "no_Wh",
            "the recurrent matrices are not used",
            "W_h h + b_h",
            "b_h",
            parameters=zeroed("W_hr", "W_hz", "W_hn"),
        ),
    )
    equations = (
        fault(
            "update_flip",
            "the update convention is flipped: z mixes the candidate in",
            h_line,
            "h' = (1 - z) * h + z * n",
            equations=eq(update=_flip_update),
        ),
        fault(
            "reset_ignored",
            "the reset gate is not applied",
            n_line,
            "n = tanh(W_xn x + b_xn + W_hn h + b_hn)",
            equations=eq(reset=_ignore_reset),
        ),
        fault(
            "hard_sigmoid",
            "the gates use a hard sigmoid of slope 1/5",
            gates,
            "sigmoid(a) replaced by clip(a/5 + 1/2, 0, 1)",
            equations=eq(gate=HARD_SIGMOID),
        ),
        fault(
            "hard_sigmoid6",
            "the gates use a hard sigmoid of slope 1/6",
            gates,
            "sigmoid(a) replaced by clip(a/6 + 1/2, 0, 1)",
            equations=eq(gate=HARD_SIGMOID6),
        ),
        fault("gate_tanh", "the gates use tanh", gates, "sigmoid replaced by tanh", equations=eq(gate=TANH)),
        fault(
            "no_tanh",
            "the candidate has no activation",
            n_line,
            n_line.replace("tanh", ""),
            equations=eq(candidate=IDENTITY),
        ),
        fault(
            "relu_new",
            "the candidate uses ReLU",
            n_line,
            n_line.replace("tanh", "relu"),
            equations=eq(candidate=RELU),
        ),
        fault(
            "hardtanh_new",
            "the candidate uses hard tanh",
            n_line,
            n_line.replace("tanh", "hard_tanh"),
            equations=eq(candidate=HARD_TANH),
        ),
        fault(
            "sigmoid_new",
            "the candidate uses the sigmoid",
            n_line,
            n_line.replace("tanh", "sigmoid"),
            equations=eq(candidate=SIGMOID),
        ),
    )
    return (*reset_faults, *biases, *layouts, *equations, *sequencing_faults(fault))
