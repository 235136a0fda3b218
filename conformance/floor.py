"""The frameworks alone: the cases of a campaign in a script of their own, which knows neither harness nor adapters."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from conformance.block import Block
from conformance.compare import Observed
from conformance.discover import data_folder
from conformance.environments import Interpreter
from conformance.judge import judge_block
from conformance.plan import Group
from conformance.startup import Turn
from conformance.threads import PINNED
from conformance.verdict import Agrees

SCRIPT: Final = "floor.py"
CONTAINS: Final = (
    f"benchmarks/{SCRIPT}: the frameworks alone, one after another, no code of the harness: for every case its weights "
    "in the framework's layout, one call, every number of the answer; all answers judged"
)


class Floor:
    """A process that runs the cases of a campaign on each framework, while nothing else runs.

    interpreter: of an environment with all frameworks, None where there is none, and then `left_out` says why.
    """

    def __init__(
        self, interpreter: Interpreter | None, scratch: Path, left_out: str = "", *, script: Path | None = None
    ) -> None:
        self._interpreter = interpreter
        self._left_out = left_out
        self._scratch = scratch
        self._script = data_folder("benchmarks") / SCRIPT if script is None else script
        self._said = scratch / "floor-stderr.txt"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def turn(self, asked: Sequence[tuple[Group, Sequence[Block]]]) -> Turn:
        """The seconds of all cases of all candidates; why there are none, where an answer is wrong or missing."""
        if self._interpreter is None:
            return self._left_out
        wall = cpu = 0.0
        for group, blocks in asked:
            took = self._one(group.candidate.name, blocks, self._interpreter)
            if isinstance(took, str):
                return f"{group.candidate.name}: {took}"
            wall, cpu = wall + took[0], cpu + took[1]
        return wall, cpu

    def _one(self, candidate: str, blocks: Sequence[Block], interpreter: Interpreter) -> Turn:
        if self._process is None:
            with self._said.open("w") as said:
                self._process = subprocess.Popen(
                    [str(interpreter.python), "-I", str(self._script)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env={**os.environ, **PINNED},
                    text=True,
                )
        assert self._process.stdin
        assert self._process.stdout
        cases, answers = self._scratch / "floor-cases.npz", self._scratch / "floor-answers.npz"
        answers.unlink(missing_ok=True)  # those of the candidate before it would be as right
        np.savez(cases, **_arrays(blocks))  # numbers alone: nothing to be pickled
        try:
            words = {"candidate": candidate, "cases": str(cases), "answers": str(answers)}
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
            told: dict[str, Any] = json.loads(self._process.stdout.readline())
            if "left_out" in told:
                return str(told["left_out"])
            took = float(told["seconds"]), float(told["cpu"])
            with np.load(answers, allow_pickle=False) as found:
                outputs = [np.asarray(found[f"{place}/outputs"], dtype=np.float64) for place in range(len(blocks))]
        except (OSError, ValueError, KeyError, TypeError):
            # JAX says more after the error.
            errors = [line.strip() for line in self._said.read_text(errors="replace").splitlines() if "Error" in line]
            return f"benchmarks/{SCRIPT} broke: {errors[-1] if errors else 'it gives no reason'}"
        return took if all(map(_right, blocks, outputs)) else f"benchmarks/{SCRIPT} gives another answer than it must"


def _arrays(blocks: Sequence[Block]) -> dict[str, Any]:
    """The arrays of blocks as a layer takes them: a single sequence has no axis for rows."""
    found = {}
    for place, block in enumerate(blocks):
        for name, values in block.packed.items():
            if name == "h0" and block.first.initial == "omitted":
                continue
            rows = name in ("x", "h0") and not block.first.batched
            found[f"{place}/{name}"] = values[:, 0] if rows else values
    return found


def _right(block: Block, outputs: Any) -> bool:
    """Whether these are the outputs that all cases of a block must have."""
    size = block.first.shape
    wanted = (block.count, size.batch, size.time, size.hidden)
    if outputs.size != np.prod(wanted):
        return False
    states = outputs.reshape(wanted)
    places = tuple(range(block.count))
    observed = Observed(outputs=states, final_state=states[..., -1, :])
    judged = list(judge_block(block, places, observed, ()))
    return sum(count for count, _ in judged) == block.count and all(isinstance(said, Agrees) for _, said in judged)
