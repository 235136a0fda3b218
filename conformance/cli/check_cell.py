"""``rnn-conformance check-cell``: a user's own cell, judged and told what is wrong with it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from msgspec.structs import replace

from conformance.case import Case, Evaluation
from conformance.cli.recording import keeper, new_record, now, written
from conformance.cli.root import EXIT_CODES, main, reported
from conformance.inputs import read_case
from conformance.own_cell import (
    CELLS,
    UPDATES,
    Kind,
    OwnCell,
    OwnCellError,
    Probe,
    Reading,
    Understood,
    Update,
    chosen,
    group_of,
    last_line,
    own_cell,
    square_case,
)
from conformance.plan import Candidate, Group
from conformance.record import CandidateLine, Finding, Footer, Line, Record
from conformance.recordfile import RecordWriter, read_record
from conformance.report.formats import rendered
from conformance.report.lesson import Lesson, equations, told
from conformance.report.outcome import exit_code
from conformance.requirement import REQUIREMENTS
from conformance.run import Silent, header
from conformance.run import run as run_groups
from conformance.settings import Settings
from conformance.verdict import Agrees, Broken, Diverges

CASES = 8


@main.command("check-cell", epilog=EXIT_CODES)
@click.argument("what", metavar="FILE.py:NAME")
@click.option(
    "--cell", type=click.Choice(CELLS), help="The equations that it is meant to compute (or CELL in the file)."
)
@click.option(
    "--update",
    type=click.Choice(UPDATES),
    help="What z does: keep the state, (1-z)*n + z*h, or mix the candidate in, (1-z)*h + z*n (or UPDATE in the file).",
)
@click.option(
    "--as", "kind", type=click.Choice(("cell", "layer")), help="One step, or whole sequences; tried if not said."
)
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Interpreter or virtual environment with the framework; by default the environment of the shipped adapter.",
)
@click.option("--examples", default=CASES, show_default=True, type=click.IntRange(min=0), help="Generated cases.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the generated cases.")
@click.option(
    "--case", "case_file", type=click.Path(path_type=Path), metavar="FILE", help="Only the case in this file."
)
@click.option(
    "--deadline", default=60.0, type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For one case."
)
@click.option(
    "--output",
    default="reports",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the record, the HTML report and minimal cases.",
)
@reported
def check_cell(
    what: str,
    cell: str | None,
    update: Update | None,
    kind: Kind | None,
    python: Path | None,
    examples: int,
    seed: int,
    case_file: Path | None,
    deadline: float,
    output: Path,
) -> None:
    """Judge the cell, layer or function NAME of FILE.py (Flax, PyTorch, MLX, JAX, NumPy) and name its mistake.

    The file is run in the framework's environment. See docs/check-cell.md.
    """
    own = own_cell(what, python=python, kind=kind or "", cell=cell or "", seconds=deadline)
    with Probe(own) as probe:
        it = probe.understood()
        cells, updates, said = _meant(it, cell, update)
        if it.fresh:
            readings = [
                Reading(cell=(cells or ("gru",))[0], update=updates[0], found=Broken(kind="contract", message=""))
            ]
            steady = True
        else:
            readings = probe.readings(it, cells, updates)
            steady = probe.steady(it, readings[0].cell)
        reading = chosen(readings)
        candidate = own.candidate(reading.update, it)
        only = None if case_file is None else read_case(case_file)
        if it.transposed and only is None and not it.fresh:
            only = square_case(reading, it, group_of(candidate, REQUIREMENTS[f"{reading.cell}_hidden_given"]).zeroed)
        groups = _groups(candidate, reading, it, only)
        path = new_record(output, "check-cell")
        settings = Settings(examples=examples, seed=seed, only=only, keep=keeper(path))
        base = _command(what, reading, kind, python)
        understood = _facts(reading, it)

        def emit(line: Line) -> None:
            writer.write(_own_line(line, base, understood))

        with RecordWriter(path, header(groups, settings, sys.argv[1:])) as writer:
            workers = {candidate.name: probe.host}
            run_groups(groups, settings, emit, Silent(), case_seconds=deadline, workers=workers)
            record_so_far = read_record(path)
            trials = sum(f.trials for f in record_so_far.findings)
            writer.write(Footer(finished=now(), trials=trials, findings=len(record_so_far.findings)))
    record = read_record(path)
    lesson = _lesson(own, it, reading, readings, said, record, steady=steady)
    lesson = replace(lesson, again=_again(record, base))
    for line in told(lesson):
        click.echo(line)
    click.echo(f"record: {path}")
    page = path.with_suffix(".html")
    written(page, rendered(record, "html"), "the HTML report")
    click.echo(f"report: {page}")
    sys.exit(exit_code(record))


def _meant(it: Understood, cell: str | None, update: Update | None) -> tuple[tuple[str, ...], tuple[Update, ...], bool]:
    """The cells and conventions to try, and whether the user said which."""
    for name, value, known in (("CELL", it.cell, CELLS), ("UPDATE", it.update, UPDATES)):
        if value and value not in known:
            raise OwnCellError(f"{name} in the file is unknown", got=repr(value), wanted=" | ".join(known))
    wanted = cell or it.cell
    cells = (wanted,) if wanted else tuple(it.recipes)
    conventions = tuple(u for u in UPDATES if u == (update or it.update or u))
    missing = [c for c in cells if c not in it.recipes]
    if not it.fresh and (missing or not cells):
        problems = list(dict.fromkeys(it.problems.get(c, "another kind of cell") for c in missing or it.problems))
        leaves = ", ".join(f"{name} {shape}" for name, shape in it.leaves.items())
        raise OwnCellError(
            f"cannot tell how the weights of {wanted or 'any known cell'} get into the arrays of {it.name}",
            where="; ".join(problems),
            got=f"{leaves} (where D = 3 and H = 5)",
            wanted="names that tell the gates (W_r, W_z, W_h; reset, update, candidate; i, f, g, o) and fitting shapes",
            hint='write WEIGHTS = {"leaf": "(W_xr | W_hr).T", ...} in the file, see docs/check-cell.md',
        )
    return cells, conventions, bool(wanted) and (len(conventions) == 1 or not wanted.startswith("gru"))


def _groups(candidate: Candidate, reading: Reading, it: Understood, only: Case | None) -> tuple[Group, ...]:
    """What is asked: agreement for every spelling of the state, and that the weights are used."""
    suffixes = {"given": "hidden_given", "zeros": "hidden_zeros", "omitted": "hidden_none"}
    names = [f"{reading.cell}_{suffixes[initial]}" for initial in candidate.variant.paths]
    if only is not None:
        names = [name for name in names if REQUIREMENTS[name].initial == only.initial]
    if it.fresh:
        names = []
    asked = [REQUIREMENTS[name] for name in names]
    if only is None or it.fresh:
        used = REQUIREMENTS[f"{reading.cell}_weights_used"]
        # A layer that takes no state is asked from the one that it takes by itself.
        asked.append(used if it.stateful else replace(used, initial="omitted"))
    return tuple(group_of(candidate, requirement) for requirement in asked)


def _command(what: str, reading: Reading, kind: str | None, python: Path | None) -> str:
    words = ["rnn-conformance", "check-cell", what, "--cell", reading.cell]
    if reading.cell.startswith("gru"):
        words += ["--update", reading.update]
    words += ["--as", kind] if kind else []
    words += ["--python", str(python)] if python else []
    return shlex.join(words)


def _facts(reading: Reading, it: Understood) -> dict[str, str]:
    """What a page has to say of a user's object beside its findings: the equations, the call, where weights got in."""
    recipes = it.recipes.get(reading.cell, {})
    return {
        "judged by": "; ".join(equations(reading.cell, _evaluation(reading))),
        "called as": it.call,
        "weights": "; ".join(f"{name} = {text}" for name, text in recipes.items()),
    }


def _evaluation(reading: Reading) -> Evaluation:
    return "complement" if reading.update == "mix" else "sequential"


def _own_line(line: Line, base: str, facts: dict[str, str]) -> Line:
    """The line with the command of this module in place of that of ``run``, and with how the object was understood."""
    if isinstance(line, CandidateLine):
        return replace(line, facts={**line.facts, **facts})
    if not isinstance(line, Finding) or line.example is None:
        return line
    _, found, case = line.example.command.partition(" --case ")
    return replace(line, example=replace(line.example, command=f"{base}{found}{case}"))


def _again(record: Record, base: str) -> str:
    return next((f.example.command for f in record.findings if f.example is not None), base)


def _lesson(
    own: OwnCell,
    it: Understood,
    reading: Reading,
    readings: Sequence[Reading],
    said: bool,
    record: Record,
    *,
    steady: bool,
) -> Lesson:
    recipes = it.recipes.get(reading.cell, {})
    trace = next((f.verdict.stderr_tail for f in record.findings if isinstance(f.verdict, Broken)), "")
    remarks = []
    if not steady:
        remarks.append("The same call gave other numbers the second time: dropout, noise, or weights drawn anew?")
    return Lesson(
        subject=f"{own.name} in {own.file.name}",
        cell=reading.cell,
        evaluation=_evaluation(reading),
        said=said,
        call=it.call,
        mapping=[(name, str(it.leaves[name]), text) for name, text in recipes.items()],
        findings=record.findings,
        others=[] if it.fresh else _others(reading, readings),
        remarks=remarks,
        user_line=last_line(trace, own.file),
    )


def _others(reading: Reading, readings: Sequence[Reading]) -> list[str]:
    """What other equations would make of it, where they are met or a fault is named."""
    found = []
    for other in readings:
        if (other.cell, other.update) == (reading.cell, reading.update):
            continue
        option = f"--cell {other.cell}" + (f" --update {other.update}" if other.cell.startswith("gru") else "")
        if isinstance(other.found, Agrees):
            found.append(f"{option}: it agrees with these")
        elif isinstance(other.found, Diverges) and 1 <= len(other.faults) <= 2:
            found.append(f"{option}: {' or '.join(other.faults)}")
    return found
