"""The kernels written for Metal and CUDA, run without either: their very text, compiled as C++ behind a few shims.

What a shim stands for is what the languages promise: the number of the thread, exp, tanh and abs, and a storage type
that converts to and from float only where the text says so. That MLX launches them right is not shown here.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.case import Case, Shape
from conformance.cells import cell_named
from conformance.discover import find_adapters
from conformance.signature import Signature, build

SOURCES = find_adapters()["mlx"].folder / "sources.py"
BATCH, DIM, HIDDEN = 3, 5, 7
SHAPE = Shape(batch=BATCH, time=1, features=DIM, hidden=HIDDEN)
# Threads beyond the last unit, as CUDA starts them, and what must still stand behind the results afterwards.
SURPLUS, CANARY = 11, 12345.0
CONTAINER = NDArray[np.float32]

SHIMS = {
    "metal": """
namespace metal {
inline float abs(float a) { return std::fabs(a); }
namespace precise {
inline float exp(float a) { return std::exp(a); }
inline float tanh(float a) { return std::tanh(a); }
}
}
struct { unsigned x; } thread_position_in_grid;
#define SET_THREAD(k) thread_position_in_grid.x = k
""",
    "cuda": """
#define __device__
#define __forceinline__ inline
namespace cooperative_groups {
struct Grid { unsigned long long rank; unsigned long long thread_rank() { return rank; } } grid;
Grid this_grid() { return grid; }
}
#define SET_THREAD(k) cooperative_groups::grid.rank = k
""",
}
STORAGE = {
    "float32": "typedef float T;",
    # bfloat16, kept in a float: rounded to nearest, ties to even, on storing; no conversion but an explicit one.
    "bfloat16": """
struct T {
    float held;
    explicit T(float a) {
        unsigned bits;
        std::memcpy(&bits, &a, 4);
        bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
        std::memcpy(&held, &bits, 4);
    }
    explicit operator float() const { return held; }
};
""",
}
PLANTED = {
    "gru": [
        ("(1.0f - z) * n + z * float(hidden[index])", "z * n + (1.0f - z) * float(hidden[index])"),
        (" + float(bhn[unit])", ""),
        ("float(bhn[unit])", "float(bhn[index % BATCH])"),
        ("hidden_proj[gate + 2 * H]", "hidden_proj[gate + H]"),
        ("(index / H) * 3 * H", "(index / H) * 2 * H"),
        ("r * recurrent", "recurrent"),
    ],
    "lstm": [
        ("f * float(cell[index]) + i * g", "i * float(cell[index]) + f * g"),
        ("o * gate_tanh(c)", "o * c"),
        ("input_proj[gate + 3 * H]", "input_proj[gate + 2 * H]"),
        ("next_cell[index] = T(c);", "next_cell[index] = T(c + 0.001f);"),
    ],
}


def sources() -> ModuleType:
    """The module of the adapter that holds the texts; it imports nothing of MLX."""
    spec = importlib.util.spec_from_file_location("mlx_kernel_sources", SOURCES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TEXTS = sources()


def compiled(folder: Path, cell: str, kind: str, dtype: str, body: str) -> Any:
    """A function (arrays in, arrays out) that runs every thread of a kernel, and some more."""
    inputs, outputs = TEXTS.INPUTS[cell], TEXTS.OUTPUTS[cell]
    text = (
        f"#include <cmath>\n#include <cstddef>\n#include <cstring>\nusing std::size_t;\n{SHIMS[kind]}{STORAGE[dtype]}"
    )
    text += f"static const int H = {HIDDEN}, BATCH = {BATCH};\n{TEXTS.HEADERS[kind]}"
    arguments = [
        *(f"const T* {name}" for name in inputs),
        "const int* hidden_shape",
        *(f"T* {name}" for name in outputs),
    ]
    names = ", ".join([*inputs, "hidden_shape", *outputs])
    text += f"static void thread({', '.join(arguments)}) {{\n{body}\n}}\n"
    text += f'extern "C" void launch({", ".join(arguments)}) {{\n'
    text += f"for (unsigned k = 0; k < {BATCH * HIDDEN + SURPLUS}; ++k) {{ SET_THREAD(k); thread({names}); }}\n}}\n"
    compiler = shutil.which("g++")
    assert compiler is not None, "this test compiles kernels: install g++"
    (folder / "kernel.cpp").write_text(text)
    library = folder / "kernel.so"
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wno-unused-variable", "-Werror", "-shared", "-fPIC", "-o"]
    subprocess.run([*command, str(library), str(folder / "kernel.cpp")], check=True)
    launch = ctypes.CDLL(str(library)).launch
    pointer = ctypes.POINTER(ctypes.c_float)

    def run(arrays: Mapping[str, CONTAINER]) -> dict[str, CONTAINER]:
        results = {name: np.full(BATCH * HIDDEN + SURPLUS, CANARY, np.float32) for name in outputs}
        shape = (ctypes.c_int * 2)(BATCH, HIDDEN)
        given = [np.ascontiguousarray(arrays[name], np.float32) for name in inputs]
        launch(
            *(each.ctypes.data_as(pointer) for each in given),
            shape,
            *(each.ctypes.data_as(pointer) for each in results.values()),
        )
        for each in results.values():
            assert np.all(each[BATCH * HIDDEN :] == CANARY), "written beyond the last unit"
        return {name: each[: BATCH * HIDDEN].reshape(BATCH, HIDDEN) for name, each in results.items()}

    return run


def a_case(cell: str, dtype: str, scale: float = 0.8) -> Case:
    """One step with generic numbers."""
    signature = Signature(shape=SHAPE, batched=True, seed=5, scale=scale, decimals=6, fills=())
    return build(signature, cell=cell, dtype=dtype, initial="given", features=())


def arguments(case: Case) -> dict[str, Any]:
    """What the kernel of a step is given: projections in the dtype, from the canonical parameters in float64."""
    p, x, h = case.parameters, case.x[:, 0], case.h0
    gates = "rzn" if case.cell == "gru" else "ifgo"
    bias = {gate: p[f"b_x{gate}"] + (0 if gate == "n" else p[f"b_h{gate}"]) for gate in gates}
    named = {
        "input_proj": np.concatenate([x @ p[f"W_x{gate}"].T + bias[gate] for gate in gates], axis=1),
        "hidden_proj": np.concatenate([h @ p[f"W_h{gate}"].T for gate in gates], axis=1),
        "hidden": h,
    }
    return named | ({"bhn": p["b_hn"]} if case.cell == "gru" else {"cell": case.c0})


def distance(cell: str, dtype: str, kernel: Any) -> float:
    """The largest difference between a kernel and the reference on a step, in units of what one rounding costs."""
    case = a_case(cell, dtype)
    unit = {"float32": 2.0**-23, "bfloat16": 2.0**-8}[dtype]
    given = arguments(case)
    largest = 1 + max(float(np.abs(value).max()) for value in given.values())
    if dtype == "bfloat16":  # stored projections are rounded, here by cutting off
        bits = {name: np.asarray(value, np.float32).view(np.uint32) & 0xFFFF0000 for name, value in given.items()}
        given = {name: value.astype(np.uint32).view(np.float32) for name, value in bits.items()}
    results = kernel(given)
    truth = cell_named(cell).run(case)
    wanted = {"next_hidden": truth.outputs[:, 0]} | ({} if truth.cells is None else {"next_cell": truth.cells[:, 0]})
    assert results.keys() == wanted.keys()
    return max(float(np.abs(results[name] - wanted[name]).max()) for name in wanted) / (unit * largest)


@pytest.mark.parametrize("dtype", STORAGE)
@pytest.mark.parametrize("kind", SHIMS)
@pytest.mark.parametrize("cell", TEXTS.BODIES)
def test_a_written_kernel_computes_the_step_of_the_reference(tmp_path: Path, cell: str, kind: str, dtype: str) -> None:
    """Every unit of every row, within a few roundings, and nothing beyond the last unit."""
    kernel = compiled(tmp_path, cell, kind, dtype, TEXTS.source(cell, kind))
    assert distance(cell, dtype, kernel) < 4


@pytest.mark.parametrize(("cell", "old", "new"), [(cell, *each) for cell, all_ in PLANTED.items() for each in all_])
def test_a_wrong_kernel_is_noticed(tmp_path: Path, cell: str, old: str, new: str) -> None:
    """An error planted in the text is far outside of what is allowed above."""
    right = TEXTS.source(cell, "cuda")
    assert right.count(old) == 1
    kernel = compiled(tmp_path, cell, "cuda", "float32", right.replace(old, new))
    assert distance(cell, "float32", kernel) > 400


def test_a_kernel_without_its_guard_is_noticed(tmp_path: Path) -> None:
    """Threads beyond the last unit must not write."""
    right = TEXTS.source("gru", "cuda")
    unguarded = right.replace("if (index >= size_t(hidden_shape[0]) * size_t(H)) return;", "")
    assert unguarded != right
    kernel = compiled(tmp_path, "gru", "cuda", "float32", unguarded)
    # Room to read for threads that should not be there.
    given = {name: np.ones((8 * BATCH, 8 * HIDDEN), np.float32) for name in TEXTS.INPUTS["gru"]}
    with pytest.raises(AssertionError, match="beyond the last unit"):
        kernel(given)


@pytest.mark.parametrize("kind", SHIMS)
def test_saturated_gates_neither_overflow_nor_lose_the_state(tmp_path: Path, kind: str) -> None:
    """An update gate of one keeps the state bit for bit, one of zero takes the candidate, whatever the size."""
    kernel = compiled(tmp_path, "gru", kind, "float32", TEXTS.source("gru", kind))
    given = {name: np.asarray(value, np.float32) for name, value in arguments(a_case("gru", "float32")).items()}
    for size in (200.0, 3e38):
        given["input_proj"][:, HIDDEN : 2 * HIDDEN] = size
        np.testing.assert_array_equal(kernel(given)["next_hidden"], given["hidden"])
        given["input_proj"][:, HIDDEN : 2 * HIDDEN] = -size
        given["input_proj"][:, 2 * HIDDEN :] = size
        np.testing.assert_array_equal(kernel(given)["next_hidden"], np.ones((BATCH, HIDDEN), np.float32))
