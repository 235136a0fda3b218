"""From the user's object to a way of running it with canonical weights: by names and shapes, and by trial."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .calling import ROLES, Caller, NotLikeThis, Plan, Ran, plans
from .recipes import CANDIDATE, GATES, Leaf, NoPlace, filled, read, recipes, reordered, unnamed
from .subject import Linen, Nnx, Subject

# Of trials: all different, so that a shape tells what an axis is. (D + H = 8, 3 H = 15, 4 H = 20.)
BATCH, TIME, FEATURES, HIDDEN = 4, 6, 3, 5
LARGE = 40.0  # saturates a sigmoid
FAMILIES = {"gru": ("gru", "gru_v1"), "lstm": ("lstm",), "elman": ("elman", "elman_relu")}


@dataclass
class Understood:
    """The user's object and how it is run.

    recipes: by cell, the user's arrays in canonical ones; empty where it takes no weights from outside: `fresh`.
    problems: by cell, why its weights have no place.
    """

    subject: Subject
    plan: Plan
    shapes: dict[str, tuple[int, ...]]
    recipes: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    fresh: str = ""
    optional: bool = False
    _made: dict[tuple[int, int], Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """What the host wants to know."""
        return {
            "name": self.subject.name,
            "kind": self.plan.kind,
            "framework": self.subject.kind.title,
            "call": str(self.plan),
            "roles": list(self.plan.roles),
            "stateful": self.plan.stateful,
            "optional": self.optional,
            "transposed": self.plan.transposed,
            "leaves": {name: list(shape) for name, shape in self.shapes.items()},
            "recipes": self.recipes,
            "problems": self.problems,
            "fresh": self.fresh,
            "doc": (getattr(self.subject.module, "__doc__", "") or ""),
            "cell": str(getattr(self.subject.module, "CELL", "")),
            "update": str(getattr(self.subject.module, "UPDATE", "")),
        }

    def run(self, cell: str, parameters: Mapping[str, Any], x: Any, h0: Any, c0: Any, hidden: int) -> Ran:
        """The whole sequence of x (B, T, D) with canonical parameters."""
        arrays: dict[str, Any] = {}
        if not self.fresh:
            if cell not in self.recipes:
                raise NoPlace(self.problems.get(cell, f"no {cell}"))
            arrays = {name: filled(recipe, parameters) for name, recipe in self.recipes[cell].items()}
        return self.with_arrays(arrays, x, h0 if self.plan.stateful else None, c0, hidden)

    def with_arrays(self, arrays: Mapping[str, Any], x: Any, h0: Any, c0: Any, hidden: int) -> Ran:
        """The whole sequence with these arrays of the user's."""
        kind, size = self.subject.kind, (x.shape[-1], hidden)
        if size not in self._made or self.fresh:
            self._made[size] = Made(self.subject, self.plan, size, tuple(x.shape[:2]), self.shapes)
        made = self._made[size]
        made.load(arrays)
        caller = Caller(self.plan, kind.to, kind.back, made.invoke, made.given)
        return caller.sequence(x, h0, c0, hidden)


class Made:
    """An object of one size with its arrays."""

    def __init__(
        self, subject: Subject, plan: Plan, size: tuple[int, int], rows: tuple[int, int], names: Mapping[str, Any]
    ) -> None:
        self._subject, self._kind, self._plan = subject, subject.kind, plan
        self._thing, self._callee = subject.made(*size)
        self._tree: Any = None
        self.given: dict[str, Any] = {}
        self.leaves: dict[str, np.ndarray]
        if subject.is_function:
            self._tree = subject.tree(*size)
            self.leaves = (
                {} if self._tree is None else {k: self._kind.back(v) for k, v in flattened(self._tree, self._kind)}
            )
            self.load(self.leaves)
        else:
            caller = Caller(plan, self._kind.to, self._kind.back, self.invoke, {})
            self.leaves = self._kind.leaves(self._thing, lambda: caller.example(rows[0], rows[1], *size))

    def load(self, arrays: Mapping[str, Any]) -> None:
        """Replace arrays by name."""
        if not self._subject.is_function:
            self._kind.load(self._thing, arrays)
            return
        native = {name: self._kind.to(value) for name, value in arrays.items()}
        direct = [role for role in self._plan.roles if role in native]
        if direct:
            self.given = native
        elif self._tree is None:
            self.given = {"p": native}
        else:
            self.given = {"p": rebuilt(self._tree, native, self._kind)}

    def invoke(self, arguments: Sequence[Any]) -> Any:
        """Call it."""
        return self._kind.call(self._callee, self._thing, arguments)


def flattened(tree: Any, kind: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The arrays of a tree of dicts, tuples and lists by path."""
    if isinstance(tree, Mapping):
        return [leaf for key, value in tree.items() for leaf in flattened(value, kind, f"{prefix}{key}.")]
    if hasattr(tree, "_fields"):
        return [leaf for key in tree._fields for leaf in flattened(getattr(tree, key), kind, f"{prefix}{key}.")]
    if isinstance(tree, (tuple, list)):
        return [leaf for index, value in enumerate(tree) for leaf in flattened(value, kind, f"{prefix}{index}.")]
    return [(prefix[:-1], tree)] if kind.is_array(tree) else []


def rebuilt(tree: Any, arrays: Mapping[str, Any], kind: Any, prefix: str = "") -> Any:
    """The same tree with other arrays."""
    if isinstance(tree, Mapping):
        return type(tree)({key: rebuilt(value, arrays, kind, f"{prefix}{key}.") for key, value in tree.items()})
    if hasattr(tree, "_fields"):
        return type(tree)(*(rebuilt(getattr(tree, key), arrays, kind, f"{prefix}{key}.") for key in tree._fields))
    if isinstance(tree, (tuple, list)):
        return type(tree)(rebuilt(value, arrays, kind, f"{prefix}{index}.") for index, value in enumerate(tree))
    if prefix[:-1] in arrays:
        return kind.to(np.asarray(kind.back(arrays[prefix[:-1]])).reshape(tree.shape))
    return tree


def understand(file: Path, name: str, framework: str, *, kind: str, cell: str) -> Understood:
    """Everything that is to be known before the first case.

    Raises
    ------
    NotLikeThis: no way of calling it works; the last error of the likeliest way is its cause.
    """
    subject = Subject(file, name, framework)
    errors: list[Exception] = []
    for shapes in _shapes(subject):
        for plan in _plans(subject, shapes, kind):
            try:
                it = _tried(subject, plan, shapes)
            except Exception as error:  # whatever the user's code raises: another way of calling it may work
                errors.append(error)
                continue
            _place(it, cell)
            it.optional = it.plan.stateful and it.plan.kind == "layer" and _runs_without_state(it)
            return it
    raise errors[0] if errors else NotLikeThis(f"{name} cannot be called as a cell or a layer")


def _runs_without_state(it: Understood) -> bool:
    """Whether a layer may be called without its initial state."""
    generator = np.random.default_rng(8)
    arrays = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in it.shapes.items()}
    x = generator.standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)
    try:
        it.with_arrays(arrays, x, None, None, HIDDEN)
    except Exception:  # whatever the user's code raises
        return False
    return True


def _plans(subject: Subject, shapes: Mapping[str, Any] | None, kind: str) -> Iterator[Plan]:
    _, callee = subject.made(FEATURES, HIDDEN)
    named = list(shapes or ()) if subject.is_function else []
    takes = subject.is_function and shapes is not None and bool(shapes)
    yield from plans(callee, flax=isinstance(subject.kind, (Linen, Nnx)), takes_arrays=takes, named=named, kind=kind)


def _shapes(subject: Subject) -> Iterator[dict[str, tuple[int, ...]] | None]:
    """The arrays of a function by guess, where nothing makes them; None to ask the object itself."""
    if not subject.is_function:
        yield None
        return
    tree = subject.tree(FEATURES, HIDDEN)
    if tree is not None:
        yield {name: tuple(np.shape(value)) for name, value in flattened(tree, subject.kind)}
        return
    if subject.weights:
        letters = _canonical_zeros("gru") | _canonical_zeros("lstm") | _canonical_zeros("elman")
        yield {name: tuple(filled(recipe, letters).shape) for name, recipe in subject.weights.items()}
        return
    names = _array_names(subject)
    if not names:
        used = subject.globals_used()
        if used:
            raise NotLikeThis(
                f"{subject.name} reads {', '.join(used)} from its file, of fixed size: pass them as arguments, or write a "
                "function make(input_size, hidden_size) that builds the cell and returns it"
            )
        yield {}
        return
    yield from _guessed(names)


def _array_names(subject: Subject) -> list[str]:
    _, callee = subject.made(FEATURES, HIDDEN)
    own = [p.name for p in inspect.signature(callee).parameters.values() if p.default is p.empty]
    direct = [
        name for name in own if ROLES.get(name.lower().lstrip("_")) is None and re.match(r"[WwUuVbB]|bias|kernel", name)
    ]
    return direct or subject.keys()


def _guessed(names: Sequence[str]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes for arrays that are known by name only: joined or separate matrices, in either orientation."""
    biases = [n for n in names if re.match(r"b(?![a-z]{3})|bias", n.rpartition(".")[2], re.IGNORECASE)]
    matrices = [n for n in names if n not in biases]
    sides: dict[str, int] = {}
    for name in matrices:
        low = re.sub(r"^(w|weight|kernel)_?", "", name.lower())
        hidden = name[:1] in "Uu" or (low[:1] == "h" and len(low) > 1) or "hidden" in low or "rec" in low
        sides[name] = HIDDEN if hidden else FEATURES
    split = len(matrices) > 1 and len({*sides.values()}) == 2 and len(matrices) % 2 == 0
    for joined in (False, True) if split else (True,):
        inner = {name: FEATURES + HIDDEN if joined else size for name, size in sides.items()}
        for columns in (True, False):
            yield {
                name: (HIDDEN,) if name in biases else (inner[name], HIDDEN) if columns else (HIDDEN, inner[name])
                for name in names
            }


def _tried(subject: Subject, plan: Plan, shapes: dict[str, tuple[int, ...]] | None) -> Understood:
    """Run it once with arrays of noise; any exception says that this is not the way."""
    generator = np.random.default_rng(7)
    x = generator.standard_normal((BATCH, TIME, FEATURES)).astype(np.float32)
    h = generator.uniform(-1, 1, (BATCH, HIDDEN)).astype(np.float32)
    if plan.transposed:
        probe = np.ascontiguousarray(np.swapaxes(x, 1, 2))
    if shapes is None:
        made = Made(subject, plan, (FEATURES, HIDDEN), (BATCH, TIME), {})
        shapes = {name: tuple(value.shape) for name, value in made.leaves.items()}
    it = Understood(subject, plan, shapes)
    arrays = {name: 0.5 * generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    state = h if plan.stateful else None
    if plan.transposed:
        made = Made(subject, plan, (FEATURES, HIDDEN), (BATCH, TIME), shapes)
        made.load(arrays)
        caller = Caller(plan, subject.kind.to, subject.kind.back, made.invoke, made.given)
        rows = probe[0] if plan.lead == "rows" else probe
        caller.outputs(
            made.invoke(caller.arguments(rows, None, None)),
            (*((BATCH,) if plan.lead == "batch" else ()), TIME, HIDDEN),
            axis=rows.ndim - 2,
        )
        it.fresh = "" if shapes else "none"
        return it
    if plan.kind == "layer":
        if isinstance(subject.kind, Linen):
            again = Made(subject, plan, (FEATURES, HIDDEN), (BATCH, TIME + 1), {})
            if again.leaves.keys() != shapes.keys():
                it.fresh, subject.kind.initialised = "grows", True
                it.with_arrays({}, x, state, state, HIDDEN)
                return it
    if not shapes:
        it.fresh = "none"
    if plan.kind == "layer" and plan.lead != "rows":
        it.plan = plan = _axis(it, plan, arrays, x)
    it.with_arrays(arrays, x, state, state if plan.pair else None, HIDDEN)
    if plan.pair and shapes and "c" not in plan.roles:
        it.plan = _pair(it, plan, arrays, x)
    return it


def _axis(it: Understood, plan: Plan, arrays: Mapping[str, Any], x: np.ndarray) -> Plan:
    """Whether time stands where the plan has it: what comes first must reach what comes later.

    Arrays of fresh noise in every call tell nothing.
    """
    if it.fresh or plan.stateful:  # a state of B rows fits one of them only
        return plan
    size = x.shape[1]
    square = x[:, :, :]
    moved = square.copy()
    moved[0, 0] += 1.0
    before, after = (it.with_arrays(arrays, each, None, None, HIDDEN).outputs for each in (square, moved))
    changed = np.abs(before - after).max(axis=-1)
    if changed[0, 1:].max(initial=0.0) == 0.0 and changed[1:, 0].max(initial=0.0) > 0.0 and size > 1:
        raise NotLikeThis("time is the other axis")
    return plan


def _pair(it: Understood, plan: Plan, arrays: Mapping[str, Any], x: np.ndarray) -> Plan:
    """Which of two states is the memory: the one that may be large."""
    if plan.kind != "cell":
        return plan
    other = replace(plan, pair=plan.pair[::-1])
    h = np.full((BATCH, HIDDEN), 0.1, np.float32)
    for guess in (plan, other):
        it.plan = guess
        ran = it.with_arrays({k: 0.1 * v for k, v in arrays.items()}, x[:, :1], h, 100 * h, HIDDEN)
        if ran.final_cell is not None and np.abs(ran.final_cell).max() > 3.0 >= np.abs(ran.final).max():
            return guess
    return plan


# How the weights get in.


def _place(it: Understood, cell: str) -> None:
    """Recipes for every kind of cell that the arrays may be."""
    if it.fresh:
        return
    wanted = [f for f, cells in FAMILIES.items() if cell in ("", *cells)] if cell else list(FAMILIES)
    for family in wanted:
        if not cell and (family == "lstm") != bool(it.plan.pair):
            if it.plan.kind == "cell":
                continue
        for each in FAMILIES[family]:
            if it.subject.weights:
                problem = _checked(it, each, it.subject.weights)
                if problem:
                    it.problems[each] = problem
                else:
                    it.recipes[each] = dict(it.subject.weights)
                continue
            try:
                leaves = read(
                    it.shapes, each if each in GATES else family, FEATURES, HIDDEN, columns=it.subject.kind.columns
                )
                it.recipes[each] = _by_trial(it, leaves, each)
            except NoPlace as error:
                it.problems[each] = str(error)


def _canonical_zeros(cell: str) -> dict[str, np.ndarray]:
    gates = GATES[cell]
    found: dict[str, np.ndarray] = {}
    for gate in gates or ("",):
        found |= {
            f"W_x{gate}": np.zeros((HIDDEN, FEATURES), np.float32),
            f"W_h{gate}": np.zeros((HIDDEN, HIDDEN), np.float32),
        }
        found |= {f"b_x{gate}": np.zeros(HIDDEN, np.float32), f"b_h{gate}": np.zeros(HIDDEN, np.float32)}
    return found


def _checked(it: Understood, cell: str, weights: Mapping[str, str]) -> str:
    """What is wrong with recipes that the user gave."""
    canonical = _canonical_zeros(cell)
    if weights.keys() != it.shapes.keys():
        return f"WEIGHTS names {', '.join(weights)}; the arrays are {', '.join(it.shapes)}"
    for name, recipe in weights.items():
        try:
            shape = filled(recipe, canonical).shape
        except ValueError as error:
            return str(error)
        if np.prod(shape) != np.prod(it.shapes[name]) or (
            len(it.shapes[name]) == 2 and shape != it.shapes[name] and 1 not in it.shapes[name]
        ):
            return f"WEIGHTS[{name!r}] = {recipe!r} is {shape} where D = {FEATURES} and H = {HIDDEN}, wanted {it.shapes[name]}"
    return ""


class _Trial:
    """Sequences of one row with chosen canonical weights, all others zero."""

    def __init__(self, it: Understood, cell: str) -> None:
        self.it, self.cell = it, cell

    def out(
        self,
        leaves: Sequence[Leaf],
        x: np.ndarray,
        h: np.ndarray | None = None,
        *,
        inside: bool = False,
        **weights: Any,
    ) -> np.ndarray:
        canonical = _canonical_zeros(self.cell)
        for name, value in weights.items():
            canonical[name] = np.asarray(value, np.float32)
        arrays = {name: filled(text, canonical) for name, text in recipes(leaves, self.cell, inside=inside).items()}
        state = None if not self.it.plan.stateful else np.zeros((len(x), HIDDEN), np.float32) if h is None else h
        if self.it.plan.transposed:
            x = np.concatenate([x, x[:, -1:]], axis=1)[:, :FEATURES]
            x = np.swapaxes(x, 1, 2)
        return self.it.with_arrays(arrays, x, state, state if self.it.plan.pair else None, HIDDEN).outputs

    def moves(self, leaves: Sequence[Leaf], unit: int | None = None, **weights: Any) -> bool:
        """Whether x[..., 0] has any influence (on this unit)."""
        x = np.ones((2, 3, FEATURES), np.float32) * 0.7
        other = x.copy()
        other[..., 0] = -0.6
        change = np.abs(self.out(leaves, x, **weights) - self.out(leaves, other, **weights))
        return bool((change if unit is None else change[..., unit]).max() > 1e-6)


def _first(value: float = 1.0, column: int = 0, rows: Any = slice(None)) -> np.ndarray:
    matrix = np.zeros((HIDDEN, FEATURES), np.float32)
    matrix[rows, column] = value
    return matrix


def _by_trial(it: Understood, leaves: list[Leaf], cell: str) -> dict[str, str]:
    """Settle what shapes cannot tell, and write the recipes."""
    trial = _Trial(it, cell)
    candidate = CANDIDATE[cell]
    try:
        leaves = _joined(trial, leaves, candidate)
        if unnamed(leaves, cell) and cell.startswith("gru"):
            leaves = _roles(trial, leaves)
            leaves = _joined(trial, leaves, candidate)
        leaves = _square(trial, leaves, candidate)
        inside = cell == "gru" and _inside(trial, leaves)
    except NotLikeThis:
        inside = False
    return recipes(leaves, cell, inside=inside)


def _toward_candidate(leaves: Sequence[Leaf], candidate: str) -> list[int]:
    """The places of matrices, that of the candidate first: every other gate shows through it."""
    places = [i for i, leaf in enumerate(leaves) if not leaf.bias]
    return sorted(places, key=lambda i: candidate not in leaves[i].gates)


def _joined(trial: _Trial, leaves: list[Leaf], candidate: str) -> list[Leaf]:
    """Whether [x; h] or [h; x] is multiplied, leaf by leaf."""
    for place in _toward_candidate(leaves, candidate):
        leaf = leaves[place]
        if leaf.side != "xh":
            continue
        weights: dict[str, Any] = {
            f"W_x{candidate}": _first(0.9, column=1),
            f"W_h{candidate}": np.ones((HIDDEN, HIDDEN)) * 0.3,
        }
        weights |= {f"W_x{gate}": _first(1.1) for gate in leaf.gates}
        if candidate in leaf.gates:
            weights = {f"W_x{gate}": _first(1.1) for gate in leaf.gates}
        other = [*leaves[:place], replace(leaf, hx=not leaf.hx), *leaves[place + 1 :]]
        if not trial.moves(leaves, **weights) and trial.moves(other, **weights):
            leaves = other
    return leaves


def _square(trial: _Trial, leaves: list[Leaf], candidate: str) -> list[Leaf]:
    """Which way a recurrent matrix (H, H) stands: entry (unit 1, unit 0) must lead from unit 0 to unit 1."""
    for place in _toward_candidate(leaves, candidate):
        leaf = leaves[place]
        if leaf.side != "h" or leaf.shape != (HIDDEN, HIDDEN):
            continue
        entry = np.zeros((HIDDEN, HIDDEN), np.float32)
        entry[1, 0] = 2.0
        (gate,) = leaf.gates
        weights: dict[str, Any] = {
            f"W_h{candidate}": np.eye(HIDDEN),
            f"W_x{candidate}": _first(0.9, rows=0) + _first(0.8, column=1),
        }
        weights[f"W_h{gate}"] = entry if gate != candidate else np.eye(HIDDEN) + entry
        other = [*leaves[:place], replace(leaf, columns=not leaf.columns), *leaves[place + 1 :]]
        if not trial.moves(leaves, unit=1, **weights) and trial.moves(other, unit=1, **weights):
            leaves = other
    return leaves


def _roles(trial: _Trial, leaves: list[Leaf]) -> list[Leaf]:
    """Which place is which gate of a GRU: z at a limit keeps the state; with z at the other one h' is n."""
    x = np.ones((1, 1, FEATURES), np.float32)
    h = np.linspace(-0.8, 0.6, HIDDEN, dtype=np.float32)[None]
    if not trial.it.plan.stateful or trial.it.plan.transposed:
        return leaves

    def saturated(**signs: float) -> np.ndarray:
        weights = {f"W_x{gate}": np.full((HIDDEN, FEATURES), sign * LARGE / FEATURES) for gate, sign in signs.items()}
        return trial.out(leaves, x, h, **weights)[0, 0]

    for z, sign in itertools.product("rzn", (1.0, -1.0)):
        if np.abs(saturated(**{z: sign}) - h[0]).max() > 1e-4:
            continue
        rest = [gate for gate in "rzn" if gate != z]
        found = [n for n in rest if np.abs(saturated(**{z: -sign, n: 1.0})).min() > 0.9]
        if len(found) != 1:
            continue
        (n,) = found
        (r,) = (gate for gate in rest if gate != n)
        order = {r: "r", z: "z", n: "n"}
        return reordered(leaves, trial.cell, "".join(order[gate] for gate in "rzn"))
    return leaves


def _inside(trial: _Trial, leaves: Sequence[Leaf]) -> bool:
    """Whether a GRU's only bias of the candidate is multiplied by the reset gate: r = 0 hides it then."""
    own = [leaf for leaf in leaves if leaf.bias and "n" in leaf.gates]
    if len(own) != 1 or own[0].side == "h":
        return len(own) == 1
    x = np.ones((2, 3, FEATURES), np.float32)

    def shows(level: float) -> bool:
        closed = {"W_xr": np.full((HIDDEN, FEATURES), level / FEATURES)}
        one = trial.out(leaves, x, **closed)
        two = trial.out(leaves, x, **closed, b_xn=np.full(HIDDEN, 0.7))
        return bool(np.abs(one - two).max() > 1e-6)

    return shows(0.0) and not shows(-LARGE)
