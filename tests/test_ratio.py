"""Ratios and their intervals: the interval holds the true median as often as it says, also where seconds drift."""

from __future__ import annotations

import math

import numpy as np
import pytest

from conformance.bench import ENOUGH_ROUNDS, NARROW
from conformance.ratio import LEVEL, paired_ratio, rank, spread


@pytest.mark.parametrize(("count", "place"), [(5, None), (6, 0), (8, 0), (9, 1), (20, 5), (25, 7), (100, 39)])
def test_the_ranks_are_those_of_the_tables(count: int, place: int | None) -> None:
    """The k-th smallest and largest, k from 0, of tables of the sign test at 5 %."""
    assert rank(count) == place


@pytest.mark.parametrize("count", [6, 17, 40, 399])
def test_one_rank_more_would_hold_too_little(count: int) -> None:
    """The rank is the largest that still gives the level, by an exact sum of binomials."""
    place = rank(count)
    assert place is not None

    def held(k: int) -> float:
        return 1 - 2 * sum(math.comb(count, i) for i in range(k + 1)) / 2**count

    assert held(place) >= LEVEL > held(place + 1)


def drifting(generator: np.random.Generator, rounds: int, factor: float) -> tuple[list[float], list[float]]:
    """Two sides whose seconds drift together by tens of per cent, with heavy tails of their own."""
    drift = np.cumsum(generator.normal(0, 0.08, rounds)) + 0.5 * (generator.random(rounds) < 0.2)
    own = generator.standard_t(2, (2, rounds)) * 0.02
    first = np.exp(drift + own[0])
    second = np.exp(drift + own[1]) / factor
    return list(first), list(second)


@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_intervals_hold_the_truth_as_often_as_they_say(factor: float) -> None:
    """Of 2000 simulated contests of 25 rounds 95 % give an interval with the true ratio; the first is A against A."""
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(2000):
        ratio = paired_ratio(*drifting(generator, 25, factor))
        assert ratio is not None
        held += ratio.low <= factor <= ratio.high
    assert 0.94 <= held / 2000 <= 0.985


def test_stopping_when_the_interval_is_narrow_does_not_spoil_it() -> None:
    """Rounds go on until the interval is narrow, looked at every five; identical sides still contain one."""
    generator = np.random.default_rng(11)
    held, stopped = 0, []
    for _ in range(1000):
        first, second = drifting(generator, 200, 1.0)
        for rounds in range(ENOUGH_ROUNDS, 201, 5):
            ratio = paired_ratio(first[:rounds], second[:rounds])
            assert ratio is not None
            if ratio.width <= NARROW:
                break
        held += ratio.low <= 1 <= ratio.high
        stopped.append(rounds)
    assert held / 1000 >= 0.93
    assert min(stopped) < 60 < max(stopped)  # it did stop early, at different times


def test_unpaired_seconds_would_not_do() -> None:
    """The planted mistake: rounds of the two sides that do not belong together give intervals several times as wide."""
    first, second = drifting(np.random.default_rng(3), 60, 1.0)
    paired, mixed = paired_ratio(first, second), paired_ratio(first, second[30:] + second[:30])
    assert paired is not None
    assert mixed is not None
    assert mixed.width > 4 * paired.width


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0] * 5, [1.0] * 5),
        ([1.0] * 8, [1.0] * 7),
        ([1.0] * 8, [0.0] * 8),
        ([-1.0] * 8, [1.0] * 8),
        ([1e308] * 8, [1e-308] * 8),
        ([math.nan] * 8, [1.0] * 8),
        ([], []),
    ],
    ids=["too few", "another number", "zero", "negative", "overflow", "nan", "none"],
)
def test_nothing_is_told_of_times_that_are_none(first: list[float], second: list[float]) -> None:
    """Malformed times give no ratio, and never an exception."""
    assert paired_ratio(first, second) is None


def test_spread_gives_median_and_quartiles() -> None:
    """Of one number, of five, and of numbers that are no times."""
    one, five = spread([2.0]), spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert one is not None
    assert five is not None
    assert (one.median, one.low, one.high, one.count) == (2.0, 2.0, 2.0, 1)
    assert (five.median, five.low, five.high, five.count) == (3.0, 2.0, 4.0, 5)
    assert spread([]) is None
    assert spread([1.0, math.inf]) is None


def test_the_distance_of_an_interval_counts_both_sides() -> None:
    """From one to the farther end, as a factor."""
    slow, fast = [1.0] * 8, [2.0] * 8
    one, other = paired_ratio(slow, fast), paired_ratio(fast, slow)
    assert one is not None
    assert other is not None
    assert one.distance == other.distance == 2.0
