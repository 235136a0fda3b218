"""Behaviours: implementations that are right for a plain call and wrong in another situation, or use no weights given.

A fault is a mutated reference and can be a hypothesis about an observation. A behaviour cannot: it depends on what was
run before, on memory layout, on the batch. It is planted, to prove that the requirement written against it catches it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from conformance.algebra import Rounded
from conformance.case import Case
from conformance.cells import cell_named
from conformance.compare import Observed
from conformance.judge import observed_of
from conformance.rounding import Array, format_of, round_to

Runner: TypeAlias = Callable[[Case], Observed]


class Behaviour(Struct, frozen=True, kw_only=True):
    """One named deliberate defect of an implementation as a whole.

    statement: what it does wrong, as a sentence. make: a fresh implementation (some remember what they ran).
    """

    name: str
    statement: str
    make: Callable[[], Runner]


def correct(case: Case) -> Observed:
    """A correct implementation, emulated in the case's dtype; its inputs come back as they were."""
    with np.errstate(over="ignore", invalid="ignore"):
        observed = observed_of(cell_named(case.cell).run(case, ops=Rounded(format_of(case.dtype))))
    if case.inputs_back:
        observed = replace(observed, inputs_after={**case.parameters, "x": case.x, "h0": case.h0})
    return observed


def _stateless(change: Callable[[Case], Observed]) -> Callable[[], Runner]:
    return lambda: change


def _remembering() -> Runner:
    """Starts from its last final state when the initial one is omitted and the batch fits."""
    last: list[Observed] = []

    def run(case: Case) -> Observed:
        if case.initial == "omitted" and last and last[-1].final_state.shape == case.h0.shape:
            memory = last[-1].final_cell
            case = replace(case, initial="given", h0=last[-1].final_state, c0=memory)
        observed = correct(case)
        last.append(observed)
        return observed

    return run


def _omitted_is_random(case: Case) -> Observed:
    if case.initial != "omitted":
        return correct(case)
    drawn = np.random.default_rng(1).uniform(0.1, 1.0, case.h0.shape)
    return correct(replace(case, initial="given", h0=round_to(case.dtype, drawn)))


def _single_row_from_zeros(case: Case) -> Observed:
    if case.shape.batch != 1 or not case.batched:
        return correct(case)
    return correct(replace(case, h0=np.zeros_like(case.h0)))


def _unbatched_from_zeros(case: Case) -> Observed:
    if case.batched:
        return correct(case)
    return correct(replace(case, h0=np.zeros_like(case.h0)))


def _single_step_zero(case: Case) -> Observed:
    observed = correct(case)
    if case.shape.time != 1:
        return observed
    return replace(observed, outputs=np.zeros_like(observed.outputs))


def _single_unit_off(case: Case) -> Observed:
    observed = correct(case)
    if case.shape.output != 1:
        return observed
    return replace(observed, outputs=observed.outputs[:, ::-1].copy())


def _clipped(case: Case) -> Observed:
    """Biases and inputs are clipped to +-4, a stand-in for a clipped pre-activation."""
    limit = 4.0
    parameters = {name: np.clip(value, -limit, limit) for name, value in case.parameters.items()}
    return correct(replace(case, parameters=parameters))


def _decaying(case: Case) -> Observed:
    """One unit in the last place is lost in every step."""
    observed = correct(case)
    steps = 1 + np.arange(case.shape.time)[None, :, None]
    factor = 1 - 2.0 * format_of(case.dtype).storage * steps
    return replace(observed, outputs=round_to(case.dtype, observed.outputs * factor))


def _nan_for_negative_state(case: Case) -> Observed:
    """States are kept as logarithms."""
    observed = correct(case)
    lost = case.h0 < 0
    return replace(
        observed,
        outputs=np.where(lost[:, None], np.nan, observed.outputs),
        final_state=np.where(lost, np.nan, observed.final_state),
    )


def _large_is_nan(case: Case) -> Observed:
    """A sigmoid written as exp(a) / (1 + exp(a)) is NaN once exp(a) overflows."""
    observed = correct(case)
    spoiled = np.any(np.abs(case.x) > 1e4, axis=2, keepdims=True)
    return replace(observed, outputs=np.where(spoiled, np.nan, observed.outputs))


def _nan_swallowed(case: Case) -> Observed:
    return correct(replace(case, x=np.nan_to_num(case.x, nan=0.0, posinf=np.inf, neginf=-np.inf)))


def _nan_leaks(case: Case) -> Observed:
    observed = correct(case)
    spoiled = np.any(~np.isfinite(case.x), axis=(0, 2), keepdims=True)
    return replace(observed, outputs=np.where(spoiled, np.nan, observed.outputs))


def _with_own_weights(case: Case, seed: int) -> Observed:
    """Weights of the cell's own initialisation, whatever was loaded."""
    generator = np.random.default_rng(seed)
    own = {name: round_to(case.dtype, 0.5 * generator.standard_normal(v.shape)) for name, v in case.parameters.items()}
    return correct(replace(case, parameters=own))


def _fresh_in_each_call() -> Runner:
    calls = itertools.count()
    return lambda case: _with_own_weights(case, next(calls))


def _last_output_only(case: Case) -> Observed:
    observed = correct(case)
    return replace(observed, outputs=observed.outputs[:, -1:])


def _input_modified(case: Case) -> Observed:
    """The state is computed in place, in the memory of the initial state."""
    observed = correct(case)
    return replace(observed, inputs_after={**observed.inputs_after, "h0": observed.final_state})


def _strides_ignored(case: Case) -> Observed:
    """The buffer of a time-major x is read as if rows came first."""
    if not case.strided:
        return correct(case)
    buffer: Array = np.ascontiguousarray(np.swapaxes(case.x, 0, 1)).reshape(case.x.shape)
    return correct(replace(case, x=buffer))


def _reverse_ignored(case: Case) -> Observed:
    return correct(replace(case, reverse=False))


def _empty_is_zeros(case: Case) -> Observed:
    observed = correct(case)
    return observed if case.shape.time else replace(observed, final_state=np.zeros_like(observed.final_state))


def _empty_batch_row(case: Case) -> Observed:
    observed = correct(case)
    if case.shape.batch:
        return observed
    return replace(observed, outputs=np.zeros((1, *observed.outputs.shape[1:])))


BEHAVIOURS: Final[Mapping[str, Behaviour]] = {
    name: Behaviour(name=name, statement=statement, make=make)
    for name, statement, make in (
        ("state_remembered", "an omitted initial state is the final state of the call before", _remembering),
        ("omitted_is_random", "an omitted initial state is drawn at random", _stateless(_omitted_is_random)),
        ("single_row_from_zeros", "a batch of one row ignores its initial state", _stateless(_single_row_from_zeros)),
        ("unbatched_from_zeros", "an unbatched call ignores its initial state", _stateless(_unbatched_from_zeros)),
        ("single_step_zero", "a sequence of one step returns zeros", _stateless(_single_step_zero)),
        ("single_unit_off", "outputs of a single unit come in reversed order", _stateless(_single_unit_off)),
        ("preactivation_clipped", "large pre-activations are clipped", _stateless(_clipped)),
        ("state_decays", "a kept state loses its last bit", _stateless(_decaying)),
        ("nan_for_negative_state", "a negative initial state gives NaN", _stateless(_nan_for_negative_state)),
        ("large_is_nan", "a naive sigmoid overflows to NaN", _stateless(_large_is_nan)),
        ("nan_swallowed", "NaN in the input is replaced by zero", _stateless(_nan_swallowed)),
        ("nan_leaks", "NaN in one row spreads to the others", _stateless(_nan_leaks)),
        (
            "fresh_weights",
            "the cell is built inside the step: its weights are fresh ones, not those that were loaded",
            _stateless(lambda case: _with_own_weights(case, 0)),
        ),
        (
            "fresh_weights_each_call",
            "the cell is built anew in every call, with other fresh weights each time",
            _fresh_in_each_call,
        ),
        ("last_output_only", "only the last output is returned", _stateless(_last_output_only)),
        ("input_modified", "the initial state is overwritten", _stateless(_input_modified)),
        ("strides_ignored", "the strides of the input are ignored", _stateless(_strides_ignored)),
        ("reverse_ignored", "the direction is ignored", _stateless(_reverse_ignored)),
        ("empty_is_zeros", "a sequence without steps resets the state", _stateless(_empty_is_zeros)),
        ("empty_batch_row", "a batch without rows comes back as one row", _stateless(_empty_batch_row)),
    )
}
