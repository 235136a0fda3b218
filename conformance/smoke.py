"""Smoke: is the adapter itself healthy? Asked before any number is judged.

A small case with all weights and states at zero has one answer under every convention of gates, biases and
resets: zero (a minGRU in log-space form, whose candidate is g(0) = 1/2, is the exception). What fails here is the
adapter or its environment, not the framework's arithmetic.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Final

import numpy as np
from msgspec import Struct

from conformance.candidate import Variant
from conformance.case import Case, Shape, make_case
from conformance.cells import cell_named
from conformance.errors import ConformanceError
from conformance.host import Host
from conformance.plan import Candidate, interpreter_of
from conformance.signature import GENERIC
from conformance.verdict import Broken


class Health(Struct, frozen=True, kw_only=True):
    """One candidate's health. problem: "" when it is healthy."""

    candidate: str
    checked: str
    problem: str


def smoke(candidates: Sequence[Candidate], *, progress: Callable[[str], None]) -> Iterator[Health]:
    """Check every candidate, several at once, and tell of each in turn; what goes wrong with one is its own row."""
    given_up = Event()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        try:
            rows = [pool.submit(_health, candidate, progress, given_up.is_set) for candidate in candidates]
            for row in rows:
                yield row.result()
        finally:
            given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _health(candidate: Candidate, progress: Callable[[str], None], stopped: Callable[[], bool]) -> Health:
    progress(f"{candidate.name} ...")
    checked, problem = 0, ""
    try:
        interpreter = interpreter_of(candidate, progress)
        with Host(
            candidate.adapter,
            candidate.variant,
            interpreter,
            incident=lambda _: None,  # the row's own problem says it
            stopped=stopped,
            ready=lambda version, facts: None,  # noqa: ARG005 (the callback's signature)
        ) as host:
            for case in _cases(candidate.variant):
                problem = _problem(host, candidate.variant, case)
                checked += 1
                if problem:
                    problem = f"{case.origin}: {problem}"
                    break
    except ConformanceError as error:
        problem = str(error)
    return Health(candidate=candidate.name, checked=f"{checked} cases", problem=problem)


# By whether there is a batch axis: no two sizes are alike, so that no axis passes for another. The suite asks about the
# first in every dtype: what a framework has compiled for smoke is compiled for it as well.
_SIZES: Final = {True: GENERIC, False: Shape(batch=1, time=4, features=2, hidden=3)}


def _cases(variant: Variant) -> Iterator[Case]:
    """Everything at zero has one answer; a positive initial state cannot be zero and is left out or passed as zeros."""
    for cell in variant.cells:
        kind = cell_named(cell)
        for dtype in variant.dtypes:
            for initial in variant.paths:
                if initial == "given" and kind.positive:
                    continue
                for batched in (True, False) if variant.unbatched else (True,):
                    size = _SIZES[batched]
                    output = size.hidden - 1 if kind.projected else size.hidden
                    shapes = kind.shapes({"D": size.features, "H": size.hidden, "P": output})
                    yield make_case(
                        cell=cell,
                        dtype=dtype,
                        parameters={name: np.zeros(shape) for name, shape in shapes.items()},
                        x=np.ones((size.batch, size.time, size.features)),
                        initial=initial,
                        h0=np.zeros((size.batch, output)),
                        c0=np.zeros((size.batch, size.hidden)) if kind.carry is not None else None,
                        batched=batched,
                        origin=f"{cell} {dtype} {initial}{'' if batched else ' unbatched'}",
                    )


def _problem(host: Host, variant: Variant, case: Case) -> str:
    answer = host.observe(case)
    if isinstance(answer, Broken):
        return f"{answer.kind}: {answer.message}"
    wanted = variant.attestable(case.cell, case.initial)
    if answer.path not in wanted:
        return f"attests the path {answer.path!r}, declares {' or '.join(map(repr, wanted))}"
    for name, values in answer.observed.arrays().items():
        if np.any(values != 0.0) and not cell_named(case.cell).positive:
            return f"{name} is not zero for zero weights and states: largest value {np.max(np.abs(values)):g}"
    return ""
