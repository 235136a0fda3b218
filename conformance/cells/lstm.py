"""Long short-term memory: cells ``lstm``, ``lstm_peephole`` and ``lstm_projection``.

    i  = sigmoid(W_xi x + b_xi + W_hi h + b_hi)
    f  = sigmoid(W_xf x + b_xf + W_hf h + b_hf)
    g  = tanh(W_xg x + b_xg + W_hg h + b_hg)
    o  = sigmoid(W_xo x + b_xo + W_ho h + b_ho)
    c' = f * c + i * g
    h' = o * tanh(c')

``lstm_peephole`` adds w_ci * c, w_cf * c and w_co * c' inside the sigmoids of i, f and o: the input and the forget gate
see the memory before the step, the output gate the one after it. ``lstm_projection`` has a state of P units,
h' = W_p (o * tanh(c')), and recurrent matrices (H, P).

Source: Hochreiter & Schmidhuber 1997, Neural Computation 9(8) (the memory, its input and output gates); Gers,
Schmidhuber & Cummins 2000, Neural Computation 12(10) (the forget gate); Gers & Schmidhuber 2000, IJCNN, and Gers,
Schraudolph & Schmidhuber 2002, JMLR 3 (peepholes); Sak, Senior & Beaufays 2014, arXiv:1402.1128 (projection). Two
biases per gate as in cuDNN and ``torch.nn.LSTM``; only b_x + b_h matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct, field

from conformance.algebra import SIGMOID, TANH, Activation, Algebra
from conformance.case import Parameters
from conformance.cells.cell import Cell
from conformance.rounding import Array

V = TypeVar("V")

GATES: Final = "ifgo"

PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys((f"W_x{gate}" for gate in GATES), ("H", "D")),
    **dict.fromkeys((f"W_h{gate}" for gate in GATES), ("H", "H")),
    **dict.fromkeys((f"b_{side}{gate}" for side in "xh" for gate in GATES), ("H",)),
}

# The next memory: (parts with i, f, g and ig = i * g, memory before, algebra) -> memory after.
# The units' outputs: (o, memories before and after, squashing activation, algebra) -> what W_p projects, or h' itself.
# Which memory the output gate sees: (before, after) -> one of the two.
# Typed loosely in the algebra's value: Python cannot say "for every V" in a field.
Update = Callable[[Mapping[str, Any], Any, Any], Any]
Output = Callable[[Any, tuple[Any, Any], Activation, Any], Any]
Peephole = Callable[[tuple[Any, Any]], Any]


def keep_and_write(parts: Mapping[str, V], c: V, ops: Algebra[V]) -> V:
    """``f * c + i * g``."""
    return ops.total(ops.times(parts["f"], c), parts["ig"])


def gated_output(o: V, memory: tuple[V, V], squash: Activation, ops: Algebra[V]) -> V:
    """``o * tanh(c')``."""
    return ops.times(o, ops.apply(squash, memory[1]))


def newest(memory: tuple[V, V]) -> V:
    """The memory after the step."""
    return memory[1]


class Equations(Struct, frozen=True, kw_only=True):
    """The parts of an LSTM step that implementations get wrong; a fault replaces one of them.

    gate: of i, f and o; candidate: of g; squash: of the memory on its way out.
    """

    gate: Activation = SIGMOID
    candidate: Activation = TANH
    squash: Activation = TANH
    update: Update = field(default=keep_and_write)
    output: Output = field(default=gated_output)
    output_peephole: Peephole = field(default=newest)


def _terms(p: Parameters, gate: str, x: V, h: V, ops: Algebra[V]) -> tuple[V, V, V, V]:
    """``W_x x``, ``b_x``, ``W_h h`` and ``b_h`` of one gate."""
    return (
        ops.dot(p[f"W_x{gate}"], x),
        ops.lift(p[f"b_x{gate}"]),
        ops.dot(p[f"W_h{gate}"], h),
        ops.lift(p[f"b_h{gate}"]),
    )


def project(p: Parameters, x: V, h: V, start: Array, ops: Algebra[V], eq: Equations) -> dict[str, V]:
    """i, f, g, o and ig = i * g of one step on flattened rows, each (N, H); x: (N, D); h: (N, P)."""
    i = ops.apply(eq.gate, ops.total(*_terms(p, "i", x, h, ops)))
    f = ops.apply(eq.gate, ops.total(*_terms(p, "f", x, h, ops)))
    g = ops.apply(eq.candidate, ops.total(*_terms(p, "g", x, h, ops)))
    o = ops.apply(eq.gate, ops.total(*_terms(p, "o", x, h, ops)))
    return {"i": i, "f": f, "g": g, "o": o, "ig": ops.times(i, g)}


def carry(p: Parameters, parts: Mapping[str, V], c: V, ops: Algebra[V], eq: Equations) -> V:
    """The memory c' after a step, (N, H)."""
    after: V = eq.update(parts, c, ops)
    return after


def emit(
    p: Parameters, parts: Mapping[str, V], h: V, memory: tuple[V, V] | None, ops: Algebra[V], eq: Equations
) -> dict[str, V]:
    """i, f, g, o, the memory c after the step and the next state h, each (N, H)."""
    assert memory is not None
    return {**parts, "c": memory[1], "h": eq.output(parts["o"], memory, eq.squash, ops)}


def emit_projected(
    p: Parameters, parts: Mapping[str, V], h: V, memory: tuple[V, V] | None, ops: Algebra[V], eq: Equations
) -> dict[str, V]:
    """As `emit`, with the state h = W_p times the units' outputs, (N, P)."""
    units = emit(p, parts, h, memory, ops, eq)
    return {**units, "h": ops.dot(p["W_p"], units["h"])}


def peephole_project(p: Parameters, x: V, h: V, start: Array, ops: Algebra[V], eq: Equations) -> dict[str, V]:
    """g, and the products xi = W_xi x, hi = W_hi h, ... of the gates that wait for the memory, each (N, H)."""
    waiting = {f"x{gate}": ops.dot(p[f"W_x{gate}"], x) for gate in "ifo"}
    waiting |= {f"h{gate}": ops.dot(p[f"W_h{gate}"], h) for gate in "ifo"}
    return {**waiting, "g": ops.apply(eq.candidate, ops.total(*_terms(p, "g", x, h, ops)))}


def _gate(p: Parameters, gate: str, parts: Mapping[str, V], c: V, ops: Algebra[V], eq: Equations) -> V:
    """``sigmoid(W_x x + b_x + W_h h + b_h + w_c * c)``.

    One sum of five terms: the memory's may be added anywhere, also before the others.
    """
    seen = ops.times(ops.lift(p[f"w_c{gate}"]), c)
    biases = ops.lift(p[f"b_x{gate}"]), ops.lift(p[f"b_h{gate}"])
    return ops.apply(eq.gate, ops.total(parts[f"x{gate}"], biases[0], parts[f"h{gate}"], biases[1], seen))


def _written(p: Parameters, parts: Mapping[str, V], c: V, ops: Algebra[V], eq: Equations) -> dict[str, V]:
    """i, f, g and ig = i * g of a step with peepholes, from the memory before it."""
    i = _gate(p, "i", parts, c, ops, eq)
    f = _gate(p, "f", parts, c, ops, eq)
    return {"i": i, "f": f, "g": parts["g"], "ig": ops.times(i, parts["g"])}


def peephole_carry(p: Parameters, parts: Mapping[str, V], c: V, ops: Algebra[V], eq: Equations) -> V:
    """The memory c' after a step, (N, H)."""
    after: V = eq.update(_written(p, parts, c, ops, eq), c, ops)
    return after


def peephole_emit(
    p: Parameters, parts: Mapping[str, V], h: V, memory: tuple[V, V] | None, ops: Algebra[V], eq: Equations
) -> dict[str, V]:
    """i, f, g, o, the memory c after the step and the next state h, each (N, H)."""
    assert memory is not None
    o = _gate(p, "o", parts, eq.output_peephole(memory), ops, eq)
    return emit(p, {**_written(p, parts, memory[0], ops, eq), "o": o}, h, memory, ops, eq)


INTERMEDIATES: Final = ("i", "f", "g", "o", "c", "h")

LSTM: Final = Cell(
    name="lstm",
    title="LSTM with a forget gate",
    source="documented equations of torch.nn.LSTM; Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000",
    parameters=PARAMETERS,
    intermediates=INTERMEDIATES,
    equations=Equations(),
    project=project,
    carry=carry,
    carried=("i", "f", "g", "ig"),
    emit=emit,
)

LSTM_PEEPHOLE: Final = Cell(
    name="lstm_peephole",
    title="LSTM whose gates see the memory (peepholes)",
    source="Gers & Schmidhuber 2000; Gers, Schraudolph & Schmidhuber 2002",
    parameters={**PARAMETERS, **dict.fromkeys(("w_ci", "w_cf", "w_co"), ("H",))},
    intermediates=INTERMEDIATES,
    equations=Equations(),
    project=peephole_project,
    carry=peephole_carry,
    carried=("xi", "hi", "xf", "hf", "g"),
    emit=peephole_emit,
)

LSTM_PROJECTION: Final = Cell(
    name="lstm_projection",
    title="LSTM with a projected state",
    source="Sak, Senior & Beaufays 2014, arXiv:1402.1128; torch.nn.LSTM with proj_size",
    parameters={**PARAMETERS, **dict.fromkeys((f"W_h{gate}" for gate in GATES), ("H", "P")), "W_p": ("P", "H")},
    intermediates=INTERMEDIATES,
    equations=Equations(),
    project=project,
    carry=carry,
    carried=("i", "f", "g", "ig"),
    emit=emit_projected,
    projected=True,
)
