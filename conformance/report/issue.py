"""Texts to take away from a divergence: an issue for the framework's owner, and an explicit example for a test.

Both hold text of records, which nobody vouches for. In the issue it stands in code, fenced by more backticks than it
has itself, or is escaped; in the example everything is a Python literal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from conformance.record import Example
from conformance.report.wording import LIMIT, label, number, one_line


class Told(Struct, frozen=True, kw_only=True):
    """What an issue says. facts: of the environment; place, figures: of the first element outside its bound."""

    candidate: str
    version: str
    requirement: str
    dtype: str
    statement: str
    fault: str
    wrong: str
    equation: str
    right: str
    place: str
    figures: str
    paths: Sequence[str]
    facts: Sequence[tuple[str, str]]
    largest: float | None


def issue_text(told: Told, example: Example | None) -> str:
    """The issue as Markdown: what is asked, what came, why it is that, and how to see it without this project."""
    what = told.wrong or "a step of the recurrence is not what its equations give"
    lines = [f"# {_plain(told.candidate)} {_plain(told.version)}: {_plain(what)} ({_plain(told.dtype)})", ""]
    lines += ["**Wanted.** " + _plain(told.statement), ""]
    if told.equation or told.right:
        lines += ["The documented equation, and the one that reproduces the output within rounding:", ""]
        lines += [fenced(f"documented:  {told.right}\nreproduces:  {told.equation}"), ""]
    lines += [f"**Seen.** First at {_plain(told.place)}: {_plain(told.figures)}." if told.figures else "**Seen.**"]
    lines += [
        f"Largest difference to a float64 reference: {number(told.largest)}. Every step is predicted from the "
        "*observed* state before it, so that the bound covers the rounding of this step alone.",
        "",
    ]
    if told.paths:
        lines += ["What ran:", "", *(f"- {code(path)}" for path in told.paths), ""]
    if told.facts:
        lines += ["Environment:", "", *(f"- {code(f'{name}: {fact}')}" for name, fact in told.facts), ""]
    if example is not None and example.repro:
        lines += ["**Reproduce** with NumPy and the framework alone; it exits with 1 where they differ:", ""]
        lines += [fenced(example.repro.rstrip("\n"), "python"), ""]
    if example is not None:
        lines += ["With rnn-conformance:", "", fenced(example.command, "sh"), ""]
    fault = f", fault {code(told.fault)}" if told.fault else ""
    lines += [f"Requirement {code(told.requirement)}{fault}. Found by rnn-conformance."]
    return "\n".join(lines) + "\n"


def example_line(example: Example, finding: str) -> str:
    """The minimal case as an explicit example of a Hypothesis test, on one line.

    The test takes it as `case`; `case_from_json` is that of `conformance.case`. "" for a case that is too long.
    """
    try:
        text = _literal(example.case)
    except RecursionError:
        return ""
    return "" if len(text) > LIMIT else f"@example(case=case_from_json({text}))  # {one_line(finding)}"


def fenced(text: str, language: str = "") -> str:
    """Text as a block of code, whatever it holds."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def code(text: str) -> str:
    """Text as code in a line, whatever it holds."""
    own = label(text)
    longest = max((len(run) for run in re.findall(r"`+", own)), default=0)
    ticks = "`" * (longest + 1)
    pad = " " if "`" in own else ""
    return f"{ticks}{pad}{own}{pad}{ticks}"


def _plain(text: str) -> str:
    """Text that Markdown and a forge take as text: no tag, link, picture, emphasis or mention."""
    return re.sub(r"([\\`*\[\]<>#!|@~])", r"\\\1", label(text))


def _literal(value: object) -> str:
    """JSON as a Python literal in ASCII; records keep no order of names."""
    match value:
        case None | bool() | int() | float():
            return repr(value)
        case str():
            return ascii(value)
        case dict():
            return "{" + ", ".join(f"{str(key)!a}: {_literal(item)}" for key, item in sorted(value.items())) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_literal, value)) + "]"
        case _:
            raise TypeError(f"JSON has no {type(value).__name__}")
