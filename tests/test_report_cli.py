"""``report`` as a user types it: every format, several records, exit codes; and what a run writes for CI."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET  # of what this test has written

import pytest
from click.testing import CliRunner, Result
from test_formats import POISON
from test_frames import saved
from test_merge import OTHER, WRONG, part
from test_report import AGREES, typical

from conformance.candidate import Spec
from conformance.cli import main
from conformance.discover import read_adapter
from conformance.errors import EnvironmentUnavailable
from conformance.merge import write_record
from conformance.plan import candidates_for, plan
from conformance.record import Record
from conformance.recordfile import read_record
from conformance.report.formats import FORMATS, SUFFIXES, rendered
from conformance.report.rows import TrialRow
from conformance.requirement import REQUIREMENTS
from conformance.run import Silent, run
from conformance.settings import Settings

WRONG_ADAPTER = str(Path(__file__).resolve().parent / "miniatures" / "wrong")


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written elsewhere, and no workflow is around."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


def report(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", *arguments])


def file(name: str, record: Record) -> str:
    """The record in a file of the current folder."""
    write_record(Path(name), record)
    return name


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "parquet"])
def test_one_format_goes_to_standard_output(form: str) -> None:
    """Nothing but the format, no file beside the record, and the exit code of the record."""
    name = file("a.jsonl", part("mlx:none", verdict=WRONG))
    result = report(name, "--format", form)
    assert result.exit_code == 1, result.output
    assert [path.name for path in Path().iterdir()] == ["a.jsonl"]
    if form != "text":
        assert result.stdout_bytes == rendered(read_record(Path(name)), form)  # type: ignore[arg-type]  # one of them
    assert result.stderr == ""


def test_one_format_goes_into_a_file_several_into_a_folder() -> None:
    """All formats of one record, each under its own name."""
    name = file("a.jsonl", part("mlx:none"))
    assert report(name, "--format", "csv", "--output", "x/own.csv").exit_code == 0
    assert Path("x/own.csv").read_bytes() == rendered(read_record(Path(name)), "csv")
    wanted = [word for form in FORMATS for word in ("--format", form)]
    result = report(name, *wanted, "--output", "all")
    assert result.exit_code == 0, result.output
    assert {path.name for path in Path("all").iterdir()} == {f"a{suffix}" for suffix in SUFFIXES.values()}
    assert all(path.stat().st_size > 50 for path in Path("all").iterdir())


def test_trials_can_be_the_rows() -> None:
    saved(Path(), typical())
    result = report("r.jsonl", "--format", "json", "--rows", "trials")
    assert len(json.loads(result.stdout)["trials"]) == len(typical().trials) > 10
    assert report("r.jsonl", "--format", "csv", "--rows", "trials").stdout_bytes == rendered(
        read_record(Path("r.jsonl")), "csv", TrialRow
    )


def test_several_records_are_one_answer() -> None:
    """In either order; a divergence in one of them is the exit code of all; no file is left without being asked for."""
    good, bad = file("a.jsonl", part("torch:layer")), file("b.jsonl", part("mlx:none", verdict=WRONG))
    results = [report(good, bad), report(bad, good)]
    assert [result.exit_code for result in results] == [1, 1]
    assert results[0].output == results[1].output
    for word in ("torch:layer", "mlx:none", "1 of 2 candidates diverges"):
        assert word in results[0].output
    assert len(list(Path().iterdir())) == 2


def test_a_merged_record_is_written_and_read_again() -> None:
    """With its HTML beside it; `report` of it says the same."""
    good, other = file("a.jsonl", part("torch:layer")), file("b.jsonl", OTHER)
    first = report(good, other, "--merged", "out.jsonl")
    assert first.exit_code == 0, first.output
    page = Path("out.html").read_bytes()
    again = report("out.jsonl")
    assert again.exit_code == 0
    assert Path("out.html").read_bytes() == page
    assert first.output.replace("record: out.jsonl\n", "") == again.output
    assert read_record(Path("out.jsonl")).header.candidates == ("torch:layer", "mlx:none")


def test_what_cannot_be_merged_is_shown_apart() -> None:
    """The message says so, and doing it works."""
    one, two = file("one.jsonl", part("mlx:none")), file("two.jsonl", part("mlx:none", verdict=WRONG, seed=8))
    refused = report(one, two)
    assert refused.exit_code == 2
    for word in ("another seed", "one.jsonl", "two.jsonl", "--apart"):
        assert word in refused.output
    apart = report(one, two, "--apart")
    assert apart.exit_code == 1
    assert "mlx:none [two] behaves like drop_bhn" in " ".join(apart.output.split())


def test_a_partial_record_gives_what_it_has() -> None:
    """Cut in the middle of a line: a divergence before it stays one, agreement is no agreement."""
    for verdict, code in ((WRONG, 1), (AGREES, 3)):
        path = Path(file("a.jsonl", part("mlx:none", verdict=verdict)))
        path.write_bytes(path.read_bytes()[:-9])
        for form in ("text", "markdown", "junit", "github", "json", "html"):
            result = report("a.jsonl", "--format", form)
            assert result.exit_code == code
            assert "the last line was cut off" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument"),
        (("a.jsonl", "--apart"), "for several records"),
        (("a.jsonl", "--merged", "x.jsonl"), "for several records"),
        (("a.jsonl", "--output", "x"), "--output needs a format"),
        (("a.jsonl", "--format", "csv", "--format", "json"), "several formats need a folder"),
        (("a.jsonl", "--format", "parquet"), "not for a terminal"),
        (("a.jsonl", "--format", "csv", "--open"), "no HTML file to open"),
        (("a.jsonl", "a.jsonl"), "named twice"),
        (("a.jsonl", "b.jsonl", "--merged", "b.jsonl"), "would overwrite"),
        (("a.jsonl", "--format", "csv", "--output", "a.jsonl/x.csv"), "cannot write the report (csv)"),
        (("a.jsonl", "--format", "pdf"), "Invalid value for '--format'"),
    ],
)
def test_bad_usage_is_one_message(arguments: tuple[str, ...], words: str) -> None:
    """And exit 2, with nothing written."""
    before = Path(file("a.jsonl", part("torch:layer"))).read_bytes(), Path(file("b.jsonl", OTHER)).read_bytes()
    result = report(*arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert (Path("a.jsonl").read_bytes(), Path("b.jsonl").read_bytes()) == before
    assert len(list(Path().iterdir())) == 2


def test_an_error_about_a_strangers_record_is_harmless() -> None:
    """What is quoted of it sends nothing to a terminal, and is no workflow command."""
    evil = "\x1b[2J\n::error::x\n ##[error]x"
    first = part(evil)
    result = report(file("a.jsonl", first), file("b.jsonl", part(evil)))
    assert result.exit_code == 2
    assert "same candidate" in result.output
    assert "\x1b" not in result.output
    assert not re.search(r"(?m)^\s*::|##\[", result.output)


def test_a_workflow_reads_no_commands_in_a_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are stopped with a word that nobody knows before text of a stranger's is printed."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = report(file("a.jsonl", part(f"mlx:{POISON['lines']}")))
    first, *others, last, _, _ = [*result.output.splitlines(), ""]
    token = re.fullmatch(r"::stop-commands::([0-9a-f]{32})", first)
    assert token is not None
    assert f"::{token[1]}::" in (last, others[-1])
    assert sum(token[1] in line for line in result.output.splitlines()) == 2


SHORT = ("--adapter", WRONG_ADAPTER, "--examples", "2", "-k", "gru_hidden_none", "--forget", "--output", "out")


def test_a_run_writes_junit_summary_and_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a gate does: on request, and in a workflow by itself."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "step.md")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    words = ["run", "wrong:drop_rbhn_t0", "-q", "--junit", "ci/j.xml", "--summary", "s.md", *SHORT]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1, result.output
    assert ET.parse("ci/j.xml").getroot()[1].get("failures") == "1"
    assert "drop_rbhn_t0" in Path("s.md").read_text(encoding="utf-8")
    assert Path("step.md").read_text(encoding="utf-8").startswith("## RNN conformance: fails\n")
    *_, answered, command = result.output.splitlines()
    assert answered.startswith("::error title=RNN conformance%3A fails::1 of 1 candidate diverges")
    assert command.startswith(
        "::error title=diverges%3A wrong%3Adrop_rbhn_t0::gru_hidden_none (float32): diverges: drop"
    )


def test_verbose_tells_everything_and_quiet_nothing() -> None:
    """On standard error; both at once is refused."""
    words = ["run", "wrong:good", *SHORT]
    told = {option: CliRunner().invoke(main, [*words, *option.split()]) for option in ("", "-q", "-v", "-q -v")}
    assert told["-q"].stderr == ""
    assert "agrees" not in told[""].stderr.replace("1 agrees)", "")
    assert "wrong:good: done (1 of 1 checks of all candidates: 1 agrees)" in told[""].stderr
    assert "gru_hidden_none float32 begins" in told["-v"].stderr
    assert told["-q -v"].exit_code == 2
    assert {result.exit_code for option, result in told.items() if option != "-q -v"} == {0}


# Where the tests themselves run in the background, SIGINT is ignored and children inherit that.
_INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from conformance.cli import main; main()"
)


def interrupted(*words: str, once: bytes) -> tuple[int, str, Path]:
    """Exit code, standard error and record of a command that gets SIGINT once its record holds something."""
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTIBLE, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not any(once in path.read_bytes() for path in Path("out").glob("*.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    (path,) = Path("out").glob("*.jsonl")
    return process.returncode, errors, path


def test_a_run_that_is_interrupted_while_it_works_leaves_a_usable_record() -> None:
    """In the middle of many cases: exit 3, a partial record that every format tells as one."""
    code, errors, path = interrupted(
        *("run", "wrong:good", "numpy:float32", "-q", "--adapter", WRONG_ADAPTER, "--output", "out", "--forget"),
        *("-k", "gru_hidden", "--examples", "5000"),
        once=b'"type":"trial"',
    )
    assert code == 3, errors
    assert errors.startswith("interrupted")
    assert "Traceback" not in errors
    record = read_record(path)
    assert record.problem == "incomplete: the run did not come to its end"
    assert record.trials
    assert path.with_suffix(".html").is_file()
    assert '"message": "incomplete"' in report(str(path), "--format", "shields").output


def test_an_interrupted_benchmark_leaves_a_usable_record() -> None:
    """What was not measured is not there, and the exit code is 3."""
    code, errors, path = interrupted(
        *("bench", "numpy:float32", "numpy:scan", "--cell", "mingru", "--shape", "1x4x2x2", "--budget", "60", "-q"),
        *("--output", "out"),
        once=b'"type":"header"',
    )
    assert code == 3, errors
    assert "Traceback" not in errors
    assert read_record(path).problem.startswith("incomplete")


def test_an_interruption_anywhere_is_not_a_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 says that something diverges; what was interrupted could not be completed."""

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("conformance.cli.report.read_record", stopped)
    result = report("a.jsonl")
    assert (result.exit_code, result.output) == (3, "interrupted\n")


def test_an_installation_that_is_interrupted_says_nothing_about_its_candidate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C on a terminal ends pip, too; that is no finding."""
    adapter = read_adapter(Path(WRONG_ADAPTER))
    groups = plan(
        candidates_for({"wrong": adapter}, [Spec(adapter="wrong", variant="good")]), (REQUIREMENTS["gru_hidden_none"],)
    )

    def killed(*_: object) -> None:
        raise EnvironmentUnavailable("pip ended with a signal")

    monkeypatch.setattr("conformance.run.interpreter_of", killed)
    lines: list[object] = []
    (finding,) = run(groups, Settings(examples=1, seed=0), lines.append, Silent())
    assert lines == [finding], "without an interruption it is one"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    lines.clear()
    monkeypatch.setattr("conformance.run.wait", interrupt)
    monkeypatch.setattr("conformance.run.interpreter_of", lambda *_: (time.sleep(1), killed())[1])
    with pytest.raises(KeyboardInterrupt):
        run(groups, Settings(examples=1, seed=0), lines.append, Silent())
    assert lines == []
