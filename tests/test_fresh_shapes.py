"""Fresh shapes of a campaign: a bounded number, the same for everybody, and what shows in no usual shape is found."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from test_campaign import plain

from conformance.campaign import BLOCK, FRESH, Campaign, block_at, budget
from conformance.case import Case, case_from_json
from conformance.cli import main
from conformance.cli.run import _words
from conformance.cli.run import run as run_command
from conformance.draws import forget, fresh_shape
from conformance.errors import RecordError
from conformance.inputs import lattice_of
from conformance.plan import Candidate, plan
from conformance.record import Footer, Record
from conformance.recordfile import RecordWriter, read_record
from conformance.reduction import reduced
from conformance.requirement import REQUIREMENTS
from conformance.resume import resumption
from conformance.run import Silent, header, run
from conformance.settings import Settings
from conformance.shards import joined
from conformance.signature import LATTICE, Signature, build
from conformance.strategies import LARGEST
from conformance.verdict import Agrees, Diverges

MiniatureOf = Callable[[str], Candidate]
WRONG = str(Path(__file__).resolve().parent / "miniatures" / "wrong")
GIVEN = (REQUIREMENTS["gru_hidden_given"],)
CASES = 6 * BLOCK
KEY = ("gru_hidden_given", "float32")
USUAL = {(shape.batch, shape.time, shape.features, shape.hidden) for shape, _ in LATTICE}


def settings_of(fresh: int, *, shard: tuple[int, int] = (1, 1)) -> Settings:
    return Settings(examples=1, seed=3, campaign=Campaign(cases={KEY: CASES}, fresh={KEY: fresh}, shard=shard))


def ran(path: Path, candidates: list[Candidate], chosen: Settings) -> Record:
    groups = plan(candidates, GIVEN)
    with RecordWriter(path, header(groups, chosen, ())) as writer:
        findings = run(groups, chosen, writer.write, Silent(), case_seconds=20)
        writer.write(Footer(finished="", trials=sum(f.trials for f in findings), findings=len(findings)))
    return read_record(path)


def fresh_of(record: Record) -> list[int]:
    return [line.block for line in record.blocks if line.shape not in USUAL]


def test_drawn_shapes_are_of_all_kinds() -> None:
    """Within the limits, none of the lattice, widths that no vector divides; every number gives another one."""
    shapes = [fresh_shape(seed, "any", index, LATTICE) for seed in range(3) for index in range(12)]
    assert len(set(shapes)) == len(shapes)
    assert not set(shapes) & set(LATTICE)
    for shape, batched in shapes:
        for axis in ("batch", "time", "features", "hidden"):
            assert 1 <= getattr(shape, axis) <= getattr(LARGEST, axis)
        assert batched or shape.batch == 1
        assert shape.batch * shape.time * shape.hidden * (shape.hidden + shape.features) <= 300_000
    hidden = {shape.hidden for shape, _ in shapes}
    assert sum(size % 4 != 0 for size in hidden) > len(hidden) // 2
    assert len(hidden) > 15
    assert {True, False} == {batched for _, batched in shapes}
    assert any(1 in (shape.batch, shape.features, shape.hidden) for shape, _ in shapes)
    assert any(shape.time > 16 for shape, _ in shapes)


def test_a_fresh_block_is_the_same_wherever_it_is_drawn(miniature: MiniatureOf) -> None:
    """Without those before it, whatever the budget; all others are as they were without one."""
    (group,) = plan([miniature("good")], GIVEN)
    lattice = lattice_of(group.requirement, group.dtype)

    def digest(index: int, fresh: int) -> str:
        return block_at(3, group, index, 4, lattice, fresh=fresh).digest

    first = [digest(index, 4) for index in range(8)]
    forget()
    assert [digest(index, 4) for index in reversed(range(8))] == first[::-1]
    assert [digest(index, 3) for index in range(4)] == first[:4]
    usual = [digest(index, 0) for index in range(8)]
    assert [a == b for a, b in zip(usual, first, strict=True)] == [True, *[False] * 4, *[True] * 3]
    assert fresh_shape(3, "x", 0, LATTICE) != fresh_shape(4, "x", 0, LATTICE) != fresh_shape(4, "y", 0, LATTICE)


def test_a_budget_does_not_grow_with_the_cases() -> None:
    """Shared out evenly, at most half of the blocks; by default from two to eight."""
    cases = {("a", "float32"): 40 * BLOCK, ("b", "float32"): 40 * BLOCK, ("c", "float16"): 3 * BLOCK}
    assert list(budget(7, cases).values()) == [3, 2, 1]
    assert list(budget(0, cases).values()) == [0, 0, 0]
    assert list(budget(2, cases).values()) == [1, 1, 0]
    assert list(budget(None, cases).values()) == [2, 2, 1]
    assert list(budget(None, dict.fromkeys(cases, 10**7)).values()) == [FRESH] * 3
    assert list(budget(10**9, cases).values()) == [20, 20, 1]
    assert budget(None, {("a", "float32"): 1}) == {("a", "float32"): 0}


def test_what_shows_only_outside_the_lattice_is_found_and_made_small(miniature: MiniatureOf, tmp_path: Path) -> None:
    """Units are swapped in odd widths past eight; without fresh shapes this agrees, with them it has a name."""
    odd = miniature("odd_width")
    (finding,) = ran(tmp_path / "usual.jsonl", [odd], settings_of(0)).findings
    assert isinstance(finding.verdict, Agrees), "no usual shape shows it"
    record = ran(tmp_path / "fresh.jsonl", [odd], settings_of(3))
    (finding,) = record.findings
    assert isinstance(finding.verdict, Diverges)
    assert finding.verdict.faults == ("update_flip",)
    assert record.blocks[-1].diverges
    assert record.blocks[-1].block in fresh_of(record)
    assert finding.example is not None
    small = case_from_json(finding.example.case)
    assert small.origin.startswith("reduced from campaign, block ")
    assert (small.shape.batch, small.shape.time, small.shape.features) == (1, 1, 1)
    assert small.shape.hidden in (9, 17, 33, 65)
    assert sum(int(np.count_nonzero(array)) for array in (small.x, small.h0, *small.parameters.values())) <= 4


def test_a_width_that_must_be_odd_is_cut_to_a_small_odd_one() -> None:
    """From 85 units, where neither one nor two do."""
    shape = replace(LATTICE[4][0], hidden=85, output=0)
    signature = Signature(shape=shape, batched=True, seed=1, scale=0.8, decimals=3, fills=())
    case = build(signature, cell="gru", dtype="float32", initial="given")

    def fails(smaller: Case) -> bool:
        return smaller.shape.hidden % 2 == 1 and smaller.shape.hidden > 8

    small = reduced(case, fails, at=(0, 0, 70), shapes=[shape for shape, _ in LATTICE])
    assert (small.shape.batch, small.shape.time, small.shape.features, small.shape.hidden) == (1, 1, 1, 9)


def test_fresh_shapes_are_counted_and_recorded(miniature: MiniatureOf, tmp_path: Path) -> None:
    """As many blocks as the header says, right after the first; every case is tried; candidates get the same ones."""
    record = ran(tmp_path / "a.jsonl", [miniature("good"), miniature("nan")], settings_of(3))
    own = [line for line in record.blocks if line.candidate == "wrong:good"]
    assert [line.block for line in own if line.shape not in USUAL] == [1, 2, 3]
    assert record.header.fresh_shapes == 3
    assert sum(line.agreeing for line in own) == CASES
    groups = plan([miniature("good"), miniature("rare")], GIVEN)
    lattice = lattice_of(GIVEN[0], "float32")
    one, other = (block_at(3, group, 2, BLOCK, lattice, fresh=3) for group in groups)
    assert one.digest == other.digest == own[2].digest


def test_shards_and_resumed_runs_make_the_same_record(miniature: MiniatureOf, tmp_path: Path) -> None:
    """Two shards share the fresh shapes; a run cut off among them goes on; another budget is another campaign."""
    good, chosen = miniature("good"), settings_of(3)
    whole = ran(tmp_path / "whole.jsonl", [good], chosen)
    parts = [ran(tmp_path / f"{i}.jsonl", [good], settings_of(3, shard=(i, 2))) for i in (1, 2)]
    assert [fresh_of(part) for part in parts] == [[2], [1, 3]]
    assert plain(joined(parts)) == plain(whole)
    other = msgspec.structs.replace(parts[1].header, fresh_shapes=2)
    with pytest.raises(RecordError, match="another number of fresh shapes"):
        joined([parts[0], msgspec.structs.replace(parts[1], header=other)])

    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    begun = next(place for place, line in enumerate(lines) if b'"block":2' in line)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[: begun + 1]))
    groups = plan([good], GIVEN)
    with pytest.raises(RecordError, match="another number of fresh shapes"):
        resumption(read_record(cut), header(groups, settings_of(2), ()), (), groups)
    rest = resumption(read_record(cut), header(groups, chosen, ()), (), groups)
    assert chosen.campaign is not None
    again = replace(chosen, campaign=replace(chosen.campaign, done=rest.begun))
    with RecordWriter(cut, rest.header, rest.lines) as writer:
        found = run(rest.todo, again, writer.write, Silent())
        writer.write(Footer(finished="", trials=sum(f.trials for f in found), findings=len(found)))
    assert plain(read_record(cut)) == plain(whole)


def test_a_record_from_before_had_none(miniature: MiniatureOf, tmp_path: Path) -> None:
    """It is read as one of a campaign without fresh shapes."""
    path = tmp_path / "old.jsonl"
    record = ran(path, [miniature("good")], settings_of(0))
    first, *others = path.read_bytes().splitlines(keepends=True)
    data = msgspec.json.decode(first)
    data.pop("fresh_shapes", None)
    path.write_bytes(msgspec.json.encode(data) + b"\n" + b"".join(others))
    assert read_record(path).header == record.header
    assert record.header.fresh_shapes == 0


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs the command with a cache of its own; its exit code and output."""
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run_it(*words: str) -> tuple[int, str]:
        common = ("--adapter", WRONG, "-k", "gru_hidden_given", "--examples", "1", "--output", str(tmp_path / "out"))
        result = CliRunner().invoke(main, ["run", *words, *common, "-q", "--forget"])
        return result.exit_code, result.output

    return run_it


def test_the_command_has_a_budget(invoke: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """By default a few, as many as asked for, or none; without a campaign it is refused."""
    for words, wanted in (((), 2), (("--fresh-shapes", "1"), 1), (("--fresh-shapes", "0"), 0)):
        code, output = invoke("wrong:good", "--cases", "320", *words)
        assert code == 0, output
        path = max((tmp_path / "out").glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
        record = read_record(path)
        assert record.header.fresh_shapes == wanted == len(fresh_of(record))
        page = path.with_suffix(".html").read_text()
        told = re.search(r"a campaign of 320 cases(?:, (\d) blocks? in fresh shapes)?", page)
        assert told is not None
        assert int(told[1] or 0) == wanted
    code, output = invoke("wrong:good", "--cases", "320", "--fresh-shapes", "2", "--resume", str(path))
    assert code == 2
    assert "another number of fresh shapes" in output
    code, output = invoke("wrong:good", "--fresh-shapes", "3")
    assert code == 2
    assert "only a campaign has fresh shapes" in output


@pytest.mark.parametrize("given", ["0", "5"])
def test_a_cluster_is_told(given: str) -> None:
    """The words of a shard have the budget, also where it is none."""
    context = run_command.make_context("run", ["wrong:good", "--cases", "100", "--fresh-shapes", given])
    assert isinstance(context, click.Context)
    words = [*_words(context)]
    assert words[words.index("--fresh-shapes") + 1] == given
