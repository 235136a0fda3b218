"""Repro scripts: one case as a script that needs NumPy and the framework, and nothing of this project.

Whoever maintains a framework wants to run a report, not to install a harness. The script holds the numbers of
the case, the documented equations as a plain float64 loop (``templates/repro.py.jinja``, written once), and the
framework call as the adapter's variant makes it (``repro.py.jinja`` in the adapter's folder, which extends
``base/repro.py.jinja``). It is no judge: its limit is a simple multiple of the dtype's epsilon, see `multiple`.

Everything that a template prints with double braces becomes a Python literal, so that no text of a case or a
manifest can become code. Names that templates may use:

    title, path, origin, distribution   text: what ran, the call, where the case came from, what to install
    cell, variant, initial, batched, dtype   the case; `initial` is "omitted", "zeros" or "given"
    container   the NumPy dtype that holds the numbers of the case exactly
    parameters, x, h0   canonical arrays; x and h0 without a batch axis when the case is unbatched
    multiple, epsilon   the limit
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, PrefixLoader, StrictUndefined, TemplateError, Undefined
from numpy.typing import NDArray

from conformance.candidate import Adapter
from conformance.case import Case
from conformance.cells import cell_named
from conformance.errors import SpecError
from conformance.rounding import Array, format_of

TEMPLATES: Final = Path(__file__).resolve().parent / "templates"
TEMPLATE: Final = "repro.py.jinja"

_WIDTH: Final = 100
_INDENT: Final = 4
# Without quotes, backslash and braces: text stays text in a string, a comment, a docstring or an f-string.
_PLAIN: Final = frozenset(string.ascii_letters + string.digits + " !#$%&()*+,-./:;<=>?@[]^_`|~")


def render_repro(adapter: Adapter, variant: str, case: Case) -> str:
    """The script for a case of one variant; "" when the adapter has no template.

    Raises
    ------
    SpecError: the adapter has no such variant, the variant does not offer the case's spelling of the initial
        state, or the template is malformed.
    """
    template = adapter.folder / TEMPLATE
    if not template.is_file():
        return ""
    chosen = adapter.variants.get(variant)
    if chosen is None or case.initial not in chosen.paths:
        raise SpecError("no such call to write down", where=f"{adapter.name}:{variant}", got=f"state {case.initial}")
    container = case.dtype if case.dtype in ("float64", "float16") else "float32"
    lead = slice(None) if case.batched else 0
    environment = _environment(adapter.folder)
    try:
        return environment.get_template(f"adapter/{TEMPLATE}").render(
            title=f"{adapter.title}: {chosen.title}",
            path=chosen.attestable(case.cell, case.initial)[0],
            origin=case.origin,
            distribution=adapter.distribution,
            cell=case.cell,
            variant=variant,
            initial=case.initial,
            batched=case.batched,
            dtype=case.dtype,
            container=container,
            parameters={name: case.parameters[name].astype(container) for name in cell_named(case.cell).parameters},
            x=case.x[lead].astype(container),
            h0=case.h0[lead].astype(container),
            c0=None if case.c0 is None else case.c0[lead].astype(container),
            multiple=multiple(case),
            epsilon=2 * format_of(case.dtype).storage,
        )
    except (TemplateError, TypeError) as error:
        raise SpecError("cannot write a repro script", where=str(template), got=str(error)) from None


@lru_cache(maxsize=32)
def _environment(folder: Path) -> Environment:
    """Where an adapter's template is found; kept, because compiling templates is what a script costs."""
    return Environment(
        loader=PrefixLoader({"base": FileSystemLoader(TEMPLATES), "adapter": FileSystemLoader(folder)}),
        undefined=StrictUndefined,
        finalize=literal,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # this is Python, not HTML; `finalize` does the quoting  # noqa: S701
    )


def multiple(case: Case) -> int:
    """How many epsilons one step of a conforming implementation may be off, generously.

    Four, and one for every unit of the largest sum of magnitudes that can enter an activation. (Measured on
    conforming releases, over all dtypes and weight scales: never more than half of that.) In a scan a state and the one
    before it are each off on their own; with logarithms as large as the number of steps, by so much more.
    """
    x, state = np.abs(case.x), max(1.0, float(np.abs(case.h0).max()))

    def largest(letters: str, size: Callable[[Array], float]) -> float:
        axes = cell_named(case.cell).parameters.items()
        chosen = [case.parameters[name] for name, axis in axes if "".join(axis) == letters]
        return max((float(size(np.abs(p))) for p in chosen), default=0.0)

    inputs = largest("HD", lambda matrix: (x @ matrix.T).max())
    states = max(largest(letters, lambda matrix: matrix.sum(axis=1).max() * state) for letters in ("HH", "HP", "PH"))
    steps = {"sequential": 1, "scan": 2, "log-scan": 2 * case.shape.time}[case.evaluation]
    return math.ceil(steps * (4 + inputs + states + 2 * largest("H", np.max)))


def literal(value: object) -> str:
    """`value` as a Python literal; arrays as nested lists that give the same numbers back in their own dtype.

    Raises
    ------
    TypeError: a value that has no literal here, numbers that are not finite included.
    """
    match value:
        case Undefined():
            return str(value)  # raises the error that names it
        case str():
            return "'" + "".join(c if c in _PLAIN else _escaped(c) for c in value) + "'"
        case bool() | int() | None:
            return repr(value)
        case float() if np.isfinite(value):
            return repr(value)
        case np.ndarray() if value.dtype.kind == "f" and np.all(np.isfinite(value)):
            return _nested(value, _INDENT)
        case _:
            raise TypeError(f"no literal for {type(value).__name__} {str(value)[:60]!r}")


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _nested(array: NDArray[Any], indent: int) -> str:
    inner = indent + _INDENT
    parts = [_shortest(number) for number in array] if array.ndim == 1 else [_nested(row, inner) for row in array]
    line = f"[{', '.join(parts)}]"
    if "\n" not in line and indent + len(line) <= _WIDTH:
        return line
    return "[\n" + "".join(f"{' ' * inner}{part},\n" for part in parts) + " " * indent + "]"


def _shortest(number: np.floating[Any]) -> str:
    """The shortest decimal that gives the number back in its own dtype, when read as float64 first."""
    text = str(number)
    return text if type(number)(float(text)) == number else repr(float(number))
