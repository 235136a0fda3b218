"""Examining a group with a host in memory: failures are reduced, unless a smaller case cannot be observed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.behaviours import correct
from conformance.case import Case, case_from_json
from conformance.compare import Observed
from conformance.examine import examine
from conformance.exchange import Observation
from conformance.faults import catalogue
from conformance.host import MAX_RESTARTS, Host
from conformance.judge import planted, sharpest
from conformance.plan import Candidate, Group, plan
from conformance.process import Interrupted
from conformance.record import Finding, Incident, Line, Trial
from conformance.requirement import REQUIREMENTS
from conformance.rounding import Arithmetic
from conformance.settings import Settings
from conformance.verdict import Agrees, Broken, BrokenKind, Diverges

MiniatureOf = Callable[[str], Candidate]


@dataclass(slots=True)
class Memory:
    """Stands for a host: runs an implementation in this process and remembers what it was asked."""

    group: Group
    implementation: Callable[[Case], Observed | Broken]
    version: str = "1"
    asked: list[Case] = field(default_factory=list)
    foreseen: list[Case] = field(default_factory=list)

    def foresee(self, case: Case) -> None:
        self.foreseen.append(case)

    def observe(self, case: Case) -> Observation | Broken:
        self.asked.append(case)
        answer = self.implementation(case)
        if isinstance(answer, Broken):
            return answer
        (path, *_) = self.group.candidate.variant.attestable(case.cell, case.initial, case.features)
        return Observation(observed=answer, path=path, seconds=0.0)


def faulty(case: Case) -> Observed:
    return planted(case, catalogue("gru")["reset_ignored"])


def examined(
    miniature: MiniatureOf, implementation: Callable[[Case], Observed | Broken], settings: Settings
) -> tuple[Finding, Memory, list[Line]]:
    (group,) = plan([miniature("good")], (REQUIREMENTS["gru_hidden_given"],))
    host, lines = Memory(group, implementation), list[Line]()
    finding = examine(group, cast("Host", host), settings, lines.append)
    return finding, host, lines


def trials(lines: list[Line], phase: str) -> list[Trial]:
    return [line for line in lines if isinstance(line, Trial) and line.phase == phase]


def size(case: Case) -> int:
    return sum(int(np.count_nonzero(array)) for array in (case.x, case.h0, *case.parameters.values()))


@pytest.mark.parametrize("arithmetic", ["", "tf32-products"])
def test_the_worker_gets_the_next_case_while_one_is_judged(miniature: MiniatureOf, arithmetic: Arithmetic) -> None:
    """All but the first of the shipped and of the generated cases, each the very one that is asked for then."""
    candidate = miniature("good")
    variant = replace(candidate.variant, arithmetic={"float32": arithmetic})
    (group,) = plan([replace(candidate, variant=variant)], (REQUIREMENTS["gru_hidden_given"],))
    host, lines = Memory(group, correct), list[Line]()
    finding = examine(group, cast("Host", host), Settings(examples=5, seed=0), lines.append)
    assert isinstance(finding.verdict, Agrees)
    starts = {0, len(trials(lines, "shipped"))}
    expected = [case for place, case in enumerate(host.asked) if place not in starts]
    assert len(host.asked) == finding.trials > 8
    assert [id(case) for case in host.foreseen] == [id(case) for case in expected]
    assert {case.arithmetic for case in host.foreseen} == {arithmetic}


def test_a_failure_is_shown_on_a_small_case(miniature: MiniatureOf) -> None:
    """What is shown is what was reduced: same name, a handful of numbers, and it says where it came from."""
    finding, host, lines = examined(miniature, faulty, Settings(examples=5, seed=3))
    assert finding.example is not None
    case = case_from_json(finding.example.case)
    drawn = next(line.verdict for line in trials(lines, "generated") if isinstance(line.verdict, Diverges))
    assert isinstance(finding.verdict, Diverges)
    assert finding.verdict.faults == ("reset_ignored",)
    assert isinstance(finding.example.verdict, Diverges)
    assert "reset_ignored" in finding.example.verdict.faults
    assert sharpest(finding.example.verdict.faults) == sharpest(drawn.faults)
    assert size(case) <= 6
    assert case.origin.startswith("reduced from generated: ")
    (shrunk,) = trials(lines, "shrunk")
    assert shrunk.case.digest == case.digest == host.asked[-1].digest
    assert isinstance(shrunk.verdict, Diverges)


def test_unbatched_shapes_are_drawn_only_where_offered(miniature: MiniatureOf) -> None:
    """A candidate that takes batches only never receives an unbatched case; it gets the same ones, batched."""
    (group,) = plan([miniature("good")], (REQUIREMENTS["gru_hidden_given"],))
    assert group.candidate.variant.unbatched
    variant = replace(group.candidate.variant, unbatched=False)
    seen = {}
    for own in (group, replace(group, candidate=replace(group.candidate, variant=variant))):
        host = Memory(own, correct)
        examine(own, cast("Host", host), Settings(examples=25, seed=0), list[Line]().append)
        seen[own.candidate.variant.unbatched] = [case for case in host.asked if case.origin.startswith("generated")]
    assert all(case.batched for case in seen[False])
    assert not all(case.batched for case in seen[True])
    for one, other in zip(seen[True], seen[False], strict=True):
        assert np.array_equal(one.x, other.x)


def test_without_shrinking_the_case_is_the_one_that_was_drawn(miniature: MiniatureOf) -> None:
    """No question is asked to make it smaller."""
    finding, host, lines = examined(miniature, faulty, Settings(examples=5, seed=0, shrink=False))
    assert finding.example is not None
    assert not trials(lines, "shrunk")
    diverging = [trial for trial in trials(lines, "generated") if isinstance(trial.verdict, Diverges)]
    assert case_from_json(finding.example.case).digest == diverging[-1].case.digest
    _, reducing, _ = examined(miniature, faulty, Settings(examples=5, seed=0))
    assert len(host.asked) + 5 < len(reducing.asked)


def test_a_worker_that_breaks_on_a_smaller_case_is_not_asked_again(miniature: MiniatureOf) -> None:
    """Each attempt would cost another worker: the case that diverged is shown as it was drawn."""
    broken: list[Case] = []

    def breaks(case: Case) -> Observed | Broken:
        drawn = case.origin.startswith(f"generated: {case.shape}") or not case.origin.startswith("generated")
        if not drawn:
            broken.append(case)
            return Broken(kind="crash", message="gone")
        return planted(case, catalogue("gru")["Wh_transposed"])  # which no single unit shows: something is cut first

    finding, _, lines = examined(miniature, breaks, Settings(examples=8, seed=0))
    assert isinstance(finding.verdict, Diverges)
    assert len(broken) == 1
    (generated, *_) = [trial for trial in trials(lines, "generated") if isinstance(trial.verdict, Diverges)]
    (shrunk,) = trials(lines, "shrunk")
    assert finding.example is not None
    assert case_from_json(finding.example.case).digest == shrunk.case.digest == generated.case.digest


@pytest.mark.parametrize(
    ("kind", "signal", "asked"),
    [
        *(("crash", "SIGKILL", 3), ("crash", "SIGTERM", 3), ("crash", "SIGSEGV", 1), ("crash", "", 1)),
        *(("start", "SIGKILL", MAX_RESTARTS + 1), ("start", "SIGSEGV", 1)),
    ],
)
def test_a_worker_killed_from_outside_is_asked_again_but_not_for_ever(
    miniature: MiniatureOf, kind: BrokenKind, signal: str, asked: int
) -> None:
    """A case that it happens to every time is broken; so is, at once, one on which a framework ends by itself.

    While it starts it may be killed as often as the host starts one.
    """
    worst: list[str] = []

    def dies(case: Case) -> Observed | Broken:
        worst.append(case.digest)
        if case.digest == worst[0]:
            return Broken(kind=kind, message="gone", signal=signal)
        return correct(case)

    finding, host, _ = examined(miniature, dies, Settings(examples=3, seed=0))
    assert isinstance(finding.verdict, Broken)
    assert [case.digest for case in host.asked].count(worst[0]) == asked

    def once(case: Case) -> Observed | Broken:
        worst.append(case.digest)
        return Broken(kind=kind, message="gone", signal=signal) if worst.count(case.digest) == 1 else correct(case)

    worst.clear()
    finding, _, _ = examined(miniature, once, Settings(examples=3, seed=0))
    assert isinstance(finding.verdict, Agrees if asked > 1 else Broken)


def test_what_diverges_once_and_not_again_is_told(miniature: MiniatureOf) -> None:
    """A candidate that is not deterministic keeps its finding, on the case that diverged."""
    seen: list[str] = []

    def once(case: Case) -> Observed:
        seen.append(case.digest)
        return faulty(case) if seen.count(case.digest) == 1 else planted(case, catalogue("gru")["float32_inside"])

    finding, _, lines = examined(miniature, once, Settings(examples=5, seed=0))
    assert isinstance(finding.verdict, Diverges)
    assert any(isinstance(line, Incident) and "not deterministic" in line.what for line in lines)
    assert finding.example is not None
    assert isinstance(finding.example.verdict, Diverges)
    assert finding.verdict.faults == ("reset_ignored",)
    assert "reset_ignored" in finding.example.verdict.faults


def test_reducing_stops_when_the_run_is_to_stop(miniature: MiniatureOf) -> None:
    """Within one question."""
    asked: list[Case] = []

    def counting(case: Case) -> Observed:
        asked.append(case)
        return faulty(case)

    examined(miniature, counting, Settings(examples=5, seed=0, shrink=False))
    until = len(asked) + 2
    asked.clear()
    with pytest.raises(Interrupted):
        examined(miniature, counting, Settings(examples=5, seed=0, stopped=lambda: len(asked) >= until))
    assert len(asked) == until
