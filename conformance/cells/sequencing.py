"""Faults of time and state that every recurrence can have: reversal, shifts, lengths, a state that is not carried."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec.structs import replace

from conformance.cells.cell import INITIAL, NO_INPUT, NOTHING, Block, Indices, Rows, Wiring, wire
from conformance.cells.fault import Fault
from conformance.rounding import Array

TIME_LINE = "y_t = h_t = step(x_t, h_{t-1})"


def _not_carried(rows: Rows) -> Wiring:
    straight = wire(rows)
    return replace(straight, states=np.where(straight.inputs == NO_INPUT, straight.states, INITIAL))


def _reversed(rows: Rows) -> Wiring:
    """Consumed from the other end, returned in the order of the input."""
    return wire(replace(rows, reverse=not rows.reverse))


def _reversed_noflip(rows: Rows) -> Wiring:
    """Consumed from the other end, returned in the order of consumption."""
    straight = wire(rows)
    mirrored = np.where(straight.inputs == NO_INPUT, NO_INPUT, rows.lengths[None] - 1 - straight.inputs)
    return replace(straight, inputs=mirrored)


def _first(rows: Rows) -> Indices:
    """The slot that each row consumes first."""
    return np.where(rows.reverse, np.maximum(rows.lengths - 1, 0), 0)


def _shifted(rows: Rows) -> Wiring:
    """Each slot holds the state before its input; the final state is the right one."""
    time = rows.time
    straight = wire(rows)
    earlier = 1 if rows.reverse else -1
    slots = np.arange(time)[:, None]
    real = (slots < rows.lengths[None]) & (slots != _first(rows)[None])
    inputs, states = straight.inputs.copy(), straight.states.copy()
    inputs[:time] = np.where(real, slots + earlier, NO_INPUT)
    states[:time] = np.where(real, slots + earlier, np.where(slots < rows.lengths[None], INITIAL, NOTHING))
    last = 0 if rows.reverse else rows.lengths - 1
    states[time] = np.where(rows.lengths > 0, last, INITIAL)
    return Wiring(inputs=inputs, states=states, order=straight.order)


def _skip_first(rows: Rows) -> Wiring:
    straight = wire(rows)
    inputs = straight.inputs.copy()
    lanes = np.arange(len(rows.lengths))
    if rows.time:
        inputs[_first(rows), lanes] = NO_INPUT
    inputs[rows.time] = np.where(rows.lengths <= 1, NO_INPUT, inputs[rows.time])
    return replace(straight, inputs=inputs)


def _whole(rows: Rows) -> Rows:
    return replace(rows, lengths=np.full_like(rows.lengths, rows.time))


def _ignoring_lengths(rows: Rows) -> Wiring:
    return wire(_whole(rows))


def _final_from_padding(rows: Rows) -> Wiring:
    """The final state of a padded row is what stands last in its outputs, in its padding."""
    straight = wire(rows)
    padded = (rows.lengths < rows.time) & (rows.time > 0)
    inputs, states = straight.inputs.copy(), straight.states.copy()
    inputs[rows.time] = np.where(padded, NO_INPUT, inputs[rows.time])
    states[rows.time] = np.where(padded, rows.time - 1, states[rows.time])
    return replace(straight, inputs=inputs, states=states)


def _last_left_out(rows: Rows) -> Wiring:
    return wire(
        replace(rows, lengths=np.where(rows.lengths < rows.time, np.maximum(rows.lengths - 1, 0), rows.lengths))
    )


def _zero_is_whole(rows: Rows) -> Wiring:
    """A row without steps gets the final state of a row with T of them (an index of -1)."""
    return wire(replace(rows, lengths=np.where(rows.lengths == 0, rows.time, rows.lengths)))


def _padding_first(rows: Rows) -> Wiring:
    """A reversed row starts with its padding."""
    if not rows.reverse:
        return wire(rows)
    straight, whole = wire(rows), wire(_whole(rows))
    return replace(straight, inputs=whole.inputs, states=whole.states)


def _both_forward(rows: Rows) -> Wiring:
    return wire(replace(rows, reverse=rows.reverse != rows.backward))


def _other_layout(x: Array) -> Array:
    """The buffer of each (T, D) row as (D, T), transposed; where T = D that is the transpose."""
    return np.swapaxes(x.reshape(*x.shape[:-2], x.shape[-1], x.shape[-2]), -1, -2)


def _first_layer(block: Block) -> Block:
    return (0, block[1])


def _first_direction(block: Block) -> Block:
    return (block[0], 0)


def sequencing_faults(fault: Callable[..., Fault]) -> tuple[Fault, ...]:
    """The faults of time and state, made by a cell's own factory ``fault(name, statement, right, wrong, **how)``."""
    return (
        fault(
            "x_transposed",
            "the input is laid out (D, T): the buffer of a row's x is read as if time came last",
            "x[b] as (T, D)",
            "the buffer of x[b] read as (D, T), and transposed",
            inputs=_other_layout,
        ),
        fault("h0_ignored", "a given initial state is ignored", "h_{-1} = h0", "h_{-1} = 0", no_h0=True),
        fault(
            "state_not_carried",
            "every step starts from the initial state",
            TIME_LINE,
            "h_t = step(x_t, h0)",
            wiring=_not_carried,
        ),
        fault(
            "state_lane0",
            "every batch row continues from the state of row 0",
            "h_t[b] = step(x_t[b], h_{t-1}[b])",
            "h_t[b] = step(x_t[b], h_{t-1}[0])",
            lane0=True,
        ),
        fault(
            "reversed_time",
            "the sequence is consumed from its end",
            TIME_LINE,
            "y_t = step(x_t, y_{t+1})",
            wiring=_reversed,
        ),
        fault(
            "reversed_noflip",
            "the sequence is consumed from its end and returned in that order",
            TIME_LINE,
            "y_t = step(x_{T-1-t}, y_{t-1})",
            wiring=_reversed_noflip,
        ),
        fault(
            "out_shift",
            "outputs lag by one step: the state before the input is returned",
            TIME_LINE,
            "y_t = h_{t-1}",
            wiring=_shifted,
        ),
        fault("skip_t0", "the first input is skipped", TIME_LINE, "h_0 = h_{-1}", wiring=_skip_first),
        fault(
            "lengths_ignored",
            "the lengths of the rows are ignored: padding is consumed",
            "row b ends after step lengths[b] - 1",
            "every row has T steps",
            wiring=_ignoring_lengths,
        ),
        fault(
            "final_from_padding",
            "the final state of a padded row is taken from its padding",
            "final_state[b] = outputs[b, lengths[b] - 1]",
            "final_state[b] = outputs[b, T - 1]",
            wiring=_final_from_padding,
        ),
        fault(
            "last_step_lost",
            "the last real step of a padded row is left out",
            "row b ends after step lengths[b] - 1",
            "row b ends after step lengths[b] - 2",
            wiring=_last_left_out,
        ),
        fault(
            "length_zero_wraps",
            "a row of length 0 is treated as one of length T",
            "final_state[b] = h0[b] for lengths[b] = 0",
            "final_state[b] = h[b, -1]",
            wiring=_zero_is_whole,
        ),
        fault(
            "padding_reversed",
            "a reversed row starts with its padding",
            "backwards from step lengths[b] - 1",
            "backwards from step T - 1",
            wiring=_padding_first,
        ),
        fault(
            "backward_forward",
            "the backward direction runs forward",
            "the backward direction consumes x from its end",
            "both directions consume x from its beginning",
            wiring=_both_forward,
        ),
        fault(
            "directions_swapped",
            "the outputs of the two directions are joined in the wrong order",
            "outputs = [forward, backward]",
            "outputs = [backward, forward]",
            swapped=True,
        ),
        fault(
            "directions_share_weights",
            "both directions use the weights of the forward one",
            "backward: W of its own",
            "backward: W of the forward direction",
            weights_of=_first_direction,
        ),
        fault(
            "directions_share_state",
            "both directions start from the forward initial state",
            "backward: h0 of its own",
            "backward: h0 of the forward direction",
            states_of=_first_direction,
        ),
        fault(
            "layers_share_state",
            "every layer starts from the initial state of the first",
            "layer l: h0 of its own",
            "layer l: h0 of layer 0",
            states_of=_first_layer,
        ),
    )
