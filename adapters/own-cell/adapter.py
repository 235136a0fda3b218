"""A cell of the user's own, in the framework's interpreter: found, understood by names, shapes and trial, and run.

The trials ask only what holds for every convention (what an array multiplies, which axis is time): they say how the
canonical weights get into the user's arrays, never whether the equations are right.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from conformance.worker.api import Result, WorkerCase

from .understanding import Understood, understand

OPTIONS = json.loads(os.environ["RNN_CONFORMANCE_OWN_CELL"])
PROGRAMS: dict[str, str] = {}
if OPTIONS["framework"] == "flax-nnx":  # or plain JAX: most of what such a cell costs is compiling
    from . import programs

    PROGRAMS["programs"] = programs.keep()
_UNDERSTOOD: dict[str, Understood] = {}


def own() -> Understood:
    """The user's object, understood once."""
    if "it" not in _UNDERSTOOD:
        _UNDERSTOOD["it"] = understand(
            Path(OPTIONS["file"]), OPTIONS["name"], OPTIONS["framework"], kind=OPTIONS["kind"], cell=OPTIONS["cell"]
        )
    return _UNDERSTOOD["it"]


def facts() -> dict[str, str]:
    """What was understood, as JSON under one key."""
    it = own()
    return {"own cell": str(it.plan), "understood": json.dumps(it.told()), **PROGRAMS}


def run(case: WorkerCase) -> Result:
    """Run the whole sequence."""
    it = own()
    x = case.x if case.batched else case.x[None]
    h0, c0 = (None if s is None else (s if case.batched else s[None]) for s in (case.h0, case.c0))
    # In the convention in which z mixes the candidate in, an implementation's update gate is the complement.
    sign = {name: -1.0 if case.variant == "mix" and name.endswith("z") else 1.0 for name in case.parameters}
    parameters = {name: sign[name] * value for name, value in case.parameters.items()}
    ran = it.run(case.cell, parameters, x, h0, c0, case.hidden)
    state = "omitted" if h0 is None or not it.plan.stateful else "h0"
    arrays = {"outputs": ran.outputs, "final_state": ran.final, "cells": ran.cells, "final_cell": ran.final_cell}
    if case.c0 is None:
        arrays |= {"cells": None, "final_cell": None}
    plain = {
        name: None if a is None else np.ascontiguousarray(a if case.batched else a[0]) for name, a in arrays.items()
    }
    dtype = str(ran.outputs.dtype)
    return Result(**plain, dtype=dtype, path=f"{it.subject.name}, a {it.plan.kind}, state {state}")
