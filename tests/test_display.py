"""Progress: rows on a terminal, lines elsewhere, and markup in names is text."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from conformance.display import Display, Lines
from conformance.examine import Settings
from conformance.plan import Candidate, plan
from conformance.record import Finding, Incident
from conformance.requirement import REQUIREMENTS
from conformance.run import run
from conformance.verdict import Unsupported

MiniatureOf = Callable[[str], Candidate]
NONE = (REQUIREMENTS["gru_hidden_none"],)


def test_a_terminal_shows_a_row_per_candidate_and_its_progress(miniature: MiniatureOf) -> None:
    """Every candidate has a row that ends with all of its groups done."""
    stream = io.StringIO()
    groups = plan([miniature("good"), miniature("crash")], NONE)
    with Display(groups, Console(file=stream, force_terminal=True, width=120)) as display:
        run(groups, Settings(examples=3, seed=0), lambda _: None, display)
    text = stream.getvalue()
    for words in ("wrong:good", "wrong:crash", "gru_hidden_none", "1/1", "SIGABRT"):
        assert words in text


def test_elsewhere_findings_and_incidents_are_lines(miniature: MiniatureOf, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard error has one line per finding and incident; standard output stays free."""
    groups = plan([miniature("good"), miniature("crash"), miniature("no_b_hn")], NONE)
    with Lines() as lines:
        run(groups, Settings(examples=3, seed=0), lambda _: None, lines)
    out, err = capsys.readouterr()
    assert out == ""
    assert "wrong:good: gru_hidden_none float32: agrees (9 trials)" in err
    assert "wrong:no_b_hn: gru_hidden_none float32: unrepresentable (b_hn = 0: agrees) (9 trials)" in err
    assert "wrong:crash: the worker died during the case with exit code -6 (SIGABRT)" in err


def test_what_is_declared_out_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A finding without a trial is no progress."""
    out = Unsupported(what="lengths", owner="never", reason="no such argument")
    with Lines() as lines:
        lines.finding(
            Finding(candidate="a:x", requirement="gru_lengths", dtype="any", verdict=out, trials=0, seconds=0.0)
        )
    assert capsys.readouterr().err == ""


def test_markup_in_a_name_is_text(miniature: MiniatureOf) -> None:
    """A candidate called like a style does not style the terminal."""
    stream = io.StringIO()
    candidate = miniature("good")
    odd = replace(
        candidate, variant=replace(candidate.variant, name="good"), spec=replace(candidate.spec, variant="[red]")
    )
    groups = plan([odd], NONE)
    with Display(groups, Console(file=stream, force_terminal=True, width=120)) as display:
        display.stage(odd.name, "[bold]stage")
        display.incident(Incident(candidate=odd.name, what="[blink]gone"))
    text = stream.getvalue()
    for words in ("wrong:[red]", "[bold]stage", "[blink]gone"):
        assert words in text
