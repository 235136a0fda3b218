"""The suite's own teeth: every fault is caught and named, and the check of that can itself fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

import conformance.adequacy as module
from conformance.adequacy import ORACLES, Adequacy, adequacy
from conformance.case import Case
from conformance.compare import Observed
from conformance.faults import CATALOGUE
from conformance.judge import TrialVerdict, judge, visible_faults
from conformance.requirement import REQUIREMENTS
from conformance.rounding import DTYPES
from conformance.verdict import Agrees, Diverges


@pytest.fixture(scope="module")
def float32() -> Adequacy:
    """The matrix of the GRU in float32."""
    return adequacy("gru", "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CATALOGUE)
def test_every_fault_is_caught_and_named(cell: str, dtype: str) -> None:
    """All of the catalogue, in every dtype: caught, named uniquely, never by another's name, no false alarm."""
    result = adequacy(cell, dtype)
    assert result.problems() == ()
    assert result.caught == result.named == frozenset(CATALOGUE[cell])
    assert result.conforming >= 30
    assert result.false_alarms["derived bound"] == 0


def test_the_matrix_covers_every_requirement_of_the_cell(float32: Adequacy) -> None:
    """No requirement is left out, and what is hidden is what cannot show."""
    names = {name for name, requirement in REQUIREMENTS.items() if requirement.cell == "gru"}
    for fault, row in float32.catches.items():
        assert set(row) == names
        for name, catch in row.items():
            assert (catch == "hidden") == (fault not in visible_faults("gru", REQUIREMENTS[name].initial))


def test_a_fault_that_nothing_catches_is_a_problem(float32: Adequacy) -> None:
    """The check fails when a fault slips through every requirement."""
    blind = {**float32.catches, "new_fault": dict.fromkeys(float32.catches["swap_rz"], "missed")}
    assert replace(float32, catches=blind).problems() == ("no requirement catches new_fault",)


def test_a_requirement_that_catches_nothing_is_a_problem(float32: Adequacy) -> None:
    """The check fails when a requirement is toothless."""
    toothless = {fault: {**row, "gru_new": "missed"} for fault, row in float32.catches.items()}
    assert replace(float32, catches=toothless).problems() == ("gru_new catches nothing",)


def test_a_wrong_name_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check fails when a planted fault is explained by another one only."""

    def confused(case: Case, observed: Observed, against: frozenset[str]) -> TrialVerdict:
        verdict = judge(case, observed, against)
        if isinstance(verdict, Diverges) and verdict.faults == ("swap_rz",):
            return Diverges(faults=("swap_zn",), evidence=verdict.evidence)
        return verdict

    monkeypatch.setattr(module, "judge", confused)
    problems = adequacy("gru", "float32").problems()
    assert problems == tuple(f"{name} gives swap_rz another name" for name in REQUIREMENTS if "v1" not in name)


def test_a_blind_judge_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a comparison that always agrees, nothing is caught, and everything is a problem."""
    monkeypatch.setattr(module, "judge", lambda *_: Agrees(excluded=frozenset(), share=0.0, compared=1))
    result = adequacy("gru", "float32")
    assert result.caught == frozenset()
    assert len(result.problems()) == len(CATALOGUE["gru"]) + 3


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
def test_replicas_accept_a_correct_implementation_in_float32(oracle: module.Oracle) -> None:
    """A replica is fair: it passes what is right, and its source is named."""
    assert oracle.accepts(module._correct, "gru", "float32")
    assert oracle.source


def test_what_replicas_miss_is_what_their_design_hides(float32: Adequacy) -> None:
    """Shapes catch nothing; None against zeros sees the first step only; constant weights hide gate order."""
    assert float32.oracles["shapes only"] == frozenset()
    assert float32.oracles["None == zeros"] == {"drop_rbhn_t0"}
    assert not {"swap_rz", "Wh_transposed", "interleaved_gates"} & float32.oracles["constant weights"]


def test_fixed_tolerances_raise_false_alarms_where_the_derived_bound_does_not(float32: Adequacy) -> None:
    """Chaotic and saturating but conforming runs are rejected by every fixed tolerance."""
    assert all(alarms > 0 for name, alarms in float32.false_alarms.items() if name != "derived bound")
