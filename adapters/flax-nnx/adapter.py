"""Flax NNX: a cell unrolled, in ``jax.lax.scan`` and in ``flax.nnx.scan``, and ``flax.nnx.RNN``, under ``jax.jit``.

Runs on JAX's default device; how is in ``forms.py``. Which path ran is read from the traced program, in ``program.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

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

from . import programs
from .carries import cast, name_of, pack, plain, unpack
from .compat import enable_x64
from .costs import measured
from .forms import ACTIVATIONS, Form, backward, form_of, forward, one_step
from .program import NO_CELL, Program, read

CLASSES = {"gru": "GRUCell", "lstm": "OptimizedLSTMCell", "elman": "SimpleCell", "elman_relu": "SimpleCell"}
# A variant of this ending runs the LSTM cell that has one dense layer per gate and side.
LSTM_CELL = "-LSTMCell"
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
LSTM_CELL_RECIPE = {
    "ii.kernel": ["W_xi"],
    "if_.kernel": ["W_xf"],
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
}


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


def path_of(program: Program, case: WorkerCase, recipe: Any) -> str:
    """The path that a traced program takes; a program that is none of the variants' is described instead."""
    kernels = sum(target.endswith(".kernel") for target in recipe)
    names = {*program.products, *(name for loop in program.loops for name in loop.products)}
    in_loops = {(loop.steps, Fraction(len(loop.products), kernels)) for loop in program.loops}
    once = in_loops == {(case.x.shape[-2], 1)} and len(program.loops) == case.directions and not program.products
    makers = {loop.maker for loop in program.loops} if once else set()
    path = str(program)
    if len(names) != 1 or NO_CELL in names:
        return path
    if not program.loops and len(program.products) == kernels * case.x.shape[-2]:
        path = "flax.nnx.{layer}(carry, x_t) for every step"
    elif makers == {"jax.lax.scan"}:
        path = "jax.lax.scan(flax.nnx.{layer}, carry, x)"
    elif makers == {"flax.nnx.scan"}:
        path = "flax.nnx.scan(flax.nnx.{layer}, carry, x)"
    elif makers == {"flax.nnx.RNN"} and case.h0 is None:
        path = "flax.nnx.RNN({layer})(x)"
    elif makers == {"flax.nnx.RNN"}:
        path = "flax.nnx.RNN({layer})(x, initial_carry)"
    (name,) = names
    return path.replace("{layer}", layer_name(name, case))


def layer_name(cell: str, case: WorkerCase) -> str:
    """The name of a cell's class, with its activation where that can be chosen."""
    return cell + (f"[{ACTIVATIONS[case.cell].__name__}]" if case.cell in ACTIVATIONS else "")


def named(case: WorkerCase, recipe: Any, weights: Any, x: Any, carry: Any, *, folded: bool) -> dict[str, Any]:
    """Arrays laid out like the inputs, by canonical name; `folded` with those that were added to another."""
    arrays = {"x": plain(x)}
    if carry is not None:
        h, c = unpack(carry, case.cell, case.directions)
        arrays |= {name: plain(state) for name, state in (("h0", h), ("c0", c)) if state is not None}
    for direction, each in enumerate(weights):
        for target, terms in recipe.items():
            parts = distribute(terms, plain(each[target]).T)
            kept = set(parts) if folded else {term for term in terms if "+" not in term}
            arrays |= {prefix_of(0, direction) + name: part for name, part in parts.items() if name in kept}
    return arrays


@dataclass(frozen=True)
class Call:
    """A case as Flax wants it: the jitted function, its form, and its arguments."""

    recipe: Any
    function: Any
    form: Form
    inputs: Any
    rest: Any

    @property
    def arguments(self) -> tuple[Any, ...]:
        """All of them, in order."""
        return (self.form, *self.inputs, *self.rest)

    def path(self, case: WorkerCase) -> str:
        """The path of the program that the function runs for these arguments: JAX traces it once for both."""
        program = read(self.function.trace(*self.arguments).jaxpr.jaxpr)
        return attest(path_of(program, case, self.recipe), case.features)


def without_b_hn(case: WorkerCase) -> bool:
    """Whether every b_hn is zero: of all cases of a block at once, and only else of this one."""

    def zero(parameters: Mapping[str, Any]) -> bool:
        return not any(value.any() for name, value in parameters.items() if name.endswith("b_hn"))

    if case.place is None:
        return zero(case.parameters)
    made = case.place.made
    if "without b_hn" not in made:
        made["without b_hn"] = zero(case.place.columns)
    return made["without b_hn"] or zero(case.parameters)


def call_of(case: WorkerCase) -> Call:
    """The call that a case asks for; ValueError for weights that the cell cannot hold."""
    if not without_b_hn(case):
        raise ValueError("flax.nnx.GRUCell has no place for b_hn, and it is not zero")
    dtype = jnp.dtype(case.dtype)
    per_gate = case.variant.endswith(LSTM_CELL)
    recipe = LSTM_CELL_RECIPE if per_gate else RECIPES[case.cell]
    layer = "LSTMCell" if per_gate else CLASSES[case.cell]
    weights = [
        {target: cast(case.assembled(terms, 0, direction, transpose=True), dtype) for target, terms in recipe.items()}
        for direction in range(case.directions)
    ]
    carry = None
    if case.h0 is not None:
        carry = pack(cast(case.h0, dtype), cast(case.c0, dtype), case.directions)
    inputs = (weights, cast(case.x, dtype), carry)
    if case.inputs_back:
        inputs = jax.device_put(inputs)  # otherwise the call does it, in less time
    variant = case.variant.removesuffix(LSTM_CELL)
    form = form_of(variant, layer, case.cell, case.x.shape[-1], case.hidden, case.dtype, reverse=case.reverse)
    if case.cotangents is None:
        return Call(recipe, forward, form, inputs, (case.lengths,))
    wanted = {key: array.astype(dtype) for key, array in case.cotangents.items()}
    final = pack(wanted["final_state"], wanted.get("final_cell"), case.directions)
    return Call(recipe, backward, form, inputs, (case.lengths, (final, wanted["outputs"])))


def attested(call: Call, case: WorkerCase) -> str:
    """The path of the program that a call has run.

    The cases of a block have one program, as they differ in numbers only: it is read once, and again where JAX has
    compiled or fetched any other meanwhile.
    """
    if case.place is None:
        return call.path(case)
    made, count = case.place.made, programs.HELD.count
    if made.get("programs") != count:
        made["programs"], made["path"] = count, call.path(case)
    return str(made["path"])


def run(case: WorkerCase) -> Result:
    """Run the compiled variant and name its outputs; ValueError for weights that the cell cannot hold."""
    programs.HELD.bound()
    # 64-bit types are off in JAX unless asked for; asked for here only, other cases run as users run them.
    with enable_x64(case.dtype == "float64"):
        call = call_of(case)
        answer = call.function(*call.arguments)
        path = attested(call, case)
    pulled: Any = None
    if case.cotangents is not None:
        answer, pulled = answer
    (final, outputs), cells = answer
    final_state, final_cell = unpack(final, case.cell, case.directions)
    return Result(
        outputs=plain(outputs),
        final_state=plain(final_state),
        cells=plain(cells),
        final_cell=plain(final_cell),
        dtype=name_of(outputs.dtype),
        path=path,
        gradients={} if pulled is None else named(case, call.recipe, *pulled, folded=True),
        inputs_after=named(case, call.recipe, *call.inputs, folded=False) if case.inputs_back else {},
    )


# Benchmarks


def prepare(case: WorkerCase, level: Level) -> Prepared:
    """The jitted layer, or its cell T times from Python, on arrays that are on the device already."""
    with enable_x64(case.dtype == "float64"):
        call = call_of(case)
        weights, x, carry = inputs = jax.device_put(call.inputs)
        if level == "cell":
            if case.h0 is None or case.features:
                raise ValueError("a cell takes its state as an argument and knows neither lengths nor directions")
            cell = call.form.definition
            steps = [x[..., t, :] for t in range(x.shape[-2])]
            traced = read(one_step.trace(cell, *weights, carry, steps[0]).jaxpr.jaxpr)
            called = layer_name(" and ".join(sorted(set(traced.products))), case)
            path = f"jax.jit(flax.nnx.{called})(carry, x_t) from Python"

            def function() -> Any:
                state, states = carry, []
                for x_t in steps:
                    state, h = one_step(cell, *weights, state, x_t)
                    states.append(h)
                return states

            def outputs(answer: Any) -> Any:
                return np.stack([plain(h) for h in answer], axis=-2)
        else:
            path = call.path(case)
            function = partial(call.function, call.form, *inputs, *jax.device_put(call.rest))

            def outputs(answer: Any) -> Any:
                return plain((answer if case.cotangents is None else answer[0])[0][1])

    def made() -> Any:
        return jax.block_until_ready(function())

    timed = enable_x64(new_val=True)(made) if case.dtype == "float64" else made
    return Prepared(call=timed, path=path, outputs=outputs(timed()))


def compile_costs(case: WorkerCase) -> CompileCosts:
    """Trace, lower and compile the variant's program from nothing; the trace ends with StableHLO."""
    with enable_x64(case.dtype == "float64"):
        call = call_of(case)
        costs = measured(partial(call.function.__wrapped__, call.form), *call.inputs, *call.rest)
        path = path_of(read(costs.jaxpr), case, call.recipe)
    return CompileCosts(
        path=attest(path, case.features),
        trace_seconds=costs.trace_seconds,
        compile_seconds=costs.compile_seconds,
        program_characters=len(costs.text),
        program_operations=costs.operations,
    )
