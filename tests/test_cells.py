"""The cells against golden vectors computed independently with 50 decimal digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.case import Case, make_case
from conformance.cells import CELLS, cell_named
from conformance.compare import Observed, compare
from conformance.errors import CaseError
from conformance.faults import catalogue
from conformance.inputs import read_weights

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
GOLDEN = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((FIXTURES / "golden").glob("*.json"))
    if not path.stem.startswith("gradient_")
}
CHECKED = [name for name, data in GOLDEN.items() if data["cell"] in CELLS]
UNIT = 2.0**-53


def _floats(nested: Any) -> Any:
    if isinstance(nested, list):
        return [_floats(item) for item in nested]
    return float.fromhex(nested) if nested.lstrip("-").startswith("0x") else float(nested)


def _array(nested: Any) -> np.ndarray | None:
    return None if nested is None else np.array(_floats(nested))


def _golden(name: str) -> tuple[Case, dict[str, np.ndarray]]:
    data = GOLDEN[name]
    sizes = data["sizes"]
    h0, c0 = _array(data["h0"]), _array(data.get("c0"))
    if "c0" in data and c0 is None:
        c0 = np.zeros((sizes["B"], sizes["H"]))
    case = make_case(
        cell=data["cell"],
        dtype="float64",
        parameters={parameter: np.array(_floats(values)) for parameter, values in data["parameters"].items()},
        x=np.array(_floats(data["x"])),
        initial="omitted" if h0 is None else "given",
        h0=h0,
        c0=c0,
        hidden=sizes.get("P", sizes["H"]),
        origin=name,
    )
    return case, {trace: np.array(_floats(values)) for trace, values in data["expected"].items()}


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_has_golden_vectors(cell: str) -> None:
    """No cell goes unchecked because its golden files are missing."""
    assert sum(GOLDEN[name]["cell"] == cell for name in CHECKED) >= 5


@pytest.mark.parametrize("name", CHECKED)
def test_intermediates_match_the_golden_vectors(name: str) -> None:
    """Every intermediate of every step is within 32 float64 roundings of the 50-digit values."""
    case, expected = _golden(name)
    sequence = cell_named(case.cell).run(case)
    assert set(expected) == set(cell_named(case.cell).intermediates) == set(sequence.intermediates)
    for trace, values in expected.items():
        # The states of the linear recurrences reach about 30.
        limit = 32 * UNIT * max(1.0, float(np.abs(values).max()))
        np.testing.assert_allclose(sequence.intermediates[trace], values, rtol=0, atol=limit, strict=True)


@pytest.mark.parametrize("name", CHECKED)
def test_golden_values_lie_within_the_float64_bound(name: str) -> None:
    """The derived float64 bound holds for the 50-digit truth itself, whether the memory is observed or hidden."""
    case, expected = _golden(name)
    outputs, cells = expected["h"], expected.get("c")
    seen = Observed(
        outputs=outputs,
        final_state=outputs[:, -1],
        cells=cells,
        final_cell=None if cells is None else cells[:, -1],
    )
    hidden = Observed(outputs=outputs, final_state=outputs[:, -1])
    assert compare(case, seen).worst <= 1.0
    assert compare(case, hidden).worst <= 1.0


def test_seed_42_reproduces_the_published_figures() -> None:
    """Dropping r * b_hn on the first step gives the differences reported upstream for MLX 0.31.1."""
    parameters, x, _ = read_weights(FIXTURES / "weights" / "mlx_seed42.safetensors")
    case = make_case(cell="gru", dtype="float32", parameters=parameters, x=x, initial="omitted", hidden=3)
    right = cell_named("gru").run(case).outputs
    wrong = catalogue("gru")["drop_rbhn_t0"].run(case).outputs
    steps = np.abs(right - wrong).max(axis=(0, 2))
    assert steps.max() == pytest.approx(0.10646029, abs=6e-8)  # the published figure is a float32 number
    np.testing.assert_array_equal(np.round(steps, 5), [0.10646, 0.07815, 0.05554])


def test_worked_example_of_the_other_update_convention() -> None:
    """Negating the z rows turns gru_v1 into h' = (1 - z) h + z n: from h = 0 the result is z * n."""
    generator = np.random.default_rng(1)
    shapes = {"H": 4, "D": 3}
    p = {
        name: generator.normal(size=tuple(shapes[letter] for letter in letters))
        for name, letters in cell_named("gru_v1").parameters.items()
    }
    x = np.array([[[0.1, 0.2, 0.3]]])
    negated = {name: -value if name[-1] == "z" else value for name, value in p.items()}
    case = make_case(cell="gru_v1", dtype="float64", parameters=negated, x=x, initial="omitted", hidden=4)
    z = 1 / (1 + np.exp(-(p["W_xz"] @ x[0, 0] + p["b_xz"] + p["b_hz"])))
    n = np.tanh(p["W_xn"] @ x[0, 0] + p["b_xn"] + p["b_hn"])
    np.testing.assert_allclose(cell_named("gru_v1").run(case).outputs[0, 0], z * n, rtol=0, atol=4 * UNIT)


def test_an_lstm_without_input_copies_its_memory() -> None:
    """With f saturated open and i shut the memory is exactly c0, and h = o * tanh(c0): the constant error carousel."""
    zeros = {name: np.zeros(shape) for name, shape in cell_named("lstm").shapes({"D": 2, "H": 3, "P": 3}).items()}
    open_f = zeros | {"b_xf": np.full(3, 800.0), "b_xi": np.full(3, -800.0), "b_xo": np.full(3, 800.0)}
    c0 = np.array([[-0.5, 0.25, 2.0]])
    case = make_case(
        cell="lstm",
        dtype="float64",
        parameters=open_f,
        x=np.ones((1, 6, 2)),
        initial="given",
        h0=np.zeros((1, 3)),
        c0=c0,
    )
    sequence = cell_named("lstm").run(case)
    assert sequence.cells is not None
    np.testing.assert_array_equal(sequence.cells, np.broadcast_to(c0[:, None], (1, 6, 3)))
    np.testing.assert_array_equal(sequence.outputs[:, -1], np.tanh(c0))


def test_peepholes_of_zero_and_an_identity_projection_leave_the_plain_lstm() -> None:
    """The three LSTMs are one recurrence where w_c = 0 and W_p = 1."""
    case, _ = _golden("lstm_generic")
    plain = cell_named("lstm").run(case)
    extra = {
        "lstm_peephole": {name: np.zeros(4) for name in ("w_ci", "w_cf", "w_co")},
        "lstm_projection": {"W_p": np.eye(4)},
    }
    for cell, added in extra.items():
        other = make_case(
            cell=cell,
            dtype="float64",
            parameters={**case.parameters, **added},
            x=case.x,
            initial="given",
            h0=case.h0,
            c0=case.c0,
        )
        sequence = cell_named(cell).run(other)
        np.testing.assert_array_equal(sequence.outputs, plain.outputs)
        np.testing.assert_array_equal(sequence.final_cell, plain.final_cell)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("b_hn"), "missing \\['b_hn'\\]"),
        (lambda p: p.update(b_hm=p["b_hn"]), "unknown \\['b_hm'\\]"),
        (lambda p: p.update(W_xr=p["W_xr"].T), "W_xr has the wrong shape"),
    ],
    ids=["missing", "unknown", "transposed"],
)
def test_wrong_parameters_are_refused(change: Any, message: str) -> None:
    """A case with missing, unknown or transposed parameters never reaches the arithmetic."""
    case, _ = _golden("gru_random_2x8x5x4")
    parameters = dict(case.parameters)
    change(parameters)
    bad = make_case(cell="gru", dtype="float64", parameters=parameters, x=case.x, initial="omitted", hidden=4)
    with pytest.raises(CaseError, match=message):
        cell_named("gru").run(bad)


@pytest.mark.parametrize("cell", ["lstm", "elman"])
def test_a_missing_or_superfluous_memory_is_refused(cell: str) -> None:
    """An LSTM needs c0; a cell without memory takes none."""
    case, _ = _golden(f"{cell}_generic")
    c0 = np.zeros((2, 4)) if cell == "elman" else None
    bad = make_case(
        cell=cell, dtype="float64", parameters=case.parameters, x=case.x, initial="given", h0=case.h0, c0=c0
    )
    with pytest.raises(CaseError, match="c0"):
        cell_named(cell).run(bad)
