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
GOLDEN = sorted((FIXTURES / "golden").glob("*.json"))
UNIT = 2.0**-53


def _floats(nested: Any) -> Any:
    if isinstance(nested, list):
        return [_floats(item) for item in nested]
    return float.fromhex(nested) if nested.lstrip("-").startswith("0x") else float(nested)


def _golden(path: Path) -> tuple[Case, dict[str, np.ndarray]]:
    data = json.loads(path.read_text(encoding="utf-8"))
    given = data["h0"] is not None
    case = make_case(
        cell=data["cell"],
        dtype="float64",
        parameters={name: np.array(_floats(values)) for name, values in data["parameters"].items()},
        x=np.array(_floats(data["x"])),
        initial="given" if given else "omitted",
        h0=np.array(_floats(data["h0"])) if given else None,
        hidden=data["sizes"]["H"],
        origin=path.stem,
    )
    return case, {name: np.array(_floats(values)) for name, values in data["expected"].items()}


def test_every_cell_has_golden_vectors() -> None:
    """No cell goes unchecked because its golden files are missing."""
    counts = {name: sum(path.stem.startswith(f"{name}_") for path in GOLDEN) for name in CELLS}
    assert counts["gru"] - counts["gru_v1"] >= 8
    assert counts["gru_v1"] >= 8


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_intermediates_match_the_golden_vectors(path: Path) -> None:
    """r, z, n and h of every step are within a few float64 roundings of the 50-digit values."""
    case, expected = _golden(path)
    sequence = cell_named(case.cell).run(case)
    assert set(expected) == {"r", "z", "n", "h"}
    for name, values in expected.items():
        np.testing.assert_allclose(sequence.intermediates[name], values, rtol=0, atol=32 * UNIT, strict=True)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_values_lie_within_the_float64_bound(path: Path) -> None:
    """The derived float64 bound holds for the 50-digit truth itself, and no fault explains it by accident."""
    case, expected = _golden(path)
    observed = Observed(outputs=expected["h"], final_state=expected["h"][:, -1])
    assert compare(case, observed).worst <= 1.0


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
    case, _ = _golden(FIXTURES / "golden" / "gru_random_2x8x5x4.json")
    parameters = dict(case.parameters)
    change(parameters)
    bad = make_case(cell="gru", dtype="float64", parameters=parameters, x=case.x, initial="omitted", hidden=4)
    with pytest.raises(CaseError, match=message):
        cell_named("gru").run(bad)
