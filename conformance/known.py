"""Known divergences: what is listed must show, as listed, and nothing else may.

A list never silences a check. What shows without being listed, a listed fault that shows as another one or in another
size, one that has vanished, one that was not tried although it was selected, and one whose time is over: each is a
problem with a message of its own.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from conformance.candidate import identity
from conformance.discover import data_folder
from conformance.errors import ConformanceError, SpecError
from conformance.record import CandidateLine, Finding, KnownEntry, KnownList, Record
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, core

SHIPPED: Final = "shipped"
NO_FAULT: Final = "none"
UNEXPLAINED: Final = "not explained yet: look at it, and say here what it is"
ProblemKind = Literal["unlisted", "another fault", "another size", "vanished", "skipped", "expired"]


class Problem(Struct, frozen=True, kw_only=True):
    """One place where a run and the list differ. message: what is wrong and what to do, in a sentence."""

    kind: ProblemKind
    candidate: str
    requirement: str
    dtype: str
    message: str


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    divergence: Annotated[tuple[KnownEntry, ...], Meta()] = ()


def read_known(path: Path | None) -> tuple[KnownEntry, ...]:
    """The entries of a list; None is the shipped one.

    Raises
    ------
    SpecError: it cannot be read, is not TOML, lacks or misspells a field, or has versions that are no specifiers.
    """
    file = shipped_known() if path is None else path
    try:
        entries = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _File).divergence
    except OSError as error:
        raise SpecError(
            "cannot read the known divergences", where=str(file), got=error.strerror or str(error)
        ) from None
    except (ValueError, msgspec.ValidationError) as error:
        raise SpecError(
            "the list of known divergences is malformed",
            where=str(file),
            got=str(error),
            hint="see docs/gate.md: a [[divergence]] has candidate, requirement, shows, size, reason, owner, link, ...",
        ) from None
    for number, entry in enumerate(entries, start=1):
        where = f"{file}, divergence {number} ({entry.candidate}, {entry.requirement})"
        try:
            SpecifierSet(entry.versions)
        except InvalidSpecifier as error:
            raise SpecError("a known divergence has no such versions", where=where, got=str(error)) from None
        if (entry.size is None) == (entry.outcome == "diverges"):
            raise SpecError(
                "a known divergence has a size, and nothing else has", where=where, got=f"size {entry.size}"
            )
    return entries


def shipped_known() -> Path:
    """The list of what the shipped adapters' frameworks are known to show."""
    return data_folder("fixtures") / "known-divergences.toml"


def same_size(first: float | None, second: float | None, *, factor: float) -> bool:
    """Whether two largest differences are within a factor of each other; None is not finite."""
    a, b = (math.inf if value is None else value for value in (first, second))
    return a == b or (a > 0 and b > 0 and max(a, b) <= factor * min(a, b))


def applies(entry: KnownEntry, line: CandidateLine) -> bool:
    """Whether an entry speaks of this candidate, in this release, on this machine."""
    try:
        version = Version(line.version)
    except InvalidVersion:
        return False
    return (
        fnmatchcase(identity(line.name), entry.candidate)
        and SpecifierSet(entry.versions).contains(version, prereleases=True)
        and fnmatchcase(line.facts.get("platform", ""), entry.platform)
        and fnmatchcase(line.facts.get("device", ""), entry.device)
    )


def check_known(record: Record) -> tuple[Problem, ...]:
    """Every place where a record and the list that it is held to differ; empty without such a list."""
    known = record.known
    if known is None:
        return ()
    began = (record.header.started, *(source.started for source in record.header.merged))
    day = max(datetime.fromisoformat(text).date() for text in began)
    lines = {line.name: line for line in record.candidates}
    asked = [entry.name for entry in record.header.requirements]
    found: list[Problem] = []
    for finding in record.findings:
        line = lines.get(finding.candidate)
        found += check_finding(finding, [] if line is None else [e for e in known.entries if applies(e, line)])
    for name in record.header.candidates:
        found += _skipped(name, lines.get(name), known, asked, record.findings)
    for entry in known.entries:
        if entry.expires is not None and entry.expires < day:
            said = f"it was to be looked at again by {entry.expires}: {entry.reason} ({entry.link})"
            found.append(_problem("expired", entry.candidate, entry.requirement, entry.dtype, said))
    return tuple(found)


def _problem(kind: ProblemKind, candidate: str, requirement: str, dtype: str, message: str) -> Problem:
    return Problem(kind=kind, candidate=candidate, requirement=requirement, dtype=dtype, message=message)


def listed(finding: Finding, entries: Sequence[KnownEntry]) -> tuple[KnownEntry, ...]:
    """Those of the entries of a candidate that speak of a finding."""
    return tuple(
        e for e in entries if fnmatchcase(finding.requirement, e.requirement) and fnmatchcase(finding.dtype, e.dtype)
    )


def check_finding(finding: Finding, entries: Sequence[KnownEntry]) -> tuple[Problem, ...]:
    """What is wrong with one finding. entries: those that apply to its candidate."""
    out = isinstance(core(finding.verdict), Unsupported)
    # What is declared out was not selected; `_skipped` tells where nothing else of an entry is left.
    own = [e for e in listed(finding, entries) if e.outcome != "diverges" or not out]
    problems = [(entry, _against(finding, entry)) for entry in own]
    diverging = [problem for entry, problem in problems if entry.outcome == "diverges"]
    told = [problem for entry, problem in problems if entry.outcome != "diverges"]
    verdict = core(finding.verdict)
    if isinstance(verdict, Diverges) and not diverging:
        size, shown = verdict.evidence.largest_difference, " or ".join(verdict.faults) or "no fault of the catalogue"
        told.append(("unlisted", f"it diverges like {shown} (largest difference {_number(size)}), and is not listed"))
    elif None not in diverging:  # one entry that holds is enough: they may tell alternatives
        told += diverging[:1]
    return tuple(
        _problem(problem[0], finding.candidate, finding.requirement, finding.dtype, problem[1])
        for problem in told
        if problem is not None
    )


def _number(size: float | None) -> str:
    return "not finite" if size is None else f"{size:.3g}"


def _against(finding: Finding, entry: KnownEntry) -> tuple[ProblemKind, str] | None:
    verdict, inner = finding.verdict, core(finding.verdict)
    gone = f"{entry.shows} is listed ({entry.link}) and does not show any more: remove it, or end its versions"
    match entry.outcome:
        case "unrepresentable":
            if isinstance(verdict, Unrepresentable):
                names = ", ".join(verdict.parameters)
                return (
                    None
                    if names == entry.shows
                    else ("another fault", f"{entry.shows} is listed, {names} has no place")
                )
            return "vanished", gone
        case "unsupported":
            if isinstance(inner, Unsupported):
                told = f"{entry.shows} is listed, {inner.what} is declared"
                return None if inner.what == entry.shows else ("another fault", told)
            return "vanished", gone
        case "diverges":
            pass
    match inner:
        case Agrees():
            return "vanished", gone
        case Broken() | Inconclusive() | Unsupported() | None:
            said = type(inner).__name__.lower() if inner is not None else "not tried"
            return "skipped", f"{entry.shows} is listed ({entry.link}) and could not be looked for: {said}"
        case Diverges(faults=faults, evidence=evidence):
            if entry.shows not in (faults or (NO_FAULT,)):
                return (
                    "another fault",
                    f"{entry.shows} is listed ({entry.link}), it shows {' or '.join(faults) or NO_FAULT}",
                )
            if not same_size(evidence.largest_difference, entry.size, factor=entry.factor):
                return "another size", (
                    f"{entry.shows} is listed with {_number(entry.size)} within a factor of {entry.factor:g}, "
                    f"it shows {_number(evidence.largest_difference)}"
                )
            return None


def _skipped(
    name: str, line: CandidateLine | None, known: KnownList, asked: Sequence[str], findings: Sequence[Finding]
) -> Iterator[Problem]:
    """What is listed and selected, and has no finding."""
    for entry in known.entries:
        # A candidate that never came up is of an unknown release: any may be meant.
        mine = fnmatchcase(identity(name), entry.candidate) if line is None else applies(entry, line)
        selected = [requirement for requirement in asked if fnmatchcase(requirement, entry.requirement)]
        chosen = not known.dtypes or any(fnmatchcase(dtype, entry.dtype) for dtype in known.dtypes)
        found = any(
            f.candidate == name
            and f.requirement in selected
            and fnmatchcase(f.dtype, entry.dtype)
            and not (entry.outcome == "diverges" and isinstance(core(f.verdict), Unsupported))
            for f in findings
        )
        if mine and selected and chosen and not found:
            said = f"{entry.shows} is listed ({entry.link}) and was selected, but not tried"
            yield _problem("skipped", name, entry.requirement, entry.dtype, said)


# --- Writing ---


def updated(record: Record, entries: Sequence[KnownEntry]) -> tuple[KnownEntry, ...]:
    """The list that a record would meet: what holds stays, what vanished goes, what is new is added unexplained.

    Entries that speak of no candidate of the record are left alone.
    """
    lines = {line.name: line for line in record.candidates}
    kept: list[KnownEntry] = []
    for entry in entries:
        own = [
            (f, _against(f, entry))
            for f in record.findings
            if f.candidate in lines and applies(entry, lines[f.candidate]) and listed(f, [entry])
        ]
        if not own or any(problem is None for _, problem in own):
            kept.append(entry)
    for finding in record.findings:
        line, verdict = lines.get(finding.candidate), core(finding.verdict)
        if line is None or not isinstance(verdict, Diverges):
            continue
        if any(
            p.kind in ("unlisted", "another fault", "another size")
            for p in check_finding(finding, [e for e in kept if applies(e, line)])
        ):
            kept.append(_fresh(finding, verdict, line))
    return tuple(kept)


def _fresh(finding: Finding, verdict: Diverges, line: CandidateLine) -> KnownEntry:
    size = verdict.evidence.largest_difference
    return KnownEntry(
        candidate=identity(finding.candidate),
        requirement=finding.requirement,
        dtype=finding.dtype,
        versions=f"=={Version(line.version).public}",
        shows=verdict.faults[0] if verdict.faults else NO_FAULT,
        size=math.inf if size is None else float(f"{size:.2g}"),
        reason=UNEXPLAINED,
        owner="upstream",
        link="none: not reported yet",
    )


def write_known(path: Path, entries: Sequence[KnownEntry]) -> None:
    """Rewrite a list; comments before its first entry are kept. ConformanceError where it cannot be written."""
    import tomlkit  # noqa: PLC0415 - only for writing

    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
        tables = tomlkit.aot()
        for entry in entries:
            tables.append(tomlkit.item(_plain(entry)))
        document["divergence"] = tables
        path.write_text(tomlkit.dumps(document), encoding="utf-8")
    except OSError as error:
        raise ConformanceError(
            "cannot write the known divergences", where=str(path), got=error.strerror or str(error)
        ) from None


def _plain(entry: KnownEntry) -> Mapping[str, Any]:
    """The fields that differ from their defaults, in the order in which they read best."""
    order = (
        "candidate", "versions", "platform", "device", "requirement", "dtype", "outcome", "shows", "size", "factor",
        "reason", "owner", "link", "expires",
    )  # fmt: skip
    defaults = {field.name: field.default for field in msgspec.structs.fields(KnownEntry)}
    values = asdict(entry)
    return {name: values[name] for name in order if values[name] != defaults[name]}
