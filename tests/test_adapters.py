"""The shipped adapters declare what they do, and the worker's loop keeps its protocol whatever an adapter does.

No framework is imported: of an ``adapter.py`` only its weight recipes are read, as data. That the recipes are
right is shown by the conformance suite, on the frameworks themselves.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from packaging.requirements import Requirement

from conformance.candidate import Adapter
from conformance.case import INITIALS, Case
from conformance.cells import CELLS, cell_named
from conformance.compare import Observed, compare
from conformance.discover import find_adapters
from conformance.process import LAUNCH
from conformance.repro import TEMPLATE
from conformance.signature import LATTICE, Signature, build
from conformance.worker import wire
from conformance.worker.api import Place, WorkerCase, assemble, attest, block, distribute, prefix_of

SHIPPED = {"mlx", "torch", "flax-linen", "flax-nnx", "jax", "numpy", "mingru-pytorch"}
ADAPTERS = find_adapters()
VARIANTS = [
    pytest.param(ADAPTERS[name], variant, id=f"{name}:{variant}")
    for name in sorted(SHIPPED & ADAPTERS.keys())
    for variant in ADAPTERS[name].variants
]


# Manifests


def test_every_shipped_folder_is_found() -> None:
    """All manifests can be read, and each adapter bears the name of its folder."""
    assert {name: adapter.folder.name for name, adapter in ADAPTERS.items() if name in SHIPPED} == {
        name: name for name in SHIPPED
    }


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_requirements_pin_the_framework_and_numpy(name: str) -> None:
    """An environment made today and one made next year hold the same releases of what is under test."""
    adapter = ADAPTERS[name]
    requirements = [Requirement(line) for line in adapter.requirements]
    assert {adapter.distribution, "numpy"} <= {requirement.name for requirement in requirements}
    assert [str(r) for r in requirements if [s.operator for s in r.specifier] != ["=="]] == []


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_pin_has_a_reason(name: str) -> None:
    """The lines of a requirements file come after a comment."""
    lines = (ADAPTERS[name].folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#")


@pytest.mark.parametrize(("adapter", "variant"), VARIANTS)
def test_what_a_variant_leaves_out_is_declared(adapter: Adapter, variant: str) -> None:
    """Nothing is both offered and declared out, and a missing parameter comes with a reason and a link."""
    declared = adapter.variants[variant]
    assert not set(declared.unsupported) & {*declared.dtypes, *declared.paths, *declared.features}
    assert all(entry.reason and entry.link.startswith("https://") for _, entry in declared.missing.values())
    assert set(declared.layers) <= set(declared.cells)
    assert declared.missing.keys() <= set(declared.cells)


# Weight recipes


def resolved(node: ast.expr, known: dict[str, Any]) -> Any:
    """The value of an expression of literals, dicts with ``**``, lists, and names assigned before; else an error."""
    match node:
        case ast.Dict():
            result: dict[Any, Any] = {}
            for key, value in zip(node.keys, node.values, strict=True):
                result |= resolved(value, known) if key is None else {resolved(key, known): resolved(value, known)}
            return result
        case ast.List():
            return [resolved(each, known) for each in node.elts]
        case ast.Name():
            return known[node.id]
        case _:
            return ast.literal_eval(node)


def recipes(source: str) -> dict[str, dict[str, list[str]]]:
    """The weight recipes of an adapter: every RECIPES, by cell and by target, lists of canonical terms; {} without."""
    known: dict[str, Any] = {}
    tables: dict[str, dict[str, list[str]]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                known[node.targets[0].id] = resolved(node.value, known)
            except (ValueError, KeyError):  # something of the framework, which is not data
                assert node.targets[0].id != "RECIPES"
            else:
                tables |= known["RECIPES"] if node.targets[0].id == "RECIPES" else {}
    return tables


def source_of(adapter: Adapter) -> str:
    """The text of all modules of an adapter."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(adapter.folder.glob("*.py")))


def used_parameters(source: str, cell: str) -> list[str]:
    """Every canonical name that the recipes of a cell use, with repetitions; without recipes what its step reads.

    Without a step either, the gates whose pre-activations the minimal cells ask for: ``linear(p, "z", x)``.
    """
    tables = recipes(source)
    if cell in tables:
        return [name.strip() for recipe in tables[cell].values() for term in recipe for name in term.split("+")]
    steps = [
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == f"step_{cell}"
    ]
    if not steps:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and len(node.args) == 3]
        gates = [call.args[1] for call in calls if ast.unparse(call.func) in ("linear", "project")]
        asked = {gate.value for gate in gates if isinstance(gate, ast.Constant)}
        known = {name[-1] for name in cell_named(cell).parameters}
        return sorted(stem + gate for gate in known & asked for stem in ("W_", "b_"))
    (step,) = steps
    reads = (node for node in ast.walk(step) if isinstance(node, ast.Subscript))
    keys = (node.slice for node in reads if ast.unparse(node.value) == "p")
    return sorted({key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)})


def recipe_problems(source: str, cell: str, missing: frozenset[str]) -> list[str]:
    """What is wrong with the recipes of an adapter for `cell`: names unknown, used twice, or not used at all."""
    used = used_parameters(source, cell)
    canonical = set(cell_named(cell).parameters)
    problems = [f"unknown: {name}" for name in sorted(set(used) - canonical)]
    problems += [f"twice: {name}" for name in sorted({name for name in used if used.count(name) > 1})]
    problems += [f"unused: {name}" for name in sorted(canonical - set(used) - missing)]
    return problems + [f"used though missing: {name}" for name in sorted(missing & set(used))]


@pytest.mark.parametrize(("adapter", "variant"), VARIANTS)
def test_recipes_use_every_canonical_parameter_once(adapter: Adapter, variant: str) -> None:
    """Each parameter of each cell goes to one place, or is declared missing."""
    source = source_of(adapter)
    declared = adapter.variants[variant]
    for cell in declared.cells:
        missing = frozenset(declared.missing[cell][0]) if cell in declared.missing else frozenset()
        assert recipe_problems(source, cell, missing) == []


@pytest.mark.parametrize(
    ("adapter", "cell", "old", "new", "problem"),
    [
        ("mlx", "gru", '"b_xz + b_hz"', '"b_xz"', "unused: b_hz"),
        ("mlx", "gru", '"W_hz"', '"W_hr"', "twice: W_hr"),
        ("mlx", "gru", '"b_hn"', '"b_nh"', "unknown: b_nh"),
        ("torch", "lstm_projection", '"W_hg"', '"W_hf"', "twice: W_hf"),
        ("flax-nnx", "elman_relu", '"b_x + b_h"', '"b_x"', "unused: b_h"),
        ("numpy", "lstm", 'p["b_ho"]', 'p["b_xo"]', "unused: b_ho"),
        ("mingru-pytorch", "minlstm_log", '"b_f"', '"b_i"', "twice: b_i"),
        ("jax", "minlstm_log", '"i", x', '"f", x', "unused: W_i"),
    ],
    ids=[
        "bias dropped",
        "gate repeated",
        "misspelt",
        "through a name and **",
        "through a name",
        "in a step",
        "bias",
        "in a call",
    ],
)
def test_a_wrong_recipe_is_noticed(adapter: str, cell: str, old: str, new: str, problem: str) -> None:
    """The check above fails on a recipe that loses, repeats or misnames a parameter, of that cell."""
    source = source_of(ADAPTERS[adapter])
    assert recipe_problems(source, cell, frozenset({"b_hn"} & {cell})) == []
    assert problem in recipe_problems(source.replace(old, new), cell, frozenset())


# Canonical names and recipes, as the worker's API offers them


@given(st.integers(0, 2**32 - 1))
def test_distributed_gradients_are_the_adjoint_of_the_assembly(seed: int) -> None:
    """<assemble(p), G> = <p, distribute(G)> for every p and G: what is added gets one gradient twice."""
    generator = np.random.default_rng(seed)
    recipe = ["b_r + b_hr", "b_z", "b_n"]
    p = {name: generator.normal(size=3) for name in ("b_r", "b_hr", "b_z", "b_n")}
    gradient = generator.normal(size=9)
    back = distribute(recipe, gradient)
    assert back.keys() == p.keys()
    assert np.dot(assemble(recipe, p), gradient) == pytest.approx(sum(np.dot(p[name], back[name]) for name in p))


def test_a_block_assembles_for_its_cases_what_each_would_have_alone() -> None:
    """The same bits for every layer and direction, laid out in one piece; none writes into another's."""
    generator, count, shared = np.random.default_rng(1), 4, dict[Any, Any]()
    shapes = {"W_r": (3, 2), "W_z": (3, 2), "b_r": (3,), "b_hr": (3,)}
    columns = {
        prefix_of(*each) + name: generator.normal(size=(count, *shape)).astype(np.float32)
        for each in ((0, 0), (0, 1), (1, 0))
        for name, shape in shapes.items()
    }

    def of(case: WorkerCase) -> list[Any]:
        recipes = (["W_z", "W_r"], ["b_r + b_hr", "b_r"])
        return [
            case.assembled(recipe, *each, transpose=transpose)
            for each in ((0, 0), (0, 1), (1, 0))
            for recipe in recipes
            for transpose in (False, True)
        ]

    cases = [
        WorkerCase(
            cell="gru",
            variant="any",
            dtype="float32",
            parameters={name: values[place] for name, values in columns.items()},
            x=None,
            h0=None,
            hidden=3,
            batched=True,
            place=Place(columns, place, shared),
        )
        for place in range(count)
    ]
    for case in cases:
        alone, found = of(dataclasses.replace(case, place=None)), of(case)
        assert len(found) == 12
        for one, other in zip(alone, found, strict=True):
            assert np.array_equal(one, other)
            assert other.flags.c_contiguous
            other[...] = np.nan
    assert [array.shape for array in of(cases[0])[:4]] == [(6, 2), (2, 6), (6,), (6,)]


def test_blocks_are_named_by_layer_and_direction() -> None:
    """Layer 0 forward has no prefix; a block holds its own arrays without theirs."""
    assert [prefix_of(*each) for each in ((0, 0), (0, 1), (1, 0), (1, 1))] == ["", "0r.", "1.", "1r."]
    parameters = {f"{prefix}W_x": prefix for prefix in ("", "0r.", "1.", "1r.", "11.")}
    for each in ((0, 0), (0, 1), (1, 0), (1, 1), (11, 0)):
        assert block(parameters, *each) == {"W_x": prefix_of(*each)}


def test_features_are_attested_in_a_fixed_order() -> None:
    """A case's features are those that its fields ask for, and the attested path ends with them."""
    plain = WorkerCase(
        cell="gru", variant="v", dtype="float32", parameters={}, x=np.zeros((1, 1, 1)), h0=None, hidden=1, batched=True
    )
    assert plain.features == ()
    assert attest("f(x)", plain.features) == "f(x)"
    asked = dataclasses.replace(
        plain,
        lengths=np.ones(1, int),
        reverse=True,
        layers=2,
        directions=2,
        strided=True,
        cotangents={},
        inputs_back=True,
    )
    names = ("lengths", "reverse", "bidirectional", "layers", "strided", "gradients", "inputs_back")
    assert asked.features == names
    assert attest("f(x)", asked.features) == "f(x) " + " ".join(f"+{name}" for name in names)


def assigned_paths(source: str) -> tuple[set[str], set[str]]:
    """What a file assigns to `path`: whole paths, ``path = "f(x)"``, and ends, ``path = f"{path}, compiled"``."""
    whole, ends = set(), set()
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["path"]):
            continue
        match node.value:
            case ast.Constant(value=str() as text):
                whole.add(text)
            case ast.JoinedStr(values=[ast.FormattedValue(value=ast.Name(id="path")), ast.Constant(value=text)]):
                ends.add(text)
    return whole, ends


def path_problems(sources: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Paths of a manifest that no code attests, and what the code attests that no manifest has."""
    found = [assigned_paths(source) for source in sources]
    whole, ends = set().union(*(each[0] for each in found)), set().union(*(each[1] for each in found))
    made = {begin + end: (begin, end) for begin in whole for end in {"", *ends}}
    declared = set(paths)
    used = {part for path in declared & made.keys() for part in made[path]}
    problems = [f"never attested: {path}" for path in sorted(declared - made.keys())]
    return problems + [f"not declared: {part}" for part in sorted((whole | ends) - used)]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_paths_are_attested_by_the_code(name: str) -> None:
    """Each path of the manifest is set by assignments to `path` in the adapter's files, and nothing else is."""
    adapter = ADAPTERS[name]
    sources = [file.read_text(encoding="utf-8") for file in sorted(adapter.folder.glob("*.py"))]
    paths = {path for variant in adapter.variants.values() for each in variant.paths.values() for path in each}
    assert paths
    assert path_problems(sources, paths) == []


@pytest.mark.parametrize(
    ("paths", "problems"),
    [
        (["f(x), fused", "g(x)"], []),
        (["f(x), fused", "g(x)", "f(x), quick"], ["never attested: f(x), quick"]),
        (["f(x)", "g(x)"], ["not declared: , fused"]),
        (["f(x), fused"], ["not declared: g(x)"]),
        (["f(x), 3 of 4", "f(x), fused", "g(x)"], ["never attested: f(x), 3 of 4"]),
    ],
)
def test_a_path_that_only_one_side_knows_is_noticed(paths: list[str], problems: list[str]) -> None:
    """The check above sees what is missing on either side; what is told with numbers in it is declared by nobody."""
    sources = ['path = "f(x)"\npath = f"{path}, fused"\npath = f"{path}, {count} of {steps}"\n', 'path = "g(x)"\n']
    assert path_problems(sources, paths) == problems


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_adapter_can_write_a_repro(name: str) -> None:
    """Each folder has a template."""
    assert (ADAPTERS[name].folder / TEMPLATE).is_file()


# The worker's loop


class Worker:
    """A worker process, spoken to over its pipes as the host does."""

    def __init__(self) -> None:
        ours, theirs = os.pipe()
        self._answers = os.fdopen(ours, "rb")
        self._process = subprocess.Popen(
            [sys.executable, str(LAUNCH), str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs,),
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._answers.close()

    def ask(self, message: wire.Message) -> wire.Message:
        """Send a message, read the answer."""
        assert self._process.stdin
        self._process.stdin.write(wire.encode(message))
        self._process.stdin.flush()
        return wire.read(self._receive)

    def _receive(self, count: int) -> bytes:
        data = self._answers.read(count)
        if len(data) != count:
            raise EOFError
        return data

    def stop(self) -> tuple[int, bytes, bytes]:
        """Ask the worker to end: its exit code, the answers that are left, what it printed."""
        printed, _ = self._process.communicate(wire.encode(wire.Message("stop")), timeout=30)
        return self._process.returncode, self._answers.read(), printed


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as started:
        yield started


def hello(folder: Path) -> wire.Message:
    """The message that names an adapter."""
    return wire.Message("hello", {"adapter": str(folder), "distribution": "numpy"})


def question(case: Case, variant: str) -> wire.Message:
    """The message that asks for a case; an omitted state is not sent, and what is not asked for is not said."""
    arrays = {**case.parameters, "x": case.x}
    if case.initial != "omitted":
        arrays["h0"] = case.h0
        if case.c0 is not None:
            arrays["c0"] = case.c0
    body: dict[str, Any] = {
        "cell": case.cell,
        "variant": variant,
        "dtype": case.dtype,
        "hidden": case.shape.hidden,
        "batched": case.batched,
    }
    if case.lengths is not None:
        body["lengths"] = list(case.lengths)
    body |= {name: True for name in ("reverse", "strided", "inputs_back") if getattr(case, name)}
    body |= {name: getattr(case, name) for name in ("layers", "directions") if getattr(case, name) > 1}
    return wire.Message(
        "case", body, {name: wire.Tensor(array.astype(np.float32), case.dtype) for name, array in arrays.items()}
    )


def generic_case(
    *, cell: str = "gru", initial: Any = "given", batched: bool = True, features: tuple[str, ...] = ()
) -> Case:
    """A case from the lattice with generic numbers."""
    shape, is_batched = LATTICE[4] if batched else LATTICE[3]
    signature = Signature(shape=shape, batched=is_batched, seed=1, scale=0.8, decimals=3, fills=())
    return build(signature, cell=cell, dtype="float32", initial=initial, features=features)


def observed(case: Case, answer: wire.Message) -> Observed:
    """The answer's arrays in float64, batched."""
    lead = (case.shape.batch,)
    arrays = {
        name: tensor.values.astype(np.float64).reshape(lead + tensor.values.shape[1 if case.batched else 0 :])
        for name, tensor in answer.tensors.items()
        if ":" not in name
    }
    return Observed(**arrays)


@pytest.fixture(scope="module")
def numpy_worker() -> Iterator[Worker]:
    """A worker that runs the NumPy adapter."""
    with Worker() as started:
        ready = started.ask(hello(ADAPTERS["numpy"].folder))
        assert (ready.kind, ready.body["facts"]["numpy"]) == ("ready", np.__version__)
        yield started


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("initial", INITIALS)
@pytest.mark.parametrize("cell", CELLS)
def test_numpy_adapter_agrees_through_a_worker(numpy_worker: Worker, cell: str, initial: str, batched: bool) -> None:
    """The states come back within the bound, in the shape of the inputs, with the declared path."""
    case = generic_case(cell=cell, initial=initial, batched=batched)
    answer = numpy_worker.ask(question(case, "float32"))
    assert answer.body["path"] == ADAPTERS["numpy"].variants["float32"].attestable(cell, case.initial)[0]
    size = case.shape
    lead = (size.batch,) if batched else ()
    shapes = {"outputs": (*lead, size.time, size.output), "final_state": (*lead, size.output)}
    if case.c0 is not None:
        shapes |= {"cells": (*lead, size.time, size.hidden), "final_cell": (*lead, size.hidden)}
    assert {name: tensor.values.shape for name, tensor in answer.tensors.items()} == shapes
    assert {tensor.dtype for tensor in answer.tensors.values()} == {"float32"}
    assert compare(case, observed(case, answer)).worst <= 1.0


@pytest.mark.parametrize(
    "features",
    [
        ("lengths",),
        ("reverse",),
        ("lengths", "reverse"),
        ("bidirectional", "lengths"),
        ("layers",),
        ("bidirectional", "layers"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize("cell", ["gru", "lstm_projection", "minlstm_log"])
def test_numpy_adapter_agrees_in_every_feature(numpy_worker: Worker, cell: str, features: tuple[str, ...]) -> None:
    """Padded, reversed, in both directions, stacked: within the bound, and attested."""
    case = generic_case(cell=cell, features=features)
    answer = numpy_worker.ask(question(case, "float32"))
    declared = ADAPTERS["numpy"].variants["float32"]
    assert set(features) <= declared.features
    assert answer.body["path"] == declared.attestable(cell, "given", case.features)[0]
    assert compare(case, observed(case, answer)).worst <= 1.0


def test_an_adapter_gets_a_strided_input_and_gives_its_inputs_back(numpy_worker: Worker) -> None:
    """x keeps its values, and what comes back after the call are x, the states and the parameters, unchanged."""
    case = replace(generic_case(cell="lstm"), strided=True, inputs_back=True)
    answer = numpy_worker.ask(question(case, "float32"))
    assert answer.body["path"].endswith(" +strided +inputs_back")
    assert compare(case, observed(case, answer)).worst <= 1.0
    after = {
        name.removeprefix(wire.AFTER): t.values for name, t in answer.tensors.items() if name.startswith(wire.AFTER)
    }
    given_arrays = {**case.parameters, "x": case.x, "h0": case.h0, "c0": case.c0}
    assert after.keys() == given_arrays.keys()
    for name, values in after.items():
        np.testing.assert_array_equal(values, given_arrays[name])


def test_worker_ends_cleanly_with_nothing_more_to_say(worker: Worker) -> None:
    """After "stop" the exit code is 0 and no byte is left over."""
    assert worker.ask(hello(ADAPTERS["numpy"].folder)).kind == "ready"
    code, out, _ = worker.stop()
    assert (code, out) == (0, b"")


SEEN = """
import json
import numpy as np
from conformance.worker.api import Result

def facts():
    return {}

def run(case):
    states = {name: getattr(case, name) for name in ("h0", "c0")}
    cotangents = case.cotangents or {}
    seen = {
        "x": [case.x.shape, case.x.strides, case.x.flags["C_CONTIGUOUS"]],
        "states": {name: None if state is None else state.shape for name, state in states.items()},
        "lengths": None if case.lengths is None else case.lengths.tolist(),
        "cotangents": {name: value.shape for name, value in cotangents.items()},
        "rest": [case.reverse, case.layers, case.directions, case.inputs_back, list(case.features)],
    }
    zeros = np.zeros((1, 1), np.float32)
    return Result(outputs=zeros, final_state=zeros, dtype="float32", path=json.dumps(seen))
"""


def test_what_an_adapter_sees_is_the_case(worker: Worker, tmp_path: Path) -> None:
    """Strides, lengths, memory, cotangents and stacks reach run() as the API says; a plain case has none of them."""
    (tmp_path / "adapter.py").write_text(SEEN, encoding="utf-8")
    worker.ask(hello(tmp_path))
    case = generic_case(cell="lstm", features=("lengths", "reverse", "bidirectional", "layers", "gradients"))
    message = question(replace(case, strided=True, inputs_back=True), "v")
    message.tensors |= {
        wire.COTANGENT + name: wire.Tensor(value.astype(np.float32), "float32")
        for name, value in case.cotangents.items()
    }
    seen = json.loads(worker.ask(message).body["path"])
    batch, time, features, hidden = 4, 12, 6, 8
    assert seen["x"] == [[batch, time, features], [features * 4, batch * features * 4, 4], False]
    assert seen["states"] == {"h0": [batch, 4 * hidden], "c0": [batch, 4 * hidden]}
    assert tuple(seen["lengths"]) == case.lengths
    assert seen["cotangents"] == {name: list(value.shape) for name, value in case.cotangents.items()}
    assert seen["rest"][:4] == [True, 2, 2, True]
    assert seen["rest"][4] == list(replace(case, strided=True, inputs_back=True).features)
    plain = json.loads(worker.ask(question(generic_case(initial="omitted", batched=False), "v")).body["path"])
    assert plain["x"][0] == [16, 3]
    assert plain["states"] == {"h0": None, "c0": None}
    assert (plain["lengths"], plain["cotangents"], plain["rest"]) == (None, {}, [False, 1, 1, False, []])


ADAPTER = """
import os, subprocess, sys
import numpy as np
from conformance.worker.api import Result

print("printed at import")

def facts():
    return {"device": "cpu"}

def run(case):
    if case.variant == "raises":
        raise RuntimeError("the framework says no")
    if case.variant == "lists":
        return [[0.0]]
    if case.variant == "integers":
        zeros = np.zeros((*case.x.shape[:-1], case.hidden), np.int64)
        return Result(outputs=zeros, final_state=zeros[..., -1, :], dtype="int64", path="p")
    print("printed by Python", flush=True)
    os.write(1, b"RNNC written to the file descriptor")
    subprocess.run([sys.executable, "-c", "print('printed by a child')"], check=True)
    zeros = np.zeros((*case.x.shape[:-1], case.hidden), np.float32)
    return Result(outputs=zeros, final_state=zeros[..., -1, :], dtype="float32", path="p")
"""


@pytest.fixture
def odd_adapter(tmp_path: Path) -> Path:
    """An adapter that prints, raises or answers nonsense, by variant."""
    (tmp_path / "adapter.py").write_text(ADAPTER, encoding="utf-8")
    return tmp_path


def test_what_a_framework_prints_does_not_corrupt_a_frame(worker: Worker, odd_adapter: Path) -> None:
    """Prints at import, by Python, to descriptor 1 and by a child all land on standard error."""
    assert worker.ask(hello(odd_adapter)).kind == "ready"
    case = generic_case()
    for _ in range(2):
        answer = worker.ask(question(case, "prints"))
        assert answer.kind == "observation"
        assert not answer.tensors["outputs"].values.any()
    code, out, err = worker.stop()
    assert (code, out) == (0, b"")
    for text in (b"printed at import", b"printed by Python", b"RNNC written", b"printed by a child"):
        assert text in err


@pytest.mark.parametrize(
    ("variant", "kind", "error", "message"),
    [
        ("raises", "exception", "RuntimeError", "the framework says no"),
        ("lists", "contract", "ContractError", "run() returned list"),
        ("integers", "contract", "WireError", "int64"),
    ],
)
def test_a_failing_adapter_costs_one_case(
    worker: Worker, odd_adapter: Path, variant: str, kind: str, error: str, message: str
) -> None:
    """An exception or a malformed answer becomes a failure message, and the next case is answered."""
    worker.ask(hello(odd_adapter))
    case = generic_case()
    failure = worker.ask(question(case, variant))
    assert failure.kind == "failure"
    assert (failure.body["kind"], failure.body["type"]) == (kind, error)
    assert message in failure.body["message"]
    assert worker.ask(question(case, "prints")).kind == "observation"


def test_an_adapter_that_cannot_be_imported_says_why(worker: Worker, tmp_path: Path) -> None:
    """A framework that is not there is a failure of the start, with its name."""
    (tmp_path / "adapter.py").write_text("import a_framework_that_is_not_installed\n", encoding="utf-8")
    failure = worker.ask(hello(tmp_path))
    assert (failure.kind, failure.body["type"]) == ("failure", "ModuleNotFoundError")
    assert "a_framework_that_is_not_installed" in failure.body["message"]


def test_numpy_adapter_computes_in_float32(numpy_worker: Worker) -> None:
    """Its states differ from those in float64: nothing was computed more accurately than declared."""
    case = generic_case()
    outputs = numpy_worker.ask(question(case, "float32")).tensors["outputs"].values
    truth = cell_named(case.cell).run(case).outputs
    assert 1e-9 < np.abs(outputs - truth).max() < 1e-5
