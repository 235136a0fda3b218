"""One test per requirement, candidate and dtype: ``test_requirement[gru_hidden_none-mlx:none-float32]``.

Every candidate runs in a worker process of its own; this process imports no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import assert_never

import pytest

from conformance.candidate import parse_spec
from conformance.case import Case
from conformance.discover import find_adapters, load_faults
from conformance.errors import ConformanceError
from conformance.host import Host
from conformance.kept import Failure, write_kept
from conformance.plan import Group, beside, candidates_for, interpreter_of, plan, slug
from conformance.pytest_plugin import CHANGE, COMPARED
from conformance.record import CandidateLine, Finding
from conformance.requirement import REQUIREMENTS
from conformance.settings import Settings
from conformance.suite.accepted import Accepted, read_accepted
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, Verdict

NOTHING_TO_TEST = """\
no candidate to test: no framework that an adapter knows is installed beside the harness.
  wanted: an environment with one, e.g. pip install 'mlx[cpu]', or a candidate by name
  hint: --rnn-candidate mlx:none  (a managed environment), --rnn-candidate mlx:none==0.31.1"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Plan the groups; without any, one test that fails and says why."""
    if "rnn_group" not in metafunc.fixturenames:
        return
    config = metafunc.config
    try:
        load_faults()
        adapters = find_adapters(Path(path) for path in config.getoption("--rnn-adapter"))
        texts = config.getoption("--rnn-candidate") or config.getini("rnn_candidates")
        specs = [parse_spec(text) for text in texts] or beside(adapters)
        candidates = candidates_for(adapters, specs) if specs else ()
    except ConformanceError as error:
        raise pytest.UsageError(str(error)) from None
    groups = [g for g in plan(candidates, tuple(REQUIREMENTS.values())) if g.unsupported is None]
    if groups:
        ids = [f"{g.requirement.name}-{g.candidate.name}-{g.dtype}" for g in groups]
        metafunc.parametrize("rnn_group", groups, ids=ids)
    else:
        # One per requirement, so that whatever -k selects fails and says why.
        metafunc.parametrize("rnn_group", [None] * len(REQUIREMENTS), ids=[f"{name}-nothing" for name in REQUIREMENTS])


class Hosts:
    """One worker per candidate for the whole session, and the facts each told."""

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self._facts: dict[str, dict[str, str]] = {}
        self._lines: dict[str, CandidateLine] = {}

    def of(self, group: Group) -> Host:
        """The candidate's worker."""
        candidate = group.candidate
        if candidate.name not in self._hosts:
            interpreter = interpreter_of(candidate, print)
            facts = self._facts.setdefault(candidate.name, {})

            def ready(version: str, told: dict[str, str]) -> None:
                facts.update(told)
                self._lines[candidate.name] = CandidateLine(
                    name=candidate.name,
                    adapter=candidate.adapter.name,
                    framework=candidate.adapter.title,
                    variant=candidate.variant.name,
                    title=candidate.variant.title,
                    version=version,
                    environment=interpreter.label,
                    facts=told,
                )

            self._hosts[candidate.name] = Host(
                candidate.adapter,
                candidate.variant,
                interpreter,
                incident=lambda _: None,
                ready=ready,
            )
        return self._hosts[candidate.name]

    def facts(self, group: Group) -> dict[str, str]:
        """What the candidate's worker told about itself."""
        return self._facts[group.candidate.name]

    def line(self, group: Group) -> CandidateLine | None:
        """What the candidate is, once its worker has come up."""
        return self._lines.get(group.candidate.name)

    def close(self) -> None:
        """End every worker."""
        for host in self._hosts.values():
            host.close()


@pytest.fixture(scope="session")
def rnn_hosts() -> Iterator[Hosts]:
    """The session's workers."""
    hosts = Hosts()
    yield hosts
    hosts.close()


@pytest.fixture(scope="session")
def rnn_accepted(pytestconfig: pytest.Config) -> Accepted:
    """The list of known divergences and the baseline that the session names."""
    try:
        return read_accepted(pytestconfig.getoption("--rnn-known"), pytestconfig.getoption("--rnn-baseline"))
    except ConformanceError as error:
        raise pytest.UsageError(str(error)) from None


def test_requirement(
    rnn_group: Group | None,
    rnn_hosts: Hosts,
    rnn_accepted: Accepted,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
) -> None:
    """The candidate meets the requirement, and its cases could have told otherwise."""
    if rnn_group is None:
        pytest.fail(NOTHING_TO_TEST, pytrace=False)
    settings = Settings(
        examples=pytestconfig.getoption("--rnn-examples"),
        seed=pytestconfig.getoption("--rnn-seed"),
        database=_folder(pytestconfig, "examples"),
        keep=_keeper(pytestconfig),
    )
    try:
        host = rnn_hosts.of(rnn_group)
        host.launch()
        from conformance.examine import examine  # noqa: PLC0415 - while the worker imports its framework

        if settings.examples:  # Hypothesis takes as long as that, and is wanted next
            import_module("conformance.strategies")

        finding = examine(rnn_group, host, settings, lambda _: None)
    except ConformanceError as error:
        pytest.fail(str(error), pytrace=False)
    pytestconfig.stash[COMPARED] += finding.trials
    met, level = _met(finding.verdict), rnn_group.requirement.level
    ruling = rnn_accepted.ruling(finding, rnn_hosts.line(rnn_group), met=met, decides=level == "MUST")
    if ruling.change:
        record_property(CHANGE, ruling.change)
    message = "" if met else _message(finding, rnn_hosts.facts(rnn_group), rnn_group)
    match ruling.ends:
        case "passed":
            return
        case "failed":
            pytest.fail(f"{ruling.why}\n{message}".rstrip(), pytrace=False)
        case "expected":
            pytest.xfail(f"{ruling.why}\n{message}".rstrip())
        case "open":
            pass
        case _:
            assert_never(ruling.ends)
    if not met and level != "MUST":
        pytest.xfail(f"{level}: {message}")
    if not met:
        pytest.fail(message, pytrace=False)


def _message(finding: Finding, facts: dict[str, str], group: Group) -> str:
    from conformance.report.failure import failure_message  # noqa: PLC0415 - only where something is not met

    return failure_message(finding, facts, group.candidate.variant.evaluation)


def _met(verdict: Verdict) -> bool:
    match verdict:
        case Agrees():
            return True
        case Unrepresentable():
            return verdict.subspace is not None and _met(verdict.subspace)
        case Diverges() | Inconclusive() | Broken() | Unsupported():
            return False
        case _:
            assert_never(verdict)


def _folder(config: pytest.Config, name: str) -> Path | None:
    # None when the cache plugin is switched off (-p no:cacheprovider): then nothing is kept.
    cache = getattr(config, "cache", None)
    return None if cache is None else Path(cache.mkdir(f"rnn-conformance-{name}"))


def _keeper(config: pytest.Config) -> Callable[[Group, Case, Failure], Path] | None:
    folder = _folder(config, "cases")
    if folder is None:
        return None
    return lambda group, case, failure: write_kept(folder / f"{slug(group)}.json", case, failure)
