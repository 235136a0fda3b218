"""A benchmark: sides in workers of their own take turns on one case, each judged before it is timed.

Shared machines drift by tens of per cent within seconds, so seconds of different minutes tell nothing: one benchmark of
identical code once gave 51 and 33 ms. Here all workers stay up and exactly one is at work; every round times one batch
of every side, in a random order that the next round takes backwards; and the baseline takes part twice, in two
processes, so that what the method itself cannot tell is seen beside what it tells. Nothing is timed that computes
something else than the reference, or that did not run the path which it declares.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from conformance.candidate import Variant
from conformance.case import Case
from conformance.compare import Observed
from conformance.judge import judge
from conformance.ratio import paired_ratio
from conformance.record import BenchSide
from conformance.stopwatch import Timer
from conformance.verdict import Agrees, Broken, Inconclusive, Unrepresentable, Verdict
from conformance.worker.names import Level

BATCH_SECONDS: Final = 0.025
MAX_CALLS: Final = 5_000
ENOUGH_ROUNDS: Final = 20
LEAST_ROUNDS: Final = 6
"""Fewer give no interval; so many are made even where the budget is used up, unless it is by far."""
MAX_ROUNDS: Final = 400
OVERDRAFT: Final = 8.0
NARROW: Final = 0.03
"""An interval is narrow enough when its ends are apart by this share."""
JUDGED: Final = 600_000
"""Of longer cases only as many rows are judged as have this many numbers together."""


class Limits(Struct, frozen=True, kw_only=True):
    """budget: seconds for the rounds of one case; rounds: exactly so many, None for as many as are worth it."""

    budget: float
    rounds: int | None = None
    seed: int = 0


class Contestant(Struct, kw_only=True):
    """One side: a candidate's name, its variant, and the worker that times it."""

    name: str
    variant: Variant
    timer: Timer
    control: bool = False


class _Lane(Struct, kw_only=True):
    """The rounds of one side."""

    place: int
    timer: Timer
    calls: int = 1
    warm: int = 1
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    broken: Broken | None = None


def sides(
    contestants: Sequence[Contestant],
    case: Case,
    level: Level,
    limits: Limits,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[tuple[BenchSide, ...], str]:
    """Prepare, judge and time all sides, the first of which is the baseline; and why there are no more rounds."""
    prepared = [_prepared(contestant, case, level) for contestant in contestants]
    lanes = [
        _Lane(place=place, timer=contestant.timer)
        for place, (contestant, side) in enumerate(zip(contestants, prepared, strict=True))
        if agrees(side.verdict)
    ]
    # A ratio needs the baseline, and somebody beside it; alone, a side's own times are still worth having.
    ended = take_turns(lanes, limits, clock) if lanes else "nothing could be timed"
    timed = {lane.place: lane for lane in lanes}
    return tuple(_timed(side, timed.get(place)) for place, side in enumerate(prepared)), ended


def agrees(verdict: Verdict | None) -> bool:
    """Whether a side computes what the reference does, perhaps with parameters at zero."""
    if isinstance(verdict, Unrepresentable):
        return agrees(verdict.subspace)
    return isinstance(verdict, Agrees) and verdict.compared > 0


def _prepared(contestant: Contestant, case: Case, level: Level) -> BenchSide:
    """A side made ready and judged."""
    variant = contestant.variant
    missing = variant.missing.get(case.cell)
    zeroed = () if missing is None else missing[0]
    own = variant.declared(case.zeroed(zeroed))
    side = BenchSide(candidate=contestant.name, control=contestant.control, zeroed=zeroed)
    answer = contestant.timer.prepare(own, level)
    if isinstance(answer, Broken):
        return replace(side, verdict=answer)
    side = replace(side, path=answer.path, prepare_seconds=answer.seconds)
    wanted = variant.attestable(case.cell, case.initial, case.features, level=level)
    if answer.path not in wanted:
        why = f"another path ran: {answer.path!r}, wanted {' or '.join(map(repr, wanted))}"
        return replace(side, verdict=Inconclusive(why=why))
    rows = judged_rows(case)
    observed = Observed(outputs=answer.observed.outputs[:rows], final_state=answer.observed.final_state[:rows])
    judged = judge(first_rows(own, rows), observed, ())
    verdict: Verdict = judged
    if missing is not None:
        owed = missing[1]
        verdict = Unrepresentable(
            parameters=zeroed, owner=owed.owner, reason=owed.reason, link=owed.link, subspace=judged
        )
    return replace(side, verdict=verdict, rows=rows)


def judged_rows(case: Case) -> int:
    """How many rows of a case are judged: all, unless they hold very many numbers. Rows do not see each other."""
    size = case.shape
    return max(1, min(size.batch, JUDGED // max(1, size.time * size.output)))


def first_rows(case: Case, rows: int) -> Case:
    """The same case with its first rows only."""
    if rows >= case.shape.batch:
        return case
    return replace(case, x=case.x[:rows], h0=case.h0[:rows], c0=None if case.c0 is None else case.c0[:rows])


def take_turns(lanes: Sequence[_Lane], limits: Limits, clock: Callable[[], float]) -> str:
    """Time all lanes in rounds, in place; returns why there are no more. A lane that breaks drops out."""
    for lane in lanes:
        _calibrate(lane)
    generator = np.random.default_rng(limits.seed)
    begin, count, order = clock(), 0, [0]
    while True:
        live = [lane for lane in lanes if lane.broken is None]
        if not live:
            return "every side broke"
        ended = _ended(live, count, clock() - begin, limits)
        if ended:
            return ended
        # Every order is followed by its reverse: what comes first, or after a certain other side, evens out.
        order = order[::-1] if count % 2 and len(order) == len(live) else list(generator.permutation(len(live)))
        for place in order:
            _turn(live[place])
        count += 1


def _ended(live: Sequence[_Lane], count: int, elapsed: float, limits: Limits) -> str:
    """Why there are no more rounds, "" when there are."""
    if limits.rounds is not None:
        if count >= limits.rounds:
            return f"{count} rounds, as asked for"
    elif count >= MAX_ROUNDS:
        return f"{count} rounds: more are not made"
    elif count >= ENOUGH_ROUNDS and count % 5 == 0:
        ratios = [paired_ratio(live[0].seconds, lane.seconds) for lane in live[1:]]
        if all(ratio is not None and ratio.width <= NARROW for ratio in ratios):
            return f"every interval is narrow enough after {count} rounds"
    if elapsed >= limits.budget and (count >= LEAST_ROUNDS or elapsed >= OVERDRAFT * limits.budget):
        return f"the budget of {limits.budget:g} s is used up after {count} rounds"
    return ""


def _calibrate(lane: _Lane) -> None:
    """Warm a side up, and choose how many calls make a batch."""
    for calls, warm in ((1, 0), (3, 1)):  # the preparation has made the call once already
        batch = lane.timer.time(calls, warm)
        if isinstance(batch, Broken):
            lane.broken = batch
            return
        typical = median(batch.seconds)
        if typical > BATCH_SECONDS:
            break
    lane.calls = max(1, min(MAX_CALLS, round(BATCH_SECONDS / typical)))
    lane.warm = 1 if typical < BATCH_SECONDS else 0
    if lane.calls > 1 and isinstance(batch := lane.timer.time(lane.calls, 0), Broken):
        lane.broken = batch


def _turn(lane: _Lane) -> None:
    batch = lane.timer.time(lane.calls, lane.warm)
    if isinstance(batch, Broken):
        lane.broken = batch
        return
    lane.seconds.append(median(batch.seconds))
    lane.cpu.append(batch.cpu / lane.calls)


def _timed(side: BenchSide, lane: _Lane | None) -> BenchSide:
    if lane is None:
        return side
    if lane.broken is not None:
        return replace(side, verdict=lane.broken)
    return replace(side, calls=lane.calls, seconds=tuple(lane.seconds), cpu=tuple(lane.cpu))


def machine(load: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the machine is, and what it is busy with; load: what it was before."""
    before = {} if load is None else {"load before": load["load before"]}
    name = "load before" if load is None else "load after"
    return {"processor": processor(), "cores": str(os.cpu_count() or "unknown"), **before, name: _load()}


def _load() -> str:
    try:
        return ", ".join(f"{value:.2f}" for value in os.getloadavg())
    except OSError:
        return "unknown"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system tells it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(named), "") or platform.processor() or platform.machine()
