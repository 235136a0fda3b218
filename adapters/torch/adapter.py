"""PyTorch: the layers of ``torch.nn``, its cells step by step, and minimal cells in plain PyTorch, on the CPU."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from conformance.worker.api import Level, Prepared, Result, WorkerCase, attest, distribute, prefix_of

from . import minimal

# PyTorch says once per process which implementation it takes for the layer with projections: nothing is wrong.
warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")

CLASSES = {
    "layer": {"gru": "GRU", "lstm": "LSTM", "lstm_projection": "LSTM", "elman": "RNN", "elman_relu": "RNN"},
    "cell": {"gru": "GRUCell", "lstm": "LSTMCell", "elman": "RNNCell", "elman_relu": "RNNCell"},
}
# Gates in rows, matrices (out, in), both biases kept: exactly the canonical form, stacked.
LSTM = {
    "weight_ih": ["W_xi", "W_xf", "W_xg", "W_xo"],
    "weight_hh": ["W_hi", "W_hf", "W_hg", "W_ho"],
    "bias_ih": ["b_xi", "b_xf", "b_xg", "b_xo"],
    "bias_hh": ["b_hi", "b_hf", "b_hg", "b_ho"],
}
ELMAN = {"weight_ih": ["W_x"], "weight_hh": ["W_h"], "bias_ih": ["b_x"], "bias_hh": ["b_h"]}
RECIPES = {
    "gru": {
        "weight_ih": ["W_xr", "W_xz", "W_xn"],
        "weight_hh": ["W_hr", "W_hz", "W_hn"],
        "bias_ih": ["b_xr", "b_xz", "b_xn"],
        "bias_hh": ["b_hr", "b_hz", "b_hn"],
    },
    "lstm": LSTM,
    "lstm_projection": {**LSTM, "weight_hr": ["W_p"]},
    "elman": ELMAN,
    "elman_relu": ELMAN,
}


def facts() -> dict[str, str]:
    """Version and device as PyTorch reports them, and its switches for products of reduced precision."""
    return {
        "torch": torch.__version__,
        "device": str(torch.get_default_device()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda_matmul_allow_tf32": str(torch.backends.cuda.matmul.allow_tf32),
        "blas": next(
            (w for w in torch.__config__.show().replace(",", " ").split() if w.startswith("BLAS_INFO")), "not reported"
        ),
        "mkldnn": str(torch.backends.mkldnn.is_available()),
    }


def run(case: WorkerCase) -> Result:
    """Run the variant and name its outputs; gradients are recorded only where they are wanted."""
    return run_minimal(case) if case.variant in minimal.EVALUATIONS else run_module(case)


def run_module(case: WorkerCase) -> Result:
    """Load the weights into a module of PyTorch and run it."""
    with torch.set_grad_enabled(case.cotangents is not None):
        # What is given back, or differentiated, may be looked at after the next case.
        plain = case.cotangents is None and not case.inputs_back
        module, layer = build(case, made=kept if plain else make)
        fill(module, case)
        inputs = load(case)
        call = {"layer": call_layer, "cell": call_cell}[case.variant]
        observed, path = call(module, inputs, case)
        gradients = {}
        if case.cotangents is not None:
            gradients = differentiate({**inputs, **dict(module.named_parameters())}, observed, case)
    return Result(
        dtype=str(observed["outputs"].dtype).rpartition(".")[2],
        path=attest(path.format(layer=layer), case.features),
        **{name: array(value) for name, value in observed.items()},
        gradients=canonical(gradients, case),
        inputs_after=canonical({**inputs, **module.state_dict()}, case) if case.inputs_back else {},
    )


def run_minimal(case: WorkerCase) -> Result:
    """Run the equations of a minGRU or minLSTM, whose parameters keep their canonical names."""
    with torch.set_grad_enabled(case.cotangents is not None):
        weights = {name: tensor(value, case) for name, value in case.parameters.items()}
        inputs = load(case)
        leaves = {**inputs, **{k: v.requires_grad_(torch.is_grad_enabled()) for k, v in weights.items()}}
        observed, path = minimal.call(case.variant, case.cell, weights, inputs)
        gradients = {} if case.cotangents is None else differentiate(leaves, observed, case)

    def named(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        return {name: array(join(value) if name == "h0" else value) for name, value in tensors.items()}

    return Result(
        dtype=str(observed["outputs"].dtype).rpartition(".")[2],
        path=attest(path, case.features),
        **{name: array(value) for name, value in observed.items()},
        gradients=named(gradients),
        inputs_after=named(leaves) if case.inputs_back else {},
    )


def make(name: str, *sizes: int, **options: Any) -> torch.nn.Module:
    """A new module of ``torch.nn``, with random parameters."""
    return getattr(torch.nn, name)(*sizes, **options)


# Making a module, with parameters that are replaced at once, takes longer than running it.
kept = cache(make)


def build(case: WorkerCase, made: Any = make) -> tuple[torch.nn.Module, str]:
    """The module, and its name as the module itself tells it; made: how one of these sizes is had."""
    hidden = case.hidden
    options: dict[str, Any] = {"dtype": getattr(torch, case.dtype)}
    if case.variant == "layer":
        options |= {"batch_first": True, "num_layers": case.layers, "bidirectional": case.directions == 2}
    if case.cell in ("elman", "elman_relu"):
        options["nonlinearity"] = {"elman": "tanh", "elman_relu": "relu"}[case.cell]
    if case.cell == "lstm_projection":
        options["proj_size"], hidden = case.parameters["W_p"].shape
    module = made(CLASSES[case.variant][case.cell], case.x.shape[-1], hidden, **options)
    name = f"torch.nn.{type(module).__name__}"
    if isinstance(module, (torch.nn.RNN, torch.nn.RNNCell)):
        return module, f"{name}[{module.nonlinearity}]"
    return module, f"{name}[proj_size]" if getattr(module, "proj_size", 0) else name


@cache
def recipes(cell: str, variant: str, layers: int, directions: int) -> dict[str, tuple[list[str], int, int]]:
    """Of every parameter of the module the recipe, and the layer and direction that its arrays are of."""
    if variant == "cell":
        return {name: (recipe, 0, 0) for name, recipe in RECIPES[cell].items()}
    return {
        f"{name}_l{layer}{'_reverse' if direction else ''}": (recipe, layer, direction)
        for layer in range(layers)
        for direction in range(directions)
        for name, recipe in RECIPES[cell].items()
    }


def recipes_of(case: WorkerCase) -> dict[str, tuple[list[str], int, int]]:
    """The recipes of the module that a case asks for."""
    return recipes(case.cell, case.variant, case.layers, case.directions)


@torch.no_grad()
def fill(module: torch.nn.Module, case: WorkerCase) -> None:
    """Copy the weights of a case into the module; ValueError where the module has others, or of other shapes.

    As ``load_state_dict`` does, in a fifth of the time.
    """
    wanted, held = recipes_of(case), module._parameters  # noqa: SLF001 - named_parameters() walks modules within modules
    if wanted.keys() != held.keys():
        raise ValueError(f"{type(module).__name__} has the parameters {sorted(held)}, wanted {sorted(wanted)}")
    for name, parameter in held.items():
        values = torch.from_numpy(case.assembled(*wanted[name]))
        if values.shape != parameter.shape:
            raise ValueError(f"{name} has shape {tuple(parameter.shape)}, wanted {tuple(values.shape)}")
        parameter.copy_(values)


def tensor(values: np.ndarray, case: WorkerCase) -> torch.Tensor:
    """A copy in the case's dtype, laid out in memory like `values`."""
    copy = torch.tensor(values)
    dtype = getattr(torch, case.dtype)
    return copy if copy.dtype == dtype else copy.to(dtype)


def array(values: torch.Tensor) -> np.ndarray:
    """To NumPy, which has no bfloat16: what is narrower than float32 comes in float32."""
    values = values.detach()
    return (values if values.dtype in (torch.float32, torch.float64) else values.to(torch.float32)).numpy()


def load(case: WorkerCase) -> dict[str, torch.Tensor]:
    """The inputs as the layers take them: x (B, T, D) or (T, D), states (layers * directions, B, H) or (..., H)."""
    x = tensor(case.x.swapaxes(0, 1), case).transpose(0, 1) if case.strided else tensor(case.x, case)
    inputs = {"x": x}
    for name, state in {"h0": case.h0, "c0": case.c0}.items():
        if state is not None:
            parts = case.layers * case.directions
            blocks = state[None] if parts == 1 else np.stack(np.split(state, parts, axis=-1))
            inputs[name] = tensor(blocks, case)
    if torch.is_grad_enabled():
        for value in inputs.values():
            value.requires_grad_()
    return inputs


def join(states: torch.Tensor) -> torch.Tensor:
    """States (layers * directions, B, H) side by side: (B, layers * directions * H)."""
    return states[0] if len(states) == 1 else torch.cat(states.unbind(), dim=-1)


def call_layer(
    module: torch.nn.Module, inputs: dict[str, torch.Tensor], case: WorkerCase
) -> tuple[dict[str, torch.Tensor], str]:
    """``module(x)`` or ``module(x, hx)``; rows of different lengths are packed, and padded again with zeros."""
    x = inputs["x"]
    if case.lengths is not None:
        x = pack_padded_sequence(x, torch.tensor(case.lengths), batch_first=True, enforce_sorted=False)
    if "h0" not in inputs:
        path = "{layer}(x)"
        outputs, final = module(x)
    else:
        path = "{layer}(x, hx)"
        outputs, final = module(x, (inputs["h0"], inputs["c0"]) if "c0" in inputs else inputs["h0"])
    if case.lengths is not None:
        outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=case.x.shape[1])
    final_state, final_cell = final if isinstance(final, tuple) else (final, None)
    observed = {"outputs": outputs, "final_state": join(final_state)}
    return observed if final_cell is None else {**observed, "final_cell": join(final_cell)}, path


def call_cell(
    module: torch.nn.Module, inputs: dict[str, torch.Tensor], case: WorkerCase
) -> tuple[dict[str, torch.Tensor], str]:
    """``module`` over the time axis: x_t (B, D) or (D,), its states (B, H) or (H,)."""
    if "h0" not in inputs:
        path = "{layer}, first called without hx"
        hx = None
    else:
        path = "{layer}, first called with hx"
        hx = (inputs["h0"][0], inputs["c0"][0]) if "c0" in inputs else inputs["h0"][0]
    states = []
    for x_t in inputs["x"].unbind(-2):
        hx = module(x_t) if hx is None else module(x_t, hx)
        states.append(hx)
    if case.cell == "lstm":
        outputs, cells = (torch.stack(list(steps), dim=-2) for steps in zip(*states, strict=True))
        return {"outputs": outputs, "final_state": hx[0], "cells": cells, "final_cell": hx[1]}, path
    return {"outputs": torch.stack(states, dim=-2), "final_state": hx}, path


def differentiate(
    leaves: dict[str, torch.Tensor], observed: dict[str, torch.Tensor], case: WorkerCase
) -> dict[str, torch.Tensor]:
    """Gradients by the names of the inputs and parameters."""
    total = sum((tensor(values, case) * observed[name]).sum() for name, values in case.cotangents.items())
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def canonical(tensors: dict[str, torch.Tensor], case: WorkerCase) -> dict[str, np.ndarray]:
    """Inputs and parameters, or their gradients, in canonical form."""
    arrays = {name: array(join(value) if name in ("h0", "c0") else value) for name, value in tensors.items()}
    for name, (recipe, layer, direction) in recipes_of(case).items():
        if name in arrays:
            own = distribute(recipe, arrays.pop(name))
            arrays |= {prefix_of(layer, direction) + term: value for term, value in own.items()}
    return arrays


def prepare(case: WorkerCase, level: Level) -> Prepared:
    """A call of the module that `run` would make, without autograd; the cell's steps are its layer, too."""
    if level == "cell" and case.variant != "cell":
        raise ValueError(f"torch:{case.variant} has no cell to be timed step by step; torch:cell has")
    with torch.inference_mode():
        module, layer = build(case)
        fill(module, case)
        with torch.set_grad_enabled(False):
            inputs = load(case)
        make = {"layer": call_layer, "cell": call_cell}[case.variant]

        @torch.inference_mode()
        def call() -> dict[str, torch.Tensor]:
            return make(module, inputs, case)[0]

        observed, path = make(module, inputs, case)
    return Prepared(call=call, path=attest(path.format(layer=layer), case.features), outputs=array(observed["outputs"]))
