"""``rnn-conformance bench``: sides that take turns, and what scanning a cell costs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from msgspec.structs import replace
from rich.console import Console
from rich.text import Text

from conformance import __version__
from conformance.bench import Limits
from conformance.candidate import parse_spec
from conformance.case import Shape
from conformance.cells import CELLS
from conformance.cli.recording import new_record, now, output_option, present, quiet_option
from conformance.cli.root import adapter_option, main, reported
from conformance.comparisons import TABLE, Comparison
from conformance.contest import CAP, SCAN_SHAPE, SCAN_SIDES, SCAN_TIMES, Workers, at, compare, scan
from conformance.discover import find_adapters
from conformance.errors import SpecError
from conformance.floor import Floor
from conformance.plan import Candidate, candidates_for, plan
from conformance.record import FORMAT, BenchLine, Footer, Header, ScanLine
from conformance.recordfile import RecordWriter, read_record
from conformance.report.outcome import exit_code
from conformance.requirement import REQUIREMENTS
from conformance.rounding import DTYPES
from conformance.run import header
from conformance.settings import Settings
from conformance.startup import handwritten
from conformance.upkeep import ROUNDS, Bench, measure
from conformance.worker.names import Level

EXIT_CODES = """\b
Exit codes:
  0  everything was measured, or says that it cannot be here
  1  a side computes something else than the reference
  2  bad usage or input
  3  a side broke or took another path, nothing was measured, or it was interrupted
"""
SCAN = "scan"
HARNESS = "harness"
HARNESS_SIDES = ("torch:layer", "mlx:none", "mlx:zeros", "flax-linen:rnn", "flax-nnx:rnn")
HARNESS_ASKS = "gru_hidden_zeros"
BUDGET = 12.0
SCAN_BUDGET = 12.0

Step = Callable[[Workers], BenchLine | ScanLine]


@main.command(epilog=EXIT_CODES)
@click.argument("candidates", nargs=-1)
@click.option("--cell", type=click.Choice(tuple(CELLS)), help="[default: gru]")
@click.option(
    "--level", type=click.Choice(("layer", "cell")), help="A layer, or its steps one by one. [default: layer]"
)
@click.option("--shape", metavar="BxTxDxH", help="Batch, steps, inputs, units. [default: 32x40x200x200]")
@click.option("--dtype", type=click.Choice(DTYPES), help="[default: float32]")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help=f"For the rounds of one comparison. [default: {BUDGET:g}; scan: {SCAN_BUDGET:g} for each T]",
)
@click.option("--rounds", type=click.IntRange(min=1), help="So many rounds, unless the budget is used up before.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the order of the sides.")
@click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Of a side's libraries, where they can be told (XLA has a pool of its own).",
)
@click.option("--no-control", is_flag=True, help="Do not run the baseline a second time.")
@click.option("--steps", "times", multiple=True, type=click.IntRange(min=1), help="scan: this T; may be repeated.")
@click.option("--cap", default=CAP, show_default=True, type=click.IntRange(min=1), help="scan: the longest unrolled T.")
@output_option("the record and the HTML report")
@quiet_option
@adapter_option
@reported
def bench(
    candidates: tuple[str, ...],
    cell: str | None,
    level: Level | None,
    shape: str | None,
    dtype: str | None,
    budget: float | None,
    rounds: int | None,
    seed: int,
    threads: int,
    no_control: bool,
    times: tuple[int, ...],
    cap: int,
    output: Path,
    quiet: bool,
    adapter_folders: tuple[Path, ...],
) -> None:
    r"""Compare the speed of CANDIDATES, the first of which is the baseline; by default those of a table.

    \b
      bench                                  the table: MLX's implementations, PyTorch and JAX beside them
      bench mlx:legacy mlx:fast --cell lstm  two of them on one shape
      bench scan [CANDIDATES]                trace and compile time, program size and run time against T
      bench harness [CANDIDATES]             what a campaign costs beside the frameworks alone, and a check by hand

    Every side is judged before it is timed. All take turns, each evaluated to the last number; the ratio to the
    baseline comes with an interval of 95 %, beside what the baseline differs by from itself.
    """
    adapters = find_adapters(adapter_folders)
    if candidates[:1] == (HARNESS,):
        lost = {"--cell": cell, "--level": level, "--shape": shape, "--dtype": dtype, "--budget": budget}
        others = ["--steps"] * bool(times) + ["--threads"] * (threads > 1)
        refuse_options([name for name, value in lost.items() if value is not None] + others)
        chosen = candidates_for(adapters, [parse_spec(text) for text in candidates[1:] or HARNESS_SIDES])
        sys.exit(measure_harness(chosen, output, seed=seed, rounds=rounds, quiet=quiet))
    scanning = candidates[:1] == (SCAN,)
    given = candidates[1:] if scanning else candidates
    _check_options(scanning, given, {"--cell": cell, "--level": level, "--shape": shape, "--dtype": dtype}, times)
    default = SCAN_SIDES if scanning else tuple(dict.fromkeys(side for one in TABLE for side in one.sides))
    chosen = candidates_for(adapters, [parse_spec(text) for text in given or default])
    names = tuple(candidate.name for candidate in chosen)
    steps: list[Step]
    if scanning:
        limits = Limits(budget=budget or SCAN_BUDGET, rounds=rounds, seed=seed)
        sizes = SCAN_SHAPE if shape is None else parse_shape(shape)
        steps = [_scan_step(names, at(sizes, time), limits, cell or "gru", cap) for time in times or SCAN_TIMES]
    else:
        limits = Limits(budget=budget or BUDGET, rounds=rounds, seed=seed)
        table = (
            TABLE if not given else (_comparison(names, cell or "gru", level or "layer", shape, dtype or "float32"),)
        )
        steps = [_compare_step(comparison, limits, control=not no_control) for comparison in table]
    _check_offers(chosen, cell or "gru", dtype or "float32", explicit=bool(given) or scanning)
    path = new_record(output, "bench")
    console = Console()
    header = Header(
        format=FORMAT,
        harness=__version__,
        started=now(),
        seed=seed,
        examples=0,
        arguments=tuple(sys.argv[1:]),
        candidates=names,
        requirements=(),
        faults={},
    )
    with RecordWriter(path, header) as writer:
        complete = _run(steps, chosen, writer, console, threads=threads, quiet=quiet)
    record = read_record(path)
    present(record, path, summarise=False)
    sys.exit(exit_code(record) if complete else 3)


def _check_options(scanning: bool, given: Sequence[str], options: dict[str, str | None], times: Sequence[int]) -> None:
    """Options that would be ignored are refused."""
    if scanning:
        lost = [name for name in ("--level", "--dtype") if options[name] is not None]
    else:
        lost = [] if given else [name for name, value in options.items() if value is not None]
        lost += ["--steps"] * bool(times)
    refuse_options(lost)


def refuse_options(lost: Sequence[str]) -> None:
    """Raise SpecError for options that would be ignored."""
    if lost:
        raise SpecError(
            "an option does not go with this benchmark",
            got=", ".join(lost),
            wanted="the default table has cells, levels and shapes of its own; --steps is for `bench scan`",
            hint="name candidates: rnn-conformance bench mlx:legacy mlx:fast --cell lstm",
        )


def _check_offers(chosen: Sequence[Candidate], cell: str, dtype: str, *, explicit: bool) -> None:
    for candidate in chosen if explicit else ():
        variant = candidate.variant
        if cell not in variant.cells or dtype not in variant.dtypes or "given" not in variant.paths:
            raise SpecError(
                "a candidate does not offer what is to be timed",
                where=candidate.name,
                got=f"cell {cell} in {dtype}, initial state given",
                wanted=f"cells {', '.join(variant.cells)}; {', '.join(variant.dtypes)}; {', '.join(variant.paths)}",
            )


def parse_shape(text: str) -> Shape:
    """``32x40x200x200`` as batch, steps, inputs, units."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})x([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text, re.ASCII)
    if match is None:
        raise SpecError("cannot read the shape", got=repr(text), wanted="BxTxDxH, e.g. 32x40x200x200")
    batch, time, features, hidden = map(int, match.groups())
    return Shape(batch=batch, time=time, features=features, hidden=hidden)


def _comparison(names: tuple[str, ...], cell: str, level: Level, shape: str | None, dtype: str) -> Comparison:
    sizes = parse_shape(shape or "32x40x200x200")
    return Comparison(
        name=f"{level}-{cell}-{sizes.batch}x{sizes.time}x{sizes.features}x{sizes.hidden}",
        title=f"{cell.upper()}, {level} level",
        level=level,
        cell=cell,
        shape=sizes,
        sides=names,
        dtype=dtype,
    )


def _compare_step(comparison: Comparison, limits: Limits, *, control: bool) -> Step:
    return lambda workers: compare(comparison, workers, limits, control=control)


def _scan_step(names: tuple[str, ...], shape: Shape, limits: Limits, cell: str, cap: int) -> Step:
    return lambda workers: scan(names, shape, workers, limits, cell=cell, cap=cap)


def _run(
    steps: Sequence[Step],
    chosen: Sequence[Candidate],
    writer: RecordWriter,
    console: Console,
    *,
    threads: int,
    quiet: bool,
) -> bool:
    """Make all comparisons and write the footer; False when interrupted."""
    status = console.status("") if console.is_terminal and not quiet else None
    display: AbstractContextManager[object] = nullcontext() if status is None else status

    def progress(text: str) -> None:
        if status is not None:
            status.update(Text(text))
        elif not quiet:
            click.echo(text, err=True)

    try:
        with display, Workers({c.name: c for c in chosen}, writer.write, progress, threads=threads) as workers:
            for step in steps:
                writer.write(step(workers))
    except KeyboardInterrupt:
        click.echo("interrupted: the record holds what was done so far and says that it is incomplete", err=True)
        return False
    writer.write(Footer(finished=now(), trials=0, findings=0))
    return True


def measure_harness(chosen: Sequence[Candidate], output: Path, *, seed: int, rounds: int | None, quiet: bool) -> int:
    """`bench harness`: the exit code."""
    groups = plan(chosen, [REQUIREMENTS[HARNESS_ASKS]], ("float32",))
    for group in groups:
        if group.unsupported is not None:
            raise SpecError(
                "a candidate does not offer what is to be timed", where=group.candidate.name, got=HARNESS_ASKS
            )
    path = new_record(output, "harness")
    head = replace(
        header(groups, Settings(examples=0, seed=seed), sys.argv[1:]), requirements=(), faults={}, cases=0, drawn_by=""
    )
    progress = (lambda _: None) if quiet else (lambda text: click.echo(text, err=True))
    complete = False
    with TemporaryDirectory(prefix="rnn-conformance-") as scratch, RecordWriter(path, head) as writer:
        try:
            with (
                handwritten(progress) as hand,
                Floor(hand.interpreter, Path(scratch), hand.left_out) as floor,
                Bench(groups, writer.write, Path(scratch), seed) as bench,
            ):
                writer.write(measure(bench, hand, floor, rounds=rounds or ROUNDS, progress=progress))
            writer.write(Footer(finished=now(), trials=0, findings=0))
            complete = True
        except KeyboardInterrupt:
            click.echo("interrupted: the record says that it is incomplete", err=True)
    if not complete:
        return 3
    record = read_record(path)
    present(record, path, summarise=False)
    return exit_code(record)
