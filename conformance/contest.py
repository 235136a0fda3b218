"""Comparisons one after the other: workers that stay up for all of them, and a line of the record for each.

A worker that breaks, or an environment that cannot be made, costs its own side and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from conformance.bench import Contestant, Limits, machine, sides
from conformance.case import Shape
from conformance.comparisons import Comparison, case_of, measurable
from conformance.errors import ConformanceError
from conformance.host import Host
from conformance.plan import Candidate, interpreter_of
from conformance.record import BenchLine, BenchSide, CandidateLine, Incident, Line, ScanLine
from conformance.stopwatch import Stopwatch
from conformance.threads import PINNED
from conformance.verdict import Broken, Inconclusive

DEADLINE: Final = 600.0
"""Seconds for one answer: a long program takes minutes to compile, and that is what is being measured."""
SCAN_TIMES: Final = (16, 64, 256, 1024, 2048)
SCAN_SHAPE: Final = Shape(batch=32, time=1, features=128, hidden=200)
SCAN_SIDES: Final = ("flax-nnx:lax-scan", "flax-nnx:nnx-scan", "flax-nnx:rnn", "flax-linen:rnn", "flax-nnx:unrolled")
CAP: Final = 256
"""The longest sequence that is unrolled by default: at 256 steps that takes seconds to compile, at 2048 minutes."""

Key: TypeAlias = tuple[str, bool]


class Workers(Struct):
    """The workers of all candidates, started when they are first needed, and again for a control.

    candidates: by name. emit: takes what is learned of each candidate, and every incident. threads: how many the
    libraries of a side are allowed where they can be told so (XLA has a pool of its own).
    """

    candidates: Mapping[str, Candidate]
    emit: Callable[[Line], None]
    progress: Callable[[str], None]
    deadline: float = DEADLINE
    threads: int = 1
    known: dict[str, CandidateLine] = field(default_factory=dict)
    _running: dict[Key, Contestant | Broken] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def contestant(self, name: str, *, control: bool = False) -> Contestant | Broken:
        """The worker of a candidate, or why there is none; a control is a second worker of the same candidate."""
        key = (name, control)
        if key not in self._running:
            self._running[key] = self._started(name, control=control)
        return self._running[key]

    def facts(self, name: str) -> dict[str, str] | None:
        """What a candidate's worker says of itself; None before it came up."""
        line = self.known.get(name)
        return None if line is None else line.facts

    def _started(self, name: str, *, control: bool) -> Contestant | Broken:
        candidate = self.candidates[name]
        self.progress(f"{name}: environment")
        try:
            interpreter = interpreter_of(candidate, self.progress)
        except ConformanceError as error:
            what, _, details = str(error).partition("\n")
            return Broken(kind="start", message=what, stderr_tail=details)

        def incident(broken: Broken) -> None:
            self.emit(
                Incident(
                    candidate=name,
                    what=broken.message,
                    exit_code=broken.exit_code,
                    signal=broken.signal,
                    stderr_tail=broken.stderr_tail,
                )
            )

        def ready(version: str, facts: dict[str, str]) -> None:
            if name in self.known:
                return
            self.known[name] = CandidateLine(
                name=name,
                adapter=candidate.adapter.name,
                framework=candidate.adapter.title,
                variant=candidate.variant.name,
                title=candidate.variant.title,
                version=version,
                environment=interpreter.label,
                facts=facts,
            )
            self.emit(self.known[name])

        allowed = dict.fromkeys(PINNED, str(self.threads))
        host = self._stack.enter_context(
            Host(
                candidate.adapter,
                replace(candidate.variant, environment={**allowed, **candidate.variant.environment}),
                interpreter,
                incident=incident,
                ready=ready,
                case_seconds=self.deadline,
            )
        )
        return Contestant(name=name, variant=candidate.variant, timer=Stopwatch(host), control=control)

    def sides(self, names: Sequence[str], *, control: bool) -> list[tuple[str, bool, Contestant | Broken]]:
        """The sides of a comparison: the baseline, the others, and the baseline once more where that is wanted."""
        wanted = [(name, False) for name in names] + ([(names[0], True)] if control else [])
        return [(name, again, self.contestant(name, control=again)) for name, again in wanted]

    def described(self, side: BenchSide) -> BenchSide:
        """The side with the version and environment that its worker told."""
        line = self.known.get(side.candidate)
        if line is None:
            return side
        return replace(side, version=line.version, environment=line.environment)


def compare(comparison: Comparison, workers: Workers, limits: Limits, *, control: bool = True) -> BenchLine:
    """One comparison, or why it cannot be made here."""
    baseline = comparison.sides[0]
    case = case_of(comparison.cell, comparison.shape, comparison.dtype)
    size = case.shape
    line = BenchLine(
        name=comparison.name,
        title=comparison.title,
        needs=comparison.needs,
        published=comparison.published,
        level=comparison.level,
        cell=comparison.cell,
        dtype=comparison.dtype,
        shape=(size.batch, size.time, size.features, size.hidden),
        initial=case.initial,
        baseline=baseline,
        sides=tuple(BenchSide(candidate=name) for name in comparison.sides),
        seed=limits.seed,
        budget=limits.budget,
    )
    left_out = measurable(comparison.needs, workers.facts(baseline))
    if left_out:
        return replace(line, left_out=left_out)
    workers.progress(f"{comparison.name}: preparing")
    before = machine()
    found = workers.sides(comparison.sides, control=control)
    running = [one for _, _, one in found if isinstance(one, Contestant)]
    measured, ended = sides(running, case, comparison.level, limits)
    return replace(
        line, sides=_merged(found, measured, workers), ended=ended, machine=_told(before, workers), left_out=""
    )


def _told(before: dict[str, str], workers: Workers) -> dict[str, str]:
    return {**machine(before), "threads of a side": str(workers.threads)}


def _merged(
    found: Sequence[tuple[str, bool, Contestant | Broken]], measured: Sequence[BenchSide], workers: Workers
) -> tuple[BenchSide, ...]:
    """The sides in their order, those without a worker among them."""
    done = {(side.candidate, side.control): side for side in measured}
    result = []
    for name, control, one in found:
        if isinstance(one, Broken):
            result.append(BenchSide(candidate=name, control=control, verdict=one))
        else:
            result.append(workers.described(done[name, control]))
    return tuple(result)


def scan(
    names: Sequence[str], shape: Shape, workers: Workers, limits: Limits, *, cell: str = "gru", cap: int = CAP
) -> ScanLine:
    """What the sides cost at one number of steps, the first of which is the baseline of the run times."""
    case = case_of(cell, shape, "float32")
    size = case.shape
    before = machine()
    results: dict[str, BenchSide] = {}
    running: list[Contestant] = []
    for name in names:
        if workers.candidates[name].variant.name.startswith("unrolled") and size.time > cap:
            text = f"not unrolled beyond T = {cap}: every step is traced and compiled once more (--cap {size.time})"
            results[name] = BenchSide(candidate=name, left_out=text)
            continue
        workers.progress(f"T={size.time}: compiling {name}")
        one = workers.contestant(name)
        side = BenchSide(candidate=name, verdict=one) if isinstance(one, Broken) else _costs(one, shape, cell)
        results[name] = side
        if isinstance(one, Contestant) and side.verdict is None:
            running.append(one)
    workers.progress(f"T={size.time}: running")
    measured, ended = sides(running, case, "layer", limits)
    for side in measured:
        results[side.candidate] = replace(side, costs=results[side.candidate].costs)
    return ScanLine(
        level="layer",
        cell=cell,
        dtype="float32",
        shape=(size.batch, size.time, size.features, size.hidden),
        initial=case.initial,
        baseline=names[0],
        sides=tuple(workers.described(results[name]) for name in names),
        seed=limits.seed,
        budget=limits.budget,
        ended=ended,
        machine=_told(before, workers),
    )


def _costs(one: Contestant, shape: Shape, cell: str) -> BenchSide:
    """What one side's program costs; a verdict where that could not be found out."""
    case = case_of(cell, shape, "float32")
    missing = one.variant.missing.get(cell)
    zeroed = () if missing is None else missing[0]
    answer = one.timer.costs(one.variant.declared(case.zeroed(zeroed)))
    side = BenchSide(candidate=one.name, zeroed=zeroed)
    if isinstance(answer, Broken):
        return replace(side, verdict=answer)
    path, costs = answer
    wanted = one.variant.attestable(cell, case.initial)
    if path not in wanted:
        why = f"another path was compiled: {path!r}, wanted {' or '.join(map(repr, wanted))}"
        return replace(side, path=path, verdict=Inconclusive(why=why))
    return replace(side, path=path, costs=costs)


def at(shape: Shape, time: int) -> Shape:
    """The same sizes with another number of steps."""
    return replace(shape, time=time)
