"""Diagnosis beyond one fault outside its bound: what an observation leans to inside it, and pairs of faults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from conformance.algebra import Exact, Rounded
from conformance.case import Case, Parameters, Shape, make_case
from conformance.cells.cell import CORRECT, Indices, Variation, itself, wire
from conformance.cells.fault import Fault, Transform
from conformance.cells.precision import PRECISION
from conformance.cells.registry import cell_named
from conformance.compare import Observed, compare, seen, unspecified
from conformance.faults import catalogue
from conformance.fitting import Fit, fits_of_many, misreadings, readings_and_own
from conformance.localisation import LOW_PRECISION, Mask, localise
from conformance.rounding import Array, format_of
from conformance.spread import Scattered, scatter
from conformance.verdict import Diverges

# A leaning says something only where the effect would stand this many standard errors off zero.
SIGNIFICANT: Final = 6.0


class Leaning(Struct, frozen=True, kw_only=True):
    """How far an observation goes from the reference toward a fault, by a matched filter.

    alpha: the fitted multiple of the fault's effect, 0 for the reference and 1 for the fault.
    z: alpha in standard errors; power: 1 in standard errors, what the fault itself would show.
    """

    fault: str
    alpha: float
    z: float
    power: float

    @property
    def suspected(self) -> bool:
        """Whether the effect is there, and is that of the fault rather than of some rounding in its direction."""
        return self.power > SIGNIFICANT and abs(self.z) > SIGNIFICANT and 0.5 <= self.alpha <= 1.5

    @property
    def ruled_out(self) -> bool:
        """Whether the effect is significantly not there. A statement of the model of errors, not a proof."""
        return self.power > SIGNIFICANT and abs(self.z - self.power) > SIGNIFICANT


def leanings(case: Case, observed: Observed, names: Iterable[str]) -> tuple[Leaning, ...]:
    """What a matched filter says about these faults: alpha = <rho, d>/<d, d>, weighted by the inverse variances.

    rho is the observation less the prediction of the reference, d the prediction of the fault less that, both from the
    observed states. The errors of one unit are *not* taken for independent: numbers computed again are rounded again in
    the same way (a folded bias, a state at rest), so that the standard error assumes full correlation over
    time and rows, Var(alpha) = sum_units (sum |d|/s)^2 / (sum d^2/s^2)^2. Units whose predictions are equal count as
    one.

    Faults without any effect on this case are left out, and those of precision. Empty where errors enter many units
    at once: stacks (the states below are not observed), projected states, parallel scans; and for observations
    that are not finite.
    """
    shape = case.shape
    if not observed.finite or case.special or shape.layers > 1 or cell_named(case.cell).projected:
        return ()
    if not case.stepwise:
        return ()
    reference = scatter(case, observed)
    real = {name: _compared(case, name, part) for name, part in reference.items()}
    deviation = {name: np.sqrt(np.where(real[name], part.variance, 1.0)) for name, part in reference.items()}
    values = observed.arrays()
    rho = {
        name: np.where(real[name], values[name] - part.value, 0.0) / deviation[name] for name, part in reference.items()
    }
    columns = _columns(reference["outputs"].value)
    found = []
    faults = [fault for name in names if (fault := catalogue(case.cell)[name]).arithmetic is None]
    for fault, moved in zip(faults, _effects(case, observed, faults), strict=True):
        effects = {part: np.where(real[part], moved[part], 0.0) / deviation[part] for part in reference}
        leaning = _leaning(fault.name, rho, effects, columns)
        if leaning is not None:
            found.append(leaning)
    return tuple(found)


def _compared(case: Case, name: str, part: Scattered) -> Mask:
    """Where an element counts: it is specified, and its error has a spread."""
    real: Mask = np.isfinite(part.value) & np.isfinite(part.variance) & (part.variance > 0.0)
    return real & ~unspecified(case)[..., None] if name in ("outputs", "cells") else real


def _effects(case: Case, observed: Observed, faults: Sequence[Fault]) -> list[dict[str, Array]]:
    """How far each fault moves every prediction from the observed states; none of them may be of precision.

    Shaped like the parts of a comparison; zero, to the last bit, where a fault changes nothing.
    """
    alike = misreadings(case, faults)
    found = {}
    if alike:  # one entry for every fault, after that of the reference
        stacked = _forced(case, observed, readings_and_own(case, alike), CORRECT, lead=(1 + len(alike),))
        for number, fault in enumerate(alike, start=1):
            found[fault.name] = {part: _moved(rows[number], rows[0]) for part, rows in stacked.items()}
    reference = _forced(case, observed, case, CORRECT)
    for fault in faults:
        if fault.name not in found:
            own = _forced(case, observed, fault.misread(case), fault.variation)
            found[fault.name] = {part: _moved(rows, reference[part]) for part, rows in own.items()}
    return [found[fault.name] for fault in faults]


def _moved(one: Array, other: Array) -> Array:
    """The difference; zero where both are equal, or both are no numbers."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, one - other)


def _forced(
    case: Case, observed: Observed, understood: Case, variation: Variation, *, lead: tuple[int, ...] = ()
) -> dict[str, Array]:
    """What each step gives from the observed state before it; with an axis in front where `understood` has one."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        trace = cell_named(case.cell).evaluate(understood, Exact(), variation=variation, seen=seen(case, observed))
    predicted = trace.arrays()
    found = {}
    for name, values in observed.arrays().items():
        rows = predicted[name]
        assert rows is not None
        found[name] = np.broadcast_to(rows, (*lead, *rows.shape[-2:])).reshape(*lead, *values.shape)
    return found


def _columns(predicted: Array) -> Indices:
    """For every unit the number of its group: units predicted equal to eleven digits are computed alike."""
    table = predicted.reshape(-1, predicted.shape[-1]).T
    scale = float(np.max(np.abs(table), initial=0.0)) or 1.0
    _, groups = np.unique(np.round(table / scale, 11), axis=0, return_inverse=True)
    return groups.reshape(-1).astype(np.intp)


def _leaning(fault: str, rho: dict[str, Array], effects: dict[str, Array], columns: Indices) -> Leaning | None:
    """The matched filter over arrays in units of their standard deviation."""
    if not all(bool(np.all(np.isfinite(effect))) for effect in effects.values()):
        return None
    weight = sum(float(np.sum(effect**2)) for effect in effects.values())
    if weight == 0.0:
        return None
    product = sum(float(np.sum(rho[name] * effect)) for name, effect in effects.items())
    by_unit = np.zeros(int(columns.max()) + 1)
    for effect in effects.values():
        np.add.at(by_unit, columns, np.abs(effect).sum(axis=(0, 1)))
    power = weight / float(np.sqrt(np.sum(by_unit**2)))
    alpha = product / weight
    return Leaning(fault=fault, alpha=alpha, z=alpha * power, power=power)


def diagnosed(case: Case, observed: Observed, verdict: Diverges) -> Diverges:
    """The verdict with what more can be told of a divergence that no single fault explains: pairs, or the place."""
    if verdict.faults or not observed.finite or case.special:
        return verdict
    told = verdict.evidence
    two = pairs(case, observed, told.residuals)
    late: tuple[str, ...] = ()
    place = None
    if not two:
        place = localise(case, observed)
        faults = [fault for fault in catalogue(case.cell).values() if fault.arithmetic is None]
        late = tuple(sentence for fault in faults if (sentence := lasting(case, observed, fault)))
    sentences = () if place is None else tuple(place.sentences)
    evidence = replace(told, pairs=two, localisation=sentences, lasting=late)
    return replace(verdict, evidence=evidence)


def suspicion(case: Case, observed: Observed) -> str:
    """Which faults an observation inside its bound leans to, in a sentence; "" when it leans to none."""
    found = [lean for lean in leanings(case, observed, catalogue(case.cell)) if lean.suspected]
    told = ", ".join(f"{s.fault} ({s.alpha:.2f} of its effect, {s.z:.0f} standard errors)" for s in found)
    return f"inside the bound, but leans to {told}" if told else ""


class Smallest(Struct, frozen=True, kw_only=True):
    """The smallest dropped |b_hn| found in 95 % of trials, by the means of finding; None where none of those tried was.

    bound: the rigorous bound; spread: that, or a suspicion of the matched filter; close: `torch.testing` defaults;
    loose: a relative tolerance of 1e-2 with an absolute one of 1e-3.
    """

    shape: Shape
    bound: float | None
    spread: float | None
    close: float | None
    loose: float | None


TOLERANCES: Final = {"close": (1.3e-6, 1e-5), "loose": (1e-2, 1e-3)}
"""Relative and absolute tolerances for float32 in use elsewhere: of `torch.testing`, and of many test suites."""


def smallest_found(shape: Shape, *, trials: int = 40, per_octave: int = 1) -> Smallest:
    """Plant ``r * b_hn missing on the first step`` in float32 with |b_hn| in powers of two, and see what finds it.

    The candidate is emulated in float32; the fixed tolerances compare its outputs with those of a correct candidate.
    """
    fault = catalogue("gru")["drop_rbhn_t0"]
    found: dict[str, float | None] = dict.fromkeys(("bound", "spread", *TOLERANCES))
    seeds = np.random.default_rng(20141406).integers(0, 2**32, trials)
    # From large to small: a means of finding is out once it misses, and stays out.
    alive = set(found)
    for size in 2.0 ** np.arange(-4.0, -28.0, -1.0 / per_octave):
        hits = dict.fromkeys(found, 0)
        for seed in map(int, seeds):
            case = _dropped(shape, seed, float(size))
            ran = fault.run(case)
            observed = Observed(outputs=ran.outputs, final_state=ran.final_state)
            right = cell_named("gru").run(case, ops=Rounded(format_of("float32")))
            outside = not compare(case, observed).explains
            hits["bound"] += outside
            hits["spread"] += outside or any(lean.suspected for lean in leanings(case, observed, [fault.name]))
            for name, (relative, absolute) in TOLERANCES.items():
                allowed = absolute + relative * np.abs(right.outputs)
                hits[name] += bool(np.any(np.abs(observed.outputs - right.outputs) > allowed))
        alive &= {name for name, count in hits.items() if count >= 0.95 * trials}
        found |= dict.fromkeys(alive, float(size))
        if not alive:
            break
    return Smallest(shape=shape, **found)


def _dropped(shape: Shape, seed: int, size: float) -> Case:
    """A float32 GRU case without an initial state whose b_hn has entries of this size, with random signs."""
    generator = np.random.default_rng(seed)
    shapes = cell_named("gru").shapes({"D": shape.features, "H": shape.hidden, "P": shape.hidden})
    parameters = {name: generator.uniform(-1.0, 1.0, dims) / np.sqrt(shape.hidden) for name, dims in shapes.items()}
    parameters["b_hn"] = size * generator.choice([-1.0, 1.0], shape.hidden)
    return make_case(
        cell="gru",
        dtype="float32",
        parameters=parameters,
        x=generator.standard_normal((shape.batch, shape.time, shape.features)),
        initial="omitted",
        hidden=shape.hidden,
        origin=f"dropped b_hn of {size:g}, seed {seed}",
    )


def compose(first: Fault, second: Fault, right: Any) -> Fault | None:
    """Both faults at once, parameters misread by `first` before `second`; None where they change the same thing.

    right: the correct equations of the cell.
    """
    equations = _merged(first.equations, second.equations, right)
    if equations is None:
        return None
    changes: dict[str, Any] = {"equations": equations, "parameters": first.parameters or second.parameters}
    if first.parameters is not None and second.parameters is not None:
        changes["parameters"] = _after(first.parameters, second.parameters)
    for name, usual in (
        ("inputs", None),
        ("wiring", wire),
        ("lane0", False),
        ("no_h0", False),
        ("no_c0", False),
        ("h0_through", None),
        ("opposite", False),
        ("weights_of", itself),
        ("states_of", itself),
        ("swapped", False),
        ("arithmetic", None),
    ):
        one, other = getattr(first, name), getattr(second, name)
        if one != usual and other != usual:
            return None
        changes[name] = other if one == usual else one
    return Fault(
        name=f"{first.name} + {second.name}", statement=f"{first.statement}; and {second.statement}", **changes
    )


def _after(first: Transform, second: Transform) -> Transform:
    """`second`, of what `first` makes of the parameters."""

    def both(p: Parameters) -> Mapping[str, Array]:
        once = first(p)
        return {**once, **second({**p, **once})}

    return both


def _merged(one: Any, other: Any, right: Any) -> Any:
    """The equations with the changes of both; None where both change the same field."""
    one, other = (right if equations is None else equations for equations in (one, other))
    changes = {}
    for name in right.__struct_fields__:
        usual = getattr(right, name)
        here, there = getattr(one, name), getattr(other, name)
        if here != usual and there != usual:
            return None
        if here != usual or there != usual:
            changes[name] = there if here == usual else here
    return replace(right, **changes)


def pairs(case: Case, observed: Observed, single: Mapping[str, float]) -> tuple[tuple[str, str], ...]:
    """All pairs of faults that together explain an observation which no fault alone does.

    single: the residual of every fault alone, as `conformance.judge.hypotheses` gives them; what it explains needs no
    pair, and the faults it names are those that are searched. A fault that leaves every prediction from this
    observation as it is cannot be one of two. A pair with a coarser arithmetic explains more than others, and is
    told only where no other pair explains; of several arithmetics the finest is told.

    Several pairs are returned where the case cannot tell them apart; none where no pair explains.
    """
    if not single or not observed.finite or min(single.values()) <= 1.0:
        return ()
    right = cell_named(case.cell).equations
    faults = catalogue(case.cell)
    alone = [fault for name in single if (fault := faults[name]).arithmetic is None]
    moving = zip(alone, _effects(case, observed, alone), strict=True)
    exact = [fault for fault, moved in moving if any(np.any(values) for values in moved.values())]
    found = _explaining(case, observed, exact, exact, right)
    for fault in (faults[name] for name in PRECISION if name in single):
        if not found and fault.arithmetic is not None and fault.arithmetic(case.format) is not None:
            found = _explaining(case, observed, exact, [fault], right)
    return found


def _explaining(
    case: Case, observed: Observed, ones: Iterable[Fault], others: Sequence[Fault], right: Any
) -> tuple[tuple[str, str], ...]:
    """The pairs that explain the observation, in either order of misreading."""
    tried: dict[str, Fault] = {}
    told: dict[str, tuple[str, str]] = {}
    for one in ones:
        for other in others:
            pair = (min(one.name, other.name), max(one.name, other.name))
            both_misread = one.parameters is not None and other.parameters is not None
            # The order matters only where both misread the parameters.
            if one.name == other.name or (
                not both_misread and pair != (one.name, other.name) and other.arithmetic is None
            ):
                continue
            both = compose(one, other, right)
            if both is not None:
                tried[both.name], told[both.name] = both, pair
    brief = _beginning(case, observed)
    if brief is not None:
        stepwise = [both for both in tried.values() if _stepwise(both)]
        begun = fits_of_many(*brief, stepwise)
        tried = {name: both for name, both in tried.items() if name not in begun or _fits(begun[name])}
    found = fits_of_many(case, observed, tuple(tried.values()))
    return tuple(sorted({told[name] for name, fit in found.items() if _fits(fit)}))


def _beginning(case: Case, observed: Observed, steps: int = 2) -> tuple[Case, Observed] | None:
    """The first steps alone, where what explains everything must explain these; None where they save nothing.

    Steps are predicted from those before them, so that this holds for every fault that keeps the wiring of time. A
    memory that was not returned is rebuilt step by step, which takes nearly all the time of a comparison.
    """
    carried = cell_named(case.cell).carry is not None and observed.cells is None
    plain = case.shape.layers == case.shape.directions == 1 and not case.reverse and case.lengths is None
    if not carried or not plain or case.cotangents or case.shape.time <= steps:
        return None
    outputs = observed.outputs[:, :steps]
    return replace(case, x=case.x[:, :steps]), Observed(outputs=outputs, final_state=outputs[:, -1])


def _stepwise(fault: Fault) -> bool:
    """Whether the first steps of what the fault gives are what it gives for the first steps."""
    return fault.wiring is wire and fault.inputs is None


def _fits(fit: Fit) -> bool:
    return fit.explains and fit.bounded


def lasting(case: Case, observed: Observed, fault: Fault) -> str:
    """What the fault explains of an observation: all of it, or all from a step on, in a sentence; else the empty one.

    A fault can begin late: a counter that overflows, a buffer that is reused, a state that was saved. The earlier steps
    must then be right, and at least two steps wrong, so that one wrong step is no evidence for anything.
    """
    time = case.shape.time
    outputs = {name: compare(case, observed, one).parts["outputs"] for name, one in (("right", None), ("wrong", fault))}
    right, wrong = (outputs[name].share.max(axis=(1, 2), initial=0.0) for name in ("right", "wrong"))
    failing = np.flatnonzero(right > 1.0)
    if not failing.size or not observed.finite:
        return ""
    consumed = slice(None, int(failing[-1]) + 1) if case.reverse else slice(int(failing[0]), None)
    begun = wrong[consumed]
    share = float(begun.max())
    # The final state is the last output, explained with it; below, it has no slot of its own.
    if share > 1.0 or (begun.size < time and failing.size < 2):
        return ""
    start = int(failing[-1] if case.reverse else failing[0])
    since = "" if float(wrong.max()) <= 1.0 else f" from step {start} on"
    like = "is consistent with" if case.dtype in LOW_PRECISION else "behaves exactly like"
    return f"{like} {fault.name}{since}; residual {100.0 * share:.2g} per cent of the bound"
