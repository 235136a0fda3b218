"""How the user's object is called: which argument is which, with or without rows, step by step or whole sequences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_NAMES = {
    "x": "x xt x_t input inputs inp inputs_t input_t xs seq sequence x_seq u u_t in_ x_in embedded features data",
    "h": "h hx hidden state carry h_prev hprev prev_h h_t ht h0 hidden_state prev_state h_tm1 h_0 init_state hs "
    "initial_state prev_hidden h_prev_t hidden_prev init_h h_init initial_carry state_prev h_old prev init_carry s "
    "hidden0 hid prev_carry h_last hprevious",
    "c": "c cx cell c_prev cprev prev_c c_t c0 cell_state memory mem c_0 c_old prev_cell cell_prev",
    "p": "params p parameters weights theta w parameter param variables",
}
ROLES: dict[str, str] = {name: role for role, names in _NAMES.items() for name in names.split()}


class NotLikeThis(Exception):
    """A call that worked, but did not return what a cell or layer returns."""


@dataclass(frozen=True)
class Plan:
    """One way of calling.

    kind: ``cell`` or ``layer``. roles: of the positional arguments: x, h, c, s (h and c as a pair), p (all arrays), or
    the name of one array. lead: ``batch`` (rows first), ``time`` (time first), ``rows`` (one row per call).
    pair: the order of an LSTM's pair, "" for a cell with one state. carry_first: what stands first in a pair returned.
    transposed: whether a layer works only on x as (D, T).
    """

    kind: str
    roles: tuple[str, ...]
    lead: str
    pair: str = ""
    carry_first: bool = False
    transposed: bool = False

    @property
    def stateful(self) -> bool:
        """Whether the initial state is an argument."""
        return bool({"h", "s"} & set(self.roles))

    def __str__(self) -> str:
        words = {"x": "x", "h": "h", "c": "c", "s": "(h, c)" if self.pair == "hc" else "(c, h)", "p": "params"}
        shape = {
            ("cell", "batch"): "x (B, D), h (B, H)",
            ("cell", "rows"): "x (D,), h (H,)",
            ("layer", "batch"): "x (B, T, D)",
            ("layer", "time"): "x (T, B, D)",
            ("layer", "rows"): "x (T, D)",
        }[self.kind, self.lead]
        return f"a {self.kind}, called with ({', '.join(words.get(role, role) for role in self.roles)}); {shape}"


def plans(
    function: Callable[..., Any], *, flax: bool, takes_arrays: bool, named: Sequence[str], kind: str
) -> Iterator[Plan]:
    """Ways of calling it, the likeliest first.

    flax: whether the carry comes first by convention. takes_arrays: whether its arrays are arguments. named: names of
    arrays that may be arguments of their own. kind: "cell", "layer", or "" for any.
    """
    if type(function).__module__.partition(".")[0] != "builtins" and callable(getattr(function, "forward", None)):
        function = function.forward  # a torch module's own signature is that of every module
    parameters = [
        p for p in inspect.signature(function).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    roles: list[str] = []
    guessed: list[int] = []
    optional = False
    for p in parameters:
        role = p.name if p.name in named else ROLES.get(p.name.lower().lstrip("_"), "")
        if role in roles and role in ("x", "h", "c", "p"):
            role = ""
        if p.default is not p.empty:
            if role not in ("h", "c"):
                continue
            optional = True
        if not role:
            guessed.append(len(roles))
        roles.append(role)
    left = [role for role in ("hx" if flax else "xh") if role not in roles]
    if takes_arrays and "p" not in roles and not any(role in named for role in roles):
        left.insert(0, "p")
    for place, role in zip(guessed, left, strict=False):
        roles[place] = role
    if "" in roles or "x" not in roles:
        raise NotLikeThis(
            f"cannot tell which argument is which in {getattr(function, '__qualname__', function)}"
            f"{inspect.signature(function)}; call them x and h (and c, and params)"
        )
    orders = [tuple(roles)]
    if len(guessed) > 1:
        orders.append(tuple({"x": "h", "h": "x"}.get(role, role) for role in roles))
    stateful = "h" in roles
    kinds = ["layer"] if not stateful else ["layer", "cell"] if optional else ["cell", "layer"]
    for each in [k for k in kinds if kind in ("", k)]:
        for order in orders:
            yield from _of_kind(each, order, flax=flax)
            if each == "layer" and stateful and optional:
                yield from _of_kind(each, tuple(r for r in order if r not in ("h", "c")), flax=flax)
    for order in orders:
        if "cell" not in kinds[:1] and kind in ("", "layer"):
            for lead in ("rows", "batch"):
                yield Plan(
                    "layer", tuple(r for r in order if r not in ("h", "c")), lead, carry_first=flax, transposed=True
                )


def _of_kind(kind: str, roles: tuple[str, ...], *, flax: bool) -> Iterator[Plan]:
    pairs = ["hc"] if "c" in roles else ["", "ch", "hc"] if flax else ["", "hc", "ch"]
    for pair in pairs:
        own = roles if "c" in roles or not pair else tuple("s" if role == "h" else role for role in roles)
        if pair and "c" not in roles and "s" not in own:
            continue
        for lead in ("batch", "rows") if kind == "cell" else ("batch", "time", "rows"):
            yield Plan(kind, own, lead, pair=pair, carry_first=flax)


@dataclass(frozen=True)
class Ran:
    """What came out, with rows: outputs (B, T, H), final state (B, H), memories of an LSTM where they were returned."""

    outputs: np.ndarray
    final: np.ndarray
    cells: np.ndarray | None = None
    final_cell: np.ndarray | None = None


class Caller:
    """Calls one object by a plan. to, back: to the framework's arrays and back; invoke(arguments) makes the call."""

    def __init__(
        self,
        plan: Plan,
        to: Callable[[Any], Any],
        back: Callable[[Any], Any],
        invoke: Callable[..., Any],
        given: Mapping[str, Any],
    ) -> None:
        self.plan, self._to, self._back, self._invoke, self._given = plan, to, back, invoke, given

    def arguments(self, x: np.ndarray, h: np.ndarray | None, c: np.ndarray | None) -> list[Any]:
        """The framework's arguments for arrays that are laid out as the plan wants them."""
        found: dict[str, Any] = {"x": self._to(x)}
        if h is not None:
            found["h"] = self._to(h)
        if c is not None:
            found["c"] = self._to(c)
            pair = (found["h"], found["c"])
            found["s"] = pair if self.plan.pair == "hc" else pair[::-1]
        return [
            self._given[role] if role in self._given else found[role]
            for role in self.plan.roles
            if role in found or role in self._given
        ]

    def example(self, batch: int, time: int, features: int, hidden: int) -> list[Any]:
        """Arguments of a first call."""
        rows = () if self.plan.lead == "rows" else (batch,)
        x = np.zeros((*rows, features), np.float32)
        if self.plan.kind == "layer":
            shape = {"batch": (batch, time), "time": (time, batch), "rows": (time,)}[self.plan.lead]
            x = np.zeros((*shape, features), np.float32)
            x = np.swapaxes(x, -1, -2) if self.plan.transposed else x
        state = np.zeros((*rows, hidden), np.float32)
        return self.arguments(x, state if self.plan.stateful else None, state if self.plan.pair else None)

    def sequence(self, x: np.ndarray, h: np.ndarray | None, c: np.ndarray | None, hidden: int) -> Ran:
        """Run x (B, T, D) from h (B, H), or from nothing. NotLikeThis when what comes out has other shapes."""
        if h is None and (self.plan.kind == "cell"):
            h = np.zeros((len(x), hidden), x.dtype)
        if self.plan.pair and c is None and h is not None:
            c = np.zeros_like(h)
        if self.plan.lead != "rows":
            return self._batch(x, h, c, hidden)
        ran = [self._row(x[b], None if h is None else h[b], None if c is None else c[b], hidden) for b in range(len(x))]
        return Ran(
            *(
                None if parts[0] is None else np.stack(parts)
                for parts in zip(*((r.outputs, r.final, r.cells, r.final_cell) for r in ran), strict=True)
            )
        )  # type: ignore[arg-type]

    def _batch(self, x: np.ndarray, h: Any, c: Any, hidden: int) -> Ran:
        if self.plan.kind == "cell":
            return self._steps(np.moveaxis(x, 1, 0), h, c)
        given = np.moveaxis(x, 1, 0) if self.plan.lead == "time" else x
        return self._layer(given, h, c, (*given.shape[:2], hidden), axis=0 if self.plan.lead == "time" else 1)

    def _row(self, x: np.ndarray, h: Any, c: Any, hidden: int) -> Ran:
        if self.plan.kind == "cell":
            return self._steps(x, h, c, stack=0)
        return self._layer(x, h, c, (len(x), hidden), axis=0)

    def _steps(self, x: np.ndarray, h: np.ndarray, c: np.ndarray | None, *, stack: int = 1) -> Ran:
        outputs, cells = [], []
        for x_t in x:
            out, h, c = self._state(self._invoke(self.arguments(x_t, h, c)), h.shape)
            outputs.append(out)
            cells.append(c)
        joined = None if cells[0] is None else np.stack(cells, axis=stack)  # type: ignore[arg-type]
        return Ran(np.stack(outputs, axis=stack), h, joined, c)

    def _state(self, returned: Any, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
        """(output, h', c') of one step."""
        arrays = [self._back(value) for value in _flat(returned)]
        fitting = [a for a in arrays if a.shape == shape]
        if not fitting:
            raise NotLikeThis(f"the cell returned {_shapes(arrays)}, wanted a new state of shape {shape}")
        if not self.plan.pair:
            if len(fitting) == 2 == len(arrays):
                state, out = fitting if self.plan.carry_first else fitting[::-1]
                return out, state, None
            return fitting[0], fitting[0], None
        pair = _pair(returned)
        if pair is None or len(fitting) < 2:
            raise NotLikeThis(f"the cell returned {_shapes(arrays)}, wanted a new pair of states of shape {shape}")
        first, second = (self._back(value) for value in pair)
        if first.shape != shape or second.shape != shape:
            raise NotLikeThis(f"the cell returned states {first.shape} and {second.shape}, wanted {shape}")
        h, c = (first, second) if self.plan.pair == "hc" else (second, first)
        outside = [a for a in arrays if a.shape == shape]
        return (h if len(outside) == 2 else outside[0] if not self.plan.carry_first else outside[-1]), h, c

    def _layer(self, x: np.ndarray, h: Any, c: Any, shape: tuple[int, ...], *, axis: int) -> Ran:
        if self.plan.transposed and x.shape[-1] != x.shape[-2]:
            raise NotLikeThis(f"the layer does not take x of shape {x.shape}, features last")
        return self.outputs(self._invoke(self.arguments(x, h, c)), shape, axis=axis)

    def outputs(self, returned: Any, shape: tuple[int, ...], *, axis: int) -> Ran:
        """The states and the last one of what a layer returned."""
        arrays = [self._back(value) for value in _flat(returned)]
        whole = [a for a in arrays if a.shape == shape]
        if self.plan.transposed and not whole:
            whole = [np.swapaxes(a, -1, -2) for a in arrays if a.shape == (*shape[:-2], shape[-1], shape[-2])]
        if not whole:
            raise NotLikeThis(f"the layer returned {_shapes(arrays)}, wanted all states as {shape}")
        states = np.moveaxis(whole[0], axis, -2)
        wanted = states.shape[:-2] + states.shape[-1:]
        finals = [
            a.reshape(wanted)
            for a in arrays
            if a.size == np.prod(wanted) and a.shape != shape and a.shape[-1:] == wanted[-1:]
        ]
        final = states[..., -1, :]
        if finals and not self.plan.pair:
            final = finals[0]
        return Ran(states, final)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for part in value.values() for leaf in _flat(part)]
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in _flat(part)]
    return [] if value is None else [value]


def _pair(returned: Any) -> tuple[Any, Any] | None:
    """The pair of states in what an LSTM cell returned: a nested pair, else the whole."""
    if not isinstance(returned, (tuple, list)):
        return None
    for part in returned:
        if isinstance(part, (tuple, list)) and len(part) == 2:
            return part[0], part[1]
    if len(returned) == 2:
        return returned[0], returned[1]
    # h', c' and something more, in one tuple.
    return (returned[-2], returned[-1]) if len(returned) == 3 else None


def _shapes(arrays: Sequence[np.ndarray]) -> str:
    return ", ".join(str(a.shape) for a in arrays) or "nothing"


def time_major(plan: Plan) -> Plan:
    """The same with time first."""
    return replace(plan, lead="time")
