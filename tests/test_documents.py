"""The documents are true: commands are those that CI runs, the tutorial's adapter works, what they name exists."""

from __future__ import annotations

import configparser
import dataclasses
import re
import runpy
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

import conformance
from conformance.cli import main
from conformance.cli.root import COMMANDS
from conformance.discover import Feature, find_adapters
from conformance.faults import CATALOGUE, register
from conformance.judge import judge, planted, probe
from conformance.requirement import REQUIREMENTS
from conformance.rounding import DTYPES
from conformance.verdict import Diverges
from conformance.worker.api import Result, WorkerCase

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "adapter-tutorial.md").read_text(encoding="utf-8")


def shell_blocks(text: str) -> list[str]:
    """The shell commands of a document."""
    return [block.strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


def test_ci_runs_the_readmes_test_command() -> None:
    """The second of the README's two commands stands in .ci/run, word for word."""
    _, test_command = shell_blocks(README)
    assert test_command.endswith("tox")
    assert test_command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_ci_asks_every_adapter() -> None:
    """One call of tox's `ci` is for several adapters: none of those that are shipped is left out of it."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "tox.ini", encoding="utf-8")
    assert config["tox"]["env_list"].split(", ") == ["ci", "wheel"]
    (section,) = [config[name] for name in config.sections() if name.startswith("testenv:{ci,")]
    shipped = {
        name for name, adapter in find_adapters().items() if name != "mingru-pytorch"
    }  # a package, in frameworks
    asked = dict(line.split(" = ", 1) for line in section["set_env"].splitlines() if line.startswith("ci"))
    assert set(asked.pop("ci: ADAPTERS").split()) == shipped
    commands = [line for line in section["commands"].splitlines() if "pytest conformance/suite" in line]
    whole = set[str]()
    for name, candidates in asked.items():
        adapter, variable = re.fullmatch(r"ci,(\S+): (\S+)", name).groups()
        assert {named.partition(":")[0] for named in _candidates(candidates)} == {adapter}
        whole |= {named for named in _candidates(candidates) if ":" not in named}
        (command,) = (line for line in commands if f"{{env:{variable}:}}" in line)
        assert {"ci", adapter} <= set(command.partition(": ")[0].split(","))
    assert whole == shipped
    # An environment of its own runs what `ci` runs for it: no line is for one of the two alone.
    assert all(line.startswith("ci,") for line in section["commands"].splitlines() if line and line[0] != "#")


def _candidates(line: str) -> list[str]:
    return re.findall(r"--rnn-candidate ([^{\s]\S*)", line)


def test_the_readme_has_no_placeholders() -> None:
    """Nothing is left to fill in."""
    assert "@@" not in README
    assert "TODO" not in README


def test_links_lead_somewhere() -> None:
    """Every relative link and picture of the README exists."""
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if not t.startswith("http")]
    assert len(targets) >= 4
    for target in targets:
        assert (ROOT / target).exists(), target


def test_candidates_and_commands_in_the_readme_exist() -> None:
    """Every adapter that a command names is shipped, and every subcommand is one."""
    words = re.findall(r"rnn-conformance ([a-z-]+)((?: [^\s`|]+)*)", README)
    adapters = find_adapters()
    assert {command for command, _ in words} <= set(COMMANDS)
    arguments = [word.strip("'") for _, rest in words for word in rest.split() if re.match(r"'?[a-z]", word)]
    assert any("/" in argument for argument in arguments)
    for argument in arguments:
        if argument.startswith("fixtures/"):
            assert (ROOT / argument).is_file(), argument
        elif argument.endswith(".py:MyGRUCell") or re.fullmatch(r"[\d.]+", argument):
            continue  # a reader's own file; a range of releases
        elif "/" not in argument and not any(argument in name for name in REQUIREMENTS):
            adapter = argument.split(":")[0].split("==")[0]
            others = ("adapters", "harness", "list", "prune", "scan", *CATALOGUE, *DTYPES)
            assert adapter in adapters or argument in others, argument


def test_faults_named_in_the_documents_exist() -> None:
    """A fault that a document promises is in the catalogue."""
    promised = {"drop_rbhn_t0", "swap_rz", "update_flip"}
    assert promised <= set(CATALOGUE["gru"])
    assert all(name in README + TUTORIAL for name in promised)
    assert f"{len(CATALOGUE['gru'])} hypotheses; {len(CATALOGUE['gru_v1'])} for `gru_v1`" in (
        ROOT / "CHANGELOG.md"
    ).read_text(encoding="utf-8")


def test_the_tutorial_knows_every_feature() -> None:
    """What a manifest may offer is explained; what the API calls its fields is what the page calls them."""
    assert [feature for feature in get_args(Feature) if f"`{feature}`" not in TUTORIAL] == []
    fields = {field.name for kind in (WorkerCase, Result) for field in dataclasses.fields(kind)}
    names = ("lengths", "reverse", "directions", "layers", "cotangents", "inputs_back", "gradients", "inputs_after")
    assert set(names) <= fields
    assert [name for name in names if f"`{name}`" not in TUTORIAL] == []


def test_the_changelog_knows_this_version() -> None:
    """The version of the distribution has an entry."""
    assert f"## {conformance.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def tutorial_adapter(folder: Path) -> Path:
    """The tutorial's files, as it prints them."""
    folder.mkdir()
    files = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", TUTORIAL, re.DOTALL)
    assert [name for name, _ in files] == ["adapter.toml", "adapter.py"]
    for name, text in files:
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(folder: Path, out: Path, *more: str) -> tuple[int, str]:
    """Run the adapter; its exit code and the summary without spaces."""
    arguments = ["run", "mine", "--adapter", str(folder), "--output", str(out), "--examples", "3", "--forget", *more]
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, "".join(result.output.split())


def test_the_tutorials_adapter_is_healthy_and_agrees(tmp_path: Path) -> None:
    """Copied from the page, it passes smoke and run."""
    folder = tutorial_adapter(tmp_path / "mine")
    assert CliRunner().invoke(main, ["smoke", "mine", "--adapter", str(folder)]).exit_code == 0
    code, output = run(folder, tmp_path / "out")
    assert code == 0, output


_Z_FIRST = '["W_xz", "W_xr", "W_xn"],\n    "U": ["W_hz", "W_hr", "W_hn"],\n    "b": ["b_xz + b_hz", "b_xr + b_hr"'
_R_FIRST = '["W_xr", "W_xz", "W_xn"],\n    "U": ["W_hr", "W_hz", "W_hn"],\n    "b": ["b_xr + b_hr", "b_xz + b_hz"'


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        (_Z_FIRST, _R_FIRST, "swap_rz"),
        ("h = (1 - z) * n + z * h", "h = (1 - z) * h + z * n", "update_flip"),
    ],
    ids=["swap_rz", "update_flip"],
)
def test_the_tutorials_mistakes_get_their_names(tmp_path: Path, right: str, wrong: str, fault: str) -> None:
    """Each mistake that the page suggests to make is named as the page says."""
    folder = tutorial_adapter(tmp_path / "mine")
    code = (folder / "adapter.py").read_text(encoding="utf-8")
    assert right in code
    (folder / "adapter.py").write_text(code.replace(right, wrong), encoding="utf-8")
    exit_code, output = run(folder, tmp_path / "out", "-k", "gru_hidden_given")
    assert exit_code == 1
    assert f"behaveslike{fault}" in output


def test_the_tutorials_fault_is_planted_caught_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Copied from the page and registered, it is one of the catalogue's."""
    (code,) = re.findall(r"<!-- fault -->\n```python\n(.*?)```", TUTORIAL, re.DOTALL)
    (tmp_path / "theirs.py").write_text(code, encoding="utf-8")
    names = runpy.run_path(str(tmp_path / "theirs.py"))
    monkeypatch.setitem(CATALOGUE, "gru", dict(CATALOGUE["gru"]))
    for cell, fault in names["faults"]():
        register(cell, fault)
    case = probe("gru", "given")
    verdict = judge(case, planted(case, CATALOGUE["gru"]["halved_bhn"]), ())
    assert isinstance(verdict, Diverges)
    assert verdict.faults == ("halved_bhn",)


def test_the_document_of_requirements_is_that_of_the_code() -> None:
    """docs/requirements.md is what `rnn-conformance list requirements --markdown` prints."""
    printed = CliRunner().invoke(main, ["list", "requirements", "--markdown"]).output
    assert (ROOT / "docs" / "requirements.md").read_text(encoding="utf-8") == printed
    assert f"{len(REQUIREMENTS)} requirements" in README


def test_the_published_schema_is_that_of_the_code() -> None:
    """docs/record.schema.json is what `rnn-conformance schema` prints."""
    printed = CliRunner().invoke(main, ["schema"]).output
    assert (ROOT / "docs" / "record.schema.json").read_text(encoding="utf-8") == printed


def test_the_example_report_is_of_this_format() -> None:
    """The committed example names the fault, and loads nothing from anywhere."""
    text = (ROOT / "reports" / "example.html").read_text(encoding="utf-8")
    assert "drop_rbhn_t0" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", text)
