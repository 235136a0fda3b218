"""Judgement: planted faults are caught and named in every dtype; correct implementations are not accused."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from conformance.behaviours import correct
from conformance.case import Case, Initial, Padding, Shape
from conformance.cells import CELLS, cell_named
from conformance.cells.precision import PRECISION
from conformance.compare import Observed, compare
from conformance.errors import CaseError
from conformance.faults import CATALOGUE, catalogue
from conformance.judge import combine, deviation, judge, planted, share_map, sharpest, visible_faults
from conformance.rounding import DTYPES, FORMATS, format_of, round_to
from conformance.signature import GENERIC, LATTICE, RELATION, Signature, build
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive

FORMS = ("gru", "gru_v1")
SITUATIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("lengths",),
    ("lengths", "empty_rows"),
    ("bidirectional", "lengths"),
    ("lengths", "reverse"),
    ("layers",),
)
"""Feature sets of which every fault shows in at least one, and apart from the others in the first such one."""


def generic(
    cell: str,
    dtype: str,
    initial: Initial,
    *,
    seed: int = 3,
    fills: tuple[tuple[str, int], ...] = (),
    features: tuple[str, ...] = (),
    padding: Padding = "zeros",
) -> Case:
    """A generic case of shape (4, 12, 6, 8)."""
    signature = Signature(shape=GENERIC, batched=True, seed=seed, scale=0.8, decimals=12, fills=fills)
    case = build(signature, cell=cell, dtype=dtype, initial=initial, features=features, padding=padding)
    return case if case.lengths is None else replace(case, lengths=(12, 5, 1, 0 if "empty_rows" in features else 3))


def situation(cell: str, name: str, dtype: str) -> Case:
    """The first case in which a fault can show, the plainest first; a given state before an omitted one."""
    for features in SITUATIONS:
        for initial in ("given", "omitted"):
            if name in visible_faults(cell, initial, features=features, dtype=dtype):  # type: ignore[arg-type]
                return generic(cell, dtype, initial, features=features)  # type: ignore[arg-type]
    raise AssertionError(f"{name} shows nowhere")


def applies(cell: str, name: str, dtype: str) -> bool:
    """Whether a fault is one that candidates of this dtype can have."""
    arithmetic = catalogue(cell)[name].arithmetic
    return arithmetic is None or arithmetic(format_of(dtype)) is not None


def test_the_catalogue_has_every_hypothesis() -> None:
    """All 80 GRU hypotheses are there: of weights and equations, of time and state, of precision."""
    equations = {
        "drop_rbhn_t0", "drop_bhn", "drop_bhr", "drop_bhz", "drop_bh", "drop_bir", "drop_biz", "drop_bin", "drop_bi",
        "bi_twice", "bh_twice", "z_bias_plus1", "r_bias_plus1", "swap_rz", "swap_zn", "rotate_gates", "swap_rz_h_only",
        "interleaved_gates", "Wh_transposed", "Wx_transposed", "update_flip", "reset_before", "reset_ignored",
        "bhn_outside_reset", "hard_sigmoid", "hard_sigmoid6", "gate_tanh", "no_tanh", "relu_new", "hardtanh_new",
        "sigmoid_new", "no_Wh", "candidate_without_state", "activations_swapped", "update_without_complement",
        "update_forgets", "gate_relu", "gate_identity",
    }  # fmt: skip
    activations = ("tanh", "relu", "identity", "hard_sigmoid", "hard_sigmoid6")
    equations |= {f"{gate}_{activation}" for gate in "rz" for activation in activations}
    arrays = ("matrix", "parameters")
    equations |= {f"gates_share_{what}{of}" for what in arrays for of in ("", "_of_z", "_of_n")}
    equations |= {f"rz_share_{what}{of}" for what in arrays for of in ("", "_of_z")}
    sequencing = {
        "h0_ignored", "state_not_carried", "state_lane0", "reversed_time", "reversed_noflip", "out_shift", "skip_t0",
        "lengths_ignored", "final_from_padding", "last_step_lost", "length_zero_wraps", "padding_reversed",
        "backward_forward", "directions_swapped", "directions_share_weights", "directions_share_state",
        "layers_share_state", "x_transposed",
    }  # fmt: skip
    assert set(CATALOGUE["gru"]) == {*equations, *sequencing, *PRECISION}
    assert len(CATALOGUE["gru"]) == 80
    for cell in CELLS:
        assert {*sequencing, *PRECISION} - {"state_lane0"} <= CATALOGUE[cell].keys()


def planted_in(dtype: str) -> list[str]:
    """All faults of a GRU in float32, and in the coarsest dtype; else those of precision, and some of the others."""
    names = [*CATALOGUE["gru"]]
    return names if dtype in ("float32", "bfloat16") else [n for n in names if n in PRECISION or n in names[::4]]


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for dtype in DTYPES for name in planted_in(dtype)])
def test_every_planted_fault_is_caught_and_named(name: str, dtype: str) -> None:
    """Each fault is caught where it can show, and explained by its own name only."""
    if not applies("gru", name, dtype):
        assert all(name not in visible_faults("gru", "given", features=f, dtype=dtype) for f in SITUATIONS)
        return
    case = situation("gru", name, dtype)
    verdict = judge(case, planted(case, catalogue("gru")[name]), ())
    assert isinstance(verdict, Diverges)
    found = combine([verdict], required=frozenset())
    assert isinstance(found, Diverges)
    assert found.faults == (name,)


def of_shape(shape: Shape) -> Case:
    """A generic GRU case of this shape."""
    signature = Signature(shape=shape, batched=True, seed=5, scale=0.8, decimals=12, fills=())
    return build(signature, cell="gru", dtype="float32", initial="given")


@pytest.mark.parametrize("shape", [Shape(batch=1, time=2, features=1, hidden=2), RELATION], ids=str)
def test_a_deviation_is_what_the_whole_judgement_would_tell(shape: Shape) -> None:
    """Of many faults, against several names: no deviation exactly where `judge` tells the same name."""
    case = of_shape(shape)
    answers = Counter[bool]()
    for name in [*CATALOGUE["gru"]][::7]:
        observed = planted(case, catalogue("gru")[name])
        verdict = judge(case, observed, ())
        found = verdict.faults if isinstance(verdict, Diverges) else None
        for wanted in {found or (), (name,), (name, "bfloat16_products"), ("swap_rz",)}:
            same = found is not None and sharpest(found) == sharpest(wanted) and set(found) <= set(wanted)
            assert (deviation(case, observed, wanted, rivals=("drop_bhn", name)) is None) == same, (name, wanted)
            answers[same] += 1
    assert answers[True] > 10
    assert answers[False] > 10


def test_a_deviation_says_why() -> None:
    """The reference, a hypothesis that no longer explains, one that explains beside it; the rivals are asked first."""
    case = generic("gru", "float32", "given")
    observed = planted(case, catalogue("gru")["swap_rz"])
    assert deviation(case, planted(case, catalogue("gru")["float32_inside"]), ("swap_rz",)) == ""
    assert deviation(case, observed, ("swap_rz", "drop_bhn")) == "drop_bhn"
    assert deviation(case, observed, ()) == "swap_rz"
    assert deviation(case, observed, ("swap_rz",)) is None
    tiny = of_shape(LATTICE[0][0])
    observed = planted(tiny, catalogue("gru")["gate_relu"])
    verdict = judge(tiny, observed, ())
    assert isinstance(verdict, Diverges)
    assert len(verdict.faults) > 1
    for rival in verdict.faults:
        assert deviation(tiny, observed, (), rivals=(rival,)) == rival


@pytest.mark.parametrize("name", CATALOGUE["gru_v1"])
def test_every_planted_v1_fault_is_caught_and_named(name: str) -> None:
    """The reset-before form has its own catalogue, with the same teeth."""
    dtype = next(dtype for dtype in ("float32", "float64", "float16") if applies("gru_v1", name, dtype))
    case = situation("gru_v1", name, dtype)
    found = combine([judge(case, planted(case, catalogue("gru_v1")[name]), ())], required=frozenset())
    assert isinstance(found, Diverges)
    assert found.faults == (name,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("initial", ["omitted", "zeros", "given"])
@pytest.mark.parametrize("cell", FORMS)
def test_a_correct_implementation_agrees_and_excludes_all_visible_faults(
    cell: str, initial: Initial, dtype: str
) -> None:
    """One generic case rules out every fault that can show; the finest of them, in 8 bits, two such cases."""
    visible = visible_faults(cell, initial, dtype=dtype)
    left = set(visible)
    for seed in (3, 4) if dtype == "bfloat16" else (3,):
        case = generic(cell, dtype, initial, seed=seed)
        verdict = judge(case, correct(case), visible)
        assert isinstance(verdict, Agrees)
        assert verdict.compared == (12 + 1) * 4 * 8
        assert visible - verdict.excluded <= {"r_hard_sigmoid", "r_hard_sigmoid6"} & visible
        left -= verdict.excluded
    assert not left


@pytest.mark.parametrize("padding", ["zeros", "free"])
@pytest.mark.parametrize("features", SITUATIONS[1:], ids="+".join)
@pytest.mark.parametrize("cell", ["gru", "lstm_projection"])
def test_features_are_judged_like_plain_cases(cell: str, features: tuple[str, ...], padding: Padding) -> None:
    """Padded, reversed, bidirectional and stacked: a correct implementation agrees, and excludes all that can show."""
    case = generic(cell, "float32", "given", features=features, padding=padding)
    visible = visible_faults(cell, "given", features=features, dtype="float32", padding=padding)
    assert visible > visible_faults(cell, "given", dtype="float32") - {"reversed_noflip", "padding_reversed"}
    verdict = judge(case, correct(case), visible)
    assert isinstance(verdict, Agrees)
    assert verdict.excluded == visible


def test_free_padding_is_not_compared() -> None:
    """What stands past a row's end matters where zeros are promised, and nowhere else."""
    for padding, kind in (("zeros", Diverges), ("free", Agrees)):
        case = generic("gru", "float32", "given", features=("lengths",), padding=padding)  # type: ignore[arg-type]
        right = correct(case)
        outputs = right.outputs.copy()
        outputs[1, 5:] = np.nan
        verdict = judge(case, replace(right, outputs=outputs), {"update_flip"})
        assert isinstance(verdict, kind)
        if isinstance(verdict, Agrees):
            # 12 + 5 + 1 + 3 real steps of 8 units, and the final states.
            assert verdict.compared == (21 + 4) * 8


def test_a_padded_state_is_the_last_real_one() -> None:
    """A final state taken from the padding diverges, and is named, whatever the padding is."""
    for padding in ("zeros", "free"):
        case = generic("gru", "float32", "given", features=("lengths",), padding=padding)  # type: ignore[arg-type]
        right = correct(case)
        verdict = judge(case, replace(right, final_state=right.outputs[:, -1]), ())
        assert isinstance(verdict, Diverges)
        assert verdict.evidence.output == "final_state"
        assert padding == "free" or verdict.faults == ("final_from_padding",)


def test_a_returned_memory_is_judged() -> None:
    """Right outputs do not excuse a wrong memory, and a memory that is not returned is not missed."""
    case = generic("lstm", "float32", "given")
    right = correct(case)
    assert right.cells is not None
    assert right.final_cell is not None
    without = judge(case, replace(right, cells=None, final_cell=None), {"h0_ignored", "state_lane0"})
    assert isinstance(without, Agrees)
    assert without.compared == (12 + 1) * 4 * 8
    for change in ({"cells": -right.cells}, {"final_cell": -right.final_cell}):
        assert isinstance(judge(case, replace(right, **change), ()), Diverges)  # type: ignore[arg-type]


def test_the_sharpest_names_are_told() -> None:
    """A coarser arithmetic explains much: it is named only where nothing else is, and then the finest one."""
    assert sharpest(("update_flip", "bfloat16_products", "tf32_products")) == ("update_flip",)
    assert sharpest(("bfloat16_products", "tf32_products")) == ("tf32_products",)
    assert sharpest(()) == ()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.8, 2.5, 20.0])
def test_correct_implementations_stay_inside_the_bound(scale: float, dtype: str) -> None:
    """No false alarm over all lattice shapes and seeds, tiny to saturating weights."""
    worst = 0.0
    for seed in range(4):
        for shape, batched in LATTICE:
            signature = Signature(shape=shape, batched=batched, seed=seed, scale=scale, decimals=12, fills=())
            for cell in FORMS:
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


def test_a_named_fault_says_what_the_gates_must_have_been() -> None:
    """Where a fault explains the output, its gates stand beside those of the reference."""
    case = generic("gru", "float32", "omitted")
    verdict = judge(case, planted(case, catalogue("gru")["drop_rbhn_t0"]), ())
    assert isinstance(verdict, Diverges)
    found = verdict.evidence
    assert found.under == "drop_rbhn_t0"
    assert found.implied.keys() == found.intermediates.keys()
    assert {name for name in found.implied if found.implied[name] != found.intermediates[name]} == {"n", "h"}
    assert found.implied["h"] == pytest.approx(found.observed, abs=found.bound)
    assert abs(found.intermediates["h"] - found.observed) > found.bound


def test_an_unknown_fault_implies_no_gates() -> None:
    """What nothing explains has no gates beside those of the reference."""
    case = generic("gru", "float32", "given")
    right = correct(case)
    outputs = right.outputs.copy()
    outputs[2, 5:, 3] *= 1.01
    verdict = judge(case, Observed(outputs=outputs, final_state=outputs[:, -1]), ())
    assert isinstance(verdict, Diverges)
    assert (verdict.evidence.under, verdict.evidence.implied) == ("", {})


def test_the_map_shows_exactly_where_outputs_are_outside() -> None:
    """One unit from one step on, whose state feeds no other unit's own step, is all that the map marks."""
    case = generic("gru", "float32", "given")
    right = correct(case)
    outputs = right.outputs.copy()
    outputs[2, 5, 3] += 0.25
    verdict = judge(case, Observed(outputs=outputs, final_state=outputs[:, -1]), ())
    assert isinstance(verdict, Diverges)
    found = verdict.evidence.map
    assert found is not None
    assert (found.steps, found.units) == (1, 1)
    assert len(found.shares) == case.shape.time
    outside = {
        (t, u) for t, row in enumerate(found.shares) for u, share in enumerate(row) if share is None or share > 1
    }
    # The steps after it start from the observed state, so that only a wrong step is outside.
    assert {(t, u) for t, u in outside if t == 5} == {(5, 3)}
    assert all(t >= 5 for t, _ in outside)
    worst = [row.share for row in verdict.evidence.steps]
    assert [max(row) for row in found.shares] == pytest.approx(worst, rel=6e-3)


def test_a_large_map_keeps_the_largest_share_of_every_block() -> None:
    """A long sequence of many units is reduced, and a single bad element is not lost."""
    share = np.full((200, 2, 70), 0.125)
    share[150, 1, 69] = np.inf
    share[3, 0, 0] = 7.0
    found = share_map(share)
    assert found is not None
    assert (found.steps, found.units) == (4, 3)
    assert (len(found.shares), len(found.shares[0])) == (50, 24)
    assert found.shares[150 // 4][69 // 3] is None
    assert found.shares[0][0] == 7.0
    assert sum(value != 0.125 for row in found.shares for value in row) == 2


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


def test_an_infinite_bound_is_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bound overflows everything lies inside it: that shows nothing, alone or among its like."""
    case = generic("gru", "float32", "given")
    right = correct(case)
    true = compare(case, right)
    parts = {
        name: replace(part, bound=np.where(part.bound > 0, np.inf, part.bound), share=np.zeros_like(part.share))
        for name, part in true.parts.items()
    }
    vast = replace(true, parts=parts)
    monkeypatch.setattr("conformance.judge.compare", lambda *_: vast)
    verdict = judge(case, right, {"update_flip"})
    assert isinstance(verdict, Inconclusive)
    assert combine([verdict, verdict], required=frozenset()) == verdict
    agrees = Agrees(excluded=frozenset(), share=0.1, compared=1)
    assert combine([agrees, verdict], required=frozenset()) == agrees
    assert isinstance(combine([agrees, verdict], required=frozenset({"update_flip"})), Inconclusive)


def test_a_state_that_overflows_keeps_the_name_of_its_fault() -> None:
    """What is not finite is explained where the fault overflows itself, after finite states that it explains."""
    case = generic("gru_v1", "float32", "given")
    observed = planted(case, catalogue("gru_v1")["gate_identity"])
    assert not observed.finite
    verdict = judge(case, observed, ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == ("gate_identity",)
    assert not verdict.evidence.finite


def test_other_numbers_that_are_not_finite_have_no_name() -> None:
    """NaN out of nowhere is no overflow of the fault that explains the steps before it."""
    case = generic("gru_v1", "float32", "given")
    for name in ("update_flip", "final_from_padding"):
        observed = planted(case, catalogue("gru_v1")[name])
        outputs = observed.outputs.copy()
        outputs[:, 7:] = np.nan
        verdict = judge(case, replace(observed, outputs=outputs, final_state=outputs[:, -1]), ())
        assert isinstance(verdict, Diverges)
        assert verdict.faults == ()
