"""The faults of a learner's GRU cell: each is what its equation says, and has its name in both conventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.algebra import Exact
from conformance.case import Case, Evaluation, Initial, Shape
from conformance.cells.gru import COMPLEMENT
from conformance.compare import compare
from conformance.faults import catalogue
from conformance.judge import hypotheses, planted, sharpest, visible_faults
from conformance.rounding import Array
from conformance.signature import GENERIC, Signature, build

FORMS = ("gru", "gru_v1")
Weights = dict[str, Array]


def case_of(
    cell: str,
    dtype: str,
    initial: Initial,
    seed: int,
    evaluation: Evaluation,
    shape: Shape = GENERIC,
    scale: float = 0.8,
) -> Case:
    """A generic case."""
    signature = Signature(shape=shape, batched=True, seed=seed, scale=scale, decimals=12, fills=())
    return replace(build(signature, cell=cell, dtype=dtype, initial=initial), evaluation=evaluation)


def sigmoid(a: Array) -> Array:
    """The logistic function."""
    result: Array = 1.0 / (1.0 + np.exp(-a))
    return result


def relu(a: Array) -> Array:
    """The positive part."""
    return np.maximum(a, 0.0)


def identity(a: Array) -> Array:
    """The argument itself."""
    return a


class Hand:
    """A GRU written out for each fault: weights, activations and update are what the fault says they are."""

    def __init__(self, **changes: Callable[..., Array]) -> None:
        right: dict[str, Callable[..., Array]] = {"r": sigmoid, "z": sigmoid, "n": np.tanh}
        right |= {"update": self.kept, "reads": self.own}
        self.of = {**right, **changes}

    @staticmethod
    def own(p: Weights, stem: str, gate: str) -> Array:
        """Every gate has its own arrays."""
        return p[stem + gate]

    @staticmethod
    def kept(z: Array, n: Array, h: Array) -> Array:
        """z keeps the state."""
        return (1.0 - z) * n + z * h

    def outputs(self, case: Case, p: Weights) -> Array:
        """All states in float64."""
        reads, h, states = self.of["reads"], case.h0, []

        def side(letter: str, gate: str, values: Array) -> Array:
            result: Array = values @ reads(p, f"W_{letter}", gate).T + reads(p, f"b_{letter}", gate)
            return result

        for x in np.swapaxes(case.x, 0, 1):
            r, z = (self.of[gate](side("x", gate, x) + side("h", gate, h)) for gate in "rz")
            recurrent = r * side("h", "n", h) if case.cell == "gru" else side("h", "n", r * h)
            n = self.of["n"](side("x", "n", x) + recurrent)
            h = self.of["update"](z, n, h)
            states.append(h)
        return np.stack(states, axis=1)


def shared(source: str, readers: str, *, biases: bool) -> Callable[..., Array]:
    """Some gates read the arrays of one."""

    def reads(p: Weights, stem: str, gate: str) -> Array:
        return p[stem + (source if gate in readers and (biases or stem[0] == "W") else gate)]

    return reads


def blind_candidate(p: Weights, stem: str, gate: str) -> Array:
    """W_hn is not used."""
    return 0.0 * p["W_hn"] if (stem, gate) == ("W_h", "n") else p[stem + gate]


BY_HAND: Mapping[str, Hand] = {
    "gates_share_matrix": Hand(reads=shared("r", "rzn", biases=False)),
    "gates_share_parameters": Hand(reads=shared("r", "rzn", biases=True)),
    "gates_share_matrix_of_z": Hand(reads=shared("z", "rzn", biases=False)),
    "gates_share_parameters_of_n": Hand(reads=shared("n", "rzn", biases=True)),
    "rz_share_matrix": Hand(reads=shared("r", "rz", biases=False)),
    "rz_share_parameters_of_z": Hand(reads=shared("z", "rz", biases=True)),
    "candidate_without_state": Hand(reads=blind_candidate),
    "r_tanh": Hand(r=np.tanh),
    "z_tanh": Hand(z=np.tanh),
    "r_relu": Hand(r=relu),
    "z_identity": Hand(z=identity),
    "gate_identity": Hand(r=identity, z=identity),
    "z_hard_sigmoid6": Hand(z=lambda a: np.clip(a / 6.0 + 0.5, 0.0, 1.0)),
    "activations_swapped": Hand(r=np.tanh, z=np.tanh, n=sigmoid),
    "update_without_complement": Hand(update=lambda z, n, h: n + z * h),
    "update_forgets": Hand(update=lambda z, n, h: (1.0 - z) * n + 0.0 * h),
}
# The same mistakes made where z mixes the candidate in.
MIXING: Mapping[str, Callable[[Array, Array, Array], Array]] = {
    "update_without_complement": lambda z, n, h: h + z * n,
    "update_forgets": lambda z, n, h: z * n + 0.0 * h,
}


@pytest.mark.parametrize("evaluation", ["sequential", "complement"])
@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("cell", FORMS)
def test_a_fault_is_what_its_equation_says(cell: str, name: str, evaluation: Evaluation) -> None:
    """Against a loop written by hand in float64, in the convention in which the mistake is made."""
    case = case_of(cell, "float64", "given", 3, evaluation, Shape(batch=2, time=3, features=5, hidden=4))
    hand, p = BY_HAND[name], dict(case.parameters)
    if evaluation == "complement":
        update = MIXING.get(name, lambda z, n, h: (1.0 - z) * h + z * n)
        hand, p = Hand(**{**hand.of, "update": update}), COMPLEMENT.parameters(p)
    wanted = hand.outputs(case, p)
    assert np.allclose(catalogue(cell)[name].run(case, Exact()).outputs, wanted, rtol=1e-12, atol=1e-13)
    assert np.abs(wanted - Hand().outputs(replace(case, evaluation="sequential"), dict(case.parameters))).max() > 1e-3


@pytest.mark.parametrize("cell", ["gru_v1", "lstm", "elman", "mingru"])
def test_an_input_laid_out_by_features_is_read_by_time(cell: str) -> None:
    """For T = D that is x^T of every row, else the buffer; without a second step or feature nothing changes."""
    fault = catalogue(cell)["x_transposed"]
    square = case_of(cell, "float32", "given", 1, "sequential", Shape(batch=2, time=6, features=6, hidden=4))
    assert np.array_equal(fault.misread(square).x, np.swapaxes(square.x, 1, 2))
    wide = case_of(cell, "float32", "given", 1, "sequential", Shape(batch=2, time=3, features=2, hidden=4))
    assert np.array_equal(fault.misread(wide).x[0], wide.x[0].ravel().reshape(2, 3).T)
    narrow = case_of(cell, "float32", "given", 1, "sequential", Shape(batch=2, time=3, features=1, hidden=4))
    assert np.array_equal(fault.misread(narrow).x, narrow.x)


@pytest.mark.parametrize(("cell", "dtype"), [("gru", "bfloat16"), ("gru_v1", "float32")])
def test_the_whole_catalogue_is_caught_and_named_with_the_complement(cell: str, dtype: str) -> None:
    """Planted in the other convention, each has its own name wherever it is caught, and in the end no other beside."""
    # The state of some mutants overflows in more steps than these.
    shapes = ((GENERIC, 0.8), (GENERIC, 2.0), (Shape(batch=2, time=3, features=2, hidden=3), 0.8))
    every = [
        case_of(cell, dtype, initial, seed, "complement", shape, scale)
        for seed, (shape, scale) in enumerate(shapes)
        for initial in ("given", "omitted")
    ]
    wanted = visible_faults(cell, "given", dtype=dtype) | visible_faults(cell, "omitted", dtype=dtype)
    assert len(wanted) > 60
    for name in wanted:
        _assert_named(name, every)


NEW = ("gates_share_matrix", "gates_share_parameters", "candidate_without_state", "activations_swapped", "x_transposed")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("cell", ["lstm", "lstm_peephole"])
def test_the_new_faults_of_an_lstm_are_named(cell: str, dtype: str) -> None:
    """What an LSTM shares of them."""
    every = [case_of(cell, dtype, initial, seed, "sequential") for seed in (1, 2) for initial in ("given", "omitted")]
    for name in NEW:
        _assert_named(name, every)


def _assert_named(name: str, every: list[Case]) -> None:
    """Some cases catch the fault, its name explains each of these, and all of them together leave that name alone."""
    names: set[str] = set()
    for case in every:
        observed = planted(case, catalogue(case.cell)[name])
        if not observed.finite or compare(case, observed).explains:
            continue
        shares = hypotheses(case, observed)
        found = {fault for fault, share in shares.items() if share <= 1.0}
        assert name in found
        names = names & found if names else found
        if sharpest(names) == (name,):
            return
    raise AssertionError(f"{name} is not told from {names}")
