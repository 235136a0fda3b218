"""``rnn-conformance report``: a record, rendered."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from conformance.cli.root import EXIT_CODES, main, reported
from conformance.errors import ConformanceError
from conformance.gate import outcome
from conformance.record import read_record
from conformance.report.gate import gate_text, print_gate
from conformance.report.html import render_html
from conformance.report.outcome import exit_code, headline
from conformance.report.text import print_known, print_summary


@main.command(epilog=EXIT_CODES)
@click.argument("record_file", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the HTML here.")
@click.option("--open", "show", is_flag=True, help="Open the HTML in a browser.")
@reported
def report(record_file: Path, html: Path | None, show: bool) -> None:
    """Render a record: a summary here, and one self-contained HTML file (beside it by default)."""
    record = read_record(record_file)
    target = html if html is not None else record_file.with_suffix(".html")
    try:
        target.write_text(render_html(record), encoding="utf-8")
    except OSError as error:
        raise ConformanceError(
            "cannot write the HTML report", where=str(target), got=error.strerror or str(error)
        ) from None
    console = Console()
    if record.gate is None:
        print_summary(record, console)
        console.print(Text(headline(record), style="bold"))
        print_known(record, console)
        code = exit_code(record)
    else:
        gated = outcome(record)
        print_gate(gate_text(record, gated), console)
        code = gated.exit_code
    click.echo(f"report: {target}")
    if show:
        webbrowser.open(target.resolve().as_uri())
    sys.exit(code)
