"""Flax linen: ``flax.linen.RNN`` of a cell, or ``Bidirectional`` of two, under ``jax.jit``, on JAX's default device.

The jitted functions live at module level and take the layer as a static argument and the weights as arrays, so that
every shape is compiled once; called eagerly, ``nn.RNN`` compiles its scan anew on every call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from flax.traverse_util import unflatten_dict

from conformance.worker.api import (
    CompileCosts,
    Level,
    Prepared,
    Result,
    WorkerCase,
    attest,
    distribute,
    prefix_of,
)

from . import concat, programs
from .carries import cast, name_of, pack, plain, unpack
from .compat import enable_x64
from .costs import measured

CLASSES = {"gru": "GRUCell", "lstm": "LSTMCell", "elman": "SimpleCell", "elman_relu": "SimpleCell"}
# A variant of this ending runs the LSTM cell with one product per side, which has the same variables.
OPTIMIZED = "-OptimizedLSTMCell"
ACTIVATIONS = {"elman": nn.tanh, "elman_relu": nn.relu}
ZEROS = nn.initializers.zeros_init()
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


PROGRAMS = programs.keep()


def facts() -> dict[str, str]:
    """Versions and device as JAX and Flax report them, and the precision of JAX's products."""
    return {
        "flax": flax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "device": str(jax.devices()[0]),
        "blas": "none: XLA compiles its products",
        "jax_default_matmul_precision": str(jax.config.jax_default_matmul_precision),
        "programs": PROGRAMS,
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
    """The layer without its weights, and the name of its cell, read from the cell."""
    return built(case.cell, case.variant, case.hidden, case.dtype, case.directions, reverse=case.reverse)


@cache
def built(cell: str, variant: str, hidden: int, dtype: str, directions: int, *, reverse: bool) -> tuple[nn.Module, str]:
    """As `build`, once for each: a layer holds no numbers.

    param_dtype is also the dtype of a state that the layer makes itself. Weights are always given; Flax traces the
    initialisers all the same, to compare shapes, and those that give zeros in the least time.
    """
    options: dict[str, Any] = {"features": hidden, "param_dtype": jnp.dtype(dtype)}
    options |= dict.fromkeys(("kernel_init", "recurrent_kernel_init"), ZEROS)
    if cell in ACTIVATIONS:
        options["activation_fn"] = ACTIVATIONS[cell]
    one = getattr(nn, "OptimizedLSTMCell" if variant.endswith(OPTIMIZED) else CLASSES[cell])(**options)
    name = type(one).__name__ + (f"[{one.activation_fn.__name__}]" if cell in ACTIVATIONS else "")
    if directions == 2:
        both = [nn.RNN(each, return_carry=True) for each in (one, one.copy())]
        return nn.Bidirectional(*both, return_carry=True), name
    return nn.RNN(one, return_carry=True, reverse=reverse, keep_order=reverse), name


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


@dataclass(frozen=True)
class Call:
    """A case as Flax wants it: the jitted function, its layer, its arguments, and the path that they take."""

    function: Any
    layer: nn.Module
    inputs: Any
    rest: Any
    path: str


def call_of(case: WorkerCase) -> Call:
    """The call that a case asks for."""
    dtype = jnp.dtype(case.dtype)
    layer, name = build(case)
    params = {}
    for direction, place in enumerate(PLACES[case.directions]):
        for target, recipe in RECIPES[case.cell].items():
            params[f"{place}.{target}"] = cast(case.assembled(recipe, 0, direction, transpose=True), dtype)
    carry = None
    path = "flax.linen.RNN({layer})(x)"
    if case.h0 is not None:
        carry = pack(cast(case.h0, dtype), cast(case.c0, dtype), case.directions)
        path = "flax.linen.RNN({layer})(x, initial_carry)"
    path = attest(path.format(layer=name), case.features)
    inputs = (params, cast(case.x, dtype), carry)
    if case.inputs_back:
        inputs = jax.device_put(inputs)  # otherwise the call does it, in less time
    if case.cotangents is None:
        return Call(forward, layer, inputs, (case.lengths,), path)
    wanted = {key: array.astype(dtype) for key, array in case.cotangents.items()}
    final = pack(wanted["final_state"], wanted.get("final_cell"), case.directions)
    return Call(backward, layer, inputs, (case.lengths, (final, wanted["outputs"])), path)


def run(case: WorkerCase) -> Result:
    """Run the compiled layer and name its outputs."""
    programs.HELD.bound()
    if case.variant == "concat":
        return concat.run(case)
    # 64-bit types are off in JAX unless asked for; asked for here only, other cases run as users run them.
    with enable_x64(case.dtype == "float64"):
        call = call_of(case)
        answer = call.function(call.layer, *call.inputs, *call.rest)
    pulled: Any = None
    if case.cotangents is not None:
        answer, pulled = answer
    final, outputs = answer
    final_state, final_cell = unpack(final, case.cell, case.directions)
    return Result(
        outputs=plain(outputs),
        final_state=plain(final_state),
        final_cell=plain(final_cell),
        dtype=name_of(outputs.dtype),
        path=call.path,
        gradients={} if pulled is None else named(case, *pulled, folded=True),
        inputs_after=named(case, *call.inputs, folded=False) if case.inputs_back else {},
    )


# Benchmarks


@partial(jax.jit, static_argnames="cell")
def one_step(cell: nn.Module, params: Any, carry: Any, x_t: Any) -> Any:
    """One call of the cell: (the next carry, the state)."""
    return cell.apply({"params": params}, carry, x_t)


def prepare(case: WorkerCase, level: Level) -> Prepared:
    """The jitted layer, or its cell T times from Python, on arrays that are on the device already."""
    if case.variant == "concat":
        return concat.prepare(case, level)
    with enable_x64(case.dtype == "float64"):
        call = call_of(case)
        params, x, carry = inputs = jax.device_put(call.inputs)
        path = call.path
        if level == "cell":
            if case.h0 is None or case.features:
                raise ValueError("a cell takes its state as an argument and knows neither lengths nor directions")
            cell, weights = call.layer.cell, unflatten_dict(params, sep=".")["cell"]
            steps = [x[..., t, :] for t in range(x.shape[-2])]
            path = f"jax.jit(flax.linen.{build(case)[1]})(carry, x_t) from Python"

            def function() -> Any:
                state, states = carry, []
                for x_t in steps:
                    state, h = one_step(cell, weights, state, x_t)
                    states.append(h)
                return states

            def outputs(answer: Any) -> Any:
                return np.stack([plain(h) for h in answer], axis=-2)
        else:
            function = partial(call.function, call.layer, *inputs, *jax.device_put(call.rest))

            def outputs(answer: Any) -> Any:
                return plain((answer if case.cotangents is None else answer[0])[1])

    def made() -> Any:
        return jax.block_until_ready(function())

    timed = enable_x64(new_val=True)(made) if case.dtype == "float64" else made
    return Prepared(call=timed, path=path, outputs=outputs(timed()))


def compile_costs(case: WorkerCase) -> CompileCosts:
    """Trace, lower and compile the layer's program from nothing; the trace ends with StableHLO."""
    with enable_x64(case.dtype == "float64"):
        call = call_of(case)
        costs = measured(partial(call.function.__wrapped__, call.layer), *call.inputs, *call.rest)
    return CompileCosts(
        path=call.path,
        trace_seconds=costs.trace_seconds,
        compile_seconds=costs.compile_seconds,
        program_characters=len(costs.text),
        program_operations=costs.operations,
    )
