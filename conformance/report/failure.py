"""A finding that is not met, as the message of a failing test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import numpy as np

from conformance.case import Case, case_from_json
from conformance.faults import catalogue
from conformance.record import Example, Finding
from conformance.requirement import REQUIREMENTS
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, Verdict


def failure_message(finding: Finding, facts: Mapping[str, str]) -> str:
    """What diverges, how, since when, on which minimal case, and how to see it again.

    facts: what the worker told about its framework and device.
    """
    requirement = REQUIREMENTS[finding.requirement]
    head = f"{finding.candidate}, {finding.dtype}: {finding.requirement}"
    tested = ", ".join(f"{name} {value}" for name, value in facts.items()) or "the worker never came up"
    lines = [f"{head} {_word(finding.verdict)}", f"  tested: {tested}", f"  required: {requirement.statement}"]
    lines += _explained(finding.verdict, requirement.cell)
    if finding.example is not None:
        lines += _minimal(finding.example)
    return "\n".join(lines)


def _word(verdict: Verdict) -> str:
    match verdict:
        case Diverges():
            return "DIVERGES"
        case Inconclusive():
            return "is INCONCLUSIVE"
        case Broken():
            return f"is BROKEN ({verdict.kind})"
        case Unrepresentable():
            inner = "" if verdict.subspace is None else f", and with that at zero {_word(verdict.subspace)}"
            return f"cannot represent {', '.join(verdict.parameters)}{inner}"
        case Unsupported():
            return "is not offered"
        case Agrees():
            return "agrees"
        case _:
            assert_never(verdict)


def _explained(verdict: Verdict, cell: str) -> list[str]:
    match verdict:
        case Diverges():
            return _divergence(verdict, cell)
        case Inconclusive():
            return [f"  why: {verdict.why}"]
        case Broken():
            tail = verdict.stderr_tail.strip().splitlines()[-12:]
            return [f"  what: {verdict.message}", *(f"  | {line}" for line in tail)]
        case Unrepresentable():
            inner = [] if verdict.subspace is None else _explained(verdict.subspace, cell)
            return [f"  owner: {verdict.owner}, {verdict.reason} {verdict.link}", *inner]
        case Unsupported():
            return [f"  owner: {verdict.owner}, {verdict.reason}"]
        case Agrees():
            return []
        case _:
            assert_never(verdict)


def _divergence(verdict: Diverges, cell: str) -> list[str]:
    lines = []
    evidence = verdict.evidence
    if not evidence.finite:
        lines.append("  fault: a returned number is not finite, where the reference is")
    elif not verdict.faults:
        nearest = min(evidence.residuals, key=evidence.residuals.__getitem__, default="none")
        lines.append(f"  fault: none of the catalogue explains it (the nearest is {nearest})")
    for name in verdict.faults:
        fault = catalogue(cell)[name]
        lines += [
            f"  fault: {name}: {fault.statement}",
            f"    computes: {fault.equation}",
            f"    right:    {fault.right}",
        ]
    if len(verdict.faults) > 1:
        lines.append("    (these cases do not tell the faults above apart)")
    batch, step, unit = evidence.first
    lines.append(
        f"  first divergent step: {step} (batch {batch}, unit {unit}, {evidence.output}): "
        f"expected {_number(evidence.expected)}, observed {_number(evidence.observed)}, "
        f"bound {_number(evidence.bound, 2)}"
    )
    if evidence.largest_difference is not None and evidence.share is not None:
        lines.append(
            f"  largest difference: {evidence.largest_difference:.8g};"
            f" largest residual: {evidence.share:.3g} times its bound"
        )
    return lines


def _minimal(example: Example) -> list[str]:
    case = case_from_json(example.case)
    verdict = example.verdict
    lines = [f"  minimal case: {case.shape}, initial state {case.initial}, {case.dtype} ({case.origin})"]
    lines += [f"    {line}" for line in _numbers(case)]
    if isinstance(verdict, Diverges):
        batch, step, _ = verdict.evidence.first
        expected, observed = example.expected_outputs[batch][step], example.observed_outputs[batch][step]
        lines.append(f"    step {step}, batch {batch}: expected h = {_row(expected)}")
        lines.append(f"    {' ' * len(f'step {step}, batch {batch}:')} observed h = {_row(observed)}")
    return [*lines, f"  again: {example.command}"]


def _number(value: float | None, digits: int = 9) -> str:
    return "not finite" if value is None else f"{value:.{digits}g}"


def _row(values: list[float | None]) -> str:
    shown = [_number(value) for value in values[:8]]
    return "[" + ", ".join(shown) + (", ...]" if len(values) > 8 else "]")


def _numbers(case: Case) -> list[str]:
    """The arrays that are not all zero, in full when they are small."""
    arrays = {**case.parameters, "x": case.x, "h0": case.h0}
    lines = []
    for name, array in arrays.items():
        if np.any(array):
            text = np.array2string(array, threshold=12, separator=", ", precision=6).replace("\n", "")
            lines.append(f"{name} = {' '.join(text.split())}")
    zero = [name for name, array in arrays.items() if not np.any(array)]
    return [*lines, f"zero: {', '.join(zero)}"] if zero else lines
