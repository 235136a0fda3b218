"""The floor of benchmarks on the real frameworks: it computes what it must, or it is the floor of something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.campaign import Campaign, block_at
from conformance.candidate import parse_spec
from conformance.discover import find_adapters
from conformance.floor import Floor
from conformance.inputs import lattice_of
from conformance.plan import candidates_for, interpreter_of, plan
from conformance.requirement import REQUIREMENTS

CASES = 8 * 64


@pytest.mark.parametrize("asked", ["gru_hidden_none", "gru_hidden_given"])
@pytest.mark.parametrize("name", ["torch:layer", "mlx:none", "flax-linen:rnn", "flax-nnx:rnn"])
def test_every_framework_alone_gives_the_right_answers(name: str, asked: str, tmp_path: Path) -> None:
    """Single sequences and batches, a state given and none; every output is inside its bound."""
    (candidate,) = candidates_for(find_adapters(), [parse_spec(name)])
    (group,) = plan([candidate], [REQUIREMENTS[asked]], ("float32",))
    campaign = Campaign(cases={(asked, "float32"): CASES})
    lattice = lattice_of(group.requirement, group.dtype)
    blocks = [block_at(3, group, index, count, lattice) for index, count in campaign.blocks(group)]
    assert {one.first.batched for one in blocks} == {True, False}
    with Floor(interpreter_of(candidate, print), tmp_path) as floor:
        turn = floor.turn([(group, blocks)])
        assert not isinstance(turn, str), turn
        assert turn > (0.0, 0.0)
        (other,) = plan(
            candidates_for(find_adapters(), [parse_spec("numpy:float32")]), [group.requirement], ("float32",)
        )
        assert "floor.py knows torch:layer" in str(floor.turn([(other, blocks)]))
