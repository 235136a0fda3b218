"""minGRU and minLSTM, which ``torch.nn`` does not have: the documented equations and scans of them, in plain PyTorch.

Each takes one layer's parameters, x (..., T, D) and h0 (..., H), and returns all states (..., T, H),
and the path that it is.

Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, appendix B for the logarithmic form; Hillis and
Steele 1986, "Data parallel algorithms", for the scan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear, logsigmoid, relu

Weights = dict[str, torch.Tensor]


def project(p: Weights, gate: str, x: torch.Tensor) -> torch.Tensor:
    """The pre-activation of one gate."""
    return linear(x, p[f"W_{gate}"], p[f"b_{gate}"])


def softplus(a: torch.Tensor) -> torch.Tensor:
    """``log(1 + exp(a))``; torch.nn.functional.softplus drops exp(-a) past a = 20, where float64 still sees it."""
    return -logsigmoid(-a)


def candidate(cell: str, p: Weights, x: torch.Tensor) -> torch.Tensor:
    """n, through g in the forms for logarithms."""
    n = project(p, "n", x)
    return torch.where(n >= 0, n + 0.5, torch.sigmoid(n)) if cell.endswith("_log") else n


def gates(cell: str, p: Weights, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is kept of the state and what is taken of the candidate: 1 - z and z, or f' and i'."""
    if cell.startswith("mingru"):
        z = torch.sigmoid(project(p, "z", x))
        return 1 - z, z
    f, i = torch.sigmoid(project(p, "f", x)), torch.sigmoid(project(p, "i", x))
    return f / (f + i), i / (f + i)


def sequential(cell: str, p: Weights, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, str]:
    """One step after the other."""
    states = []
    for x_t in x.unbind(-2):
        keep, take = gates(cell, p, x_t)
        h = keep * h + take * candidate(cell, p, x_t)
        states.append(h)
    path = "torch loop of the equations"
    return torch.stack(states, dim=-2), path


def scan(cell: str, p: Weights, x: torch.Tensor, h0: torch.Tensor) -> tuple[torch.Tensor, str]:
    """A doubling prefix scan of (a, b) under ``(a', b') after (a, b) = (a' a, a' b + b')``, h0 the first of the b."""
    keep, take = gates(cell, p, x)
    first = h0.unsqueeze(-2)
    a = torch.cat([torch.zeros_like(first), keep], dim=-2)
    b = torch.cat([first, take * candidate(cell, p, x)], dim=-2)
    step, time = 1, a.shape[-2]
    while step < time:
        later = a[..., step:, :]
        b = torch.cat([b[..., :step, :], later * b[..., :-step, :] + b[..., step:, :]], dim=-2)
        a = torch.cat([a[..., :step, :], later * a[..., :-step, :]], dim=-2)
        step *= 2
    path = "torch doubling scan of (a, b)"
    return b[..., 1:, :], path


def log_scan(cell: str, p: Weights, x: torch.Tensor, h0: torch.Tensor) -> tuple[torch.Tensor, str]:
    """``exp(A + logcumsumexp(log b - A))`` with ``A = cumsum(log a)``: the listing of appendix B.

    Raises
    ------
    ValueError: an initial state below zero, whose logarithm is undefined.
    """
    if (h0 < 0).any():
        raise ValueError("the initial state is negative: its logarithm is undefined")
    if cell.startswith("mingru"):
        k = project(p, "z", x)
    else:
        # f' and i' are the sigmoids of -k and k.
        k = softplus(-project(p, "f", x)) - softplus(-project(p, "i", x))
    n = project(p, "n", x)
    log_n = torch.where(n >= 0, (relu(n) + 0.5).log(), -softplus(-n))
    log_h0 = h0.log().unsqueeze(-2)
    log_a = torch.cat([torch.zeros_like(log_h0), -softplus(k)], dim=-2)
    log_b = torch.cat([log_h0, log_n - softplus(-k)], dim=-2)
    decay = log_a.cumsum(dim=-2)
    path = "torch.cumsum and torch.logcumsumexp"
    return (decay + (log_b - decay).logcumsumexp(dim=-2)).exp()[..., 1:, :], path


EVALUATIONS: dict[str, Callable[[str, Weights, torch.Tensor, torch.Tensor], tuple[torch.Tensor, str]]] = {
    "min": sequential,
    "min-scan": scan,
    "min-log-scan": log_scan,
}


def call(variant: str, cell: str, p: Weights, inputs: dict[str, Any]) -> tuple[dict[str, torch.Tensor], str]:
    """Every state by name, and the path; h0 comes as the layers of PyTorch take it, (1, B, H) or (1, H)."""
    x = inputs["x"]
    own = "h0" not in inputs
    h0 = x.new_zeros((*x.shape[:-2], p["b_n"].shape[0])) if own else inputs["h0"][0]
    states, path = EVALUATIONS[variant](cell, p, x, h0)
    return {"outputs": states, "final_state": states[..., -1, :]}, path
