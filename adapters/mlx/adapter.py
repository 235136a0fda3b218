"""MLX: ``mlx.nn.GRU``, ``LSTM`` and ``RNN`` on the default device, evaluated on the main thread.

Both variants are this one call; which of them runs is decided by the spelling of the initial state, and
attested by the branch that makes the call.
"""

from __future__ import annotations

import os
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from conformance.worker.api import Result, WorkerCase, assemble, attest, distribute

from . import minimal

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
    """Version and device as MLX reports them, and the variable that governs its reduced-precision products."""
    return {
        "mlx": mx.__version__,
        "device": str(mx.default_device()),
        "blas": "not reported by MLX",
        "MLX_ENABLE_TF32": os.environ.get("MLX_ENABLE_TF32", "not set"),
    }


def run(case: WorkerCase) -> Result:
    """Load the weights into a layer, run it, and name its outputs."""
    if case.variant in minimal.EVALUATIONS:
        return minimal.run(case)
    dtype = getattr(mx, case.dtype)

    def tensor(values: np.ndarray) -> mx.array:
        # With the dtype spelled out: mx.array() of a float64 array is a float32 one otherwise.
        return mx.array(values, dtype=dtype)

    module, layer = build(case)
    weights = {key: tensor(assemble(recipe, case.parameters)) for key, recipe in RECIPES[case.cell].items()}
    module.load_weights(list(weights.items()), strict=True)
    x = mx.swapaxes(tensor(case.x.swapaxes(0, 1)), 0, 1) if case.strided else tensor(case.x)
    states = {"h0": case.h0, "c0": case.c0}
    inputs = {"x": x} | {key: tensor(value) for key, value in states.items() if value is not None}
    gradients: dict[str, mx.array] = {}
    if case.cotangents is None:
        observed, path = call(module, inputs)
    else:
        cotangents = {key: tensor(value) for key, value in case.cotangents.items()}

        def total(leaves: dict[str, mx.array]) -> tuple[mx.array, dict[str, mx.array], str]:
            module.update({key: leaves[key] for key in weights})
            observed, path = call(module, leaves)
            return sum((value * observed[key]).sum() for key, value in cotangents.items()), observed, path

        (_, observed, path), gradients = mx.value_and_grad(total)({**inputs, **weights})
    mx.eval(observed, gradients)
    after = {}
    if case.inputs_back:
        unfolded = {term for recipe in RECIPES[case.cell].values() for term in recipe if "+" not in term}
        held = canonical({**inputs, **module.parameters()}, case)
        after = {key: value for key, value in held.items() if key in unfolded or key in inputs}
    return Result(
        dtype=str(observed["outputs"].dtype).rpartition(".")[2],
        path=attest(path.format(layer=layer), case.features),
        **{key: array(value) for key, value in observed.items()},
        gradients=canonical(gradients, case),
        inputs_after=after,
    )


def build(case: WorkerCase) -> tuple[Any, str]:
    """The module, and its name as the module itself tells it."""
    kind = {"gru": nn.GRU, "lstm": nn.LSTM, "elman": nn.RNN, "elman_relu": nn.RNN}[case.cell]
    options = {"elman": {"nonlinearity": mx.tanh}, "elman_relu": {"nonlinearity": nn.relu}}.get(case.cell, {})
    module = kind(case.x.shape[-1], case.hidden, **options)
    layer = f"mlx.nn.{type(module).__name__}"
    return module, f"{layer}[{module.nonlinearity.__name__}]" if options else layer


def call(module: Any, inputs: dict[str, mx.array]) -> tuple[dict[str, mx.array], str]:
    """Every state by name, and the path. The layers return all states; the last ones are the final ones."""
    if "h0" not in inputs:
        path = "{layer}(x)"
        states = module(inputs["x"])
    else:
        # x and h0 have the same leading sizes, as they must: MLX broadcasts a state of another rank silently.
        path = "{layer}(x, hidden)"
        memory = {"cell": inputs["c0"]} if "c0" in inputs else {}
        states = module(inputs["x"], hidden=inputs["h0"], **memory)
    if isinstance(module, nn.LSTM):
        outputs, cells = states
        observed = {"outputs": outputs, "cells": cells, "final_cell": cells[..., -1, :]}
    else:
        observed = {"outputs": states}
    return {**observed, "final_state": observed["outputs"][..., -1, :]}, path


def array(values: mx.array) -> np.ndarray:
    """To NumPy in float32, which is exact: the variants offer no wider dtype."""
    return np.array(values.astype(mx.float32))


def canonical(arrays: dict[str, mx.array], case: WorkerCase) -> dict[str, np.ndarray]:
    """Inputs and parameters, or their gradients, in canonical form."""
    named = {key: array(value) for key, value in arrays.items()}
    for key, recipe in RECIPES[case.cell].items():
        if key in named:
            named |= distribute(recipe, named.pop(key))
    return named
