"""The answers of all releases in a range, beside each other: a matrix of questions and releases."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from conformance.bisect import History, State, search


class Mistake(Struct, frozen=True, kw_only=True):
    """What a fault is: its sentence, the right equation, and the wrong one."""

    statement: str
    right: str
    equation: str


class Row(Struct, frozen=True, kw_only=True):
    """One question, and its state in every release of the matrix."""

    variant: str
    requirement: str
    dtype: str
    states: Mapping[str, State]

    def history(self, versions: tuple[str, ...]) -> History:
        """The same as a history in which everything was asked."""
        return search(versions, self.states.__getitem__, scan=True)


class Matrix(Struct, frozen=True, kw_only=True):
    """What was asked of which releases.

    candidate: as it was named; distribution: whose releases these are. versions: oldest first.
    left_out: releases that were named and are not among them, and why.
    origin: how to make it again, and what its answers depend on, by name.
    framework: its own name, "" where it is not told. mistakes: what a fault is, by requirement and fault.
    """

    candidate: str
    distribution: str
    versions: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out: Mapping[str, str]
    origin: Mapping[str, str]
    framework: str = ""
    mistakes: Mapping[tuple[str, str], Mistake] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """Whether any release gave an answer to anything."""
        return any(state.kind == "answer" for row in self.rows for state in row.states.values())
