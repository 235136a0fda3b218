"""The command line as a user types it: outcomes, exit codes, messages, files."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from conformance.adequacy import Adequacy
from conformance.cells import CELLS, cell_named
from conformance.cli import main
from conformance.cli.root import COMMANDS
from conformance.discover import find_adapters
from conformance.faults import CATALOGUE
from conformance.recordfile import read_record
from conformance.signature import GENERIC, LATTICE, SHORT_LATTICE
from conformance.smoke import _cases as smoke_cases
from conformance.verdict import Agrees, Diverges

WRONG = str(Path(__file__).resolve().parent / "miniatures" / "wrong")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache of its own."""
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))


def invoke(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(main, arguments)


def run(tmp_path: Path, *arguments: str) -> Result:
    """``rnn-conformance run`` on the miniatures, few examples, output into tmp_path."""
    fixed = ["--adapter", WRONG, "--output", str(tmp_path / "out"), "--examples", "2", "-k", "gru_hidden_none"]
    return invoke("run", *arguments, *fixed)


def only_record(tmp_path: Path) -> Path:
    """The one record that was written."""
    (path,) = (tmp_path / "out").glob("*.jsonl")
    return path


def test_an_agreeing_run_exits_with_0_and_says_where_its_files_are(tmp_path: Path) -> None:
    """Record and report exist, are named on the last lines, and the record is whole."""
    result = run(tmp_path, "wrong:good")
    assert result.exit_code == 0, result.output
    path = only_record(tmp_path)
    assert result.output.splitlines()[-2:] == [f"record: {path}", f"report: {path.with_suffix('.html')}"]
    assert read_record(path).problem == ""
    assert "<html" in path.with_suffix(".html").read_text()


@pytest.mark.parametrize(
    ("variant", "code", "words"),
    [
        ("drop_rbhn_t0", 1, ["diverges", "drop_rbhn_t0"]),
        ("unknown", 1, ["diverges", "none of the catalogue"]),
        ("nan", 1, ["diverges", "not finite"]),
        ("no_b_hn", 0, ["unrepresentable", "b_hn", "upstream", "https://example.org/5594"]),
        ("crash", 3, ["broken", "SIGABRT"]),
        ("raises", 3, ["broken", "no such luck <b>"]),
        ("path", 3, ["inconclusive", "shortcut"]),
    ],
)
def test_every_outcome_has_its_exit_code_and_words(tmp_path: Path, variant: str, code: int, words: list[str]) -> None:
    """Divergence is 1; what could not be told is 3; a declared gap with an agreeing rest is 0."""
    result = run(tmp_path, f"wrong:{variant}")
    flat = " ".join(result.output.replace("\n", " ").split())
    squeezed = flat.replace(" ", "")
    assert result.exit_code == code, result.output
    for word in words:
        assert word.replace(" ", "") in squeezed


def test_divergence_outweighs_breakage_in_the_exit_code(tmp_path: Path) -> None:
    """A crash beside a divergence does not hide it."""
    assert run(tmp_path, "wrong:crash", "wrong:drop_rbhn_t0", "wrong:good").exit_code == 1


def test_the_minimal_case_can_be_run_again(tmp_path: Path) -> None:
    """The case file beside the record shows the divergence again, and agreement of a good cell."""
    run(tmp_path, "wrong:drop_rbhn_t0")
    record = read_record(only_record(tmp_path))
    example = record.findings[0].example
    assert example is not None
    case_file = next((tmp_path / "out").glob("*-cases/*.json"))
    assert str(case_file) in example.command
    assert f"--adapter {WRONG}" in example.command
    again = invoke(*shlex.split(example.command)[1:], "--output", str(tmp_path / "again"))
    assert again.exit_code == 1, again.output
    for variant, code, kind in (("drop_rbhn_t0", 1, Diverges), ("good", 0, Agrees)):
        out = tmp_path / variant
        fixed = ["--adapter", WRONG, "--output", str(out), "--case", str(case_file), "-k", "gru_hidden_none"]
        result = invoke("run", f"wrong:{variant}", *fixed)
        assert result.exit_code == code, result.output
        (finding,) = read_record(next(out.glob("*.jsonl"))).findings
        assert isinstance(finding.verdict, kind)
        assert finding.trials == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "nothing:none"), ["unknown adapter", "mlx"]),
        (("run", "mlx:nine"), ["no such variant", "none | zeros"]),
        (("run", "mlx:none=0.31"), ["cannot read the candidate"]),
        (("run", "-k", "gru_hiden"), ["no requirement matches", "gru_hiden", "list requirements"]),
        (("run", "--adapter", "/nowhere"), ["cannot read an adapter's manifest", "/nowhere"]),
        (("run", "--case", "/nowhere.json"), ["cannot read the case file"]),
        (("run", "--dtype", "float8"), ["float8"]),
        (("report", "/nowhere.jsonl"), ["cannot read the record"]),
        (("env", "prune"), ["say what to remove"]),
    ],
)
def test_bad_usage_exits_with_2_and_one_message(arguments: tuple[str, ...], words: list[str]) -> None:
    """What, where, got, wanted; never a traceback."""
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output


def test_an_unwritable_folder_is_one_message(tmp_path: Path) -> None:
    """A file in the way of the output folder is found before anything runs."""
    (tmp_path / "file").write_text("in the way")
    result = invoke("run", "wrong:good", "--adapter", WRONG, "--output", str(tmp_path / "file" / "out"))
    assert result.exit_code == 2
    assert "cannot write the record" in result.output


def test_a_candidate_that_offers_nothing_selected_is_not_a_pass(tmp_path: Path) -> None:
    """Nothing compared is exit code 3, and said."""
    arguments = ("--adapter", WRONG, "--output", str(tmp_path), "-k", "gru_v1")
    result = invoke("run", "wrong:good", *arguments)
    assert result.exit_code == 3
    assert "nothing was compared" in result.output.lower().replace("\n", " ")


def test_report_renders_a_record_again(tmp_path: Path) -> None:
    """`report` gives the same bytes and the same exit code as the run that wrote the record."""
    assert run(tmp_path, "wrong:drop_rbhn_t0").exit_code == 1
    path = only_record(tmp_path)
    target = tmp_path / "again.html"
    assert invoke("report", str(path), "--html", str(target)).exit_code == 1
    assert target.read_bytes() == path.with_suffix(".html").read_bytes()


def test_smoke_tells_a_healthy_adapter_from_a_broken_one() -> None:
    """Wrong arithmetic passes smoke; a broken contract does not."""
    assert invoke("smoke", "wrong:drop_rbhn_t0", "--adapter", WRONG).exit_code == 0
    for variant in ("raises", "dtype", "path", "nan", "crash"):
        result = invoke("smoke", f"wrong:{variant}", "--adapter", WRONG)
        assert result.exit_code == 3, variant


def test_smoke_of_several_tells_of_each_in_turn() -> None:
    """They are checked side by side; the rows are in the order asked for, and a broken one breaks no other."""
    names = ["wrong:drop_rbhn_t0", "wrong:raises", "wrong:good"]
    result = invoke("smoke", *names, "--adapter", WRONG)
    assert result.exit_code == 3
    rows = [line for line in result.stdout.splitlines() if "cases" in line]
    assert [next(name for name in names if name in row) for row in rows] == names
    assert ["none" in row for row in rows] == [True, False, True]


def test_what_smoke_has_compiled_is_asked_by_the_suite() -> None:
    """With a batch axis its cases have a shape asked in every dtype; in none does one axis look like another."""
    variant = find_adapters()["numpy"].variants["float32"]
    cases = list(smoke_cases(variant))
    for case in cases:
        sizes = (case.shape.batch, case.shape.time, case.shape.features, case.shape.hidden)
        assert len(set(sizes)) == len(sizes)
    shapes = {case.shape for case in cases if case.batched and not cell_named(case.cell).projected}
    assert shapes == {GENERIC}
    assert all((GENERIC, True) in lattice for lattice in (LATTICE, SHORT_LATTICE))


def test_smoke_knows_every_cell() -> None:
    """An adapter that offers all of them is asked for each, in every spelling, batched and unbatched."""
    result = invoke("smoke", "numpy:float32")
    assert result.exit_code == 0, result.output
    # Three spellings of the state; a positive state cannot be zero and is not given.
    positive = sum(kind.positive for kind in CELLS.values())
    assert f"{2 * (3 * len(CELLS) - positive)} cases" in result.output


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("adapters", ["mlx", "flax-nnx", "torch==2.13.0"]),
        ("variants", ["mlx:none", "flax-nnx:lax-scan", "b_hn"]),
        ("requirements", ["gru_hidden_none", "MUST", "3249"]),
        ("faults", ["drop_rbhn_t0", "no_Wh"]),
    ],
)
def test_list_shows_what_there_is(what: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of thing is listed."""
    monkeypatch.setenv("COLUMNS", "300")
    result = invoke("list", what)
    assert result.exit_code == 0
    for word in words:
        assert word in result.output


def test_schema_is_json() -> None:
    """The published schema of a record's lines can be read by any tool."""
    assert "$defs" in json.loads(invoke("schema").output)


def test_env_list_says_when_there_is_nothing() -> None:
    """An empty cache is no error."""
    result = invoke("env", "list")
    assert result.exit_code == 0
    assert "no managed environments" in result.output


def test_a_first_answer_waits_for_nothing_that_only_later_ones_need() -> None:
    """What judges is imported while workers start; Hypothesis, templates, reports when something is drawn or shown."""
    code = "import json, sys, conformance.cli.run; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    found = set(json.loads(done.stdout))
    assert "conformance.run" in found
    assert (
        found & {f"conformance.{name}" for name in ("examine", "judge", "diagnosis", "gradient", "relation")} == set()
    )
    assert "numpy.random" in found, "while it is loaded, a Ctrl-C is lost"
    assert found & {"filelock", "hypothesis", "jinja2", "pytest", "rich", "tomlkit", "urllib.request"} == set()
    reports = {name for name in found if name.startswith(("conformance.report.", "conformance.cli.gate"))}
    assert reports == {"conformance.report.wording"}


def test_a_run_leaves_nothing_but_its_output(tmp_path: Path) -> None:
    """What it keeps of failures is in the cache."""
    here = tmp_path / "here"
    here.mkdir()
    words = ["run", "wrong:drop_rbhn_t0", "--adapter", WRONG, "-k", "gru_hidden_none", "--examples", "12", "-q"]
    done = subprocess.run([sys.executable, "-m", "conformance.cli", *words], cwd=here, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert [path.name for path in here.iterdir()] == ["reports"]
    assert list((tmp_path / "cache" / "examples").rglob("*"))


def test_what_hypothesis_stores_of_its_own_is_in_the_cache(tmp_path: Path) -> None:
    """Whether it stores anything is up to what it draws; where it would, is not."""
    code = """
from click.testing import CliRunner
from conformance.cli import main
CliRunner().invoke(main, ["schema"])
from hypothesis.configuration import storage_directory
print(storage_directory().path)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "cache" / "hypothesis")


def test_a_command_that_is_not_there_is_told_from_those_that_are() -> None:
    """Commands are imported when they are asked for; what may have been meant is said all the same."""
    result = invoke("gat")
    assert result.exit_code == 2
    assert "gate" in result.output
    listed = invoke("--help").output
    assert all(name in listed for name in COMMANDS)


def test_help_documents_the_exit_codes() -> None:
    """`--help` is enough to use the command in a script."""
    for arguments in (("--help",), ("run", "--help")):
        text = invoke(*arguments).output
        assert "Exit codes:" in text
        assert "0  nothing diverges on a MUST requirement" in text
        assert "1  something does" in text


def test_ctrl_c_leaves_a_readable_incomplete_record(tmp_path: Path) -> None:
    """An interrupted run keeps what was done, says that it is incomplete, and exits with 3."""
    # Where the tests themselves run in the background, SIGINT is ignored and children inherit that.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from conformance.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "run", "wrong:good", "wrong:hang", "--adapter", WRONG]
    command += ["--output", str(tmp_path / "out"), "-k", "gru_hidden_none", "--examples", "3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        records = list((tmp_path / "out").glob("*.jsonl"))
        if records and b'"type":"finding"' in records[0].read_bytes():
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 3, errors
    record = read_record(only_record(tmp_path))
    assert record.problem.startswith("incomplete")
    assert [finding.candidate for finding in record.findings] == ["wrong:good"]
    assert "incomplete" in output.lower() + errors.lower()


def test_ctrl_c_while_a_command_is_imported_is_not_a_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3, not click's 1."""

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("conformance.cli.root.import_module", interrupted)
    result = invoke("run", "wrong:good")
    assert result.exit_code == 3
    assert "interrupted" in result.output


def test_faults_prints_its_scores_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite proves its own teeth: what it catches and names, its replicas, exit code 0."""
    monkeypatch.setenv("COLUMNS", "250")
    result = invoke("faults", "--cell", "elman", "--dtype", "float16", "--brief")
    assert result.exit_code == 0, result.output
    assert re.search(r"elman float16: caught (\d+) of \1; named uniquely (\d+) of the \2 ", result.output)
    assert "wrongly 0; false alarms on 30 conforming runs: 0" in result.output
    assert f"replica of 'shapes only': catches 0 of {len(CATALOGUE['elman'])} faults" in result.output


class Matrix(Executor):
    """A pool that answers every question with one matrix."""

    matrix: Adequacy

    def __init__(self, **_: object) -> None:
        pass

    def submit(self, *_: object, **__: object) -> Future[Any]:  # type: ignore[override]
        done: Future[Any] = Future()
        done.set_result(self.matrix)
        return done


def test_faults_fails_when_something_is_missed_or_misnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What slips through, and what gets another name, is said on the last lines, and is exit code 1."""
    monkeypatch.setenv("COLUMNS", "250")
    Matrix.matrix = Adequacy(
        cell="gru",
        dtype="float32",
        catches={
            "drop_rbhn_t0": {"gru_hidden_none": "missed", "gru_hidden_given": "hidden"},
            "swap_rz": {"gru_hidden_none": "misnamed", "gru_hidden_given": "named"},
        },
        kinds={"drop_rbhn_t0": "fault", "swap_rz": "fault"},
        aims={"gru_hidden_none": ("drop_rbhn_t0",), "gru_hidden_given": ("swap_rz",)},
        oracles={"shapes only": frozenset()},
        void=frozenset(),
        false_alarms={"derived bound": 0},
        conforming=30,
    )
    monkeypatch.setattr("conformance.cli.figures.ProcessPoolExecutor", Matrix)
    result = invoke("faults", "--cell", "gru", "--dtype", "float32")
    assert result.exit_code == 1
    assert re.search(r"drop_rbhn_t0\W+\.\W+\.", result.output)
    assert re.search(r"swap_rz\W+W\W+N\W+\.", result.output)
    for problem in ("no requirement catches drop_rbhn_t0", "gru_hidden_none gives swap_rz another name"):
        assert f"problem: gru float32: {problem}" in result.output
