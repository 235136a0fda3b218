"""Examining one group: the trials of one candidate, requirement and dtype, up to their common verdict.

Shipped cases come first, then cases drawn by Hypothesis, which keeps failures in its example database and
shrinks them. A case that breaks the worker is a verdict of its own and is not shrunk: every attempt would
cost another worker.
"""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase
from hypothesis.errors import Flaky
from msgspec.structs import replace as replace_struct

from conformance.algebra import Exact
from conformance.block import Block
from conformance.campaign import Campaign, block_at
from conformance.case import Case, case_to_json
from conformance.cells import cell_named
from conformance.compare import Observed, seen, together
from conformance.diagnosis import diagnosed, suspicion
from conformance.drift import probe
from conformance.errors import ConformanceError
from conformance.exchange import Observations
from conformance.gradient import gradients, judge_gradients, visible_gradient_faults
from conformance.host import Host
from conformance.inputs import lattice_of, plainly, shipped_cases
from conformance.judge import TrialVerdict, combine, judge, judge_block, observed_of, visible_faults
from conformance.kept import Failure
from conformance.plan import Group
from conformance.process import Interrupted
from conformance.record import ArrayPair, BlockLine, CaseSummary, Example, Finding, Incident, Line, Trial
from conformance.record import Phase as TrialPhase
from conformance.relation import Pair, judge_relation
from conformance.repro import render_repro
from conformance.requirement import GRADIENT, REFERENCE
from conformance.rounding import Array
from conformance.strategies import cases
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Verdict

# Of the generated cases that reference agreement gets, a relation gets one in so many.
RELATION_SHARE: Final = 5
# After so many cases in a row without an observation the rest of a group is not tried.
MAX_BROKEN_IN_A_ROW: Final = 3
_SPOILERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run depends on.

    examples: generated cases per group; seed: of Hypothesis; wide: draw long and broad cases as well;
    shrink: look for the smallest case that diverges; only: run this one case instead; database: folder of kept
        failures, None to keep none; remembered: try only the failures of one group that this folder holds; keep:
        writes a case file and returns its path; campaign: further cases, in blocks.
    """

    examples: int
    seed: int
    wide: bool = False
    shrink: bool = True
    only: Case | None = None
    database: Path | None = None
    remembered: Path | None = None
    keep: Callable[[Group, Case, Failure], Path] | None = None
    campaign: Campaign | None = None
    stopped: Callable[[], bool] = field(default=lambda: False)


class _Divergence(Exception):
    """Raised inside Hypothesis's test function; without arguments, which would make each one a bug of its own."""


class _NotObserved(Exception):
    """The candidate broke, or ran another path: a verdict of its own."""

    def __init__(self, verdict: Broken | Inconclusive) -> None:
        super().__init__()
        self.verdict = verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A judged case. shown: what a divergence is shown on, None without an observation; path: the last one attested."""

    case: Case
    verdict: TrialVerdict
    shown: Pair | None
    path: str
    seconds: float | None

    @property
    def failure(self) -> _Failure | None:
        """The divergence, if it is one."""
        if isinstance(self.verdict, Diverges) and self.shown is not None:
            return _Failure(judged=self, verdict=self.verdict, shown=self.shown)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """A divergence: the case that was drawn, and what of it (a detour, perhaps) shows it."""

    judged: _Judged
    verdict: Diverges
    shown: Pair


NOTHING_OBSERVED: Final = Observed(outputs=np.zeros((0, 0, 0)), final_state=np.zeros((0, 0)))


@dataclass(slots=True)
class _Examination:
    """The state of one group while its cases are tried."""

    group: Group
    host: Host
    settings: Settings
    emit: Callable[[Line], None]
    remaining: set[str]
    verdicts: list[TrialVerdict] = field(default_factory=list)
    trials: int = 0
    excluded: frozenset[str] = frozenset()
    seconds: float = 0.0
    broken_in_a_row: int = 0
    path: str = ""
    latest: Observed = field(default=NOTHING_OBSERVED)
    # Faults that explained smaller cases beside those that are to be shown: asked first, the latest at the front.
    spoilers: tuple[str, ...] = ()

    def judged(self, case: Case) -> _Judged:
        """Run and judge one case; nothing is recorded."""
        if self.settings.stopped():
            raise Interrupted
        case = self.group.candidate.variant.declared(case)
        relation = self.group.requirement.relation
        before = self.seconds
        try:
            if relation in (REFERENCE, GRADIENT):
                observed = self.run(case)
                verdict, shown = self.compared(case, observed), Pair(case=case, observed=observed)
            else:
                verdict, pair = judge_relation(relation, case, self.run, frozenset(self.remaining))
                shown = pair or Pair(case=case, observed=self.latest)
        except _NotObserved as nothing:
            return _Judged(case=case, verdict=nothing.verdict, shown=None, path=self.path, seconds=None)
        return _Judged(case=case, verdict=verdict, shown=shown, path=self.path, seconds=self.seconds - before)

    def compared(self, case: Case, observed: Observed) -> TrialVerdict:
        """The verdict on an observation."""
        ask = judge_gradients
        if self.group.requirement.relation == REFERENCE:
            ask = partial(judge, unwanted=self.spoilers)
        return ask(case, observed, frozenset(self.remaining))

    def run(self, case: Case) -> Observed:
        """Have the candidate run one case; _NotObserved where it breaks, or where another path ran."""
        answer = self.host.observe(case)
        if isinstance(answer, Broken):
            self.path = ""
            raise _NotObserved(answer)
        self.seconds += answer.seconds
        self.path, self.latest = answer.path, answer.observed
        astray = self.astray(case, answer.path)
        if astray is not None:
            raise _NotObserved(astray)
        return answer.observed

    def astray(self, case: Case, path: str) -> Inconclusive | None:
        """What to say where another path ran than the variant declares."""
        wanted = self.group.candidate.variant.attestable(case.cell, case.initial, case.features)
        if path in wanted:
            return None
        return Inconclusive(why=f"another path ran: {path!r}, wanted {' or '.join(map(repr, wanted))}")

    def trial(self, case: Case, phase: TrialPhase) -> _Judged:
        """Run, judge and record one case."""
        judged = self.judged(case)
        self.record(judged, phase)
        return judged

    def record(self, judged: _Judged, phase: TrialPhase, block: int | None = None) -> None:
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

    def block(self, block: Block, answer: Observations) -> _Failure | None:
        """Judge and record the cases of a block, up to the first that diverges."""
        places, observed, paths = self._gathered(block, answer)
        agreeing, worst, compared, judged = 0, 0.0, 0, block.count - len(places)
        failure: _Failure | None = None
        if observed is not None:
            for row, verdict in enumerate(judge_block(block, places, observed, self.remaining)):
                judged += 1
                if isinstance(verdict, Agrees):
                    agreeing += 1
                    worst, compared = max(worst, verdict.share), compared + verdict.compared
                    self.remaining -= verdict.excluded
                    self.excluded |= verdict.excluded
                    continue
                case = block.case(places[row])
                shown = Pair(case=case, observed=observed.row(row))
                trial = _Judged(case=case, verdict=verdict, shown=shown, path=paths[row], seconds=None)
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
            excluded=tuple(sorted(self.excluded)),
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
        self.excluded |= frozenset(line.excluded)
        # Asking every case which faults it rules out costs more than all the rest: one block does it for all.
        self.remaining.clear()

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
                        raise _NotObserved(astray)
                else:
                    observed = self.run(case)
            except _NotObserved as nothing:
                broken = broken or isinstance(nothing.verdict, Broken)
                lost = _Judged(case=case, verdict=nothing.verdict, shown=None, path=self.path, seconds=None)
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


def examine(group: Group, host: Host, settings: Settings, emit: Callable[[Line], None]) -> Finding:
    """Try every case of a group and return the finding (the caller appends it to the record)."""
    if group.unsupported is not None:
        return _finding(group, group.unsupported)
    visible = must_rule_out(group)
    state = _Examination(group=group, host=host, settings=settings, emit=emit, remaining=set(visible))
    failed: _Failure | None
    if settings.only is not None:
        failed = _only(state, settings.only)
        single = combine(state.verdicts, required=frozenset())
        if isinstance(single, Agrees) and not single.excluded:
            single = Inconclusive(why="this case rules out no fault", missing=visible)
        verdict = single
    else:
        shipped = None if settings.remembered is not None else _shipped(state)
        generated = _generated(state)
        marched = None if shipped or generated else _campaign(state)
        failed = generated or marched or shipped
        verdict = combine(state.verdicts, required=visible)
        # The shipped case tells faults apart best, the shrunk one is the easiest to read.
        telling = shipped or generated or marched
        unnamed = isinstance(verdict, Diverges) and not verdict.faults and group.requirement.relation == REFERENCE
        if unnamed and telling is not None:
            told = Diverges(faults=(), evidence=telling.verdict.evidence)
            verdict = diagnosed(telling.shown.case, telling.shown.observed, told)
    overall: Verdict = verdict
    if group.unrepresentable is not None:
        overall = replace_struct(group.unrepresentable, subspace=verdict)
    return _finding(
        group,
        overall,
        trials=state.trials,
        seconds=state.seconds,
        visible=visible,
        example=None if failed is None else _example(group, settings, failed, host.version),
    )


def campaigned(group: Group, host: Host, settings: Settings, emit: Callable[[Line], None]) -> TrialVerdict:
    """The verdict on the cases of a campaign alone, which rules no fault out: what a benchmark repeats.

    Raises
    ------
    CaseError: not one case was tried.
    """
    state = _Examination(group=group, host=host, settings=settings, emit=emit, remaining=set())
    _campaign(state)
    return combine(state.verdicts, required=frozenset())


def must_rule_out(group: Group) -> frozenset[str]:
    """The faults that a group has to rule out before it may agree."""
    requirement = group.requirement
    if requirement.relation == REFERENCE:
        return visible_faults(
            requirement.cell,
            requirement.initial,
            group.zeroed,
            features=requirement.features,
            dtype=group.dtype,
            padding=group.candidate.variant.padding,
            arithmetic=group.candidate.variant.arithmetic.get(group.dtype, ""),
        )
    if requirement.relation == GRADIENT:
        return visible_gradient_faults(requirement.cell, group.zeroed)
    return frozenset(requirement.aims)


def _only(state: _Examination, case: Case) -> _Failure | None:
    return state.trial(case.zeroed(state.group.zeroed), "file").failure


def _shipped(state: _Examination) -> _Failure | None:
    group = state.group
    first: _Failure | None = None
    leaning = plainly(group.requirement)
    padding = group.candidate.variant.padding
    probed = not plainly(group.requirement)
    for case in shipped_cases(group.requirement, group.dtype, zeroed=group.zeroed, padding=padding):
        if state.hopeless:
            break
        judged = state.judged(case)
        if not probed and judged.shown is not None:
            probed = True
            shown = judged.shown
            state.emit(probe(group.candidate.name, group.requirement.name, shown.case, shown.observed))
        if leaning and isinstance(judged.verdict, Agrees) and judged.shown is not None:
            # Once for every group, on its most telling case: it costs more than the rest of the judgement.
            leaning = False
            told = suspicion(case, judged.shown.observed)
            if told:
                judged = replace(judged, verdict=Inconclusive(why=told))
        state.record(judged, "shipped")
        first = first or judged.failure
    return first


def _generated(state: _Examination) -> _Failure | None:
    """Draw cases until one diverges, then shrink it to the smallest that is explained by the same faults."""
    group, chosen = state.group, state.settings
    lattice = lattice_of(group.requirement, group.dtype, wide=chosen.wide)
    # A relation runs every case several times, on one shape: fewer of them.
    examples = chosen.examples if plainly(group.requirement) else -(-chosen.examples // RELATION_SHARE)
    if chosen.examples < 1 or state.hopeless:
        return None
    failure: _Failure | None = None

    # `settings` above `seed`: a seed alone switches the example database off.
    @hypothesis_settings(
        max_examples=examples,
        database=_database(group, state.host.version, chosen),
        deadline=None,
        phases=_phases(chosen),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
        report_multiple_bugs=False,
    )
    @seed(_seed(group, chosen.seed))
    @given(
        cases(
            cell=group.requirement.cell,
            dtype=group.dtype,
            initial=group.requirement.initial,
            unbatched=group.candidate.variant.unbatched,
            zeroed=group.zeroed,
            features=group.requirement.features,
            padding=group.candidate.variant.padding,
            lattice=lattice,
        )
    )
    def check(case: Case) -> None:
        nonlocal failure
        if state.hopeless:
            return
        judged = state.judged(case)
        found = judged.failure
        if failure is None:
            state.record(judged, "generated")
        if found is not None and (failure is None or failure.verdict.faults == found.verdict.faults):
            failure = found
            raise _Divergence
        if found is not None and failure is not None:
            others = [name for name in found.verdict.faults if name not in failure.verdict.faults]
            state.spoilers = tuple(dict.fromkeys((*others, *state.spoilers)))[:_SPOILERS]

    try:
        check()
    except _Divergence:
        pass
    except Flaky:
        text = "a generated case diverged once and not again: the candidate is not deterministic"
        state.emit(Incident(candidate=group.candidate.name, what=text))
    state.spoilers = ()
    if failure is not None:
        state.record(failure.judged, "shrunk")
    return failure


def _campaign(state: _Examination) -> _Failure | None:
    """Try the blocks of a campaign, up to the first case that diverges.

    While the worker is at one block the one before it is judged.
    """
    group, chosen = state.group, state.settings
    campaign = chosen.campaign
    if campaign is None or not plainly(group.requirement) or state.hopeless:
        return None
    lattice = lattice_of(group.requirement, group.dtype, wide=chosen.wide)
    for line in campaign.begun(group):
        state.recall(line)
    todo = (block_at(chosen.seed, group, index, count, lattice) for index, count in campaign.blocks(group))
    block = next(todo, None)
    if block is not None:
        state.host.begin(block)
    while block is not None and not state.hopeless:
        if chosen.stopped():
            raise Interrupted
        answer = state.host.finish(block)
        after = next(todo, None)
        if after is not None and not answer.apart:
            state.host.begin(after)
        failure = state.block(block, answer)
        if failure is not None:
            if after is not None and not answer.apart:
                state.host.finish(after)
            return failure
        if after is not None and answer.apart:
            state.host.begin(after)
        block = after
    return None


def _seed(group: Group, base: int) -> int:
    """Other cases for every requirement and dtype, the same ones for all candidates."""
    return zlib.crc32(f"{base} {group.requirement.name} {group.dtype}".encode())


def _phases(chosen: Settings) -> tuple[Phase, ...]:
    if chosen.remembered is not None:
        return (Phase.reuse,)
    return (Phase.reuse, Phase.generate, *((Phase.shrink,) if chosen.shrink else ()))


def _database(group: Group, version: str, chosen: Settings) -> ExampleDatabase | None:
    if chosen.remembered is not None:
        return DirectoryBasedExampleDatabase(chosen.remembered)
    # A folder per candidate and release, also where the candidate's name has none: Hypothesis forgets kept
    # examples that pass, and what one release passes must stay with the release that fails it.
    root = chosen.database
    return None if root is None else DirectoryBasedExampleDatabase(root / f"{slug(group)}-{version or 'unknown'}")


def slug(group: Group) -> str:
    """A file name for a group."""
    text = f"{group.candidate.name}-{group.requirement.name}-{group.dtype}"
    return "".join(c if c.isalnum() or c in "-._=" else "_" for c in text)


def _example(group: Group, chosen: Settings, failure: _Failure, version: str) -> Example:
    base, case, observed = failure.judged.case, failure.shown.case, failure.shown.observed
    with np.errstate(over="ignore", invalid="ignore"):
        truth = cell_named(case.cell).run(case)
    # A divergence must not be lost because its extras cannot be written.
    try:
        plain = group.requirement.relation == REFERENCE and not case.features
        repro = render_repro(group.candidate.adapter, group.candidate.variant.name, case) if plain else ""
    except ConformanceError as error:
        repro = "".join(f"# {line}\n" for line in str(error).splitlines())
    try:
        further = _further(case, observed, observed_of(truth), failure.verdict)
    except ConformanceError:
        further = ()
    try:
        path = None if chosen.keep is None else chosen.keep(group, base, _kept(group, failure.verdict, version))
    except OSError:
        path = None
    words = ["rnn-conformance", "run", group.candidate.name, "-k", group.requirement.name]
    if group.candidate.adapter.by_path:
        words += ["--adapter", str(group.candidate.adapter.folder)]
    if path is not None:
        words += ["--case", str(path)]
    return Example(
        case=case_to_json(case),
        verdict=failure.verdict,
        observed_outputs=_plain(observed.outputs),
        observed_final_state=_plain(observed.final_state),
        expected_outputs=_plain(truth.outputs),
        expected_final_state=_plain(truth.final_state),
        repro=repro,
        command=shlex.join(words),
        further=further,
    )


def _kept(group: Group, verdict: Diverges, version: str) -> Failure:
    return Failure(
        candidate=group.candidate.name,
        version=version,
        requirement=group.requirement.name,
        dtype=group.dtype,
        faults=verdict.faults,
        size=verdict.evidence.largest_difference,
    )


def _further(case: Case, observed: Observed, truth: Observed, verdict: Diverges) -> tuple[ArrayPair, ...]:
    """The memory of an LSTM, and the gradient that diverges."""
    pairs = {"cells": (observed.cells, truth.cells), "final_cell": (observed.final_cell, truth.final_cell)}
    prefix, _, name = verdict.evidence.output.partition("gradient of ")
    if not prefix and name in observed.gradients:
        wanted = gradients(case, seen(case, observed), Exact())[name]
        pairs[verdict.evidence.output] = (observed.gradients[name], wanted)
    return tuple(
        ArrayPair(name=name, observed=_plain(got), expected=_plain(wanted))
        for name, (got, wanted) in pairs.items()
        if got is not None and wanted is not None
    )


def _plain(values: Array) -> list[Any]:
    """Nested lists in which a number that is not finite is None."""
    result = values.astype(object)
    result[~np.isfinite(values)] = None
    plain: list[Any] = result.tolist()
    return plain


def _finding(
    group: Group,
    verdict: Verdict,
    *,
    trials: int = 0,
    seconds: float = 0.0,
    visible: frozenset[str] = frozenset(),
    example: Example | None = None,
) -> Finding:
    return Finding(
        candidate=group.candidate.name,
        requirement=group.requirement.name,
        dtype=group.dtype,
        verdict=verdict,
        trials=trials,
        seconds=seconds,
        visible=tuple(sorted(visible)),
        example=example,
    )
