"""What the Flax adapters offer for benchmarks is what it says it is: the variant's own program, costs from nothing.

The adapters' functions are called in the managed environment, all in one process, by the script below.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import numpy as np
import pytest

from conformance.candidate import Spec
from conformance.case import Case
from conformance.compare import Observed, compare
from conformance.discover import find_adapters
from conformance.plan import Candidate, interpreter_of
from conformance.process import LAUNCH
from conformance.repro import render_repro
from conformance.strategies import LATTICE, Signature, build

ADAPTERS = find_adapters()
FORMS = ("unrolled", "lax-scan", "nnx-scan", "rnn")
LAYERS = [*(("flax-nnx", form) for form in FORMS), ("flax-linen", "rnn")]

SCRIPT = """
import contextlib, io, json, os, runpy, sys, types
from pathlib import Path
import numpy as np

package = types.ModuleType("conformance")
package.__path__ = [str(Path(sys.argv[1]).parent.parent)]
sys.modules["conformance"] = package
from conformance.worker.api import WorkerCase
from conformance.worker.serve import load_adapter
import jax

told = json.load(sys.stdin)
adapters = {name: load_adapter(Path(own), map(Path, shared)) for name, (own, *shared) in told["adapters"].items()}
arrays = {name: np.array(values, np.float32) for name, values in told["arrays"].items()}
compiled, traced = [], []
def listen(event, seconds, **rest):
    if event == "/jax/core/compile/backend_compile_duration": compiled.append(seconds)
    if event == "/jax/core/compile/jaxpr_trace_duration": traced.append(seconds)
jax.monitoring.register_event_duration_secs_listener(listen)

def case(variant, steps=None, **changes):
    parameters = {name: value for name, value in arrays.items() if name not in ("x", "h0")}
    x = arrays["x"]
    if steps is not None: x = np.resize(x, (len(x), steps, x.shape[-1]))
    given = {"cell": "gru", "dtype": "float32", "h0": arrays["h0"], "batched": True, **changes}
    return WorkerCase(variant=variant, parameters=parameters, x=x, hidden=arrays["h0"].shape[-1], **given)

def prepared(adapter, variant, level, **changes):
    made = adapters[adapter].prepare(case(variant, **changes), level)
    answer, before = made.call(), len(compiled)
    made.call()
    ready = all(leaf.is_ready() for leaf in jax.tree.leaves(answer))
    return {"path": made.path, "outputs": made.outputs.tolist(), "ready": ready, "again": len(compiled) - before}

def costs(adapter, variant, steps):
    compiled.clear(), traced.clear()
    found = adapters[adapter].compile_costs(case(variant, steps))
    return {**vars(found), "compiled": len(compiled), "traced": len(traced)}

def refused(*arguments, **changes):
    try: prepared(*arguments, **changes)
    except ValueError as error: return str(error)

def repro(path):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try: runpy.run_path(path, run_name="__main__")
        except SystemExit as end: return [end.code, printed.getvalue()]

cache = Path(os.environ["RNN_CONFORMANCE_PROGRAMS"])
answer = {"prepared": {}, "cells": {}, "costs": {}, "again": {}, "cached": {}, "helped": {}, "repro": {}}
for adapter, variant in told["layers"]:
    key = f"{adapter}:{variant}"
    answer["costs"][key] = [costs(adapter, variant, steps) for steps in (2, 3, 5)]
    answer["cached"][key] = len(list(cache.glob("*/*-cache.*")))
for adapter, variant in told["layers"]:
    key = f"{adapter}:{variant}"
    answer["prepared"][key] = prepared(adapter, variant, "layer")
    if variant in ("rnn", "unrolled"): answer["cells"][key] = prepared(adapter, variant, "cell")
answer["used"] = len(list(cache.glob("*/*-cache.*")))
adapter, variant = told["layers"][1]
answer["again"] = costs(adapter, variant, 5)
jit, forget, functions = jax.jit, jax.clear_caches, {}
jax.jit = lambda function: functions.setdefault(function.__qualname__, jit(function))
answer["cleared"] = [costs(adapter, variant, 5) for _ in range(2)][1]
jax.clear_caches = lambda: None
answer["kept"] = [costs(adapter, variant, 5) for _ in range(2)][1]
jax.jit, jax.clear_caches = jit, forget
answer["refused"] = [refused(name, "rnn", "cell", h0=None) for name in adapters]
answer["refused"] += [refused(name, "rnn", "cell", reverse=True) for name in adapters]
answer["repro"] = {key: repro(path) for key, path in told["repro"].items()}
print(json.dumps(answer))
"""


def a_case(cell: str = "gru") -> Case:
    """A small generic case without b_hn, batched."""
    shape, batched = LATTICE[2]
    signature = Signature(shape=shape, batched=batched, seed=3, scale=0.8, decimals=12, fills=())
    return build(signature, cell=cell, dtype="float32", initial="given").zeroed(("b_hn",) if cell == "gru" else ())


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script tells, with a folder where compiled programs are kept."""
    folder = tmp_path_factory.mktemp("benchmarks")
    scripts = {}
    for name, variant, cell in [
        *((name, variant, "gru") for name, variant in LAYERS),
        ("flax-nnx", "unrolled-LSTMCell", "lstm"),
        ("flax-linen", "rnn-OptimizedLSTMCell", "lstm"),
    ]:
        path = folder / f"{name}_{variant}.py"
        path.write_text(render_repro(ADAPTERS[name], variant, a_case(cell)), encoding="utf-8")
        scripts[f"{name}:{variant}"] = str(path)
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    case = a_case()
    told = {
        "adapters": {
            name: [str(folder) for folder in (ADAPTERS[name].folder, *ADAPTERS[name].shares)]
            for name in ("flax-nnx", "flax-linen")
        },
        "arrays": {name: value.tolist() for name, value in {**case.parameters, "x": case.x, "h0": case.h0}.items()},
        "layers": LAYERS,
        "repro": scripts,
    }
    adapter = ADAPTERS["flax-nnx"]
    candidate = Candidate(spec=Spec(adapter=adapter.name), adapter=adapter, variant=adapter.variants["rnn"])
    done = subprocess.run(
        [str(interpreter_of(candidate, print).python), "-I", str(folder / "script.py"), str(LAUNCH)],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        env={**os.environ, "RNN_CONFORMANCE_PROGRAMS": str(folder / "kept")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("adapter", "variant"), LAYERS)
def test_a_prepared_call_is_the_variants_own(answer: dict[str, Any], adapter: str, variant: str) -> None:
    """Its path is the declared one, its states are within the bound, nothing is compiled or awaited after it."""
    made, case = answer["prepared"][f"{adapter}:{variant}"], a_case()
    assert made["path"] in ADAPTERS[adapter].variants[variant].attestable("gru", "given")
    outputs = np.array(made["outputs"])
    assert compare(case, Observed(outputs=outputs, final_state=outputs[:, -1])).worst <= 1.0
    assert (made["ready"], made["again"]) == (True, 0)


@pytest.mark.parametrize(
    ("key", "cell"), [("flax-nnx:unrolled", "nnx"), ("flax-nnx:rnn", "nnx"), ("flax-linen:rnn", "linen")]
)
def test_a_prepared_cell_is_called_step_by_step(answer: dict[str, Any], key: str, cell: str) -> None:
    """T calls of the jitted cell give the same states as the layer, within the bound, under a path of their own."""
    made, case = answer["cells"][key], a_case()
    assert made["path"] == f"jax.jit(flax.{cell}.GRUCell)(carry, x_t) from Python"
    outputs = np.array(made["outputs"])
    assert compare(case, Observed(outputs=outputs, final_state=outputs[:, -1])).worst <= 1.0
    assert (made["ready"], made["again"]) == (True, 0)


def test_a_cell_alone_is_not_asked_for_what_only_a_layer_has(answer: dict[str, Any]) -> None:
    """Without a state, or in reverse, there is no cell level, and the message says so."""
    assert answer["refused"] == ["a cell takes its state as an argument and knows neither lengths nor directions"] * 4


def test_only_the_unrolled_program_grows_with_the_steps(answer: dict[str, Any]) -> None:
    """At 2, 3 and 5 steps: by the same operations per step when unrolled, not at all when scanned."""
    sizes = {key: [each["program_operations"] for each in costs] for key, costs in answer["costs"].items()}
    two, three, five = sizes.pop("flax-nnx:unrolled")
    step = three - two
    assert five - three == 2 * step
    assert step > 10
    assert sizes.keys() == {f"{adapter}:{variant}" for adapter, variant in LAYERS} - {"flax-nnx:unrolled"}
    for scanned in sizes.values():
        assert len(set(scanned)) == 1
    for costs in answer["costs"].values():
        assert all(each["program_characters"] > 20 * each["program_operations"] for each in costs)


@pytest.mark.parametrize(("adapter", "variant"), LAYERS)
def test_costs_are_of_the_variants_own_program(answer: dict[str, Any], adapter: str, variant: str) -> None:
    """Under the declared path, and something was really traced and compiled."""
    for each in answer["costs"][f"{adapter}:{variant}"]:
        assert each["path"] in ADAPTERS[adapter].variants[variant].attestable("gru", "given")
        assert each["trace_seconds"] > 0
        assert each["compile_seconds"] > 0
        assert each["compiled"] == 2  # one to warm the compiler up


def test_nothing_earlier_helps(answer: dict[str, Any]) -> None:
    """The same costs asked twice trace and compile as much again, and the cache on disk is neither filled nor read."""
    first, again = answer["costs"]["flax-nnx:lax-scan"][-1], answer["again"]
    assert again["traced"] == answer["costs"]["flax-nnx:lax-scan"][1]["traced"]
    assert (again["compiled"], again["program_operations"]) == (first["compiled"], first["program_operations"])
    assert set(answer["cached"].values()) == {0}


def test_what_would_help_is_noticed(answer: dict[str, Any]) -> None:
    """Of one function asked twice less is traced when JAX's caches are left; a plain call fills the cache on disk."""
    assert answer["kept"]["traced"] < answer["cleared"]["traced"] == answer["again"]["traced"]
    assert answer["used"] > 0


@pytest.mark.parametrize(
    "key",
    [
        *(f"{adapter}:{variant}" for adapter, variant in LAYERS),
        "flax-nnx:unrolled-LSTMCell",
        "flax-linen:rnn-OptimizedLSTMCell",
    ],
)
def test_a_repro_script_of_a_conforming_variant_exits_0(answer: dict[str, Any], key: str) -> None:
    """It runs in the framework's environment and says that no step differs."""
    code, printed = answer["repro"][key]
    assert code == 0
    assert "no step alone differs" in printed
