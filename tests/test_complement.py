"""The complement of the update gate: h' = (1 - z) * h + z * n is judged and explained in its own terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.algebra import Exact, Rounded
from conformance.case import Case, Initial, case_from_json, case_to_json
from conformance.cells import cell_named
from conformance.cells.fault import Fault
from conformance.cells.gru import COMPLEMENT
from conformance.compare import Observed, compare, seen, shares
from conformance.diagnosis import leanings, pairs
from conformance.errors import CaseError
from conformance.faults import catalogue
from conformance.gradient import gradients, judge_gradients, planted_gradients
from conformance.gradient_faults import GradientFault, gradient_catalogue
from conformance.judge import hypotheses, judge, observed_of, planted, visible_faults
from conformance.localisation import localise
from conformance.rounding import DTYPES, Array, format_of, round_to
from conformance.signature import GENERIC, Signature, build
from conformance.verdict import Diverges

FORMS = ("gru", "gru_v1")


def generic(
    cell: str, dtype: str = "float32", initial: Initial = "given", *, seed: int = 1, scale: float = 0.8
) -> Case:
    """A generic case, evaluated with the complement."""
    signature = Signature(shape=GENERIC, batched=True, seed=seed, scale=scale, decimals=12, fills=())
    return replace(build(signature, cell=cell, dtype=dtype, initial=initial), evaluation="complement")


def gate(p: dict[str, Array], name: str, x: Array, h: Array) -> Array:
    """The pre-activation of a gate, in the dtype of its arguments."""
    result: Array = x @ p[f"W_x{name}"].T + p[f"b_x{name}"] + h @ p[f"W_h{name}"].T + p[f"b_h{name}"]
    return result


def written_by_hand(case: Case, kind: Any = np.float32, *, plus: float = 0.0, flipped: bool = False) -> Observed:
    """A cell as somebody writes it who has never heard of the canonical convention, on its own parameters.

    plus: added to z's pre-activation; flipped: the convention of the update is the canonical one by mistake.
    """
    p = {name: value.astype(kind) for name, value in COMPLEMENT.parameters(case.parameters).items()}
    x, h = case.x.astype(kind), case.h0.astype(kind)
    states = []
    for step in range(case.shape.time):
        x_t = x[:, step]
        r = 1 / (1 + np.exp(-gate(p, "r", x_t, h)))
        z = 1 / (1 + np.exp(-(gate(p, "z", x_t, h) + kind(plus))))
        masked, outer = (r * h, kind(1.0)) if case.cell == "gru_v1" else (h, r)
        recurrent = outer * (masked @ p["W_hn"].T + p["b_hn"])
        n = np.tanh(x_t @ p["W_xn"].T + p["b_xn"] + recurrent)
        h = (1 - z) * n + z * h if flipped else (1 - z) * h + z * n
        states.append(h.astype(np.float64))
    return Observed(outputs=np.stack(states, axis=1), final_state=states[-1])


def nearly_forgotten(cell: str) -> Case:
    """The canonical z is near 0, so is n, and the state is of order 1."""
    case = generic(cell, scale=0.1)
    quiet = {name: 0.0 * value for name, value in case.parameters.items() if name.endswith("n")}
    forgets = {"b_xz": np.full_like(case.parameters["b_xz"], -9.0)}
    parameters = {**case.parameters, **quiet, **forgets}
    return replace(case, parameters=parameters, x=case.x[:, :1])


@pytest.mark.parametrize("cell", FORMS)
def test_a_conforming_cell_of_the_other_convention_is_not_accused(cell: str) -> None:
    """1 - z has an absolute error of one rounding: many times the canonical bound, inside that of the complement."""
    case = nearly_forgotten(cell)
    observed = written_by_hand(case)
    assert compare(replace(case, evaluation="sequential"), observed).worst > 20.0
    assert 0.0 < compare(case, observed).worst <= 1.0


@pytest.mark.parametrize("cell", FORMS)
def test_the_canonical_convention_is_not_judged_by_the_bound_of_the_other(cell: str) -> None:
    """The two bounds differ in both directions: near z = 0 the canonical one is much the smaller."""
    case = nearly_forgotten(cell)
    observed = observed_of(cell_named(cell).run(replace(case, evaluation="sequential")))
    wide, sharp = (
        compare(one, observed).parts["outputs"].bound for one in (case, replace(case, evaluation="sequential"))
    )
    assert np.median(wide / sharp) > 20.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", FORMS)
def test_conforming_runs_stay_inside_the_bound(cell: str, dtype: str) -> None:
    """Gentle, saturated and chaotic weights, every dtype, emulated; float32 and float64 written by hand as well."""
    for seed in range(6):
        case = generic(cell, dtype, seed=seed, scale=(0.05, 0.8, 4.0, 20.0)[seed % 4])
        runs = [observed_of(cell_named(cell).run(case, ops=Rounded(format_of(dtype))))]
        if dtype in ("float32", "float64"):
            with np.errstate(over="ignore"):  # exp(-a) overflows rightly: 1 / inf = 0
                runs.append(written_by_hand(case, np.dtype(dtype).type))
        assert all(compare(case, observed).explains for observed in runs)
        assert np.allclose(shares([case, case], [runs[0], runs[0]]), compare(case, runs[0]).worst)


@pytest.mark.parametrize("cell", FORMS)
def test_in_real_numbers_both_conventions_are_one(cell: str) -> None:
    """The same states to the last few bits of float64, and the complement of z."""
    case = generic(cell, "float64")
    there, here = (cell_named(cell).run(one) for one in (case, replace(case, evaluation="sequential")))
    assert np.abs(there.outputs - here.outputs).max() < 1e-14
    assert np.allclose(there.intermediates["z"], 1.0 - here.intermediates["z"], atol=1e-15)
    assert np.array_equal(there.intermediates["r"][:, 0], here.intermediates["r"][:, 0])


@pytest.mark.parametrize(("name", "how"), [("z_bias_plus1", {"plus": 1.0}), ("update_flip", {"flipped": True})])
@pytest.mark.parametrize("cell", FORMS)
def test_a_fault_is_one_of_the_convention_it_is_made_in(cell: str, name: str, how: dict[str, Any]) -> None:
    """Made by hand in the other convention it has its name there, and is another function than the canonical fault."""
    case = generic(cell)
    observed = written_by_hand(case, **how)
    verdict = judge(case, observed, ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == (name,)
    if name == "z_bias_plus1":
        canonical = judge(replace(case, evaluation="sequential"), observed, ())
        assert isinstance(canonical, Diverges)
        assert canonical.faults == ()


@pytest.mark.parametrize("cell", FORMS)
def test_the_same_faults_can_show(cell: str) -> None:
    """What is visible on the probe of the canonical convention is visible in the other one, and nothing else is."""
    case = generic(cell, "float64")
    truth = cell_named(cell).run(case).outputs
    for name, fault in catalogue(cell).items():
        if fault.arithmetic is not None:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            moved = not float(np.abs(fault.run(case, Exact()).outputs - truth).max()) <= 1e-6
        assert moved == (name in visible_faults(cell, "given"))


@pytest.mark.parametrize("initial", ["given", "omitted"])
@pytest.mark.parametrize("cell", FORMS)
def test_gradients_are_those_of_the_canonical_parameters(cell: str, initial: Initial) -> None:
    """The sign of the z rows goes back: both conventions have the same gradients."""
    case = generic(cell, "float64", initial)
    generator = np.random.default_rng(4)
    case = replace(case, cotangents={"outputs": generator.normal(size=(*case.x.shape[:2], case.shape.hidden))})
    along = seen(case, planted(case, Fault(name="none", statement="")))
    there, here = (gradients(one, along, Exact()) for one in (case, replace(case, evaluation="sequential")))
    assert there.keys() == here.keys() >= {"x", "h0", *case.parameters}
    for name, value in here.items():
        assert np.allclose(there[name], value, rtol=1e-9, atol=1e-12), name
        assert np.abs(value).max() > 1e-4


OWN = gradient_catalogue("gru_v1")["update_gate_gradient_missing"]


@pytest.mark.parametrize(
    "fault",
    [*(catalogue("gru_v1")[n] for n in ("z_bias_plus1", "swap_rz", "update_flip", "x_transposed")), OWN],
    ids=lambda fault: fault.name,
)
def test_gradients_of_a_faulty_cell_are_explained_by_its_fault(fault: Fault | GradientFault) -> None:
    """Forward faults and the faults of gradients have their names in the other convention."""
    case = generic("gru_v1", "float32")
    generator = np.random.default_rng(4)
    given = {"outputs": round_to("float32", generator.normal(size=(*case.x.shape[:2], case.shape.hidden)))}
    case = replace(case, cotangents=given)
    verdict = judge_gradients(case, planted_gradients(case, fault), ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == (fault.name,)


def test_a_wrong_entry_is_located_in_the_cells_own_parameters() -> None:
    """A fault of no name: one entry of the cell's W_hz; the sentence has the numbers that stand in the cell."""
    case = generic("gru_v1")
    fault = Fault(
        name="nameless",
        statement="",
        parameters=lambda p: {"W_hz": p["W_hz"] + 0.4 * np.eye(8)[[3]].T @ np.eye(8)[[5]]},
    )
    place = localise(case, planted(case, fault))
    assert place is not None
    own = -case.parameters["W_hz"][3, 5]
    assert f"W_hz[3, 5] taken as {own + 0.4:.4g} in place of {own:.4g}" in " ".join(place.sentences)
    assert place.units == (3,)


def test_two_faults_at_once_are_named() -> None:
    """Pairs are searched in the convention of the case."""
    case = generic("gru")
    both = Fault(
        name="both",
        statement="",
        parameters=catalogue("gru")["z_bias_plus1"].parameters,
        equations=catalogue("gru")["update_forgets"].equations,
    )
    observed = planted(case, both)
    assert pairs(case, observed, hypotheses(case, observed)) == (("update_forgets", "z_bias_plus1"),)


def test_a_correct_run_leans_to_nothing() -> None:
    """The matched filter is evaluated in the convention of the case, too."""
    case = generic("gru_v1")
    found = leanings(case, written_by_hand(case), catalogue("gru_v1"))
    assert len(found) > 40
    assert not [lean.fault for lean in found if lean.suspected]


def test_equations_are_told_in_the_convention_of_the_reader() -> None:
    """Alone each in its own form, side by side in both; what does not differ is told once."""
    flip, bias = catalogue("gru")["update_flip"], catalogue("gru")["z_bias_plus1"]
    assert flip.told("sequential").right == "h' = (1 - z) * n + z * h" == flip.told("complement").equation
    assert flip.told("complement").right == "h' = (1 - z) * h + z * n" == flip.told("sequential").equation
    both = flip.told("sequential", "complement")
    for told in (flip.told("sequential"), flip.told("complement")):
        assert told.statement in both.statement
        assert told.right in both.right
        assert told.equation in both.equation
    assert bias.told("complement") == bias.told("sequential")


def test_only_a_gru_has_a_complement() -> None:
    """Other cells refuse it; a case file keeps it."""
    signature = Signature(shape=GENERIC, batched=True, seed=1, scale=0.8, decimals=12, fills=())
    case = replace(build(signature, cell="lstm", dtype="float32", initial="given"), evaluation="complement")
    with pytest.raises(CaseError, match="complement"):
        compare(case, planted(replace(case, evaluation="sequential"), Fault(name="none", statement="")))
    case = generic("gru")
    assert case_from_json(case_to_json(case)).evaluation == "complement"
    assert case.digest != replace(case, evaluation="sequential").digest
