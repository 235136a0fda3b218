"""Progress of a run: live rows on a terminal, one line per finding elsewhere."""

from __future__ import annotations

import sys
import threading
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
from conformance.verdict import Broken, Unrepresentable, Unsupported, Verdict, core


def word(verdict: Verdict) -> str:
    """A verdict in a few words."""
    name = type(verdict).__name__.lower()
    if isinstance(verdict, Unrepresentable) and verdict.subspace is not None:
        return f"{name} ({', '.join(verdict.parameters)} = 0: {word(verdict.subspace)})"
    return name


class Display:
    """One row per candidate: what it is doing, groups done, time."""

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
        for group in groups:
            name = group.candidate.name
            if name not in self._tasks:
                total = sum(g.candidate.name == name for g in groups)
                self._tasks[name] = self._progress.add_task(escape(name), total=total, stage="waiting", start=False)
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
        self._progress.update(self._tasks[candidate], stage=escape(text))

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
        self._progress.advance(self._tasks[finding.candidate])

    def incident(self, incident: Incident) -> None:
        """Print an incident above the rows."""
        self._progress.console.print(Text(f"{incident.candidate}: {incident.what}", style="yellow"))


class Lines:
    """Plain lines on standard error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def stage(self, candidate: str, text: str) -> None:
        """Say that an environment is being made, or that a candidate is done."""
        self._say(f"{candidate}: {text}")

    def group(self, group: Group) -> None:
        """Nothing: groups are said when they are done."""

    def trial(self, trial: Trial) -> None:
        """Nothing: there are too many."""

    def finding(self, finding: Finding) -> None:
        """Say a finding; one that was declared before the run, or that there is no environment, is no news."""
        inner = core(finding.verdict)
        if isinstance(inner, Unsupported) or (isinstance(inner, Broken) and inner.kind == "environment"):
            return
        self._say(
            f"{finding.candidate}: {finding.requirement} {finding.dtype}: {word(finding.verdict)}"
            f" ({finding.trials} trials)"
        )

    def incident(self, incident: Incident) -> None:
        """Say an incident."""
        self._say(f"{incident.candidate}: {incident.what}")
