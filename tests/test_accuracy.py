"""Accuracy: exact states are exact, logarithms lose digits with the length, a negative state has a named outcome."""

from __future__ import annotations

import json
from pathlib import Path

import mpmath
import numpy as np
import pytest
from click.testing import CliRunner

from conformance.accuracy import Measured, Row, Undefined, _case, accuracy, exact_states
from conformance.candidate import parse_spec
from conformance.cells import cell_named
from conformance.cli import main
from conformance.discover import find_adapters
from conformance.errors import SpecError
from conformance.plan import candidates_for


def rows_of(*names: str, times: tuple[int, ...] = (16,)) -> list[Row]:
    chosen = candidates_for(find_adapters(), [parse_spec(name) for name in names])
    return list(accuracy(chosen, "mingru_log", times=times, dtypes=("float32",), progress=lambda _: None))


@pytest.mark.parametrize("cell", ["mingru_log", "minlstm_log"])
def test_exact_states_agree_with_the_reference_to_its_own_rounding(cell: str) -> None:
    """Two evaluations that share no code."""
    case = _case(cell, "float64", 40)
    outputs = np.swapaxes(cell_named(cell).run(case).outputs, 0, 1)
    np.testing.assert_allclose(exact_states(case), outputs, rtol=1e-14)


def test_exact_states_are_rounded_once() -> None:
    """The first state of a unit in 60-digit arithmetic is the same float64."""
    case = _case("mingru_log", "float64", 16)
    p, x = case.parameters, case.x[0, 0]
    with mpmath.workdps(60):

        def linear(gate: str) -> mpmath.mpf:
            terms = (mpmath.mpf(float(w)) * mpmath.mpf(float(v)) for w, v in zip(p[f"W_{gate}"][0], x, strict=True))
            return mpmath.fsum(terms) + mpmath.mpf(float(p[f"b_{gate}"][0]))

        z, k = 1 / (1 + mpmath.exp(-linear("z"))), linear("n")
        n = k + 0.5 if k >= 0 else 1 / (1 + mpmath.exp(-k))
        h = (1 - z) * mpmath.mpf(float(case.h0[0, 0])) + z * n
    assert exact_states(case)[0, 0, 0] == float(h)


def test_shorter_cases_begin_the_longer_ones() -> None:
    """One sequence, so that a column of the table adds steps and changes nothing else."""
    np.testing.assert_array_equal(_case("mingru_log", "float32", 64).x[:, :16], _case("mingru_log", "float32", 16).x)


def test_logarithms_lose_digits_with_the_length_and_a_scan_does_not() -> None:
    """64 times the steps: more than ten times the error with logarithms, less than four times without."""
    found = rows_of("numpy:scan", "numpy:log-scan", times=(16, 1024))
    errors = {
        (row.candidate, row.time): row.outcome.error
        for row in found
        if row.state == "positive" and isinstance(row.outcome, Measured)
    }
    assert len(errors) == 4
    assert errors["numpy:log-scan", 1024] > 10 * errors["numpy:log-scan", 16]
    assert errors["numpy:scan", 1024] < 4 * errors["numpy:scan", 16]
    assert all(row.outcome.share <= 1.0 for row in found if isinstance(row.outcome, Measured))


def test_a_negative_state_is_measured_or_undefined_by_name() -> None:
    """Never NaN that nobody has asked about."""
    below = {row.candidate: row.outcome for row in rows_of("numpy:scan", "numpy:log-scan") if row.state == "negative"}
    assert isinstance(below["numpy:scan"], Measured)
    assert isinstance(below["numpy:log-scan"], Undefined)
    assert "the initial state is negative: its logarithm is undefined" in below["numpy:log-scan"].what


def test_a_candidate_without_the_cell_is_refused() -> None:
    """There is nothing to measure, and the message says so."""
    with pytest.raises(SpecError, match="nothing to measure"):
        rows_of("torch:layer")


def test_the_command_prints_a_table_and_writes_its_rows(tmp_path: Path) -> None:
    """The rows of the file are those of the table, JSON lines, with named outcomes."""
    path = tmp_path / "rows.jsonl"
    words = ["accuracy", "numpy:log-scan", "--time", "16", "--dtype", "float64", "--output", str(path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["state"], row["outcome"]["type"]) for row in rows] == [
        ("positive", "measured"),
        ("negative", "undefined"),
    ]
    assert f"{rows[0]['outcome']['error']:.2f}" in result.output
