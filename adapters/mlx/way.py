"""What one way to compute a case offers to the adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx

Arrays = dict[str, mx.array]


@dataclass(frozen=True)
class Ran:
    """A call that was made: the inputs that it was given, and what it returned."""

    inputs: Arrays
    observed: Arrays
    gradients: Arrays = field(default_factory=dict)

    @property
    def omitted(self) -> bool:
        """Whether the call was made without an initial state."""
        return "h0" not in self.inputs

    @property
    def steps(self) -> int:
        """The length of the sequence."""
        return self.observed["outputs"].shape[-2]

    @property
    def arrays(self) -> list[mx.array]:
        """Everything that it returned."""
        return [*self.observed.values(), *self.gradients.values()]


class Way(Protocol):
    """One way to compute a case; `name` is the layer's name as the layer tells it.

    Arrays go in by name: ``x``, ``h0`` and ``c0`` where given, and the weights. They come out as `Result` names them.
    """

    name: str

    def forward(self, arrays: Arrays) -> Arrays:
        """Every state by name."""

    def gradients(self, arrays: Arrays, cotangents: Arrays) -> tuple[Arrays, Arrays]:
        """The states, and the gradients of every array that went in."""

    def path(self, ran: Ran) -> str:
        """What the last of these calls ran; asked before its results are computed: then their graph is gone."""

    def weights(self) -> Arrays:
        """The weights as they are held now."""
