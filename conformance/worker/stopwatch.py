"""Timing inside a worker: a call is made ready once, then timed as often as the host asks.

The host has one worker at a time at work, so that sides of a benchmark take turns; what is timed here is the call
alone, never a message. The collector of cycles is off while a batch runs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance.worker.api import CompileCosts, Prepared, WorkerCase
from conformance.worker.wire import Message, Tensor

MAX_CALLS = 100_000


class ContractError(Exception):
    """The adapter, or the host, asked or answered something else than the contract says."""


class Stopwatch:
    """The call that was made ready last; `clock` and `cpu` are for tests."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, cpu: Callable[[], float] = time.process_time
    ) -> None:
        self._clock = clock
        self._cpu = cpu
        self._prepared: Prepared | None = None

    def prepare(self, adapter: Any, case: WorkerCase, level: str) -> Message:
        """Have the adapter make a call ready: ``prepared`` with its path, its outputs and the seconds it took."""
        self._prepared = None  # the one before it must not be timed in its place
        ask = _offered(adapter, "prepare")
        begin = self._clock()
        prepared = ask(case, level)
        seconds = self._clock() - begin
        if not isinstance(prepared, Prepared):
            raise ContractError(f"prepare() returned {type(prepared).__name__}, wanted conformance.worker.api.Prepared")
        if not isinstance(prepared.outputs, np.ndarray):
            raise ContractError(f"outputs is {type(prepared.outputs).__name__}, wanted a NumPy array")
        outputs = Tensor(prepared.outputs, case.dtype)
        self._prepared = prepared
        return Message("prepared", {"path": str(prepared.path), "seconds": seconds}, {"outputs": outputs})

    def time(self, calls: int, warm: int) -> Message:
        """Make `warm` calls, then `calls` timed ones: ``timed``, with each one's seconds and all CPU seconds."""
        if self._prepared is None:
            raise ContractError("nothing is prepared that could be timed")
        if not (0 < calls <= MAX_CALLS and 0 <= warm <= MAX_CALLS):
            raise ContractError(f"asked for {calls} calls after {warm}; wanted 1 to {MAX_CALLS} after 0 or more")
        call, clock = self._prepared.call, self._clock
        for _ in range(warm):
            call()
        seconds = []
        collecting = gc.isenabled()
        gc.disable()
        try:
            cpu = self._cpu()
            for _ in range(calls):
                begin = clock()
                call()
                seconds.append(clock() - begin)
            cpu = self._cpu() - cpu
        finally:
            if collecting:
                gc.enable()
        return Message("timed", {"seconds": seconds, "cpu": cpu})


def costs(adapter: Any, case: WorkerCase) -> Message:
    """Have the adapter compile a case from nothing: ``costed`` with what that took."""
    found = _offered(adapter, "compile_costs")(case)
    if not isinstance(found, CompileCosts):
        raise ContractError(
            f"compile_costs() returned {type(found).__name__}, wanted conformance.worker.api.CompileCosts"
        )
    body = {
        "path": str(found.path),
        "trace_seconds": float(found.trace_seconds),
        "compile_seconds": float(found.compile_seconds),
        "characters": int(found.program_characters),
        "operations": int(found.program_operations),
    }
    return Message("costed", body)


def _offered(adapter: Any, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] | None = getattr(adapter, name, None)
    if found is None:
        raise ContractError(f"the adapter offers no {name}(): it has nothing to be timed")
    return found
