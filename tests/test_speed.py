"""What is told of timings: no speed-up without different code, agreement and an interval, whatever a record holds."""

from __future__ import annotations

import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from conformance.cli import main
from conformance.cli.bench import parse_shape
from conformance.errors import SpecError
from conformance.ratio import paired_ratio, spread
from conformance.record import (
    FORMAT,
    BenchLine,
    BenchSide,
    CandidateLine,
    Costs,
    Footer,
    Header,
    Line,
    Published,
    Record,
    ScanLine,
)
from conformance.recordfile import RecordWriter, read_record
from conformance.report.bench import scan_remarks
from conformance.report.html import render_html
from conformance.report.outcome import exit_code, headline
from conformance.report.speed import conclusion, control_of, ratio_text, speed_limits, spread_text, time_text
from conformance.report.speed_chart import growth, intervals
from conformance.report.text import print_summary
from conformance.verdict import Agrees, Broken, Diverges, Evidence, Inconclusive, Unrepresentable, Verdict

EVIL = "<script>alert(1)</script> ]]> <!-- \" ' & {{ 7*7 }} {% raw %}"
GOOD = Agrees(excluded=frozenset(), share=0.1, compared=100)
BAD = Diverges(
    faults=("update_flip",),
    evidence=Evidence(
        output="outputs",
        first=(0, 0, 0),
        expected=1.0,
        observed=2.0,
        bound=1e-6,
        largest_difference=1.0,
        share=1e6,
        outside=3,
        compared=9,
    ),
)
TIMED = Path(__file__).parent / "miniatures" / "timed"


def noisy(typical: float, *, seed: int, noise: float = 0.01, rounds: int = 30) -> tuple[float, ...]:
    """Seconds around a typical one."""
    return tuple(float(v) for v in typical * np.exp(np.random.default_rng(seed).normal(0, noise, rounds)))


def side(name: str, typical: float, path: str, *, seed: int = 0, **more: Any) -> BenchSide:
    """A side that agrees, with seconds of its own."""
    fields: dict[str, Any] = {"verdict": GOOD, "seconds": noisy(typical, seed=seed), "cpu": noisy(typical, seed=seed)}
    return BenchSide(candidate=name, path=path, calls=3, rows=32, **{**fields, **more})


def line(*others: BenchSide, control: BenchSide | None = None, **more: Any) -> BenchLine:
    """A comparison with a baseline of 1 ms and a control of the same."""
    again = control or side("mlx:legacy", 1e-3, "mlx.nn.GRU(x, hidden)", seed=2, control=True)
    fields: dict[str, Any] = {
        "name": "layer-gru",
        "title": "GRU, layer level",
        "level": "layer",
        "cell": "gru",
        "dtype": "float32",
        "shape": (32, 40, 200, 200),
        "initial": "given",
        "baseline": "mlx:legacy",
        "sides": (side("mlx:legacy", 1e-3, "mlx.nn.GRU(x, hidden)", seed=1), *others, again),
        "seed": 0,
        "budget": 8.0,
        "ended": "30 rounds, as asked for",
        "machine": {"processor": "A Processor"},
    }
    return BenchLine(**{**fields, **more})


def record_of(path: Path, *lines: Line, finished: bool = True) -> Record:
    """Written and read again."""
    header = Header(
        format=FORMAT,
        harness="0",
        started="now",
        seed=0,
        examples=0,
        arguments=("bench",),
        candidates=("mlx:legacy",),
        requirements=(),
        faults={},
    )
    with RecordWriter(path / "bench.jsonl", header) as writer:
        for one in lines:
            writer.write(one)
        if finished:
            writer.write(Footer(finished="then", trials=0, findings=0))
    return read_record(path / "bench.jsonl")


def shown(record: Record, width: int = 100) -> str:
    """The terminal's text."""
    console = Console(file=io.StringIO(), width=width)
    print_summary(record, console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def told(own: BenchSide, **more: Any) -> Any:
    """The conclusion on one side beside the usual baseline and control."""
    whole = line(own, **more)
    return conclusion(whole, whole.sides[1])


def test_a_real_difference_is_told_with_its_interval() -> None:
    """Twice as fast, and half as fast."""
    fast = told(side("mlx:fast", 0.5e-3, "loop(x, hidden), mx.compile kernel", seed=3))
    slow = told(side("mlx:fast", 2e-3, "loop(x, hidden), mx.compile kernel", seed=3))
    assert fast.kind == "faster"
    assert fast.ratio.low < 2.0 < fast.ratio.high
    assert fast.cpu is not None
    assert slow.kind == "slower"
    assert slow.ratio.low < 0.5 < slow.ratio.high
    assert re.fullmatch(r"(1\.9|2\.0)\d. \[(1\.9|2\.0)\d, (1\.9|2\.0)\d\]", ratio_text(fast.ratio))


def test_the_same_path_is_no_speed_up_whatever_the_clock_says() -> None:
    """The planted trap: identical code that looks 1.5 times faster (it once did, 51 against 33 ms)."""
    trap = told(side("mlx:fast", 0.65e-3, "mlx.nn.GRU(x), no switch in this release", seed=3))
    assert trap.kind == "same path"
    assert trap.ratio is None
    assert "no speed-up" in trap.text


def test_what_the_same_code_differs_by_is_told_of_nobody() -> None:
    """A control that is 1.2 times apart hides a side that is 1.1 times faster, and not one that is twice as fast."""
    control = side("mlx:legacy", 1.2e-3, "mlx.nn.GRU(x, hidden)", seed=2, control=True)
    near = told(side("mlx:fast", 0.9e-3, "loop", seed=3), control=control)
    far = told(side("mlx:fast", 0.5e-3, "loop", seed=3), control=control)
    assert near.kind == "alike"
    assert near.ratio.low > 1
    assert "beyond that of the same code" in near.text
    assert far.kind == "faster"


@pytest.mark.parametrize(("typical", "kind"), [(0.1e-3, "wide"), (0.05e-3, "faster"), (0.2e-3, "wide")])
def test_on_a_busy_machine_cpu_seconds_must_show_the_difference_too(typical: float, kind: str) -> None:
    """The planted trap: a scheduler that lets one of two equal processes wait four times as long."""
    busy = {"cpu": noisy(0.1e-3, seed=9)}
    whole = line(side("mlx:fast", 0.25e-3, "loop", seed=3, cpu=noisy(typical, seed=4)))
    first = msgspec.structs.replace(whole.sides[0], **busy)
    crowded_line = msgspec.structs.replace(whole, sides=(first, *whole.sides[1:]))
    told_ = conclusion(crowded_line, crowded_line.sides[1])
    assert told_.kind == kind
    assert told_.ratio is not None
    assert told_.ratio.low > 3
    idle = told(side("mlx:fast", 0.25e-3, "loop", seed=3, cpu=noisy(0.25e-3, seed=4)))
    assert idle.kind == "faster"


def test_equal_sides_and_noisy_sides_are_told_apart() -> None:
    """No difference seen; or the interval is too wide to say even that."""
    assert told(side("mlx:fast", 1e-3, "loop", seed=3)).text == "no difference seen"
    noise = noisy(1e-3, seed=5, noise=0.8)
    assert told(side("mlx:fast", 1e-3, "loop", seconds=noise)).kind == "wide"


@pytest.mark.parametrize(
    ("verdict", "kind", "text"),
    [
        (BAD, "refused", "computes something else like update_flip"),
        (Inconclusive(why="another path ran: 'x'"), "refused", "another path ran"),
        (Broken(kind="crash", message="gone"), "broken", "broken: gone"),
        (Agrees(excluded=frozenset(), share=0.0, compared=0), "refused", "nothing was compared"),
        (None, "refused", "not run"),
    ],
    ids=["diverges", "path", "broken", "vacuous", "none"],
)
def test_sides_that_may_not_be_compared_are_not(verdict: Verdict | None, kind: str, text: str) -> None:
    """Not even where the record holds seconds for them; nor is anybody compared with such a baseline."""
    bad = told(side("mlx:fast", 0.5e-3, "loop", verdict=verdict))
    assert (bad.kind, bad.ratio) == (kind, None)
    assert text in bad.text
    whole = line(side("mlx:fast", 0.5e-3, "loop"))
    spoiled = msgspec.structs.replace(
        whole, sides=(msgspec.structs.replace(whole.sides[0], verdict=verdict), *whole.sides[1:])
    )
    after = conclusion(spoiled, spoiled.sides[1])
    assert after.ratio is None
    assert "no baseline" in after.text


def test_a_subspace_that_agrees_is_compared_and_said() -> None:
    """A cell without b_hn is timed with b_hn at zero."""
    verdict = Unrepresentable(parameters=("b_hn",), owner="upstream", reason="none", link="", subspace=GOOD)
    own = side("flax-nnx:rnn", 0.5e-3, "flax.nnx.RNN(GRUCell)(x)", verdict=verdict, zeroed=("b_hn",))
    assert told(own).kind == "faster"


@pytest.mark.parametrize("seconds", [(1.0,) * 5, (1.0,) * 29, (0.0,) * 30, (-1.0,) * 30, (1e308,) * 29 + (1e-308,), ()])
def test_seconds_that_make_no_ratio_give_none(seconds: tuple[float, ...]) -> None:
    """Too few, not in pairs, no times at all: no ratio, no exception."""
    found = told(side("mlx:fast", 1.0, "loop", seconds=seconds))
    assert found.kind in ("refused", "slower")
    assert found.kind == "refused" or found.ratio is not None


def test_a_control_that_ran_something_else_is_no_control() -> None:
    """Then nothing is told of anybody."""
    control = side("mlx:legacy", 1e-3, "something else", seed=2, control=True)
    whole = line(side("mlx:fast", 0.5e-3, "loop", seed=3), control=control)
    assert control_of(whole) is None
    assert conclusion(whole, whole.sides[1]).ratio is None


def test_metal_rows_say_that_they_were_not_measured_here(tmp_path: Path) -> None:
    """With their published figures, on every surface, and never as something measured."""
    metal = line(
        side("mlx:fast", 0.5e-3, "loop"),
        left_out="not measured here: it needs Metal, and the device is Device(cpu, 0)",
        needs="metal",
        published=Published(ratio=3.9, baseline=0.31e-3, other=0.08e-3, source="https://example.org/3089, on Metal"),
    )
    metal = msgspec.structs.replace(metal, sides=(BenchSide(candidate="mlx:legacy"), BenchSide(candidate="mlx:fast")))
    record = record_of(tmp_path, line(side("mlx:fast", 0.5e-3, "loop", seed=3)), metal)
    page, text = render_html(record), " ".join(shown(record).split())
    for surface in (page, text):
        assert "not measured here: it needs Metal, and the device is Device(cpu, 0)" in surface
        assert re.search(r"about 3\.9. \(310\s.s → 80\s.s\)", surface)
    assert re.fullmatch(
        r"1 of 2 comparisons measured here; mlx:fast is [12]\.\d\d\S \[.+\] as fast as mlx:legacy\.", headline(record)
    )
    assert "not measured here: it needs Metal, and the device is Device(cpu, 0) (GRU, layer level)" in page
    assert exit_code(record) == 0


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (
            (side("mlx:fast", 0.5e-3, "loop"),),
            r"mlx:fast is \S+ \[\S+ \S+\] as fast as mlx:legacy: GRU, layer level, batch 32, .*",
        ),
        ((side("mlx:fast", 2e-3, "loop"),), r"mlx:fast is 0\.5\d?\S \[.*\] as fast as mlx:legacy: .*"),
        ((side("mlx:fast", 1e-3, "loop", seed=9),), r"no difference seen between mlx:fast and mlx:legacy: .*"),
        ((side("mlx:fast", 1e-3, "mlx.nn.GRU(x, hidden)"),), r"mlx:fast ran the same path as mlx:legacy: .*"),
        (
            tuple(side(f"mlx:{n}", 0.5e-3, "loop") for n in range(5)),
            r"mlx:0 is .*; mlx:1 is .*; mlx:2 is [^;]*; 2 more below: .*",
        ),
        (
            (side("mlx:fast", 0.5e-3, "loop", verdict=BAD),),
            r"1 of 1 comparison measured here; nothing to tell of any side; but mlx:fast on layer-gru: computes .*",
        ),
    ],
    ids=["faster", "slower", "alike", "same", "many", "diverges"],
)
def test_the_first_sentence_of_one_comparison(tmp_path: Path, others: tuple[BenchSide, ...], sentence: str) -> None:
    """Who against whom, by how much, and on what; never more than was told of each."""
    assert re.fullmatch(sentence, headline(record_of(tmp_path, line(*others))))


def test_the_first_sentence_of_many_comparisons(tmp_path: Path) -> None:
    """Each candidate's comparisons are counted by what was told of them."""
    lines = [
        line(side("mlx:fast", typical, "loop", seed=9), name=f"n{typical}") for typical in (0.5e-3, 0.4e-3, 2e-3, 1e-3)
    ]
    assert headline(record_of(tmp_path, *lines)) == (
        "4 of 4 comparisons measured here; against mlx:legacy, mlx:fast is faster in 2, slower in 1 and without a "
        "difference in 1."
    )


def test_what_could_not_be_told_stands_on_the_first_screen(tmp_path: Path) -> None:
    """Sides that were not compared, noise, and a busy machine, each with its reason; else that nothing is left."""
    busy = side("mlx:fast", 0.5e-3, "loop", cpu=noisy(0.2e-3, seed=1))
    whole = line(busy, side("torch:layer", 1e-3, "torch", left_out="no torch here"), title="Own")
    record = record_of(tmp_path, whole)
    limits = speed_limits(record)
    assert "the machine was busy: a side had 0.4 of a core (Own)" in limits
    assert "torch:layer: no torch here (Own)" in limits
    page = render_html(record)
    first = page[: page.index('id="speed"')]
    assert all(html.escape(text) in first for text in limits)
    fine = record_of(tmp_path, line(side("mlx:fast", 0.5e-3, "loop")))
    assert speed_limits(fine) == ()
    assert "Nothing was left open" in render_html(fine)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ((line(side("mlx:fast", 0.5e-3, "loop")),), 0),
        ((line(side("mlx:fast", 0.5e-3, "loop", verdict=BAD)),), 1),
        ((line(side("mlx:fast", 0.5e-3, "loop", verdict=Broken(kind="crash", message="gone"))),), 3),
        ((line(side("mlx:fast", 0.5e-3, "loop", verdict=Inconclusive(why="another path ran"))),), 3),
        ((line(left_out="not measured here", sides=()),), 3),
        ((), 3),
    ],
    ids=["fine", "diverges", "broken", "path", "nothing", "empty"],
)
def test_exit_codes(tmp_path: Path, lines: tuple[Line, ...], code: int) -> None:
    """What diverges outweighs what broke; what measured nothing is no success."""
    assert exit_code(record_of(tmp_path, *lines)) == code


def test_an_unfinished_record_says_so(tmp_path: Path) -> None:
    """In the headline and in the exit code."""
    record = record_of(tmp_path, line(side("mlx:fast", 0.5e-3, "loop")), finished=False)
    assert "did not come to its end" in headline(record)
    assert exit_code(record) == 3


def scan_line(steps: int, *, unrolled: bool) -> ScanLine:
    """Scans of some steps; the unrolled one grows, or is left out."""
    growing = Costs(trace_seconds=0.01 * steps, compile_seconds=0.1 * steps, characters=1000 * steps, operations=steps)
    flat = Costs(trace_seconds=0.1, compile_seconds=0.4, characters=20_000, operations=90)
    last = (
        side("flax-nnx:unrolled", 2e-5 * steps, "unrolled", seed=3, costs=growing)
        if unrolled
        else BenchSide(candidate="flax-nnx:unrolled", left_out="not unrolled beyond T = 64 (--cap 256)")
    )
    return ScanLine(
        level="layer",
        cell="gru",
        dtype="float32",
        shape=(32, steps, 128, 200),
        initial="given",
        baseline="flax-nnx:lax-scan",
        sides=(side("flax-nnx:lax-scan", 1e-5 * steps, "jax.lax.scan", seed=1, costs=flat), last),
        seed=0,
        budget=6.0,
    )


def test_scans_are_a_table_and_pictures(tmp_path: Path) -> None:
    """Every number of the table is there; each picture has a line per side; what was left out says why."""
    record = record_of(
        tmp_path, scan_line(16, unrolled=True), scan_line(64, unrolled=True), scan_line(256, unrolled=False)
    )
    page, text = render_html(record), shown(record)
    assert page.count("<figure>") == 3
    assert page.count('<svg class="chart"') == 3
    for surface in (page, text):
        assert "64,000" in surface
        assert "6.4 s" in surface
        assert "not unrolled beyond T = 64" in " ".join(surface.split())
    assert "flax-nnx:unrolled at T = 256" in page
    assert exit_code(record) == 0


class Elements(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.numbers: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect."""
        self.tags.append(tag)
        drawn = ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "d")
        self.numbers += [value or "" for name, value in attributes if name in drawn]


def test_scans_say_each_thing_once_and_in_one_line(tmp_path: Path) -> None:
    """What holds for several sides and numbers of steps is one sentence; no conclusion is broken into lines."""
    lines = []
    for steps in (16, 64, 256):
        plain = scan_line(steps, unrolled=steps < 256)
        alike = side("flax-nnx:nnx-scan", 1e-5 * steps, "nnx.scan", seed=7)
        sides = (*plain.sides, alike)
        held = [s if s.left_out else msgspec.structs.replace(s, zeroed=("b_hn",)) for s in sides]
        held[0] = msgspec.structs.replace(held[0], rows=8 if steps == 256 else 32)
        lines.append(msgspec.structs.replace(plain, sides=tuple(held)))
    record = record_of(tmp_path, *lines)
    told = scan_remarks(record.scans)
    assert told == (
        "flax-nnx:lax-scan, flax-nnx:unrolled and flax-nnx:nnx-scan: with b_hn at zero: it has no place for it",
        "flax-nnx:lax-scan at T = 256: 8 of 32 rows judged",
        "flax-nnx:unrolled at T = 256: not unrolled beyond T = 64 (--cap 256)",
    )
    text = shown(record, 80)
    assert sum("no difference" in line for line in text.splitlines()) == 3
    assert sum("0.50\N{MULTIPLICATION SIGN} slower" in line for line in text.splitlines()) == 2
    assert text.count("at zero") == 1
    assert all(len(line) <= 80 for line in text.splitlines())
    partly = [msgspec.structs.replace(one, sides=(one.sides[0],)) for one in lines[:1]] + [scan_line(64, unrolled=True)]
    assert scan_remarks(partly) == ("flax-nnx:lax-scan at T = 16: with b_hn at zero: it has no place for it",)


def test_a_hostile_record_is_shown_and_does_nothing(tmp_path: Path) -> None:
    """Every text of every line is markup, every number absurd; the page holds neither script nor infinite geometry."""
    bad = BenchSide(
        candidate=EVIL,
        version=EVIL,
        environment=EVIL,
        path=EVIL,
        verdict=GOOD,
        zeroed=(EVIL,),
        prepare_seconds=-1e308,
        calls=-5,
        seconds=(1e308, 1e-308) * 10,
        cpu=(1e-320,) * 20,
        costs=Costs(trace_seconds=1e308, compile_seconds=1e308, characters=-5, operations=10**30),
    )
    small = msgspec.structs.replace(bad, candidate="a:b", seconds=(5e-324,) * 20, path="x", verdict=GOOD)
    big = msgspec.structs.replace(bad, candidate="c:d", seconds=(1e308,) * 20, path="y")
    again = msgspec.structs.replace(small, control=True)
    common: dict[str, Any] = {
        "level": EVIL,
        "cell": EVIL,
        "dtype": EVIL,
        "shape": (-1, 10**20, 0, 0),
        "initial": EVIL,
        "baseline": "a:b",
        "sides": (small, bad, big, again),
        "seed": 0,
        "budget": 1.0,
        "ended": EVIL,
        "machine": {EVIL: EVIL},
    }
    published = Published(ratio=-1e308, baseline=1e308, other=1e-308, source=EVIL)
    lines: list[Line] = [
        CandidateLine(
            name=EVIL, adapter=EVIL, variant=EVIL, title=EVIL, version=EVIL, environment=EVIL, facts={EVIL: EVIL}
        ),
        BenchLine(name=EVIL, title=EVIL, needs=EVIL, published=published, **common),
        BenchLine(name=EVIL, title=EVIL, left_out=EVIL, published=published, **common),
        ScanLine(**common),
        ScanLine(
            **{**common, "shape": (1, 16, 1, 1), "sides": (small, big, msgspec.structs.replace(bad, left_out=EVIL))}
        ),
    ]
    record = record_of(tmp_path, *lines)
    page = render_html(record)
    parsed = Elements()
    parsed.feed(page)
    assert "script" not in parsed.tags
    assert "&lt;script&gt;" in page
    assert "{{ 7*7 }}" in page
    assert parsed.numbers
    assert not [number for number in parsed.numbers if "nan" in number or "inf" in number]
    assert shown(record)
    assert headline(record)
    assert exit_code(record) in (0, 3)


def test_timings_beside_findings_are_shown_too(tmp_path: Path) -> None:
    """A record with requirements keeps its own page, with a part about speed."""
    record = record_of(tmp_path, line(side("mlx:fast", 0.5e-3, "loop", seed=3)))
    asked = msgspec.structs.replace(record.header, requirements=(entry(),))
    both = msgspec.structs.replace(record, header=asked)
    page = render_html(both)
    assert 'id="matrix"' in page
    assert 'id="speed"' in page
    assert "mlx:fast" in shown(both)
    assert exit_code(both) == 3  # the requirement has no finding


def entry() -> Any:
    """A requirement's entry."""
    from conformance.record import RequirementEntry

    return RequirementEntry(name="gru_x", level="MUST", statement="s", source="s", cell="gru", initial="given")


def test_pictures_have_room_for_every_number() -> None:
    """One point, equal points, nothing, and numbers of all sizes."""
    assert growth("t", "u", {"a": []}) is None
    assert growth("t", "u", {"a": [(16, 0.0), (0, 1.0)]}) is None
    for points in ([(16, 1.0)], [(16, 1.0), (32, 1.0)], [(1, 5e-324), (10**20, 1e308)]):
        picture = growth("t", "u", {"a": points})
        assert picture is not None
        assert len(picture.lines[0].points) == len(points)
        assert all(0 <= x <= 560 and 0 <= y <= 300 for x, y in picture.lines[0].points)
    ratio = paired_ratio([1.0] * 8, [1e-200] * 8)
    assert ratio is not None
    drawn = intervals([("a", "faster", ratio, "")], None)
    assert drawn is not None
    assert 0 <= drawn.bars[0].at <= 560
    assert intervals([], None) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5e-6, "2.5 µs"), (1.5e-3, "1.5 ms"), (2.0, "2 s"), (0.0, "0 µs"), (None, "")]
)
def test_times_have_units(seconds: float | None, text: str) -> None:
    """The unit that suits the number."""
    assert time_text(seconds) == text


def test_quartiles_share_the_units_of_their_median() -> None:
    """So that they can be compared at a glance."""
    assert spread_text(spread([0.5e-3, 1.5e-3, 2.5e-3])) == "1.5 ms [1, 2]"
    assert spread_text(None) == ""


@pytest.mark.parametrize("text", ["", "32x40", "0x1x1x1", "1x1x1x1x1", "ax1x1x1", "1x1x1x1234567", "1 x1x1x1"])
def test_shapes_that_cannot_be_read_are_refused(text: str) -> None:
    """With what was wanted."""
    with pytest.raises(SpecError, match="cannot read the shape"):
        parse_shape(text)


def bench(*arguments: str, out: Path) -> tuple[int, str]:
    """Run the command on the miniature; exit code and text without line breaks."""
    result = CliRunner().invoke(
        main, ["bench", *arguments, "--adapter", str(TIMED), "--output", str(out), "--quiet"], env={"COLUMNS": "160"}
    )
    return result.exit_code, " ".join(result.output.split())


def test_the_command_times_candidates_and_refuses_the_same_path(tmp_path: Path) -> None:
    """Record and report are written; the loop called in another way is no competitor."""
    code, text = bench(
        *("timed:loop", "timed:spelled", "timed:other", "--shape", "2x5x3x4", "--rounds", "8"), out=tmp_path
    )
    assert code == 0, text
    (path,) = tmp_path.glob("*.jsonl")
    record = read_record(path)
    (found,) = record.benches
    assert [(one.candidate, one.control) for one in found.sides] == [
        ("timed:loop", False),
        ("timed:spelled", False),
        ("timed:other", False),
        ("timed:loop", True),
    ]
    assert [len(one.seconds) for one in found.sides] == [8] * 4
    kinds = [conclusion(found, one).kind for one in found.sides]
    assert (kinds[0], kinds[1], kinds[3]) == ("baseline", "same path", "control")
    assert kinds[2] not in ("same path", "refused", "broken")
    assert "no speed-up reported" in text
    assert path.with_suffix(".html").is_file()
    assert record.problem == ""
    again = CliRunner().invoke(main, ["report", str(path), "--html", str(tmp_path / "again.html")])
    assert again.exit_code == 0
    assert (tmp_path / "again.html").read_bytes() == path.with_suffix(".html").read_bytes()


def test_the_command_says_what_diverges_and_breaks(tmp_path: Path) -> None:
    """Every other side is measured all the same."""
    code, text = bench(
        *("timed:loop", "timed:flipped", "timed:lies", "timed:raises", "timed:other"),
        *("--shape", "2x5x3x4", "--rounds", "6", "--no-control"),
        out=tmp_path,
    )
    assert code == 1
    (path,) = tmp_path.glob("*.jsonl")
    (found,) = read_record(path).benches
    assert [len(one.seconds) for one in found.sides] == [6, 0, 0, 0, 6]
    for words in ("computes something else like update_flip", "another path ran", "ArithmeticError: no such luck"):
        assert words in text


def test_scan_shows_costs_and_what_was_left_out(tmp_path: Path) -> None:
    """The unrolled side stops at the cap, which is stated."""
    code, text = bench(
        *("scan", "timed:loop", "timed:unrolled", "--steps", "4", "--steps", "8", "--cap", "4"),
        *("--shape", "2x1x3x4", "--rounds", "6"),
        out=tmp_path,
    )
    assert code == 0, text
    (path,) = tmp_path.glob("*.jsonl")
    first, second = read_record(path).scans
    assert (first.shape, second.shape) == ((2, 4, 3, 4), (2, 8, 3, 4))
    costs = [None if one.costs is None else one.costs.characters for line_ in (first, second) for one in line_.sides]
    assert costs == [1000, 4000, 1000, None]
    assert second.sides[1].left_out.startswith("not unrolled beyond T = 4")
    assert [len(one.seconds) for one in second.sides] == [6, 0]
    assert "not unrolled beyond T = 4" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cell", "lstm"), "does not go with this benchmark"),
        (("timed:loop", "--steps", "4"), "--steps"),
        (("scan", "timed:loop", "--level", "cell"), "--level"),
        (("timed:loop", "timed:other", "--cell", "lstm"), "does not offer what is to be timed"),
        (("timed:loop", "--shape", "1x2"), "cannot read the shape"),
        (("nobody:loop",), "nobody"),
    ],
)
def test_bad_usage_is_one_message(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, and no record."""
    code, text = bench(*arguments, out=tmp_path)
    assert code == 2
    assert words in text
    assert not list(tmp_path.iterdir())


def test_the_tutorials_call_is_timed(tmp_path: Path) -> None:
    """The adapter of the page, with the function that the page adds to it, is a side of a benchmark."""
    page = (Path(__file__).parents[1] / "docs" / "adapter-tutorial.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page, re.DOTALL))
    (further,) = re.findall(r"<!-- further: adapter.py -->\n```python\n(.*?)```", page, re.DOTALL)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "adapter.toml").write_text(files["adapter.toml"], encoding="utf-8")
    (folder / "adapter.py").write_text(files["adapter.py"] + further, encoding="utf-8")
    out = tmp_path / "out"
    code, text = bench(
        *("mine:loop", "timed:loop", "--adapter", str(folder), "--shape", "2x5x3x4", "--rounds", "6", "--no-control"),
        out=out,
    )
    assert code == 0, text
    (path,) = out.glob("*.jsonl")
    (found,) = read_record(path).benches
    assert [len(one.seconds) for one in found.sides] == [6, 6]
