"""The pytest plugin: options for the shipped suite, and the guard against a run that tested nothing.

Kept light, because pytest loads it in every session of an environment where the distribution is installed:
everything else is imported when the suite is collected. Under pytest-xdist every process runs a part of the suite and
tells the first one how much it compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

COMPARED = pytest.StashKey[int]()
CHANGE: Final = "rnn-change"
_TOLD: Final = "rnn-conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options are prefixed ``--rnn-``; see ``pytest --help``."""
    group = parser.getgroup("rnn-conformance", "RNN conformance suite (pytest --pyargs conformance)")
    group.addoption(
        "--rnn-candidate",
        action="append",
        default=[],
        metavar="SPEC",
        help="candidate to test, e.g. mlx:none or mlx:none==0.31.1; may be repeated"
        " (default: the frameworks installed beside the harness)",
    )
    group.addoption(
        "--rnn-adapter",
        action="append",
        default=[],
        metavar="PATH",
        help="folder of a further adapter; repeatable",
    )
    group.addoption(
        "--rnn-examples",
        type=int,
        default=15,
        metavar="N",
        help="generated cases per test (default: %(default)s)",
    )
    group.addoption("--rnn-seed", type=int, default=0, metavar="S", help="seed of generated cases (default: 0)")
    group.addoption(
        "--rnn-known",
        metavar="FILE",
        help="list of known divergences: what is listed must show as listed, nothing else may ('shipped': the own one)",
    )
    group.addoption(
        "--rnn-baseline",
        metavar="RECORD",
        help="record of an earlier run: a test fails where it regressed against it, or cannot tell;"
        " what differs otherwise is reported",
    )
    parser.addini("rnn_candidates", "candidates to test when no --rnn-candidate is given", type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Nothing has been compared yet."""
    config.stash[COMPARED] = 0
    config.pluginmanager.register(Guard(config), "rnn-conformance-guard")


class Guard:
    """Counts what was selected, compared and skipped, in this process and in those it distributes to."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._selected = 0
        self._elsewhere = 0
        self._skipped: list[str] = []
        self._changes: list[tuple[str, str]] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the selected tests of the suite."""
        self._selected = sum("rnn_group" in getattr(item, "fixturenames", ()) for item in session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what was skipped, and what changed against a baseline."""
        if report.skipped and not hasattr(report, "wasxfail") and "test_requirement[" in report.nodeid:
            self._skipped.append(report.nodeid)
        if report.when == "call":
            self._changes += [(str(value), report.nodeid) for name, value in report.user_properties if name == CHANGE]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a process of pytest-xdist counted."""
        told: Mapping[str, int] = getattr(node, "workeroutput", {}).get(_TOLD, {})
        self._selected = max(self._selected, told.get("selected", 0))
        self._elsewhere += told.get("compared", 0)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """A session that selected tests of the suite but compared nothing has not passed."""
        config, compared = self._config, self._config.stash[COMPARED] + self._elsewhere
        output: dict[str, Any] | None = getattr(config, "workeroutput", None)
        if output is not None:
            output[_TOLD] = {"selected": self._selected, "compared": compared}
            return
        if config.option.collectonly or exitstatus != pytest.ExitCode.OK or not self._selected:
            return
        if not compared:
            self._fail(session, "tests were selected, but nothing was compared")
        elif self._skipped and config.getoption("--rnn-known"):
            self._fail(session, f"skipped, though selected and held to a list of known divergences: {self._skipped[0]}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Report what changed against the baseline without being a failure."""
        if self._changes:
            terminalreporter.section("changed against the baseline")
            for kind, name in sorted(self._changes):
                terminalreporter.write_line(f"{kind}: {name}")

    def _fail(self, session: pytest.Session, why: str) -> None:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"rnn-conformance: {why}: failed", red=True)
