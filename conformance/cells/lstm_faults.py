"""The faults of the LSTM, with and without peepholes and projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec.structs import replace

from conformance.algebra import IDENTITY, RELU, SIGMOID, TANH, Activation, Algebra
from conformance.cells.fault import Fault, zeroed
from conformance.cells.lstm import GATES, Equations, keep_and_write
from conformance.cells.misreadings import (
    Equate,
    Make,
    activation_faults,
    bias_faults,
    bias_plus1,
    factory,
    gate_faults,
    interleaved_gates,
    matrix_faults,
    no_bias,
    order_fault,
    other_layout,
    sharing_faults,
    without,
)
from conformance.cells.precision import precision_faults
from conformance.cells.sequencing import sequencing_faults


def _written_only(parts: Mapping[str, Any], c: Any, ops: Algebra[Any]) -> Any:
    # c enters with weight zero, so that rows keep their number.
    return ops.total(ops.times(ops.lift(np.zeros((1, 1))), c), parts["ig"])


def _all_kept(parts: Mapping[str, Any], c: Any, ops: Algebra[Any]) -> Any:
    return ops.total(c, parts["ig"])


def _all_written(parts: Mapping[str, Any], c: Any, ops: Algebra[Any]) -> Any:
    return ops.total(ops.times(parts["f"], c), parts["g"])


def _input_from_forget(parts: Mapping[str, Any], c: Any, ops: Algebra[Any]) -> Any:
    return ops.mix(parts["f"], parts["g"], c)


def _forget_from_input(parts: Mapping[str, Any], c: Any, ops: Algebra[Any]) -> Any:
    return ops.mix(parts["i"], c, parts["g"])


def _squashed(parts: Mapping[str, Any], c: Any, ops: Algebra[Any]) -> Any:
    return ops.apply(TANH, keep_and_write(parts, c, ops))


def _old_memory_out(o: Any, memory: tuple[Any, Any], squash: Activation, ops: Algebra[Any]) -> Any:
    return ops.times(o, ops.apply(squash, memory[0]))


def _product_squashed(o: Any, memory: tuple[Any, Any], squash: Activation, ops: Algebra[Any]) -> Any:
    return ops.apply(squash, ops.times(o, memory[1]))


def _ungated_out(o: Any, memory: tuple[Any, Any], squash: Activation, ops: Algebra[Any]) -> Any:
    return ops.apply(squash, memory[1])


def _oldest(memory: tuple[Any, Any]) -> Any:
    return memory[0]


def _order_faults(fault: Make) -> tuple[Fault, ...]:
    swaps = (
        order_fault(
            fault,
            GATES,
            GATES.translate(str.maketrans(one + other, other + one)),
            f"swap_{one}{other}",
            f"the rows of {one} and {other} are exchanged",
        )
        for one, other in ("if", "ig", "io", "fg", "fo", "go")
    )
    return (
        *swaps,
        order_fault(
            fault,
            GATES,
            "figo",
            "swap_if_h_only",
            "the rows of i and f are exchanged on the hidden side only",
            ("W_h", "b_h"),
        ),
        order_fault(fault, GATES, "iofg", "order_iofg", "the gate rows are read in the order of ONNX"),
        order_fault(fault, GATES, "igof", "order_igof", "gate rows in the order of ONNX are read as i, f, g, o"),
        order_fault(fault, GATES, "oifg", "rotate_gates", "the gate rows are rotated by one"),
        interleaved_gates(fault, GATES),
    )


def _memory_faults(fault: Make, eq: Equate, h_line: str) -> tuple[Fault, ...]:
    """What happens to the memory: how it is kept, written and shown."""
    c_line = "c' = f * c + i * g"

    def shown(term: str) -> str:
        return h_line.replace("o * tanh(c')", term)

    return (
        fault(
            "no_forget_gate",
            "the forget gate is not applied: the memory is kept whole",
            c_line,
            "c' = c + i * g",
            equations=eq(update=_all_kept),
        ),
        fault(
            "no_input_gate",
            "the input gate is not applied: the candidate is written whole",
            c_line,
            "c' = f * c + g",
            equations=eq(update=_all_written),
        ),
        fault(
            "no_output_gate",
            "the output gate is not applied",
            h_line,
            shown("tanh(c')"),
            equations=eq(output=_ungated_out),
        ),
        fault(
            "cell_not_carried",
            "the memory is not carried from step to step",
            c_line,
            "c' = i * g",
            equations=eq(update=_written_only),
        ),
        fault(
            "coupled_input",
            "the input gate is tied to the forget gate",
            c_line,
            "c' = f * c + (1 - f) * g",
            equations=eq(update=_input_from_forget),
        ),
        fault(
            "coupled_forget",
            "the forget gate is tied to the input gate (CIFG)",
            c_line,
            "c' = (1 - i) * c + i * g",
            equations=eq(update=_forget_from_input),
        ),
        fault(
            "squashed_cell",
            "the memory itself is squashed, and carried like that",
            f"{c_line}; {h_line}",
            "c' = tanh(f * c + i * g); " + shown("o * c'"),
            equations=eq(update=_squashed, squash=IDENTITY),
        ),
        fault(
            "output_before_update",
            "the output shows the memory before the step",
            h_line,
            shown("o * tanh(c)"),
            equations=eq(output=_old_memory_out),
        ),
        fault(
            "tanh_of_product",
            "the output gate is applied inside tanh",
            h_line,
            shown("tanh(o * c')"),
            equations=eq(output=_product_squashed),
        ),
        fault(
            "no_tanh_out",
            "the memory is shown without tanh",
            h_line,
            shown("o * c'"),
            equations=eq(squash=IDENTITY),
        ),
        fault(
            "relu_out",
            "the memory is shown through ReLU",
            h_line,
            shown("o * relu(c')"),
            equations=eq(squash=RELU),
        ),
        fault(
            "c0_ignored",
            "a given initial memory is ignored",
            "c_{-1} = c0",
            "c_{-1} = 0",
            no_c0=True,
        ),
        fault(
            "initial_ignored",
            "a given initial state is ignored, and so is the initial memory",
            "h_{-1} = h0, c_{-1} = c0",
            "h_{-1} = 0, c_{-1} = 0",
            no_h0=True,
            no_c0=True,
        ),
    )


def _peephole_faults(fault: Make, eq: Equate, lines: Mapping[str, str]) -> tuple[Fault, ...]:
    dropped = (
        fault(
            f"drop_wc{gate}",
            f"the peephole w_c{gate} is never added",
            lines[gate],
            lines[gate].partition(" + w_c")[0] + ")",
            parameters=zeroed(f"w_c{gate}"),
        )
        for gate in "ifo"
    )
    return (
        *dropped,
        fault(
            "peephole_ignored",
            "no gate sees the memory",
            "sigmoid(W_x x + b_x + W_h h + b_h + w_c * c)",
            "sigmoid(W_x x + b_x + W_h h + b_h)",
            parameters=zeroed("w_ci", "w_cf", "w_co"),
        ),
        fault(
            "output_peephole_old_c",
            "the output gate sees the memory before the step",
            lines["o"],
            lines["o"].replace("c')", "c)"),
            equations=eq(output_peephole=_oldest),
        ),
        fault(
            "swap_peepholes_if",
            "the peepholes of i and f are exchanged",
            f"{lines['i']}; {lines['f']}",
            "i with w_cf * c; f with w_ci * c",
            parameters=lambda p: {"w_ci": p["w_cf"], "w_cf": p["w_ci"]},
        ),
    )


def lstm_faults(form: str) -> tuple[Fault, ...]:
    """The catalogue of one LSTM form; its equations differ from the correct ones in one place."""
    right = Equations()
    peephole, projected = form == "lstm_peephole", form == "lstm_projection"
    seen = (
        {"i": " + w_ci * c", "f": " + w_cf * c", "o": " + w_co * c'", "g": ""}
        if peephole
        else dict.fromkeys("ifgo", "")
    )
    lines = {
        gate: f"{gate} = {'tanh' if gate == 'g' else 'sigmoid'}"
        f"(W_x{gate} x + b_x{gate} + W_h{gate} h + b_h{gate}{seen[gate]})"
        for gate in GATES
    }
    h_line = "h' = W_p (o * tanh(c'))" if projected else "h' = o * tanh(c')"
    fault = factory(right)

    def eq(**changes: Any) -> Equations:
        return replace(right, **changes)

    own: tuple[Fault, ...] = ()
    if peephole:
        own = _peephole_faults(fault, eq, lines)
    if projected:
        own = (
            fault(
                "Wp_transposed",
                "the projection is read in the other layout",
                "W_p as (P, H)",
                "the buffer of W_p read as (H, P)",
                parameters=other_layout("W_p"),
            ),
        )
    return (
        *own,
        *bias_faults(fault, GATES, lines),
        no_bias(fault, GATES),
        bias_plus1(fault, "f", "forget_bias_plus1", "forget gate", lines["f"]),
        *_order_faults(fault),
        *sharing_faults(fault, GATES, GATES, "gates", "the gates and the candidate")[:2],
        fault(
            "candidate_without_state",
            "the candidate does not see the state: W_hg h is left out",
            lines["g"],
            without(lines["g"], "W_hg h"),
            parameters=zeroed("W_hg"),
        ),
        fault(
            "activations_swapped",
            "the activations are exchanged: the gates use tanh, the candidate the sigmoid",
            "; ".join(lines[gate] for gate in GATES),
            "tanh and sigmoid exchanged in all four",
            equations=eq(gate=TANH, candidate=SIGMOID),
        ),
        *matrix_faults(fault, GATES, "the buffer of W_h read as (P, H)" if projected else "W_h^T h"),
        *gate_faults(fault, eq, "; ".join(lines[gate] for gate in "ifo")),
        *activation_faults(
            fault, eq, lines["g"], part="candidate", subject="the candidate", none="no_tanh_new", suffix="new"
        ),
        *_memory_faults(fault, eq, h_line),
        *sequencing_faults(fault),
        *precision_faults(fault),
    )
