"""One kernel for all gates of a step, for releases of MLX that have no fused cell of their own.

Arguments and results are those of the fused cells (see `fused`): GRU (input_proj, hidden_proj, hidden, bhn) ->
(hidden,), LSTM (input_proj, hidden_proj, cell, hidden) -> (cell, hidden); 2-D, gates r z n and i f g o.

On CPU the kernel is what ``mx.compile`` makes of the gates below, on Metal and CUDA it is written out (see `sources`).
All of them share one backward pass: the derivative of the gates below,
recomputed from the step's arguments, compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .sources import HEADERS, INPUTS, OUTPUTS, Device, source

Arrays = Sequence[mx.array]


def gru_gates(input_proj: mx.array, hidden_proj: mx.array, hidden: mx.array, bhn: mx.array) -> tuple[mx.array, ...]:
    """One step of a GRU; input_proj (B, 3H) has the biases of r, z and the input side of n, hidden_proj has none."""
    x_r, x_z, x_n = mx.split(input_proj, 3, axis=-1)
    h_r, h_z, h_n = mx.split(hidden_proj, 3, axis=-1)
    r = mx.sigmoid(x_r + h_r)
    z = mx.sigmoid(x_z + h_z)
    n = mx.tanh(x_n + r * (h_n + bhn))
    return ((1 - z) * n + z * hidden,)


def lstm_gates(input_proj: mx.array, hidden_proj: mx.array, cell: mx.array, _hidden: mx.array) -> tuple[mx.array, ...]:
    """One step of an LSTM; the hidden state is in `hidden_proj` already. Split, then added: a sum would be a kernel."""
    x_i, x_f, x_g, x_o = mx.split(input_proj, 4, axis=-1)
    h_i, h_f, h_g, h_o = mx.split(hidden_proj, 4, axis=-1)
    i = mx.sigmoid(x_i + h_i)
    f = mx.sigmoid(x_f + h_f)
    g = mx.tanh(x_g + h_g)
    o = mx.sigmoid(x_o + h_o)
    c = f * cell + i * g
    return c, o * mx.tanh(c)


GATES: dict[str, Callable[..., tuple[mx.array, ...]]] = {"gru": gru_gates, "lstm": lstm_gates}


@dataclass(frozen=True)
class Kernel:
    """A fused step: `forward` takes its arguments to the next states, `backward` those states' cotangents back.

    backward: (arguments, cotangents of the states) -> cotangents of the arguments, in their order.
    """

    device: Device
    forward: Callable[..., tuple[mx.array, ...]]
    backward: Callable[[Arrays, Arrays], list[mx.array]]


def device() -> Device:
    """Where MLX computes: the kind of its default device."""
    if mx.default_device() != mx.gpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


@functools.cache
def kernel_of(cell: str, kind: Device) -> Kernel:
    """The kernel of a cell on a device; made on first use, since MLX makes none for a device that is not there."""
    gates = GATES[cell]

    def derivative(arguments: Arrays, cotangents: Arrays) -> list[mx.array]:
        return mx.vjp(lambda *primals: list(gates(*primals)), list(arguments), list(cotangents))[1]

    forward = mx.compile(gates) if kind == "cpu" else written(cell, kind)
    return Kernel(device=kind, forward=forward, backward=mx.compile(derivative))


def written(cell: str, kind: Device) -> Callable[..., tuple[mx.array, ...]]:
    """The kernel written for Metal or CUDA, as a function of arrays."""
    make: Any = mx.fast.metal_kernel if kind == "metal" else mx.fast.cuda_kernel
    kernel = make(
        name=f"rnn_conformance_{cell}",
        input_names=list(INPUTS[cell]),
        output_names=list(OUTPUTS[cell]),
        source=source(cell, kind),
        header=HEADERS[kind],
    )

    def launched(*arguments: mx.array) -> tuple[mx.array, ...]:
        state = arguments[INPUTS[cell].index("hidden")]
        count = len(OUTPUTS[cell])
        if state.size == 0:  # nothing to start
            return (mx.zeros_like(state),) * count
        outputs = kernel(
            inputs=list(arguments),
            template=[("T", state.dtype), ("H", state.shape[-1])],
            grid=(state.size, 1, 1),
            threadgroup=(min(state.size, 256), 1, 1),
            output_shapes=[state.shape] * count,
            output_dtypes=[state.dtype] * count,
        )
        return tuple(outputs)

    return launched
