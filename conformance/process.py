"""A worker process: its pipes, deadlines, and what it printed last."""

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
from pathlib import Path
from typing import Final

from conformance.environments import PROGRAMS_VARIABLE, Interpreter, programs_folder
from conformance.threads import PINNED
from conformance.worker import wire

LAUNCH: Final = Path(__file__).resolve().parent / "worker" / "launch.py"
TAIL_BYTES: Final = 4096
POLL_SECONDS: Final = 0.2
# So many pieces of a message are written at once: the fewest that POSIX lets a system allow.
_PIECES: Final = 16


class Interrupted(Exception):
    """The run was asked to stop while a worker was at work; the worker has been killed."""


class Died(Exception):
    """The worker closed its answers."""


class Late(Exception):
    """The worker missed its deadline."""


class Process:
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
        """Its process id."""
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
        """Send a message and read the answer; Died, Late, Interrupted or WireError."""
        end = time.monotonic() + seconds
        self.send(message, end, stopped)
        return self.receive(end, stopped)

    def send(self, message: wire.Message, end: float, stopped: Callable[[], bool]) -> None:
        """Send a message to a worker that waits for one, until `end` by the monotonic clock."""
        pieces = wire.parts(message)
        while pieces:
            self._wait([], [self._questions], end, stopped)
            try:
                pieces = wire.unwritten(pieces, os.writev(self._questions, pieces[:_PIECES]))
            except BrokenPipeError:
                raise Died from None

    def receive(self, end: float, stopped: Callable[[], bool]) -> wire.Message:
        """Read the answer to what was sent."""

        def exactly(count: int) -> bytes:
            data = bytearray()
            while len(data) < count:
                self._wait([self._answers], [], end, stopped)
                chunk = os.read(self._answers, min(count - len(data), 1 << 20))
                if not chunk:
                    raise Died
                data += chunk
            return bytes(data)

        return wire.read(exactly)

    def _wait(self, readable: list[int], writable: list[int], end: float, stopped: Callable[[], bool]) -> None:
        while not any(select.select(readable, writable, [], min(POLL_SECONDS, max(0.0, end - time.monotonic())))):
            if stopped():
                raise Interrupted
            if time.monotonic() >= end:
                raise Late

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
