"""What a test of the suite is held to beside the requirement: a list of known divergences, an accepted record.

Most sessions name neither: what reads and words them is imported where one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, assert_never

from msgspec import Struct

from conformance.candidate import identity
from conformance.record import CandidateLine, Finding, KnownEntry
from conformance.verdict import Diverges, core

if TYPE_CHECKING:
    from conformance.gate import Kind


class Ruling(Struct, frozen=True, kw_only=True):
    """What becomes of a test. change: its class against the baseline, "" without one or where nothing changed."""

    ends: Literal["passed", "failed", "expected", "open"]
    why: str = ""
    change: str = ""


OPEN = Ruling(ends="open")
"""Nothing is said: the requirement alone decides."""


class Accepted(Struct, frozen=True, kw_only=True):
    """The list and the record that a session names, None where it names none."""

    known: tuple[KnownEntry, ...] | None
    baseline: Mapping[tuple[str, str, str], Finding] | None

    def ruling(self, finding: Finding, line: CandidateLine | None, *, met: bool, decides: bool) -> Ruling:
        """What the list, and then the record, make of a finding."""
        ruling = self._listed(finding, line)
        if ruling is not OPEN or self.baseline is None:
            return ruling
        from conformance.gate import classify  # noqa: PLC0415 - only where a session names a record
        from conformance.report.gate import MEANINGS, phrase  # noqa: PLC0415 - the same

        before = self.baseline.get((identity(finding.candidate), finding.requirement, finding.dtype))
        kind, why = classify(before, finding)
        told = f"{kind} against the baseline ({why or MEANINGS[kind]}); before: {phrase(before)}"
        return _against(kind, told, met=met, decides=decides)

    def _listed(self, finding: Finding, line: CandidateLine | None) -> Ruling:
        if self.known is None:
            return OPEN
        from conformance.known import applies, check_finding, listed  # noqa: PLC0415 - only where a session names a list
        from conformance.report.known import problem_text  # noqa: PLC0415 - the same

        entries = [] if line is None else [entry for entry in self.known if applies(entry, line)]
        problems = check_finding(finding, entries)
        if problems:
            return Ruling(ends="failed", why="\n".join(map(problem_text, problems)))
        own = [entry for entry in listed(finding, entries) if entry.outcome == "diverges"]
        if own and isinstance(core(finding.verdict), Diverges):
            return Ruling(ends="expected", why=f"known: {own[0].shows}: {own[0].reason} ({own[0].link})")
        return OPEN


def _against(kind: Kind, told: str, *, met: bool, decides: bool) -> Ruling:
    match kind:
        case "regressed":
            return Ruling(ends="failed" if decides else "expected", why=told, change=kind)
        case "inconclusive":
            return Ruling(ends="failed" if decides else "expected", why=f"could not tell: {told}", change=kind)
        case "unchanged":
            return Ruling(ends="passed" if met else "expected", why=told)
        case "changed" if not met and decides:  # as a gate: neither safe nor regressed, and not passed over
            return Ruling(ends="failed", why=told, change=kind)
        case "changed" | "gone" | "fixed" | "new":
            return Ruling(ends="passed" if met else "expected", why=told, change=kind)
        case _:
            assert_never(kind)


def read_accepted(known: str | None, baseline: str | None) -> Accepted:
    """Read what the options name; ConformanceError where it cannot be read."""
    if known is None and baseline is None:
        return Accepted(known=None, baseline=None)
    from conformance.gate import accepted  # noqa: PLC0415 - only where a session names one of them
    from conformance.known import SHIPPED, read_known  # noqa: PLC0415 - the same
    from conformance.recordfile import read_record  # noqa: PLC0415 - the same

    return Accepted(
        known=None if known is None else read_known(None if known == SHIPPED else Path(known)),
        baseline=None if baseline is None else accepted(read_record(Path(baseline))),
    )
