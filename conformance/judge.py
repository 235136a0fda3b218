"""Judgement: from an observation to a verdict, and from the verdicts of many cases to one.

A pass means something only against what it excludes: "agrees" carries the faults that the very cases ruled
out, and where a fault that the requirement exists for was not ruled out the answer is "inconclusive".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from threading import Lock
from typing import Final, TypeAlias, assert_never

import numpy as np

from conformance.algebra import Exact, Rounded
from conformance.block import Block
from conformance.case import Case, Initial, Padding, make_case
from conformance.cells.cell import CORRECT
from conformance.cells.cell import Sequence as Sequence_
from conformance.cells.fault import Fault
from conformance.cells.precision import PRECISION
from conformance.cells.registry import cell_named
from conformance.compare import PER_STEP, Comparison, Observed, Part, compare, seen, shares_of, uncompared
from conformance.errors import CaseError
from conformance.faults import catalogue
from conformance.fitting import fits
from conformance.rounding import Arithmetic, Array, arithmetic_of
from conformance.verdict import Agrees, Broken, Diverges, Evidence, Inconclusive, ShareMap, StepRow

TrialVerdict: TypeAlias = Agrees | Diverges | Inconclusive | Broken

_PROBING = Lock()
# Numbers of an observation that are judged at once.
_TOGETHER: Final = 1 << 15


def visible_faults(
    cell: str,
    initial: Initial,
    zeroed: tuple[str, ...] = (),
    *,
    features: tuple[str, ...] = (),
    dtype: str = "float64",
    padding: Padding = "zeros",
    arithmetic: Arithmetic = "",
) -> frozenset[str]:
    """The faults that can show at all with this initial state, these parameters at zero, these features.

    All candidates ask the same at the same time: one of them finds it out, the others wait for the answer.
    """
    with _PROBING:
        shown = _visible(cell, initial, zeroed, features, padding)
    declared = arithmetic_of(dtype, arithmetic)
    faults = catalogue(cell).items()
    return shown | {name for name, f in faults if f.arithmetic is not None and f.arithmetic(declared) is not None}


@cache
def _visible(
    cell: str, initial: Initial, zeroed: tuple[str, ...], features: tuple[str, ...], padding: Padding
) -> frozenset[str]:
    """As `visible_faults`, but for faults of precision, which can show where they apply.

    A fault cannot show that explains what the reference computes in float64 on one fixed generic probe.
    """
    case = probe(cell, initial, features=features, padding=padding).zeroed(zeroed)
    truth = observed_of(cell_named(case.cell).run(case))
    found = fits(case, truth, [fault for fault in catalogue(cell).values() if fault.arithmetic is None])
    return frozenset(name for name, fit in found.items() if not (fit.explains and fit.bounded))


def probe(cell: str, initial: Initial, *, features: tuple[str, ...] = (), padding: Padding = "zeros") -> Case:
    """A fixed generic case with these features, on which every fault shows that can."""
    generator = np.random.default_rng(20141406)
    kind = cell_named(cell)
    layers, directions = (2 if "layers" in features else 1), (2 if "bidirectional" in features else 1)
    output = 5 if kind.projected else 8
    shapes = kind.shapes({"D": 6, "H": 8, "P": output}, layers, directions)
    blocks = layers * directions
    asked = {"outputs": (4, 12, directions * output), "final_state": (4, blocks * output)}
    if kind.carry is not None:
        asked["final_cell"] = (4, blocks * 8)
    if "gradients" not in features:
        asked = {}
    return make_case(
        cell=cell,
        dtype="float64",
        parameters={name: generator.normal(size=shape) * 0.5 for name, shape in shapes.items()},
        x=generator.normal(size=(4, 12, 6)),
        initial=initial,
        h0=generator.uniform(0.1 if kind.positive else -1, 1, size=(4, blocks * output)),
        c0=generator.uniform(-1, 1, size=(4, blocks * 8)) if kind.carry is not None else None,
        lengths=(12, 5, 1, 0 if "empty_rows" in features else 3) if "lengths" in features else None,
        reverse="reverse" in features,
        layers=layers,
        directions=directions,
        padding=padding,
        cotangents={name: generator.normal(size=shape) for name, shape in asked.items()},
        origin="visibility probe",
    )


def judge(case: Case, observed: Observed, against: Iterable[str]) -> TrialVerdict:
    """The verdict on one case.

    against: the faults still to be ruled out. An agreeing verdict lists those among them that this case
        excludes; when there are some to exclude and it excludes none, the verdict is inconclusive.

    Raises
    ------
    CaseError: the observation has another shape than the case, or nothing to compare.
    """
    reference = compare(case, observed)
    if not reference.explains:
        residuals = hypotheses(case, observed)
        return Diverges(
            faults=explaining(residuals),
            evidence=evidence(case, observed, reference, residuals),
        )
    if not reference.bounded:
        return Inconclusive(why="the bound overflows on this case: everything would lie inside it", blank=True)
    wanted = frozenset(against)
    faults = catalogue(case.cell)
    excluded = _ruled_out(case, observed, [faults[name] for name in sorted(wanted)])
    if wanted and not excluded:
        return Inconclusive(why="this case looks the same under every fault asked about", missing=wanted)
    return Agrees(excluded=excluded, share=reference.worst, compared=reference.compared)


def judge_block(
    block: Block, places: Sequence[int], observed: Observed, against: Collection[str]
) -> Iterator[tuple[int, TrialVerdict]]:
    """The verdicts on those cases of a block of which `observed` holds the observations, in their order.

    All at once where nothing is asked but whether they agree; whatever does not plainly agree is judged by itself.
    against: asked anew before every case, so the caller may take out what has been ruled out.

    Yields
    ------
    A verdict, and of how many cases it is: of all next to each other that plainly agree, else of one.
    """
    size = sum(values[0].size for values in observed.arrays().values()) - uncompared(block.first)
    worst, alone = np.zeros(0), list(range(len(places)))
    if block.first.stepwise and not against:
        # So many that what is computed of them stays in the cache.
        step = max(1, _TOGETHER // max(1, size))
        stretches = [slice(first, first + step) for first in range(0, len(places), step)]
        found = [shares_of(block.together(places[each]), observed.rows(each)) for each in stretches]
        worst = np.concatenate([worst, *found])
        alone = np.flatnonzero(~(worst <= 1.0)).tolist()
    told = 0
    for row in (*alone, len(places)):
        if row > told:
            share = float(worst[told:row].max())
            yield row - told, Agrees(excluded=frozenset(), share=share, compared=size * (row - told))
        told = row + 1
        if row < len(places):
            verdict = judge(block.case(places[row]), observed.row(row), frozenset(against))
            blind = isinstance(verdict, Inconclusive) and verdict.missing and not verdict.blank
            # That one case looks the same under some fault is no news in a block: others tell.
            yield 1, judge(block.case(places[row]), observed.row(row), ()) if blind else verdict


def explaining(residuals: Mapping[str, float]) -> tuple[str, ...]:
    """The hypotheses that explain an observation, in order."""
    return tuple(sorted(name for name, share in residuals.items() if share <= 1.0))


def deviation(case: Case, observed: Observed, faults: Collection[str], *, rivals: Iterable[str] = ()) -> str | None:
    """Why `judge` would not tell the same name as from `faults`, which explained a divergence; None if it would.

    The name is told by `sharpest`: what it names must still explain, and nothing but `faults` may. Else the answer is a
    hypothesis that explains too much or too little, or "" for the reference, where that explains it. `rivals` are asked
    first of those that may not; whoever asks needs no evidence, so the first reason ends the search.
    """
    if compare(case, observed).explains:
        return ""
    known, told = catalogue(case.cell), sharpest(faults)
    if not observed.finite:
        found = set(explaining(hypotheses(case, observed)))
        return min((found - set(faults)) | (set(told) - found), default=None)
    order = dict.fromkeys((*told, *rivals, *(name for name in known if name not in faults)))
    return next((name for name in order if _explains(case, observed, known.get(name)) != (name in told)), None)


def _explains(case: Case, observed: Observed, fault: Fault | None) -> bool:
    """Whether a fault explains everything; one that is not of this catalogue (a gradient's) explains no output."""
    if fault is None:
        return False
    comparison = compare(case, observed, fault)
    return comparison.explains and comparison.bounded


def _ruled_out(case: Case, observed: Observed, faults: Sequence[Fault]) -> frozenset[str]:
    """What `rules_out` is true of."""
    found = fits(case, observed, [fault for fault in faults if fault.arithmetic is None])
    emulated = {f.name for f in faults if f.arithmetic is not None and rules_out(case, observed, f)}
    return frozenset(name for name, fit in found.items() if not fit.explains) | emulated


def rules_out(case: Case, observed: Observed, fault: Fault) -> bool:
    """Whether an observation that agrees with the reference could not have come from `fault`.

    A fault of precision explains whatever the declared dtype explains; it is ruled out when an emulation of it would
    have diverged on this very case.
    """
    if fault.arithmetic is None:
        return not compare(case, observed, fault).explains
    if fault.arithmetic(case.format) is None:
        return False
    return not compare(case, planted(case, fault)).explains


def hypotheses(case: Case, observed: Observed) -> dict[str, float]:
    """For every fault of the catalogue the largest share of its own bound; at most 1 where it explains all.

    An observation that is not finite is explained only by a fault that overflows where it does, and that explains some
    finite state before which the reference does not; empty when no fault does.
    """
    if not observed.finite:
        return _growing(case, observed)
    found = fits(case, observed, tuple(catalogue(case.cell).values()))
    # What lies inside an infinite bound is not explained by it.
    return {name: fit.worst if fit.bounded else np.inf for name, fit in found.items()}


def _growing(case: Case, observed: Observed) -> dict[str, float]:
    """The residuals of the faults whose state grows without limit, as that of the observation does.

    A number that is not finite is explained where an emulated kernel of the fault, from the observed state before it,
    overflows as well; what a row gives after its first one is not compared.
    """
    if case.special or not case.stepwise or case.shape.layers > 1 or case.directions > 1:
        return {}
    arrays = observed.arrays()
    lost = ~np.isfinite(arrays["outputs"])
    rows = np.any(lost, axis=2, keepdims=True)
    ordered = np.flip(rows, axis=0) if case.reverse else rows
    after = np.concatenate([np.zeros_like(ordered[:1]), np.logical_or.accumulate(ordered, axis=0)[:-1]])
    skipped = np.flip(after, axis=0) if case.reverse else after
    wrong = compare(case, observed).parts["outputs"].share > 1.0
    found: dict[str, float] = {}
    for name, fault in catalogue(case.cell).items():
        comparison = compare(case, observed, fault)
        part = comparison.parts["outputs"]
        with np.errstate(over="ignore", invalid="ignore"):
            trace = cell_named(case.cell).evaluate(
                fault.misread(case),
                Rounded(fault.format(case)),
                variation=fault.variation,
                seen=seen(case, observed),
            )
        overflows = lost & ~np.isfinite(trace.outputs.reshape(lost.shape))
        share = np.where(skipped | overflows, 0.0, part.share)
        final = np.where(np.any(rows, axis=0, keepdims=True), 0.0, comparison.parts["final_state"].share)
        worst = max(float(share.max(initial=0.0)), float(final.max(initial=0.0)))
        told = wrong & ~skipped & ~lost & np.isfinite(part.bound)
        if worst <= 1.0 and told.any():
            found[name] = worst
    return found


def evidence(case: Case, observed: Observed, reference: Comparison, residuals: Mapping[str, float]) -> Evidence:
    """What a divergence looks like: the first element outside its bound, and the account of every step."""
    name, slot = _first(case, reference)
    part = reference.parts[name]
    outside = part.share[slot] > 1.0
    lane, unit = np.unravel_index(np.argmax(np.where(outside, part.share[slot], -1)), outside.shape)
    step = slot if name in PER_STEP else case.shape.time - 1
    with np.errstate(over="ignore", invalid="ignore"):
        free = observed_of(cell_named(case.cell).run(case)).arrays()
        difference = {key: np.abs(values - free[key]) for key, values in observed.arrays().items()}
    # The intermediates that lead to the first wrong element, from the observed state before it.
    at = (int(lane), step, int(unit)) if name in PER_STEP else None
    under = _closest(case, residuals)
    parts = reference.parts.values()
    return Evidence(
        output=name,
        first=(int(lane), max(step, 0), int(unit)),
        expected=_finite(part.predicted[slot, lane, unit]),
        observed=_finite(part.observed[slot, lane, unit]),
        bound=_finite(part.bound[slot, lane, unit]),
        largest_difference=_finite(max(float(np.max(values, initial=0.0)) for values in difference.values())),
        share=_finite(reference.worst),
        outside=sum(int((p.share > 1.0).sum()) for p in parts),
        compared=reference.compared,
        finite=observed.finite,
        steps=tuple(
            _row(step, difference["outputs"][step], reference.parts["outputs"], step) for step in range(case.shape.time)
        ),
        residuals={key: min(share, 1e300) for key, share in residuals.items()},
        intermediates=_local(case, observed, None, at),
        under="" if under is None else under.name,
        implied=_local(case, observed, under, at) if under is not None else {},
        map=share_map(reference.parts["outputs"].share),
    )


def _closest(case: Case, residuals: Mapping[str, float]) -> Fault | None:
    """The fault of the cell's catalogue that explains an observation, and leaves the least of it."""
    known = catalogue(case.cell)
    explaining = sorted((share, name) for name, share in residuals.items() if share <= 1.0 and name in known)
    return known[explaining[0][1]] if explaining else None


def _local(
    case: Case, observed: Observed, fault: Fault | None, at: tuple[int, int, int] | None
) -> dict[str, float | None]:
    """The intermediates of the reference, or of a fault, that lead to one element (batch, time, unit)."""
    if at is None:
        return {}
    found = forced(case, observed, fault)
    return {name: _finite(values[at]) for name, values in found.items() if values.shape[2] > at[2]}


_MAP = (64, 32)
"""At most so many steps and units of a map of shares; beyond, one entry stands for several."""


def share_map(share: Array) -> ShareMap | None:
    """The map of some shares (T, B, units)."""
    worst = share.max(axis=1, initial=0.0)
    if not worst.size:
        return None
    steps, units = (-(-size // most) for size, most in zip(worst.shape, _MAP, strict=True))
    blocks = [
        [float(worst[t : t + steps, u : u + units].max()) for u in range(0, worst.shape[1], units)]
        for t in range(0, worst.shape[0], steps)
    ]
    return ShareMap(
        steps=steps,
        units=units,
        shares=tuple(tuple(float(f"{value:.3g}") if np.isfinite(value) else None for value in row) for row in blocks),
    )


def _first(case: Case, reference: Comparison) -> tuple[str, int]:
    """The array and slot of the first element outside its bound, in the order in which steps are computed."""
    slots: dict[str, int] = {}
    for name, part in reference.parts.items():
        wrong = np.flatnonzero((part.share > 1.0).any(axis=(1, 2)))
        if wrong.size:
            slots[name] = int(wrong[-1] if case.reverse else wrong[0])
    stepwise = {name: slot for name, slot in slots.items() if name in PER_STEP}
    if not stepwise:
        return next(iter(slots.items()))
    return (max if case.reverse else min)(stepwise.items(), key=lambda item: item[1])


def forced(case: Case, observed: Observed, fault: Fault | None = None) -> Mapping[str, Array]:
    """The intermediates (B, T, .) of the reference, or of a fault, each step from the observed state before it."""
    understood = case if fault is None else fault.misread(case)
    variation = CORRECT if fault is None else fault.variation
    ops = Exact() if fault is None or fault.arithmetic is None else Rounded(fault.format(case))
    with np.errstate(over="ignore", invalid="ignore"):
        trace = cell_named(case.cell).evaluate(understood, ops, variation=variation, seen=seen(case, observed))
    size = case.shape
    return {
        name: np.swapaxes(values.reshape(size.time, size.batch, -1), 0, 1)
        for name, values in trace.intermediates.items()
    }


def _row(step: int, difference: Array, part: Part, slot: int) -> StepRow:
    share = part.share[slot]
    at = np.unravel_index(np.argmax(share), share.shape)
    return StepRow(
        step=step,
        difference=_finite(np.max(difference)),
        residual=_finite(part.residual[slot][at]),
        bound=_finite(part.bound[slot][at]),
        share=_finite(share[at]),
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def combine(verdicts: Sequence[TrialVerdict], *, required: frozenset[str]) -> TrialVerdict:
    """One verdict for all cases of a candidate, requirement and dtype.

    required: the faults that must have been ruled out for an agreement. Divergence outweighs breakage, breakage
        an untrusted path, and that agreement; the named faults are those that explain *every* divergence.

    Raises
    ------
    CaseError: there are no verdicts: a check never passes on zero comparisons.
    """
    if not verdicts:
        raise CaseError("nothing was compared", hint="a requirement without a single trial is not passed")
    diverging = [v for v in verdicts if isinstance(v, Diverges)]
    if diverging:
        names = set(diverging[0].faults)
        for other in diverging[1:]:
            names &= set(other.faults)
        return Diverges(faults=sharpest(names), evidence=_telling(diverging).evidence)
    broken = [v for v in verdicts if isinstance(v, Broken)]
    if broken:
        return broken[0]
    untrusted = [v for v in verdicts if isinstance(v, Inconclusive) and not v.missing and not v.blank]
    if untrusted:
        return untrusted[0]
    excluded: frozenset[str] = frozenset()
    share, compared = 0.0, 0
    for verdict in verdicts:
        match verdict:
            case Agrees():
                excluded |= verdict.excluded
                share = max(share, verdict.share)
                compared += verdict.compared
            case Inconclusive():
                pass
            case Diverges() | Broken():
                raise AssertionError("handled above")
            case _:
                assert_never(verdict)
    blank = [v for v in verdicts if isinstance(v, Inconclusive) and v.blank]
    if len(blank) == len(verdicts):
        return blank[0]
    lacking = required - excluded
    if lacking:
        return Inconclusive(
            why=f"nothing diverged, but the cases do not rule out {', '.join(sorted(lacking))}",
            excluded=excluded,
            missing=lacking,
        )
    return Agrees(excluded=excluded, share=share, compared=compared)


def sharpest(names: Iterable[str]) -> tuple[str, ...]:
    """The names to tell: a coarser arithmetic explains much, so it is named only where no other fault explains.

    Of several arithmetics the finest is named.
    """
    found = set(names)
    finest = next((name for name in PRECISION if name in found), None)
    others = tuple(sorted(found.difference(PRECISION)))
    return others or (() if finest is None else (finest,))


def _telling(diverging: Sequence[Diverges]) -> Diverges:
    """The divergence to show: the one with the largest finite difference."""
    return max(diverging, key=lambda v: (v.evidence.finite, v.evidence.largest_difference or 0.0))


def planted(case: Case, fault: Fault) -> Observed:
    """What a faulty implementation, emulated in the case's dtype, would return."""
    with np.errstate(over="ignore", invalid="ignore"):  # a mutant may overflow where the reference does not
        return observed_of(fault.run(case))


def observed_of(sequence: Sequence_) -> Observed:
    """A computed sequence as an observation."""
    return Observed(
        outputs=sequence.outputs,
        final_state=sequence.final_state,
        cells=sequence.cells,
        final_cell=sequence.final_cell,
    )
