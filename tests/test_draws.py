"""What is drawn depends on the seed alone: not on what else is loaded."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from conformance.draws import chunk, forget
from conformance.signature import LATTICE, Signature


def drawn(numbers: range) -> list[Signature]:
    forget()
    return [signature for number in numbers for signature in chunk(3, "any", number, "gru", LATTICE)]


def test_no_constant_of_a_module_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis tries constants of modules outside of site-packages: with more of them, nothing else is drawn."""
    before = drawn(range(8))
    file = tmp_path / "full_of_numbers.py"
    file.write_text("\n".join(f"n{place} = {1000 * place + 101}" for place in range(1000)))
    spec = spec_from_file_location("full_of_numbers", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "full_of_numbers", module)
    spec.loader.exec_module(module)
    assert drawn(range(8)) == before
    assert len({signature.seed for signature in before}) > 160
