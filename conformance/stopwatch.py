"""The host's side of a benchmark: has a worker prepare a call, time it, and tell what its program costs.

Whatever a worker does becomes a `Broken`; what it answers is checked before anybody computes with it.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from msgspec import Struct

from conformance.case import Case
from conformance.compare import Observed
from conformance.host import Host
from conformance.record import Costs
from conformance.rounding import Array
from conformance.verdict import Broken
from conformance.worker.names import Level
from conformance.worker.wire import Message


class Preparation(Struct, frozen=True, kw_only=True):
    """A call made ready: the path that runs, what it computes, how long it took to make ready."""

    path: str
    observed: Observed
    seconds: float


class Batch(Struct, frozen=True, kw_only=True):
    """Calls in a row: the seconds of each, and the CPU seconds of all of them together."""

    seconds: tuple[float, ...]
    cpu: float


class Timer(Protocol):
    """What a benchmark needs of a side; tests have one with a clock of its own."""

    def prepare(self, case: Case, level: Level) -> Preparation | Broken:
        """Make a call of the case ready; it replaces the one before it."""

    def time(self, calls: int, warm: int) -> Batch | Broken:
        """Time the call that is ready, after `warm` calls that are not timed."""

    def costs(self, case: Case) -> tuple[str, Costs] | Broken:
        """The path that was compiled, and what it cost."""


class Stopwatch:
    """A side of a benchmark in a worker process."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def prepare(self, case: Case, level: Level) -> Preparation | Broken:
        """Make a call of the case ready; what it computes has been computed once."""
        answer = self._host.ask(self._host.question(case, "prepare", level=level), "the preparation")
        if isinstance(answer, Broken):
            return answer
        size = case.shape
        wanted = (size.batch, size.time, size.directions * size.output)
        outputs = answer.tensors.get("outputs")
        seconds = _number(answer.body.get("seconds"))
        if answer.kind != "prepared" or answer.tensors.keys() != {"outputs"} or outputs is None or seconds is None:
            return _contract(f"got a message of kind {answer.kind!r} with arrays {sorted(answer.tensors)}")
        if outputs.values.shape != wanted:
            return _contract(f"outputs has shape {outputs.values.shape}, wanted {wanted}")
        values: Array = np.asarray(outputs.values, dtype=np.float64)
        last = values[:, 0 if case.reverse else -1] if size.time else case.h0
        return Preparation(
            path=str(answer.body.get("path", "")),
            observed=Observed(outputs=values, final_state=last),
            seconds=seconds,
        )

    def time(self, calls: int, warm: int) -> Batch | Broken:
        """Time the call that is ready, after `warm` calls that are not timed."""
        answer = self._host.ask(Message("time", {"calls": calls, "warm": warm}), "the timing", again=False)
        if isinstance(answer, Broken):
            return answer
        told = answer.body.get("seconds")
        seconds = [_number(value) for value in told] if isinstance(told, list) else []
        cpu = _number(answer.body.get("cpu"))
        if answer.kind != "timed" or len(seconds) != calls or cpu is None:
            return _contract(f"got {answer.kind!r} with {len(seconds)} times, wanted {calls}")
        times = tuple(value for value in seconds if value is not None and value > 0)
        if len(times) != calls:
            return _contract("a call took no time at all, or the clock ran backwards")
        return Batch(seconds=times, cpu=cpu)

    def costs(self, case: Case) -> tuple[str, Costs] | Broken:
        """The path that was compiled, and what it cost."""
        answer = self._host.ask(self._host.question(case, "costs"), "the compilation")
        if isinstance(answer, Broken):
            return answer
        names = ("trace_seconds", "compile_seconds", "characters", "operations")
        trace, compiled, characters, operations = (_number(answer.body.get(name)) for name in names)
        if answer.kind != "costed" or None in (trace, compiled, characters, operations):
            return _contract(f"got {answer.kind!r} with {sorted(answer.body)}, wanted the numbers {', '.join(names)}")
        assert trace is not None
        assert compiled is not None
        found = Costs(
            trace_seconds=trace,
            compile_seconds=compiled,
            characters=int(characters or 0),
            operations=int(operations or 0),
        )
        return str(answer.body.get("path", "")), found


def _number(value: Any) -> float | None:
    """A number that is finite and not negative, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _contract(problem: str) -> Broken:
    return Broken(kind="contract", message=problem)
