"""What the harness itself costs: campaigns beside the frameworks alone, in rounds that take turns.

Every round takes fresh cases; the sides get through the same ones, in an order that the next round takes backwards.
All answers are judged before a time counts: where one candidate disagrees, or does not answer, nothing is told. Workers
stay up, and have run every shape once before the first round.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from conformance.bench import machine
from conformance.block import Block
from conformance.campaign import BLOCK, Campaign, block_at, block_of
from conformance.case import Shape
from conformance.draws import CHUNK, forget
from conformance.examine import campaigned
from conformance.floor import CONTAINS, Floor
from conformance.host import Host
from conformance.inputs import lattice_of
from conformance.judge import judge, judge_block
from conformance.plan import Group, interpreter_of
from conformance.record import CandidateLine, HarnessLine, HarnessPoint, HarnessSide, Incident, Line
from conformance.recordfile import RecordWriter
from conformance.run import AT_ONCE, header
from conformance.settings import Settings
from conformance.signature import LATTICE, Signature
from conformance.startup import Handwritten, Turn, cold, startups
from conformance.verdict import Agrees, Broken

ROUNDS: Final = 5
CASES: Final = CHUNK * BLOCK
FEWER: Final = 8 * BLOCK
ONE_BY_ONE: Final = BLOCK
GROWTH: Final[Mapping[str, tuple[int, ...]]] = {
    "steps": (8, 32, 128, 512),
    "units": (8, 32, 128, 256),
    "cases": (32, 64, 128, 256),
}
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")

ADAPTERS: Final = (
    "the adapters' own seconds, one after another (weights and inputs loaded, the layer run, what ran attested, every "
    "number handed back), while nothing else runs; CPU: of the worker, with its reading of messages"
)
ENGINE: Final = (
    "the campaign as `run --cases` makes it, as many candidates side by side as there are cores: cases drawn, sent, "
    "run, judged, recorded"
)
CASE_BY_CASE: Final = "the same with a message and a judgement for every case instead of blocks"
JUDGING: Final = "judging the answers of the adapters, while nothing else runs"


class Bench(Struct):
    """Warm workers of some groups (one for each candidate), and the rounds of all sides."""

    groups: Sequence[Group]
    emit: Callable[[Line], None]
    scratch: Path
    seed: int = 0
    hosts: dict[str, Host] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    shapes: set[Shape] = field(default_factory=set)
    judged: tuple[float, float] = (0.0, 0.0)
    _latest: tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]] | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        for group in self.groups:
            candidate = group.candidate
            name = candidate.name
            interpreter = interpreter_of(candidate, lambda _: None)

            def incident(broken: Broken, name: str = name) -> None:
                self.emit(Incident(candidate=name, what=broken.message, stderr_tail=broken.stderr_tail))
                self.refuse(name, broken.message)

            def ready(
                version: str, facts: dict[str, str], group: Group = group, label: str = interpreter.label
            ) -> None:
                own = group.candidate
                self.emit(
                    CandidateLine(
                        name=own.name,
                        adapter=own.adapter.name,
                        framework=own.adapter.title,
                        variant=own.variant.name,
                        title=own.variant.title,
                        version=version,
                        environment=label,
                        facts=facts,
                    )
                )

            host = Host(candidate.adapter, candidate.variant, interpreter, incident=incident, ready=ready)
            self.hosts[name] = self._stack.enter_context(host)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def refuse(self, name: str, why: str) -> None:
        """Note that a candidate gave no answer that counts."""
        if f"{name}: {why}" not in self.refused:
            self.refused.append(f"{name}: {why}")

    def warm(self, shapes: Sequence[tuple[Shape, bool]] = LATTICE) -> None:
        """Have every worker run every shape once."""

        def run(group: Group) -> None:
            for shape, batched in shapes:
                self.answered(group, [self.made(group, shape, 0, 1, batched=batched)])

        self._each(run)

    def made(self, group: Group, shape: Shape, index: int, count: int, *, batched: bool = True) -> Block:
        """A block of one shape."""
        signature = Signature(shape=shape, batched=batched, seed=self.seed, scale=0.8, decimals=12, fills=())
        return block_of(signature, group, index, count)

    def blocks(self, group: Group, seed: int, cases: int) -> list[Block]:
        """The blocks of one round's campaign."""
        campaign = Campaign(cases={(group.requirement.name, group.dtype): cases})
        lattice = lattice_of(group.requirement, group.dtype)
        return [block_at(seed, group, index, count, lattice) for index, count in campaign.blocks(group)]

    def answered(self, group: Group, blocks: Sequence[Block]) -> float:
        """The adapter's own seconds for these blocks, each judged; whatever does not agree is refused."""
        host, seconds = self.hosts[group.candidate.name], 0.0
        for one in blocks:
            host.begin(one)
            answer = host.finish(one)
            seconds += answer.seconds
            if answer.observed is None or answer.apart:
                self.refuse(group.candidate.name, "a case was not answered")
                continue
            if not set(answer.paths) <= set(self.attestable(group, one)):
                self.refuse(group.candidate.name, "another path ran")
            wall, cpu = time.perf_counter(), time.thread_time()
            for _, verdict in judge_block(one, answer.places, answer.observed, ()):
                if not isinstance(verdict, Agrees):
                    self.refuse(group.candidate.name, f"a case {type(verdict).__name__.lower()}")
            self.judged = (
                self.judged[0] + time.perf_counter() - wall,
                self.judged[1] + time.thread_time() - cpu,
            )
            self.shapes.add(one.first.shape)
        return seconds

    def attestable(self, group: Group, one: Block) -> tuple[str, ...]:
        """The paths that a candidate may take in a block."""
        return tuple(group.candidate.variant.attestable(one.first.cell, one.first.initial, one.first.features))

    def alone(self, floor: Floor, seed: int, cases: int) -> Turn:
        """The frameworks alone."""
        return floor.turn([(group, self.blocks(group, seed, cases)) for group in self.groups])

    def adapters(self, seed: int, cases: int) -> tuple[float, float]:
        """The adapters alone."""
        return self._passed(seed, cases)[0]

    def engine(self, seed: int, cases: int, groups: Sequence[Group] | None = None) -> tuple[float, float]:
        """The campaign, as many candidates side by side as in a run, into a record of its own."""
        chosen = Settings(
            examples=0,
            seed=seed,
            campaign=Campaign(cases={(g.requirement.name, g.dtype): cases for g in self.groups}),
        )
        record = self.scratch / "campaign.jsonl"

        def march(group: Group, writer: RecordWriter) -> None:
            verdict = campaigned(group, self.hosts[group.candidate.name], chosen, writer.write)
            if not isinstance(verdict, Agrees):
                self.refuse(group.candidate.name, f"a campaign {type(verdict).__name__.lower()}")

        with self._clock() as took, RecordWriter(record, header(self.groups, chosen, ())) as writer:
            self._each(lambda group: march(group, writer), groups)
        return took[0], took[1]

    def case_by_case(self, seed: int, cases: int) -> tuple[float, float]:
        """The same without blocks."""

        def run(group: Group) -> None:
            host = self.hosts[group.candidate.name]
            for one in self.blocks(group, seed, cases):
                for place in range(one.count):
                    case = one.case(place)
                    answer = host.observe(case)
                    if isinstance(answer, Broken) or not isinstance(judge(case, answer.observed, ()), Agrees):
                        self.refuse(group.candidate.name, "a case does not agree")
                    elif answer.path not in self.attestable(group, one):
                        self.refuse(group.candidate.name, "another path ran")

        with self._clock() as took:
            self._each(run)
        return took[0], took[1]

    def judging(self, seed: int, cases: int) -> tuple[float, float]:
        """Judging alone, of the answers of the adapters."""
        return self._passed(seed, cases)[1]

    def _passed(self, seed: int, cases: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Adapters and judging of a round: both are told of the same answers, so workers give these once."""
        if self._latest is None or self._latest[0] != (seed, cases):
            self.judged = (0.0, 0.0)
            seconds, before = 0.0, self._workers()
            for group in self.groups:
                seconds += self.answered(group, self.blocks(group, seed, cases))
            self._latest = ((seed, cases), ((seconds, self._workers() - before), self.judged))
        return self._latest[1]

    def growth(self, axis: str, value: int) -> HarnessPoint:
        """What one size costs, everything else alike, after the programs of that size are there."""
        if axis in ("cases", "candidates"):
            cases = value if axis == "cases" else FEWER
            groups = self.groups[:value] if axis == "candidates" else None
            took = self.engine(self.seed + 7919, cases, groups)
            return HarnessPoint(axis=axis, value=value, cases=cases, seconds=took[0], cpu=took[1])
        size = Shape(batch=2, time=16, features=6, hidden=8)
        shape = replace(size, time=value) if axis == "steps" else replace(size, hidden=value)
        self.warm([(shape, True)])
        with self._clock() as spent:
            self._each(lambda group: self.grown(group, shape))
        return HarnessPoint(axis=axis, value=value, cases=BLOCK, seconds=spent[0], cpu=spent[1])

    def grown(self, group: Group, shape: Shape) -> None:
        """A block of one shape, drawn, sent, run and judged."""
        self.answered(group, [self.made(group, shape, 1, BLOCK)])

    def memory(self) -> dict[str, int]:
        """The most that each process has held, in bytes."""
        found = {"harness": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        for name, host in self.hosts.items():
            if host.pid is not None and (peak := peak_of(host.pid)):
                found[name] = peak
        return found

    def _each(self, run: Callable[[Group], None], groups: Sequence[Group] | None = None) -> None:
        chosen = self.groups if groups is None else groups
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            for future in [pool.submit(run, group) for group in chosen]:
                future.result()

    def _workers(self) -> float:
        return sum(busy_of(host.pid) for host in self.hosts.values() if host.pid is not None)

    @contextmanager
    def _clock(self) -> Iterator[list[float]]:
        """Seconds, and CPU seconds of the harness and its workers; nothing that was drawn before is kept."""
        forget()
        took: list[float] = []
        wall, cpu = time.perf_counter(), time.process_time() + self._workers()
        yield took
        took += [time.perf_counter() - wall, time.process_time() + self._workers() - cpu]


def measure(
    bench: Bench, hand: Handwritten, floor: Floor, *, rounds: int = ROUNDS, progress: Callable[[str], None]
) -> HarnessLine:
    """All rounds, start-ups and growths; a side that cannot be had here says why, and costs nothing else."""
    first = bench.groups[0]
    before = machine()
    line = HarnessLine(
        requirement=first.requirement.name,
        cell=first.requirement.cell,
        dtype=first.dtype,
        candidates=tuple(group.candidate.name for group in bench.groups),
        seed=bench.seed,
        sides=(),
    )
    progress("every worker runs every shape once")
    bench.warm()
    sides: dict[str, tuple[str, int, Callable[[int], Turn]]] = {
        "floor": (CONTAINS, CASES, lambda seed: bench.alone(floor, seed, CASES)),
        "adapters": (ADAPTERS, CASES, lambda seed: bench.adapters(seed, CASES)),
        "engine": (ENGINE, CASES, lambda seed: bench.engine(seed, CASES)),
        "case by case": (CASE_BY_CASE, ONE_BY_ONE, lambda seed: bench.case_by_case(seed, ONE_BY_ONE)),
        "judging": (JUDGING, CASES, lambda seed: bench.judging(seed, CASES)),
        "by hand": (hand.contains, 1, lambda _: hand.turn()),
    }
    found = take_turns(sides, rounds, bench.seed, progress, {"by hand": hand.left_out})
    memory = bench.memory()
    compiled = {group.candidate.name: len(bench.shapes) for group in bench.groups}
    points = []
    for axis, values in {**GROWTH, "candidates": tuple(range(1, len(bench.groups) + 1))}.items():
        progress(f"costs against {axis}")
        points += [bench.growth(axis, value) for value in values]
    progress("start-up")
    found += cold([group.candidate.name for group in bench.groups], first.requirement.name, hand, bench.scratch)
    found += startups(hand, bench.scratch, progress)
    hand.stop()
    memory |= {"by hand": hand.peak} if hand.peak else {}
    return replace(
        line,
        sides=tuple(found),
        points=tuple(points),
        refused=tuple(bench.refused),
        programs=compiled,
        memory=memory,
        machine=machine(before),
    )


def take_turns(
    sides: Mapping[str, tuple[str, int, Callable[[int], Turn]]],
    rounds: int,
    seed: int,
    progress: Callable[[str], None],
    left_out: Mapping[str, str],
) -> list[HarnessSide]:
    """Time all sides in rounds; every order is followed by its reverse. A side that gives out is left out."""
    generator = np.random.default_rng(seed)
    gone = {name: why for name, why in left_out.items() if why}
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    order = list(sides)
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        order = order[::-1] if number % 2 else [list(sides)[place] for place in generator.permutation(len(sides))]
        for name in order:
            if name in gone:
                continue
            turn = sides[name][2](seed + 1 + number)
            if isinstance(turn, str):
                gone[name] = turn
            else:
                took[name].append(turn)
    return [
        HarnessSide(
            name=name,
            contains=contains,
            cases=cases,
            seconds=() if name in gone else tuple(wall for wall, _ in took[name]),
            cpu=() if name in gone else tuple(cpu for _, cpu in took[name]),
            left_out=gone.get(name, ""),
        )
        for name, (contains, cases, _) in sides.items()
    ]


def busy_of(pid: int, proc: Path = Path("/proc")) -> float:
    """The CPU seconds of a process and its threads; 0 where the system does not tell."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK
    except (OSError, ValueError, IndexError):
        return 0.0


def peak_of(pid: int, proc: Path = Path("/proc")) -> int:
    """The most bytes that a process has held; 0 where the system does not tell."""
    try:
        lines = (proc / str(pid) / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0
