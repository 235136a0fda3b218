"""The state of one group while its cases are tried: what is run, judged, counted and recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from msgspec import Struct, field

from conformance.block import Block
from conformance.case import Case
from conformance.compare import Observed, together
from conformance.draws import CHUNK
from conformance.exchange import Observations
from conformance.host import MAX_RESTARTS, Host
from conformance.judge import (
    TrialVerdict,
    judge,
    judge_block,
)
from conformance.plan import Group
from conformance.process import Interrupted
from conformance.record import BlockLine, CaseSummary, Incident, Line, Trial
from conformance.record import Phase as TrialPhase
from conformance.relation import Pair, judge_relation
from conformance.requirement import GRADIENT, REFERENCE
from conformance.settings import Settings
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive

# After so many cases in a row without an observation the rest of a group is not tried.
MAX_BROKEN_IN_A_ROW: Final = 3
# A case whose worker was killed from outside is asked so often again.
RETRIES: Final = 2


class NotObserved(Exception):
    """The candidate broke, or ran another path: a verdict of its own."""

    def __init__(self, verdict: Broken | Inconclusive) -> None:
        super().__init__()
        self.verdict = verdict


class Judged(Struct, frozen=True, kw_only=True):
    """A judged case. shown: what a divergence is shown on, None without an observation; path: the last one attested."""

    case: Case
    verdict: TrialVerdict
    shown: Pair | None
    path: str
    seconds: float | None

    @property
    def failure(self) -> Failed | None:
        """The divergence, if it is one."""
        if isinstance(self.verdict, Diverges) and self.shown is not None:
            return Failed(judged=self, verdict=self.verdict, shown=self.shown)
        return None


class Failed(Struct, frozen=True, kw_only=True):
    """A divergence: the case that was drawn, and what of it (a detour, perhaps) shows it."""

    judged: Judged
    verdict: Diverges
    shown: Pair


def _gradients() -> Callable[[Case, Observed, frozenset[str]], TrialVerdict]:
    from conformance.gradient import judge_gradients  # noqa: PLC0415 - where gradients are asked for

    return judge_gradients


NOTHING_OBSERVED: Final = Observed(outputs=np.zeros((0, 0, 0)), final_state=np.zeros((0, 0)))


class Examination(Struct):
    """The state of one group while its cases are tried."""

    group: Group
    host: Host
    settings: Settings
    emit: Callable[[Line], None]
    remaining: set[str]
    verdicts: list[TrialVerdict] = field(default_factory=list)
    trials: int = 0
    seconds: float = 0.0
    broken_in_a_row: int = 0
    path: str = ""
    latest: Observed = field(default=NOTHING_OBSERVED)

    def judged(self, case: Case, *, remaining: frozenset[str] | None = None, after: Case | None = None) -> Judged:
        """Run and judge one case; nothing is recorded.

        remaining: the faults to be ruled out, if not those left; after: what is run next, meanwhile, if this agrees.
        """
        wanted = frozenset(self.remaining) if remaining is None else remaining
        case = self.group.candidate.variant.declared(case)
        relation = self.group.requirement.relation
        before = self.seconds
        try:
            if relation in (REFERENCE, GRADIENT):
                observed = self.run(case)
                if after is not None:
                    self.host.foresee(after)
                ask = judge if relation == REFERENCE else _gradients()
                verdict, shown = ask(case, observed, wanted), Pair(case=case, observed=observed)
            else:
                verdict, pair = judge_relation(relation, case, self.run, wanted)
                shown = pair or Pair(case=case, observed=self.latest)
        except NotObserved as nothing:
            return Judged(case=case, verdict=nothing.verdict, shown=None, path=self.path, seconds=None)
        return Judged(case=case, verdict=verdict, shown=shown, path=self.path, seconds=self.seconds - before)

    def run(self, case: Case) -> Observed:
        """Have the candidate run one case; NotObserved where it breaks, or where another path ran."""
        if self.settings.stopped():
            raise Interrupted
        answer = self.host.observe(case)
        starting, running = 0, 0
        # No framework does this to itself: somebody ended the worker, or the system did. A case has to do with it only
        # if that happens again while it runs; a worker that starts does not even know it.
        while isinstance(answer, Broken) and answer.signal in ("SIGKILL", "SIGTERM"):
            if answer.kind == "start":
                starting += 1
            else:
                running += 1
            if running > RETRIES or starting > MAX_RESTARTS:
                break
            answer = self.host.observe(case)
        if isinstance(answer, Broken):
            self.path = ""
            raise NotObserved(answer)
        self.seconds += answer.seconds
        self.path, self.latest = answer.path, answer.observed
        astray = self.astray(case, answer.path)
        if astray is not None:
            raise NotObserved(astray)
        return answer.observed

    def astray(self, case: Case, path: str) -> Inconclusive | None:
        """What to say where another path ran than the variant declares."""
        wanted = self.group.candidate.variant.attestable(case.cell, case.initial, case.features)
        if path in wanted:
            return None
        return Inconclusive(why=f"another path ran: {path!r}, wanted {' or '.join(map(repr, wanted))}")

    def trial(self, case: Case, phase: TrialPhase, *, after: Case | None = None) -> Judged:
        """Run, judge and record one case; `after` is run next, if this one agrees."""
        judged = self.judged(case, after=after)
        self.record(judged, phase)
        return judged

    def record(self, judged: Judged, phase: TrialPhase, block: int | None = None) -> None:
        """Count a judged case and append it to the record."""
        case, verdict = judged.case, judged.verdict
        self.verdicts.append(verdict)
        self.trials += 1
        self.broken_in_a_row = self.broken_in_a_row + 1 if isinstance(verdict, Broken) else 0
        if isinstance(verdict, Agrees):
            self.remaining -= verdict.excluded
        size = case.shape
        self.emit(
            Trial(
                candidate=self.group.candidate.name,
                requirement=self.group.requirement.name,
                dtype=case.dtype,
                phase=phase,
                case=CaseSummary(
                    digest=case.digest,
                    origin=case.origin,
                    shape=(size.batch, size.time, size.features, size.hidden),
                    batched=case.batched,
                    initial=case.initial,
                ),
                verdict=verdict,
                path=judged.path,
                seconds=judged.seconds,
                block=block,
            )
        )

    def block(self, block: Block, answer: Observations) -> Failed | None:
        """Judge and record the cases of a block, up to the first that diverges."""
        before = self.trials
        places, observed, paths = self._gathered(block, answer)
        lost = self.trials - before  # recorded already: what broke, or took another path
        agreeing, worst, compared, judged = 0, 0.0, 0, lost
        # Asking every case which faults it rules out costs more than all the rest: the first chunk does it, and each of
        # its blocks for itself, so that it is the same in whichever shard it is.
        against = set(self.remaining) if block.index < CHUNK else set[str]()
        asked = frozenset(against)
        failure: Failed | None = None
        if observed is not None:
            for cases, verdict in judge_block(block, places, observed, against):
                row = judged - lost
                judged += cases
                if isinstance(verdict, Agrees):
                    agreeing += cases
                    worst, compared = max(worst, verdict.share), compared + verdict.compared
                    against -= verdict.excluded
                    continue
                case = block.case(places[row])
                shown = Pair(case=case, observed=observed.row(row))
                trial = Judged(case=case, verdict=verdict, shown=shown, path=paths[row], seconds=None)
                self.record(trial, "campaign", block.index)
                if failure := trial.failure:
                    break
        size = block.first.shape
        line = BlockLine(
            candidate=self.group.candidate.name,
            requirement=self.group.requirement.name,
            dtype=self.group.dtype,
            block=block.index,
            cases=judged,
            agreeing=agreeing,
            excluded=tuple(sorted(asked - against)),
            digest=block.digest,
            origin=block.origin,
            shape=(size.batch, size.time, size.features, size.hidden),
            batched=block.first.batched,
            initial=block.first.initial,
            share=worst,
            compared=compared,
            path=paths[0] if paths else "",
            seconds=answer.seconds,
            diverges=failure is not None,
        )
        self.emit(line)
        self.recall(line)
        return failure

    def recall(self, line: BlockLine) -> None:
        """Count the agreeing cases of a block."""
        if line.agreeing:
            self.verdicts.append(Agrees(excluded=frozenset(line.excluded), share=line.share, compared=line.compared))
            self.broken_in_a_row = 0
        self.trials += line.agreeing
        self.seconds += line.seconds

    def _gathered(self, block: Block, answer: Observations) -> tuple[list[int], Observed | None, list[str]]:
        """What was observed of a block, asking one by one for what its answer lacks; what was not is recorded."""
        if not answer.apart and all(self.astray(block.first, path) is None for path in set(answer.paths)):
            return list(answer.places), answer.observed, list(answer.paths)
        own = dict(zip(answer.places, enumerate(answer.paths), strict=True))
        places, rows, paths, broken = [], [], [], False
        for place in range(block.count):
            case = block.case(place)
            try:
                if place in own and answer.observed is not None:
                    row, self.path = own[place]
                    observed = answer.observed.row(row)
                    if astray := self.astray(case, self.path):
                        raise NotObserved(astray)
                else:
                    observed = self.run(case)
            except NotObserved as nothing:
                broken = broken or isinstance(nothing.verdict, Broken)
                lost = Judged(case=case, verdict=nothing.verdict, shown=None, path=self.path, seconds=None)
                self.record(lost, "campaign", block.index)
                if self.hopeless:
                    break
                continue
            self.broken_in_a_row = 0
            places.append(place)
            rows.append(observed)
            paths.append(self.path)
        if answer.broken is not None and not broken:
            died = answer.broken
            self.emit(
                Incident(
                    candidate=self.group.candidate.name,
                    what=f"{died.message}; one by one its {block.count} cases were all answered",
                    exit_code=died.exit_code,
                    signal=died.signal,
                    stderr_tail=died.stderr_tail,
                )
            )
        return places, together(rows) if rows else None, paths

    @property
    def hopeless(self) -> bool:
        """Whether the worker has broken so often in a row that trying on tells nothing."""
        return self.broken_in_a_row >= MAX_BROKEN_IN_A_ROW
