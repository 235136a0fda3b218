"""Findings that are neither divergences nor plain agreement: what a record could not tell, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from conformance.record import Finding
from conformance.report.outcome import Levels, fault_names, outcome_of
from conformance.report.wording import block, count, label, listed, number, web_link
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, core

Section: TypeAlias = Literal["unrepresentable", "inconclusive", "broken", "unsupported"]


class Check(Struct, frozen=True, kw_only=True):
    """A finding among those that one note is about. target: where its subspace is told of, "" where nowhere.

    anchor: its own, "" where another section has it; aside: the level of its requirement if that does not decide.
    """

    anchor: str
    requirement: str
    dtype: str
    aside: str
    target: str = ""


class Note(Struct, frozen=True, kw_only=True):
    """Findings of one candidate of which the same is to be said; text columns as their section needs them."""

    candidate: str
    trials: str
    what: str
    owner: str = ""
    reason: str = ""
    link: str = ""
    href: str = ""
    stderr: str = ""
    subspace: str = ""
    checks: tuple[Check, ...]


class _Said(Struct, frozen=True, kw_only=True):
    """What a note says of a finding; equal ones share a note."""

    candidate: str
    what: str
    owner: str = ""
    reason: str = ""
    link: str = ""
    stderr: str = ""


def make_notes(own: Iterable[Finding], section: Section, anchors: Mapping[int, str], asked: Levels) -> tuple[Note, ...]:
    """The notes of a section, one for all findings of which the same is said. anchors: by identity of a finding."""
    alike: dict[_Said, list[Finding]] = {}
    for finding in own:
        said = _said(finding, section)
        if said is not None:
            alike.setdefault(said, []).append(finding)
    return tuple(
        Note(
            candidate=label(said.candidate),
            trials=count(sum(finding.trials for finding in members), "trial"),
            what=said.what,
            owner=said.owner,
            reason=said.reason,
            link=block(said.link),
            href=web_link(said.link),
            stderr=said.stderr,
            subspace=subspaces_text([f.verdict for f in members if isinstance(f.verdict, Unrepresentable)])
            if section == "unrepresentable"
            else "",
            checks=tuple(_check(finding, section, anchors[id(finding)], asked) for finding in members),
        )
        for said, members in alike.items()
    )


def _check(finding: Finding, section: Section, anchor: str, asked: Levels) -> Check:
    mine, target = True, ""
    if section == "unrepresentable":
        mine = outcome_of(finding.verdict) == "unrepresentable"
        target = "" if core(finding.verdict) is None else f"{anchor}a" if mine else anchor
    return Check(
        anchor=anchor if mine else "",
        requirement=label(finding.requirement),
        dtype=label(finding.dtype),
        aside=asked.aside(finding.requirement),
        target=target,
    )


def _said(finding: Finding, section: Section) -> _Said | None:
    """What is to be said of a finding in a section; None when it does not belong there."""
    outcome, verdict, inner = outcome_of(finding.verdict), finding.verdict, core(finding.verdict)
    if section == "unrepresentable" and isinstance(verdict, Unrepresentable):
        return _Said(
            candidate=finding.candidate,
            what=listed([label(name) for name in verdict.parameters], most=40),
            owner=verdict.owner,
            reason=block(verdict.reason),
            link=verdict.link,
        )
    match inner:
        case Broken() if section == "broken":
            return _Said(
                candidate=finding.candidate,
                what=ending(inner),
                reason=block(inner.message),
                stderr=block(inner.stderr_tail, tail=True),
            )
        case Inconclusive() if section == "inconclusive":
            missing = listed([label(name) for name in sorted(inner.missing)])
            return _Said(candidate=finding.candidate, what=block(inner.why), reason=block(missing))
        case Agrees() if section == "inconclusive" and outcome == "inconclusive":
            return _Said(candidate=finding.candidate, what="it claims agreement on no comparison at all")
        case Unsupported() if section == "unsupported":
            return _Said(
                candidate=finding.candidate,
                what=block(inner.what),
                owner=inner.owner,
                reason=block(inner.reason),
                link=inner.link,
            )
        case _:
            return None


def ending(broken: Broken) -> str:
    """How an observation failed to come about: the kind, the exit code, the signal."""
    told: list[str] = [broken.kind]
    if broken.exit_code is not None:
        told.append(f"exit code {broken.exit_code}")
    if broken.signal:
        told.append(label(broken.signal))
    return ", ".join(told)


def subspace_text(verdict: Unrepresentable) -> str:
    """What was found with the parameters at zero."""
    match verdict.subspace:
        case None:
            return "nothing was tried with it at zero"
        case Agrees(compared=amount) if amount < 1:
            return "nothing was compared with it at zero"
        case Agrees(excluded=excluded):
            return f"agrees where it can represent: {count(len(excluded), 'fault')} ruled out"
        case Diverges(evidence=evidence) as inner:
            size = number(evidence.largest_difference, 3)
            return f"diverges with it at zero: {fault_names(inner.faults)}, largest difference {size}"
        case Inconclusive(why=why):
            return f"inconclusive with it at zero: {label(why)}"
        case Broken(message=message) as broken:
            return f"broken with it at zero: {ending(broken)}: {label(message)}"


def subspaces_text(verdicts: Sequence[Unrepresentable]) -> str:
    """What was found with the parameters at zero on several checks; equal findings once."""
    told = list(dict.fromkeys(subspace_text(verdict) for verdict in verdicts))
    if len(told) > 1 and all(isinstance(inner := v.subspace, Agrees) and inner.compared for v in verdicts):
        return f"agrees where it can represent, on {count(len(verdicts), 'check')}"
    more = f"; and {count(len(told) - 3, 'other finding')}" if len(told) > 3 else ""
    return "; ".join(told[:3]) + more
