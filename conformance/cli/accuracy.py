"""``rnn-conformance accuracy``: what the ways of computing a minGRU or minLSTM lose with the length of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, assert_never

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.accuracy import CELLS, DTYPES, TIMES, Measured, Outcome, Row, Undefined
from conformance.accuracy import accuracy as measure
from conformance.candidate import parse_spec
from conformance.cli.root import EXIT_CODES, adapter_option, main, reported
from conformance.discover import find_adapters
from conformance.errors import SpecError
from conformance.plan import candidates_for

USUAL: Final = (
    "numpy:float32", "numpy:float64", "numpy:scan", "numpy:switching", "numpy:log-scan", "jax:sequential", "jax:scan",
    "jax:log-scan", "torch:min", "torch:min-scan", "torch:min-log-scan", "mingru-pytorch:module",
)  # fmt: skip


@main.command(epilog=EXIT_CODES)
@click.argument("candidates", nargs=-1)
@click.option("--cell", type=click.Choice(CELLS), default=CELLS[0], show_default=True)
@click.option("--time", "times", multiple=True, type=click.IntRange(min=1), help="A length T; may be repeated.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Only this dtype.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the rows as JSON lines, too.")
@adapter_option
@reported
def accuracy(
    candidates: tuple[str, ...],
    cell: str,
    times: tuple[int, ...],
    dtypes: tuple[str, ...],
    output: Path | None,
    adapter_folders: tuple[Path, ...],
) -> None:
    """Measure sequential, scanned, log-space and closed-form evaluation against exact states, by length.

    In each cell of the table: the largest relative error of a state in units of the dtype's roundoff, and in brackets
    the share of the bound by which the variant is judged. Without CANDIDATES: NumPy, JAX, PyTorch and minGRU-pytorch.
    """
    chosen = candidates_for(find_adapters(adapter_folders), [parse_spec(text) for text in candidates or USUAL])
    asked = sorted(set(times)) or list(TIMES)
    console = Console()
    rows = list(
        measure(chosen, cell, times=asked, dtypes=dtypes or DTYPES, progress=lambda text: click.echo(text, err=True))
    )
    for dtype in dict.fromkeys(row.dtype for row in rows):
        console.print(_table([row for row in rows if (row.dtype, row.state) == (dtype, "positive")], asked))
    console.print(_negative([row for row in rows if row.state == "negative"]))
    if output is not None:
        try:
            output.write_bytes(msgspec.json.Encoder().encode_lines(rows))
        except OSError as error:
            raise SpecError("cannot write the rows", where=str(output), got=error.strerror or str(error)) from None


def _table(rows: Sequence[Row], times: Sequence[int]) -> Table:
    first = rows[0]
    table = Table(title=f"{first.cell}, {first.dtype}: largest relative error in units of u (share of the bound)")
    for heading in ("candidate", "evaluation", *(f"T = {time}" for time in times)):
        table.add_column(heading, overflow="fold")
    for name in dict.fromkeys(row.candidate for row in rows):
        own = [row for row in rows if row.candidate == name]
        table.add_row(Text(name), own[0].evaluation, *(Text(_told(row.outcome)) for row in own))
    return table


def _negative(rows: Sequence[Row]) -> Table:
    table = Table(title=f"the same from a negative initial state, T = {rows[0].time}")
    for heading in ("candidate", "evaluation", "dtype", "outcome"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(Text(row.candidate), row.evaluation, row.dtype, Text(_told(row.outcome)))
    return table


def _told(outcome: Outcome) -> str:
    match outcome:
        case Measured():
            error = f"{outcome.error:.2f}" if outcome.error < 100 else f"{outcome.error:,.0f}"
            return f"{error} ({outcome.share:.2f})"
        case Undefined():
            return f"undefined: {outcome.what}"
        case _:
            assert_never(outcome)
