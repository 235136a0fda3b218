"""Workflow commands of GitHub Actions: one line for the answer, and one for what changed, or was found, alike.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from conformance.known import check_known
from conformance.record import Record
from conformance.report.answer import answer
from conformance.report.gate import GateText
from conformance.report.known import problem_text
from conformance.report.outcome import gaps
from conformance.report.rows import Standing, finding_rows
from conformance.report.telling import alike
from conformance.report.wording import visible

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


def run_commands(record: Record) -> str:
    """The same of a run: what fails is an error, what could not be told a warning, what does not decide a notice."""
    said, rows = answer(record), finding_rows(record)
    level = {0: "notice", 1: "error"}.get(said.exit_code, "warning")
    lines = [_command(level, f"RNN conformance: {said.word}", said.sentence)]
    lines += [_command("warning", "RNN conformance: not a full answer", reason) for reason in gaps(record)[:_MOST]]
    shown: tuple[tuple[Standing, str], ...] = (("fails", "error"), ("doubtful", "warning"), ("aside", "notice"))
    for standing, own in shown:
        lines += [
            _command(own, f"{told.lead.outcome}: {told.candidate}", f"{told.asked}: {told.said}")
            for told in alike(rows, standing)[:_MOST]
        ]
    lines += [
        _command("error", f"known divergence: {problem.kind}", problem_text(problem))
        for problem in check_known(record)[:_MOST]
        if problem.kind != "unlisted"
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
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
