"""Hypothesis: strategies of cases, and drawing from them.

What is drawn is a *signature*: drawing is cheap, and every choice shrinks toward the readable: small shapes, zeros,
constants, one decimal. Whoever needs this module imports it when it draws: first answers come from shipped cases, and
Hypothesis takes as long to import as everything else together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.errors import Flaky

from conformance.case import Case, Initial, Padding, Shape
from conformance.cells import cell_named
from conformance.signature import FILLS, LATTICE, SCALES, Signature, array_group, build

_SEEDS: Final = st.integers(0, 2**32 - 1)
_SCALES: Final = st.sampled_from(SCALES)
_DECIMALS: Final = st.sampled_from((1, 3, 12))
_FILL: Final = st.integers(0, FILLS - 1)


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    cell: str,
    dtype: str,
    initial: Initial,
    unbatched: bool = True,
    zeroed: tuple[str, ...] = (),
    features: tuple[str, ...] = (),
    padding: Padding = "zeros",
    lattice: tuple[tuple[Shape, bool], ...] = LATTICE,
) -> Case:
    """Cases of one cell, dtype and spelling of the initial state.

    unbatched: whether unbatched inputs are drawn too; zeroed: parameters held at zero; lattice: shapes to draw from.
    """
    signature = draw(signatures(cell=cell, lattice=lattice))
    if not unbatched:
        signature = replace(signature, batched=True)
    return build(signature, cell=cell, dtype=dtype, initial=initial, zeroed=zeroed, features=features, padding=padding)


@st.composite
def signatures(
    draw: st.DrawFn, *, cell: str, lattice: tuple[tuple[Shape, bool], ...] = LATTICE, overlays: bool = True
) -> Signature:
    """Signatures of cases of one cell, with overlays or without."""
    shape, batched = draw(st.sampled_from(lattice))
    groups = dict.fromkeys(array_group(name) for name in (*cell_named(cell).parameters, "x", "h0"))
    return Signature(
        shape=shape,
        batched=batched,
        scale=draw(_SCALES),
        decimals=draw(_DECIMALS),
        fills=tuple((group, draw(_FILL)) for group in groups if overlays),
        seed=draw(_SEEDS),
    )


class _Divergence(Exception):
    """Raised inside Hypothesis's test function; without arguments, which would make each one a bug of its own."""


def search(
    strategy: st.SearchStrategy[Case],
    diverges: Callable[[Case], bool],
    *,
    examples: int,
    number: int,
    database: Path | None,
    reuse_only: bool,
) -> bool:
    """Draw cases, those kept in the database first, until one `diverges`, which is kept; it is asked again then.

    number: the seed. reuse_only: draw no new ones.

    Returns
    -------
    False where a case diverged and did not when asked again.
    """

    # `settings` above `seed`: a seed alone switches the example database off.
    @settings(
        max_examples=examples,
        database=None if database is None else DirectoryBasedExampleDatabase(database),
        deadline=None,
        phases=(Phase.reuse,) if reuse_only else (Phase.reuse, Phase.generate),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
        report_multiple_bugs=False,
    )
    @seed(number)
    @given(strategy)
    def check(case: Case) -> None:
        if diverges(case):
            raise _Divergence

    try:
        check()
    except _Divergence:
        pass
    except Flaky:
        return False
    return True


def some_signatures(
    count: int, number: int, *, cell: str, lattice: tuple[tuple[Shape, bool], ...] = LATTICE
) -> list[Signature]:
    """At most so many signatures without overlays, drawn from the seed `number`: fewer where there are no more."""
    found: list[Signature] = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @seed(number)
    @given(signatures(cell=cell, lattice=lattice, overlays=False))
    def collect(signature: Signature) -> None:
        found.append(signature)

    collect()
    return found
