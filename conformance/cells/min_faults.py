"""The faults of minGRU and minLSTM, in their plain form and in the one for logarithms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from msgspec.structs import replace

from conformance.algebra import HARD_SIGMOID, HARD_SIGMOID6, RELU, SIGMOID, TANH, Activation, Algebra, G
from conformance.case import Parameters
from conformance.cells import mingru, minlstm
from conformance.cells.fault import Fault, Transform, scaled, zeroed
from conformance.cells.precision import precision_faults
from conformance.cells.sequencing import sequencing_faults
from conformance.rounding import Array

SOFTPLUS: Final = Activation(
    name="softplus",
    function=lambda a: np.logaddexp(0.0, a),
    slope=lambda a, _: SIGMOID.function(a),
    bend=1.0,
)
G_WITHOUT_HALF: Final = replace(
    G,
    name="g_without_half",
    function=lambda a: np.where(a >= 0, a, SIGMOID.function(a)),
    jump=0.5,
)
RELU_HALF: Final = Activation(
    name="relu_half",
    function=lambda a: np.maximum(a, 0.0) + 0.5,
    slope=lambda a, _: np.ones_like(a),
    bend=None,
)

_G_LINE: Final = "n = g(W_n x + b_n), g(a) = a + 0.5 for a >= 0, sigmoid(a) for a < 0"

# (name, statement, right equation, wrong equation, what the fault changes) -> a fault of one cell.
Make = Callable[..., Fault]


def _maker(right: Any) -> Make:
    """A factory of faults whose equations differ from the right ones in one place."""

    def fault(name: str, statement: str, right_equation: str, equation: str, **changes: Any) -> Fault:
        chosen = {"equations": right, **changes}
        return Fault(name=name, statement=statement, right=right_equation, equation=equation, **chosen)

    return fault


def _rename(**sources: str) -> Transform:
    """Gate g takes the rows of gate `sources[g]`."""
    return lambda p: {
        f"{stem}{gate}": p[f"{stem}{source}"] for gate, source in sources.items() for stem in ("W_", "b_")
    }


def _interleaved(gates: str) -> Transform:
    """Rows stored gate by gate, read as if the gates of one unit stood together."""

    def misread(p: Parameters) -> Mapping[str, Array]:
        result: dict[str, Array] = {}
        for stem in ("W_", "b_"):
            stacked = np.concatenate([p[f"{stem}{gate}"] for gate in gates])
            for index, gate in enumerate(gates):
                result[f"{stem}{gate}"] = stacked[index :: len(gates)]
        return result

    return misread


def _transposed(gates: str) -> Transform:
    """The buffer of an (H, D) matrix read as (D, H) and transposed, as after a forgotten ``.T``."""
    names = [f"W_{gate}" for gate in gates]
    return lambda p: {name: p[name].reshape(p[name].shape[::-1]).T for name in names}


def _increased(name: str) -> Transform:
    return lambda p: {name: p[name] + 1.0}


def _bias_faults(fault: Make, lines: Mapping[str, str]) -> tuple[Fault, ...]:
    """One for every gate of `lines`, its equation by its letter, and three for all of them."""
    names = [f"b_{gate}" for gate in lines]
    single = (
        fault(
            f"drop_b{gate}",
            f"b_{gate} is never added",
            line,
            line.replace(f" + b_{gate}", ""),
            parameters=zeroed(f"b_{gate}"),
        )
        for gate, line in lines.items()
    )
    return (
        *single,
        fault("drop_b", "no bias is added", "W x + b", "W x", parameters=zeroed(*names)),
        fault("b_twice", "the biases are added twice", "W x + b", "W x + 2 b", parameters=scaled(2.0, *names)),
        fault(
            "Wx_transposed",
            "the matrices are read in the other layout",
            "W as (H, D)",
            "the buffer of W read as (D, H)",
            parameters=_transposed("".join(lines)),
        ),
        fault(
            "interleaved_gates",
            "rows stored gate by gate are read as interleaved per unit",
            "unit j of gate g in row g H + j",
            f"unit j of gate g in row {len(lines)} j + g",
            parameters=_interleaved("".join(lines)),
        ),
    )


def _gate_faults(fault: Make, right: mingru.Equations, line: str) -> tuple[Fault, ...]:
    return (
        fault(
            "hard_sigmoid",
            "the gates use a hard sigmoid of slope 1/5",
            line,
            "sigmoid(a) replaced by clip(a/5 + 1/2, 0, 1)",
            equations=replace(right, gate=HARD_SIGMOID),
        ),
        fault(
            "hard_sigmoid6",
            "the gates use a hard sigmoid of slope 1/6",
            line,
            "sigmoid(a) replaced by clip(a/6 + 1/2, 0, 1)",
            equations=replace(right, gate=HARD_SIGMOID6),
        ),
        fault(
            "gate_tanh",
            "the gates use tanh",
            line,
            "sigmoid replaced by tanh",
            equations=replace(right, gate=TANH),
        ),
    )


def _candidate_faults(fault: Make, right: Any, *, positive: bool) -> tuple[Fault, ...]:
    """Other activations of the candidate: of none in the plain form, of g in the one for logarithms."""
    line = _G_LINE if positive else "n = W_n x + b_n"

    def wrong(name: str, statement: str, equation: str, candidate: Activation | None) -> Fault:
        return fault(name, statement, line, equation, equations=replace(right, candidate=candidate))

    common = (
        wrong("tanh_new", "the candidate uses tanh", "n = tanh(W_n x + b_n)", TANH),
        wrong("relu_new", "the candidate uses ReLU", "n = relu(W_n x + b_n)", RELU),
        wrong("sigmoid_new", "the candidate uses the sigmoid", "n = sigmoid(W_n x + b_n)", SIGMOID),
        wrong("softplus_new", "the candidate uses softplus", "n = log(1 + exp(W_n x + b_n))", SOFTPLUS),
    )
    if not positive:
        return (*common, wrong("g_new", "the candidate uses g, which belongs to the log form", _G_LINE, G))
    return (
        *common,
        wrong("no_g", "the candidate has no activation", "n = W_n x + b_n", None),
        wrong("g_without_half", "g lacks its 0.5", "g(a) = a for a >= 0, sigmoid(a) for a < 0", G_WITHOUT_HALF),
        wrong("g_without_sigmoid", "g is constant for a < 0", "g(a) = max(a, 0) + 0.5", RELU_HALF),
    )


def _state_faults(fault: Make, *, positive: bool) -> tuple[Fault, ...]:
    """What happens to the state between steps; the paper's listing, and code after it, starts from log g(h0)."""
    opposite = fault(
        "scan_opposite",
        "a scan composes its steps in the opposite order: its operator is not commutative",
        "(a, b) then (a', b') = (a' a, a' b + b')",
        "(a, b) then (a', b') = (a' a, a b' + b)",
        opposite=True,
    )
    if not positive:
        return (opposite,)
    return (
        opposite,
        fault(
            "h0_through_g",
            "the initial state passes through g, as if it were a pre-activation of the candidate",
            "h_{-1} = h0",
            "h_{-1} = g(h0)",
            h0_through=G,
        ),
    )


def _flip_update(z: Any, n: Any, h: Any, ops: Algebra[Any]) -> Any:
    return ops.mix(z, n, h)


def _keep_all(z: Any, n: Any, h: Any, ops: Algebra[Any]) -> Any:
    return ops.total(h, ops.times(z, n))


def _take_all(z: Any, n: Any, h: Any, ops: Algebra[Any]) -> Any:
    return ops.total(ops.mix(z, h, ops.times(ops.lift(np.zeros((1, 1))), n)), n)


def _overwrite(z: Any, n: Any, h: Any, ops: Algebra[Any]) -> Any:
    return ops.total(n, ops.times(ops.lift(np.zeros((1, 1))), h))


def mingru_faults(form: str) -> tuple[Fault, ...]:
    """The catalogue of ``mingru`` or ``mingru_log``."""
    positive = form == "mingru_log"
    right = (mingru.MINGRU_LOG if positive else mingru.MINGRU).equations
    fault = _maker(right)
    z_line = "z = sigmoid(W_z x + b_z)"
    n_line = "n = g(W_n x + b_n)" if positive else "n = W_n x + b_n"
    h_line = "h' = (1 - z) * h + z * n"
    updates = (
        fault(
            "update_flip",
            "the update convention is flipped: z keeps the state",
            h_line,
            "h' = z * h + (1 - z) * n",
            equations=replace(right, update=_flip_update),
        ),
        fault(
            "state_not_gated",
            "the state is kept whole",
            h_line,
            "h' = h + z * n",
            equations=replace(right, update=_keep_all),
        ),
        fault(
            "candidate_not_gated",
            "the candidate is added whole",
            h_line,
            "h' = (1 - z) * h + n",
            equations=replace(right, update=_take_all),
        ),
        fault(
            "no_gate",
            "the gate is not used: the candidate replaces the state",
            h_line,
            "h' = n",
            equations=replace(right, update=_overwrite),
        ),
    )
    others = (
        fault(
            "z_bias_plus1",
            "1 is added to the gate's pre-activation",
            z_line,
            "z = sigmoid(W_z x + b_z + 1)",
            parameters=_increased("b_z"),
        ),
        fault(
            "swap_zn",
            "the rows of z and n are exchanged",
            "rows in the order z, n",
            "read as n, z",
            parameters=_rename(z="n", n="z"),
        ),
    )
    return (
        *updates,
        *others,
        *_bias_faults(fault, {"z": z_line, "n": n_line}),
        *_gate_faults(fault, right, z_line),
        *_candidate_faults(fault, right, positive=positive),
        *_state_faults(fault, positive=positive),
        *sequencing_faults(fault),
        *precision_faults(fault),
    )


def _not_normalised(forget: Any, accept: Any, gate: Activation, ops: Algebra[Any]) -> tuple[Any, Any]:
    return ops.apply(gate, forget), ops.apply(gate, accept)


def _only_input_normalised(forget: Any, accept: Any, gate: Activation, ops: Algebra[Any]) -> tuple[Any, Any]:
    return ops.apply(gate, forget), minlstm.normalised(forget, accept, gate, ops)[1]


def _only_forget_normalised(forget: Any, accept: Any, gate: Activation, ops: Algebra[Any]) -> tuple[Any, Any]:
    return minlstm.normalised(forget, accept, gate, ops)[0], ops.apply(gate, accept)


def _complement(gate: Any, ops: Algebra[Any]) -> Any:
    return ops.mix(gate, ops.lift(np.ones((1, 1))), ops.lift(np.zeros((1, 1))))


def _tied_to_input(forget: Any, accept: Any, gate: Activation, ops: Algebra[Any]) -> tuple[Any, Any]:
    i = ops.apply(gate, accept)
    return _complement(i, ops), i


def _tied_to_forget(forget: Any, accept: Any, gate: Activation, ops: Algebra[Any]) -> tuple[Any, Any]:
    f = ops.apply(gate, forget)
    return f, _complement(f, ops)


def _softmax(forget: Any, accept: Any, gate: Activation, ops: Algebra[Any]) -> tuple[Any, Any]:
    """exp(k_f) / (exp(k_f) + exp(k_i)) is the sigmoid of the difference."""
    minus = ops.lift(np.full((1, 1), -1.0))
    return (
        ops.apply(SIGMOID, ops.total(forget, ops.times(minus, accept))),
        ops.apply(SIGMOID, ops.total(accept, ops.times(minus, forget))),
    )


def minlstm_faults(form: str) -> tuple[Fault, ...]:
    """The catalogue of ``minlstm`` or ``minlstm_log``.

    It has no other activations of the gates: with hard sigmoids both gates may be zero, with tanh their sum, and such a
    mutant predicts 0/0, which explains nothing.
    """
    positive = form == "minlstm_log"
    right = (minlstm.MINLSTM_LOG if positive else minlstm.MINLSTM).equations
    fault = _maker(right)
    f_line, i_line = "f = sigmoid(W_f x + b_f)", "i = sigmoid(W_i x + b_i)"
    n_line = "n = g(W_n x + b_n)" if positive else "n = W_n x + b_n"
    sums = "f' = f / (f + i), i' = i / (f + i)"
    order = "rows in the order f, i, n"

    def gates(name: str, statement: str, equation: str, function: minlstm.Gates) -> Fault:
        return fault(name, statement, sums, equation, equations=replace(right, gates=function))

    normalisations = (
        gates("not_normalised", "the gates are not divided by their sum", "h' = f * h + i * n", _not_normalised),
        gates(
            "forget_not_normalised",
            "the forget gate is not divided by the sum of the gates",
            "h' = f * h + i' * n",
            _only_input_normalised,
        ),
        gates(
            "input_not_normalised",
            "the input gate is not divided by the sum of the gates",
            "h' = f' * h + i * n",
            _only_forget_normalised,
        ),
        gates("tied_to_input", "the forget gate is one minus the input gate", "f' = 1 - i, i' = i", _tied_to_input),
        gates("tied_to_forget", "the input gate is one minus the forget gate", "f' = f, i' = 1 - f", _tied_to_forget),
        gates(
            "softmax_gates",
            "the gates are the softmax of their pre-activations",
            "f' = exp(W_f x + b_f) / (exp(W_f x + b_f) + exp(W_i x + b_i)), i' = 1 - f'",
            _softmax,
        ),
    )
    others = (
        fault(
            "forget_bias_plus1",
            "1 is added to the forget gate's pre-activation",
            f_line,
            "f = sigmoid(W_f x + b_f + 1)",
            parameters=_increased("b_f"),
        ),
        fault(
            "input_bias_plus1",
            "1 is added to the input gate's pre-activation",
            i_line,
            "i = sigmoid(W_i x + b_i + 1)",
            parameters=_increased("b_i"),
        ),
        fault(
            "swap_if",
            "the rows of f and i are exchanged",
            order,
            "read as i, f, n",
            parameters=_rename(f="i", i="f"),
        ),
        fault(
            "swap_in",
            "the rows of i and n are exchanged",
            order,
            "read as f, n, i",
            parameters=_rename(i="n", n="i"),
        ),
        fault(
            "swap_fn",
            "the rows of f and n are exchanged",
            order,
            "read as n, i, f",
            parameters=_rename(f="n", n="f"),
        ),
        fault(
            "rotate_gates",
            "the gate rows are rotated by one",
            order,
            "read as n, f, i: f takes the rows of i, i those of n, n those of f",
            parameters=_rename(f="i", i="n", n="f"),
        ),
    )
    return (
        *normalisations,
        *others,
        *_bias_faults(fault, {"f": f_line, "i": i_line, "n": n_line}),
        *_candidate_faults(fault, right, positive=positive),
        *_state_faults(fault, positive=positive),
        *sequencing_faults(fault),
        *precision_faults(fault),
    )
