"""What a traced program really does, read from the program: who made its loops, and which cell is called where.

JAX keeps with every operation the Python frames it was traced from. So a path that is put together from these cannot
name a function that did not run, whatever the code around it says.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import jax
from flax import nnx

NO_CELL = "no cell"
HERE = Path(__file__).parent
CELLS = inspect.getsourcefile(nnx.GRUCell)
# By the file of their code: what may stand between this adapter and a loop. The outermost made it.
MAKERS = {
    inspect.getsourcefile(jax.lax.scan): "jax.lax.scan",
    inspect.getsourcefile(nnx.scan): "flax.nnx.scan",
    inspect.getsourcefile(nnx.RNN): "flax.nnx.RNN",
}


@dataclass(frozen=True)
class Loop:
    """A loop: the public function that made it, its steps (-1 when unknown), the products in one step by cell."""

    maker: str
    steps: int
    products: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """The products of matrices outside loops, each by the cell that asked for it, and the loops."""

    products: tuple[str, ...]
    loops: tuple[Loop, ...]

    def __str__(self) -> str:
        parts = [f"{loop.maker} of {loop.steps} steps with {_listed(loop.products)}" for loop in self.loops]
        return "; ".join([*parts, f"outside loops {_listed(self.products)}"])


@lru_cache(maxsize=512)
def read(jaxpr: Any) -> Program:
    """The forward part of a traced program; what only pulls gradients back is left out."""
    products: list[str] = []
    loops: list[Loop] = []
    for equation in jaxpr.eqns:
        # Its elements, since older releases of JAX spell a stack of transformations alone as nothing.
        if any(part.name == "transpose" for part in equation.source_info.name_stack.stack):
            continue
        inner = [read(each) for each in _inner(equation)]
        if equation.primitive.name == "dot_general":
            products.append(_cell(equation))
        elif equation.primitive.name in ("scan", "while"):
            inside = [cell for each in inner for cell in each.products]
            loops.append(Loop(_maker(equation), equation.params.get("length", -1), tuple(inside)))
            loops += [loop for each in inner for loop in each.loops]
        else:
            products += [cell for each in inner for cell in each.products]
            loops += [loop for each in inner for loop in each.loops]
    return Program(tuple(products), tuple(loops))


def _inner(equation: Any) -> Iterator[Any]:
    """The programs within an operation."""
    for value in equation.params.values():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if hasattr(each, "eqns"):
                yield each


def _frames(equation: Any) -> Any:
    """Innermost first."""
    traceback = equation.source_info.traceback
    return [] if traceback is None else traceback.frames


def _cell(equation: Any) -> str:
    """The class whose method asked for a product, innermost."""
    return next((_class(frame) for frame in _frames(equation) if frame.file_name == CELLS), NO_CELL)


def _class(frame: Any) -> str:
    """The class that a method of the cells' file belongs to; older releases of JAX tell the method's name alone."""
    name, dot, _ = frame.function_name.partition(".")
    if dot:
        return str(name)
    return next((own for own, first, last in _classes() if first <= frame.line_num <= last), NO_CELL)


@cache
def _classes() -> tuple[tuple[str, int, int], ...]:
    """Every class of the cells' file, with its first and last line."""
    assert CELLS is not None
    tree = ast.parse(Path(CELLS).read_text(encoding="utf-8"))
    return tuple(
        (node.name, node.lineno, node.end_lineno or node.lineno) for node in tree.body if isinstance(node, ast.ClassDef)
    )


def _maker(equation: Any) -> str:
    """The outermost known function between this adapter and a loop."""
    maker = "an unknown loop"
    for frame in _frames(equation):
        if Path(frame.file_name).parent == HERE:
            break
        maker = MAKERS.get(frame.file_name, maker)
    # Of an unrolled loop the compiler makes copies, though its body was traced once.
    copies = equation.params.get("unroll", 1)
    return maker if copies == 1 else f"{maker}, unrolled {copies} times,"


def _listed(products: tuple[str, ...]) -> str:
    counts = [f"{products.count(cell)} products of {cell}" for cell in sorted(set(products))]
    return " and ".join(counts) or "no product"
