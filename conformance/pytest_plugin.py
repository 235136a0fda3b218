"""The pytest plugin: options for the shipped suite, and the guard against a run that tested nothing.

Kept light, because pytest loads it in every session of an environment where the distribution is installed:
everything else is imported when the suite is collected.
"""

from __future__ import annotations

import pytest


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
    parser.addini("rnn_candidates", "candidates to test when no --rnn-candidate is given", type="args", default=[])


SUITE_ITEMS = pytest.StashKey[int]()
COMPARED = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Nothing has been compared yet."""
    config.stash[SUITE_ITEMS] = 0
    config.stash[COMPARED] = 0


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the selected tests of the suite."""
    session.config.stash[SUITE_ITEMS] = sum("rnn_group" in getattr(item, "fixturenames", ()) for item in session.items)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A session that selected tests of the suite but compared nothing has not passed."""
    stash = session.config.stash
    distributed = hasattr(session.config, "workerinput") or session.config.getoption("numprocesses", None)
    if session.config.option.collectonly or distributed:
        return
    if exitstatus == pytest.ExitCode.OK and stash[SUITE_ITEMS] and not stash[COMPARED]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("rnn-conformance: tests were selected, but nothing was compared: failed", red=True)
