"""The shards of one campaign as one record: what an undivided run would have written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from conformance.errors import RecordError
from conformance.judge import TrialVerdict, combine
from conformance.order import ordered
from conformance.record import BlockLine, CandidateLine, Finding, Footer, Line, Probe, Record, Trial
from conformance.recordfile import gather
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Verdict, core

_Key = tuple[str, str, str]


def are_shards(records: Sequence[Record]) -> bool:
    """Whether these records say of themselves that they are parts of something."""
    return bool(records) and all(record.header.shard[1] > 1 for record in records)


def joined(records: Sequence[Record]) -> Record:
    """All shards of a campaign as one record.

    Cases that every shard has tried (the ordinary ones) count once. An undivided run stops after the first block that
    diverges, so what other shards tried beyond it is left out.

    Raises
    ------
    RecordError: a shard is missing, there twice or incomplete; or they are not of one campaign.
    """
    parts = sorted(records, key=lambda record: record.header.shard)
    _check(parts)
    first = parts[0]
    lines: list[Line] = [] if first.known is None else [first.known]
    lines += _candidates(parts)
    for key in dict.fromkeys((f.candidate, f.requirement, f.dtype) for part in parts for f in part.findings):
        lines += _group(key, parts)
    lines += [line for part in parts for line in part.incidents]
    findings = [line for line in lines if isinstance(line, Finding)]
    finished = max(part.footer.finished for part in parts if part.footer is not None)
    lines.append(Footer(finished=finished, trials=sum(f.trials for f in findings), findings=len(findings)))
    header = replace(first.header, shard=(1, 1), started=min(part.header.started for part in parts))
    whole = gather(Path(first.path), [header, *lines])
    return gather(Path(first.path), [header, *ordered(whole)])


def _check(parts: Sequence[Record]) -> None:
    of = parts[0].header.shard[1]
    numbers = [part.header.shard[0] for part in parts]
    for part in parts:
        if part.problem:
            raise RecordError(
                "a shard is incomplete", where=part.path, got=part.problem, hint="finish it with --resume, then join"
            )
    for what, values in (
        ("number of shards", [part.header.shard[1] for part in parts]),
        ("harness", [part.header.harness for part in parts]),
        ("seed", [part.header.seed for part in parts]),
        ("number of examples", [part.header.examples for part in parts]),
        ("number of cases", [part.header.cases for part in parts]),
        ("number of fresh shapes", [part.header.fresh_shapes for part in parts]),
        ("set of libraries that draw cases", [part.header.drawn_by for part in parts]),
        ("set of candidates", [part.header.candidates for part in parts]),
        ("set of requirements", [part.header.requirements for part in parts]),
        ("list of known divergences", [part.known for part in parts]),
    ):
        for part, value in zip(parts, values, strict=True):
            if value != values[0]:
                raise RecordError(
                    f"these shards are not of one campaign: another {what}",
                    where=f"{parts[0].path}, {part.path}",
                    got=str(value)[:200],
                    wanted=str(values[0])[:200],
                )
    if numbers != list(range(1, of + 1)):
        missing = sorted(set(range(1, of + 1)) - set(numbers))
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        raise RecordError(
            "a campaign is joined from every shard once",
            where=", ".join(part.path for part in parts),
            got=f"missing {missing or 'none'}, twice {twice or 'none'}",
            wanted=f"1 to {of}",
            hint="run what is missing with --shard I/N",
        )


def _candidates(parts: Sequence[Record]) -> Iterator[CandidateLine]:
    known: dict[str, CandidateLine] = {}
    for part in parts:
        for line in part.candidates:
            before = known.setdefault(line.name, line)
            if before.version != line.version:
                raise RecordError(
                    "these shards ran another release of a candidate",
                    where=f"{part.path}, {line.name}",
                    got=line.version,
                    wanted=before.version,
                )
    yield from known.values()


def _group(key: _Key, parts: Sequence[Record]) -> Iterator[Line]:
    """The lines of one candidate, requirement and dtype, and the finding over all of them."""
    found = [_finding(part, key) for part in parts]
    trials: list[Trial] = []
    for part in parts:
        # Every shard tries the ordinary cases; only what came out otherwise in a later one is news.
        told = {_outcome(trial) for trial in trials}
        trials += [t for t in part.trials if _key(t) == key and (t.block is not None or _outcome(t) not in told)]
    blocks = sorted((b for part in parts for b in part.blocks if _key(b) == key), key=lambda block: block.block)
    diverging = next((finding for finding in found if isinstance(core(finding.verdict), Diverges)), None)
    stop = next((line.block for line in blocks if line.diverges), None)
    if stop is not None:
        blocks = [line for line in blocks if line.block <= stop]
        diverging, owner = found[stop % len(parts)], parts[stop % len(parts)]
        shrunk = {t.case.digest for t in owner.trials if _key(t) == key}
        trials = [
            t
            for t in trials
            if (t.case.digest in shrunk if t.phase == "shrunk" else t.block is None or t.block <= stop)
        ]
    yield from [probe for part in parts for probe in part.probes if _key(probe) == key][:1]
    yield from trials
    yield from blocks
    counted = len(trials) + sum(line.agreeing for line in blocks)
    seconds = sum(finding.seconds for finding in found)
    # What broke in one shard without a trial has left its cases untried: the others cannot speak for it.
    broken = next((finding for finding in found if isinstance(core(finding.verdict), Broken)), None)
    told_by_one = diverging or broken
    if told_by_one is not None:
        yield replace(told_by_one, trials=counted, seconds=seconds)
        return
    verdicts: list[TrialVerdict] = [trial.verdict for trial in trials if isinstance(trial.verdict, _TRIED)]
    verdicts += [
        Agrees(excluded=frozenset(line.excluded), share=line.share, compared=line.compared)
        for line in blocks
        if line.agreeing
    ]
    first = found[0]
    if not verdicts:  # declared out
        yield first
        return
    together = combine(verdicts, required=frozenset(name for finding in found for name in finding.visible))
    verdict: Verdict = together
    if isinstance(first.verdict, Unrepresentable):
        verdict = replace(first.verdict, subspace=together)
    yield replace(first, verdict=verdict, trials=counted, seconds=seconds)


def _key(line: Trial | BlockLine | Probe | Finding) -> _Key:
    return (line.candidate, line.requirement, line.dtype)


def _outcome(trial: Trial) -> tuple[str, str, type[Verdict]]:
    return (trial.phase, trial.case.digest, type(trial.verdict))


def _finding(part: Record, key: _Key) -> Finding:
    own = [finding for finding in part.findings if _key(finding) == key]
    if len(own) != 1:
        raise RecordError(
            "a shard does not answer what the others do",
            where=f"{part.path}, {' '.join(key)}",
            got=f"{len(own)} findings",
            wanted="one",
        )
    return own[0]


_TRIED = (Agrees, Diverges, Inconclusive, Broken)
