"""Flax linen: ``flax.linen.RNN`` of a ``GRUCell`` under ``jax.jit``, on JAX's default device.

The jitted functions live at module level and take the weights as arguments, so that every shape is compiled
once; called eagerly, ``nn.RNN`` compiles its scan anew on every call.
"""

from __future__ import annotations

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from conformance.worker.api import Result, WorkerCase, assemble

# One dense layer per gate; kernels are (in, out), the transpose of the canonical (out, in).
# The hidden side has a bias in the candidate only: those of r and z go to the input side.
KERNELS = {"ir": ["W_xr"], "iz": ["W_xz"], "in": ["W_xn"], "hr": ["W_hr"], "hz": ["W_hz"], "hn": ["W_hn"]}
BIASES = {"ir": ["b_xr + b_hr"], "iz": ["b_xz + b_hz"], "in": ["b_xn"], "hn": ["b_hn"]}


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


def layer(params: Any, x: jax.Array) -> nn.RNN:
    """The layer for these weights; param_dtype is also the dtype of a state that it makes itself."""
    cell = nn.GRUCell(features=params["cell"]["hn"]["bias"].shape[0], param_dtype=x.dtype)
    return nn.RNN(cell, return_carry=True)


@jax.jit
def without_carry(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The final state and all states, from the state that the layer makes itself."""
    return layer(params, x).apply({"params": params}, x)


@jax.jit
def with_carry(params: Any, x: jax.Array, h0: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The final state and all states, from h0."""
    return layer(params, x).apply({"params": params}, x, initial_carry=h0)


def run(case: WorkerCase) -> Result:
    """Run the compiled layer and name its outputs."""
    dtype = jnp.dtype(case.dtype)
    kernels = {name: assemble(recipe, case.parameters).T.astype(dtype) for name, recipe in KERNELS.items()}
    biases = {name: assemble(recipe, case.parameters).astype(dtype) for name, recipe in BIASES.items()}
    gates = {name: {"kernel": kernel} for name, kernel in kernels.items()}
    for name, bias in biases.items():
        gates[name]["bias"] = bias
    params, x = {"cell": gates}, case.x.astype(dtype)
    # 64-bit types are off in JAX unless asked for; asked for here only, other cases run as users run them.
    with jax.enable_x64(case.dtype == "float64"):
        if case.h0 is None:
            path = "flax.linen.RNN(GRUCell)(x)"
            final_state, outputs = without_carry(params, x)
        else:
            path = "flax.linen.RNN(GRUCell)(x, initial_carry)"
            final_state, outputs = with_carry(params, x, case.h0.astype(dtype))
    container = np.float64 if outputs.dtype == np.float64 else np.float32
    return Result(
        outputs=np.asarray(outputs).astype(container),
        final_state=np.asarray(final_state).astype(container),
        dtype=outputs.dtype.name,
        path=path,
    )
