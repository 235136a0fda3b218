"""The example of a divergence: its minimal case with everything that a reader needs to see it again."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np

from conformance.algebra import Exact
from conformance.case import Case, case_to_json
from conformance.cells import cell_named
from conformance.compare import Observed, seen
from conformance.errors import ConformanceError
from conformance.examination import Failed
from conformance.gradient import gradients
from conformance.judge import (
    observed_of,
)
from conformance.kept import Failure
from conformance.plan import Group
from conformance.record import ArrayPair, Example
from conformance.requirement import REFERENCE
from conformance.rounding import Array
from conformance.settings import Settings
from conformance.verdict import Diverges


def example_of(group: Group, chosen: Settings, failure: Failed, version: str) -> Example:
    """The example of a group that failed; what cannot be written of it is left out.

    version: of the candidate's framework.
    """
    from conformance.repro import render_repro  # noqa: PLC0415 - templates, only where something is shown

    base, case, observed = failure.judged.case, failure.shown.case, failure.shown.observed
    with np.errstate(over="ignore", invalid="ignore"):
        truth = cell_named(case.cell).run(case)
    # A divergence must not be lost because its extras cannot be written.
    try:
        plain = group.requirement.relation == REFERENCE and not case.features
        repro = render_repro(group.candidate.adapter, group.candidate.variant.name, case) if plain else ""
    except ConformanceError as error:
        repro = "".join(f"# {line}\n" for line in str(error).splitlines())
    try:
        further = _further(case, observed, observed_of(truth), failure.verdict)
    except ConformanceError:
        further = ()
    try:
        path = None if chosen.keep is None else chosen.keep(group, base, _kept(group, failure.verdict, version))
    except OSError:
        path = None
    words = ["rnn-conformance", "run", group.candidate.name, "-k", group.requirement.name]
    if group.candidate.adapter.by_path:
        words += ["--adapter", str(group.candidate.adapter.folder)]
    if path is not None:
        words += ["--case", str(path)]
    return Example(
        case=case_to_json(case),
        verdict=failure.verdict,
        observed_outputs=_plain(observed.outputs),
        observed_final_state=_plain(observed.final_state),
        expected_outputs=_plain(truth.outputs),
        expected_final_state=_plain(truth.final_state),
        repro=repro,
        command=shlex.join(words),
        further=further,
    )


def _kept(group: Group, verdict: Diverges, version: str) -> Failure:
    return Failure(
        candidate=group.candidate.name,
        version=version,
        requirement=group.requirement.name,
        dtype=group.dtype,
        faults=verdict.faults,
        size=verdict.evidence.largest_difference,
    )


def _further(case: Case, observed: Observed, truth: Observed, verdict: Diverges) -> tuple[ArrayPair, ...]:
    """The memory of an LSTM, and the gradient that diverges."""
    pairs = {"cells": (observed.cells, truth.cells), "final_cell": (observed.final_cell, truth.final_cell)}
    prefix, _, name = verdict.evidence.output.partition("gradient of ")
    if not prefix and name in observed.gradients:
        wanted = gradients(case, seen(case, observed), Exact())[name]
        pairs[verdict.evidence.output] = (observed.gradients[name], wanted)
    return tuple(
        ArrayPair(name=name, observed=_plain(got), expected=_plain(wanted))
        for name, (got, wanted) in pairs.items()
        if got is not None and wanted is not None
    )


def _plain(values: Array) -> list[Any]:
    """Nested lists in which a number that is not finite is None."""
    result = values.astype(object)
    result[~np.isfinite(values)] = None
    plain: list[Any] = result.tolist()
    return plain
