"""One divergence as a reader meets it: what differs, since when, by how much, and why this fault is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from conformance.record import CandidateLine, Finding, Trial
from conformance.report.chart import Chart, gauge, step_chart
from conformance.report.heat import HeatMap, heat_map
from conformance.report.issue import Told, example_line, issue_text
from conformance.report.minimal import MinimalCase, figures_text, has_numbers, minimal_case, place_text
from conformance.report.wording import apart, block, count, label, listed, one_line, share
from conformance.verdict import Diverges, Evidence, Unrepresentable

TOP: Final = 8
_SENTENCES: Final = 40
_PATHS: Final = 12
_FACTS: Final = ("platform", "python", "device", "numpy", "threads")
"""What an issue tells of the environment."""


class FaultText(Struct, frozen=True, kw_only=True):
    """A fault as a report names it; anchor is "" when the record does not describe it."""

    name: str
    statement: str = ""
    equation: str = ""
    right: str = ""
    anchor: str = ""


class Hypothesis(Struct, frozen=True, kw_only=True):
    """How far one fault is from explaining the output; says: what its share means."""

    fault: FaultText
    share: str
    says: str
    at: float
    explains: bool


class Gate(Struct, frozen=True, kw_only=True):
    """An intermediate where the output first differs: by the equations, and as it came or must have been.

    differs: by more than the bound of the element.
    """

    name: str
    expected: float | None
    observed: float | None
    difference: float | None
    differs: bool


class Divergence(Struct, frozen=True, kw_only=True):
    """A diverging finding, ready to be shown; full is False for those that are shown in short.

    aside: the level of its requirement, where that does not decide; numbers: whether an element diverges, not a shape.
    under: the fault whose gates stand beside those of the equations, "" where none explains the output.
    ruled_out: which other explanations are; issue, line: texts to take away, "" where there is no example.
    """

    anchor: str
    candidate: str
    requirement: str
    statement: str
    aside: str
    dtype: str
    faults: tuple[FaultText, ...]
    together: str
    sentences: tuple[str, ...]
    held: str
    evidence: Evidence
    expected: str
    observed: str
    numbers: bool
    exact: bool
    place: str
    seen_on: str
    full: bool
    reading: str
    chart: Chart | None
    heat: HeatMap | None
    gates: tuple[Gate, ...]
    under: str
    ran: tuple[str, ...]
    ruled_out: str
    issue: str
    line: str
    nearest: tuple[Hypothesis, ...]
    further: tuple[Hypothesis, ...]
    case: MinimalCase | None


class Alike(Struct, frozen=True, kw_only=True):
    """A further divergence that the same fault explains, in one row."""

    anchor: str
    requirement: str
    aside: str
    dtype: str
    place: str
    expected: str
    observed: str
    evidence: Evidence
    numbers: bool
    command: str


class CauseText(Struct, frozen=True, kw_only=True):
    """The divergences of one candidate that one fault explains: one in full, the others in a row each."""

    lead: Divergence
    others: tuple[Alike, ...]


def make_alike(finding: Finding, verdict: Diverges, *, anchor: str, aside: str) -> Alike:
    """The row of a diverging finding."""
    expected, observed = apart(verdict.evidence.expected, verdict.evidence.observed)
    return Alike(
        anchor=anchor,
        requirement=label(finding.requirement),
        aside=aside,
        dtype=label(finding.dtype),
        place=place_text(verdict.evidence),
        expected=expected,
        observed=observed,
        evidence=verdict.evidence,
        numbers=has_numbers(verdict.evidence),
        command="" if finding.example is None else one_line(finding.example.command),
    )


def make_divergence(
    finding: Finding,
    verdict: Diverges,
    *,
    anchor: str,
    statement: str,
    aside: str,
    together: str,
    known: dict[str, FaultText],
    trials: Sequence[Trial],
    line: CandidateLine | None,
    full: bool,
    finished: bool,
) -> Divergence:
    """The view of one diverging finding.

    verdict: its divergence, with the faults to name; together: the pairs of faults to name, where there are none;
    known: the described faults of its cell by name; line: its candidate, None where that never came up.
    """
    evidence = verdict.evidence
    expected, observed = apart(evidence.expected, evidence.observed)
    ranked = [
        _hypothesis(name, value, verdict, known)
        for name, value in sorted(evidence.residuals.items(), key=lambda item: (item[1], item[0]))
    ]
    held = ""
    if isinstance(finding.verdict, Unrepresentable):
        held = listed([label(name) for name in finding.verdict.parameters], most=8)
    named = tuple(fault_text(name, known) for name in verdict.faults)
    ran = tuple(dict.fromkeys(label(trial.path) for trial in trials if trial.path))
    issue = ""
    if full and finding.example is not None:
        issue = block(issue_text(_told(finding, evidence, statement, named, ran, line), finding.example))
    return Divergence(
        anchor=anchor,
        candidate=label(finding.candidate),
        requirement=label(finding.requirement),
        statement=label(statement),
        aside=aside,
        dtype=label(finding.dtype),
        faults=named,
        together=together,
        sentences=tuple(block(text) for text in (*evidence.lasting, *evidence.localisation)[:_SENTENCES]),
        held=held,
        evidence=evidence,
        expected=expected,
        observed=observed,
        numbers=has_numbers(evidence),
        exact=evidence.bound == 0.0 and evidence.share is None and evidence.finite,
        place=place_text(evidence),
        seen_on=_seen_on(finding, evidence, trials) + ("" if finished else "; the check was not finished"),
        full=full,
        reading=_reading(ranked, verdict),
        chart=step_chart(evidence.steps, evidence.first[1]) if full else None,
        heat=heat_map(evidence.map) if full else None,
        gates=_gates(evidence) if full else (),
        under=label(evidence.under),
        ran=ran[:_PATHS],
        ruled_out=_ruled_out(ranked),
        issue=issue,
        line=example_line(finding.example, _subject(finding, verdict)) if full and finding.example is not None else "",
        nearest=tuple(ranked[:TOP]) if full else (),
        further=tuple(ranked[TOP:]) if full else (),
        case=minimal_case(finding.example) if finding.example is not None and full else None,
    )


def _gates(evidence: Evidence) -> tuple[Gate, ...]:
    """Gates in the order of their computation; records keep names sorted. The state itself was observed."""
    order = {name: index for index, name in enumerate(("i", "f", "r", "z", "g", "n", "o", "c", "h"))}
    ranked = sorted(evidence.intermediates.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))
    observed = dict(evidence.implied)
    # What was returned is worth more than what it must have been.
    returned = {"outputs": "h", "cells": "c"}.get(evidence.output)
    if returned in evidence.intermediates:
        observed[returned] = evidence.observed
    return tuple(_gate(name, value, observed, evidence.bound or 0.0) for name, value in ranked)


def _gate(name: str, expected: float | None, observed: Mapping[str, float | None], bound: float) -> Gate:
    seen = observed.get(name)
    difference = None if expected is None or seen is None else abs(seen - expected)
    return Gate(
        name=label(name),
        expected=expected,
        observed=seen,
        difference=difference,
        differs=name in observed and (difference is None or difference > bound),
    )


def _ruled_out(ranked: Sequence[Hypothesis]) -> str:
    """How many other explanations are, of those that were tried."""
    if not ranked:
        return ""
    refuted = sum(not hypothesis.explains for hypothesis in ranked)
    return f"{refuted} of {count(len(ranked), 'hypothesis', 'hypotheses')} ruled out as what happened"


def _subject(finding: Finding, verdict: Diverges) -> str:
    names = listed([label(name) for name in verdict.faults], last="or", most=3)
    words = (finding.candidate, finding.requirement, finding.dtype)
    return ", ".join(label(word) for word in words) + (f": {names}" if names else "")


def _told(
    finding: Finding,
    evidence: Evidence,
    statement: str,
    named: Sequence[FaultText],
    ran: Sequence[str],
    line: CandidateLine | None,
) -> Told:
    one = named[0] if len(named) == 1 else FaultText(name=listed([fault.name for fault in named], last="or", most=3))
    facts = () if line is None else tuple((name, line.facts[name]) for name in _FACTS if name in line.facts)
    return Told(
        candidate=finding.candidate if line is None else line.adapter,
        version="" if line is None else line.version,
        requirement=finding.requirement,
        dtype=finding.dtype,
        statement=statement,
        fault=one.name,
        wrong=one.statement,
        equation=one.equation,
        right=one.right,
        place=place_text(evidence),
        figures=figures_text(evidence),
        paths=ran[:_PATHS],
        facts=facts,
        largest=evidence.largest_difference,
    )


def fault_text(name: str, known: dict[str, FaultText]) -> FaultText:
    """The description of a fault, or its bare name."""
    return known.get(name) or FaultText(name=label(name))


def _seen_on(finding: Finding, evidence: Evidence, trials: Sequence[Trial]) -> str:
    failing = [trial for trial in trials if _evidence(trial) is not None]
    told = f"{len(failing)} of {count(len(trials), 'recorded trial')} diverge" if trials else ""
    match next((trial for trial in failing if _evidence(trial) == evidence), None):
        case None:
            return told or count(finding.trials, "trial")
        case trial:
            batch, time, features, hidden = trial.case.shape
            size = f"B={batch}, T={time}, D={features}, H={hidden}"
            return f"{told}; the figures are those of {label(trial.case.origin)} ({size})"


def _evidence(trial: Trial) -> Evidence | None:
    verdict = trial.verdict.subspace if isinstance(trial.verdict, Unrepresentable) else trial.verdict
    return verdict.evidence if isinstance(verdict, Diverges) else None


def _hypothesis(name: str, value: float, verdict: Diverges, known: dict[str, FaultText]) -> Hypothesis:
    explains = value <= 1.0
    if not explains:
        says = "does not explain it"
    elif name in verdict.faults:
        says = "explains every divergence seen"
    else:
        says = "explains this case, but not another that diverged"
    return Hypothesis(fault=fault_text(name, known), share=share(value), says=says, at=gauge(value), explains=explains)


def _reading(ranked: Sequence[Hypothesis], verdict: Diverges) -> str:
    """Why these faults, and no others, are named."""
    if not verdict.evidence.finite:
        return "The output holds numbers that are not finite, so no hypothesis could be tried against it."
    if not ranked and verdict.evidence.bound == 0.0:
        return "The requirement asks for equality bit for bit; no hypothesis was tried against what came instead."
    if not ranked:
        return "The record holds no residuals of hypotheses."
    named = [h for h in ranked if h.fault.name in {label(name) for name in verdict.faults}]
    others = [h for h in ranked if not h.explains]
    following = ""
    if others:
        following = f" The next best, {others[0].fault.name}, reaches {others[0].share} times its bound."
    if not named:
        nearest = ranked[0]
        start = "No fault of the catalogue explains every divergence seen."
        return f"{start} The nearest, {nearest.fault.name}, reaches {nearest.share} times its bound."
    if len(named) == 1:
        start = f"Computed with {named[0].fault.name}, every element lies within its bound"
        return f"{start} (at most {named[0].share} of it).{following}"
    names = listed([h.fault.name for h in named], most=6)
    return f"The cases tried cannot tell {names} apart: each explains every element.{following}"
