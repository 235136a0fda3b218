"""Hypothesis: drawing signatures and shapes.

Each is a number, whose digits say everything: drawing is cheap, no two share what they need not, and the smallest
number is the most readable: the smallest shape, zeros, one decimal. Whoever needs this module imports it when it draws:
first answers come from shipped cases, and Hypothesis takes as long to import as everything else.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Final, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from conformance.case import Shape
from conformance.errors import CaseError
from conformance.signature import DECIMALS, FILLS, LATTICE, SCALES, Signature, overlaid

T = TypeVar("T")

# Of fresh shapes: how long every axis may be, and how many products a gate may need in all steps of a case. The widths
# at which vectors and blocks of kernels end, and their neighbours, are as likely as all others together.
LARGEST: Final = Shape(batch=9, time=33, features=65, hidden=129)
_PRODUCTS: Final = 300_000
_EDGES: Final = (1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)

_KEY_BITS: Final = 64
_TOGETHER: Final = 32


class _Digits:
    """Choices read off a number, which has so many more bits than they need that all are equally likely."""

    def __init__(self, number: int) -> None:
        self._rest = number

    def below(self, count: int) -> int:
        self._rest, digit = divmod(self._rest, count)
        return digit

    def of(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]


def signature_of(
    number: int, *, cell: str, lattice: tuple[tuple[Shape, bool], ...] = LATTICE, overlays: bool = True
) -> Signature:
    """The signature of a case of one cell that a number tells, with overlays or without."""
    digits = _Digits(number)
    shape, batched = digits.of(lattice)
    return Signature(
        shape=shape,
        batched=batched,
        scale=digits.of(SCALES),
        decimals=digits.of(DECIMALS),
        fills=tuple((group, digits.below(FILLS)) for group in overlaid(cell) if overlays),
        seed=digits.below(2**32),
    )


def fresh_shape_of(number: int) -> tuple[Shape, bool]:
    """The shape that a number tells, up to `LARGEST`, with whether it is batched: each is a new program."""
    digits = _Digits(number)
    hidden, features = _extent(digits, LARGEST.hidden), _extent(digits, LARGEST.features)
    steps = _PRODUCTS // (hidden * (hidden + features))
    time = _extent(digits, min(LARGEST.time, steps))
    batch = _extent(digits, min(LARGEST.batch, steps // time))
    unbatched = batch == 1 and digits.below(2) == 1
    return Shape(batch=batch, time=time, features=features, hidden=hidden), not unbatched


def _extent(digits: _Digits, most: int) -> int:
    free = digits.below(2) == 1
    return 1 + digits.below(most) if free else digits.of([edge for edge in _EDGES if edge <= most])


def some(count: int, said: str) -> list[int]:
    """So many numbers of 256 bits that Hypothesis draws, from a seed made of what is `said`; fewer begin alike.

    It draws keys of booleans, and a key stands for several numbers. Of any other kind it likes some values better, and
    every so often tries a constant of whatever module is loaded: which are loaded depends on how the harness is
    installed and started, and to find out all modules of a checkout are parsed, which takes half a second.

    Raises
    ------
    CaseError: not enough were drawn.
    """
    found: list[int] = []

    @settings(
        max_examples=1 + -(-count // _TOGETHER),
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @seed(zlib.crc32(said.encode()))
    @given(st.lists(st.booleans(), min_size=_KEY_BITS, max_size=_KEY_BITS))
    def collect(key: list[bool]) -> None:
        if any(key):  # The first key is always the smallest.
            found.extend(_number(key, place) for place in range(_TOGETHER))

    collect()
    if len(found) < count:
        raise CaseError("Hypothesis drew too little", where=said, got=str(len(found)), wanted=str(count))
    return found[:count]


def _number(key: Sequence[bool], place: int) -> int:
    return int.from_bytes(hashlib.sha256(bytes(key) + place.to_bytes(2)).digest())
