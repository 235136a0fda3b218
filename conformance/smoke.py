"""Smoke: is the adapter itself healthy? Asked before any number is judged.

A tiny case with all weights and states at zero has one answer under every convention of gates, biases and
resets: h' = (1 - z) * tanh(0) + z * 0 = 0. What fails here is the adapter or its environment, not the
framework's arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from conformance.candidate import Variant
from conformance.case import Case, make_case
from conformance.cells import cell_named
from conformance.errors import ConformanceError
from conformance.host import Host
from conformance.plan import Candidate, interpreter_of
from conformance.verdict import Broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One candidate's health. problem: "" when it is healthy."""

    candidate: str
    checked: str
    problem: str


def smoke(candidates: Sequence[Candidate], *, progress: Callable[[str], None]) -> Iterator[Health]:
    """Check every candidate in turn; what goes wrong with one is its own row."""
    for candidate in candidates:
        progress(f"{candidate.name} ...")
        checked, problem = 0, ""
        try:
            interpreter = interpreter_of(candidate, progress)
            with Host(
                candidate.adapter,
                candidate.variant,
                interpreter,
                incident=lambda _: None,  # the row's own problem says it
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
        yield Health(candidate=candidate.name, checked=f"{checked} cases", problem=problem)


def _cases(variant: Variant) -> Iterator[Case]:
    for cell in variant.cells:
        sizes = {"D": 2, "H": 3}
        for dtype in variant.dtypes:
            for initial in variant.paths:
                for batched in (True, False) if variant.unbatched else (True,):
                    batch = 2 if batched else 1
                    yield make_case(
                        cell=cell,
                        dtype=dtype,
                        parameters={
                            name: np.zeros(tuple(sizes[letter] for letter in letters))
                            for name, letters in cell_named(cell).parameters.items()
                        },
                        x=np.ones((batch, 4, 2)),
                        initial=initial,
                        h0=np.zeros((batch, 3)),
                        batched=batched,
                        origin=f"{cell} {dtype} {initial}{'' if batched else ' unbatched'}",
                    )


def _problem(host: Host, variant: Variant, case: Case) -> str:
    answer = host.observe(case)
    if isinstance(answer, Broken):
        return f"{answer.kind}: {answer.message}"
    if answer.path != variant.paths[case.initial]:
        return f"attests the path {answer.path!r}, declares {variant.paths[case.initial]!r}"
    for name in ("outputs", "final_state"):
        values = getattr(answer.observed, name)
        if np.any(values != 0.0):
            return f"{name} is not zero for zero weights and states: largest value {np.max(np.abs(values)):g}"
    return ""
