"""The framework's own layers: as they are, as the environment switches them, and compiled as a whole."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from conformance.worker.api import WorkerCase

from .fused import NAMES, WATCHES, switch
from .graph import compiled, differentiated, obstacle
from .way import Arrays, Ran


class Layer:
    """``mlx.nn.GRU``, ``LSTM`` or ``RNN`` with the weights of a case."""

    def __init__(self, case: WorkerCase, weights: Arrays) -> None:
        self.cell = case.cell
        self.module, self.name = build(case)
        # As strict as load_weights(), in a fifth of its time.
        held = {key: value.shape for key, value in self.module.parameters().items()}
        given = {key: value.shape for key, value in weights.items()}
        if held != given:
            raise ValueError(f"{self.name} has the parameters {held}, wanted {given}")
        self.module.update(weights)
        self.keys = tuple(weights)

    def forward(self, arrays: Arrays) -> Arrays:
        """Every state by name, of inputs and weights by name."""
        self.module.update({key: arrays[key] for key in self.keys})
        return call(self.module, arrays)

    def gradients(self, arrays: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        """The states, and the gradients of every input and weight."""
        return differentiated(self.forward, arrays, cotangents)

    def path(self, ran: Ran) -> str:
        """The spelling of the call."""
        return spelled(ran)

    def weights(self) -> Arrays:
        """The weights as they are held now."""
        return dict(self.module.parameters())


class Legacy(Layer):
    """The layer in a process that asked for its step-by-step code, ``MLX_RNN_IMPL=legacy``.

    A release without that switch has this code only. Where there are fused cells, none may have been called.
    """

    def path(self, ran: Ran) -> str:
        """The call, what the switch says, and the fused calls if there were any."""
        calls, mode = len(WATCHES[self.cell].states), switch()
        path = spelled(ran)
        if calls:
            return f"{path}, mx.fast.{NAMES[self.cell]} called {calls} times"
        if mode is None:
            path = f"{path}, no switch in this release"
        elif mode == "legacy":
            path = f"{path}, switched to legacy"
        else:
            return f"{path}, its switch says {mode}"
        return path


class Fast(Layer):
    """The layer in a process that asked for its fused cells, ``MLX_RNN_IMPL=fast``: they are counted.

    The fork runs its step-by-step code where the state is omitted (at the first step), and always on CPU.
    """

    def path(self, ran: Ran) -> str:
        """The call, and at which steps a fused cell computed the state that the layer returned."""
        watch, name, mode = WATCHES[self.cell], f"mx.fast.{NAMES[self.cell]}", switch()
        calls, steps, path = len(watch.states), ran.steps, spelled(ran)
        used = watch.returned(ran.observed["outputs"])
        if mode not in (None, "fast"):
            return f"{path}, its switch says {mode}"
        every = steps > 0 and calls == steps
        if not every and not (ran.omitted and self.fused_from_the_second(ran, calls)):
            own = "the layer's own operations ran at the others" if calls else "the layer's own operations ran"
            return f"{path}, {name} at {calls} of {steps} steps: {own}"
        if not used:
            return f"{path}, {name} called {calls} times in {steps} steps, but what it returned was not used"
        if not every:
            path = f"{path}, fused at every step but the first"
            return path  # noqa: RET504 (paths are assigned: a test compares them with the manifest)
        path = f"{path}, fused at every step"
        return path  # noqa: RET504 (the same)

    def fused_from_the_second(self, ran: Ran, calls: int) -> bool:
        """Whether every step but the first is fused; of a sequence of one step, whether a second one would be."""
        if ran.steps != 1:
            return calls == ran.steps - 1
        if calls:
            return False
        watch = WATCHES[self.cell]
        longer = call(self.module, {**ran.inputs, "x": mx.concatenate([ran.inputs["x"]] * 2, axis=-2)})
        return len(watch.states) == 1 and watch.returned(longer["outputs"])


class Compiled(Layer):
    """The layer under ``mx.compile``, from its inputs and weights to all states."""

    def __init__(self, case: WorkerCase, weights: Arrays) -> None:
        super().__init__(case, weights)
        # Of a layer whose parameters wait to be computed it crashes releases up to 0.29.3.
        mx.eval(self.module.parameters())
        self.whole = mx.compile(super().forward)

    def forward(self, arrays: Arrays) -> Arrays:
        """Every state by name, by one compiled function."""
        observed: Arrays = self.whole(arrays)
        # In the place of what stood for the weights while the layer was traced.
        self.module.update({key: arrays[key] for key in self.keys})
        return observed

    def path(self, ran: Ran) -> str:
        """The call, if the steps really became kernels: at least one each, since a product stands between them."""
        kernels = compiled(ran.arrays)
        path = spelled(ran)
        if kernels >= ran.steps:
            path = f"{path}, under mx.compile"
        else:
            return f"{path}, {not_compiled(kernels, ran.steps)}"
        return path


def not_compiled(kernels: int, steps: int) -> str:
    """What to say where the steps should have become compiled kernels and did not."""
    why = obstacle()
    return f"{kernels} compiled kernels in {steps} steps" + (f": {why}" if why else "")


def build(case: WorkerCase) -> tuple[Any, str]:
    """The module, and its name as the module itself tells it."""
    return _built(case.cell, case.x.shape[-1], case.hidden)


@lru_cache(maxsize=32)
def _built(cell: str, features: int, hidden: int) -> tuple[Any, str]:
    """As `build`, once per size: a layer draws its first weights, and MLX keeps what it has not drawn yet for ever.

    Drawing them takes longer than running the layer does.
    """
    kind = {"gru": nn.GRU, "lstm": nn.LSTM, "elman": nn.RNN, "elman_relu": nn.RNN}[cell]
    options = {"elman": {"nonlinearity": mx.tanh}, "elman_relu": {"nonlinearity": nn.relu}}.get(cell, {})
    module = kind(features, hidden, **options)
    layer = f"mlx.nn.{type(module).__name__}"
    return module, f"{layer}[{module.nonlinearity.__name__}]" if options else layer


def spelled(ran: Ran) -> str:
    """The path by the spelling of the initial state; `call` makes the call by the same condition."""
    path = "{layer}(x, hidden)"
    if ran.omitted:
        path = "{layer}(x)"
    return path


def call(module: Any, inputs: Arrays) -> Arrays:
    """Every state by name. The layers return all states; the last ones are the final ones."""
    for watch in WATCHES.values():
        watch.states.clear()
    if "h0" not in inputs:
        states = module(inputs["x"])
    else:
        # x and h0 have the same leading sizes, as they must: MLX broadcasts a state of another rank silently.
        memory = {"cell": inputs["c0"]} if "c0" in inputs else {}
        states = module(inputs["x"], hidden=inputs["h0"], **memory)
    if isinstance(module, nn.LSTM):
        outputs, cells = states
        observed = {"outputs": outputs, "cells": cells, "final_cell": cells[..., -1, :]}
    else:
        observed = {"outputs": states}
    return {**observed, "final_state": observed["outputs"][..., -1, :]}
