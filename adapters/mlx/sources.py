"""The gate kernels written for Metal and CUDA, as text that MLX compiles. Nothing of MLX is imported here.

They compute in float32, whatever they store in, and round once. T is the storage type, H the hidden size; the rest of a
kernel's signature is written by MLX from the names below (`hidden_shape` it adds because the body uses it).
"""

from __future__ import annotations

from typing import Literal

Device = Literal["cpu", "metal", "cuda"]

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


def source(cell: str, kind: Device) -> str:
    """The body of a kernel; it needs the header of that kind."""
    return f"    {THREADS[kind]}{UNIT}{BODIES[cell]}"
