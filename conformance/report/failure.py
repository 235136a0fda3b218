"""A finding that is not met, as the message of a failing test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, assert_never

import numpy as np

from conformance.behaviours import BEHAVIOURS
from conformance.case import Case, Evaluation, arrays_of, case_from_json
from conformance.cells.fault import Told
from conformance.errors import CaseError
from conformance.faults import catalogue
from conformance.gradient_faults import GradientFault, gradient_catalogue
from conformance.record import Example, Finding
from conformance.report.minimal import STATES, STEPWISE, has_numbers, place_text
from conformance.report.wording import share
from conformance.requirement import REQUIREMENTS
from conformance.verdict import Agrees, Broken, Diverges, Evidence, Inconclusive, Unrepresentable, Unsupported, Verdict

_SENTENCES: Final = 8


def failure_message(finding: Finding, facts: Mapping[str, str], evaluation: Evaluation = "sequential") -> str:
    """What diverges, how, since when, on which minimal case, and how to see it again.

    facts: what the worker told about its framework and device. evaluation: the candidate's, in whose convention faults
        are told.
    """
    requirement = REQUIREMENTS[finding.requirement]
    head = f"{finding.candidate}, {finding.dtype}: {finding.requirement}"
    tested = ", ".join(f"{name} {value}" for name, value in facts.items()) or "the worker never came up"
    required = f"  required ({requirement.level}): {requirement.statement}"
    lines = [f"{head} {_word(finding.verdict)}", f"  tested: {tested}", required]
    lines += _explained(finding.verdict, requirement.cell, evaluation)
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


def _explained(verdict: Verdict, cell: str, evaluation: Evaluation) -> list[str]:
    match verdict:
        case Diverges():
            return _divergence(verdict, cell, evaluation)
        case Inconclusive():
            return [f"  why: {verdict.why}"]
        case Broken():
            tail = verdict.stderr_tail.strip().splitlines()[-12:]
            return [f"  what: {verdict.message}", *(f"  | {line}" for line in tail)]
        case Unrepresentable():
            inner = [] if verdict.subspace is None else _explained(verdict.subspace, cell, evaluation)
            return [f"  owner: {verdict.owner}, {verdict.reason} {verdict.link}", *inner]
        case Unsupported():
            return [f"  owner: {verdict.owner}, {verdict.reason}"]
        case Agrees():
            return []
        case _:
            assert_never(verdict)


def _divergence(verdict: Diverges, cell: str, evaluation: Evaluation) -> list[str]:
    lines = []
    evidence = verdict.evidence
    if not evidence.finite:
        lines.append("  fault: a returned number is not finite, where the reference is")
    elif not verdict.faults:
        nearest = min(evidence.residuals, key=evidence.residuals.__getitem__, default="")
        told = f" (the nearest is {nearest})" if nearest else ""
        lines.append(f"  fault: none of the catalogue explains it{told}")
    known: dict[str, Told | GradientFault] = dict(gradient_catalogue(cell))
    known |= {name: fault.told(evaluation) for name, fault in catalogue(cell).items()}
    for name in verdict.faults:
        fault = known.get(name)
        if fault is None:
            lines.append(f"  fault: {name}: {BEHAVIOURS[name].statement}" if name in BEHAVIOURS else f"  fault: {name}")
            continue
        lines += [
            f"  fault: {name}: {fault.statement}",
            f"    computes: {fault.equation}",
            f"    right:    {fault.right}",
        ]
    lines += [f"  explained by {one} together with {other}" for one, other in evidence.pairs]
    lines += [f"  told: {sentence}" for sentence in (*evidence.lasting, *evidence.localisation)[:_SENTENCES]]
    if len(verdict.faults) > 1:
        lines.append("    (these cases do not tell the faults above apart)")
    lines.append(f"  {_first(evidence)}{_figures(evidence)}")
    if evidence.largest_difference is not None and evidence.share is not None:
        lines.append(
            f"  largest difference: {evidence.largest_difference:.8g};"
            f" largest residual: {share(evidence.share)} times its bound"
        )
    return lines


def _first(evidence: Evidence) -> str:
    if evidence.output not in (*STEPWISE, *STATES):
        return f"first divergence: {place_text(evidence)}"
    batch, step, unit = evidence.first
    where = f", {evidence.where}" if evidence.where else ""
    return f"first divergent step: {step} (batch {batch}, unit {unit}, {evidence.output}{where})"


def _figures(evidence: Evidence) -> str:
    if not has_numbers(evidence):
        return ""
    return (
        f": expected {_number(evidence.expected)}, observed {_number(evidence.observed)}, "
        f"bound {_number(evidence.bound, 2)}"
    )


def _minimal(example: Example) -> list[str]:
    again = f"  again: {example.command}"
    try:
        case = case_from_json(example.case)
    except CaseError:  # the shape of an array without elements is not in the JSON
        return [f"  minimal case: {example.case.get('origin')}, with arrays that have no elements", again]
    asked = "".join(f", {name}" for name in case.features if name not in ("lengths", "layers", "bidirectional"))
    lengths = "" if case.lengths is None else f", lengths {', '.join(map(str, case.lengths)) or 'none'}"
    about = f"{case.shape}, initial state {case.initial}{lengths}{asked}, {case.dtype} ({case.origin})"
    lines = [f"  minimal case: {about}", *(f"    {line}" for line in _numbers(case))]
    if isinstance(example.verdict, Diverges):
        lines += _rows(example, example.verdict.evidence)
    return [*lines, again]


def _rows(example: Example, evidence: Evidence) -> list[str]:
    """The row of units that holds the first divergent element, where it has one in the example."""
    pairs = {
        "outputs": (example.expected_outputs, example.observed_outputs),
        **{pair.name: (pair.expected, pair.observed) for pair in example.further},
    }
    if evidence.output not in STEPWISE or evidence.output not in pairs:
        return []
    batch, step, _ = evidence.first
    try:
        expected, observed = (values[batch][step] for values in pairs[evidence.output])
    except (IndexError, TypeError):  # the observation has another shape
        return []
    name, place = "h" if evidence.output == "outputs" else "c", f"step {step}, batch {batch}:"
    return [
        f"    {place} expected {name} = {_row(expected)}",
        f"    {' ' * len(place)} observed {name} = {_row(observed)}",
    ]


def _number(value: float | None, digits: int = 9) -> str:
    return "not finite" if value is None else f"{value:.{digits}g}"


def _row(values: list[float | None]) -> str:
    shown = [_number(value) for value in values[:8]]
    return "[" + ", ".join(shown) + (", ...]" if len(values) > 8 else "]")


def _numbers(case: Case) -> list[str]:
    """The arrays that are not all zero, in full when they are small."""
    arrays = {**case.parameters, **arrays_of(case)}
    arrays |= {f"cotangent of {name}": array for name, array in case.cotangents.items()}
    lines = []
    for name, array in arrays.items():
        if np.any(array):
            text = np.array2string(array, threshold=12, separator=", ", precision=6).replace("\n", "")
            lines.append(f"{name} = {' '.join(text.split())}")
    empty = [f"{name} {array.shape}" for name, array in arrays.items() if not array.size]
    zero = [name for name, array in arrays.items() if array.size and not np.any(array)]
    lines += [f"zero: {', '.join(zero)}"] * bool(zero)
    return lines + [f"without elements: {', '.join(empty)}"] * bool(empty)
