"""Examining one group: the trials of one candidate, requirement and dtype, up to their common verdict.

Shipped cases come first, then cases drawn by Hypothesis, which keeps failures in its example database and
shrinks them. A case that breaks the worker is a verdict of its own and is not shrunk: every attempt would
cost another worker.
"""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase
from hypothesis.errors import Flaky

from conformance.case import Case, case_to_json
from conformance.cells import cell_named
from conformance.compare import Observed
from conformance.errors import ConformanceError
from conformance.host import Host, Interrupted, Observation
from conformance.inputs import shipped_cases
from conformance.judge import TrialVerdict, combine, judge, visible_faults
from conformance.plan import Group
from conformance.record import CaseSummary, Example, Finding, Incident, Line, Trial
from conformance.record import Phase as TrialPhase
from conformance.repro import render_repro
from conformance.rounding import Array
from conformance.strategies import cases
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Verdict

# After so many cases in a row without an observation the rest of a group is not tried.
MAX_BROKEN_IN_A_ROW: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run depends on.

    examples: generated cases per group; seed: of Hypothesis; only: run this one case instead;
    database: folder of kept failures, None to keep none; keep: writes a case file and returns its path.
    """

    examples: int
    seed: int
    only: Case | None = None
    database: Path | None = None
    keep: Callable[[Group, Case], Path] | None = None
    stopped: Callable[[], bool] = field(default=lambda: False)


class _Divergence(Exception):
    """Raised inside Hypothesis's test function; without arguments, which would make each one a bug of its own."""


@dataclass(slots=True)
class _Examination:
    """The state of one group while its cases are tried."""

    group: Group
    host: Host
    settings: Settings
    emit: Callable[[Line], None]
    remaining: set[str]
    verdicts: list[TrialVerdict] = field(default_factory=list)
    seconds: float = 0.0
    broken_in_a_row: int = 0

    def judged(self, case: Case) -> tuple[TrialVerdict, Observation | None]:
        """Run and judge one case; nothing is recorded."""
        if self.settings.stopped():
            raise Interrupted
        answer = self.host.observe(case)
        if isinstance(answer, Broken):
            return answer, None
        self.seconds += answer.seconds
        wanted = self.group.candidate.variant.paths[case.initial]
        if answer.path != wanted:
            return Inconclusive(why=f"another path ran: {answer.path!r}, wanted {wanted!r}"), answer
        return judge(case, answer.observed, self.remaining), answer

    def trial(self, case: Case, phase: TrialPhase) -> tuple[TrialVerdict, Observation | None]:
        """Run, judge and record one case."""
        verdict, answer = self.judged(case)
        self.record(case, phase, verdict, answer)
        return verdict, answer

    def record(self, case: Case, phase: TrialPhase, verdict: TrialVerdict, answer: Observation | None) -> None:
        """Count a judged case and append it to the record."""
        self.verdicts.append(verdict)
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
                path=answer.path if answer else "",
                seconds=answer.seconds if answer else None,
            )
        )

    @property
    def hopeless(self) -> bool:
        """Whether the worker has broken so often in a row that trying on tells nothing."""
        return self.broken_in_a_row >= MAX_BROKEN_IN_A_ROW


def examine(group: Group, host: Host, settings: Settings, emit: Callable[[Line], None]) -> Finding:
    """Try every case of a group and return the finding (the caller appends it to the record)."""
    requirement = group.requirement
    if group.unsupported is not None:
        return _finding(group, group.unsupported)
    visible = visible_faults(requirement.cell, requirement.initial, group.zeroed)
    state = _Examination(group=group, host=host, settings=settings, emit=emit, remaining=set(visible))
    failed: _Failure | None
    if settings.only is not None:
        failed = _only(state, settings.only)
        single = combine(state.verdicts, required=frozenset())
        if isinstance(single, Agrees) and not single.excluded:
            single = Inconclusive(why="this case rules out no fault", missing=visible)
        verdict = single
    else:
        shipped = _shipped(state)
        failed = _generated(state) or shipped
        verdict = combine(state.verdicts, required=visible)
    overall: Verdict = verdict
    if group.unrepresentable is not None:
        overall = msgspec.structs.replace(group.unrepresentable, subspace=verdict)
    return _finding(
        group,
        overall,
        trials=len(state.verdicts),
        seconds=state.seconds,
        visible=visible,
        example=None if failed is None else _example(group, settings, failed),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    case: Case
    verdict: Diverges
    observed: Observed


def _only(state: _Examination, case: Case) -> _Failure | None:
    projected = case.zeroed(state.group.zeroed)
    return _failure(projected, *state.trial(projected, "file"))


def _failure(case: Case, verdict: TrialVerdict, answer: Observation | None) -> _Failure | None:
    if isinstance(verdict, Diverges) and answer is not None:
        return _Failure(case=case, verdict=verdict, observed=answer.observed)
    return None


def _shipped(state: _Examination) -> _Failure | None:
    group = state.group
    first: _Failure | None = None
    for case in shipped_cases(group.requirement, group.dtype, zeroed=group.zeroed):
        if state.hopeless:
            break
        failure = _failure(case, *state.trial(case, "shipped"))
        first = first or failure
    return first


def _generated(state: _Examination) -> _Failure | None:
    """Draw cases until one diverges, then shrink it to the smallest that is explained by the same faults."""
    group, chosen = state.group, state.settings
    if chosen.examples < 1 or state.hopeless:
        return None
    failure: _Failure | None = None

    # `settings` above `seed`: a seed alone switches the example database off.
    @hypothesis_settings(
        max_examples=chosen.examples,
        database=_database(group, state.host.version, chosen.database),
        deadline=None,
        phases=(Phase.reuse, Phase.generate, Phase.shrink),
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
        )
    )
    def check(case: Case) -> None:
        nonlocal failure
        if state.hopeless:
            return
        verdict, answer = state.judged(case)
        found = _failure(case, verdict, answer)
        if failure is None:
            state.record(case, "generated", verdict, answer)
        if found is not None and (failure is None or failure.verdict.faults == found.verdict.faults):
            failure = found
            raise _Divergence

    try:
        check()
    except _Divergence:
        pass
    except Flaky:
        text = "a generated case diverged once and not again: the candidate is not deterministic"
        state.emit(Incident(candidate=group.candidate.name, what=text))
    if failure is not None:
        state.record(
            failure.case,
            "shrunk",
            failure.verdict,
            Observation(
                observed=failure.observed,
                path=group.candidate.variant.paths[failure.case.initial],
                seconds=0.0,
            ),
        )
    return failure


def _seed(group: Group, base: int) -> int:
    """Other cases for every requirement and dtype, the same ones for all candidates."""
    return zlib.crc32(f"{base} {group.requirement.name} {group.dtype}".encode())


def _database(group: Group, version: str, root: Path | None) -> ExampleDatabase | None:
    # A folder per candidate and release, also where the candidate's name has none: Hypothesis forgets kept
    # examples that pass, and what one release passes must stay with the release that fails it.
    return None if root is None else DirectoryBasedExampleDatabase(root / f"{slug(group)}-{version or 'unknown'}")


def slug(group: Group) -> str:
    """A file name for a group."""
    text = f"{group.candidate.name}-{group.requirement.name}-{group.dtype}"
    return "".join(c if c.isalnum() or c in "-._=" else "_" for c in text)


def _example(group: Group, chosen: Settings, failure: _Failure) -> Example:
    case = failure.case
    truth = cell_named(case.cell).run(case)
    # A divergence must not be lost because its extras cannot be written.
    try:
        repro = render_repro(group.candidate.adapter, group.candidate.variant.name, case)
    except ConformanceError as error:
        repro = "".join(f"# {line}\n" for line in str(error).splitlines())
    try:
        path = None if chosen.keep is None else chosen.keep(group, case)
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
        observed_outputs=_plain(failure.observed.outputs),
        observed_final_state=_plain(failure.observed.final_state),
        expected_outputs=_plain(truth.outputs),
        expected_final_state=_plain(truth.final_state),
        repro=repro,
        command=shlex.join(words),
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
