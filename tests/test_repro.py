"""Repro scripts run on their own, show what they should, and hold text of a case as data only."""

from __future__ import annotations

import ast
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.candidate import Adapter
from conformance.case import INITIALS, Case, Initial
from conformance.cells import CELLS, cell_named
from conformance.discover import find_adapters
from conformance.errors import SpecError
from conformance.repro import TEMPLATE, TEMPLATES, literal, multiple, render_repro
from conformance.rounding import DTYPES
from conformance.signature import LATTICE, SCALES, Signature, build

ADAPTERS = find_adapters()
NUMPY = ADAPTERS["numpy"]
CALLS = [
    pytest.param(adapter, variant.name, cell, initial, id=f"{name}:{variant.name}-{cell}-{initial}")
    for name, adapter in ADAPTERS.items()
    for variant in adapter.variants.values()
    for cell in variant.cells
    for initial in variant.paths
]

HOSTILE = [
    "\nraise SystemExit(7)\n",
    "'; raise SystemExit(7); '",
    '"""\nraise SystemExit(7)\n"""',
    "{__import__('sys').exit(7)}",
    "{{ 7 * 7 }}{% raw %}",
    "\\",
    "\u2028raise SystemExit(7)\r\x0craise SystemExit(7)\x00",
    "\U0001f40d \u202e",
]

# Puts the origin wherever a template can print it: into code, a comment, a docstring and an f-string.
EVERYWHERE = '''{% extends "base/repro.py.jinja" %}
{% block imports %}
# {{ origin }}
def documented():
    """{{ origin }}"""
FORMATTED = f"{{ origin }}"
{% endblock %}
{% block framework %}
def run_framework():
    return run_equations(np.zeros((*x.shape[:-1], h0.shape[-1])))[0]
{% endblock %}
'''


def a_case(
    *,
    cell: str = "gru",
    dtype: str = "float32",
    initial: Initial = "given",
    batched: bool = True,
    scale: float = 0.8,
    decimals: int = 12,
) -> Case:
    """A small case with generic numbers."""
    shape, is_batched = LATTICE[2] if batched else LATTICE[1]
    signature = Signature(shape=shape, batched=is_batched, seed=3, scale=scale, decimals=decimals, fills=())
    return build(signature, cell=cell, dtype=dtype, initial=initial)


def run_script(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script away from this project, with warnings as errors."""
    path = folder / "repro.py"
    path.write_text(script, encoding="utf-8")
    return run_python(path)


def run_python(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a file away from this project, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-I", "-W", "error", str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=path.parent,
        check=False,
    )


@pytest.fixture
def adapter_with(tmp_path: Path) -> Callable[[str], Adapter]:
    """The NumPy adapter with another repro template."""

    def with_template(text: str) -> Adapter:
        (tmp_path / TEMPLATE).write_text(text, encoding="utf-8")
        return replace(NUMPY, folder=tmp_path)

    return with_template


def spoilt(script: str, old: str, new: str) -> str:
    """The script with its framework's call spoilt."""
    head, found, body = script.partition("def run_framework():")
    assert found
    assert old in body
    return head + found + body.replace(old, new, 1)


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """The NumPy adapter with the template that prints everywhere, compiled once for all cases."""
    folder = tmp_path_factory.mktemp("everywhere")
    (folder / TEMPLATE).write_text(EVERYWHERE, encoding="utf-8")
    return replace(NUMPY, folder=folder)


# Running


# Runs scripts one after another, where importing this project fails: starting Python and NumPy is what they cost.
RUNNER = """
import contextlib, io, json, runpy, sys
sys.modules["conformance"] = None
done = {}
for path in sys.argv[1:]:
    code, said = 0, io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as exit:
            code = exit.code
    done[path] = code, said.getvalue()
print(json.dumps(done))
"""


@pytest.mark.parametrize("cell", NUMPY.variants["float32"].cells)
def test_the_script_of_a_conforming_candidate_exits_0(tmp_path: Path, cell: str) -> None:
    """However it is called it runs without this project, lists every step, and says that none differs."""
    cases: dict[str, Case] = {}
    for initial, batched in itertools.product(INITIALS, (True, False)):
        case = a_case(cell=cell, initial=initial, batched=batched)
        path = tmp_path / f"{initial}_{batched}.py"
        path.write_text(render_repro(NUMPY, "float32", case), encoding="utf-8")
        cases[str(path)] = case
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER, encoding="utf-8")
    done = run_python(runner, *cases)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told.keys() == cases.keys()
    for path, case in cases.items():
        code, said = told[path]
        assert code == 0, said
        steps = re.findall(r"^step (\d+): max difference", said, re.MULTILINE)
        assert steps == [str(t) for t in range(case.shape.time)]
        assert "no step alone differs" in said


def test_a_script_that_needs_this_project_would_fail(tmp_path: Path) -> None:
    """Planted: an import of the project is an error where scripts are run."""
    runner, script = tmp_path / "runner.py", tmp_path / "script.py"
    runner.write_text(RUNNER, encoding="utf-8")
    script.write_text("import conformance.cells", encoding="utf-8")
    done = run_python(runner, str(script))
    assert done.returncode == 1
    assert "conformance" in done.stderr


def test_the_script_of_a_wrong_candidate_names_the_step(tmp_path: Path) -> None:
    """A term dropped at the first step only: exit code 1, the first step named, and it alone."""
    script = render_repro(NUMPY, "float32", a_case(initial="zeros"))
    dropped = 'step({**p, "b_hn": 0 * p["b_hn"]} if t == 0 else p, '
    done = run_script(spoilt(script, "step(p, ", dropped), tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"^DIFFERS: by more than \S+ at step 0$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("spoil", "code", "text"),
    [
        ("np.stack(states, axis=-2) * np.nan", 1, "DIFFERS"),
        ("np.stack(states, axis=-2)[..., :1, :]", 1, "wanted (2, 3, 3)"),
    ],
    ids=["NaN", "shape"],
)
def test_nonsense_from_the_framework_differs(tmp_path: Path, spoil: str, code: int, text: str) -> None:
    """NaN is no agreement, and a wrong shape is not broadcast into one."""
    script = spoilt(render_repro(NUMPY, "float32", a_case()), "np.stack(states, axis=-2)", spoil)
    done = run_script(script, tmp_path)
    assert done.returncode == code
    assert text in done.stdout + done.stderr


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_the_script_holds_the_numbers_and_equations_of_the_case(
    anywhere: Adapter, cell: str, batched: bool, scale: float, dtype: str
) -> None:
    """Its arrays are those of the case, to the last bit, and its loop gives the states of the reference."""
    case = a_case(cell=cell, dtype=dtype, scale=scale, batched=batched)
    names: dict[str, object] = {"__name__": "repro"}
    exec(render_repro(anywhere, "float32", case), names)  # noqa: S102
    row = slice(None) if batched else 0
    arrays = {**names["p"], "x": names["x"], "h0": names["h0"]}  # type: ignore[dict-item]
    wanted = {**case.parameters, "x": case.x[row], "h0": case.h0[row]}
    assert ("c0" in names) == (case.c0 is not None)
    if case.c0 is not None:
        arrays["c0"], wanted["c0"] = names["c0"], case.c0[row]
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: array.tolist() for name, array in wanted.items()
    }
    truth = cell_named(case.cell).run(case).outputs[row]
    states = names["run_framework"]()  # type: ignore[operator]
    np.testing.assert_allclose(states, truth, rtol=0, atol=1e-14, strict=True)


def test_decimals_are_short() -> None:
    """0.1 in float32 is written 0.1, not as the seventeen digits of its value."""
    assert literal(np.array([0.1, -2.5e-8, 1.0], np.float32)) == "[0.1, -2.5e-08, 1.0]"


@pytest.mark.parametrize(("adapter", "variant", "cell", "initial"), CALLS)
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
def test_every_call_of_every_adapter_can_be_written_down(
    adapter: Adapter, variant: str, cell: str, initial: Initial, batched: bool
) -> None:
    """The script is Python, and it leaves the state out exactly where the case does."""
    case = a_case(cell=cell, initial=initial, batched=batched)
    script = render_repro(adapter, variant, case)
    functions = {node.name: node for node in ast.parse(script).body if isinstance(node, ast.FunctionDef)}
    body = ast.unparse(functions["run_framework"])
    # The size of h0 is used in any case, its values only where they are passed on.
    assert bool(re.search(r"h0(?!\.shape)", body)) == (initial != "omitted")
    assert bool(re.search(r"c0(?!\.shape)", body)) == (initial != "omitted" and case.c0 is not None)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_every_cell_has_its_equations_written_down(cell: str) -> None:
    """No cell is left without a step for the scripts."""
    assert (TEMPLATES / f"step_{cell}.py.jinja").is_file()


def test_no_template_no_script(tmp_path: Path) -> None:
    """An adapter need not have a template."""
    assert render_repro(replace(NUMPY, folder=tmp_path), "float32", a_case()) == ""


# Text is data


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_origin_stays_text(anywhere: Adapter, tmp_path: Path, text: str) -> None:
    """Wherever it is printed the script still runs to its own end, and prints the text as it is."""
    script = render_repro(anywhere, "float32", replace(a_case(), origin=text))
    assert script.isascii()
    origins = [
        ast.literal_eval(node.value)
        for node in ast.parse(script).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORIGIN"
    ]
    assert origins == [text]
    path = tmp_path / "script.py"
    path.write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", "-X", "utf8", str(path)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f"case: {text}\n\n".encode() in done.stdout


def test_a_hostile_manifest_stays_text(tmp_path: Path) -> None:
    """Titles and paths come from third parties, too."""
    text = HOSTILE[2]
    variant = replace(NUMPY.variants["float32"], title=text, paths=dict.fromkeys(INITIALS, text))
    adapter = replace(NUMPY, title=text, distribution=text, variants={"float32": variant})
    done = run_script(render_repro(adapter, "float32", a_case()), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (7, "7"),
        (2.0**-23, "1.1920928955078125e-07"),
        ("a b", "'a b'"),
        ('"', "'\\x22'"),
    ],
    ids=repr,
)
def test_literals(value: object, text: str) -> None:
    """Plain values are written as Python reads them."""
    assert literal(value) == text
    assert ast.literal_eval(text) == value


@pytest.mark.parametrize(
    "value", [float("nan"), np.array([np.inf]), np.array(["a"]), object(), b"a"], ids=lambda v: type(v).__name__
)
def test_what_has_no_literal_is_refused(value: object) -> None:
    """Nothing reaches a script by way of its repr alone."""
    with pytest.raises(TypeError, match="no literal for"):
        literal(value)


# Errors and limits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ no_such_name }}", "no_such_name"),
        ("{% if %}", "Expected an expression"),
        ('{% extends "base/other.jinja" %}', "base/other.jinja"),
        ('{% extends "base/repro.py.jinja" %}', "framework"),
        ("{{ adapter }}{{ [x] }}", "adapter"),
        ("{{ [x] }}", "no literal for list"),
    ],
    ids=["undefined", "syntax", "base", "no framework block", "harness object", "list"],
)
def test_a_malformed_template_is_a_spec_error(adapter_with: Callable[[str], Adapter], text: str, message: str) -> None:
    """It names the template and what is wrong with it."""
    with pytest.raises(SpecError) as error:
        render_repro(adapter_with(text), "float32", a_case())
    assert TEMPLATE in error.value.where
    assert message in error.value.got


def test_a_call_that_is_not_offered_is_a_spec_error() -> None:
    """There is no script for a variant or a spelling of the state that the adapter does not have."""
    with pytest.raises(SpecError):
        render_repro(ADAPTERS["mlx"], "nope", a_case())
    with pytest.raises(SpecError):
        render_repro(ADAPTERS["mlx"], "zeros", a_case(initial="omitted"))


def test_the_limit_grows_with_the_weights() -> None:
    """A step through large weights may be off by more, but never by nothing."""
    limits = [multiple(a_case(scale=scale)) for scale in sorted(SCALES)]
    assert limits == sorted(limits)
    assert limits[0] >= 4
