"""The shipped suite held to a list of known divergences or to a baseline, and spread over processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from test_gate import AGREES, BLANK, CRASH, OUT, diverges, finding, line

from conformance.cli import main
from conformance.suite.accepted import Accepted

WRONG = str(Path(__file__).resolve().parent / "miniatures" / "wrong")
SUITE = ("--pyargs", "conformance", "-c", "tox.ini", "--rnn-adapter", WRONG, "--rnn-examples", "1")
ONE = (*SUITE, "-k", "gru_hidden_none")


@pytest.fixture(autouse=True)
def _elsewhere(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a cache of the test's own: this project's pytest settings must not apply."""
    pytester.makeini("[pytest]\n")
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))


def recorded(variant: str, folder: str) -> str:
    """The record of a run of one miniature."""
    arguments = ["run", f"wrong:{variant}", "--adapter", WRONG, "-q", "--examples", "1", "-k", "gru_hidden_none"]
    CliRunner().invoke(main, [*arguments, "--output", folder])
    (path,) = Path(folder).glob("*.jsonl")
    return str(path)


ENTRY = """
[[divergence]]
candidate = "wrong:{variant}"
requirement = "{requirement}"
shows = "{shows}"
size = 1.0
factor = 100
reason = "planted"
owner = "ours"
link = "none: on purpose"
"""


def listed(pytester: pytest.Pytester, *entries: tuple[str, str, str]) -> str:
    """A list of variants, requirements and what they show there."""
    texts = [ENTRY.format(variant=variant, requirement=name, shows=fault) for variant, name, fault in entries]
    return str(pytester.makefile(".toml", known="".join(texts)))


DROPPED = ("drop_rbhn_t0", "gru_hidden_none", "drop_rbhn_t0")


def test_against_a_baseline_only_regressions_fail(pytester: pytest.Pytester) -> None:
    """What was as wrong before is expected; what was right fails with the message of both."""
    right, wrong = recorded("good", "right"), recorded("drop_rbhn_t0", "wrong")
    accused = pytester.runpytest_subprocess(*ONE, "--rnn-candidate", "wrong:drop_rbhn_t0", "--rnn-baseline", wrong)
    accused.assert_outcomes(xfailed=1)
    Path(right).write_text(Path(right).read_text(encoding="utf-8").replace("wrong:good", "wrong:drop_rbhn_t0"))
    failed = pytester.runpytest_subprocess(*ONE, "--rnn-candidate", "wrong:drop_rbhn_t0", "--rnn-baseline", right)
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["regressed against the baseline *before: agrees*", "*fault: drop_rbhn_t0*"])


def test_a_known_divergence_is_expected_and_another_is_not(pytester: pytest.Pytester) -> None:
    """Strictly: with another fault listed the test fails and says so."""
    known = listed(pytester, DROPPED, ("lengths_ignored", "gru_lengths", "swap_rz"))
    candidates = ("--rnn-candidate", "wrong:drop_rbhn_t0", "--rnn-candidate", "wrong:lengths_ignored")
    chosen = "(hidden_none and drop_rbhn_t0) or (gru_lengths and lengths_ignored)"
    held = pytester.runpytest_subprocess(*SUITE, *candidates, "-k", chosen, "--rnn-known", known, "-v")
    held.assert_outcomes(xfailed=1, failed=1)
    held.stdout.fnmatch_lines_random(
        [
            "*gru_hidden_none-wrong:drop_rbhn_t0-* XFAIL*",
            "*gru_lengths-wrong:lengths_ignored-* FAILED*",
            "ANOTHER FAULT: wrong:lengths_ignored, gru_lengths*",
        ]
    )


def test_over_several_processes_nothing_compared_still_fails(pytester: pytest.Pytester) -> None:
    """Each process tells what it compared: a pass stays one, a session of skips does not become one."""
    spread = ("-p", "xdist", "--rnn-candidate", "wrong:good")
    passed = pytester.runpytest_subprocess(*ONE, *spread, "-n", "2")
    passed.assert_outcomes(passed=1)
    assert passed.ret == pytest.ExitCode.OK
    pytester.makeconftest(
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items:\n        item.add_marker(pytest.mark.skip(reason='not today'))\n"
    )
    skipped = pytester.runpytest_subprocess(*ONE, *spread, "-n", "1", "-p", "conftest")
    assert skipped.ret == pytest.ExitCode.TESTS_FAILED
    skipped.stdout.fnmatch_lines(["*nothing was compared*"])


def test_a_skip_fails_where_a_list_is_to_be_kept(pytester: pytest.Pytester) -> None:
    """What is selected and not tried cannot be as listed, whatever else passes."""
    pytester.makeconftest(
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    items[0].add_marker(pytest.mark.skip(reason='not today'))\n"
    )
    good = (*SUITE, "-k", "gru_hidden_none or gru_hidden_zeros", "--rnn-candidate", "wrong:good", "-p", "conftest")
    assert pytester.runpytest_subprocess(*good).ret == pytest.ExitCode.OK
    held = pytester.runpytest_subprocess(*good, "--rnn-known", listed(pytester, DROPPED))
    assert held.ret == pytest.ExitCode.TESTS_FAILED
    held.stdout.fnmatch_lines(["*skipped, though selected*"])


@pytest.mark.parametrize(
    ("before", "after", "ends"),
    [
        (AGREES, AGREES, "passed"),
        (AGREES, CRASH, "failed"),
        (AGREES, BLANK, "failed"),
        (diverges("swap_rz"), diverges("swap_rz"), "expected"),
        (diverges("swap_rz"), diverges("update_flip"), "failed"),
        (CRASH, diverges("swap_rz"), "failed"),
        (diverges("swap_rz"), AGREES, "passed"),
        (OUT, diverges("swap_rz"), "expected"),
    ],
)
def test_a_baseline_rules_what_becomes_of_a_test(before: object, after: object, ends: str) -> None:
    """And what does not decide never fails against it."""
    own = finding("one:a==2", after)  # type: ignore[arg-type]
    baseline = {("one:a", "gru_hidden_none", "float32"): finding("one:a==1", before)}  # type: ignore[arg-type]
    accepted = Accepted(known=None, baseline=baseline)
    met = after == AGREES
    assert accepted.ruling(own, line("one:a==2", "2"), met=met, decides=True).ends == ends
    aside = accepted.ruling(own, line("one:a==2", "2"), met=met, decides=False).ends
    assert aside == ("expected" if ends == "failed" else ends)
