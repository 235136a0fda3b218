"""A gate as workflow commands of GitHub Actions: one line for what changed alike, and one for the answer.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from conformance.report.gate import GateText

_LEVELS: Final[dict[str, Literal["error", "warning", "notice"]]] = {
    "regressed": "error",
    "changed": "warning",
    "inconclusive": "warning",
    "gone": "warning",
    "fixed": "notice",
}
# GitHub shows ten annotations of a kind and step.
_MOST: Final = 9


def workflow_commands(text: GateText) -> str:
    """The lines to print to a workflow's log."""
    lines = [_command(*_answer(text), text.paragraph), *_changes(text)]
    lines += [_command("error", f"known divergence: {kind}", said) for kind, said in text.problems[:_MOST]]
    lines += [
        _command("warning", f"not available: {own.candidate}", f"{own.what}\n{own.details}") for own in text.absent
    ]
    return "".join(f"{line}\n" for line in lines)


def _answer(text: GateText) -> tuple[str, str]:
    level = {"Safe": "notice", "Regressed": "error"}.get(text.answer, "warning")
    return "error" if text.problems else level, f"RNN gate: {text.answer.lower()}"


def _changes(text: GateText) -> Iterator[str]:
    told: dict[str, int] = {}
    for row in text.rows:
        level = _LEVELS.get(row.kind)
        if level is None:
            continue
        shown = "notice" if row.aside else level
        told[shown] = told.get(shown, 0) + 1
        if told[shown] <= _MOST:
            title = f"{row.kind}: {row.requirement} ({row.variant})"
            yield _command(shown, title, f"{row.dtypes}: before: {row.before}; after: {row.after}")


def _command(level: str, title: str, message: str) -> str:
    title = _data(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
