"""NumPy: the documented equations, one line each, as a plain loop in float32.

The smallest adapter: its weights need no permutation, and its loop reads like the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.worker.api import Result, WorkerCase


def facts() -> dict[str, str]:
    """The device and the BLAS that NumPy was built with; the worker states NumPy's version itself."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {"device": "cpu", "blas": f"{blas['name']} {blas['version']}"}


def sigmoid(a: Any) -> Any:
    """``1 / (1 + exp(-a))``; exp overflows to infinity where the result is zero, as it should be."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-a))


def step_gru(p: Any, x: Any, h: Any) -> Any:
    """One step of the reset-after GRU ("v3"): x (B, D) or (D,), h (B, H) or (H,)."""
    r = sigmoid(x @ p["W_xr"].T + p["b_xr"] + h @ p["W_hr"].T + p["b_hr"])
    z = sigmoid(x @ p["W_xz"].T + p["b_xz"] + h @ p["W_hz"].T + p["b_hz"])
    n = np.tanh(x @ p["W_xn"].T + p["b_xn"] + r * (h @ p["W_hn"].T + p["b_hn"]))
    return (1 - z) * n + z * h


def step_gru_v1(p: Any, x: Any, h: Any) -> Any:
    """One step of the reset-before GRU ("v1"): x (B, D) or (D,), h (B, H) or (H,)."""
    r = sigmoid(x @ p["W_xr"].T + p["b_xr"] + h @ p["W_hr"].T + p["b_hr"])
    z = sigmoid(x @ p["W_xz"].T + p["b_xz"] + h @ p["W_hz"].T + p["b_hz"])
    n = np.tanh(x @ p["W_xn"].T + p["b_xn"] + (r * h) @ p["W_hn"].T + p["b_hn"])
    return (1 - z) * n + z * h


def run(case: WorkerCase) -> Result:
    """Run the loop over time and name its outputs."""
    dtype = np.dtype(case.dtype)
    p = {name: value.astype(dtype) for name, value in case.parameters.items()}
    x = case.x.astype(dtype)
    if case.h0 is None:
        path = "numpy loop from zeros of its own"
        h = np.zeros((*x.shape[:-2], case.hidden), dtype)
    else:
        path = "numpy loop from h0"
        h = case.h0.astype(dtype)
    step = {"gru": step_gru, "gru_v1": step_gru_v1}[case.cell]
    states = []
    for t in range(x.shape[-2]):
        h = step(p, x[..., t, :], h)
        states.append(h)
    outputs = np.stack(states, axis=-2)
    return Result(outputs=outputs, final_state=h, dtype=outputs.dtype.name, path=path)
