"""Going on with an interrupted record: what is found already is not run again, what was begun begins anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile

from msgspec import Struct, field

from conformance.errors import RecordError
from conformance.plan import Group
from conformance.record import (
    BlockLine,
    CandidateLine,
    Finding,
    Gate,
    Header,
    Incident,
    KnownList,
    Line,
    Probe,
    Record,
    Trial,
)
from conformance.verdict import Broken, core


class Resumption(Struct, frozen=True, kw_only=True):
    """What of a record stays, and what is left to do.

    lines: what follows the header; begun: the blocks of groups that were not finished, by candidate, requirement and
    dtype; complete: nothing is left.
    """

    header: Header
    lines: tuple[Line, ...]
    todo: tuple[Group, ...]
    begun: Mapping[tuple[str, str, str], tuple[BlockLine, ...]] = field(default_factory=dict)
    complete: bool = False

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings that stay."""
        return tuple(line for line in self.lines if isinstance(line, Finding))

    def guarded(self, write: Callable[[Line], None]) -> Callable[[Line], None]:
        """Writes what comes; a candidate that is described already is not described again, and must be the same."""
        known = {line.name: line for line in self.lines if isinstance(line, CandidateLine)}

        def guarded(line: Line) -> None:
            if not isinstance(line, CandidateLine) or line.name not in known:
                write(line)
            elif line.version != known[line.name].version:
                raise RecordError(
                    "the candidate is another release than when the record was begun",
                    where=line.name,
                    got=line.version,
                    wanted=known[line.name].version,
                    hint="start anew, without --resume",
                )

        return guarded


def resumption(record: Record, head: Header, own: Sequence[Line], groups: Sequence[Group]) -> Resumption:
    """What is left of the run that `head` and `own` (the lines that say what it answers) describe.

    Raises
    ------
    RecordError: the record is of another question, seed or selection.
    """
    if record.header.merged:
        raise RecordError("a merged record has no run to go on with", where=record.path, hint="resume its parts")
    asked = (*(line for line in (record.gate, record.known) if line is not None),)
    for what, got, wanted in (
        ("seed", record.header.seed, head.seed),
        ("number of examples", record.header.examples, head.examples),
        ("number of cases", record.header.cases, head.cases),
        ("number of fresh shapes", record.header.fresh_shapes, head.fresh_shapes),
        ("set of libraries that draw cases", record.header.drawn_by, head.drawn_by),
        ("shard", record.header.shard, head.shard),
        ("harness", record.header.harness, head.harness),
        ("set of candidates", record.header.candidates, head.candidates),
        ("set of requirements", record.header.requirements, head.requirements),
        ("question, or list of known divergences", asked, tuple(own)),
    ):
        if got != wanted:
            raise RecordError(
                f"the record to go on with has another {what}",
                where=record.path,
                got=str(got)[:200],
                wanted=str(wanted)[:200],
                hint="ask what was asked when it was begun, or start anew without --resume",
            )
    begun = _begun(record)
    kept = (*_kept(record), *(line for lines in begun.values() for line in lines))
    done = {(line.candidate, line.requirement, line.dtype) for line in kept if isinstance(line, Finding)}
    todo = tuple(g for g in groups if (g.candidate.name, g.requirement.name, g.dtype) not in done)
    return Resumption(
        header=record.header,
        lines=(*asked, *kept),
        todo=todo,
        begun=begun,
        complete=record.footer is not None and not todo,
    )


def _begun(record: Record) -> dict[tuple[str, str, str], tuple[BlockLine, ...]]:
    """Of every group that was not finished the blocks up to the first that does not agree throughout.

    That one, and what came after it, is tried again: a divergence has to be shown, and reduced.
    """
    done = {(line.candidate, line.requirement, line.dtype) for line in record.findings}
    found: dict[tuple[str, str, str], list[BlockLine]] = {}
    for line in record.blocks:
        key = (line.candidate, line.requirement, line.dtype)
        if key not in done:
            found.setdefault(key, []).append(line)
    return {
        key: tuple(takewhile(lambda line: line.agreeing == line.cases, sorted(lines, key=lambda line: line.block)))
        for key, lines in found.items()
    }


def _kept(record: Record) -> Iterator[Line]:
    """Of every candidate all lines up to its last finding: what follows belongs to a group that was not finished."""
    last: dict[str, int] = {}
    for place, line in enumerate(record.body):
        if isinstance(line, Finding) and not is_unmade(line):
            last[line.candidate] = place
    for place, line in enumerate(record.body):
        match line:
            case Finding() if is_unmade(line):
                continue
            case CandidateLine(name=name):
                pass
            case (
                Trial(candidate=name)
                | BlockLine(candidate=name)
                | Incident(candidate=name)
                | Finding(candidate=name)
                | Probe(candidate=name)
            ):
                pass
            case Header() | Gate() | KnownList() | _:
                continue
        if place <= last.get(name, -1):
            yield line


def is_unmade(finding: Finding) -> bool:
    """Whether there was no environment to find anything in: there may be one now."""
    verdict = core(finding.verdict)
    return isinstance(verdict, Broken) and verdict.kind == "environment"
