"""A block: many cases of one kind at once, with an axis for the case before all others.

What its cases share is paid for once: one message, one stacked evaluation, one judgement. None of its cases is special:
each can be had by itself, and is when anything about it is not as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from conformance.case import Case, unchecked
from conformance.rounding import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Cases of one signature that differ in their numbers.

    first: the first of them, for all that they share. parameters, x, h0, c0: as in `Case`, rounded to the dtype and
    read-only, with the axis of the case in front. index: which block of its campaign it is; digest: a stable name, the
    same for the same numbers on every machine.
    """

    first: Case
    parameters: Mapping[str, Array]
    x: Array
    h0: Array
    c0: Array | None
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
        chosen = slice(None) if len(places) == self.count else list(places)
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
