"""The shipped adapters declare what they do, and the worker's loop keeps its protocol whatever an adapter does.

No framework is imported: of an ``adapter.py`` only its weight recipes are read, as data. That the recipes are
right is shown by the conformance suite, on the frameworks themselves.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from packaging.requirements import Requirement

from conformance.candidate import Adapter
from conformance.case import INITIALS, Case
from conformance.cells import CELLS, cell_named
from conformance.compare import Observed, compare
from conformance.discover import find_adapters
from conformance.host import LAUNCH
from conformance.repro import TEMPLATE
from conformance.strategies import LATTICE, Signature, build
from conformance.worker import wire

SHIPPED = {"mlx", "torch", "flax-linen", "flax-nnx", "numpy"}
ADAPTERS = find_adapters()
VARIANTS = [
    pytest.param(ADAPTERS[name], variant, id=f"{name}:{variant}")
    for name in sorted(SHIPPED & ADAPTERS.keys())
    for variant in ADAPTERS[name].variants
]


# Manifests


def test_every_shipped_folder_is_found() -> None:
    """All five manifests can be read, and each adapter bears the name of its folder."""
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
    assert not set(declared.unsupported) & {*declared.dtypes, *declared.paths}
    assert all(entry.reason and entry.link.startswith("https://") for _, entry in declared.missing.values())


# Weight recipes


def recipes(source: str) -> list[dict[str, list[str]]]:
    """The weight recipes of an adapter: top-level dicts from a target's name to a list of canonical terms."""
    return [
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    ]


def used_parameters(source: str) -> list[str]:
    """Every canonical name that the recipes use, with repetitions; without recipes those that the code reads from p."""
    tables = recipes(source)
    if tables:
        return [
            name.strip() for table in tables for recipe in table.values() for term in recipe for name in term.split("+")
        ]
    reads = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Subscript))
    keys = (node.slice for node in reads if ast.unparse(node.value) == "p")
    return sorted({key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)})


def recipe_problems(source: str, cell: str, missing: frozenset[str]) -> list[str]:
    """What is wrong with the recipes of an adapter for `cell`: names unknown, used twice, or not used at all."""
    used = used_parameters(source)
    canonical = set(cell_named(cell).parameters)
    problems = [f"unknown: {name}" for name in sorted(set(used) - canonical)]
    problems += [f"twice: {name}" for name in sorted({name for name in used if used.count(name) > 1})]
    problems += [f"unused: {name}" for name in sorted(canonical - set(used) - missing)]
    return problems + [f"used though missing: {name}" for name in sorted(missing & set(used))]


@pytest.mark.parametrize(("adapter", "variant"), VARIANTS)
def test_recipes_use_every_canonical_parameter_once(adapter: Adapter, variant: str) -> None:
    """Each parameter of each cell goes to one place, or is declared missing."""
    source = (adapter.folder / "adapter.py").read_text(encoding="utf-8")
    declared = adapter.variants[variant]
    for cell in declared.cells:
        missing = frozenset(declared.missing[cell][0]) if cell in declared.missing else frozenset()
        assert recipe_problems(source, cell, missing) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"b_xz + b_hz"', '"b_xz"', "unused: b_hz"),
        ('"W_hz"', '"W_hr"', "twice: W_hr"),
        ('"b_hn"', '"b_nh"', "unknown: b_nh"),
    ],
    ids=["bias dropped", "gate repeated", "misspelt"],
)
def test_a_wrong_recipe_is_noticed(old: str, new: str, problem: str) -> None:
    """The check above fails on a recipe that loses, repeats or misnames a parameter."""
    source = (ADAPTERS["mlx"].folder / "adapter.py").read_text(encoding="utf-8")
    assert problem in recipe_problems(source.replace(old, new), "gru", frozenset())


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_paths_are_attested_by_the_code(name: str) -> None:
    """Each path of the manifest is set by an assignment to `path` in the adapter, and no other is."""
    source = (ADAPTERS[name].folder / "adapter.py").read_text(encoding="utf-8")
    assigned = {
        node.value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and [ast.unparse(target) for target in node.targets] == ["path"]
    }
    assert assigned == {path for variant in ADAPTERS[name].variants.values() for path in variant.paths.values()}


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
    """The message that asks for a case; an omitted state is not sent."""
    arrays = {**case.parameters, "x": case.x}
    if case.initial != "omitted":
        arrays["h0"] = case.h0
    return wire.Message(
        "case",
        {
            "cell": case.cell,
            "variant": variant,
            "dtype": case.dtype,
            "hidden": case.shape.hidden,
            "batched": case.batched,
        },
        {name: wire.Tensor(array.astype(np.float32), case.dtype) for name, array in arrays.items()},
    )


def generic_case(*, cell: str = "gru", initial: Any = "given", batched: bool = True) -> Case:
    """A case from the lattice with generic numbers."""
    shape, is_batched = LATTICE[4] if batched else LATTICE[3]
    signature = Signature(shape=shape, batched=is_batched, seed=1, scale=0.8, decimals=3, fills=())
    return build(signature, cell=cell, dtype="float32", initial=initial)


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("initial", INITIALS)
@pytest.mark.parametrize("cell", sorted(set(CELLS) & set(ADAPTERS["numpy"].variants["float32"].cells)))
def test_numpy_adapter_agrees_through_a_worker(worker: Worker, cell: str, initial: str, batched: bool) -> None:
    """The states come back within the bound, in the shape of the inputs, with the declared path."""
    adapter = ADAPTERS["numpy"]
    case = generic_case(cell=cell, initial=initial, batched=batched)
    ready = worker.ask(hello(adapter.folder))
    assert (ready.kind, ready.body["facts"]["numpy"]) == ("ready", np.__version__)
    answer = worker.ask(question(case, "float32"))
    assert answer.body["path"] == adapter.variants["float32"].paths[case.initial]
    outputs, final_state = (answer.tensors[name] for name in ("outputs", "final_state"))
    assert (outputs.dtype, final_state.dtype) == ("float32", "float32")
    size = case.shape
    lead = (size.batch,) if batched else ()
    assert outputs.values.shape == (*lead, size.time, size.hidden)
    assert final_state.values.shape == (*lead, size.hidden)
    observed = Observed(
        outputs=outputs.values.astype(np.float64).reshape(size.batch, size.time, size.hidden),
        final_state=final_state.values.astype(np.float64).reshape(size.batch, size.hidden),
    )
    assert compare(case, observed).worst <= 1.0


def test_worker_ends_cleanly_with_nothing_more_to_say(worker: Worker) -> None:
    """After "stop" the exit code is 0 and no byte is left over."""
    assert worker.ask(hello(ADAPTERS["numpy"].folder)).kind == "ready"
    code, out, _ = worker.stop()
    assert (code, out) == (0, b"")


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


def test_numpy_adapter_computes_in_float32() -> None:
    """Its states differ from those in float64: nothing was computed more accurately than declared."""
    case = generic_case()
    with Worker() as worker:
        worker.ask(hello(ADAPTERS["numpy"].folder))
        outputs = worker.ask(question(case, "float32")).tensors["outputs"].values
    truth = cell_named(case.cell).run(case).outputs
    assert 1e-9 < np.abs(outputs - truth).max() < 1e-5
