"""``rnn-conformance list``, ``smoke`` and ``schema``: what there is, and whether it is healthy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.candidate import parse_spec
from conformance.cli.root import EXIT_CODES, adapter_option, main, reported
from conformance.discover import find_adapters
from conformance.faults import CATALOGUE
from conformance.plan import candidates_for
from conformance.record import record_schema
from conformance.report.requirements import requirements_document
from conformance.requirement import REQUIREMENTS
from conformance.smoke import smoke as smoke_candidates


@main.command(epilog=EXIT_CODES)
@click.argument("candidates", nargs=-1)
@adapter_option
@reported
def smoke(candidates: tuple[str, ...], adapter_folders: tuple[Path, ...]) -> None:
    """Tell whether the adapters themselves are healthy, before any number is judged.

    Every candidate must start, answer in the right names, shapes and dtypes, attest the declared path, and return
    zeros when all weights and states are zero. Exit code 0: healthy; 3: not.
    """
    adapters = find_adapters(adapter_folders)
    chosen = candidates_for(adapters, [parse_spec(text) for text in candidates])
    table = Table("candidate", "checked", "problem")
    healthy = True
    for row in smoke_candidates(chosen, progress=lambda text: click.echo(text, err=True)):
        healthy = healthy and not row.problem
        table.add_row(Text(row.candidate), Text(row.checked), Text(row.problem or "none"))
    Console().print(table)
    sys.exit(0 if healthy else 3)


@main.command(name="list")
@click.argument("what", type=click.Choice(["adapters", "variants", "requirements", "faults"]))
@click.option("--markdown", is_flag=True, help="Requirements only: the document of all of them, see docs/.")
@adapter_option
@reported
def list_(what: str, markdown: bool, adapter_folders: tuple[Path, ...]) -> None:
    """List adapters, variants, requirements or faults."""
    if markdown:
        click.echo(requirements_document(), nl=False)
        return
    match what:
        case "adapters":
            table = Table("adapter", "what it is", "managed environment", "folder")
            for adapter in find_adapters(adapter_folders).values():
                cells = (adapter.name, adapter.title, ", ".join(adapter.requirements), str(adapter.folder))
                table.add_row(*map(Text, cells))
        case "variants":
            table = Table("candidate", "default", "what runs", "cells", "dtypes", "initial state", "cannot represent")
            for adapter in find_adapters(adapter_folders).values():
                for variant in adapter.variants.values():
                    missing = "; ".join(f"{cell}: {', '.join(names)}" for cell, (names, _) in variant.missing.items())
                    table.add_row(
                        f"{adapter.name}:{variant.name}",
                        "yes" if variant.default else "no",
                        Text(variant.title),
                        ", ".join(variant.cells),
                        ", ".join(variant.dtypes),
                        ", ".join(variant.paths),
                        Text(missing),
                    )
        case "requirements":
            table = Table("requirement", "level", "statement", "must rule out", "source")
            for r in REQUIREMENTS.values():
                table.add_row(*map(Text, (r.name, r.level, r.statement, ", ".join(r.aims), r.source)))
        case _:
            table = Table("cell", "fault", "what is wrong", "wrong equation")
            for cell, faults in CATALOGUE.items():
                for fault in faults.values():
                    table.add_row(*map(Text, (cell, fault.name, fault.statement, fault.equation)))
    Console().print(table)


@main.command()
def schema() -> None:
    """Print the JSON schema of a record's lines."""
    click.echo(json.dumps(record_schema(), indent=1, sort_keys=True))
