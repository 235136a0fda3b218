"""The command line: run, smoke, faults, list, env, report, schema.

Exit codes: 0 nothing diverges; 1 something diverges; 2 bad usage or input; 3 could not be completed (an
environment or worker broke, an answer is inconclusive, nothing was compared, interrupted).
"""

from __future__ import annotations

import json
import sys
import webbrowser
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import wraps
from itertools import chain, count, product
from multiprocessing import get_context
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits

from conformance import __version__
from conformance.adequacy import adequacy
from conformance.candidate import parse_spec
from conformance.case import Case, asked_of_cases, case_to_json
from conformance.discover import find_adapters, load_faults
from conformance.display import Display, Lines
from conformance.environments import cache_root, list_environments, prune
from conformance.errors import ConformanceError, SpecError
from conformance.examine import Settings, slug
from conformance.faults import CATALOGUE
from conformance.figures import costs, per_case, smallest
from conformance.inputs import read_case
from conformance.plan import Candidate, Group, candidates_for, interpreter_of, plan
from conformance.record import Footer, RecordWriter, read_record, record_schema
from conformance.report.adequacy import print_adequacy, summary
from conformance.report.html import render_html
from conformance.report.outcome import exit_code, headline
from conformance.report.requirements import requirements_document
from conformance.report.text import print_summary
from conformance.requirement import REQUIREMENTS, select_requirements
from conformance.rounding import DTYPES
from conformance.run import Progress, Silent, header
from conformance.run import run as run_groups
from conformance.smoke import smoke as smoke_candidates
from conformance.strategies import GENERIC

EXIT_CODES: Final = """\b
Exit codes:
  0  nothing diverges on a MUST requirement
  1  something does
  2  bad usage or input
  3  could not be completed: something broke, is inconclusive, or nothing was compared
"""

P = ParamSpec("P")
R = TypeVar("R")


def _reported(command: Callable[P, R]) -> Callable[P, R]:
    """Print a ConformanceError as one message and exit with its code."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ConformanceError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)

    return wrapped


adapter_option = click.option(
    "--adapter",
    "adapter_folders",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder of a further adapter (adapter.toml, adapter.py); may be repeated.",
)


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rnn-conformance")
def main() -> None:
    r"""Tell whether two RNN implementations compute the same thing, and if not, what is wrong.

    \b
    A candidate is ADAPTER[:VARIANT][==VERSION|@PATH]:
      mlx                 every default variant, of the MLX installed beside the harness
                          or else of a managed environment with the pinned release
      mlx:none==0.31.1    that variant and release, in a managed environment
      mlx:none@PATH       an interpreter, a virtual environment, a wheel or a checkout
    """
    # The judgement's products are small: several BLAS threads are slower than one, and in the workers' way.
    threadpool_limits(limits=1)
    _reported(load_faults)()


@main.command(epilog=EXIT_CODES)
@click.argument("candidates", nargs=-1)
@click.option("-k", "pattern", metavar="TEXT", help="Only requirements in whose name TEXT begins a word.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Only this dtype; may be repeated.")
@click.option(
    "--examples", default=20, show_default=True, type=click.IntRange(min=0), help="Generated cases per group."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Of the generated cases; failures kept from earlier runs come first, see --forget.",
)
@click.option(
    "--case",
    "case_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run only the case in this file.",
)
@click.option(
    "--output",
    default="reports",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the record, the HTML report and minimal cases.",
)
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For one case.")
@click.option("--wide", is_flag=True, help="Draw long and broad cases, too: T to 512, H to 256, in every dtype.")
@click.option("--forget", is_flag=True, help="Do not replay or keep failures in the example database.")
@click.option("-q", "--quiet", is_flag=True, help="No progress display.")
@adapter_option
@_reported
def run(
    candidates: tuple[str, ...],
    pattern: str | None,
    dtypes: tuple[str, ...],
    examples: int,
    seed: int,
    case_file: Path | None,
    output: Path,
    deadline: float | None,
    wide: bool,
    forget: bool,
    quiet: bool,
    adapter_folders: tuple[Path, ...],
) -> None:
    """Run CANDIDATES (by default all shipped ones) and judge them.

    Environments that are missing are made. Prints a summary, writes a record (JSON lines) and one self-contained
    HTML file, and says where they are.
    """
    adapters = find_adapters(adapter_folders)
    chosen = candidates_for(adapters, [parse_spec(text) for text in candidates])
    only = None if case_file is None else read_case(case_file)
    groups = _groups(chosen, pattern, dtypes, only, explicit=bool(candidates))
    path = _new_record(output)
    settings = Settings(
        examples=examples,
        seed=seed,
        wide=wide,
        only=only,
        database=None if forget else cache_root() / "examples",
        keep=_keeper(path.with_name(f"{path.stem}-cases")),
    )
    console = Console()
    with RecordWriter(path, header(groups, settings, sys.argv[1:])) as writer:
        complete = _run(groups, settings, writer, console, quiet=quiet, deadline=deadline)
    _present(path, console)
    sys.exit(exit_code(read_record(path)) if complete else 3)


def _new_record(folder: Path) -> Path:
    """A record file named after the time, and after a number where two runs begin in one second."""
    stamp = datetime.now(UTC).strftime("run-%Y%m%d-%H%M%S")
    names = chain((stamp,), (f"{stamp}-{number}" for number in count(2)))
    return next(path for name in names if not (path := folder / f"{name}.jsonl").exists())


def _groups(
    chosen: Sequence[Candidate],
    pattern: str | None,
    dtypes: Sequence[str],
    only: Case | None,
    *,
    explicit: bool,
) -> tuple[Group, ...]:
    requirements = select_requirements(pattern)
    if only is not None:
        asked = frozenset(only.features)
        requirements = tuple(
            r
            for r in requirements
            if (r.cell, r.initial, asked) == (only.cell, only.initial, asked_of_cases(r.features))
        )
        dtypes = (only.dtype,)
        if not requirements:
            raise SpecError(
                "no selected requirement is about this case",
                got=f"cell {only.cell}, initial state {only.initial}, -k {pattern}",
                wanted=" | ".join(r.name for r in REQUIREMENTS.values() if r.cell == only.cell),
            )
    groups = plan(chosen, requirements, dtypes)
    if not explicit:  # default candidates that offer nothing of what -k selects were not asked for
        useful = {group.candidate.name for group in groups if group.unsupported is None}
        groups = tuple(group for group in groups if group.candidate.name in useful)
    if not groups:
        raise SpecError("nothing to run: no candidate offers what was selected", got=f"-k {pattern}")
    return groups


def _run(
    groups: Sequence[Group],
    settings: Settings,
    writer: RecordWriter,
    console: Console,
    *,
    quiet: bool,
    deadline: float | None,
) -> bool:
    """Run and write the footer; False when interrupted."""
    try:
        with _display(groups, console, quiet=quiet) as progress:
            findings = run_groups(groups, settings, writer.write, progress, case_seconds=deadline)
    except KeyboardInterrupt:
        click.echo("interrupted: the record holds what was done so far and says that it is incomplete", err=True)
        return False
    trials = sum(finding.trials for finding in findings)
    writer.write(Footer(finished=_now(), trials=trials, findings=len(findings)))
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _display(groups: Sequence[Group], console: Console, *, quiet: bool) -> AbstractContextManager[Progress]:
    if quiet:
        return nullcontext(Silent())
    return Display(groups, console) if console.is_terminal else Lines()


def _keeper(folder: Path) -> Callable[[Group, Case], Path]:
    def keep(group: Group, case: Case) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{slug(group)}.json"
        path.write_text(json.dumps(case_to_json(case), indent=1) + "\n", encoding="utf-8")
        return path

    return keep


def _present(path: Path, console: Console) -> None:
    record = read_record(path)
    html = path.with_suffix(".html")
    try:
        html.write_text(render_html(record), encoding="utf-8")
    except OSError as error:
        raise ConformanceError(
            "cannot write the HTML report",
            where=str(html),
            got=error.strerror or str(error),
            hint=f"the record is complete: rnn-conformance report {path} --html FILE",
        ) from None
    print_summary(record, console)
    console.print(Text(headline(record), style="bold"))
    click.echo(f"record: {path}")
    click.echo(f"report: {html}")


@main.command(epilog=EXIT_CODES)
@click.argument("candidates", nargs=-1)
@adapter_option
@_reported
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
@_reported
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


@main.command(epilog=EXIT_CODES)
@click.option("--cell", "cells", multiple=True, type=click.Choice(tuple(CATALOGUE)), help="Only this cell; repeatable.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Only this dtype; may be repeated.")
@click.option("--brief", is_flag=True, help="Scores only; relations are asked of what they were written for only.")
@_reported
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
@_reported
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


@main.group()
def env() -> None:
    """Managed environments: what there is, and removing it."""


@env.command(name="list")
@_reported
def env_list() -> None:
    """List the managed environments with their packages and sizes."""
    environments = list_environments()
    if not environments:
        click.echo(f"no managed environments in {cache_root()}")
        return
    table = Table("environment", "python", "made", "MB", "requirements")
    table.columns[0].no_wrap = True  # the name is what `env prune` takes
    for e in environments:
        cells = (e.key, e.python, e.created[:10], f"{e.bytes / 1e6:.0f}", ", ".join(e.requirements))
        table.add_row(*map(Text, cells))
    Console().print(table)
    click.echo(f"in {environments[0].path.parent}")


@env.command(name="prune")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove every managed environment.")
@_reported
def env_prune(names: tuple[str, ...], everything: bool) -> None:
    """Remove managed environments by NAME (see `env list`), or all of them."""
    if bool(names) == everything:
        raise SpecError("say what to remove", wanted="either names of environments or --all")
    for removed in prune(None if everything else names):
        click.echo(f"removed {removed.key}")


@main.command(epilog=EXIT_CODES)
@click.argument("record_file", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the HTML here.")
@click.option("--open", "show", is_flag=True, help="Open the HTML in a browser.")
@_reported
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
    print_summary(record, console)
    console.print(Text(headline(record), style="bold"))
    click.echo(f"report: {target}")
    if show:
        webbrowser.open(target.resolve().as_uri())
    sys.exit(exit_code(record))


@main.command()
def schema() -> None:
    """Print the JSON schema of a record's lines."""
    click.echo(json.dumps(record_schema(), indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
