"""The four ways to scan a Flax NNX cell agree with the equations and with one another; none passes for another."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.candidate import Adapter, Spec
from conformance.case import Case
from conformance.compare import Observed
from conformance.discover import find_adapters
from conformance.exchange import Observation
from conformance.gradient import judge_gradients
from conformance.host import Host
from conformance.plan import Candidate, interpreter_of
from conformance.signature import LATTICE, RELATION, Signature, build
from conformance.verdict import Agrees, Broken, Diverges

NNX = find_adapters()["flax-nnx"]
FORMS = ("unrolled", "lax-scan", "nnx-scan", "rnn")
CELLS = [("gru", ""), ("lstm", ""), ("lstm", "-LSTMCell"), ("elman", "")]


class Worker(Host):
    """One worker for several variants of an adapter: the start of one is what costs."""

    def __init__(self, adapter: Adapter) -> None:
        variant = adapter.variants["rnn"]
        candidate = Candidate(spec=Spec(adapter=adapter.name), adapter=adapter, variant=variant)
        super().__init__(
            adapter, variant, interpreter_of(candidate, print), incident=lambda _: None, ready=lambda *_: None
        )

    def answer(self, variant: str, case: Case) -> Observation:
        """What the variant observes."""
        self._variant = replace(self._variant, name=variant)
        answer = self.observe(case)
        assert isinstance(answer, Observation), answer
        return answer


def a_case(cell: str, *, batched: bool = True) -> Case:
    """A generic case with gradients, b_hn at zero."""
    shape, features = (RELATION, ("gradients",)) if batched else (LATTICE[3][0], ())
    signature = Signature(shape=shape, batched=batched, seed=3, scale=0.8, decimals=12, fills=())
    case = build(signature, cell=cell, dtype="float32", initial="given", features=features)
    return case.zeroed(("b_hn",) if cell == "gru" else ())


def handed_over(one: Observed, other: Observed) -> Observed:
    """One sequence of two: every other step is taken by the other from the state that the one was in before it.

    Each step is judged from the observed state before it, so this agrees only where both went the same way, to the
    rounding of a single step. The gradients are the other's, and are judged along this sequence.
    """
    outputs = one.outputs.copy()
    outputs[:, 1::2] = other.outputs[:, 1::2]
    assert outputs.shape[1] % 2 == 0, "the last step is the other's, and so are the final states"
    return replace(other, outputs=outputs, cells=None)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(NNX) as started:
        yield started


@pytest.fixture(scope="module")
def seen(worker: Worker) -> dict[tuple[str, str], dict[str, Observed]]:
    """What every form of every cell observes on one case per cell; each attests the path that it declares."""
    found: dict[tuple[str, str], dict[str, Observed]] = {}
    for cell, ending in CELLS:
        case = a_case(cell)
        for form in FORMS:
            answer = worker.answer(form + ending, case)
            assert answer.path in NNX.variants[form + ending].attestable(cell, "given", case.features)
            found.setdefault((cell, ending), {})[form] = answer.observed
    return found


@pytest.mark.parametrize(("cell", "ending"), CELLS)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_agrees_with_the_equations(
    seen: dict[tuple[str, str], dict[str, Observed]], cell: str, ending: str, form: str
) -> None:
    """Forward and gradients lie within the derived bound, and a missing transpose would not have."""
    verdict = judge_gradients(a_case(cell), seen[cell, ending][form], ("Wh_transposed",))
    assert isinstance(verdict, Agrees)
    assert verdict.excluded == {"Wh_transposed"}


@pytest.mark.parametrize(("cell", "ending"), CELLS)
@pytest.mark.parametrize(("one", "other"), list(combinations(FORMS, 2)))
def test_the_forms_agree_with_one_another(
    seen: dict[tuple[str, str], dict[str, Observed]], cell: str, ending: str, one: str, other: str
) -> None:
    """A sequence handed from one form to the other at every step is a run of the cell, with the other's gradients."""
    observed = seen[cell, ending]
    assert isinstance(judge_gradients(a_case(cell), handed_over(observed[one], observed[other]), ()), Agrees)


@pytest.mark.parametrize("one", FORMS)
def test_a_form_with_another_weight_agrees_with_none(
    seen: dict[tuple[str, str], dict[str, Observed]], worker: Worker, one: str
) -> None:
    """One weight of hundreds is off by a ten-thousandth: it agrees neither with the equations nor with another form."""
    case = a_case("gru")
    weight = case.parameters["W_hn"].astype(np.float32)
    weight[1, 2] += np.float32(1e-4)
    off = worker.answer(one, replace(case, parameters={**case.parameters, "W_hn": weight})).observed
    assert isinstance(judge_gradients(case, off, ()), Diverges)
    for form in FORMS:
        assert isinstance(judge_gradients(case, handed_over(seen["gru", ""][form], off), ()), Diverges)


def test_a_gradient_that_only_one_form_has_is_seen(seen: dict[tuple[str, str], dict[str, Observed]]) -> None:
    """The sequences agree, one number among the gradients does not."""
    one, other = seen["gru", ""]["unrolled"], seen["gru", ""]["rnn"]
    wrong = other.gradients["W_hz"].copy()
    wrong[0, 1] *= 1.001
    mixed = handed_over(one, replace(other, gradients={**other.gradients, "W_hz": wrong}))
    assert isinstance(judge_gradients(a_case("gru"), mixed, ()), Diverges)


# Paths

LIES = """

def _short(cell, x, carry):
    (carry, outputs), cells = unrolled(cell, x[..., 1:, :], carry)
    return (carry, jnp.concatenate([outputs[..., :1, :], outputs], axis=-2)), cells


def _twice(cell, x, carry):
    def body(carry, x_t):
        cell(carry, 2 * x_t)
        return cell(carry, x_t)

    final, outputs = jax.lax.scan(body, carry, x)
    return (final, outputs), None


def _halves(cell, x, carry):
    (carry, first), _ = lax_scan(cell, x[:8], carry)
    (carry, second), _ = lax_scan(cell, x[8:], carry)
    return (carry, jnp.concatenate([first, second])), None


def _copies(cell, x, carry):
    return (*jax.lax.scan(lambda carry, x_t: cell(carry, x_t), carry, x, unroll=4),), None


def _by_hand(cell, x, carry):
    def body(carry, x_t):
        r, z, n = jnp.split(x_t @ cell.dense_i.kernel[...] + cell.dense_i.bias[...], 3)
        hr, hz, hn = jnp.split(carry @ cell.dense_h.kernel[...], 3)
        z = nnx.sigmoid(z + hz)
        carry = (1 - z) * nnx.tanh(n + nnx.sigmoid(r + hr) * hn) + z * carry
        return carry, carry

    return jax.lax.scan(body, carry, x), None


FORMS |= {
    "unrolled-short": _short,
    "unrolled-scanned": lax_scan,
    "lax-scan-twice": _twice,
    "lax-scan-halves": _halves,
    "lax-scan-copies": _copies,
    "lax-scan-by-hand": _by_hand,
    "lax-scan-lifted": nnx_scan,
    "nnx-scan-lax": lax_scan,
    "nnx-scan-rnn": lambda cell, x, carry: rnn([cell], x, carry, None, reverse=False),
}
"""


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """The adapter with variants that run something else than they are called after."""
    folder = tmp_path_factory.mktemp("adapters") / "flax-nnx"
    shutil.copytree(NNX.folder, folder)
    with (folder / "forms.py").open("a", encoding="utf-8") as forms:
        forms.write(LIES)
    with Worker(replace(NNX, folder=folder)) as started:
        yield started


@pytest.mark.parametrize(
    ("lie", "path"),
    [
        ("unrolled-short", "outside loops 30 products of GRUCell"),
        ("unrolled-scanned", "jax.lax.scan(flax.nnx.GRUCell, carry, x)"),
        ("lax-scan-twice", "jax.lax.scan of 16 steps with 4 products of GRUCell; outside loops no product"),
        (
            "lax-scan-halves",
            "jax.lax.scan of 8 steps with 2 products of GRUCell; "
            "jax.lax.scan of 8 steps with 2 products of GRUCell; outside loops no product",
        ),
        (
            "lax-scan-copies",
            "jax.lax.scan, unrolled 4 times, of 16 steps with 2 products of GRUCell; outside loops no product",
        ),
        ("lax-scan-by-hand", "jax.lax.scan of 16 steps with 2 products of no cell; outside loops no product"),
        ("lax-scan-lifted", "flax.nnx.scan(flax.nnx.GRUCell, carry, x)"),
        ("nnx-scan-lax", "jax.lax.scan(flax.nnx.GRUCell, carry, x)"),
        ("nnx-scan-rnn", "flax.nnx.RNN(GRUCell)(x, initial_carry)"),
    ],
)
def test_a_variant_that_runs_something_else_does_not_attest_its_path(liar: Worker, lie: str, path: str) -> None:
    """The path tells what is in the program, whatever the variant is called."""
    assert liar.answer(lie, a_case("gru", batched=False)).path == path
    honest = next(form for form in FORMS if lie.startswith(form))
    assert path not in NNX.variants[honest].attestable("gru", "given")


def test_the_variants_of_the_lying_adapter_that_do_not_lie_are_believed(liar: Worker) -> None:
    """The same worker attests the declared path of a form that nobody touched."""
    answer = liar.answer("lax-scan", a_case("gru", batched=False))
    assert answer.path in NNX.variants["lax-scan"].attestable("gru", "given")


def test_weights_that_the_cell_cannot_hold_are_refused(worker: Worker) -> None:
    """A b_hn that is not zero never reaches a GRUCell, in no form."""
    case = a_case("gru")
    full = replace(case, parameters={**case.parameters, "b_hn": case.parameters["b_hn"] + 1})
    answer = worker.observe(full)
    assert isinstance(answer, Broken)
    assert "no place for b_hn" in answer.message
