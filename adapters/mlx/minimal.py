"""minGRU and minLSTM, which ``mlx.nn`` does not have: the documented equations and scans of them, in plain MLX.

Each takes one layer's parameters, x (..., T, D) and h0 (..., H), and returns all states (..., T, H),
and the path that it is.

Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, appendix B for the logarithmic form; Hillis and
Steele 1986, "Data parallel algorithms", for the scan.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from conformance.worker.api import Result, WorkerCase, attest

Weights = dict[str, mx.array]


def project(p: Weights, gate: str, x: mx.array) -> mx.array:
    """The pre-activation of one gate."""
    return x @ p[f"W_{gate}"].T + p[f"b_{gate}"]


def softplus(a: mx.array) -> mx.array:
    """``log(1 + exp(a))``."""
    return mx.logaddexp(a, mx.array(0, dtype=a.dtype))


def candidate(cell: str, p: Weights, x: mx.array) -> mx.array:
    """n, through g in the forms for logarithms."""
    n = project(p, "n", x)
    return mx.where(n >= 0, n + 0.5, mx.sigmoid(n)) if cell.endswith("_log") else n


def gates(cell: str, p: Weights, x: mx.array) -> tuple[mx.array, mx.array]:
    """What is kept of the state and what is taken of the candidate: 1 - z and z, or f' and i'."""
    if cell.startswith("mingru"):
        z = mx.sigmoid(project(p, "z", x))
        return 1 - z, z
    f, i = mx.sigmoid(project(p, "f", x)), mx.sigmoid(project(p, "i", x))
    return f / (f + i), i / (f + i)


def sequential(cell: str, p: Weights, x: mx.array, h: mx.array) -> tuple[mx.array, str]:
    """One step after the other."""
    states = []
    for t in range(x.shape[-2]):
        keep, take = gates(cell, p, x[..., t, :])
        h = keep * h + take * candidate(cell, p, x[..., t, :])
        states.append(h)
    path = "mlx loop of the equations"
    return mx.stack(states, axis=-2), path


def scan(cell: str, p: Weights, x: mx.array, h0: mx.array) -> tuple[mx.array, str]:
    """A doubling prefix scan of (a, b) under ``(a', b') after (a, b) = (a' a, a' b + b')``, h0 the first of the b."""
    keep, take = gates(cell, p, x)
    first = mx.expand_dims(h0, -2)
    a = mx.concatenate([mx.zeros_like(first), keep], axis=-2)
    b = mx.concatenate([first, take * candidate(cell, p, x)], axis=-2)
    step, time = 1, a.shape[-2]
    while step < time:
        later = a[..., step:, :]
        b = mx.concatenate([b[..., :step, :], later * b[..., :-step, :] + b[..., step:, :]], axis=-2)
        a = mx.concatenate([a[..., :step, :], later * a[..., :-step, :]], axis=-2)
        step *= 2
    path = "mlx doubling scan of (a, b)"
    return b[..., 1:, :], path


def log_scan(cell: str, p: Weights, x: mx.array, h0: mx.array) -> tuple[mx.array, str]:
    """``exp(A + logcumsumexp(log b - A))`` with ``A = cumsum(log a)``: the listing of appendix B."""
    if cell.startswith("mingru"):
        k = project(p, "z", x)
    else:
        # f' and i' are the sigmoids of -k and k.
        k = softplus(-project(p, "f", x)) - softplus(-project(p, "i", x))
    n = project(p, "n", x)
    log_n = mx.where(n >= 0, mx.log(mx.maximum(n, 0) + 0.5), -softplus(-n))
    log_h0 = mx.expand_dims(mx.log(h0), -2)
    log_a = mx.concatenate([mx.zeros_like(log_h0), -softplus(k)], axis=-2)
    log_b = mx.concatenate([log_h0, log_n - softplus(-k)], axis=-2)
    decay = mx.cumsum(log_a, axis=-2)
    path = "mlx.core.cumsum and mlx.core.logcumsumexp"
    return mx.exp(decay + mx.logcumsumexp(log_b - decay, axis=-2))[..., 1:, :], path


EVALUATIONS: dict[str, Callable[[str, Weights, mx.array, mx.array], tuple[mx.array, str]]] = {
    "min": sequential,
    "min-scan": scan,
    "min-log-scan": log_scan,
}


def load(case: WorkerCase) -> tuple[Weights, dict[str, mx.array]]:
    """Parameters, and the inputs by name, in the case's dtype.

    Raises
    ------
    ValueError: logarithms are wanted of an initial state below zero.
    """
    if case.variant == "min-log-scan" and case.h0 is not None and np.any(case.h0 < 0):
        raise ValueError("the initial state is negative: its logarithm is undefined")
    dtype = getattr(mx, case.dtype)
    x = mx.swapaxes(mx.array(case.x.swapaxes(0, 1), dtype=dtype), 0, 1) if case.strided else mx.array(case.x, dtype)
    inputs = {"x": x} if case.h0 is None else {"x": x, "h0": mx.array(case.h0, dtype=dtype)}
    return {name: mx.array(value, dtype=dtype) for name, value in case.parameters.items()}, inputs


def states_of(case: WorkerCase, p: Weights, inputs: dict[str, mx.array]) -> tuple[mx.array, str]:
    """Every state, and the path."""
    x, own = inputs["x"], "h0" not in inputs
    h0 = mx.zeros((*x.shape[:-2], p["b_n"].shape[0]), x.dtype) if own else inputs["h0"]
    return EVALUATIONS[case.variant](case.cell, p, x, h0)


def run(case: WorkerCase) -> Result:
    """Run the variant, and name its outputs."""
    p, inputs = load(case)
    gradients: dict[str, mx.array] = {}
    if case.cotangents is None:
        states, path = states_of(case, p, inputs)
    else:
        wanted = {name: mx.array(value, dtype=inputs["x"].dtype) for name, value in case.cotangents.items()}

        def total(leaves: dict[str, mx.array]) -> tuple[mx.array, mx.array, str]:
            states, path = states_of(case, leaves, leaves)
            found = {"outputs": states, "final_state": states[..., -1, :]}
            return sum((value * found[name]).sum() for name, value in wanted.items()), states, path

        (_, states, path), gradients = mx.value_and_grad(total)({**p, **inputs})
    mx.eval(states, gradients)
    outputs = np.array(states.astype(mx.float32))
    return Result(
        outputs=outputs,
        final_state=outputs[..., -1, :],
        dtype=str(states.dtype).rpartition(".")[2],
        path=attest(path, case.features),
        gradients={name: np.array(value.astype(mx.float32)) for name, value in gradients.items()},
        inputs_after={name: np.array(v.astype(mx.float32)) for name, v in {**inputs, **p}.items()}
        if case.inputs_back
        else {},
    )
