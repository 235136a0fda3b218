"""``rnn-conformance run``: candidates against requirements."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from conformance.candidate import parse_spec
from conformance.case import Case, asked_of_cases
from conformance.cli.known import known_lines, known_option
from conformance.cli.recording import (
    deadline_option,
    display,
    dtypes_option,
    examples_option,
    keeper,
    new_record,
    now,
    output_option,
    outputs_options,
    pattern_option,
    present,
    progress_options,
)
from conformance.cli.root import EXIT_CODES, adapter_option, main, reported
from conformance.discover import find_adapters
from conformance.environments import cache_root
from conformance.errors import SpecError
from conformance.known import SHIPPED, read_known, updated, write_known
from conformance.order import ordered
from conformance.plan import Candidate, Group, candidates_for, plan
from conformance.record import Footer, Record
from conformance.recordfile import RecordWriter, read_record
from conformance.requirement import REQUIREMENTS, select_requirements
from conformance.resume import Resumption, resumption
from conformance.run import Progress, header
from conformance.run import run as run_groups
from conformance.settings import Settings
from conformance.verdict import Broken, core

if TYPE_CHECKING:
    from conformance.campaign import Campaign


@main.command(epilog=EXIT_CODES)
@click.argument("candidates", nargs=-1)
@pattern_option
@dtypes_option
@examples_option
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Of the generated cases; failures kept from earlier runs come first, see --forget.",
)
@click.option(
    "--case",
    "case_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run only the case in this file.",
)
@output_option("the record, the HTML report and minimal cases")
@outputs_options
@deadline_option
@click.option("--wide", is_flag=True, help="Draw long and broad cases, too: T to 512, H to 256, in every dtype.")
@click.option("--forget", is_flag=True, help="Do not replay or keep failures in the example database.")
@click.option(
    "--cases",
    type=click.IntRange(min=1),
    help="A campaign: so many further cases in all, the same ones for every candidate, in blocks.",
)
@click.option(
    "--fresh-shapes",
    "fresh",
    type=click.IntRange(min=0),
    metavar="N",
    help="So many of the campaign's blocks, at most half, have shapes drawn freely: B, T, D, H up to 9, 33, 65, 129. "
    "JAX compiles each anew. [default: of each requirement and dtype one block in 16, at least 2, at most 8]",
)
@click.option("--shard", metavar="I/N", help="Of the campaign's blocks only every N-th, from the I-th on.")
@click.option(
    "--resume",
    "resumed",
    type=click.Path(path_type=Path),
    metavar="RECORD",
    help="Go on with the record of an interrupted run; everything else as it was asked then.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Run the campaign's shards on a Dask cluster: tcp://HOST:PORT.")
@click.option(
    "--shards", type=click.IntRange(min=1), help="With --scheduler: so many. [default: two for each of its threads]"
)
@progress_options
@known_option
@click.option("--update-known", is_flag=True, help="Rewrite the file of --known to what this run shows.")
@adapter_option
@reported
def run(
    candidates: tuple[str, ...],
    pattern: str | None,
    dtypes: tuple[str, ...],
    examples: int,
    seed: int,
    case_file: Path | None,
    output: Path,
    junit_file: Path | None,
    summary_file: Path | None,
    annotate: bool | None,
    deadline: float | None,
    wide: bool,
    forget: bool,
    quiet: bool,
    verbose: bool,
    cases: int | None,
    fresh: int | None,
    shard: str | None,
    resumed: Path | None,
    scheduler: str | None,
    shards: int | None,
    known_file: str | None,
    update_known: bool,
    adapter_folders: tuple[Path, ...],
) -> None:
    """Run CANDIDATES (by default all shipped ones) and judge them.

    Environments that are missing are made. Prints a summary, writes a record (JSON lines) and one self-contained
    HTML file, and says where they are.
    """
    adapters = find_adapters(adapter_folders)
    chosen = candidates_for(adapters, [parse_spec(text) for text in candidates])
    only = None if case_file is None else _case(case_file)
    groups = _groups(chosen, pattern, dtypes, only, explicit=bool(candidates))
    held = known_lines(known_file, dtypes)
    if update_known:
        _refuse_partial(known_file, pattern, dtypes, case_file)
    elif held and only is not None:
        raise SpecError("a single case cannot be held to a list of known divergences", where="--known with --case")
    if only is not None and (cases is not None or resumed is not None):
        raise SpecError("a single case is neither a campaign nor gone on with", got="--case with --cases or --resume")
    campaign = _campaign(groups, cases, fresh, shard)
    if scheduler is not None:
        if campaign is None or shard is not None or resumed is not None or update_known:
            raise SpecError(
                "a cluster runs whole campaigns", wanted="--cases N, without --shard, --resume, --update-known"
            )
        path = new_record(output, "run")
        _distribute(scheduler, shards, path, click.get_current_context())
        record = read_record(path)
        present(record, path, junit_file=junit_file, summary_file=summary_file, annotate=annotate)
        sys.exit(_exit_code(record))
    if shards is not None:
        raise SpecError(
            "only a cluster is told how many shards to make", got=f"--shards {shards}", wanted="--scheduler"
        )
    path = new_record(output, "run") if resumed is None else resumed
    settings = Settings(
        examples=examples,
        seed=seed,
        wide=wide,
        only=only,
        database=None if forget else cache_root() / "examples",
        keep=keeper(path),
        campaign=campaign,
    )
    head = header(groups, settings, sys.argv[1:])
    rest = Resumption(header=head, lines=tuple(held), todo=tuple(groups))
    if resumed is not None:
        rest = resumption(read_record(resumed), head, held, groups)
        if campaign is not None:
            settings = replace(settings, campaign=replace(campaign, done=rest.begun))
    shown = display(rest.todo, quiet=quiet, verbose=verbose)
    complete = rest.complete or _run(rest, settings, path, shown, deadline=deadline)
    record = read_record(path)
    if campaign is not None and complete:
        with RecordWriter(path, record.header, ordered(record)):
            pass
        record = read_record(path)
    present(record, path, junit_file=junit_file, summary_file=summary_file, annotate=annotate)
    if update_known and known_file is not None:
        _update(known_file, path, complete=complete)
    sys.exit(_exit_code(record) if complete else 3)


def _exit_code(record: Record) -> int:
    from conformance.report.outcome import exit_code

    return exit_code(record)


def _refuse_partial(known: str | None, pattern: str | None, dtypes: Sequence[str], case_file: Path | None) -> None:
    """Rewriting a list takes a run that has asked everything."""
    narrowed = {"-k": pattern, "--dtype": dtypes, "--case": case_file}
    given = [option for option, value in narrowed.items() if value]
    if known is None or known == SHIPPED:
        raise SpecError("--update-known rewrites a file of yours", wanted="--known FILE", got=f"--known {known}")
    if given:
        raise SpecError(
            "a partial run cannot update the known divergences: what it does not ask would seem to have vanished",
            got=", ".join(given),
            hint="leave these options out",
        )


def _update(known: str, path: Path, *, complete: bool) -> None:
    record, file = read_record(path), Path(known)
    if not complete or record.problem or any(isinstance(core(f.verdict), Broken) for f in record.findings):
        raise SpecError(
            "a run that was interrupted, or in which something broke, cannot update the known divergences",
            where=str(path),
        )
    entries = read_known(file)
    fresh = updated(record, entries)
    write_known(file, fresh)
    gone, come = len(set(entries) - set(fresh)), len(set(fresh) - set(entries))
    click.echo(f"known divergences: {file}: {come} added, {gone} removed; say in each new one what it is")


def _groups(
    chosen: Sequence[Candidate],
    pattern: str | None,
    dtypes: Sequence[str],
    only: Case | None,
    *,
    explicit: bool,
) -> tuple[Group, ...]:
    requirements = select_requirements(pattern)
    if only is not None:
        asked = frozenset(only.features)
        requirements = tuple(
            r
            for r in requirements
            if (r.cell, r.initial, asked) == (only.cell, only.initial, asked_of_cases(r.features))
        )
        dtypes = (only.dtype,)
        if not requirements:
            raise SpecError(
                "no selected requirement is about this case",
                got=f"cell {only.cell}, initial state {only.initial}, -k {pattern}",
                wanted=" | ".join(r.name for r in REQUIREMENTS.values() if r.cell == only.cell),
            )
    groups = plan(chosen, requirements, dtypes)
    if not explicit:  # default candidates that offer nothing of what -k selects were not asked for
        useful = {group.candidate.name for group in groups if group.unsupported is None}
        groups = tuple(group for group in groups if group.candidate.name in useful)
    if not groups:
        raise SpecError("nothing to run: no candidate offers what was selected", got=f"-k {pattern}")
    return groups


def _case(file: Path) -> Case:
    from conformance.inputs import read_case

    return read_case(file)


def _campaign(groups: Sequence[Group], cases: int | None, fresh: int | None, shard: str | None) -> Campaign | None:
    """What --cases, --fresh-shapes and --shard ask for."""
    if cases is None:
        if fresh is not None:
            text = f"--cases N --fresh-shapes {fresh}"
            raise SpecError("only a campaign has fresh shapes", got=f"--fresh-shapes {fresh}", wanted=text)
        if shard is not None:
            raise SpecError("only a campaign has shards", got=f"--shard {shard}", wanted="--cases N --shard I/N")
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", shard or "1/1", re.ASCII)
    if match is None or int(match[1]) > int(match[2]):
        raise SpecError("cannot read the shard", got=repr(shard), wanted="I/N with I from 1 to N, e.g. 1/4")
    from conformance.campaign import Campaign, budget, spread

    shared = spread(cases, groups)
    return Campaign(cases=shared, fresh=budget(fresh, shared), shard=(int(match[1]), int(match[2])))


_HERE = (
    *("cases", "shard", "resumed", "scheduler", "shards", "output", "quiet", "verbose", "update_known"),
    *("junit_file", "summary_file", "annotate"),
)
"""Parameters that say where and how much is run here, not what."""


def _distribute(address: str, shards: int | None, path: Path, context: click.Context) -> None:
    """Run all shards on a cluster and write the record that they make together; theirs stay beside it."""
    from conformance.cluster import on_cluster
    from conformance.shards import joined

    given = [word for word in _words(context) if word]
    parts = on_cluster(
        address,
        [*given, "--cases", str(context.params["cases"])],
        shards,
        lambda index, of: path.with_name(f"{path.stem}-shard-{index}-of-{of}.jsonl"),
        lambda text: click.echo(text, err=True),
    )
    whole = joined([read_record(part) for part in parts])
    with RecordWriter(path, whole.header, whole.body):
        pass


def _words(context: click.Context) -> Iterator[str]:
    """The command's arguments as they would be typed again, without what says where it is run."""
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in _HERE or value is None or value is False or value == parameter.get_default(context):
            continue
        values = value if isinstance(value, tuple) else (value,)
        for one in values:
            if isinstance(parameter, click.Option):
                yield parameter.opts[-1]
            if one is not True:
                yield str(Path(one).resolve()) if isinstance(one, Path) else str(one)


def _run(
    rest: Resumption,
    settings: Settings,
    path: Path,
    shown: AbstractContextManager[Progress],
    *,
    deadline: float | None,
) -> bool:
    """Run what is left and write the footer; False when interrupted."""
    with RecordWriter(path, rest.header, rest.lines) as writer:
        try:
            with shown as progress:
                found = run_groups(rest.todo, settings, rest.guarded(writer.write), progress, case_seconds=deadline)
        except KeyboardInterrupt:
            text = f"interrupted: the record holds what was done so far, and says so; go on with --resume {path}"
            click.echo(text, err=True)
            return False
        findings = [*rest.findings, *found]
        writer.write(Footer(finished=now(), trials=sum(f.trials for f in findings), findings=len(findings)))
    return True
