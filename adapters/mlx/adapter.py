"""MLX: ``mlx.nn.GRU``, ``LSTM`` and ``RNN`` on the default device, evaluated on the main thread.

``none`` and ``zeros`` are one call: which of them runs is decided by the spelling of the initial state. ``legacy`` and
``fast`` are that call in processes with ``MLX_RNN_IMPL`` set, ``compiled`` is it under ``mx.compile``, and
``fast-cell`` is a loop of this adapter over fused cells. Released MLX has no fused cells: there ``fast`` is that loop,
too, over kernels that this adapter brings along. Every path is attested by what ran, see `layers` and `loops`.
"""

from __future__ import annotations

import os
import shutil

import mlx.core as mx
import numpy as np

from conformance.worker.api import Level, Prepared, Result, WorkerCase, attest, distribute

from . import minimal
from .fused import NAMES, WATCHES, switch
from .graph import COMPILER, evaluate
from .layers import Compiled, Fast, Layer, Legacy
from .loops import native, portable
from .timing import timed
from .way import Arrays, Ran, Way

# Gates in rows, matrices (out, in). One bias serves both sides, except in the candidate of the GRU.
ELMAN = {"Wxh": ["W_x"], "Whh": ["W_h"], "bias": ["b_x + b_h"]}
RECIPES = {
    "gru": {
        "Wx": ["W_xr", "W_xz", "W_xn"],
        "Wh": ["W_hr", "W_hz", "W_hn"],
        "b": ["b_xr + b_hr", "b_xz + b_hz", "b_xn"],
        "bhn": ["b_hn"],
    },
    "lstm": {
        "Wx": ["W_xi", "W_xf", "W_xg", "W_xo"],
        "Wh": ["W_hi", "W_hf", "W_hg", "W_ho"],
        "bias": ["b_xi + b_hi", "b_xf + b_hf", "b_xg + b_hg", "b_xo + b_ho"],
    },
    "elman": ELMAN,
    "elman_relu": ELMAN,
}


def facts() -> dict[str, str]:
    """Versions, device and switches as MLX reports them, and what decides which of its code runs."""
    found = [name for cell, name in NAMES.items() if WATCHES[cell].native is not None]
    return {
        "mlx": mx.__version__,
        "device": str(mx.default_device()),
        "blas": "not reported by MLX",
        "MLX_ENABLE_TF32": os.environ.get("MLX_ENABLE_TF32", "not set"),
        "MLX_RNN_IMPL": os.environ.get("MLX_RNN_IMPL", "not set"),
        "nn.get_rnn_implementation()": switch() or "no such switch in this release",
        "fused cells in mx.fast": ", ".join(found) or "none in this release",
        "C++ compiler": shutil.which(COMPILER) or f"no {COMPILER} on PATH",
    }


def way_of(case: WorkerCase, weights: Arrays) -> Way:
    """The variant's way to compute, with these weights."""
    match case.variant:
        case "legacy":
            return Legacy(case, weights)
        case "compiled":
            return Compiled(case, weights)
        case "fast" if switch() is not None or WATCHES[case.cell].native is not None:
            return Fast(case, weights)
        case "fast":
            return portable(case, weights)
        case "fast-cell":
            return native(case, weights) or portable(case, weights)
        case _:
            return Layer(case, weights)


def run(case: WorkerCase) -> Result:
    """Load the weights, run the variant's way, and name its outputs."""
    if case.variant in minimal.EVALUATIONS:
        return minimal.run(case)
    inputs, weights = tensors(case)
    way = way_of(case, weights)
    gradients: Arrays = {}
    if case.cotangents is None:
        observed = way.forward({**inputs, **weights})
    else:
        cotangents = {key: tensor(value, case) for key, value in case.cotangents.items()}
        observed, gradients = way.gradients({**inputs, **weights}, cotangents)
    path = way.path(Ran(inputs, observed, gradients)).format(layer=way.name)
    evaluate(observed, gradients)
    after = {}
    if case.inputs_back:
        unfolded = {term for recipe in RECIPES[case.cell].values() for term in recipe if "+" not in term}
        held = canonical({**inputs, **way.weights()}, case)
        after = {key: value for key, value in held.items() if key in unfolded or key in inputs}
    return Result(
        dtype=str(observed["outputs"].dtype).rpartition(".")[2],
        path=attest(path, case.features),
        **{key: array(value) for key, value in observed.items()},
        gradients=canonical(gradients, case),
        inputs_after=after,
    )


def prepare(case: WorkerCase, level: Level) -> Prepared:
    """The variant's call, ready to be timed; see `timing`."""
    inputs, weights = tensors(case)
    way = way_of(case, weights)
    call, path = timed(way, inputs, weights, level)
    return Prepared(call=call, path=attest(path.format(layer=way.name), case.features), outputs=array(call()))


def tensors(case: WorkerCase) -> tuple[Arrays, Arrays]:
    """Inputs and weights by name, as MLX's own arrays."""
    weights = {key: tensor(case.assembled(recipe), case) for key, recipe in RECIPES[case.cell].items()}
    x = mx.swapaxes(tensor(case.x.swapaxes(0, 1), case), 0, 1) if case.strided else tensor(case.x, case)
    states = {"h0": case.h0, "c0": case.c0}
    return {"x": x} | {key: tensor(value, case) for key, value in states.items() if value is not None}, weights


def tensor(values: np.ndarray, case: WorkerCase) -> mx.array:
    """An array of MLX in the case's dtype, spelled out: mx.array() of a float64 array is a float32 one otherwise."""
    return mx.array(values, dtype=getattr(mx, case.dtype))


def array(values: mx.array) -> np.ndarray:
    """To NumPy in float32, which is exact: the variants offer no wider dtype."""
    return np.array(values if values.dtype == mx.float32 else values.astype(mx.float32))


def canonical(arrays: Arrays, case: WorkerCase) -> dict[str, np.ndarray]:
    """Inputs and parameters, or their gradients, in canonical form."""
    named = {key: array(value) for key, value in arrays.items()}
    for key, recipe in RECIPES[case.cell].items():
        if key in named:
            named |= distribute(recipe, named.pop(key))
    return named
