"""Records of several machines as one: the same in every order, and never of different questions."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from test_report import AGREES, CRASH, NONE, Draft

from conformance.candidate import identity
from conformance.errors import RecordError
from conformance.merge import file_names, merge, write_record
from conformance.record import FaultEntry, Footer, Gate, KnownEntry, KnownList, Line, Pair, Record
from conformance.recordfile import gather, read_record
from conformance.report.formats import FORMATS, rendered
from conformance.report.outcome import exit_code, headline, levels
from conformance.verdict import Diverges, Evidence, Verdict

WRONG = Diverges(
    faults=("drop_bhn",),
    evidence=Evidence(
        output="outputs",
        first=(0, 1, 2),
        expected=0.5,
        observed=0.25,
        bound=1e-7,
        largest_difference=0.25,
        share=1e6,
        outside=1,
        compared=9,
    ),
)


def part(
    *candidates: str, verdict: Verdict = AGREES, whole: bool = True, lines: tuple[Line, ...] = (), **head: Any
) -> Record:
    """A record of some candidates, each with one finding, as it is read from a file."""
    draft = Draft()
    for name in candidates:
        draft.found(draft.candidate(name, platform=f"machine of {name}", device="cpu"), verdict)
    drafted = draft.record()
    body: list[Line] = [*lines, *drafted.candidates, *drafted.findings]
    if whole:
        body.append(Footer(finished="2031-05-06T08:00:00+00:00", trials=0, findings=len(candidates)))
    header = replace(drafted.header, arguments=("run", *candidates, "-k", "gru", "--output", candidates[0]), **head)
    return gather(Path("part.jsonl"), [header, *body])


PARTS = {
    "cpu.jsonl": part("torch:layer", "numpy:float32"),
    "cuda.jsonl": part("jax:scan", verdict=CRASH),
    "metal.jsonl": part("mlx:none"),
}


def test_a_merged_record_holds_everything_and_says_where_it_is_from() -> None:
    """All candidates and findings, their sources with their machines, and the footer of them all."""
    merged = merge(PARTS)
    assert merged.header.candidates == ("torch:layer", "numpy:float32", "jax:scan", "mlx:none")
    assert {f.candidate for f in merged.findings} == set(merged.header.candidates)
    assert [(s.name, s.machine) for s in merged.header.merged] == [
        ("cpu.jsonl", "machine of torch:layer, cpu, machine of numpy:float32"),
        ("cuda.jsonl", "machine of jax:scan, cpu"),
        ("metal.jsonl", "machine of mlx:none, cpu"),
    ]
    assert merged.problem == ""
    assert merged.footer is not None
    assert merged.footer.findings == 4
    assert exit_code(merged) == 3, "one of them is broken"


def test_the_order_of_the_files_does_not_matter() -> None:
    """Whichever comes first, and whatever was merged before, the bytes of every format are the same."""
    wanted = merge(PARTS, name="all.jsonl")
    assert len(wanted.findings) == 4
    for names in permutations(PARTS):
        assert merge({name: PARTS[name] for name in names}, name="all.jsonl") == wanted
    for first, record in PARTS.items():
        rest = {name: other for name, other in PARTS.items() if name != first}
        assert merge({first: record, "rest.jsonl": merge(rest)}, name="all.jsonl") == wanted


def test_a_merged_record_is_a_valid_one(tmp_path: Path) -> None:
    """Written and read again it is the same, in every format."""
    merged = merge(PARTS, name="all.jsonl")
    write_record(tmp_path / "all.jsonl", merged)
    again = read_record(tmp_path / "all.jsonl")
    assert again == merged
    for form in FORMATS:
        if form != "parquet":
            assert rendered(again, form) == rendered(merged, form)


def known(reason: str = "r", source: str = "list") -> KnownList:
    entry = KnownEntry(
        candidate="jax:*", requirement=NONE, shows="x", reason=reason, owner="ours", link="none: x", size=1.0
    )
    return KnownList(source=source, dtypes=(), entries=(entry,))


def described(record: Record, **changes: str) -> Record:
    """The record with its first requirement described in another way."""
    first, *others = record.header.requirements
    return replace(record, header=replace(record.header, requirements=(replace(first, **changes), *others)))


def asked(record: Record, *arguments: str) -> Record:
    return replace(record, header=replace(record.header, arguments=("run", *arguments)))


OTHER = part("mlx:none")


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (part("mlx:none", seed=3), "another seed"),
        (part("mlx:none", examples=3), "another number of examples"),
        (part("mlx:none", harness="9"), "another version of the harness"),
        (asked(OTHER, "-k", "lstm"), "another selection of cases"),
        (asked(OTHER), "another selection of cases"),
        (asked(OTHER, "-k", "gru", "--wide"), "another selection of cases"),
        (asked(OTHER, "-kgru", "--dtype=float32"), "another selection of cases"),
        (asked(OTHER, "-k", "gru", "--case", "a/b.json"), "another selection of cases"),
        (described(OTHER, level="SHOULD"), "another requirement of the name gru_hidden_none"),
        (described(OTHER, statement="else"), "another requirement of the name gru_hidden_none"),
        (part("mlx:none", lines=(known(),)), "another list of known divergences"),
        (part("mlx:none", "torch:layer"), "two records have the same candidate"),
        (replace(OTHER, gate=Gate(before="a", after="b", pairs=(Pair(before="a", after="b"),))), "a gate's record"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_was_asked_something_else_is_refused(other: Record, what: str) -> None:
    """Other cases, other requirements, a candidate twice: said with both files, in either order."""
    good = {"a.jsonl": part("torch:layer"), "b.jsonl": OTHER}
    assert merge(good).problem == ""
    for names in (("a.jsonl", "b.jsonl"), ("b.jsonl", "a.jsonl")):
        with pytest.raises(RecordError) as raised:
            merge({names[0]: part("torch:layer"), names[1]: other})
        assert what in str(raised.value)
        assert "b.jsonl" in str(raised.value) or "a.jsonl" in str(raised.value)
        assert raised.value.hint


def test_options_that_ask_nothing_may_differ() -> None:
    """Candidates, folders, deadlines, and the folder of the one case; and the order of dtypes."""
    first = asked(
        part("torch:layer"), "torch", "-k", "gru", "--dtype", "float32", "--dtype", "float64", "--case", "x/c.json"
    )
    second = asked(
        OTHER, "--deadline", "9", "mlx", "--dtype=float64", "--case=y/c.json", "--dtype=float32", "-kgru", "-q"
    )
    assert len(merge({"a": first, "b": second}).findings) == 2


def test_lists_of_one_content_are_one_list() -> None:
    """Whatever their files are called; the merged record is held to it."""
    parts = {"a": part("torch:layer", lines=(known(source="one"),)), "b": part("jax:x", lines=(known(source="two"),))}
    merged = merge(parts)
    assert merged.known is not None
    assert merge(dict(reversed(parts.items()))) == merged


def test_apart_shows_what_cannot_be_merged() -> None:
    """Candidates carry the name of their file; nothing that one record is excused from is excused in another."""
    old, new = part("mlx:none", verdict=WRONG, seed=1, lines=(known(),)), part("mlx:none", seed=2, harness="9")
    merged = merge({"old.jsonl": old, "new.jsonl": new}, apart=True)
    assert merged.header.candidates == ("mlx:none [new]", "mlx:none [old]")
    assert {identity(name) for name in merged.header.candidates} == {"mlx:none"}
    assert [source.seed for source in merged.header.merged] == [2, 1]
    assert merged.header.harness == "0.1.0, 9"
    assert merged.known is None
    assert exit_code(merged) == 1
    assert headline(merged).startswith("1 of 2 candidates diverges: mlx:none [old]")


def test_a_requirement_of_two_levels_counts_as_the_stricter() -> None:
    """Shown apart, one record cannot weaken what another one asks."""
    weak = described(part("mlx:none", verdict=WRONG), level="informational")
    merged = merge({"a.jsonl": part("torch:layer"), "b.jsonl": weak}, apart=True)
    assert levels(merged).of(NONE) == "MUST"
    assert exit_code(merged) == 1


def test_a_part_that_broke_off_makes_a_partial_record(tmp_path: Path) -> None:
    """It gives what it has, and no agreement is claimed; also when it is written and merged again."""
    merged = merge({"a.jsonl": part("torch:layer"), "b.jsonl": part("mlx:none", whole=False)}, name="ab.jsonl")
    assert merged.problem == "incomplete: b.jsonl is incomplete: the run did not come to its end"
    assert len(merged.findings) == 2
    assert exit_code(merged) == 3
    write_record(tmp_path / "ab.jsonl", merged)
    again = read_record(tmp_path / "ab.jsonl")
    assert again == merged
    more = merge({"ab.jsonl": again, "c.jsonl": part("jax:scan")})
    assert "b.jsonl is incomplete" in more.problem


def test_a_candidate_that_its_header_does_not_name_is_a_candidate(tmp_path: Path) -> None:
    """A stranger's finding cannot slip in under another record's candidate."""
    sly = part("mlx:none")
    sly = gather(Path("x"), [sly.header, *(replace(f, candidate="torch:layer") for f in sly.findings)])
    with pytest.raises(RecordError, match="same candidate"):
        merge({"a": part("torch:layer"), "b": sly})


def test_faults_are_united() -> None:
    """A catalogue has every entry of every part; what reads in two ways is told in both."""

    def with_faults(record: Record, *entries: FaultEntry) -> Record:
        return replace(record, header=replace(record.header, faults={"gru": entries}))

    def fault(name: str, right: str) -> FaultEntry:
        return FaultEntry(name=name, statement=name, equation="e", right=right)

    first = with_faults(part("torch:layer"), fault("a", "h = z h"), fault("b", "one"))
    second = with_faults(OTHER, fault("c", "q"), fault("b", "two"), fault("a", "h = z h; or n"))
    assert [(f.name, f.right) for f in merge({"1": first, "2": second}).header.faults["gru"]] == [
        ("a", "h = z h; or n"),
        ("b", "one; or two"),
        ("c", "q"),
    ]


def test_nothing_to_merge() -> None:
    with pytest.raises(RecordError, match="nothing to merge"):
        merge({"a": OTHER})


def test_files_are_named_as_shortly_as_they_can_be_told_apart(tmp_path: Path) -> None:
    """By their names, or with their folders where these are the same; one file twice is refused."""
    assert file_names([tmp_path / "a.jsonl", tmp_path / "x" / "b.jsonl"]) == ("a.jsonl", "b.jsonl")
    assert file_names([tmp_path / "x" / "a.jsonl", tmp_path / "y" / "a.jsonl"]) == ("x/a.jsonl", "y/a.jsonl")
    with pytest.raises(RecordError, match="named twice"):
        file_names([tmp_path / "a.jsonl", tmp_path / "x" / ".." / "a.jsonl"])


def test_a_headers_sources_are_strangers_too() -> None:
    """Sources that name no candidate, or others than there are, lose nothing."""
    whole = merge({"a": part("torch:layer"), "b": part("jax:scan")})
    odd = replace(whole.header.merged[0], candidates=("nobody",))
    body = [replace(whole.header, merged=(odd,)), *whole.body]
    found = merge({"c": gather(Path("c"), body), "d": OTHER})
    assert set(found.header.candidates) == {"nobody", "torch:layer", "jax:scan", "mlx:none"}
    assert len(found.findings) == 3
