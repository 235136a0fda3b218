"""``rnn-conformance bisect``: the release at which an answer changed."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from conformance.archive import Question, verdicts_folder
from conformance.bisect import PROBES, History, State, search
from conformance.cli.history import EPILOG, Subject, options, spelled, subject
from conformance.cli.root import adapter_option, main, reported
from conformance.report.history import reasons, told, tried, warnings


@main.command(epilog=EPILOG)
@click.argument("candidate")
@click.argument("span", metavar="FIRST..LAST")
@click.option(
    "--probes",
    default=PROBES,
    show_default=True,
    type=click.IntRange(min=0),
    help="Releases to try beyond what the search needs: a search alone cannot see that something changes back.",
)
@click.option("--scan", is_flag=True, help="Try every release; nothing is inferred.")
@options
@adapter_option
@reported
def bisect(candidate: str, span: str, probes: int, scan: bool, **chosen: Any) -> None:
    """Find the releases of CANDIDATE (ADAPTER[:VARIANT]) between which answers change, from FIRST to LAST.

    Each release is judged in an environment of its own, as few as possible; what was judged before is remembered.
    Releases that cannot be had or do not work are passed over and named.
    """
    asked = subject(candidate, span, **chosen)
    began = time.monotonic()
    histories = _histories(asked, probes=probes, scan=scan)
    _present(asked, histories, time.monotonic() - began)
    told_all = all(any(run.state.kind == "answer" for run in history.runs) for history in histories.values())
    sys.exit(0 if told_all else 3)


def _histories(asked: Subject, *, probes: int, scan: bool) -> dict[Question, History]:
    """The history of each question. A release that is tried is tried for all of them."""
    states: dict[str, dict[Question, State]] = {}
    histories: dict[Question, History] = {}
    for question in asked.questions:

        def ask(version: str, question: Question = question) -> State:
            if version not in states:
                states[version] = asked.ask(version)
            return states[version][question]

        known = {version: found[question] for version, found in states.items()}
        histories[question] = search(asked.listing.versions, ask, known=known, probes=probes, scan=scan)
    return histories


def _present(asked: Subject, histories: dict[Question, History], seconds: float) -> None:
    alike: dict[tuple[str, ...], list[Question]] = {}
    for question, history in histories.items():
        lines = (told(history) + "; " + tried(history), *warnings(history))
        alike.setdefault(lines, []).append(question)
    for (sentence, *notes), questions in alike.items():
        click.echo(f"{spelled(questions)}: {sentence}")
        for note in notes:
            click.echo(f"  note: {note}")
    for version, why in reasons(histories.values()).items():
        click.echo(f"  {version}: {why}")
    archive = asked.archive
    click.echo(
        f"{archive.made} environments made, {archive.judged} releases judged, in {seconds:.1f} s; "
        f"verdicts are kept in {verdicts_folder()}"
    )
