"""Reduction: a failing case made small and plain by what is known of cases: rows, steps, units, zeros, round numbers.

A pure search: the caller says whether a smaller case still fails as the first one did. Shapes are cut first and in big
steps, because a framework may compile a program for each, and because generic numbers tell faults apart best; then
numbers are removed, whole arrays before parts of them; those that stay are made plain. Same case, same answers: same
result, after a bounded number of questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from conformance.case import Case, Shape, arrays_of
from conformance.cells.registry import cell_named
from conformance.rounding import Array, round_to
from conformance.worker.names import prefix_of

Fails: TypeAlias = Callable[[Case], bool]
Indices: TypeAlias = NDArray[np.intp]
Arrays: TypeAlias = Mapping[tuple[str, str], Array]
"""All arrays of a case by kind (state, parameters, cotangents) and name."""

# Of the questions, so many may be on shapes that are not among those offered.
_FREE_SHAPES: Final = 5
# What needs more units or features than a few may need some past the end of a vector, or of a block of a kernel.
_WIDTHS: Final = (9, 17, 33, 65)
# The least that a positive state may hold, as in the cases that are drawn.
_POSITIVE: Final = 0.125


class _Search(Struct):
    """case: the smallest that fails so far; left: questions that may still be asked; asked: digests of past ones."""

    fails: Fails
    case: Case
    left: int
    asked: set[str] = field(default_factory=set)

    def accepts(self, candidate: Case) -> bool:
        """Whether another case fails as well; it is the smallest one then."""
        if self.left <= 0 or candidate.digest in self.asked:
            return False
        self.asked.add(candidate.digest)
        self.left -= 1
        if not self.fails(candidate):
            return False
        self.case = candidate
        return True


def reduced(
    case: Case, fails: Fails, *, at: tuple[int, int, int], shapes: Sequence[Shape] = (), questions: int = 100
) -> Case:
    """The smallest and plainest case found that fails; `case` itself, which fails, where there is no smaller one.

    at: the row, step and unit where it fails first: kept when something is cut off. shapes: tried first, in this
    order, as far as they are smaller in every respect. questions: how often `fails` may be asked.
    """
    search = _Search(fails=fails, case=case, left=questions, asked={case.digest})
    _cut(search, at, shapes)
    _empty(search)
    _thin(search)
    _plain(search)
    return search.case


# --- Shapes ---


def _cut(search: _Search, at: tuple[int, int, int], shapes: Sequence[Shape]) -> None:
    for shape in shapes:
        if _smaller(shape, search.case.shape) and search.accepts(sliced(search.case, shape, at)):
            at = _moved(at, shape)
            break
    asked = 0
    for name, least in (("batch", 1), ("time", 0), ("features", 1), ("hidden", 1), ("time", at[1] + 2), ("hidden", 2)):
        now = search.case.shape
        size = max(least, at[1] + 1) if name == "time" else least
        if size >= getattr(now, name) or asked == _FREE_SHAPES:
            continue
        asked += 1
        shape = replace(now, **{name: size}, output=0)
        if search.accepts(sliced(search.case, shape, at)):
            at = _moved(at, shape)
    for name in ("hidden", "features"):
        for size in _WIDTHS:
            shape = replace(search.case.shape, **{name: size}, output=0)
            if size < getattr(search.case.shape, name) and search.accepts(sliced(search.case, shape, at)):
                at = _moved(at, shape)
                break


def _smaller(shape: Shape, than: Shape) -> bool:
    pairs = [(getattr(shape, n), getattr(than, n)) for n in ("batch", "time", "features", "hidden")]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _moved(at: tuple[int, int, int], shape: Shape) -> tuple[int, int, int]:
    row, step, unit = at
    return min(row, shape.batch - 1), min(step, shape.time - 1), min(unit, shape.hidden - 1)


def sliced(case: Case, shape: Shape, at: tuple[int, int, int]) -> Case:
    """The part of a case that has this batch, time, features and hidden units and holds the row, step and unit `at`.

    Steps are the first ones, in the order in which they are computed, if these hold the step; else those up to it.
    """
    kind, old = cell_named(case.cell), case.shape
    hidden, output = shape.hidden, shape.hidden
    if kind.projected:
        hidden = min(max(hidden, 2), old.hidden)
        output = min(max(1, 2 * hidden // 3), old.output)
    rows = _window(at[0], shape.batch, old.batch)
    step = old.time - 1 - at[1] if case.reverse else at[1]
    steps = np.arange(shape.time) + max(0, step - shape.time + 1)
    if case.reverse:
        steps = old.time - 1 - steps[::-1]
    picks = {
        "D": np.arange(shape.features),
        "H": _window(at[2] % old.output, hidden, old.hidden),
        "P": _window(at[2] % old.output, output, old.output),
    }
    if not kind.projected:
        picks["P"] = picks["H"]
    blocks = old.layers * old.directions
    states, memories = _blocks(picks["P"], blocks, old.output), _blocks(picks["H"], blocks, old.hidden)
    both = _blocks(picks["P"], old.directions, old.output)
    parameters = {}
    for layer in range(old.layers):
        own = picks if layer == 0 else {**picks, "D": both}
        for direction in range(old.directions):
            for name, letters in kind.parameters.items():
                key = prefix_of(layer, direction) + name
                parameters[key] = case.parameters[key][np.ix_(*(own[letter] for letter in letters))]
    columns = {"final_state": states, "final_cell": memories}
    real = [] if case.lengths is None else [case.lengths[row] for row in rows]
    return replace(
        case,
        parameters=parameters,
        x=case.x[np.ix_(rows, steps, picks["D"])],
        h0=case.h0[np.ix_(rows, states)],
        c0=None if case.c0 is None else case.c0[np.ix_(rows, memories)],
        lengths=None
        if case.lengths is None
        else tuple(int(np.clip(n - steps[0], min(n, 1), shape.time)) for n in real),
        cotangents={
            name: g[np.ix_(rows, steps, both)] if name == "outputs" else g[np.ix_(rows, columns[name])]
            for name, g in case.cotangents.items()
        },
    )


def _window(at: int, size: int, of: int) -> Indices:
    """So many neighbouring indices, `at` among them."""
    return np.arange(size) + min(at, of - size)


def _blocks(picks: Indices, blocks: int, width: int) -> Indices:
    return np.concatenate([picks + block * width for block in range(blocks)])


# --- Numbers ---


def _arrays(case: Case) -> Arrays:
    states = {("state", name): value for name, value in arrays_of(case).items()}
    weights = {("parameters", name): value for name, value in case.parameters.items()}
    return states | weights | {("cotangents", name): value for name, value in case.cotangents.items()}


def _with(case: Case, changes: Arrays) -> Case:
    """The case with other numbers, rounded to its dtype."""
    if cell_named(case.cell).positive and case.initial == "given" and ("state", "h0") in changes:
        changes = {**changes, ("state", "h0"): np.maximum(changes["state", "h0"], _POSITIVE)}
    new = {key: round_to(case.dtype, value) for key, value in {**_arrays(case), **changes}.items()}

    def of(kind: str) -> dict[str, Array]:
        return {name: value for (own, name), value in new.items() if own == kind}

    states = of("state")
    return replace(
        case,
        x=states["x"],
        h0=states["h0"],
        c0=states.get("c0"),
        parameters=of("parameters"),
        cotangents=of("cotangents"),
    )


def _group(key: tuple[str, str]) -> str:
    """Arrays of one role: the matrices of all gates on the input, those on the state, all biases; else its own name."""
    kind, name = key
    own = name.rpartition(".")[2]
    return own[:3] if kind == "parameters" and own.startswith("W_") else own[:2] if own.startswith("b_") else own


def _empty(search: _Search) -> None:
    """Whole arrays to zero: those of a role together, and one by one where that does not do."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for key, value in _arrays(search.case).items():
        if np.any(value):
            groups.setdefault(_group(key), []).append(key)
    for keys in groups.values():
        arrays = _arrays(search.case)
        if search.accepts(_with(search.case, {key: np.zeros_like(arrays[key]) for key in keys})) or len(keys) == 1:
            continue
        for key in keys:
            search.accepts(_with(search.case, {key: np.zeros_like(arrays[key])}))


def _thin(search: _Search) -> None:
    """Ever smaller parts of all numbers to zero (the removing half of delta debugging)."""
    left = [(key, tuple(map(int, i))) for key, value in _arrays(search.case).items() for i in np.argwhere(value)]
    size = len(left) // 2
    while size:
        kept: list[tuple[tuple[str, str], tuple[int, ...]]] = []
        for part in _parts(left, size):
            changed = dict(_arrays(search.case))
            for key, index in part:
                changed[key] = changed[key].copy()
                changed[key][index] = 0.0
            if not search.accepts(_with(search.case, changed)):
                kept += part
        left, size = kept, min(size // 2, len(kept) // 2) if size > 1 else 0


def _parts(
    items: Sequence[tuple[tuple[str, str], tuple[int, ...]]], size: int
) -> Iterator[Sequence[tuple[tuple[str, str], tuple[int, ...]]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _half(values: Array) -> Array:
    return np.where(values != 0.0, 0.5, 0.0)


def _signed_half(values: Array) -> Array:
    return 0.5 * np.sign(values)


def _tenths(values: Array) -> Array:
    """One decimal; what would vanish keeps its first digit."""
    rounded = np.round(values, 1)
    return np.where(rounded == 0.0, _digit(values), rounded)


def _digit(values: Array) -> Array:
    """One significant digit."""
    with np.errstate(divide="ignore"):
        unit = 10.0 ** np.floor(np.log10(np.abs(values)))
    return np.where(values == 0.0, 0.0, np.round(values / np.where(values == 0.0, 1.0, unit)) * unit)


def _hundredths(values: Array) -> Array:
    return np.round(values, 2)


_PLAIN: Final = (_half, _signed_half, _tenths, _hundredths)


def _plain(search: _Search) -> None:
    """Round numbers: all together, else array by array."""
    for plainer in _PLAIN:
        arrays = _arrays(search.case)
        if search.accepts(_with(search.case, {key: plainer(value) for key, value in arrays.items()})):
            return
    for key, value in _arrays(search.case).items():
        if np.any(value):
            any(search.accepts(_with(search.case, {key: plainer(value)})) for plainer in _PLAIN)
