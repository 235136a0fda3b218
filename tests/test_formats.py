"""Every form of a record: one answer in all of them, and nothing that a stranger has written does anything in any."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET  # of what this test has written

import pytest
from msgspec.structs import replace
from rich.console import Console
from test_report import AGREES, CRASH, MLX, NONE, Draft, hostile, one, typical

from conformance.errors import ConformanceError, RecordError
from conformance.known import check_known
from conformance.record import BenchLine, Incident, KnownEntry, KnownList, Record
from conformance.report.answer import answer
from conformance.report.badge import message
from conformance.report.formats import FORMATS, Format, print_record, rendered
from conformance.report.outcome import diverging, exit_code, findings, results
from conformance.report.rows import FindingRow, TrialRow, finding_rows
from conformance.report.table import columns
from conformance.verdict import Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, Verdict

POISON = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)> & ]]> --> [bold]x[/] {{7*7}}",
    "control": "\x00\x07\x1b[31m\x1b]0;title\x07\x1b[2J\x9b2J\u202ered\u2066\ufffe\uffff\x7f",
    "lines": "a\r\n::error title=x::pwned\n::add-mask::e\n##[error]x\u2028::stop-commands::x\n| b | c |\n# h\n\n- item",
    "markdown": "](https://evil.example) | `code` | **b** __c__ _d_ $x$ ~~s~~ https://evil.example @you ![i](x) <b>",
    "formula": '=HYPERLINK("https://evil.example","x"),+1,-1,@SUM(1)',
}
TEXTS: tuple[Format, ...] = tuple(form for form in FORMATS if form != "parquet")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufffe\uffff]")


def text_of(record: Record, form: Format) -> str:
    return rendered(record, form).decode("utf-8")


@cache
def poisoned(kind: str) -> Record:
    """The typical record with every string in it made hostile; what decides stays as it is."""
    return hostile(lambda text: f"{POISON[kind]}{text}")


@cache
def harmless() -> Record:
    """The same with something in front of every string that does nothing."""
    return hostile(lambda text: f"safe{text}")


def held(record: Record, *entries: KnownEntry) -> Record:
    return replace(record, known=KnownList(source="list", dtypes=(), entries=entries))


def named(shows: str, size: float | None = 1.0) -> KnownEntry:
    return KnownEntry(
        candidate="mlx:*", requirement=NONE, shows=shows, reason="r", owner="ours", link="none: x", size=size
    )


@pytest.mark.parametrize("form", TEXTS)
@pytest.mark.parametrize("kind", POISON)
def test_no_form_lets_control_characters_through(kind: str, form: Format) -> None:
    """Neither terminal escapes nor characters that turn text around; and the form is valid UTF-8."""
    text = text_of(poisoned(kind), form)
    assert len(text) > 50
    assert not _CONTROL.search(text.replace("\r\n", "\n"))


@pytest.mark.parametrize("kind", POISON)
def test_junit_stays_well_formed(kind: str) -> None:
    """As many test cases as in the harmless record, with the same marks."""

    def shape(record: Record) -> list[tuple[str, list[str]]]:
        root = ET.fromstring(text_of(record, "junit"))
        return [(suite.tag, [child.tag for case in suite for child in case]) for suite in root]

    wanted = shape(harmless())
    assert sum(len(cases) for _, cases in wanted) > 20
    assert Counter(tag for _, tags in shape(poisoned(kind)) for tag in tags) == Counter(
        tag for _, tags in wanted for tag in tags
    )


@pytest.mark.parametrize("kind", POISON)
def test_markdown_stays_in_its_tables(kind: str) -> None:
    """As many rows of as many cells as in the harmless record; no markup, link or mention of a stranger's."""
    text = text_of(poisoned(kind), "markdown")

    def rows(markdown: str) -> list[int]:
        return [line.count("|") for line in markdown.splitlines() if line.startswith("|")]

    assert rows(text) == rows(text_of(harmless(), "markdown"))
    assert not re.search(r"[<>`~$@\[\]\\]|://|(?<![^\W_])_|_(?![^\W_])", text)
    heads = [line for line in text.splitlines() if line.startswith(("#", "- "))]
    assert len(heads) == 1, heads


@pytest.mark.parametrize("kind", POISON)
def test_annotations_are_as_many_commands_as_there_are_annotations(kind: str) -> None:
    """Every line is one command of three kinds, and none of a stranger's begins a line or ends a title."""
    lines = text_of(poisoned(kind), "github").splitlines()
    assert len(lines) == len(text_of(harmless(), "github").splitlines())
    for line in lines:
        assert re.fullmatch(r"::(error|warning|notice) title=[^:,\r\n]*::[^\r\n]*", line)


@pytest.mark.parametrize("kind", POISON)
@pytest.mark.parametrize("kind_of_row", [FindingRow, TrialRow])
def test_csv_has_no_formulas(kind: str, kind_of_row: type[FindingRow | TrialRow]) -> None:
    """Every row has every column; text that a spreadsheet would run begins with an apostrophe, numbers do not."""
    record = poisoned(kind)
    table = list(csv.reader(io.StringIO(rendered(record, "csv", kind_of_row).decode(), newline="")))
    head, *rows = table
    assert tuple(head) == columns(kind_of_row)
    assert len(rows) == len(findings(record) if kind_of_row is FindingRow else record.trials)
    for row in rows:
        assert len(row) == len(head)
        for name, field in zip(head, row, strict=True):
            if re.match(r"\s*[=+@\uff1d-]", field):
                assert re.fullmatch(r"-[\d.e+-]+", field), name
                assert name in ("expected", "observed")
    if kind == "formula":
        assert all(row[head.index("candidate")].startswith("'=HYPER") for row in rows)


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", " =1", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_what_begins_a_formula_is_marked(text: str) -> None:
    record = one(Broken(kind="exception", message="gone"), incidents=())
    renamed = replace(record, findings=(replace(record.findings[0], requirement=text),))
    (row,) = csv.DictReader(io.StringIO(rendered(renamed, "csv").decode(), newline=""))
    assert row["requirement"].startswith("'")


@pytest.mark.parametrize("kind", POISON)
def test_badges_hold_numbers_only(kind: str) -> None:
    """Nothing of a record's strings is in a badge; it is well-formed and loads nothing."""
    for form in ("badge", "shields"):
        assert text_of(poisoned(kind), form) == text_of(typical(), form)
    image = ET.fromstring(text_of(typical(), "badge"))
    assert image.tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in text_of(typical(), "badge")
    assert json.loads(text_of(typical(), "shields"))["schemaVersion"] == 1


@pytest.mark.parametrize("kind", POISON)
def test_json_holds_strings_as_they_stand(kind: str) -> None:
    """Escaped on the way, and the same when they are read."""
    record = poisoned(kind)
    told = json.loads(text_of(record, "json"))
    assert [row["candidate"] for row in told["findings"]] == [row.candidate for row in finding_rows(record)]
    assert text_of(record, "json").isascii()


@pytest.mark.parametrize(
    ("record", "code", "words"),
    [
        (one(AGREES), 0, "1 of 1 agrees"),
        (one(replace(AGREES, compared=0)), 3, "could not tell"),
        (one(CRASH), 3, "could not tell"),
        (one(AGREES, problem="incomplete: the last line was cut off"), 3, "incomplete"),
        (typical(), 1, "diverge"),
        (held(one(AGREES)), 0, "as known"),
        (held(one(AGREES), named("x")), 1, "1 difference to the known list"),
    ],
    ids=["agrees", "nothing-compared", "crash", "incomplete", "diverges", "known-holds", "known-vanished"],
)
def test_every_form_gives_the_same_answer(record: Record, code: int, words: str) -> None:
    """The badge, the JUnit marks, the annotations, the step summary and the JSON agree with the exit code."""
    assert exit_code(record) == code
    assert words in message(record)
    assert json.loads(text_of(record, "json"))["exit_code"] == code
    assert json.loads(text_of(record, "shields"))["isError"] is (code != 0)
    first = ET.fromstring(text_of(record, "junit"))[0]
    marks = {0: ("0", "0"), 1: (str(1 + len(check_known(record))), "0"), 3: ("0", str(1 + bool(record.problem)))}
    assert (first.get("failures"), first.get("errors")) == marks[code]
    level = {0: "::notice", 1: "::error", 3: "::warning"}[code]
    assert text_of(record, "github").startswith(level)
    word = {0: "passes", 1: "fails", 3: "could not tell"}[code]
    assert text_of(record, "markdown").startswith(f"## RNN conformance: {word}\n")


def test_every_finding_is_a_test_case() -> None:
    """Divergences fail, breakage and doubt are errors, what is declared out is skipped; no candidate is left out."""
    record = typical()
    suites = {suite.get("name"): suite for suite in ET.fromstring(text_of(record, "junit"))}
    assert set(suites) == {"rnn-conformance", *record.header.candidates}
    marks = Counter(
        child.tag for name, suite in suites.items() if name != "rnn-conformance" for case in suite for child in case
    )
    outcomes = Counter(row.outcome for row in finding_rows(record))
    assert outcomes["diverges"] > 0
    assert marks["failure"] == outcomes["diverges"]
    assert marks["error"] == outcomes["broken"] + outcomes["inconclusive"] > 1
    assert marks["skipped"] == outcomes["unsupported"] == 1
    old = suites[MLX]
    assert old.get("failures") == "2"
    assert "drop_rbhn_t0" in (old[0][0].get("message") or "")


INNER = Inconclusive(why="saturated")


@pytest.mark.parametrize(
    ("verdict", "requirement", "standing"),
    [
        (AGREES, NONE, "fine"),
        (replace(AGREES, compared=0), NONE, "doubtful"),
        (CRASH, NONE, "doubtful"),
        (INNER, NONE, "doubtful"),
        (INNER, "gru_kept_exactly", "aside"),
        (Unrepresentable(parameters=("b",), owner="ours", reason="r", link="", subspace=INNER), NONE, "doubtful"),
        (Unrepresentable(parameters=("b",), owner="ours", reason="r", link="", subspace=AGREES), NONE, "fine"),
        (Unrepresentable(parameters=("b",), owner="ours", reason="r", link=""), NONE, "fine"),
        (Unsupported(what="w", owner="ours", reason="r"), NONE, "not asked"),
    ],
)
def test_what_a_finding_means(verdict: Verdict, requirement: str, standing: str) -> None:
    """Only what decides can fail or leave a doubt; agreement on nothing is a doubt."""
    draft = Draft()
    name = draft.candidate("mlx:none")
    draft.found(name, AGREES, "gru_hidden_given")
    draft.found(name, verdict, requirement)
    assert finding_rows(draft.record())[1].standing == standing


def test_a_divergence_fails_unless_it_does_not_decide_or_is_listed() -> None:
    """And a listed one that shows as something else fails."""
    draft = Draft()
    name = draft.candidate(MLX, mlx="0.31.1")
    draft.judged(name, NONE, fault="drop_rbhn_t0")
    record = draft.record()

    (_, verdict), *_ = diverging(record.findings)
    size = verdict.evidence.largest_difference

    def standing(own: Record) -> str:
        return finding_rows(own)[0].standing

    assert standing(record) == "fails"
    assert standing(held(record, named("drop_rbhn_t0", size))) == "known"
    assert standing(held(record, named("swap_rz", size))) == "fails"
    assert standing(held(record)) == "fails"
    entries = tuple(replace(entry, level="SHOULD") for entry in record.header.requirements)
    asked = replace(record.header, requirements=(*entries, replace(entries[0], name="gru_other", level="MUST")))
    assert standing(replace(record, header=asked)) == "aside"


def test_a_candidate_without_a_finding_is_a_row_and_an_error() -> None:
    """Nothing is a pass by leaving it out, in no table."""
    draft = Draft()
    draft.found(draft.candidate("mlx:none"), AGREES)
    draft.candidate("torch:layer")
    record = draft.record()
    rows = {row.candidate: row for row in finding_rows(record)}
    assert (rows["torch:layer"].outcome, rows["torch:layer"].standing) == ("untested", "doubtful")
    assert ",untested," in text_of(record, "csv")
    assert ET.fromstring(text_of(record, "junit"))[2].get("errors") == "1"
    assert "untested%3A torch%3Alayer" in text_of(record, "github")


def test_every_row_says_whether_the_record_is_whole() -> None:
    """Also one that was cut out of a table."""
    for problem in ("", "incomplete: the run did not come to its end"):
        told = {row.whole for row in finding_rows(one(AGREES, problem=problem))}
        assert told == {not problem}


def test_a_merged_records_parts_are_in_the_summary() -> None:
    """With their machines, and what is missing of them."""
    from test_merge import part

    from conformance.merge import merge

    merged = merge({"a.jsonl": part("torch:layer"), "b.jsonl": part("mlx:none", whole=False)})
    text = text_of(merged, "markdown")
    assert "| a.jsonl | machine of torch:layer, cpu |" in text
    assert "| incomplete: the run did not come to its end |" in text
    for form in ("text", "html"):
        told = " ".join(text_of(merged, form).split())
        assert "From a.jsonl" in told
        assert "machine of mlx:none, cpu; 1 candidate; seed 20141406" in told
        assert "incomplete: the run did not come to its end: rnn-conformance run mlx:none -k gru" in told


def benchmark() -> Record:
    line = BenchLine(
        name="layer-gru",
        title="GRU",
        level="layer",
        cell="gru",
        dtype="float32",
        shape=(1, 2, 3, 4),
        initial="given",
        baseline="a",
        sides=(),
        seed=0,
        budget=1.0,
        left_out="no hardware",
    )
    record = one(AGREES)
    return replace(record, findings=(), benches=(line,), header=replace(record.header, requirements=()))


@pytest.mark.parametrize("form", [form for form in FORMATS if form not in ("text", "html")])
def test_a_benchmark_is_no_empty_table(form: Format) -> None:
    """What has no findings is refused where only findings are told, and shown elsewhere."""
    with pytest.raises(RecordError, match="no findings to tell"):
        rendered(benchmark(), form)
    assert "GRU" in text_of(benchmark(), "text")


def test_a_gate_is_told_as_a_gate() -> None:
    """Its own words in every form, and its own exit code."""
    from test_gate import AGREES as GOOD
    from test_gate import both, diverges, record

    gate = record(*both(GOOD, diverges("drop_rbhn_t0")))
    assert answer(gate).exit_code == 1
    assert message(gate) == "regressed"
    assert text_of(gate, "github").startswith("::error title=RNN gate%3A regressed::")
    assert text_of(gate, "markdown").startswith("## RNN gate: regressed")
    assert ET.fromstring(text_of(gate, "junit"))[0].get("failures") == "2"
    assert "regressed: gru_hidden_none" in text_of(gate, "text")
    assert len(json.loads(text_of(gate, "json"))["findings"]) == 2


def test_an_ascii_terminal_gets_the_answer() -> None:
    """The sentence has a dash that ASCII lacks."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_record(typical(), Console(file=stream, width=200, force_terminal=False))
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    assert b"candidates diverge" in raw.getvalue()


def test_thousands_of_candidates_are_bounded() -> None:
    """The worst are shown and the others counted, where people read; tables hold all of them."""
    draft = Draft()
    wrong = next(f.verdict for f in typical().findings if isinstance(f.verdict, Diverges))
    for place in range(2_000):
        draft.found(draft.candidate(f"mlx:none=={place}"), wrong if place == 1_999 else AGREES)
    record = draft.record()
    assert len(results(record)) == 2_000
    text = text_of(record, "text")
    assert "mlx:none==1999" in text
    assert "100 of 2,000 candidates are shown" in text
    for form, most in (("text", 30_000), ("markdown", 20_000), ("github", 20_000), ("badge", 2_000)):
        assert len(text_of(record, form)) < most, form
    assert text_of(record, "csv").count("\r\n") == 2_001


def test_huge_numbers_and_strings_are_bounded() -> None:
    """A long message does not make a long annotation, row or test case."""
    record = one(Broken(kind="exception", message="m" * 900_000, exit_code=-(2**63), stderr_tail="s" * 900_000))
    record = replace(record, incidents=(Incident(candidate="mlx:none", what="w" * 900_000),))
    for form, most in (("text", 10_000), ("markdown", 10_000), ("github", 5_000), ("junit", 60_000), ("csv", 80_000)):
        assert len(text_of(record, form)) < most, form


def test_parquet_holds_the_rows(tmp_path: Path) -> None:
    """Typed columns, as many rows as there are; strings as they stand."""
    import pyarrow.parquet as pq

    record = poisoned("control")
    (tmp_path / "t.parquet").write_bytes(rendered(record, "parquet"))
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column_names == list(columns(FindingRow))
    assert table.num_rows == len(finding_rows(record)) > 10
    assert table["candidate"].to_pylist() == [row.candidate for row in finding_rows(record)]
    assert str(table.schema.field("share").type) == "double"
    assert str(table.schema.field("first_step").type) == "int64"
    assert str(table.schema.field("faults").type).startswith("list<")


def test_parquet_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConformanceError, match="not installed here") as raised:
        rendered(typical(), "parquet")
    assert "rnn-conformance[notebook]" in str(raised.value)
    assert "csv" in str(raised.value)
