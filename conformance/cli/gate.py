"""``rnn-conformance gate``: may we move from this release to that one?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import click

from conformance import gate as gating
from conformance.candidate import Adapter, parse_spec
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
    seed_option,
)
from conformance.cli.root import adapter_option, main, reported
from conformance.discover import find_adapters
from conformance.errors import SpecError
from conformance.plan import Group, candidates_for, plan
from conformance.record import Footer, Line
from conformance.record import Gate as GateLine
from conformance.recordfile import RecordWriter, read_record
from conformance.requirement import Requirement, select_requirements
from conformance.resume import Resumption, is_unmade, resumption
from conformance.run import Progress, header
from conformance.run import run as run_groups
from conformance.settings import Settings

GATE_CODES: Final = """\b
Exit codes:
  0  safe: nothing that decides is worse
  1  regressed, or the list of known divergences does not hold
  2  bad usage or input
  3  could not tell: something broke off, is inconclusive, or nothing was compared;
     or neither safe nor regressed: what was wrong is wrong in another way
"""


@main.command(epilog=GATE_CODES)
@click.argument("candidates", nargs=-1, required=True, metavar="[BEFORE] AFTER")
@click.option(
    "--baseline",
    "baseline_file",
    type=click.Path(path_type=Path),
    metavar="RECORD",
    help="Hold AFTER against this record, accepted earlier, instead of running BEFORE.",
)
@pattern_option
@dtypes_option
@examples_option
@seed_option
@output_option("the record, the HTML report and minimal cases")
@click.option(
    "--resume",
    "resumed",
    type=click.Path(path_type=Path),
    metavar="RECORD",
    help="Go on with the record of an interrupted gate; everything else as it was asked then.",
)
@outputs_options
@known_option
@deadline_option
@progress_options
@adapter_option
@reported
def gate(
    candidates: tuple[str, ...],
    baseline_file: Path | None,
    pattern: str | None,
    dtypes: tuple[str, ...],
    examples: int,
    seed: int,
    output: Path,
    resumed: Path | None,
    junit_file: Path | None,
    summary_file: Path | None,
    annotate: bool | None,
    known_file: str | None,
    deadline: float | None,
    quiet: bool,
    verbose: bool,
    adapter_folders: tuple[Path, ...],
) -> None:
    """Say whether it is safe to move from BEFORE to AFTER, e.g. from mlx==0.31.1 to mlx==0.32.4.

    Both are asked the same questions on the same cases, side by side; every requirement is regressed, fixed, changed,
    unchanged, new, gone or inconclusive. Bits that moved inside the bounds are told apart, and decide nothing.
    """
    adapters = find_adapters(adapter_folders)
    requirements = select_requirements(pattern)
    groups, question = _question(adapters, candidates, baseline_file, requirements, dtypes)
    path = new_record(output, "gate") if resumed is None else resumed
    # No example database: the same cases for every release, whatever an earlier run has kept.
    settings = Settings(examples=examples, seed=seed, keep=keeper(path))
    head = header(groups, settings, sys.argv[1:])
    own: list[Line] = [question, *known_lines(known_file, dtypes)]
    rest = Resumption(header=head, lines=tuple(own), todo=tuple(groups))
    if resumed is not None:
        rest = resumption(read_record(resumed), head, own, groups)
    shown = display(rest.todo, quiet=quiet, verbose=verbose)
    complete = rest.complete or _run(rest, settings, path, shown, deadline=deadline)
    record = read_record(path)
    present(record, path, junit_file=junit_file, summary_file=summary_file, annotate=annotate)
    if any(is_unmade(finding) for finding in record.findings):
        text = f"once the missing environment can be made, go on with the same command and --resume {path}"
        click.echo(text, err=True)
    sys.exit(gating.outcome(record).exit_code if complete else 3)


def _question(
    adapters: dict[str, Adapter],
    specs: Sequence[str],
    baseline_file: Path | None,
    requirements: Sequence[Requirement],
    dtypes: Sequence[str],
) -> tuple[tuple[Group, ...], GateLine]:
    """The groups to run, and what they are to answer."""
    wanted = 1 if baseline_file is not None else 2
    if len(specs) != wanted:
        raise SpecError(
            "a gate has two sides",
            got=" ".join(specs) + (f" and the baseline {baseline_file}" if baseline_file is not None else ""),
            wanted="BEFORE AFTER, or --baseline RECORD AFTER",
        )
    sides = [_offering(adapters, text, requirements, dtypes) for text in specs]
    names = [tuple(dict.fromkeys(group.candidate.name for group in side)) for side in sides]
    if baseline_file is None:
        pairs = gating.paired(*names)
        return sides[0] + sides[1], GateLine(before=specs[0], after=specs[1], pairs=pairs)
    asked = {group.requirement.name for group in sides[0]}
    held = gating.baseline(
        read_record(baseline_file),
        names[0],
        source=baseline_file.name,
        requested=specs[0],
        asked=asked,
        dtypes=dtypes,
    )
    return sides[0], held


def _offering(
    adapters: dict[str, Adapter], text: str, requirements: Sequence[Requirement], dtypes: Sequence[str]
) -> tuple[Group, ...]:
    """The groups of one side, without variants that offer nothing of what was selected."""
    groups = plan(candidates_for(adapters, [parse_spec(text)]), requirements, dtypes)
    useful = {group.candidate.name for group in groups if group.unsupported is None}
    if not useful:
        raise SpecError("nothing to run: the candidate offers nothing of what was selected", got=text)
    return tuple(group for group in groups if group.candidate.name in useful)


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
            click.echo(f"interrupted: go on with --resume {path}", err=True)
            return False
        findings = [*rest.findings, *found]
        writer.write(Footer(finished=now(), trials=sum(f.trials for f in findings), findings=len(findings)))
    return True
