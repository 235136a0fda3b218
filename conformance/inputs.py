"""Input files: shared weights (safetensors, canonical parameters with x and h0), shipped cases, case files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from msgspec.structs import replace
from safetensors import SafetensorError, safe_open

from conformance.case import Case, Padding, Parameters, Shape, case_from_json, make_case
from conformance.cells import cell_named
from conformance.discover import data_folder
from conformance.errors import CaseError
from conformance.requirement import Requirement
from conformance.rounding import Array, round_to
from conformance.signature import GENERIC, LATTICE, RELATION, SHORT_LATTICE, WIDE_LATTICE, Signature, build

FORMAT: Final = "rnn-conformance-weights-1"


def read_weights(path: Path) -> tuple[Parameters, Array, Array]:
    """The canonical parameters, x (B, T, D) and h0 (B, H) of a weights file, as float64.

    Raises
    ------
    CaseError: the file cannot be read, is no safetensors file of this format, or lacks x or h0.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: np.asarray(file.get_tensor(name), dtype=np.float64) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise CaseError("cannot read the weights file", where=str(path), got=str(error)) from None
    if metadata.get("format") != FORMAT:
        raise CaseError(
            "not a weights file of this project",
            where=str(path),
            got=f"metadata {dict(metadata)}",
            wanted=f"metadata format={FORMAT}",
        )
    missing = {"x", "h0"} - arrays.keys()
    if missing:
        raise CaseError("a weights file lacks its inputs", where=str(path), got=f"no {', '.join(sorted(missing))}")
    x, h0 = arrays.pop("x"), arrays.pop("h0")
    return arrays, x, h0


@cache
def _shipped_weights() -> tuple[tuple[str, Parameters, Array, Array], ...]:
    folder = data_folder("fixtures") / "weights"
    # The generic one first: it tells the most.
    paths = sorted(folder.glob("*.safetensors"), key=lambda path: (path.stem != "random_4x12x6x8", path.stem))
    if not paths:
        raise CaseError("no shipped weights", where=str(folder), hint="the installation is incomplete")
    return tuple((path.stem, *read_weights(path)) for path in paths)


# For cells without a weights file, and for what these do not hold: on shapes that generated cases have as well.
_SHIPPED: Final = (
    (GENERIC, 0.8),
    (GENERIC, 20.0),
    (GENERIC, 0.05),
    (Shape(batch=2, time=3, features=2, hidden=3), 0.8),
)
_FEW: Final = ((RELATION, 0.8), (RELATION, 1.5))


def shipped_cases(
    requirement: Requirement, dtype: str, *, zeroed: tuple[str, ...] = (), padding: Padding = "zeros"
) -> Iterator[Case]:
    """The shipped cases of a requirement, rounded to `dtype`: the most telling first.

    zeroed: parameters that the candidate cannot represent, set to zero. Reference agreement of the GRU forms uses the
    shared weights files; everything else fixed signatures.
    """
    if plainly(requirement) and requirement.cell in ("gru", "gru_v1"):
        yield from _from_files(requirement, dtype, zeroed)
        return
    for seed, (shape, scale) in enumerate(_SHIPPED if plainly(requirement) else _FEW, start=1):
        signature = Signature(shape=shape, batched=True, seed=seed, scale=scale, decimals=12, fills=())
        case = build(
            signature,
            cell=requirement.cell,
            dtype=dtype,
            initial=requirement.initial,
            zeroed=zeroed,
            features=requirement.features,
            padding=padding,
        )
        yield replace(case, origin=f"shipped: {signature}")


def plainly(requirement: Requirement) -> bool:
    """Whether a requirement is agreement with the reference in a plain call, which is tried most widely."""
    return requirement.against_reference and not requirement.features


def lattice_of(requirement: Requirement, dtype: str, *, wide: bool = False) -> tuple[tuple[Shape, bool], ...]:
    """The shapes on which a requirement is tried."""
    if not plainly(requirement):
        return ((RELATION, True),)
    if wide:
        return WIDE_LATTICE
    return LATTICE if dtype == "float32" else SHORT_LATTICE


def _from_files(requirement: Requirement, dtype: str, zeroed: tuple[str, ...]) -> Iterator[Case]:
    for name, parameters, x, h0 in _shipped_weights():
        case = make_case(
            cell=requirement.cell,
            dtype=dtype,
            parameters={key: round_to(dtype, value) for key, value in parameters.items()},
            x=x,
            initial=requirement.initial,
            h0=h0,
            origin=f"shipped: {name}",
        )
        cell_named(case.cell).check(case)
        yield case.zeroed(zeroed)


def read_case(path: Path) -> Case:
    """Read a case file, as a run or a failing test keeps it; CaseError when it is malformed or fits no cell."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CaseError("cannot read the case file", where=str(path), got=str(error)) from None
    except ValueError as error:
        raise CaseError("the case file is not JSON", where=str(path), got=str(error)) from None
    case = case_from_json(data, where=str(path))
    cell_named(case.cell).check(case)
    return case
