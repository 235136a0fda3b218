"""Judgement: from an observation to a verdict, and from the verdicts of many cases to one.

A pass means something only against what it excludes: "agrees" carries the faults that the very cases ruled
out, and where a fault that the requirement exists for was not ruled out the answer is "inconclusive".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TypeAlias, assert_never

import numpy as np

from conformance.algebra import Exact
from conformance.case import Case, Initial, make_case
from conformance.cells.fault import Fault
from conformance.cells.registry import cell_named
from conformance.compare import Comparison, Observed, compare
from conformance.errors import CaseError
from conformance.faults import catalogue
from conformance.rounding import Array
from conformance.verdict import Agrees, Broken, Diverges, Evidence, Inconclusive, StepRow

TrialVerdict: TypeAlias = Agrees | Diverges | Inconclusive | Broken

# A fault counts as visible on the probe when it moves some state by more than this; the smallest visible
# effect there is about 1e-3, rounding is about 1e-15.
_VISIBLE = 1e-6


@cache
def visible_faults(cell: str, initial: Initial, zeroed: tuple[str, ...] = ()) -> frozenset[str]:
    """The faults that can show at all: with this spelling of the initial state and these parameters at zero.

    Decided by running every mutant and the reference in float64 on one fixed generic probe.
    """
    generator = np.random.default_rng(20141406)
    sizes = {"D": 6, "H": 8}
    parameters = {
        name: generator.normal(size=tuple(sizes[letter] for letter in letters)) * 0.5
        for name, letters in cell_named(cell).parameters.items()
    }
    case = make_case(
        cell=cell,
        dtype="float64",
        parameters=parameters,
        x=generator.normal(size=(4, 12, 6)),
        initial=initial,
        h0=generator.uniform(-1, 1, size=(4, 8)),
        origin="visibility probe",
    ).zeroed(zeroed)
    truth = cell_named(case.cell).run(case).outputs
    return frozenset(
        name for name, fault in catalogue(cell).items() if np.abs(fault.run(case).outputs - truth).max() > _VISIBLE
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
            faults=tuple(sorted(name for name, share in residuals.items() if share <= 1.0)),
            evidence=_evidence(case, observed, reference, residuals),
        )
    if not np.all(np.isfinite(reference.bound)):
        return Inconclusive(why="the bound overflows on this case: everything would lie inside it")
    wanted = frozenset(against)
    faults = catalogue(case.cell)
    excluded = frozenset(name for name in wanted if not compare(case, observed, faults[name]).explains)
    if wanted and not excluded:
        return Inconclusive(why="this case looks the same under every fault asked about", missing=wanted)
    return Agrees(excluded=excluded, share=reference.worst, compared=int(reference.share.size))


def hypotheses(case: Case, observed: Observed) -> dict[str, float]:
    """For every fault of the catalogue the largest share of its own bound; at most 1 where it explains all.

    Empty when the observation is not finite: no hypothesis explains that.
    """
    usable = np.all(np.isfinite(observed.outputs)) and np.all(np.isfinite(observed.final_state))
    if not usable:
        return {}
    return {name: compare(case, observed, fault).worst for name, fault in catalogue(case.cell).items()}


def _evidence(case: Case, observed: Observed, reference: Comparison, residuals: dict[str, float]) -> Evidence:
    outside = reference.share > 1.0
    slot = int(np.argmax(outside.any(axis=(1, 2))))
    lane, unit = np.unravel_index(np.argmax(np.where(outside[slot], reference.share[slot], -1)), outside.shape[1:])
    slots = observed.slots
    final = slot == case.shape.time
    truth = cell_named(case.cell).run(case)
    free = np.concatenate([np.swapaxes(truth.outputs, 0, 1), truth.final_state[None]])
    with np.errstate(over="ignore", invalid="ignore"):
        difference = np.abs(slots - free)
    step = case.shape.time - 1 if final else slot
    # The intermediates that lead to the first wrong element, from the observed state before it.
    local = {name: _finite(values[int(lane), step, int(unit)]) for name, values in _forced(case, observed).items()}
    return Evidence(
        output="final_state" if final else "outputs",
        first=(int(lane), step, int(unit)),
        expected=_finite(reference.predicted[slot, lane, unit]),
        observed=_finite(slots[slot, lane, unit]),
        bound=_finite(reference.bound[slot, lane, unit]),
        largest_difference=_finite(np.max(difference)),
        share=_finite(reference.worst),
        outside=int(outside.sum()),
        compared=int(outside.size),
        finite=bool(np.all(np.isfinite(slots))),
        steps=tuple(_row(step, difference[step], reference, step) for step in range(case.shape.time)),
        residuals={name: min(share, 1e300) for name, share in residuals.items()},
        intermediates=local,
    )


def _forced(case: Case, observed: Observed) -> Mapping[str, Array]:
    """The reference's intermediates (B, T, H), each step from the observed state before it."""
    usable = np.where(np.isfinite(observed.outputs), observed.outputs, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = cell_named(case.cell).predict(case, usable, Exact())
    size = case.shape
    return {
        name: np.swapaxes(values.reshape(size.time + 1, size.batch, size.hidden)[: size.time], 0, 1)
        for name, values in rows.items()
    }


def _row(step: int, difference: Array, reference: Comparison, slot: int) -> StepRow:
    share = reference.share[slot]
    at = np.unravel_index(np.argmax(share), share.shape)
    return StepRow(
        step=step,
        difference=_finite(np.max(difference)),
        residual=_finite(reference.residual[slot][at]),
        bound=_finite(reference.bound[slot][at]),
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
        return Diverges(faults=tuple(sorted(names)), evidence=_telling(diverging).evidence)
    broken = [v for v in verdicts if isinstance(v, Broken)]
    if broken:
        return broken[0]
    untrusted = [v for v in verdicts if isinstance(v, Inconclusive) and not v.missing]
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
    lacking = required - excluded
    if lacking:
        return Inconclusive(
            why=f"nothing diverged, but the cases do not rule out {', '.join(sorted(lacking))}",
            excluded=excluded,
            missing=lacking,
        )
    return Agrees(excluded=excluded, share=share, compared=compared)


def _telling(diverging: Sequence[Diverges]) -> Diverges:
    """The divergence to show: the one with the largest finite difference."""
    return max(diverging, key=lambda v: (v.evidence.finite, v.evidence.largest_difference or 0.0))


def planted(case: Case, fault: Fault) -> Observed:
    """What a faulty implementation, emulated in the case's dtype, would return."""
    sequence = fault.run(case)
    return Observed(outputs=sequence.outputs, final_state=sequence.final_state)
