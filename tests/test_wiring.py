"""Wiring: which input every slot consumes and which state it starts from, against loops that anybody can read.

A wiring is followed here with *histories* in place of numbers: the state of a row is the tuple of what it consumed, in
order. A naive loop over each row gives the histories that there must be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from test_case import drawn

from conformance.algebra import Exact
from conformance.behaviours import correct
from conformance.case import Case, Padding
from conformance.cells import CELLS, cell_named
from conformance.cells.cell import INITIAL, NO_INPUT, NOTHING, Rows, Sequence, Wiring, wire
from conformance.compare import compare
from conformance.faults import catalogue
from conformance.judge import observed_of
from conformance.rounding import Array
from conformance.signature import RELATION, Signature, build
from conformance.worker.api import block

FOUR = ("gru", "lstm", "lstm_projection", "mingru")
"""A cell without memory, one with, one whose state is narrower than its memory, and one whose gates see no state."""

History: TypeAlias = tuple[int, ...] | None
"""The inputs that a state has consumed, () for the initial state, None for zeros that belong to no state."""


class Row(Struct, frozen=True):
    """What a row returns: a history per output, and the final one."""

    outputs: list[History]
    final: History


def followed(wiring: Wiring) -> list[Row]:
    """Run a wiring, in its order, on histories."""
    slots, batch = wiring.inputs.shape
    values: dict[tuple[int, int], History] = {}
    for slot in map(int, wiring.order):
        for row in range(batch):
            state, consumed = int(wiring.states[slot, row]), int(wiring.inputs[slot, row])
            before = () if state == INITIAL else None if state == NOTHING else values[state, row]
            assert before is not None or consumed == NO_INPUT, "something is consumed by no state"
            values[slot, row] = before if consumed == NO_INPUT or before is None else (*before, consumed)
    time = slots - 1
    return [Row([values[slot, row] for slot in range(time)], values[time, row]) for row in range(batch)]


def loop(time: int, length: int, *, reverse: bool) -> Row:
    """The naive loop: a row's own steps in its direction; nothing past its end."""
    state: tuple[int, ...] = ()
    outputs: list[History] = [None] * time
    for step in reversed(range(length)) if reverse else range(length):
        state = (*state, step)
        outputs[step] = state
    return Row(outputs, state)


@st.composite
def some_rows(draw: st.DrawFn) -> Rows:
    """A few short rows, empty ones among them, in either direction."""
    time = draw(st.integers(0, 5))
    lengths = draw(st.lists(st.integers(0, time), max_size=4))
    backward = draw(st.booleans())
    return Rows(
        time=time, lengths=np.array(lengths, dtype=np.intp), reverse=backward or draw(st.booleans()), backward=backward
    )


@given(some_rows())
def test_the_correct_wiring_is_the_naive_loop(rows: Rows) -> None:
    """Any T, any lengths (none, all, one, no rows), forward and in reverse."""
    assert followed(wire(rows)) == [loop(rows.time, int(length), reverse=rows.reverse) for length in rows.lengths]


# Every fault of time and state says something else than the loop, and exactly what it is said to


def _not_carried(time: int, length: int, *, reverse: bool) -> Row:
    outputs: list[History] = [(step,) if step < length else None for step in range(time)]
    return Row(outputs, () if length == 0 else (0 if reverse else length - 1,))


def _other_end(time: int, length: int, *, reverse: bool) -> Row:
    return loop(time, length, reverse=not reverse)


def _other_end_unflipped(time: int, length: int, *, reverse: bool) -> Row:
    right = loop(time, length, reverse=not reverse)
    return Row([*right.outputs[:length][::-1], *right.outputs[length:]], right.final)


def _shifted(time: int, length: int, *, reverse: bool) -> Row:
    right = loop(time, length, reverse=reverse)
    own = right.outputs[:length]
    lagging = [*own[1:], ()] if reverse else [(), *own[:-1]]
    return Row([*lagging[:length], *right.outputs[length:]], right.final)


def _first_skipped(time: int, length: int, *, reverse: bool) -> Row:
    right = loop(time, length, reverse=reverse)
    return Row([None if h is None else h[1:] for h in right.outputs], (right.final or ())[1:])


def _whole(time: int, length: int, *, reverse: bool) -> Row:
    return loop(time, time, reverse=reverse)


def _final_from_padding(time: int, length: int, *, reverse: bool) -> Row:
    right = loop(time, length, reverse=reverse)
    return replace(right, final=right.outputs[-1]) if length < time else right


def _last_lost(time: int, length: int, *, reverse: bool) -> Row:
    return loop(time, max(length - 1, 0) if length < time else length, reverse=reverse)


def _zero_wraps(time: int, length: int, *, reverse: bool) -> Row:
    return loop(time, length or time, reverse=reverse)


def _padding_first(time: int, length: int, *, reverse: bool) -> Row:
    return loop(time, time if reverse else length, reverse=reverse)


FAULTY: Mapping[str, Callable[..., Row]] = {
    "state_not_carried": _not_carried,
    "reversed_time": _other_end,
    "reversed_noflip": _other_end_unflipped,
    "out_shift": _shifted,
    "skip_t0": _first_skipped,
    "lengths_ignored": _whole,
    "final_from_padding": _final_from_padding,
    "last_step_lost": _last_lost,
    "length_zero_wraps": _zero_wraps,
    "padding_reversed": _padding_first,
}
"""What the rows of each faulty wiring return, as a loop."""


def test_every_faulty_wiring_is_checked_here() -> None:
    """All faults of the catalogue that change the wiring have their loop, or a test of their own below."""
    changed = {name for name, fault in catalogue("gru").items() if fault.wiring is not wire}
    assert changed == {*FAULTY, "backward_forward"}


@pytest.mark.parametrize("name", FAULTY)
@given(rows=some_rows())
def test_a_faulty_wiring_says_what_its_statement_says(name: str, rows: Rows) -> None:
    """The histories are those of a loop with that mistake."""
    wanted = [FAULTY[name](rows.time, int(length), reverse=rows.reverse) for length in rows.lengths]
    assert followed(catalogue("gru")[name].wiring(rows)) == wanted


@given(some_rows())
def test_backward_run_forward_touches_the_backward_direction_only(rows: Rows) -> None:
    """The backward of two directions runs forward; a single layer run in reverse does not."""
    reverse = rows.reverse and not rows.backward
    wanted = [loop(rows.time, int(length), reverse=reverse) for length in rows.lengths]
    assert followed(catalogue("gru")["backward_forward"].wiring(rows)) == wanted


# Whole sequences, composed by hand


def generic(cell: str, *features: str, padding: Padding = "zeros", seed: int = 4) -> Case:
    """A generic case in float64 with rows of 6, 3 and 0 steps where it has lengths."""
    signature = Signature(shape=RELATION, batched=True, seed=seed, scale=1.0, decimals=12, fills=())
    case = build(signature, cell=cell, dtype="float64", initial="given", features=features, padding=padding)
    return case if case.lengths is None else replace(case, lengths=(6, 3, 0))


def run(case: Case, fault: str = "") -> Sequence:
    """The reference, or a mutated one, in float64."""
    if fault:
        return catalogue(case.cell)[fault].run(case, Exact())
    return cell_named(case.cell).run(case)


def close(one: Array | None, other: Array | None) -> None:
    """Equal but for the order in which BLAS adds."""
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13, strict=True)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", FOUR)
def test_a_padded_row_is_the_row_cut_to_its_length(cell: str, reverse: bool) -> None:
    """Outputs, memories and final states of each row are those of the row alone; past its end there are zeros."""
    case = replace(generic(cell, "lengths"), reverse=reverse)
    whole = run(case)
    assert case.lengths is not None
    for row, length in enumerate(case.lengths):
        lane = slice(row, row + 1)
        cut = run(
            replace(
                case,
                x=case.x[lane, :length],
                h0=case.h0[lane],
                c0=None if case.c0 is None else case.c0[lane],
                lengths=None,
            )
        )
        close(whole.outputs[lane, :length], cut.outputs)
        close(whole.final_state[lane], cut.final_state)
        assert not whole.outputs[lane, length:].any()
        if whole.cells is not None and cut.cells is not None:
            close(whole.cells[lane, :length], cut.cells)
            close(whole.final_cell[lane] if whole.final_cell is not None else None, cut.final_cell)
    np.testing.assert_array_equal(whole.final_state[2], case.h0[2])


@pytest.mark.parametrize("cell", FOUR)
def test_reverse_is_the_flipped_run_of_the_flipped_input(cell: str) -> None:
    """And the final state is that after the first step of the input."""
    case = generic(cell)
    back, flipped = run(replace(case, reverse=True)), run(replace(case, x=case.x[:, ::-1]))
    close(back.outputs, flipped.outputs[:, ::-1])
    close(back.final_state, flipped.final_state)
    close(back.final_state, back.outputs[:, 0])


def side(case: Case, direction: int) -> Case:
    """One direction of a bidirectional case, as a case of its own."""
    size = case.shape
    columns = slice(direction * size.output, (direction + 1) * size.output)
    memories = slice(direction * size.hidden, (direction + 1) * size.hidden)
    return replace(
        case,
        parameters=block(case.parameters, 0, direction),
        h0=case.h0[:, columns],
        c0=None if case.c0 is None else case.c0[:, memories],
        directions=1,
        reverse=bool(direction),
    )


@pytest.mark.parametrize("features", [("bidirectional",), ("bidirectional", "lengths")], ids="+".join)
@pytest.mark.parametrize("cell", FOUR)
def test_bidirectional_is_two_runs_side_by_side(cell: str, features: tuple[str, ...]) -> None:
    """[forward, backward] in outputs and states, each with its own weights and states, also of padded rows."""
    case = generic(cell, *features)
    both, sides = run(case), [run(side(case, direction)) for direction in (0, 1)]
    close(both.outputs, np.concatenate([each.outputs for each in sides], axis=2))
    close(both.final_state, np.concatenate([each.final_state for each in sides], axis=1))
    if both.cells is not None:
        close(both.cells, np.concatenate([each.cells for each in sides if each.cells is not None], axis=2))


def layer(case: Case, index: int, x: Array) -> Case:
    """One layer of a stack on other inputs, as a case of its own."""
    size, directions = case.shape, case.directions
    names = ("", "0r.") if directions == 2 else ("",)
    parameters = {
        prefix + name: value
        for direction, prefix in enumerate(names)
        for name, value in block(case.parameters, index, direction).items()
    }
    states = slice(index * directions * size.output, (index + 1) * directions * size.output)
    memories = slice(index * directions * size.hidden, (index + 1) * directions * size.hidden)
    c0 = None if case.c0 is None else case.c0[:, memories]
    return replace(case, parameters=parameters, x=x, h0=case.h0[:, states], c0=c0, layers=1)


@pytest.mark.parametrize(
    "features", [("layers",), ("bidirectional", "layers"), ("layers", "lengths", "reverse")], ids="+".join
)
@pytest.mark.parametrize("cell", FOUR)
def test_a_stack_is_one_layer_on_the_outputs_of_the_other(cell: str, features: tuple[str, ...]) -> None:
    """Outputs are those of the upper layer; states come layer by layer."""
    case = generic(cell, *features)
    stacked, below = run(case), run(layer(case, 0, case.x))
    above = run(layer(case, 1, below.outputs))
    close(stacked.outputs, above.outputs)
    close(stacked.cells, above.cells)
    close(stacked.final_state, np.concatenate([below.final_state, above.final_state], axis=1))
    if stacked.final_cell is not None and below.final_cell is not None and above.final_cell is not None:
        close(stacked.final_cell, np.concatenate([below.final_cell, above.final_cell], axis=1))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_faults_of_blocks_say_what_their_statements_say(cell: str) -> None:
    """Directions joined the wrong way round, and weights or states taken from another block."""
    case = generic(cell, "bidirectional", "layers")
    size = case.shape.hidden
    # The upper layer of a bidirectional stack reads its inputs in the wrong order, too: one layer is enough here.
    single = generic(cell, "bidirectional")
    right, swapped = run(single), run(single, "directions_swapped")
    close(swapped.outputs, np.concatenate([right.outputs[..., size:], right.outputs[..., :size]], axis=2))
    close(swapped.final_state, right.final_state)
    forward = {f"{index}r.": f"{index}." if index else "" for index in (0, 1)}
    shared = {
        name: case.parameters[forward[name[:3]] + name[3:]] if name[:3] in forward else value
        for name, value in case.parameters.items()
    }
    close(run(case, "directions_share_weights").outputs, run(replace(case, parameters=shared)).outputs)

    def states(order: tuple[int, ...], values: Array | None) -> Array | None:
        return None if values is None else np.concatenate([values[:, i * size : (i + 1) * size] for i in order], axis=1)

    for fault, order in (("directions_share_state", (0, 0, 2, 2)), ("layers_share_state", (0, 1, 0, 1))):
        h0, c0 = states(order, case.h0), states(order, case.c0)
        assert h0 is not None
        close(run(case, fault).outputs, run(replace(case, h0=h0, c0=c0)).outputs)


def test_states_of_another_row_are_those_of_row_0() -> None:
    """state_lane0: every row continues from the state that row 0 had before, the initial one included."""
    case = generic("gru")
    faulty = run(case, "state_lane0").outputs
    h = case.h0
    for step in range(case.shape.time):
        one = replace(case, x=case.x[:, step : step + 1], h0=np.broadcast_to(h[:1], h.shape))
        h = run(one).outputs[:, 0]
        close(faulty[:, step], h)


# Teacher forcing in every situation


SITUATIONS = [
    ("lengths",),
    ("reverse",),
    ("lengths", "reverse"),
    ("bidirectional", "lengths"),
    ("layers", "lengths"),
    ("bidirectional", "layers", "lengths"),
]


@pytest.mark.parametrize("features", SITUATIONS, ids="+".join)
@pytest.mark.parametrize("cell", CELLS)
def test_a_correct_implementation_is_inside_its_bound(cell: str, features: tuple[str, ...]) -> None:
    """No false alarm in any combination of features, at any weight scale drawn, with its memory returned or not."""

    def padded(padding: Padding) -> st.SearchStrategy[Case]:
        return drawn(cell, features=features, padding=padding, lattice=((RELATION, True),))

    @settings(max_examples=5, database=None)
    @given(st.one_of(padded("zeros"), padded("free")))
    def check(case: Case) -> None:
        observed = correct(case)
        if not observed.finite:
            # Upper layers of linear cells see large inputs: f + i underflows, and f / (f + i) as it is written is 0/0.
            assert cell in ("minlstm", "minlstm_log")
            assert "layers" in features
            return
        assert compare(case, observed).worst <= 1.0
        assert compare(case, replace(observed, cells=None, final_cell=None)).worst <= 1.0

    check()


@pytest.mark.parametrize("features", [(), *SITUATIONS], ids=lambda f: "+".join(f) or "plain")
@pytest.mark.parametrize("cell", FOUR)
def test_one_wrong_number_is_outside_its_bound(cell: str, features: tuple[str, ...]) -> None:
    """The bound of every situation is sharp enough for one real output, or one final state, that is off by 1e-6."""
    case = generic(cell, *features)
    observed = observed_of(run(case))
    assert compare(case, observed).worst <= 1.0
    for name, place in (("outputs", (1, 1, 0)), ("final_state", (1, -1))):
        values = getattr(observed, name).copy()
        values[place] += 1e-6
        assert compare(case, replace(observed, **{name: values})).worst > 1.0, name


@pytest.mark.parametrize("name", sorted({*FAULTY, "state_lane0", "h0_ignored"} - {"length_zero_wraps"}))
@pytest.mark.parametrize("cell", FOUR)
def test_sequencing_faults_are_hypotheses_too(cell: str, name: str) -> None:
    """Teacher-forced, each explains its own sequence and not the correct one."""
    if name not in catalogue(cell):
        pytest.fail(f"{cell} lacks {name}")
    case = replace(generic(cell, "lengths"), lengths=(6, 3, 1), reverse=name == "padding_reversed")
    fault = catalogue(cell)[name]
    faulty = observed_of(fault.run(case))
    assert compare(case, faulty, fault).worst <= 1.0
    assert compare(case, correct(case), fault).worst > 1.0
    assert compare(case, faulty).worst > 1.0
