"""Reduction: a failing case becomes small and plain, keeps failing in the same way, and few questions are asked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.case import Case, Shape, arrays_of
from conformance.cells import CELLS, cell_named
from conformance.compare import Observed
from conformance.faults import catalogue
from conformance.judge import deviation, judge, planted
from conformance.reduction import reduced, sliced
from conformance.signature import GENERIC, LATTICE, RELATION, Signature, build
from conformance.verdict import Diverges

SHAPES = [shape for shape, _ in LATTICE]
FEATURES: list[tuple[str, ...]] = [(), ("bidirectional", "layers", "lengths"), ("reverse",), ("gradients",)]


def drawn(cell: str = "gru", *, shape: Shape = GENERIC, features: tuple[str, ...] = (), dtype: str = "float32") -> Case:
    signature = Signature(shape=shape, batched=True, seed=11, scale=0.8, decimals=12, fills=())
    return build(signature, cell=cell, dtype=dtype, initial="given", features=features)


def numbers(case: Case) -> dict[str, np.ndarray]:
    return arrays_of(case) | dict(case.parameters) | {f"G {name}": g for name, g in case.cotangents.items()}


def nonzero(case: Case) -> int:
    return sum(int(np.count_nonzero(array)) for array in numbers(case).values())


@pytest.mark.parametrize("features", FEATURES, ids="-".join)
@pytest.mark.parametrize("cell", CELLS)
def test_a_slice_is_a_case_of_its_cell(cell: str, features: tuple[str, ...]) -> None:
    """Whatever the stack, the shape is the one asked for, and every parameter and state fits it."""
    case = drawn(cell, features=features)
    part = sliced(case, Shape(batch=2, time=3, features=2, hidden=3), (3, 7, 5))
    cell_named(cell).check(part)
    size = part.shape
    assert (size.batch, size.time, size.features, size.hidden) == (2, 3, 2, 3)
    assert (size.layers, size.directions) == (case.layers, case.directions)
    if case.cotangents:
        run = cell_named(cell).run(part)
        assert part.cotangents["outputs"].shape == run.outputs.shape
        assert part.cotangents["final_state"].shape == run.final_state.shape


@pytest.mark.parametrize("features", [(), ("reverse",), ("bidirectional", "layers"), ("lengths",)], ids="-".join)
def test_rows_and_first_steps_compute_what_they_did(features: tuple[str, ...]) -> None:
    """Without a cut through units, the part gives the very rows and steps of the whole."""
    case = drawn(features=features)
    whole = cell_named("gru").run(case).outputs
    rows = cell_named("gru").run(sliced(case, replace(GENERIC, batch=2), (3, 0, 0))).outputs
    np.testing.assert_allclose(rows, whole[2:4], rtol=1e-12)
    if case.directions == 1:
        first = (0, 11, 0) if case.reverse else (0, 0, 0)
        steps = cell_named("gru").run(sliced(case, replace(GENERIC, time=5), first)).outputs
        np.testing.assert_allclose(steps, whole[:, 7:] if case.reverse else whole[:, :5], rtol=1e-12)


def test_a_slice_holds_the_place_asked_for() -> None:
    """Row, step and unit of the whole are in the part, steps before later ones."""
    case = drawn()
    part = sliced(case, Shape(batch=1, time=2, features=6, hidden=1), (2, 9, 5))
    np.testing.assert_array_equal(part.x, case.x[2:3, 8:10])
    np.testing.assert_array_equal(part.h0, case.h0[2:3, 5:6])
    np.testing.assert_array_equal(part.parameters["W_hn"], case.parameters["W_hn"][5:6, 5:6])
    np.testing.assert_array_equal(part.parameters["W_xn"], case.parameters["W_xn"][5:6])


def asks(fails: Callable[[Case], bool]) -> tuple[Callable[[Case], bool], list[Case]]:
    asked: list[Case] = []

    def ask(case: Case) -> bool:
        asked.append(case)
        return fails(case)

    return ask, asked


def test_what_does_not_matter_goes() -> None:
    """Of a failure that needs two steps and one number, two steps and that number stay, and it is a round one."""
    fails, asked = asks(lambda case: case.shape.time >= 2 and case.parameters["b_hn"][0] != 0)
    small = reduced(drawn(), fails, at=(3, 1, 0), shapes=SHAPES)
    assert small.shape == Shape(batch=1, time=2, features=1, hidden=1)
    assert nonzero(small) == 1
    assert small.parameters["b_hn"].tolist() == [0.5]
    assert len(asked) <= 20


def test_values_that_matter_stay_and_are_made_round() -> None:
    """Where a failure depends on a value, the least precise number that keeps it is found."""
    small = reduced(drawn(), lambda case: bool((abs(case.x - 0.7) < 0.15).any()), at=(0, 0, 0), shapes=SHAPES)
    assert nonzero(small) == 1
    (value,) = small.x[small.x != 0]
    assert value == np.float32(np.round(value, 1))


def test_nothing_smaller_is_the_case_itself() -> None:
    """When no smaller case fails, the one that does is returned, and the number of questions is bounded."""
    case = drawn()
    for limit in (0, 1, 30):
        fails, asked = asks(lambda _: False)
        assert reduced(case, fails, at=(0, 0, 0), shapes=SHAPES, questions=limit) is case
        assert len(asked) == limit


def test_no_case_is_asked_twice_and_few_shapes_are_tried() -> None:
    """A question costs a run, a shape may cost a compilation."""
    fails, asked = asks(lambda case: nonzero(case) > 100)
    small = reduced(drawn(), fails, at=(1, 4, 2), shapes=SHAPES, questions=300)
    assert nonzero(small) > 100
    assert len({case.digest for case in asked}) == len(asked)
    assert len({case.shape for case in asked}) <= len(SHAPES) + 5


def test_the_same_case_is_reduced_to_the_same_one() -> None:
    """No chance is involved."""

    def fails(case: Case) -> bool:
        return float(np.abs(case.x).sum()) > 1 and bool(case.parameters["W_hz"].any())

    first, second = (reduced(drawn(), fails, at=(0, 0, 0), shapes=SHAPES) for _ in range(2))
    assert first.digest == second.digest
    assert fails(first)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_has_to_hold_of_a_case_still_holds(dtype: str) -> None:
    """Parameters at zero stay there, positive states positive, states that are left out zero."""
    case = drawn("mingru_log", dtype=dtype).zeroed(("b_z",))
    small = reduced(case, lambda c: bool(c.x.any()), at=(0, 0, 0), shapes=SHAPES)
    assert (small.h0 >= 0.125).all()
    assert not small.parameters["b_z"].any()
    left_out = replace(drawn(), initial="omitted", h0=np.zeros_like(drawn().h0))
    assert not reduced(left_out, lambda c: bool(c.x.any()), at=(0, 0, 0), shapes=SHAPES).h0.any()


@pytest.mark.parametrize(
    ("cell", "fault", "shape", "size"),
    [
        ("gru", "drop_bhn", GENERIC, 4),
        ("gru", "swap_rz", GENERIC, 8),
        ("gru", "Wh_transposed", GENERIC, 8),
        ("gru", "reversed_time", GENERIC, 6),
        ("gru", "state_lane0", GENERIC, 6),
        ("lstm", "swap_if", GENERIC, 8),
        ("elman", "out_shift", RELATION, 6),
        ("mingru", "swap_zn", RELATION, 8),
    ],
)
def test_a_planted_fault_keeps_its_name_on_a_few_numbers(cell: str, fault: str, shape: Shape, size: int) -> None:
    """The reduced case is explained by the same fault, on a handful of numbers, after a bounded search."""
    case = drawn(cell, shape=shape)

    def run(smaller: Case) -> Observed:
        return planted(smaller, catalogue(cell)[fault])

    verdict = judge(case, run(case), ())
    assert isinstance(verdict, Diverges)
    fails, asked = asks(lambda smaller: deviation(smaller, run(smaller), verdict.faults) is None)
    small = reduced(case, fails, at=verdict.evidence.first, shapes=SHAPES)
    again = judge(small, run(small), ())
    assert isinstance(again, Diverges)
    assert again.faults == (fault,)
    assert nonzero(small) <= size
    assert len(asked) <= 100
