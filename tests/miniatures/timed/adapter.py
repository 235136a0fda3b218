"""Calls to be timed, good and bad; what they cost is made up, and never asserted on."""

import os

import numpy as np

from conformance.worker.api import CompileCosts, Prepared, Result, WorkerCase

PATHS = {
    "loop": "loop(x, h0)",
    "spelled": "loop(x)",
    "other": "other loop(x, h0)",
    "flipped": "flipped loop(x, h0)",
    "lies": "loop(x, h0)",
    "raises": "raising loop(x, h0)",
    "crashes": "aborting loop(x, h0)",
    "nothing": "loop(x, h0)",
    "shape": "loop(x, h0)",
    "unrolled": "unrolled loop(x, h0)",
    "no_b_hn": "loop without b_hn(x, h0)",
}


def facts():
    return {"framework": "none", "device": "cpu"}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def loop(case: WorkerCase):
    p, h, states = case.parameters, case.h0, []
    for x in np.moveaxis(case.x, 1, 0):
        r = sigmoid(x @ p["W_xr"].T + p["b_xr"] + h @ p["W_hr"].T + p["b_hr"])
        z = sigmoid(x @ p["W_xz"].T + p["b_xz"] + h @ p["W_hz"].T + p["b_hz"])
        n = np.tanh(x @ p["W_xn"].T + p["b_xn"] + r * (h @ p["W_hn"].T + p["b_hn"]))
        h = (1 - z) * h + z * n if case.variant == "flipped" else (1 - z) * n + z * h
        states.append(h)
    return np.stack(states, axis=1)


def run(case: WorkerCase):
    outputs = loop(case)
    return Result(outputs=outputs, final_state=outputs[:, -1], dtype="float32", path=PATHS[case.variant])


def prepare(case: WorkerCase, level):
    if case.variant == "nothing":
        return {"call": None}
    outputs = loop(case)
    if case.variant == "shape":
        outputs = outputs[:, :-1]
    calls = []

    def call():
        calls.append(1)
        if len(calls) > 2 and case.variant == "raises":
            raise ArithmeticError("no such luck <b>")
        if len(calls) > 2 and case.variant == "crashes":
            os.abort()
        return loop(case)

    path = PATHS[case.variant]
    if case.variant == "other" and level == "cell":
        path = "cell of the other loop"
    return Prepared(call=call, path=path, outputs=outputs)


def compile_costs(case: WorkerCase):
    steps = case.x.shape[1] if case.variant == "unrolled" else 1
    return CompileCosts(
        path=PATHS[case.variant],
        trace_seconds=0.01 * steps,
        compile_seconds=0.1 * steps,
        program_characters=1000 * steps,
        program_operations=10 * steps,
    )
