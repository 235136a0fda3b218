"""Flax NNX: one ``flax.nnx.GRUCell`` closed over by ``jax.lax.scan`` under ``jax.jit``, on JAX's default device.

A graph definition is built once per size and the weights are arguments, so that every shape is compiled once.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from flax import nnx

from conformance.worker.api import Result, WorkerCase, assemble

# Gates r, z, n in columns: kernels are (in, 3 out), the transpose of the stacked canonical matrices.
KERNELS = {"dense_i": ["W_xr", "W_xz", "W_xn"], "dense_h": ["W_hr", "W_hz", "W_hn"]}
# The input side has the only bias: there is no place for b_hn (google/flax issue 5594).
BIASES = {"dense_i": ["b_xr + b_hr", "b_xz + b_hz", "b_xn"]}


def facts() -> dict[str, str]:
    """Versions and device as JAX and Flax report them, and the precision of JAX's products."""
    return {
        "flax": flax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "device": str(jax.devices()[0]),
        "blas": "none: XLA compiles its products",
        "jax_default_matmul_precision": str(jax.config.jax_default_matmul_precision),
    }


@cache
def definition(features: int, hidden: int, dtype: str) -> nnx.GraphDef:
    """The cell without its weights.

    Built from zeros: the default initialisers cost a compilation per size, and the orthogonal one needs a QR
    factorisation, which JAX does not have in float16.
    """
    zeros = nnx.initializers.zeros_init()
    cell = nnx.GRUCell(
        features,
        hidden,
        kernel_init=zeros,
        recurrent_kernel_init=zeros,
        param_dtype=dtype,
        rngs=nnx.Rngs(0),
    )
    return nnx.split(cell)[0]


@partial(jax.jit, static_argnums=0)
def scan(graph: nnx.GraphDef, weights: Any, x: jax.Array, h0: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The final state and all states; x and the states are time-major, (T, B, .) or (T, .)."""
    cell = nnx.merge(graph, weights)

    def step(carry: jax.Array, x_t: jax.Array) -> tuple[jax.Array, jax.Array]:
        return cell(carry, x_t)

    return jax.lax.scan(step, h0, x)


def run(case: WorkerCase) -> Result:
    """Run the compiled scan and name its outputs; ValueError for weights that the cell cannot hold."""
    if case.parameters["b_hn"].any():
        raise ValueError("flax.nnx.GRUCell has no place for b_hn, and it is not zero")
    dtype = jnp.dtype(case.dtype)
    weights = {name: {"kernel": assemble(recipe, case.parameters).T.astype(dtype)} for name, recipe in KERNELS.items()}
    for name, recipe in BIASES.items():
        weights[name]["bias"] = assemble(recipe, case.parameters).astype(dtype)
    x = np.moveaxis(case.x, -2, 0).astype(dtype)
    # 64-bit types are off in JAX unless asked for; asked for here only, other cases run as users run them.
    with jax.enable_x64(case.dtype == "float64"):
        graph = definition(x.shape[-1], case.hidden, case.dtype)
        path = "jax.lax.scan(flax.nnx.GRUCell, carry, x)"
        final_state, outputs = scan(graph, weights, x, case.h0.astype(dtype))
    container = np.float64 if outputs.dtype == np.float64 else np.float32
    return Result(
        outputs=np.moveaxis(np.asarray(outputs), 0, -2).astype(container),
        final_state=np.asarray(final_state).astype(container),
        dtype=outputs.dtype.name,
        path=path,
    )
