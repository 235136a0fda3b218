"""Verdicts on releases, kept: judging a release costs an environment, and its answer does not change.

What is kept is an ordinary record for each release, requirement and dtype, in the user's cache, under a digest of all
that the answer depends on: the harness's own source, the adapter's, the shared weights, the seed and number of
generated cases, Python and platform. It is written as soon as it is there, whole or not at all, so an interrupted
search loses nothing that was judged, and two at once do not disturb each other. What may be otherwise next time is
not kept: no environment, no answer in time, a worker that was killed, a defect of the harness.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from conformance import __version__
from conformance.bisect import State
from conformance.discover import PACKAGE, data_folder
from conformance.environments import cache_root, prune
from conformance.errors import ConformanceError, EnvironmentUnavailable, RecordError
from conformance.plan import Candidate, Group, interpreter_of
from conformance.record import Finding, Footer, Line, Record, Trial
from conformance.recordfile import RecordWriter, read_record
from conformance.run import Silent, header, run
from conformance.settings import Settings
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, Verdict

# Folders and modules that decide no answer.
_SURFACES: Final = frozenset(
    (
        *("cli", "report", "suite", "pytest_plugin.py", "display.py", "figures.py", "smoke.py", "repro.py"),
        *("bisect.py", "trend.py", "replay.py", "releases.py", "kept.py"),
    )
)

# Variant, requirement, dtype.
Question: TypeAlias = tuple[str, str, str]


class Archive(Struct):
    """Judges releases, and remembers.

    settings: seed and examples of the generated cases; its database is not used, since kept failures would make the
        answer depend on the past.
    told: one line per stage. fresh: judge anew what is kept. case_seconds: deadline of one case.
    keep_environments: else those that were made here are removed once their release is judged.
    made: how many environments were made; judged: how many releases were.
    """

    settings: Settings
    told: Callable[[str], None]
    fresh: bool = False
    keep_environments: bool = True
    case_seconds: float | None = None
    made: int = 0
    judged: int = 0

    def kept(self, group: Group) -> Finding | None:
        """The kept finding on a group of one release, None where there is none."""
        record = self.record(group)
        return None if record is None or self.fresh else record.findings[0]

    def record(self, group: Group) -> Record | None:
        """The kept record of a group of one release."""
        try:
            record = read_record(self._path(group))
        except RecordError:
            return None
        return None if record.problem or len(record.findings) != 1 else record

    def judge(self, groups: Sequence[Group]) -> dict[Question, State]:
        """The states of groups that all are of one release; what is kept is not judged again.

        An environment that cannot be made is a state, "unavailable".
        """
        states: dict[Question, State] = {}
        wanted: dict[str, list[Group]] = {}
        for group in groups:
            finding = self.kept(group)
            if finding is None:
                wanted.setdefault(group.candidate.name, []).append(group)
            else:
                states[question(group)] = state_of(finding.verdict)
        for own in wanted.values():
            states |= self._judged(own[0].candidate, own)
        return states

    def _judged(self, candidate: Candidate, groups: Sequence[Group]) -> dict[Question, State]:
        try:
            interpreter = interpreter_of(candidate, lambda text: self.told(f"{candidate.name}: {text}"))
        except ConformanceError as error:
            self.told(f"{candidate.name}: {error.what}")
            state = State(kind="unavailable", label="unavailable", detail=_reason(error))
            return dict.fromkeys(map(question, groups), state)
        place = interpreter.location
        made = interpreter.made
        self.made += made
        self.judged += 1
        self.told(f"{candidate.name}: judging {_count(len(groups), 'question')}")
        writer = _Writer(groups, replace(self.settings, shrink=False, database=None, keep=None), self._path)
        findings = run(groups, writer.settings, writer.write, Silent(), case_seconds=self.case_seconds)
        if made and place is not None and not self.keep_environments:
            with suppress(EnvironmentUnavailable):
                prune([place.name], progress=self.told)
        states = {question(group): state_of(finding.verdict) for group, finding in zip(groups, findings, strict=True)}
        labels = dict.fromkeys(state.label for state in states.values())
        self.told(f"{candidate.name}: {', '.join(labels)}")
        return states

    def _path(self, group: Group) -> Path:
        spec, adapter, chosen = group.candidate.spec, group.candidate.adapter, self.settings
        assert spec.version is not None
        identity = [
            [__version__, _source(), *map(_folder_digest, (adapter.folder, *adapter.shares))],
            [spec.adapter, spec.variant, spec.version, group.requirement.name, group.dtype],
            [chosen.seed, chosen.examples, chosen.wide],
            [platform.python_version(), sysconfig.get_config_var("SOABI"), sysconfig.get_platform()],
        ]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        release = re.sub(r"[^A-Za-z0-9.+-]", "-", f"{spec.adapter}-{spec.variant}-{spec.version}")
        return verdicts_folder() / release / f"{group.requirement.name}-{group.dtype}-{digest}.jsonl"


class _Writer:
    """Sorts a run's lines into one record for each group, written when its finding is there."""

    def __init__(self, groups: Sequence[Group], settings: Settings, place: Callable[[Group], Path]) -> None:
        self.settings = settings
        self._groups = {(group.requirement.name, group.dtype): group for group in groups}
        self._place = place
        self._lines: list[Line] = []
        self._lasting: list[Line] = []
        self._lock = threading.Lock()

    def write(self, line: Line) -> None:
        with self._lock:
            if not isinstance(line, Finding):
                # What is said of the candidate belongs to all of its groups, and a trial to the next finding.
                (self._lines if isinstance(line, Trial) else self._lasting).append(line)
                return
            lines, self._lines = [*self._lasting, *self._lines, line], []
            if not lasting(line.verdict):
                return
            group = self._groups[line.requirement, line.dtype]
            with suppress(OSError, RecordError):  # a cache that cannot be written costs time only
                self._keep(group, lines)

    def _keep(self, group: Group, lines: Iterable[Line]) -> None:
        path = self._place(group)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        os.close(handle)
        partial = Path(name)
        try:
            with RecordWriter(partial, header([group], self.settings, ())) as writer:
                trials = 0
                for line in lines:
                    writer.write(line)
                    trials = line.trials if isinstance(line, Finding) else trials
                now = datetime.now(UTC).isoformat(timespec="seconds")
                writer.write(Footer(finished=now, trials=trials, findings=1))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def verdicts_folder() -> Path:
    """Where kept verdicts are; whoever removes it loses time only."""
    return cache_root() / "verdicts"


def question(group: Group) -> Question:
    """What a group asks, of whichever release."""
    return group.candidate.variant.name, group.requirement.name, group.dtype


def at_release(group: Group, version: str) -> Group:
    """The same group, asked of a release."""
    candidate = group.candidate
    return replace(group, candidate=replace(candidate, spec=replace(candidate.spec, version=version)))


def state_of(verdict: Verdict) -> State:
    """What a verdict says of a release, without the numbers that differ from one to the next."""
    match verdict:
        case Agrees(share=share):
            return State(kind="answer", label="agrees", detail=f"largest share of the bound {share:.3g}")
        case Diverges(faults=faults, evidence=evidence):
            size = evidence.largest_difference
            detail = f"first at step {evidence.first[1]}" + ("" if size is None else f", largest difference {size:.3g}")
            label = f"diverges ({', '.join(faults) or 'none of the catalogue'})"
            return State(kind="answer", label=label, detail=detail, faults=faults)
        case Unrepresentable(parameters=parameters, subspace=subspace):
            inner = State(kind="answer", label="not run") if subspace is None else state_of(subspace)
            label = f"{inner.label} where it can represent (no place for {', '.join(parameters)})"
            return dataclasses.replace(inner, label=label)
        case Inconclusive(why=why):
            return State(kind="failure", label="inconclusive", detail=why)
        case Broken(kind=kind, message=message):
            label = "does not start" if kind in ("start", "environment") else "breaks"
            return State(kind="failure", label=label, detail=message)
        case Unsupported(what=what, reason=reason):
            return State(kind="failure", label="not offered", detail=f"{what}: {reason}")
        case _:
            assert_never(verdict)


def lasting(verdict: Verdict) -> bool:
    """Whether the same release would get the same verdict the next time."""
    match verdict:
        case Broken(kind="hang" | "abandoned"):
            return False
        case Broken(message=message, signal=signal):
            passing = ("the harness failed", "no answer to its start")
            return signal != "SIGKILL" and not any(text in message for text in passing)
        case Unrepresentable(subspace=subspace) if subspace is not None:
            return lasting(subspace)
        case _:
            return True


def _reason(error: ConformanceError) -> str:
    """An error in one line, with the cause that the installer gave."""
    cause = re.search(r"cause: (?:Because )?(.*?)(?:, we can conclude.*)?$", error.got, re.MULTILINE)
    return error.what + ("" if cause is None else f" ({cause[1]})")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@cache
def _source() -> str:
    """A digest of all of the harness that decides an answer, and of the shared weights."""
    files = [path for path in PACKAGE.rglob("*.py") if not set(path.relative_to(PACKAGE).parts) & _SURFACES]
    return _digest([*files, *(data_folder("fixtures") / "weights").glob("*.safetensors")])


@cache
def _folder_digest(folder: Path) -> str:
    return _digest(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _digest(files: Iterable[Path]) -> str:
    def lines() -> Iterator[str]:
        for path in sorted(files):
            with path.open("rb") as stream:
                yield f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}"

    return hashlib.sha256("\n".join(lines()).encode()).hexdigest()
