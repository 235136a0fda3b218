"""Findings that are neither divergences nor plain agreement: what a record could not tell, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from conformance.record import Finding
from conformance.report.outcome import core, fault_names, outcome_of
from conformance.report.wording import block, count, label, listed, number, web_link
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported

Section: TypeAlias = Literal["unrepresentable", "inconclusive", "broken", "unsupported"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A finding that is neither a divergence nor plain agreement; text columns as its section needs them."""

    anchor: str
    candidate: str
    requirement: str
    dtype: str
    trials: str
    what: str
    owner: str = ""
    reason: str = ""
    link: str = ""
    href: str = ""
    stderr: str = ""
    subspace: str = ""
    target: str = ""


def make_note(finding: Finding, section: Section, anchor: str) -> Note | None:
    """The note of a finding in a section; None when it does not belong there."""
    outcome, verdict, inner = outcome_of(finding.verdict), finding.verdict, core(finding.verdict)
    about = {
        "candidate": label(finding.candidate),
        "requirement": label(finding.requirement),
        "dtype": label(finding.dtype),
        "trials": count(finding.trials, "trial"),
    }
    if section == "unrepresentable" and isinstance(verdict, Unrepresentable):
        own = outcome == "unrepresentable"
        target = "" if inner is None else f"{anchor}a" if own else anchor
        return Note(
            anchor=anchor if own else "",
            what=listed([label(name) for name in verdict.parameters], most=40),
            owner=verdict.owner,
            reason=block(verdict.reason),
            link=block(verdict.link),
            href=web_link(verdict.link),
            subspace=subspace_text(verdict),
            target=target,
            **about,
        )
    match inner:
        case Broken() if section == "broken":
            return Note(
                anchor=anchor,
                what=ending(inner),
                reason=block(inner.message),
                stderr=block(inner.stderr_tail, tail=True),
                **about,
            )
        case Inconclusive() if section == "inconclusive":
            missing = listed([label(name) for name in sorted(inner.missing)])
            return Note(anchor=anchor, what=block(inner.why), reason=block(missing), **about)
        case Agrees() if section == "inconclusive" and outcome == "inconclusive":
            return Note(anchor=anchor, what="it claims agreement on no comparison at all", **about)
        case Unsupported() if section == "unsupported":
            return Note(
                anchor=anchor,
                what=block(inner.what),
                owner=inner.owner,
                reason=block(inner.reason),
                link=block(inner.link),
                href=web_link(inner.link),
                **about,
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
            return f"diverges with it at zero: {fault_names(inner)}, largest difference {size}"
        case Inconclusive(why=why):
            return f"inconclusive with it at zero: {label(why)}"
        case Broken(message=message) as broken:
            return f"broken with it at zero: {ending(broken)}: {label(message)}"
