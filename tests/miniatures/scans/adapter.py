"""Prefix scans that are wrong on purpose, one per fault that is to be named."""

import numpy as np

from conformance.worker.api import Result, WorkerCase, attest


def facts():
    return {"framework": "none"}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def g(a):
    return np.where(a >= 0, a + np.float32(0.5), sigmoid(a))


def gates(cell, linear):
    if cell == "mingru_log":
        z = sigmoid(linear("z"))
        return 1 - z, z
    f, i = sigmoid(linear("f")), sigmoid(linear("i"))
    return f / (f + i), i / (f + i)


def run(case: WorkerCase):
    variant, p, x = case.variant, dict(case.parameters), case.x
    h0 = np.zeros((*x.shape[:-2], case.hidden), np.float32) if case.h0 is None else case.h0
    if variant == "refuses" and (h0 < 0).any():
        raise ValueError("no negative states, please")
    if variant == "swapped-gates":
        one, other = "zn" if case.cell == "mingru_log" else "fi"
        for stem in ("W_", "b_"):
            p[stem + one], p[stem + other] = p[stem + other], p[stem + one]
    keep, take = gates(case.cell, lambda gate: x @ p[f"W_{gate}"].T + p[f"b_{gate}"])
    n = g(x @ p["W_n"].T + p["b_n"])
    if variant == "flipped":
        keep, take = take, keep
    if variant == "h0-ignored":
        h0 = 0 * h0
    if variant == "through-g" and case.h0 is not None:
        h0 = g(h0)
    states = scan(keep, take * n, h0, opposite=variant == "opposite")
    final = states[..., -1, :]
    if variant == "off-by-one":
        states = np.concatenate([h0[..., None, :], states[..., :-1, :]], axis=-2)
    if variant == "nan":
        states = np.where(h0[..., None, :] < 0, np.float32(np.nan), states)
        final = states[..., -1, :]
    path = attest("scan", case.features)
    return Result(outputs=states, final_state=final, dtype=states.dtype.name, path=path)


def scan(a, b, h0, *, opposite):
    b[..., :1, :] += a[..., :1, :] * h0[..., None, :]
    step = 1
    while step < a.shape[-2]:
        a1, a2, b1, b2 = a[..., :-step, :], a[..., step:, :], b[..., :-step, :], b[..., step:, :]
        joined = a1 * b2 + b1 if opposite else a2 * b1 + b2
        a = np.concatenate([a[..., :step, :], a1 * a2], axis=-2)
        b = np.concatenate([b[..., :step, :], joined], axis=-2)
        step *= 2
    return b
