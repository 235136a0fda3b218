"""Records in a notebook: tables with pandas, rows without it, and a light import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_report import AGREES, MLX, NONE, Draft

import conformance
from conformance.errors import ConformanceError, RecordError
from conformance.record import Record
from conformance.recordfile import RecordWriter
from conformance.report.rows import FindingRow, TrialRow
from conformance.report.table import columns


def saved(folder: Path, record: Record) -> Path:
    """The record as a file."""
    with RecordWriter(folder / "r.jsonl", record.header) as writer:
        for line in (*record.candidates, *record.trials, *record.findings):
            writer.write(line)
        if record.footer is not None:
            writer.write(record.footer)
    return folder / "r.jsonl"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record of a divergence, an agreement, and a candidate without a finding."""
    draft = Draft()
    draft.judged(draft.candidate(MLX, mlx="0.31.1"), NONE, fault="drop_rbhn_t0")
    draft.found(draft.candidate("torch:layer", torch="2.13.0"), AGREES)
    draft.candidate("gone:x", came_up=False)
    return saved(tmp_path, draft.record())


def test_findings_and_trials_are_data_frames(path: Path) -> None:
    """With pandas: typed columns, a row for each, and numbers as they are in the record."""
    loaded = conformance.load_record(path)
    assert isinstance(loaded.findings, pd.DataFrame)
    assert list(loaded.findings.columns) == list(columns(FindingRow))
    assert list(loaded.trials.columns) == list(columns(TrialRow))
    wrong = loaded.findings.query("outcome == 'diverges'")
    assert list(wrong["candidate"]) == [MLX]
    assert wrong["faults"].iloc[0] == ("drop_rbhn_t0",)
    verdict = loaded.record.findings[0].verdict
    assert wrong["largest_difference"].iloc[0] == getattr(verdict, "evidence").largest_difference  # noqa: B009  a divergence
    assert wrong["first_step"].dtype == "Int64"
    assert list(loaded.findings.groupby("standing").size().items()) == [("doubtful", 1), ("fails", 1), ("fine", 1)]
    assert len(loaded.trials) == 2
    assert (loaded.exit_code, loaded.problem) == (1, "")
    assert loaded.headline.startswith("1 of 3 candidates diverges")


def test_without_pandas_there_are_typed_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same fields; and a frame that is asked for says what to install."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    loaded = conformance.load_record(str(path))
    assert [type(row) for row in loaded.findings] == [FindingRow] * 3
    assert [type(row) for row in loaded.trials] == [TrialRow] * 2
    assert loaded.findings[0].faults == ("drop_rbhn_t0",)
    with pytest.raises(ConformanceError, match="DataFrames are made with pandas, which is not installed"):
        conformance.load_record(path, frames=True)


def test_rows_can_be_asked_for(path: Path) -> None:
    assert isinstance(conformance.load_record(path, frames=False).findings, tuple)


def test_an_empty_table_has_its_columns(tmp_path: Path) -> None:
    """Nothing tried is a table without rows, not another kind of table."""
    draft = Draft()
    draft.found(draft.candidate("torch:layer"), AGREES)
    loaded = conformance.load_record(saved(tmp_path, draft.record()))
    assert len(loaded.trials) == 0
    assert loaded.trials["share"].dtype == "Float64"


def test_a_partial_record_says_so(tmp_path: Path) -> None:
    draft = Draft()
    draft.found(draft.candidate("torch:layer"), AGREES)
    loaded = conformance.load_record(saved(tmp_path, draft.record(problem="cut")))
    assert loaded.problem.startswith("incomplete")
    assert list(loaded.findings["whole"]) == [False]
    assert loaded.exit_code == 3


def test_what_is_no_record_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\x1f\x8b\x08binary")
    with pytest.raises(RecordError, match="not a record"):
        conformance.load_record(tmp_path / "x.jsonl")


def test_importing_the_package_is_light() -> None:
    """Workers import it in every framework's interpreter: nothing but the standard library comes with it."""
    code = (
        "import sys, conformance; heavy = {'msgspec', 'numpy', 'rich', 'pandas', 'pyarrow', 'jinja2', 'click'}; "
        "print(sorted(heavy & set(sys.modules)), 'load_record' in conformance.__all__); "
        "conformance.load_record; print('msgspec' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[] True", "True False"]


def test_nothing_else_is_made_up() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_records'"):
        getattr(conformance, "load_records")  # noqa: B009  the type checker knows that there is none
