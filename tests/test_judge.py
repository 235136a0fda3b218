"""Judgement: planted faults are caught and named in every dtype; correct implementations are not accused."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from conformance.algebra import Rounded
from conformance.case import Case, Initial
from conformance.cells import cell_named
from conformance.compare import Observed, compare
from conformance.errors import CaseError
from conformance.faults import CATALOGUE, catalogue
from conformance.judge import combine, judge, planted, visible_faults
from conformance.requirement import REQUIREMENTS
from conformance.rounding import DTYPES, FORMATS, format_of, round_to
from conformance.strategies import GENERIC, LATTICE, Signature, build
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive

NUMERIC_CELLS = ("gru", "gru_v1")


def generic(cell: str, dtype: str, initial: Initial, *, seed: int = 3, fills: tuple[tuple[str, int], ...] = ()) -> Case:
    """A generic case of shape (4, 12, 6, 8)."""
    signature = Signature(shape=GENERIC, batched=True, seed=seed, scale=0.8, decimals=12, fills=fills)
    return build(signature, cell=cell, dtype=dtype, initial=initial)


def correct(case: Case) -> Observed:
    """What a correct implementation, emulated in the case's dtype, returns."""
    sequence = cell_named(case.cell).run(case, ops=Rounded(format_of(case.dtype)))
    return Observed(outputs=sequence.outputs, final_state=sequence.final_state)


def test_the_catalogue_has_every_hypothesis() -> None:
    """All 39 GRU hypotheses are there."""
    names = (
        "drop_rbhn_t0 drop_bhn drop_bhr drop_bhz drop_bh drop_bir drop_biz drop_bin drop_bi bi_twice bh_twice"
        " z_bias_plus1 r_bias_plus1 swap_rz swap_zn rotate_gates swap_rz_h_only interleaved_gates Wh_transposed"
        " Wx_transposed update_flip reset_before reset_ignored bhn_outside_reset h0_ignored state_not_carried"
        " state_lane0 reversed_time reversed_noflip out_shift skip_t0 hard_sigmoid hard_sigmoid6 gate_tanh no_tanh"
        " relu_new hardtanh_new sigmoid_new no_Wh"
    )
    assert set(CATALOGUE["gru"]) == set(names.split())
    assert len(CATALOGUE["gru"]) == 39


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CATALOGUE["gru"])
def test_every_planted_fault_is_caught_and_named(name: str, dtype: str) -> None:
    """One case with a given and one with an omitted state catch each fault and explain it by its own name only."""
    verdicts = []
    for initial in ("given", "omitted"):
        case = generic("gru", dtype, initial)  # type: ignore[arg-type]
        if name in visible_faults("gru", case.initial):
            verdicts.append(judge(case, planted(case, catalogue("gru")[name]), ()))
    assert verdicts
    assert all(isinstance(verdict, Diverges) for verdict in verdicts)
    found = combine(verdicts, required=frozenset())
    assert isinstance(found, Diverges)
    assert found.faults == (name,)


@pytest.mark.parametrize("name", CATALOGUE["gru_v1"])
def test_every_planted_v1_fault_is_caught_and_named(name: str) -> None:
    """The reset-before form has its own catalogue, with the same teeth."""
    initial: Initial = "given" if name in visible_faults("gru_v1", "given") else "omitted"
    case = generic("gru_v1", "float32", initial)
    verdict = judge(case, planted(case, catalogue("gru_v1")[name]), ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == (name,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("initial", ["omitted", "zeros", "given"])
@pytest.mark.parametrize("cell", NUMERIC_CELLS)
def test_a_correct_implementation_agrees_and_excludes_all_visible_faults(
    cell: str, initial: Initial, dtype: str
) -> None:
    """One generic case rules out every fault that can show."""
    case = generic(cell, dtype, initial)
    verdict = judge(case, correct(case), visible_faults(cell, initial))
    assert isinstance(verdict, Agrees)
    assert verdict.excluded == visible_faults(cell, initial)
    assert verdict.compared == (12 + 1) * 4 * 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.8, 2.5, 20.0])
def test_correct_implementations_stay_inside_the_bound(scale: float, dtype: str) -> None:
    """No false alarm over all lattice shapes and seeds, tiny to saturating weights."""
    worst = 0.0
    for seed in range(8):
        for shape, batched in LATTICE:
            signature = Signature(shape=shape, batched=batched, seed=seed, scale=scale, decimals=12, fills=())
            for cell in NUMERIC_CELLS:
                case = build(signature, cell=cell, dtype=dtype, initial="given")
                worst = max(worst, compare(case, correct(case)).worst)
    assert worst <= 1.0
    assert dtype == "float64" or worst > 0.01, "a bound that is never used to a hundredth is too loose to judge"


def test_long_chaotic_sequences_raise_no_false_alarm() -> None:
    """Teacher forcing does not accumulate: 512 chaotic steps of float32 agree, though free running does not."""
    shape = replace(GENERIC, time=512, batch=2, hidden=33)
    signature = Signature(shape=shape, batched=True, seed=1, scale=6.0, decimals=12, fills=())
    case = build(signature, cell="gru", dtype="float32", initial="given")
    observed = correct(case)
    free = cell_named("gru").run(case).outputs
    assert np.abs(free - observed.outputs).max() > 1e-2, "not chaotic: the test would show nothing"
    assert compare(case, observed).worst <= 1.0


@pytest.mark.parametrize(
    ("dtype", "size"), [("float64", 2e-14), ("float32", 1e-5), ("float16", 2e-2), ("bfloat16", 1e-1)]
)
def test_a_small_dropped_bias_is_found(dtype: str, size: float) -> None:
    """A dropped r * b_hn of a small size diverges on the first step: the bound is not loose."""
    case = generic("gru", dtype, "omitted")
    small = {**case.parameters, "b_hn": np.full_like(case.parameters["b_hn"], size)}
    case = replace(case, parameters={k: round_to(dtype, v) for k, v in small.items()})
    verdict = judge(case, planted(case, catalogue("gru")["drop_rbhn_t0"]), ())
    assert isinstance(verdict, Diverges)
    assert verdict.evidence.first[1] == 0


@pytest.mark.parametrize(
    ("fills", "hidden_fault"),
    [((("b_h", 0),), "drop_rbhn_t0"), ((("b_h", 0),), "drop_bhn"), ((("W_h", 0),), "no_Wh")],
)
def test_a_case_that_hides_a_fault_does_not_exclude_it(fills: tuple[tuple[str, int], ...], hidden_fault: str) -> None:
    """Zero biases and zero matrices hide faults: agreement then does not claim them."""
    case = generic("gru", "float32", "omitted", fills=fills)
    verdict = judge(case, correct(case), visible_faults("gru", "omitted"))
    assert isinstance(verdict, Agrees)
    assert hidden_fault not in verdict.excluded


def test_a_case_that_can_tell_nothing_is_inconclusive() -> None:
    """All zeros: every hypothesis predicts zeros, except those that add a constant."""
    fills = tuple((name, 0) for name in ("W_x", "W_h", "b_x", "b_h", "x", "h0"))
    case = generic("gru", "float32", "omitted", fills=fills)
    verdict = judge(case, correct(case), {"drop_rbhn_t0", "update_flip"})
    assert isinstance(verdict, Inconclusive)
    assert verdict.missing == {"drop_rbhn_t0", "update_flip"}


def test_agreement_without_the_aimed_fault_is_inconclusive() -> None:
    """Twenty agreeing cases do not pass a requirement whose own fault they cannot see."""
    case = generic("gru", "float32", "omitted", fills=(("b_h", 0),))
    visible = visible_faults("gru", "omitted")
    verdict = combine([judge(case, correct(case), visible)] * 20, required=visible)
    assert isinstance(verdict, Inconclusive)
    assert "drop_rbhn_t0" in verdict.missing


def test_no_trials_is_an_error() -> None:
    """A requirement without a single trial is never passed."""
    with pytest.raises(CaseError, match="nothing was compared"):
        combine([], required=frozenset())


def test_divergence_outweighs_breakage_and_breakage_agreement() -> None:
    """One diverging case is enough; one broken case spoils any number of agreeing ones."""
    agrees = Agrees(excluded=frozenset({"a"}), share=0.1, compared=1)
    broken = Broken(kind="crash", message="gone")
    case = generic("gru", "float32", "given")
    diverges = judge(case, planted(case, catalogue("gru")["update_flip"]), ())
    empty: frozenset[str] = frozenset()
    assert combine([agrees, broken, diverges], required=empty) == diverges
    assert combine([agrees, broken], required=empty) == broken
    assert combine([agrees], required=empty) == agrees


def test_an_untrusted_path_spoils_agreement() -> None:
    """An observation of another path than the requested one never passes."""
    agrees = Agrees(excluded=frozenset(), share=0.1, compared=1)
    other = Inconclusive(why="another path ran")
    assert combine([agrees, other], required=frozenset()) == other


def test_the_named_fault_explains_every_divergence() -> None:
    """Different explanations of different cases leave no common name."""
    case = generic("gru", "float32", "given")
    one = judge(case, planted(case, catalogue("gru")["update_flip"]), ())
    other = judge(case, planted(case, catalogue("gru")["swap_rz"]), ())
    both = combine([one, other], required=frozenset())
    assert isinstance(both, Diverges)
    assert both.faults == ()


def test_an_unknown_fault_is_localised_but_not_named() -> None:
    """A defect outside the catalogue diverges with no name, at its first step."""
    case = generic("gru", "float32", "given")
    right = correct(case)
    outputs = right.outputs.copy()
    outputs[2, 5:, 3] *= 1.01
    verdict = judge(case, Observed(outputs=outputs, final_state=outputs[:, -1]), ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == ()
    assert verdict.evidence.first == (2, 5, 3)
    assert verdict.evidence.observed == outputs[2, 5, 3]
    assert verdict.evidence.intermediates["h"] == pytest.approx(verdict.evidence.expected)


def test_a_wrong_final_state_diverges() -> None:
    """Right outputs do not excuse a wrong final state."""
    case = generic("gru", "float32", "given")
    right = correct(case)
    verdict = judge(case, Observed(outputs=right.outputs, final_state=right.final_state[::-1]), ())
    assert isinstance(verdict, Diverges)
    assert verdict.evidence.output == "final_state"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_diverges(value: float) -> None:
    """NaN and infinity are outside every bound, and nothing is blamed for them."""
    case = generic("gru", "float32", "given")
    right = correct(case)
    outputs = right.outputs.copy()
    outputs[1, 4, 2] = value
    verdict = judge(case, Observed(outputs=outputs, final_state=right.final_state), ())
    assert isinstance(verdict, Diverges)
    assert (verdict.evidence.first, verdict.evidence.finite, verdict.faults) == ((1, 4, 2), False, ())
    assert verdict.evidence.observed is None


@pytest.mark.parametrize("cut", [np.s_[:, :0], np.s_[:2], np.s_[..., :1]])
def test_missing_outputs_are_an_error(cut: tuple[slice, ...]) -> None:
    """Nothing is broadcast and nothing is cut: another shape than the case's is refused."""
    case = generic("gru", "float32", "given")
    right = correct(case)
    with pytest.raises(CaseError, match="shape"):
        compare(case, Observed(outputs=right.outputs[cut], final_state=right.final_state))


def test_the_evidence_holds_the_per_step_account() -> None:
    """Every step has its free-running difference, its residual, and the bound at its worst element."""
    case = generic("gru", "float32", "omitted")
    observed = planted(case, catalogue("gru")["drop_rbhn_t0"])
    verdict = judge(case, observed, ())
    assert isinstance(verdict, Diverges)
    truth = cell_named("gru").run(case).outputs
    differences = np.abs(observed.outputs - truth).max(axis=(0, 2))
    assert [row.difference for row in verdict.evidence.steps] == pytest.approx(list(differences))
    shares = [row.share for row in verdict.evidence.steps]
    assert shares[0] is not None
    assert shares[0] > 1e3
    assert all(share is not None and share <= 1.0 for share in shares[1:]), "later steps follow their own state"


def test_formats_are_what_numpy_says() -> None:
    """Unit roundoffs follow from NumPy's own description of the formats."""
    for dtype, kind in (("float64", np.float64), ("float32", np.float32), ("float16", np.float16)):
        assert FORMATS[dtype].storage == np.finfo(kind).eps / 2  # type: ignore[index]
        assert FORMATS[dtype].largest == np.finfo(kind).max  # type: ignore[index]


def test_a_huge_observation_diverges_with_numbers_that_can_be_written() -> None:
    """A state so large that even the prediction from it overflows is a divergence, and its evidence is JSON."""
    case = generic("gru", "float64", "given")
    right = correct(case)
    outputs = right.outputs.copy()
    outputs[0, 3] = 1.7e308
    verdict = judge(case, Observed(outputs=outputs, final_state=right.final_state), ())
    assert isinstance(verdict, Diverges)
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Diverges) == verdict


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_requirement_can_see_what_it_exists_for(name: str) -> None:
    """The faults that a requirement aims at are visible with its spelling of the initial state."""
    requirement = REQUIREMENTS[name]
    assert requirement.aims
    assert set(requirement.aims) <= visible_faults(requirement.cell, requirement.initial)


def test_an_infinite_bound_is_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bound overflows everything lies inside it: that shows nothing, and spoils the group."""
    case = generic("gru", "float32", "given")
    right = correct(case)
    true = compare(case, right)
    vast = replace(true, bound=np.where(true.bound > 0, np.inf, true.bound), share=np.zeros_like(true.share))
    monkeypatch.setattr("conformance.judge.compare", lambda *_: vast)
    verdict = judge(case, right, {"update_flip"})
    assert isinstance(verdict, Inconclusive)
    agrees = Agrees(excluded=frozenset(), share=0.1, compared=1)
    assert combine([agrees, verdict], required=frozenset()) == verdict
