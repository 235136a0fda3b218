"""Failures in Hypothesis' example database: kept there, and replayed from there.

A database keeps choices that Hypothesis has made, so it is led to make them: every generated case has a whole number,
and the smallest one that is not below it is what `find` comes to by shrinking. It is replayed as all kept examples are:
first of all, and forgotten once it agrees.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import prod
from typing import Final
from unittest import SkipTest

from hypothesis import Phase, Verbosity, find, settings
from hypothesis import strategies as st
from hypothesis.database import ExampleDatabase, InMemoryExampleDatabase
from hypothesis.errors import NoSuchExample
from msgspec import Struct

from conformance.case import Shape
from conformance.signature import DECIMALS, FILLS, SCALES, Signature, overlaid

_KEY: Final = b"case 1"  # and which form these numbers have
_SIZES: Final = (1 << 12,) * 4
_GROUPS: Final = 16  # of arrays, for each of which there may be an overlay; more than any cell has
_RADICES: Final = (
    *(*_SIZES, 2, 1 << 32, len(SCALES), len(DECIMALS), 1 << 40, 1 << 8, 1 << 8),
    *(FILLS + 1,) * _GROUPS,
)
_CHECK: Final = 1 << 32
_SEARCH: Final = 1000
# Many times the largest number that a case has: one above any given one is soon drawn.
_NUMBERS: Final = st.integers(0, prod(_RADICES) * _CHECK * 256)
_QUIET: Final = settings(deadline=None, verbosity=Verbosity.quiet, print_blob=False)


class Place(Struct, frozen=True, kw_only=True):
    """How a generated case is made: of a block its signature, index and number of cases, and the place there.

    A case that was drawn by itself is of no block: its signature, with overlays, is all; index, count and place are 0.
    """

    signature: Signature
    index: int
    count: int
    place: int


def keep(database: ExampleDatabase, place: Place) -> None:
    """Have the database keep the choices that make this case."""
    number = number_of(place)
    # The way there is of no interest to the next run.
    own = InMemoryExampleDatabase()
    chosen = settings(_QUIET, max_examples=_SEARCH, database=own, phases=(Phase.generate, Phase.shrink))
    find(_NUMBERS, lambda drawn: drawn >= number, settings=chosen, database_key=_KEY)
    for choices in own.fetch(_KEY):
        database.save(_KEY, choices)


def replay(database: ExampleDatabase, cell: str, fails: Callable[[Place], bool]) -> None:
    """Ask about the cases of a cell that are kept, up to the first that fails; those that do not are forgotten."""
    asked: dict[int, bool] = {}

    def again(number: int) -> bool:
        place = place_of(number, cell)
        if place is None:
            return False
        if number not in asked:
            asked[number] = fails(place)
        return asked[number]

    chosen = settings(_QUIET, max_examples=_SEARCH, database=database, phases=(Phase.reuse,))
    # Where nothing is kept Hypothesis takes itself for a test without any cases.
    with suppress(NoSuchExample, SkipTest):
        find(_NUMBERS, again, settings=chosen, database_key=_KEY)


def number_of(place: Place) -> int:
    """The number of a case; it says how the case is made, whatever the campaign was."""
    signature, shape = place.signature, place.signature.shape
    digits = (
        *(shape.batch, shape.time, shape.features, shape.hidden, signature.batched, signature.seed),
        *(SCALES.index(signature.scale), DECIMALS.index(signature.decimals), place.index, place.count, place.place),
        # 0 is no overlay: of a block, or past the last group.
        *[fill + 1 for _, fill in signature.fills],
        *[0] * (_GROUPS - len(signature.fills)),
    )
    number = 0
    for digit, radix in zip(digits, _RADICES, strict=True):
        number = number * radix + digit
    return number * _CHECK + _check(digits)


def place_of(number: int, cell: str) -> Place | None:
    """The case of a number, of this cell; None for one that is no case's."""
    rest, check = divmod(number, _CHECK)
    digits: list[int] = []
    for radix in reversed(_RADICES):
        rest, digit = divmod(rest, radix)
        digits.insert(0, digit)
    batch, time, features, hidden, batched, seed, scale, decimals, index, count, place, *fills = digits
    if rest or check != _check(digits) or not all((batch, time, features, hidden)):
        return None
    names = () if count else overlaid(cell)
    overlays = fills[: len(names)]
    if not all(overlays) or any(fills[len(names) :]) or (place >= count if count else index or place):
        return None
    signature = Signature(
        shape=Shape(batch=batch, time=time, features=features, hidden=hidden),
        batched=bool(batched),
        seed=seed,
        scale=SCALES[scale],
        decimals=DECIMALS[decimals],
        fills=tuple((name, fill - 1) for name, fill in zip(names, overlays, strict=True)),
    )
    return Place(signature=signature, index=index, count=count, place=place)


def _check(digits: Sequence[int]) -> int:
    return zlib.crc32(repr([int(digit) for digit in digits]).encode())
