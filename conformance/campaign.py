"""What a campaign tries: blocks of generated cases, by number.

Hypothesis draws the signatures, a chunk of blocks at a time, from a seed of its own for each; so block 12,345 of a
campaign is the same on every machine, whoever runs it, and can be had without the 12,344 before it.

Shapes are those of the lattice, because JAX compiles a program for each; but a few blocks, those right after block 0,
have shapes of their own. How many is a budget: what they cost does not grow with the number of cases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.random import default_rng

from conformance.block import Block, packed
from conformance.case import Initial, make_case
from conformance.draws import CHUNK, Lattice, chunk, fresh_shape, kept
from conformance.errors import CaseError
from conformance.plan import Group
from conformance.record import BlockLine
from conformance.rounding import Array, round_to
from conformance.signature import Signature, ends, numbers, stack_of

BLOCK: Final = 64
"""Cases in a block."""
FRESH: Final = 8
"""The most fresh shapes that a requirement and dtype gets by itself."""
_FEWEST_FRESH: Final = 2
_FRESH_SHARE: Final = 16
Shard: TypeAlias = tuple[int, int]


class Campaign(Struct, frozen=True, kw_only=True):
    """How much is to be tried beyond the ordinary cases.

    cases: for every requirement of agreement and dtype, the same ones for all candidates; fresh: how many of its blocks
    have fresh shapes; shard: (i, n), of n shards the i-th, from 1. done: of a run that goes on, the blocks that were
    tried, by candidate, requirement and dtype.
    """

    cases: Mapping[tuple[str, str], int]
    fresh: Mapping[tuple[str, str], int] = field(default_factory=dict)
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

    def freshened(self, group: Group) -> int:
        """How many blocks of a group have fresh shapes."""
        return self.fresh.get((group.requirement.name, group.dtype), 0)

    def begun(self, group: Group) -> Sequence[BlockLine]:
        """The blocks of a group that were tried before."""
        return self.done.get((group.candidate.name, group.requirement.name, group.dtype), ())


def spread(total: int, groups: Sequence[Group]) -> dict[tuple[str, str], int]:
    """`total` cases shared out evenly among the requirements of agreement, and the dtypes, of these groups.

    Raises
    ------
    CaseError: there is none among them.
    """
    asked = [group for group in groups if group.unsupported is None and group.requirement.against_reference]
    keys = list(dict.fromkeys((group.requirement.name, group.dtype) for group in asked))
    if not keys:
        raise CaseError("a campaign needs a requirement of agreement with the reference", got="none was selected")
    each, more = divmod(total, len(keys))
    return {key: each + (place < more) for place, key in enumerate(keys)}


def budget(total: int | None, cases: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """How many blocks of each requirement and dtype have fresh shapes: `total` of all, shared out evenly.

    At most half of what each has. Without a total one block in sixteen, but at least two, and at most eight.
    """
    found: dict[tuple[str, str], int] = {}
    for place, (key, own) in enumerate(cases.items()):
        blocks = -(-own // BLOCK)
        if total is None:
            wanted = min(max(blocks // _FRESH_SHARE, _FEWEST_FRESH), FRESH)
        else:
            wanted = total // len(cases) + (place < total % len(cases))
        found[key] = min(wanted, blocks // 2)
    return found


def block_at(base: int, group: Group, index: int, count: int, lattice: Lattice, *, fresh: int = 0) -> Block:
    """A block of the campaign on a group: the same numbers for every candidate that has a place for them.

    fresh: so many blocks after the first one have fresh shapes.
    """
    return block_of(signature_at(base, group, index, lattice, fresh=fresh), group, index, count)


def signature_at(base: int, group: Group, index: int, lattice: Lattice, *, fresh: int = 0) -> Signature:
    """The signature of a block of the campaign on a group."""
    number, place = divmod(index, CHUNK)
    name = f"{group.requirement.name} {group.dtype}"
    signature = chunk(base, name, number, group.requirement.cell, lattice)[place]
    if 0 < index <= fresh:
        shape, batched = fresh_shape(base, name, index - 1, lattice)
        signature = replace(signature, shape=shape, batched=batched)
    return signature


def block_of(signature: Signature, group: Group, index: int, count: int) -> Block:
    """The block of a signature for a group: unbatched, and with all parameters, only where the candidate has it."""
    requirement, variant = group.requirement, group.candidate.variant
    # A single sequence has no rows of different lengths.
    unbatched = variant.unbatched and not requirement.features
    drawn = block(
        signature if unbatched else replace(signature, batched=True),
        index,
        count,
        cell=requirement.cell,
        dtype=group.dtype,
        initial=requirement.initial,
        features=requirement.features,
    ).zeroed(group.zeroed)
    first = variant.declared(drawn.first)
    return drawn.like(first if first.lengths is None else replace(first, padding=variant.padding))


@kept(32)
def block(
    signature: Signature,
    index: int,
    count: int,
    *,
    cell: str,
    dtype: str,
    initial: Initial,
    features: tuple[str, ...] = (),
) -> Block:
    """`count` cases of a signature, their numbers drawn from its seed and the block's index.

    features: what their call has beyond a plain one; the lengths of their rows are the same in all of them.

    Raises
    ------
    CaseError: a number is not finite in the dtype.
    """
    generator = default_rng((signature.seed, index))
    layers, directions = stack_of(features)
    drawn = numbers(signature, generator, cell=cell, layers=layers, directions=directions, lead=(count,))
    origin = f"campaign, block {index}: {signature}"

    def rounded(values: Array) -> Array:
        result = round_to(dtype, values)
        if not np.all(np.isfinite(result)):
            raise CaseError("a case holds only finite numbers", where=origin, got=f"values too large for {dtype}")
        result.setflags(write=False)
        return result

    parameters = {name: rounded(values) for name, values in drawn.parameters.items()}
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
        lengths=ends(generator, signature.shape) if "lengths" in features else None,
        reverse="reverse" in features,
        layers=layers,
        directions=directions,
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
        packed=packed(arrays, dtype),
        index=index,
        origin=origin,
        digest=hasher.hexdigest()[:12],
    )
