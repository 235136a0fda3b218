"""Every form in which a record is told, each a pure function of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final, Literal, get_args

from rich.console import Console
from rich.text import Text

from conformance.errors import RecordError
from conformance.gate import outcome
from conformance.record import Record
from conformance.report import badge, table
from conformance.report.annotations import run_commands, workflow_commands
from conformance.report.answer import answer
from conformance.report.gate import gate_text, print_gate
from conformance.report.html import render_html
from conformance.report.junit import junit, junit_of_run
from conformance.report.rows import FindingRow, Row
from conformance.report.speed import is_benchmark
from conformance.report.summary import markdown, run_markdown
from conformance.report.text import print_known, print_summary

Format = Literal["text", "html", "markdown", "junit", "github", "badge", "shields", "csv", "json", "parquet"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SUFFIXES: Final[dict[Format, str]] = {
    "text": ".txt",
    "html": ".html",
    "markdown": ".md",
    "junit": ".xml",
    "github": ".github.txt",
    "badge": ".svg",
    "shields": ".shields.json",
    "csv": ".csv",
    "json": ".json",
    "parquet": ".parquet",
}
_OF_BENCHMARKS: Final[tuple[Format, ...]] = ("text", "html")
_WIDTH: Final = 100


def print_record(record: Record, console: Console) -> None:
    """The summary and the answer, on a terminal."""
    if record.gate is not None:
        print_gate(gate_text(record, outcome(record)), console)
        return
    print_summary(record, console)
    sentence = answer(record).sentence.encode(console.encoding, "backslashreplace").decode(console.encoding)
    console.print(Text(sentence, style="bold"))
    print_known(record, console)


def rendered(record: Record, form: Format, rows: type[Row] = FindingRow) -> bytes:
    """A record in some form. rows: those of a table.

    Raises
    ------
    RecordError: the form does not know of benchmarks, and the record is one.
    ConformanceError: a library that the form needs is not installed.
    """
    if is_benchmark(record) and form not in _OF_BENCHMARKS:
        raise RecordError(
            "a benchmark's record has no findings to tell in this form",
            where=record.path,
            got=f"--format {form}",
            wanted=" | ".join(_OF_BENCHMARKS),
        )
    if form == "parquet":
        return table.parquet_bytes(record, rows)
    texts: dict[Format, Callable[[], str]] = {
        "text": lambda: _text(record),
        "html": lambda: render_html(record),
        "markdown": lambda: f"{step_summary(record)}\n",
        "junit": lambda: junit_of_run(record) if record.gate is None else junit(outcome(record)),
        "github": lambda: workflow_lines(record),
        "badge": lambda: badge.svg(record),
        "shields": lambda: badge.shields(record),
        "csv": lambda: table.csv_text(record, rows),
        "json": lambda: table.json_text(record, rows),
    }
    return texts[form]().encode()


def step_summary(record: Record) -> str:
    """Markdown for the summary of a workflow's step."""
    return run_markdown(record) if record.gate is None else markdown(gate_text(record, outcome(record)))


def workflow_lines(record: Record) -> str:
    """Workflow commands of GitHub Actions."""
    return run_commands(record) if record.gate is None else workflow_commands(gate_text(record, outcome(record)))


def _text(record: Record) -> str:
    stream = io.StringIO()
    print_record(record, Console(file=stream, width=_WIDTH, color_system=None, force_terminal=False))
    return stream.getvalue()
