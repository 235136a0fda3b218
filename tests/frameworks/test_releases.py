"""Real releases, judged anew: the boundary that this project's first question is about."""

from __future__ import annotations

from click.testing import CliRunner

from conformance.cli import main


def test_bisect_finds_where_mlx_began_to_keep_the_bias() -> None:
    """MLX 0.31.1 drops r * b_hn on the first step, 0.31.2 does not."""
    words = ["bisect", "mlx:none", "0.31.1..0.31.2", "-k", "gru_hidden_none", "--dtype", "float32", "--examples", "2"]
    result = CliRunner().invoke(main, [*words, "--fresh"])
    assert result.exit_code == 0, result.output
    assert "diverges (drop_rbhn_t0) up to 0.31.1, agrees from 0.31.2; 2 of 2 releases tried" in result.output
    assert "2 releases judged" in result.output
