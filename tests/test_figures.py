"""The figures are measured: a judge that sees nothing gets other figures."""

from __future__ import annotations

import pytest

import conformance.figures as module
from conformance.figures import per_case
from conformance.verdict import Agrees


def test_planted_faults_are_counted() -> None:
    """Every fault that can show is planted and caught, none is named wrongly."""
    seen = per_case("elman", "float16", cases=1)
    assert seen.planted == seen.caught >= 20
    assert seen.named == seen.planted
    assert seen.wrong == 0


def test_a_blind_judge_catches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts follow the verdicts."""
    monkeypatch.setattr(module, "judge", lambda *_: Agrees(excluded=frozenset(), share=0.0, compared=1))
    seen = per_case("elman", "float16", cases=1)
    assert (seen.caught, seen.named, seen.wrong) == (0, 0, 0)
