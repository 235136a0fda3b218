"""What a page marks, draws and gives away: differing terms, maps of shares, texts to take away."""

from __future__ import annotations

import ast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import MLX, NONE, Draft

from conformance.case import case_from_json
from conformance.faults import CATALOGUE
from conformance.record import Finding
from conformance.report.heat import heat_map
from conformance.report.issue import Told, code, example_line, fenced, issue_text
from conformance.report.terms import differing
from conformance.report.wording import LIMIT
from conformance.verdict import ShareMap


def test_the_missing_term_is_marked() -> None:
    """Only the formula's term is marked, not what is said after it."""
    fault = CATALOGUE["gru"]["drop_rbhn_t0"]
    pieces = differing(fault.right, fault.equation)
    assert [piece for piece, differs in pieces if differs] == ["+ r * (W_hn h + b_hn))"]
    assert "".join(piece for piece, _ in pieces) == fault.right


@pytest.mark.parametrize("cell", list(CATALOGUE))
def test_every_named_difference_is_marked_somewhere(cell: str) -> None:
    """No fault of the catalogue stands beside the right equation without a mark, and no text is lost."""
    told = [(fault.right, fault.equation) for fault in CATALOGUE[cell].values() if fault.right != fault.equation]
    assert told
    for right, wrong in told:
        own, other = differing(right, wrong), differing(wrong, right)
        assert any(differs for _, differs in (*own, *other)), (right, wrong)
        assert ("".join(p for p, _ in own), "".join(p for p, _ in other)) == (right, wrong)


@given(st.text(max_size=60), st.text(max_size=60))
def test_pieces_joined_are_the_text(text: str, other: str) -> None:
    """Whatever the two texts are; and a text does not differ from itself."""
    assert "".join(piece for piece, _ in differing(text, other)) == text
    assert not any(differs for _, differs in differing(text, text))


def test_a_map_has_a_square_per_entry_and_the_numbers_behind_it() -> None:
    """Levels and digits follow the share; spans are told where an entry stands for several steps."""
    found = heat_map(ShareMap(steps=2, units=1, shares=((0.5, 1.0), (1.5, 20.0), (4e4, 3e7), (None, 1e300))))
    assert found is not None
    assert [s.level for s in found.squares] == [
        *("inside", "inside", "low", "middle", "high", "highest", "lost", "lost"),
    ]
    assert [s.digit for s in found.squares] == ["", "", "0", "1", "4", "7", "\N{INFINITY}", "\N{INFINITY}"]
    assert found.said == "6 of 8 places lie outside their bound"
    assert [step for step, _ in found.rows] == ["0 to 1", "2 to 3", "4 to 5", "6 to 7"]
    assert found.rows[1][1] == ("1.5", "20")


@pytest.mark.parametrize("shares", [(), ((),), ((1.0,), (1.0, 2.0))], ids=["none", "empty", "ragged"])
def test_a_map_that_is_none_is_not_drawn(shares: tuple[tuple[float, ...], ...]) -> None:
    """A record may hold anything of the right types."""
    assert heat_map(ShareMap(steps=1, units=1, shares=shares)) is None


def the_finding() -> Finding:
    draft = Draft()
    return draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")


def test_an_example_is_a_literal_of_the_case() -> None:
    """The case comes back to the last bit, and a text beside it cannot become code."""
    example = the_finding().example
    assert example is not None
    evil = {**example.case, "origin": "'); raise SystemExit(7)  # \n\u2028"}
    line = example_line(msgspec.structs.replace(example, case=evil), "a\nb")
    assert "\n" not in line
    call = ast.parse(line.removeprefix("@"), mode="eval").body
    assert isinstance(call, ast.Call)
    inner = call.keywords[0].value
    assert isinstance(inner, ast.Call)
    assert case_from_json(ast.literal_eval(inner.args[0])).digest == case_from_json(evil).digest


def test_a_case_that_is_too_long_or_deep_makes_no_example() -> None:
    """Nothing is cut into a literal that is none."""
    example = the_finding().example
    assert example is not None
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert example_line(msgspec.structs.replace(example, case={"x": deep}), "") == ""
    assert example_line(msgspec.structs.replace(example, case={"x": "1" * LIMIT}), "") == ""


@pytest.mark.parametrize("text", ["plain", "``` fence", "a\n````\nb", "`", ""])
def test_a_fence_holds_whatever_it_holds(text: str) -> None:
    """The closing fence is the first line of as many backticks as the opening one."""
    lines = fenced(text, "python").split("\n")
    fence = lines[0].removesuffix("python")
    assert set(fence) == {"`"}
    assert [n for n, line in enumerate(lines) if line.startswith(fence) and n] == [len(lines) - 1]
    assert "\n".join(lines[1:-1]) == text


def test_hostile_text_stays_text_in_an_issue() -> None:
    """No tag, mention, link or heading of a record's text is left bare outside code."""
    evil = "<img src=x> @everyone [a](http://example.invalid) #1\n# heading `code`"
    told = Told(
        **dict.fromkeys(("candidate", "version", "requirement", "dtype", "statement"), evil),
        **dict.fromkeys(("fault", "wrong", "equation", "right", "place", "figures"), evil),
        paths=(evil,),
        facts=((evil, evil),),
        largest=1.0,
    )
    text = issue_text(told, None)
    outside, fence = [], ""
    for line in text.split("\n"):
        if line.startswith("```"):
            fence = "" if fence else line
        elif not fence:
            outside.append(line)
    assert len(outside) > 8
    for line in outside:
        bare = line
        for span in (code(evil), code(f"{evil}: {evil}")):
            bare = bare.replace(span, "")
        bare = bare.removeprefix("# ")
        for sign in "<>@[]#":
            assert all(bare[n - 1] == "\\" for n, c in enumerate(bare) if c == sign), line
