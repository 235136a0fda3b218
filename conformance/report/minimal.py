"""The minimal case of a divergence in full: parameters, inputs, outputs beside what was expected, repro."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from conformance.record import Example
from conformance.report.wording import (
    LIMIT,
    apart,
    array_text,
    block,
    clipped,
    count,
    elements,
    exact,
    label,
    listed,
    number,
    shape_text,
)
from conformance.verdict import Diverges, Evidence

_ELEMENTS: Final = 240
"""More elements of the output than this are not shown one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayText:
    """A named array as aligned text."""

    name: str
    shape: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One element of the output, expected from a free run of the reference."""

    place: tuple[str, ...]
    expected: str
    observed: str
    difference: str
    first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimalCase:
    """The smallest case that shows the divergence, in full."""

    about: tuple[tuple[str, str], ...]
    arrays: tuple[ArrayText, ...]
    elements: tuple[Element, ...]
    omitted: str
    outcome: str
    json: str
    repro: str
    command: str


def place_text(evidence: Evidence) -> str:
    """Where the first divergent element is."""
    batch, step, unit = evidence.first
    place = f"batch row {batch}, step {step}, unit {unit}"
    return f"final state after {place}" if evidence.output == "final_state" else place


def minimal_case(example: Example) -> MinimalCase:
    """The view of an example; its arrays come from the record as they are, of any shape."""
    case = example.case
    parameters = case.get("parameters")
    named = dict(sorted(parameters.items())) if isinstance(parameters, dict) else {}
    named |= {name: case[name] for name in ("x", "h0") if name in case}
    about = tuple(
        (name, label(str(case[name]))) for name in ("cell", "dtype", "initial", "batched", "origin") if name in case
    )
    shown, omitted = _compare(example)
    text = _json(case)
    return MinimalCase(
        about=about,
        arrays=tuple(
            ArrayText(name=label(str(name)), shape=shape_text(values), text=clipped(array_text(values)))
            for name, values in named.items()
        ),
        elements=shown,
        omitted=omitted,
        outcome=_outcome(example),
        json=text if len(text) <= LIMIT else "",
        repro=block(example.repro),
        command=block(example.command),
    )


def _json(case: dict[str, Any]) -> str:
    try:
        return json.dumps(case, sort_keys=True)
    except RecursionError:
        return ""


def _outcome(example: Example) -> str:
    match example.verdict:
        case Diverges(faults=faults, evidence=evidence):
            expected, observed = apart(evidence.expected, evidence.observed)
            names = listed([label(name) for name in faults], last="or", most=6)
            explained = f"explained by {names}" if names else "explained by none of the catalogue"
            return (
                f"First outside its bound: {place_text(evidence)}, expected {expected}, observed {observed}, "
                f"bound {number(evidence.bound, 3)}; {explained}."
            )
        case _:
            return ""


def _compare(example: Example) -> tuple[tuple[Element, ...], str]:
    """Outputs and final state element by element, and how many of them are not shown."""
    first = None
    if isinstance(example.verdict, Diverges):
        batch, step, unit = example.verdict.evidence.first
        first = _element_of(example.verdict.evidence.output, (batch, step, unit))
    result: list[Element] = []
    total = 0
    for name, wanted, got in (
        ("outputs", example.expected_outputs, example.observed_outputs),
        ("final_state", example.expected_final_state, example.observed_final_state),
    ):
        seen = dict(elements(got))
        for index, value in elements(wanted):
            total += 1
            if len(result) >= _ELEMENTS:
                continue
            other = seen.get(index)
            result.append(
                Element(
                    place=(name.replace("_", " "), *_place(index)),
                    expected=exact(value),
                    observed=exact(other),
                    difference=number(None if value is None or other is None else abs(value - other), 3),
                    first=_element_of(name, index) == first,
                )
            )
    omitted = total - len(result)
    return tuple(result), f"{count(omitted, 'further element')} in the record" if omitted else ""


def _element_of(name: str, index: tuple[int, ...]) -> tuple[str, ...]:
    """What identifies an element; the evidence of a final state repeats the last step, which has no say."""
    place = _place(index)
    return (name, *place) if name == "outputs" else (name, place[0], place[2])


def _place(index: tuple[int, ...]) -> tuple[str, str, str]:
    """Batch row, step and unit of an element; the final state has no step."""
    numbers = [str(i) for i in index]
    return (numbers[0], "-" if len(numbers) < 3 else numbers[1], numbers[-1])
