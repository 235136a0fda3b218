"""MLX: ``mlx.nn.GRU`` on the default device, evaluated on the main thread.

Both variants are this one call; which of them runs is decided by the spelling of the initial state, and
attested by the branch that makes the call.
"""

from __future__ import annotations

import os

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from conformance.worker.api import Result, WorkerCase, assemble

# Gates r, z, n in rows, matrices (out, in). One bias serves both sides, except in the candidate.
WEIGHTS = {
    "Wx": ["W_xr", "W_xz", "W_xn"],
    "Wh": ["W_hr", "W_hz", "W_hn"],
    "b": ["b_xr + b_hr", "b_xz + b_hz", "b_xn"],
    "bhn": ["b_hn"],
}


def facts() -> dict[str, str]:
    """Version and device as MLX reports them, and the variable that governs its reduced-precision products."""
    return {
        "mlx": mx.__version__,
        "device": str(mx.default_device()),
        "blas": "not reported by MLX",
        "MLX_ENABLE_TF32": os.environ.get("MLX_ENABLE_TF32", "not set"),
    }


def run(case: WorkerCase) -> Result:
    """Load the weights into an ``nn.GRU``, run it, and name its outputs."""
    dtype = getattr(mx, case.dtype)

    def array(values: np.ndarray) -> mx.array:
        # With the dtype spelled out: mx.array() of a float64 array is a float32 one otherwise.
        return mx.array(values, dtype=dtype)

    gru = nn.GRU(case.x.shape[-1], case.hidden)
    weights = [(name, array(assemble(recipe, case.parameters))) for name, recipe in WEIGHTS.items()]
    gru.load_weights(weights, strict=True)
    if case.h0 is None:
        path = "mlx.nn.GRU(x)"
        outputs = gru(array(case.x))
    else:
        # x and h0 have the same leading sizes, as they must: MLX broadcasts a state of another rank silently.
        path = "mlx.nn.GRU(x, hidden)"
        outputs = gru(array(case.x), hidden=array(case.h0))
    mx.eval(outputs)
    states = np.array(outputs.astype(mx.float32))  # exact: the variants offer no wider dtype
    return Result(
        outputs=states,
        final_state=states[..., -1, :],  # the layer returns the states only; the last one is the final one
        dtype=str(outputs.dtype).rpartition(".")[2],
        path=path,
    )
