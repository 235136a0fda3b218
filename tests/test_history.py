"""Histories and matrices in words and as a page: what was tried, what is inferred, nothing by colour alone."""

from __future__ import annotations

import html
import re

import pytest
from msgspec.structs import replace

from conformance.bisect import History, State, search
from conformance.report.affected import affected, could_not, spans, trend_headline, trend_outcome
from conformance.report.history import reasons, told, tried, warnings
from conformance.report.html import part
from conformance.report.trend import explained, legend, marks, render_trend
from conformance.trend import Matrix, Mistake, Row

STATES = {
    "a": State(kind="answer", label="agrees", detail="largest share of the bound 0.4"),
    "d": State(
        kind="answer", label="diverges (drop_rbhn_t0)", detail="largest difference 0.1", faults=("drop_rbhn_t0",)
    ),
    "e": State(kind="answer", label="diverges (other)", faults=("other",)),
    "x": State(kind="failure", label="breaks", detail="RuntimeError: <b>no</b>\nmore"),
    "-": State(kind="unavailable", label="unavailable", detail="No such release"),
}


LEFT_OUT = {"2.0": "yanked: <script>alert(1)</script>"}
MISTAKE = Mistake(
    statement="the term r * b_hn is missing", right="n = tanh(a + r * b_hn)", equation="n = tanh(a) <script>alert(2)"
)


def history(letters: str, **options: object) -> History:
    names = [f"1.{index}" for index in range(len(letters))]
    return search(names, lambda name: STATES[letters[int(name[2:])]], **options)  # type: ignore[arg-type]


def matrix(*rows: str) -> Matrix:
    versions = tuple(f"1.{index}" for index in range(len(rows[0])))
    return Matrix(
        candidate="mine:<i>",
        distribution="mine",
        versions=versions,
        rows=tuple(
            Row(
                variant="v",
                requirement=f"gru_{number}",
                dtype="float32",
                states={version: STATES[letter] for version, letter in zip(versions, row, strict=True)},
            )
            for number, row in enumerate(rows)
        ),
        left_out=LEFT_OUT,
        origin={"seed": "0"},
        mistakes={(f"gru_{number}", "drop_rbhn_t0"): MISTAKE for number in range(len(rows))},
    )


def test_a_boundary_in_words() -> None:
    """What was asked and what is inferred stand apart."""
    found = history("ddddddddaaaaaaaa", probes=0)
    assert told(found) == "diverges (drop_rbhn_t0) up to 1.7, agrees from 1.8"
    assert tried(found) == (
        "6 of 16 releases tried; the 10 others are inferred: true if nothing changes and changes back between two "
        "that were tried"
    )
    assert warnings(found) == []


def test_a_scan_infers_nothing() -> None:
    """Then nothing is said of inference."""
    assert tried(history("ddaa", scan=True)) == "4 of 4 releases tried"


def test_three_states_in_words() -> None:
    """Each stretch has its beginning and its end."""
    assert told(history("xda", scan=True)) == "breaks up to 1.0, diverges (drop_rbhn_t0) in 1.1, agrees from 1.2"
    assert (
        told(history("xxdda", scan=True))
        == "breaks up to 1.1, diverges (drop_rbhn_t0) from 1.2 to 1.3, agrees from 1.4"
    )


def test_no_change_and_no_answer_in_words() -> None:
    """No boundary is no proof that there is none; nothing at all is said so."""
    assert told(history("aaaa")) == "agrees from 1.0 to 1.3; no change was found"
    assert told(history("a")) == "agrees in 1.0; no change was found"
    assert told(history("---")) == "no release gave an answer"


def test_holes_are_named_and_blur_the_boundary() -> None:
    """A release that breaks between two states may belong to either."""
    found = history("dd-xaa")
    assert "1 unavailable (1.2), 1 without an answer (1.3)" in tried(found)
    assert tried(found).startswith("5 of 6 releases tried")
    (note,) = warnings(found)
    assert "between 1.1 and 1.4 may lie in any of 1.2, 1.3" in note
    assert reasons([found]) == {
        "1.2": "unavailable: No such release",
        "1.3": "breaks: RuntimeError: <b>no</b>",
    }


def test_a_history_that_changes_back_says_so() -> None:
    """And that everything was tried."""
    found = history("aaddaa", probes=3)
    assert not found.monotone
    assert any("not monotone" in note and "every release was tried" in note for note in warnings(found))


@pytest.mark.parametrize(
    ("rows", "sentence", "outcome"),
    [
        (
            ("ddda", "aada"),
            "mine:<i>: 3 of 4 releases diverge, 1.0 to 1.2, like drop_rbhn_t0 \N{EM DASH} the term r * b_hn is missing."
            " The newest, 1.3, agrees.",
            "diverges",
        ),
        (
            ("adae",),
            "mine:<i>: 2 of 4 releases diverge: 1.1 like drop_rbhn_t0; 1.3 like other. The newest, 1.3, is among them.",
            "diverges",
        ),
        (
            ("dax",),
            "mine:<i>: 1 of 3 releases diverges, 1.0, like drop_rbhn_t0 \N{EM DASH} the term r * b_hn is missing. "
            "The newest, 1.2, does not diverge, but not all is shown: breaks.",
            "diverges",
        ),
        (("aaa", "aaa"), "mine:<i>: nothing diverges in 3 releases, 1.0 to 1.2.", "agrees"),
        (
            ("a-a", "aaa"),
            "mine:<i>: nothing diverges where an answer was had, but not every release gave one.",
            "inconclusive",
        ),
        (("x-",), "mine:<i>: no release gave an answer.", "inconclusive"),
    ],
    ids=["one", "two", "broken", "none", "hole", "nothing"],
)
def test_the_first_sentence_of_a_trend(rows: tuple[str, ...], sentence: str, outcome: str) -> None:
    """Which releases are affected, by what, and how the newest one is; no agreement without an answer of each."""
    asked = replace(matrix(*rows), left_out={})
    assert (trend_headline(asked), trend_outcome(asked)) == (sentence, outcome)
    page = render_trend(asked)
    assert f"<h1>{html.escape(sentence)}</h1>" in page
    assert f'<header class="answer is-{outcome}"' in page
    named = trend_headline(replace(asked, framework="Mine"))
    assert named == f"Mine ({sentence[:8]}){sentence[8:]}"


def test_what_gave_no_answer_and_what_was_left_out_is_told() -> None:
    """With the reason, for what was asked; a release that nobody was asked about does not change the answer."""
    assert trend_outcome(matrix("aaa")) == "agrees"
    assert could_not(matrix("aaa")) == ("2.0 was left out: yanked: <script>alert(1)</script>",)
    assert could_not(replace(matrix("a-xa", "aaxa"), left_out={})) == (
        "1.1, gru_0 (float32): unavailable: No such release",
        "1.2, gru_0 (float32) and gru_1 (float32): breaks: RuntimeError: <b>no</b>",
    )
    (*_, unsharp) = could_not(matrix("d-a"))
    assert unsharp.startswith("gru_0 (float32): the change between 1.0 and 1.2 may lie in any of 1.1")
    page = render_trend(matrix("d-a"))
    assert html.escape(unsharp) in page[page.index('id="limits"') : page.index('id="answers"')]


def test_what_is_wrong_is_shown_with_its_equations_and_how_to_see_it() -> None:
    """Each cause once, that of most releases first; a command for its last release, and one beside the next."""
    first, second = affected(matrix("ddea", "aaea"))
    assert (first.name, first.releases, first.questions) == ("drop_rbhn_t0", "1.0 to 1.1", "gru_0 (float32)")
    assert first.known == (("drop_rbhn_t0", MISTAKE),)
    assert first.sizes == "float32: largest difference 0.1"
    assert first.run == "rnn-conformance run 'mine:<i>==1.1' -k gru_0"
    assert first.gate == "rnn-conformance gate 'mine:<i>==1.1' 'mine:<i>==1.2' -k gru_0"
    assert (second.name, second.known) == ("other", ())
    (last,) = affected(matrix("ad"))
    assert last.gate == ""
    page = render_trend(matrix("ddea"))
    wrong = page[page.index('id="wrong"') : page.index('id="limits"')]
    right, instead = wrong.index("<dt>Right</dt>"), wrong.index("<dt>Computed instead</dt>")
    assert right < wrong.index("b_hn", right) < instead < wrong.index("&lt;script&gt;")
    assert wrong.count('<mark class="term">') >= 2
    assert first.run in html.unescape(wrong)
    assert spans(("1", "2", "3", "4"), {"1", "3", "4"}) == "1 and 3 to 4"


def test_every_state_has_a_mark_of_its_own() -> None:
    """Two kinds of divergence are told apart by letter and number."""
    found = marks(matrix("adex-"))
    assert [mark.text for mark in found.values()] == ["A", "D", "D2", "B", "N"]
    assert legend(matrix("adex-"))[1:] == [
        "A: agrees",
        "D: diverges (drop_rbhn_t0)",
        "D2: diverges (other)",
        "B: breaks",
        "N: unavailable",
    ]


def test_the_page_shows_every_cell_twice_and_is_inert() -> None:
    """One rectangle and one table cell for each state; text of a record cannot become markup."""
    page = render_trend(matrix("adex-", "aaaad"))
    assert page.count("<rect") == page[page.index('id="answers"') :].count("<td>") == 10
    assert re.findall(r'class="mark [a-z]+"[^>]*>([^<]+)<', page) == ["A", "D", "D2", "B", "N", "A", "A", "A", "A", "D"]
    assert page.count("<script") == 1
    assert "<b>no</b>" not in page
    assert "mine:<i>" not in page
    assert "style=" not in page  # the page's policy would drop it
    assert "not monotone" not in page
    assert explained(matrix("a-"))["2.0"].startswith("yanked")
    assert render_trend(matrix("ada")).count("not monotone") == 2  # beside the history, and among what is open


def test_a_mark_never_has_the_fill_of_its_cell() -> None:
    """Every rule that fills cells names rectangles: one that also fills the letters makes them vanish."""
    style = part("trend.css")
    rules = re.findall(r"\.trend svg ([^{]*)\{([^}]*)\}", style)
    fills = {selector.strip(): re.search(r"fill: ([^;]+);", body) for selector, body in rules}
    for kind in ("agrees", "diverges", "other", "unavailable"):
        own = {element: fills.get(f"{element}.{kind}") or fills[element] for element in ("rect", "text")}
        assert own["rect"] is not None
        letter = own["text"] or fills["text"]
        assert letter is not None
        assert letter[1] != own["rect"][1]
    assert all(selector.strip().startswith(("rect", "text", "pattern")) for selector, _ in rules if "fill" in _)


def test_whether_anything_was_answered() -> None:
    """Only an answer counts."""
    assert matrix("-x", "-a").answered
    assert not matrix("-x", "--").answered
