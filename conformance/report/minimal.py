"""The minimal case of a divergence in full: parameters, inputs, outputs beside what was expected, repro."""

from __future__ import annotations

import json
from typing import Any, Final

from msgspec import Struct

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


class ArrayText(Struct, frozen=True, kw_only=True):
    """A named array as aligned text."""

    name: str
    shape: str
    text: str


class Element(Struct, frozen=True, kw_only=True):
    """One element of an array, expected from a free run of the reference."""

    array: str
    index: str
    expected: str
    observed: str
    difference: str
    first: bool


class MinimalCase(Struct, frozen=True, kw_only=True):
    """The smallest case that shows the divergence, in full."""

    about: tuple[tuple[str, str], ...]
    arrays: tuple[ArrayText, ...]
    elements: tuple[Element, ...]
    omitted: str
    outcome: str
    json: str
    repro: str
    command: str


STEPWISE: Final = ("outputs", "cells")
STATES: Final = ("final_state", "final_cell")
_NAMED: Final = {
    "outputs": "",
    "cells": "memory c, ",
    "final_state": "final state after ",
    "final_cell": "final memory c after ",
}
_FIELDS: Final = (
    "cell",
    "dtype",
    "initial",
    "batched",
    "lengths",
    "reverse",
    "layers",
    "directions",
    "padding",
    "evaluation",
    "strided",
    "inputs_back",
    "special",
    "origin",
)


def place_text(evidence: Evidence) -> str:
    """Where the first divergent element is, and by which detour it was found, where the evidence says so."""
    if evidence.output not in _NAMED:
        told = (label(evidence.output), label(evidence.where))
        return ", ".join(text for text in told if text)
    batch, step, unit = evidence.first
    place = f"{_NAMED[evidence.output]}batch row {batch}, step {step}, unit {unit}"
    return f"{place} ({label(evidence.where)})" if evidence.where else place


def has_numbers(evidence: Evidence) -> bool:
    """Whether there is an expected or observed number; a wrong shape has none."""
    return not (evidence.finite and evidence.expected is None and evidence.observed is None)


def figures_text(evidence: Evidence) -> str:
    """Expected, observed and bound, in one line; "" where there are no numbers."""
    if not has_numbers(evidence):
        return ""
    expected, observed = apart(evidence.expected, evidence.observed)
    return f"expected {expected}, observed {observed}, bound {number(evidence.bound, 3)}"


def minimal_case(example: Example) -> MinimalCase:
    """The view of an example; its arrays come from the record as they are, of any shape."""
    case = example.case
    parameters, cotangents = case.get("parameters"), case.get("cotangents")
    named = dict(sorted(parameters.items())) if isinstance(parameters, dict) else {}
    named |= {name: case[name] for name in ("x", "h0", "c0") if name in case}
    if isinstance(cotangents, dict):
        named |= {f"cotangent of {name}": values for name, values in sorted(cotangents.items())}
    about = tuple((name, label(str(case[name]))) for name in _FIELDS if name in case)
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
            names = listed([label(name) for name in faults], last="or", most=6)
            explained = f"explained by {names}" if names else "explained by none of the catalogue"
            figures = figures_text(evidence)
            told = f"{place_text(evidence)}, {figures}" if figures else place_text(evidence)
            return f"First outside its bound: {told}; {explained}."
        case _:
            return ""


def _compare(example: Example) -> tuple[tuple[Element, ...], str]:
    """The arrays element by element, the one that diverges first, and how many elements are not shown."""
    pairs = {
        "outputs": (example.expected_outputs, example.observed_outputs),
        "final_state": (example.expected_final_state, example.observed_final_state),
        **{pair.name: (pair.expected, pair.observed) for pair in example.further},
    }
    evidence = example.verdict.evidence if isinstance(example.verdict, Diverges) else None
    wrong = "" if evidence is None else evidence.output
    result: list[Element] = []
    total = 0
    for name in sorted(pairs, key=lambda name: name != wrong):
        wanted, got = pairs[name]
        seen = dict(elements(got))
        for place, (index, value) in enumerate(elements(wanted)):
            total += 1
            first = evidence is not None and name == wrong and _is_first(evidence, index, place)
            if len(result) >= _ELEMENTS and not first:
                continue
            other = seen.get(index)
            result.append(
                Element(
                    array=label(name.replace("_", " ") if name in _NAMED else name),
                    index=", ".join(map(str, index)),
                    expected=exact(value),
                    observed=exact(other),
                    difference=number(None if value is None or other is None else abs(value - other), 3),
                    first=first,
                )
            )
    omitted = total - len(result)
    return tuple(result), f"{count(omitted, 'further element')} in the record" if omitted else ""


def _is_first(evidence: Evidence, index: tuple[int, ...], place: int) -> bool:
    """Whether an element of the diverging array is the first that diverges."""
    batch, step, unit = evidence.first
    if evidence.output in STEPWISE:
        return index == (batch, step, unit)
    # The evidence of a final state repeats the last step, which has no say; that of a gradient is its flat index.
    return index == (batch, unit) if evidence.output in STATES else (0, 0, place) == evidence.first
