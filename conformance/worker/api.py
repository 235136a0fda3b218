"""What an adapter sees: a case in canonical form, and the shape of its answer.

An adapter is a folder with ``adapter.toml`` (what it declares) and ``adapter.py``, a module with two functions:

``facts() -> dict[str, str]``
    versions and device of the framework, read from the framework itself.
``run(case: WorkerCase) -> Result``
    build the layer, load the weights, run it, name the outputs, and say which path really ran.

It never sees an expected answer, compares nothing and skips nothing. Two more functions are optional, for benchmarks:

``prepare(case: WorkerCase, level: Level) -> Prepared``
    everything that a call needs, made ready, so that `Prepared.call` can be timed alone.
``compile_costs(case: WorkerCase) -> CompileCosts``
    what it costs to turn the variant's program into something that runs, for frameworks that compile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .names import Level, attest, block, prefix_of

__all__ = [
    "CompileCosts",
    "Level",
    "Place",
    "Prepared",
    "Result",
    "WorkerCase",
    "assemble",
    "attest",
    "block",
    "distribute",
    "prefix_of",
]


@dataclass(frozen=True)
class Place:
    """Where a case stands in its block.

    Its cases differ in their numbers only. columns: the arrays of all of them, with an axis for the case in front;
    index: which case this is; made: what the cases before it have made for all of them, by keys of their own.
    """

    columns: Mapping[str, Any]
    index: int
    made: dict[Any, Any]


@dataclass(frozen=True)
class WorkerCase:
    """A case as the adapter receives it.

    parameters: canonical arrays by name, matrices (out, in); for ``gru`` and ``gru_v1`` these are
        W_xr W_xz W_xn (H, D), W_hr W_hz W_hn (H, H), b_xr b_xz b_xn b_hr b_hz b_hn (H,). In a stack the arrays of
        layer l and the forward direction are called ``l.W_xr``, of the backward direction ``lr.W_xr``; those of
        layer 0, forward, have no prefix (see `block`).
    x: (B, T, D), or (T, D) when the case is unbatched. A batched x is a view with the time axis outermost in memory
        when `strided` is true; the adapter must hand the framework an array that is laid out like that.
    h0: (B, S) or (S,), where S = layers * directions * H, layer by layer, forward before backward; None when the
        initial state is omitted. c0: the same for the memory of an LSTM (None for other cells).
    dtype: the dtype to compute in. Arrays are float64 for "float64" and float32 otherwise, and already
        hold values of that dtype: converting them is exact.
    lengths: (B,) integers, None when every row has T steps.
    reverse: consume every row from its end; outputs stay in the order of the input.
    layers, directions: more than 1 for stacked layers, 2 for bidirectional ones.
    cotangents: None, or arrays G shaped like outputs, final_state and (LSTM) final_cell: the gradients wanted are those
        of the sum of all products G * array.
    inputs_back: whether `Result.inputs_after` is wanted.
    place: where it stands in a block, None for a case that came alone.
    """

    cell: str
    variant: str
    dtype: str
    parameters: dict[str, Any]
    x: Any
    h0: Any | None
    hidden: int
    batched: bool
    c0: Any | None = None
    lengths: Any | None = None
    reverse: bool = False
    layers: int = 1
    directions: int = 1
    strided: bool = False
    cotangents: dict[str, Any] | None = None
    inputs_back: bool = False
    place: Place | None = field(default=None, repr=False, compare=False)

    def assembled(self, recipe: Sequence[str], layer: int = 0, direction: int = 0, *, transpose: bool = False) -> Any:
        """What `assemble` makes of the arrays of one layer and direction; transpose: with matrices as (in, out).

        Contiguous, and this case's own. The cases of a block have it made for all of them at once.
        """
        if self.place is None:
            array = assemble(recipe, block(self.parameters, layer, direction))
            return np.ascontiguousarray(array.T) if transpose else array
        key = ("assembled", layer, direction, transpose, *recipe)
        whole = self.place.made.get(key)
        if whole is None:
            whole = np.concatenate(_sums(recipe, block(self.place.columns, layer, direction)), axis=1)
            if transpose:
                whole = np.ascontiguousarray(np.moveaxis(whole, 1, -1))
            self.place.made[key] = whole
        return whole[self.place.index]

    @property
    def features(self) -> tuple[str, ...]:
        """What the case asks for beyond a plain forward run; `Result.path` ends with these, see `attest`."""
        asked = (
            ("lengths", self.lengths is not None),
            ("reverse", self.reverse),
            ("bidirectional", self.directions == 2),
            ("layers", self.layers > 1),
            ("strided", self.strided),
            ("gradients", self.cotangents is not None),
            ("inputs_back", self.inputs_back),
        )
        return tuple([name for name, wanted in asked if wanted])


@dataclass(frozen=True)
class Result:
    """What an adapter returns.

    outputs: every hidden state, (B, T, directions * H) or (T, H) for an unbatched case.
    final_state: the last hidden states, (B, layers * directions * H) or (H,).
    dtype: the dtype in which the framework returned `outputs`, e.g. "bfloat16".
    path: which code really ran; must equal the path the variant declares in adapter.toml, followed by ``+feature``
        for every feature of the case (see `attest`).
    cells, final_cell: the memory of an LSTM, shaped like outputs and final_state; None where the framework does not
        return it (and for other cells).
    gradients: by canonical name, ``x`` ``h0`` ``c0`` and the parameters, shaped like those; wanted when the case has
        cotangents. h0 and c0 are left out when the initial state is omitted.
    inputs_after: x, h0, c0 and canonical parameters as the framework's own arrays hold them *after* the call.
    """

    outputs: Any
    final_state: Any
    dtype: str
    path: str
    cells: Any | None = None
    final_cell: Any | None = None
    gradients: Mapping[str, Any] = field(default_factory=dict)
    inputs_after: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A call made ready to be timed; the adapter has made it once already.

    call: makes it, with weights and inputs already where the framework wants them, and returns when every number of
        the result has been computed (a lazy or asynchronous framework must be waited for).
    path: which code really runs, as in `Result.path`.
    outputs: every hidden state of the call, as in `Result.outputs`: two sides of a benchmark must compute the same.
    """

    call: Callable[[], object]
    path: str
    outputs: Any


@dataclass(frozen=True)
class CompileCosts:
    """What a program costs before it runs, measured from nothing (no cache of an earlier case may help).

    trace_seconds: Python to the framework's program; compile_seconds: that program to machine code.
    program_characters, program_operations: the size of the traced program, as the framework prints it.
    """

    path: str
    trace_seconds: float
    compile_seconds: float
    program_characters: int
    program_operations: int


def assemble(recipe: Sequence[str], parameters: Mapping[str, Any]) -> Any:
    """Stack canonical arrays along the first axis: ``["b_xr + b_hr", "b_xn"]`` adds, then concatenates.

    This is how an adapter writes its weight permutation as data. See `WorkerCase.assembled`, which is faster.
    """
    return np.concatenate(_sums(recipe, parameters), axis=0)


def _sums(recipe: Sequence[str], parameters: Mapping[str, Any]) -> list[Any]:
    """What a recipe concatenates."""
    blocks = []
    for terms in recipe:
        names = [name.strip() for name in terms.split("+")]
        array = parameters[names[0]]
        for name in names[1:]:
            array = array + parameters[name]
        blocks.append(array)
    return blocks


def distribute(recipe: Sequence[str], gradient: Any) -> dict[str, Any]:
    """The gradients of the canonical arrays from that of their assembly: the transpose of `assemble`."""
    parts = np.split(np.asarray(gradient), len(recipe), axis=0)
    return {name.strip(): part for terms, part in zip(recipe, parts, strict=True) for name in terms.split("+")}
