"""minGRU and minLSTM beside the loop: prefix scans, plain and with logarithms, and a switching system's expectation.

Each takes one layer's parameters, x (..., T, D) and h0 (..., H), and returns all states (..., T, H), in the dtype of x,
and the path that it is.

Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, appendix B for the logarithmic form; Hillis and
Steele 1986, "Data parallel algorithms", for the scan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def sigmoid(a: Any) -> Any:
    """``1 / (1 + exp(-a))``; exp overflows to infinity where the result is zero, as it should be."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-a))


def softplus(a: Any) -> Any:
    """``log(1 + exp(a))``."""
    return np.logaddexp(a.dtype.type(0), a)


def linear(p: Any, gate: str, x: Any) -> Any:
    """The pre-activation of one gate."""
    return x @ p[f"W_{gate}"].T + p[f"b_{gate}"]


def candidate(cell: str, p: Any, x: Any) -> Any:
    """n, through g in the forms for logarithms."""
    n = linear(p, "n", x)
    return np.where(n >= 0, n + x.dtype.type(0.5), sigmoid(n)) if cell.endswith("_log") else n


def gates(cell: str, p: Any, x: Any) -> tuple[Any, Any]:
    """What is kept of the state and what is taken of the candidate: 1 - z and z, or f' and i'."""
    if cell.startswith("mingru"):
        z = sigmoid(linear(p, "z", x))
        return 1 - z, z
    f, i = sigmoid(linear(p, "f", x)), sigmoid(linear(p, "i", x))
    return f / (f + i), i / (f + i)


def scan(cell: str, p: Any, x: Any, h0: Any) -> tuple[Any, str]:
    """A doubling prefix scan of (a, b) under ``(a', b') after (a, b) = (a' a, a' b + b')``, h0 in the first b."""
    keep, take = gates(cell, p, x)
    a, b = keep, take * candidate(cell, p, x)
    b[..., :1, :] += a[..., :1, :] * h0[..., None, :]
    step, time = 1, x.shape[-2]
    while step < time:
        later, earlier = slice(step, None), slice(None, -step)
        b = np.concatenate([b[..., :step, :], a[..., later, :] * b[..., earlier, :] + b[..., later, :]], axis=-2)
        a = np.concatenate([a[..., :step, :], a[..., later, :] * a[..., earlier, :]], axis=-2)
        step *= 2
    path = "numpy doubling scan of (a, b)"
    return b, path


def quotient(p: Any, x: Any) -> Any:
    """The k with i' = sigmoid(k) and f' = sigmoid(-k), from the logarithms of f and i."""
    return softplus(-linear(p, "f", x)) - softplus(-linear(p, "i", x))


def log_scan(cell: str, p: Any, x: Any, h0: Any) -> tuple[Any, str]:
    """``exp(A + logcumsumexp(log b - A))`` with ``A = cumsum(log a)``: the listing of appendix B.

    Raises
    ------
    ValueError: an initial state below zero, whose logarithm is undefined.
    """
    if np.any(h0 < 0):
        raise ValueError("the initial state is negative: its logarithm is undefined")
    k = linear(p, "z", x) if cell.startswith("mingru") else quotient(p, x)
    n = linear(p, "n", x)
    # Not log(sigmoid(n)), which is lost where the sigmoid underflows.
    log_n = np.where(n >= 0, np.log(np.maximum(n, 0) + x.dtype.type(0.5)), -softplus(-n))
    with np.errstate(divide="ignore"):  # the logarithm of a state of zero is minus infinity
        log_h0 = np.log(h0)[..., None, :]
    log_a, log_b = -softplus(k), np.concatenate([log_h0, log_n - softplus(-k)], axis=-2)
    decay = np.concatenate([np.zeros_like(log_h0), np.cumsum(log_a, axis=-2, dtype=x.dtype)], axis=-2)
    path = "numpy cumsum and logaddexp.accumulate"
    return np.exp(decay + np.logaddexp.accumulate(log_b - decay, axis=-2))[..., 1:, :], path


def switching(cell: str, p: Any, x: Any, h0: Any) -> tuple[Any, str]:
    """The expected state of a system that keeps its state or draws a new one: a mean over when it did so last.

    Before step t it last drew at step tau with probability ``take_tau prod(keep_k, tau < k <= t)``, or never, and what
    it drew has the mean n_tau; the sum of all is taken anew for every t.
    """
    keep, take = gates(cell, p, x)
    drawn = np.concatenate([h0[..., None, :], candidate(cell, p, x)], axis=-2)
    states = np.empty((*x.shape[:-1], h0.shape[-1]), x.dtype)
    last = np.ones_like(drawn[..., :1, :])
    for t in range(x.shape[-2]):
        last = np.concatenate([last * keep[..., t : t + 1, :], take[..., t : t + 1, :]], axis=-2)
        states[..., t, :] = np.sum(last * drawn[..., : t + 2, :], axis=-2)
    path = "numpy mean over the last switch"
    return states, path


EVALUATIONS: dict[str, Callable[..., tuple[Any, str]]] = {"scan": scan, "log-scan": log_scan, "switching": switching}
