"""The fixtures are what their README files promise, and each check here is shown to fail on a planted fault.

Problem: a fixture with a zero bias, equal biases or shut gates lets every implementation pass. These tests
hold the committed files to their shapes, their generic biases and their provenance, with a GRU of their own
in float64: the reset-after form of PyTorch and cuDNN, and the reset-before form of Cho et al. 2014,
arXiv:1406.1078.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
WEIGHTS = FIXTURES / "weights"
GOLDEN = FIXTURES / "golden"
MAKE_WEIGHTS = WEIGHTS / "make_weights.py"
MAKE_GOLDEN = GOLDEN / "make_golden.py"

SIZES = {
    "mlx_seed42": (1, 3, 4, 3),
    "random_4x12x6x8": (4, 12, 6, 8),
    "random_2x8x5x4": (2, 8, 5, 4),
    "random_3x6x5x4_saturating": (3, 6, 5, 4),
    "random_1x40x3x16": (1, 40, 3, 16),
    "character_gru": (2, 24, 30, 24),
}
"""(B, T, D, H) of every weights fixture."""

RANDOM = tuple(name for name in SIZES if name.startswith("random_"))
SMALLEST_BIAS_GAP = {**dict.fromkeys(RANDOM, 0.049), "character_gru": 1e-4}
"""How far from zero and from each other the two biases of a unit must be, where generic ones are promised."""

CELLS = ("gru", "gru_v1")
GOLDEN_SIZES = {
    "mlx_seed42": (1, 3, 4, 3),
    "random_2x8x5x4": (2, 8, 5, 4),
    "saturating": (3, 3, 5, 4),
    "single_unit": (2, 4, 3, 1),
    "single_step": (2, 1, 3, 4),
    "single_input": (2, 4, 1, 3),
    "tiny_weights": (2, 3, 3, 3),
    "large_preactivations": (2, 4, 4, 3),
}
GOLDEN_NAMES = tuple(f"{cell}_{case}" for cell in CELLS for case in GOLDEN_SIZES)
TRACES = ("r", "z", "n", "h")
PRINTED_DIGITS = 30

EXPECTED = {
    "gru": "rznh",
    "gru_v1": "rznh",
    "lstm": "ifgoch",
    "lstm_peephole": "ifgoch",
    "lstm_projection": "ifgoch",
    "elman": "h",
    "elman_relu": "h",
    "mingru": "znh",
    "mingru_log": "znh",
    "minlstm": "finh",
    "minlstm_log": "finh",
}
"""What `expected` holds of every cell, one letter each."""

OTHERS = tuple(cell for cell in EXPECTED if cell not in CELLS)
DRAWN_SIZES = {
    "generic": (2, 5, 3, 4),
    "state_omitted": (2, 3, 2, 3),
    "single_unit": (2, 4, 3, 1),
    "single_projected": (2, 4, 3, 3),
    "single_step": (2, 1, 3, 4),
    "tiny_weights": (2, 3, 3, 3),
    "large_preactivations": (2, 4, 4, 3),
}
"""(B, T, D, H) of the cases of the other cells."""

LEFT_OUT = {
    "elman_relu": {"large_preactivations", "single_projected"},
    "lstm_projection": {"single_unit", "tiny_weights"},
}
"""Cases that a cell does not have; the others have neither of these two."""

FILES = {
    **{f"{cell}_{case}": (cell, case, sizes) for cell in CELLS for case, sizes in GOLDEN_SIZES.items()},
    **{
        f"{cell}_{case}": (cell, case, sizes)
        for cell in OTHERS
        for case, sizes in DRAWN_SIZES.items()
        if case not in LEFT_OUT.get(cell, {"tiny_weights", "single_projected"})
    },
    **{f"gradient_{cell}": (cell, "gradient", (2, 3, 2, 3)) for cell in EXPECTED},
}
"""Every golden file: its cell, its case, and (B, T, D, H)."""

Array = NDArray[Any]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """A weights file as read."""

    tensors: Mapping[str, Array]
    metadata: Mapping[str, str]

    def doubles(self) -> dict[str, Float64]:
        """The tensors in float64."""
        return {name: tensor.astype(np.float64) for name, tensor in self.tensors.items()}

    def with_tensor(self, name: str, tensor: Array) -> Fixture:
        """The same fixture with one tensor added or replaced."""
        return Fixture(tensors={**self.tensors, name: tensor}, metadata=self.metadata)


def read(path: Path) -> Fixture:
    """Read a weights file."""
    with safe_open(path, framework="numpy") as file:
        return Fixture(
            tensors={name: file.get_tensor(name) for name in sorted(file.keys())},
            metadata=file.metadata(),
        )


def fixture(name: str) -> Fixture:
    """Read a committed weights fixture."""
    return read(WEIGHTS / f"{name}.safetensors")


def problems(candidate: Fixture, sizes: tuple[int, int, int, int]) -> list[str]:
    """What keeps `candidate` from being a weights fixture of sizes (B, T, D, H)."""
    batch, steps, inputs, units = sizes
    shapes: dict[str, tuple[int, ...]] = {"x": (batch, steps, inputs), "h0": (batch, units)}
    for gate in "rzn":
        shapes |= {f"W_x{gate}": (units, inputs), f"W_h{gate}": (units, units)}
        shapes |= {f"b_x{gate}": (units,), f"b_h{gate}": (units,)}
    found = []
    if candidate.tensors.keys() != shapes.keys():
        found.append(f"names: {sorted(candidate.tensors.keys() ^ shapes.keys())}")
    for name in candidate.tensors.keys() & shapes.keys():
        tensor = candidate.tensors[name]
        if tensor.shape != shapes[name]:
            found.append(f"shape: {name}")
        if tensor.dtype != np.float32:
            found.append(f"dtype: {name}")
        if not np.isfinite(tensor).all():
            found.append(f"finite: {name}")
    if candidate.metadata.keys() != {"cell", "format", "provenance", "command"}:
        found.append("metadata: keys")
    fixed = {"cell": "gru", "format": "rnn-conformance-weights-1"}
    found += [f"metadata: {key}" for key, text in fixed.items() if candidate.metadata.get(key) != text]
    if not candidate.metadata.get("provenance", "").endswith("."):
        found.append("metadata: provenance")
    command = candidate.metadata.get("command", "")
    script = re.fullmatch(r"python fixtures/weights/(\w+\.py)( [\w-]+)?", command)
    if script is None or not (WEIGHTS / script[1]).is_file():
        found.append("metadata: command")
    return found


def bias_problems(candidate: Fixture, gap: float) -> list[str]:
    """Where a bias is within `gap` of zero, of the other bias of its unit and gate, or of cancelling it."""
    found = []
    for gate in "rzn":
        b_x, b_h = candidate.tensors[f"b_x{gate}"], candidate.tensors[f"b_h{gate}"]
        if min(np.abs(b_x).min(), np.abs(b_h).min()) < gap:
            found.append(f"zero: {gate}")
        if np.abs(b_x - b_h).min() < gap:
            found.append(f"equal: {gate}")
        if np.abs(b_x + b_h).min() < gap:
            found.append(f"cancelling: {gate}")
    return found


def sigmoid(a: Float64) -> Float64:
    """1 / (1 + exp(-a))."""
    return np.asarray(1.0 / (1.0 + np.exp(-a)))


def run(
    p: Mapping[str, Float64],
    x: Float64,
    h0: Float64,
    *,
    cell: str = "gru",
    first_bhn: bool = True,
) -> dict[str, Float64]:
    """r, z, n, h of every step, each (B, T, H); `first_bhn` False drops r * b_hn at the first step."""
    traces: dict[str, list[Float64]] = {name: [] for name in TRACES}
    h = h0
    for t in range(x.shape[1]):
        b_hn = p["b_hn"] if first_bhn or t > 0 else np.zeros_like(p["b_hn"])
        r = sigmoid(x[:, t] @ p["W_xr"].T + p["b_xr"] + h @ p["W_hr"].T + p["b_hr"])
        z = sigmoid(x[:, t] @ p["W_xz"].T + p["b_xz"] + h @ p["W_hz"].T + p["b_hz"])
        hidden = r * (h @ p["W_hn"].T + b_hn) if cell == "gru" else (r * h) @ p["W_hn"].T + b_hn
        n = np.tanh(x[:, t] @ p["W_xn"].T + p["b_xn"] + hidden)
        h = (1.0 - z) * n + z * h
        for name, value in zip(TRACES, (r, z, n, h), strict=True):
            traces[name].append(value)
    return {name: np.stack(values, axis=1) for name, values in traces.items()}


def saturated_fraction(name: str) -> float:
    """The share of the r and z gates within 0.01 of 0 or 1, over the fixture's own run."""
    p = fixture(name).doubles()
    traces = run(p, p["x"], p["h0"])
    gates = np.concatenate([traces["r"].ravel(), traces["z"].ravel()])
    return float(np.mean((gates < 0.01) | (gates > 0.99)))


def dropped_bhn_per_step(p: Mapping[str, Float64]) -> Float64:
    """The largest change of h at each step when r * b_hn is dropped at the first step, from a zero state."""
    zeros = np.zeros_like(p["h0"])
    kept = run(p, p["x"], zeros)["h"]
    dropped = run(p, p["x"], zeros, first_bhn=False)["h"]
    return np.asarray(np.abs(kept - dropped).max(axis=(0, 2)))


def text_and_vocabulary() -> tuple[str, list[str]]:
    """The training text and its sorted distinct characters."""
    text = (WEIGHTS / "character_text.txt").read_text(encoding="utf-8")
    return text, sorted(set(text))


def excerpts(x: Array) -> list[str]:
    """The character sequences that one-hot `x` (B, T, D) stands for."""
    _, vocabulary = text_and_vocabulary()
    return ["".join(vocabulary[k] for k in row.argmax(axis=-1)) for row in x]


def golden(name: str, folder: Path = GOLDEN) -> dict[str, Any]:
    """The content of a golden file."""
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return content


def from_hex(values: Any) -> Float64:
    """Nested float.hex strings as a float64 array."""
    return np.array(np.vectorize(float.fromhex, otypes=[np.float64])(np.array(values)))


def golden_inputs(content: Mapping[str, Any]) -> tuple[dict[str, Float64], Float64, Float64]:
    """Parameters, x and h0 (zeros where omitted) of a golden file, in float64."""
    parameters = {name: from_hex(values) for name, values in content["parameters"].items()}
    x = from_hex(content["x"])
    omitted = np.zeros((x.shape[0], len(parameters["b_xr"])))
    return parameters, x, omitted if content["h0"] is None else from_hex(content["h0"])


def printed_numbers(content: Mapping[str, Any]) -> list[str]:
    """All numbers of `expected`, as printed."""
    return [str(number) for values in content["expected"].values() for number in np.array(values).ravel()]


def projected(cell: str, case: str, hidden: int) -> int:
    """The width P of the state h: that of the units but where it is a projection of them."""
    return hidden if cell != "lstm_projection" else {"single_projected": 1}.get(case, 2)


def parameter_shapes(cell: str, inputs: int, units: int, state: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a cell's canonical parameters."""
    if cell.startswith("min"):
        gates = "zn" if "gru" in cell else "fin"
        return {f"W_{gate}": (units, inputs) for gate in gates} | {f"b_{gate}": (units,) for gate in gates}
    gates_of = {"gru": "rzn", "gru_v1": "rzn", "elman": ("",), "elman_relu": ("",)}
    shapes: dict[str, tuple[int, ...]] = {}
    for gate in gates_of.get(cell, "ifgo"):
        shapes |= {f"W_x{gate}": (units, inputs), f"W_h{gate}": (units, state)}
        shapes |= {f"b_x{gate}": (units,), f"b_h{gate}": (units,)}
    if cell == "lstm_peephole":
        shapes |= dict.fromkeys(("w_ci", "w_cf", "w_co"), (units,))
    if cell == "lstm_projection":
        shapes["W_p"] = (state, units)
    return shapes


def worst_error(content: Mapping[str, Any], cell: str) -> float:
    """The largest difference between `expected` and the float64 GRU of this file."""
    traces = run(*golden_inputs(content), cell=cell)
    errors = [np.abs(traces[name] - np.array(content["expected"][name], dtype=np.float64)) for name in TRACES]
    return float(np.max(errors))


def make(script: Path, *arguments: str) -> None:
    """Run a fixture script in a fresh interpreter."""
    subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True, text=True)


# Weights fixtures: form


def test_every_weights_file_is_known() -> None:
    """The folder holds exactly the fixtures that these tests check."""
    assert {path.stem for path in WEIGHTS.glob("*.safetensors")} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_weights_fixture_is_well_formed(name: str) -> None:
    """Tensor names, shapes, dtypes, finiteness and metadata are those of the format."""
    assert problems(fixture(name), SIZES[name]) == []


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        (("extra", np.zeros(1, np.float32)), "names: ['extra']"),
        (("b_hn", np.zeros((4, 1), np.float32)), "shape: b_hn"),
        (("W_xz", np.zeros((5, 4), np.float32)), "shape: W_xz"),
        (("b_hr", np.zeros(4, np.float64)), "dtype: b_hr"),
        (("h0", np.full((2, 4), np.nan, np.float32)), "finite: h0"),
    ],
    ids=["extra", "shape", "transposed", "dtype", "finite"],
)
def test_malformed_tensor_is_noticed(planted: tuple[str, Array], expected: str) -> None:
    """One wrong tensor in a good fixture is exactly what the form check reports."""
    name = "random_2x8x5x4"
    assert problems(fixture(name).with_tensor(*planted), SIZES[name]) == [expected]


def test_missing_tensor_is_noticed() -> None:
    """A fixture without b_hn does not pass the form check."""
    good = fixture("random_2x8x5x4")
    tensors = {name: tensor for name, tensor in good.tensors.items() if name != "b_hn"}
    candidate = Fixture(tensors=tensors, metadata=good.metadata)
    assert problems(candidate, SIZES["random_2x8x5x4"]) == ["names: ['b_hn']"]


@pytest.mark.parametrize("key", ["cell", "format", "provenance", "command"])
def test_wrong_metadata_is_noticed(key: str) -> None:
    """A metadata value that means nothing does not pass the form check."""
    good = fixture("random_2x8x5x4")
    candidate = Fixture(tensors=good.tensors, metadata={**good.metadata, key: "other"})
    assert problems(candidate, SIZES["random_2x8x5x4"]) == [f"metadata: {key}"]


# Weights fixtures: content


@pytest.mark.parametrize("name", SMALLEST_BIAS_GAP)
def test_biases_are_generic(name: str) -> None:
    """No bias is near zero, near the other bias of its unit, or near cancelling it."""
    assert bias_problems(fixture(name), SMALLEST_BIAS_GAP[name]) == []


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(0.0, "zero: n"), (1.0, "equal: n"), (-1.0, "cancelling: n")],
    ids=["zero", "equal", "cancelling"],
)
def test_bias_that_hides_a_fault_is_noticed(factor: float, expected: str) -> None:
    """A single unit with a zero, equal or cancelling b_hn does not pass the bias check."""
    good = fixture("random_2x8x5x4")
    b_hn = good.tensors["b_hn"].copy()
    b_hn[2] = factor * good.tensors["b_xn"][2]
    assert bias_problems(good.with_tensor("b_hn", b_hn), SMALLEST_BIAS_GAP["random_2x8x5x4"]) == [expected]


@pytest.mark.parametrize("name", SIZES)
def test_initial_state_is_generic(name: str) -> None:
    """Every sequence has a state of its own, most of it well away from zero and all of it inside (-1, 1)."""
    h0 = fixture(name).tensors["h0"]
    assert len(np.unique(h0, axis=0)) == h0.shape[0]
    assert np.median(np.abs(h0)) > 0.1
    assert np.abs(h0).max() < 1.0


def test_saturating_fixture_saturates_many_gates_but_not_all() -> None:
    """Between a third and two thirds of its gates are within 0.01 of 0 or 1."""
    assert 1 / 3 < saturated_fraction("random_3x6x5x4_saturating") < 2 / 3


@pytest.mark.parametrize("name", [name for name in RANDOM if not name.endswith("saturating")])
def test_other_random_fixtures_do_not_saturate(name: str) -> None:
    """Hardly a gate is within 0.01 of 0 or 1 where saturation is not the point."""
    assert saturated_fraction(name) < 0.05


def test_make_weights_regenerates_the_random_fixtures(tmp_path: Path) -> None:
    """The recorded seeds give the committed tensors again, byte by byte, and the same metadata."""
    make(MAKE_WEIGHTS, "random", "--folder", str(tmp_path))
    assert {path.stem for path in tmp_path.iterdir()} == set(RANDOM)
    for name in RANDOM:
        again, committed = read(tmp_path / f"{name}.safetensors"), fixture(name)
        assert again.metadata == committed.metadata
        assert {key: tensor.tobytes() for key, tensor in again.tensors.items()} == {
            key: tensor.tobytes() for key, tensor in committed.tensors.items()
        }


# mlx_seed42


def test_mlx_input_is_that_of_the_issue() -> None:
    """The input is the first draw of NumPy's legacy generator with seed 42, times 0.1, in float32."""
    x = np.random.RandomState(42).randn(1, 3, 4).astype(np.float32) * 0.1
    assert fixture("mlx_seed42").tensors["x"].tobytes() == x.tobytes()


def test_mlx_biases_are_folded() -> None:
    """MLX has no hidden-side bias for r and z, and a generic one for n."""
    mlx = fixture("mlx_seed42")
    assert [bool(mlx.tensors[f"b_h{gate}"].any()) for gate in "rzn"] == [False, False, True]
    assert bias_problems(mlx, 0.01) == ["zero: r", "zero: z"]


def test_mlx_dropped_bias_moves_the_states_as_reported() -> None:
    """Dropping r * b_hn at the first step gives the figures of issue 3249, to one float32 ulp of a state."""
    per_step = dropped_bhn_per_step(fixture("mlx_seed42").doubles())
    assert per_step.max() == pytest.approx(0.10646029, rel=0, abs=2.0**-25)
    assert np.round(per_step, 5).tolist() == [0.10646, 0.07815, 0.05554]


def test_mlx_figure_comes_from_bhn_alone() -> None:
    """With b_hn = 0 nothing is dropped and the same measurement gives exactly zero."""
    p = fixture("mlx_seed42").doubles()
    per_step = dropped_bhn_per_step({**p, "b_hn": np.zeros_like(p["b_hn"])})
    assert per_step.tolist() == [0.0, 0.0, 0.0]


# character_gru


def test_character_model_has_a_few_thousand_parameters() -> None:
    """The twelve parameters count between two and six thousand numbers."""
    tensors = fixture("character_gru").tensors
    assert 2000 < sum(tensor.size for name, tensor in tensors.items() if name not in {"x", "h0"}) < 6000


def test_text_contains_only_its_vocabulary() -> None:
    """The text is 4 to 6 KB of lower-case letters, spaces, line ends, commas and full stops: D characters."""
    text, vocabulary = text_and_vocabulary()
    assert 4000 < len(text) < 6000
    assert "".join(vocabulary) == "\n ,.abcdefghijklmnopqrstuvwxyz"
    assert fixture("character_gru").tensors["x"].shape[-1] == len(vocabulary)


def test_character_input_is_one_hot_text() -> None:
    """The input stands for two different excerpts that occur exactly once in the text."""
    x = fixture("character_gru").tensors["x"]
    assert np.isin(x, (0.0, 1.0)).all()
    assert (x.sum(axis=-1) == 1.0).all()
    text, _ = text_and_vocabulary()
    assert [text.count(excerpt) for excerpt in excerpts(x)] == [1, 1]
    assert len(set(excerpts(x))) == 2


def test_character_state_is_reached_by_reading() -> None:
    """The state is that after reading all of the text before the excerpt, not the one a character earlier."""
    p = fixture("character_gru").doubles()
    text, vocabulary = text_and_vocabulary()
    one_hot = np.eye(len(vocabulary))[[vocabulary.index(character) for character in text]]
    for row, excerpt in enumerate(excerpts(p["x"])):
        before = one_hot[None, : text.index(excerpt)]
        h = run(p, before, np.zeros((1, p["h0"].shape[1])))["h"][0]
        assert np.abs(h[-1] - p["h0"][row]).max() < 1e-4
        assert np.abs(h[-2] - p["h0"][row]).max() > 0.1


def test_character_model_is_trained() -> None:
    """The recorded loss fell from that of a uniform guess to less than half of it."""
    figures = re.search(r"loss (\S+) to (\S+) nats", fixture("character_gru").metadata["provenance"])
    assert figures is not None
    before, after = float(figures[1]), float(figures[2])
    assert before == pytest.approx(np.log(30), abs=0.1)
    assert after < 0.5 * before


# Golden vectors


def test_every_golden_file_is_known() -> None:
    """The folder holds exactly the cases that these tests check, within 450 KB."""
    files = list(GOLDEN.glob("*.json"))
    assert {path.stem for path in files} == set(FILES)
    assert sum(path.stat().st_size for path in files) < 450_000


@pytest.mark.parametrize("name", FILES)
def test_golden_file_is_well_formed(name: str) -> None:
    """Keys, sizes and shapes are those of the format."""
    content = golden(name)
    cell, case, (batch, steps, inputs, units) = FILES[name]
    state, gradient = projected(cell, case, units), case == "gradient"
    wanted = "rnn-conformance-golden-gradient-1" if gradient else "rnn-conformance-golden-1"
    assert (content["format"], content["cell"], content["case"]) == (wanted, cell, case)
    assert content["command"] == f"python fixtures/golden/make_golden.py --only {name}"
    assert content["digits"] == {"working": 50, "printed": PRINTED_DIGITS}
    letters = {"B": batch, "T": steps, "D": inputs, "H": units} | ({"P": state} if cell == "lstm_projection" else {})
    assert content["sizes"] == letters
    memory = cell.startswith("lstm")
    parameters = {key: from_hex(values) for key, values in content["parameters"].items()}
    shapes = parameter_shapes(cell, inputs, units, state)
    assert {key: value.shape for key, value in parameters.items()} == shapes
    assert ("c0" in content) == memory
    given = {"x": (batch, steps, inputs), "h0": (batch, state)} | ({"c0": (batch, units)} if memory else {})
    omitted = case in ("mlx_seed42", "state_omitted")
    assert {key: None if content[key] is None else from_hex(content[key]).shape for key in given} == {
        key: None if omitted and key != "x" else shape for key, shape in given.items()
    }
    expected = {key: np.array(values).shape for key, values in content["expected"].items()}
    if gradient:
        assert expected == shapes | given
        cotangents = {"G_outputs": (batch, steps, state), "G_final_state": (batch, state)}
        cotangents |= {"G_final_cell": (batch, units)} if memory else {}
        assert {key: from_hex(content[key]).shape for key in content if key.startswith("G_")} == cotangents
    else:
        widths = dict.fromkeys(EXPECTED[cell], units) | {"h": state}
        assert expected == {trace: (batch, steps, width) for trace, width in widths.items()}


@pytest.mark.parametrize(
    "name", ["gru_mlx_seed42", "gru_single_unit", "gru_v1_single_unit", "lstm_projection_generic", "gradient_lstm"]
)
def test_make_golden_regenerates_the_same_bytes(name: str, tmp_path: Path) -> None:
    """The script writes the committed file again."""
    make(MAKE_GOLDEN, "--only", name, "--folder", str(tmp_path))
    assert (tmp_path / f"{name}.json").read_bytes() == (GOLDEN / f"{name}.json").read_bytes()


def test_golden_digits_do_not_depend_on_the_working_precision(tmp_path: Path) -> None:
    """All 30 printed digits of every file are the same when 80 digits are carried instead of 50."""
    make(MAKE_GOLDEN, "--digits", "80", "--folder", str(tmp_path))
    for name in FILES:
        more = golden(name, tmp_path)
        assert more["digits"]["working"] == 80
        assert more["expected"] == golden(name)["expected"]


def test_too_few_working_digits_would_be_noticed(tmp_path: Path) -> None:
    """Carrying only 25 digits changes what is printed in every file, so the comparison above can fail."""
    make(MAKE_GOLDEN, "--digits", "25", "--folder", str(tmp_path))
    assert [name for name in FILES if golden(name, tmp_path)["expected"] == golden(name)["expected"]] == []


@pytest.mark.parametrize("name", FILES)
def test_golden_numbers_have_thirty_digits(name: str) -> None:
    """Every expected number is printed with 30 significant digits, but for the exact zeros that relu makes."""
    numbers = printed_numbers(golden(name))
    assert len(numbers) >= len(golden(name)["expected"]) * 3
    inexact = [number for number in numbers if number != "0.0"]
    assert len(inexact) == len(numbers) or "elman_relu" in name
    assert len(inexact) > len(numbers) / 4, "mostly zeros: the file shows nothing"
    assert {len(Decimal(number).as_tuple().digits) for number in inexact} == {PRINTED_DIGITS}


def test_make_golden_is_independent() -> None:
    """The script imports mpmath and the standard library, nothing else."""
    imported = set()
    for node in ast.walk(ast.parse(MAKE_GOLDEN.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add((node.module or ".").partition(".")[0])
    assert imported - sys.stdlib_module_names == {"mpmath"}


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_values_agree_with_float64(name: str) -> None:
    """A float64 GRU written apart gives the same numbers, to within a hundred roundings."""
    content = golden(name)
    assert worst_error(content, content["cell"]) < 1e-14


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_values_tell_the_cells_apart(name: str) -> None:
    """The other cell misses the same file by ten thousand times what the right one is allowed."""
    content = golden(name)
    (other,) = set(CELLS) - {content["cell"]}
    assert worst_error(content, other) > 1e-10


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("case", "name", "state_given"),
    [
        ("mlx_seed42", "mlx_seed42", False),
        ("random_2x8x5x4", "random_2x8x5x4", True),
        ("saturating", "random_3x6x5x4_saturating", True),
    ],
)
def test_golden_inputs_are_those_of_the_weights_fixture(cell: str, case: str, name: str, *, state_given: bool) -> None:
    """A case read from a weights fixture has its numbers exactly, and its state where one is given."""
    content = golden(f"{cell}_{case}")
    p = fixture(name).doubles()
    parameters, x, h0 = golden_inputs(content)
    assert all(np.array_equal(parameters[key], p[key]) for key in p.keys() - {"x", "h0"})
    assert np.array_equal(x, p["x"][:, : x.shape[1]])
    assert (content["h0"] is not None) is state_given
    assert np.array_equal(h0, p["h0"] if state_given else np.zeros_like(p["h0"]))


@pytest.mark.parametrize("name", [f"{cell}_{case}" for cell in CELLS for case in list(GOLDEN_SIZES)[3:]])
def test_drawn_golden_inputs_need_float64(name: str) -> None:
    """A reference that rounds the drawn parameters, x or h0 to float32 disagrees with the golden values."""
    content = golden(name)
    parameters, x, h0 = golden_inputs(content)
    tensors = {**parameters, "x": x, "h0": h0}
    rounded = {key: tensor.astype(np.float32).astype(np.float64) for key, tensor in tensors.items()}
    assert all((rounded[key] != tensors[key]).any() for key in tensors)
    h = run(rounded, rounded["x"], rounded["h0"], cell=content["cell"])["h"]
    assert np.abs(h - np.array(content["expected"]["h"], dtype=np.float64)).max() > 1e-10


@pytest.mark.parametrize("cell", CELLS)
def test_large_preactivations_are_large(cell: str) -> None:
    """The gates' log-odds reach about 40, and some stay below 1."""
    expected = golden(f"{cell}_large_preactivations")["expected"]
    gates = [Decimal(str(value)) for trace in "rz" for value in np.array(expected[trace]).ravel()]
    sizes = [abs((gate / (1 - gate)).ln()) for gate in gates]
    assert 35 < max(sizes) < 45
    assert min(sizes) < 1


@pytest.mark.parametrize("cell", CELLS)
def test_tiny_weights_give_tiny_candidates(cell: str) -> None:
    """Candidates of the case with tiny weights are of the order of 1e-6 and not zero."""
    n = np.array(golden(f"{cell}_tiny_weights")["expected"]["n"], dtype=np.float64)
    assert 0.0 < np.abs(n).min() < np.abs(n).max() < 1e-5
