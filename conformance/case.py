"""A case: one immutable input of a recurrence, in canonical form.

Invariants: every number is finite and exactly representable in the case's dtype; shapes fit together;
arrays are read-only. The hidden state's spelling (omitted, zeros, given) is part of the case, because an
omitted state and a zero state are two code paths in the frameworks under test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import numpy as np
from msgspec import Struct, field
from msgspec.structs import force_setattr, replace

from conformance.errors import CaseError
from conformance.rounding import Arithmetic, Array, Format, arithmetic_of, format_of, round_to

Initial = Literal["omitted", "zeros", "given"]
INITIALS: Final[tuple[Initial, ...]] = get_args(Initial)
Padding = Literal["zeros", "free"]
Evaluation = Literal["sequential", "complement", "scan", "log-scan"]

Parameters: TypeAlias = Mapping[str, Array]


# Features of a requirement that its cases have; others are asked of the way in which a plain case is run.
CASE_FEATURES: Final = frozenset(("lengths", "reverse", "bidirectional", "layers", "gradients"))


def asked_of_cases(features: Iterable[str]) -> frozenset[str]:
    """Those of a requirement's features that its cases have."""
    return CASE_FEATURES.intersection(features)


class Shape(Struct, frozen=True, kw_only=True):
    """The sizes of a case: batch B, time T, input features D, hidden units H, layers and directions.

    output: units of one layer and direction's state; differs from `hidden` for a cell that projects its state.
    """

    batch: int
    time: int
    features: int
    hidden: int
    layers: int = 1
    directions: int = 1
    output: int = 0

    def __post_init__(self) -> None:
        if not self.output:
            force_setattr(self, "output", self.hidden)

    def __str__(self) -> str:
        parts = [f"B={self.batch}, T={self.time}, D={self.features}, H={self.hidden}"]
        if self.output != self.hidden:
            parts.append(f"P={self.output}")
        if self.layers > 1:
            parts.append(f"layers={self.layers}")
        if self.directions > 1:
            parts.append("bidirectional")
        return f"({', '.join(parts)})"


class Case(Struct, frozen=True, kw_only=True, eq=False):
    """One input.

    Attributes
    ----------
    cell: the recurrence, e.g. ``gru``.
    dtype: the declared dtype; inputs hold values of that dtype in float64 containers.
    parameters: canonical parameters by name, matrices (out, in); for the prefixes of stacked and backward layers see
        `conformance.worker.api.prefix_of`.
    x: inputs (B, T, D); a case that is not batched has B = 1 and the candidate receives (T, D). It may hold NaN and
        infinities only where `special` is true.
    initial: how the initial state is spelled to the candidate.
    h0: initial state (B, layers * directions * output); zeros unless ``initial == "given"``.
    c0: initial memory (B, layers * directions * hidden) of an LSTM, None for other cells.
    lengths: the number of real steps of each row, None when all have T.
    reverse: rows are consumed from their end; outputs stay in the order of the input.
    padding: what outputs past a row's length are: zeros, or free (not specified, not compared).
    evaluation: how the recurrence is evaluated: step by step; step by step with the complement of a GRU's update gate
        (h' = (1 - z) * h + z * n, every z row negated); or, where it is linear (minGRU, minLSTM), as a prefix scan.
    arithmetic: what the candidate declares to compute in, where that is not the dtype throughout.
    cotangents: empty, or arrays shaped like outputs, final_state (and final_cell), with which the candidate is
        asked for the gradients of the sum of all products.
    strided, inputs_back: the candidate is given a non-contiguous x; is asked for its inputs after the call.
    origin: where the case came from, for the reader of a record.

    Raises
    ------
    CaseError: unknown dtype, wrong names or shapes, values that are not finite in the dtype.
    """

    cell: str
    dtype: str
    parameters: Parameters
    x: Array
    initial: Initial
    h0: Array
    c0: Array | None = None
    batched: bool = True
    lengths: tuple[int, ...] | None = None
    reverse: bool = False
    layers: int = 1
    directions: int = 1
    padding: Padding = "zeros"
    evaluation: Evaluation = "sequential"
    cotangents: Mapping[str, Array] = field(default_factory=dict)
    arithmetic: Arithmetic = ""
    strided: bool = False
    inputs_back: bool = False
    special: bool = False
    origin: str = ""

    def __post_init__(self) -> None:
        where = f"case {self.origin or '(unnamed)'}"
        format_of(self.dtype)
        if self.initial not in INITIALS:
            raise CaseError("unknown initial state", where=where, got=repr(self.initial), wanted=" | ".join(INITIALS))
        blocks = self.layers * self.directions
        if self.layers < 1 or self.directions not in (1, 2):
            raise CaseError("no such stack", where=where, got=f"layers {self.layers}, directions {self.directions}")
        if self.x.ndim != 3 or self.x.shape[2] < 1:
            raise CaseError("x must be (B, T, D)", where=where, got=f"shape {self.x.shape}")
        batch = self.x.shape[0]
        for name, state in {"h0": self.h0, "c0": self.c0}.items():
            if state is None:
                continue
            if state.ndim != 2 or state.shape[0] != batch or state.shape[1] < blocks or state.shape[1] % blocks:
                raise CaseError(
                    f"{name} must be (B, layers * directions * H)",
                    where=where,
                    got=f"shape {state.shape} with x of shape {self.x.shape} and {blocks} blocks",
                )
        self._check_rows(where)
        for name, value in arrays_of(self).items():
            fixed = _exact(value, self.dtype, f"{where}, {name}", special=self.special and name in ("x", "h0", "c0"))
            if name in ("x", "h0", "c0"):
                force_setattr(self, name, fixed)
                if name != "x" and self.initial != "given" and np.any(fixed):
                    raise CaseError(
                        "only a given initial state may differ from zero", where=where, got=f"initial={self.initial}"
                    )
        for group in ("parameters", "cotangents"):
            frozen = {
                name: _exact(value, self.dtype, f"{where}, {name}") for name, value in getattr(self, group).items()
            }
            force_setattr(self, group, MappingProxyType(frozen))

    def _check_rows(self, where: str) -> None:
        batch, time = self.x.shape[:2]
        if not self.batched and batch != 1:
            raise CaseError("an unbatched case has one row", where=where, got=f"B={batch}", wanted="B=1")
        if self.lengths is not None and (len(self.lengths) != batch or not all(0 <= n <= time for n in self.lengths)):
            raise CaseError(
                "lengths must be one number in 0 ... T for each row",
                where=where,
                got=f"{self.lengths} for {self.shape}",
            )

    def zeroed(self, names: tuple[str, ...]) -> Case:
        """The same case with the named parameters set to zero: its projection on a representable subspace."""
        if not names:
            return self
        zero = {
            name: np.zeros_like(value) for name, value in self.parameters.items() if name.rpartition(".")[2] in names
        }
        return replace(
            self, parameters={**self.parameters, **zero}, origin=f"{self.origin} with {', '.join(names)} = 0"
        )

    @property
    def shape(self) -> Shape:
        """The sizes of each case: of stacked ones, too."""
        blocks = self.layers * self.directions
        batch, time, features = self.x.shape[-3:]
        output = self.h0.shape[-1] // blocks
        return Shape(
            batch=batch,
            time=time,
            features=features,
            hidden=output if self.c0 is None else self.c0.shape[-1] // blocks,
            layers=self.layers,
            directions=self.directions,
            output=output,
        )

    @property
    def format(self) -> Format:
        """The arithmetic by which the case is judged."""
        return arithmetic_of(self.dtype, self.arithmetic)

    @property
    def stepwise(self) -> bool:
        """Whether every state is computed from the one before it, and not by a prefix scan."""
        return self.evaluation in ("sequential", "complement")

    @property
    def features(self) -> tuple[str, ...]:
        """What the case asks for beyond a plain forward run; the names are those of the adapters' manifests."""
        asked = {
            "lengths": self.lengths is not None,
            "reverse": self.reverse,
            "bidirectional": self.directions == 2,
            "layers": self.layers > 1,
            "strided": self.strided,
            "gradients": bool(self.cotangents),
            "inputs_back": self.inputs_back,
        }
        return tuple(name for name, wanted in asked.items() if wanted)

    @property
    def digest(self) -> str:
        """A stable name for the input itself: the same numbers give the same digest on every machine."""
        own = (self.lengths, self.padding, self.evaluation, self.arithmetic, self.features)
        what = (self.cell, self.dtype, self.initial, self.batched, self.shape, *own)
        hasher = hashlib.sha256("|".join(map(str, what)).encode())
        arrays = arrays_of(self) | dict(self.parameters) | {f"G {k}": v for k, v in self.cotangents.items()}
        for name in sorted(arrays):
            hasher.update(name.encode() + arrays[name].astype("<f8").tobytes())
        return hasher.hexdigest()[:12]


def arrays_of(case: Case) -> dict[str, Array]:
    """x, h0 and, where there is one, c0."""
    states = {"x": case.x, "h0": case.h0, "c0": case.c0}
    return {name: value for name, value in states.items() if value is not None}


def stacked(cases: Sequence[Case]) -> Case:
    """Cases of one kind as one, with an axis before all others; it is evaluated, never sent or judged by itself."""
    first = cases[0]
    vectors = {name for name, value in first.parameters.items() if value.ndim == 1}

    def together(name: str) -> Array:
        arrays = np.array([case.parameters[name] for case in cases])
        return arrays[:, None, :] if name in vectors else arrays

    memories = [case.c0 for case in cases if case.c0 is not None]
    return unchecked(
        first,
        {
            "parameters": {name: together(name) for name in first.parameters},
            "x": np.array([case.x for case in cases]),
            "h0": np.array([case.h0 for case in cases]),
            "c0": np.array(memories) if memories else None,
        },
    )


def unchecked(case: Case, changes: Mapping[str, Any]) -> Case:
    """A copy with changed arrays that skips the checks (a doubled bias may leave the dtype)."""
    changed = copy(case)
    for name, value in changes.items():
        force_setattr(changed, name, value)
    return changed


def make_case(
    *,
    cell: str,
    dtype: str,
    parameters: Parameters,
    x: Array,
    initial: Initial,
    h0: Array | None = None,
    c0: Array | None = None,
    hidden: int | None = None,
    **rest: Any,
) -> Case:
    """A case from arbitrary float64 arrays, rounded to `dtype`; h0 and c0 are dropped unless the state is given.

    hidden: the width of the state where h0 is left out. rest: further fields of `Case`, as they are.
    """
    x = np.asarray(x, dtype=np.float64)
    if h0 is None:
        if initial == "given" or hidden is None:
            raise CaseError("a given initial state needs h0", where=str(rest.get("origin", "")), got="no h0")
        h0 = np.zeros((x.shape[0], hidden))
    if initial != "given":
        h0 = np.zeros_like(h0, dtype=np.float64)
        c0 = None if c0 is None else np.zeros_like(c0, dtype=np.float64)
    return Case(
        cell=cell,
        dtype=dtype,
        parameters={name: round_to(dtype, value) for name, value in parameters.items()},
        x=round_to(dtype, x),
        initial=initial,
        h0=round_to(dtype, h0),
        c0=None if c0 is None else round_to(dtype, c0),
        **{**rest, "cotangents": {k: round_to(dtype, v) for k, v in rest.get("cotangents", {}).items()}},
    )


def _exact(array: Array, dtype: str, where: str, *, special: bool = False) -> Array:
    values = np.array(array, dtype=np.float64, order="C")
    if not special and not np.all(np.isfinite(values)):
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise CaseError(
            "a case holds only finite numbers",
            where=where,
            got=f"{values[index]} at {index}",
            hint=f"look for NaN, infinity or values too large for {dtype}",
        )
    if not np.array_equal(round_to(dtype, values), values, equal_nan=special):
        raise CaseError(f"values are not exactly representable in {dtype}", where=where, hint="round them first")
    values.setflags(write=False)
    return values


CASE_FORMAT: Final = "rnn-conformance-case-1"


_OPTIONAL: Final[Mapping[str, Any]] = {
    "lengths": None,
    "reverse": False,
    "layers": 1,
    "directions": 1,
    "padding": "zeros",
    "evaluation": "sequential",
    "arithmetic": "",
    "strided": False,
    "inputs_back": False,
}


def case_to_json(case: Case) -> dict[str, Any]:
    """The case as plain JSON values; floats keep every bit (shortest round-trip decimals).

    What a plain case does not need (c0, lengths, cotangents, ...) is left out. Numbers that are not finite are written
    as the strings ``nan``, ``inf`` and ``-inf``.
    """
    plain: dict[str, Any] = {
        "format": CASE_FORMAT,
        "cell": case.cell,
        "dtype": case.dtype,
        "initial": case.initial,
        "batched": case.batched,
        "origin": case.origin,
        "parameters": {name: array.tolist() for name, array in case.parameters.items()},
        "x": _numbers(case.x),
        "h0": _numbers(case.h0),
    }
    if case.c0 is not None:
        plain["c0"] = _numbers(case.c0)
    if case.special:
        plain["special"] = True
    if case.cotangents:
        plain["cotangents"] = {name: array.tolist() for name, array in case.cotangents.items()}
    if not case.x.size:
        # Nested lists do not tell the shape of an array without numbers.
        plain["shapes"] = {name: list(value.shape) for name, value in arrays_of(case).items()}
    for name, usual in _OPTIONAL.items():
        value = getattr(case, name)
        if value != usual:
            plain[name] = list(value) if isinstance(value, tuple) else value
    return plain


def _numbers(values: Array) -> Any:
    if np.all(np.isfinite(values)):
        return values.tolist()
    mixed = values.astype(object)
    mixed[~np.isfinite(values)] = [str(value) for value in values[~np.isfinite(values)]]
    return mixed.tolist()


def case_from_json(data: object, *, where: str = "case") -> Case:
    """The case held by parsed JSON; CaseError for anything malformed."""
    if not isinstance(data, dict) or data.get("format") != CASE_FORMAT:
        raise CaseError(
            "not a case", where=where, got=str(data)[:60], wanted=f"a JSON object with format {CASE_FORMAT}"
        )
    fields = cast("dict[str, Any]", data)

    shapes = dict(fields.get("shapes", {}))

    def state(name: str) -> Array:
        values = np.array(fields[name], dtype=np.float64)
        return values.reshape(shapes[name]) if name in shapes else values

    def arrays(name: str) -> dict[str, Array]:
        return {str(k): np.array(v, dtype=np.float64) for k, v in dict(fields[name]).items()}

    try:
        lengths = fields.get("lengths")
        special = bool(fields.get("special", False))
        return Case(
            cell=str(fields["cell"]),
            dtype=str(fields["dtype"]),
            initial=fields["initial"],
            batched=bool(fields["batched"]),
            origin=str(fields["origin"]),
            parameters=arrays("parameters"),
            x=state("x"),
            h0=state("h0"),
            c0=state("c0") if "c0" in fields else None,
            cotangents=arrays("cotangents") if "cotangents" in fields else {},
            special=special,
            **{name: fields.get(name, usual) for name, usual in _OPTIONAL.items() if name != "lengths"},
            lengths=None if lengths is None else tuple(int(n) for n in lengths),
        )
    except KeyError as error:
        raise CaseError("a case lacks a field", where=where, wanted=str(error)) from None
    except (TypeError, ValueError) as error:
        raise CaseError("a case holds something that is no array of numbers", where=where, got=str(error)) from None
