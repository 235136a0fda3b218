"""What Hypothesis has drawn, kept for all candidates that are asked the same; it is imported when it first draws.

Everything here depends on nothing but the seed and what is asked, so it is the same in every process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from threading import Lock
from typing import Final, TypeAlias, TypeVar

from conformance.case import Shape
from conformance.signature import LATTICE, Signature

CHUNK: Final = 32
"""Blocks of a campaign whose signatures are drawn together."""
Lattice: TypeAlias = tuple[tuple[Shape, bool], ...]
T = TypeVar("T")
_DRAWING: Final = Lock()


def ordinary(base: int, name: str, count: int, cell: str, lattice: Lattice) -> tuple[Signature, ...]:
    """The signatures of the generated cases of every group, at most so many, with overlays.

    base: the seed; name: of what is asked, so that each question has cases of its own.
    """
    return _alone(lambda: _ordinary(base, name, count, cell, lattice))


def chunk(base: int, name: str, number: int, cell: str, lattice: Lattice) -> tuple[Signature, ...]:
    """The signatures of a campaign's blocks ``number * CHUNK`` to ``(number + 1) * CHUNK - 1``.

    base, name: as in `ordinary`.
    """
    return _alone(lambda: _chunk(base, name, number, cell, lattice))


def fresh_shape(base: int, name: str, index: int, lattice: Lattice) -> tuple[Shape, bool]:
    """One of the fresh shapes by number, with whether it is batched: none that the lattice has.

    Each is drawn from a seed of its own: of several in a row Hypothesis makes some from the one before.
    """
    return _alone(lambda: _fresh_shape(base, name, index, lattice))


def forget() -> None:
    """Forget all that was drawn, so that it must be drawn again."""
    for kept in (_ordinary, _chunk, _fresh_shape):
        kept.cache_clear()


def _alone(draw: Callable[[], T]) -> T:
    """Candidates want the same at the same time: one draws it, the others wait and find it kept."""
    with _DRAWING:
        return draw()


@lru_cache(maxsize=512)
def _ordinary(base: int, name: str, count: int, cell: str, lattice: Lattice) -> tuple[Signature, ...]:
    from conformance.strategies import signatures, some  # noqa: PLC0415 - Hypothesis, only where something is drawn

    return tuple(some(signatures(cell=cell, lattice=lattice), count, f"{base} {name}"))


@lru_cache(maxsize=512)
def _chunk(base: int, name: str, number: int, cell: str, lattice: Lattice) -> tuple[Signature, ...]:
    from conformance.strategies import signatures, some  # noqa: PLC0415 - as above

    found = some(signatures(cell=cell, lattice=lattice, overlays=False), CHUNK, f"{base} {name} {number}")
    # It may draw fewer than asked for where it thinks that it has seen all.
    return tuple(found[place % len(found)] for place in range(CHUNK))


@lru_cache(maxsize=512)
def _fresh_shape(base: int, name: str, index: int, lattice: Lattice) -> tuple[Shape, bool]:
    from conformance.strategies import fresh_shapes, some  # noqa: PLC0415 - as above

    strategy = fresh_shapes().filter(lambda one: one not in lattice and one not in LATTICE)
    *_, last = some(strategy, 2, f"{base} {name} fresh shape {index}")  # It begins with the simplest one.
    return last
