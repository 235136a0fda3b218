"""Flax NNX: a cell closed over by ``jax.lax.scan``, and ``flax.nnx.RNN``, under ``jax.jit``, on JAX's default device.

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
from flax.traverse_util import unflatten_dict

from conformance.worker.api import Result, WorkerCase, assemble, attest, block, distribute, prefix_of

# Older releases of JAX have it under another name only.
if hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:
    from jax.experimental import enable_x64

CLASSES = {"gru": "GRUCell", "lstm": "OptimizedLSTMCell", "elman": "SimpleCell", "elman_relu": "SimpleCell"}
ACTIVATIONS = {"elman": nnx.tanh, "elman_relu": nnx.relu}
# Gates in columns: kernels are (in, gates out), the transpose of the stacked canonical matrices.
ELMAN = {"dense_i.kernel": ["W_x"], "dense_h.kernel": ["W_h"], "dense_i.bias": ["b_x + b_h"]}
RECIPES = {
    # The input side has the only bias: there is no place for b_hn (google/flax issue 5594).
    "gru": {
        "dense_i.kernel": ["W_xr", "W_xz", "W_xn"],
        "dense_h.kernel": ["W_hr", "W_hz", "W_hn"],
        "dense_i.bias": ["b_xr + b_hr", "b_xz + b_hz", "b_xn"],
    },
    # The hidden side has the only bias.
    "lstm": {
        "dense_i.kernel": ["W_xi", "W_xf", "W_xg", "W_xo"],
        "dense_h.kernel": ["W_hi", "W_hf", "W_hg", "W_ho"],
        "dense_h.bias": ["b_xi + b_hi", "b_xf + b_hf", "b_xg + b_hg", "b_xo + b_ho"],
    },
    "elman": ELMAN,
    "elman_relu": ELMAN,
}


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
def definition(cell: str, features: int, hidden: int, dtype: str) -> tuple[nnx.GraphDef, str]:
    """The cell without its weights, and its name, read from the cell.

    Built from zeros: the default initialisers cost a compilation per size, and the orthogonal one needs a QR
    factorisation, which JAX does not have in float16. GRUCell and OptimizedLSTMCell compute in the dtype of their
    arrays anyway; SimpleCell in float32 unless told otherwise.
    """
    zeros = nnx.initializers.zeros_init()
    options = {"activation_fn": ACTIVATIONS[cell], "dtype": dtype} if cell in ACTIVATIONS else {}
    module = getattr(nnx, CLASSES[cell])(
        features,
        hidden,
        kernel_init=zeros,
        recurrent_kernel_init=zeros,
        param_dtype=dtype,
        rngs=nnx.Rngs(0),
        **options,
    )
    name = type(module).__name__ + (f"[{module.activation_fn.__name__}]" if cell in ACTIVATIONS else "")
    return nnx.split(module)[0], name


def lax_scan(cell: nnx.Module, x: jax.Array, carry: Any) -> tuple[tuple[Any, jax.Array], Any]:
    """The final carry and all states, and all memories of an LSTM, whose carry is (c, h)."""

    def step(carry: Any, x_t: jax.Array) -> tuple[Any, Any]:
        carry, h = cell(carry, x_t)
        return carry, (h, carry[0] if isinstance(carry, tuple) else None)

    final, stacked = jax.lax.scan(step, carry, jnp.moveaxis(x, -2, 0))
    outputs, cells = jax.tree.map(lambda array: jnp.moveaxis(array, 0, -2), stacked)
    return (final, outputs), cells


def rnn(cells: list[nnx.Module], x: jax.Array, carry: Any, lengths: Any, *, reverse: bool) -> tuple[Any, jax.Array]:
    """The final carry and all states; a carry or lengths of None are left to the layer."""
    if len(cells) == 2:
        layer = nnx.Bidirectional(*(nnx.RNN(cell, return_carry=True) for cell in cells), return_carry=True)
    else:
        layer = nnx.RNN(cells[0], return_carry=True, reverse=reverse, keep_order=reverse)
    return layer(x, initial_carry=carry, seq_lengths=lengths)


@partial(jax.jit, static_argnames=("variant", "graph", "reverse"))
def forward(variant: str, graph: Any, weights: Any, x: Any, carry: Any, lengths: Any, *, reverse: bool) -> Any:
    """((the final carry, all states), all memories where the variant gives them)."""
    cells = [nnx.merge(graph, unflatten_dict(each, sep=".")) for each in weights]
    if variant == "lax-scan":
        return lax_scan(*cells, x, carry)
    return rnn(cells, x, carry, lengths, reverse=reverse), None


@partial(jax.jit, static_argnames=("variant", "graph", "reverse"))
def backward(
    variant: str, graph: Any, weights: Any, x: Any, carry: Any, lengths: Any, cotangents: Any, *, reverse: bool
) -> Any:
    """What `forward` gives, and the gradients of (weights, x, carry)."""

    def function(*inputs: Any) -> Any:
        return forward(variant, graph, *inputs, lengths, reverse=reverse)

    answer, pull, cells = jax.vjp(function, weights, x, carry, has_aux=True)
    return (answer, cells), pull(cotangents)


def pack(h: Any, c: Any, directions: int) -> Any:
    """The carry for a state h and memory c: of an LSTM it is (c, h), of both directions a pair."""
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


def named(case: WorkerCase, weights: Any, x: Any, carry: Any, *, folded: bool) -> dict[str, Any]:
    """Arrays laid out like the inputs, by canonical name; `folded` with those that were added to another."""
    arrays = {"x": plain(x)}
    if carry is not None:
        h, c = unpack(carry, case.cell, case.directions)
        arrays |= {name: plain(state) for name, state in (("h0", h), ("c0", c)) if state is not None}
    for direction, each in enumerate(weights):
        for target, recipe in RECIPES[case.cell].items():
            parts = distribute(recipe, plain(each[target]).T)
            kept = set(parts) if folded else {terms for terms in recipe if "+" not in terms}
            arrays |= {prefix_of(0, direction) + name: part for name, part in parts.items() if name in kept}
    return arrays


def run(case: WorkerCase) -> Result:
    """Run the compiled variant and name its outputs; ValueError for weights that the cell cannot hold."""
    if any(value.any() for name, value in case.parameters.items() if name.endswith("b_hn")):
        raise ValueError("flax.nnx.GRUCell has no place for b_hn, and it is not zero")
    dtype = jnp.dtype(case.dtype)
    weights = []
    for direction in range(case.directions):
        p = block(case.parameters, 0, direction)
        weights.append({target: assemble(recipe, p).T for target, recipe in RECIPES[case.cell].items()})
    carry = None if case.h0 is None else pack(case.h0, case.c0, case.directions)
    inputs = jax.tree.map(lambda array: array.astype(dtype), (weights, case.x, carry))
    if case.variant == "lax-scan":
        path = "jax.lax.scan(flax.nnx.{layer}, carry, x)"
    elif case.h0 is None:
        path = "flax.nnx.RNN({layer})(x)"
    else:
        path = "flax.nnx.RNN({layer})(x, initial_carry)"
    gradients = {}
    # 64-bit types are off in JAX unless asked for; asked for here only, other cases run as users run them.
    with enable_x64(case.dtype == "float64"):
        graph, name = definition(case.cell, case.x.shape[-1], case.hidden, case.dtype)
        if case.inputs_back:
            inputs = jax.device_put(inputs)  # otherwise the call does it, in less time
        if case.cotangents is None:
            answer, cells = forward(case.variant, graph, *inputs, case.lengths, reverse=case.reverse)
        else:
            wanted = {key: array.astype(dtype) for key, array in case.cotangents.items()}
            final = pack(wanted["final_state"], wanted.get("final_cell"), case.directions)
            (answer, cells), pulled = backward(
                case.variant, graph, *inputs, case.lengths, (final, wanted["outputs"]), reverse=case.reverse
            )
            gradients = named(case, *pulled, folded=True)
    final, outputs = answer
    final_state, final_cell = unpack(final, case.cell, case.directions)
    return Result(
        outputs=plain(outputs),
        final_state=plain(final_state),
        cells=plain(cells),
        final_cell=plain(final_cell),
        dtype=outputs.dtype.name,
        path=attest(path.format(layer=name), case.features),
        gradients=gradients,
        inputs_after=named(case, *inputs, folded=False) if case.inputs_back else {},
    )
