"""The from-scratch linen cell in Flax's managed environment: its equations, and names for its mistakes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.candidate import Spec
from conformance.case import Case, Initial, Shape, make_case
from conformance.compare import compare
from conformance.discover import data_folder, read_adapter
from conformance.exchange import Observation
from conformance.gradient import compare_gradients
from conformance.host import Host
from conformance.judge import judge
from conformance.plan import Candidate, interpreter_of
from conformance.rounding import Array, round_to
from conformance.signature import Signature, build
from conformance.verdict import Agrees, Diverges

FOLDER = data_folder("adapters") / "flax-linen"
VARIANT = "concat"
SMALL = Shape(batch=2, time=3, features=2, hidden=3)


def candidate(folder: Path = FOLDER) -> Candidate:
    """The variant of the adapter in a folder."""
    adapter = read_adapter(folder)
    return Candidate(
        spec=Spec(adapter=adapter.name, variant=VARIANT), adapter=adapter, variant=adapter.variants[VARIANT]
    )


def hosted(chosen: Candidate) -> Host:
    """A worker of it in the managed environment."""
    return Host(
        chosen.adapter,
        chosen.variant,
        interpreter_of(chosen, lambda _: None),
        incident=lambda broken: pytest.fail(str(broken)),
        ready=lambda _, __: None,
    )


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """One worker for all tests of the cell as it is."""
    with hosted(candidate()) as running:
        yield running


def case_of(dtype: str = "float32", initial: Initial = "given", shape: Shape = SMALL, *, scale: float = 0.8) -> Case:
    """A generic case of the cell, as its variant declares to evaluate it."""
    signature = Signature(shape=shape, batched=True, seed=2, scale=scale, decimals=12, fills=())
    return candidate().variant.declared(build(signature, cell="gru_v1", dtype=dtype, initial=initial))


def observe(host: Host, case: Case) -> Observation:
    """What the worker returns, on the declared path."""
    answer = host.observe(case)
    assert isinstance(answer, Observation), answer
    assert answer.path in candidate().variant.attestable(case.cell, case.initial, case.features)
    return answer


def test_the_worked_example(host: Host) -> None:
    """D = 3, H = 4, x = [0.1, 0.2, 0.3], h = 0: the kernels are (7, 4), and the result is z * n."""
    generator = np.random.default_rng(0)
    sizes = {"x": (4, 3), "h": (4, 4)}
    parameters = {f"W_{side}{gate}": generator.normal(size=sizes[side]) for side in "xh" for gate in "rzn"}
    parameters |= {f"b_{side}{gate}": generator.normal(size=4) for side in "xh" for gate in "rzn"}
    case = make_case(
        cell="gru_v1",
        dtype="float64",
        parameters=parameters,
        x=np.array([[[0.1, 0.2, 0.3]]]),
        initial="given",
        h0=np.zeros((1, 4)),
        batched=False,
        evaluation="complement",
    )
    p: dict[str, Array] = {name: -v if name.endswith("z") else v for name, v in case.parameters.items()}
    xh = np.array([0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 0.0])
    assert xh.shape == (7,)
    z, n = (np.hstack([p[f"W_x{g}"], p[f"W_h{g}"]]) @ xh + p[f"b_x{g}"] + p[f"b_h{g}"] for g in "zn")
    wanted = np.tanh(n) / (1.0 + np.exp(-z))
    observed = observe(host, case).observed
    assert np.allclose(observed.outputs[0, 0], wanted, rtol=1e-14, atol=0.0)
    assert compare(case, observed).explains


@pytest.mark.parametrize("initial", ["given", "zeros", "omitted"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_it_agrees_and_rules_faults_out(host: Host, dtype: str, initial: Initial) -> None:
    """Every dtype and spelling of the initial state; a flipped convention would have been noticed."""
    case = case_of(dtype, initial)
    verdict = judge(case, observe(host, case).observed, ("update_flip", "gate_tanh", "gates_share_matrix"))
    assert isinstance(verdict, Agrees), verdict
    assert verdict.excluded == {"update_flip", "gate_tanh", "gates_share_matrix"}


def test_a_forgetful_gate_is_judged_in_the_cells_own_convention(host: Host) -> None:
    """Where the canonical z is near zero, the cell is right by its own bound and far outside the canonical one."""
    case = case_of(scale=0.1)
    changes = {name: 0.0 * value for name, value in case.parameters.items() if name.endswith("n")}
    changes["b_xz"] = np.full_like(case.parameters["b_xz"], -9.0)
    case = replace(case, parameters={**case.parameters, **changes})
    observed = observe(host, case).observed
    assert compare(case, observed).explains
    assert compare(replace(case, evaluation="sequential"), observed).worst > 10.0


def test_its_gradients_are_those_of_the_canonical_parameters(host: Host) -> None:
    """The sign of the z rows goes back."""
    case = case_of()
    generator = np.random.default_rng(1)
    given = {"outputs": generator.normal(size=(2, 3, 3)), "final_state": np.ones((2, 3))}
    case = replace(case, cotangents={name: round_to("float32", value) for name, value in given.items()})
    observed = observe(host, case).observed
    assert observed.gradients.keys() == {"x", "h0", *case.parameters}
    assert compare_gradients(case, observed).explains
    assert np.abs(observed.gradients["W_xz"]).max() > 1e-3


MISTAKES = {
    "update_flip": ("h = (1 - z) * h + z * n", "h = (1 - z) * n + z * h"),
    "reset_ignored": ("jnp.concatenate([x, r * h], axis=-1)", "xh"),
    "gate_tanh": ("= nn.sigmoid(", "= nn.tanh("),
    "update_without_complement": ("h = (1 - z) * h + z * n", "h = h + z * n"),
    "gates_share_matrix": (
        'self.param(f"W_{name}", lecun_normal(), (width, self.features), self.param_dtype)',
        'self.get_variable("params", "W_r")',
    ),
}


def test_mistakes_in_it_are_recognised_by_name(tmp_path: Path) -> None:
    """Each of the mistakes that learners make, made in the cell's own code."""
    case = case_of(shape=Shape(batch=3, time=4, features=2, hidden=3))
    source = (FOLDER / "concat.py").read_text(encoding="utf-8")
    for name, (right, wrong) in MISTAKES.items():
        folder = tmp_path / name
        shutil.copytree(FOLDER, folder)
        assert right in source
        (folder / "concat.py").write_text(source.replace(right, wrong), encoding="utf-8")
        with hosted(candidate(folder)) as running:
            verdict = judge(case, observe(running, case).observed, ())
        assert isinstance(verdict, Diverges)
        assert verdict.faults == (name,)


FRESH = """
import sys
sys.path[:0] = [{root!r}]
from conformance.worker.serve import load_adapter
from conformance.worker.api import WorkerCase
from pathlib import Path
import jax, numpy as np
adapter = load_adapter(Path({folder!r}), [Path({shared!r})])
cell = adapter.concat.ConcatGRUCell(features=64)
params = cell.init(jax.random.key(0), np.zeros(64, np.float32), np.zeros(36, np.float32))["params"]
for name in sorted(params):
    print(name, *params[name].shape, float(np.std(params[name])), float(np.abs(params[name]).max()))
names = [a + b + c for a in ("W_", "b_") for b in "xh" for c in "rzn"]
sizes = dict(x=(4, 3), h=(4, 4))
rng = np.random.default_rng(0)
weights = {{n: np.float32(rng.normal(size=sizes[n[2]] if n[0] == "W" else 4)) for n in names}}
case = WorkerCase(cell="gru_v1", variant="concat", dtype="float32", parameters=weights,
                  x=np.float32(rng.normal(size=(2, 5, 3))), h0=None, hidden=4, batched=True)
layer, cell = (adapter.prepare(case, level) for level in ("layer", "cell"))
layer.call(), cell.call()
print(layer.path, "|", cell.path, "|", float(np.abs(layer.outputs - cell.outputs).max()), *layer.outputs.shape)
"""


def test_it_is_initialised_and_prepared_as_it_says(tmp_path: Path) -> None:
    """LeCun normal kernels of (D + H, H), zero biases; the layer and the cell alone compute the same."""
    python = interpreter_of(candidate(), lambda _: None).python
    script = tmp_path / "fresh.py"
    root = Path(sys.modules["conformance"].__file__ or "").resolve().parents[1]
    (shared,) = candidate().adapter.shares
    script.write_text(FRESH.format(root=str(root), folder=str(FOLDER), shared=str(shared)), encoding="utf-8")
    done = subprocess.run([str(python), str(script)], capture_output=True, text=True, check=True)
    *told, prepared = (line.split() for line in done.stdout.splitlines())
    assert [line[0] for line in told] == ["W_h", "W_r", "W_z", "b_h", "b_r", "b_z"]
    for name, *shape, deviation, largest in told:
        if name.startswith("W"):
            assert shape == ["100", "64"]
            assert abs(float(deviation) - 0.1) < 0.01  # 1 / sqrt(D + H)
        else:
            assert (shape, float(largest)) == (["64"], 0.0)
    assert " ".join(prepared).startswith(
        "flax.linen.RNN(ConcatGRUCell)(x) | flax.linen ConcatGRUCell, T jitted steps |"
    )
    assert float(prepared[-4]) < 1e-6
    assert prepared[-3:] == ["2", "5", "4"]
