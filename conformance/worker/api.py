"""What an adapter sees: a case in canonical form, and the shape of its answer.

An adapter is a folder with ``adapter.toml`` (what it declares) and ``adapter.py``, a module with two functions:

``facts() -> dict[str, str]``
    versions and device of the framework, read from the framework itself.
``run(case: WorkerCase) -> Result``
    build the layer, load the weights, run it, name the outputs, and say which path really ran.

It never sees an expected answer, compares nothing and skips nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class WorkerCase:
    """A case as the adapter receives it.

    parameters: canonical arrays by name, matrices (out, in); for ``gru`` and ``gru_v1`` these are
        W_xr W_xz W_xn (H, D), W_hr W_hz W_hn (H, H), b_xr b_xz b_xn b_hr b_hz b_hn (H,).
    x: (B, T, D), or (T, D) when the case is unbatched.
    h0: (B, H) or (H,); None when the initial state is omitted.
    dtype: the dtype to compute in. Arrays are float64 for "float64" and float32 otherwise, and already
        hold values of that dtype: converting them is exact.
    """

    cell: str
    variant: str
    dtype: str
    parameters: dict[str, Any]
    x: Any
    h0: Any | None
    hidden: int
    batched: bool


@dataclass(frozen=True)
class Result:
    """What an adapter returns.

    outputs: every hidden state, (B, T, H) or (T, H).
    final_state: the last hidden state, (B, H) or (H,).
    dtype: the dtype in which the framework returned `outputs`, e.g. "bfloat16".
    path: which code really ran; must equal the path the variant declares in adapter.toml.
    """

    outputs: Any
    final_state: Any
    dtype: str
    path: str


def assemble(recipe: Sequence[str], parameters: dict[str, Any]) -> Any:
    """Stack canonical arrays along the first axis: ``["b_xr + b_hr", "b_xn"]`` adds, then concatenates.

    This is how an adapter writes its weight permutation as data.
    """
    blocks = []
    for terms in recipe:
        names = [name.strip() for name in terms.split("+")]
        block = parameters[names[0]]
        for name in names[1:]:
            block = block + parameters[name]
        blocks.append(block)
    return np.concatenate(blocks, axis=0)
