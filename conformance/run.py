"""A run: candidates side by side, one worker and one thread each, their findings in one record.

Nothing that one candidate does reaches another: an environment that cannot be made, a worker that will not
start, a crash or a hang each end in that candidate's own findings. Results are written as they come.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from importlib.metadata import version
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np

# Here, before anything runs: NumPy loads it when it is first used, and a Ctrl-C at that moment would be lost.
import numpy.random
from msgspec import Struct
from msgspec.structs import replace

from conformance import __version__
from conformance.case import Evaluation
from conformance.errors import ConformanceError, EnvironmentUnavailable
from conformance.faults import CATALOGUE
from conformance.host import Host
from conformance.plan import Candidate, Group, interpreter_of
from conformance.process import Interrupted
from conformance.record import (
    FORMAT,
    CandidateLine,
    FaultEntry,
    Finding,
    Header,
    Incident,
    Line,
    RequirementEntry,
    Trial,
)
from conformance.requirement import GRADIENT, Requirement
from conformance.settings import Settings
from conformance.verdict import Broken, BrokenKind, Verdict

ENVIRONMENT: Final = "environment"
DONE: Final = "done"
AT_ONCE: Final = os.cpu_count() or 1
"""Candidates that are examined at once: more would take turns on the cores, and one another's caches."""


class Progress(Protocol):
    """What a run tells while it goes on; called from several threads."""

    def stage(self, candidate: str, text: str) -> None:
        """A candidate's environment is being made, or the candidate is done."""

    def group(self, group: Group) -> None:
        """A candidate begins with a requirement and dtype."""

    def trial(self, trial: Trial) -> None:
        """A trial has been judged."""

    def finding(self, finding: Finding) -> None:
        """A group is done."""

    def incident(self, incident: Incident) -> None:
        """A worker had to be given up."""


class Silent(Struct, frozen=True):
    """Says nothing."""

    def stage(self, candidate: str, text: str) -> None: ...

    def group(self, group: Group) -> None: ...

    def trial(self, trial: Trial) -> None: ...

    def finding(self, finding: Finding) -> None: ...

    def incident(self, incident: Incident) -> None: ...


def header(groups: Sequence[Group], settings: Settings, arguments: Sequence[str]) -> Header:
    """The header of a record for these groups."""
    requirements = {group.requirement.name: group.requirement for group in groups}
    campaign = settings.campaign
    cells = {requirement.cell for requirement in requirements.values()}
    evaluations: dict[str, set[Evaluation]] = {cell: set() for cell in cells}
    for group in groups:
        evaluations[group.requirement.cell].add(group.candidate.variant.evaluation)
    return Header(
        format=FORMAT,
        harness=__version__,
        started=_now(),
        seed=settings.seed,
        examples=settings.examples,
        arguments=tuple(arguments),
        candidates=tuple(dict.fromkeys(group.candidate.name for group in groups)),
        requirements=tuple(
            RequirementEntry(
                name=r.name,
                level=r.level,
                statement=r.statement,
                source=r.source,
                cell=r.cell,
                initial=r.initial,
                relation=r.relation,
            )
            for r in requirements.values()
        ),
        faults={
            cell: tuple(_faults(cell, [r for r in requirements.values() if r.cell == cell], evaluations[cell]))
            for cell in sorted(cells)
        },
        cases=0 if campaign is None else sum(campaign.cases.values()),
        fresh_shapes=0 if campaign is None else sum(campaign.fresh.values()),
        drawn_by=f"hypothesis {version('hypothesis')}, numpy {np.__version__}",
        shard=(1, 1) if campaign is None else campaign.shard,
    )


def _faults(
    cell: str, requirements: Sequence[Requirement], evaluations: Collection[Evaluation]
) -> Iterator[FaultEntry]:
    """What findings on these requirements of a cell may name: faults, gradient faults, planted behaviours."""
    for known in CATALOGUE[cell].values():
        told = known.told(*evaluations)
        yield FaultEntry(name=known.name, statement=told.statement, equation=told.equation, right=told.right)
    if any(requirement.relation == GRADIENT for requirement in requirements):
        from conformance.gradient_faults import gradient_catalogue  # noqa: PLC0415 - not before a worker is started

        for fault in gradient_catalogue(cell).values():
            yield FaultEntry(name=fault.name, statement=fault.statement, equation=fault.equation, right=fault.right)
    if aims := {aim for requirement in requirements for aim in requirement.aims}:
        from conformance.behaviours import BEHAVIOURS  # noqa: PLC0415 - the same

        for name in sorted(aims & BEHAVIOURS.keys()):
            yield FaultEntry(name=name, statement=BEHAVIOURS[name].statement, equation="", right="")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def run(
    groups: Sequence[Group],
    settings: Settings,
    emit: Callable[[Line], None],
    progress: Progress,
    *,
    case_seconds: float | None = None,
    workers: Mapping[str, Host] = MappingProxyType({}),
) -> tuple[Finding, ...]:
    """Examine all groups, candidates side by side; every line but header and footer goes to `emit`.

    case_seconds: overrides the adapters' deadlines for one case. workers: hosts whose worker goes on with a candidate,
    by its name.

    Returns
    -------
    The findings in the order of `groups`. On KeyboardInterrupt the workers are stopped and it is raised again;
    what was emitted stays.
    """
    by_candidate: dict[str, list[Group]] = {}
    for group in groups:
        by_candidate.setdefault(group.candidate.name, []).append(group)
    stop = threading.Event()
    chosen = replace(settings, stopped=stop.is_set)

    def tell(line: Line) -> None:
        emit(line)
        match line:
            case Trial():
                progress.trial(line)
            case Finding():
                progress.finding(line)
            case Incident():
                progress.incident(line)
            case _:
                pass

    results: dict[tuple[str, str, str], Finding] = {}
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        futures: list[Future[list[Finding]]] = [
            pool.submit(_candidate, own, chosen, tell, progress, case_seconds, workers.get(name))
            for name, own in by_candidate.items()
        ]
        try:
            pending = set(futures)
            while pending:  # short waits keep Ctrl-C responsive
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    for finding in future.result():
                        results[finding.candidate, finding.requirement, finding.dtype] = finding
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
    return tuple(results[g.candidate.name, g.requirement.name, g.dtype] for g in groups)


def _candidate(
    groups: Sequence[Group],
    settings: Settings,
    tell: Callable[[Line], None],
    progress: Progress,
    case_seconds: float | None,
    worker: Host | None,
) -> list[Finding]:
    """All findings of one candidate; whatever goes wrong becomes a finding of its own."""
    candidate = groups[0].candidate
    findings: list[Finding] = []
    try:
        _examine_all(candidate, groups, settings, tell, progress, case_seconds, worker, findings)
    except Interrupted:
        return findings
    except ConformanceError as error:
        if settings.stopped():
            # Ctrl-C on a terminal reaches pip as well: that it failed says nothing about the candidate.
            return findings
        what, _, details = str(error).partition("\n")
        # Without an environment nothing is known of the candidate; a worker that does not start is its own doing.
        kind: BrokenKind = "environment" if isinstance(error, EnvironmentUnavailable) else "start"
        progress.stage(candidate.name, f"given up: {what}")
        _fill(groups, findings, tell, Broken(kind=kind, message=what, stderr_tail=details))
    except Exception as error:
        # A defect of the harness itself must not take the other candidates' results with it.
        text = f"the harness failed: {type(error).__name__}: {error}"
        _fill(groups, findings, tell, Broken(kind="exception", message=text, stderr_tail=traceback.format_exc()))
    return findings


def _fill(groups: Sequence[Group], findings: list[Finding], tell: Callable[[Line], None], verdict: Verdict) -> None:
    """Give `verdict` to every group that has no finding yet and is not declared out anyway."""
    for group in groups[len(findings) :]:
        finding = _bare(group, group.unsupported or verdict)
        tell(finding)
        findings.append(finding)


def _bare(group: Group, verdict: Verdict) -> Finding:
    """A finding without trials."""
    return Finding(
        candidate=group.candidate.name,
        requirement=group.requirement.name,
        dtype=group.dtype,
        verdict=verdict,
        trials=0,
        seconds=0.0,
    )


def _examine_all(
    candidate: Candidate,
    groups: Sequence[Group],
    settings: Settings,
    tell: Callable[[Line], None],
    progress: Progress,
    case_seconds: float | None,
    worker: Host | None,
    findings: list[Finding],
) -> None:
    name = candidate.name
    progress.stage(name, ENVIRONMENT)
    interpreter = interpreter_of(candidate, lambda text: progress.stage(name, text))

    def incident(broken: Broken) -> None:
        tell(
            Incident(
                candidate=name,
                what=broken.message,
                exit_code=broken.exit_code,
                signal=broken.signal,
                stderr_tail=broken.stderr_tail,
            )
        )

    def ready(version: str, facts: dict[str, str]) -> None:
        tell(
            CandidateLine(
                name=name,
                adapter=candidate.adapter.name,
                framework=candidate.adapter.title,
                variant=candidate.variant.name,
                title=candidate.variant.title,
                version=version,
                environment=interpreter.label,
                facts=facts,
            )
        )

    with Host(
        candidate.adapter,
        candidate.variant,
        interpreter,
        incident=incident,
        ready=ready,
        case_seconds=case_seconds,
        stopped=settings.stopped,
    ) as host:
        if worker is not None:
            host.adopt(worker)
        if any(group.unsupported is None for group in groups):
            host.launch()
        from conformance.examine import examine  # noqa: PLC0415 - while the worker imports its framework

        for group in groups:
            progress.group(group)
            try:
                finding = examine(group, host, settings, tell)
            except (ConformanceError, Interrupted):
                raise
            except Exception as error:
                # A defect of the harness itself must not take the other requirements' results with it.
                text = f"the harness failed: {type(error).__name__}: {error}"
                trace = traceback.format_exc()
                finding = _bare(group, Broken(kind="exception", message=text, stderr_tail=trace))
            tell(finding)
            findings.append(finding)
    progress.stage(name, DONE)
