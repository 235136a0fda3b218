"""NumPy: the documented equations, one line each, as a plain loop in float32 or float64.

The smallest adapter: its weights need no permutation, and its loop reads like the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.worker.api import Level, Prepared, Result, WorkerCase, attest, block

from .minimal import EVALUATIONS


def facts() -> dict[str, str]:
    """The device and the BLAS that NumPy was built with; the worker states NumPy's version itself."""
    if np.lib.NumpyVersion(np.__version__) < "1.26.0":
        return {"device": "cpu", "blas": "not told by this release"}
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {"device": "cpu", "blas": f"{blas['name']} {blas['version']}"}


def sigmoid(a: Any) -> Any:
    """``1 / (1 + exp(-a))``; exp overflows to infinity where the result is zero, as it should be."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-a))


def positive(a: Any) -> Any:
    """``a + 0.5`` for a >= 0, ``sigmoid(a)`` below: the candidate of the logarithmic forms."""
    return np.where(a >= 0, a + 0.5, sigmoid(a))


# One step of each cell: x (B, D) or (D,), states (B, H) or (H,). They return the new states by name.


def step_gru(p: Any, x: Any, h: Any) -> dict[str, Any]:
    """The reset-after GRU ("v3")."""
    r = sigmoid(x @ p["W_xr"].T + p["b_xr"] + h @ p["W_hr"].T + p["b_hr"])
    z = sigmoid(x @ p["W_xz"].T + p["b_xz"] + h @ p["W_hz"].T + p["b_hz"])
    n = np.tanh(x @ p["W_xn"].T + p["b_xn"] + r * (h @ p["W_hn"].T + p["b_hn"]))
    return {"h": (1 - z) * n + z * h}


def step_gru_v1(p: Any, x: Any, h: Any) -> dict[str, Any]:
    """The reset-before GRU ("v1")."""
    r = sigmoid(x @ p["W_xr"].T + p["b_xr"] + h @ p["W_hr"].T + p["b_hr"])
    z = sigmoid(x @ p["W_xz"].T + p["b_xz"] + h @ p["W_hz"].T + p["b_hz"])
    n = np.tanh(x @ p["W_xn"].T + p["b_xn"] + (r * h) @ p["W_hn"].T + p["b_hn"])
    return {"h": (1 - z) * n + z * h}


def step_lstm(p: Any, x: Any, h: Any, c: Any) -> dict[str, Any]:
    """The LSTM with a forget gate."""
    i = sigmoid(x @ p["W_xi"].T + p["b_xi"] + h @ p["W_hi"].T + p["b_hi"])
    f = sigmoid(x @ p["W_xf"].T + p["b_xf"] + h @ p["W_hf"].T + p["b_hf"])
    g = np.tanh(x @ p["W_xg"].T + p["b_xg"] + h @ p["W_hg"].T + p["b_hg"])
    o = sigmoid(x @ p["W_xo"].T + p["b_xo"] + h @ p["W_ho"].T + p["b_ho"])
    c = f * c + i * g
    return {"h": o * np.tanh(c), "c": c}


def step_lstm_peephole(p: Any, x: Any, h: Any, c: Any) -> dict[str, Any]:
    """The LSTM whose gates see the memory: input and forget gate the old one, the output gate the new one."""
    i = sigmoid(x @ p["W_xi"].T + p["b_xi"] + h @ p["W_hi"].T + p["b_hi"] + p["w_ci"] * c)
    f = sigmoid(x @ p["W_xf"].T + p["b_xf"] + h @ p["W_hf"].T + p["b_hf"] + p["w_cf"] * c)
    g = np.tanh(x @ p["W_xg"].T + p["b_xg"] + h @ p["W_hg"].T + p["b_hg"])
    c = f * c + i * g
    o = sigmoid(x @ p["W_xo"].T + p["b_xo"] + h @ p["W_ho"].T + p["b_ho"] + p["w_co"] * c)
    return {"h": o * np.tanh(c), "c": c}


def step_lstm_projection(p: Any, x: Any, h: Any, c: Any) -> dict[str, Any]:
    """The LSTM whose output is a projection of its memory: h (B, P), c (B, H)."""
    i = sigmoid(x @ p["W_xi"].T + p["b_xi"] + h @ p["W_hi"].T + p["b_hi"])
    f = sigmoid(x @ p["W_xf"].T + p["b_xf"] + h @ p["W_hf"].T + p["b_hf"])
    g = np.tanh(x @ p["W_xg"].T + p["b_xg"] + h @ p["W_hg"].T + p["b_hg"])
    o = sigmoid(x @ p["W_xo"].T + p["b_xo"] + h @ p["W_ho"].T + p["b_ho"])
    c = f * c + i * g
    return {"h": (o * np.tanh(c)) @ p["W_p"].T, "c": c}


def step_elman(p: Any, x: Any, h: Any) -> dict[str, Any]:
    """The simple recurrent layer."""
    return {"h": np.tanh(x @ p["W_x"].T + p["b_x"] + h @ p["W_h"].T + p["b_h"])}


def step_elman_relu(p: Any, x: Any, h: Any) -> dict[str, Any]:
    """The simple recurrent layer with rectified units."""
    return {"h": np.maximum(x @ p["W_x"].T + p["b_x"] + h @ p["W_h"].T + p["b_h"], 0)}


def step_mingru(p: Any, x: Any, h: Any) -> dict[str, Any]:
    """The minimal GRU whose gate does not see the state."""
    z = sigmoid(x @ p["W_z"].T + p["b_z"])
    n = x @ p["W_n"].T + p["b_n"]
    return {"h": (1 - z) * h + z * n}


def step_mingru_log(p: Any, x: Any, h: Any) -> dict[str, Any]:
    """The same with the positive candidate of its parallel form."""
    z = sigmoid(x @ p["W_z"].T + p["b_z"])
    n = positive(x @ p["W_n"].T + p["b_n"])
    return {"h": (1 - z) * h + z * n}


def step_minlstm(p: Any, x: Any, h: Any) -> dict[str, Any]:
    """The minimal LSTM: two gates that add up to one, no memory apart from the state."""
    f = sigmoid(x @ p["W_f"].T + p["b_f"])
    i = sigmoid(x @ p["W_i"].T + p["b_i"])
    n = x @ p["W_n"].T + p["b_n"]
    return {"h": f / (f + i) * h + i / (f + i) * n}


def step_minlstm_log(p: Any, x: Any, h: Any) -> dict[str, Any]:
    """The same with the positive candidate of its parallel form."""
    f = sigmoid(x @ p["W_f"].T + p["b_f"])
    i = sigmoid(x @ p["W_i"].T + p["b_i"])
    n = positive(x @ p["W_n"].T + p["b_n"])
    return {"h": f / (f + i) * h + i / (f + i) * n}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "gru": step_gru,
    "gru_v1": step_gru_v1,
    "lstm": step_lstm,
    "lstm_peephole": step_lstm_peephole,
    "lstm_projection": step_lstm_projection,
    "elman": step_elman,
    "elman_relu": step_elman_relu,
    "mingru": step_mingru,
    "mingru_log": step_mingru_log,
    "minlstm": step_minlstm,
    "minlstm_log": step_minlstm_log,
}


def zeros(case: WorkerCase, dtype: np.dtype[Any]) -> dict[str, Any]:
    """The states of all layers and directions, side by side, when the case gives none."""
    sizes = {"h": case.hidden}
    if case.cell.startswith("lstm"):
        memory, hidden = case.parameters["W_hi"].shape  # they differ when the output is projected
        sizes = {"h": hidden, "c": memory}
    blocks = case.layers * case.directions
    return {name: np.zeros((*case.x.shape[:-2], blocks * size), dtype) for name, size in sizes.items()}


def unroll(
    step: Callable[..., dict[str, Any]], p: Any, x: Any, state: dict[str, Any], lengths: Any, *, backward: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The loop over time of one layer and direction: its states after every step, and its last ones.

    A row takes part while t is below its length; otherwise its state stays as it is, and its outputs are zeros.
    """
    times = range(x.shape[-2])
    states = {name: np.zeros((*x.shape[:-1], value.shape[-1]), x.dtype) for name, value in state.items()}
    last = {name: value.copy() for name, value in state.items()}
    for t in reversed(times) if backward else times:
        real = ... if lengths is None else lengths > t
        new = step(p, x[..., t, :][real], **{name: value[real] for name, value in last.items()})
        for name, value in new.items():
            last[name][real] = value
            states[name][..., t, :][real] = value
    return states, last


def run(case: WorkerCase) -> Result:
    """Run the variant, and name its outputs."""
    return run_minimal(case) if case.variant in EVALUATIONS else run_loop(case)


def run_minimal(case: WorkerCase) -> Result:
    """Run one layer of a minGRU or minLSTM whole, without a loop from state to state."""
    dtype = np.dtype(case.dtype)
    parameters = {name: value.astype(dtype) for name, value in case.parameters.items()}
    x, own = case.x.astype(dtype), case.h0 is None
    h0 = zeros(case, dtype)["h"] if own else case.h0.astype(dtype)
    states, path = EVALUATIONS[case.variant](case.cell, parameters, x, h0)
    given = {"x": x} if own else {"x": x, "h0": h0}
    return Result(
        outputs=states,
        final_state=states[..., -1, :],
        dtype=states.dtype.name,
        path=attest(path, case.features),
        inputs_after={**given, **parameters} if case.inputs_back else {},
    )


def run_loop(case: WorkerCase) -> Result:
    """Run the loop of every layer and direction, and name the outputs."""
    dtype = np.dtype(case.dtype)
    parameters = {name: value.astype(dtype) for name, value in case.parameters.items()}
    given = {"x": case.x, "h0": case.h0, "c0": case.c0}
    # astype keeps the order of the axes in memory, so a strided x stays strided.
    inputs = {name: value.astype(dtype) for name, value in given.items() if value is not None}
    if case.h0 is None:
        path = "numpy loop from zeros of its own"
        initial = zeros(case, dtype)
    else:
        path = "numpy loop from h0"
        initial = {name: inputs[f"{name}0"] for name in ("h", "c") if f"{name}0" in inputs}
    blocks = {name: np.split(value, case.layers * case.directions, axis=-1) for name, value in initial.items()}
    last: dict[str, list[Any]] = {name: [] for name in initial}
    below = inputs["x"]
    for layer in range(case.layers):
        states: dict[str, list[Any]] = {name: [] for name in initial}
        for direction in range(case.directions):
            state = {name: parts[layer * case.directions + direction] for name, parts in blocks.items()}
            backward = case.reverse != (direction == 1)
            p = block(parameters, layer, direction)
            own, end = unroll(STEPS[case.cell], p, below, state, case.lengths, backward=backward)
            for name in initial:
                states[name].append(own[name])
                last[name].append(end[name])
        below = np.concatenate(states["h"], axis=-1)
    cells = {"cells": states["c"], "final_cell": last["c"]} if "c" in initial else {}
    return Result(
        outputs=below,
        final_state=np.concatenate(last["h"], axis=-1),
        dtype=below.dtype.name,
        path=attest(path, case.features),
        **{name: np.concatenate(parts, axis=-1) for name, parts in cells.items()},
        inputs_after={**inputs, **parameters} if case.inputs_back else {},
    )


def prepare(case: WorkerCase, level: Level) -> Prepared:
    """The loop that `run` makes; its cell has no other form, so both levels are the same."""
    del level
    result = run(case)
    return Prepared(call=lambda: run(case), path=result.path, outputs=result.outputs)
