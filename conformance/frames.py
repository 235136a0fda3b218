"""Records in a notebook: findings and trials as tables."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from conformance.record import Record
from conformance.recordfile import read_record
from conformance.report.answer import answer
from conformance.report.rows import FindingRow, Row, TrialRow, finding_rows, trial_rows
from conformance.report.table import frame


class Loaded(Struct, frozen=True, kw_only=True):
    """A record and its tables.

    findings, trials: pandas DataFrames, or tuples of `FindingRow` and `TrialRow`, whose fields are the columns.
    headline, exit_code: the answer; problem: why the record is incomplete, "" when it is whole.
    """

    record: Record
    findings: Any
    trials: Any

    @property
    def headline(self) -> str:
        """The answer in one sentence."""
        return answer(self.record).sentence

    @property
    def exit_code(self) -> int:
        """0 nothing diverges, 1 something does, 3 it could not be told."""
        return answer(self.record).exit_code

    @property
    def problem(self) -> str:
        """Why the record is incomplete, "" when it is whole."""
        return self.record.problem


def load_record(path: str | Path, *, frames: bool | None = None) -> Loaded:
    """Read a record for a notebook; nothing in it is executed.

    frames: whether tables are pandas DataFrames; by default they are where pandas is installed.

    With pandas, what diverges and why::

        loaded = conformance.load_record("reports/run-20261121-141029.jsonl")
        loaded.findings.query("outcome == 'diverges'")[["candidate", "requirement", "dtype", "faults"]]

    Raises
    ------
    RecordError: there is no such file, or it is no record.
    ConformanceError: frames are asked for, and pandas is not installed.
    """
    record = read_record(Path(path))
    wanted = find_spec("pandas") is not None if frames is None else frames

    def table(rows: tuple[Row, ...], kind: type[Row]) -> Any:
        return frame(rows, kind) if wanted else rows

    return Loaded(
        record=record,
        findings=table(finding_rows(record), FindingRow),
        trials=table(trial_rows(record), TrialRow),
    )
