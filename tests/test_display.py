"""Progress: rows on a terminal, lines elsewhere, and markup in names is text."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from rich.console import Console

from conformance.display import Display, Lines
from conformance.plan import Candidate, plan
from conformance.record import Finding, Incident
from conformance.requirement import REQUIREMENTS
from conformance.run import run
from conformance.settings import Settings
from conformance.verdict import Agrees, Broken, Unrepresentable, Unsupported, Verdict

MiniatureOf = Callable[[str], Candidate]
AGREES = Agrees(excluded=frozenset({"skip_t0"}), share=0.4, compared=100)
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


@pytest.mark.parametrize("verbose", [False, True])
def test_elsewhere_what_is_not_fine_is_a_line(
    miniature: MiniatureOf, capsys: pytest.CaptureFixture[str], *, verbose: bool
) -> None:
    """Standard error tells breakage, and that a candidate is done; agreement only where everything is asked for."""
    groups = plan([miniature("good"), miniature("crash"), miniature("no_b_hn")], NONE)
    with Lines(groups, verbose=verbose) as lines:
        run(groups, Settings(examples=3, seed=0), lambda _: None, lines)
    out, err = capsys.readouterr()
    assert out == ""
    assert "wrong:crash: the worker died during the case with exit code -6 (SIGABRT)" in err
    assert "wrong:crash: gru_hidden_none float32: broken" in err
    assert "(3 of 3 checks of all candidates: 1 broken, 1 unrepresentable, 1 agrees)" in err
    told = [
        "wrong:good: gru_hidden_none float32 begins",
        "wrong:good: gru_hidden_none float32: agrees (9 trials)",
        "wrong:no_b_hn: gru_hidden_none float32: unrepresentable (b_hn = 0: agrees) (9 trials)",
    ]
    assert [text in err for text in told] == [verbose] * 3


def found(verdict: Verdict) -> Finding:
    return Finding(candidate="a:x", requirement="gru_lengths", dtype="any", verdict=verdict, trials=0, seconds=0.0)


@pytest.mark.parametrize("verbose", [False, True])
def test_what_is_declared_out_is_no_line(capsys: pytest.CaptureFixture[str], *, verbose: bool) -> None:
    """A finding without a trial is no progress."""
    with Lines((), verbose=verbose) as lines:
        lines.finding(found(Unsupported(what="lengths", owner="never", reason="no such argument")))
    assert capsys.readouterr().err == ""


def test_a_subspace_that_diverges_is_not_fine(capsys: pytest.CaptureFixture[str]) -> None:
    """What has no place for a parameter may be wrong beside that."""
    inner = Broken(kind="crash", message="gone")
    with Lines(()) as lines:
        lines.finding(found(Unrepresentable(parameters=("b",), owner="never", reason="none", link="", subspace=inner)))
    assert "gru_lengths any: unrepresentable (b = 0: broken)" in capsys.readouterr().err


def test_a_message_tells_the_terminal_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither escape sequences nor line breaks of a framework's message get through, on lines and in rows."""
    evil = Incident(candidate="a:x", what="\x1b]0;title\x07\x1b[2J\n::error::no\u202e")
    with Lines(()) as lines:
        lines.incident(evil)
    err = capsys.readouterr().err
    stream = io.StringIO()
    with Display((), Console(file=stream, force_terminal=True, width=120, color_system=None)) as display:
        display.incident(evil)
    for text in (err, stream.getvalue()):
        assert "\\x1b]0;title\\x07\\x1b[2J\\n::error::no\\u202e" in text
        assert "\x1b]0" not in text
    assert err.count("\n") == 1


def test_rows_tell_what_was_found_so_far(miniature: MiniatureOf) -> None:
    """The row of all candidates counts what is done, what is left, and outcomes, worst first."""
    stream = io.StringIO()
    groups = plan([miniature("good"), miniature("crash")], NONE)
    with Display(groups, Console(file=stream, force_terminal=True, width=120)) as display:
        for group, verdict in zip(groups, (Broken(kind="crash", message="gone"), AGREES), strict=True):
            display.finding(
                Finding(
                    candidate=group.candidate.name,
                    requirement=group.requirement.name,
                    dtype=group.dtype,
                    verdict=verdict,
                    trials=1,
                    seconds=0.0,
                )
            )
    assert "found so far: 1 broken, 1 agrees" in stream.getvalue()
    assert "2/2" in stream.getvalue()


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
