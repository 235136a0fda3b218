"""A block: many cases of one kind at once, with an axis for the case before all others.

What its cases share is paid for once: one message, one stacked evaluation, one judgement. None of its cases is special:
each can be had by itself, and is when anything about it is not as it should be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from conformance.case import Case, unchecked
from conformance.rounding import Array

Packed: TypeAlias = NDArray[np.floating]


def packed(arrays: Mapping[str, Array], dtype: str) -> dict[str, Packed]:
    """Arrays rounded to a dtype in the narrowest container of the message format that holds them exactly."""
    container: type[np.floating] = np.float64 if dtype == "float64" else np.float32
    return {name: values.astype(container) for name, values in arrays.items()}


class Block(Struct, frozen=True, kw_only=True, eq=False):
    """Cases of one signature that differ in their numbers.

    first: the first of them, for all that they share. parameters, x, h0, c0: as in `Case`, rounded to the dtype and
    read-only, with the axis of the case in front; packed: all of them as a worker gets them, see `packed`. index: which
    block of its campaign it is; digest: a stable name, the same for the same numbers on every machine.
    """

    first: Case
    parameters: Mapping[str, Array]
    x: Array
    h0: Array
    c0: Array | None
    packed: Mapping[str, Packed]
    index: int
    origin: str
    digest: str

    @property
    def count(self) -> int:
        """How many cases there are."""
        return len(self.x)

    def case(self, place: int) -> Case:
        """One of the cases."""
        own = {
            "parameters": {name: values[place] for name, values in self.parameters.items()},
            "x": self.x[place],
            "h0": self.h0[place],
            "c0": None if self.c0 is None else self.c0[place],
            "origin": f"{self.origin}, case {place}",
        }
        return unchecked(self.first, own)

    def together(self, places: Sequence[int]) -> Case:
        """Some as one case with an axis in front, as `conformance.case.stacked` makes it: only to be evaluated."""
        following = len(places) > 0 and list(places) == list(range(places[0], places[0] + len(places)))
        chosen = slice(places[0], places[0] + len(places)) if following else list(places)  # a view, where it can be
        own = {
            "parameters": {
                name: values[chosen, None, :] if values.ndim == 2 else values[chosen]
                for name, values in self.parameters.items()
            },
            "x": self.x[chosen],
            "h0": self.h0[chosen],
            "c0": None if self.c0 is None else self.c0[chosen],
        }
        return unchecked(self.first, own)

    def like(self, first: Case) -> Block:
        """The same numbers for a case that differs in how it is run or judged."""
        return replace(self, first=first)

    def zeroed(self, names: Collection[str]) -> Block:
        """The same cases with these parameters held at zero, in every layer and direction."""
        held = {name for name in self.parameters if name.rpartition(".")[2] in names}
        if not held:
            return self
        parameters, sent = dict(self.parameters), dict(self.packed)
        for name in held:
            parameters[name], sent[name] = np.zeros_like(parameters[name]), np.zeros_like(sent[name])
            parameters[name].setflags(write=False)
        return replace(
            self,
            first=self.first.zeroed(tuple(names)),
            parameters=parameters,
            packed=sent,
            digest=hashlib.sha256(f"{self.digest}|{','.join(sorted(held))}".encode()).hexdigest()[:12],
        )
