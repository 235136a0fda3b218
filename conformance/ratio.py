"""Ratios of two times measured in pairs: their median, and an interval that assumes no distribution.

On a shared machine seconds drift by tens of per cent, and both sides of a round drift together; so a ratio is taken
within each round, and only ratios are compared. The interval is that of order statistics: of n independent ratios with
a common median, the k-th smallest and the k-th largest enclose it unless fewer than k lie on one side of it, which a
binomial distribution tells whatever the ratios are distributed like. No rounding, no seed, no tuning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Final

from msgspec import Struct

LEVEL: Final = 0.95
"""The least probability with which an interval holds the median."""


class Spread(Struct, frozen=True, kw_only=True):
    """The median of some times and their quartiles."""

    median: float
    low: float
    high: float
    count: int


class Ratio(Struct, frozen=True, kw_only=True):
    """The median of paired ratios, and the interval that holds it with probability `LEVEL` or more."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def width(self) -> float:
        """How far the ends of the interval are apart, as a share of the lower one."""
        return self.high / self.low - 1

    @property
    def distance(self) -> float:
        """How far from one the interval reaches on either side, as a factor: at least 1."""
        return max(self.high, 1 / self.low)


def spread(seconds: Sequence[float]) -> Spread | None:
    """Median and quartiles; None for no times, or for one that is no positive number."""
    if not seconds or not all(map(_is_time, seconds)):
        return None
    low, middle, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
    return Spread(median=middle, low=low, high=high, count=len(seconds))


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio | None:
    """The ratio of two sides of the same rounds, in their order.

    None where nothing can be told: another number of rounds, a time that is no positive number, or fewer rounds than
    an interval needs.
    """
    if len(numerator) != len(denominator) or not all(map(_is_time, (*numerator, *denominator))):
        return None
    place = rank(len(numerator))
    if place is None:
        return None
    ratios = sorted(a / b for a, b in zip(numerator, denominator, strict=True))
    if not all(map(_is_time, ratios)):
        return None
    return Ratio(median=median(ratios), low=ratios[place], high=ratios[-1 - place], rounds=len(ratios))


def rank(count: int, level: float = LEVEL) -> int | None:
    """The largest k (from 0) for which the k-th smallest and largest of `count` enclose the median; None if none do."""
    outside, found = 0.0, None
    for place in range((count + 1) // 2):
        outside += 2 * math.exp(_log_choose(count, place) - count * math.log(2))
        if 1 - outside < level:
            break
        found = place
    return found


def _log_choose(count: int, chosen: int) -> float:
    return math.lgamma(count + 1) - math.lgamma(chosen + 1) - math.lgamma(count - chosen + 1)


def _is_time(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds > 0
