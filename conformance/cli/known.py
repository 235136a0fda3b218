"""The option that holds a run to a list of known divergences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from conformance.known import SHIPPED, read_known
from conformance.record import KnownList

known_option = click.option(
    "--known",
    "known_file",
    metavar="FILE",
    help=f"Hold the run to this list of known divergences; `{SHIPPED}` is the one of the shipped adapters.",
)


def known_path(text: str) -> Path | None:
    """The file that the option names; None is the shipped one."""
    return None if text == SHIPPED else Path(text)


def known_lines(text: str | None, dtypes: Sequence[str]) -> tuple[KnownList, ...]:
    """The record's line about the list, if one is named."""
    if text is None:
        return ()
    path = known_path(text)
    source = SHIPPED if path is None else path.name
    return (KnownList(source=source, dtypes=tuple(dtypes), entries=read_known(path)),)
