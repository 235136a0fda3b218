"""Which releases are affected by what, in words: the answer of a matrix of releases, and what it leaves open."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Final

from msgspec import Struct

from conformance.bisect import State
from conformance.report.history import warnings
from conformance.report.wording import count, label, listed
from conformance.trend import Matrix, Mistake, Row

_NAMED: Final = 3
"""So many causes are told in the first sentence."""
_SIZES: Final = 4


class Affected(Struct, frozen=True, kw_only=True):
    """What is wrong alike in some releases.

    name: the faults that explain it, or that none does; known: those that are described, each with its name. releases:
    in words; questions: requirements with their dtypes; sizes: how large, in words. run, gate: commands that show it,
    and that hold the last release that is wrong beside the next one, "" where there is none.
    """

    name: str
    known: tuple[tuple[str, Mistake], ...]
    versions: tuple[str, ...]
    releases: str
    questions: str
    sizes: str
    run: str
    gate: str


def diverges(state: State) -> bool:
    """Whether a release computes something else."""
    return state.kind == "answer" and state.label.startswith("diverges")


def agrees(state: State) -> bool:
    """Whether a release agrees, at least where it can represent."""
    return state.kind == "answer" and state.label.startswith("agrees")


def affected(matrix: Matrix) -> tuple[Affected, ...]:
    """What is wrong, each cause once, the one of most releases first."""
    found: dict[tuple[str, ...], list[tuple[Row, str]]] = {}
    for row in matrix.rows:
        for version in matrix.versions:
            if diverges(row.states[version]):
                found.setdefault(row.states[version].faults, []).append((row, version))
    told = [_affected(matrix, faults, places) for faults, places in found.items()]
    return tuple(sorted(told, key=lambda one: -len(one.versions)))


def _affected(matrix: Matrix, faults: tuple[str, ...], places: Sequence[tuple[Row, str]]) -> Affected:
    rows = list({id(row): row for row, _ in places}.values())
    seen = {version for _, version in places}
    versions = tuple(version for version in matrix.versions if version in seen)
    mistakes = {
        (row.requirement, name): matrix.mistakes.get((row.requirement, name)) for row in rows for name in faults
    }
    known = {name: mistake for (_, name), mistake in mistakes.items() if mistake is not None}
    asked = f"-k {shlex.quote(rows[0].requirement)}"
    at = matrix.versions.index(versions[-1]) + 1
    following = matrix.versions[at : at + 1]
    subject = label(matrix.candidate)
    return Affected(
        name=listed([label(name) for name in faults], last="or", most=3) or "none of the catalogue's faults",
        known=tuple((label(name), mistake) for name, mistake in known.items()),
        versions=versions,
        releases=spans(matrix.versions, seen),
        questions=asked_of(rows),
        sizes=_sizes(places),
        run=f"rnn-conformance run {shlex.quote(f'{subject}=={versions[-1]}')} {asked}",
        gate=" ".join(
            [
                f"rnn-conformance gate {shlex.quote(f'{subject}=={versions[-1]}')}",
                f"{shlex.quote(f'{subject}=={following[0]}')} {asked}",
            ]
        )
        if following
        else "",
    )


def _sizes(places: Sequence[tuple[Row, str]]) -> str:
    """What the states add to their labels, dtypes of which the same is told together."""
    found: dict[str, list[str]] = {}
    for row, version in places:
        if detail := row.states[version].detail:
            found.setdefault(label(detail), []).append(label(row.dtype))
    told = [f"{', '.join(dict.fromkeys(dtypes))}: {detail}" for detail, dtypes in found.items()]
    return "; ".join([*told[:_SIZES], *(["and other sizes"] if told[_SIZES:] else [])])


def spans(versions: Sequence[str], chosen: Collection[str]) -> str:
    """Some of the releases in order: ``1.0 to 1.3 and 1.7``."""
    told = []
    for inside, group in groupby(versions, key=lambda version: version in chosen):
        own = [label(version) for version in group]
        if inside:
            told.append(own[0] if len(own) == 1 else f"{own[0]} to {own[-1]}")
    return listed(told, most=6)


def asked_of(rows: Sequence[Row]) -> str:
    """Requirements with their dtypes: ``gru_hidden_none (float32, float16)``."""
    by: dict[str, list[str]] = {}
    for row in rows:
        by.setdefault(label(row.requirement), []).append(label(row.dtype))
    told = [f"{name} ({', '.join(dict.fromkeys(dtypes))})" for name, dtypes in by.items()]
    return listed(told, most=6)


def trend_headline(matrix: Matrix) -> str:
    """The answer in one sentence: which releases are wrong, like what, and how the newest one is."""
    who = f"{label(matrix.framework)} ({label(matrix.candidate)})" if matrix.framework else label(matrix.candidate)
    causes = affected(matrix)
    if not causes:
        return f"{who}: {_harmless(matrix)}"
    wrong = {version for cause in causes for version in cause.versions}
    verb = "diverges" if len(wrong) == 1 else "diverge"
    start = f"{who}: {len(wrong)} of {count(len(matrix.versions), 'release')} {verb}"
    if len(causes) == 1:
        (only,) = causes
        statements = {mistake.statement for _, mistake in only.known if mistake.statement}
        told = f" \N{EM DASH} {label(statements.pop())}" if len(only.known) == 1 == len(statements) else ""
        text = f"{start}, {only.releases}, like {only.name}{told}."
    else:
        parts = [f"{cause.releases} like {cause.name}" for cause in causes[:_NAMED]]
        more = [f"{len(causes) - _NAMED} more below"] if causes[_NAMED:] else []
        text = f"{start}: {'; '.join([*parts, *more])}."
    return f"{text} {_newest(matrix)}"


def _harmless(matrix: Matrix) -> str:
    if not matrix.answered:
        return "no release gave an answer."
    if _open(matrix):
        return "nothing diverges where an answer was had, but not every release gave one."
    first, last = label(matrix.versions[0]), label(matrix.versions[-1])
    return f"nothing diverges in {count(len(matrix.versions), 'release')}, {first} to {last}."


def _newest(matrix: Matrix) -> str:
    newest = matrix.versions[-1]
    states = [row.states[newest] for row in matrix.rows]
    if any(map(diverges, states)):
        return f"The newest, {label(newest)}, is among them."
    if all(map(agrees, states)):
        return f"The newest, {label(newest)}, agrees."
    lost = list(dict.fromkeys(label(state.label) for state in states if not agrees(state)))
    return f"The newest, {label(newest)}, does not diverge, but not all is shown: {listed(lost, most=3)}."


def could_not(matrix: Matrix) -> tuple[str, ...]:
    """Which releases gave no answer to what, and why; which were left out; where a change cannot be placed."""
    return tuple(dict.fromkeys(_could_not(matrix)))


def _could_not(matrix: Matrix) -> Iterator[str]:
    found: dict[str, list[tuple[Row, str]]] = {}
    for row in matrix.rows:
        for version in matrix.versions:
            state = row.states[version]
            if not diverges(state) and not agrees(state):
                why = f"{state.label}: {state.detail}".splitlines()[0] if state.detail else state.label
                found.setdefault(label(why), []).append((row, version))
    for why, places in found.items():
        rows = list({id(row): row for row, _ in places}.values())
        yield f"{spans(matrix.versions, {version for _, version in places})}, {asked_of(rows)}: {why}"
    for version, why in matrix.left_out.items():
        yield f"{label(version)} was left out: {label(why)}"
    for row in matrix.rows:
        for note in warnings(row.history(matrix.versions)):
            yield f"{label(row.requirement)} ({label(row.dtype)}): {note}"


def trend_outcome(matrix: Matrix) -> str:
    """As of a run: something diverges, or something is open, or all agrees."""
    if affected(matrix):
        return "diverges"
    return "inconclusive" if _open(matrix) or not matrix.answered else "agrees"


def _open(matrix: Matrix) -> bool:
    """Whether a release that was asked gave no answer to something; one that was left out was not asked."""
    return not all(agrees(state) or diverges(state) for row in matrix.rows for state in row.states.values())
