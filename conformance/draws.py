"""What Hypothesis has drawn, kept for all candidates that are asked the same; it is imported when it first draws.

Everything here depends on nothing but the seed and what is asked, so it is the same in every process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from threading import Lock
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

from conformance.case import Shape
from conformance.signature import LATTICE, Signature

CHUNK: Final = 32
"""Blocks of a campaign whose signatures are drawn together."""
Lattice: TypeAlias = tuple[tuple[Shape, bool], ...]
P = ParamSpec("P")
T = TypeVar("T")
_DRAWING: Final = Lock()
_KEPT: Final[list[Any]] = []


def kept(most: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keep what a function drew latest. Candidates want the same at the same time: one draws it, the others wait."""

    def keeping(draw: Callable[P, T]) -> Callable[P, T]:
        cached: Any = lru_cache(maxsize=most)(draw)
        _KEPT.append(cached)

        @wraps(draw)
        def alone(*args: P.args, **kwargs: P.kwargs) -> T:
            with _DRAWING:
                found: T = cached(*args, **kwargs)
            return found

        return alone

    return keeping


def forget() -> None:
    """Forget all that was drawn, so that it must be drawn again."""
    for cached in _KEPT:
        cached.cache_clear()


@kept(512)
def ordinary(base: int, name: str, count: int, cell: str, lattice: Lattice) -> tuple[Signature, ...]:
    """The signatures of so many generated cases of every group, with overlays; the first is the smallest there is.

    base: the seed; name: of what is asked, so that each question has cases of its own.
    """
    from conformance.strategies import signature_of, some  # noqa: PLC0415 - Hypothesis, only where something is drawn

    numbers = [0, *some(count - 1, f"{base} {name}")]
    return tuple(signature_of(number, cell=cell, lattice=lattice) for number in numbers)


@kept(512)
def chunk(base: int, name: str, number: int, cell: str, lattice: Lattice) -> tuple[Signature, ...]:
    """The signatures of a campaign's blocks ``number * CHUNK`` to ``(number + 1) * CHUNK - 1``.

    base, name: as in `ordinary`.
    """
    from conformance.strategies import signature_of, some  # noqa: PLC0415 - as above

    drawn = some(CHUNK, f"{base} {name} {number}")
    return tuple(signature_of(one, cell=cell, lattice=lattice, overlays=False) for one in drawn)


@kept(512)
def fresh_shape(base: int, name: str, index: int, lattice: Lattice) -> tuple[Shape, bool]:
    """One of the fresh shapes by number, with whether it is batched: none that the lattice has."""
    from conformance.strategies import fresh_shape_of, some  # noqa: PLC0415 - as above

    shapes = map(fresh_shape_of, some(CHUNK, f"{base} {name} fresh shape {index}"))
    return next(one for one in shapes if one not in lattice and one not in LATTICE)
