"""What one way to compute a case offers to the adapter."""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx

Arrays = dict[str, mx.array]


class Way(Protocol):
    """One way to compute a case; `name` is the layer's name as the layer tells it.

    Arrays go in by name: ``x``, ``h0`` and ``c0`` where given, and the weights. They come out as `Result` names them.
    """

    name: str

    def forward(self, arrays: Arrays) -> Arrays:
        """Every state by name."""

    def gradients(self, arrays: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        """The states, and the gradients of every array that went in."""

    def path(self, arrays: Arrays, observed: Arrays, gradients: Arrays) -> str:
        """What the last of these calls ran; asked before its results are computed: then their graph is gone."""

    def weights(self) -> Arrays:
        """The weights as they are held now."""
