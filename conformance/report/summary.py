"""A gate as Markdown, for the summary of a workflow's step. What comes from a record is text, never markup."""

from __future__ import annotations

import re
from typing import Final

from conformance.report.gate import GateText
from conformance.report.wording import count

_MOST: Final = 200


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


def plain(text: str) -> str:
    """Text on one line that Markdown shows as it stands."""
    escaped = re.sub(r"([\\`*\[\]|<>&])", _escaped, text)
    return escaped.replace("\r", " ").replace("\n", " ")


def _escaped(match: re.Match[str]) -> str:
    # An entity is text everywhere, also inside a table; a backslash before a letter would not be.
    return f"&#{ord(match[1])};"
