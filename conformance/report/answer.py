"""A record's answer, whatever kind of record it is: a run's, a benchmark's or a gate's."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from conformance.gate import outcome
from conformance.record import Record
from conformance.report.gate import paragraph
from conformance.report.outcome import exit_code, headline

Word = Literal["passes", "fails", "could not tell"]


class Answer(Struct, frozen=True, kw_only=True):
    """sentence: the answer in words; exit_code: 0, 1 or 3, as the command that wrote the record ends."""

    sentence: str
    exit_code: int

    @property
    def word(self) -> Word:
        """The answer in a word."""
        return "passes" if self.exit_code == 0 else "fails" if self.exit_code == 1 else "could not tell"


def answer(record: Record) -> Answer:
    """The answer of a record."""
    if record.gate is None:
        return Answer(sentence=headline(record), exit_code=exit_code(record))
    gated = outcome(record)
    return Answer(sentence=paragraph(record, gated), exit_code=gated.exit_code)
