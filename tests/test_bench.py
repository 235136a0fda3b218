"""Benchmarks: who takes turns with whom, what is refused, when it ends; with made-up clocks, never with real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from conformance.bench import (
    BATCH_SECONDS,
    LEAST_ROUNDS,
    OVERDRAFT,
    Contestant,
    Limits,
    agrees,
    first_rows,
    judged_rows,
    machine,
    processor,
    sides,
)
from conformance.candidate import Variant, parse_spec
from conformance.case import Case, Shape
from conformance.cells import cell_named
from conformance.compare import Observed
from conformance.comparisons import TABLE, case_of, measurable
from conformance.contest import SCAN_SIDES
from conformance.discover import find_adapters, read_adapter
from conformance.environments import current
from conformance.faults import CATALOGUE
from conformance.host import Host
from conformance.judge import observed_of, planted
from conformance.plan import candidates_for
from conformance.record import BenchSide, Costs
from conformance.report.speed import implementation
from conformance.stopwatch import Batch, Preparation, Stopwatch
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable
from conformance.worker.api import CompileCosts, Level, Prepared, WorkerCase
from conformance.worker.stopwatch import ContractError, costs
from conformance.worker.stopwatch import Stopwatch as WorkerStopwatch

TIMED = Path(__file__).parent / "miniatures" / "timed"
SMALL = Shape(batch=2, time=5, features=3, hidden=4)


@dataclass
class Clock:
    """Seconds that pass only when somebody says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fake:
    """A side whose calls take `seconds(round)`; it writes down who was asked when."""

    name: str
    clock: Clock
    log: list[str]
    seconds: Callable[[int], float] = lambda turn: 0.01
    path: str = "loop(x, h0)"
    fault: str = ""
    breaks_after: int = 10**9
    turns: int = 0
    asked: list[tuple[int, int]] = field(default_factory=list)

    def prepare(self, case: Case, level: Level) -> Preparation | Broken:
        """The reference's own numbers, or those of a fault."""
        if self.fault:
            observed = planted(case, CATALOGUE[case.cell][self.fault])
        else:
            found = observed_of(cell_named(case.cell).run(case))
            observed = Observed(
                outputs=found.outputs.astype(np.float32).astype(float),
                final_state=found.outputs[:, -1].astype(np.float32).astype(float),
            )
        return Preparation(path=self.path, observed=observed, seconds=0.5)

    def time(self, calls: int, warm: int) -> Batch | Broken:
        """Calls that take what the plan says."""
        self.log.append(self.name)
        self.asked.append((calls, warm))
        self.turns += 1
        if self.turns > self.breaks_after:
            return Broken(kind="crash", message="gone")
        each = self.seconds(self.turns)
        self.clock.now += each * (calls + warm)
        return Batch(seconds=(each,) * calls, cpu=each * calls)

    def costs(self, case: Case) -> tuple[str, Costs] | Broken:
        """Not asked here."""
        raise AssertionError


def variant(name: str = "loop") -> Variant:
    """A variant of the miniature."""
    return read_adapter(TIMED).variants[name]


def contest(
    fakes: Sequence[Fake], limits: Limits, *, shape: Shape = SMALL, level: Level = "layer"
) -> tuple[tuple[BenchSide, ...], str]:
    """All fakes on one case; they declare the path `loop(x, h0)`."""
    contestants = [Contestant(name=fake.name, variant=variant(), timer=fake) for fake in fakes]
    return sides(contestants, case_of("gru", shape, "float32"), level, limits, clock=fakes[0].clock)


def fakes(count: int, **options: object) -> list[Fake]:
    """Some sides with one clock and one log."""
    clock, log = Clock(), []
    return [Fake(name="abcdefgh"[place], clock=clock, log=log, **options) for place in range(count)]  # type: ignore[arg-type]  # keyword options of one dataclass


def rounds_of(log: Sequence[str], count: int, rounds: int) -> list[tuple[str, ...]]:
    """The last turns of a log, round by round."""
    turns = log[-count * rounds :]
    return [tuple(turns[place : place + count]) for place in range(0, len(turns), count)]


def test_sides_take_turns_and_every_order_is_followed_by_its_reverse() -> None:
    """Each round times every side once; the seed decides the order, and nothing else does."""
    found = fakes(3)
    timed, ended = contest(found, Limits(budget=1e9, rounds=40, seed=4))
    orders = rounds_of(found[0].log, 3, 40)
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert all(second == first[::-1] for first, second in zip(orders[::2], orders[1::2], strict=True))
    assert len(set(orders)) == 6
    assert ended == "40 rounds, as asked for"
    assert [len(side.seconds) for side in timed] == [40, 40, 40]
    again = fakes(3)
    contest(again, Limits(budget=1e9, rounds=40, seed=4))
    assert again[0].log == found[0].log
    other = fakes(3)
    contest(other, Limits(budget=1e9, rounds=40, seed=5))
    assert other[0].log != found[0].log


@pytest.mark.parametrize(("seconds", "calls", "warm"), [(1e-4, 250, 1), (0.01, 2, 1), (0.5, 1, 0), (1e-9, 5000, 1)])
def test_a_batch_lasts_long_enough_to_be_timed(seconds: float, calls: int, warm: int) -> None:
    """As many calls as fill 25 ms, within limits; a call as long as a batch needs no warm one before it."""
    assert BATCH_SECONDS == 0.025
    (only,) = fakes(1, seconds=lambda turn: seconds)
    timed, _ = contest([only], Limits(budget=1e9, rounds=7))
    assert only.asked[-7:] == [(calls, warm)] * 7
    assert timed[0].calls == calls
    assert timed[0].seconds == (seconds,) * 7
    assert timed[0].cpu == pytest.approx((seconds,) * 7)


def test_rounds_end_when_every_interval_is_narrow() -> None:
    """Equal seconds are told after the least number of rounds that is looked at."""
    _, ended = contest(fakes(3), Limits(budget=1e9))
    assert ended == "every interval is narrow enough after 20 rounds"


def test_rounds_end_with_the_budget_and_say_so() -> None:
    """A noisy side never becomes narrow: the budget ends it, and it is no further overdrawn than by one round."""
    generator = np.random.default_rng(0)
    first, second = fakes(2)
    second.seconds = lambda turn: float(generator.uniform(0.005, 0.05))
    timed, ended = contest([first, second], Limits(budget=5.0))
    assert ended.startswith("the budget of 5 s is used up after ")
    assert len(timed[0].seconds) == len(timed[1].seconds) > LEAST_ROUNDS


def test_slow_sides_get_the_rounds_that_an_interval_needs_but_not_without_end() -> None:
    """Six rounds beyond the budget, unless they overdraw it many times."""
    timed, _ = contest(fakes(2, seconds=lambda turn: 1.0), Limits(budget=6.0))
    assert len(timed[0].seconds) == LEAST_ROUNDS
    timed, _ = contest(fakes(2, seconds=lambda turn: 10.0), Limits(budget=6.0))
    assert len(timed[0].seconds) * 20.0 <= OVERDRAFT * 6.0 + 20.0
    assert len(timed[0].seconds) < LEAST_ROUNDS


def test_a_side_that_computes_something_else_is_not_timed() -> None:
    """It diverges, with the fault's name, and no message asks it for seconds."""
    good, bad = fakes(2)
    bad.fault = "update_flip"
    timed, _ = contest([good, bad], Limits(budget=1e9, rounds=6))
    assert isinstance(timed[0].verdict, Agrees)
    assert timed[0].verdict.compared > 0
    assert isinstance(timed[1].verdict, Diverges)
    assert "update_flip" in timed[1].verdict.faults
    assert timed[1].seconds == ()
    assert bad.asked == []


def test_a_side_on_another_path_is_not_timed() -> None:
    """Whatever it computes: what would be timed is not what was asked for."""
    good, bad = fakes(2)
    bad.path = "fused loop(x, h0)"
    timed, _ = contest([good, bad], Limits(budget=1e9, rounds=6))
    assert isinstance(timed[1].verdict, Inconclusive)
    assert "another path ran: 'fused loop(x, h0)'" in timed[1].verdict.why
    assert bad.asked == []


def test_a_side_that_breaks_costs_nobody_else_a_round() -> None:
    """It drops out; the others keep all their rounds, still in pairs."""
    found = fakes(3)
    found[1].breaks_after = 10
    timed, _ = contest(found, Limits(budget=1e9, rounds=30))
    assert [len(side.seconds) for side in timed] == [30, 0, 30]
    assert timed[1].verdict == Broken(kind="crash", message="gone")
    last = rounds_of(found[0].log, 2, 10)
    assert all(set(order) == {"a", "c"} for order in last)


def test_nothing_that_could_be_timed_is_said() -> None:
    """Every side diverges: no rounds, and no crash."""
    timed, ended = contest(fakes(2, fault="update_flip"), Limits(budget=1e9))
    assert ended == "nothing could be timed"
    assert not any(side.seconds for side in timed)


def test_long_cases_are_judged_by_rows() -> None:
    """As many rows as fit, at least one; each is the whole row."""
    case = case_of("gru", Shape(batch=4, time=6, features=3, hidden=4), "float32")
    assert judged_rows(case) == 4
    part = first_rows(case, 2)
    assert part.shape.batch == 2
    assert np.array_equal(part.x, case.x[:2])
    assert np.array_equal(part.h0, case.h0[:2])
    memory = first_rows(case_of("lstm", Shape(batch=4, time=6, features=3, hidden=4), "float32"), 1)
    assert memory.c0 is not None
    assert memory.c0.shape == (1, 4)


def test_an_agreement_on_nothing_is_none() -> None:
    """Neither alone nor of a subspace."""
    empty = Agrees(excluded=frozenset(), share=0.0, compared=0)
    full = Agrees(excluded=frozenset(), share=0.1, compared=9)
    assert not agrees(empty)
    assert not agrees(None)
    assert agrees(full)
    for inner, holds in ((empty, False), (full, True), (None, False)):
        wrapped = Unrepresentable(parameters=("b_hn",), owner="upstream", reason="", link="", subspace=inner)
        assert agrees(wrapped) is holds


class TestWorkers:
    """Real workers of the miniature; nothing is asserted about their seconds."""

    def stopwatch(self, name: str) -> tuple[Host, Stopwatch]:
        """A worker of one variant."""
        host = Host(
            read_adapter(TIMED),
            variant(name),
            current(),
            incident=lambda broken: None,
            ready=lambda version, facts: None,
            case_seconds=20.0,
        )
        return host, Stopwatch(host)

    @pytest.mark.parametrize(
        ("name", "kind", "text"),
        [
            ("raises", "exception", "ArithmeticError: no such luck <b>"),
            ("crashes", "crash", "exit code -6"),
            ("nothing", "contract", "prepare() returned dict"),
            ("shape", "contract", "outputs has shape (2, 4, 4), wanted (2, 5, 4)"),
        ],
    )
    def test_what_breaks_has_its_own_outcome(self, name: str, kind: str, text: str) -> None:
        """In the preparation, or in the calls."""
        host, stopwatch = self.stopwatch(name)
        with host:
            limits = Limits(budget=1e9, rounds=6)
            one = Contestant(name=name, variant=variant(name), timer=stopwatch)
            (side,), _ = sides([one], case_of("gru", SMALL, "float32"), "layer", limits)
        assert isinstance(side.verdict, Broken)
        assert side.verdict.kind == kind
        assert text in side.verdict.message
        assert side.seconds == ()

    def test_a_call_is_prepared_judged_and_timed(self) -> None:
        """Every round has a time; the attested path of the cell's level is one of its own."""
        host, stopwatch = self.stopwatch("other")
        with host:
            limits = Limits(budget=1e9, rounds=6)
            one = Contestant(name="other", variant=variant("other"), timer=stopwatch)
            for level, path in (("layer", "other loop(x, h0)"), ("cell", "cell of the other loop")):
                (side,), _ = sides([one], case_of("gru", SMALL, "float32"), level, limits)  # type: ignore[arg-type]  # both are levels
                assert isinstance(side.verdict, Agrees)
                assert side.path == path
                assert len(side.seconds) == len(side.cpu) == 6
                assert all(seconds > 0 for seconds in side.seconds)

    def test_nothing_is_timed_after_the_worker_has_died(self) -> None:
        """A new worker has nothing prepared; it is not even started for that."""
        host, stopwatch = self.stopwatch("crashes")
        with host:
            assert not isinstance(stopwatch.prepare(case_of("gru", SMALL, "float32"), "layer"), Broken)
            first = stopwatch.time(5, 0)
            second = stopwatch.time(5, 0)
            assert host.pid is None
        assert isinstance(first, Broken)
        assert isinstance(second, Broken)
        assert "is gone" in second.message

    def test_timing_before_preparing_breaks_the_contract(self) -> None:
        """The worker says so, and stays."""
        host, stopwatch = self.stopwatch("loop")
        with host:
            assert not isinstance(stopwatch.costs(case_of("gru", SMALL, "float32")), Broken)
            answer = stopwatch.time(1, 0)
            assert isinstance(answer, Broken)
            assert "nothing is prepared" in answer.message
            assert host.pid is not None

    def test_parameters_without_a_place_are_at_zero(self) -> None:
        """The side is judged and timed on its own subspace, and says so."""
        host, stopwatch = self.stopwatch("no_b_hn")
        with host:
            one = Contestant(name="x", variant=variant("no_b_hn"), timer=stopwatch)
            (side,), _ = sides([one], case_of("gru", SMALL, "float32"), "layer", Limits(budget=1e9, rounds=6))
        assert side.zeroed == ("b_hn",)
        assert isinstance(side.verdict, Unrepresentable)
        assert agrees(side.verdict)
        assert len(side.seconds) == 6


class TestStopwatch:
    """The worker's half, with a clock of its own."""

    def case(self) -> WorkerCase:
        """A case that nobody looks into."""
        return WorkerCase("gru", "loop", "float32", {}, np.zeros((1, 2, 3)), None, 4, batched=True)

    def adapter(self, call: Callable[[], object]) -> object:
        """An adapter that prepares `call`."""

        class Adapter:
            @staticmethod
            def prepare(case: WorkerCase, level: str) -> Prepared:
                return Prepared(call=call, path=level, outputs=np.zeros((1, 2, 4), np.float32))

            @staticmethod
            def compile_costs(case: WorkerCase) -> CompileCosts:
                return CompileCosts("compiled", 1.0, 2.0, 300, 40)

        return Adapter

    def test_only_the_calls_are_timed(self) -> None:
        """Warm calls and what lies between calls are not."""
        clock = Clock()

        def call() -> None:
            clock.now += 2.0

        def cpu() -> float:
            clock.now += 100.0  # what the stopwatch itself does
            return clock.now / 10

        stopwatch = WorkerStopwatch(clock=clock, cpu=cpu)
        prepared = stopwatch.prepare(self.adapter(call), self.case(), "cell")
        assert (prepared.kind, prepared.body["path"]) == ("prepared", "cell")
        timed = stopwatch.time(3, 2)
        assert timed.body["seconds"] == [2.0, 2.0, 2.0]
        assert timed.body["cpu"] == pytest.approx((6.0 + 100.0) / 10)

    def test_the_collector_is_off_while_a_batch_runs_and_on_again_after_a_failure(self) -> None:
        """Nobody pays for another one's garbage; an exception does not leave it off."""
        import gc

        seen = []

        def call() -> None:
            seen.append(gc.isenabled())
            if len(seen) > 2:
                raise ArithmeticError

        stopwatch = WorkerStopwatch()
        stopwatch.prepare(self.adapter(call), self.case(), "layer")
        assert gc.isenabled()
        with pytest.raises(ArithmeticError):
            stopwatch.time(3, 0)
        assert seen == [False, False, False]
        assert gc.isenabled()

    @pytest.mark.parametrize(("calls", "warm"), [(0, 0), (-1, 0), (1, -1), (10**9, 0)])
    def test_absurd_questions_are_refused(self, calls: int, warm: int) -> None:
        """No call at all is not a batch, and no batch is endless."""
        stopwatch = WorkerStopwatch()
        stopwatch.prepare(self.adapter(lambda: None), self.case(), "layer")
        with pytest.raises(ContractError, match="asked for"):
            stopwatch.time(calls, warm)

    def test_a_preparation_that_fails_leaves_nothing_to_be_timed(self) -> None:
        """The call before it must not be timed in its place."""
        stopwatch = WorkerStopwatch()
        stopwatch.prepare(self.adapter(lambda: None), self.case(), "layer")
        with pytest.raises(ContractError, match="offers no prepare"):
            stopwatch.prepare(object(), self.case(), "layer")
        with pytest.raises(ContractError, match="nothing is prepared"):
            stopwatch.time(1, 0)

    def test_costs_are_passed_on(self) -> None:
        """Names and numbers; an adapter without them says so."""
        assert costs(self.adapter(lambda: None), self.case()).body == {
            "path": "compiled",
            "trace_seconds": 1.0,
            "compile_seconds": 2.0,
            "characters": 300,
            "operations": 40,
        }
        with pytest.raises(ContractError, match="offers no compile_costs"):
            costs(object(), self.case())


def test_every_side_of_the_table_is_shipped_and_can_be_asked() -> None:
    """Each has the cell, the dtype and a given initial state; the scans' sides, too."""
    adapters = find_adapters()
    names = {side for one in TABLE for side in one.sides} | set(SCAN_SIDES)
    found = {c.name: c for c in candidates_for(adapters, [parse_spec(name) for name in sorted(names)])}
    for one in TABLE:
        assert len(one.sides) >= 2
        assert len(set(one.sides)) == len(one.sides)
        for name in one.sides:
            assert one.cell in found[name].variant.cells, (one.name, name)
            assert one.dtype in found[name].variant.dtypes
            assert "given" in found[name].variant.paths
    assert len({one.name for one in TABLE}) == len(TABLE)


def test_the_table_holds_the_headline_and_the_same_shapes_for_here() -> None:
    """The published rows need Metal; each has a row of its shape, level and cell that needs nothing."""
    needy = [one for one in TABLE if one.needs == "metal"]
    assert [(one.level, one.cell) for one in needy] == [
        ("layer", "gru"),
        ("layer", "lstm"),
        ("cell", "gru"),
        ("cell", "lstm"),
    ]
    told = [one.published for one in needy]
    assert [None if p is None else p.ratio for p in told] == [3.9, 2.25, 2.0, 1.8]
    times = [(p.baseline, p.other) for p in told if p is not None and p.baseline is not None]
    assert times == [pytest.approx(pair) for pair in ((0.31e-3, 0.08e-3), (0.18e-3, 0.08e-3), (1e-4, 5e-5))]
    here = {(one.level, one.cell, one.shape) for one in TABLE if not one.needs}
    assert all((one.level, one.cell, one.shape) in here for one in needy)
    assert (needy[0].shape.batch, needy[0].shape.time, needy[0].shape.hidden) == (32, 40, 200)
    assert (needy[2].shape.batch, needy[2].shape.time, needy[2].shape.hidden) == (64, 20, 200)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"device": "Device(gpu, 0)", "platform": "Darwin arm64"}, ""),
        ({"device": "Device(cpu, 0)", "platform": "Darwin arm64"}, "it needs Metal, and the device is Device(cpu, 0)"),
        ({"device": "Device(gpu, 0)", "platform": "Linux x86_64"}, "it needs Metal, and the device is Device(gpu, 0)"),
        ({}, "it needs Metal, and the device is unknown"),
        (None, "it needs Metal, and the device is unknown"),
    ],
)
def test_metal_is_what_a_worker_says_it_is(facts: dict[str, str] | None, reason: str) -> None:
    """A row that needs Metal is measured on a GPU of macOS, and says why it is not elsewhere."""
    told = measurable("metal", facts)
    assert told == (f"not measured here: {reason}" if reason else "")
    assert measurable("", facts) == ""


def test_cases_are_generic_given_and_always_the_same() -> None:
    """One seed, no zeros, a given state; an LSTM has a memory."""
    one, other = case_of("lstm", SMALL, "float32"), case_of("lstm", SMALL, "float32")
    assert one.digest == other.digest
    assert one.initial == "given"
    assert one.c0 is not None
    assert all(np.all(values != 0) for values in (*one.parameters.values(), one.h0, one.c0))


def test_the_machine_says_what_it_is(tmp_path: Path) -> None:
    """Processor, cores, load before and after."""
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A Processor\nmodel name\t: A Processor\n", encoding="utf-8")
    assert processor(info) == "A Processor"
    assert processor(tmp_path / "missing")
    before = machine()
    assert before.keys() == {"processor", "cores", "load before"}
    assert machine(before).keys() == {"processor", "cores", "load before", "load after"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("mlx.nn.GRU(x, hidden), no switch in this release", "mlx.nn.GRU(x)", True),
        ("torch.nn.GRUCell, first called with hx", "torch.nn.GRUCell, first called without hx", True),
        ("mlx.nn.GRU(x, hidden=zeros) +strided", "mlx.nn.GRU(x, hidden)", True),
        ("mlx.nn.GRU(x, hidden), under mx.compile", "mlx.nn.GRU(x, hidden)", False),
        ("flax.nnx.RNN(LSTMCell)(x, initial_carry)", "flax.nnx.RNN(OptimizedLSTMCell)(x, initial_carry)", False),
        ("loop(x, hidden), mx.compile kernel at every step", "loop(x, hidden), mx.fast cell at every step", False),
        ("jax.lax.scan(flax.nnx.GRUCell, carry, x)", "flax.nnx.scan(flax.nnx.GRUCell, carry, x)", False),
    ],
)
def test_paths_are_the_same_when_only_the_call_is_spelled_apart(one: str, other: str, same: bool) -> None:
    """Argument names, first calls and features spell; layers, kernels and transformations are code."""
    left, right = BenchSide(candidate="mlx:a", path=one), BenchSide(candidate="mlx:b", path=other)
    assert (implementation(left) == implementation(right)) is same
    newer = BenchSide(candidate="mlx:a==0.31.1", path=one, version="0.31.1")
    assert implementation(left) != implementation(newer)
    assert implementation(left) != implementation(BenchSide(candidate="torch:a", path=one))


def test_pairs_of_orders_even_out_who_comes_first() -> None:
    """Over many rounds every side is before every other one equally often."""
    found = fakes(4)
    contest(found, Limits(budget=1e9, rounds=60))
    before = dict.fromkeys(((a, b) for a in "abcd" for b in "abcd" if a != b), 0)
    for order in rounds_of(found[0].log, 4, 60):
        for one, other in pairwise(order):
            before[one, other] += 1
    for (one, other), count in before.items():
        assert count == before[other, one]
