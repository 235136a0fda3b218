"""The gate on a command line: both directions, baselines, going on after an interruption, and what it writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET  # of what this test has written

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from test_gate import AGREES, CRASH, RAISED, both, diverges, finding, record

from conformance.cli import main
from conformance.gate import outcome
from conformance.known import check_known
from conformance.record import Incident, KnownList, Pair
from conformance.recordfile import read_record
from conformance.report.annotations import workflow_commands
from conformance.report.gate import gate_text
from conformance.report.html import render_html
from conformance.report.junit import junit
from conformance.report.summary import markdown, plain
from conformance.requirement import REQUIREMENTS
from conformance.verdict import Broken

WRONG = str(Path(__file__).resolve().parent / "miniatures" / "wrong")
SHORT = ("--adapter", WRONG, "-q", "--examples", "1", "-k", "gru_hidden_none")
HOSTILE = "<script>alert(1)</script> | `x`\n::error::no \x1b[31m"


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written elsewhere, and no workflow is around."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


def gate(*arguments: str, short: tuple[str, ...] = SHORT) -> Result:
    return CliRunner().invoke(main, ["gate", *arguments, *short])


def the_record() -> Path:
    (path,) = Path("reports").glob("gate-*.jsonl")
    return path


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A gate that fails, and the folder with all that it wrote; it is run once, to be read only."""
    folder = tmp_path_factory.mktemp("regression")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RNN_CONFORMANCE_CACHE", str(folder / "cache"))
        for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
            patch.delenv(name, raising=False)
        return gate("wrong:good", "wrong:drop_rbhn_t0", "--junit", "j.xml", "--summary", "s.md", "--annotate"), folder


def test_a_regression_is_named_and_fails(regression: tuple[Result, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Class, requirement and fault in one line; exit 1; and the record says the same when it is read again."""
    result, folder = regression
    monkeypatch.chdir(folder)
    assert result.exit_code == 1
    assert "regressed: gru_hidden_none, drop_rbhn_t0 (wrong:drop_rbhn_t0, float32)" in result.output
    assert "Regressed: gru_hidden_none, drop_rbhn_t0" in result.output
    assert "::error title=RNN gate%3A regressed::" in result.output
    again = CliRunner().invoke(main, ["report", str(the_record())])
    assert again.exit_code == 1
    assert "regressed: gru_hidden_none, drop_rbhn_t0" in again.output
    assert "gru_hidden_none" in Path("s.md").read_text(encoding="utf-8")
    suite = ET.parse("j.xml").getroot()[0]
    assert int(suite.attrib["failures"]) == 2
    page = the_record().with_suffix(".html").read_text(encoding="utf-8")
    title = re.search(r'<h1 id="gate">(.*)</h1>', page)
    assert title is not None
    assert re.fullmatch(r"wrong:good.* \N{RIGHTWARDS ARROW} wrong:drop_rbhn_t0.*: 1 requirement regressed", title[1])
    assert title.start() < page.index('id="answer"')


def test_the_other_way_it_is_fixed_and_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 0; the step summary of a workflow is appended to, and annotations are printed there."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "step.md")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    Path("step.md").write_text("before\n", encoding="utf-8")
    result = gate("wrong:drop_rbhn_t0", "wrong:good")
    assert result.exit_code == 0
    assert "fixed: gru_hidden_none, drop_rbhn_t0" in result.output
    assert "Safe: " in result.output
    assert "::notice title=RNN gate%3A safe::" in result.output
    assert Path("step.md").read_text(encoding="utf-8").startswith("before\n## RNN gate: safe")


def test_bits_are_probed_in_every_run(regression: tuple[Result, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides return numbers for the same case, which are not those of the other."""
    monkeypatch.chdir(regression[1])
    found = read_record(the_record())
    assert {probe.candidate for probe in found.probes} == {"wrong:good", "wrong:drop_rbhn_t0"}
    assert [drift.kind for drift in outcome(found).drifts] == ["beyond"]


def test_a_record_is_a_baseline() -> None:
    """An ordinary run today, accepted, is what tomorrow's release is held against."""
    arguments = [
        "run",
        "wrong:good",
        "--adapter",
        WRONG,
        "-q",
        "--examples",
        "2",
        "-k",
        "gru_hidden",
        "--output",
        "main",
    ]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    (accepted,) = Path("main").glob("*.jsonl")
    same = gate("--baseline", str(accepted), "wrong:good", "--output", "same")
    assert same.exit_code == 0
    assert "Bits are identical on the one probe" in " ".join(same.output.split())
    worse = gate("--baseline", str(accepted), "wrong:drop_rbhn_t0", "--output", "worse")
    assert worse.exit_code == 1
    assert f"as in {accepted.name}" in " ".join(worse.output.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("wrong:good",), "a gate has two sides"),
        (("wrong:good", "wrong:good"), "same candidate"),
        (("wrong:good", "wrong:drop_rbhn_t0", "--baseline", "x.jsonl"), "a gate has two sides"),
        (("wrong:good", "--baseline", "x.jsonl"), "cannot read the record"),
        (("wrong:good", "wrong:nothing"), "no such variant"),
        (("wrong:good", "wrong:unknown", "--known", "x.toml"), "cannot read the known divergences"),
        (("wrong:good", "wrong:unknown", "--resume", "x.jsonl"), "cannot read the record"),
    ],
)
def test_bad_input_is_one_message(arguments: tuple[str, ...], words: str) -> None:
    """And exit 2."""
    result = gate(*arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_an_environment_that_is_not_there_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither regressed nor safe: nothing is known of that side, and the message says why."""
    monkeypatch.setattr("conformance.plan.installed_version", lambda _: None)
    result = CliRunner().invoke(
        main, ["gate", "numpy@here", "wrong:good", "-q", "--examples", "1", "-k", "gru_hidden_none", "--adapter", WRONG]
    )
    assert result.exit_code == 3
    said = " ".join(result.output.split())
    assert "not available: numpy:float32@here: numpy is not installed beside the harness" in said
    assert "hint: install it here, or name a release" in said
    assert f"--resume {the_record()}" in said


def timeless(path: Path) -> list[str]:
    """The lines of a record without times and arguments, those of one candidate in their order."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            times = ("seconds", "started", "finished", "arguments", "command")
            return {key: stripped(own) for key, own in value.items() if key not in times}
        return [stripped(own) for own in value] if isinstance(value, list) else value

    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    ordered = sorted(lines, key=lambda own: str(own.get("candidate", own.get("name", own["type"]))))
    return [json.dumps(stripped(own), sort_keys=True) for own in ordered]


def test_an_interrupted_gate_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it was cut off: what was found is not run again, and the record comes out as if nothing had happened."""
    short = (*SHORT[:-1], "gru_hidden")
    assert gate("wrong:good", "wrong:drop_rbhn_t0", short=short).exit_code == 1
    path, whole = the_record(), timeless(the_record())
    lines = path.read_bytes().splitlines(keepends=True)
    for share in (0.1, 0.8):
        place = 3 + int((len(lines) - 4) * share)
        path.write_bytes(b"".join(lines[:place]) + lines[place][:20])
        done = {(f.candidate, f.requirement) for f in read_record(path).findings}
        assert done or share == 0.1, "something was there to be kept"
        result = gate("wrong:good", "wrong:drop_rbhn_t0", "--resume", str(path), short=short)
        assert result.exit_code == 1
        assert timeless(path) == whole
    calls: list[int] = []
    monkeypatch.setattr("conformance.cli.gate.run_groups", lambda *_, **__: calls.append(1))
    assert gate("wrong:good", "wrong:drop_rbhn_t0", "--resume", str(path), short=short).exit_code == 1
    assert not calls, "a whole record has nothing left to run"


def test_another_question_cannot_go_on(regression: tuple[Result, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed, selection and candidates must be those of the record."""
    monkeypatch.chdir(regression[1])
    path = str(the_record())
    for arguments in (("wrong:good", "wrong:unknown"), ("wrong:good", "wrong:drop_rbhn_t0", "--seed", "1")):
        result = gate(*arguments, "--resume", path)
        assert result.exit_code == 2
        assert "the record to go on with has another" in result.output


LISTED = """\
[[divergence]]
candidate = "wrong:drop_rbhn_t0"
requirement = "gru_hidden_none"
shows = "drop_rbhn_t0"
size = 1.0
factor = 100
reason = "planted"
owner = "ours"
link = "none: it is on purpose"
"""


def test_a_list_is_kept_strictly_by_runs_and_gates() -> None:
    """Listed as it shows: the run passes. Listed otherwise: each command fails and says where."""
    Path("list.toml").write_text(LISTED, encoding="utf-8")
    run = ["run", "wrong:drop_rbhn_t0", *SHORT, "--known", "list.toml"]
    passed = CliRunner().invoke(main, run)
    assert passed.exit_code == 0, passed.output
    assert "Everything that diverges is listed" in passed.output
    assert gate("wrong:drop_rbhn_t0", "wrong:good", "--known", "list.toml").exit_code == 0
    Path("list.toml").write_text(LISTED.replace('shows = "drop', 'shows = "swap'), encoding="utf-8")
    failed = CliRunner().invoke(main, run)
    assert failed.exit_code == 1
    assert "ANOTHER FAULT: wrong:drop_rbhn_t0, gru_hidden_none" in failed.output
    result = gate("wrong:drop_rbhn_t0", "wrong:good", "--known", "list.toml")
    assert result.exit_code == 1
    assert "Safe" in result.output
    assert "ANOTHER FAULT" in result.output


def test_only_a_whole_run_updates_a_list() -> None:
    """-k, --dtype and --case are refused, and so is a run without a list of one's own."""
    Path("list.toml").write_text("# mine\n", encoding="utf-8")
    run = ["run", "wrong:drop_rbhn_t0", "--adapter", WRONG, "-q", "--examples", "0", "--known"]
    for narrow in (["-k", "gru"], ["--dtype", "float32"]):
        refused = CliRunner().invoke(main, [*run, "list.toml", "--update-known", *narrow])
        assert refused.exit_code == 2
        assert "partial run" in refused.output
    assert CliRunner().invoke(main, [*run, "shipped", "--update-known"]).exit_code == 2
    assert Path("list.toml").read_text(encoding="utf-8") == "# mine\n"
    assert CliRunner().invoke(main, [*run, "list.toml", "--update-known"]).exit_code == 1
    text = Path("list.toml").read_text(encoding="utf-8")
    assert text.startswith("# mine")
    assert 'shows = "drop_rbhn_t0"' in text
    passed = CliRunner().invoke(main, [*run, "list.toml"])
    assert passed.exit_code == 0, passed.output


def hostile() -> tuple[Any, Any]:
    """A gate's record whose every free text is hostile."""
    message = replace(CRASH, message=HOSTILE, stderr_tail=HOSTILE)
    pair = Pair(before=f"one:a=={HOSTILE}", after=f"one:a@{HOSTILE}")
    own = record(finding(pair.before, AGREES), finding(pair.after, message), names=(pair.before, pair.after))
    gate_line = replace(own.gate, before=HOSTILE, after=HOSTILE, pairs=(pair,))
    incident = Incident(candidate=pair.after, what=f"{HOSTILE} after delivering every result", exit_code=134)
    own = replace(own, gate=gate_line, incidents=(incident,), known=KnownList(source=HOSTILE, dtypes=(), entries=()))
    return own, outcome(own)


def test_every_surface_shows_hostile_text_as_text() -> None:
    """HTML, JUnit, annotations and Markdown escape what comes from a record."""
    own, found = hostile()
    text = gate_text(own, found)
    page = render_html(own)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    root = ET.fromstring(junit(found))
    assert root.find(".//failure") is not None
    commands = workflow_commands(text).splitlines()
    assert len(commands) >= 2
    assert all(command.startswith(("::error title=", "::warning title=", "::notice title=")) for command in commands)
    summary = markdown(text)
    assert "<script>" not in summary
    tables = [row for row in summary.splitlines() if row.startswith("|")]
    assert {row.count("|") for row in tables} == {7}
    assert "\x1b" not in page + summary + junit(found) + workflow_commands(text)
    assert plain("a|b`c") == "a&#124;b&#96;c"


def test_an_abort_after_the_last_result_is_noted_and_no_failure() -> None:
    """It has a place of its own in the answer."""
    incident = Incident(
        candidate="one:a==2", what="the worker ended with exit code 134 after delivering every result", exit_code=134
    )
    own = replace(record(*both(AGREES, AGREES)), incidents=(incident,))
    found = outcome(own)
    assert found.exit_code == 0
    text = gate_text(own, found)
    assert text.incidents == ("one:a==2: the worker ended with exit code 134 after delivering every result",)
    assert "exit code 134" in markdown(text)
    assert "exit code 134" in render_html(own)


def test_a_loud_failure_that_became_a_silent_one_is_told_in_the_answer() -> None:
    """Named with both sides, on every surface, and as what it is: neither safe nor regressed."""
    own = record(*both(RAISED, diverges("drop_rbhn_t0")), *both(CRASH, AGREES, "gru_hidden_zeros"))
    found = outcome(own)
    text = gate_text(own, found)
    assert text.answer == "Neither safe nor regressed"
    assert "gru_hidden_none in one:a (float32): no answer (exception) before, drop_rbhn_t0 now" in text.paragraph
    assert "What raised an error before now goes wrong in silence" in text.paragraph
    assert "Fixed: gru_hidden_zeros" in text.paragraph
    assert "could not" not in text.paragraph.lower()
    assert "::warning title=RNN gate%3A neither safe nor regressed::" in workflow_commands(text)
    assert markdown(text).startswith("## RNN gate: neither safe nor regressed")
    answer = ET.fromstring(junit(found))[0][0]
    assert answer.find("error") is not None
    other = record(*both(diverges("swap_rz", size=0.5), diverges("swap_rz", size=50.0)))
    said = gate_text(other, outcome(other)).paragraph
    assert "largest difference 0.5 before, diverges: swap_rz, largest difference 50 now" in said
    assert "in silence" not in said


def test_a_side_that_never_came_up_is_told_once_and_with_what_to_do() -> None:
    """One row for all its checks, the reason in full on every surface, and not twice in one line."""
    gone = Broken(kind="environment", message="Nothing can be downloaded", stderr_tail="  where: uv\n  hint: check it")
    names = [name for name in REQUIREMENTS if name.startswith("gru_hidden")]
    own = record(*(line for name in names for line in both(AGREES, gone, name)))
    found = outcome(own)
    assert found.exit_code == 3
    text = gate_text(own, found)
    assert len(names) > 1
    (row,) = text.rows
    assert all(name in row.requirement for name in names)
    assert (row.before, row.after, row.why) == ("agrees", "broken (environment): Nothing can be downloaded", "")
    (absence,) = text.absent
    assert (absence.candidate, absence.what) == ("one:a==2", "Nothing can be downloaded")
    for surface in (markdown(text), render_html(own), workflow_commands(text)):
        assert "hint: check it" in surface


def test_junit_never_reads_as_a_pass_where_the_answer_is_none() -> None:
    """An answer other than safe is a failure or an error of its own test case."""
    for verdicts, tag in (((AGREES, diverges("swap_rz")), "failure"), ((AGREES, AGREES), "")):
        suite = ET.fromstring(junit(outcome(record(*both(*verdicts)))))[0]
        case = suite[0]
        assert case.attrib["name"] == "answer"
        assert [child.tag for child in case] == ([tag] if tag else [])
        assert int(suite.attrib["tests"]) == len(suite)
    nothing = ET.fromstring(junit(outcome(record(finding("one:a==1", AGREES)))))[0]
    assert nothing[0].find("error") is not None
    assert check_known(record(*both(AGREES, AGREES))) == ()
