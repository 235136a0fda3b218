"""Progress of a run: live rows on a terminal, elsewhere a line for what is not fine.

Messages come from frameworks: whatever they hold, a line stays a line and a terminal is told nothing by it.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from conformance.plan import Group
from conformance.record import Finding, Incident, Trial
from conformance.report.outcome import ORDER, outcome_of
from conformance.report.wording import inert, label, one_line
from conformance.run import DONE, ENVIRONMENT
from conformance.verdict import Broken, Unrepresentable, Verdict, core


def word(verdict: Verdict) -> str:
    """A verdict in a few words."""
    name = type(verdict).__name__.lower()
    if isinstance(verdict, Unrepresentable) and verdict.subspace is not None:
        return f"{name} ({', '.join(verdict.parameters)} = 0: {word(verdict.subspace)})"
    return name


# A terminal shows this many rows; the other candidates are in the sum.
_ROWS = 24
_FINE = ("agrees", "unsupported", "unrepresentable")


class Tally:
    """How many groups are done, and what was found so far; safe to use from several threads."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.total = len(groups)
        self.done = 0
        self._found: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, finding: Finding) -> None:
        """Count a finding."""
        with self._lock:
            self.done += 1
            self._found[outcome_of(finding.verdict)] += 1

    @property
    def found(self) -> str:
        """What was found so far, worst first."""
        with self._lock:
            return ", ".join(f"{self._found[name]} {name}" for name in ORDER if self._found[name]) or "nothing yet"


class Display:
    """One row per candidate: what it is doing, groups done, time; and a row for all of them, with what was found."""

    def __init__(self, groups: Sequence[Group], console: Console) -> None:
        self._progress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[stage]}"),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._trials: dict[str, int] = {}
        self._lock = threading.Lock()
        self._tally = Tally(groups)
        self._all = self._progress.add_task("all", total=len(groups), stage="found so far: nothing yet")
        totals = Counter(group.candidate.name for group in groups)
        for place, (name, total) in enumerate(totals.items()):
            self._tasks[name] = self._progress.add_task(
                escape(label(name)), total=total, stage="waiting", start=False, visible=place < _ROWS
            )
            self._trials[name] = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, candidate: str, text: str) -> None:
        """Show what a candidate is doing."""
        self._progress.start_task(self._tasks[candidate])
        self._progress.update(self._tasks[candidate], stage=escape(one_line(text)), visible=True)
        if text == DONE and len(self._tasks) > _ROWS:
            self._progress.update(self._tasks[candidate], visible=False)

    def group(self, group: Group) -> None:
        """Show which requirement and dtype a candidate is at."""
        self.stage(group.candidate.name, f"{group.requirement.name} {group.dtype}")

    def trial(self, trial: Trial) -> None:
        """Count a trial."""
        with self._lock:
            self._trials[trial.candidate] += 1
            count = self._trials[trial.candidate]
        text = escape(f"{trial.requirement} {trial.dtype}, {count} trials")
        self._progress.update(self._tasks[trial.candidate], stage=text)

    def finding(self, finding: Finding) -> None:
        """Count a group that is done."""
        self._tally.add(finding)
        self._progress.advance(self._tasks[finding.candidate])
        self._progress.update(self._all, completed=self._tally.done, stage=f"found so far: {self._tally.found}")

    def incident(self, incident: Incident) -> None:
        """Print an incident above the rows."""
        self._progress.console.print(Text(one_line(f"{incident.candidate}: {incident.what}"), style="yellow"))


class Lines:
    """Plain lines on standard error: what is not fine, and when a candidate is done; with `verbose`, everything."""

    def __init__(self, groups: Sequence[Group], *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._tally = Tally(groups)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def _say(self, text: str) -> None:
        print(inert(one_line(text)), file=sys.stderr, flush=True)

    def stage(self, candidate: str, text: str) -> None:
        """Say that an environment is being made, or that a candidate is done, and what was found so far."""
        if text == DONE:
            text = f"{text} ({self._tally.done} of {self._tally.total} checks of all candidates: {self._tally.found})"
        elif text == ENVIRONMENT and not self._verbose:
            return
        self._say(f"{candidate}: {text}")

    def group(self, group: Group) -> None:
        """Say that a group begins, where everything is told."""
        if self._verbose:
            self._say(f"{group.candidate.name}: {group.requirement.name} {group.dtype} begins")

    def trial(self, trial: Trial) -> None:
        """Nothing: there are too many."""

    def finding(self, finding: Finding) -> None:
        """Say a finding that is not fine, or any; what was declared before, or had no environment, is no news."""
        self._tally.add(finding)
        outcome, inner = outcome_of(finding.verdict), core(finding.verdict)
        absent = isinstance(inner, Broken) and inner.kind == "environment"
        if outcome == "unsupported" or absent or (outcome in _FINE and not self._verbose):
            return
        self._say(
            f"{finding.candidate}: {finding.requirement} {finding.dtype}: {word(finding.verdict)}"
            f" ({finding.trials} trials)"
        )

    def incident(self, incident: Incident) -> None:
        """Say an incident."""
        self._say(f"{incident.candidate}: {incident.what}")
