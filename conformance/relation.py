"""Metamorphic relations: a second way of computing a sequence that must give the first one.

A relation takes a base case and a way to run cases, and returns *pairs*: a case, and what the candidate returned for
it, by the detour assembled into an observation of that very case (rows put back in order, parts joined). Each pair is
then judged like any observation: every step predicted from the observed state before it, within the derived bound of
one step. That is the relation's own bound: the detour computes the same equations, so it is that of the reference.

A candidate that consistently follows a fault has its own finding for that; a relation asks whether the detour follows
the *same* function. So a pair is judged by the hypotheses that explain the plain run (the first pair), the reference
among them. Relations in `STRICT` ask for the reference itself, because no other requirement runs their situation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace
from numpy.typing import NDArray

from conformance.behaviours import BEHAVIOURS, Runner
from conformance.case import Case
from conformance.cells import cell_named
from conformance.cells.fault import Fault
from conformance.compare import Comparison, Observed, compare
from conformance.errors import CaseError, ShapeError
from conformance.faults import catalogue
from conformance.judge import TrialVerdict, evidence, hypotheses, planted, sharpest
from conformance.rounding import Array, format_of, round_to
from conformance.verdict import Agrees, Diverges, Evidence, Inconclusive
from conformance.worker.names import block


class Pair(Struct, frozen=True, kw_only=True):
    """A case and what came out for it by a detour.

    says: which detour, for the reader of a divergence, "" for the plain run.
    exact: name -> (observed, expected): arrays that must be equal bit for bit, and in shape.
    judged: whether the observation is compared with the equations; not where there is nothing to compare.
    betrays: the behaviour that this observation shows by itself, whatever the plain run follows; "" for none. It lies
        outside the bound of the reference.
    cut: the step at which a second call continued from the state that the first returned; 0 for none.
    """

    case: Case
    observed: Observed
    says: str = ""
    exact: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    judged: bool = True
    betrays: str = ""
    cut: int = 0

    def compared(self, fault: Fault | None = None) -> Comparison:
        """The comparison with the reference, or with the mutated one of `fault`."""
        return compare(self.case, self.observed, fault, cut=self.cut)


Relation: TypeAlias = Callable[[Case, Runner], Sequence[Pair]]


class NotShown(Exception):
    """The relation cannot be asked of what the candidate returned for a case; the message says why."""


def judge_relation(name: str, case: Case, run: Runner, against: frozenset[str]) -> tuple[TrialVerdict, Pair | None]:
    """Ask one relation of one base case; the second value is the pair that violates it, None if none does.

    against: the faults and behaviours still to be ruled out. An agreeing verdict lists those among them that would have
        been noticed on this very case, by planting each of them.

    Raises
    ------
    CaseError: unknown relation, or an observation of the wrong shape.
    """
    try:
        pairs = relation_named(name)(case, run)
    except NotShown as reason:
        return Inconclusive(why=str(reason), blank=True), None
    if not all(pair.compared().bounded for pair in pairs if pair.judged):
        return Inconclusive(why="the bound overflows on this case: everything would lie inside it", blank=True), None
    verdict, culprit = _verdict(name, pairs)
    if not isinstance(verdict, Agrees):
        return verdict, culprit
    noticed = frozenset(fault for fault in against if notices(name, case, fault))
    if against and not noticed:
        return Inconclusive(why="this case looks the same under everything asked about", missing=against), None
    return msgspec.structs.replace(verdict, excluded=noticed), None


def notices(name: str, case: Case, fault: str) -> bool:
    """Whether an implementation with this fault or behaviour would be noticed on this case."""
    try:
        verdict, _ = _verdict(name, relation_named(name)(case, implementation(case.cell, fault)))
    except NotShown:
        return False
    except ShapeError:  # a shape that no observation may have: a broken contract
        return True
    return isinstance(verdict, Diverges)


def implementation(cell: str, name: str) -> Runner:
    """An implementation with a fault of the catalogue, or a behaviour, planted."""
    if name in BEHAVIOURS:
        return BEHAVIOURS[name].make()
    fault: Fault = catalogue(cell)[name]
    return lambda case: planted(case, fault)


def relation_named(name: str) -> Relation:
    """The relation called `name`; CaseError when there is none."""
    try:
        return RELATIONS[name]
    except KeyError:
        raise CaseError("unknown relation", got=repr(name), wanted=" | ".join(RELATIONS)) from None


def _verdict(name: str, pairs: Sequence[Pair]) -> tuple[TrialVerdict, Pair | None]:
    if not pairs:
        raise CaseError("a relation without a pair compares nothing", got=name)
    for pair in pairs:
        if pair.betrays:
            diverging = _diverging(pair, pair.compared())
            return msgspec.structs.replace(diverging, faults=(pair.betrays,)), pair
    explaining = _explaining(name, pairs[0])
    share, compared = 0.0, 0
    for pair in pairs:
        compared += sum(max(expected.size, 1) for _, expected in pair.exact.values())
        broken = _inexact(pair)
        if broken is not None:
            return Diverges(faults=(), evidence=broken), pair
        if not pair.judged:
            continue
        if not explaining:
            why = "the plain run follows no known equations, so the detour has nothing to be compared with"
            return Inconclusive(why=why), None
        found = [pair.compared(fault) for fault in explaining]
        best = min(found, key=lambda comparison: comparison.worst)
        if not best.explains:
            return _diverging(pair, found[0]), pair
        share, compared = max(share, best.worst), compared + best.compared
    if compared == 0:
        raise CaseError("nothing was compared", got=name)
    return Agrees(excluded=frozenset(), share=share, compared=compared), None


def _explaining(name: str, plain: Pair) -> list[Fault | None]:
    """The hypotheses that explain the plain run; the reference alone where it does, or where it is asked for."""
    if name in STRICT or not plain.judged or plain.compared().explains:
        return [None]
    if not plain.observed.finite:
        return []
    shares = hypotheses(plain.case, plain.observed)
    # Not by a coarse arithmetic, under which any detour would look the same, where a fault explains the plain run.
    names = sharpest(fault for fault, share in shares.items() if share <= 1.0)
    return [catalogue(plain.case.cell)[name] for name in names]


def _diverging(pair: Pair, comparison: Comparison) -> Diverges:
    reference = pair.compared()
    shares = hypotheses(pair.case, pair.observed)
    shown = comparison if reference.explains else reference
    return Diverges(
        faults=tuple(sorted(name for name, share in shares.items() if share <= 1.0)),
        evidence=msgspec.structs.replace(evidence(pair.case, pair.observed, shown, shares), where=pair.says),
    )


def _inexact(pair: Pair) -> Evidence | None:
    """The first exact promise that is broken."""
    for name, (observed, expected) in pair.exact.items():
        if observed.shape != expected.shape:
            return _promise(pair, name, f"shape {observed.shape}, wanted {expected.shape}", None, None, (0, 0, 0))
        wrong = ~((observed == expected) | (np.isnan(observed) & np.isnan(expected)))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            first = at if len(at) == 3 else (0, 0, int(np.flatnonzero(wrong)[0]))
            return _promise(pair, name, f"{name}{list(at)}", float(expected[at]), float(observed[at]), first)
    return None


def _promise(
    pair: Pair, name: str, where: str, expected: float | None, observed: float | None, first: tuple[int, ...]
) -> Evidence:
    lane, step, unit = first
    difference = None if expected is None or observed is None else abs(expected - observed)
    return Evidence(
        output=name,
        first=(lane, step, unit),
        expected=expected,
        observed=observed,
        bound=0.0,
        largest_difference=difference,
        share=None,
        outside=1,
        compared=max(1, pair.exact[name][1].size),
        where=f"{pair.says}: {where}" if pair.says else where,
    )


# --- Detours: cutting, permuting and joining ---


def _cut(case: Case, begin: int, end: int) -> Case:
    """Steps begin ... end - 1, from the case's initial state."""
    return replace(case, x=case.x[:, begin:end], origin=f"{case.origin}, steps {begin} to {end - 1}")


def _row(case: Case, row: int, *, steps: int | None = None, batched: bool = True) -> Case:
    lane = slice(row, row + 1)
    return replace(
        case,
        x=case.x[lane, :steps],
        h0=case.h0[lane],
        c0=None if case.c0 is None else case.c0[lane],
        lengths=None,
        batched=batched,
        origin=f"{case.origin}, row {row}",
    )


def _joined(parts: Sequence[Observed], axis: int) -> Observed:
    """Observations side by side along an axis of outputs; states along it too where it is not time (axis 1)."""

    def join(name: str, along: int) -> Array | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values, axis=along)

    outputs = join("outputs", axis)
    assert outputs is not None
    if axis == 1:
        return replace(parts[-1], outputs=outputs, cells=join("cells", 1))
    along = 0 if axis == 0 else 1
    final = join("final_state", along)
    assert final is not None
    return Observed(outputs=outputs, final_state=final, cells=join("cells", axis), final_cell=join("final_cell", along))


def _flipped(observed: Observed) -> Observed:
    """Outputs in the opposite order of time."""
    cells = None if observed.cells is None else observed.cells[:, ::-1]
    return replace(observed, outputs=observed.outputs[:, ::-1], cells=cells)


def _reindexed(observed: Observed, index: NDArray[np.intp], axis: int) -> Observed:
    """Rows (axis 0) or units (axis -1) in another order."""

    def take(values: Array | None) -> Array | None:
        return None if values is None else np.take(values, index, axis=axis)

    outputs, final = take(observed.outputs), take(observed.final_state)
    assert outputs is not None
    assert final is not None
    return Observed(
        outputs=outputs, final_state=final, cells=take(observed.cells), final_cell=take(observed.final_cell)
    )


def omitted_is_zeros(case: Case, run: Runner) -> Sequence[Pair]:
    """The state omitted, and passed as zeros."""
    zeros = replace(case, initial="zeros")
    return [Pair(case=zeros, observed=run(zeros)), Pair(case=case, observed=run(case), says="the state omitted")]


def split(case: Case, run: Runner) -> Sequence[Pair]:
    """Two parts, the second from the state that the first returned."""
    middle = case.shape.time // 2
    head = _cut(case, 0, middle)
    first = run(head)
    if case.c0 is not None and first.final_cell is None:
        raise NotShown("the candidate does not return its memory c, so it cannot be carried over")
    if not np.all(np.isfinite(first.final_state)):
        raise NotShown("the state after the first part is not finite")
    if case.evaluation == "log-scan" and np.any(first.final_state < 0):
        raise NotShown("the state after the first part is negative and has no logarithm")
    tail = replace(_cut(case, middle, case.shape.time), h0=first.final_state, c0=first.final_cell)
    second = run(tail)
    outputs = first.outputs.copy()
    outputs[:, -1] = first.final_state  # what was carried; it has been judged as the final state of the first part
    joined = _joined([replace(first, outputs=outputs), second], axis=1)
    return [
        Pair(case=case, observed=run(case)),
        Pair(case=head, observed=first, says=f"the first {middle} steps"),
        Pair(case=case, observed=joined, says=f"split after {middle} steps, the state carried over", cut=middle),
    ]


def rows_alone(case: Case, run: Runner) -> Sequence[Pair]:
    """Each row as a batch of its own."""
    alone = _joined([run(_row(case, row)) for row in range(case.shape.batch)], axis=0)
    return [Pair(case=case, observed=run(case)), Pair(case=case, observed=alone, says="each row run alone")]


def rows_permuted(case: Case, run: Runner) -> Sequence[Pair]:
    """The rows in another order."""
    order = np.roll(np.arange(case.shape.batch), 1)
    moved = replace(case, x=case.x[order], h0=case.h0[order], c0=None if case.c0 is None else case.c0[order])
    back = _reindexed(run(moved), np.argsort(order), axis=0)
    return [Pair(case=case, observed=run(case)), Pair(case=case, observed=back, says="rows permuted and put back")]


def units_permuted(case: Case, run: Runner) -> Sequence[Pair]:
    """The hidden units in another order: rows and columns of every parameter, and the states."""
    order = np.roll(np.arange(case.shape.hidden), 1)
    moved = dict(case.parameters)
    for name, letters in cell_named(case.cell).parameters.items():
        for axis, letter in enumerate(letters):
            if letter in "HP":
                moved[name] = np.take(moved[name], order, axis=axis)
    c0 = None if case.c0 is None else case.c0[:, order]
    back = _reindexed(run(replace(case, parameters=moved, h0=case.h0[:, order], c0=c0)), np.argsort(order), axis=-1)
    return [Pair(case=case, observed=run(case)), Pair(case=case, observed=back, says="units permuted and put back")]


def unbatched(case: Case, run: Runner) -> Sequence[Pair]:
    """Each row without a batch axis."""
    rows = [run(_row(case, row, batched=False)) for row in range(case.shape.batch)]
    return [
        Pair(case=case, observed=run(case)),
        Pair(case=case, observed=_joined(rows, axis=0), says="each row run without a batch axis"),
    ]


def causal(case: Case, run: Runner) -> Sequence[Pair]:
    """Another future: the first outputs may not change."""
    middle = case.shape.time // 2
    x = case.x.copy()
    x[:, middle:] = -x[:, middle:]
    plain, other = run(case), run(replace(case, x=x))

    def spliced(kept: Array | None, rest: Array | None) -> Array | None:
        return None if kept is None or rest is None else np.concatenate([kept[:, :middle], rest[:, middle:]], axis=1)

    outputs = spliced(other.outputs, plain.outputs)
    assert outputs is not None
    mixed = replace(plain, outputs=outputs, cells=spliced(other.cells, plain.cells))
    says = f"the first {middle} outputs with other inputs after them"
    return [Pair(case=case, observed=plain), Pair(case=case, observed=mixed, says=says)]


def repeated(case: Case, run: Runner) -> Sequence[Pair]:
    """The same call again after another one."""
    first = run(case)
    run(replace(case, x=-case.x))
    return [Pair(case=case, observed=first), Pair(case=case, observed=run(case), says="the same call again")]


def weights_used(case: Case, run: Runner) -> Sequence[Pair]:
    """Other weights, which must give other numbers; and none at all, under which no input can have an effect."""
    plain = run(case)
    own = {name: -value for name, value in case.parameters.items()}
    other = replace(case, parameters=own, origin=f"{case.origin}, every parameter negated")
    negated = run(other)
    pairs = [
        Pair(case=case, observed=plain),
        Pair(case=other, observed=negated, says="every parameter negated"),
    ]
    if not plain.finite:
        return pairs
    explaining = _explaining("weights_used", pairs[0])
    if np.array_equal(plain.outputs, negated.outputs):
        # Equations that are known to use the weights may give the same numbers twice, and so may any without a matrix.
        known = any(pairs[1].compared(fault).explains for fault in explaining)
        if known or not all(np.any(value) for value in case.parameters.values() if value.ndim > 1):
            return pairs
        says = "every parameter negated: bit for bit the outputs of before"
        return [*pairs, Pair(case=other, observed=negated, says=says, betrays="fresh_weights")]
    # Weights drawn anew in every call: outputs follow no known equations and change from call to call.
    if explaining or np.array_equal(plain.outputs, run(case).outputs):
        return pairs
    nothing = {name: np.zeros_like(value) for name, value in case.parameters.items()}
    c0 = None if case.c0 is None else np.zeros_like(case.c0)
    origin = f"{case.origin}, every parameter and the state zero"
    blank = replace(case, parameters=nothing, h0=np.zeros_like(case.h0), c0=c0, origin=origin)
    observed = run(blank)
    if not compare(blank, observed).explains:
        says = "every parameter and the state zero: others than the loaded weights act, and others in each call"
        pairs.append(Pair(case=blank, observed=observed, says=says, betrays="fresh_weights"))
    return pairs


def sizes(case: Case, run: Runner) -> Sequence[Pair]:
    """One step, one row, one feature, one unit."""
    small = [(_cut(case, 0, 1), "one step"), (_row(case, 0), "one row"), (_slim(case, "D"), "one feature")]
    # Frameworks that project a state want fewer projected units than hidden ones.
    small.append((_slim(case, "P" if cell_named(case.cell).projected else "HP"), "one unit"))
    return [Pair(case=other, observed=run(other), says=says) for other, says in small]


def _slim(case: Case, letters: str) -> Case:
    """The case with the axes of these letters cut to one."""
    parameters = dict(case.parameters)
    for name, axes in cell_named(case.cell).parameters.items():
        for axis, letter in enumerate(axes):
            if letter in letters:
                parameters[name] = np.take(parameters[name], [0], axis=axis)
    x = case.x[..., :1] if "D" in letters else case.x
    h0 = case.h0[:, :1] if "P" in letters else case.h0
    c0 = case.c0[:, :1] if "H" in letters and case.c0 is not None else case.c0
    return replace(case, parameters=parameters, x=x, h0=h0, c0=c0, origin=f"{case.origin}, {letters} = 1")


def saturated(case: Case, run: Runner) -> Sequence[Pair]:
    """Biases so large that every activation is at a limit, alternating over the units; then inputs that do it."""
    signs = np.where(np.arange(case.shape.hidden) % 2, 48.0, -48.0)
    biases = {name: value + signs for name, value in case.parameters.items() if name.startswith("b_x")}
    biases |= {name: value + signs for name, value in case.parameters.items() if name in ("b_z", "b_f")}
    # Gates that are divided by their sum must not be shut both at once: 0/0 has no limit.
    normalised = "b_i" in case.parameters
    if normalised:
        biases["b_i"] = case.parameters["b_i"] - signs
    rounded = {name: round_to(case.dtype, value) for name, value in biases.items()}
    shut = replace(case, parameters={**case.parameters, **rounded}, origin=f"{case.origin}, biases saturated")
    pairs = [Pair(case=shut, observed=run(shut), says="biases that saturate every gate")]
    if not normalised:
        loud = replace(case, x=32.0 * case.x, origin=f"{case.origin}, inputs saturated")
        pairs.append(Pair(case=loud, observed=run(loud), says="inputs that saturate the gates"))
    return pairs


def negative_state(case: Case, run: Runner) -> Sequence[Pair]:
    """The initial state, and its negative."""
    below = replace(case, h0=-np.abs(case.h0), origin=f"{case.origin}, h0 negative")
    plain, observed = run(case), run(below)
    says = "a negative initial state"
    if plain.finite and np.any(np.isnan(observed.outputs)):
        says += " (nan_for_negative_state: as if its logarithm were taken)"
    return [Pair(case=case, observed=plain), Pair(case=below, observed=observed, says=says)]


def kept_exactly(case: Case, run: Runner) -> Sequence[Pair]:
    """An update gate of one in every unit."""
    bias = {"b_xz": np.full_like(case.parameters["b_xz"], 256.0)}
    held = replace(case, parameters={**case.parameters, **bias}, origin=f"{case.origin}, z = 1")
    observed = run(held)
    kept = np.broadcast_to(case.h0[:, None], observed.outputs.shape)
    return [Pair(case=held, observed=observed, says="z = 1", exact={"outputs": (observed.outputs, kept)})]


_SMALLEST_NORMAL: Final[Mapping[str, int]] = {"float64": -1022, "float32": -126, "float16": -14, "bfloat16": -126}


def extreme_inputs(case: Case, run: Runner) -> Sequence[Pair]:
    """Inputs near the root of the largest number; then everything below the smallest normal one."""
    huge = round_to(case.dtype, case.x * np.sqrt(format_of(case.dtype).largest))
    large = replace(case, x=huge, origin=f"{case.origin}, huge inputs")
    factor = 2.0 ** (_SMALLEST_NORMAL[case.dtype] - 2)

    def tiny(values: Array) -> Array:
        return round_to(case.dtype, values * factor)

    small = replace(
        case,
        x=tiny(case.x),
        h0=tiny(case.h0),
        c0=None if case.c0 is None else tiny(case.c0),
        parameters={name: tiny(v) if v.ndim == 1 else v for name, v in case.parameters.items()},
        origin=f"{case.origin}, subnormal inputs",
    )
    return [
        Pair(case=large, observed=run(large), says="huge inputs"),
        Pair(case=small, observed=run(small), says="subnormal inputs"),
    ]


def not_finite(case: Case, run: Runner) -> Sequence[Pair]:
    """One NaN, then one infinity, in one row at one step."""
    pairs = []
    for value, row, step in ((np.nan, 0, 2), (np.inf, case.shape.batch - 1, 1)):
        x = case.x.copy()
        x[row, min(step, case.shape.time - 1), 0] = value
        odd = replace(case, x=x, special=True, origin=f"{case.origin}, x = {value}")
        pairs.append(Pair(case=odd, observed=run(odd), says=f"x = {value} in row {row}"))
    return pairs


def contract(case: Case, run: Runner) -> Sequence[Pair]:
    """Every number is one of the declared dtype; names and shapes have been checked on the way."""
    observed = run(case)
    returned = {"outputs": observed.outputs, "final_state": observed.final_state}
    rounded = {name: (values, round_to(case.dtype, values)) for name, values in returned.items()}
    return [Pair(case=case, observed=observed, exact=rounded)]


def inputs_unmodified(case: Case, run: Runner) -> Sequence[Pair]:
    """Inputs and weights, read back after the call, are what they were."""
    asked = replace(case, inputs_back=True)
    observed = run(asked)
    if "x" not in observed.inputs_after:
        raise NotShown("the candidate did not return its inputs")
    own = {"x": case.x, "h0": case.h0, "c0": case.c0, **case.parameters}
    exact = {f"{name} after the call": (after, own[name]) for name, after in observed.inputs_after.items()}
    return [Pair(case=asked, observed=observed, exact={k: (a, b) for k, (a, b) in exact.items() if b is not None})]


def strided(case: Case, run: Runner) -> Sequence[Pair]:
    """An input whose time axis is outermost in memory."""
    asked = replace(case, strided=True)
    return [Pair(case=case, observed=run(case)), Pair(case=asked, observed=run(asked), says="x not contiguous")]


def reverse(case: Case, run: Runner) -> Sequence[Pair]:
    """The flipped input run forward, and its outputs flipped."""
    forward = replace(case, reverse=False, x=case.x[:, ::-1])
    return [
        Pair(case=case, observed=run(case)),
        Pair(case=case, observed=_flipped(run(forward)), says="the flipped input run forward"),
    ]


def bidirectional(case: Case, run: Runner) -> Sequence[Pair]:
    """Two runs of one direction each."""

    def single(direction: int) -> Case:
        size = case.shape
        h0 = case.h0[:, direction * size.output : (direction + 1) * size.output]
        memory = None if case.c0 is None else case.c0[:, direction * size.hidden : (direction + 1) * size.hidden]
        x = case.x[:, ::-1] if direction else case.x
        return replace(case, parameters=block(case.parameters, 0, direction), directions=1, x=x, h0=h0, c0=memory)

    sides = [run(single(0)), _flipped(run(single(1)))]
    return [
        Pair(case=case, observed=run(case)),
        Pair(case=case, observed=_joined(sides, axis=2), says="two runs of one direction each"),
    ]


def layers(case: Case, run: Runner) -> Sequence[Pair]:
    """Each layer run on the outputs of the one below."""
    size, x, parts = case.shape, case.x, []
    for layer in range(size.layers):
        h0 = case.h0[:, layer * size.output : (layer + 1) * size.output]
        memory = None if case.c0 is None else case.c0[:, layer * size.hidden : (layer + 1) * size.hidden]
        own = block(case.parameters, layer, 0)
        parts.append(run(replace(case, parameters=own, layers=1, x=x, h0=h0, c0=memory)))
        x = parts[-1].outputs
        if not np.all(np.isfinite(x)):
            raise NotShown("the outputs of a lower layer are not finite")
    memories = [part.final_cell for part in parts if part.final_cell is not None]
    composed = Observed(
        outputs=parts[-1].outputs,
        final_state=np.concatenate([part.final_state for part in parts], axis=1),
        cells=parts[-1].cells,
        final_cell=np.concatenate(memories, axis=1) if len(memories) == len(parts) else None,
    )
    return [Pair(case=case, observed=run(case)), Pair(case=case, observed=composed, says="layer by layer")]


def lengths(case: Case, run: Runner) -> Sequence[Pair]:
    """Each row cut to its length and run alone."""
    assert case.lengths is not None
    size = case.shape
    rows = []
    for row, steps in enumerate(case.lengths):
        cut = run(_row(case, row, steps=steps))
        rest = [(0, 0), (0, size.time - steps), (0, 0)]
        cells = None if cut.cells is None else np.pad(cut.cells, rest)
        rows.append(replace(cut, outputs=np.pad(cut.outputs, rest), cells=cells))
    return [
        Pair(case=case, observed=run(case), says="padded"),
        Pair(case=case, observed=_joined(rows, axis=0), says="each row cut to its length"),
    ]


def length_zero(case: Case, run: Runner) -> Sequence[Pair]:
    """A row without steps among others."""
    assert case.lengths is not None
    some = replace(case, lengths=(*case.lengths[:-1], 0))
    return [Pair(case=some, observed=run(some), says="a row of length 0")]


def empty_time(case: Case, run: Runner) -> Sequence[Pair]:
    """No steps: the state comes back as it was given."""
    empty = _cut(case, 0, 0)
    observed = run(empty)
    exact = {"final_state": (observed.final_state, case.h0)}
    if case.c0 is not None and observed.final_cell is not None:
        exact["final_cell"] = (observed.final_cell, case.c0)
    return [Pair(case=empty, observed=observed, says="T = 0", exact=exact, judged=False)]


def empty_batch(case: Case, run: Runner) -> Sequence[Pair]:
    """No rows: arrays without rows come back."""
    size = case.shape
    c0 = None if case.c0 is None else case.c0[:0]
    empty = replace(case, x=case.x[:0], h0=case.h0[:0], c0=c0, origin=f"{case.origin}, no rows")
    observed = run(empty)
    wanted = np.zeros((0, size.time, observed.outputs.shape[-1]))
    return [
        Pair(case=empty, observed=observed, says="B = 0", exact={"outputs": (observed.outputs, wanted)}, judged=False)
    ]


_ALL: Final[Iterable[Relation]] = (
    omitted_is_zeros, split, rows_alone, rows_permuted, units_permuted, unbatched, causal, repeated, weights_used,
    sizes, saturated, negative_state, kept_exactly, extreme_inputs, not_finite, contract, inputs_unmodified, strided,
    reverse,
    bidirectional, layers, lengths, length_zero, empty_time, empty_batch,
)  # fmt: skip
RELATIONS: Final[Mapping[str, Relation]] = {relation.__name__: relation for relation in _ALL}
STRICT: Final = frozenset(
    ("sizes", "saturated", "kept_exactly", "extreme_inputs", "not_finite", "contract", "inputs_unmodified", "reverse",
     "bidirectional", "layers", "lengths", "length_zero")
)  # fmt: skip
