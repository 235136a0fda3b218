"""Comparison: many cases at once, what follows a state that is rightly not finite, and bounds that are lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.behaviours import correct
from conformance.case import Case, Shape
from conformance.cells import cell_named
from conformance.cells.fault import Fault
from conformance.compare import Observed, compare, shares
from conformance.diagnosis import compose
from conformance.errors import CaseError, ShapeError
from conformance.faults import CATALOGUE, catalogue
from conformance.fitting import Fit, Foretold, fits, fits_of_many, foretold
from conformance.judge import combine, judge, planted
from conformance.signature import GENERIC, Signature, build
from conformance.verdict import Diverges, Inconclusive

SMALL = Shape(batch=3, time=6, features=5, hidden=4)


def case_of(cell: str, seed: int = 1, dtype: str = "float32", scale: float = 0.8, shape: Shape = SMALL) -> Case:
    """A generated case with a given state."""
    signature = Signature(shape=shape, batched=True, seed=seed, scale=scale, decimals=12, fills=())
    return build(signature, cell=cell, dtype=dtype, initial="given")


@pytest.mark.parametrize("memory", ["all", "last", "none"])
@pytest.mark.parametrize("cell", ["gru", "lstm", "lstm_peephole", "lstm_projection", "elman", "mingru"])
def test_cases_judged_together_get_what_each_gets_alone(cell: str, memory: str) -> None:
    """Stacked, every case uses the share of its bound that it uses alone, faulty ones included."""
    cases = [case_of(cell, seed) for seed in range(5)]
    observed = [correct(case) for case in cases]
    observed[3] = planted(cases[3], catalogue(cell)["out_shift"])
    if memory != "all":
        observed = [replace(o, cells=None) for o in observed]
    if memory == "none":
        observed = [replace(o, final_cell=None) for o in observed]
    alone = np.array([compare(case, o).worst for case, o in zip(cases, observed, strict=True)])
    together = shares(cases, observed)
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert (together > 1.0).tolist() == [False, False, False, True, False]


def test_an_infinite_bound_is_no_agreement_together_either() -> None:
    """What shows nothing alone has an infinite share among others."""
    cases = [case_of("minlstm", seed, "float16", scale=20.0, shape=GENERIC) for seed in range(4)]
    with np.errstate(invalid="ignore"):
        observed = [correct(case) for case in cases]
    unbounded = [not compare(case, o).bounded for case, o in zip(cases, observed, strict=True)]
    assert any(unbounded)
    assert np.isinf(shares(cases, observed)).tolist() == unbounded


def test_only_cases_of_one_kind_are_judged_together() -> None:
    """Another dtype, a shape of its own, one observation too few: refused."""
    one, other = case_of("gru"), case_of("gru", dtype="float16")
    with pytest.raises(CaseError, match="one kind"):
        shares([one, other], [correct(one), correct(other)])
    with pytest.raises(CaseError, match="as many observations"):
        shares([one, one], [correct(one)])
    wrong = replace(correct(one), outputs=np.zeros((3, 5, 4)))
    with pytest.raises(ShapeError):
        shares([one], [wrong])


def growing(dtype: str = "float16") -> tuple[Case, Observed]:
    """An Elman network with ReLU whose states leave float16, and what a correct implementation returns."""
    case = case_of("elman_relu", dtype=dtype, shape=GENERIC)
    large = {name: np.full_like(value, 4.0) for name, value in case.parameters.items()}
    case = replace(case, parameters=large, h0=np.abs(case.h0), x=np.abs(case.x))
    with np.errstate(over="ignore", invalid="ignore"):
        return case, correct(case)


def test_what_follows_an_overflow_is_not_held_against_a_candidate() -> None:
    """States that rightly overflow are no divergence, and neither is what is computed from them: nothing is shown."""
    case, observed = growing()
    assert np.isinf(observed.outputs).any()
    verdict = judge(case, observed, ())
    assert isinstance(verdict, Inconclusive)
    assert verdict.blank
    assert combine([verdict], required=frozenset()) == verdict


def test_an_overflow_does_not_hide_what_came_before_it() -> None:
    """A wrong state before the overflow, or one that is infinite too early, diverges all the same."""
    case, observed = growing()
    finite = np.isfinite(observed.outputs).all(axis=(0, 2))
    assert finite[0]
    for value in (1.5 * observed.outputs[1, 0, 2], np.inf, np.nan):
        outputs = observed.outputs.copy()
        outputs[1, 0, 2] = value
        assert isinstance(judge(case, replace(observed, outputs=outputs), ()), Diverges)


def test_a_lost_denominator_is_inconclusive_and_no_divergence() -> None:
    """0/0 of two gates that float16 cannot hold shows nothing; a wrong state elsewhere still diverges."""
    for seed in range(20):
        case = case_of("minlstm", seed, "float16", scale=20.0, shape=GENERIC)
        with np.errstate(invalid="ignore"):
            observed = correct(case)
        if not np.isnan(observed.outputs).any():
            continue
        assert isinstance(judge(case, observed, ()), Inconclusive)
        right = np.argwhere(
            np.isfinite(observed.outputs[:, 0]) & (compare(case, observed).parts["outputs"].bound[0] < 1)
        )
        outputs = observed.outputs.copy()
        outputs[right[0][0], 0, right[0][1]] += 8.0
        assert isinstance(judge(case, replace(observed, outputs=outputs), ()), Diverges)
        return
    pytest.fail("no case lost its denominator")


@pytest.mark.parametrize(
    ("cell", "features"),
    [(cell, features) for cell in CATALOGUE for features in ((), ("lengths",))]
    + [(cell, ("bidirectional", "layers", "lengths")) for cell in ("gru", "lstm", "elman", "minlstm")],
)
def test_hypotheses_tried_together_fit_as_each_does_alone(cell: str, features: tuple[str, ...]) -> None:
    """Of every fault the same share of the same bound, whatever is observed of the memory."""
    size = Shape(batch=2, time=3, features=2, hidden=3) if "layers" in features else SMALL
    signature = Signature(shape=size, batched=True, seed=4, scale=0.8, decimals=12, fills=())
    dtype = "float32" if features else "bfloat16"
    case = build(signature, cell=cell, dtype=dtype, initial="given", features=features, padding="free")
    faults = tuple(catalogue(cell).values())
    observed = planted(case, next(fault for fault in faults if fault.parameters is not None))
    for shown in {True: replace(observed, cells=None, final_cell=None), observed.cells is None: observed}.values():
        found = _fit_alike(case, shown, faults)
        assert any(fit.explains for fit in found.values())
        assert len({fit.worst for fit in found.values()}) > 10


@pytest.mark.parametrize(
    ("cell", "features"),
    [*((cell, ()) for cell in CATALOGUE), ("elman", ("lengths", "layers")), ("gru", ("bidirectional",))],
)
def test_pairs_tried_together_fit_as_each_does_alone(cell: str, features: tuple[str, ...]) -> None:
    """Those that share a fault of anything but parameters are evaluated at once, whatever that changes."""
    size = Shape(batch=2, time=3, features=2, hidden=3)
    signature = Signature(shape=size, batched=True, seed=4, scale=0.8, decimals=12, fills=())
    case = build(signature, cell=cell, dtype="float32", initial="given", features=features)
    faults = catalogue(cell).values()
    misread = [fault for fault in faults if fault.parameters is not None]
    chosen = misread[:: len(misread) // 3]
    observed = planted(case, chosen[0])
    together = (compose(one, other, cell_named(cell).equations) for one in faults for other in chosen)
    pairs = {pair.name: pair for pair in together if pair is not None and pair.arithmetic is None}
    assert any(pair.variation != chosen[0].variation for pair in pairs.values())
    _fit_alike(case, observed, tuple(pairs.values()), fits_of_many)


def _fit_alike(
    case: Case, observed: Observed, faults: Sequence[Fault], by: Callable[..., dict[str, Fit]] = fits
) -> dict[str, Fit]:
    found = by(case, observed, faults)
    assert list(found) == [fault.name for fault in faults]
    for fault in faults:
        alone = compare(case, observed, fault)
        assert (found[fault.name].explains, found[fault.name].bounded) == (alone.explains, alone.bounded), fault.name
        assert found[fault.name].worst == pytest.approx(alone.worst, rel=1e-9), fault.name
    return found


@pytest.mark.parametrize("way", ["complement", "scan", "overflow"])
def test_hypotheses_fit_alike_in_the_other_convention_in_scans_and_past_an_overflow(way: str) -> None:
    """Where nothing can be evaluated at once, one by one; the answer is the same."""
    cell = {"complement": "gru", "scan": "mingru"}.get(way, "elman_relu")
    case = case_of(cell)
    if way != "overflow":
        case = replace(case, evaluation=way)  # type: ignore[arg-type]
    observed = correct(case)
    if way == "overflow":
        observed = replace(observed, outputs=np.where(observed.outputs > 0.5, np.inf, observed.outputs))
        assert not observed.finite
    _fit_alike(case, observed, tuple(catalogue(cell).values()))


def test_the_shape_of_an_observation_is_checked_before_hypotheses_are_tried() -> None:
    """One that fits no case is refused, not broadcast."""
    case = case_of("gru")
    observed = correct(case)
    for by in (fits, fits_of_many):
        with pytest.raises(ShapeError):
            by(case, replace(observed, outputs=observed.outputs[:, :1]), tuple(catalogue("gru").values()))


@pytest.mark.parametrize("cell", ["gru", "lstm_projection", "elman", "mingru"])
@pytest.mark.parametrize("lengths", [False, True])
def test_what_is_foretold_is_what_each_is_told_alone(cell: str, lengths: bool) -> None:
    """All faults planted in one case: what does not fit is known beforehand, as `fits` finds it, nothing else is."""
    features = ("lengths",) if lengths else ()
    signature = Signature(shape=SMALL, batched=True, seed=4, scale=0.8, decimals=12, fills=())
    case = build(signature, cell=cell, dtype="float32", initial="given", features=features)
    faults = tuple(catalogue(cell).values())
    observed = [planted(case, fault) for fault in faults][::3]
    together = foretold(case, observed, faults)
    assert len(together) == len(observed) > 5
    for one, told in zip(observed, together, strict=True):
        alone = fits(case, one, faults)
        if not one.finite:
            assert told is one
            continue
        assert isinstance(told, Foretold)
        assert set(told.misfits) == {name for name, fit in alone.items() if not fit.explains}
        assert told.misfits
        for name, fit in told.misfits.items():
            assert fit.bounded == alone[name].bounded
            np.testing.assert_allclose(fit.worst, alone[name].worst, rtol=1e-9)


def test_what_is_foretold_is_believed_and_what_is_not_is_compared() -> None:
    """A hypothesis is not compared again; one that fits is, so that a name is never told because of a stack."""
    case = case_of("gru")
    faults = tuple(catalogue("gru").values())
    (told,) = foretold(case, [planted(case, catalogue("gru")["swap_rz"])], faults)
    assert isinstance(told, Foretold)
    assert "swap_rz" not in told.misfits
    wrong = replace(told, misfits={**told.misfits, "update_flip": Fit(worst=7.0, bounded=True)})
    found = fits(case, wrong, faults)
    assert found["update_flip"] == Fit(worst=7.0, bounded=True)
    assert [name for name, fit in found.items() if fit.explains] == ["swap_rz"]
    assert list(found) == [fault.name for fault in faults]
