"""``check-cell`` without a framework: every mistake of a NumPy cell or layer has its name; bad files one message."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from own_cells import HARNESS, NUMPY_CELL, Planted

from conformance.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "check-cell.md").read_text(encoding="utf-8")


def checked(folder: Path, source: str, name: str, *more: str) -> tuple[int, str]:
    """Exit code and what was printed."""
    file = folder / "mine.py"
    file.write_text(source, encoding="utf-8")
    arguments = ["check-cell", f"{file}:{name}", "--output", str(folder / "out"), "--examples", "3", *more]
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("planted", HARNESS, ids=lambda planted: planted.id)
def test_a_mistake_gets_its_name(tmp_path: Path, planted: Planted) -> None:
    """A right cell agrees; one mistake is named, alone."""
    # Shipped cases name it; that a drawn one is made small is asked by the tests below, and of other adapters.
    drawn = "0" if planted.fault else "3"
    code, output = checked(tmp_path, planted.source, planted.name, "--examples", drawn)
    first = output.splitlines()[0]
    if not planted.fault:
        assert (code, "agrees" in first) == (0, True), output
        return
    assert code == 1, output
    assert first.endswith(f"diverges: {planted.fault}"), output


def test_without_a_word_the_convention_is_told(tmp_path: Path) -> None:
    """What z does is said of a cell that agrees, and what it would be called if the other was meant."""
    code, output = checked(tmp_path, NUMPY_CELL.replace('CELL, UPDATE = "gru_v1", "mix"', ""), "step")
    assert code == 0, output
    assert "z mixes the candidate in" in output.splitlines()[0]
    assert "--cell gru_v1 --update keep: update_flip" in output


def test_explicit_weights_win(tmp_path: Path) -> None:
    """Names that tell nothing, and a recipe for each."""
    source = NUMPY_CELL.replace('"W_r"', '"one"').replace('"W_z"', '"two"').replace('"W_h"', '"three"')
    recipes = {f"b_{own}": f"b_x{gate} + b_h{gate}" for own, gate in (("r", "r"), ("z", "z"), ("h", "n"))}
    recipes |= {"one": "(W_xr | W_hr).T", "two": "(W_xz | W_hz).T", "three": "(W_xn | W_hn).T"}
    code, output = checked(tmp_path, f"{source}\nWEIGHTS = {recipes!r}\n", "step")
    assert code == 0, output
    wrong = {**recipes, "one": "(W_xz | W_hz).T", "two": "(W_xr | W_hr).T"}
    code, output = checked(tmp_path, f"{source}\nWEIGHTS = {wrong!r}\n", "step", "--examples", "0")
    assert code == 1, output
    code, output = checked(tmp_path, f"{source}\nWEIGHTS = { ({**recipes, 'one': '__import__'})!r}\n", "step")
    assert code == 2, output
    assert "__import__" in output


@pytest.mark.parametrize(
    ("source", "name", "code", "words"),
    [
        ("def step(x, h:\n", "step", 2, "no valid Python"),
        ("1 / 0\n", "step", 2, "line 1"),
        (NUMPY_CELL, "nothing", 2, "it defines"),
        (NUMPY_CELL.replace("return (1 - z)", "raise ValueError('oh')\n    return (1 - z)"), "step", 2, "oh"),
        (NUMPY_CELL.replace("z * n", "z * n * np.nan"), "step", 1, "NaN"),
        (NUMPY_CELL.replace("return (1 - z) * h + z * n", "return n[..., :1]"), "step", 2, "wanted a new state"),
    ],
    ids=["syntax", "import", "name", "exception", "nan", "shape"],
)
def test_a_file_that_cannot_be_judged_gets_one_message(
    tmp_path: Path, source: str, name: str, code: int, words: str
) -> None:
    """What is wrong and where, with the exit code of the page."""
    got, output = checked(tmp_path, source, name)
    assert got == code, output
    assert words in output
    assert "Traceback" not in output


def test_the_pages_numpy_example_agrees(tmp_path: Path) -> None:
    """Copied from the tutorial."""
    examples = dict(re.findall(r"<!-- cell: (\S+) agrees -->\n```python\n(.*?)```", PAGE, re.DOTALL))
    assert len(examples) == 5
    code, output = checked(tmp_path, examples["numpy_step.py:gru_step"], "gru_step")
    assert code == 0, output


def test_what_understood_the_cell_is_what_is_judged(tmp_path: Path) -> None:
    """One worker, which for some frameworks takes longer to start than everything else; one that dies is replaced."""
    log = tmp_path / "starts"
    noted = f"import os\nwith open({str(log)!r}, 'a') as log:\n    log.write(f'{{os.getpid()}}\\n')\n"
    code, output = checked(tmp_path, noted + NUMPY_CELL, "step")
    assert code == 0, output
    assert len(log.read_text().splitlines()) == 1
    # Judged is what there is a record of.
    dies = f"    if any(name.endswith('.jsonl') for name in os.listdir({str(tmp_path / 'out')!r})): os._exit(9)\n"
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    code, output = checked(
        tmp_path, noted + NUMPY_CELL.replace("def sigmoid(a):\n", "def sigmoid(a):\n" + dies), "step"
    )
    assert code == 3, output
    assert len(log.read_text().splitlines()) > 2
