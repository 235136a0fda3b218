"""The fused cells that a build of MLX may have, ``mx.fast.gru_cell`` and ``mx.fast.lstm_cell``: found and watched.

Their contract, as the fork that has them keeps it (ml-explore/mlx pull request 3089), with 2-D arrays and gates in the
orders r z n and i f g o: ``gru_cell(input_proj, hidden_proj, hidden[, bhn]) -> hidden`` and
``lstm_cell(input_proj, hidden_proj, cell, hidden) -> (cell, hidden)``. Where ``gru_cell`` takes no ``bhn``,
``hidden_proj`` holds it already.

That a build has a cell does not mean that a layer calls it: a layer may decide by device, by the spelling of its state,
or not at all. So the cells are wrapped once, before any layer runs, and every call is counted with what it returned.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

NAMES = {"gru": "gru_cell", "lstm": "lstm_cell"}


class Watch:
    """One fused cell of this build: `native` is the cell itself, None when there is none; `states` what it returned.

    The wrapper takes the place of the cell in ``mx.fast``, and wherever the module of the layers holds it by name. A
    reference that escapes it costs an agreement, it cannot fake one: calls that are not seen are not attested.
    """

    def __init__(self, name: str) -> None:
        self.native: Callable[..., Any] | None = getattr(mx.fast, name, None)
        self.states: list[mx.array] = []
        if self.native is None:
            return
        native = self.native

        @functools.wraps(native)
        def watched(*arguments: Any, **options: Any) -> Any:
            result = native(*arguments, **options)
            self.states.append(result[-1] if isinstance(result, (tuple, list)) else result)
            return result

        places = [mx.fast, *(sys.modules[layer.__module__] for layer in (nn.GRU, nn.LSTM))]
        for place in places:
            for key in [key for key, value in vars(place).items() if value is native]:
                setattr(place, key, watched)

    def returned(self, outputs: mx.array) -> bool:
        """Whether the states that the calls returned, in their order, are the last of these outputs (..., T, H)."""
        first = outputs.shape[-2] - len(self.states)
        return first >= 0 and all(
            state.size == outputs[..., first + k, :].size
            and mx.array_equal(
                state.astype(outputs.dtype).reshape(outputs[..., first + k, :].shape),
                outputs[..., first + k, :],
                equal_nan=True,
            ).item()
            for k, state in enumerate(self.states)
        )


WATCHES = {cell: Watch(name) for cell, name in NAMES.items()}


def native_cell(cell: str) -> Callable[..., tuple[mx.array, ...]] | None:
    """The fused cell under the arguments (input_proj, hidden_proj, *states, *further) -> states; None without one."""
    native = WATCHES[cell].native
    if native is None:
        return None
    if cell == "lstm":
        return lambda *arguments: tuple(native(*arguments))
    if takes_bhn(native):
        return lambda *arguments: (native(*arguments),)

    def folded(input_proj: mx.array, hidden_proj: mx.array, hidden: mx.array, bhn: mx.array) -> tuple[mx.array, ...]:
        padded = mx.concatenate([mx.zeros((2 * bhn.size,), dtype=bhn.dtype), bhn])
        return (native(input_proj, hidden_proj + padded, hidden),)

    return folded


def takes_bhn(native: Callable[..., Any]) -> bool:
    """Whether a GRU cell has the argument ``bhn``; compiled functions tell theirs in the first line of their text."""
    try:
        return "bhn" in inspect.signature(native).parameters
    except (TypeError, ValueError):
        return "bhn" in (native.__doc__ or "").split("\n\n")[0]


def switch() -> str | None:
    """What the framework itself says of its implementation of these layers; None in a release without that switch."""
    told = getattr(nn, "get_rnn_implementation", None) or getattr(
        sys.modules[nn.GRU.__module__], "get_rnn_implementation", None
    )
    return None if told is None else str(told())
