"""The gate on real MLX releases, in their managed environments: the regression of issue 3249, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from conformance.cli import main
from conformance.gate import outcome
from conformance.recordfile import read_record


@pytest.mark.parametrize(
    ("before", "after", "code", "kind"),
    [("0.32.4", "0.31.1", 1, "regressed"), ("0.31.1", "0.32.4", 0, "fixed")],
)
def test_a_dropped_term_comes_and_goes(
    before: str, after: str, code: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.31.1 drops r * b_hn on the first step and 0.32.4 does not: named as such, and as nothing else."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    narrow = ["-q", "--examples", "0", "-k", "gru_omitted_is_zeros", "--output", str(tmp_path)]
    result = CliRunner().invoke(main, ["gate", f"mlx=={before}", f"mlx=={after}", *narrow])
    assert result.exit_code == code, result.output
    assert f"{kind}: gru_omitted_is_zeros, drop_rbhn_t0 (mlx:none, float32)" in result.output
    (path,) = tmp_path.glob("*.jsonl")
    found = outcome(read_record(path))
    assert [change.kind for change in found.changes] == [kind]
    assert {line.version for line in (*found.lines_before.values(), *found.lines_after.values())} == {before, after}
