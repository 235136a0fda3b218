"""A case: one immutable input of a recurrence, in canonical form.

Invariants: every number is finite and exactly representable in the case's dtype; shapes fit together;
arrays are read-only. The hidden state's spelling (omitted, zeros, given) is part of the case, because an
omitted state and a zero state are two code paths in the frameworks under test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import numpy as np

from conformance.errors import CaseError
from conformance.rounding import Array, format_of, round_to

Initial = Literal["omitted", "zeros", "given"]
INITIALS: Final[tuple[Initial, ...]] = get_args(Initial)

Parameters: TypeAlias = Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a case: batch B, time T, input features D, hidden units H."""

    batch: int
    time: int
    features: int
    hidden: int

    def __str__(self) -> str:
        return f"(B={self.batch}, T={self.time}, D={self.features}, H={self.hidden})"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One input.

    Attributes
    ----------
    cell: the recurrence, e.g. ``gru``.
    dtype: the declared dtype; inputs hold values of that dtype in float64 containers.
    parameters: canonical parameters by name, matrices (out, in).
    x: inputs (B, T, D); a case that is not batched has B = 1 and the candidate receives (T, D).
    initial: how the initial state is spelled to the candidate.
    h0: initial state (B, H); zeros unless ``initial == "given"``.
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
    batched: bool = True
    origin: str = ""
    shape: Shape = field(init=False)

    def __post_init__(self) -> None:
        where = f"case {self.origin or '(unnamed)'}"
        format_of(self.dtype)
        if self.initial not in INITIALS:
            raise CaseError("unknown initial state", where=where, got=repr(self.initial), wanted=" | ".join(INITIALS))
        if self.x.ndim != 3 or min(self.x.shape) < 1:
            raise CaseError("x must be (B, T, D) and not empty", where=where, got=f"shape {self.x.shape}")
        if self.h0.ndim != 2 or self.h0.shape[0] != self.x.shape[0] or self.h0.shape[1] < 1:
            raise CaseError(
                "h0 must be (B, H)", where=where, got=f"shape {self.h0.shape} with x of shape {self.x.shape}"
            )
        batch, time, features = self.x.shape
        shape = Shape(batch=batch, time=time, features=features, hidden=self.h0.shape[1])
        if not self.batched and batch != 1:
            raise CaseError("an unbatched case has one row", where=where, got=f"B={batch}", wanted="B=1")
        arrays = {"x": self.x, "h0": self.h0, **self.parameters}
        frozen = {name: _exact(array, self.dtype, f"{where}, {name}") for name, array in arrays.items()}
        if self.initial != "given" and np.any(frozen["h0"]):
            raise CaseError(
                "only a given initial state may differ from zero", where=where, got=f"initial={self.initial}"
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "x", frozen.pop("x"))
        object.__setattr__(self, "h0", frozen.pop("h0"))
        object.__setattr__(self, "parameters", MappingProxyType(frozen))

    def zeroed(self, names: tuple[str, ...]) -> Case:
        """The same case with the named parameters set to zero: its projection on a representable subspace."""
        if not names:
            return self
        zero = {name: np.zeros_like(self.parameters[name]) for name in names}
        return replace(
            self, parameters={**self.parameters, **zero}, origin=f"{self.origin} with {', '.join(names)} = 0"
        )

    @property
    def digest(self) -> str:
        """A stable name for the input itself: the same numbers give the same digest on every machine."""
        hasher = hashlib.sha256(f"{self.cell}|{self.dtype}|{self.initial}|{self.batched}|{self.shape}".encode())
        for name in sorted(self.parameters):
            hasher.update(name.encode() + self.parameters[name].astype("<f8").tobytes())
        hasher.update(self.x.astype("<f8").tobytes() + self.h0.astype("<f8").tobytes())
        return hasher.hexdigest()[:12]


def make_case(
    *,
    cell: str,
    dtype: str,
    parameters: Parameters,
    x: Array,
    initial: Initial,
    h0: Array | None = None,
    batched: bool = True,
    origin: str = "",
    hidden: int | None = None,
) -> Case:
    """A case from arbitrary float64 arrays, rounded to `dtype`; `h0` is dropped unless the state is given."""
    x = np.asarray(x, dtype=np.float64)
    if h0 is None:
        if initial == "given" or hidden is None:
            raise CaseError("a given initial state needs h0", where=origin, got="no h0")
        h0 = np.zeros((x.shape[0], hidden))
    if initial != "given":
        h0 = np.zeros_like(h0, dtype=np.float64)
    return Case(
        cell=cell,
        dtype=dtype,
        parameters={name: round_to(dtype, value) for name, value in parameters.items()},
        x=round_to(dtype, x),
        initial=initial,
        h0=round_to(dtype, h0),
        batched=batched,
        origin=origin,
    )


def _exact(array: Array, dtype: str, where: str) -> Array:
    values = np.array(array, dtype=np.float64, order="C")
    if not np.all(np.isfinite(values)):
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise CaseError(
            "a case holds only finite numbers",
            where=where,
            got=f"{values[index]} at {index}",
            hint=f"look for NaN, infinity or values too large for {dtype}",
        )
    if not np.array_equal(round_to(dtype, values), values):
        raise CaseError(f"values are not exactly representable in {dtype}", where=where, hint="round them first")
    values.setflags(write=False)
    return values


CASE_FORMAT: Final = "rnn-conformance-case-1"


def case_to_json(case: Case) -> dict[str, Any]:
    """The case as plain JSON values; floats keep every bit (shortest round-trip decimals)."""
    return {
        "format": CASE_FORMAT,
        "cell": case.cell,
        "dtype": case.dtype,
        "initial": case.initial,
        "batched": case.batched,
        "origin": case.origin,
        "parameters": {name: array.tolist() for name, array in case.parameters.items()},
        "x": case.x.tolist(),
        "h0": case.h0.tolist(),
    }


def case_from_json(data: object, *, where: str = "case") -> Case:
    """The case held by parsed JSON; CaseError for anything malformed."""
    if not isinstance(data, dict) or data.get("format") != CASE_FORMAT:
        raise CaseError(
            "not a case", where=where, got=str(data)[:60], wanted=f"a JSON object with format {CASE_FORMAT}"
        )
    fields = cast("dict[str, Any]", data)
    try:
        parameters = {str(k): np.array(v, dtype=np.float64) for k, v in dict(fields["parameters"]).items()}
        x = np.array(fields["x"], dtype=np.float64)
        h0 = np.array(fields["h0"], dtype=np.float64)
        return Case(
            cell=str(fields["cell"]),
            dtype=str(fields["dtype"]),
            initial=fields["initial"],
            batched=bool(fields["batched"]),
            origin=str(fields["origin"]),
            parameters=parameters,
            x=x,
            h0=h0,
        )
    except KeyError as error:
        raise CaseError("a case lacks a field", where=where, wanted=str(error)) from None
    except (TypeError, ValueError) as error:
        raise CaseError("a case holds something that is no array of numbers", where=where, got=str(error)) from None
