"""Releases of a tiny framework, judged for real: where its answer changed, remembered, interrupted and resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from conformance import archive as archive_module
from conformance import installer, resolution
from conformance.archive import Archive, at_release, lasting, question, state_of
from conformance.candidate import parse_spec
from conformance.cli import main
from conformance.discover import find_adapters
from conformance.environments import list_environments
from conformance.plan import Group, candidates_for, plan
from conformance.recordfile import read_record
from conformance.requirement import REQUIREMENTS
from conformance.settings import Settings
from conformance.verdict import Agrees, Broken, Diverges, Evidence, Inconclusive, Unrepresentable

BEHAVIOURS = {
    "1.0": "drop",
    "1.1": "drop",
    "1.2": "raise ImportError('no such symbol')",
    "1.3": "drop",
    "2.0": "good",
    "2.1": "good",
}

MANIFEST = """
[adapter]
name = "tinyrnn"
title = "Tiny"
distribution = "tinyrnn"

[variants.loop]
title = "a loop"
default = true
cells = ["gru"]
dtypes = ["float32"]
unbatched = false

[variants.loop.paths]
omitted = "tiny(x)"
"""

ADAPTER = """
import numpy as np
import tinyrnn

from conformance.worker.api import Result


def facts():
    return {"behaviour": tinyrnn.BEHAVIOUR}


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def run(case):
    p = case.parameters
    h = np.zeros((*case.x.shape[:-2], case.hidden), np.float32)
    states = []
    for step, x in enumerate(np.moveaxis(case.x, -2, 0)):
        r = sigmoid(x @ p["W_xr"].T + p["b_xr"] + h @ p["W_hr"].T + p["b_hr"])
        z = sigmoid(x @ p["W_xz"].T + p["b_xz"] + h @ p["W_hz"].T + p["b_hz"])
        hn = h @ p["W_hn"].T + p["b_hn"]
        if tinyrnn.BEHAVIOUR == "drop" and step == 0:
            hn = 0 * hn
        n = np.tanh(x @ p["W_xn"].T + p["b_xn"] + r * hn)
        h = (1 - z) * n + z * h
        states.append(h)
    outputs = np.stack(states, axis=-2)
    return Result(outputs=outputs, final_state=outputs[..., -1, :], dtype=outputs.dtype.name, path="tiny(x)")
"""


def publish(folder: Path, version: str, behaviour: str) -> None:
    """Write a wheel of tinyrnn; it brings NumPy by pointing to where the harness has it."""
    info = f"tinyrnn-{version}.dist-info"
    body = behaviour if behaviour.startswith("raise") else f"BEHAVIOUR = {behaviour!r}"
    with zipfile.ZipFile(folder / f"tinyrnn-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinyrnn.py", body + "\n")
        wheel.writestr("tinyrnn_numpy.pth", str(Path(np.__file__).parent.parent) + "\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tinyrnn\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv's cache of this module."""
    return tmp_path_factory.mktemp("uv")


@pytest.fixture
def adapter(tmp_path: Path, uv_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The adapter's folder; its framework's releases are all that pip may see, and the cache is empty."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for version, behaviour in BEHAVIOURS.items():
        publish(wheels, version, behaviour)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_cache))
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    # What pip prints for these variables, without the time that pip takes.
    listing = f":env:.no-index='1'\n:env:.find-links={str(wheels)!r}\n"
    monkeypatch.setattr(installer, "_pip_config", lambda: listing)
    monkeypatch.setattr(resolution, "_pythons", lambda _: iter((Path(sys.executable),)))
    folder = tmp_path / "tinyrnn"
    folder.mkdir()
    (folder / "adapter.toml").write_text(MANIFEST)
    (folder / "adapter.py").write_text(ADAPTER)
    (folder / "requirements.txt").write_text("tinyrnn==2.1\n")
    return folder


def invoke(adapter: Path, *arguments: str) -> Result:
    """Run a command on the tiny framework with few cases."""
    fixed = ["-k", "gru_hidden_none", "--examples", "1", "--adapter", str(adapter)]
    return CliRunner().invoke(main, [*arguments, *fixed])


def group_of(adapter: Path) -> Group:
    (candidate,) = candidates_for(find_adapters([adapter]), [parse_spec("tinyrnn")])
    (group,) = plan([candidate], [REQUIREMENTS["gru_hidden_none"]], ["float32"])
    return group


def archive(**options: object) -> Archive:
    return Archive(settings=Settings(examples=2, seed=0), told=lambda _: None, **options)  # type: ignore[arg-type]


def counts(result: Result) -> tuple[int, int]:
    """Environments made and releases judged."""
    found = re.search(r"(\d+) environments made, (\d+) releases judged", result.output)
    assert found, result.output
    return int(found[1]), int(found[2])


def test_bisect_finds_the_release_and_remembers(adapter: Path, tmp_path: Path) -> None:
    """The boundary, past a release that does not import; the second time nothing is made, nothing is to be had."""
    first = invoke(adapter, "bisect", "tinyrnn", "1.0..2.1", "--probes", "0")
    assert first.exit_code == 0, first.output
    assert "diverges (drop_rbhn_t0) up to 1.3, agrees from 2.0" in first.output
    assert "1.2: does not start" in first.output
    assert "inferred" in first.output
    assert counts(first)[0] == counts(first)[1] < len(BEHAVIOURS)
    for path in (tmp_path / "wheels").iterdir():
        path.unlink()
    again = invoke(adapter, "bisect", "tinyrnn", "1.0..2.1", "--probes", "0")
    assert again.exit_code == 0, again.output
    assert counts(again) == (0, 0)
    assert [line for line in again.stdout.splitlines() if "up to" in line] == [
        line for line in first.stdout.splitlines() if "up to" in line
    ]


def test_trend_shows_every_release_and_uses_what_bisect_judged(adapter: Path, tmp_path: Path) -> None:
    """The page holds the drawing, a mark for every state, and the table; inert, and without colour to read."""
    invoke(adapter, "bisect", "tinyrnn", "1.3..2.0", "--probes", "0")
    result = invoke(adapter, "trend", "tinyrnn", "--versions", "1.2..2.0", "--output", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert counts(result) == (1, 1)
    page = next((tmp_path / "out").glob("trend-*.html")).read_text()
    drawn = page[page.index("<svg") : page.index("</svg>")]
    assert re.findall(r'class="mark [a-z]+"[^>]*>([^<]+)<', drawn) == ["S", "D", "A"]
    assert page[page.index('id="answers"') :].count("<td>") == 3
    assert "does not start" in page[page.index("<table") :]
    assert "no such symbol" in page
    assert page.count("<script") == 1
    assert "1.3, like drop_rbhn_t0 \N{EM DASH} the term r * b_hn is missing" in page
    assert "rnn-conformance gate tinyrnn==1.3 tinyrnn==2.0 -k gru_hidden_none" in page
    assert "n = tanh(W_xn x + b_xn" in page
    assert "S D A" in " ".join(result.stdout.split())


def test_no_environment_is_kept_when_asked(adapter: Path) -> None:
    """--no-keep removes each after use; the verdicts stay."""
    result = invoke(adapter, "bisect", "tinyrnn", "1.3..2.0", "--probes", "0", "--no-keep")
    assert counts(result) == (2, 2)
    assert list_environments() == []
    assert counts(invoke(adapter, "bisect", "tinyrnn", "1.3..2.0", "--probes", "0")) == (0, 0)


def test_what_was_judged_before_a_kill_is_not_judged_again(adapter: Path, tmp_path: Path) -> None:
    """kill -9 in the middle: what was judged stays, nothing half-written is read, and the next one goes on."""
    words = ["bisect", "tinyrnn", "1.2..2.1", "-k", "gru_hidden_none", "--examples", "1", "--adapter", str(adapter)]
    command = [sys.executable, "-m", "conformance.cli", *words, "--scan"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    verdicts = tmp_path / "cache" / "verdicts"
    while not list(verdicts.glob("*/*.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = len(list(verdicts.glob("*/*.jsonl")))
    result = invoke(adapter, "bisect", "tinyrnn", "1.2..2.1", "--scan")
    assert result.exit_code == 0, result.output
    assert counts(result)[1] == 4 - before
    assert 0 < before < 4


def test_a_verdict_is_kept_for_exactly_what_it_depends_on(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another seed, another adapter, another source of the harness: judged anew. A cut file: judged anew."""
    group = at_release(group_of(adapter), "2.0")
    asked = archive()
    assert asked.judge([group])[question(group)].label == "agrees"
    record = asked.record(group)
    assert record is not None
    assert (len(record.trials), record.problem) == (record.findings[0].trials, "")
    assert record.findings[0].trials > 0
    assert archive().kept(group) is not None
    assert archive(fresh=True).kept(group) is None
    assert Archive(settings=Settings(examples=2, seed=1), told=print).kept(group) is None
    path = asked._path(group)
    path.write_bytes(path.read_bytes()[:-30])
    assert read_record(path).problem
    assert archive().kept(group) is None
    asked.judge([group])
    (adapter / "adapter.py").write_text(ADAPTER + "# changed\n")
    archive_module._folder_digest.cache_clear()
    assert archive().kept(group) is None
    (adapter / "adapter.py").write_text(ADAPTER)
    archive_module._folder_digest.cache_clear()
    assert archive().kept(group) is not None
    sharing = replace(group.candidate.adapter, shares=(adapter,))
    assert archive().kept(replace(group, candidate=replace(group.candidate, adapter=sharing))) is None
    monkeypatch.setattr(archive_module, "_source", lambda: "another harness")
    assert archive().kept(group) is None


def test_a_release_that_cannot_be_had_is_not_remembered(adapter: Path, tmp_path: Path) -> None:
    """It may be there tomorrow."""
    group = at_release(group_of(adapter), "3.0")
    state = archive().judge([group])[question(group)]
    assert (state.kind, state.label) == ("unavailable", "unavailable")
    assert "No such release" in state.detail
    assert archive().kept(group) is None
    publish(tmp_path / "wheels", "3.0", "good")
    assert archive().judge([group])[question(group)].label == "agrees"


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


@pytest.mark.parametrize(
    ("verdict", "kind", "label", "kept"),
    [
        (Agrees(excluded=frozenset(), share=0.1, compared=1), "answer", "agrees", True),
        (Diverges(faults=("a", "b"), evidence=EVIDENCE), "answer", "diverges (a, b)", True),
        (Diverges(faults=(), evidence=EVIDENCE), "answer", "diverges (none of the catalogue)", True),
        (Inconclusive(why="other path"), "failure", "inconclusive", True),
        (Broken(kind="crash", message="died", signal="SIGABRT"), "failure", "breaks", True),
        (Broken(kind="crash", message="died", signal="SIGKILL"), "failure", "breaks", False),
        (Broken(kind="hang", message="late"), "failure", "breaks", False),
        (Broken(kind="abandoned", message="often"), "failure", "breaks", False),
        (Broken(kind="start", message="no import"), "failure", "does not start", True),
        (Broken(kind="exception", message="the harness failed: x"), "failure", "breaks", False),
        (
            Unrepresentable(
                parameters=("b_hn",),
                owner="upstream",
                reason="",
                link="",
                subspace=Broken(kind="hang", message="late"),
            ),
            "failure",
            "breaks where it can represent (no place for b_hn)",
            False,
        ),
    ],
)
def test_every_verdict_is_a_state_and_what_may_pass_is_not_kept(
    verdict: object, kind: str, label: str, kept: bool
) -> None:
    """Numbers are no part of a state; a timeout or a killed worker is not remembered."""
    state = state_of(verdict)  # type: ignore[arg-type]
    assert (state.kind, state.label, lasting(verdict)) == (kind, label, kept)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tinyrnn==1.0", "1.0..2.0"), "names its own release"),
        (("tinyrnn", "2.0..1.0"), "range of releases is empty"),
        (("tinyrnn", "1.0..2.0", "--also", "x.y"), "version is no version"),
        (("tinyrnn:none", "1.0..2.0"), "no such variant"),
        (("tinyrnn", "1.0..2.0", "--dtype", "float64"), "nothing to ask"),
    ],
)
def test_bad_input_is_one_message(adapter: Path, arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, nothing was asked or made."""
    result = invoke(adapter, "bisect", *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert "Traceback" not in result.output


def test_releases_of_an_adapter_without_requirements_cannot_be_asked(adapter: Path) -> None:
    """There is nothing to make environments from."""
    (adapter / "requirements.txt").unlink()
    result = invoke(adapter, "bisect", "tinyrnn", "1.0..2.0")
    assert result.exit_code == 2
    assert "tinyrnn has no releases" in result.output
