"""The switching reading: weights that are probabilities, an expectation that is the state, and a simulated mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.case import Case, make_case
from conformance.cells import cell_named
from conformance.cells.switching import NEVER, Simulation, System, simulate, system
from conformance.errors import CaseError
from conformance.faults import catalogue

CELLS = ("mingru", "mingru_log", "minlstm", "minlstm_log")
CHANCE = 1e-6
"""Of a false alarm over all elements of one simulation."""


def case_of(cell: str, *, time: int = 12, seed: int = 0, **rest: Any) -> Case:
    generator = np.random.default_rng(seed)
    kind = cell_named(cell)
    return make_case(
        cell=cell,
        dtype="float64",
        parameters={
            name: generator.normal(size=shape) * 0.8 for name, shape in kind.shapes({"D": 3, "H": 4, "P": 4}).items()
        },
        x=generator.normal(size=(2, time, 3)),
        initial="given",
        h0=generator.uniform(0.1, 1.0, size=(2, 4)),
        origin="generic",
        **rest,
    )


def outputs(case: Case) -> np.ndarray:
    return np.swapaxes(cell_named(case.cell).run(case).outputs, 0, 1)


def outside(found: Simulation, states: np.ndarray) -> int:
    """How many of the states lie outside the confidence bound of a simulation."""
    return int((np.abs(states - found.mean) > found.confidence(CHANCE)).sum())


@pytest.mark.parametrize("cell", CELLS)
def test_the_weights_are_the_distribution_of_the_last_switch(cell: str) -> None:
    """They are positive, sum to one after every step, and give no weight to what has not happened yet."""
    weights = system(case_of(cell)).weights
    for t, row in enumerate(weights):
        assert (row[: t + 2] > 0).all()
        assert not row[t + 2 :].any()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-14)


def test_weights_written_out() -> None:
    """Two steps by hand: never, at the first, at the second."""
    made = System(z=np.array([0.25, 0.5]).reshape(2, 1, 1), n=np.array([2.0, 4.0]).reshape(2, 1, 1), h0=np.ones((1, 1)))
    np.testing.assert_array_equal(made.weights[..., 0, 0], [[0.75, 0.25, 0.0], [0.375, 0.125, 0.5]])
    np.testing.assert_array_equal(made.expectation[..., 0, 0], [1.25, 2.625])
    assert made.weights[1, NEVER] == 0.375


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_expectation_is_the_state_of_the_cell(cell: str, negative: bool) -> None:
    """The sum over the last switch is what the recurrence computes, from a negative state as well."""
    case = case_of(cell, time=40)
    case = replace(case, h0=-case.h0) if negative else case
    np.testing.assert_allclose(system(case).expectation, outputs(case), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cell", CELLS)
def test_the_simulated_mean_confirms_the_cell_and_no_fault(cell: str) -> None:
    """The recurrence lies inside the confidence bound everywhere; with an error planted it does not."""
    case = case_of(cell)
    found = simulate(system(case), paths=40_000, seed=1)
    assert outside(found, outputs(case)) == 0
    names = {"mingru": ("update_flip", "state_not_gated"), "minlstm": ("tied_to_forget", "not_normalised")}
    for name in (*names[cell.removesuffix("_log")], "h0_ignored", "swap_zn" if "gru" in cell else "swap_if"):
        wrong = np.swapaxes(catalogue(cell)[name].run(case).outputs, 0, 1)
        assert outside(found, wrong) > 0, name


def test_a_simulation_can_be_told_from_one_of_another_system() -> None:
    """A simulation with a wrong probability of drawing does not confirm the cell."""
    case = case_of("mingru")
    made = system(case)
    found = simulate(replace(made, z=np.minimum(made.z + 0.1, 1.0)), paths=40_000, seed=1)
    assert outside(found, outputs(case)) > 0


def test_a_simulation_is_reproducible() -> None:
    """One seed, one answer; another seed, another."""
    made = system(case_of("mingru_log", time=3))
    one, again, other = (simulate(made, paths=100, seed=seed).mean for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_the_confidence_bound_written_out() -> None:
    """Empirical Bernstein with the chance shared by all elements."""
    found = Simulation(mean=np.zeros((1, 1, 2)), error=np.full((1, 1, 2), 0.1), range=np.ones((1, 1, 2)), paths=100)
    logarithm = math.log(3 * 2 / 0.01)
    np.testing.assert_allclose(found.confidence(0.01), 0.1 * math.sqrt(2 * logarithm) + 0.03 * logarithm)


@pytest.mark.parametrize(
    ("cell", "changes"), [("gru", {}), ("mingru", {"reverse": True}), ("minlstm", {"lengths": (12, 5)})]
)
def test_what_is_no_switching_system_is_refused(cell: str, changes: dict[str, Any]) -> None:
    """A gated cell, and cases whose rows do not all run forward to the end."""
    with pytest.raises(CaseError, match="no switching system"):
        system(case_of(cell, **changes))
