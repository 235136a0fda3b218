"""A loop of this adapter over fused cells: those of the build where it has them, else the portable kernels.

The inputs of all steps are projected at once; every step then is one matrix product and one fused call. The fused calls
take 2-D arrays only, so an unbatched case gets a batch axis of one here. An omitted state is zeros here: a fused cell
has to be given one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from conformance.worker.api import WorkerCase

from .fused import native_cell
from .graph import compiled, differentiated
from .kernels import Kernel, device, kernel_of
from .layers import not_compiled
from .way import Arrays, Ran


@dataclass(frozen=True)
class Signature:
    """Names of what a cell takes: its folded bias, its states in the order of the fused call, what comes after them."""

    bias: str
    states: tuple[str, ...]
    further: tuple[str, ...] = ()


SIGNATURES = {
    "gru": Signature(bias="b", states=("h0",), further=("bhn",)),
    "lstm": Signature(bias="bias", states=("c0", "h0")),
}


class Step(Protocol):
    """A fused cell: (input_proj, hidden_proj, *states, *further) -> states, with the hidden state last."""

    def __call__(self, *arguments: mx.array) -> tuple[mx.array, ...]:
        """Take one step."""


class Loop:
    """The loop with the weights of a case; `arguments` are those of each step of the last forward run."""

    def __init__(self, case: WorkerCase, weights: Arrays, step: Step) -> None:
        self.case = case
        self.held = weights
        self.signature = SIGNATURES[case.cell]
        self.step = step
        self.arguments: list[tuple[mx.array, ...]] = []
        self.name = "loop"

    def forward(self, arrays: Arrays) -> Arrays:
        """Every state by name, of inputs and weights by name."""
        batched = self.case.batched
        x = arrays["x"] if batched else arrays["x"][None]
        projected = x @ arrays["Wx"].T + arrays[self.signature.bias]
        transposed = arrays["Wh"].T
        further = [arrays[key] for key in self.signature.further]
        states = self.initial(arrays, x)
        self.arguments, every = [], []
        for t in range(x.shape[1]):
            arguments = (projected[:, t], states[-1] @ transposed, *states, *further)
            states = self.step(*arguments)
            self.arguments.append(arguments)
            every.append(states)
        memories, outputs = every_named(every)
        observed = {"outputs": outputs, "final_state": states[-1]}
        if memories is not None:
            observed |= {"cells": memories, "final_cell": states[0]}
        return observed if batched else {key: value[0] for key, value in observed.items()}

    def initial(self, arrays: Arrays, x: mx.array) -> tuple[mx.array, ...]:
        """The states before the first step, with a batch axis."""
        zeros = mx.zeros((x.shape[0], self.case.hidden), dtype=x.dtype)
        given = [arrays.get(key, zeros) for key in self.signature.states]
        return tuple(state if state.ndim == 2 else state[None] for state in given)

    def gradients(self, arrays: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        """The states, and the gradients of every input and weight, by MLX itself."""
        return differentiated(self.forward, arrays, cotangents)

    def path(self, ran: Ran) -> str:
        """The spelling; this loop calls a fused cell of the build at every step."""
        path = spelled(ran)
        path = f"{path}, mx.fast cell at every step"
        return path  # noqa: RET504 (paths are assigned: a test reads them, to compare them with the manifest)

    def weights(self) -> Arrays:
        """The weights as they are held now."""
        return self.held


class Portable(Loop):
    """The loop over a portable kernel, forward and backward.

    A function compiled by MLX is not compiled while MLX differentiates: what runs then are its plain operations. So the
    gradients of the loop are written out here, of kernels that are compiled on their own.
    """

    def __init__(self, case: WorkerCase, weights: Arrays, kernel: Kernel) -> None:
        super().__init__(case, weights, kernel.forward)
        self.kernel = kernel

    def gradients(self, arrays: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        """The states, and the gradients of every input and weight, by back-propagation through the loop."""
        batched, names = self.case.batched, self.signature
        observed = self.forward(arrays)
        given = cotangents if batched else {key: value[None] for key, value in cotangents.items()}
        carried = [given["final_cell"], given["final_state"]] if "final_cell" in given else [given["final_state"]]
        count, of_inputs, of_hidden, of_further = len(carried), [], [], []
        for t in reversed(range(len(self.arguments))):
            carried[-1] = carried[-1] + given["outputs"][:, t]
            d_input, d_hidden, *rest = self.kernel.backward(list(self.arguments[t]), carried)
            carried = rest[:count]
            carried[-1] = carried[-1] + d_hidden @ arrays["Wh"]
            of_inputs.append(d_input)
            of_hidden.append(d_hidden)
            of_further.append(rest[count:])
        x = arrays["x"] if batched else arrays["x"][None]
        befores = mx.stack([arguments[1 + count] for arguments in self.arguments], axis=1)
        d_projected, d_products = mx.stack(of_inputs[::-1], axis=1), mx.stack(of_hidden[::-1], axis=1)
        gradients = {"x": d_projected @ arrays["Wx"]}
        gradients |= {key: value for key, value in zip(names.states, carried, strict=True) if key in arrays}
        if not batched:
            gradients = {key: value[0] for key, value in gradients.items()}
        gradients |= {"Wx": products(d_projected, x), "Wh": products(d_products, befores)}
        gradients[names.bias] = d_projected.sum(axis=(0, 1))
        for k, key in enumerate(names.further):
            gradients[key] = mx.stack([each[k] for each in of_further]).sum(axis=0)
        return observed, gradients

    def path(self, ran: Ran) -> str:
        """The spelling, and what made the kernel that ran at every step, forward and, where asked for, backward."""
        path, steps = spelled(ran), len(self.arguments)
        match self.kernel.device:
            case "metal":
                path = f"{path}, mx.fast.metal_kernel at every step"
            case "cuda":
                path = f"{path}, mx.fast.cuda_kernel at every step"
            case "cpu":
                forward, both = compiled(ran.observed.values()), compiled(ran.arrays)
                if forward != steps:
                    return f"{path}, {not_compiled(forward, steps)}"
                if ran.gradients and both < 2 * steps:
                    return f"{path}, backward {not_compiled(both - forward, steps)}"
                path = f"{path}, mx.compile kernel at every step"
        return path


def spelled(ran: Ran) -> str:
    """The path by the spelling of the initial state."""
    path = "loop(x, hidden)"
    if ran.omitted:
        path = "loop(x)"
    return path


def every_named(every: list[tuple[mx.array, ...]]) -> tuple[mx.array | None, mx.array]:
    """The memories (None without one) and the hidden states of all steps, (B, T, H)."""
    *memories, outputs = (mx.stack(list(states), axis=1) for states in zip(*every, strict=True))
    return (memories[0] if memories else None), outputs


def products(left: mx.array, right: mx.array) -> mx.array:
    """The sum over rows and steps of all outer products: (B, T, M), (B, T, N) -> (M, N)."""
    return left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])


def native(case: WorkerCase, weights: Arrays) -> Loop | None:
    """The loop over the fused cell of this build, None where it has none."""
    step = native_cell(case.cell)
    return None if step is None else Loop(case, weights, step)


def portable(case: WorkerCase, weights: Arrays) -> Portable:
    """The loop over the portable kernel for the default device."""
    return Portable(case, weights, kernel_of(case.cell, device()))
