"""What is said about a list of known divergences: whether it holds, and where it does not."""

from __future__ import annotations

from conformance.known import Problem, check_known
from conformance.record import Record
from conformance.report.wording import count, label


def problem_text(problem: Problem) -> str:
    """A problem with the list of known divergences."""
    where = f"{label(problem.candidate)}, {label(problem.requirement)}, {label(problem.dtype)}"
    return f"{problem.kind.upper()}: {where}: {label(problem.message)}"


def known_sentence(record: Record) -> str:
    """Whether what shows is what is listed."""
    source = "" if record.known is None else label(record.known.source)
    problems = check_known(record)
    if problems:
        return f"The list of known divergences ({source}) does not hold in {count(len(problems), 'place')}:"
    return f"Everything that diverges is listed as known ({source}), and everything listed shows as listed."
