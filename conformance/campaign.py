"""What a campaign tries: blocks of generated cases, by number.

Hypothesis draws the signatures, a chunk of blocks at a time, from a seed of its own for each; so block 12,345 of a
campaign is the same on every machine, whoever runs it, and can be had without the 12,344 before it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from threading import Lock
from typing import Final, TypeAlias

import numpy as np

from conformance.block import Block
from conformance.case import Initial, Shape, make_case
from conformance.errors import CaseError
from conformance.inputs import plainly
from conformance.plan import Group
from conformance.record import BlockLine
from conformance.rounding import Array, round_to
from conformance.signature import Signature, numbers

BLOCK: Final = 32
"""Cases in a block."""
CHUNK: Final = 32
"""Blocks whose signatures are drawn together."""
_DRAWING: Final = Lock()
Lattice: TypeAlias = tuple[tuple[Shape, bool], ...]
Shard: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """How much is to be tried beyond the ordinary cases.

    cases: for every plain requirement and dtype, the same ones for all candidates; shard: (i, n), of n shards the i-th,
    from 1. done: of a run that goes on, the blocks that were tried, by candidate, requirement and dtype.
    """

    cases: Mapping[tuple[str, str], int]
    shard: Shard = (1, 1)
    done: Mapping[tuple[str, str, str], Sequence[BlockLine]] = field(default_factory=dict)

    def blocks(self, group: Group) -> Iterator[tuple[int, int]]:
        """Of the blocks of a group that are left in this shard the number, and how many cases each has."""
        cases = self.cases.get((group.requirement.name, group.dtype), 0)
        mine, of = self.shard
        tried = {line.block for line in self.begun(group)}
        for index in range(mine - 1, -(-cases // BLOCK), of):
            if index not in tried:
                yield index, min(BLOCK, cases - index * BLOCK)

    def begun(self, group: Group) -> Sequence[BlockLine]:
        """The blocks of a group that were tried before."""
        return self.done.get((group.candidate.name, group.requirement.name, group.dtype), ())


def spread(total: int, groups: Sequence[Group]) -> dict[tuple[str, str], int]:
    """`total` cases shared out evenly among the plain requirements and dtypes of these groups.

    Raises
    ------
    CaseError: there is none among them.
    """
    plain = [group for group in groups if group.unsupported is None and plainly(group.requirement)]
    keys = list(dict.fromkeys((group.requirement.name, group.dtype) for group in plain))
    if not keys:
        raise CaseError("a campaign needs a requirement of agreement in a plain call", got="none was selected")
    each, more = divmod(total, len(keys))
    return {key: each + (place < more) for place, key in enumerate(keys)}


def block_at(base: int, group: Group, index: int, count: int, lattice: Lattice) -> Block:
    """A block of the campaign on a group: the same numbers for every candidate that has a place for them."""
    requirement = group.requirement
    number, place = divmod(index, CHUNK)
    # All candidates begin with the same block at the same time: one draws it, the others wait for that.
    with _DRAWING:
        signature = chunk(base, f"{requirement.name} {group.dtype}", number, requirement.cell, lattice)[place]
        return block_of(signature, group, index, count)


def block_of(signature: Signature, group: Group, index: int, count: int) -> Block:
    """The block of a signature for a group: unbatched, and with all parameters, only where the candidate has it."""
    requirement, variant = group.requirement, group.candidate.variant
    drawn = block(
        signature if variant.unbatched else replace(signature, batched=True),
        index,
        count,
        cell=requirement.cell,
        dtype=group.dtype,
        initial=requirement.initial,
        zeroed=group.zeroed,
    )
    return drawn.like(variant.declared(drawn.first))


@lru_cache(maxsize=64)
def block(
    signature: Signature,
    index: int,
    count: int,
    *,
    cell: str,
    dtype: str,
    initial: Initial,
    zeroed: tuple[str, ...] = (),
) -> Block:
    """`count` cases of a signature, their numbers drawn from its seed and the block's index.

    Raises
    ------
    CaseError: a number is not finite in the dtype.
    """
    generator = np.random.default_rng((signature.seed, index))
    drawn = numbers(signature, generator, cell=cell, lead=(count,))
    origin = f"campaign, block {index}: {signature}"

    def rounded(values: Array) -> Array:
        result = round_to(dtype, values)
        if not np.all(np.isfinite(result)):
            raise CaseError("a case holds only finite numbers", where=origin, got=f"values too large for {dtype}")
        result.setflags(write=False)
        return result

    held = frozenset(zeroed)
    parameters = {
        name: rounded(np.zeros_like(values) if name.rpartition(".")[2] in held else values)
        for name, values in drawn.parameters.items()
    }
    given_ = initial == "given"
    x = rounded(drawn.x)
    h0 = rounded(drawn.h0 if given_ else np.zeros_like(drawn.h0))
    c0 = None if drawn.c0 is None else rounded(drawn.c0 if given_ else np.zeros_like(drawn.c0))
    first = make_case(
        cell=cell,
        dtype=dtype,
        parameters={name: values[0] for name, values in parameters.items()},
        x=x[0],
        initial=initial,
        h0=h0[0],
        c0=None if c0 is None else c0[0],
        batched=signature.batched,
        origin=origin,
    )
    hasher = hashlib.sha256(f"{first.digest}|{count}".encode())
    arrays = {**parameters, "x": x, "h0": h0} | ({} if c0 is None else {"c0": c0})
    for name in sorted(arrays):
        hasher.update(name.encode())
        hasher.update(arrays[name].astype("<f8", copy=False).data)
    return Block(
        first=first,
        parameters=parameters,
        x=x,
        h0=h0,
        c0=c0,
        index=index,
        origin=origin,
        digest=hasher.hexdigest()[:12],
    )


@lru_cache(maxsize=512)
def chunk(
    base: int, name: str, number: int, cell: str, lattice: tuple[tuple[Shape, bool], ...]
) -> tuple[Signature, ...]:
    """The signatures of the blocks ``number * CHUNK`` to ``(number + 1) * CHUNK - 1``.

    base: the campaign's seed; name: of what is asked, so that each question has cases of its own.
    """
    from conformance.strategies import some_signatures  # noqa: PLC0415 - Hypothesis, only where something is drawn

    found = some_signatures(CHUNK, zlib.crc32(f"{base} {name} {number}".encode()), cell=cell, lattice=lattice)
    if not found:
        raise CaseError("Hypothesis drew no case", where=f"{name}, chunk {number}")
    # It may draw fewer than asked for where it thinks that it has seen all.
    return tuple(found[place % len(found)] for place in range(CHUNK))
