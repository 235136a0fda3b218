"""Records: written as they go, read back whole, and honest when they are cut off or malformed."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from conformance.errors import RecordError
from conformance.record import (
    FORMAT,
    ArrayPair,
    CandidateLine,
    CaseSummary,
    Example,
    Finding,
    Footer,
    Header,
    Incident,
    KnownEntry,
    KnownList,
    Line,
    RequirementEntry,
    Trial,
    record_schema,
)
from conformance.recordfile import RecordWriter, read_record
from conformance.verdict import (
    Agrees,
    Broken,
    Diverges,
    Evidence,
    Inconclusive,
    StepRow,
    Unrepresentable,
    Unsupported,
    Verdict,
)

EVIDENCE = Evidence(
    output="outputs",
    first=(0, 1, 2),
    expected=0.1,
    observed=None,
    bound=1e-7,
    largest_difference=None,
    share=None,
    outside=3,
    compared=24,
    finite=False,
    steps=(StepRow(step=0, difference=0.1, residual=0.1, bound=1e-7, share=1e6),),
    residuals={"drop_bhn": 0.5},
    intermediates={"r": 0.5},
)
AGREES = Agrees(excluded=frozenset({"swap_rz", "drop_bhn"}), share=0.25, compared=24)
VERDICTS: tuple[Verdict, ...] = (
    AGREES,
    Diverges(faults=("drop_bhn",), evidence=EVIDENCE),
    Unrepresentable(parameters=("b_hn",), owner="upstream", reason="none", link="https://example.org", subspace=AGREES),
    Unsupported(what="dtype float64", owner="upstream", reason="none"),
    Inconclusive(why="saturated", missing=frozenset({"no_Wh"})),
    Broken(kind="crash", message="gone", exit_code=-6, signal="SIGABRT", stderr_tail="\x1b[31mred"),
)
HEADER = Header(
    format=FORMAT,
    harness="0",
    started="2026-01-01T00:00:00+00:00",
    seed=0,
    examples=1,
    arguments=("run",),
    candidates=("a",),
    requirements=(
        RequirementEntry(
            name="r", level="SHOULD", statement="s", source="t", cell="gru", initial="given", relation="split"
        ),
    ),
    faults={},
)
CASE = CaseSummary(digest="0", origin="here", shape=(1, 2, 3, 4), batched=True, initial="omitted")
EXAMPLE = Example(
    case={"x": [[[1.0]]]},
    verdict=VERDICTS[1],
    observed_outputs=[[[None]]],
    observed_final_state=[[None]],
    expected_outputs=[[[0.1]]],
    expected_final_state=[[0.1]],
    repro="print()",
    command="rnn-conformance run a",
    further=(ArrayPair(name="gradient of W_hn", observed=[[None]], expected=[[1.0]]),),
)
LINES: tuple[Line, ...] = (
    CandidateLine(name="a", adapter="a", variant="b", title="t", version="1", environment="e", facts={"python": "3"}),
    *(
        Trial(
            candidate="a",
            requirement="r",
            dtype="float32",
            phase="shipped",
            case=CASE,
            verdict=v,
            path="p",
            seconds=0.1,
        )
        for v in VERDICTS
    ),
    Incident(candidate="a", what="died", exit_code=-9, signal="SIGKILL"),
    *(
        Finding(candidate="a", requirement="r", dtype="float32", verdict=v, trials=1, seconds=0.1, example=EXAMPLE)
        for v in VERDICTS
    ),
    Footer(finished="2026-01-01T00:00:01+00:00", trials=6, findings=6),
)


def written(path: Path, lines: tuple[Line, ...] = LINES) -> Path:
    """A record file with these lines."""
    with RecordWriter(path, HEADER) as writer:
        for line in lines:
            writer.write(line)
    return path


def test_a_record_survives_writing_and_reading(tmp_path: Path) -> None:
    """Every kind of line and verdict is read back as it was written."""
    record = read_record(written(tmp_path / "r.jsonl"))
    assert record.problem == ""
    assert record.header == HEADER
    assert record.lines == len(LINES) + 1
    assert (*record.candidates, *record.trials, *record.incidents, *record.findings, record.footer) == LINES


def test_writing_is_deterministic(tmp_path: Path) -> None:
    """Sets have no order; their bytes do."""
    one, other = written(tmp_path / "a"), written(tmp_path / "b")
    assert one.read_bytes() == other.read_bytes()
    assert b'["drop_bhn","swap_rz"]' in one.read_bytes()


def test_lines_are_flushed_as_they_are_written(tmp_path: Path) -> None:
    """What has been written is on disk before the record is closed."""
    path = tmp_path / "r.jsonl"
    with RecordWriter(path, HEADER) as writer:
        writer.write(LINES[0])
        assert read_record(path).problem == "incomplete: the run did not come to its end"
        assert read_record(path).candidates == (LINES[0],)


@pytest.mark.parametrize("cut", [1, 30])
def test_a_cut_off_record_is_readable_and_says_so(tmp_path: Path, cut: int) -> None:
    """A kill in the middle of a line loses that line only."""
    path = written(tmp_path / "r.jsonl")
    path.write_bytes(path.read_bytes()[:-cut])
    record = read_record(path)
    assert record.problem == "incomplete: the last line was cut off"
    assert len(record.findings) == len(VERDICTS)
    assert record.footer is None


def test_every_byte_of_a_record_may_be_the_last(tmp_path: Path) -> None:
    """Whatever the length of what remains: a readable record that calls itself incomplete, or a clear error."""
    data = written(tmp_path / "r.jsonl", LINES[:2]).read_bytes()
    path = tmp_path / "cut.jsonl"
    header_end = data.index(b"\n") + 1
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        if length < header_end:
            with pytest.raises(RecordError, match="does not begin with a header"):
                read_record(path)
        else:
            assert read_record(path).problem.startswith("incomplete")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{}", "malformed line"),
        (b"not json", "malformed line"),
        (b'{"type":"trial"}', "malformed line"),
        (b'{"type":"exec","code":"import os"}', "malformed line"),
        (b'{"type":"incident","candidate":1,"what":""}', "malformed line"),
        (b"[" * 100000, "malformed line"),
        (b"\xff\xfe", "malformed line"),
    ],
)
def test_malformed_lines_are_refused_with_their_number(tmp_path: Path, line: bytes, message: str) -> None:
    """A stranger's record cannot smuggle anything in: the line is named and nothing is rendered."""
    path = written(tmp_path / "r.jsonl")
    good = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([good[0], line + b"\n", *good[1:]]))
    with pytest.raises(RecordError, match=message) as caught:
        read_record(path)
    assert "line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"\x7fELF\x02\x01\x00\x00", "not a record"),
        (b"\x1f\x8b\x08\x00\n\x00\n", "decompress it"),
        (b"PK\x03\x04zip", "decompress it"),
        (b"<html>\n", "not a record"),
        (b"[]\n[]\n", "not a record"),
        (b"\x00" * 5000, "not a record"),
        (b"\n\n", "not a record"),
        (b'{"type":"header"}\n', "missing required field"),
        (b'{"type":"footer","finished":"","trials":0,"findings":0}\n', "type: Footer"),
    ],
)
def test_what_is_no_record_is_told_in_one_message(tmp_path: Path, data: bytes, words: str) -> None:
    """Whatever somebody takes for a record, and what to do about it."""
    path = tmp_path / "r.jsonl"
    path.write_bytes(data)
    with pytest.raises(RecordError) as caught:
        read_record(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_message_quotes_a_stranger_harmlessly(tmp_path: Path) -> None:
    """Neither escape sequences nor line breaks of what a line holds are in the error."""
    path = written(tmp_path / "r.jsonl")
    line = b'{"type":"\\u001b[2J\\n::error::x\\u202e"}\n'
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(RecordError) as caught:
        read_record(path)
    assert "\\x1b[2J\\n::error::x\\u202e" in caught.value.got
    assert caught.value.got.isprintable()


def test_a_line_that_would_fill_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is read to a limit, whatever it holds; one just as long is none too long."""
    path = written(tmp_path / "r.jsonl")
    longest = max(map(len, path.read_bytes().split(b"\n")))
    monkeypatch.setattr("conformance.recordfile.LONGEST_LINE", longest + 1)
    assert read_record(path).problem == ""
    for end in (b"\n", b""):
        path.write_bytes(path.read_bytes() + b"[" * 2 * longest + end)
        with pytest.raises(RecordError, match="too long to be one"):
            read_record(path)


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "1" * 5000, "1e400", "NaN", "1.5"])
def test_numbers_that_no_table_holds_are_refused(tmp_path: Path, number: str) -> None:
    """A count is a whole number of 64 bits."""
    path = written(tmp_path / "r.jsonl")
    data = path.read_bytes()
    assert data.count(b'"trials":6') == 1
    path.write_bytes(data.replace(b'"trials":6', f'"trials":{number}'.encode()))
    with pytest.raises(RecordError, match="malformed line"):
        read_record(path)


def known(versions: str = "") -> KnownList:
    entry = KnownEntry(
        candidate="a", requirement="r", shows="none", reason="r", owner="ours", link="none: x", versions=versions
    )
    return KnownList(source="s", dtypes=(), entries=(entry,))


def test_a_list_of_known_divergences_must_make_sense(tmp_path: Path) -> None:
    """Its versions are versions; and its record says when it was made, since the list expires."""
    assert read_record(written(tmp_path / "r.jsonl", (known(">=1"), *LINES))).known is not None
    with pytest.raises(RecordError, match="malformed line") as caught:
        read_record(written(tmp_path / "r.jsonl", (known("no version"), *LINES)))
    assert "line 2" in str(caught.value)
    path = written(tmp_path / "r.jsonl", (known(), *LINES))
    path.write_bytes(path.read_bytes().replace(b'"started":"2026-01-01T', b'"started":"some day'))
    with pytest.raises(RecordError, match="does not say when it was made"):
        read_record(path)


@pytest.mark.parametrize(
    ("order", "message"),
    [([1, 2], "does not begin with a header"), ([0, -1, 1], "after its footer"), ([0, 0], "two headers")],
)
def test_lines_in_the_wrong_place_are_refused(tmp_path: Path, order: list[int], message: str) -> None:
    """A record is one run: one header first, one footer last."""
    path = written(tmp_path / "r.jsonl")
    good = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(good[index] for index in order))
    with pytest.raises(RecordError, match=message):
        read_record(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    """A record of a later format is not half understood."""
    path = written(tmp_path / "r.jsonl")
    path.write_bytes(path.read_bytes().replace(FORMAT.encode(), b"rnn-conformance-record-9"))
    with pytest.raises(RecordError, match="another format"):
        read_record(path)


def test_a_missing_record_is_an_error(tmp_path: Path) -> None:
    """A file that is not there has a message with its path."""
    with pytest.raises(RecordError, match="cannot read the record") as caught:
        read_record(tmp_path / "none.jsonl")
    assert str(tmp_path) in str(caught.value)


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    """A file where the folder should be: one message, with what to do."""
    (tmp_path / "reports").write_text("in the way")
    with pytest.raises(RecordError, match="cannot write the record") as caught:
        RecordWriter(tmp_path / "reports" / "r.jsonl", HEADER)
    assert "--output" in str(caught.value)


def test_lines_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    """Candidates run side by side and write one record."""
    path = tmp_path / "r.jsonl"
    with RecordWriter(path, HEADER) as writer:
        threads = [threading.Thread(target=lambda: [writer.write(LINES[1]) for _ in range(200)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_record(path).trials) == 800


def test_the_published_schema_knows_every_kind_of_line() -> None:
    """The schema is generated from the classes that read and write records."""
    text = json.dumps(record_schema())
    for kind in ("header", "candidate", "trial", "incident", "finding", "footer"):
        assert f'"enum": ["{kind}"]' in text
    for verdict in ("agrees", "diverges", "unrepresentable", "unsupported", "inconclusive", "broken"):
        assert f'"enum": ["{verdict}"]' in text


def test_a_record_without_the_later_fields_is_read(tmp_path: Path) -> None:
    """A record that knows neither relations nor further arrays is of the same format."""
    path = written(tmp_path / "r.jsonl")
    later = (
        b',"relation":"split"',
        b',"further":[{"name":"gradient of W_hn","observed":[[null]],"expected":[[1.0]]}]',
    )
    data = path.read_bytes()
    for part in later:
        assert part in data
        data = data.replace(part, b"")
    path.write_bytes(data)
    record = read_record(path)
    assert record.header.requirements[0].relation == ""
    assert all(finding.example is not None and finding.example.further == () for finding in record.findings)
