"""Every side of the shipped comparisons, in its real framework: it can be prepared, computes the same, and is timed."""

from __future__ import annotations

import pytest

from conformance.bench import Contestant, Limits, agrees, sides
from conformance.candidate import parse_spec
from conformance.case import Shape
from conformance.comparisons import TABLE, case_of
from conformance.contest import SCAN_SIDES, Workers, at, scan
from conformance.discover import find_adapters
from conformance.plan import candidates_for
from conformance.record import Line

SMALL = Shape(batch=2, time=5, features=3, hidden=4)
ASKED = {
    name: sorted({(one.level, one.cell) for one in TABLE if name in one.sides}) for one in TABLE for name in one.sides
}


def workers(names: tuple[str, ...], lines: list[Line], threads: int = 1) -> Workers:
    """The real workers of some candidates."""
    found = candidates_for(find_adapters(), [parse_spec(name) for name in names])
    return Workers({candidate.name: candidate for candidate in found}, lines.append, print, threads=threads)


def test_a_side_is_told_its_threads() -> None:
    """One thread unless more are asked for; the worker's own facts say so."""
    told = []
    for threads in (1, 2):
        with workers(("numpy:float32",), [], threads) as running:
            assert isinstance(running.contestant("numpy:float32"), Contestant)
            scanned = scan(("numpy:float32",), at(SMALL, 4), running, Limits(budget=5.0, rounds=6))
            told.append((running.facts("numpy:float32") or {})["threads"])
            assert scanned.machine["threads of a side"] == str(threads)
    assert "OMP_NUM_THREADS=1" in told[0]
    assert "OMP_NUM_THREADS=2" in told[1]


@pytest.mark.parametrize("name", sorted({*ASKED, "numpy:float32"}))
def test_a_side_is_prepared_judged_and_timed(name: str) -> None:
    """At every level and for every cell that the table asks of it, on a path that it declares."""
    lines: list[Line] = []
    asked = ASKED.get(name, [("layer", "gru"), ("cell", "lstm")])
    assert asked
    with workers((name,), lines) as running:
        for level, cell in asked:
            one = running.contestant(name)
            assert isinstance(one, Contestant)
            (side,), _ = sides([one], case_of(cell, SMALL, "float32"), level, Limits(budget=60.0, rounds=6))
            assert agrees(side.verdict), (level, cell, side.verdict)
            assert side.path in one.variant.attestable(cell, "given", level=level)
            assert len(side.seconds) == 6
    assert len(lines) == 1  # the candidate; no incident


def test_scans_cost_the_same_whatever_their_steps_and_unrolling_does_not() -> None:
    """Program sizes, which are no times, of a scan and of the unrolled cell; beyond the cap it is left out."""
    names = (SCAN_SIDES[0], SCAN_SIDES[-1])
    with workers(names, []) as running:
        limits = Limits(budget=60.0, rounds=6)
        short, long, longer = (scan(names, at(SMALL, time), running, limits, cap=8) for time in (4, 8, 16))
    for line in (short, long):
        assert all(agrees(side.verdict) and len(side.seconds) == 6 for side in line.sides)
    flat, grown = ([line.sides[place].costs for line in (short, long)] for place in (0, 1))
    assert flat[0] is not None
    assert flat[1] is not None
    assert flat[0].operations == flat[1].operations
    assert grown[0] is not None
    assert grown[1] is not None
    assert grown[1].operations > 1.5 * grown[0].operations
    assert grown[1].characters > 1.5 * grown[0].characters
    assert longer.sides[1].left_out.startswith("not unrolled beyond T = 8")
    assert longer.sides[1].seconds == ()
    assert len(longer.sides[0].seconds) == 6
