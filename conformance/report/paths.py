"""What ran: the paths that a candidate's observations attested, each once."""

from __future__ import annotations

import re
from typing import Final

from conformance.record import BlockLine, Record, Trial
from conformance.report.wording import count, label

# What a path says of the case beyond a plain call; every path occurs with several of these.
_FEATURES: Final = re.compile(r"(?: \+[a-z_]+)+$", re.ASCII)
_SHOWN: Final = 6


def attested(record: Record) -> dict[str, tuple[str, ...]]:
    """By candidate, as the record's header names them, the attested paths without the features of their cases."""
    found: dict[str, dict[str, None]] = {}
    lines: tuple[Trial | BlockLine, ...] = (*record.trials, *record.blocks)
    for line in lines:
        if line.path:
            found.setdefault(line.candidate, {})[_FEATURES.sub("", line.path)] = None
    return {name: tuple(found[name]) for name in record.header.candidates if name in found}


def what_ran(paths: tuple[str, ...]) -> str:
    """The paths in one line."""
    more = [f"{count(len(paths) - _SHOWN, 'more path')}"] if len(paths) > _SHOWN else []
    return "; ".join([*(label(path) for path in paths[:_SHOWN]), *more])
