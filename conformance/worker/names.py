"""How blocks of a stack, their arrays and attested paths are called, on both sides of the pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Level = Literal["layer", "cell"]
"""What a benchmark times: the layer on a whole sequence, or T steps of the cell alone, each from the one before it."""


def attest(path: str, features: Sequence[str]) -> str:
    """The attested path of a call with features: ``torch.nn.GRU(x, hx) +lengths``."""
    return " ".join((path, *(f"+{feature}" for feature in features))) if features else path


def block(parameters: Mapping[str, Any], layer: int = 0, direction: int = 0) -> dict[str, Any]:
    """The canonical arrays of one layer and direction (0 forward, 1 backward), without their prefix."""
    prefix = prefix_of(layer, direction)
    if not prefix:
        return {name: value for name, value in parameters.items() if "." not in name}
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def prefix_of(layer: int, direction: int) -> str:
    """The prefix of a block's parameter names: "" for layer 0 forward, then ``0r.``, ``1.``, ``1r.``, ..."""
    return "" if (layer, direction) == (0, 0) else f"{layer}{'r' if direction else ''}."
