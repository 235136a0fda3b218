"""minGRU and minLSTM on the real frameworks: long, saturated and narrow, every scan stays inside its derived bound."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.candidate import Adapter, Spec
from conformance.case import Case, make_case
from conformance.cells import cell_named
from conformance.compare import compare
from conformance.discover import find_adapters
from conformance.exchange import Observation
from conformance.host import Host
from conformance.judge import hypotheses, sharpest
from conformance.plan import Candidate, interpreter_of
from conformance.verdict import Broken

ADAPTERS = find_adapters()
NAMES = {
    "numpy": ("scan", "log-scan", "switching"),
    "torch": ("min", "min-scan", "min-log-scan"),
    "mlx": ("min", "min-scan", "min-log-scan"),
    "jax": ("sequential", "scan", "log-scan"),
}


class Worker(Host):
    """One worker for several variants of an adapter: the start of one is what costs."""

    def __init__(self, adapter: Adapter) -> None:
        variant = next(iter(adapter.variants.values()))
        candidate = Candidate(spec=Spec(adapter=adapter.name), adapter=adapter, variant=variant)
        super().__init__(
            adapter, variant, interpreter_of(candidate, print), incident=lambda _: None, ready=lambda *_: None
        )

    def answer(self, variant: str, case: Case) -> Observation | Broken:
        """What the variant answers; the path must be one that it declares."""
        self._variant = ADAPTERS[self._adapter.name].variants[variant]
        answer = self.observe(case)
        if isinstance(answer, Observation):
            assert answer.path in self._variant.attestable(case.cell, case.initial, case.features)
        return answer


@pytest.fixture(scope="module", params=NAMES)
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    with Worker(ADAPTERS[request.param]) as started:
        yield started


@pytest.fixture(scope="module")
def package() -> Iterator[Worker]:
    with Worker(ADAPTERS["mingru-pytorch"]) as started:
        yield started


def a_case(cell: str, dtype: str, *, time: int, saturated: bool = False, seed: int = 0) -> Case:
    """One generic sequence; saturated: with biases that open or shut every gate of a unit."""
    generator = np.random.default_rng(seed)
    shapes = cell_named(cell).shapes({"D": 4, "H": 5, "P": 5})
    parameters = {name: generator.normal(size=shape) * 0.8 for name, shape in shapes.items()}
    if saturated:
        signs = np.where(np.arange(5) % 2, 40.0, -40.0)
        for name, sign in (("b_z", 1), ("b_f", 1), ("b_i", -1)):
            if name in parameters:
                parameters[name] = parameters[name] + sign * signs
    return make_case(
        cell=cell,
        dtype=dtype,
        parameters=parameters,
        x=generator.normal(size=(2, time, 4)),
        initial="given",
        h0=generator.uniform(0.2, 1.0, size=(2, 5)),
        origin=f"T = {time}",
    )


def test_long_and_saturated_sequences_lie_within_the_bound(worker: Worker) -> None:
    """T = 512 and 2048, gates at their limits, float16 and bfloat16: no conforming scan leaves its bound."""
    compared = 0
    for name in NAMES[worker._adapter.name]:
        variant = ADAPTERS[worker._adapter.name].variants[name]
        cells = ("mingru_log", "minlstm_log")
        asked = [(cells[0], "float32", 2048, False), (cells[1], "float32", 512, False), (cells[1], "float32", 64, True)]
        asked += [(cells[0], "float64", 128, False), (cells[1], "float16", 64, False), (cells[0], "bfloat16", 64, True)]
        for cell, dtype, time, saturated in asked:
            # What is declared out for saying too little must still lie within what it says.
            if dtype not in variant.dtypes and "logarithm" not in getattr(variant.unsupported.get(dtype), "reason", ""):
                continue
            case = replace(a_case(cell, dtype, time=time, saturated=saturated), evaluation=variant.evaluation)
            answer = worker.answer(name, case)
            assert isinstance(answer, Observation), answer
            found = compare(case, answer.observed)
            assert found.worst <= 1.0, (name, cell, dtype, time, found.worst)
            compared += found.compared
    assert compared > 50_000


def test_a_negative_state_has_one_outcome_each(worker: Worker) -> None:
    """Step by step and in a plain scan it is judged; with logarithms it is refused by name, never answered by NaN."""
    case = a_case("mingru_log", "float32", time=12)
    below = replace(case, h0=-case.h0)
    for name in NAMES[worker._adapter.name]:
        variant = ADAPTERS[worker._adapter.name].variants[name]
        answer = worker.answer(name, replace(below, evaluation=variant.evaluation))
        if variant.evaluation == "log-scan":
            assert isinstance(answer, Broken)
            assert "the initial state is negative: its logarithm is undefined" in answer.message
        else:
            assert isinstance(answer, Observation)
            assert compare(replace(below, evaluation=variant.evaluation), answer.observed).worst <= 1.0


def test_the_package_takes_the_state_of_a_minlstm_through_g(package: Worker) -> None:
    """minGRU-pytorch 0.2.1: its minGRU agrees, its minLSTM starts from log g(h0); for one step from h0 itself."""
    outcomes = {}
    for cell in ("mingru_log", "minlstm_log"):
        case = replace(a_case(cell, "float32", time=12), evaluation="log-scan")
        answer = package.answer("module", case)
        assert isinstance(answer, Observation)
        shares = hypotheses(case, answer.observed)
        agrees = compare(case, answer.observed).explains
        outcomes[cell] = agrees or sharpest(name for name, share in shares.items() if share <= 1.0)
        single = replace(case, x=case.x[:, :1])
        answer = package.answer("module", single)
        assert isinstance(answer, Observation)
        assert answer.path.endswith("one step")
        assert compare(single, answer.observed).explains
    assert outcomes == {"mingru_log": True, "minlstm_log": ("h0_through_g",)}


def test_the_package_answers_nan_for_a_negative_state(package: Worker) -> None:
    """What its declaration says is undefined is so: no number comes out of minGRU."""
    case = a_case("mingru_log", "float32", time=12)
    answer = package.answer("module", replace(case, h0=-case.h0))
    assert isinstance(answer, Observation)
    assert np.isnan(answer.observed.outputs).all()
