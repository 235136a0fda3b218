"""``rnn-conformance replay``: kept failures, tried again."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from conformance.candidate import Adapter
from conformance.cli.root import adapter_option, main, reported
from conformance.discover import find_adapters
from conformance.environments import cache_root
from conformance.errors import SpecError
from conformance.kept import Kept, case_files, kept_in, read_kept
from conformance.recordfile import read_record
from conformance.replay import Replayed, distinct, exit_code, remembered
from conformance.replay import replay as replay_kept

EPILOG: Final = """\b
Exit codes:
  0  every failure is fixed
  1  one still fails, or has changed into another
  2  bad usage or input
  3  one could not be tried, or there was nothing to try
"""


@main.command(epilog=EPILOG)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--output",
    default="reports",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder in which runs have kept their minimal cases, when no FILES are named.",
)
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For one case.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@adapter_option
@reported
def replay(
    files: tuple[Path, ...], output: Path, deadline: float | None, quiet: bool, adapter_folders: tuple[Path, ...]
) -> None:
    """Try kept failures again: those of FILES (case files, records, folders of cases), or all that runs have kept.

    Answers FIXED, STILL FAILS, CHANGED (another fault or size) or ERROR for each.
    """

    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    adapters = find_adapters(adapter_folders)
    kept = distinct(_named(files) if files else _all(output, adapters))
    if not kept:
        where = ", ".join(map(str, files)) or str(output)
        raise SpecError(
            "no kept failures", where=where, wanted="case files or records of runs in which something diverged"
        )
    results = replay_kept(kept, adapters, told=say, case_seconds=deadline)
    for result in results:
        click.echo(_line(result))
    counts = Counter(result.answer for result in results)
    click.echo(", ".join(f"{count} {answer}" for answer, count in counts.items()))
    sys.exit(exit_code(results))


def _all(output: Path, adapters: Mapping[str, Adapter]) -> list[Kept]:
    """Case files of runs, and what the example database remembers."""
    return [*map(read_kept, case_files([output])), *remembered(cache_root() / "examples", adapters)]


def _named(files: Sequence[Path]) -> list[Kept]:
    kept: list[Kept] = []
    for path in files:
        if path.is_dir():
            kept += map(read_kept, sorted(path.glob("*.json")) or case_files([path]))
        elif path.suffix == ".jsonl":
            kept += kept_in(read_record(path))
        else:
            kept.append(read_kept(path))
    return kept


def _line(result: Replayed) -> str:
    failure = result.kept.failure
    if failure is None:
        return f"{result.answer}: {result.kept.source}: {result.detail}"
    releases = f"{failure.version or 'unknown'} then, {result.version or 'not run'} now"
    return f"{result.answer}: {failure.candidate} {failure.requirement} {failure.dtype} ({releases}): {result.detail}"
