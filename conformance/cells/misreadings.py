"""Misreadings that recurrences with two-sided gates share: of biases, of the layout of weights, of activations.

The arrays of gate g are called W_xg, W_hg, b_xg and b_hg; `gates` names the gates in the order in which frameworks
stack their rows, or is ``""`` for a recurrence without gates, whose arrays are W_x, W_h, b_x and b_h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from conformance.algebra import HARD_SIGMOID, HARD_SIGMOID6, HARD_TANH, IDENTITY, RELU, SIGMOID, TANH, Activation
from conformance.case import Parameters
from conformance.cells.fault import Fault, Transform, scaled, zeroed
from conformance.rounding import Array

Make: TypeAlias = Callable[..., Fault]
"""A cell's own factory ``fault(name, statement, right, wrong, **how)``."""
Equate: TypeAlias = Callable[..., Any]
"""The cell's equations with some parts replaced, ``eq(part=...)``."""

STEMS: Final = ("W_x", "W_h", "b_x", "b_h")


def factory(right: Any) -> Make:
    """Faults of a cell with the equations `right`, unless a fault brings its own."""

    def fault(name: str, statement: str, right_equation: str, equation: str, **how: Any) -> Fault:
        return Fault(
            name=name, statement=statement, right=right_equation, equation=equation, **{"equations": right, **how}
        )

    return fault


def without(line: str, term: str) -> str:
    """The equation without one of its terms."""
    return line.replace(f" + {term}", "", 1)


def read_as(gates: str, reading: str, stems: tuple[str, ...] = STEMS) -> Transform:
    """Rows stacked in the order `gates` are read in the order `reading`."""
    return lambda p: {
        f"{stem}{to}": p[f"{stem}{source}"] for source, to in zip(gates, reading, strict=True) for stem in stems
    }


def other_layout(*names: str) -> Transform:
    """Buffers of (n, m) matrices read as (m, n) and transposed, as after a forgotten ``.T``; square: the transpose."""
    return lambda p: {name: p[name].reshape(p[name].shape[::-1]).T for name in names}


def _interleaved(gates: str) -> Transform:
    def misread(p: Parameters) -> Mapping[str, Array]:
        result: dict[str, Array] = {}
        for stem in STEMS:
            stacked = np.concatenate([p[f"{stem}{gate}"] for gate in gates])
            for index, gate in enumerate(gates):
                result[f"{stem}{gate}"] = stacked[index :: len(gates)]
        return result

    return misread


def _names(stem: str, gates: str) -> tuple[str, ...]:
    return tuple(f"{stem}{gate}" for gate in gates) or (stem,)


def bias_faults(fault: Make, gates: str, lines: Mapping[str, str]) -> tuple[Fault, ...]:
    """Biases left out, by gate and by side, and biases added twice; `lines` holds the equation of each gate."""
    hidden, inputs = _names("b_h", gates), _names("b_x", gates)
    of_gates = tuple(
        fault(
            f"drop_b{side}{gate}",
            f"b_{letter}{gate} is never added",
            lines[gate],
            without(lines[gate], f"b_{letter}{gate}"),
            parameters=zeroed(f"b_{letter}{gate}"),
        )
        for side, letter in (("h", "h"), ("i", "x"))
        for gate in gates
    )
    return (
        *of_gates,
        fault("drop_bh", "no hidden-side bias is added", "W_h h + b_h", "W_h h", parameters=zeroed(*hidden)),
        fault("drop_bi", "no input-side bias is added", "W_x x + b_x", "W_x x", parameters=zeroed(*inputs)),
        fault(
            "bi_twice",
            "the input-side biases are added twice",
            "W_x x + b_x",
            "W_x x + 2 b_x",
            parameters=scaled(2.0, *inputs),
        ),
        fault(
            "bh_twice",
            "the hidden-side biases are added twice",
            "W_h h + b_h",
            "W_h h + 2 b_h",
            parameters=scaled(2.0, *hidden),
        ),
    )


def no_bias(fault: Make, gates: str) -> Fault:
    """No bias at all, as after a ``bias=False``."""
    return fault(
        "drop_b",
        "no bias is added, on either side",
        "W_x x + b_x + W_h h + b_h",
        "W_x x + W_h h",
        parameters=zeroed(*_names("b_x", gates), *_names("b_h", gates)),
    )


def bias_plus1(fault: Make, gate: str, name: str, title: str, line: str) -> Fault:
    """1 is added to a gate that the implementation wants open at first."""
    bias = f"b_x{gate}"
    return fault(
        name,
        f"1 is added to the {title}'s pre-activation",
        line,
        line.replace(f"b_h{gate}", f"b_h{gate} + 1"),
        parameters=lambda p: {bias: p[bias] + 1.0},
    )


def order_fault(
    fault: Make, gates: str, reading: str, name: str, statement: str, stems: tuple[str, ...] = STEMS
) -> Fault:
    """Rows stacked in the order `gates` that are read in the order `reading`."""
    source = dict(zip(reading, gates, strict=True))
    moved = [gate for gate in gates if source[gate] != gate]
    wrong = f"read as {', '.join(reading)}"
    if stems != STEMS:
        wrong = f"{' and '.join(stems)} {wrong}"
    if len(moved) > 2:
        first, *rest = moved
        wrong += f": {first} takes the rows of {source[first]}"
        wrong += "".join(f", {gate} those of {source[gate]}" for gate in rest)
    right = f"rows in the order {', '.join(gates)}"
    return fault(name, statement, right, wrong, parameters=read_as(gates, reading, stems))


def interleaved_gates(fault: Make, gates: str) -> Fault:
    """Rows stored gate by gate, read as if the gates of one unit stood together."""
    return fault(
        "interleaved_gates",
        "rows stored gate by gate are read as interleaved per unit",
        "unit j of gate g in row g H + j",
        f"unit j of gate g in row {len(gates)} j + g",
        parameters=_interleaved(gates),
    )


def matrix_faults(fault: Make, gates: str, transposed: str = "W_h^T h") -> tuple[Fault, ...]:
    """Matrices in the wrong layout, or not used; `transposed` says what a recurrent matrix is then."""
    return (
        fault(
            "Wh_transposed",
            "the recurrent matrices are transposed",
            "W_h h",
            transposed,
            parameters=other_layout(*_names("W_h", gates)),
        ),
        fault(
            "Wx_transposed",
            "the input matrices are read in the other layout",
            "W_x as (H, D)",
            "the buffer of W_x read as (D, H)",
            parameters=other_layout(*_names("W_x", gates)),
        ),
        fault(
            "no_Wh",
            "the recurrent matrices are not used",
            "W_h h + b_h",
            "b_h",
            parameters=zeroed(*_names("W_h", gates)),
        ),
    )


def gate_faults(fault: Make, eq: Equate, lines: str) -> tuple[Fault, ...]:
    """Other functions in place of the gates' sigmoid."""
    return (
        fault(
            "hard_sigmoid",
            "the gates use a hard sigmoid of slope 1/5",
            lines,
            "sigmoid(a) replaced by clip(a/5 + 1/2, 0, 1)",
            equations=eq(gate=HARD_SIGMOID),
        ),
        fault(
            "hard_sigmoid6",
            "the gates use a hard sigmoid of slope 1/6",
            lines,
            "sigmoid(a) replaced by clip(a/6 + 1/2, 0, 1)",
            equations=eq(gate=HARD_SIGMOID6),
        ),
        fault("gate_tanh", "the gates use tanh", lines, "sigmoid replaced by tanh", equations=eq(gate=TANH)),
        fault("gate_relu", "the gates use ReLU", lines, "sigmoid replaced by relu", equations=eq(gate=RELU)),
        fault("gate_identity", "the gates have no activation", lines, "sigmoid left out", equations=eq(gate=IDENTITY)),
    )


def one_gate_faults(fault: Make, eq: Equate, gate: str, title: str, line: str, part: str) -> tuple[Fault, ...]:
    """Other functions in place of the sigmoid of one gate, which is the field `part` of the equations."""
    return tuple(
        fault(
            f"{gate}_{name}",
            f"the {title} gate alone {words}",
            line,
            wrong or line.replace("sigmoid(", f"{activation.name}(" if activation is not IDENTITY else "("),
            equations=eq(**{part: activation}),
        )
        for name, activation, words, wrong in (
            ("tanh", TANH, "uses tanh", ""),
            ("relu", RELU, "uses ReLU", ""),
            ("identity", IDENTITY, "has no activation", ""),
            ("hard_sigmoid", HARD_SIGMOID, "uses a hard sigmoid of slope 1/5", f"{gate} = clip(a/5 + 1/2, 0, 1)"),
            ("hard_sigmoid6", HARD_SIGMOID6, "uses a hard sigmoid of slope 1/6", f"{gate} = clip(a/6 + 1/2, 0, 1)"),
        )
    )


def sharing_faults(fault: Make, gates: str, readers: str, prefix: str, subject: str) -> tuple[Fault, ...]:
    """One matrix, or one matrix and its biases, in place of an own one for each of the gates `readers`.

    Named by whose arrays all of them read; those of the first reader go without saying.
    """
    found = []
    for source in readers:
        suffix = "" if source == readers[0] else f"_of_{source}"
        rows = f"W_x{source} x + b_xg + W_h{source} h + b_hg"
        right = "gate g reads W_xg, W_hg, b_xg and b_hg of its own"
        which = "gates" if readers == gates else "gates " + " and ".join(readers)
        found += [
            fault(
                f"{prefix}_share_matrix{suffix}",
                f"{subject} share one matrix, that of {source}; their biases are their own",
                right,
                f"the {which} read W_x{source} and W_h{source}: {rows}",
                parameters=_shared(readers, source, ("W_x", "W_h")),
            ),
            fault(
                f"{prefix}_share_parameters{suffix}",
                f"{subject} share one matrix and one bias, those of {source}",
                right,
                f"the {which} read W_x{source}, W_h{source}, b_x{source} and b_h{source}",
                parameters=_shared(readers, source, STEMS),
            ),
        ]
    return tuple(found)


def _shared(readers: str, source: str, stems: tuple[str, ...]) -> Transform:
    return lambda p: {f"{stem}{gate}": p[f"{stem}{source}"] for stem in stems for gate in readers}


_USES: Final[tuple[tuple[str, Activation, str], ...]] = (
    ("relu", RELU, "uses ReLU"),
    ("hardtanh", HARD_TANH, "uses hard tanh"),
    ("sigmoid", SIGMOID, "uses the sigmoid"),
    ("tanh", TANH, "uses tanh"),
)


def activation_faults(
    fault: Make, eq: Equate, line: str, *, part: str, subject: str, none: str, suffix: str, right: Activation = TANH
) -> tuple[Fault, ...]:
    """Other functions, or none, in place of the activation `right` of one part of the equations.

    none: the name of the fault without an activation; the others are called by function and suffix.
    """
    missing = fault(
        none,
        f"{subject} has no activation",
        line,
        line.replace(f"{right.name}(", "("),
        equations=eq(**{part: IDENTITY}),
    )
    others = (
        fault(
            f"{name}_{suffix}",
            f"{subject} {words}",
            line,
            line.replace(f"{right.name}(", f"{activation.name}("),
            equations=eq(**{part: activation}),
        )
        for name, activation, words in _USES
        if activation is not right
    )
    return (missing, *others)
