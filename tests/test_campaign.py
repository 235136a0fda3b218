"""Campaigns: blocks of cases are run, judged and recorded together, and lose nothing that a case alone would show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from conformance.algebra import Rounded
from conformance.campaign import BLOCK, Campaign, block, block_at, spread
from conformance.case import Case, Padding
from conformance.cells import cell_named
from conformance.compare import Observed, together
from conformance.draws import chunk, forget
from conformance.environments import current
from conformance.errors import CaseError, RecordError
from conformance.examination import MAX_BROKEN_IN_A_ROW
from conformance.exchange import Observation, question_of
from conformance.faults import catalogue
from conformance.host import Host
from conformance.inputs import lattice_of
from conformance.judge import judge, judge_block, observed_of, planted
from conformance.order import ordered
from conformance.plan import Candidate, Group, plan
from conformance.record import BlockLine, Finding, Footer, Incident, KnownList, Line, Record, Trial
from conformance.recordfile import RecordWriter, read_record
from conformance.requirement import REQUIREMENTS, Requirement
from conformance.resume import resumption
from conformance.rounding import DTYPES, format_of
from conformance.run import Silent, header, run
from conformance.settings import Settings
from conformance.shards import joined
from conformance.signature import LATTICE, RELATION
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive

MiniatureOf = Callable[[str], Candidate]
WholeOf = Callable[..., Path]
ASKED = (REQUIREMENTS["gru_hidden_none"], REQUIREMENTS["gru_hidden_given"])
CASES = 500


def settings_of(groups: Sequence[Group], cases: int = CASES, **more: Any) -> Settings:
    return Settings(examples=2, seed=3, campaign=Campaign(cases=spread(cases, groups), **more))


def ran(
    path: Path,
    candidates: Sequence[Candidate],
    settings: Callable[[Sequence[Group]], Settings] = settings_of,
    asked: Sequence[Requirement] = ASKED,
) -> Record:
    """The record of a campaign, as the command line writes it."""
    groups = plan(candidates, asked)
    chosen = settings(groups)
    with RecordWriter(path, header(groups, chosen, ())) as writer:
        findings = run(groups, chosen, writer.write, Silent(), case_seconds=20)
        writer.write(Footer(finished="", trials=sum(f.trials for f in findings), findings=len(findings)))
    return read_record(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> WholeOf:
    """The record of an undivided campaign of a candidate; each is run once, to be read only."""

    @cache
    def of(name: str) -> Path:
        return tmp_path_factory.mktemp(name) / "whole.jsonl"

    def record(candidate: Candidate, cases: int = CASES) -> Path:
        path = of(f"{candidate.variant.name}-{cases}")
        if not path.exists():
            ran(path, [candidate], lambda groups: settings_of(groups, cases))
        return path

    return record


def plain(record: Record) -> list[bytes]:
    """The ordered lines of a record without times, and without what broke and was made good."""

    def timeless(line: Line) -> Line | None:
        match line:
            case Trial() | BlockLine() | Finding():
                example = None
                if isinstance(line, Finding):
                    return msgspec.structs.replace(line, seconds=0.0, example=example)
                return msgspec.structs.replace(line, seconds=0.0)
            case Footer():
                return msgspec.structs.replace(line, finished="")
            case Incident():
                return None
            case _:
                return line

    lines = [timeless(line) for line in ordered(record)]
    return [msgspec.json.encode(line, order="deterministic") for line in lines if line is not None]


def blocks_of(record: Record, name: str = "gru_hidden_given") -> list[BlockLine]:
    return [line for line in record.blocks if line.requirement == name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", ["gru", "lstm_projection", "mingru_log"])
def test_a_case_of_a_block_is_a_case(cell: str, dtype: str) -> None:
    """Every case that a block holds passes all checks of a case made by itself, and is what the stack holds."""
    signature = chunk(0, "any", 0, cell, LATTICE)[5]
    held = block(signature, 7, 5, cell=cell, dtype=dtype, initial="given")
    digests = set()
    for place in range(held.count):
        own = held.case(place)
        fields = {name: getattr(own, name) for name in Case.__slots__ if name != "shape"}
        again = Case(**fields)
        assert again.digest == own.digest
        assert again.shape == own.shape
        digests.add(own.digest)
    assert len(digests) == held.count
    alone = held.together([3])
    assert np.array_equal(alone.x[0], held.case(3).x)


def test_a_block_is_the_same_wherever_it_is_drawn(miniature: MiniatureOf) -> None:
    """A block can be had without those before it, is the same the next time, and differs from every other."""
    (group,) = plan([miniature("good")], ASKED[:1])
    lattice = lattice_of(group.requirement, group.dtype)
    first = [block_at(3, group, index, 8, lattice).digest for index in range(40)]
    forget()
    assert [block_at(3, group, index, 8, lattice).digest for index in reversed(range(40))] == first[::-1]
    assert block_at(4, group, 39, 8, lattice).digest != first[39]
    assert len(set(first)) == len(first)


def observed(case: Case, fault: str = "") -> Observed:
    if fault:
        return planted(case, catalogue(case.cell)[fault])
    return observed_of(cell_named(case.cell).run(case, ops=Rounded(format_of(case.dtype))))


FEATURED = [(), ("lengths", "reverse"), ("bidirectional", "lengths"), ("layers", "lengths")]


@pytest.mark.parametrize("features", FEATURED, ids="+".join)
def test_a_block_has_the_features_asked_for(features: tuple[str, ...]) -> None:
    """Every case of it, and with lengths one row has all steps, another one fewer; the numbers differ as ever."""
    for index, signature in enumerate(chunk(0, "any", 0, "lstm", ((RELATION, True),))[:6]):
        held = block(signature, index, 3, cell="lstm", dtype="float32", initial="given", features=features)
        cell_named("lstm").check(held.case(1))
        assert set(held.case(2).features) == set(features)
        if "lengths" in features:
            lengths = held.case(0).lengths
            assert lengths is not None
            assert lengths == held.case(2).lengths
            assert 1 <= min(lengths) < max(lengths) == held.first.shape.time
        assert held.case(0).digest != held.case(1).digest


@pytest.mark.parametrize(
    ("features", "padding"),
    [(one, padding) for one in FEATURED for padding in ("zeros", "free") if padding == "zeros" or "lengths" in one],
)
def test_together_or_one_by_one_the_verdict_is_the_same(
    features: tuple[str, ...], padding: Padding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block in which some cases are wrong, each in another way: nothing hides among its mates."""
    signature = next(s for s in chunk(0, "any", 0, "gru", LATTICE) if str(s.shape) == str(LATTICE[4][0]))
    held = block(signature, 1, 12, cell="gru", dtype="float32", initial="given", features=features)
    held = held.like(replace(held.first, padding=padding))
    wrong = {2: "h0_ignored", 5: "swap_rz", 11: "update_flip"}
    if features and padding == "zeros":
        wrong[11] = "final_from_padding" if "layers" in features else "padding_reversed"
    seen = [observed(held.case(place), wrong.get(place, "")) for place in range(12)]
    if padding == "free" and "lengths" in features:
        past = np.arange(held.first.shape.time) >= np.array(held.first.lengths)[:, None]
        seen = [replace(one, outputs=np.where(past[..., None], 7.0, one.outputs)) for one in seen]
    alone = [judge(held.case(place), seen[place], ()) for place in range(12)]
    place = 0
    for cases, verdict in judge_block(held, range(12), together(seen), ()):
        own = alone[place : place + cases]
        assert {type(one) for one in own} == {type(verdict)}
        if isinstance(verdict, Diverges):
            (one,) = own
            assert isinstance(one, Diverges)
            assert verdict.faults == one.faults
            assert wrong.pop(place) in verdict.faults
        elif isinstance(verdict, Agrees):
            agreeing = [one for one in own if isinstance(one, Agrees)]
            assert verdict.compared == sum(one.compared for one in agreeing)
            assert verdict.share == pytest.approx(max(one.share for one in agreeing), rel=1e-6)
        place += cases
    assert place == 12
    assert not wrong
    every = list(judge_block(held, range(12), together(seen), ()))
    monkeypatch.setattr("conformance.judge._TOGETHER", 5 * sum(values.size for values in seen[0].arrays().values()))
    assert list(judge_block(held, range(12), together(seen), ())) == every, "in stretches of five"
    some = [0, 3, 4, 6, 7, 9, 10]
    assert sum(cases for cases, _ in judge_block(held, some, together([seen[place] for place in some]), ())) == 7
    lost = together([replace(one, outputs=one.outputs * np.nan) for one in seen[:4]])
    told = list(judge_block(held, range(4), lost, ()))
    assert [cases for cases, _ in told] == [1] * 4
    assert all(isinstance(verdict, Diverges) for _, verdict in told)


def test_a_block_with_parameters_held_at_zero_is_that_of_its_cases() -> None:
    """As for one case: they are zero where it is judged and where it is sent, and it has a name of its own."""
    signature = chunk(0, "any", 0, "gru", LATTICE)[5]
    whole = block(signature, 7, 5, cell="gru", dtype="float32", initial="given")
    held = whole.zeroed(("b_hn",))
    assert held.digest != whole.digest
    assert whole.parameters["b_hn"].any()
    for place in range(held.count):
        assert held.case(place).digest == whole.case(place).zeroed(("b_hn",)).digest
        sent = question_of(held.case(place), "any").tensors
        assert sent.keys() == held.packed.keys()
        assert all(np.array_equal(sent[name].values, values[place]) for name, values in held.packed.items())


def test_every_case_is_tried_and_counted(miniature: MiniatureOf, whole: WholeOf) -> None:
    """So many cases as asked for, shared out among requirements; the findings agree and count them all."""
    record = read_record(whole(miniature("good")))
    assert not record.problem
    assert sum(line.cases for line in record.blocks) == CASES
    assert all(line.agreeing == line.cases and 0 < line.share <= 1 and line.compared for line in record.blocks)
    assert {line.requirement for line in record.blocks} == {r.name for r in ASKED}
    for finding in record.findings:
        assert isinstance(finding.verdict, Agrees)
        ordinary = sum(t.requirement == finding.requirement for t in record.trials)
        assert finding.trials == ordinary + CASES // 2
    assert len({line.digest for line in record.blocks}) == len(record.blocks)


def test_one_wrong_case_in_a_campaign_is_found(miniature: MiniatureOf, whole: WholeOf) -> None:
    """A defect that ordinary cases do not meet; the block says where it is, and the case is kept."""
    record = read_record(whole(miniature("rare")))
    told = {finding.requirement: finding for finding in record.findings}
    assert isinstance(told["gru_hidden_none"].verdict, Agrees)
    finding = told["gru_hidden_given"]
    assert isinstance(finding.verdict, Diverges)
    assert finding.verdict.faults == ("h0_ignored",)
    assert finding.example is not None
    *before, last = blocks_of(record)
    assert last.diverges
    assert last.agreeing == last.cases - 1
    assert not any(line.diverges for line in before)
    assert any(t.phase == "campaign" and t.block == last.block for t in record.trials)


# A crash costs the start of a worker: in fewer cases there are fewer of them.
@pytest.mark.parametrize(("variant", "cases"), [("crash_rare", 160), ("raises_rare", CASES), ("dtype_rare", CASES)])
def test_a_case_that_breaks_the_worker_is_found_and_its_mates_are_finished(
    miniature: MiniatureOf, whole: WholeOf, variant: str, cases: int
) -> None:
    """Every other case of the block is judged; the broken one has a trial of its own."""
    record = read_record(whole(miniature(variant), cases))
    broken = [trial for trial in record.trials if trial.phase == "campaign"]
    assert broken
    assert all(isinstance(trial.verdict, Broken) for trial in broken)
    assert sum(line.cases for line in record.blocks) == cases
    assert sum(line.agreeing for line in record.blocks) == cases - len(broken)
    assert any(isinstance(finding.verdict, Broken) for finding in record.findings)


def test_a_group_that_is_left_takes_nothing_along(miniature: MiniatureOf, tmp_path: Path) -> None:
    """A candidate that only raises for a while loses one group; the worker owes no answer to the next one."""
    record = ran(tmp_path / "a.jsonl", [miniature("ill")])
    first, second = record.findings
    assert isinstance(first.verdict, Broken)
    assert sum(isinstance(trial.verdict, Broken) for trial in record.trials) == MAX_BROKEN_IN_A_ROW
    assert isinstance(second.verdict, Agrees)
    assert blocks_of(record, first.requirement)[-1].cases == MAX_BROKEN_IN_A_ROW, "what was left is not counted"
    assert sum(line.cases for line in blocks_of(record, second.requirement)) == CASES // 2


def test_a_block_that_nobody_finished_answers_nothing_else(miniature: MiniatureOf) -> None:
    """After a block whose answer was not read, a case gets its own answer."""
    candidate = miniature("good")
    (group,) = plan([candidate], ASKED[:1])
    held = block_at(3, group, 1, 8, lattice_of(group.requirement, group.dtype))
    with Host(candidate.adapter, candidate.variant, current(), incident=lambda _: None, ready=lambda *_: None) as host:
        host.begin(held)
        answer = host.observe(held.case(2))
        assert isinstance(answer, Observation)
        assert isinstance(judge(held.case(2), answer.observed, ()), Agrees)
        host.begin(held)
        host.begin(held)
        assert host.finish(held).places == tuple(range(8))


def test_another_path_in_one_case_is_not_lost(miniature: MiniatureOf, tmp_path: Path) -> None:
    """A block is not trusted as a whole where one of its cases took another path."""
    record = ran(tmp_path / "a.jsonl", [miniature("path_rare")])
    astray = [trial for trial in record.trials if trial.phase == "campaign"]
    assert astray
    assert all(isinstance(trial.verdict, Inconclusive) and "shortcut" in trial.verdict.why for trial in astray)
    assert any(isinstance(finding.verdict, Inconclusive) for finding in record.findings)


def test_a_worker_that_dies_by_nobodys_fault_costs_nothing(
    miniature: MiniatureOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is that of an undisturbed run, and the incident stands beside it."""
    monkeypatch.setenv("MINIATURE_MARKER", str(tmp_path / "marker"))
    disturbed = ran(tmp_path / "a.jsonl", [miniature("dies_once")])
    assert (tmp_path / "marker").exists()
    assert any("one by one its" in incident.what for incident in disturbed.incidents)
    assert all(isinstance(finding.verdict, Agrees) for finding in disturbed.findings)
    assert plain(ran(tmp_path / "b.jsonl", [miniature("dies_once")])) == plain(disturbed)


@pytest.mark.parametrize(
    ("variant", "share"),
    [("good", 0.2), ("good", 0.9), ("rare", 0.2), ("rare", 0.5), ("rare", 0.9), ("raises_rare", 0.5)],
)
def test_a_record_cut_off_anywhere_is_finished_to_the_same(
    miniature: MiniatureOf, whole: WholeOf, tmp_path: Path, variant: str, share: float
) -> None:
    """Whatever has been written when the run was killed, the finished record is that of an undivided run."""
    undivided = read_record(whole(miniature(variant)))
    lines = whole(miniature(variant)).read_bytes().splitlines(keepends=True)
    place = 1 + int(len(lines[1:]) * share)
    path = tmp_path / "cut.jsonl"
    path.write_bytes(b"".join(lines[:place]) + lines[place][:10])
    groups = plan([miniature(variant)], ASKED)
    chosen = settings_of(groups)
    rest = resumption(read_record(path), header(groups, chosen, ()), (), groups)
    tried: list[Line] = []
    with RecordWriter(path, rest.header, rest.lines) as writer:

        def write(line: Line) -> None:
            tried.append(line)
            rest.guarded(writer.write)(line)

        assert chosen.campaign is not None
        again = replace(chosen, campaign=replace(chosen.campaign, done=rest.begun))
        found = [*rest.findings, *run(rest.todo, again, write, Silent())]
        writer.write(Footer(finished="", trials=sum(f.trials for f in found), findings=len(found)))
    assert plain(read_record(path)) == plain(undivided)
    kept = sum(isinstance(line, BlockLine) for line in rest.lines)
    assert sum(isinstance(line, BlockLine) for line in tried) == len(undivided.blocks) - kept


@pytest.mark.parametrize("variant", ["good", "rare", "raises_rare"])
def test_shards_join_to_an_undivided_run(miniature: MiniatureOf, whole: WholeOf, tmp_path: Path, variant: str) -> None:
    """Three shards, in whatever order they are given, make the record of one run."""
    candidate = miniature(variant)
    undivided = read_record(whole(candidate))
    parts = [
        ran(tmp_path / f"{place}.jsonl", [candidate], lambda groups, own=place: settings_of(groups, shard=(own, 3)))
        for place in (3, 1, 2)
    ]
    assert len({line.block for part in parts for line in blocks_of(part)}) >= len(blocks_of(undivided))
    assert plain(joined(parts)) == plain(undivided)


def test_shards_that_do_not_belong_together_are_refused(miniature: MiniatureOf, tmp_path: Path) -> None:
    """A missing shard, the same one twice, another seed, an incomplete one: each is told."""
    one, two = (
        ran(tmp_path / f"{place}.jsonl", [miniature("good")], lambda g, own=place: settings_of(g, shard=(own, 2)))
        for place in (1, 2)
    )
    other = msgspec.structs.replace(two, header=msgspec.structs.replace(two.header, seed=9))
    open_end = msgspec.structs.replace(two, problem="incomplete: the run did not come to its end")
    for parts, text in (
        ((one,), r"missing \[2\]"),
        ((one, one), r"twice \[1\]"),
        ((one, other), "another seed"),
        ((one, open_end), "incomplete"),
    ):
        with pytest.raises(RecordError, match=text):
            joined(parts)


def test_what_broke_in_one_shard_is_not_outvoted(miniature: MiniatureOf, tmp_path: Path) -> None:
    """A shard that was not run, or in which an ordinary case broke, leaves the whole broken, whichever shard it is."""
    one, two = (
        ran(tmp_path / f"{i}.jsonl", [miniature("good")], lambda g, i=i: settings_of(g, shard=(i, 2))) for i in (1, 2)
    )
    absent = Broken(kind="environment", message="no such release")

    def unmade(record: Record) -> Record:
        findings = tuple(msgspec.structs.replace(f, verdict=absent, trials=0, visible=()) for f in record.findings)
        return msgspec.structs.replace(record, findings=findings, trials=(), blocks=(), probes=())

    assert all(isinstance(finding.verdict, Agrees) for finding in joined((one, two)).findings)
    for parts in ((unmade(one), two), (one, unmade(two))):
        assert all(finding.verdict == absent for finding in joined(parts).findings)
    lacking = msgspec.structs.replace(two, findings=two.findings[:1])
    with pytest.raises(RecordError, match="does not answer what the others do"):
        joined((one, lacking))
    held = KnownList(source="list.toml", dtypes=(), entries=())
    both = [msgspec.structs.replace(part, known=held) for part in (one, two)]
    assert joined(both).known == held, "a list that all were held to stays"


def test_a_campaign_needs_something_to_agree_on(miniature: MiniatureOf) -> None:
    """Cases are shared out among requirements of agreement; without one there is nothing to do, and that is said."""
    groups = plan([miniature("featured")], [REQUIREMENTS["gru_lengths"]])
    with pytest.raises(CaseError, match="agreement with the reference"):
        spread(10, groups)
    plain_groups = plan([miniature("good")], ASKED)
    assert sorted(spread(7, plain_groups).values()) == [3, 4]
    assert sum(count for _, count in Campaign(cases=spread(100, plain_groups)).blocks(plain_groups[0])) == 50
    assert BLOCK > 1


def test_a_campaign_rules_out_what_ordinary_cases_could_not(miniature: MiniatureOf, tmp_path: Path) -> None:
    """The first block is asked about the faults that are left, whole or in shards; the finding has them all."""

    def sparse(groups: Sequence[Group], shard: tuple[int, int] = (1, 1)) -> Settings:
        # Only a zero state was tried before: whatever shows in a given one is left to the campaign.
        many = Campaign(cases=spread(CASES, groups), shard=shard)
        return replace(settings_of(groups), examples=0, remembered=tmp_path / "nothing", campaign=many)

    given = ASKED[1:]
    whole = ran(tmp_path / "whole.jsonl", [miniature("good")], sparse, given)
    assert len(whole.findings) == 1
    for finding in whole.findings:
        assert isinstance(finding.verdict, Agrees), finding
        assert finding.verdict.excluded == set(finding.visible)
        assert sum(bool(line.excluded) for line in blocks_of(whole, finding.requirement)) > 1
    parts = [ran(tmp_path / f"{i}.jsonl", [miniature("good")], lambda g, i=i: sparse(g, (i, 2)), given) for i in (1, 2)]
    assert plain(joined(parts)) == plain(whole)
