"""The shipped suite as pytest runs it: pass, fail with a full message, and never pass on nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET  # of what this test has written

import pytest
from filelock import FileLock

from conformance.candidate import Spec
from conformance.discover import read_adapter
from conformance.plan import candidates_for, plan
from conformance.requirement import REQUIREMENTS

WRONG = str(Path(__file__).resolve().parent / "miniatures" / "wrong")
SUITE = (
    "--pyargs",
    "conformance",
    "-c",
    "tox.ini",
    "--rnn-adapter",
    WRONG,
    "--rnn-examples",
    "8",
)


@pytest.fixture(autouse=True)
def _elsewhere(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a cache of the test's own: this project's pytest settings must not apply."""
    pytester.makeini("[pytest]\n")
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))


def asked(variant: str) -> int:
    """How many requirements and dtypes a candidate is asked."""
    adapter = read_adapter(Path(WRONG))
    candidates = candidates_for({adapter.name: adapter}, [Spec(adapter=adapter.name, variant=variant)])
    return len(plan(candidates, tuple(REQUIREMENTS.values())))


@dataclass(frozen=True)
class Session:
    """What a session of pytest came to: how each test ended, by its id in brackets, and its message."""

    ends: Mapping[str, tuple[str, str]]
    printed: str
    code: int

    def of(self, candidate: str) -> dict[str, tuple[str, str]]:
        """The tests of one candidate."""
        return {name: end for name, end in self.ends.items() if f"-wrong:{candidate}-" in name}

    def only(self, requirement: str, candidate: str) -> tuple[str, str]:
        """The one test that a candidate had, which is of this requirement."""
        assert list(self.of(candidate)) == [f"{requirement}-wrong:{candidate}-float32"]
        return self.ends[f"{requirement}-wrong:{candidate}-float32"]


# What each wrong candidate is asked; the good one is asked everything.
WRONG_IN = {
    "drop_rbhn_t0": "gru_hidden_none",
    "lengths_ignored": "gru_lengths",
    "state_detached": "gru_gradient",
    "remembers": "gru_repeated",
    "crash": "gru_hidden_none",
    "path": "gru_hidden_none",
    "unknown": "gru_hidden_none",
    "no_b_hn": "gru_hidden_none",
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """One session for all candidates: starting pytest, and the harness in it, is what most of them would cost.

    Of several processes that run these tests the first one makes it, and the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "plugin-session"
    with FileLock(f"{folder}.lock"):
        if not (folder / "code").is_file():
            _ask_all(folder)
    ends: dict[str, tuple[str, str]] = {}
    for case in ET.parse(folder / "ends.xml").getroot().iter("testcase"):
        name = case.attrib["name"].removeprefix("test_requirement[").removesuffix("]")
        (told,) = [*case] or [None]
        ends[name] = ("passed", "") if told is None else (told.tag, told.attrib["message"] + "\n" + (told.text or ""))
    return Session(ends=ends, printed=(folder / "printed").read_text(), code=int((folder / "code").read_text()))


def _ask_all(folder: Path) -> None:
    """Run the session in a folder, and leave there what it came to."""
    folder.mkdir()
    (folder / "tox.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(
        "import sys\ndef pytest_sessionfinish():\n"
        "    print('FRAMEWORKS', sorted({'mlx', 'torch', 'jax', 'flax'} & set(sys.modules)))\n"
    )
    words = [*SUITE, "-p", "conftest", "-p", "no:xdist", "-s", "--junitxml", "ends.xml"]
    for variant in ("good", *WRONG_IN):
        words += ["--rnn-candidate", f"wrong:{variant}"]
    chosen = [f"({requirement} and wrong:{variant}-)" for variant, requirement in WRONG_IN.items()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-k", " or ".join(["wrong:good-", *chosen])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "RNN_CONFORMANCE_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    (folder / "printed").write_text(done.stdout)
    (folder / "code").write_text(str(done.returncode))


def test_a_good_candidate_passes(session: Session) -> None:
    """One test per requirement and dtype that it offers, with a readable id."""
    ends = session.of("good")
    assert asked("good") >= 17
    assert len(ends) == asked("good")
    assert ends.keys() >= {"gru_split-wrong:good-float32", "gru_hidden_none-wrong:good-float32"}
    assert {end for end, _ in ends.values()} == {"passed"}


def test_the_suite_imports_no_framework(session: Session) -> None:
    """The pytest process never imports a framework, whatever is installed."""
    assert "FRAMEWORKS []" in session.printed


def test_a_wrong_candidate_fails_with_everything_needed(session: Session) -> None:
    """The message names the fault, both values at the first divergent step, the minimal case and a command."""
    end, message = session.only("gru_hidden_none", "drop_rbhn_t0")
    assert (end, session.code) == ("failure", pytest.ExitCode.TESTS_FAILED)
    pytest.LineMatcher(message.splitlines()).fnmatch_lines(
        [
            "wrong:drop_rbhn_t0, float32: gru_hidden_none DIVERGES",
            "  tested: *numpy *",
            "  fault: drop_rbhn_t0: the term r * b_hn is missing on the first step*",
            "  first divergent step: 0 (*expected *, observed *, bound *",
            "  minimal case: (B=1, T=*",
            "    step 0, batch 0: expected h = *",
            "*observed h = *",
            "  again: rnn-conformance run wrong:drop_rbhn_t0 -k gru_hidden_none --adapter */wrong --case *",
        ]
    )


def test_what_should_be_and_is_not_is_an_expected_failure(pytester: pytest.Pytester) -> None:
    """A SHOULD requirement that is not met is told in full, and does not make the run fail."""
    result = pytester.runpytest_subprocess(
        *SUITE, "--rnn-candidate", "wrong:unknown", "-k", "gru_not_finite and not mingru", "-rx"
    )
    result.assert_outcomes(xfailed=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*SHOULD: wrong:unknown, float32: gru_not_finite DIVERGES*"])


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("lengths_ignored", ["gru_lengths DIVERGES", "fault: lengths_ignored: "]),
        ("state_detached", ["gru_gradient DIVERGES", "fault: state_detached: "]),
        ("remembers", ["gru_repeated DIVERGES", "the same call again"]),
    ],
)
def test_what_is_wrong_in_one_situation_fails_there(session: Session, variant: str, words: list[str]) -> None:
    """Lengths, gradients and relations fail with the name of the fault, or of the detour that shows it."""
    end, message = session.only(WRONG_IN[variant], variant)
    assert end == "failure"
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("variant", "word"), [("crash", "BROKEN (crash)"), ("path", "INCONCLUSIVE"), ("unknown", "none of the catalogue")]
)
def test_what_is_not_shown_fails(session: Session, variant: str, word: str) -> None:
    """Broken and inconclusive are failures, not skips."""
    end, message = session.only("gru_hidden_none", variant)
    assert end == "failure"
    assert word in message


def test_a_declared_gap_passes_on_its_subspace(session: Session) -> None:
    """Unrepresentable with an agreeing subspace is neither failure nor skip."""
    assert session.only("gru_hidden_none", "no_b_hn") == ("passed", "")


def test_a_selection_of_nothing_fails(pytester: pytest.Pytester) -> None:
    """A mistyped -k is not a pass."""
    result = pytester.runpytest_subprocess(*SUITE, "--rnn-candidate", "wrong:good", "-k", "gru_hiden_none")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_selection_that_only_skips_fails(pytester: pytest.Pytester) -> None:
    """Skipping every selected test is not a pass either."""
    pytester.makeconftest(
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items:\n        item.add_marker(pytest.mark.skip(reason='not today'))\n"
    )
    result = pytester.runpytest_subprocess(*SUITE, "--rnn-candidate", "wrong:good", "-p", "conftest")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*nothing was compared*"])


def test_no_framework_beside_the_harness_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any candidate the selected requirement fails and says what to do; it does not vanish."""
    pytester.makeconftest("import conformance.plan as plan\nplan.installed_version = lambda distribution: None\n")
    result = pytester.runpytest_subprocess(*SUITE, "-k", "gru_v1_hidden_none", "-p", "conftest")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["no candidate to test: *", "*--rnn-candidate mlx:none *"])


def test_a_mistyped_candidate_is_a_usage_error(pytester: pytest.Pytester) -> None:
    """An unknown variant ends the session and names the known ones."""
    result = pytester.runpytest_subprocess(*SUITE, "--rnn-candidate", "wrong:goood")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*no such variant*", "*wanted: good | drop_rbhn_t0*"])
