"""What ``bisect`` and ``trend`` share: releases, questions, the archive, and their options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import click
from msgspec import Struct

from conformance.archive import Archive, Question, at_release, question
from conformance.bisect import State
from conformance.candidate import parse_spec
from conformance.cli.recording import (
    deadline_option,
    dtypes_option,
    examples_option,
    pattern_option,
    quiet_option,
    seed_option,
)
from conformance.discover import find_adapters
from conformance.errors import SpecError
from conformance.plan import Group, candidates_for, plan
from conformance.releases import Listing, parse_span, releases
from conformance.requirement import select_requirements
from conformance.settings import Settings

F = TypeVar("F", bound=Callable[..., object])

EPILOG: Final = """\b
Exit codes:
  0  it could be told
  2  bad usage or input
  3  it could not: no release gave an answer, no list of releases
"""


class Subject(Struct, frozen=True, kw_only=True):
    """What is asked of which releases. groups: the questions, of no release; archive: who answers."""

    name: str
    listing: Listing
    groups: tuple[Group, ...]
    archive: Archive

    def ask(self, version: str) -> dict[Question, State]:
        """The states of one release, for all questions."""
        return self.archive.judge([at_release(group, version) for group in self.groups])

    @property
    def questions(self) -> tuple[Question, ...]:
        """All questions, in the order of the groups."""
        return tuple(map(question, self.groups))


def options(command: F) -> F:
    """The options of both commands."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: Final = (
    pattern_option,
    dtypes_option,
    examples_option,
    seed_option,
    click.option("--pre", is_flag=True, help="Pre-releases, too."),
    click.option(
        "--also", multiple=True, metavar="VERSION", help="A release that is not listed, e.g. yanked; may be repeated."
    ),
    click.option("--fresh", is_flag=True, help="Judge anew what was judged before."),
    click.option(
        "--keep/--no-keep",
        "keep",
        default=True,
        help="Keep the environments that are made (default; `env prune` removes them), or remove each after use.",
    ),
    deadline_option,
    quiet_option,
)


def subject(
    candidate: str,
    span: str,
    *,
    pattern: str | None,
    dtypes: Sequence[str],
    examples: int,
    seed: int,
    pre: bool,
    also: Sequence[str],
    fresh: bool,
    keep: bool,
    deadline: float | None,
    quiet: bool,
    adapter_folders: Sequence[Path],
) -> Subject:
    """Read what was asked for, and list the releases.

    Raises
    ------
    SpecError: a candidate with a release or path of its own, without requirements to make environments of, or one
        that offers nothing of what was selected; no release in the range.
    EnvironmentUnavailable: the releases cannot be listed.
    """
    spec = parse_spec(candidate)
    if spec.version is not None or spec.path is not None:
        raise SpecError("the candidate names its own release", got=candidate, wanted="ADAPTER[:VARIANT], and a range")
    # What is wrong with a range or a version is told before anybody is asked.
    wanted = parse_span(span)
    for version in also:
        parse_spec(f"{spec.adapter}=={version}")
    chosen = candidates_for(find_adapters(adapter_folders), [spec])
    adapter = chosen[0].adapter
    if not adapter.requirements:
        what, hint = f"{adapter.name} has no releases", "it has no requirements.txt, from which environments are made"
        raise SpecError(what, got=candidate, hint=hint)
    groups = tuple(g for g in plan(chosen, select_requirements(pattern), dtypes) if g.unsupported is None)
    if not groups:
        raise SpecError("nothing to ask: the candidate offers nothing of what was selected", got=f"-k {pattern}")

    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    listing = releases(adapter.distribution, wanted, pre=pre, also=also, progress=say)
    for version, why in listing.left_out.items():
        say(f"{adapter.distribution} {version} is left out: {why}")
    archive = Archive(
        settings=Settings(examples=examples, seed=seed),
        told=say,
        fresh=fresh,
        keep_environments=keep,
        case_seconds=deadline,
    )
    return Subject(name=candidate, listing=listing, groups=groups, archive=archive)


def spelled(questions: Sequence[Question]) -> str:
    """Questions in words, one line: those of one requirement together."""
    by: dict[tuple[str, str], list[str]] = {}
    for variant, requirement, dtype in questions:
        by.setdefault((variant, requirement), []).append(dtype)
    return "; ".join(f"{requirement} ({variant}, {', '.join(d)})" for (variant, requirement), d in by.items())
