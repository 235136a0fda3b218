"""Figures: what the judgement can see and what it costs, measured on this machine by ``rnn-conformance figures``.

Costs are ratios of medians from runs that take turns, because machines are shared and noisy.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from conformance.behaviours import correct
from conformance.case import Case, Initial, Shape
from conformance.compare import compare, shares
from conformance.diagnosis import Smallest, smallest_found
from conformance.environments import Interpreter
from conformance.errors import ConformanceError
from conformance.faults import catalogue
from conformance.judge import judge, planted, sharpest, visible_faults
from conformance.signature import GENERIC, Signature, build
from conformance.verdict import Diverges

SMALL: Final = Shape(batch=3, time=6, features=5, hidden=4)
LARGE: Final = Shape(batch=1, time=128, features=64, hidden=64)
STACK: Final = 64
TURNS: Final = 7

# Run by the interpreter that has PyTorch: medians of one forward call for both sizes, in seconds.
_FORWARD: Final = """
import json, statistics, sys, time
import torch
torch.set_num_threads(1)
found = []
for batch, steps, features, hidden in json.loads(sys.argv[1]):
    gru = torch.nn.GRU(features, hidden, batch_first=True)
    x, h = torch.randn(batch, steps, features), torch.randn(1, batch, hidden)
    times = []
    with torch.no_grad():
        for _ in range(60):
            begin = time.perf_counter()
            gru(x, h)
            times.append(time.perf_counter() - begin)
    found.append(statistics.median(times[10:]))
print(json.dumps(found))
"""


class Cost(Struct, frozen=True, kw_only=True):
    """Seconds of judging one case of a size; forward: of PyTorch's own call on it. stacked: judged 64 together."""

    shape: Shape
    single: float
    stacked: float
    forward: float

    @property
    def ratio(self) -> float:
        """Judging against PyTorch's forward call, the cheaper way of judging."""
        return min(self.single, self.stacked) / self.forward


class PerCase(Struct, frozen=True, kw_only=True):
    """How single generic cases deal with the faults that can show: how many were planted, caught, named, misnamed."""

    cell: str
    dtype: str
    planted: int
    caught: int
    named: int
    wrong: int


def per_case(cell: str, dtype: str, *, cases: int = 4) -> PerCase:
    """Plant every fault that can show in single cases of the generic shape, state given and omitted in turn."""
    count, caught, named, wrong = 0, 0, 0, 0
    initials: tuple[Initial, ...] = ("given", "omitted")
    for seed in range(cases):
        initial = initials[seed % 2]
        signature = Signature(shape=GENERIC, batched=True, seed=100 + seed, scale=0.8, decimals=12, fills=())
        case = build(signature, cell=cell, dtype=dtype, initial=initial)
        for name in sorted(visible_faults(cell, initial, dtype=dtype)):
            count += 1
            verdict = judge(case, planted(case, catalogue(cell)[name]), ())
            if not isinstance(verdict, Diverges):
                continue
            found = sharpest(verdict.faults)
            caught += 1
            named += found == (name,)
            wrong += bool(found) and name not in found
    return PerCase(cell=cell, dtype=dtype, planted=count, caught=caught, named=named, wrong=wrong)


def smallest() -> tuple[Smallest, ...]:
    """The smallest dropped |b_hn| found in float32 at two sizes, by several means of finding."""
    small = smallest_found(Shape(batch=2, time=8, features=5, hidden=4), trials=40, per_octave=2)
    broad = smallest_found(Shape(batch=2, time=8, features=5, hidden=256), trials=20)
    return small, broad


def costs(torch: Interpreter) -> tuple[Cost, ...]:
    """The cost of judging a float32 GRU case, small and large, beside PyTorch's own forward call, taking turns.

    Raises
    ------
    ConformanceError: the interpreter cannot run PyTorch.
    """
    cases = {shape: [_case(shape, seed) for seed in range(STACK if shape is SMALL else 4)] for shape in (SMALL, LARGE)}
    observed = {shape: [correct(case) for case in own] for shape, own in cases.items()}
    single: dict[Shape, list[float]] = {shape: [] for shape in cases}
    together: dict[Shape, list[float]] = {shape: [] for shape in cases}
    forward: dict[Shape, list[float]] = {shape: [] for shape in cases}
    for _ in range(TURNS):
        for shape, seconds in zip(cases, _forward(torch, list(cases)), strict=True):
            own, seen = cases[shape], observed[shape]
            forward[shape].append(seconds)
            single[shape].append(_median(lambda own=own, seen=seen: compare(own[0], seen[0])))  # type: ignore[misc]
            together[shape].append(_median(lambda own=own, seen=seen: shares(own, seen)) / len(own))  # type: ignore[misc]
    return tuple(
        Cost(
            shape=shape,
            single=statistics.median(single[shape]),
            stacked=statistics.median(together[shape]),
            forward=statistics.median(forward[shape]),
        )
        for shape in cases
    )


def _case(shape: Shape, seed: int) -> Case:
    signature = Signature(shape=shape, batched=True, seed=seed, scale=0.8, decimals=12, fills=())
    return build(signature, cell="gru", dtype="float32", initial="given")


def _median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def _forward(torch: Interpreter, shapes: list[Shape]) -> list[float]:
    sizes = json.dumps([(s.batch, s.time, s.features, s.hidden) for s in shapes])
    done = subprocess.run(
        [str(torch.python), "-c", _FORWARD, sizes], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        raise ConformanceError("cannot time PyTorch", where=str(torch.python), got=done.stderr[-300:])
    found: list[float] = json.loads(done.stdout)
    return found
