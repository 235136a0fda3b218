"""Calls made ready to be timed, at two levels. Every state is computed within the call.

layer
    the whole sequence in one call.
cell
    the same way on sequences of one step, each from the states before it, all computed once at the end. A step
    projects its own input and its own state, as a cell does that is fed from outside; released MLX has no cell of its
    own, so the layers are called on one step.

The public figures of ml-explore/mlx pull request 3089 for cells (64 x 200, 20 steps) do not say whether the inputs
were projected beforehand; here they are not, for any variant.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from conformance.worker.api import Level

from .graph import evaluate
from .way import Arrays, Ran, Way


def timed(way: Way, inputs: Arrays, weights: Arrays, level: Level) -> tuple[Callable[[], mx.array], str]:
    """The call, which returns every hidden state, and the path that it was seen to run."""
    mx.eval(inputs, weights)
    if level == "layer":
        arrays = {**inputs, **weights}
        observed = way.forward(arrays)
        path = way.path(Ran(inputs, observed))
        evaluate(observed)
        return _layer(way, arrays), path
    x = inputs["x"]
    steps = [mx.contiguous(x[..., t : t + 1, :]) for t in range(x.shape[-2])]
    mx.eval(steps)
    states = {key: value for key, value in inputs.items() if key != "x"}
    return _cell(way, steps, states, weights), _cell_path(way, steps, states, weights)


def _layer(way: Way, arrays: Arrays) -> Callable[[], mx.array]:
    def call() -> mx.array:
        observed = way.forward(arrays)
        mx.eval(observed)
        return observed["outputs"]

    return call


def _cell(way: Way, steps: list[mx.array], states: Arrays, weights: Arrays) -> Callable[[], mx.array]:
    def call() -> mx.array:
        held, every = states, []
        for x in steps:
            observed = way.forward({"x": x, **held, **weights})
            held = _carried(observed)
            every.append(observed["final_state"])
        outputs = mx.stack(every, axis=-2)
        mx.eval(outputs, held)
        return outputs

    return call


def _cell_path(way: Way, steps: list[mx.array], states: Arrays, weights: Arrays) -> str:
    """The path of the first step, if all others ran as it did; else every path that was seen."""
    held, paths = states, []
    for x in steps:
        observed = way.forward({"x": x, **held, **weights})
        paths.append(way.path(Ran({"x": x, **held}, observed)))
        evaluate(observed)
        held = _carried(observed)
    # Steps differ in the spelling of the state where it is omitted at first, and a layer may treat that step apart.
    how = [path.partition(")")[2].removesuffix(" but the first") for path in paths]
    return paths[0] if len(set(how)) == 1 else "; ".join(dict.fromkeys(paths))


def _carried(observed: Arrays) -> Arrays:
    memory = {"c0": observed["final_cell"]} if "final_cell" in observed else {}
    return {"h0": observed["final_state"], **memory}
