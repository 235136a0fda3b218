"""What Hypothesis draws for the harness: different, evenly spread, and the same wherever it is drawn."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import pytest

from conformance.draws import CHUNK, chunk, forget, fresh_shape, ordinary
from conformance.signature import DECIMALS, FILLS, LATTICE, SCALES, Signature

COUNT = 640


def drawn() -> tuple[Signature, ...]:
    """Signatures as generated cases have them; the first is the smallest there is, and says nothing of the others."""
    return ordinary(0, "evenly", COUNT + 1, "gru", LATTICE)[1:]


def even(found: Sequence[object], kinds: int) -> bool:
    """Whether every one of so many kinds is found, none of them more than five standard deviations too often."""
    counts = Counter(found)
    expected = len(found) / kinds
    return len(counts) == kinds and all(abs(n - expected) < 5 * sqrt(expected) for n in counts.values())


def test_no_two_cases_share_their_numbers() -> None:
    """Every signature has a seed of its own, from one end of the range to the other."""
    seeds = {signature.seed for signature in drawn()}
    assert len(seeds) == COUNT
    assert even([seed >> 28 for seed in seeds], 16)
    assert even([seed % 16 for seed in seeds], 16)


def test_every_choice_is_as_likely_as_any_other() -> None:
    """Shapes, scales, decimals and overlays."""
    signatures = drawn()
    assert even([signature.shape for signature in signatures], len(LATTICE))
    assert even([signature.scale for signature in signatures], len(SCALES))
    assert even([signature.decimals for signature in signatures], len(DECIMALS))
    for place in range(len(signatures[0].fills)):
        assert even([signature.fills[place] for signature in signatures], FILLS)


@pytest.mark.parametrize("found", [[0] * 400 + [1] * 80, [0] * 480, [0, 1, 2] * 160])
def test_what_is_uneven_would_be_noticed(found: list[int]) -> None:
    """A kind too often, one that is missing, one too many."""
    assert not even(found, 2)


def test_the_first_case_is_the_smallest_and_more_of_them_begin_alike() -> None:
    """Asking for more cases changes none of those before."""
    many = ordinary(3, "a question", 50, "lstm", LATTICE)
    assert many[0].shape == LATTICE[0][0]
    assert {kind for _, kind in many[0].fills} == {0}
    for count in (1, 2, 33, 49):
        assert ordinary(3, "a question", count, "lstm", LATTICE) == many[:count]


def test_other_seeds_and_questions_have_other_cases() -> None:
    """And so have the chunks of a campaign, which hold as many signatures as blocks."""
    asked = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    chunks = [chunk(base, name, number, "gru", LATTICE) for base, name, number in asked]
    assert {len(each) for each in chunks} == {CHUNK}
    assert len({signature.seed for each in chunks for signature in each}) == len(asked) * CHUNK


def test_draws_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Whatever is loaded: a module of a checkout with constants that Hypothesis would try."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import loaded\n"
        "from conformance.draws import chunk, fresh_shape, ordinary\n"
        "from conformance.signature import LATTICE\n"
        "print([ordinary(s, 'x', 40, 'gru', LATTICE) for s in range(30)], chunk(0, 'x', 5, 'gru', LATTICE),"
        " [fresh_shape(0, 'x', n, LATTICE) for n in range(9)])"
    )
    forget()
    here = (
        [ordinary(base, "x", 40, "gru", LATTICE) for base in range(30)],
        chunk(0, "x", 5, "gru", LATTICE),
        [fresh_shape(0, "x", number, LATTICE) for number in range(9)],
    )
    (tmp_path / "loaded.py").write_text(
        f"CONSTANTS = {[2**bits + more for bits in (64, 128, 1024) for more in range(9)]}"
    )
    told = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == " ".join(map(str, here))
