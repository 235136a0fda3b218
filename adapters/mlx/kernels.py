"""One kernel for all gates of a step, for releases of MLX that have no fused cell of their own.

Arguments and results are those of the fused cells (see `fused`): GRU (input_proj, hidden_proj, hidden, bhn) ->
(hidden,), LSTM (input_proj, hidden_proj, cell, hidden) -> (cell, hidden); 2-D, gates r z n and i f g o.

On CPU the kernel is what ``mx.compile`` makes of the gates below, on Metal and CUDA it is written out. The written ones
compute in float32 and round once, on storing. All of them share one backward pass: the derivative of the gates below,
recomputed from the step's arguments, compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

Device = Literal["cpu", "metal", "cuda"]
Arrays = Sequence[mx.array]


def gru_gates(input_proj: mx.array, hidden_proj: mx.array, hidden: mx.array, bhn: mx.array) -> tuple[mx.array, ...]:
    """One step of a GRU; input_proj (B, 3H) has the biases of r, z and the input side of n, hidden_proj has none."""
    x_r, x_z, x_n = mx.split(input_proj, 3, axis=-1)
    h_r, h_z, h_n = mx.split(hidden_proj, 3, axis=-1)
    r = mx.sigmoid(x_r + h_r)
    z = mx.sigmoid(x_z + h_z)
    n = mx.tanh(x_n + r * (h_n + bhn))
    return ((1 - z) * n + z * hidden,)


def lstm_gates(input_proj: mx.array, hidden_proj: mx.array, cell: mx.array, hidden: mx.array) -> tuple[mx.array, ...]:
    """One step of an LSTM; `hidden` is in `hidden_proj` already. Added gate by gate: a split would end the kernel."""
    x_i, x_f, x_g, x_o = mx.split(input_proj, 4, axis=-1)
    h_i, h_f, h_g, h_o = mx.split(hidden_proj, 4, axis=-1)
    i = mx.sigmoid(x_i + h_i)
    f = mx.sigmoid(x_f + h_f)
    g = mx.tanh(x_g + h_g)
    o = mx.sigmoid(x_o + h_o)
    c = f * cell + i * g
    return c, o * mx.tanh(c)


GATES: dict[str, Callable[..., tuple[mx.array, ...]]] = {"gru": gru_gates, "lstm": lstm_gates}
INPUTS = {
    "gru": ("input_proj", "hidden_proj", "hidden", "bhn"),
    "lstm": ("input_proj", "hidden_proj", "cell", "hidden"),
}
OUTPUTS = {"gru": ("next_hidden",), "lstm": ("next_cell", "next_hidden")}

# The thread's number, and the two functions that differ: neither may overflow, whatever the number.
HEADERS: dict[Device, str] = {
    "metal": """
inline float gate_sigmoid(float a) {
    float e = metal::precise::exp(-metal::abs(a));
    return a < 0.0f ? e / (1.0f + e) : 1.0f / (1.0f + e);
}
inline float gate_tanh(float a) { return metal::precise::tanh(a); }
""",
    "cuda": """
__device__ __forceinline__ float gate_sigmoid(float a) {
    float e = expf(-fabsf(a));
    return a < 0.0f ? e / (1.0f + e) : 1.0f / (1.0f + e);
}
__device__ __forceinline__ float gate_tanh(float a) { return tanhf(a); }
""",
}
THREADS: dict[Device, str] = {
    "metal": "size_t index = thread_position_in_grid.x;",
    "cuda": "size_t index = cooperative_groups::this_grid().thread_rank();",
}
# One thread a unit of a row. CUDA starts whole blocks, so some threads have nothing to do.
UNIT = """
    if (index >= size_t(hidden_shape[0]) * size_t(H)) return;
    size_t unit = index % H;
"""
BODIES = {
    "gru": """
    size_t gate = (index / H) * 3 * H + unit;
    float r = gate_sigmoid(float(input_proj[gate]) + float(hidden_proj[gate]));
    float z = gate_sigmoid(float(input_proj[gate + H]) + float(hidden_proj[gate + H]));
    float recurrent = float(hidden_proj[gate + 2 * H]) + float(bhn[unit]);
    float n = gate_tanh(float(input_proj[gate + 2 * H]) + r * recurrent);
    next_hidden[index] = T((1.0f - z) * n + z * float(hidden[index]));
""",
    "lstm": """
    size_t gate = (index / H) * 4 * H + unit;
    float i = gate_sigmoid(float(input_proj[gate]) + float(hidden_proj[gate]));
    float f = gate_sigmoid(float(input_proj[gate + H]) + float(hidden_proj[gate + H]));
    float g = gate_tanh(float(input_proj[gate + 2 * H]) + float(hidden_proj[gate + 2 * H]));
    float o = gate_sigmoid(float(input_proj[gate + 3 * H]) + float(hidden_proj[gate + 3 * H]));
    float c = f * float(cell[index]) + i * g;
    next_cell[index] = T(c);
    next_hidden[index] = T(o * gate_tanh(c));
""",
}


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


def source(cell: str, kind: Device) -> str:
    """The body of a written kernel; it needs its header, T (storage) and H (hidden size)."""
    return f"    {THREADS[kind]}{UNIT}{BODIES[cell]}"


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
