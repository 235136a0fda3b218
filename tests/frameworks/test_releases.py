"""Real releases, judged anew: the boundary that this project's first question is about."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from conformance.cli import main
from conformance.recordfile import read_record
from conformance.verdict import Agrees, core


def test_bisect_finds_where_mlx_began_to_keep_the_bias() -> None:
    """MLX 0.31.1 drops r * b_hn on the first step, 0.31.2 does not."""
    words = ["bisect", "mlx:none", "0.31.1..0.31.2", "-k", "gru_hidden_none", "--dtype", "float32", "--examples", "2"]
    result = CliRunner().invoke(main, [*words, "--fresh"])
    assert result.exit_code == 0, result.output
    assert "diverges (drop_rbhn_t0) up to 0.31.1, agrees from 0.31.2; 2 of 2 releases tried" in result.output
    assert "2 releases judged" in result.output


@pytest.mark.parametrize("requirement", ["gru_hidden_given", "gru_gradient"])
def test_an_older_flax_is_judged_as_it_is_and_not_as_the_adapter_wants_it(requirement: str, tmp_path: Path) -> None:
    """In 0.10.6 a cell keeps its generator of random keys; JAX tells of methods without classes, of no transpositions.

    Its scan is as right as today's, by the declared path; an adapter that only knows today's release would call it
    broken, and the upgrade a fix.
    """
    words = ["flax-nnx:lax-scan==0.10.6", "-k", requirement, "--dtype", "float32", "--examples", "0", "-q"]
    result = CliRunner().invoke(main, ["run", *words, "--forget", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*.jsonl")
    (finding,) = read_record(path).findings
    agrees = core(finding.verdict)
    assert isinstance(agrees, Agrees)
    assert agrees.compared > 0
