"""Flax linen: ``flax.linen.RNN`` of a cell, or ``Bidirectional`` of two, under ``jax.jit``, on JAX's default device.

The jitted functions live at module level and take the layer as a static argument and the weights as arrays, so that
every shape is compiled once; called eagerly, ``nn.RNN`` compiles its scan anew on every call.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from flax.traverse_util import unflatten_dict

from conformance.worker.api import Result, WorkerCase, assemble, attest, block, distribute, prefix_of

# Older releases of JAX have it under another name only.
if hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:
    from jax.experimental import enable_x64

CLASSES = {"gru": "GRUCell", "lstm": "LSTMCell", "elman": "SimpleCell", "elman_relu": "SimpleCell"}
ACTIVATIONS = {"elman": nn.tanh, "elman_relu": nn.relu}
# One dense layer per gate; kernels are (in, out), the transpose of the canonical (out, in).
ELMAN = {"i.kernel": ["W_x"], "h.kernel": ["W_h"], "i.bias": ["b_x + b_h"]}
RECIPES = {
    # The hidden side has a bias in the candidate only: those of r and z go to the input side.
    "gru": {
        "ir.kernel": ["W_xr"],
        "iz.kernel": ["W_xz"],
        "in.kernel": ["W_xn"],
        "hr.kernel": ["W_hr"],
        "hz.kernel": ["W_hz"],
        "hn.kernel": ["W_hn"],
        "ir.bias": ["b_xr + b_hr"],
        "iz.bias": ["b_xz + b_hz"],
        "in.bias": ["b_xn"],
        "hn.bias": ["b_hn"],
    },
    # The only biases are on the hidden side.
    "lstm": {
        "ii.kernel": ["W_xi"],
        "if.kernel": ["W_xf"],
        "ig.kernel": ["W_xg"],
        "io.kernel": ["W_xo"],
        "hi.kernel": ["W_hi"],
        "hf.kernel": ["W_hf"],
        "hg.kernel": ["W_hg"],
        "ho.kernel": ["W_ho"],
        "hi.bias": ["b_xi + b_hi"],
        "hf.bias": ["b_xf + b_hf"],
        "hg.bias": ["b_xg + b_hg"],
        "ho.bias": ["b_xo + b_ho"],
    },
    "elman": ELMAN,
    "elman_relu": ELMAN,
}
# Where the variables of each direction's cell are.
PLACES = {1: ["cell"], 2: ["forward_rnn.cell", "backward_rnn.cell"]}


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


@partial(jax.jit, static_argnames="layer")
def forward(layer: nn.Module, params: Any, x: Any, carry: Any, lengths: Any) -> tuple[Any, jax.Array]:
    """The final carry and all states; a carry or lengths of None are left to the layer."""
    return layer.apply({"params": unflatten_dict(params, sep=".")}, x, initial_carry=carry, seq_lengths=lengths)


@partial(jax.jit, static_argnames="layer")
def backward(layer: nn.Module, params: Any, x: Any, carry: Any, lengths: Any, cotangents: Any) -> tuple[Any, Any]:
    """What `forward` gives, and the gradients of (params, x, carry)."""
    answer, pull = jax.vjp(lambda *inputs: forward(layer, *inputs, lengths), params, x, carry)
    return answer, pull(cotangents)


def build(case: WorkerCase) -> tuple[nn.Module, str]:
    """The layer without its weights, and the name of its cell, read from the cell.

    param_dtype is also the dtype of a state that the layer makes itself.
    """
    options: dict[str, Any] = {"features": case.hidden, "param_dtype": jnp.dtype(case.dtype)}
    if case.cell in ACTIVATIONS:
        options["activation_fn"] = ACTIVATIONS[case.cell]
    cell = getattr(nn, CLASSES[case.cell])(**options)
    name = type(cell).__name__ + (f"[{cell.activation_fn.__name__}]" if case.cell in ACTIVATIONS else "")
    if case.directions == 2:
        both = [nn.RNN(each, return_carry=True) for each in (cell, cell.copy())]
        return nn.Bidirectional(*both, return_carry=True), name
    return nn.RNN(cell, return_carry=True, reverse=case.reverse, keep_order=case.reverse), name


def pack(h: Any, c: Any, directions: int) -> Any:
    """The carry for a state h and memory c: of a linen LSTM it is (c, h), of both directions a pair."""
    split = partial(np.split, indices_or_sections=directions, axis=-1)
    carries = split(h) if c is None else list(zip(split(c), split(h), strict=True))
    return carries[0] if directions == 1 else tuple(carries)


def unpack(carry: Any, cell: str, directions: int) -> tuple[Any, Any]:
    """The state h and memory c (None for other cells) in a carry, or in its gradient."""
    carries = [carry] if directions == 1 else carry
    join = partial(np.concatenate, axis=-1)
    if cell == "lstm":
        return join([h for _, h in carries]), join([c for c, _ in carries])
    return join(carries), None


def plain(array: Any) -> Any:
    """A NumPy array that holds the numbers exactly, in float64 or else float32; None stays None."""
    if array is None:
        return None
    return np.asarray(array).astype(np.float64 if array.dtype == np.float64 else np.float32)


def named(case: WorkerCase, params: Any, x: Any, carry: Any, *, folded: bool) -> dict[str, Any]:
    """Arrays laid out like the inputs, by canonical name; `folded` with those that were added to another."""
    arrays = {"x": plain(x)}
    if carry is not None:
        h, c = unpack(carry, case.cell, case.directions)
        arrays |= {name: plain(state) for name, state in (("h0", h), ("c0", c)) if state is not None}
    for direction, place in enumerate(PLACES[case.directions]):
        for target, recipe in RECIPES[case.cell].items():
            parts = distribute(recipe, plain(params[f"{place}.{target}"]).T)
            kept = set(parts) if folded else {terms for terms in recipe if "+" not in terms}
            arrays |= {prefix_of(0, direction) + name: part for name, part in parts.items() if name in kept}
    return arrays


def run(case: WorkerCase) -> Result:
    """Run the compiled layer and name its outputs."""
    dtype = jnp.dtype(case.dtype)
    layer, name = build(case)
    params = {}
    for direction, place in enumerate(PLACES[case.directions]):
        p = block(case.parameters, 0, direction)
        params |= {f"{place}.{target}": assemble(recipe, p).T for target, recipe in RECIPES[case.cell].items()}
    carry = None
    path = "flax.linen.RNN({layer})(x)"
    if case.h0 is not None:
        carry = pack(case.h0, case.c0, case.directions)
        path = "flax.linen.RNN({layer})(x, initial_carry)"
    inputs = jax.tree.map(lambda array: array.astype(dtype), (params, case.x, carry))
    gradients = {}
    # 64-bit types are off in JAX unless asked for; asked for here only, other cases run as users run them.
    with enable_x64(case.dtype == "float64"):
        if case.inputs_back:
            inputs = jax.device_put(inputs)  # otherwise the call does it, in less time
        if case.cotangents is None:
            final, outputs = forward(layer, *inputs, case.lengths)
        else:
            wanted = {key: array.astype(dtype) for key, array in case.cotangents.items()}
            wanted_final = pack(wanted["final_state"], wanted.get("final_cell"), case.directions)
            answer, pulled = backward(layer, *inputs, case.lengths, (wanted_final, wanted["outputs"]))
            final, outputs = answer
            gradients = named(case, *pulled, folded=True)
    final_state, final_cell = unpack(final, case.cell, case.directions)
    return Result(
        outputs=plain(outputs),
        final_state=plain(final_state),
        final_cell=plain(final_cell),
        dtype=outputs.dtype.name,
        path=attest(path.format(layer=name), case.features),
        gradients=gradients,
        inputs_after=named(case, *inputs, folded=False) if case.inputs_back else {},
    )
