"""The search over synthetic histories: every boundary, few questions, holes, and histories that change back."""

from __future__ import annotations

from itertools import groupby, pairwise
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.bisect import History, State, search

AGREES = State(kind="answer", label="agrees")
DIVERGES = State(kind="answer", label="diverges (drop_rbhn_t0)")
BREAKS = State(kind="failure", label="breaks")
GONE = State(kind="unavailable", label="unavailable")
LETTERS = {"a": AGREES, "d": DIVERGES, "x": BREAKS, "-": GONE, "e": State(kind="answer", label="diverges (other)")}


def told(history: str, **options: object) -> tuple[History, list[str]]:
    """The search over a history of letters, release names being indexes; and what it asked."""
    asked: list[str] = []

    def ask(version: str) -> State:
        asked.append(version)
        return LETTERS[history[int(version)]]

    names = [str(index) for index in range(len(history))]
    return search(names, ask, **options), asked  # type: ignore[arg-type]


def changes(found: History) -> list[tuple[str, str]]:
    return [(boundary.before, boundary.after) for boundary in found.boundaries]


@pytest.mark.parametrize("count", [2, 3, 4, 7, 22, 100])
def test_every_boundary_is_found_with_the_fewest_questions(count: int) -> None:
    """One change among n releases costs the two ends and ceil(log2(n - 1)) more, wherever it is."""
    most = 0
    for first in range(1, count):
        found, asked = told("d" * first + "a" * (count - first), probes=0)
        assert changes(found) == [(str(first - 1), str(first))]
        assert found.monotone
        assert len(asked) == len(set(asked))
        most = max(most, len(asked))
    assert most == 2 + ceil(log2(count - 1))


def test_a_regression_is_a_boundary_as_well() -> None:
    """The direction does not matter."""
    found, _ = told("aaaaaddd")
    (boundary,) = found.boundaries
    assert (boundary.before, boundary.old, boundary.after, boundary.new) == ("4", AGREES, "5", DIVERGES)


def test_failing_at_an_end_is_a_state() -> None:
    """Breaks, then diverges, then agrees: two boundaries, as of the 16-bit layers of MLX."""
    found, _ = told("xxxxxxdddddddddaaaaaa")
    assert changes(found) == [("5", "6"), ("14", "15")]
    assert [run.state.label for run in found.runs] == ["breaks", "diverges (drop_rbhn_t0)", "agrees"]
    assert not found.holes


def test_failing_in_between_is_a_hole() -> None:
    """A release that breaks, or cannot be had, says nothing about the change; it is named."""
    found, _ = told("dddd-xaaaa")
    (boundary,) = found.boundaries
    assert (boundary.before, boundary.after, boundary.between) == ("3", "6", ("4", "5"))
    assert found.holes == ("4", "5")
    assert found.monotone


def test_ends_that_cannot_be_had_are_passed_over() -> None:
    """The search begins at the first release that can be had."""
    found, _ = told("--dddaaa-")
    assert changes(found) == [("4", "5")]
    assert found.runs[0].first == "2"


def test_nothing_to_be_had() -> None:
    """Without any state there is no boundary and no run, and everything was asked."""
    found, asked = told("-----")
    assert (found.runs, found.boundaries, found.scanned, len(asked)) == ((), (), True, 5)


def test_a_state_that_comes_back_is_found_by_a_probe_and_everything_is_asked() -> None:
    """Both ends agree; only a probe in the middle sees that the releases between do not."""
    found, asked = told("aaaadddaaa", probes=1)
    assert not found.monotone
    assert found.scanned
    assert changes(found) == [("3", "4"), ("6", "7")]
    assert len(asked) == 10


def test_without_probes_a_state_that_comes_back_is_missed_and_said_to_be_inferred() -> None:
    """What was not asked is called inferred, not tested."""
    found, asked = told("aaaadddaaa", probes=0)
    assert asked == ["0", "9"]
    assert found.monotone
    assert set(found.inferred) == {str(index) for index in range(1, 9)}


def test_a_scan_asks_everything() -> None:
    """--scan leaves nothing inferred."""
    found, asked = told("aaaadddaaa", probes=0, scan=True)
    assert len(asked) == 10
    assert not found.inferred
    assert not found.monotone


def test_what_is_known_is_not_asked() -> None:
    """A second search over the same answers asks nothing."""
    first, _ = told("dddddddaaaa")
    again, asked = told("dddddddaaaa", known=first.states)
    assert not asked
    assert again == first


def test_what_else_is_known_counts() -> None:
    """What the search would not have asked may show that the history is not monotone."""
    found, asked = told("aaaadddaaa", probes=0, known={"4": DIVERGES})
    assert not found.monotone
    assert "4" not in asked
    assert changes(found) == [("3", "4"), ("6", "7")]


def test_other_faults_are_other_states() -> None:
    """Diverging in another way is a change."""
    found, _ = told("ddddeeeeaaaa")
    assert changes(found) == [("3", "4"), ("7", "8")]


HISTORIES = st.text("adex-", min_size=1, max_size=30)


@given(HISTORIES, st.integers(0, 3))
def test_what_is_told_of_any_history_is_true_of_it(history: str, probes: int) -> None:
    """Whatever the history: told states are its states, boundaries are real, monotone or else all were asked."""
    found, asked = told(history, probes=probes)
    assert len(asked) == len(set(asked)) == len(found.states)
    assert all(LETTERS[history[int(version)]] == state for version, state in found.states.items())
    for boundary in found.boundaries:
        assert boundary.old != boundary.new
        assert LETTERS[history[int(boundary.before)]] == boundary.old
        assert LETTERS[history[int(boundary.after)]] == boundary.new
        assert set(boundary.between) <= set(found.holes)
    assert found.monotone or found.scanned
    assert len(found.runs) == len(found.boundaries) + bool(found.runs)


@given(HISTORIES)
def test_a_scan_tells_the_whole_history(history: str) -> None:
    """A scan's runs are exactly the runs of the history without its holes."""
    found, _ = told(history, scan=True)
    available = [c for c in history if c != "-"]
    counting = "adex" if available and "x" in (available[0], available[-1]) else "ade"
    runs = [LETTERS[letter] for letter, _ in groupby(c for c in history if c in counting)]
    assert [run.state for run in found.runs] == runs
    assert found.monotone == (len(set(runs)) == len(runs))


@given(st.lists(st.tuples(st.sampled_from("ade"), st.integers(1, 9)), min_size=1, max_size=3, unique_by=lambda p: p[0]))
def test_a_monotone_history_without_holes_is_told_right_wherever_a_state_was_met(runs: list[tuple[str, int]]) -> None:
    """If each state that the history has was met, every boundary is exact and what is inferred is true."""
    history = "".join(letter * length for letter, length in runs)
    found, _ = told(history)
    if {state.label for state in found.states.values()} == {LETTERS[letter].label for letter, _ in runs}:
        exact = [(str(i), str(i + 1)) for i, (a, b) in enumerate(pairwise(history)) if a != b]
        assert changes(found) == exact
        assert all(LETTERS[history[int(version)]] == state for version, state in found.inferred.items())


@given(st.integers(2, 40), st.data())
def test_holes_cost_no_boundary(count: int, data: st.DataObject) -> None:
    """With holes anywhere the two releases around the change are the nearest that have a state."""
    first = data.draw(st.integers(1, count - 1))
    holes = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 2))
    history = "".join("-" if i in holes else "d" if i < first else "a" for i in range(count))
    found, _ = told(history)
    old, new = history.rfind("d"), history.find("a")
    assert changes(found) == ([] if old < 0 or new < 0 else [(str(old), str(new))])
