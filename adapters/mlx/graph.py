"""What MLX is about to compute, read from its graph before it is evaluated, and why there may be no compiled kernel."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx

# On CPU MLX writes C++ and has this command compile it; on macOS the command is clang under that name.
COMPILER = "g++"
_PRIMITIVE = re.compile(r'label ?= ?"(\w+)')


def primitives(arrays: Iterable[mx.array]) -> list[str]:
    """The names of all primitives that these arrays still wait for; what ``mx.compile`` fused is ``Compiled...``."""
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    return _PRIMITIVE.findall(text.getvalue())


def compiled(arrays: Iterable[mx.array]) -> int:
    """How many compiled kernels these arrays wait for."""
    return sum(name.startswith("Compiled") for name in primitives(arrays))


def obstacle() -> str:
    """Why MLX may have compiled nothing on this machine, "" when nothing is known to stand in the way."""
    if "MLX_DISABLE_COMPILE" in os.environ:
        return "MLX_DISABLE_COMPILE is set"
    if mx.default_device() == mx.cpu and shutil.which(COMPILER) is None:
        return f"there is no C++ compiler: mx.compile on CPU needs {COMPILER} on PATH"
    return ""


def evaluate(*arrays: Any) -> None:
    """Compute; a release that fails for want of a compiler (before 0.32.0) says so in plain words."""
    try:
        mx.eval(*arrays)
    except RuntimeError as error:
        if obstacle():
            raise RuntimeError(f"nothing was compiled: {obstacle()} ({error})") from error
        raise


def differentiated(
    forward: Callable[[dict[str, mx.array]], dict[str, mx.array]],
    arrays: dict[str, mx.array],
    cotangents: dict[str, mx.array],
) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
    """What `forward` gives, and the gradients of the sum of its products with the cotangents, by MLX itself."""

    def total(leaves: dict[str, mx.array]) -> tuple[mx.array, dict[str, mx.array]]:
        observed = forward(leaves)
        return sum((value * observed[key]).sum() for key, value in cotangents.items()), observed

    (_, observed), gradients = mx.value_and_grad(total)(arrays)
    return observed, gradients
