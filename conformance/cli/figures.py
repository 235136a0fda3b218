"""``rnn-conformance faults`` and ``figures``: what the suite would catch, what judging sees and costs."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.adequacy import adequacy
from conformance.candidate import parse_spec
from conformance.cli.root import EXIT_CODES, main, reported
from conformance.discover import find_adapters
from conformance.faults import CATALOGUE
from conformance.figures import costs, per_case, smallest
from conformance.plan import candidates_for, interpreter_of
from conformance.report.adequacy import print_adequacy, summary
from conformance.rounding import DTYPES
from conformance.signature import GENERIC


@main.command(epilog=EXIT_CODES)
@click.option("--cell", "cells", multiple=True, type=click.Choice(tuple(CATALOGUE)), help="Only this cell; repeatable.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Only this dtype; may be repeated.")
@click.option("--brief", is_flag=True, help="Scores only; relations are asked of what they were written for only.")
@reported
def faults(cells: tuple[str, ...], dtypes: tuple[str, ...], brief: bool) -> None:
    """Tell what the suite would catch: every fault planted under every requirement.

    Prints which requirement catches which fault, the score, and the same for replicas of other suites' oracles.
    Exit code 1 when a fault is caught by nothing or gets another one's name, or a requirement catches nothing.
    """
    console = Console()
    asked = list(product(cells or CATALOGUE, dtypes or DTYPES))
    problems: list[str] = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool, console.status("planting faults"):
        running = [pool.submit(adequacy, cell, dtype, complete=not brief) for cell, dtype in asked]
        for (cell, dtype), result in zip(asked, running, strict=True):
            matrix = result.result()
            if brief:
                console.print("\n".join(summary(matrix)), highlight=False)
            else:
                print_adequacy(matrix, console)
            problems += [f"{cell} {dtype}: {problem}" for problem in matrix.problems()]
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    sys.exit(1 if problems else 0)


@main.command(epilog=EXIT_CODES)
@reported
def figures() -> None:
    """Measure what the judgement sees and what it costs: the figures that the README quotes."""
    console = Console()
    table = Table(title=f"faults planted in single generic cases {GENERIC}: a run has several")
    for heading in ("cell, dtype", "planted", "caught", "named uniquely", "named wrongly"):
        table.add_column(heading)
    with console.status("planting faults"):
        for cell, dtype in product(("gru", "lstm"), DTYPES):
            seen = per_case(cell, dtype)
            shares = [f"{n} ({100 * n / seen.planted:.1f} %)" for n in (seen.caught, seen.named)]
            table.add_row(f"{cell} {dtype}", str(seen.planted), *shares, str(seen.wrong))
    console.print(table)
    with console.status("dropping ever smaller biases"):
        table = Table(title="smallest dropped |b_hn| found in 95 % of trials, float32 (B, T, D, H)")
        for heading in ("size", "derived bound", "bound or matched filter", "torch.testing defaults", "1e-2/1e-3"):
            table.add_column(heading)
        for found in smallest():
            numbers = (found.bound, found.spread, found.close, found.loose)
            table.add_row(str(found.shape), *("none tried" if n is None else f"{n:.2g}" for n in numbers))
    console.print(table)
    adapters = find_adapters()
    (candidate,) = candidates_for(adapters, [parse_spec("torch:layer")])
    with console.status("judging and running PyTorch in turns"):
        interpreter = interpreter_of(candidate, lambda text: console.print(Text(text)))
        table = Table(title="judging one float32 GRU case, beside PyTorch's own forward call (medians)")
        for heading in ("size", "alone, us", "stacked, us", "PyTorch, us", "judging / PyTorch"):
            table.add_column(heading)
        for cost in costs(interpreter):
            micro = [f"{1e6 * seconds:.0f}" for seconds in (cost.single, cost.stacked, cost.forward)]
            table.add_row(str(cost.shape), *micro, f"{cost.ratio:.2f}")
    console.print(table)
