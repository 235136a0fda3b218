"""Failures of a campaign are kept in Hypothesis' example database, and replayed from there before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase
from msgspec.structs import replace

from conformance.block import Block
from conformance.campaign import BLOCK, Campaign, spread
from conformance.candidate import parse_spec
from conformance.case import Case
from conformance.cli import main
from conformance.compare import Observed
from conformance.discover import find_adapters
from conformance.examine import examine
from conformance.exchange import Observation, Observations
from conformance.faults import catalogue
from conformance.host import Host
from conformance.judge import planted
from conformance.memory import Place, keep, number_of, place_of, replay
from conformance.plan import Candidate, Group, candidates_for, plan
from conformance.record import Finding, Line, Trial
from conformance.recordfile import read_record
from conformance.requirement import REQUIREMENTS
from conformance.settings import Settings
from conformance.signature import LATTICE, Signature
from conformance.strategies import fresh_shape_of, signature_of
from conformance.verdict import Agrees, Broken, Diverges

MiniatureOf = Callable[[str], Candidate]
Implementation = Callable[[Case], Observed | Broken]
WRONG = str(Path(__file__).resolve().parent / "miniatures" / "wrong")
GIVEN = REQUIREMENTS["gru_hidden_given"]
KEY = (GIVEN.name, "float32")
NUMBERS = st.integers(0, 2**256 - 1)


@st.composite
def places(draw: st.DrawFn) -> Place:
    if draw(st.booleans()):
        return Place(signature=signature_of(draw(NUMBERS), cell="gru"), index=0, count=0, place=0)
    signature = signature_of(draw(NUMBERS), cell="gru", overlays=False)
    if draw(st.booleans()):
        shape, batched = fresh_shape_of(draw(NUMBERS))
        signature = replace(signature, shape=shape, batched=batched)
    count = draw(st.integers(1, BLOCK))
    index, own = draw(st.integers(0, 10**9)), draw(st.integers(0, count - 1))
    return Place(signature=signature, index=index, count=count, place=own)


@given(places(), st.integers(1, 2**40))
def test_a_number_tells_the_case(place: Place, off: int) -> None:
    """There and back, also in fresh shapes; another number is no case, unless it is another case's."""
    number = number_of(place)
    assert place_of(number, "gru") == place
    for other in (number + off, number - off, off):
        told = place_of(other, "gru")
        assert told is None or number_of(told) == other != number


def place(index: int) -> Place:
    signature = Signature(shape=LATTICE[-1][0], batched=True, seed=2**32 - 1, scale=20.0, decimals=12, fills=())
    return Place(signature=signature, index=index, count=32, place=31)


def test_what_is_kept_is_replayed_until_it_agrees() -> None:
    """Exactly the cases that were kept, up to the first that fails; those that agree, and what is no case, are gone."""
    database, asked = InMemoryExampleDatabase(), list[Place]()

    def kept() -> int:
        return sum(len(examples) for examples in database.data.values())

    def asking(fails: Callable[[Place], bool]) -> list[Place]:
        def ask(one: Place) -> bool:
            asked.append(one)
            return fails(one)

        asked.clear()
        replay(database, "gru", ask)
        return list(asked)

    assert asking(lambda _: True) == []
    wanted = [place(index) for index in (7, 10**6)]
    for one in wanted:
        keep(database, one)
        keep(database, one)
    assert kept() == 2
    (key,) = database.data
    database.save(key, b"no choices of anybody's")
    assert asking(lambda one: one.index > 7) == wanted
    assert asking(lambda _: True) == wanted[1:], "the other one agreed"
    assert asking(lambda _: False) == wanted[1:]
    assert asking(lambda _: True) == []
    assert kept() == 0


@dataclass(slots=True)
class Memory:
    """Stands for a host: runs an implementation in this process, one case after another."""

    group: Group
    implementation: Implementation
    version: str = "1"

    def foresee(self, case: Case) -> None:
        """It has nothing to do meanwhile."""

    def observe(self, case: Case) -> Observation | Broken:
        answer = self.implementation(case)
        if isinstance(answer, Broken):
            return answer
        (path, *_) = self.group.candidate.variant.attestable(case.cell, case.initial, case.features)
        return Observation(observed=answer, path=path, seconds=0.0)

    def begin(self, block: Block) -> None: ...

    def finish(self, block: Block) -> Observations:
        return Observations(apart=tuple(range(block.count)))


def right(case: Case) -> Observed:
    return planted(case, catalogue("gru")["float32_inside"])


def rarely_wrong(case: Case) -> Observed:
    """In some cases of campaigns, and in what they are reduced to."""
    rare = "campaign" in case.origin and abs(float(case.h0.flat[0])) > 0.8
    return planted(case, catalogue("gru")["update_flip"]) if rare else right(case)


def broken(case: Case) -> Observed | Broken:
    return Broken(kind="exception", message="not today") if "campaign" in case.origin else right(case)


@pytest.mark.parametrize("name", ["gru_reverse_lengths", "gru_bidirectional_lengths"])
def test_rows_of_different_lengths_are_marched_through_as_well(name: str, tmp_path: Path) -> None:
    """What is wrong in some cases of a campaign only is found, named, made small, kept, and tried first again."""
    adapters = find_adapters()
    (group,) = plan(candidates_for(adapters, [parse_spec("numpy")]), (REQUIREMENTS[name],), ("float32",))

    def rarely(case: Case) -> Observed:
        rare = "campaign" in case.origin and abs(float(case.h0.flat[0])) > 0.8
        return planted(case, catalogue("gru")["padding_reversed"]) if rare else right(case)

    campaign = Campaign(cases=spread(BLOCK, [group]))
    for chosen, phase in ((campaign, "campaign"), (None, "generated")):
        settings, lines = Settings(examples=1, seed=3, database=tmp_path, campaign=chosen), list[Line]()
        finding = examine(group, cast("Host", Memory(group, rarely)), settings, lines.append)
        assert isinstance(finding.verdict, Diverges)
        assert "padding_reversed" in finding.verdict.faults
        (found,) = [t for t in lines if isinstance(t, Trial) and t.phase == phase and isinstance(t.verdict, Diverges)]
        assert "campaign, block" in found.case.origin


@pytest.fixture
def examined(miniature: MiniatureOf, tmp_path: Path) -> Callable[..., tuple[Finding, list[Trial]]]:
    """Examines one group with a database of its own; without a campaign of so many blocks the seed is another one."""
    (group,) = plan([miniature("good")], (GIVEN,))

    def ask(does: Implementation, blocks: int = 0, **more: object) -> tuple[Finding, list[Trial]]:
        campaign = Campaign(cases={KEY: blocks * BLOCK}, fresh={KEY: blocks - 1}) if blocks else None
        chosen = Settings(examples=1, seed=3 if blocks else 8, database=tmp_path / "examples", campaign=campaign)
        lines: list[Line] = []
        finding = examine(group, cast("Host", Memory(group, does)), replace(chosen, **more), lines.append)
        return finding, [line for line in lines if isinstance(line, Trial) and line.phase != "shipped"]

    return ask


Examined = Callable[..., tuple[Finding, list[Trial]]]


def test_a_failure_of_a_campaign_comes_first_in_the_next_run(examined: Examined) -> None:
    """The very case, as the first generated one, reduced again; once it agrees it is forgotten."""
    finding, trials = examined(rarely_wrong, blocks=3)
    assert isinstance(finding.verdict, Diverges)
    (drawn,) = [t for t in trials if t.phase == "campaign"]
    assert isinstance(drawn.verdict, Diverges)
    assert all(isinstance(t.verdict, Agrees) for t in trials if t.phase == "generated")
    for again in (examined(rarely_wrong), examined(rarely_wrong, blocks=2)):
        finding, (first, shrunk) = again
        assert isinstance(finding.verdict, Diverges)
        assert finding.verdict.faults == ("update_flip",)
        assert (first.phase, shrunk.phase) == ("generated", "shrunk")
        assert first.case.digest == drawn.case.digest
        assert first.case.origin == f"kept: {drawn.case.origin}"
        assert isinstance(first.verdict, Diverges)
    finding, (first, *_) = examined(right)
    assert first.case.digest == drawn.case.digest
    assert isinstance(finding.verdict, Agrees)
    _, (first, *_) = examined(rarely_wrong)
    assert first.case.origin.startswith("generated: "), "what agreed is forgotten"


def test_shards_do_not_stop_one_another(examined: Examined) -> None:
    """What the first one keeps is not replayed by the second: it tries its own blocks."""
    whole = Campaign(cases={KEY: 6 * BLOCK})
    for shard in ((1, 2), (2, 2)):
        _, trials = examined(rarely_wrong, seed=3, campaign=replace(whole, shard=shard))
        (drawn,) = [trial for trial in trials if trial.phase == "campaign"]
        assert drawn.block is not None
        assert drawn.block % 2 == shard[0] - 1
        assert not any(trial.case.origin.startswith("kept") for trial in trials)
    _, (first, *_) = examined(rarely_wrong)
    assert first.case.origin.startswith("kept: campaign")


def test_what_cannot_be_observed_is_not_forgotten(examined: Examined) -> None:
    """A worker that breaks on the kept case says nothing about it."""
    _, trials = examined(rarely_wrong, blocks=3)
    (drawn,) = [t for t in trials if t.phase == "campaign"]
    finding, (first, *_) = examined(broken)
    assert isinstance(finding.verdict, Broken)
    assert first.case.digest == drawn.case.digest
    finding, (first, *_) = examined(rarely_wrong)
    assert first.case.digest == drawn.case.digest
    assert isinstance(finding.verdict, Diverges)


def test_without_a_database_nothing_is_kept(examined: Examined, tmp_path: Path) -> None:
    """As with --forget; and with one, but no examples, nothing is replayed."""
    finding, _ = examined(rarely_wrong, blocks=3, database=None)
    assert isinstance(finding.verdict, Diverges)
    assert not (tmp_path / "examples").exists()
    assert isinstance(examined(rarely_wrong)[0].verdict, Agrees)
    examined(rarely_wrong, blocks=3)
    assert isinstance(examined(rarely_wrong, examples=0)[0].verdict, Agrees)
    assert isinstance(examined(rarely_wrong)[0].verdict, Diverges)


def test_the_commands_replay_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign finds it; `run` without one and `replay` try it again, from the database alone."""
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    words = ["--adapter", WRONG, "-k", "gru_hidden_given", "--examples", "1", "--seed", "3", "-q"]

    def trials(name: str, *more: str) -> tuple[int, list[Trial]]:
        result = CliRunner().invoke(main, ["run", "wrong:rare", *words, "--output", str(tmp_path / name), *more])
        (path,) = (tmp_path / name).glob("*.jsonl")
        return result.exit_code, [trial for trial in read_record(path).trials if trial.phase != "shipped"]

    code, found = trials("a", "--cases", "250")
    assert code == 1
    (drawn,) = [trial for trial in found if trial.phase == "campaign"]
    code, (first, *_) = trials("b")
    assert code == 1
    assert (first.phase, first.case.digest) == ("generated", drawn.case.digest)
    result = CliRunner().invoke(main, ["replay", "--adapter", WRONG, "--output", str(tmp_path / "nowhere")])
    assert result.exit_code == 1, result.output
    assert "STILL FAILS: wrong:rare gru_hidden_given float32" in result.output
