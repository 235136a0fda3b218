"""Kept failures: a case file that also says whose failure it is, on what, and how it looked.

A case file is JSON as `conformance.case` writes it; what is said of the failure stands beside the case's own fields,
so that whatever reads cases reads these as well, and files from before have no such field.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from conformance.case import Case, case_from_json, case_to_json
from conformance.cells import cell_named
from conformance.errors import CaseError
from conformance.inputs import read_case
from conformance.record import Record
from conformance.verdict import Diverges, Unrepresentable

_FIELD: Final = "failure"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What a divergence was.

    candidate: as it was named; version: of its framework, "" where it is not known.
    faults: the hypotheses that explained it; size: the largest difference to the reference, None if not finite.
    """

    candidate: str
    version: str
    requirement: str
    dtype: str
    faults: tuple[str, ...]
    size: float | None


class Kept(Struct, frozen=True, kw_only=True):
    """A kept failure. source: the file or folder it came from. failure: None in files that do not say.

    case: None for what an example database holds, which only Hypothesis can read.
    """

    source: str
    case: Case | None
    failure: Failure | None


def write_kept(path: Path, case: Case, failure: Failure) -> Path:
    """Write a case file with its failure; OSError when that cannot be done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {**case_to_json(case), _FIELD: msgspec.to_builtins(failure)}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path


def read_kept(path: Path) -> Kept:
    """Read a case file; CaseError when it, or what it says of its failure, is malformed."""
    case = read_case(path)
    said: Any = json.loads(path.read_text(encoding="utf-8")).get(_FIELD)
    try:
        failure = None if said is None else msgspec.convert(said, Failure)
    except msgspec.ValidationError as error:
        raise CaseError("what a case file says of its failure is malformed", where=str(path), got=str(error)) from None
    return Kept(source=str(path), case=case, failure=failure)


def kept_in(record: Record) -> tuple[Kept, ...]:
    """The failures of a record: the minimal cases of its divergences.

    Raises
    ------
    CaseError: an example is no case.
    """
    versions = {line.name: line.version for line in record.candidates}
    found: list[Kept] = []
    for finding in record.findings:
        verdict = finding.verdict
        plain = verdict.subspace if isinstance(verdict, Unrepresentable) else verdict
        if finding.example is None or not isinstance(plain, Diverges):
            continue
        where = f"{record.path}: {finding.candidate} {finding.requirement} {finding.dtype}"
        case = case_from_json(finding.example.case, where=where)
        cell_named(case.cell).check(case)
        shown = finding.example.verdict
        evidence = shown.evidence if isinstance(shown, Diverges) else plain.evidence
        failure = Failure(
            candidate=finding.candidate,
            version=versions.get(finding.candidate, ""),
            requirement=finding.requirement,
            dtype=finding.dtype,
            faults=shown.faults if isinstance(shown, Diverges) else plain.faults,
            size=evidence.largest_difference,
        )
        found.append(Kept(source=where, case=case, failure=failure))
    return tuple(found)


def case_files(folders: Sequence[Path]) -> tuple[Path, ...]:
    """All case files that runs have kept below these folders, the newest first."""
    found: set[Path] = set()
    for folder in folders:
        found.update(folder.glob("*-cases/*.json"))
    return tuple(sorted(found, key=lambda path: (-_time(path), path)))


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
