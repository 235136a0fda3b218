"""The gated recurrent unit, reset-after form ("v3"), cell ``gru``.

    r  = sigmoid(W_xr x + b_xr + W_hr h + b_hr)
    z  = sigmoid(W_xz x + b_xz + W_hz h + b_hz)
    n  = tanh(W_xn x + b_xn + r * (W_hn h + b_hn))
    h' = (1 - z) * n + z * h

Source: Cho et al. 2014, arXiv:1406.1078 (gates); the reset-after candidate is that of arXiv:1406.1078v3 and of
cuDNN, PyTorch's ``torch.nn.GRU`` and ``mlx.nn.GRU``. The update convention is that of those frameworks: z keeps
the state. In the other one, h' = (1 - z) * h + z * n, z mixes the candidate in. Negating the z rows of every parameter
converts, since sigmoid(-a) = 1 - sigmoid(a): exactly in real numbers, but not in rounded ones, where 1 - z of a small z
has an absolute error and z itself a relative one. `COMPLEMENT` evaluates that convention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from conformance.algebra import SIGMOID, TANH, Activation, Algebra
from conformance.case import Parameters
from conformance.cells.cell import Cell, Complement
from conformance.rounding import Array

V = TypeVar("V")

PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("W_xr", "W_xz", "W_xn"), ("H", "D")),
    **dict.fromkeys(("W_hr", "W_hz", "W_hn"), ("H", "H")),
    **dict.fromkeys(("b_xr", "b_xz", "b_xn", "b_hr", "b_hz", "b_hn"), ("H",)),
}

# How the reset gate enters the candidate: (parameters, r, h, start rows, algebra) -> the recurrent term.
# Typed loosely in the algebra's value: Python cannot say "for every V" in a field.
Reset = Callable[[Parameters, Any, Any, Array, Any], Any]
Form = Callable[[Any, Any, Any, Any], Any]


def reset_after(p: Parameters, r: V, h: V, start: Array, ops: Algebra[V]) -> V:
    """``r * (W_hn h + b_hn)``."""
    return ops.times(r, ops.total(ops.dot(p["W_hn"], h), ops.lift(p["b_hn"])))


def reset_before(p: Parameters, r: V, h: V, start: Array, ops: Algebra[V]) -> V:
    """``W_hn (r * h) + b_hn``."""
    return ops.total(ops.dot(p["W_hn"], ops.times(r, h)), ops.lift(p["b_hn"]))


def keep_with_z(z: V, n: V, h: V, ops: Algebra[V]) -> V:
    """``(1 - z) * n + z * h``."""
    return ops.mix(z, n, h)


def write_with_z(z: V, n: V, h: V, ops: Algebra[V]) -> V:
    """``(1 - z) * h + z * n``."""
    return ops.mix(z, h, n)


class Update(Struct, frozen=True):
    """How the next state is made of z, n and h.

    form: in the convention evaluated; complement: what does the same in the other one.
    """

    form: Form
    complement: Form

    def __call__(self, z: Any, n: Any, h: Any, ops: Any) -> Any:
        """The next state."""
        return self.form(z, n, h, ops)


UPDATE: Final = Update(keep_with_z, write_with_z)


class Equations(Struct, frozen=True, kw_only=True):
    """The parts of a GRU step that implementations get wrong; a fault replaces some of them."""

    reset_gate: Activation = SIGMOID
    update_gate: Activation = SIGMOID
    candidate: Activation = TANH
    reset: Reset = field(default=reset_after)
    update: Form = UPDATE


def _complemented(eq: Equations) -> Equations:
    update = eq.update
    if isinstance(update, Update):
        return replace(eq, update=Update(update.complement, update.form))
    # A form of no known complement: what z does to the state and to the candidate is exchanged.
    return replace(eq, update=lambda z, n, h, ops: update(z, h, n, ops))


COMPLEMENT: Final = Complement(negated=("W_xz", "W_hz", "b_xz", "b_hz"), equations=_complemented)
"""The convention in which z mixes the candidate in: h' = (1 - z) * h + z * n."""


def project(p: Parameters, x: V, h: V, start: Array, ops: Algebra[V], eq: Equations) -> dict[str, V]:
    """r, z and n of one step on flattened rows.

    x: (N, D); h: (N, H); start: (N,), 1 in rows whose state is the sequence's initial state, left out by the caller.
    """
    r = ops.apply(
        eq.reset_gate,
        ops.total(ops.dot(p["W_xr"], x), ops.lift(p["b_xr"]), ops.dot(p["W_hr"], h), ops.lift(p["b_hr"])),
    )
    z = ops.apply(
        eq.update_gate,
        ops.total(ops.dot(p["W_xz"], x), ops.lift(p["b_xz"]), ops.dot(p["W_hz"], h), ops.lift(p["b_hz"])),
    )
    recurrent = eq.reset(p, r, h, start, ops)
    n = ops.apply(eq.candidate, ops.total(ops.dot(p["W_xn"], x), ops.lift(p["b_xn"]), recurrent))
    return {"r": r, "z": z, "n": n}


def emit(
    p: Parameters, parts: Mapping[str, V], h: V, memory: tuple[V, V] | None, ops: Algebra[V], eq: Equations
) -> dict[str, V]:
    """r, z, n and the next state h, each (N, H)."""
    return {**parts, "h": eq.update(parts["z"], parts["n"], h, ops)}


GRU: Final = Cell(
    name="gru",
    title="GRU, reset after the matrix product (v3)",
    source="documented equations of mlx.nn.GRU and torch.nn.GRU; Cho et al. 2014, arXiv:1406.1078",
    parameters=PARAMETERS,
    intermediates=("r", "z", "n", "h"),
    equations=Equations(),
    project=project,
    emit=emit,
    complement=COMPLEMENT,
)
