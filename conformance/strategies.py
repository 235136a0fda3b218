"""Hypothesis: strategies of signatures and shapes, and drawing from them.

What is drawn is a *signature*: drawing is cheap, and every choice shrinks toward the readable: small shapes, zeros,
constants, one decimal. Whoever needs this module imports it when it draws: first answers come from shipped cases, and
Hypothesis takes as long to import as everything else together.
"""

from __future__ import annotations

import zlib
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

# Every so often Hypothesis draws a constant of a module that is loaded, if it is in the range and above 100; which are
# loaded depends on how the harness is installed and started. Up here are none.
_ABOVE: Final = 2**80


def _integers(least: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(_ABOVE + least, _ABOVE + most).map(lambda drawn: drawn - _ABOVE)


_SEEDS: Final = _integers(0, 2**32 - 1)
_SCALES: Final = st.sampled_from(SCALES)
_DECIMALS: Final = st.sampled_from(DECIMALS)
_FILL: Final = st.integers(0, FILLS - 1)


@st.composite
def signatures(
    draw: st.DrawFn, *, cell: str, lattice: tuple[tuple[Shape, bool], ...] = LATTICE, overlays: bool = True
) -> Signature:
    """Signatures of cases of one cell, with overlays or without."""
    shape, batched = draw(st.sampled_from(lattice))
    return Signature(
        shape=shape,
        batched=batched,
        scale=draw(_SCALES),
        decimals=draw(_DECIMALS),
        fills=tuple((group, draw(_FILL)) for group in overlaid(cell) if overlays),
        seed=draw(_SEEDS),
    )


@st.composite
def fresh_shapes(draw: st.DrawFn) -> tuple[Shape, bool]:
    """Shapes of any kind, up to `LARGEST`, with whether they are batched: freely drawn, so each is a new program."""
    hidden, features = draw(_extents(LARGEST.hidden)), draw(_extents(LARGEST.features))
    steps = _PRODUCTS // (hidden * (hidden + features))
    time = draw(_extents(min(LARGEST.time, steps)))
    batch = draw(_extents(min(LARGEST.batch, steps // time)))
    unbatched = batch == 1 and draw(st.booleans())
    return Shape(batch=batch, time=time, features=features, hidden=hidden), not unbatched


def _extents(most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from([edge for edge in _EDGES if edge <= most]), _integers(1, most))


def some(strategy: st.SearchStrategy[T], count: int, said: str) -> list[T]:
    """At most `count` values that Hypothesis draws, from a seed made of what is `said`: fewer where there are no more.

    Raises
    ------
    CaseError: nothing was drawn.
    """
    found: list[T] = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @seed(zlib.crc32(said.encode()))
    @given(strategy)
    def collect(one: T) -> None:
        found.append(one)

    collect()
    if not found:
        raise CaseError("Hypothesis drew nothing", where=said)
    return found
