"""Known divergences: what is listed must show as listed, nothing else may, and each breach has a name of its own."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from msgspec.structs import replace
from test_gate import AGREES, BLANK, CRASH, OUT, diverges, finding, line, record, within

from conformance.candidate import Variant
from conformance.discover import find_adapters
from conformance.errors import SpecError
from conformance.faults import CATALOGUE
from conformance.known import (
    NO_FAULT,
    UNEXPLAINED,
    check_known,
    read_known,
    same_size,
    updated,
    write_known,
)
from conformance.record import Finding, KnownEntry, KnownList, Record
from conformance.report.outcome import exit_code
from conformance.requirement import REQUIREMENTS

NAME = "one:a==1"
ENTRY = KnownEntry(
    candidate="one:a",
    requirement="gru_hidden_none",
    shows="swap_rz",
    size=0.5,
    reason="they swapped them",
    owner="upstream",
    link="https://example.org/1",
)


def held(*findings: Finding, entries: tuple[KnownEntry, ...] = (ENTRY,), dtypes: tuple[str, ...] = ()) -> Record:
    """A run that is held to a list."""
    plain = record(*findings, names=(NAME,), gate=None)
    return replace(plain, known=KnownList(source="list.toml", dtypes=dtypes, entries=entries))


def kinds(held_record: Record) -> list[str]:
    return [problem.kind for problem in check_known(held_record)]


def test_what_shows_as_listed_is_no_problem() -> None:
    """And does not count as a divergence of the run."""
    shown = held(finding(NAME, diverges("swap_rz")))
    assert check_known(shown) == ()
    assert exit_code(shown) == 0
    assert exit_code(replace(shown, known=None)) == 1


@pytest.mark.parametrize(
    ("findings", "kind"),
    [
        ([finding(NAME, diverges("update_flip"))], "another fault"),
        ([finding(NAME, diverges())], "another fault"),
        ([finding(NAME, diverges("swap_rz", size=5.0))], "another size"),
        ([finding(NAME, diverges("swap_rz", size=0.05))], "another size"),
        ([finding(NAME, diverges("swap_rz", size=None))], "another size"),
        ([finding(NAME, AGREES)], "vanished"),
        ([finding(NAME, within(AGREES))], "vanished"),
        ([finding(NAME, CRASH)], "skipped"),
        ([finding(NAME, BLANK)], "skipped"),
        ([finding(NAME, OUT)], "skipped"),
        ([finding(NAME, diverges("swap_rz")), finding(NAME, diverges("swap_rz"), "gru_hidden_zeros")], "unlisted"),
        ([finding(NAME, diverges("swap_rz")), finding(NAME, diverges("x"), "gru_not_finite")], "unlisted"),
    ],
)
def test_each_breach_has_its_name_and_fails_the_run(findings: list[Finding], kind: str) -> None:
    """Another fault, another size, gone, not tried, or not listed: on whatever level."""
    shown = held(*findings)
    assert kinds(shown) == [kind]
    assert exit_code(shown) == 1
    (problem,) = check_known(shown)
    assert problem.message


def test_a_listed_requirement_without_a_finding_was_skipped() -> None:
    """It was selected, since the header names it."""
    shown = held(finding(NAME, AGREES, "gru_hidden_zeros"), entries=(replace(ENTRY, requirement="gru_hidden_zeros"),))
    gone = replace(shown, findings=())
    assert kinds(gone) == ["skipped"]
    assert kinds(held(finding(NAME, AGREES, "gru_hidden_zeros"))) == [], "what was not selected was not skipped"


def test_an_entry_is_about_its_dtype_release_and_machine_only() -> None:
    """Elsewhere it neither excuses nor is missed."""
    shown = finding(NAME, diverges("swap_rz"))
    for change in (
        {"versions": ">=2"},
        {"candidate": "one:b"},
        {"platform": "Darwin*"},
        {"device": "gpu*"},
        {"dtype": "float16"},
    ):
        entry = replace(ENTRY, **change)  # type: ignore[arg-type]
        assert "unlisted" in kinds(held(shown, entries=(entry,))), change
    assert kinds(held(shown, entries=(replace(ENTRY, versions="<2", platform="Linux*", device="cpu"),))) == []
    assert kinds(held(finding(NAME, AGREES, dtype="float16"), entries=(ENTRY,), dtypes=("float16",))) == ["vanished"]
    other = replace(ENTRY, dtype="float32")
    assert kinds(held(finding(NAME, AGREES, dtype="float16"), entries=(other,), dtypes=("float16",))) == []


def test_an_entry_ends_with_its_last_day() -> None:
    """By the day of the run, not by the clock of the reader."""
    shown = finding(NAME, diverges("swap_rz"))
    assert kinds(held(shown, entries=(replace(ENTRY, expires=date(2026, 11, 26)),))) == []
    assert kinds(held(shown, entries=(replace(ENTRY, expires=date(2026, 11, 25)),))) == ["expired"]


def test_other_outcomes_are_listed_by_what_they_lack() -> None:
    """No place for a parameter, and what is declared unsupported."""
    entry = replace(ENTRY, outcome="unrepresentable", shows="b_hn", size=None)
    assert kinds(held(finding(NAME, within(AGREES)), entries=(entry,))) == []
    assert kinds(held(finding(NAME, AGREES), entries=(entry,))) == ["vanished"]
    assert kinds(held(finding(NAME, within(AGREES)), entries=(replace(entry, shows="b_r"),))) == ["another fault"]
    declared = replace(ENTRY, outcome="unsupported", shows="dtype float16", size=None)
    assert kinds(held(finding(NAME, OUT), entries=(declared,))) == []
    assert kinds(held(finding(NAME, AGREES), entries=(declared,))) == ["vanished"]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [(1.0, 3.9, True), (1.0, 4.1, False), (0.0, 0.0, True), (0.0, 1.0, False), (None, None, True), (None, 1.0, False)],
)
def test_sizes_are_of_one_order(first: float | None, second: float | None, same: bool) -> None:
    """Within a factor, either way; what is not finite is like itself only."""
    assert same_size(first, second, factor=4.0) is same
    assert same_size(second, first, factor=4.0) is same


GOOD = """\
# why this list is here
[[divergence]]
candidate = "one:a"
requirement = "gru_hidden_none"
shows = "swap_rz"
size = 0.5
reason = "they swapped them"
owner = "upstream"
link = "https://example.org/1"
"""


def test_a_list_is_read_and_written_with_its_comments(tmp_path: Path) -> None:
    """What is written reads the same."""
    path = tmp_path / "list.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert read_known(path) == (ENTRY,)
    entries = (ENTRY, replace(ENTRY, requirement="x", size=float("inf"), expires=date(2027, 1, 1), versions="==1"))
    write_known(path, entries)
    assert read_known(path) == entries
    assert path.read_text(encoding="utf-8").startswith("# why this list is here")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('link = "https://example.org/1"\n', "", "link"),
        ('link = "https://example.org/1"', 'link = "later"', "link"),
        ('link = "https://example.org/1"', 'link = "none: "', "link"),
        ("reason", "reasons", "reasons"),
        ("size = 0.5\n", "", "has a size"),
        ('owner = "upstream"', 'owner = "somebody"', "owner"),
        ("size = 0.5", 'size = 0.5\nversions = "31"', "versions"),
        ("[[divergence]]", "[[divergences]]", "divergences"),
        ("[[divergence]]", "[[divergence]", "malformed"),
    ],
)
def test_a_malformed_list_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    """One message that names the file and the field."""
    path = tmp_path / "list.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        read_known(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_update_makes_the_list_that_the_run_meets() -> None:
    """What vanished goes, what is new comes unexplained, and other candidates' entries stay."""
    other = replace(ENTRY, candidate="two:b")
    shown = held(finding(NAME, AGREES), finding(NAME, diverges(), "gru_hidden_zeros"), entries=(ENTRY, other))
    fresh = updated(shown, (ENTRY, other))
    assert fresh[0] == other
    assert [(e.requirement, e.shows, e.reason) for e in fresh[1:]] == [("gru_hidden_zeros", NO_FAULT, UNEXPLAINED)]
    assert kinds(replace(shown, known=KnownList(source="", dtypes=(), entries=fresh))) == []
    assert updated(replace(shown, candidates=(line(NAME, "1"),)), fresh) == fresh


def test_the_shipped_list_speaks_of_what_exists() -> None:
    """Candidates, requirements and faults that it names are there; every entry can apply to something."""
    entries = read_known(None)
    assert len(entries) >= 5
    adapters = find_adapters()
    variants: list[Variant] = [v for adapter in adapters.values() for v in adapter.variants.values()]
    assert variants
    for entry in entries:
        adapter, _, variant = entry.candidate.partition(":")
        assert adapter in adapters
        assert variant == "*" or variant in adapters[adapter].variants
        assert any(name.endswith(entry.requirement.lstrip("*")) for name in REQUIREMENTS), entry.requirement
        if entry.outcome == "diverges":
            assert entry.shows == NO_FAULT or any(entry.shows in faults for faults in CATALOGUE.values())
