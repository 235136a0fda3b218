"""Kept failures, tried again: fixed, still there, another one, or an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from msgspec.structs import replace as replace_struct

from conformance.cli import main
from conformance.discover import find_adapters
from conformance.errors import CaseError
from conformance.kept import Failure, Kept, kept_in, read_kept, write_kept
from conformance.recordfile import read_record
from conformance.replay import Replayed, compared, distinct, exit_code, remembered
from conformance.verdict import Agrees, Broken, Diverges, Evidence, Inconclusive

WRONG = Path(__file__).resolve().parent / "miniatures" / "wrong"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in which something diverged."""
    folder = tmp_path_factory.mktemp("run")
    words = ["run", "wrong:drop_rbhn_t0", "--adapter", str(WRONG), "--output", str(folder)]
    result = CliRunner().invoke(main, [*words, "--examples", "3", "-k", "gru_hidden_none", "--forget"])
    assert result.exit_code == 1, result.output
    return folder


def replayed(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["replay", *arguments, "--adapter", str(WRONG)])


def case_file(folder: Path) -> Path:
    (path,) = folder.glob("*-cases/*.json")
    return path


def altered(kept_run: Path, tmp_path: Path, change: Callable[[Failure], Failure]) -> Path:
    """The kept case file with something else said of its failure."""
    kept = read_kept(case_file(kept_run))
    assert kept.failure is not None
    assert kept.case is not None
    return write_kept(tmp_path / "altered.json", kept.case, change(kept.failure))


def test_a_run_keeps_whose_failure_it_was(kept_run: Path) -> None:
    """Candidate, requirement, faults and size stand beside the case, and the record holds the same."""
    kept = read_kept(case_file(kept_run))
    assert kept.failure is not None
    assert (kept.failure.candidate, kept.failure.requirement) == ("wrong:drop_rbhn_t0", "gru_hidden_none")
    assert kept.failure.faults == ("drop_rbhn_t0",)
    assert kept.failure.size
    assert kept.failure.version
    (path,) = kept_run.glob("*.jsonl")
    (again,) = kept_in(read_record(path))
    assert again.failure == kept.failure
    assert again.case is not None
    assert kept.case is not None
    assert again.case.digest == kept.case.digest


def test_what_is_still_wrong_still_fails(kept_run: Path) -> None:
    """All that the folder keeps, the file, and the record: one answer each, exit code 1."""
    (record,) = kept_run.glob("*.jsonl")
    for arguments in (["--output", str(kept_run)], [str(case_file(kept_run))], [str(record)]):
        result = replayed(*arguments)
        assert result.exit_code == 1, result.output
        assert "STILL FAILS: wrong:drop_rbhn_t0 gru_hidden_none float32" in result.output
        assert "1 STILL FAILS" in result.output
    both = replayed(str(record), str(case_file(kept_run)))
    assert "1 STILL FAILS" in both.output  # the same failure is tried once


@pytest.mark.parametrize(
    ("change", "answer", "code"),
    [
        ({"candidate": "wrong:good"}, "FIXED", 0),
        ({"candidate": "wrong:unknown"}, "CHANGED", 1),
        ({"faults": ("swap_rz",)}, "CHANGED", 1),
        ({"size": 123.0}, "CHANGED", 1),
        ({"size": None}, "CHANGED", 1),
        ({"candidate": "wrong:crash"}, "ERROR", 3),
        ({"candidate": "wrong:path"}, "ERROR", 3),
        ({"candidate": "nobody:none"}, "ERROR", 3),
        ({"candidate": "wrong:nothing"}, "ERROR", 3),
        ({"requirement": "gru_gone"}, "ERROR", 3),
        ({"dtype": "float8"}, "ERROR", 3),
    ],
)
def test_every_answer(kept_run: Path, tmp_path: Path, change: dict[str, object], answer: str, code: int) -> None:
    """What became of a failure decides the exit code; what cannot be tried is an error of its own."""
    result = replayed(str(altered(kept_run, tmp_path, lambda failure: replace_struct(failure, **change))))
    assert result.exit_code == code, result.output
    assert f"{answer}: " in result.stdout
    assert f"1 {answer}" in result.stdout


def test_a_file_from_before_is_an_error_that_says_what_to_do(kept_run: Path, tmp_path: Path) -> None:
    """It is read, but nobody knows whose failure it was."""
    data = json.loads(case_file(kept_run).read_text())
    del data["failure"]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(data))
    assert read_kept(old).failure is None
    result = replayed(str(old))
    assert result.exit_code == 3
    assert "does not say whose failure it is" in result.output


@pytest.mark.parametrize("said", [{"candidate": 3}, [], "x", {"candidate": "a"}])
def test_a_malformed_failure_is_one_message(kept_run: Path, tmp_path: Path, said: object) -> None:
    """It names the file."""
    data = json.loads(case_file(kept_run).read_text()) | {"failure": said}
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CaseError, match="malformed"):
        read_kept(path)
    result = replayed(str(path))
    assert result.exit_code == 2
    assert str(path) in result.output.replace("\n", "")


def test_nothing_to_try_is_no_success(tmp_path: Path) -> None:
    """An empty folder, and an empty list of results."""
    result = replayed("--output", str(tmp_path))
    assert result.exit_code == 2
    assert "no kept failures" in result.output
    assert exit_code([]) == 3


def test_what_the_example_database_remembers_is_tried(tmp_path: Path) -> None:
    """Still there for the same candidate, fixed for one that is right; the database itself stays as it is."""
    words = ["--adapter", str(WRONG), "--examples", "3", "-k", "gru_hidden_none", "--output", str(tmp_path / "out")]
    assert CliRunner().invoke(main, ["run", "wrong:drop_rbhn_t0", *words]).exit_code == 1
    nowhere = str(tmp_path / "nowhere")
    (place,) = (tmp_path / "cache" / "examples").iterdir()
    before = sorted(place.rglob("*"))
    result = replayed("--output", nowhere)
    assert result.exit_code == 1, result.output
    assert "STILL FAILS: wrong:drop_rbhn_t0 gru_hidden_none float32" in result.output
    assert "remembered examples" in result.output
    place = place.rename(place.with_name(place.name.replace("drop_rbhn_t0", "good")))
    result = replayed("--output", nowhere)
    assert result.exit_code == 0, result.output
    assert "FIXED: wrong:good" in result.output
    assert len(sorted(place.rglob("*"))) == len(before)
    for number, key in enumerate(list(place.iterdir())):  # as if it were of another version of the test function
        key.rename(key.with_name(f"{number:016}"))
    result = replayed("--output", nowhere)
    assert result.exit_code == 3, result.output
    assert "ERROR: wrong:good" in result.output


def test_folders_of_an_example_database_tell_their_candidates(tmp_path: Path) -> None:
    """Hyphens in names, releases with local parts; what names no candidate is passed over."""
    names = {
        "mlx_none==0.31.1-gru_hidden_none-float32-0.31.1": "mlx:none==0.31.1",
        "flax-nnx_lax-scan-gru_hidden_zeros-bfloat16-0.12.8": "flax-nnx:lax-scan",
        "torch_layer-gru_kept_exactly-float32-2.13.0+cpu": "torch:layer",
        "mlx_none@_home-gru_hidden_none-float32-0.31.1": None,
        "nobody_none-gru_hidden_none-float32-1": None,
        "torch_layer-gru_gone-float32-2": None,
    }
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "one").touch()
    found = [kept.failure.candidate for kept in remembered(tmp_path, find_adapters()) if kept.failure]
    assert sorted(found) == sorted(name for name in names.values() if name)


FAILURE = Failure(candidate="a:b", version="1", requirement="r", dtype="float32", faults=("f",), size=1.0)
EVIDENCE = Evidence(
    output="outputs",
    first=(0, 0, 0),
    expected=1.0,
    observed=2.0,
    bound=0.1,
    largest_difference=1.0,
    share=10.0,
    outside=1,
    compared=1,
)


def agrees(*excluded: str) -> Agrees:
    return Agrees(excluded=frozenset(excluded), share=0.5, compared=4)


def test_an_agreement_that_could_not_have_shown_the_fault_is_no_fix() -> None:
    """Where the requirement is about the named fault, the case must rule it out."""
    assert compared(FAILURE, agrees("f"), ("f",))[0] == "FIXED"
    assert compared(FAILURE, agrees("g"), ("f", "g"))[0] == "ERROR"
    assert compared(FAILURE, agrees(), ())[0] == "FIXED"


def test_sizes_count_as_the_same_within_five_percent() -> None:
    """Another order of summation is no change; another size is."""

    def of(size: float | None) -> str:
        return compared(FAILURE, Diverges(faults=("f",), evidence=replace_struct(EVIDENCE, largest_difference=size)))[0]

    assert [of(1.0), of(1.04), of(0.96), of(1.1), of(0.5), of(None)] == ["STILL FAILS"] * 3 + ["CHANGED"] * 3


def test_what_tells_nothing_is_an_error() -> None:
    """Inconclusive or broken: neither fixed nor there."""
    assert compared(FAILURE, Inconclusive(why="w")) == ("ERROR", "w")
    assert compared(FAILURE, Broken(kind="crash", message="m")) == ("ERROR", "m")


def test_the_worst_answer_decides(kept_run: Path) -> None:
    """Something still wrong outweighs an error, an error outweighs a fix."""
    kept = read_kept(case_file(kept_run))
    fixed, failing, error = (
        Replayed(kept=kept, answer=answer, detail="", version="")  # type: ignore[arg-type]
        for answer in ("FIXED", "STILL FAILS", "ERROR")
    )
    assert [exit_code(x) for x in ([fixed], [fixed, error], [fixed, error, failing])] == [0, 3, 1]


def test_one_failure_from_two_places_is_one(kept_run: Path) -> None:
    """The same candidate, requirement and case; another case is another failure."""
    kept = read_kept(case_file(kept_run))
    assert kept.case is not None
    other = Kept(source="x", case=replace(kept.case, x=kept.case.x + 1), failure=kept.failure)
    assert distinct([kept, replace(kept, source="copy"), other]) == (kept, other)
