"""The suite's own teeth: everything planted is caught and named, and the check of that can itself fail."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

import conformance.adequacy as module
from conformance.adequacy import ORACLES, Adequacy, adequacy, caught_by_oracles
from conformance.behaviours import correct
from conformance.case import Case
from conformance.compare import Observed
from conformance.faults import CATALOGUE
from conformance.gradient_faults import gradient_catalogue
from conformance.judge import TrialVerdict, judge, visible_faults
from conformance.requirement import REFERENCE, REQUIREMENTS
from conformance.verdict import Agrees, Diverges

# CI runs `rnn-conformance faults` for all cells in float32; here something of the other dtypes, in small cells.
# test_judge plants the faults of a GRU in all dtypes, test_gradient the gradient faults of all cells in half precision.
SAMPLE = [("elman", "float64"), ("minlstm", "float16"), ("elman_relu", "bfloat16")]


@pytest.fixture(scope="module")
def float32() -> Adequacy:
    """The matrix of the cell that is planted fastest, in the dtype in which relations are asked."""
    return adequacy("elman", "float32", complete=False)


@pytest.mark.parametrize(("cell", "dtype"), SAMPLE)
def test_everything_is_caught_and_named(cell: str, dtype: str) -> None:
    """What is planted is caught, what has a hypothesis is named by it alone, and nothing correct is rejected."""
    _adequate(adequacy(cell, dtype, complete=False))


def test_everything_there_is_is_planted(float32: Adequacy) -> None:
    """Faults, gradient faults and the behaviours that requirements were written for."""
    _adequate(float32)
    assert set(float32.kinds) >= set(CATALOGUE["elman"]) | set(gradient_catalogue("elman"))
    assert set(float32.kinds.values()) == {"fault", "gradient fault", "behaviour"}


def _adequate(result: Adequacy) -> None:
    assert result.problems() == ()
    shown = {fault for fault, row in result.catches.items() if set(row.values()) != {"hidden"}}
    assert result.caught == shown
    assert result.named >= {f for f in shown & result.nameable if f not in ("no_Wh", "state_not_carried")}
    assert result.conforming >= 30
    assert result.false_alarms["derived bound"] == 0


def test_the_matrix_covers_every_requirement_of_the_cell(float32: Adequacy) -> None:
    """No requirement is left out, and what is hidden from agreement with the reference is what cannot show."""
    names = {name for name, requirement in REQUIREMENTS.items() if requirement.cell == "elman"}
    for fault, row in float32.catches.items():
        assert set(row) == names
        for name, catch in row.items():
            requirement = REQUIREMENTS[name]
            if requirement.relation == REFERENCE and float32.kinds[fault] == "fault":
                seen = visible_faults("elman", requirement.initial, features=requirement.features, dtype="float32")
                assert (catch == "hidden") == (fault not in seen)


def test_every_requirement_catches_what_it_was_written_for(float32: Adequacy) -> None:
    """Each aim that can show is caught by its own requirement."""
    for name, aims in float32.aims.items():
        assert aims
        assert {float32.catches[aim][name] for aim in aims if aim in float32.catches} <= {"named", "caught", "hidden"}


def test_a_fault_that_nothing_catches_is_a_problem(float32: Adequacy) -> None:
    """The check fails when a fault slips through every requirement."""
    blind = {**float32.catches, "new_fault": dict.fromkeys(float32.catches["no_Wh"], "missed")}
    assert replace(float32, catches=blind).problems() == ("no requirement catches new_fault",)


def test_a_requirement_that_catches_nothing_is_a_problem(float32: Adequacy) -> None:
    """The check fails when a requirement is toothless, and when it misses what it was written for."""
    toothless = {
        fault: {**row, "elman_new": "hidden" if set(row.values()) == {"hidden"} else "missed"}
        for fault, row in float32.catches.items()
    }
    changed = replace(float32, catches=toothless, aims={**float32.aims, "elman_new": ("no_Wh",)})
    assert changed.problems() == (
        "elman_new catches nothing",
        "elman_new misses no_Wh, for which it was written",
    )


def test_a_wrong_name_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check fails when a planted fault is explained by another one only."""

    def confused(case: Case, observed: Observed, against: frozenset[str]) -> TrialVerdict:
        verdict = judge(case, observed, against)
        if isinstance(verdict, Diverges) and verdict.faults == ("swap_zn",):
            return Diverges(faults=("update_flip",), evidence=verdict.evidence)
        return verdict

    monkeypatch.setattr(module, "judge", confused)
    problems = adequacy("mingru", "float16", complete=False).problems()
    assert problems
    assert all(problem.endswith("gives swap_zn another name") for problem in problems)


def test_a_blind_judge_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With comparisons that always agree, nothing is caught, and everything is a problem."""
    blind = Agrees(excluded=frozenset(), share=0.0, compared=1)
    monkeypatch.setattr(module, "judge", lambda *_: blind)
    monkeypatch.setattr(module, "judge_gradients", lambda *_: blind)
    monkeypatch.setattr(module, "judge_relation", lambda *_: (blind, None))
    result = adequacy("elman", "float16", complete=False)
    assert result.caught == frozenset()
    assert len(result.problems()) > len(CATALOGUE["elman"]) / 2


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
def test_replicas_accept_a_correct_implementation_in_float32(oracle: module.Oracle) -> None:
    """A replica is fair: it passes what is right, and its source is named."""
    assert oracle.accepts(correct, "gru", "float32")
    assert oracle.source


def test_what_replicas_miss_is_what_their_design_hides() -> None:
    """Shapes catch nothing; None against zeros sees the first step only; constant weights hide gate order."""
    caught = caught_by_oracles("gru", "float32")
    assert caught["shapes only"] == frozenset()
    # The states of the other ones overflow, and what is no number equals nothing.
    assert caught["None == zeros"] - {"gate_relu", "gate_identity", "z_relu", "z_identity"} == {"drop_rbhn_t0"}
    assert not {"swap_rz", "Wh_transposed", "interleaved_gates"} & caught["constant weights"]


def test_fixed_tolerances_raise_false_alarms_where_the_derived_bound_does_not(float32: Adequacy) -> None:
    """Chaotic and saturating but conforming runs are rejected by every fixed tolerance."""
    assert all(alarms > 0 for name, alarms in float32.false_alarms.items() if name != "derived bound")
