"""The adequacy matrix for the terminal: fault by requirement and oracle, and the scores below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.adequacy import Adequacy

MARKS: Final[Mapping[str, str]] = {
    "named": "named",
    "caught": "caught",
    "misnamed": "MISNAMED",
    "missed": "missed",
    "hidden": "-",
}


def print_adequacy(result: Adequacy, console: Console) -> None:
    """Print one matrix and its scores."""
    requirements = list(dict.fromkeys(name for row in result.catches.values() for name in row))
    table = Table(title=f"{result.cell}, {result.dtype}: which requirement catches which planted fault")
    for heading in ("fault", *requirements, *result.oracles):
        table.add_column(heading, overflow="fold")
    for fault, row in result.catches.items():
        marks = [MARKS[row[name]] for name in requirements]
        theirs = [_theirs(result, oracle, fault) for oracle in result.oracles]
        table.add_row(Text(fault), *map(Text, (*marks, *theirs)))
    console.print(table)
    total = len(result.catches)
    wrong = sum("misnamed" in row.values() for row in result.catches.values())
    console.print(
        f"this suite catches {len(result.caught)} of {total}, names {len(result.named)} uniquely, {wrong} wrongly;"
        f" false alarms on {result.conforming} conforming runs: {result.false_alarms['derived bound']}"
    )
    for oracle, found in result.oracles.items():
        void = "; void: it rejects a correct implementation as well" if oracle in result.void else ""
        alarms = f"; false alarms: {result.false_alarms[oracle]}" if oracle in result.false_alarms else ""
        console.print(f"replica of '{oracle}': catches {len(found)} of {total}, names none{void}{alarms}")
    console.print("-: cannot show with that spelling of the initial state; replicas: see `conformance/adequacy.py`\n")


def _theirs(result: Adequacy, oracle: str, fault: str) -> str:
    if oracle in result.void:
        return "void"
    return "caught" if fault in result.oracles[oracle] else "missed"
