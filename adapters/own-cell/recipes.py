"""The language in which a user's arrays are written in canonical ones, and the reading of names and shapes.

``(W_xr | W_hr).T``        side by side along the inputs, then transposed: a matrix (D + H, H) on [x; h]
``W_xr; W_xz; W_xn``       one below the other: stacked gates (3H, D)
``b_xr + b_hr``            added; ``-W_xz`` negated
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# Gates in the order in which frameworks stack them; the candidate, through which every other gate shows.
GATES = {"gru": "rzn", "gru_v1": "rzn", "lstm": "ifgo", "elman": "", "elman_relu": ""}
CANDIDATE = {"gru": "n", "gru_v1": "n", "lstm": "g", "elman": "", "elman_relu": ""}
_WORDS = {
    "r": ("reset",),
    "z": ("update", "upd"),
    "n": ("cand", "new", "tilde", "hat", "bar", "hidden"),
    "i": ("input", "inp"),
    "f": ("forget",),
    "g": ("cell", "cand", "new", "tilde", "memory"),
    "o": ("output", "out"),
}
_LETTERS = {
    "gru": {"r": "r", "z": "z", "u": "z", "n": "n", "h": "n", "c": "n", "g": "n"},
    "lstm": {"i": "i", "f": "f", "g": "g", "c": "g", "o": "o"},
}
_SIDES = {"x": "x", "i": "x", "in": "x", "input": "x", "ih": "x", "h": "h", "hidden": "h", "hh": "h", "rec": "h"}


class NoPlace(ValueError):
    """The names and shapes of the arrays do not say what they are."""


def filled(recipe: str, parameters: Mapping[str, Any]) -> Any:
    """The array that a recipe describes; ValueError for what is no recipe."""
    text = recipe.strip()
    transposed = text.endswith(".T")
    if transposed:
        text = text[:-2].strip()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    rows = []
    for row in text.split(";"):
        columns = [_sum(part, parameters, recipe) for part in row.split("|")]
        rows.append(columns[0] if len(columns) == 1 else np.concatenate(columns, axis=-1))
    array = rows[0] if len(rows) == 1 else np.concatenate(rows, axis=0)
    return array.T if transposed else array


def _sum(text: str, parameters: Mapping[str, Any], recipe: str) -> Any:
    total: Any = None
    for sign, name in _terms(text, recipe):
        if name not in parameters:
            raise ValueError(f"WEIGHTS: {recipe!r} names {name!r}; there are {', '.join(parameters)}")
        value = sign * parameters[name]
        total = value if total is None else total + value
    return total


def _terms(text: str, recipe: str) -> list[tuple[int, str]]:
    if not re.fullmatch(r"\s*-?\s*\w+(\s*[+-]\s*\w+)*\s*", text):
        raise ValueError(f"WEIGHTS: cannot read {recipe!r}; write e.g. '(W_xr | W_hr).T' or 'b_xr + b_hr'")
    return [(-1 if sign == "-" else 1, name) for sign, name in re.findall(r"([+-]?)\s*(\w+)", text)]


@dataclass(frozen=True)
class Leaf:
    """One array of the user's, read by its shape.

    side: what it multiplies: ``x``, ``h``, ``xh`` for both; of a bias "" where there is one for both sides.
    gates: the gates stacked in it, in their order. columns: whether a matrix has its inputs in rows, as in x @ W.
    hx: whether both sides stand as [h; x]. blocks: how many gates fit. shape: as the user has it.
    """

    path: str
    shape: tuple[int, ...]
    side: str
    blocks: int
    bias: bool = False
    columns: bool = True
    hx: bool = False
    gates: tuple[str, ...] = ()


def recipes(leaves: Sequence[Leaf], family: str, *, inside: bool = False) -> dict[str, str]:
    """Every leaf in the language of this module.

    inside: whether a GRU's only bias of the candidate stands inside the product with the reset gate.
    """
    return {leaf.path: _bias(leaf, leaves, family, inside=inside) if leaf.bias else _matrix(leaf) for leaf in leaves}


def _matrix(leaf: Leaf) -> str:
    sides = [side for side in ("hx" if leaf.hx else "xh") if side in leaf.side]
    text = "; ".join(" | ".join(f"W_{side}{gate}" for side in sides) for gate in leaf.gates)
    return f"({text}).T" if leaf.columns else text


def _bias(leaf: Leaf, among: Sequence[Leaf], family: str, *, inside: bool) -> str:
    rows = []
    for gate in leaf.gates:
        paired = any(other is not leaf and other.bias and gate in other.gates for other in among)
        if paired:
            rows.append(f"b_h{gate}" if leaf.side == "h" else f"b_x{gate}")
        elif (family, gate) == ("gru", "n"):
            rows.append("b_hn" if inside else "b_xn")
        else:
            rows.append(f"b_x{gate} + b_h{gate}")
    return "; ".join(rows)


def read(
    shapes: Mapping[str, tuple[int, ...]], family: str, features: int, hidden: int, *, columns: bool
) -> list[Leaf]:
    """What every leaf is, by shape and name; NoPlace when they do not tell.

    columns: the framework's habit for square matrices, x @ W.
    """
    leaves = [_shaped(path, shape, family, features, hidden, columns=columns) for path, shape in shapes.items()]
    matrices = [leaf for leaf in leaves if not leaf.bias]
    biases = [leaf for leaf in leaves if leaf.bias]
    if not matrices:
        raise NoPlace("there is no matrix among the parameters")
    named: list[Leaf] = []
    for side in ("xh", "x", "h"):
        named += _gates([leaf for leaf in matrices if leaf.side == side], family)
    for one in ("x", "h"):
        has = any(one in leaf.side for leaf in named)
        if not has:
            raise NoPlace(f"no matrix multiplies {'the input' if one == 'x' else 'the state'}")
    return [*named, *_biases(biases, named, family)]


def unnamed(leaves: Sequence[Leaf], family: str) -> bool:
    """Whether the order of the gates is a guess: stacked, or without telling names."""
    return any(leaf.blocks == len(GATES[family]) > 1 for leaf in leaves) or any(
        leaf.gates and not _known([leaf.path for leaf in group], family)
        for side in ("xh", "x", "h")
        if len(group := [leaf for leaf in leaves if leaf.side == side and not leaf.bias]) == len(GATES[family]) > 1
        for leaf in group
    )


def reordered(leaves: Sequence[Leaf], family: str, order: str) -> list[Leaf]:
    """The leaves with every gate called what stands at its place in `order`."""
    renamed = dict(zip(GATES[family], order, strict=True))
    return [replace(leaf, gates=tuple(renamed[gate] for gate in leaf.gates)) for leaf in leaves]


def _shaped(path: str, shape: tuple[int, ...], family: str, features: int, hidden: int, *, columns: bool) -> Leaf:
    most = max(1, len(GATES[family]))
    flat = tuple(size for size in shape if size != 1)
    if len(flat) == 1 and flat[0] % hidden == 0 and flat[0] // hidden <= most:
        return Leaf(path, shape, "", flat[0] // hidden, bias=True)
    if len(shape) == 2:
        sides = {features: "x", hidden: "h", features + hidden: "xh"}
        found = []
        for inputs, outputs, across in ((shape[0], shape[1], True), (shape[1], shape[0], False)):
            if inputs in sides and outputs % hidden == 0 and outputs // hidden <= most:
                found.append(Leaf(path, shape, sides[inputs], outputs // hidden, columns=across))
        if found:
            return next((leaf for leaf in found if leaf.columns == columns), found[0])
    raise NoPlace(f"{path} {shape} is no matrix on x, on h or on both, and no bias")


def _gates(group: list[Leaf], family: str) -> list[Leaf]:
    """The leaves of one side with their gates."""
    gates = GATES[family]
    if not group:
        return []
    if not gates:
        if len(group) > 1:
            raise NoPlace(f"{len(group)} matrices on one side")
        return [replace(group[0], gates=("",))]
    singles = [leaf for leaf in group if leaf.blocks == 1]
    stacks = [leaf for leaf in group if leaf.blocks > 1]
    if len(stacks) > 1 or sum(leaf.blocks for leaf in group) > len(gates):
        raise NoPlace(f"{', '.join(leaf.path for leaf in group)}: more gates than a cell of this kind has")
    result: list[Leaf] = []
    left = gates
    if stacks and sum(leaf.blocks for leaf in group) != len(gates):
        raise NoPlace(f"{', '.join(leaf.path for leaf in group)}: not the gates {', '.join(gates)}")
    if stacks:
        left = gates[stacks[0].blocks :]
        result.append(replace(stacks[0], gates=tuple(gates[: stacks[0].blocks])))
    if not singles:
        return result
    known = _known([leaf.path for leaf in singles], family)
    if stacks or (len(singles) == len(gates) and not known):
        names = list(left)
    elif known:
        names = known
    else:
        names = _shared([leaf.path for leaf in singles], gates, family)
    return result + [replace(leaf, gates=(name,)) for leaf, name in zip(singles, names, strict=True)]


def _shared(paths: list[str], gates: str, family: str) -> list[str]:
    """Fewer matrices than gates: one for all, or one for the candidate and one for the gates."""
    if len(paths) == 1:
        return [gates[0]]
    candidate = CANDIDATE[family]
    single = [_gate(path, paths, family) for path in paths]
    if len(paths) == 2 and family != "lstm":
        at = single.index(candidate) if single.count(candidate) == 1 else 1
        return [candidate if place == at else gates[0] for place in (0, 1)]
    raise NoPlace(f"{', '.join(paths)}: {len(paths)} matrices for {len(gates)} gates")


def _known(paths: list[str], family: str) -> list[str]:
    """The gates by name, or nothing when the names do not tell all of them apart."""
    found = [_gate(path, paths, family) for path in paths]
    return [] if "" in found or len(set(found)) != len(found) else found


def _gate(path: str, among: Sequence[str], family: str) -> str:
    """The gate that a name speaks of, "" when it does not."""
    start, end = _common(among)
    residual = path[start : len(path) - end] if len(among) > 1 else path
    letters = _LETTERS["lstm" if family == "lstm" else "gru"]
    low = residual.lower()
    for gate in GATES[family]:
        if any(word in low for word in _WORDS[gate]):
            return gate
    words = [word for word in re.split(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])", residual) if word]
    for word in words:
        if word.lower() in letters:
            return letters[word.lower()]
    for word in words:
        if len(word) == 2 and word[-1].lower() in letters:  # ir, hz, Wr, xn
            return letters[word[-1].lower()]
    return ""


def _common(paths: Sequence[str]) -> tuple[int, int]:
    """The lengths of what all names begin and end with."""
    shortest = min(map(len, paths))
    start = next((i for i in range(shortest) if len({path[i] for path in paths}) > 1), shortest)
    end = next((i for i in range(shortest - start) if len({path[-1 - i] for path in paths}) > 1), shortest - start)
    return start, end


def _biases(biases: list[Leaf], matrices: list[Leaf], family: str) -> list[Leaf]:
    gates = GATES[family]
    result: list[Leaf] = []
    alone: list[Leaf] = []
    for leaf in biases:
        owner = _owner(leaf, matrices)
        if owner is not None and owner.blocks == leaf.blocks:
            result.append(replace(leaf, side="" if owner.side == "xh" else owner.side, gates=owner.gates))
        else:
            alone.append(leaf)
    if result and alone and sum(leaf.blocks for leaf in alone) > len(gates):
        raise NoPlace(f"{', '.join(leaf.path for leaf in alone)}: no matrix belongs to these biases")
    result += _free(alone, family)
    return result


def _free(alone: list[Leaf], family: str) -> list[Leaf]:
    """Biases that belong to no matrix by name."""
    gates = GATES[family]
    if not alone:
        return []
    if not gates:
        sides = ["", ""] if len(alone) == 1 else ["x", "h"]
        if len(alone) > 2:
            raise NoPlace(f"{', '.join(leaf.path for leaf in alone)}: {len(alone)} biases")
        return [replace(leaf, gates=("",), side=side) for leaf, side in zip(alone, sides, strict=False)]
    stacks = [leaf for leaf in alone if leaf.blocks == len(gates)]
    singles = [leaf for leaf in alone if leaf.blocks == 1]
    if stacks and len(stacks) + len(singles) == len(alone):
        sides = [""] if len(stacks) == 1 else [_side(leaf.path) for leaf in stacks]
        if len(stacks) == 2 and sorted(sides) != ["h", "x"]:
            sides = ["x", "h"]
        found = [replace(leaf, gates=tuple(gates), side=side) for leaf, side in zip(stacks, sides, strict=True)]
        if len(singles) == 1 and family in ("gru", "gru_v1"):
            return [*found, replace(singles[0], gates=("n",), side="h")]
        if not singles:
            return found
    if len(singles) == len(alone) <= len(gates):
        names = _known([leaf.path for leaf in alone], family)
        if not names:
            names = list(gates) if len(alone) == len(gates) else _shared([leaf.path for leaf in alone], gates, family)
        return [replace(leaf, gates=(name,)) for leaf, name in zip(alone, names, strict=True)]
    if len(singles) == len(alone) == 2 * len(gates):
        found = []
        for side in "xh":
            own = [leaf for leaf in alone if _side(leaf.path) == side]
            names = _known([leaf.path for leaf in own], family) if len(own) == len(gates) else []
            found += [replace(leaf, gates=(name,), side=side) for leaf, name in zip(own, names, strict=False)]
        if len(found) == len(alone):
            return found
    if len(stacks) == 0 and {leaf.blocks for leaf in alone} == {1, len(gates) - 1} and len(alone) == 2:
        pair = sorted(alone, key=lambda leaf: -leaf.blocks)
        return [replace(pair[0], gates=tuple(gates[:-1])), replace(pair[1], gates=(gates[-1],))]
    raise NoPlace(f"{', '.join(leaf.path for leaf in alone)}: cannot tell which gates these biases belong to")


def _owner(bias: Leaf, matrices: Sequence[Leaf]) -> Leaf | None:
    """The matrix that a bias stands beside: in the same submodule, or with the same name but for its first letter."""
    parent = bias.path.rpartition(".")[0]
    beside = [leaf for leaf in matrices if parent and leaf.path.rpartition(".")[0] == parent]
    if len(beside) == 1:
        return beside[0]
    same = [leaf for leaf in matrices if _stem(leaf.path) and _stem(leaf.path) == _stem(bias.path)]
    return same[0] if len(same) == 1 else None


def _stem(path: str) -> str:
    """A name without what says that it is a matrix or a bias."""
    return re.sub(
        r"^(weights?|kernel|bias|W|w|b|B)_?|_?(weights?|kernel|bias|W|w|b)$", "", path.rpartition(".")[2]
    ).lower()


def _side(path: str) -> str:
    for word in re.split(r"[^A-Za-z]+", path.lower()):
        if word in _SIDES:
            return _SIDES[word]
        if len(word) in (2, 3) and word.lstrip("b")[:1] in ("x", "i", "h"):
            return "h" if word.lstrip("b")[0] == "h" else "x"
    return ""
