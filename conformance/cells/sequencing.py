"""Faults of time and state that every recurrence can have: reversal, shifts, a state that is not carried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from conformance.cells.cell import INITIAL, NO_INPUT, Wiring, in_order
from conformance.cells.fault import Fault

TIME_LINE = "y_t = h_t = step(x_t, h_{t-1})"


def _not_carried(time: int) -> Wiring:
    return replace(in_order(time), states=np.full(time + 1, INITIAL))


def _reversed(time: int) -> Wiring:
    """Consumed from the end, returned in the order of the input."""
    slots = np.arange(time)
    states = np.append(np.append(slots[1:], INITIAL), 1 if time > 1 else INITIAL)
    return Wiring(inputs=np.append(slots, 0), states=states, order=np.append(slots[::-1], time))


def _reversed_noflip(time: int) -> Wiring:
    """Consumed from the end, returned in the order of consumption."""
    straight = in_order(time)
    return replace(straight, inputs=np.append(np.arange(time)[::-1], 0))


def _shifted(time: int) -> Wiring:
    """Slot t holds the state before input t; the final state is the right one."""
    slots = np.arange(time)
    return Wiring(
        inputs=np.append(NO_INPUT, slots),
        states=np.append(INITIAL, slots),
        order=np.arange(time + 1),
    )


def _skip_first(time: int) -> Wiring:
    straight = in_order(time)
    inputs = straight.inputs.copy()
    inputs[0] = NO_INPUT
    if time == 1:
        inputs[1] = NO_INPUT
    return replace(straight, inputs=inputs)


def sequencing_faults(fault: Callable[..., Fault]) -> tuple[Fault, ...]:
    """The faults of time and state, made by a cell's own factory ``fault(name, statement, right, wrong, **how)``."""
    return (
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
    )
