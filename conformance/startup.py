"""What it takes from nothing to the first answer, as whole processes: of this harness, and of a check by hand."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

from conformance.discover import data_folder
from conformance.environments import Interpreter, managed
from conformance.errors import ConformanceError
from conformance.record import HarnessSide
from conformance.threads import PINNED

Turn: TypeAlias = tuple[float, float] | str
"""Seconds and CPU seconds, or why there are none."""

REQUIREMENTS: Final = (
    *("flax==0.12.8", "hypothesis>=6.150", "jax==0.10.2", "mlx[cpu]==0.32.4", "numpy>=2.0", "pytest>=8.3"),
    "torch==2.13.0",
)
"""Of the environment with all frameworks, that of a check written by hand."""
LIMIT: Final = 120.0
ROUNDS: Final = 3
COLD_CASES: Final = 2_000
COLD_BY_HAND: Final = 4
ASKED: Final = "gru_hidden_none"
CANDIDATE: Final = "mlx:none"
ALONE: Final = "import numpy, mlx.core as mx, mlx.nn as nn; mx.eval(nn.GRU(6, 8)(mx.zeros((4, 12, 6))))"


class Handwritten:
    """The check written by hand: a process that runs one case for every line it gets, all frameworks at once."""

    contains: Final = (
        "benchmarks/handwritten.py, warm: one case of a fresh shape on MLX (state omitted, and zeros), PyTorch, linen "
        "and NNX, a loop in NumPy, assert_allclose"
    )

    def __init__(self, interpreter: Interpreter | None, script: Path, left_out: str = "") -> None:
        self.script = script
        self.interpreter = interpreter
        self.left_out = left_out
        self.peak = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def turn(self) -> Turn:
        """One case; the first of a process counts from its start, and is not handed out here."""
        if self.interpreter is None:
            return self.left_out
        if self._process is None:
            self._process = self._begun()
            first = _asked(self._process)
            if isinstance(first, str):
                return first
        return _asked(self._process)

    def alone(self, cases: int) -> Turn:
        """A process of its own, from nothing to the last of so many cases."""
        if self.interpreter is None:
            return self.left_out
        begin, busy = time.perf_counter(), _children()
        process = self._begun()
        try:
            for _ in range(cases):
                if isinstance(turn := _asked(process), str):
                    return turn
            wall = time.perf_counter() - begin
        finally:
            _end(process)
        return wall, _children() - busy

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            try:
                status = Path(f"/proc/{self._process.pid}/status").read_text()
                self.peak = next(int(w.split()[1]) * 1024 for w in status.splitlines() if w.startswith("VmHWM:"))
            except (OSError, ValueError, StopIteration):
                self.peak = 0
            _end(self._process)
            self._process = None

    def _begun(self) -> subprocess.Popen[str]:
        assert self.interpreter is not None
        return subprocess.Popen(
            [str(self.interpreter.python), "-I", str(self.script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **PINNED},
            text=True,
        )


def handwritten(progress: Callable[[str], None]) -> Handwritten:
    """The check, in an environment that has all frameworks; without one it says why."""
    script = data_folder("benchmarks") / "handwritten.py"
    if not script.is_file():
        return Handwritten(None, script, f"{script.name} is not there")
    try:
        return Handwritten(managed("benchmark", REQUIREMENTS, progress=progress), script)
    except ConformanceError as error:
        return Handwritten(None, script, str(error).partition("\n")[0])


def _asked(process: subprocess.Popen[str]) -> Turn:
    """The times of one case, or why there are none: a check that finds something, or breaks, is not timed."""
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        told: dict[str, Any] = json.loads(process.stdout.readline())
        if told["wrong"]:
            return f"it says that {', '.join(map(str, told['wrong']))} is wrong"
        return float(told["seconds"]), float(told["cpu"])
    except (OSError, ValueError, KeyError, TypeError):
        return "the check written by hand broke"


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cold(names: Sequence[str], requirement: str, hand: Handwritten, scratch: Path) -> list[HarnessSide]:
    """Both from nothing, once: a campaign of many cases, and a few by hand."""
    words = ["run", *names, "-k", requirement, "--dtype", "float32", "--examples", "1", "--forget", "-q"]
    command = [*_own(), *words, "--cases", str(COLD_CASES), "--output", str(scratch / "cold")]
    turns = {
        "engine, cold": (
            f"`rnn-conformance run --cases {COLD_CASES}` on these candidates as a whole process: imports, workers, "
            "compilation, the ordinary cases, record and report",
            COLD_CASES,
            _whole(command),
        ),
        "by hand, cold": (
            f"the check written by hand as a whole process: imports and {COLD_BY_HAND} cases",
            COLD_BY_HAND,
            hand.alone(COLD_BY_HAND),
        ),
    }
    return [_side(name, contains, cases, [turn]) for name, (contains, cases, turn) in turns.items()]


def startups(hand: Handwritten, scratch: Path, progress: Callable[[str], None]) -> list[HarnessSide]:
    """First answers, and pytest beside its imports, in rounds that take turns."""
    python = None if hand.interpreter is None else str(hand.interpreter.python)
    sides: dict[str, tuple[str, Callable[[], Turn]]] = {
        "first verdict": (
            f"`rnn-conformance run {CANDIDATE} -k {ASKED}`, from its start to the first trial in the record",
            lambda: _first_verdict(scratch),
        ),
        "first verdict by hand": (
            "the check written by hand, from its start to its first verdict",
            lambda: hand.alone(1),
        ),
        "framework alone": (
            f"`python -c {ALONE!r}` as a whole process: what a first answer cannot do without",
            lambda: hand.left_out if python is None else _whole([python, "-I", "-c", ALONE]),
        ),
        "pytest": (
            f"`pytest --pyargs conformance -k {ASKED} --rnn-candidate {CANDIDATE}` as a whole process",
            lambda: _whole(
                [
                    *(sys.executable, "-m", "pytest", "--pyargs", "conformance", "-q", "-p", "no:cacheprovider"),
                    *("-k", ASKED, "--rnn-candidate", CANDIDATE),
                ],
                folder=scratch,
            ),
        ),
        "imports": (
            '`python -c "import pytest, hypothesis, mlx.nn"` as a whole process',
            lambda: (
                hand.left_out if python is None else _whole([python, "-I", "-c", "import pytest, hypothesis, mlx.nn"])
            ),
        ),
    }
    took: dict[str, list[Turn]] = {name: [] for name in sides}
    order = list(sides)
    for number in range(ROUNDS):
        progress(f"start-up, round {number + 1} of {ROUNDS}")
        for name in order if number % 2 == 0 else order[::-1]:
            took[name].append(sides[name][1]())
    return [_side(name, contains, 1, took[name]) for name, (contains, _) in sides.items()]


def _side(name: str, contains: str, cases: int, turns: Sequence[Turn]) -> HarnessSide:
    problems = [turn for turn in turns if isinstance(turn, str)]
    if problems:
        return HarnessSide(name=name, contains=contains, left_out=problems[0])
    times = [turn for turn in turns if not isinstance(turn, str)]
    return HarnessSide(
        name=name,
        contains=contains,
        cases=cases,
        seconds=tuple(wall for wall, _ in times),
        cpu=tuple(cpu for _, cpu in times),
    )


def _own() -> list[str]:
    return [sys.executable, "-m", "conformance.cli"]


def _whole(command: Sequence[str], folder: Path | None = None) -> Turn:
    """A process from its start to its end; one that fails is not timed."""
    begin, busy = time.perf_counter(), _children()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False, cwd=folder
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__} of {command[0]}"
    if done.returncode:
        return f"exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}"
    return time.perf_counter() - begin, _children() - busy


def _first_verdict(scratch: Path) -> Turn:
    """From the start of a run to the first trial that stands in its record."""
    folder = scratch / f"first-{time.monotonic_ns()}"
    words = ["run", CANDIDATE, "-k", ASKED, "--forget", "-q", "--output", str(folder)]
    begin, busy = time.perf_counter(), _children()
    process = subprocess.Popen(
        [*_own(), *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wall = None
    while wall is None and process.poll() is None and time.perf_counter() - begin < LIMIT:
        if any(b'"type":"trial"' in path.read_bytes() for path in folder.glob("*.jsonl")):
            wall = time.perf_counter() - begin
        time.sleep(0.005)
    if wall is None:
        process.kill()
    code = process.wait()
    return "no verdict came" if wall is None or code else (wall, _children() - busy)
