"""Implementations that are wrong or broken on purpose, one per outcome of the harness."""

import atexit
import os
import sys
import time

import numpy as np

from conformance.worker.api import Result, WorkerCase

CASES_SEEN = []


def facts():
    return {"framework": "none"}


def run(case: WorkerCase):
    CASES_SEEN.append(case)
    match case.variant:
        case "crash":
            print("about to abort", file=sys.stderr, flush=True)
            os.abort()
        case "crash_once" if len(CASES_SEEN) == 2 and case.x.shape[-1] == 4:
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
        case "late_crash":
            atexit.register(os.abort)
    outputs, final = gru(case)
    dtype, path = "float32", "loop"
    match case.variant:
        case "shape":
            outputs = np.swapaxes(outputs, -1, -2)
        case "dtype":
            dtype = "float16"
        case "nan":
            outputs[..., 2:, :] = np.nan
        case "path":
            path = "shortcut"
    return Result(outputs=outputs, final_state=final, dtype=dtype, path=path)


def sigmoid(a):
    return (1 / (1 + np.exp(-a))).astype(np.float32)


def gru(case: WorkerCase):
    p = case.parameters
    if case.variant == "no_b_hn" and np.any(p["b_hn"]):
        raise ValueError("b_hn is not zero")
    x = case.x if case.batched else case.x[None]
    if case.h0 is None:
        h = np.zeros((x.shape[0], case.hidden), np.float32)
    else:
        h = case.h0 if case.batched else case.h0[None]
    outputs = []
    for t in range(x.shape[1]):
        r = sigmoid(x[:, t] @ p["W_xr"].T + p["b_xr"] + h @ p["W_hr"].T + p["b_hr"])
        z = sigmoid(x[:, t] @ p["W_xz"].T + p["b_xz"] + h @ p["W_hz"].T + p["b_hz"])
        recurrent = r * (h @ p["W_hn"].T + p["b_hn"])
        if case.variant == "drop_rbhn_t0" and t == 0 and case.h0 is None:
            recurrent = np.zeros_like(recurrent)
        n = np.tanh(x[:, t] @ p["W_xn"].T + p["b_xn"] + recurrent)
        h = (1 - z) * n + z * h
        if case.variant == "unknown":
            h = h * np.float32(0.99)
        outputs.append(h)
    stacked = np.stack(outputs, axis=1)
    return (stacked, h) if case.batched else (stacked[0], h[0])
