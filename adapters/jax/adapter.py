"""JAX: minGRU and minLSTM step by step (``lax.scan``) and as prefix scans, under ``jax.jit``, on JAX's default device.

The documented equations and the listing of appendix B (Feng et al. 2024, arXiv:2410.01201), written with JAX alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax import lax

from conformance.worker.api import Result, WorkerCase, attest

from . import programs
from .carries import name_of, plain
from .compat import enable_x64

PROGRAMS = programs.keep()


def facts() -> dict[str, str]:
    """Versions and device as JAX reports them, and the precision of its products."""
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "device": str(jax.devices()[0]),
        "blas": "none: XLA compiles its products",
        "jax_default_matmul_precision": str(jax.config.jax_default_matmul_precision),
        "programs": PROGRAMS,
    }


def linear(p: Any, gate: str, x: Any) -> Any:
    """The pre-activation of one gate."""
    return x @ p[f"W_{gate}"].T + p[f"b_{gate}"]


def candidate(cell: str, p: Any, x: Any) -> Any:
    """n, through g in the forms for logarithms."""
    n = linear(p, "n", x)
    return jnp.where(n >= 0, n + 0.5, jax.nn.sigmoid(n)) if cell.endswith("_log") else n


def gates(cell: str, p: Any, x: Any) -> tuple[Any, Any]:
    """What is kept of the state and what is taken of the candidate: 1 - z and z, or f' and i'."""
    if cell.startswith("mingru"):
        z = jax.nn.sigmoid(linear(p, "z", x))
        return 1 - z, z
    f, i = jax.nn.sigmoid(linear(p, "f", x)), jax.nn.sigmoid(linear(p, "i", x))
    return f / (f + i), i / (f + i)


def sequential(cell: str, p: Any, x: Any, h0: Any) -> Any:
    """One step after the other: everything is computed inside the loop."""

    def step(h: Any, x_t: Any) -> tuple[Any, Any]:
        keep, take = gates(cell, p, x_t)
        h = keep * h + take * candidate(cell, p, x_t)
        return h, h

    return jnp.moveaxis(lax.scan(step, h0, jnp.moveaxis(x, -2, 0))[1], 0, -2)


def scan(cell: str, p: Any, x: Any, h0: Any) -> Any:
    """An associative scan of pairs (a, b); the initial state is the first of them, with a = 0."""
    keep, take = gates(cell, p, x)
    first = h0[..., None, :]
    a = jnp.concatenate([jnp.zeros_like(first), keep], axis=-2)
    b = jnp.concatenate([first, take * candidate(cell, p, x)], axis=-2)

    def combine(before: Any, after: Any) -> Any:
        return after[0] * before[0], after[0] * before[1] + after[1]

    return lax.associative_scan(combine, (a, b), axis=x.ndim - 2)[1][..., 1:, :]


def quotient(p: Any, x: Any) -> Any:
    """The k with i' = sigmoid(k) and f' = sigmoid(-k), from the logarithms of f and i."""
    return jax.nn.softplus(-linear(p, "f", x)) - jax.nn.softplus(-linear(p, "i", x))


def log_scan(cell: str, p: Any, x: Any, h0: Any) -> Any:
    """``exp(A + logcumsumexp(log b - A))`` with ``A = cumsum(log a)``."""
    softplus = jax.nn.softplus
    k = linear(p, "z", x) if cell.startswith("mingru") else quotient(p, x)
    n = linear(p, "n", x)
    log_n = jnp.where(n >= 0, jnp.log(jax.nn.relu(n) + 0.5), -softplus(-n))
    log_h0 = jnp.log(h0)[..., None, :]
    log_a = jnp.concatenate([jnp.zeros_like(log_h0), -softplus(k)], axis=-2)
    log_b = jnp.concatenate([log_h0, log_n - softplus(-k)], axis=-2)
    axis = x.ndim - 2
    decay = lax.cumsum(log_a, axis=axis)
    return jnp.exp(decay + lax.cumlogsumexp(log_b - decay, axis=axis))[..., 1:, :]


EVALUATIONS = {"sequential": sequential, "scan": scan, "log-scan": log_scan}


@partial(jax.jit, static_argnames=("variant", "cell"))
def forward(variant: str, cell: str, p: Any, x: Any, h0: Any) -> Any:
    """All states; an initial state of None is zeros."""
    own = jnp.zeros((*x.shape[:-2], p["b_n"].shape[0]), x.dtype) if h0 is None else h0
    return EVALUATIONS[variant](cell, p, x, own)


@partial(jax.jit, static_argnames=("variant", "cell"))
def backward(variant: str, cell: str, p: Any, x: Any, h0: Any, cotangents: Any) -> Any:
    """All states, and the gradients of (p, x, h0)."""

    def total(*inputs: Any) -> tuple[Any, Any]:
        states = forward(variant, cell, *inputs)
        found = {"outputs": states, "final_state": states[..., -1, :]}
        return sum((value * found[name]).sum() for name, value in cotangents.items()), states

    (_, states), pulled = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(p, x, h0)
    return states, pulled


def named(p: Any, x: Any, h0: Any) -> dict[str, np.ndarray]:
    """Inputs and parameters, or their gradients, by canonical name."""
    arrays = {"x": x, **({} if h0 is None else {"h0": h0}), **p}
    return {name: plain(value) for name, value in arrays.items()}


def load(case: WorkerCase) -> tuple[Any, Any, Any]:
    """Parameters, x and h0 in the case's dtype.

    Raises
    ------
    ValueError: logarithms are wanted of an initial state below zero.
    """
    if case.variant == "log-scan" and case.h0 is not None and np.any(case.h0 < 0):
        raise ValueError("the initial state is negative: its logarithm is undefined")
    return jax.tree.map(lambda array: array.astype(jnp.dtype(case.dtype)), (case.parameters, case.x, case.h0))


def path_of(variant: str) -> str:
    """The path that a variant is."""
    if variant == "sequential":
        path = "jax.lax.scan(step, h0, x)"
    elif variant == "scan":
        path = "jax.lax.associative_scan(combine, (a, b))"
    else:
        path = "jax.lax.cumlogsumexp(log b - jax.lax.cumsum(log a))"
    return path


def run(case: WorkerCase) -> Result:
    """Run the compiled variant and name its outputs."""
    programs.HELD.bound()
    gradients = {}
    # 64-bit types are off in JAX unless asked for; asked for here only, other cases run as users run them.
    with enable_x64(case.dtype == "float64"):
        inputs = load(case)
        if case.inputs_back:
            inputs = jax.device_put(inputs)  # otherwise the call does it, in less time
        if case.cotangents is None:
            states = forward(case.variant, case.cell, *inputs)
        else:
            wanted = {name: value.astype(jnp.dtype(case.dtype)) for name, value in case.cotangents.items()}
            states, pulled = backward(case.variant, case.cell, *inputs, wanted)
            gradients = named(*pulled)
        outputs = plain(states)
    return Result(
        outputs=outputs,
        final_state=outputs[..., -1, :],
        dtype=name_of(states.dtype),
        path=attest(path_of(case.variant), case.features),
        gradients=gradients,
        inputs_after=named(*inputs) if case.inputs_back else {},
    )
