"""Campaigns on real frameworks: what a block asks of them beyond a plain call."""

from __future__ import annotations

import pytest

from conformance.campaign import BLOCK, Campaign, spread
from conformance.candidate import parse_spec
from conformance.discover import find_adapters
from conformance.examine import campaigned
from conformance.host import Host
from conformance.plan import candidates_for, interpreter_of, plan
from conformance.record import BlockLine, Line
from conformance.requirement import REQUIREMENTS
from conformance.settings import Settings
from conformance.verdict import Agrees


@pytest.mark.parametrize("name", ["torch:layer", "flax-linen:rnn", "numpy:float32"])
def test_rows_of_different_lengths_are_answered_in_blocks(name: str) -> None:
    """Both directions of each row at once: all cases of a block in one message, all agreeing, on the path declared."""
    chosen = candidates_for(find_adapters(), [parse_spec(name)])
    (group,) = plan(chosen, [REQUIREMENTS["lstm_bidirectional_lengths"]], ("float32",))
    (candidate,) = chosen
    broken, lines = list[object](), list[Line]()
    settings = Settings(examples=0, seed=1, campaign=Campaign(cases=spread(2 * BLOCK, [group])))
    with Host(
        candidate.adapter,
        candidate.variant,
        interpreter_of(candidate, print),
        incident=broken.append,
        ready=lambda _version, _facts: None,
    ) as host:
        verdict = campaigned(group, host, settings, lines.append)
    assert isinstance(verdict, Agrees)
    assert not broken
    blocks = [line for line in lines if isinstance(line, BlockLine)]
    assert [(line.block, line.agreeing) for line in blocks] == [(0, BLOCK), (1, BLOCK)]
    assert len(lines) == len(blocks), "no case was told by itself"
    assert all(line.path.endswith("+lengths +bidirectional") and 0 < line.share <= 1 for line in blocks)
