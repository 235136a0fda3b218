"""A GRU cell written from scratch: one matrix and one bias per gate, on the input beside the state.

    r  = sigmoid([x; h] W_r + b_r)
    z  = sigmoid([x; h] W_z + b_z)
    n  = tanh([x; r * h] W_h + b_h)
    h' = (1 - z) * h + z * n

The reset gate masks the state before the product, and z mixes the candidate in: z = 0 keeps the state.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.initializers import lecun_normal, zeros_init

from conformance.worker.api import Level, Prepared, Result, WorkerCase, assemble, attest

from .carries import name_of, plain
from .compat import enable_x64

# Rows of the (D + H, H) kernels, the transpose of the canonical (out, in): first those of x, then those of h.
RECIPES = {
    "gru_v1": {
        "W_r": ["W_xr", "W_hr"],
        "W_z": ["W_xz", "W_hz"],
        "W_h": ["W_xn", "W_hn"],
        "b_r": ["b_xr + b_hr"],
        "b_z": ["b_xz + b_hz"],
        "b_h": ["b_xn + b_hn"],
    },
}
# The canonical z keeps the state, this one mixes the candidate in: sigmoid(-a) = 1 - sigmoid(a).
SIGNS = {"W_z": -1.0, "b_z": -1.0}


class ConcatGRUCell(nn.RNNCellBase):
    """The cell; carry and output are the state h (..., H)."""

    features: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Any, x: Any) -> tuple[Any, Any]:
        """The next state, twice: as carry and as output."""
        width = x.shape[-1] + self.features

        def gate(name: str, inputs: Any) -> Any:
            kernel = self.param(f"W_{name}", lecun_normal(), (width, self.features), self.param_dtype)
            bias = self.param(f"b_{name}", zeros_init(), (self.features,), self.param_dtype)
            return inputs @ kernel + bias

        xh = jnp.concatenate([x, h], axis=-1)
        r = nn.sigmoid(gate("r", xh))
        z = nn.sigmoid(gate("z", xh))
        n = nn.tanh(gate("h", jnp.concatenate([x, r * h], axis=-1)))
        h = (1 - z) * h + z * n
        return h, h

    @nn.nowrap
    def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> Any:
        """Zeros in the dtype of the parameters."""
        del rng
        return jnp.zeros((*input_shape[:-1], self.features), self.param_dtype)

    @property
    def num_feature_axes(self) -> int:
        """The features are the last axis."""
        return 1


@partial(jax.jit, static_argnames="layer")
def forward(layer: nn.RNN, params: Any, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any]:
    """The final state and all states; a state or lengths of None are left to the layer."""
    return layer.apply({"params": {"cell": params}}, x, initial_carry=h0, seq_lengths=lengths)


@partial(jax.jit, static_argnames="layer")
def backward(layer: nn.RNN, params: Any, x: Any, h0: Any, lengths: Any, cotangents: Any) -> tuple[Any, Any]:
    """What `forward` gives, and the gradients of (params, x, h0)."""
    answer, pull = jax.vjp(lambda *inputs: forward(layer, *inputs, lengths), params, x, h0)
    return answer, pull(cotangents)


@partial(jax.jit, static_argnames="cell")
def stepped(cell: ConcatGRUCell, params: Any, h: Any, x: Any) -> Any:
    """One step of the cell alone."""
    return cell.apply({"params": params}, h, x)[0]


def parameters_of(case: WorkerCase) -> dict[str, Any]:
    """The cell's own parameters."""
    transposed = {name: np.transpose(value) for name, value in case.parameters.items()}
    recipes = RECIPES[case.cell]
    return {target: SIGNS.get(target, 1.0) * assemble(recipe, transposed) for target, recipe in recipes.items()}


def named(params: Any, x: Any, h0: Any, *, folded: bool) -> dict[str, Any]:
    """Arrays laid out like the inputs, by canonical name; `folded` with those that were added to another."""
    arrays = {"x": plain(x)}
    if h0 is not None:
        arrays["h0"] = plain(h0)
    for target, recipe in RECIPES["gru_v1"].items():
        own = SIGNS.get(target, 1.0) * plain(params[target])
        for terms, part in zip(recipe, np.split(own, [x.shape[-1]] if len(recipe) == 2 else []), strict=True):
            names = terms.split(" + ")
            arrays |= {name: part.T for name in names if folded or len(names) == 1}
    return arrays


def layer_of(case: WorkerCase) -> tuple[nn.RNN, str]:
    """The layer without its weights, and the path of a call of it."""
    cell = ConcatGRUCell(features=case.hidden, param_dtype=jnp.dtype(case.dtype))
    layer = nn.RNN(cell, return_carry=True, reverse=case.reverse, keep_order=case.reverse)
    arguments = "x" if case.h0 is None else "x, initial_carry"
    return layer, f"flax.linen.RNN({type(cell).__name__})({arguments})"


def inputs_of(case: WorkerCase) -> Any:
    """(params, x, h0) in the dtype of the case; h0 is None where the state is omitted."""
    dtype = jnp.dtype(case.dtype)
    return jax.tree_util.tree_map(lambda array: array.astype(dtype), (parameters_of(case), case.x, case.h0))


def run(case: WorkerCase) -> Result:
    """Run the compiled layer and name its outputs."""
    layer, path = layer_of(case)
    inputs = inputs_of(case)
    gradients = {}
    # 64-bit types are off in JAX unless asked for; asked for here only, other cases run as users run them.
    with enable_x64(case.dtype == "float64"):
        if case.inputs_back:
            inputs = jax.device_put(inputs)  # otherwise the call does it, in less time
        if case.cotangents is None:
            final, outputs = forward(layer, *inputs, case.lengths)
        else:
            wanted = {key: array.astype(jnp.dtype(case.dtype)) for key, array in case.cotangents.items()}
            cotangents = (wanted["final_state"], wanted["outputs"])
            (final, outputs), pulled = backward(layer, *inputs, case.lengths, cotangents)
            gradients = named(*pulled, folded=True)
    return Result(
        outputs=plain(outputs),
        final_state=plain(final),
        dtype=name_of(outputs.dtype),
        path=attest(path, case.features),
        gradients=gradients,
        inputs_after=named(*inputs, folded=False) if case.inputs_back else {},
    )


def prepare(case: WorkerCase, level: Level) -> Prepared:
    """The compiled layer, or T compiled steps of the cell, with weights and inputs on the device."""
    layer, path = layer_of(case)
    with enable_x64(case.dtype == "float64"):
        params, x, h0 = jax.device_put(inputs_of(case))
        lengths = case.lengths
    cell = layer.cell

    def whole() -> Any:
        with enable_x64(case.dtype == "float64"):
            return jax.block_until_ready(forward(layer, params, x, h0, lengths)[1])

    def by_steps() -> Any:
        with enable_x64(case.dtype == "float64"):
            h = cell.initialize_carry(None, x[..., 0, :].shape) if h0 is None else h0
            states = []
            for step in range(x.shape[-2]):
                h = stepped(cell, params, h, x[..., step, :])
                states.append(h)
            return jax.block_until_ready(states)

    if level == "layer":
        return Prepared(call=whole, path=attest(path, case.features), outputs=plain(whole()))
    path = f"flax.linen {type(cell).__name__}, T jitted steps"
    outputs = np.stack([plain(h) for h in by_steps()], axis=-2)
    return Prepared(call=by_steps, path=attest(path, case.features), outputs=outputs)
