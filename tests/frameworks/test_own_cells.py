"""``check-cell`` on real modules: each mistake planted in linen, NNX, PyTorch or MLX, and the tutorial's examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from own_cells import FRAMEWORKS, Planted

from conformance.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "check-cell.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- cell: (\S+) agrees -->\n```python\n(.*?)```", PAGE, re.DOTALL)


def checked(folder: Path, source: str, name: str) -> tuple[int, str]:
    """Exit code and what was printed."""
    file = folder / "mine.py"
    file.write_text(source, encoding="utf-8")
    arguments = ["check-cell", f"{file}:{name}", "--output", str(folder / "out"), "--examples", "1"]
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize("planted", FRAMEWORKS, ids=lambda planted: planted.id)
def test_a_mistake_in_a_real_module_gets_its_name(tmp_path: Path, planted: Planted) -> None:
    """A right module agrees; one mistake is named."""
    code, output = checked(tmp_path, planted.source, planted.name)
    first = output.splitlines()[0]
    if not planted.fault:
        assert (code, "agrees" in first) == (0, True), output
        return
    assert code == 1, output
    assert f"diverges: {planted.fault}" in first, output


@pytest.mark.parametrize(("place", "source"), EXAMPLES, ids=[place for place, _ in EXAMPLES])
def test_the_tutorials_examples_agree(tmp_path: Path, place: str, source: str) -> None:
    """Copied from the page."""
    code, output = checked(tmp_path, source, place.partition(":")[2])
    assert code == 0, output
