"""Cases: malformed ones are refused with a message, sound ones survive JSON, files and projection."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from conformance.case import Case, Initial, Padding, case_from_json, case_to_json, make_case
from conformance.cells import CELLS, cell_named
from conformance.discover import data_folder
from conformance.draws import Lattice
from conformance.errors import CaseError
from conformance.inputs import lattice_of, read_case, read_weights, shipped_cases
from conformance.requirement import REQUIREMENTS
from conformance.rounding import DTYPES, round_to
from conformance.signature import CONSTANT, GENERIC, LATTICE, RELATION, ZERO, Signature, build
from conformance.strategies import signature_of

EVERYTHING = ("lengths", "reverse", "bidirectional", "layers", "gradients")
"""Every feature that a generated case can have."""


def a_case(cell: str = "gru", dtype: str = "float32", *, features: tuple[str, ...] = ()) -> Case:
    """A small case with a given state."""
    signature = Signature(shape=LATTICE[2][0], batched=True, seed=1, scale=0.8, decimals=12, fills=())
    return build(signature, cell=cell, dtype=dtype, initial="given", features=features, padding="free")


def drawn(
    cell: str,
    dtype: str = "float32",
    *,
    initial: Initial = "given",
    features: tuple[str, ...] = (),
    padding: Padding = "zeros",
    lattice: Lattice = LATTICE,
) -> st.SearchStrategy[Case]:
    """Cases as they are generated."""

    def case(number: int) -> Case:
        signature = signature_of(number, cell=cell, lattice=lattice)
        return build(signature, cell=cell, dtype=dtype, initial=initial, features=features, padding=padding)

    return st.integers(0, 2**256 - 1).map(case)


@pytest.mark.parametrize("features", [(), EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["gru", "lstm_projection", "mingru_log"])
def test_json_keeps_every_bit(cell: str, dtype: str, features: tuple[str, ...]) -> None:
    """A case written as JSON and read back is the same input, to the last bit and the last feature."""
    case = a_case(cell, dtype, features=features)
    if features:
        case = replace(case, strided=True, inputs_back=True)
    back = case_from_json(json.loads(json.dumps(case_to_json(case))))
    assert back.digest == case.digest
    assert (back.origin, back.shape, back.features) == (case.origin, case.shape, case.features)
    assert (back.lengths, back.padding, back.evaluation) == (case.lengths, case.padding, case.evaluation)
    assert set(features) <= set(back.features)


def test_a_plain_case_is_written_without_what_it_does_not_need() -> None:
    """Files of plain cases stay short: no memory, no lengths, no cotangents."""
    plain = {"format", "cell", "dtype", "initial", "batched", "origin", "parameters", "x", "h0"}
    assert case_to_json(replace(a_case(), padding="zeros")).keys() == plain


def test_json_keeps_numbers_that_are_not_finite() -> None:
    """A special case has NaN and infinities in its inputs, and JSON, which has none, brings them back."""
    x = a_case().x.copy()
    x[0, 0, 0], x[0, 1, 0], x[1, 2, 1] = np.nan, np.inf, -np.inf
    case = replace(a_case(), x=x, special=True)
    back = case_from_json(json.loads(json.dumps(case_to_json(case), allow_nan=False)))
    np.testing.assert_array_equal(back.x, case.x)
    assert back.special


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": (3, 1)},
        {"reverse": True},
        {"strided": True},
        {"inputs_back": True},
        {"initial": "zeros", "h0": np.zeros((2, 3))},
        {"cotangents": {"outputs": np.ones((2, 3, 3))}},
    ],
    ids=["lengths", "reverse", "strided", "inputs back", "zeros", "cotangents"],
)
def test_the_digest_tells_inputs_apart(changes: dict[str, object]) -> None:
    """The same numbers in another situation are another input."""
    assert replace(a_case(), **changes).digest != a_case().digest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float8"}, "unknown dtype"),
        ({"initial": "random"}, "unknown initial state"),
        ({"x": np.zeros((2, 3, 0))}, "must be \\(B, T, D\\)"),
        ({"x": np.zeros((3, 2))}, "must be \\(B, T, D\\)"),
        ({"x": np.zeros((0, 3, 2))}, "h0 must be \\(B, layers \\* directions \\* H\\)"),
        ({"h0": np.zeros((5, 3))}, "h0 must be \\(B, layers \\* directions \\* H\\)"),
        ({"h0": np.zeros((2, 0))}, "h0 must be"),
        ({"directions": 2}, "h0 must be"),
        ({"layers": 2}, "h0 must be"),
        ({"c0": np.zeros((1, 3))}, "c0 must be"),
        ({"layers": 0}, "no such stack"),
        ({"directions": 3}, "no such stack"),
        ({"lengths": (3,)}, "one number in 0 ... T for each row"),
        ({"lengths": (3, 4)}, "one number in 0 ... T for each row"),
        ({"lengths": (3, -1)}, "one number in 0 ... T for each row"),
        ({"cotangents": {"outputs": np.full((2, 3, 3), 0.1)}}, "not exactly representable in float32"),
        ({"parameters": {"W_xr": np.full((3, 2), np.nan)}, "special": True}, "only finite numbers"),
        ({"x": np.full((2, 3, 2), np.nan)}, "only finite numbers"),
        ({"h0": np.full((2, 3), np.inf)}, "only finite numbers"),
        ({"x": np.full((2, 3, 2), 0.1)}, "not exactly representable in float32"),
        ({"initial": "omitted"}, "only a given initial state"),
        ({"batched": False}, "has one row"),
    ],
)
def test_malformed_cases_are_refused(changes: dict[str, object], message: str) -> None:
    """Every malformed field gets its own message."""
    case = a_case()
    with pytest.raises(CaseError, match=message):
        replace(case, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", CELLS)
def test_cases_without_steps_or_rows_are_legal(cell: str) -> None:
    """No steps give no outputs and the initial state; no rows give nothing."""
    case = a_case(cell)
    no_steps = cell_named(cell).run(replace(case, x=case.x[:, :0]))
    assert no_steps.outputs.shape == (2, 0, case.shape.output)
    np.testing.assert_array_equal(no_steps.final_state, case.h0)
    if case.c0 is not None:
        np.testing.assert_array_equal(no_steps.final_cell, case.c0)
    no_rows = replace(case, x=case.x[:0], h0=case.h0[:0], c0=None if case.c0 is None else case.c0[:0])
    nothing = cell_named(cell).run(no_rows)
    assert (nothing.outputs.shape, nothing.final_state.shape) == ((0, 3, case.shape.output), (0, case.shape.output))


def test_cases_are_immutable() -> None:
    """Arrays cannot be written, and changing the source array does not change the case."""
    x = np.zeros((1, 2, 1))
    case = make_case(cell="gru", dtype="float32", parameters={}, x=x, initial="omitted", hidden=2)
    x[:] = 5
    assert not case.x.any()
    with pytest.raises(ValueError, match="read-only"):
        case.x[0, 0, 0] = 1


@pytest.mark.parametrize("data", [None, [], {}, {"format": "other"}, {"format": "rnn-conformance-case-1"}])
def test_json_that_is_no_case_is_refused(data: object) -> None:
    """Anything else than a case of this format has one clear message."""
    with pytest.raises(CaseError, match=r"not a case|lacks a field"):
        case_from_json(data)


def test_json_with_ragged_arrays_is_refused() -> None:
    """A list of lists of different lengths is no array."""
    data = case_to_json(a_case())
    data["x"] = [[[1.0], [1.0, 2.0]]]
    with pytest.raises(CaseError, match="no array of numbers"):
        case_from_json(data)


@pytest.mark.parametrize(("content", "message"), [(None, "cannot read"), ("{oops", "not JSON"), ("[]", "not a case")])
def test_a_bad_case_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    """A missing, malformed or foreign file is told apart, with its path."""
    path = tmp_path / "case.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CaseError, match=message) as caught:
        read_case(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_bad_weights_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """A weights file that is missing, empty, garbage, or of another format has one message with its path."""
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaseError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cell", CELLS)
def test_every_requirement_has_shipped_cases(cell: str) -> None:
    """In every dtype there are several different cases that fit the cell and have the features asked about."""
    for requirement in REQUIREMENTS.values():
        if requirement.cell != cell:
            continue
        for dtype in requirement.dtypes or DTYPES:
            found = list(shipped_cases(requirement, dtype))
            assert len({case.digest for case in found}) == len(found) >= 2, requirement.name
            for case in found:
                cell_named(cell).check(case)
                assert (case.dtype, case.initial) == (dtype, requirement.initial)
                assert set(case.features) == set(requirement.features) & set(EVERYTHING)
                assert case.origin.startswith("shipped: ")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["gru", "gru_v1"])
def test_the_gru_is_asked_on_the_shared_weights(cell: str, dtype: str) -> None:
    """Reference agreement of both GRU forms uses every weights file: the seed-42 repro and a trained model, too."""
    for name in ("hidden_none", "hidden_zeros", "hidden_given"):
        origins = {case.origin for case in shipped_cases(REQUIREMENTS[f"{cell}_{name}"], dtype)}
        assert {"shipped: mlx_seed42", "shipped: character_gru"} <= origins
        assert len(origins) == len(list((data_folder("fixtures") / "weights").glob("*.safetensors")))


def test_relations_are_tried_on_one_shape() -> None:
    """They run a case in several ways and shapes; agreement with the reference is tried on the whole lattice."""
    plain = REQUIREMENTS["gru_hidden_given"]
    assert lattice_of(plain, "float32") is LATTICE
    assert set(lattice_of(plain, "bfloat16")) < set(LATTICE)
    for name in ("gru_split", "gru_gradient", "gru_reverse_lengths"):
        assert lattice_of(REQUIREMENTS[name], "float32") == ((RELATION, True),)


def test_projection_zeroes_the_named_parameters_only() -> None:
    """A case projected on a subspace differs in those parameters and in nothing else."""
    case = a_case()
    projected = case.zeroed(("b_hn",))
    assert not projected.parameters["b_hn"].any()
    for name in case.parameters.keys() - {"b_hn"}:
        np.testing.assert_array_equal(projected.parameters[name], case.parameters[name])
    assert projected.digest != case.digest


def test_projection_reaches_every_layer_and_direction() -> None:
    """The parameter is zero in all blocks of a stack."""
    projected = a_case(features=("bidirectional", "layers")).zeroed(("b_hn",))
    zero = {name for name, value in projected.parameters.items() if not value.any()}
    assert zero == {"b_hn", "0r.b_hn", "1.b_hn", "1r.b_hn"}


@pytest.mark.parametrize("initial", ["omitted", "zeros", "given"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_generated_cases_are_sound(dtype: str, initial: Initial) -> None:
    """Whatever is drawn passes the cell's own checks, in the lattice and exactly representable."""
    seen = set()

    @settings(max_examples=150, database=None, deadline=None, derandomize=True)
    @given(drawn("gru", dtype, initial=initial))
    def check(case: Case) -> None:
        cell_named("gru").check(case)
        assert (case.shape, case.batched) in LATTICE
        assert (case.initial, case.dtype) == (initial, dtype)
        np.testing.assert_array_equal(round_to(dtype, case.x), case.x)
        assert initial == "given" or not case.h0.any()
        seen.add((case.shape, case.batched))

    check()
    assert len(seen) == len(LATTICE)


@pytest.mark.parametrize("cell", CELLS)
def test_generated_cases_have_the_features_asked_for(cell: str) -> None:
    """Padded rows, both directions, two layers, cotangents: in every cell, and one row is always shorter than T."""
    lattice = ((RELATION, True),)

    @settings(max_examples=15, database=None, derandomize=True)
    @given(drawn(cell, features=EVERYTHING, padding="free", lattice=lattice))
    def check(case: Case) -> None:
        cell_named(cell).check(case)
        assert case.features == EVERYTHING
        assert case.padding == "free"
        assert case.lengths is not None
        assert min(case.lengths) >= 1
        assert min(case.lengths) < max(case.lengths) == case.shape.time
        assert (case.h0 > 0).all() or not cell_named(cell).positive
        assert case.shape.output < case.shape.hidden or not cell_named(cell).projected
        wanted = {"outputs": 2, "final_state": 4} | ({"final_cell": 4} if case.c0 is not None else {})
        widths = {"outputs": case.shape.output, "final_state": case.shape.output, "final_cell": case.shape.hidden}
        assert {name: value.shape[-1] for name, value in case.cotangents.items()} == {
            name: blocks * widths[name] for name, blocks in wanted.items()
        }

    check()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, database=None, deadline=None)
def test_generic_cases_have_telling_biases(seed: int) -> None:
    """Generic biases are clearly non-zero, and b_x differs from b_h: nothing hides."""
    signature = Signature(shape=GENERIC, batched=True, seed=seed, scale=0.8, decimals=12, fills=())
    p = build(signature, cell="gru", dtype="float32", initial="given").parameters
    for gate in "rzn":
        assert np.abs(p[f"b_x{gate}"]).min() >= 0.1
        assert np.abs(p[f"b_h{gate}"]).min() >= 0.1
        assert not np.array_equal(p[f"b_x{gate}"], p[f"b_h{gate}"])


def test_overlays_fill_their_own_group_only() -> None:
    """Zeros and constants replace one group of arrays; the numbers of the others stay."""
    plain = Signature(shape=GENERIC, batched=True, seed=7, scale=0.8, decimals=12, fills=())
    odd = replace(plain, fills=(("W_x", ZERO), ("b_h", CONSTANT)))
    one, other = (build(s, cell="gru", dtype="float64", initial="given") for s in (plain, odd))
    assert not any(other.parameters[name].any() for name in ("W_xr", "W_xz", "W_xn"))
    assert all((other.parameters[name] == 0.5).all() for name in ("b_hr", "b_hz", "b_hn"))
    for name in ("W_hr", "W_hz", "W_hn", "b_xr", "b_xz", "b_xn"):
        np.testing.assert_array_equal(one.parameters[name], other.parameters[name])
    np.testing.assert_array_equal(one.x, other.x)


def test_a_case_file_that_fits_no_cell_is_refused(tmp_path: Path) -> None:
    """Missing parameters are found when the file is read, not in a worker."""
    data = case_to_json(a_case())
    del data["parameters"]["b_hn"]
    path = tmp_path / "case.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CaseError, match="wrong parameters"):
        read_case(path)


def test_the_issues_own_case_is_the_shipped_one() -> None:
    """The case file of ml-explore/mlx issue 3249 is the seed-42 fixture with the state omitted."""
    case = read_case(data_folder("fixtures") / "cases" / "mlx_issue_3249.json")
    shipped = {c.origin: c for c in shipped_cases(REQUIREMENTS["gru_hidden_none"], "float32")}
    assert case.digest == shipped["shipped: mlx_seed42"].digest
