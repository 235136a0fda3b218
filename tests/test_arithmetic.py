"""Declared arithmetic: what is declared agrees, what is not is named, and a declaration is no licence."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.algebra import Rounded
from conformance.case import Case
from conformance.cells import cell_named
from conformance.compare import Observed
from conformance.errors import CaseError
from conformance.judge import judge, observed_of, sharpest, visible_faults
from conformance.rounding import Arithmetic, arithmetic_of, round_to
from conformance.signature import GENERIC, Signature, build
from conformance.verdict import Agrees, Diverges

DECLARED: list[tuple[str, Arithmetic, str]] = [
    ("float32", "tf32-products", "tf32_products"),
    ("float32", "bfloat16-products", "bfloat16_products"),
    ("float64", "float32-activations", "float32_inside"),
    ("float64", "float32-throughout", "float32_inside"),
]


def a_case(cell: str, dtype: str, seed: int = 3) -> Case:
    """A generic case with a given state."""
    signature = Signature(shape=GENERIC, batched=True, seed=seed, scale=0.8, decimals=12, fills=())
    return build(signature, cell=cell, dtype=dtype, initial="given")


def computed(case: Case, dtype: str, arithmetic: Arithmetic) -> Observed:
    """An implementation that computes in this arithmetic."""
    return observed_of(cell_named(case.cell).run(case, ops=Rounded(arithmetic_of(dtype, arithmetic))))


@pytest.mark.parametrize(("dtype", "arithmetic", "name"), DECLARED)
@pytest.mark.parametrize("cell", ["gru", "lstm", "elman"])
def test_a_declared_arithmetic_agrees_and_an_undeclared_one_is_named(
    cell: str, dtype: str, arithmetic: Arithmetic, name: str
) -> None:
    """The same output: agreement for who declares it, a divergence with its name for who does not."""
    case = a_case(cell, dtype)
    observed = computed(case, dtype, arithmetic)
    undeclared = judge(case, observed, ())
    assert isinstance(undeclared, Diverges)
    assert sharpest(undeclared.faults) == (name,)
    declared = replace(case, arithmetic=arithmetic)
    against = visible_faults(cell, "given", dtype=dtype, arithmetic=arithmetic)
    assert name not in against
    verdict = judge(declared, observed, against)
    assert isinstance(verdict, Agrees)
    assert against - verdict.excluded == frozenset()


def test_a_coarser_arithmetic_than_the_declared_one_diverges() -> None:
    """Declaring TF32 does not cover bfloat16 products."""
    case = replace(a_case("gru", "float32"), arithmetic="tf32-products")
    verdict = judge(case, computed(case, "float32", "bfloat16-products"), ())
    assert isinstance(verdict, Diverges)
    assert sharpest(verdict.faults) == ("bfloat16_products",)


@pytest.mark.parametrize("cell", ["gru", "gru_v1", "lstm", "lstm_peephole", "elman", "elman_relu"])
def test_any_order_of_summation_agrees(cell: str) -> None:
    """A kernel that starts at the bias and runs over [x; h] term by term, in either direction, is conforming."""
    for seed in range(5):
        case = a_case(cell, "float32", seed)
        large = {name: 8.0 * value if value.ndim == 1 else value for name, value in case.parameters.items()}
        case = replace(case, parameters=large)
        for backwards in (False, True):
            verdict = judge(
                case,
                observed_of(cell_named(cell).run(case, ops=Sequential(arithmetic_of("float32", ""), backwards))),
                (),
            )
            assert isinstance(verdict, Agrees), (seed, backwards)


class Sequential(Rounded, frozen=True):
    """float32, where sums and products of a pre-activation run through one accumulator, term by term."""

    backwards: bool

    def dot(self, matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Products, not yet summed, in a fourth axis that `total` consumes; alone, summed at once."""
        return Products(self, matrix, vector)  # type: ignore[return-value]

    def total(self, *terms: np.ndarray) -> np.ndarray:
        """Everything in one accumulator."""
        columns = [column for term in terms for column in _columns(term)]
        if self.backwards:  # type: ignore[attr-defined]
            columns.reverse()
        accumulator = columns[0]
        for column in columns[1:]:
            accumulator = round_to("float32", accumulator + column)
        return accumulator

    def times(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Elementwise."""
        return super().times(_summed(self, left), _summed(self, right))


class Products:
    """The products of a matrix and a vector, to be summed together with other terms."""

    def __init__(self, ops: Sequential, matrix: np.ndarray, vector: np.ndarray) -> None:
        rounded = [vector[..., k, None] * matrix[..., :, k] for k in range(matrix.shape[-1])]
        self.columns = [round_to("float32", column) for column in rounded]
        self.ops = ops


def _columns(term: object) -> list[np.ndarray]:
    return term.columns if isinstance(term, Products) else [term]  # type: ignore[list-item]


def _summed(ops: Sequential, term: object) -> np.ndarray:
    return ops.total(term) if isinstance(term, Products) else term  # type: ignore[arg-type,return-value]


def test_an_arithmetic_of_another_dtype_is_refused() -> None:
    """TF32 is an arithmetic of float32."""
    with pytest.raises(CaseError, match="no such arithmetic"):
        arithmetic_of("float16", "tf32-products")
