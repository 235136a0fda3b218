"""The four ways to run a Flax NNX cell over a sequence, as jitted functions of the weights, and the cell itself.

A graph definition is built once per size and the weights are arguments, so that every shape is compiled once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

ACTIVATIONS = {"elman": nnx.tanh, "elman_relu": nnx.relu}


@dataclass(frozen=True)
class Definition:
    """A cell without its weights. state: shapes and dtypes of all that it holds."""

    graph: nnx.GraphDef
    state: Any = field(compare=False)

    def cell(self, weights: Any) -> nnx.Module:
        """The cell with these weights, by dotted name; ValueError for one that it does not hold."""
        used = set()

        def filled(path: Any, leaf: Any) -> Any:
            # What holds an array is a step of the path in some releases.
            name = ".".join(str(key.key) for key in path if hasattr(key, "key") and key.key != "value")
            if name in weights:
                used.add(name)
                return weights[name]
            # Up to Flax 0.10 a cell keeps the generator that made its weights.
            is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            return jax.random.key(0) if is_key else jnp.zeros(leaf.shape, leaf.dtype)

        state = jax.tree_util.tree_map_with_path(filled, self.state)
        if used != set(weights):
            raise ValueError(f"the cell has no place for {', '.join(sorted(set(weights) - used))}")
        return nnx.merge(self.graph, state)


@cache
def definition(layer: str, cell: str, features: int, hidden: int, dtype: str) -> Definition:
    """The cell without its weights.

    Built abstractly, since an initialiser costs a compilation per size, and with zeros, since the orthogonal default
    needs a QR factorisation, which JAX does not have in float16. GRUCell and the LSTM cells compute in the dtype of
    their arrays anyway; SimpleCell in float32 unless told otherwise.
    """
    zeros = nnx.initializers.zeros_init()
    options = {"activation_fn": ACTIVATIONS[cell], "dtype": dtype} if cell in ACTIVATIONS else {}
    make = partial(
        getattr(nnx, layer),
        features,
        hidden,
        kernel_init=zeros,
        recurrent_kernel_init=zeros,
        param_dtype=dtype,
        **options,
    )
    return Definition(*nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))))


def step(cell: nnx.Module, carry: Any, x_t: jax.Array) -> tuple[Any, Any]:
    """The next carry, and (the state, the memory of an LSTM, whose carry is (c, h))."""
    carry, h = cell(carry, x_t)
    return carry, (h, carry[0] if isinstance(carry, tuple) else None)


# What each of these gives: ((the final carry, all states), all memories or None).


def unrolled(cell: nnx.Module, x: jax.Array, carry: Any) -> tuple[Any, Any]:
    """A Python loop: one copy of the cell per step."""
    steps = []
    for t in range(x.shape[-2]):
        carry, seen = step(cell, carry, x[..., t, :])
        steps.append(seen)
    outputs, cells = jax.tree_util.tree_map(lambda *arrays: jnp.stack(arrays, axis=-2), *steps)
    return (carry, outputs), cells


def lax_scan(cell: nnx.Module, x: jax.Array, carry: Any) -> tuple[Any, Any]:
    """The cell closed over by the body of a scan over the leading axis."""
    final, stacked = jax.lax.scan(partial(step, cell), carry, jnp.moveaxis(x, -2, 0))
    outputs, cells = jax.tree_util.tree_map(lambda array: jnp.moveaxis(array, 0, -2), stacked)
    return (final, outputs), cells


def nnx_scan(cell: nnx.Module, x: jax.Array, carry: Any) -> tuple[Any, Any]:
    """The lifted scan: the cell is an argument of its body, whose state is shared by all steps."""
    time_axis = x.ndim - 2
    scan = nnx.scan(
        in_axes=(nnx.StateAxes({...: None}), nnx.Carry, time_axis),
        out_axes=(nnx.Carry, time_axis),
    )
    final, (outputs, cells) = scan(step)(cell, carry, x)
    return (final, outputs), cells


def rnn(cells: list[nnx.Module], x: jax.Array, carry: Any, lengths: Any, *, reverse: bool) -> tuple[Any, Any]:
    """The layer, or a pair of them; a carry or lengths of None are left to it, and it keeps its memories."""
    if len(cells) == 2:
        layer = nnx.Bidirectional(*(nnx.RNN(cell, return_carry=True) for cell in cells), return_carry=True)
    else:
        layer = nnx.RNN(cells[0], return_carry=True, reverse=reverse, keep_order=reverse)
    return layer(x, initial_carry=carry, seq_lengths=lengths), None


FORMS = {"unrolled": unrolled, "lax-scan": lax_scan, "nnx-scan": nnx_scan}


@dataclass(frozen=True, eq=False)
class Form:
    """What of a case decides on the program beside shapes and dtypes; there is one object for each, see `form_of`."""

    variant: str
    definition: Definition
    reverse: bool

    def forward(self, weights: Any, x: Any, carry: Any, lengths: Any) -> Any:
        """((the final carry, all states), all memories where the variant gives them)."""
        cells = [self.definition.cell(each) for each in weights]
        if self.variant == "rnn":
            return rnn(cells, x, carry, lengths, reverse=self.reverse)
        return FORMS[self.variant](*cells, x, carry)

    def backward(self, weights: Any, x: Any, carry: Any, lengths: Any, cotangents: Any) -> Any:
        """What `forward` gives, and the gradients of (weights, x, carry)."""
        answer, pull, cells = jax.vjp(lambda *inputs: self.forward(*inputs, lengths), weights, x, carry, has_aux=True)
        return (answer, cells), pull(cotangents)


@cache
def form_of(variant: str, layer: str, cell: str, features: int, hidden: int, dtype: str, *, reverse: bool) -> Form:
    """The form of a case.

    JAX looks its programs up by it at every call, and to hash a graph definition takes longer than to run a small one.
    """
    return Form(variant, definition(layer, cell, features, hidden, dtype), reverse)


forward = jax.jit(Form.forward, static_argnums=0)
backward = jax.jit(Form.backward, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def one_step(definition: Definition, weights: Any, carry: Any, x_t: Any) -> Any:
    """One call of the cell: (the next carry, the state)."""
    return definition.cell(weights)(carry, x_t)
