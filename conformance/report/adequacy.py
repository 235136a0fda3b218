"""The adequacy matrix for the terminal: what was planted by requirement and oracle, and the scores below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.adequacy import Adequacy

MARKS: Final[Mapping[str, str]] = {"named": "N", "caught": "c", "misnamed": "W", "missed": ".", "hidden": ""}
LEGEND: Final = (
    "N caught and named uniquely; c caught; W caught under another name; . not caught; blank: cannot show there,"
    " or not asked; void: the replica rejects a correct implementation as well"
)


def print_adequacy(result: Adequacy, console: Console) -> None:
    """Print one matrix, its legend and its scores."""
    requirements = list(dict.fromkeys(name for row in result.catches.values() for name in row))
    short = [name.removeprefix(f"{result.cell}_") for name in requirements]
    for number, name in enumerate(short, start=1):
        caught = sum(row[requirements[number - 1]] in ("named", "caught") for row in result.catches.values())
        console.print(f"{number:>3} {name}: catches {caught}", highlight=False)
    letters = [chr(ord("A") + index) for index in range(len(result.oracles))]
    for letter, oracle in zip(letters, result.oracles, strict=True):
        console.print(f"{letter:>3} replica of '{oracle}'", highlight=False)
    table = Table(title=f"{result.cell}, {result.dtype}: what catches what is planted", padding=(0, 0, 0, 1))
    table.add_column("planted", no_wrap=True)
    for heading in (*map(str, range(1, len(short) + 1)), *letters):
        table.add_column(heading, justify="right")
    for fault, row in result.catches.items():
        marks = [MARKS[row[name]] for name in requirements]
        theirs = [_theirs(result, oracle, fault) for oracle in result.oracles]
        table.add_row(Text(fault), *map(Text, (*marks, *theirs)))
    console.print(table)
    console.print(LEGEND, highlight=False)
    for line in summary(result):
        console.print(line, highlight=False)


def summary(result: Adequacy) -> tuple[str, ...]:
    """The scores of one matrix, a sentence each."""
    shown = [fault for fault, row in result.catches.items() if set(row.values()) != {"hidden"}]
    nameable = [fault for fault in shown if fault in result.nameable]
    wrong = sum("misnamed" in row.values() for row in result.catches.values())
    lines = [
        f"{result.cell} {result.dtype}: caught {len(result.caught)} of {len(shown)}; named uniquely"
        f" {len(result.named.intersection(nameable))} of the {len(nameable)} that have a hypothesis, wrongly {wrong};"
        f" false alarms on {result.conforming} conforming runs: {result.false_alarms['derived bound']}"
    ]
    faults = sum(kind == "fault" for kind in result.kinds.values())
    for oracle, found in result.oracles.items():
        void = "; void: it rejects a correct implementation as well" if oracle in result.void else ""
        alarms = f"; false alarms: {result.false_alarms[oracle]}" if oracle in result.false_alarms else ""
        lines.append(f"replica of '{oracle}': catches {len(found)} of {faults} faults, names none{void}{alarms}")
    return tuple(lines)


def _theirs(result: Adequacy, oracle: str, fault: str) -> str:
    if result.kinds[fault] != "fault":
        return ""
    if oracle in result.void:
        return "void"
    return "c" if fault in result.oracles[oracle] else "."
