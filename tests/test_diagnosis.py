"""Diagnosis: leanings inside the bound, pairs of faults, and what can be told of a fault that is in no catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.algebra import SIGMOID, TANH, Activation, Algebra, Rounded
from conformance.case import Case, Initial, Parameters, Shape, make_case
from conformance.cells.cell import Cell
from conformance.cells.fault import Fault
from conformance.cells.registry import cell_named
from conformance.compare import Observed, compare
from conformance.diagnosis import compose, lasting, leanings, pairs, smallest_found
from conformance.faults import catalogue
from conformance.judge import hypotheses, observed_of, planted
from conformance.localisation import KEPT, Localisation, localise
from conformance.rounding import DTYPES, Array, format_of, round_to
from conformance.signature import GENERIC, Signature, build


def generic(cell: str = "gru", dtype: str = "float32", initial: Initial = "given", seed: int = 5) -> Case:
    """A generic case of shape (4, 12, 6, 8) of any cell."""
    generator = np.random.default_rng(seed)
    kind = cell_named(cell)
    output = 5 if kind.projected else 8
    shapes = kind.shapes({"D": 6, "H": 8, "P": output}, 1, 1)
    return make_case(
        cell=cell,
        dtype=dtype,
        parameters={name: generator.normal(size=shape) * 0.4 for name, shape in shapes.items()},
        x=generator.standard_normal((4, 12, 6)),
        initial=initial,
        h0=generator.uniform(0.1 if kind.positive else -1.0, 1.0, (4, output)),
        c0=generator.uniform(-1.0, 1.0, (4, 8)) if kind.carry is not None else None,
    )


def ran(case: Case, cell: Cell[Any] | None = None, **changes: Any) -> Observed:
    """What an implementation with a defect of no name returns."""
    kind = cell if cell is not None else cell_named(case.cell)
    fault = Fault(name="nameless", statement="", **{"equations": kind.equations, **changes})
    return observed_of(
        kind.run(fault.misread(case), ops=Rounded(format_of(case.dtype)), variation=fault.variation),
    )


def shifted(name: str, *index: int, by: float = 0.3) -> Callable[[Parameters], Mapping[str, Array]]:
    """One entry of one parameter is wrong."""

    def misread(p: Parameters) -> Mapping[str, Array]:
        value = p[name].copy()
        value[index] += by
        return {name: value}

    return misread


def found(case: Case, observed: Observed) -> Localisation:
    """The localisation of something that diverges and that no fault of the catalogue explains."""
    assert not any(share <= 1.0 for share in hypotheses(case, observed).values())
    located = localise(case, observed)
    assert located is not None
    return located


def blamed(located: Localisation) -> set[str]:
    """The intermediates for which a simple cause is told."""
    return {suspect.name for suspect in located.suspects if suspect.simple}


# Leanings


def small_bias(size: float, seed: int, hidden: int = 64) -> Case:
    """A float32 case whose b_hn is of this size, without an initial state."""
    shape = replace(GENERIC, hidden=hidden)
    signature = Signature(shape=shape, batched=True, seed=seed, scale=0.8, decimals=12, fills=())
    case = build(signature, cell="gru", dtype="float32", initial="omitted")
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], hidden)
    return replace(case, parameters={**case.parameters, "b_hn": round_to("float32", size * signs)})


@pytest.mark.parametrize("seed", range(4))
def test_a_fault_inside_the_bound_is_suspected_by_its_name(seed: int) -> None:
    """A dropped term too small for the bound, spread over many units, is seen by the matched filter."""
    case = small_bias(2.0**-22.25, seed)
    observed = planted(case, catalogue("gru")["drop_rbhn_t0"])
    assert compare(case, observed).explains, "not inside the bound: the test would show nothing"
    names = ("drop_rbhn_t0", "drop_bhr", "bi_twice", "swap_rz", "update_flip", "hard_sigmoid")
    suspected = [lean.fault for lean in leanings(case, observed, names) if lean.suspected]
    assert suspected == ["drop_rbhn_t0"]


@pytest.mark.parametrize("seed", range(4))
def test_a_small_fault_that_is_not_there_is_ruled_out(seed: int) -> None:
    """The same case run correctly: the same fault is significantly absent."""
    case = small_bias(2.0**-22.25, seed)
    right = observed_of(cell_named("gru").run(case, ops=Rounded(format_of("float32"))))
    (lean,) = leanings(case, right, ["drop_rbhn_t0"])
    assert lean.ruled_out
    assert not lean.suspected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.8, 20.0])
def test_nothing_is_suspected_of_correct_implementations(scale: float, dtype: str) -> None:
    """Tiny to saturating weights, constant inputs, a state at rest, equal units: none looks like a fault."""
    for fills in (
        (),
        (("x", 1),),
        (("W_h", 1), ("b_h", 1)),
        (("x", 1), ("W_x", 1), ("W_h", 1), ("b_x", 1), ("b_h", 1)),
    ):
        shape = replace(GENERIC, time=30)
        signature = Signature(shape=shape, batched=True, seed=2, scale=scale, decimals=12, fills=fills)
        case = build(signature, cell="gru", dtype=dtype, initial="given")
        right = observed_of(cell_named("gru").run(case, ops=Rounded(format_of(dtype))))
        found_ = leanings(case, right, catalogue("gru"))
        assert not any(lean.suspected for lean in found_)
        assert max((abs(lean.z) for lean in found_), default=0.0) < 5.0


@pytest.mark.parametrize("size", [2.0**-25, 2.0**-24, 2.0**-22])
def test_a_folded_bias_that_vanishes_is_not_suspected(size: float) -> None:
    """b_xr + b_hr folded in float32 may lose b_xr altogether: that is rounding, and looks exactly like a fault."""
    case = generic()
    tiny = {**case.parameters, "b_xr": np.full(8, round_to("float32", np.array(size)))}
    tiny["b_hr"] = round_to("float32", np.full(8, 0.75))
    case = replace(case, parameters=tiny)
    folded = {"b_xr": np.zeros(8), "b_hr": round_to("float32", tiny["b_xr"] + tiny["b_hr"])}
    observed = ran(case, parameters=lambda _: folded)
    assert compare(case, observed).explains
    assert not any(lean.suspected for lean in leanings(case, observed, catalogue("gru")))


def test_faults_of_precision_and_of_no_effect_have_no_leaning() -> None:
    """What predicts the same as the reference cannot be leant to."""
    case = generic(initial="omitted")
    right = observed_of(cell_named("gru").run(case, ops=Rounded(format_of("float32"))))
    assert leanings(case, right, ["tf32_products", "h0_ignored", "lengths_ignored"]) == ()


def test_a_wrong_number_gives_no_leaning() -> None:
    """NaN leans nowhere."""
    case = generic()
    right = observed_of(cell_named("gru").run(case))
    assert leanings(case, replace(right, outputs=np.full_like(right.outputs, np.nan)), catalogue("gru")) == ()


def test_the_smallest_fault_found_is_far_below_fixed_tolerances() -> None:
    """Few trials of the figures that a command prints."""
    figures = smallest_found(Shape(batch=2, time=4, features=5, hidden=4), trials=4)
    assert figures.bound is not None
    assert figures.spread is not None
    assert figures.close is not None
    assert figures.loose is not None
    assert figures.spread <= figures.bound <= 4e-6
    assert 10.0 * figures.bound < figures.close < figures.loose


# Pairs


@pytest.mark.parametrize(
    "names",
    [
        ("drop_bhn", "swap_rz"),
        ("hard_sigmoid", "no_tanh"),
        ("reversed_time", "update_flip"),
        ("drop_rbhn_t0", "state_lane0"),
    ],
)
def test_two_planted_faults_are_both_named(names: tuple[str, str]) -> None:
    """No fault alone explains what two did; the two together do, and no other two."""
    case = generic(initial="omitted")
    one, other = (catalogue("gru")[name] for name in names)
    both = compose(one, other, cell_named("gru").equations)
    assert both is not None
    observed = planted(case, both)
    assert pairs(case, observed, hypotheses(case, observed)) == (tuple(sorted(names)),)


def test_a_fault_with_a_coarser_arithmetic_is_a_pair() -> None:
    """A dropped bias in products of bfloat16 operands is told as both."""
    case = generic(initial="omitted")
    one, other = catalogue("gru")["drop_bhn"], catalogue("gru")["bfloat16_products"]
    both = compose(one, other, cell_named("gru").equations)
    assert both is not None
    observed = planted(case, both)
    assert pairs(case, observed, hypotheses(case, observed)) == (("bfloat16_products", "drop_bhn"),)


def test_what_one_fault_explains_needs_no_pair() -> None:
    """Pairs are not searched where a single name will do."""
    case = generic()
    observed = planted(case, catalogue("gru")["swap_rz"])
    assert pairs(case, observed, hypotheses(case, observed)) == ()


def test_an_unknown_fault_is_no_pair() -> None:
    """A defect outside the catalogue is not explained by any two of its faults."""
    case = generic()
    observed = ran(case, parameters=shifted("W_hz", 2, 5))
    assert pairs(case, observed, hypotheses(case, observed)) == ()


def test_faults_of_the_same_thing_do_not_compose() -> None:
    """Two wirings, or two activations of the same gate, are not one implementation."""
    faults = catalogue("gru")
    right = cell_named("gru").equations
    assert compose(faults["reversed_time"], faults["skip_t0"], right) is None
    assert compose(faults["hard_sigmoid"], faults["gate_tanh"], right) is None
    assert compose(faults["no_tanh"], faults["relu_new"], right) is None


# Faults that begin late


def test_a_fault_that_begins_late_is_told_with_its_step() -> None:
    """Right up to step 4, swapped gates from step 5 on."""
    case = generic()
    first = observed_of(cell_named("gru").run(case, ops=Rounded(format_of("float32"))))
    rest = replace(case, x=case.x[:, 5:], h0=first.outputs[:, 4])
    later = planted(rest, catalogue("gru")["swap_rz"])
    outputs = np.concatenate([first.outputs[:, :5], later.outputs], axis=1)
    observed = Observed(outputs=outputs, final_state=outputs[:, -1])
    assert lasting(case, observed, catalogue("gru")["swap_rz"]).startswith(
        "behaves exactly like swap_rz from step 5 on; residual "
    )
    assert lasting(case, observed, catalogue("gru")["update_flip"]) == ""


# Localisation


@pytest.mark.parametrize(
    ("cell", "name", "index", "gate"),
    [
        ("gru", "W_hz", (2, 5), "z"),
        ("gru", "W_hn", (2, 5), "n"),
        ("gru", "W_xr", (2, 5), "r"),
        ("gru", "b_hn", (3,), "n"),
        ("gru_v1", "W_hn", (2, 5), "n"),
        ("lstm", "W_hi", (3, 4), "i"),
        ("lstm", "W_hf", (6, 7), "f"),
        ("lstm", "W_hg", (0, 1), "g"),
        ("lstm", "W_xo", (6, 5), "o"),
        ("elman", "W_h", (6, 7), "h"),
        ("mingru", "W_z", (3, 3), "z"),
        ("mingru_log", "W_n", (3, 3), "n"),
        ("minlstm", "W_f", (3, 3), "sigmoid(W_f, b_f)"),
    ],
)
def test_one_wrong_weight_is_found_by_name_and_place(cell: str, name: str, index: tuple[int, ...], gate: str) -> None:
    """The entry, its value, and the intermediate it enters, also without the memory; nothing else is blamed."""
    case = generic(cell)
    returned = ran(case, parameters=shifted(name, *index))
    for observed in (returned, replace(returned, cells=None))[: 1 if returned.cells is None else 2]:
        located = localise(case, observed)
        assert located is not None
        assert located.units == (index[0],)
        assert blamed(located) == {gate}
        (suspect,) = (suspect for suspect in located.suspects if suspect.simple)
        causes = {cause.what: cause.taken for cause in suspect.causes[index[0]]}
        label = f"{name}[{', '.join(map(str, index))}]"
        assert causes[label] == pytest.approx(case.parameters[name][index] + 0.3, abs=1e-3)


def changed(name: str, function: Callable[[Array], Array]) -> Cell[Any]:
    """A GRU in which one gate has another activation."""
    right = {"r": SIGMOID, "z": SIGMOID, "n": TANH}
    odd = {**right, name: Activation(name="odd", function=function, slope=right[name].slope, bend=None)}

    def project(p: Parameters, x: Any, h: Any, start: Array, ops: Algebra[Any], eq: Any) -> dict[str, Any]:
        def entering(gate: str) -> tuple[Any, ...]:
            return ops.dot(p[f"W_x{gate}"], x), ops.lift(p[f"b_x{gate}"])

        def argument(gate: str) -> Any:
            return ops.total(*entering(gate), ops.dot(p[f"W_h{gate}"], h), ops.lift(p[f"b_h{gate}"]))

        r = ops.apply(odd["r"], argument("r"))
        z = ops.apply(odd["z"], argument("z"))
        n = ops.apply(odd["n"], ops.total(*entering("n"), eq.reset(p, r, h, start, ops)))
        return {"r": r, "z": z, "n": n}

    return replace(cell_named("gru"), project=project)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("r", lambda a: SIGMOID.function(a) ** 2),
        ("z", lambda a: SIGMOID.function(a) ** 2),
        ("z", lambda a: SIGMOID.function(np.clip(a, -0.5, 0.5))),
        ("n", lambda a: np.tanh(np.clip(a, -0.5, 0.5))),
        ("n", lambda a: np.tanh(0.9 * a)),
    ],
    ids=["r squared", "z squared", "z clipped", "n clipped", "n scaled"],
)
def test_another_activation_is_found_in_its_gate(name: str, function: Callable[[Array], Array]) -> None:
    """A gate that is another function of the same argument is the only one with a simple cause."""
    case = generic()
    located = found(case, ran(case, changed(name, function)))
    assert blamed(located) == {name}
    assert any(sentence.startswith(f"explained by {name} being another function") for sentence in located.sentences)


def test_a_wrong_input_of_one_gate_blames_no_other() -> None:
    """z computed from tanh(x) has no simple cause; r and n are cleared, and z remains."""

    def project(p: Parameters, x: Any, h: Any, start: Array, ops: Algebra[Any], eq: Any) -> dict[str, Any]:
        right = cell_named("gru").project(p, x, h, start, ops, eq)
        return {**right, "z": cell_named("gru").project(p, ops.apply(TANH, x), h, start, ops, eq)["z"]}

    case = generic()
    located = found(case, ran(case, replace(cell_named("gru"), project=project)))
    assert blamed(located) == set()
    assert {suspect.name for suspect in located.suspects} <= {"z", KEPT}
    assert "z" in {suspect.name for suspect in located.suspects}
    assert set(located.cleared) == {"r", "n"}


def decayed(cell: str, where: str, by: float = 0.99) -> Callable[..., Any]:
    """An update whose new state, or whose old one, is a multiple of what it should be."""
    right = cell_named(cell).equations.update

    def update(z: Any, n: Any, h: Any, ops: Algebra[Any]) -> Any:
        factor = ops.lift(np.full((1, 1), by))
        return ops.times(factor, right(z, n, h, ops)) if where == "new" else right(z, n, ops.times(factor, h), ops)

    return update


@pytest.mark.parametrize(("where", "named"), [("new", "the new state h'"), ("old", KEPT)])
@pytest.mark.parametrize("cell", ["gru", "gru_v1"])
def test_a_decaying_state_is_a_factor_and_blames_no_gate(cell: str, where: str, named: str) -> None:
    """0.99 is told, with what it multiplies."""
    case = generic(cell)
    located = found(case, ran(case, equations=replace(cell_named(cell).equations, update=decayed(cell, where))))
    assert blamed(located) == set()
    assert [scale.what for scale in located.scales] == [f"the factor of {named}"]
    assert located.scales[0].taken == pytest.approx(0.99, abs=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_sixteen_bits_a_cause_is_only_consistent(dtype: str) -> None:
    """Several causes lie within the bound there: none is told as the explanation."""
    case = generic(dtype=dtype)
    weight = found(case, ran(case, parameters=shifted("W_hz", 2, 5)))
    function = found(case, ran(case, changed("n", lambda a: np.tanh(np.clip(a, -0.5, 0.5)))))
    half = replace(cell_named("gru").equations, update=decayed("gru", "new", 0.75))
    factor = found(case, ran(case, equations=half))
    late = lasting(case, planted(case, catalogue("gru")["swap_rz"]), catalogue("gru")["swap_rz"])
    told = [weight.sentences, function.sentences, factor.sentences, (late,)]
    for sentences, start in zip(
        told,
        (
            "consistent in z with W_hz[2, ",
            "consistent with n being another function",
            "consistent with one factor: the factor of the new state h'",
            "is consistent with swap_rz; ",
        ),
        strict=True,
    ):
        assert any(sentence.startswith(start) for sentence in sentences), sentences
        assert not any(word in sentence for sentence in sentences for word in ("explained", "must", "exactly"))
    assert weight.low_precision
    if dtype == "bfloat16":
        (suspect,) = (suspect for suspect in weight.suspects if suspect.name == "z")
        assert len(suspect.causes[2]) > 1


def test_a_bias_that_appears_late_is_told_with_its_step() -> None:
    """One unit's bias is wrong from step 4 on."""
    case = generic()
    first = observed_of(cell_named("gru").run(case, ops=Rounded(format_of("float32"))))
    rest = replace(case, x=case.x[:, 4:], h0=first.outputs[:, 3])
    outputs = np.concatenate([first.outputs[:, :4], ran(rest, parameters=shifted("b_xz", 3)).outputs], axis=1)
    located = found(case, Observed(outputs=outputs, final_state=outputs[:, -1]))
    assert located.first[1] == 4
    assert located.extent == "from step 4 on, in every row, unit 3"
    assert blamed(located) == {"z"}
    assert {suspect.since for suspect in located.suspects if suspect.simple} == {4}


def test_a_missing_entry_is_called_missing() -> None:
    """An entry whose explaining values include zero is not given a small number."""
    case = generic()
    value = case.parameters["b_hn"][2]
    located = localise(case, ran(case, parameters=shifted("b_hn", 2, by=-float(value))))
    assert located is not None
    assert any(f"b_hn[2] = {value:.4g} missing" in sentence for sentence in located.sentences)


def test_the_reset_gate_of_the_first_form_is_said_to_be_unknown() -> None:
    """In the reset-before form one r reaches every unit: nothing is solved for, and nothing is claimed."""
    case = generic("gru_v1")
    located = found(case, ran(case, parameters=shifted("W_xr", 2, 5)))
    assert located.untested == ("r",)
    assert blamed(located) == set()
    assert any("r (which cannot be solved for from what is observed)" in s for s in located.sentences)


def test_the_guilty_gate_of_a_peephole_is_never_cleared() -> None:
    """Gates that look at the memory cannot be solved for; with the memory hidden, none is cleared wrongly."""
    case = generic("lstm_peephole")
    for name, gate in (("W_hi", "i"), ("W_hf", "f"), ("W_hg", "g"), ("W_ho", "o")):
        observed = ran(case, parameters=shifted(name, 2, 5))
        for one in (observed, replace(observed, cells=None)):
            located = localise(case, one)
            assert located is not None
            assert gate not in located.cleared


@pytest.mark.parametrize("cell", ["gru", "gru_v1", "lstm", "elman_relu", "mingru", "minlstm_log"])
def test_no_entry_of_any_parameter_clears_its_own_gate(cell: str) -> None:
    """For every other array of a cell: what is wrong in a gate never clears that gate."""
    case = generic(cell)
    for name, value in list(case.parameters.items())[::2]:
        index = tuple(size // 2 for size in value.shape)
        located = localise(case, ran(case, parameters=shifted(name, *index)))
        if located is not None:
            assert name[-1] not in located.cleared or cell.startswith("min")
            assert not any(name in label for label in located.cleared)


def test_agreement_and_a_wrong_final_state_have_no_place() -> None:
    """Without a wrong output there is nothing to localise."""
    case = generic()
    right = observed_of(cell_named("gru").run(case, ops=Rounded(format_of("float32"))))
    assert localise(case, right) is None
    assert localise(case, replace(right, final_state=right.final_state + 1.0)) is None
