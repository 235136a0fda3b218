"""The framework's own layers: as they are, as the environment switches them, and compiled as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from conformance.worker.api import WorkerCase

from .fused import NAMES, WATCHES, switch
from .graph import compiled, differentiated, obstacle
from .way import Arrays


class Layer:
    """``mlx.nn.GRU``, ``LSTM`` or ``RNN`` with the weights of a case."""

    def __init__(self, case: WorkerCase, weights: Arrays) -> None:
        self.cell = case.cell
        self.module, self.name = build(case)
        self.module.load_weights(list(weights.items()), strict=True)
        self.keys = tuple(weights)
        # mx.compile of a layer whose parameters wait to be computed crashes releases up to 0.29.3.
        mx.eval(self.module.parameters())

    def forward(self, arrays: Arrays) -> Arrays:
        """Every state by name, of inputs and weights by name."""
        self.module.update({key: arrays[key] for key in self.keys})
        return call(self.module, arrays)

    def gradients(self, arrays: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        """The states, and the gradients of every input and weight."""
        return differentiated(self.forward, arrays, cotangents)

    def path(self, arrays: Arrays, observed: Arrays, gradients: Arrays) -> str:
        """The path of the call that gave these, none of them evaluated yet."""
        return spelled(arrays)

    def weights(self) -> Arrays:
        """The weights as they are held now."""
        return dict(self.module.parameters())


class Legacy(Layer):
    """The layer in a process that asked for its step-by-step code, ``MLX_RNN_IMPL=legacy``.

    A release without that switch has this code only. Where there are fused cells, none may have been called.
    """

    def path(self, arrays: Arrays, observed: Arrays, gradients: Arrays) -> str:
        """The call, what the switch says, and the fused calls if there were any."""
        calls, mode = len(WATCHES[self.cell].states), switch()
        path = spelled(arrays)
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

    def path(self, arrays: Arrays, observed: Arrays, gradients: Arrays) -> str:
        """The call, and at which steps a fused cell computed the state that the layer returned."""
        watch, name, outputs = WATCHES[self.cell], f"mx.fast.{NAMES[self.cell]}", observed["outputs"]
        calls, steps, mode, path = len(watch.states), outputs.shape[-2], switch(), spelled(arrays)
        if mode not in (None, "fast"):
            return f"{path}, its switch says {mode}"
        used = watch.returned(outputs)
        if steps and calls == steps and used:
            path = f"{path}, fused at every step"
        elif "h0" not in arrays and self.fused_from_the_second(arrays, calls, steps) and used:
            path = f"{path}, fused at every step but the first"
        elif not used:
            return f"{path}, {name} called {calls} times in {steps} steps, but what it returned was not used"
        else:
            own = "the layer's own operations ran at the others" if calls else "the layer's own operations ran"
            return f"{path}, {name} at {calls} of {steps} steps: {own}"
        return path

    def fused_from_the_second(self, arrays: Arrays, calls: int, steps: int) -> bool:
        """Whether every step but the first is fused; of a sequence of one step, whether a second one would be."""
        if steps != 1:
            return calls == steps - 1
        if calls:
            return False
        before = self.module.parameters()
        longer = self.forward({**arrays, "x": mx.concatenate([arrays["x"]] * 2, axis=-2)})
        once = len(WATCHES[self.cell].states) == 1 and WATCHES[self.cell].returned(longer["outputs"])
        self.module.update(before)
        return once


class Compiled(Layer):
    """The layer under ``mx.compile``, from its inputs and weights to all states, or to all gradients."""

    def __init__(self, case: WorkerCase, weights: Arrays) -> None:
        super().__init__(case, weights)
        plain = super().forward
        self.whole_forward = mx.compile(plain)
        self.whole_gradients = mx.compile(lambda arrays, given: differentiated(plain, arrays, given))

    def forward(self, arrays: Arrays) -> Arrays:
        """Every state by name, by one compiled function."""
        observed: Arrays = self.whole_forward(arrays)
        self._hold(arrays)
        return observed

    def gradients(self, arrays: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        """The states and the gradients, by one compiled function."""
        observed, gradients = self.whole_gradients(arrays, cotangents)
        self._hold(arrays)
        return observed, gradients

    def _hold(self, arrays: Arrays) -> None:
        # In the place of what stood for the weights while a function was traced.
        self.module.update({key: arrays[key] for key in self.keys})

    def path(self, arrays: Arrays, observed: Arrays, gradients: Arrays) -> str:
        """The call, if the steps really became kernels: at least one each, since a product stands between them."""
        steps = observed["outputs"].shape[-2]
        kernels = compiled([*observed.values(), *gradients.values()])
        path = spelled(arrays)
        if kernels >= steps:
            path = f"{path}, under mx.compile"
        else:
            return f"{path}, {not_compiled(kernels, steps)}"
        return path


def not_compiled(kernels: int, steps: int) -> str:
    """What to say where the steps should have become compiled kernels and did not."""
    why = obstacle()
    return f"{kernels} compiled kernels in {steps} steps" + (f": {why}" if why else "")


def build(case: WorkerCase) -> tuple[Any, str]:
    """The module, and its name as the module itself tells it."""
    kind = {"gru": nn.GRU, "lstm": nn.LSTM, "elman": nn.RNN, "elman_relu": nn.RNN}[case.cell]
    options = {"elman": {"nonlinearity": mx.tanh}, "elman_relu": {"nonlinearity": nn.relu}}.get(case.cell, {})
    module = kind(case.x.shape[-1], case.hidden, **options)
    layer = f"mlx.nn.{type(module).__name__}"
    return module, f"{layer}[{module.nonlinearity.__name__}]" if options else layer


def spelled(arrays: Iterable[str]) -> str:
    """The path by the spelling of the initial state; `call` makes the call by the same condition."""
    if "h0" not in arrays:
        path = "{layer}(x)"
    else:
        path = "{layer}(x, hidden)"
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
