"""What the harness costs: nothing that disagrees is timed, nothing of no case has a ratio; no clock is asserted on."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from conformance.campaign import BLOCK
from conformance.cli import main
from conformance.environments import current
from conformance.floor import Floor
from conformance.plan import Candidate, plan
from conformance.record import FORMAT, Footer, HarnessLine, HarnessPoint, HarnessSide, Header, Line, Record
from conformance.recordfile import RecordWriter, read_record
from conformance.report.harness import AIMS, harness_headline, ratio_of, told, view
from conformance.report.html import render_html
from conformance.report.outcome import exit_code, headline
from conformance.report.text import print_summary
from conformance.requirement import REQUIREMENTS
from conformance.signature import LATTICE
from conformance.startup import Handwritten
from conformance.upkeep import Bench, take_turns

MiniatureOf = Callable[[str], Candidate]
EVIL = "<script>alert(1)</script> {{ 7*7 }}"
CASES = 256


def bench_of(candidates: list[Candidate], folder: Path, lines: list[Line]) -> Bench:
    """A bench of miniatures on the requirement that most of them break."""
    return Bench(plan(candidates, [REQUIREMENTS["gru_hidden_none"]]), lines.append, folder, seed=1)


def side(name: str, cases: int = 10, seconds: tuple[float, ...] = (1.0, 2.0, 4.0), **more: Any) -> HarnessSide:
    return HarnessSide(name=name, contains=f"what {name} is", cases=cases, seconds=seconds, cpu=seconds, **more)


def line(*sides: HarnessSide, **more: Any) -> HarnessLine:
    fields: dict[str, Any] = {
        "requirement": "gru_hidden_none",
        "cell": "gru",
        "dtype": "float32",
        "candidates": ("wrong:good",),
        "seed": 0,
        "sides": sides,
    }
    return HarnessLine(**{**fields, **more})


def test_every_side_gets_through_the_cases_that_it_says(miniature: MiniatureOf, tmp_path: Path) -> None:
    """Warm workers, the adapters, the engine and its modes: all agree, all take some time, and nothing is refused."""
    with bench_of([miniature("good")], tmp_path, []) as bench:
        bench.warm(LATTICE[:3])
        for turn in (bench.adapters, bench.engine, bench.case_by_case, bench.judging):
            wall, cpu = turn(5, 2 * BLOCK)
            assert wall > 0
            assert cpu >= 0
        record = (tmp_path / "campaign.jsonl").read_text()
        assert record.count('"type":"block"') == 2
        point = bench.growth("steps", 4)
        assert (point.axis, point.value) == ("steps", 4)
        assert bench.growth("candidates", 1).cases > 0
        assert {"harness", "wrong:good"} == set(bench.memory())
        assert bench.refused == []


@pytest.mark.parametrize("variant", ["drop_rbhn_t0", "raises", "path"])
@pytest.mark.parametrize("way", ["adapters", "engine", "case_by_case"])
def test_a_candidate_that_does_not_agree_is_refused_whatever_side_meets_it(
    miniature: MiniatureOf, tmp_path: Path, variant: str, way: str
) -> None:
    """A fault, an exception, another path: the side that sees it first says so, and no ratio is left."""
    with bench_of([miniature("good"), miniature(variant)], tmp_path, []) as bench:
        getattr(bench, way)(5, 8)
        assert bench.refused
        assert all(text.startswith(f"wrong:{variant}") for text in bench.refused)
        found = line(side("engine"), side("floor"), refused=tuple(bench.refused))
    assert ratio_of(found, "engine", "floor") is None


def test_a_judgement_alone_refuses_too(miniature: MiniatureOf, tmp_path: Path) -> None:
    """Judging is not timed on answers that do not agree."""
    with bench_of([miniature("drop_rbhn_t0")], tmp_path, []) as bench:
        bench.judging(5, 32)
        assert bench.refused


def test_one_wrong_case_among_many_is_enough(miniature: MiniatureOf, tmp_path: Path) -> None:
    """A defect of one case in 60 refuses the whole measurement."""
    groups = plan([miniature("rare")], [REQUIREMENTS["gru_hidden_given"]])
    for way in ("adapters", "engine", "judging"):
        with Bench(groups, [].append, tmp_path) as bench:
            getattr(bench, way)(5, CASES)
            assert bench.refused, way


def test_a_ratio_is_of_a_case_and_of_pairs() -> None:
    """Other numbers of cases are evened out; the median is that of the rounds' ratios."""
    found = line(side("engine", 10, (1.0, 2.0, 4.0)), side("floor", 20, (2.0, 2.0, 2.0)))
    ratio = ratio_of(found, "engine", "floor")
    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high, ratio.rounds) == (1.0, 2.0, 4.0, 3)


@pytest.mark.parametrize(
    "found",
    [
        line(side("engine", 0), side("floor")),
        line(side("engine"), side("floor", 0)),
        line(side("engine", seconds=()), side("floor", seconds=())),
        line(side("engine"), side("floor", seconds=(1.0,))),
        line(side("engine"), side("floor", seconds=(1.0, 0.0, 1.0))),
        line(side("engine"), side("floor", seconds=(1.0, float("nan"), 1.0))),
        line(side("engine")),
        line(side("engine"), side("floor"), refused=("wrong:good: a case diverges",)),
    ],
)
def test_no_case_no_pair_or_no_agreement_gives_no_ratio(found: HarnessLine) -> None:
    """Nothing is told, and no target counts as met."""
    assert ratio_of(found, "engine", "floor") is None
    one = next(told(found))
    assert one.title == "engine / floor"
    assert (one.ratio, one.met) == ("", "")
    assert one.why


def test_targets_are_met_or_not() -> None:
    """At most and at least, each on both sides of its limit."""
    for aim in AIMS:
        limit = aim.least or aim.most
        if limit == float("inf"):
            continue
        for factor in (0.5, 2.0):
            found = line(side(aim.above, 1, (limit * factor,)), side(aim.below, 1, (1.0,)))
            shown = next(one for one in told(found) if one.title == aim.title)
            good = (factor > 1) == bool(aim.least)
            assert shown.met == ("met" if good else "not met"), aim.title
            assert harness_headline(found).startswith(f"{int(good)} of 6 targets met")


def test_a_side_that_gives_out_is_left_out_and_the_others_go_on() -> None:
    """Rounds take turns, backwards every other time; what broke has no seconds."""
    log: list[str] = []

    def turn(name: str, seed: int) -> tuple[float, float] | str:
        log.append(f"{name}{seed}")
        return "it broke" if name == "b" and seed == 2 else (1.0, 1.0)

    sides = {name: ("", 1, lambda seed, name=name: turn(name, seed)) for name in "abc"}
    found = take_turns(sides, 4, 0, lambda _: None, {"c": "is not there"})
    assert [(one.name, len(one.seconds), one.left_out) for one in found] == [
        ("a", 4, ""),
        ("b", 0, "it broke"),
        ("c", 0, "is not there"),
    ]
    assert [text[0] for text in log[:2]] == [text[0] for text in log[2:4]][::-1]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ('{"seconds": 1.5, "cpu": 0.5, "wrong": ["torch"]}', "torch is wrong"),
        ("no JSON", "broke"),
        ("[]", "broke"),
        ('{"seconds": 1.5}', "broke"),
    ],
)
def test_a_check_by_hand_that_finds_something_or_breaks_is_not_timed(tmp_path: Path, answer: str, why: str) -> None:
    """Its seconds would be of something else."""
    script = tmp_path / "handwritten.py"
    script.write_text(f"import sys\nfor _ in sys.stdin:\n    print({answer!r}, flush=True)\n")
    with Handwritten(current(), script) as hand:
        turn = hand.turn()
        assert isinstance(turn, str)
        assert why in turn
        assert isinstance(hand.alone(1), str)


def test_a_check_by_hand_tells_its_seconds(tmp_path: Path) -> None:
    """The first case of a process, with its imports, is not among the turns; without an environment there are none."""
    script = tmp_path / "handwritten.py"
    script.write_text(
        "import sys\nfor n, _ in enumerate(sys.stdin, 1):\n"
        '    print(f\'{{"seconds": {n}, "cpu": 0.5, "wrong": []}}\', flush=True)\n'
    )
    with Handwritten(current(), script) as hand:
        assert [hand.turn(), hand.turn()] == [(2.0, 0.5), (3.0, 0.5)]
    with Handwritten(None, script, "no environment") as nothing:
        assert nothing.turn() == nothing.alone(3) == "no environment"


ALONE = """
import json, sys
import numpy as np
def states(p):
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    h, found = np.zeros((*p["x"].shape[:-2], len(p["b_hn"]))), []
    for x in np.moveaxis(p["x"], -2, 0):
        r, z = (sigmoid(x @ p["W_x" + g].T + p["b_x" + g] + h @ p["W_h" + g].T + p["b_h" + g]) for g in "rz")
        n = np.tanh(x @ p["W_xn"].T + p["b_xn"] + r * (h @ p["W_hn"].T + p["b_hn"]))
        h = (1 - z) * n + z * h
        found.append(h)
    return np.stack(found, axis=-2)
for line in sys.stdin:
    asked, blocks = json.loads(line), {}
    with np.load(asked["cases"], allow_pickle=False) as stored:
        for key in stored.files:
            number, _, name = key.partition("/")
            blocks.setdefault(number, {})[name] = stored[key]
    rows = {n: [{k: v[i] for k, v in b.items()} for i in range(len(b["x"]))] for n, b in blocks.items()}
    answers = {n + "/outputs": np.stack([states(p) for p in own]) for n, own in rows.items()}
    SPOIL
    np.savez(asked["answers"], **answers)
    print(json.dumps({"seconds": 2.0, "cpu": 1.0}), flush=True)
"""


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("pass", None),
        ('answers["1/outputs"][5] += 1e-3', "another answer"),
        ('answers["1/outputs"][5] = np.nan', "another answer"),
        ('answers["1/outputs"] = answers["1/outputs"][:-1]', "another answer"),
        ('del answers["1/outputs"]', "broke"),
        ("raise SystemExit", "broke"),
        ('print(json.dumps({"left_out": "it is not mine"}), flush=True); continue', "it is not mine"),
    ],
)
def test_a_floor_counts_only_where_every_answer_is_right(
    miniature: MiniatureOf, tmp_path: Path, spoil: str, why: str | None
) -> None:
    """Single sequences and batches; one number that is wrong, or missing, and there are no seconds."""
    script = tmp_path / "floor.py"
    script.write_text(ALONE.replace("SPOIL", spoil))
    with (
        bench_of([miniature("good"), miniature("path")], tmp_path, []) as bench,
        Floor(current(), tmp_path, script=script) as floor,
    ):
        blocks = [one for group in bench.groups[:1] for one in bench.blocks(group, 5, 8 * BLOCK)]
        assert {one.first.batched for one in blocks} == {True, False}
        turn = bench.alone(floor, 5, 8 * BLOCK)
    if why is None:
        assert turn == (4.0, 2.0)
    else:
        assert isinstance(turn, str)
        assert turn.startswith("wrong:good: ")
        assert why in turn


def test_a_floor_is_never_judged_by_the_answers_before_it(miniature: MiniatureOf, tmp_path: Path) -> None:
    """A script that answers the first candidate only, and tells seconds of the second one as well."""
    script = tmp_path / "floor.py"
    again = 'if "path" in asked["candidate"]: print(json.dumps({"seconds": 2.0, "cpu": 1.0}), flush=True); continue'
    script.write_text(ALONE.replace("SPOIL", again))
    with (
        bench_of([miniature("good"), miniature("path")], tmp_path, []) as bench,
        Floor(current(), tmp_path, script=script) as floor,
    ):
        assert str(bench.alone(floor, 5, BLOCK)).startswith("wrong:path: benchmarks/floor.py broke")


def test_without_an_environment_there_is_no_floor(miniature: MiniatureOf, tmp_path: Path) -> None:
    """It says why."""
    with bench_of([miniature("good")], tmp_path, []) as bench, Floor(None, tmp_path, "no environment") as floor:
        assert bench.alone(floor, 5, BLOCK) == "no environment"


def recorded(path: Path, found: HarnessLine) -> Record:
    head = Header(
        format=FORMAT,
        harness="0",
        started="",
        seed=0,
        examples=0,
        arguments=(),
        candidates=found.candidates,
        requirements=(),
        faults={},
    )
    with RecordWriter(path, head) as writer:
        writer.write(found)
        writer.write(Footer(finished="", trials=0, findings=0))
    return read_record(path)


def test_a_record_comes_back_and_both_reports_show_it_harmlessly(tmp_path: Path) -> None:
    """Tables, targets and pictures on a terminal and in HTML; names from a record are escaped."""
    points = tuple(HarnessPoint(axis="steps", value=t, cases=32, seconds=t / 100, cpu=t / 50) for t in (8, 32, 128))
    evil = replace_name(side("engine"), EVIL)
    found = line(
        side("engine"),
        side("floor"),
        evil,
        points=points,
        programs={EVIL: 6},
        memory={EVIL: 2**20},
        machine={"load before": EVIL},
    )
    record = recorded(tmp_path / "a.jsonl", found)
    assert record.harness == (found,)
    assert exit_code(record) == 0
    assert headline(record) == "0 of 6 targets met; 1 not met: engine / floor is 1 (at most 0.8); 5 not measured."
    html = render_html(record)
    assert "<script>alert" not in html
    assert "steps, T" in html
    assert "engine / floor" in html
    console = Console(file=io.StringIO(), width=160)
    print_summary(record, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "at most 0.8" in text
    assert "not met" in text
    assert 'class="answer is-inconclusive"' in html
    assert 'class="mark is-inconclusive">not met<' in html
    refused = recorded(tmp_path / "b.jsonl", msgspec.structs.replace(found, refused=("wrong:good: a case diverges",)))
    assert exit_code(refused) == 3
    assert "no time is told" in headline(refused)
    assert view(refused.harness[0]).points == ()
    assert view(refused.harness[0]).pictures == ()


def test_every_target_is_told_in_one_line_of_80_columns(tmp_path: Path) -> None:
    """With a range, three digits and a word: names may give way, not what is told of them."""
    thousands = (1398.0, 1200.0, 1600.0)
    sides = {name: side(name, 1, (1.0, 1.0, 1.0)) for aim in AIMS for name in (aim.above, aim.below)}
    for aim in AIMS:
        sides[aim.above] = side(aim.above, 1, thousands)
    console = Console(file=io.StringIO(), width=80)
    print_summary(recorded(tmp_path / "a.jsonl", line(*sides.values())), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO
    assert all(len(text) <= 80 for text in lines)
    told_in = [text for text in lines if "at most" in text or "at least" in text][: len(AIMS) - 1]
    for aim, text in zip((aim for aim in AIMS if aim.least or aim.most < float("inf")), told_in, strict=True):
        assert text.startswith(aim.title), text
        assert text.rstrip().endswith(" met"), text
    assert "seconds [range]" in lines[1]
    assert "1,400 [1,200, 1,600]" in lines[3]


def test_one_size_is_no_picture_and_a_picture_holds_the_tables_numbers() -> None:
    """What is drawn is for a case, as the table beside it; a single point is left to the table."""
    points = [HarnessPoint(axis="units", value=u, cases=32, seconds=3.2 * u, cpu=1.6 * u) for u in (1, 10, 100)]
    alone = HarnessPoint(axis="candidates", value=1, cases=32, seconds=3.2, cpu=1.6)
    shown = view(line(side("engine"), side("floor"), points=(*points, alone)))
    (picture,) = shown.pictures
    assert picture.across == "units, H"
    assert [tick.text for tick in picture.y_ticks] == ["0.01", "0.1", "1", "10"]
    assert [row[-2:] for row in shown.points] == [
        ("100 ms", "50 ms"),
        ("1 s", "500 ms"),
        ("10 s", "5 s"),
        ("100 ms", "50 ms"),
    ]


def replace_name(one: HarnessSide, name: str) -> HarnessSide:
    return msgspec.structs.replace(one, name=name, contains=name)


@pytest.mark.parametrize(("option", "value"), [("--steps", "4"), ("--shape", "1x1x1x1"), ("--cell", "lstm")])
def test_options_of_other_benchmarks_are_refused(option: str, value: str, tmp_path: Path) -> None:
    """What would be ignored is told, before anything is run."""
    done = CliRunner().invoke(main, ["bench", "harness", option, value, "--output", str(tmp_path)])
    assert done.exit_code == 2
    assert option in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_candidate_without_the_requirement_is_refused(tmp_path: Path) -> None:
    """A candidate that cannot run what is timed costs no start of a worker."""
    words = ["bench", "harness", "flax-linen:concat", "--output", str(tmp_path)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "flax-linen:concat" in done.output
