"""Carries of Flax's cells, and arrays between NumPy and JAX, in as little time as that can take."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np


def pack(h: Any, c: Any, directions: int) -> Any:
    """The carry for a state h and memory c: of Flax's LSTMs it is (c, h), of both directions a pair."""
    if directions == 1:
        return h if c is None else (c, h)
    split = partial(np.split, indices_or_sections=directions, axis=-1)
    return tuple(split(h) if c is None else zip(split(c), split(h), strict=True))


def unpack(carry: Any, cell: str, directions: int) -> tuple[Any, Any]:
    """The state h and memory c (None for other cells) in a carry, or in its gradient."""
    carries = [carry] if directions == 1 else carry
    if cell == "lstm":
        return _joined([h for _, h in carries]), _joined([c for c, _ in carries])
    return _joined(carries), None


def _joined(states: Any) -> Any:
    """The states of all directions side by side."""
    return states[0] if len(states) == 1 else np.concatenate(states, axis=-1)


def cast(array: Any, dtype: Any) -> Any:
    """A NumPy array in this dtype, itself where it has it; None stays None."""
    return array if array is None or array.dtype == dtype else array.astype(dtype)


@cache
def name_of(dtype: Any) -> str:
    """A dtype's name, which NumPy puts together anew every time."""
    return str(dtype.name)


def plain(array: Any) -> Any:
    """A NumPy array that holds the numbers exactly, in float64 or else float32; None stays None."""
    if array is None:
        return None
    return np.asarray(array, dtype=np.float64 if array.dtype == np.float64 else np.float32)
