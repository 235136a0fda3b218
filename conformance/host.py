"""Worker processes: one per candidate, with deadlines, bounded restarts and a bounded memory of what they print.

The host sends a case and gets an observation or a `Broken`; it never raises for what a worker does. A crash,
a hang or a malformed answer costs that one case: the process group is killed and the next case gets a new
worker, until the restarts are used up. Workers are never given an expected answer.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from conformance.candidate import Adapter, Variant
from conformance.case import Case
from conformance.compare import Observed
from conformance.environments import PROGRAMS_VARIABLE, Interpreter, programs_folder
from conformance.rounding import Array
from conformance.verdict import Broken, BrokenKind
from conformance.worker import wire

LAUNCH: Final = Path(__file__).resolve().parent / "worker" / "launch.py"
TAIL_BYTES: Final = 4096
# Restarts without a single observation in between; one that works in some dtypes only keeps its other results.
MAX_RESTARTS: Final = 10
POLL_SECONDS: Final = 0.2
# One BLAS thread: libraries of several threads next to each other are many times slower, and the number of
# threads is a fact that every observation should share.
PINNED: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a worker returned for a case: batched arrays, the attested path, the adapter's own seconds."""

    observed: Observed
    path: str
    seconds: float


class Interrupted(Exception):
    """The run was asked to stop while a worker was at work; the worker has been killed."""


class _Died(Exception):
    """The worker closed its answers."""


class _Late(Exception):
    """The worker missed its deadline."""


class _Process:
    """One worker process and its pipes."""

    def __init__(self, interpreter: Interpreter, variables: Mapping[str, str]) -> None:
        # A folder of its own: MLX's compiled-kernel cache is keyed by version only, and races.
        self._scratch = tempfile.TemporaryDirectory(prefix="rnn-conformance-", ignore_cleanup_errors=True)
        kept = {PROGRAMS_VARIABLE: str(programs_folder())}  # an adapter's compiled programs, unless the user says no
        environment = {**kept, **os.environ, **PINNED, **variables, "TMPDIR": self._scratch.name}
        # Isolated mode keeps PYTHONPATH and user site-packages out of managed environments.
        flags = [] if interpreter.kind == "current" else ["-I"]
        # Answers have a pipe of their own: whatever prints, from the interpreter's start on, cannot reach it.
        self._answers, theirs = os.pipe()
        try:
            self._popen = subprocess.Popen(
                [str(interpreter.python), *flags, str(LAUNCH), str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
                env=environment,
                start_new_session=True,
            )
        except OSError:
            os.close(self._answers)
            self._scratch.cleanup()
            raise
        finally:
            os.close(theirs)
        assert self._popen.stdin
        assert self._popen.stdout
        self._questions = self._popen.stdin.fileno()
        os.set_blocking(self._questions, False)
        self._tail: deque[bytes] = deque()
        self._drain = threading.Thread(target=self._read_log, args=(self._popen.stdout.fileno(),), daemon=True)
        self._drain.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def _read_log(self, stream: int) -> None:
        kept = 0
        with contextlib.suppress(OSError):
            while chunk := os.read(stream, 65536):
                self._tail.append(chunk[-TAIL_BYTES:])
                kept += len(self._tail[-1])
                while kept - len(self._tail[0]) >= TAIL_BYTES:
                    kept -= len(self._tail.popleft())

    def ask(self, message: wire.Message, seconds: float, stopped: Callable[[], bool]) -> wire.Message:
        """Send a message and read the answer; _Died, _Late, Interrupted or WireError."""
        end = time.monotonic() + seconds

        def wait(readable: list[int], writable: list[int]) -> None:
            while not any(select.select(readable, writable, [], min(POLL_SECONDS, max(0.0, end - time.monotonic())))):
                if stopped():
                    raise Interrupted
                if time.monotonic() >= end:
                    raise _Late

        view = memoryview(wire.encode(message))
        while view:
            wait([], [self._questions])
            try:
                view = view[os.write(self._questions, view) :]
            except BrokenPipeError:
                raise _Died from None

        def receive(count: int) -> bytes:
            data = bytearray()
            while len(data) < count:
                wait([self._answers], [])
                chunk = os.read(self._answers, min(count - len(data), 1 << 20))
                if not chunk:
                    raise _Died
                data += chunk
            return bytes(data)

        return wire.read(receive)

    def stop(self, *, patience: float = 2.0) -> tuple[int | None, str]:
        """Let the worker end within `patience` seconds, then kill its process group.

        Returns its exit code, None when it had to be killed, and the tail of its stderr.
        """
        with contextlib.suppress(OSError):
            assert self._popen.stdin
            self._popen.stdin.close()
        try:
            code: int | None = self._popen.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            code = None
        # The whole group, even when the worker itself has gone: it may have left children.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        self._drain.join(timeout=1.0)
        assert self._popen.stdout
        self._popen.stdout.close()
        os.close(self._answers)
        self._scratch.cleanup()
        return code, b"".join(self._tail)[-TAIL_BYTES:].decode("utf-8", "replace")


def signal_name(code: int | None) -> str:
    """The signal behind an exit code: negative from the operating system, or 128 + n by convention."""
    number = 0 if code is None else (-code if code < 0 else code - 128)
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


class Host:
    """Runs cases of one candidate in a worker that is started on first use and replaced when it breaks.

    Parameters
    ----------
    incident: called with a `Broken` whenever a worker had to be given up.
    stopped: asked while a worker is at work; once it is true the worker is killed and Interrupted raised.
    ready: called once with the framework's version and the facts of the first worker that came up.
    """

    def __init__(
        self,
        adapter: Adapter,
        variant: Variant,
        interpreter: Interpreter,
        *,
        incident: Callable[[Broken], None],
        ready: Callable[[str, dict[str, str]], None],
        case_seconds: float | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stopped = stopped
        self._adapter = adapter
        self._variant = variant
        self._interpreter = interpreter
        self._incident = incident
        self._ready = ready
        self._case_seconds = case_seconds if case_seconds is not None else adapter.case_seconds
        self._process: _Process | None = None
        self._restarts = -1
        self._hopeless: Broken | None = None
        self._announced = False
        self._version = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker; one that breaks only now is an incident, as every answer was delivered before."""
        if self._process is not None:
            code, tail = self._process.stop()
            if code not in (0, None):
                text = f"the worker ended with exit code {code} after delivering every result"
                self._incident(_broken("crash", text, code, tail))
            self._process = None

    @property
    def pid(self) -> int | None:
        """The process id of the running worker, None when there is none."""
        return None if self._process is None else self._process.pid

    @property
    def version(self) -> str:
        """The framework's version as the first worker found it, "" before that."""
        return self._version

    @property
    def _hint(self) -> str:
        """What to do when a framework beside the harness cannot be imported."""
        if self._interpreter.kind != "current" or not self._adapter.requirements:
            return ""
        return f"; the adapter wants {', '.join(self._adapter.requirements)}, or another release of it"

    def observe(self, case: Case) -> Observation | Broken:
        """Run one case: an observation with the shape, dtype and names of the contract, or how it broke."""
        process = self._started()
        if isinstance(process, Broken):
            return process
        answer = self._ask(process, self.question(case), self._case_seconds, "the case")
        if isinstance(answer, Broken):
            if self._process is None:
                self._incident(answer)
            return answer
        self._restarts = 0
        return _observation(case, answer)

    def question(self, case: Case, kind: str = "case", **more: str) -> wire.Message:
        """The message about a case; more: what its body says beside the case."""
        message = _question(case, self._variant.name)
        return wire.Message(kind, {**message.body, **more}, message.tensors)

    def ask(self, message: wire.Message, what: str, *, again: bool = True) -> wire.Message | Broken:
        """The worker's answer to another message than a case, or how it broke.

        again: whether a new worker may be started for it; one that refers to what was sent before needs the same.
        """
        if not again and self._process is None:
            return Broken(kind="crash", message=f"the worker that was to answer {what} is gone")
        process = self._started()
        if isinstance(process, Broken):
            return process
        answer = self._ask(process, message, self._case_seconds, what)
        if isinstance(answer, Broken) and self._process is None:
            self._incident(answer)
        return answer

    def _started(self) -> _Process | Broken:
        if self._process is not None:
            return self._process
        if self._hopeless is not None:
            return self._hopeless
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            text = f"the worker broke {self._restarts} times in a row and is not started again"
            self._hopeless = Broken(kind="abandoned", message=text)
            self._incident(self._hopeless)
            return self._hopeless
        try:
            process = _Process(self._interpreter, self._variant.environment)
        except OSError as error:
            self._hopeless = Broken(
                kind="start", message=f"cannot start {self._interpreter.python}: {error.strerror or error}"
            )
            self._incident(self._hopeless)
            return self._hopeless
        self._process = process
        hello = wire.Message(
            "hello",
            {
                "adapter": str(self._adapter.folder),
                "shares": [str(folder) for folder in self._adapter.shares],
                "distribution": self._adapter.distribution,
            },
        )
        answer = self._ask(process, hello, self._adapter.start_seconds, "its start")
        if isinstance(answer, Broken):
            broken = Broken(
                kind="start",
                message=f"{self._adapter.title} does not start ({self._interpreter.label}): "
                f"{answer.message}{self._hint}",
                exit_code=answer.exit_code,
                signal=answer.signal,
                stderr_tail=answer.stderr_tail,
            )
            if self._process is not None:
                self._give_up()
            if answer.kind != "crash":
                # A framework that cannot be imported will not come up the next time either, and a hang costs the
                # whole deadline. A process that died may have been killed: it is started again, within bounds.
                self._hopeless = broken
            self._incident(broken)
            return broken
        if not self._announced:
            self._announced = True
            facts = answer.body.get("facts")
            facts = facts if isinstance(facts, dict) else {}
            self._version = str(answer.body.get("version", ""))
            self._ready(self._version, {str(k): str(v) for k, v in facts.items()})
        return process

    def _ask(self, process: _Process, message: wire.Message, seconds: float, what: str) -> wire.Message | Broken:
        try:
            answer = process.ask(message, seconds, self._stopped)
        except Interrupted:
            self._give_up(patience=0.0)
            raise
        except _Died:
            code, tail = self._give_up()
            name = signal_name(code)
            text = f"the worker died during {what} with exit code {code}" + (f" ({name})" if name else "")
            broken = _broken("crash", text, code, tail)
        except _Late:
            _, tail = self._give_up(patience=0.0)
            broken = _broken("hang", f"no answer to {what} within {seconds:g} s: killed", None, tail)
        except wire.WireError as error:
            code, tail = self._give_up()
            broken = _broken("contract", f"the worker sent a malformed message: {error}", code, tail)
        else:
            if answer.kind != "failure":
                return answer
            body = {str(key): str(value) for key, value in answer.body.items()}
            kind: BrokenKind = "contract" if body.get("kind") == "contract" else "exception"
            text = f"{body.get('type', 'error')}: {body.get('message', '')}"
            return Broken(kind=kind, message=text, stderr_tail=body.get("traceback", "")[-TAIL_BYTES:])
        return broken

    def _give_up(self, *, patience: float = 2.0) -> tuple[int | None, str]:
        assert self._process is not None
        process, self._process = self._process, None
        return process.stop(patience=patience)


def _broken(kind: BrokenKind, message: str, code: int | None, tail: str) -> Broken:
    return Broken(kind=kind, message=message, exit_code=code, signal=signal_name(code), stderr_tail=tail)


def _question(case: Case, variant: str) -> wire.Message:
    container = np.float64 if case.dtype == "float64" else np.float32
    arrays = {**case.parameters, "x": case.x}
    if case.initial != "omitted":
        arrays |= {name: value for name, value in (("h0", case.h0), ("c0", case.c0)) if value is not None}
    arrays |= {wire.COTANGENT + name: value for name, value in case.cotangents.items()}
    body = {
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
    tensors = {name: wire.Tensor(array.astype(container), case.dtype) for name, array in arrays.items()}
    return wire.Message("case", body, tensors)


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


def _observation(case: Case, answer: wire.Message) -> Observation | Broken:
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
