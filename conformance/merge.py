"""Records of several machines as one, for a single answer over all of them.

What is merged must have been asked the same: other seeds, numbers of examples, selections or catalogues are other
cases, and an agreement on one says nothing about another. The result does not depend on the order of the files, says
what it was made of, and is a record like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from conformance.candidate import named_apart
from conformance.errors import RecordError
from conformance.record import (
    BlockLine,
    CandidateLine,
    FaultEntry,
    Finding,
    Footer,
    Header,
    Incident,
    KnownList,
    Line,
    Probe,
    Record,
    RequirementEntry,
    Source,
    Trial,
)
from conformance.recordfile import RecordWriter, gather
from conformance.shards import are_shards, joined

# The options of a command line on which it depends what is asked, and how many values each takes.
_ASKING: Final = {"-k": 1, "--dtype": 1, "--case": 1, "--cell": 1, "--update": 1, "--wide": 0}
_HINT: Final = "run all of them with the same version, seed, examples and selection, or show them --apart"
_Told = CandidateLine | Trial | BlockLine | Incident | Finding | Probe


def file_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """A name for each file, with as many of its folders as it takes to tell them apart.

    Raises
    ------
    RecordError: one file is named twice.
    """
    whole = [path.resolve().parts[1:] for path in paths]
    twice = [paths[whole.index(parts)] for parts, times in Counter(whole).items() if times > 1]
    if twice:
        raise RecordError("a record is named twice", where=str(twice[0]), hint="name each file once")
    names = tuple(parts[-1] for parts in whole)
    deep = 1
    while len(set(names)) < len(names):
        deep += 1
        names = tuple("/".join(parts[-deep:]) for parts in whole)
    return names


def merge(records: Mapping[str, Record], *, name: str = "", apart: bool = False) -> Record:
    """One record that holds all of `records`, which are named by their files. name: its own, by default theirs.

    apart: candidates carry the name of their file, and records that were asked different things are allowed. Shards of
    one campaign become the record of an undivided run.

    Raises
    ------
    RecordError: there is nothing to merge; one is a gate's or a benchmark's; they were asked different things or
        share a candidate, and `apart` was not said.
    """
    if len(records) < 2:
        raise RecordError("there is nothing to merge", got=", ".join(records), wanted="two records or more")
    if not apart and are_shards(list(records.values())):
        return joined(list(records.values()))
    parts = {own: _renamed(record, own) if apart else record for own, record in sorted(records.items())}
    for own, record in parts.items():
        _mergeable(own, record)
    if not apart:
        _refuse_mixture(parts)
    sources = tuple(
        sorted(
            (source for own, record in parts.items() for source in _sources(own, record)),
            key=lambda source: (source.name, source.started, source.candidates),
        )
    )
    header = _header(parts.values(), sources)
    lines = [header, *_known(parts.values()), *_body(parts.values(), header.candidates)]
    if all(record.footer is not None for record in parts.values()):
        footers = [record.footer for record in parts.values() if record.footer is not None]
        lines.append(
            Footer(
                finished=max(footer.finished for footer in footers),
                trials=sum(footer.trials for footer in footers),
                findings=sum(len(record.findings) for record in parts.values()),
            )
        )
    return gather(Path(name or ", ".join(parts).replace("/", "_")), lines)


def write_record(path: Path, record: Record) -> None:
    """Write a record that was made of others."""
    with RecordWriter(path, record.header, record.body):
        pass


def _mergeable(name: str, record: Record) -> None:
    if record.gate is not None:
        raise RecordError(
            "a gate's record stands for itself and cannot be merged", where=name, hint="merge records of `run`"
        )
    if record.benches or record.scans:
        raise RecordError(
            "a benchmark's record cannot be merged: speeds are compared on one machine only",
            where=name,
            hint="merge records of `run`",
        )


def _refuse_mixture(parts: Mapping[str, Record]) -> None:
    """Refuse records that were asked different things, or that speak of the same candidate."""
    told: tuple[tuple[str, Callable[[Record], object]], ...] = (
        ("version of the harness", lambda record: record.header.harness),
        ("seed", lambda record: record.header.seed),
        ("number of examples", lambda record: record.header.examples),
        ("number of cases", lambda record: (record.header.cases, record.header.shard)),
        ("number of fresh shapes", lambda record: record.header.fresh_shapes),
        ("set of libraries that draw cases", lambda record: record.header.drawn_by),
        ("selection of cases", _question),
        ("list of known divergences", lambda record: _list_of(record.known)),
    )
    (first, one), *others = parts.items()
    for what, of in told:
        for name, record in others:
            if of(record) != of(one):
                _differ(what, first, name, str(of(one)), str(of(record)))
    _same_requirements(parts)
    owner: dict[str, str] = {}
    for name, record in parts.items():
        for candidate in dict.fromkeys((*record.header.candidates, *map(_candidate, _told_of(record)))):
            if owner.setdefault(candidate, name) != name:
                raise RecordError(
                    "two records have the same candidate",
                    where=f"{owner[candidate]} and {name}",
                    got=candidate,
                    wanted="each candidate in one record",
                    hint="show them --apart: each candidate then carries the name of its file",
                )


def _differ(what: str, first: str, second: str, one: str, other: str) -> None:
    raise RecordError(
        f"the records were not asked the same: another {what}",
        where=f"{first} and {second}",
        got=f"{other[:200]} in {second}",
        wanted=f"{one[:200]} as in {first}",
        hint=_HINT,
    )


def _same_requirements(parts: Mapping[str, Record]) -> None:
    """What a requirement's name means must be the same everywhere; a candidate is asked what it offers."""
    known: dict[str, tuple[str, RequirementEntry]] = {}
    for name, record in parts.items():
        for entry in record.header.requirements:
            first, one = known.setdefault(entry.name, (name, entry))
            if one != entry:
                _differ(f"requirement of the name {entry.name}", first, name, str(one), str(entry))


def _question(record: Record) -> str:
    """What the command lines of a record selected; several for one that was merged from such as do not agree."""
    sources = [source.arguments for source in record.header.merged] or [record.header.arguments]
    return " or ".join(sorted({_selected(arguments) for arguments in sources}))


def _selected(arguments: Sequence[str]) -> str:
    """The command and its options on which the cases depend, in one order."""
    found: set[str] = set()
    words = iter(arguments[1:])
    for word in words:
        option, _, value = word.partition("=") if word.startswith("--") else (word[:2], "", word[2:])
        if option not in _ASKING:
            continue
        if _ASKING[option]:
            value = value or next(words, "")
            # The same case may stand anywhere on each machine.
            found.add(f"{option} {Path(value).name if option == '--case' else value}")
        else:
            found.add(option)
    return " ".join((*arguments[:1], *sorted(found)))


def _list_of(known: KnownList | None) -> tuple[object, ...]:
    """What a list says, whatever its file is called."""
    return () if known is None else (tuple(sorted(known.dtypes)), known.entries)


def _told_of(record: Record) -> Iterator[_Told]:
    """The lines that are about a candidate."""
    for line in record.body:
        if isinstance(line, _Told):
            yield line


def _candidate(line: _Told) -> str:
    return line.name if isinstance(line, CandidateLine) else line.candidate


def _renamed(record: Record, source: str) -> Record:
    """The record with its file's name beside each candidate."""
    own = source.removesuffix(".jsonl")
    header = record.header
    merged = tuple(
        replace(part, candidates=tuple(named_apart(name, own) for name in part.candidates)) for part in header.merged
    )
    head = replace(header, candidates=tuple(named_apart(name, own) for name in header.candidates), merged=merged)
    body: list[Line] = []
    for line in record.body:
        match line:
            case CandidateLine():
                body.append(replace(line, name=named_apart(line.name, own)))
            case Trial() | BlockLine() | Incident() | Finding() | Probe():
                body.append(replace(line, candidate=named_apart(line.candidate, own)))
            case _:
                body.append(line)
    return replace(gather(Path(record.path), [head, *body]), problem=record.problem)


def _sources(name: str, record: Record) -> Iterator[Source]:
    """What a record was made of; itself, where it is not merged."""
    if record.header.merged:
        told = any(source.problem for source in record.header.merged)
        for source in record.header.merged:
            yield source if told or not record.problem else replace(source, problem=record.problem)
        return
    header = record.header
    facts = (line.facts.get(key, "") for line in record.candidates for key in ("platform", "device"))
    yield Source(
        name=name,
        machine=", ".join(dict.fromkeys(fact for fact in facts if fact)),
        harness=header.harness,
        started=header.started,
        seed=header.seed,
        examples=header.examples,
        arguments=header.arguments,
        candidates=header.candidates,
        problem=record.problem,
    )


def _header(parts: Iterable[Record], sources: Sequence[Source]) -> Header:
    heads = [record.header for record in parts]
    named = [name for source in sources for name in source.candidates]
    # A header of a stranger's may name candidates of which its sources say nothing.
    named += sorted(name for head in heads for name in head.candidates)
    return replace(
        heads[0],
        harness=", ".join(sorted({source.harness for source in sources})),
        started=min(source.started for source in sources),
        seed=min(source.seed for source in sources),
        examples=min(source.examples for source in sources),
        arguments=("report", *(source.name for source in sources)),
        candidates=tuple(dict.fromkeys(named)),
        requirements=_requirements(heads),
        faults=_faults(heads),
        merged=tuple(sources),
    )


def _requirements(heads: Sequence[Header]) -> tuple[RequirementEntry, ...]:
    """All requirements; one that is described in two ways stands there twice, and so counts as MUST."""
    entries = {entry: None for head in heads for entry in head.requirements}
    return tuple(sorted(entries, key=lambda entry: (entry.cell, entry.name, entry.level, entry.statement)))


def _faults(heads: Sequence[Header]) -> dict[str, tuple[FaultEntry, ...]]:
    """The catalogues; where a fault reads differently for other ways of evaluating, it is told in all of them."""
    cells: dict[str, dict[str, list[FaultEntry]]] = {}
    for head in heads:
        for cell, entries in head.faults.items():
            for entry in entries:
                cells.setdefault(cell, {}).setdefault(entry.name, []).append(entry)
    return {
        cell: tuple(
            FaultEntry(
                name=name,
                statement=_either(entry.statement for entry in own),
                equation=_either(entry.equation for entry in own),
                right=_either(entry.right for entry in own),
            )
            for name, own in sorted(named.items())
        )
        for cell, named in sorted(cells.items())
    }


def _either(texts: Iterable[str]) -> str:
    """Different texts as one; what another one contains already is not said again."""
    unlike = sorted(set(texts))
    return "; or ".join(text for text in unlike if not any(text in other for other in unlike if other != text))


def _known(parts: Iterable[Record]) -> Iterator[KnownList]:
    """The list that all were held to; several lists, of records that are shown apart, hold for none of the others."""
    lists = [record.known for record in parts]
    held = [known for known in lists if known is not None]
    if held and len(held) == len(lists) and len({_list_of(known) for known in held}) == 1:
        yield min(held, key=lambda known: (known.source, known.dtypes))


def _body(parts: Iterable[Record], order: Sequence[str]) -> Iterator[Line]:
    """The lines of each candidate together, as they came."""
    own: dict[str, list[_Told]] = {name: [] for name in order}
    for record in parts:
        for line in _told_of(record):
            own.setdefault(_candidate(line), []).append(line)
    for name in (*order, *sorted(own.keys() - set(order))):
        yield from own[name]
