"""What a merged record was made of."""

from __future__ import annotations

import shlex
from typing import Final

from conformance.record import Record, Source
from conformance.report.wording import count, label, visible

_SHOWN: Final = 50


def source_items(record: Record) -> tuple[tuple[str, str], ...]:
    """Each source by its name, in a line: machine, candidates, seed and examples, whether it is whole, its command."""
    own = record.header.merged
    more = [("Further records", f"{len(own) - _SHOWN:,}")] if len(own) > _SHOWN else []
    return (*((f"From {label(source.name)}", _said(source)) for source in own[:_SHOWN]), *more)


def _said(source: Source) -> str:
    told = [
        label(source.machine) or "machine unknown",
        count(len(source.candidates), "candidate"),
        f"seed {source.seed}, {count(source.examples, 'generated case')} per check",
        f"rnn-conformance {label(source.harness)}",
        label(source.problem) or "whole",
    ]
    return f"{'; '.join(told)}: {visible(shlex.join(['rnn-conformance', *map(label, source.arguments)]))}"
