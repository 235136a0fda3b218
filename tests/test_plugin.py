"""The shipped suite as pytest runs it: pass, fail with a full message, and never pass on nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_a_good_candidate_passes(pytester: pytest.Pytester) -> None:
    """One test per requirement and dtype that it offers, with a readable id."""
    result = pytester.runpytest_subprocess(*SUITE, "--rnn-candidate", "wrong:good", "-v")
    assert asked("good") >= 17
    result.assert_outcomes(passed=asked("good"))
    result.stdout.fnmatch_lines(["*test_requirement[[]gru_split-wrong:good-float32[]] PASSED*"])
    result.stdout.fnmatch_lines(["*test_requirement[[]gru_hidden_none-wrong:good-float32[]] PASSED*"])


def test_a_wrong_candidate_fails_with_everything_needed(pytester: pytest.Pytester) -> None:
    """The message names the fault, both values at the first divergent step, the minimal case and a command."""
    result = pytester.runpytest_subprocess(*SUITE, "--rnn-candidate", "wrong:drop_rbhn_t0", "-k", "gru_hidden_none")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
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
    ("variant", "requirement", "words"),
    [
        ("lengths_ignored", "gru_lengths", ["gru_lengths DIVERGES", "fault: lengths_ignored: "]),
        ("state_detached", "gru_gradient", ["gru_gradient DIVERGES", "fault: state_detached: "]),
        ("remembers", "gru_repeated", ["gru_repeated DIVERGES", "the same call again"]),
    ],
)
def test_what_is_wrong_in_one_situation_fails_there(
    pytester: pytest.Pytester, variant: str, requirement: str, words: list[str]
) -> None:
    """Lengths, gradients and relations fail with the name of the fault, or of the detour that shows it."""
    result = pytester.runpytest_subprocess(*SUITE, "--rnn-candidate", f"wrong:{variant}", "-k", requirement)
    result.assert_outcomes(failed=1)
    for word in words:
        assert word in result.stdout.str()


@pytest.mark.parametrize(
    ("variant", "word"), [("crash", "BROKEN (crash)"), ("path", "INCONCLUSIVE"), ("unknown", "none of the catalogue")]
)
def test_what_is_not_shown_fails(pytester: pytest.Pytester, variant: str, word: str) -> None:
    """Broken and inconclusive are failures, not skips."""
    result = pytester.runpytest_subprocess(*SUITE, "--rnn-candidate", f"wrong:{variant}", "-k", "gru_hidden_none")
    result.assert_outcomes(failed=1)
    assert word in result.stdout.str()


def test_a_declared_gap_passes_on_its_subspace(pytester: pytest.Pytester) -> None:
    """Unrepresentable with an agreeing subspace is neither failure nor skip."""
    result = pytester.runpytest_subprocess(*SUITE, "--rnn-candidate", "wrong:no_b_hn", "-k", "gru_hidden_none")
    result.assert_outcomes(passed=1)


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


def test_the_suite_imports_no_framework(pytester: pytest.Pytester) -> None:
    """The pytest process never imports a framework, whatever is installed."""
    pytester.makeconftest(
        "import sys\ndef pytest_sessionfinish():\n"
        "    print('FRAMEWORKS', sorted({'mlx', 'torch', 'jax', 'flax'} & set(sys.modules)))\n"
    )
    result = pytester.runpytest_subprocess(*SUITE, "--rnn-candidate", "wrong:good", "-p", "conftest", "-s")
    result.assert_outcomes(passed=asked("good"))
    result.stdout.fnmatch_lines(["*FRAMEWORKS []*"])
