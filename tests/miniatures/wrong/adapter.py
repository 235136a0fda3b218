"""Implementations that are wrong or broken on purpose, one per outcome of the harness."""

import atexit
import os
import sys
import time
from pathlib import Path

import numpy as np

from conformance.worker.api import Result, WorkerCase, attest

LAST = {}
ANSWERED = []


def facts():
    return {"framework": "none"}


def run(case: WorkerCase):
    match case.variant:
        case "crash":
            print("about to abort", file=sys.stderr, flush=True)
            os.abort()
        case "crash_once" if case.x.shape[-1] == 30:  # the trained model, one of the shipped cases
            os.abort()
        case "exit":
            os._exit(7)
        case "crash_omitted" if case.h0 is None:
            os.abort()
        case "hang":
            time.sleep(3600)
        case "raises":
            raise ArithmeticError("no such luck <b>")
        case "flood":
            sys.stderr.write("x" * 4_000_000 + "\n")
        case "prints":
            print("a framework that prints" * 1000, flush=True)
            os.write(1, b"and writes to the descriptor\n")
        case "names":
            return {"hidden": 0}
        case "crash_rare" if rare(case):
            os.abort()
        case "raises_rare" if rare(case):
            raise ArithmeticError("not this one")
        case "ill":
            ANSWERED.append(1)
            if 72 < len(ANSWERED) <= 139:
                raise ArithmeticError("not now")
        case "dies_once":
            ANSWERED.append(1)
            marker = Path(os.environ["MINIATURE_MARKER"])
            if len(ANSWERED) > 60 and not marker.exists():
                marker.touch()
                os._exit(9)
        case "late_crash":
            atexit.register(os.abort)
    outputs, final, steps = gru(case)
    dtype, path = "float32", attest("loop", case.features)
    match case.variant:
        case "path_rare" if rare(case):
            path = "shortcut"
        case "dtype_rare" if rare(case):
            dtype = "float16"
        case "shape":
            outputs = np.swapaxes(outputs, -1, -2)
        case "dtype":
            dtype = "float16"
        case "nan":
            outputs[..., 2:, :] = np.nan
        case "path":
            path = "shortcut"
        case "silent":
            path = "loop"
    gradients = {} if case.cotangents is None else backward(case, steps)
    if not case.batched:
        outputs, final = outputs[0], final[0]
        gradients = {name: value[0] if name in ("x", "h0") else value for name, value in gradients.items()}
    return Result(outputs=outputs, final_state=final, dtype=dtype, path=path, gradients=gradients)


def rare(case: WorkerCase):
    """One case in about 60, of generated numbers only."""
    return int(abs(float(case.x.flat[0])) * 1000) % 61 == 7


def sigmoid(a):
    return (1 / (1 + np.exp(-a))).astype(np.float32)


def initial_state(case: WorkerCase, batch):
    if case.h0 is not None and not (case.variant == "rare" and rare(case)):
        return case.h0 if case.batched else case.h0[None]
    if case.variant == "remembers" and LAST.get("shape") == (batch, case.hidden):
        return LAST["state"]
    return np.zeros((batch, case.hidden), np.float32)


def gru(case: WorkerCase):
    """All states (B, T, H), the last ones, and what a backward pass needs of every step."""
    p = case.parameters
    if case.variant == "no_b_hn" and np.any(p["b_hn"]):
        raise ValueError("b_hn is not zero")
    x = case.x if case.batched else case.x[None]
    h = initial_state(case, len(x))
    outputs, steps = [], []
    for t in range(x.shape[1]):
        before = h
        r = sigmoid(x[:, t] @ p["W_xr"].T + p["b_xr"] + h @ p["W_hr"].T + p["b_hr"])
        z = sigmoid(x[:, t] @ p["W_xz"].T + p["b_xz"] + h @ p["W_hz"].T + p["b_hz"])
        hidden = h @ p["W_hn"].T + p["b_hn"]
        recurrent = r * hidden
        if case.variant == "drop_rbhn_t0" and t == 0 and case.h0 is None:
            recurrent = np.zeros_like(recurrent)
        n = np.tanh(x[:, t] @ p["W_xn"].T + p["b_xn"] + recurrent)
        swapped = case.variant == "odd_width" and h.shape[1] % 2 == 1 and 8 < h.shape[1] != 67
        h = z * n + (1 - z) * h if swapped else (1 - z) * n + z * h
        if case.variant == "unknown":
            h = h * np.float32(0.99)
        output = h
        if case.lengths is not None and case.variant != "lengths_ignored":
            real = (t < case.lengths)[:, None]
            h, output = np.where(real, h, before), np.where(real, h, 0)
        steps.append((x[:, t], before, r, z, n, hidden))
        outputs.append(output)
    LAST.update(shape=h.shape, state=h)
    return np.stack(outputs, axis=1), h, steps


def backward(case: WorkerCase, steps):
    """Gradients by canonical name of the sum of all products with the cotangents; x and h0 have a batch axis."""
    p = case.parameters
    given = {name: value if case.batched else value[None] for name, value in case.cotangents.items()}
    total = {name: np.zeros(value.shape, np.float32) for name, value in p.items()}
    dh, dx = given["final_state"], []
    for t in reversed(range(len(steps))):
        x, before, r, z, n, hidden = steps[t]
        if case.variant == "state_detached" and t < len(steps) - 1:
            dh = np.zeros_like(dh)
        dh = dh + given["outputs"][:, t]
        dn = dh * (1 - z) * (1 - n * n)
        dr, dz = dn * hidden * r * (1 - r), dh * (before - n) * z * (1 - z)
        for gate, own, recurrent in (("r", dr, dr), ("z", dz, dz), ("n", dn, dn * r)):
            total[f"W_x{gate}"] += own.T @ x
            total[f"b_x{gate}"] += own.sum(axis=0)
            total[f"W_h{gate}"] += recurrent.T @ before
            total[f"b_h{gate}"] += recurrent.sum(axis=0)
        dx.append(dr @ p["W_xr"] + dz @ p["W_xz"] + dn @ p["W_xn"])
        dh = dh * z + dr @ p["W_hr"] + dz @ p["W_hz"] + (dn * r) @ p["W_hn"]
    own = {"x": np.stack(dx[::-1], axis=1)} | ({} if case.h0 is None else {"h0": dh})
    return {**total, **own}
