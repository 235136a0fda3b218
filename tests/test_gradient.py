"""Gradients: the reference is right, conforming backward passes are inside the bound, planted faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.algebra import Activation, Exact, RunningError
from conformance.case import Case, Initial, make_case, unchecked
from conformance.cells import CELLS, cell_named
from conformance.cells.cell import Sequence
from conformance.cells.fault import Fault
from conformance.compare import Observed, seen
from conformance.errors import CaseError, SpecError
from conformance.faults import catalogue
from conformance.gradient import (
    compare_gradients,
    gradient_deviation,
    gradients,
    judge_gradients,
    planted_gradients,
)
from conformance.gradient_faults import GradientFault, gradient_catalogue
from conformance.judge import observed_of, planted, sharpest
from conformance.rounding import DTYPES, Array, format_of
from conformance.verdict import Agrees, Diverges, Inconclusive

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "golden"
HALF = ("float16", "bfloat16")


def generic(
    cell: str,
    dtype: str = "float64",
    shape: tuple[int, int, int, int] = (4, 12, 6, 8),
    *,
    seed: int = 3,
    initial: Initial = "given",
    scale: float = 0.8,
) -> Case:
    """A case of shape (B, T, D, H) with generic numbers throughout and cotangents for all that can have one."""
    generator = np.random.default_rng(seed)
    batch, time, features, hidden = shape
    kind = cell_named(cell)
    output = max(1, hidden - 3) if kind.projected else hidden
    cotangents = {"outputs": (batch, time, output), "final_state": (batch, output)}
    if kind.carry is not None:
        cotangents["final_cell"] = (batch, hidden)
    parameters = {}
    for name, size in kind.shapes({"D": features, "H": hidden, "P": output}).items():
        signs = generator.choice([-1.0, 1.0], size)
        matrix = generator.normal(size=size) * scale / np.sqrt(size[-1])
        parameters[name] = matrix if len(size) == 2 else generator.uniform(0.2, 1.0, size) * signs
    return make_case(
        cell=cell,
        dtype=dtype,
        parameters=parameters,
        x=generator.normal(size=(batch, time, features)),
        initial=initial,
        h0=generator.uniform(0.1 if kind.positive else -1.0, 1.0, (batch, output)),
        c0=generator.uniform(-1.0, 1.0, (batch, hidden)) if kind.carry is not None else None,
        cotangents={name: generator.normal(size=size) for name, size in cotangents.items()},
        origin="generic",
    )


def golden(cell: str) -> tuple[Case, dict[str, Array]]:
    """The committed case of a cell and its gradients, rounded to float64."""
    data = json.loads((GOLDEN / f"gradient_{cell}.json").read_text())
    assert data["format"] == "rnn-conformance-golden-gradient-1"

    def array(value: Any, number: Any) -> Array:
        return np.vectorize(number, otypes=[np.float64])(np.array(value, dtype=object))

    named = {"outputs": "G_outputs", "final_state": "G_final_state", "final_cell": "G_final_cell"}
    case = make_case(
        cell=cell,
        dtype="float64",
        parameters={name: array(value, float.fromhex) for name, value in data["parameters"].items()},
        x=array(data["x"], float.fromhex),
        initial="given",
        h0=array(data["h0"], float.fromhex),
        c0=array(data["c0"], float.fromhex) if data.get("c0") is not None else None,
        cotangents={name: array(data[key], float.fromhex) for name, key in named.items() if data.get(key) is not None},
        origin=f"gradient_{cell}",
    )
    return case, {name: array(value, float) for name, value in data["expected"].items()}


def exact(case: Case) -> dict[str, Array]:
    """The float64 gradients along the float64 trajectory."""
    return gradients(case, seen(case, observed_of(cell_named(case.cell).run(case))), Exact())


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_those_of_the_golden_files(cell: str) -> None:
    """Every gradient agrees with 50 decimal digits of a complex step through scalar loops."""
    case, expected = golden(cell)
    found = exact(case)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-14, strict=True)
    sequence = observed_of(cell_named(cell).run(case))
    assert compare_gradients(case, replace(sequence, gradients=expected)).worst < 0.5


class Complex(Exact):
    """Exact evaluation that is analytic, for a complex step."""

    def apply(self, function: Activation, argument: Array) -> Array:
        match function.name:
            case "sigmoid":
                return 1.0 / (1.0 + np.exp(-argument))
            case "relu":
                return np.where(argument.real > 0, argument, 0.0)
            case "g":
                return np.where(argument.real >= 0, argument + 0.5, 1.0 / (1.0 + np.exp(-argument)))
            case _:
                return function.function(argument)


def objective(case: Case, sequence: Sequence) -> complex:
    """S of a run."""
    arrays = {
        "outputs": sequence.outputs,
        "final_state": sequence.final_state,
        "final_cell": sequence.final_cell,
    }
    return complex(sum((value * arrays[name]).sum() for name, value in case.cotangents.items()))


def shifted(case: Case, name: str, step: Any) -> Case:
    """The case with `step` added to one array; complex numbers are not values of a dtype, so no check is made."""
    if name in ("x", "h0", "c0"):
        return unchecked(case, {name: getattr(case, name) + step})
    return unchecked(case, {"parameters": {**case.parameters, name: case.parameters[name] + step}})


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(3, 6, 5, 4), (2, 1, 3, 4), (1, 4, 1, 2)], ids=str)
def test_gradients_agree_with_a_complex_step(cell: str, shape: tuple[int, int, int, int]) -> None:
    """In random directions of every array; Im S(v + i e) / e has no cancellation (Squire & Trapp 1998)."""
    case = generic(cell, shape=shape, seed=17)
    generator = np.random.default_rng(5)
    for name, gradient in exact(case).items():
        for _ in range(3):
            direction = generator.normal(size=gradient.shape)
            sequence = cell_named(cell).run(shifted(case, name, 1e-30j * direction), ops=Complex())
            derivative = objective(case, sequence).imag / 1e-30
            magnitude = float(np.abs(gradient * direction).sum())
            assert abs(derivative - float((gradient * direction).sum())) <= 1e-12 * (1.0 + magnitude), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_conforming_backward_passes_are_inside_the_bound(cell: str, dtype: str) -> None:
    """Also over 64 steps, with large, saturating and tiny weights, one row, one step, one unit."""
    cases: list[tuple[tuple[int, int, int, int], float, Initial]] = [
        ((4, 12, 6, 8), 0.8, "given"),
        ((2, 64, 6, 8), 0.8, "omitted"),
        ((2, 12, 3, 5), 2.5, "omitted"),
        ((2, 6, 3, 4), 20.0, "given"),
        ((1, 1, 1, 1), 1.0, "given"),
        ((1, 1, 1, 1), 1.0, "omitted"),
    ]
    for shape, scale, initial in cases:
        case = generic(cell, dtype, shape, scale=scale, initial=initial)
        with np.errstate(over="ignore", invalid="ignore"):
            observed = planted_gradients(case)
        if observed.finite and all(np.isfinite(value).all() for value in observed.gradients.values()):
            assert compare_gradients(case, observed).worst < 1.0, (shape, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", ["positive", "constant"])
def test_errors_that_add_up_raise_no_alarm(cell: str, dtype: str, kind: str) -> None:
    """With positive or equal weights one rounding reaches a gradient on many ways of the same sign."""
    case = generic(cell, dtype, (4, 12, 6, 8))
    change = np.abs if kind == "positive" else lambda value: np.full_like(value, 0.5)
    case = replace(case, parameters={name: change(value) for name, value in case.parameters.items()})
    with np.errstate(over="ignore", invalid="ignore"):
        observed = planted_gradients(case)
    if observed.finite and all(np.isfinite(value).all() for value in observed.gradients.values()):
        assert compare_gradients(case, observed).worst < 1.0


SHORT = (3, 5, 4, 6)
"""A shape on which every gradient fault shows."""


@pytest.mark.parametrize(("cell", "dtype"), [(cell, HALF[place % 2]) for place, cell in enumerate(CELLS)])
def test_every_planted_gradient_fault_is_outside_the_bound_and_inside_its_own(cell: str, dtype: str) -> None:
    """One generic case in half precision catches each fault, and its own hypothesis explains it.

    In float32 `rnn-conformance faults`, which CI runs, catches each in every cell; the test below names them.
    """
    case = generic(cell, dtype, SHORT)
    for name, fault in gradient_catalogue(cell).items():
        observed = planted_gradients(case, fault)
        assert not compare_gradients(case, observed).explains, name
        assert compare_gradients(case, observed, fault).explains, name


@pytest.mark.parametrize("cell", CELLS)
def test_every_planted_gradient_fault_is_named_by_its_own_name_only(cell: str) -> None:
    """In float32 no other hypothesis, of gradients or of the forward pass, explains it.

    All were planted along one trajectory, from which a hypothesis predicts one thing: that is done once.
    """
    case = generic(cell, "float32", SHORT)
    right = planted_gradients(case)
    own = gradient_catalogue(cell)
    hypotheses: dict[str, Fault | GradientFault] = {**own, **catalogue(cell)}
    faulty = {name: planted_gradients(case, fault).gradients for name, fault in own.items()}
    for name, values in faulty.items():
        assert not compare_gradients(case, replace(right, gradients=values)).explains, name
    named: dict[str, list[str]] = {name: [] for name in own}
    for hypothesis, fault in hypotheses.items():
        try:
            parts = compare_gradients(case, right, fault).parts
        except SpecError:
            continue
        for name, values in faulty.items():
            flat = {key: value.reshape(parts[key].predicted.shape) for key, value in values.items()}
            if all((np.abs(flat[key] - part.predicted) <= part.bound).all() for key, part in parts.items()):
                named[name].append(hypothesis)
    for name, found in named.items():
        assert sharpest(found) == (name,), name


@pytest.mark.parametrize(
    ("cell", "name"), [("gru", "reset_gate_gradient_missing"), ("lstm", "cell_state_detached"), ("mingru", "doubled")]
)
def test_a_verdict_names_the_gradient_fault(cell: str, name: str) -> None:
    """The judgement tries all of them."""
    case = generic(cell, "float32", SHORT)
    verdict = judge_gradients(case, planted_gradients(case, gradient_catalogue(cell)[name]), ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == (name,)
    assert verdict.evidence.residuals.keys() > gradient_catalogue(cell).keys()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_conforming_backward_pass_agrees_and_excludes_every_gradient_fault(cell: str, dtype: str) -> None:
    """An agreement says what it excludes."""
    case = generic(cell, dtype, SHORT)
    names = frozenset(gradient_catalogue(cell))
    verdict = judge_gradients(case, planted_gradients(case), names)
    assert isinstance(verdict, Agrees)
    assert verdict.excluded == names


def test_a_divergence_says_which_gradient_and_where() -> None:
    """The evidence names the array, and the element in words."""
    case = generic("gru", "float32")
    right = planted_gradients(case)
    wrong = np.array(right.gradients["W_hn"])
    wrong[2, 5] += 1.0
    verdict = judge_gradients(case, replace(right, gradients={**right.gradients, "W_hn": wrong}), ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == ()
    assert verdict.evidence.output == "gradient of W_hn"
    assert verdict.evidence.first == (0, 0, 2 * 8 + 5)
    assert verdict.evidence.where == "row 2, column 5"
    assert verdict.evidence.outside == 1


def test_a_forward_divergence_is_the_verdict() -> None:
    """Gradients of wrong outputs are not judged."""
    case = generic("gru", "float32")
    wrong = planted(case, catalogue("gru")["drop_bhn"])
    verdict = judge_gradients(case, replace(wrong, gradients=planted_gradients(case).gradients), ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == ("drop_bhn",)
    assert verdict.evidence.output == "outputs"


def test_the_backward_pass_of_another_form_is_named_as_that_form() -> None:
    """A right forward pass with the backward pass of a forward fault is explained by that fault."""
    case = generic("gru", "float32", SHORT)
    for name in ("bhn_outside_reset", "Wh_transposed", "swap_rz", "state_lane0"):
        verdict = judge_gradients(case, planted_gradients(case, catalogue("gru")[name]), ())
        assert isinstance(verdict, Diverges)
        assert verdict.faults == (name,)


def test_no_gradients_are_an_error() -> None:
    """Comparing nothing never passes; nor does leaving out a parameter that matters."""
    case = generic("gru", "float32")
    observed = planted_gradients(case)
    lacking = {name: value for name, value in observed.gradients.items() if name != "W_hn"}
    for given in ({}, lacking, {**observed.gradients, "W_q": np.zeros(3)}, {**observed.gradients, "x": np.zeros(3)}):
        with pytest.raises(CaseError):
            compare_gradients(case, replace(observed, gradients=given))
        with pytest.raises(CaseError):
            judge_gradients(case, replace(observed, gradients=given), ())


def test_what_a_candidate_has_no_place_for_may_be_missing() -> None:
    """The state where it is omitted, and parameters that are zero."""
    case = generic("gru", "float32", initial="omitted").zeroed(("b_hr",))
    observed = planted_gradients(case)
    given = {name: value for name, value in observed.gradients.items() if name not in ("h0", "b_hr")}
    assert compare_gradients(case, replace(observed, gradients=given)).explains


def test_a_gradient_that_is_not_a_number_diverges() -> None:
    """And no hypothesis explains it."""
    case = generic("gru", "float32")
    observed = planted_gradients(case)
    spoiled = {**observed.gradients, "h0": np.full((4, 8), np.nan)}
    verdict = judge_gradients(case, replace(observed, gradients=spoiled), ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == ()
    assert not verdict.evidence.finite


def test_a_case_that_overflows_shows_nothing() -> None:
    """Where a conforming backward pass overflows, infinities are no divergence, and no agreement either."""
    case = generic("gru", "float16")
    case = replace(case, cotangents={name: np.full_like(value, 60000.0) for name, value in case.cotangents.items()})
    with np.errstate(over="ignore", invalid="ignore"):
        observed = planted_gradients(case)
    assert isinstance(judge_gradients(case, observed, ("doubled",)), Inconclusive)


def test_a_fault_that_cannot_show_is_not_excluded() -> None:
    """With one row the mean over the batch is the sum: the answer is inconclusive, not agreement."""
    case = generic("gru", "float32", (1, 6, 3, 4))
    verdict = judge_gradients(case, planted_gradients(case), ("mean_over_batch",))
    assert isinstance(verdict, Inconclusive)
    assert verdict.missing == {"mean_over_batch"}


@pytest.mark.parametrize(
    "changes",
    [{"cotangents": {}}, {"lengths": (12, 3, 1, 5)}, {"evaluation": "scan"}, {"cotangents": {"outputs": np.ones(3)}}],
    ids=["no cotangents", "lengths", "scan", "shape"],
)
def test_cases_whose_gradients_are_not_derived_are_refused(changes: dict[str, Any]) -> None:
    """There is no reference for them."""
    case = generic("mingru", "float32")
    observed = planted_gradients(case)
    with pytest.raises(CaseError):
        compare_gradients(replace(case, **changes), observed)


def test_reversed_rows_have_gradients() -> None:
    """The final state is the first output then."""
    case = replace(generic("lstm"), reverse=True)
    flipped = replace(
        case,
        reverse=False,
        x=case.x[:, ::-1],
        cotangents={**case.cotangents, "outputs": case.cotangents["outputs"][:, ::-1]},
    )
    backward, forward = exact(case), exact(flipped)
    np.testing.assert_allclose(backward.pop("x"), forward.pop("x")[:, ::-1], rtol=1e-12, atol=1e-14)
    for name, value in backward.items():
        np.testing.assert_allclose(value, forward[name], rtol=1e-12, atol=1e-14)


def test_a_slope_is_uncertain_only_where_the_argument_may_cross_a_kink() -> None:
    """The bound holds the jump for a pre-activation of zero, and not for one of a half."""
    case = make_case(
        cell="elman_relu",
        dtype="float32",
        parameters={"W_x": np.eye(2), "W_h": np.zeros((2, 2)), "b_x": np.zeros(2), "b_h": np.zeros(2)},
        x=np.array([[[0.0, 0.5]]]),
        initial="omitted",
        hidden=2,
        cotangents={"outputs": np.ones((1, 1, 2))},
    )
    along = seen(case, observed_of(cell_named("elman_relu").run(case)))
    bound = gradients(case, along, RunningError(format_of("float32")))["x"].error
    assert bound[0, 0, 0] >= 1.0
    assert bound[0, 0, 1] < 1e-5


def test_an_observation_may_hold_the_memory() -> None:
    """Memories that were returned are used as they are; else they are rebuilt."""
    case = generic("lstm", "float32")
    observed = planted_gradients(case)
    assert observed.cells is not None
    hidden = Observed(outputs=observed.outputs, final_state=observed.final_state, gradients=observed.gradients)
    assert compare_gradients(case, observed).explains
    assert compare_gradients(case, hidden).explains


@pytest.mark.parametrize("fault", ["state_detached", "mean_over_batch", "swap_rz", "bfloat16_products"])
def test_what_does_not_explain_roughly_does_not_explain(fault: str) -> None:
    """Of every hypothesis: the rough bound is never the smaller one, so it may rule out, and it rules out most."""
    case = generic("gru", "float32", (2, 6, 3, 4))
    every: dict[str, Fault | GradientFault] = {**catalogue("gru"), **gradient_catalogue("gru")}
    observed = planted_gradients(case, every[fault])
    ruled_out = 0
    for name in [*[*every][::9], fault]:
        try:
            roughly, fully = (compare_gradients(case, observed, every[name], roughly=r) for r in (True, False))
        except SpecError:
            continue
        for key, part in fully.parts.items():
            assert (roughly.parts[key].bound >= part.bound).all(), (name, key)
        assert roughly.worst <= fully.worst
        ruled_out += not roughly.explains
        assert fully.explains or name != fault
    assert ruled_out >= 5


@pytest.mark.parametrize("fault", ["state_detached", "mean_over_batch"])
def test_a_deviation_is_what_the_whole_judgement_of_gradients_would_tell(fault: str) -> None:
    """Its own name is no deviation; another one, none, or one beside it is, and so is a right gradient."""
    case = generic("gru", "float32", (2, 3, 2, 3))
    every: dict[str, Fault | GradientFault] = {**catalogue("gru"), **gradient_catalogue("gru")}
    observed = planted_gradients(case, every[fault])
    verdict = judge_gradients(case, observed, ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == (fault,)
    assert gradient_deviation(case, observed, (fault,), rivals=("drop_bhn",)) is None
    assert gradient_deviation(case, observed, (fault, "bfloat16_products")) is None
    assert gradient_deviation(case, observed, (fault, "drop_bhn")) == "drop_bhn"
    assert gradient_deviation(case, observed, ()) == fault
    assert gradient_deviation(case, planted_gradients(case), (fault,)) == ""
    wrong = replace(planted(case, catalogue("gru")["drop_bhn"]), gradients=observed.gradients)
    assert gradient_deviation(case, wrong, (fault,)) is not None
    assert gradient_deviation(case, wrong, ("drop_bhn",)) is None
