"""Histories in words: where an answer changed, what was tried, and what is only inferred."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from conformance.bisect import Boundary, History, Run

_LISTED = 6


def told(history: History) -> str:
    """What was found, in one sentence."""
    if not history.runs:
        return "no release gave an answer"
    if not history.boundaries:
        (only,) = history.runs
        return f"{only.state.label} {_span(only)}; no change was found"
    first = history.boundaries[0]
    parts = [f"{first.old.label} up to {first.before}"]
    for boundary, run in zip(history.boundaries, history.runs[1:], strict=True):
        last = run is history.runs[-1]
        parts.append(f"{run.state.label} from {boundary.after}" if last else f"{run.state.label} {_span(run)}")
    return ", ".join(parts)


def tried(history: History) -> str:
    """What was asked, what could not be, and what is inferred, in one sentence."""
    count = len(history.versions)
    unavailable = [version for version, state in history.states.items() if state.kind == "unavailable"]
    failing = [version for version in history.holes if version not in unavailable]
    asked = len(history.states) - len(unavailable)
    parts = [f"{asked} of {count} releases tried"]
    if unavailable:
        parts.append(f"{len(unavailable)} unavailable ({listed(unavailable)})")
    if failing:
        parts.append(f"{len(failing)} without an answer ({listed(failing)})")
    text = ", ".join(parts)
    inferred = len(history.inferred)
    if inferred:
        one = "1 other is" if inferred == 1 else f"{inferred} others are"
        text += f"; the {one} inferred: true if nothing changes and changes back between two that were tried"
    return text


def warnings(history: History) -> list[str]:
    """What a reader must know beside the sentence."""
    lines = []
    if not history.monotone:
        rest = "every release was tried" if history.scanned else "not every release was tried"
        lines.append(f"the history is not monotone, a state comes back after it had gone: {rest}")
    lines += [_unsharp(boundary) for boundary in history.boundaries if boundary.between]
    return lines


def _unsharp(boundary: Boundary) -> str:
    return (
        f"the change between {boundary.before} and {boundary.after} may lie in any of {listed(boundary.between)}, "
        "which gave no answer"
    )


def reasons(histories: Iterable[History]) -> Mapping[str, str]:
    """Why releases gave no answer, or failed: version -> reason in one line."""
    found: dict[str, str] = {}
    for history in histories:
        for version, state in history.states.items():
            if state.detail and state.kind != "answer":
                found.setdefault(version, f"{state.label}: {state.detail}".splitlines()[0])
    return found


def listed(names: Iterable[str]) -> str:
    """Names, or the first and the last of many."""
    every = list(names)
    return ", ".join(every) if len(every) <= _LISTED else f"{every[0]}, {every[1]}, ... {every[-1]}"


def _span(run: Run) -> str:
    return f"in {run.first}" if run.first == run.last else f"from {run.first} to {run.last}"
