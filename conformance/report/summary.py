"""A gate or a run as Markdown, for the summary of a workflow's step. What comes from a record is text, never markup."""

from __future__ import annotations

import re
from typing import Final

from conformance.known import check_known
from conformance.record import Record
from conformance.report.answer import answer
from conformance.report.gate import GateText
from conformance.report.grouping import tally
from conformance.report.known import problem_text
from conformance.report.outcome import gaps, results
from conformance.report.rows import Standing, finding_rows
from conformance.report.telling import alike
from conformance.report.wording import count, label, visible

_MOST: Final = 200
_TITLES: Final[dict[Standing, str]] = {
    "fails": "What fails:",
    "doubtful": "What could not be told:",
    "aside": "What is not fine and does not decide:",
    "known": "What is listed as known:",
}


def markdown(text: GateText) -> str:
    """The answer, what changed, what drifted, and where the list of known divergences does not hold."""
    lines = [f"## RNN gate: {plain(text.answer.lower())}", "", f"{plain(text.before)} → {plain(text.after)}", ""]
    lines += [plain(text.paragraph), ""]
    if text.rows:
        lines += ["| class | requirement | variant | dtypes | before | after |", "|---|---|---|---|---|---|"]
        for row in text.rows[:_MOST]:
            kind = f"{row.kind} ({row.aside})" if row.aside else f"**{row.kind}**"
            told = (row.requirement, row.variant, row.dtypes, row.before, row.after)
            lines.append(f"| {kind} | {' | '.join(map(plain, told))} |")
        if len(text.rows) > _MOST:
            lines.append(f"\nand {count(len(text.rows) - _MOST, 'further row')} in the report")
        lines.append("")
    if text.drifts:
        lines += ["Bits that moved inside the bounds (informational):", ""]
        lines += [
            "| variant | cell | probes | largest difference | ulp | share of a step's bound |",
            "|---|---|---|---|---|---|",
        ]
        for drift in text.drifts:
            figures = (drift.variant, drift.cell, drift.moved, drift.difference, drift.ulps, drift.share)
            lines.append(f"| {' | '.join(map(plain, figures))} |")
        lines.append("")
    for title, items in (
        ("Where the list of known divergences does not hold:", [said for _, said in text.problems]),
        ("Noted, after every result was delivered:", list(text.incidents)),
        ("Not available:", [f"{own.candidate}: {own.what} {own.details}" for own in text.absent]),
    ):
        if items:
            lines += [title, "", *(f"- {plain(item)}" for item in items), ""]
    return "\n".join(lines)


def run_markdown(record: Record) -> str:
    """The answer, a row per candidate, what is not fine, and where the list of known divergences does not hold."""
    said, rows = answer(record), finding_rows(record)
    lines = [f"## RNN conformance: {said.word}", "", plain(said.sentence), ""]
    lines += [line for reason in gaps(record) for line in (plain(f"Not a full answer: {reason}."), "")]
    lines += ["| candidate | version | outcome | checks |", "|---|---|---|---|"]
    all_results = results(record)
    for result in all_results[:_MOST]:
        version = "" if result.line is None else label(result.line.version)
        told = (label(result.name), version, f"**{result.outcome}**", tally(result.all))
        lines.append(f"| {plain(told[0])} | {plain(told[1])} | {told[2]} | {plain(told[3])} |")
    lines.append("")
    lines += _and_more(len(all_results), "further candidate")
    for standing, title in _TITLES.items():
        found = alike(rows, standing)
        if found:
            lines += [title, "", "| candidate | requirements | found |", "|---|---|---|"]
            lines += [f"| {' | '.join(map(plain, (t.candidate, t.asked, t.said)))} |" for t in found[:_MOST]]
            lines += ["", *_and_more(len(found), "further row")]
    problems = check_known(record)
    if problems:
        lines += ["Where the list of known divergences does not hold:", ""]
        lines += [f"- {plain(problem_text(problem))}" for problem in problems[:_MOST]]
        lines += ["", *_and_more(len(problems), "further place")]
    if record.header.merged:
        lines += [
            "Merged from:",
            "",
            "| record | machine | harness | seed | examples | state |",
            "|---|---|---|---|---|---|",
        ]
        for source in record.header.merged[:_MOST]:
            own = (source.name, source.machine, source.harness, str(source.seed), str(source.examples))
            lines.append(f"| {' | '.join(plain(label(text)) for text in (*own, source.problem or 'whole'))} |")
        lines += ["", *_and_more(len(record.header.merged), "further record")]
    return "\n".join(lines)


def _and_more(amount: int, noun: str) -> list[str]:
    return [f"and {count(amount - _MOST, noun)} in the report", ""] if amount > _MOST else []


def plain(text: str) -> str:
    """Text on one line that Markdown shows as it stands."""
    # An underscore inside a word is one; a dollar begins a formula, a colon a link or a command.
    escaped = re.sub(r"([\\`*\[\]|<>&~$]|(?<![^\W_])_|_(?![^\W_])|:(?=//|:)|@)", _escaped, visible(text))
    return escaped.replace("\r", " ").replace("\n", " ")


def _escaped(match: re.Match[str]) -> str:
    # An entity is text everywhere, also inside a table; a backslash before a letter would not be.
    return f"&#{ord(match[1])};"
