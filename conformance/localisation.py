"""Localisation: which intermediate of a step went wrong, where no hypothesis explains an observation.

Only the state h is observed (and sometimes the memory c), so the question is turned round: *if one intermediate alone
is wrong and everything else is right, what must it have been?* Each step is predicted from the observed state before
it; for every intermediate with an activation (a gate, a candidate) the value is solved for that gives the observed one.
An intermediate that would have to leave the range of its activation somewhere did not cause the divergence alone. Often
several remain: h' = (1 - z) n + z h has a solution in z and one in n, and then both are told.

What remains is then asked for a *simple* cause, which holds at every element within its bound: one wrong entry
of a parameter, a constant factor, or another function of the same argument. An intermediate that is innocent has almost
never a simple cause, since what it would have to be hangs together with nothing. In 16 bits several causes often lie
within the bound, so that there a cause is only said to be consistent with the observation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from conformance.algebra import IDENTITY, Activation, Exact
from conformance.case import Case, Parameters
from conformance.cells.cell import NO_INPUT, Cell, rows_of, wire
from conformance.cells.registry import cell_named
from conformance.compare import Comparison, Observed, compare, seen
from conformance.rounding import Array

Mask: TypeAlias = NDArray[np.bool_]

LOW_PRECISION: Final = ("float16", "bfloat16")
"""Dtypes whose bounds are too wide to tell causes apart."""

# The bound of the reference, at the reference's values; at the implied values it may be somewhat wider.
_SLACK: Final = 1.5
# Past this width the search for a wrong entry of a matrix costs seconds.
_WIDEST: Final = 64
# One number explains as many elements as it likes where there are no more than these of a unit.
_FEWEST: Final = 3
_HALVINGS: Final = 60
KEPT: Final = "the state h in the update"
_SCALED: Final[Mapping[str, frozenset[str]]] = {
    "the input x": frozenset({"x"}),
    "the state h entering the step": frozenset({"projections", "update"}),
    KEPT: frozenset({"update"}),
    "the state h in the projections": frozenset({"projections"}),
}
"""What a constant factor is sought of, and where it enters the step."""

# No argument of an activation is sought past this: the sigmoid and tanh are at their limits.
_FARTHEST: Final = 1e3


class Cause(Struct, frozen=True, kw_only=True):
    """One number that, put right, puts every element right.

    what: what it is the number of, e.g. ``b_hn[3]``, ``W_hz[2, 5]``, ``h'``; taken: the value that explains the
    observation, in the middle of those that do; right: what it should be.
    """

    what: str
    taken: float
    right: float

    def __str__(self) -> str:
        if self.taken == 0.0:
            return f"{self.what} = {self.right:.4g} missing"
        return f"{self.what} taken as {self.taken:.4g} in place of {self.right:.4g}"


class Suspect(Struct, frozen=True, kw_only=True):
    """An intermediate that can explain the observation alone.

    expected, implied: its value at the first wrong element, and the value that explains what was observed there; both
    belong to `unit`.
    through: intermediates that it acts through; it cannot be told from them without a cause.
    causes: per unit the entries of parameters of which one explains all that is wrong there; since: the step from which
    on they do, None for all steps.
    another_function: whether one other (Lipschitz) function of the same argument explains everything.
    """

    name: str
    expected: float
    implied: float
    through: tuple[str, ...] = ()
    causes: Mapping[int, tuple[Cause, ...]] = field(default_factory=dict)
    since: int | None = None
    another_function: bool = False

    @property
    def simple(self) -> bool:
        """Whether a cause was found that holds at every element."""
        return bool(self.causes) or self.another_function


class Localisation(Struct, frozen=True, kw_only=True):
    """Where an observation first departs from the equations, and what can have done it.

    first: (batch, time, unit); steps, rows, units: where states lie outside their bound; of: all (B, T, units).
    low_precision: whether the dtype has 16 bits: what explains the observation need not be its cause then.
    suspects: the intermediates of which one alone can be the cause; cleared: those that cannot, alone; untested: those
    for which nothing can be solved. scales: quantities of which a constant factor explains everything.
    """

    first: tuple[int, int, int]
    steps: tuple[int, ...]
    rows: tuple[int, ...]
    units: tuple[int, ...]
    of: tuple[int, int, int]
    low_precision: bool = False
    suspects: tuple[Suspect, ...] = ()
    cleared: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    scales: tuple[Cause, ...] = ()

    @property
    def extent(self) -> str:
        """Which steps, rows and units are wrong."""
        batch, time, units = self.of
        first, last = min(self.steps), max(self.steps)
        if len(self.steps) == 1:
            steps = f"only at step {first}"
        elif len(self.steps) == time:
            steps = "at every step"
        elif self.steps == tuple(range(first, time)):
            steps = f"from step {first} on"
        elif self.steps == tuple(range(first, last + 1)):
            steps = f"in steps {first} to {last}"
        else:
            steps = f"at {len(self.steps)} of {time} steps, {_some(self.steps)}"
        rows = "in every row" if len(self.rows) == batch else f"in row{_plural(self.rows)} {_some(self.rows)}"
        which = "all units" if len(self.units) == units else f"unit{_plural(self.units)} {_some(self.units)}"
        return f"{steps}, {rows}, {which}"

    @property
    def sentences(self) -> tuple[str, ...]:
        """The account for a reader, most telling first."""
        b, t, unit = self.first
        where = f"b={b}, t={t}, unit {unit}"
        told = [f"wrong {self.extent}; first at ({where})"]
        is_, by, can = ("consistent", "with", "may") if self.low_precision else ("explained", "by", "must")
        told += [f"{is_} {by} one factor: {scale}" for scale in self.scales]
        simple = [suspect for suspect in self.suspects if suspect.simple]
        for suspect in simple:
            if suspect.causes:
                since = "" if suspect.since is None else f" from step {suspect.since} on"
                told.append(f"{is_} in {suspect.name}{since} {by} {_causes(suspect.causes)}")
            else:
                told.append(
                    f"{is_} {by} {suspect.name} being another function of the same argument: at ({where}) it should"
                    f" be {suspect.expected:.4g} and {can} have been {suspect.implied:.4g}"
                )
        if not simple and not self.scales:
            told += self._guesses()
        if self.cleared and self.suspects:
            told.append(f"{', '.join(self.cleared)} alone cannot explain it")
        return tuple(told)

    def _guesses(self) -> list[str]:
        """What one wrong intermediate would have to be, where nothing simple was found."""
        b, t, unit = self.first
        unknown = f"{', '.join(self.untested)} (which cannot be solved for from what is observed)"
        if not self.suspects:
            if not self.cleared:
                return [unknown] if self.untested else []
            return [f"{', '.join(self.cleared)} alone cannot explain it{f'; {unknown} may' if self.untested else ''}"]
        names = [suspect.name for suspect in self.suspects] + ([unknown] if self.untested else [])
        return [f"if one intermediate alone is wrong, it is {' or '.join(names)}, or what enters it"] + [
            f"{suspect.name} at (b={b}, t={t}, unit {unit}): expected {suspect.expected:.4g}, implied"
            f" {suspect.implied:.4g}" + (f" (through {', '.join(suspect.through)})" if suspect.through else "")
            for suspect in self.suspects
        ]


def _plural(numbers: Sequence[int]) -> str:
    return "" if len(numbers) == 1 else "s"


def _some(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers[:4]))
    return listed if len(numbers) <= 4 else f"{listed}, ..."


def _causes(causes: Mapping[int, tuple[Cause, ...]]) -> str:
    per_unit = [" or ".join(map(str, found)) for _, found in sorted(causes.items())]
    rest = len(per_unit) - 2
    return "; ".join(per_unit[:2]) + (f"; and likewise in {rest} more units" if rest > 0 else "")


def localise(case: Case, observed: Observed) -> Localisation | None:
    """The account of an observation outside its bound; None where only the final state, or nothing, is wrong.

    Parameters and intermediates are those of the convention in which the case is evaluated.
    Intermediates are told for one layer in one direction; elsewhere only the place is. The same holds for
    numbers that are not finite.

    Raises
    ------
    CaseError: shapes differ from the case's.
    """
    comparison = compare(case, observed)
    outside = comparison.parts["outputs"].share > 1.0
    if not outside.any():
        return None
    steps, rows, units = (tuple(map(int, np.unique(indices))) for indices in np.nonzero(outside))
    step = steps[-1] if case.reverse else steps[0]
    share = comparison.parts["outputs"].share[step]
    row, unit = map(int, np.unravel_index(np.argmax(np.where(outside[step], share, -1.0)), share.shape))
    place = Localisation(
        first=(row, step, unit),
        steps=steps,
        rows=rows,
        units=units,
        of=(outside.shape[1], outside.shape[0], outside.shape[2]),
        low_precision=case.dtype in LOW_PRECISION,
    )
    size = case.shape
    plain = size.layers == 1 and size.directions == 1 and size.output == size.hidden
    plain = plain and case.stepwise
    if not plain or case.special or not observed.finite or not comparison.bounded:
        return place
    cell, native, _ = cell_named(case.cell).native(case)
    with np.errstate(all="ignore"):
        return _Search.of(cell, native, observed, comparison, place).localisation()


class _Sites(Exact, frozen=True):
    """Float64, with the results of some activations given, and all arguments and results kept, in order of use."""

    given: Mapping[int, Array] = field(default_factory=dict)
    calls: list[tuple[Activation, Array, Array]] = field(default_factory=list)

    def apply(self, function: Activation, argument: Array) -> Array:
        index = len(self.calls)
        result = self.given[index] if index in self.given else function.function(argument)
        self.calls.append((function, argument, result))
        return result


class _Site(Struct, frozen=True, kw_only=True):
    """A named intermediate of `project`; argument and result (N, H) as they should be.

    index: of the activation whose result it is, in order of use; None for one without, which is its own argument.
    """

    name: str
    index: int | None
    function: Activation
    argument: Array
    result: Array


class _Target(Struct, frozen=True, kw_only=True):
    """What a step must give, on flattened rows: `reached` from the parts lies within `bound` of `wanted`."""

    reached: Callable[[Mapping[str, Array]], Array]
    wanted: Array
    bound: Array


class _Implied(Struct, frozen=True, kw_only=True):
    """The values (N, H) between which an intermediate explains each element."""

    low: Array
    high: Array
    middle: Array


class _Search(Struct, frozen=True, kw_only=True):
    """The slots of the outputs as flattened rows (T*B, .), each from the observed state before it."""

    case: Case
    cell: Cell[Any]
    observed: Observed
    comparison: Comparison
    place: Localisation
    x: Array
    h: Array
    start: Array
    live: Mask
    after: Array
    bound: Array
    outside: Mask

    @classmethod
    def of(
        cls, cell: Cell[Any], case: Case, observed: Observed, comparison: Comparison, place: Localisation
    ) -> _Search:
        size = case.shape
        part = comparison.parts["outputs"]
        wiring = wire(rows_of(case))
        inputs, states = wiring.inputs[: size.time], wiring.states[: size.time]
        lanes = np.arange(size.batch)
        known = seen(case, observed).outputs
        bank = np.concatenate([np.zeros_like(case.h0)[None], case.h0[None], np.swapaxes(known, 0, 1)])
        return cls(
            case=case,
            cell=cell,
            observed=observed,
            comparison=comparison,
            place=place,
            x=case.x[lanes, np.maximum(inputs, 0)].reshape(-1, size.features),
            h=bank[states + 2, lanes].reshape(-1, size.output),
            start=np.where((states == -1) & (case.initial == "omitted"), 1.0, 0.0).ravel(),
            live=(inputs != NO_INPUT).ravel(),
            after=part.observed.reshape(-1, size.output),
            bound=_SLACK * part.bound.reshape(-1, size.output),
            outside=(part.share > 1.0).reshape(-1, size.output),
        )

    def _project(self, ops: _Sites, p: Parameters | None = None) -> dict[str, Array]:
        found: dict[str, Array] = self.cell.project(
            p if p is not None else self.case.parameters, self.x, self.h, self.start, ops, self.cell.equations
        )
        return found

    def localisation(self) -> Localisation:
        parts = self._project(_Sites())
        sites = self._sites()
        found: list[Suspect] = []
        cleared: list[str] = []
        untested = [name for name in self.cell.intermediates if name not in ("c", "h", *parts)]
        for site in sites:
            changed = self._changed(site, parts)
            if changed is None:
                untested.append(site.name)
                continue
            try:
                target = self._target(changed, parts)
                implied = None if target is None else self._implied(site, parts, changed, target)
            except _NotMonotone:
                untested.append(site.name)
                continue
            if implied is None:
                cleared.append(site.name)
            else:
                found.append(self._suspect(site, changed, implied))
        kept = self._kept(parts)
        return replace(
            self.place,
            suspects=(*found, *([] if kept is None else [kept])),
            cleared=tuple(cleared),
            untested=tuple(untested),
            scales=self._scales(),
        )

    def _sites(self) -> list[_Site]:
        """The activations of `project`, and the named intermediates that depend on none of them."""
        ops = _Sites()
        parts = self._project(ops)
        held = dict(enumerate(call[2] for call in ops.calls))
        found = []
        for index, (function, argument, result) in enumerate(ops.calls):
            names = [name for name in self.cell.intermediates if parts.get(name) is result]
            site = _Site(name="", index=index, function=function, argument=argument, result=result)
            found.append(replace(site, name=names[0] if names else self._described(site)))
        other = self._project(_Sites(given={index: result + 0.1 for index, result in held.items()}))
        for name in self.cell.intermediates:
            if name in parts and np.array_equal(other[name], parts[name], equal_nan=True):
                value = parts[name]
                found.append(_Site(name=name, index=None, function=IDENTITY, argument=value, result=value))
        return found

    def _described(self, site: _Site) -> str:
        """A name for an activation that has none: its function and the parameters in its argument."""
        names = dict.fromkeys(name for name, column, _ in self._effects(site) if not column)
        return f"{site.function.name}({', '.join(names)})"

    def _kept(self, parts: Mapping[str, Array]) -> Suspect | None:
        """The state before the step as the update takes it in; None where it does not, or cannot explain."""
        cell, eq, ops, p = self.cell, self.cell.equations, Exact(), self.case.parameters
        if cell.carry is not None:
            return None

        def reached(state: Array) -> Array:
            result: Array = cell.emit(p, parts, state, None, ops, eq)["h"]
            return result

        if np.array_equal(reached(self.h), reached(self.h + 1.0)):
            return None
        span = 10.0 * (1.0 + np.abs(self.h))
        try:
            ends = _between(reached, self.h - span, self.h + span, self.after, self.bound)
        except _NotMonotone:
            return None
        if (np.isnan(ends.low) & self.live[:, None]).any():
            return None
        at = self._at()
        return Suspect(name=KEPT, expected=float(self.h[at]), implied=float(ends.middle[at]))

    def _at(self) -> tuple[int, int]:
        """The first wrong element, on flattened rows."""
        row, step, unit = self.place.first
        return step * self.case.shape.batch + row, unit

    def _changed(self, site: _Site, parts: Mapping[str, Array]) -> tuple[str, ...] | None:
        """The parts that depend on a site; None where a unit of it reaches other units."""
        if site.index is None:
            return (site.name,)
        moved = site.result.copy()
        moved[:, 0] += 0.1
        other = self._project(_Sites(given=_given(site, moved)))
        if any(not np.array_equal(other[name][:, 1:], parts[name][:, 1:], equal_nan=True) for name in parts):
            return None
        return tuple(name for name in parts if not np.array_equal(other[name], parts[name], equal_nan=True))

    def _target(self, changed: Sequence[str], parts: Mapping[str, Array]) -> _Target | None:
        """What the parts must give: the observed state or, where they enter the memory, the memory it implies."""
        cell, eq, ops, p = self.cell, self.cell.equations, Exact(), self.case.parameters
        if cell.carry is None:
            return _Target(
                reached=lambda q: cell.emit(p, q, self.h, None, ops, eq)["h"], wanted=self.after, bound=self.bound
            )
        if not set(changed) & set(cell.carried):
            before, after = self._reference_memory()
            if self.observed.cells is not None and (self.comparison.parts["cells"].share > 1.0).any():
                return None
            return _Target(
                reached=lambda q: cell.emit(p, q, self.h, (before, after), ops, eq)["h"],
                wanted=self.after,
                bound=self.bound,
            )
        if not set(changed) <= set(cell.carried):
            raise _NotMonotone  # it reaches the state also past the memory
        memory = self._memory(parts)
        if memory is None:
            return None
        held, wanted, bound = memory
        carry = cell.carry
        return _Target(reached=lambda q: carry(p, q, held, ops, eq), wanted=wanted, bound=bound)

    def _bank(self, cells: Array, start: Callable[[Array], Array] = np.array) -> Array:
        """What stands for the memory before every slot, from what does after every slot (T*B, H) and from c0."""
        size = self.case.shape
        assert self.case.c0 is not None
        lanes = np.arange(size.batch)
        stacked = cells.reshape(size.time, size.batch, size.hidden)
        bank = np.concatenate([np.zeros_like(self.case.c0)[None], start(self.case.c0)[None], stacked])
        before: Array = bank[wire(rows_of(self.case)).states[: size.time] + 2, lanes].reshape(-1, size.hidden)
        return before

    def _reference_memory(self) -> tuple[Array, Array]:
        """The memory before and after every slot as it should be."""
        trace = self.cell.evaluate(self.case, Exact(), seen=seen(self.case, self.observed))
        assert trace.cells is not None
        if self.observed.cells is None:
            return self._bank(trace.cells), trace.cells
        return self._bank(self.comparison.parts["cells"].observed), trace.cells

    def _memory(self, parts: Mapping[str, Array]) -> tuple[Array, Array, Array] | None:
        """The memory before and after every slot that the observed states imply, and how far off the latter may be.

        None where no memory gives the observed states.
        """
        cell, eq, ops, p = self.cell, self.cell.equations, Exact(), self.case.parameters
        assert cell.carry is not None
        before, right = self._reference_memory()

        def emitted(memory: Array) -> Array:
            state: Array = cell.emit(p, parts, self.h, (before, memory), ops, eq)["h"]
            return state

        if self.observed.cells is not None:
            part = self.comparison.parts["cells"]
            memory, bound = (values.reshape(right.shape) for values in (part.observed, _SLACK * part.bound))
            if (np.abs(emitted(memory) - self.after) > self.bound)[self.live].any():
                return None
            return before, memory, bound
        ends = _between(
            emitted, np.full_like(right, -_FARTHEST), np.full_like(right, _FARTHEST), self.after, self.bound
        )
        if (np.isnan(ends.low) & self.live[:, None]).any():
            return None
        # Where nothing was wrong yet the memory is the right one.
        tame = np.abs(emitted(right) - self.after) <= self.bound
        middle = np.where(np.isnan(ends.middle) | tame, right, ends.middle)
        bound = np.fmax(ends.high - middle, middle - ends.low)
        held = self._bank(middle)
        # The initial memory is known exactly.
        held_bound = self._bank(bound, np.zeros_like)
        steep = np.abs(cell.carry(p, parts, held + 1.0, ops, eq) - cell.carry(p, parts, held, ops, eq))
        return held, middle, bound + steep * held_bound

    def _implied(
        self, site: _Site, parts: Mapping[str, Array], changed: Sequence[str], target: _Target
    ) -> _Implied | None:
        """The values of a site that give what was observed; None where there are none in its range."""

        def reached(values: Array) -> Array:
            if tuple(changed) == (site.name,):
                return target.reached({**parts, site.name: values})
            return target.reached(self._project(_Sites(given=_given(site, values))))

        lowest, highest = (site.function.function(np.full_like(site.result, end)) for end in (-np.inf, np.inf))
        span = 10.0 * (1.0 + np.abs(site.result))
        lowest = np.where(np.isfinite(lowest), lowest, site.result - span)
        highest = np.where(np.isfinite(highest), highest, site.result + span)
        ends = _between(reached, lowest, highest, target.wanted, target.bound)
        if (np.isnan(ends.low) & self.live[:, None]).any():
            return None
        return ends

    def _suspect(self, site: _Site, changed: Sequence[str], implied: _Implied) -> Suspect:
        at = self._at()
        below, above = (_inverse(site.function, values) for values in (implied.low, implied.high))
        low = np.where(self.live[:, None], below - site.argument, -np.inf)
        high = np.where(self.live[:, None], above - site.argument, np.inf)
        causes = self._causes(site, low, high)
        since = None
        if not causes and self._enough:
            causes = self._causes(
                site, *(np.where(self.begun, ends, far) for ends, far in ((low, -np.inf), (high, np.inf)))
            )
            since = self.place.first[1] if causes else None
        return Suspect(
            name=site.name,
            expected=float(site.result[at]),
            implied=float(implied.middle[at]),
            through=tuple(name for name in changed if name != site.name and name in self.cell.intermediates),
            causes=causes,
            since=since,
            another_function=not causes and self._another_function(site, implied),
        )

    @property
    def begun(self) -> Mask:
        """(T*B, 1), true from the first wrong step on in the direction in which rows are consumed."""
        slots = np.repeat(np.arange(self.case.shape.time), self.case.shape.batch)[:, None]
        first = self.place.first[1]
        return slots <= first if self.case.reverse else slots >= first

    @property
    def _enough(self) -> bool:
        """Whether a cause that begins late would still be tested: one number against three wrong elements per unit."""
        return not bool(self.begun.all()) and int(self.outside.sum(axis=0)[self.outside.any(axis=0)].min()) >= 3

    def _causes(self, site: _Site, low: Array, high: Array) -> dict[int, tuple[Cause, ...]]:
        """Per wrong unit, the single entries of parameters which explain it; empty unless every wrong unit has one."""
        if self.case.shape.hidden > _WIDEST or int(self.live.sum()) < _FEWEST:
            return {}
        wrong = np.flatnonzero(self.outside.any(axis=0))
        found: dict[int, list[Cause]] = {int(unit): [] for unit in wrong}
        for name, column, effect in self._effects(site):
            # A change w of the entry changes the argument by w * effect: every element gives an interval of w.
            idle = effect == 0.0
            still = (idle & ((low > 0.0) | (high < 0.0))).any(axis=0)
            one, other = low / effect, high / effect
            least = np.where(idle, -np.inf, np.fmin(one, other)).max(axis=0)
            most = np.where(idle, np.inf, np.fmax(one, other)).min(axis=0)
            for unit in map(int, wrong):
                if still[unit] or not least[unit] <= most[unit] or not np.isfinite(least[unit] + most[unit]):
                    continue
                index = (unit,) if column is None else (unit, column)
                right = float(self.case.parameters[name][index])
                change = float(least[unit] + most[unit]) / 2.0
                if least[unit] <= -right <= most[unit]:
                    change = -right  # it is missing
                label = f"{name}[{', '.join(map(str, index))}]"
                found[unit].append(Cause(what=label, taken=right + change, right=right))
        return {unit: tuple(causes) for unit, causes in found.items()} if all(found.values()) else {}

    def _effects(self, site: _Site) -> list[tuple[str, int | None, Array]]:
        """By how much a unit change of a parameter's entry, in every row of it, changes the argument (N, H) of a site.

        All intermediates are held: what is seen is the direct effect, in which the argument is linear.
        """
        ops = _Sites()
        self._project(ops)
        held = {index: result for index, (_, _, result) in enumerate(ops.calls)}
        found = []
        for name, value in self.case.parameters.items():
            columns: Sequence[int | None] = range(value.shape[1]) if value.ndim == 2 else (None,)
            for column in columns:
                moved = value.copy()
                moved[..., slice(None) if column is None else column] += 1.0
                own = _Sites(given=held)
                parts = self._project(own, {**self.case.parameters, name: moved})
                argument = parts[site.name] if site.index is None else own.calls[site.index][1]
                effect = argument - site.argument
                # What cancels in the difference of two arguments is no effect.
                effect = np.where(np.abs(effect) < 1e-12 * (1.0 + np.abs(site.argument)), 0.0, effect)
                if effect.any():
                    found.append((name, column, effect))
        return found

    def _another_function(self, site: _Site, implied: _Implied) -> bool:
        """Whether some function of the same argument, twice as steep as the right one at most, passes everywhere.

        A function of slope K passes through intervals [l, u] at a exactly if l_i - u_j <= K |a_i - a_j| for all i, j.
        """
        live = np.broadcast_to(self.live[:, None], site.argument.shape)
        order = np.argsort(site.argument[live])
        a, low, high = (values[live][order] for values in (site.argument, implied.low, implied.high))
        if a.size < 20:
            return False
        grid = np.linspace(-8.0, 8.0, 801)
        steep = 2.0 * float(np.max(np.diff(site.function.function(grid)) / np.diff(grid)))
        upward = low - steep * a > np.minimum.accumulate(high - steep * a)
        downward = (low + steep * a)[::-1] > np.minimum.accumulate((high + steep * a)[::-1])
        return not (upward.any() or downward.any())

    def _scales(self) -> tuple[Cause, ...]:
        """The quantities of which a constant factor explains everything: the new state, or x or h on their way in."""
        if int(self.live.sum()) < _FEWEST:
            return ()
        found = []
        predicted = self.comparison.parts["outputs"].predicted.reshape(self.after.shape)
        ends = np.stack([(self.after - self.bound) / predicted, (self.after + self.bound) / predicted])
        live = self.live[:, None] & (predicted != 0.0)
        least = float(np.max(np.where(live, ends.min(axis=0), -np.inf)))
        most = float(np.min(np.where(live, ends.max(axis=0), np.inf)))
        if least <= most and np.isfinite(least + most):
            found.append(Cause(what="the factor of the new state h'", taken=(least + most) / 2.0, right=1.0))
        if self.cell.carry is None or self.observed.cells is not None:
            for what, places in _SCALED.items():
                factor = self._factor(places)
                if factor is not None:
                    found.append(Cause(what=f"the factor of {what}", taken=factor, right=1.0))
        return tuple(found)

    def _factor(self, places: frozenset[str]) -> float | None:
        """The factor of x or h, in these places, that explains every output, by Gauss and Newton."""
        held = None if self.cell.carry is None else self._reference_memory()[0]

        def residual(factor: float) -> Array:
            ops, p, eq = Exact(), self.case.parameters, self.cell.equations
            x = self.x * (factor if "x" in places else 1.0)
            inner = self.h * (factor if "projections" in places else 1.0)
            kept = self.h * (factor if "update" in places else 1.0)
            parts = self.cell.project(p, x, inner, self.start, ops, eq)
            memory = None
            if self.cell.carry is not None and held is not None:
                memory = held, self.cell.carry(p, parts, held, ops, eq)
            state = self.cell.emit(p, parts, kept, memory, ops, eq)["h"]
            return np.where(self.live[:, None], (self.after - state) / self.bound, 0.0)

        factor, tiny = 1.0, 1e-6
        for _ in range(8):
            here = residual(factor)
            slope = (residual(factor + tiny) - residual(factor - tiny)) / (2.0 * tiny)
            weight = float(np.sum(slope**2))
            if not np.isfinite(weight) or weight == 0.0 or not np.all(np.isfinite(here)):
                return None
            factor -= float(np.sum(here * slope)) / weight
        return factor if bool(np.all(np.abs(residual(factor)) <= 1.0)) else None


def _given(site: _Site, values: Array) -> dict[int, Array]:
    return {} if site.index is None else {site.index: values}


class _NotMonotone(Exception):
    """What is observed does not determine an intermediate by a monotone function."""


def _check_monotone(reached: Callable[[Array], Array], lowest: Array, highest: Array) -> None:
    """Raise _NotMonotone unless the function rises or falls from end to end, at points denser in the middle."""
    spaced = 0.5 + 0.5 * np.linspace(-1.0, 1.0, 25) ** 5
    values = np.stack([reached(lowest + share * (highest - lowest)) for share in spaced])
    steps = np.diff(values, axis=0)
    rounding = 1e-12 * (1.0 + np.abs(values).max(axis=0))
    if not np.all((steps >= -rounding).all(axis=0) | (steps <= rounding).all(axis=0)):
        raise _NotMonotone


def _between(reached: Callable[[Array], Array], lowest: Array, highest: Array, wanted: Array, bound: Array) -> _Implied:
    """Where a function, monotone between two ends, comes within a bound of what is wanted; NaN where it does not."""
    _check_monotone(reached, lowest, highest)
    one, other = reached(lowest), reached(highest)
    rising = other >= one
    least, most = np.minimum(one, other), np.maximum(one, other)
    missed = (wanted + bound < least) | (wanted - bound > most) | np.isnan(least + most)

    def solve(target: Array) -> Array:
        low, high = lowest.copy(), highest.copy()
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            further = (reached(middle) < target) == rising
            low, high = np.where(further, middle, low), np.where(further, high, middle)
        return np.where(
            rising,
            np.where(target > most, highest, np.where(target < least, lowest, 0.5 * (low + high))),
            np.where(target > most, lowest, np.where(target < least, highest, 0.5 * (low + high))),
        )

    # Where the target is the end of the range, every value up to the end of the bound is as good.
    first, last = solve(wanted - bound), solve(wanted + bound)
    flat = most - least <= bound
    low = np.where(flat, lowest, np.minimum(first, last))
    high = np.where(flat, highest, np.maximum(first, last))
    return _Implied(
        low=np.where(missed, np.nan, low),
        high=np.where(missed, np.nan, high),
        middle=np.where(missed, np.nan, solve(wanted)),
    )


def _inverse(function: Activation, values: Array) -> Array:
    """The argument at which a monotone activation has these values; infinite at its limits and past them."""
    low, high = np.full_like(values, -_FARTHEST), np.full_like(values, _FARTHEST)
    least, most = function.function(low), function.function(high)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        below = function.function(middle) < values
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    found: Array = np.where(values <= least, -np.inf, np.where(values >= most, np.inf, 0.5 * (low + high)))
    return found
