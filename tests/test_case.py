"""Cases: malformed ones are refused with a message, sound ones survive JSON, files and projection."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.case import Case, Initial, case_from_json, case_to_json, make_case
from conformance.cells import cell_named
from conformance.discover import data_folder
from conformance.errors import CaseError
from conformance.inputs import read_case, read_weights, shipped_cases
from conformance.requirement import REQUIREMENTS
from conformance.rounding import DTYPES, round_to
from conformance.strategies import CONSTANT, GENERIC, LATTICE, ZERO, Signature, build, cases


def a_case() -> Case:
    """A small case with a given state."""
    signature = Signature(shape=LATTICE[2][0], batched=True, seed=1, scale=0.8, decimals=12, fills=())
    return build(signature, cell="gru", dtype="float32", initial="given")


@pytest.mark.parametrize("dtype", DTYPES)
def test_json_keeps_every_bit(dtype: str) -> None:
    """A case written as JSON and read back is the same input, to the last bit."""
    signature = Signature(shape=LATTICE[2][0], batched=True, seed=1, scale=0.8, decimals=12, fills=())
    case = build(signature, cell="gru", dtype=dtype, initial="given")
    back = case_from_json(json.loads(json.dumps(case_to_json(case))))
    assert back.digest == case.digest
    assert back.origin == case.origin


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float8"}, "unknown dtype"),
        ({"initial": "random"}, "unknown initial state"),
        ({"x": np.zeros((0, 3, 2))}, "not empty"),
        ({"x": np.zeros((3, 2))}, "must be \\(B, T, D\\)"),
        ({"h0": np.zeros((5, 3))}, "h0 must be \\(B, H\\)"),
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_requirement_has_shipped_cases(name: str, dtype: str) -> None:
    """The shipped weights fit every requirement and dtype, among them the seed-42 repro and a trained model."""
    origins = {case.origin for case in shipped_cases(REQUIREMENTS[name], dtype)}
    assert {"shipped: mlx_seed42", "shipped: character_gru"} <= origins
    assert len(origins) == len(list((data_folder("fixtures") / "weights").glob("*.safetensors")))


def test_projection_zeroes_the_named_parameters_only() -> None:
    """A case projected on a subspace differs in those parameters and in nothing else."""
    case = a_case()
    projected = case.zeroed(("b_hn",))
    assert not projected.parameters["b_hn"].any()
    for name in case.parameters.keys() - {"b_hn"}:
        np.testing.assert_array_equal(projected.parameters[name], case.parameters[name])
    assert projected.digest != case.digest


@pytest.mark.parametrize("initial", ["omitted", "zeros", "given"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_generated_cases_are_sound(dtype: str, initial: Initial) -> None:
    """Whatever is drawn passes the cell's own checks, in the lattice and exactly representable."""
    seen = set()

    @settings(max_examples=60, database=None, deadline=None, derandomize=True)
    @given(cases(cell="gru", dtype=dtype, initial=initial))
    def check(case: Case) -> None:
        cell_named("gru").check(case)
        assert (case.shape, case.batched) in LATTICE
        assert (case.initial, case.dtype) == (initial, dtype)
        np.testing.assert_array_equal(round_to(dtype, case.x), case.x)
        assert initial == "given" or not case.h0.any()
        seen.add((case.shape, case.batched))

    check()
    assert len(seen) == len(LATTICE)


def test_unbatched_shapes_are_drawn_only_where_offered() -> None:
    """A candidate that takes batches only never receives an unbatched case."""

    @settings(max_examples=40, database=None, derandomize=True)
    @given(cases(cell="gru", dtype="float32", initial="omitted", unbatched=False))
    def check(case: Case) -> None:
        assert case.batched

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
