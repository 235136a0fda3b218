"""The worker's loop: read a case, let the adapter run it, answer with an observation or a failure.

Answers go to a file descriptor of their own, so that nothing a framework prints can corrupt a frame. An answer
is flushed before the next case is read, so a crash at exit loses nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformance.worker.api import Place, Result, WorkerCase
from conformance.worker.stopwatch import ContractError, Stopwatch, costs
from conformance.worker.wire import AFTER, COTANGENT, GRADIENT, Message, Tensor, WireError, encode, read

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def serve(descriptor: int) -> int:
    """Answer messages on `descriptor` until ``stop`` or end of input; returns the exit code."""
    # The copy is not inherited: a compiler that a framework starts must not keep it open.
    answers = os.fdopen(os.dup(descriptor), "wb", buffering=0)
    os.close(descriptor)
    questions = os.fdopen(os.dup(0), "rb")

    def receive(count: int) -> bytes:
        data = questions.read(count)
        if len(data) != count:
            raise EOFError
        return data

    def send(message: Message) -> None:
        view = memoryview(encode(message))
        while view:
            view = view[answers.write(view) :]

    adapter: Any = None
    stopwatch = Stopwatch()
    while True:
        try:
            message = read(receive)
        except EOFError:
            return 0
        if message.kind == "stop":
            return 0
        try:
            if message.kind == "hello":
                shares = [Path(folder) for folder in message.body.get("shares", [])]
                adapter = load_adapter(Path(message.body["adapter"]), shares)
                version = installed_version(message.body["distribution"])
                send(Message("ready", {"facts": {**own_facts(), **adapter.facts()}, "version": version}))
            else:
                send(answer(adapter, stopwatch, message))
        except Exception as error:
            kind = "contract" if isinstance(error, (ContractError, WireError)) else "exception"
            body = {"kind": kind, "type": type(error).__name__, "message": str(error)[:4000]}
            send(Message("failure", {**body, "traceback": traceback.format_exc()[-8000:]}))


def load_adapter(folder: Path, shares: Sequence[Path] = ()) -> Any:
    """Import ``adapter.py`` of a folder by path, as a package under a name that shadows no framework.

    So an adapter of several files imports its own ones by ``from .kernels import ...``, and likewise those of the
    folders that it shares.
    """
    name = "rnn_conformance_adapter_" + "".join(c if c.isalnum() else "_" for c in folder.name)
    places = [str(place) for place in (folder, *shares)]
    spec = importlib.util.spec_from_file_location(name, folder / "adapter.py", submodule_search_locations=places)
    if spec is None or spec.loader is None:
        raise ContractError(f"{folder}: no adapter.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # An adapter's folder may be read-only, or a checkout: no byte code there, but for frameworks as usual.
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def installed_version(distribution: str) -> str:
    """The version of a distribution in this interpreter, "" when it is not installed under that name."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def own_facts() -> dict[str, str]:
    """Facts about this process that hold for every framework."""
    threads = ", ".join(f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "threads": threads or "not pinned",
    }


def answer(adapter: Any, stopwatch: Stopwatch, message: Message) -> Message:
    """The answer to a message about a case, or about the call that was made ready."""
    if message.kind == "time":
        return stopwatch.time(int(message.body["calls"]), int(message.body["warm"]))
    if message.kind == "block":
        return observe_block(adapter.run, message)
    case = case_of(message)
    if message.kind == "prepare":
        return stopwatch.prepare(adapter, case, str(message.body["level"]))
    if message.kind == "costs":
        return costs(adapter, case)
    return observe(adapter.run, case)


def case_of(message: Message) -> WorkerCase:
    """The case that a message holds."""
    return made(message.body, {name: tensor.values for name, tensor in message.tensors.items()})


def made(body: dict[str, Any], parameters: dict[str, Any], place: Place | None = None) -> WorkerCase:
    """A case of what a message says and its arrays, which it keeps."""
    cotangents = {
        name.removeprefix(COTANGENT): parameters.pop(name) for name in list(parameters) if name.startswith(COTANGENT)
    }
    x = parameters.pop("x")
    states = {name: parameters.pop(name, None) for name in ("h0", "c0")}
    batched, strided = bool(body["batched"]), bool(body.get("strided", False))
    if strided:
        x = np.swapaxes(np.ascontiguousarray(np.swapaxes(x, 0, 1)), 0, 1)
    if not batched:
        x = x[0]
        states = {name: None if state is None else state[0] for name, state in states.items()}
        cotangents = {name: value[0] for name, value in cotangents.items()}
    lengths = body.get("lengths")
    return WorkerCase(
        cell=body["cell"],
        variant=body["variant"],
        dtype=body["dtype"],
        parameters=parameters,
        x=x,
        h0=states["h0"],
        hidden=int(body["hidden"]),
        batched=batched,
        c0=states["c0"],
        lengths=None if lengths is None else np.array(lengths, dtype=np.int64),
        reverse=bool(body.get("reverse", False)),
        layers=int(body.get("layers", 1)),
        directions=int(body.get("directions", 1)),
        strided=strided,
        cotangents=cotangents or None,
        inputs_back=bool(body.get("inputs_back", False)),
        place=place,
    )


def observe(run: Callable[[WorkerCase], Any], case: WorkerCase) -> Message:
    """Run one case and pack the adapter's answer."""
    arrays, dtype, path, seconds = called(run, case)
    tensors = {name: Tensor(values, dtype) for name, values in arrays.items()}
    return Message("observation", {"path": path, "seconds": seconds}, tensors)


def called(run: Callable[[WorkerCase], Any], case: WorkerCase) -> tuple[dict[str, Any], str, str, float]:
    """Run one case: the arrays of the adapter's answer, their dtype, the attested path, the adapter's own seconds."""
    begin = time.perf_counter()
    result = run(case)
    seconds = time.perf_counter() - begin
    if not isinstance(result, Result):
        raise ContractError(f"run() returned {type(result).__name__}, wanted conformance.worker.api.Result")
    arrays = {"outputs": result.outputs, "final_state": result.final_state}
    arrays |= {name: getattr(result, name) for name in ("cells", "final_cell") if getattr(result, name) is not None}
    arrays |= {GRADIENT + name: value for name, value in result.gradients.items()}
    arrays |= {AFTER + name: value for name, value in result.inputs_after.items()}
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray):
            raise ContractError(f"{name} is {type(values).__name__}, wanted a NumPy array")
    return arrays, result.dtype, str(result.path), seconds


def observe_block(run: Callable[[WorkerCase], Any], message: Message) -> Message:
    """Run the cases of a block one after another and pack what is of one form; the others are named as ``apart``.

    A case that fails, or whose answer has other arrays, shapes or dtypes than the first one's, is left to be asked
    for by itself: then its failure is told in full.
    """
    places, paths, seconds, apart = [], [], [], []
    form: Any = None
    answers: list[dict[str, Any]] = []
    columns = {name: tensor.values for name, tensor in message.tensors.items()}
    shared: dict[Any, Any] = {}
    for place, row in enumerate(zip(*columns.values(), strict=True)):
        try:
            case = made(message.body, dict(zip(columns, row, strict=True)), Place(columns, place, shared))
            arrays, dtype, path, spent = called(run, case)
        except Exception:
            apart.append(place)
            continue
        its = dtype, {name: (values.shape, values.dtype) for name, values in arrays.items()}
        if form is None:
            form = its
        if its != form:
            apart.append(place)
            continue
        places.append(place)
        paths.append(path)
        seconds.append(spent)
        answers.append(arrays)
    tensors = {
        name: Tensor(np.stack([arrays[name] for arrays in answers]), form[0]) for name in (form[1] if form else ())
    }
    return Message("observations", {"places": places, "paths": paths, "seconds": seconds, "apart": apart}, tensors)
