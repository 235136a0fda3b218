"""``rnn-conformance report``: a record, or several as one, in any form."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from conformance.cli.recording import in_workflow, unread, written
from conformance.cli.root import EXIT_CODES, main, reported
from conformance.errors import SpecError
from conformance.merge import file_names, merge, write_record
from conformance.record import Record
from conformance.recordfile import read_record
from conformance.report.answer import answer
from conformance.report.formats import FORMATS, SUFFIXES, Format, print_record, rendered
from conformance.report.rows import FindingRow, Row, TrialRow

_ROWS: Final[dict[str, type[Row]]] = {"findings": FindingRow, "trials": TrialRow}


@main.command(epilog=EXIT_CODES)
@click.argument("record_files", nargs=-1, required=True, metavar="RECORD...", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "forms",
    multiple=True,
    type=click.Choice(FORMATS),
    help="May be repeated. [default: text here, and html beside the record]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write the format into this file instead of here; a folder, where there are several formats.",
)
@click.option(
    "--rows",
    type=click.Choice(tuple(_ROWS)),
    default="findings",
    show_default=True,
    help="What csv, json and parquet hold.",
)
@click.option("--apart", is_flag=True, help="Several records: show them apart, each candidate with its file's name.")
@click.option(
    "--merged",
    "merged_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Several records: write them as one record.",
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the HTML here.")
@click.option("--open", "show", is_flag=True, help="Open the HTML in a browser.")
@reported
def report(
    record_files: tuple[Path, ...],
    forms: tuple[Format, ...],
    output: Path | None,
    rows: str,
    apart: bool,
    merged_file: Path | None,
    html: Path | None,
    show: bool,
) -> None:
    """Tell what RECORD says, in any format; several records, of several machines, as one.

    Records are merged where they were asked the same (version, seed, examples, selection) and share no candidate. A
    record may come from anybody: nothing in it is executed, and every format escapes what it holds.
    """
    forms = tuple(dict.fromkeys(forms))
    _check_options(record_files, forms, output, html, merged_file, apart=apart, show=show)
    record = _read(record_files, merged_file, apart=apart)
    if merged_file is not None:
        write_record(merged_file, record)
    page = html if html is not None else _page(record_files, merged_file, forms)
    if page is not None:
        written(page, rendered(record, "html").decode(), "the HTML report")
    if not forms:
        _print(record)
    _write(record, forms, output, _ROWS[rows], stem=(merged_file or record_files[0]).stem)
    if merged_file is not None:
        click.echo(f"record: {merged_file}", err=bool(forms))
    if page is not None:
        click.echo(f"report: {page}", err=bool(forms))
        if show:
            webbrowser.open(page.resolve().as_uri())
    sys.exit(answer(record).exit_code)


def _check_options(
    files: Sequence[Path],
    forms: Sequence[Format],
    output: Path | None,
    html: Path | None,
    merged_file: Path | None,
    *,
    apart: bool,
    show: bool,
) -> None:
    """Options that would be ignored are refused."""
    several = {"--apart": apart, "--merged": merged_file is not None}
    lost = [name for name, given in several.items() if given and len(files) < 2]
    if lost:
        raise SpecError("an option is for several records", got=", ".join(lost), wanted="report A.jsonl B.jsonl ...")
    if output is not None and not forms:
        raise SpecError("--output needs a format", wanted=f"--format {' | '.join(FORMATS)}")
    if len(forms) > 1 and output is None:
        raise SpecError("several formats need a folder", got=f"{len(forms)} formats", wanted="--output FOLDER")
    if "parquet" in forms and output is None:
        raise SpecError("Parquet is not for a terminal", wanted="--output FILE")
    if show and html is None and (forms or (len(files) > 1 and merged_file is None)):
        raise SpecError("there is no HTML file to open", wanted="--html FILE --open")
    if merged_file is not None and merged_file.resolve() in {path.resolve() for path in files}:
        raise SpecError("--merged would overwrite one of the records", got=str(merged_file))


def _read(files: Sequence[Path], merged_file: Path | None, *, apart: bool) -> Record:
    names = file_names(files)
    if len(files) == 1:
        return read_record(files[0])
    records = {name: read_record(path) for name, path in zip(names, files, strict=True)}
    return merge(records, name="" if merged_file is None else merged_file.name, apart=apart)


def _page(files: Sequence[Path], merged_file: Path | None, forms: Sequence[Format]) -> Path | None:
    """Where the HTML goes unless something else was asked for: beside the record, if there is one file of it."""
    if forms or (len(files) > 1 and merged_file is None):
        return None
    return (merged_file or files[0]).with_suffix(".html")


def _write(record: Record, forms: Sequence[Format], output: Path | None, rows: type[Row], *, stem: str) -> None:
    told = [(form, rendered(record, form, rows)) for form in forms if form != "text" or output is not None]
    if output is None:
        if "text" in forms:
            _print(record)
        for _, data in told:
            click.echo(data, nl=False)
        return
    for form, data in told:
        target = output / f"{stem}{SUFFIXES[form]}" if len(forms) > 1 else output
        written(target, data, f"the report ({form})")
        click.echo(f"{form}: {target}")


def _print(record: Record) -> None:
    with unread() if in_workflow() else nullcontext():
        print_record(record, Console())
