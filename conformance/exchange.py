"""Cases and blocks as messages to a worker, and its answers as observations, checked before any value is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from conformance.block import Block, packed
from conformance.case import Case
from conformance.compare import Observed
from conformance.rounding import Array
from conformance.verdict import Broken
from conformance.worker import wire


class Observation(Struct, frozen=True, kw_only=True):
    """What a worker returned for a case: batched arrays, the attested path, the adapter's own seconds."""

    observed: Observed
    path: str
    seconds: float


class Observations(Struct, frozen=True, kw_only=True):
    """What a worker returned for a block.

    observed: arrays with an axis (K,) in front, None where there are none; places: which cases they are of; paths,
    seconds: theirs. apart: the cases that must be asked for one by one. broken: how the worker broke, if it did.
    """

    observed: Observed | None = None
    places: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()
    seconds: float = 0.0
    apart: tuple[int, ...] = ()
    broken: Broken | None = None


def question_of(case: Case, variant: str) -> wire.Message:
    """The message about a case."""
    arrays = {**case.parameters, "x": case.x}
    if case.initial != "omitted":
        arrays |= {name: value for name, value in (("h0", case.h0), ("c0", case.c0)) if value is not None}
    arrays |= {wire.COTANGENT + name: value for name, value in case.cotangents.items()}
    return wire.Message("case", _body(case, variant), _tensors(arrays, case.dtype))


def block_question(block: Block, variant: str) -> wire.Message:
    """The message about all cases of a block."""
    first = block.first
    left_out = ("h0", "c0") if first.initial == "omitted" else ()
    tensors = {name: wire.Tensor(own, first.dtype) for name, own in block.packed.items() if name not in left_out}
    return wire.Message("block", {**_body(first, variant), "count": block.count}, tensors)


def _body(case: Case, variant: str) -> dict[str, Any]:
    return {
        "cell": case.cell,
        "variant": variant,
        "dtype": case.dtype,
        "hidden": case.shape.hidden,
        "batched": case.batched,
        "lengths": None if case.lengths is None else list(case.lengths),
        "reverse": case.reverse,
        "layers": case.layers,
        "directions": case.directions,
        "strided": case.strided,
        "inputs_back": case.inputs_back,
    }


def _tensors(arrays: Mapping[str, Array], dtype: str) -> dict[str, wire.Tensor]:
    return {name: wire.Tensor(own, dtype) for name, own in packed(arrays, dtype).items()}


def _wanted(case: Case) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """The shapes of the arrays that an observation must have, and of those that it may have."""
    size = case.shape
    lead = (size.batch,) if case.batched else ()
    states, memories = size.directions * size.output, size.directions * size.hidden
    required = {"outputs": (*lead, size.time, states), "final_state": (*lead, size.layers * states)}
    allowed: dict[str, tuple[int, ...]] = {}
    if case.c0 is not None:
        allowed = {"cells": (*lead, size.time, memories), "final_cell": (*lead, size.layers * memories)}
    own: dict[str, tuple[int, ...]] = {name: value.shape for name, value in case.parameters.items()}
    for name, state in (("x", case.x), ("h0", case.h0), ("c0", case.c0)):
        if state is not None and (name == "x" or case.initial != "omitted"):
            own[name] = state.shape if case.batched else state.shape[1:]
    if case.cotangents:
        allowed |= {wire.GRADIENT + name: shape for name, shape in own.items()}
        required[wire.GRADIENT + "x"] = own["x"]
    if case.inputs_back:
        allowed |= {wire.AFTER + name: shape for name, shape in own.items()}
        required[wire.AFTER + "x"] = own["x"]
    return required, allowed


def observation(case: Case, answer: wire.Message) -> Observation | Broken:
    """Check names, dtypes and shapes before any value is looked at."""
    required, allowed = _wanted(case)

    def contract(problem: str) -> Broken:
        return Broken(kind="contract", message=problem)

    if answer.kind != "observation":
        return contract(f"got a message of kind {answer.kind!r}, wanted an observation")
    names = answer.tensors.keys()
    if not required.keys() <= names <= required.keys() | allowed.keys():
        return contract(f"returned arrays {sorted(names)}, wanted {sorted(required)}, possibly {sorted(allowed)}")
    for name, tensor in answer.tensors.items():
        shape = (allowed | required)[name]
        if tensor.values.shape != shape:
            return contract(f"{name} has shape {tensor.values.shape}, wanted {shape}")
        if tensor.dtype != case.dtype:
            return contract(f"{name} has dtype {tensor.dtype}, wanted {case.dtype}, the dtype of the inputs")
    arrays = {name: np.asarray(tensor.values, dtype=np.float64) for name, tensor in answer.tensors.items()}
    if not case.batched:
        with_rows = ("outputs", "final_state", "cells", "final_cell", "x", "h0", "c0")
        arrays = {
            name: values[None] if name.rpartition(":")[2] in with_rows else values for name, values in arrays.items()
        }

    def prefixed(prefix: str) -> dict[str, Array]:
        return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

    seconds = answer.body.get("seconds")
    return Observation(
        observed=Observed(
            outputs=arrays["outputs"],
            final_state=arrays["final_state"],
            cells=arrays.get("cells"),
            final_cell=arrays.get("final_cell"),
            gradients=prefixed(wire.GRADIENT),
            inputs_after=prefixed(wire.AFTER),
        ),
        path=str(answer.body.get("path", "")),
        seconds=float(seconds) if isinstance(seconds, (int, float)) else 0.0,
    )


def observations(block: Block, answer: wire.Message) -> Observations:
    """Check names, dtypes and shapes; whatever is not as it must be is asked for case by case, and told there."""
    one_by_one = Observations(apart=tuple(range(block.count)))
    first, body = block.first, answer.body
    places, paths, seconds = body.get("places"), body.get("paths"), body.get("seconds")
    if answer.kind != "observations" or not isinstance(places, list) or not places:
        return one_by_one
    if not isinstance(paths, list) or not isinstance(seconds, list) or not len(paths) == len(seconds) == len(places):
        return one_by_one
    if places != sorted({place for place in places if type(place) is int and 0 <= place < block.count}):
        return one_by_one
    if not all(isinstance(value, (int, float)) for value in seconds):
        return one_by_one
    required, allowed = _wanted(first)
    wanted = allowed | required
    if not required.keys() <= answer.tensors.keys() <= wanted.keys():
        return one_by_one
    for name, tensor in answer.tensors.items():
        if tensor.dtype != first.dtype or tensor.values.shape != (len(places), *wanted[name]):
            return one_by_one
    arrays = {name: np.asarray(tensor.values, dtype=np.float64) for name, tensor in answer.tensors.items()}
    if not first.batched:
        arrays = {name: values[:, None] for name, values in arrays.items()}
    return Observations(
        observed=Observed(
            outputs=arrays["outputs"],
            final_state=arrays["final_state"],
            cells=arrays.get("cells"),
            final_cell=arrays.get("final_cell"),
        ),
        places=tuple(places),
        paths=tuple(map(str, paths)),
        seconds=float(sum(seconds)),
        apart=tuple(sorted(set(range(block.count)) - set(places))),
    )
