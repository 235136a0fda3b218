"""Relations: a correct implementation passes each, each notices what it exists for, and none a consistent fault."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.behaviours import BEHAVIOURS, Runner, correct
from conformance.case import Case
from conformance.compare import Observed, check_shapes
from conformance.errors import CaseError
from conformance.faults import catalogue
from conformance.inputs import shipped_cases
from conformance.judge import combine, hypotheses, judge
from conformance.relation import RELATIONS, STRICT, Pair, implementation, judge_relation, notices, relation_named
from conformance.requirement import GRADIENT, REFERENCE, REQUIREMENTS, Requirement
from conformance.rounding import round_to
from conformance.verdict import Agrees, Diverges, Inconclusive

# A projected LSTM is an LSTM and more; the adapters' own environments ask the suite of every cell.
CELLS = ("gru", "elman", "mingru", "lstm_projection")
# Only of cells whose states have logarithms.
NEGATIVE = REQUIREMENTS["mingru_log_negative_state"]
ASKED = [r for r in REQUIREMENTS.values() if r.cell in CELLS and r.relation not in (REFERENCE, GRADIENT)] + [NEGATIVE]
OF_THE_GRU = {r.relation: r for r in ASKED if r.cell == "gru"}
# Of every relation the requirement of the smallest cell that has it.
OF_THE_SMALLEST = {**OF_THE_GRU, **{r.relation: r for r in ASKED if r.cell == "elman"}, NEGATIVE.relation: NEGATIVE}

# Planted by another relation's requirement, or hidden by its cases, in some cells: never in all.
LOOSE = sorted(set(OF_THE_GRU) - STRICT)


def shipped(requirement: Requirement, dtype: str = "float32") -> list[Case]:
    """The shipped cases of a requirement."""
    return list(shipped_cases(requirement, dtype))


def judged(
    requirement: Requirement, run: Runner, *, dtype: str = "float32", aims: Collection[str] | None = None
) -> Agrees | Diverges | Inconclusive:
    """The common verdict of all shipped cases, as a run combines it; `aims` must be ruled out, usually its own."""
    aims = frozenset(requirement.aims if aims is None else aims)
    remaining, verdicts = set(aims), []
    for case in shipped(requirement, dtype):
        verdict, culprit = judge_relation(requirement.relation, case, run, frozenset(remaining))
        assert isinstance(verdict, Diverges) == (culprit is not None)
        verdicts.append(verdict)
        if isinstance(verdict, Agrees):
            remaining -= verdict.excluded
    found = combine(verdicts, required=aims)
    assert isinstance(found, Agrees | Diverges | Inconclusive)
    return found


def test_every_relation_is_asked_by_a_requirement() -> None:
    """None is left without a clause, and no clause names another."""
    assert {r.relation for r in REQUIREMENTS.values()} == {*RELATIONS, REFERENCE, GRADIENT}
    assert {*OF_THE_GRU, NEGATIVE.relation} == RELATIONS.keys()
    assert RELATIONS.keys() >= STRICT


@pytest.mark.parametrize("requirement", ASKED, ids=lambda r: r.name)
def test_a_correct_implementation_agrees_and_rules_out_the_aims(requirement: Requirement) -> None:
    """On the shipped cases alone: inside the bound on every detour, and every aim would have been noticed."""
    verdict = judged(requirement, correct)
    assert isinstance(verdict, Agrees), verdict
    assert verdict.excluded == set(requirement.aims)
    assert verdict.compared > 0


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("relation", OF_THE_GRU)
def test_relations_raise_no_false_alarm_in_other_dtypes(relation: str, dtype: str) -> None:
    """Asked of any dtype by a user, a correct implementation is not accused."""
    assert not isinstance(judged(OF_THE_GRU[relation], correct, dtype=dtype, aims=()), Diverges)


@pytest.mark.parametrize(
    # `rnn-conformance faults`, which CI runs, plants every aim under every requirement of every cell.
    ("requirement", "aim"),
    [pytest.param(r, aim, id=f"{r.name}-{aim}") for r in OF_THE_SMALLEST.values() for aim in r.aims],
)
def test_each_aim_planted_is_noticed(requirement: Requirement, aim: str) -> None:
    """The implementation that the requirement exists for diverges under it, or breaks its contract."""
    relation, faulty = requirement.relation, implementation(requirement.cell, aim)
    if aim == "last_output_only":  # a shape that no observation may have
        with pytest.raises((CaseError, ValueError)):
            judge_relation(relation, shipped(requirement)[0], faulty, frozenset())
        return
    verdicts = (judge_relation(relation, case, faulty, frozenset()) for case in shipped(requirement))
    culprits = (culprit for verdict, culprit in verdicts if isinstance(verdict, Diverges))
    assert isinstance(next(culprits, None), Pair)


@pytest.mark.parametrize("behaviour", ["fresh_weights", "fresh_weights_each_call"])
@pytest.mark.parametrize("cell", ["gru", "gru_v1", "lstm", "elman_relu", "mingru_log", "minlstm_log"])
def test_fresh_weights_have_their_name(cell: str, behaviour: str) -> None:
    """The same ones every time give the same numbers for other weights; others each time do not come from zeros."""
    (case, *_) = shipped(REQUIREMENTS[f"{cell}_weights_used"])
    verdict, culprit = judge_relation("weights_used", case, implementation(cell, behaviour), frozenset())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == ("fresh_weights",)
    assert culprit is not None
    assert ("negated" in culprit.says) == (behaviour == "fresh_weights")


def test_a_run_that_changes_is_not_taken_for_fresh_weights() -> None:
    """Units dropped at random follow no equations either, but come from the weights: from zeros they give zeros."""
    generator = np.random.default_rng(3)

    def dropping(case: Case) -> Observed:
        observed = correct(case)
        return replace(observed, outputs=observed.outputs * generator.choice([0.0, 2.0], observed.outputs.shape))

    (case, *_) = shipped(OF_THE_GRU["weights_used"])
    verdict, _ = judge_relation("weights_used", case, dropping, frozenset())
    assert isinstance(verdict, Inconclusive)


def test_weights_that_cannot_show_are_not_missed() -> None:
    """Where other weights need not change a number, equal outputs prove nothing."""
    (case, *_) = shipped(OF_THE_GRU["weights_used"])
    silent = replace(case, parameters={name: 0.0 * value for name, value in case.parameters.items()})
    verdict, _ = judge_relation("weights_used", silent, correct, frozenset())
    assert isinstance(verdict, Agrees)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_mistake_that_gives_the_same_numbers_is_not_taken_for_fresh_weights(scale: float) -> None:
    """A shrunk case, all of whose parameters are zero or all but those that a mistake leaves out."""
    (case, *_) = shipped(OF_THE_GRU["weights_used"])
    kept = {name: (scale if name == "b_hn" else 0.0) * value for name, value in case.parameters.items()}
    shrunk = replace(case, parameters=kept)
    for faulty in ("sigmoid_new", "drop_bhn"):
        verdict, _ = judge_relation("weights_used", shrunk, implementation("gru", faulty), frozenset())
        assert not (isinstance(verdict, Diverges) and "fresh_weights" in verdict.faults), faulty


@pytest.mark.parametrize("relation", LOOSE)
@pytest.mark.parametrize("fault", ["drop_bhn", "update_flip"])
def test_a_consistent_fault_satisfies_the_relations(relation: str, fault: str) -> None:
    """It computes one function, however it is called: only the equations say that it is the wrong one."""
    requirement, faulty = OF_THE_GRU[relation], implementation("gru", fault)
    for case in shipped(requirement):
        verdict, culprit = judge_relation(relation, case, faulty, frozenset())
        assert isinstance(verdict, Agrees), verdict
        assert culprit is None
    (case, *_) = shipped(REQUIREMENTS["gru_hidden_given"])
    plain = judge(case, faulty(case), ())
    assert isinstance(plain, Diverges)
    assert plain.faults == (fault,)


@pytest.mark.parametrize("relation", sorted(STRICT - {"contract", "inputs_unmodified", "kept_exactly"}))
def test_strict_relations_ask_for_the_equations_themselves(relation: str) -> None:
    """No other requirement runs their situation, so a consistent fault does not pass there."""
    requirement = OF_THE_GRU[relation]
    verdicts = [
        judge_relation(relation, case, implementation("gru", "update_flip"), frozenset())[0]
        for case in shipped(requirement)
    ]
    assert any(isinstance(verdict, Diverges) for verdict in verdicts)


def test_a_divergence_says_which_detour_and_where() -> None:
    """The evidence is about the detour's own case; the pair is the one that shows it."""
    requirement = REQUIREMENTS["gru_rows_alone"]
    (case, *_) = shipped(requirement)
    verdict, culprit = judge_relation("rows_alone", case, implementation("gru", "single_row_from_zeros"), frozenset())
    assert isinstance(verdict, Diverges)
    assert culprit is not None
    assert (verdict.evidence.where, culprit.says) == ("each row run alone", "each row run alone")
    assert verdict.evidence.first[1] == 0
    assert verdict.evidence.residuals
    assert "h0_ignored" in verdict.faults


def test_a_broken_promise_is_told_bit_for_bit() -> None:
    """An exact promise has no bound: the first number that differs is shown, by name."""
    requirement = REQUIREMENTS["gru_inputs_unmodified"]
    (case, *_) = shipped(requirement)
    verdict, culprit = judge_relation("inputs_unmodified", case, implementation("gru", "input_modified"), frozenset())
    assert isinstance(verdict, Diverges)
    assert culprit is not None
    assert verdict.evidence.output == "h0 after the call"
    assert verdict.evidence.expected == case.h0[0, 0]
    assert verdict.evidence.observed == culprit.observed.inputs_after["h0"][0, 0] != case.h0[0, 0]


def without_memory(case: Case) -> Observed:
    """A correct implementation that keeps its memory to itself, as MLX before its LSTM returned it."""
    return replace(correct(case), cells=None, final_cell=None)


def test_a_memory_that_is_not_returned_cannot_be_carried_over() -> None:
    """The split of an LSTM is inconclusive then, and says why; other relations are judged all the same."""
    (case, *_) = shipped(REQUIREMENTS["lstm_split"])
    verdict, culprit = judge_relation("split", case, without_memory, frozenset({"h0_ignored"}))
    assert isinstance(verdict, Inconclusive)
    assert "memory" in verdict.why
    assert not verdict.missing, "an untrusted comparison, not one that is merely short of cases"
    assert culprit is None
    for name in ("rows_alone", "rows_permuted", "causal", "repeated"):
        requirement = REQUIREMENTS[f"lstm_{name}"]
        assert isinstance(judged(requirement, without_memory), Agrees), name


def test_inputs_that_are_not_returned_show_nothing() -> None:
    """A candidate that gives no inputs back is not said to leave them alone."""
    (case, *_) = shipped(REQUIREMENTS["gru_inputs_unmodified"])
    verdict, _ = judge_relation(
        "inputs_unmodified", case, lambda asked: replace(correct(asked), inputs_after={}), frozenset()
    )
    assert isinstance(verdict, Inconclusive)


def nothing_known(case: Case) -> Observed:
    """An implementation that follows no known equations, the same way every time."""
    right = correct(case)
    return replace(right, outputs=np.sin(7.0 * right.outputs), final_state=np.sin(7.0 * right.final_state))


@pytest.mark.parametrize("relation", ["rows_permuted", "repeated", "unbatched", "strided"])
def test_an_unknown_function_is_inconclusive(relation: str) -> None:
    """Where no hypothesis explains the plain run there is no bound for the detour: nothing is shown."""
    (case, *_) = shipped(OF_THE_GRU[relation])
    verdict, _ = judge_relation(relation, case, nothing_known, frozenset())
    assert isinstance(verdict, Inconclusive)


@pytest.mark.parametrize("relation", OF_THE_GRU)
def test_nothing_noticed_is_inconclusive(relation: str) -> None:
    """An agreement that would have come out of everything asked about shows nothing."""
    (case, *_) = shipped(OF_THE_GRU[relation])
    harmless = next(
        name for name in ("strides_ignored", "empty_batch_row", "reverse_ignored", "large_is_nan", "empty_is_zeros")
        if not notices(relation, case, name)
    )  # fmt: skip
    verdict, _ = judge_relation(relation, case, correct, frozenset({harmless}))
    assert isinstance(verdict, Inconclusive)
    assert verdict.missing == {harmless}


@pytest.mark.parametrize(
    "change",
    [
        lambda o: replace(o, outputs=o.outputs[:, :-1]),
        lambda o: replace(o, outputs=o.outputs[..., :-1]),
        lambda o: replace(o, final_state=o.final_state[:1]),
    ],
    ids=["steps", "units", "rows"],
)
@pytest.mark.parametrize("relation", ["repeated", "rows_permuted", "strided", "sizes", "contract", "length_zero"])
def test_wrong_shapes_are_refused(relation: str, change: Callable[[Observed], Observed]) -> None:
    """Nothing is broadcast: another shape than the case's is an error, not a divergence and not an agreement."""
    (case, *_) = shipped(OF_THE_GRU[relation])
    with pytest.raises((CaseError, ValueError, IndexError)):
        judge_relation(relation, case, lambda asked: change(correct(asked)), frozenset())


def test_a_relation_without_a_pair_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check never passes on zero comparisons: neither without pairs nor with pairs that compare nothing."""
    (case, *_) = shipped(REQUIREMENTS["gru_repeated"])
    pair = Pair(case=case, observed=correct(case), judged=False)
    for pairs in ([], [pair]):
        monkeypatch.setattr("conformance.relation.RELATIONS", {**RELATIONS, "repeated": lambda *_, p=pairs: p})
        with pytest.raises(CaseError, match=r"compares nothing|nothing was compared"):
            judge_relation("repeated", case, correct, frozenset())


def test_an_unknown_relation_is_an_error() -> None:
    """A misspelt name lists the known ones."""
    (case, *_) = shipped(REQUIREMENTS["gru_repeated"])
    with pytest.raises(CaseError, match="unknown relation") as caught:
        judge_relation("repeatd", case, correct, frozenset())
    assert "repeated" in str(caught.value)
    with pytest.raises(CaseError):
        relation_named("")


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_detours_are_cases_of_their_own(cell: str, relation: str) -> None:
    """Every pair holds an observation in the shape of its case, and the plain run comes first where there is one."""
    requirement = REQUIREMENTS.get(f"{cell}_{relation}")
    if requirement is None:
        assert relation in ("kept_exactly", "negative_state")
        return
    for case in shipped(requirement):
        pairs = relation_named(relation)(case, correct)
        assert pairs
        for pair in pairs:
            check_shapes(pair.case, pair.observed)
        if relation not in STRICT and pairs[0].judged:
            assert pairs[0].says == ""
            assert (pairs[0].case.x.shape, pairs[0].case.parameters.keys()) == (case.x.shape, case.parameters.keys())
        assert len({pair.says for pair in pairs}) == len(pairs), "two detours that a reader cannot tell apart"


@pytest.mark.parametrize("name", sorted(BEHAVIOURS.keys() - {"fresh_weights", "fresh_weights_each_call"}))
def test_behaviours_are_right_for_a_plain_call(name: str) -> None:
    """A behaviour is wrong in its situation only: otherwise it would be a fault, with a finding of its own."""
    if name in ("last_output_only", "state_decays"):  # wrong in every call, in ways that no hypothesis can be
        return
    (case, *_) = shipped(REQUIREMENTS["gru_hidden_given"])
    case = replace(case, h0=np.abs(case.h0))
    observed = BEHAVIOURS[name].make()(case)
    np.testing.assert_array_equal(observed.outputs, correct(case).outputs)
    assert name not in catalogue("gru")
    assert BEHAVIOURS[name].statement


def test_a_coarse_arithmetic_does_not_excuse_a_detour() -> None:
    """Where a small fault explains the plain run, a detour that only a coarser arithmetic would explain diverges."""
    case = next(iter(shipped_cases(REQUIREMENTS["gru_rows_permuted"], "float32")))
    small = round_to("float32", case.parameters["b_hn"] / 256)
    case = replace(case, parameters={**case.parameters, "b_hn": small})
    faulty = implementation("gru", "drop_bhn")
    shares = hypotheses(case, faulty(case))
    assert {name for name, share in shares.items() if share <= 1.0} >= {"drop_bhn", "bfloat16_products"}
    calls: list[Case] = []

    def run(asked: Case) -> Observed:
        calls.append(asked)
        observed = faulty(asked)
        if np.array_equal(asked.x, case.x):
            return observed
        return replace(observed, outputs=round_to("float32", observed.outputs + 2.0**-14))

    verdict, pair = judge_relation("rows_permuted", case, run, frozenset())
    assert len(calls) == 2
    assert isinstance(verdict, Diverges)
    assert pair is not None
