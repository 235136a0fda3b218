"""The order in which the lines of a finished record stand, whoever wrote which of them first."""

from __future__ import annotations

from typing import Any

from conformance.record import (
    BlockLine,
    CandidateLine,
    Finding,
    Footer,
    Gate,
    Incident,
    KnownList,
    Line,
    Probe,
    Record,
    Trial,
)

_LAST = 1 << 62


def ordered(record: Record) -> tuple[Line, ...]:
    """All lines but the header: by candidate and requirement as the header has them, trials and blocks as tried.

    Candidates run side by side, and a run may have been interrupted; so the lines of equal runs come in different
    orders. In this one they differ in nothing but times, and in what broke.
    """
    candidates = {name: place for place, name in enumerate(record.header.candidates)}
    requirements = {entry.name: place for place, entry in enumerate(record.header.requirements)}

    def key(line: Line) -> tuple[Any, ...]:
        match line:
            case Gate() | KnownList():
                return (-1,)
            case CandidateLine(name=name):
                return (candidates.get(name, _LAST), name, -1)
            case Trial() | BlockLine() | Probe() | Finding():
                group = (requirements.get(line.requirement, _LAST), line.requirement, line.dtype)
                return (candidates.get(line.candidate, _LAST), line.candidate, 0, *group, *_within(line))
            case Incident(candidate=name):
                return (candidates.get(name, _LAST), name, 1)
            case Footer():
                return (_LAST, "~", 2)
            case _:
                return (_LAST, "", 2)

    return tuple(sorted(record.body, key=key))


def _within(line: Trial | BlockLine | Probe | Finding) -> tuple[int, int]:
    match line:
        case Probe():
            return (0, 0)
        case Trial(phase="campaign" | "shrunk", block=block):
            return (3, _LAST if block is None else block)
        case Trial():
            return (1, 0)
        case BlockLine(block=block):
            return (2, block)
        case Finding():
            return (4, 0)
