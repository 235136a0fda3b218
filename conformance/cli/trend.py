"""``rnn-conformance trend``: every release of a range against requirements, as a table and a picture."""

from __future__ import annotations

import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from conformance import __version__
from conformance.archive import verdicts_folder
from conformance.cli.history import EPILOG, Subject, options, subject
from conformance.cli.recording import now, written
from conformance.cli.root import adapter_option, main, reported
from conformance.errors import ConformanceError
from conformance.report.affected import trend_headline
from conformance.report.trend import explained, legend, render_trend, trend_table
from conformance.run import header
from conformance.trend import Matrix, Mistake, Row


@main.command(epilog=EPILOG)
@click.argument("candidate")
@click.option("--versions", "span", required=True, metavar="FIRST..LAST", help="The releases; both ends count.")
@click.option(
    "--output",
    default="reports",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the HTML report.",
)
@options
@adapter_option
@reported
def trend(candidate: str, span: str, output: Path, **chosen: Any) -> None:
    """Judge every release of CANDIDATE (ADAPTER[:VARIANT]) in a range, and show the answers beside each other.

    What was judged before, by `bisect` too, is remembered. Prints a table and writes one self-contained HTML file.
    """
    asked = subject(candidate, span, **chosen)
    began = time.monotonic()
    found = {version: asked.ask(version) for version in asked.listing.versions}
    settings = asked.archive.settings
    matrix = Matrix(
        candidate=candidate,
        distribution=asked.groups[0].candidate.adapter.distribution,
        versions=asked.listing.versions,
        rows=tuple(
            Row(variant=q[0], requirement=q[1], dtype=q[2], states={version: found[version][q] for version in found})
            for q in asked.questions
        ),
        left_out=asked.listing.left_out,
        origin={
            "finished": now(),
            "command": shlex.join(["rnn-conformance", *sys.argv[1:]]),
            "rnn-conformance": __version__,
            "seed": str(settings.seed),
            "generated cases": str(settings.examples),
        },
        framework=asked.groups[0].candidate.adapter.title,
        mistakes=_mistakes(asked),
    )
    path = output / datetime.now(UTC).strftime("trend-%Y%m%d-%H%M%S.html")
    try:
        written(path, render_trend(matrix), "the HTML report")
    except ConformanceError as error:
        error.hint = "choose another folder with --output; the verdicts are kept"
        raise
    console = Console()
    console.print(trend_table(matrix))
    for line in legend(matrix):
        console.print(Text(line))
    for version, why in explained(matrix).items():
        console.print(Text(f"{version}: {why}"))
    console.print(Text(trend_headline(matrix), style="bold"))
    archive = asked.archive
    click.echo(
        f"{archive.made} environments made, {archive.judged} releases judged, in {time.monotonic() - began:.1f} s; "
        f"verdicts are kept in {verdicts_folder()}"
    )
    click.echo(f"report: {path}")
    sys.exit(0 if matrix.answered else 3)


def _mistakes(asked: Subject) -> dict[tuple[str, str], Mistake]:
    """What findings on the questions may name, as the variants under test would be told."""
    head = header(asked.groups, asked.archive.settings, ())
    return {
        (entry.name, fault.name): Mistake(statement=fault.statement, right=fault.right, equation=fault.equation)
        for entry in head.requirements
        for fault in head.faults[entry.cell]
    }
