"""What commands that write a record share: their options, its name, progress, minimal cases, what they leave behind.

What draws on terminals and pages is imported when there is something to show: answers begin without it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from conformance.case import Case
from conformance.errors import ConformanceError, RecordError, SpecError
from conformance.plan import Group, slug
from conformance.record import Record
from conformance.rounding import DTYPES
from conformance.run import Progress, Silent

if TYPE_CHECKING:
    from conformance.kept import Failure

F = TypeVar("F", bound=Callable[..., object])

pattern_option: Final = click.option(
    "-k", "pattern", metavar="TEXT", help="Only requirements in whose name TEXT begins a word."
)
dtypes_option: Final = click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Only this dtype; may be repeated."
)
examples_option: Final = click.option(
    "--examples", default=20, show_default=True, type=click.IntRange(min=0), help="Generated cases per group."
)
seed_option: Final = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the generated cases."
)
deadline_option: Final = click.option(
    "--deadline", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For one case."
)
quiet_option: Final = click.option("-q", "--quiet", is_flag=True, help="No progress display.")
_OUTPUTS: Final = (
    click.option(
        "--junit", "junit_file", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit XML here."
    ),
    click.option(
        "--summary",
        "summary_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write a Markdown summary here; $GITHUB_STEP_SUMMARY, where it is set, gets it in any case.",
    ),
    click.option(
        "--annotate/--no-annotate",
        default=None,
        help="Print GitHub annotations [default: where $GITHUB_ACTIONS is true]",
    ),
)
_PROGRESS: Final = (
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
    click.option(
        "-v", "--verbose", is_flag=True, help="A line for everything that begins and ends, also on a terminal."
    ),
)


def output_option(what: str) -> Callable[[F], F]:
    """The folder into which a command writes."""
    return click.option(
        "--output",
        default="reports",
        show_default=True,
        type=click.Path(path_type=Path, file_okay=False),
        help=f"Folder for {what}.",
    )


def outputs_options(command: F) -> F:
    """What a run writes for CI."""
    for option in reversed(_OUTPUTS):
        command = option(command)
    return command


def progress_options(command: F) -> F:
    """How much a run tells while it goes on."""
    for option in reversed(_PROGRESS):
        command = option(command)
    return command


def new_record(folder: Path, command: str) -> Path:
    """A record file of this command alone, named after it and the time, and after a number where two begin at once."""
    stamp = datetime.now(UTC).strftime(f"{command}-%Y%m%d-%H%M%S")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in chain((stamp,), (f"{stamp}-{number}" for number in count(2))):
            path = folder / f"{name}.jsonl"
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                if not path.exists():
                    raise
            else:
                return path
    except OSError as error:
        raise RecordError(
            "cannot write the record",
            where=str(folder),
            got=error.strerror or str(error),
            hint="choose another folder with --output",
        ) from None
    raise AssertionError("numbers do not end")


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def display(groups: Sequence[Group], *, quiet: bool, verbose: bool = False) -> AbstractContextManager[Progress]:
    """How progress is shown: rows on a terminal, elsewhere only what is not fine, unless all of it is asked for."""
    if quiet and verbose:
        raise SpecError("nothing and everything cannot both be told", got="--quiet --verbose")
    if quiet:
        return nullcontext(Silent())
    from rich.console import Console

    from conformance.display import Display, Lines

    console = Console()
    return Display(groups, console) if console.is_terminal and not verbose else Lines(groups, verbose=verbose)


def keeper(record: Path) -> Callable[[Group, Case, Failure], Path]:
    """Writes minimal cases, with what they showed, into a folder beside the record."""
    folder = record.with_name(f"{record.stem}-cases")

    def keep(group: Group, case: Case, failure: Failure) -> Path:
        from conformance.kept import write_kept

        return write_kept(folder / f"{slug(group)}.json", case, failure)

    return keep


def written(path: Path, content: str | bytes, what: str, *, append: bool = False) -> None:
    """Write a report; a ConformanceError says what could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if append else "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ConformanceError(f"cannot write {what}", where=str(path), got=error.strerror or str(error)) from None


def present(
    record: Record,
    path: Path,
    *,
    junit_file: Path | None = None,
    summary_file: Path | None = None,
    annotate: bool | None = False,
    summarise: bool = True,
) -> None:
    """Write all reports of the record at `path`, and print its summary and where they are.

    annotate: print GitHub annotations; None: in a workflow. summarise: append to the summary of a workflow's step.
    """
    from rich.console import Console

    from conformance.report.formats import print_record, rendered, step_summary, workflow_lines

    html = path.with_suffix(".html")
    try:
        written(html, rendered(record, "html"), "the HTML report")
    except ConformanceError as error:
        error.hint = f"the record is complete: rnn-conformance report {path} --html FILE"
        raise
    if junit_file is not None:
        written(junit_file, rendered(record, "junit"), "the JUnit report")
    if summary_file is not None:
        written(summary_file, rendered(record, "markdown"), "the summary")
    if summarise and (step := os.environ.get("GITHUB_STEP_SUMMARY")):
        written(Path(step), f"{step_summary(record)}\n", "the step summary", append=True)
    wanted = annotate or (annotate is None and in_workflow())
    with unread() if wanted else nullcontext():
        print_record(record, Console())
        click.echo(f"record: {path}")
        click.echo(f"report: {html}")
    if wanted:
        click.echo(workflow_lines(record), nl=False)


def in_workflow() -> bool:
    """Whether standard output is read by GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


@contextmanager
def unread() -> Iterator[None]:
    """Lines in which a workflow reads no commands, whatever a framework has called its exception."""
    token = secrets.token_hex(16)
    click.echo(f"::stop-commands::{token}")
    try:
        yield
    finally:
        click.echo(f"::{token}::")
