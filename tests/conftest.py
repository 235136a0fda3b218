"""Shared by all tests: the miniatures, and how Hypothesis draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from conformance.candidate import Spec
from conformance.discover import read_adapter
from conformance.plan import Candidate

pytest_plugins = ["pytester"]

# No deadline: these machines are shared. The same examples every time: a red build must mean a changed project.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")

MINIATURES = Path(__file__).resolve().parent / "miniatures"


@pytest.fixture
def miniature() -> Callable[[str], Candidate]:
    """A candidate of the adapter that is wrong on purpose, by variant name."""
    adapter = read_adapter(MINIATURES / "wrong")

    def of(variant: str) -> Candidate:
        spec = Spec(adapter=adapter.name, variant=variant)
        return Candidate(spec=spec, adapter=adapter, variant=adapter.variants[variant])

    return of
