"""minGRU and minLSTM: the sum they compute, the bounds of their scans, and their faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from conformance.algebra import Bounded, Exact, G, RunningError
from conformance.case import Case, Evaluation, Initial, make_case
from conformance.cells import cell_named
from conformance.cells.precision import PRECISION
from conformance.cells.scan import closed_form, coefficients
from conformance.compare import Observed, compare
from conformance.errors import CaseError
from conformance.faults import catalogue
from conformance.judge import hypotheses, observed_of, planted, sharpest, visible_faults
from conformance.rounding import DTYPES, FORMATS, round_to

CELLS = ("mingru", "mingru_log", "minlstm", "minlstm_log")
POSITIVE = ("mingru_log", "minlstm_log")
HALF = ("float16", "bfloat16")


def case_of(
    cell: str,
    dtype: str,
    *,
    time: int = 12,
    initial: Initial = "given",
    scale: float = 0.8,
    seed: int = 0,
    evaluation: Evaluation = "sequential",
    **rest: Any,
) -> Case:
    generator = np.random.default_rng(seed)
    kind = cell_named(cell)
    return make_case(
        cell=cell,
        dtype=dtype,
        parameters={
            name: generator.normal(size=shape) * scale for name, shape in kind.shapes({"D": 6, "H": 8, "P": 8}).items()
        },
        x=generator.normal(size=(4, time, 6)),
        initial=initial,
        h0=generator.uniform(0.1 if kind.positive else -1, 1, size=(4, 8)),
        evaluation=evaluation,
        origin="generic",
        **rest,
    )


def sums_of(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """a and b (T, B, H) in float64."""
    kind, size = cell_named(case.cell), case.shape
    x = np.swapaxes(case.x, 0, 1).reshape(-1, size.features)
    state = np.zeros((len(x), size.hidden))
    a, b, _ = coefficients(kind, case.parameters, x, state, Exact(), kind.equations)
    return tuple(v.reshape(size.time, size.batch, size.hidden) for v in (a, b))  # type: ignore[return-value]


@pytest.mark.parametrize("initial", ["given", "omitted"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_sequence_is_the_sum_over_its_inputs(cell: str, initial: Initial) -> None:
    """h_t = sum of b_tau prod a_k + h0 prod a_k: the switching reading, term by term."""
    case = case_of(cell, "float64", time=40, initial=initial)
    a, b = sums_of(case)
    assert ((a > 0) & (a < 1)).all()
    expected = np.swapaxes(closed_form(a, b, case.h0), 0, 1)
    outputs = cell_named(cell).run(case).outputs
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_the_sum_of_constant_coefficients_is_a_geometric_series() -> None:
    """With a and b constant, h_t = b (1 - a^(t+1)) / (1 - a) + a^(t+1) h0."""
    a, b, h0 = np.full((9, 1, 1), 0.75), np.full((9, 1, 1), 2.0), np.full((1, 1), 5.0)
    powers = 0.75 ** np.arange(1, 10)
    np.testing.assert_allclose(closed_form(a, b, h0)[:, 0, 0], 8.0 * (1 - powers) + 5.0 * powers, rtol=1e-14)


@given(a=st.floats(-40, 40), d=st.floats(0, 8), s=st.floats(-1, 1))
def test_the_change_of_g_is_bounded(a: float, d: float, s: float) -> None:
    """|g(a + s d) - g(a)| lies within the bound, also across the kink, in 50-digit arithmetic."""
    bounded = RunningError(FORMATS["float64"]).apply(G, Bounded(np.array([a]), np.array([d])))
    with mpmath.workdps(50):
        argument = mpmath.mpf(a) + mpmath.mpf(s) * mpmath.mpf(d)
        moved = argument + 0.5 if argument >= 0 else 1 / (1 + mpmath.exp(-argument))
        assert abs(moved - mpmath.mpf(float(bounded.value[0]))) <= mpmath.mpf(float(bounded.error[0]))


def test_the_bound_of_g_is_sharp_on_both_sides_of_its_kink() -> None:
    """The slope is 1 above, at most 1/4 below, and 1 only for arguments that reach across."""
    a, d = np.array([-3.0, -0.01, -1e-4, 0.0, 2.0]), np.full(5, 1e-3)
    error = RunningError(FORMATS["float64"]).apply(G, Bounded(a, d)).error
    np.testing.assert_allclose(error, [0.04522e-3, 0.25e-3, 1e-3, 1e-3, 1e-3], rtol=2e-3)


Combine = Callable[[np.ndarray, np.ndarray], np.ndarray]


def in_order(values: np.ndarray, combine: Combine) -> np.ndarray:
    result = values.copy()
    for t in range(1, len(values)):
        result[t] = combine(result[t - 1], values[t])
    return result


def doubling(values: np.ndarray, combine: Combine) -> np.ndarray:
    """Hillis and Steele."""
    result, step = values, 1
    while step < len(values):
        result = np.concatenate([result[:step], combine(result[:-step], result[step:])])
        step *= 2
    return result


def odd_even(values: np.ndarray, combine: Combine) -> np.ndarray:
    """The recursion of jax.lax.associative_scan; the tree is that of Blelloch."""
    if len(values) < 2:
        return values
    odd = odd_even(combine(values[:-1:2], values[1::2]), combine)
    result = values.copy()
    result[1::2] = odd
    result[2::2] = combine(odd[: len(values[2::2])], values[2::2])
    return result


def blocks(values: np.ndarray, combine: Combine) -> np.ndarray:
    """Blocks in the order of time, joined in the order of time."""
    result = values.copy()
    for first in range(0, len(values), 16):
        own = in_order(values[first : first + 16], combine)
        result[first : first + 16] = own if first == 0 else combine(np.broadcast_to(result[first - 1], own.shape), own)
    return result


SCANS = (in_order, doubling, odd_even, blocks)


def scan(case: Case, prefix: Callable[[np.ndarray, Combine], np.ndarray]) -> Observed:
    """A prefix scan of (a, b), every operation rounded; the initial state is its first element."""

    def r(values: np.ndarray) -> np.ndarray:
        return round_to(case.dtype, values)

    def linear(gate: str) -> np.ndarray:
        return r(np.swapaxes(case.x, 0, 1) @ case.parameters[f"W_{gate}"].T + case.parameters[f"b_{gate}"])

    def sigmoid(k: np.ndarray) -> np.ndarray:
        return r(1 / (1 + np.exp(-k)))

    n = linear("n")
    if case.cell in POSITIVE:
        n = np.where(n >= 0, r(n + 0.5), sigmoid(n))
    if case.cell.startswith("mingru"):
        a, b = sigmoid(-linear("z")), r(sigmoid(linear("z")) * n)
    else:
        f, i = sigmoid(linear("f")), sigmoid(linear("i"))
        a, b = r(f / r(f + i)), r(r(i / r(f + i)) * n)
    pairs = np.stack([np.concatenate([np.zeros_like(a[:1]), a]), np.concatenate([case.h0[None], b])], axis=-1)

    def combine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        product = r(right[..., 0] * left[..., 0])
        return np.stack([product, r(r(right[..., 0] * left[..., 1]) + right[..., 1])], axis=-1)

    return _observed(prefix(pairs, combine)[1:, ..., 1])


def log_scan(case: Case, prefix: Callable[[np.ndarray, Combine], np.ndarray]) -> Observed:
    """exp(A + logcumsumexp(log b - A)), A = cumsum(log a), every operation rounded, as in appendix B of the paper."""

    def r(values: np.ndarray) -> np.ndarray:
        return round_to(case.dtype, values)

    def linear(gate: str) -> np.ndarray:
        return r(np.swapaxes(case.x, 0, 1) @ case.parameters[f"W_{gate}"].T + case.parameters[f"b_{gate}"])

    def softplus(k: np.ndarray) -> np.ndarray:
        return r(np.logaddexp(0.0, k))

    def together(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        high, low = np.maximum(left, right), np.minimum(left, right)
        gap = r(np.subtract(low, high, out=np.full_like(low, -np.inf), where=np.isfinite(low)))
        return r(high + r(np.log1p(r(np.exp(gap)))))

    k = linear("n")
    log_n = np.where(k >= 0, r(np.log(r(np.maximum(k, 0) + 0.5))), -softplus(-k))
    gap = linear("z") if case.cell.startswith("mingru") else r(softplus(-linear("f")) - softplus(-linear("i")))
    log_h0 = np.log(case.h0, out=np.full_like(case.h0, -np.inf), where=case.h0 > 0)
    log_b = np.concatenate([r(log_h0)[None], r(r(-softplus(-gap)) + log_n)])
    decay = prefix(np.concatenate([np.zeros_like(gap[:1]), -softplus(gap)]), lambda p, q: r(p + q))
    sums = prefix(r(log_b - decay), together)
    return _observed(r(np.exp(r(decay + sums)))[1:])


def _observed(states: np.ndarray) -> Observed:
    return Observed(outputs=np.swapaxes(states, 0, 1), final_state=states[-1])


SCANNED = [
    (cell, dtype, prefix)
    for i, cell in enumerate(CELLS)
    for j, prefix in enumerate(SCANS)
    for dtype in ("float32", ("float64", *HALF)[(i + j) % 3])
]


@pytest.mark.parametrize(("cell", "dtype", "prefix"), SCANNED)
def test_scans_in_any_association_lie_within_their_bound(
    cell: str, dtype: str, prefix: Callable[[np.ndarray, Combine], np.ndarray]
) -> None:
    """Short and long, from tiny to large weights: no false alarm."""
    for seed, (time, scale) in enumerate([(1, 0.8), (2, 2.5), (12, 1e-3), (12, 0.8), (65, 2.5), (512, 0.8)]):
        case = case_of(cell, dtype, time=time, scale=scale, seed=seed, initial=("given", "omitted")[seed % 2])
        found = compare(replace(case, evaluation="scan"), scan(case, prefix))
        # In float16 a minLSTM may lose f + i altogether: no bound from there on.
        assert found.bounded or (cell.startswith("minlstm") and dtype == "float16" and scale > 1.0)
        assert found.worst <= 1.0
        if cell in POSITIVE:
            assert compare(replace(case, evaluation="log-scan"), log_scan(case, prefix)).worst <= 1.0


@pytest.mark.parametrize("evaluation", ["scan", "log-scan"])
def test_a_long_scan_is_still_judged_tightly(evaluation: Evaluation) -> None:
    """At T = 512 the float32 bound is some 1e-5 of the states in a scan, and some 1e-3 with logarithms."""
    case = case_of("mingru_log", "float32", time=512, evaluation=evaluation)
    outputs = compare(case, observed_of(cell_named(case.cell).run(case))).parts["outputs"]
    assert np.median(outputs.bound / outputs.predicted) < {"scan": 1e-5, "log-scan": 3e-3}[evaluation]


SITUATIONS: list[tuple[str, str, Initial]] = [
    each
    for i, cell in enumerate(CELLS)
    for each in (
        (cell, "float32", ("given", "omitted")[i % 2]),
        (cell, HALF[i % 2], ("omitted", "given")[i % 2]),
        (cell, "float64", "given"),
    )
]


@pytest.mark.parametrize(("cell", "dtype", "initial"), SITUATIONS)
def test_every_visible_fault_is_caught_named_and_excluded(cell: str, dtype: str, initial: Initial) -> None:
    """Each planted fault diverges and is explained by its own name, and by that only; in float64 those of precision."""
    case = case_of(cell, dtype, initial=initial)
    right = observed_of(cell_named(cell).run(case))
    assert compare(case, right).worst <= 1.0
    names = visible_faults(cell, initial, dtype=dtype)
    if dtype == "float64":
        names = names & set(PRECISION)
        assert names
    for name in names:
        fault = catalogue(cell)[name]
        observed = planted(case, fault)
        assert not compare(case, observed).explains, name
        shares = hypotheses(case, observed)
        assert sharpest(other for other, share in shares.items() if share <= 1.0) == (name,)
        assert fault.arithmetic is not None or not compare(case, right, fault).explains, name


def equations_only(cell: str) -> list[str]:
    """Visible faults but those of precision, which may lie within the bound of another association."""
    faults = catalogue(cell)
    return sorted(name for name in visible_faults(cell, "given") if faults[name].arithmetic is None)


@pytest.mark.parametrize(
    ("cell", "dtype"), [(cell, dtype) for i, cell in enumerate(CELLS) for dtype in ("float32", HALF[i % 2])]
)
def test_every_visible_fault_is_caught_in_a_scan(cell: str, dtype: str) -> None:
    """The bound of the whole sequence catches what that of a step does, and the fault explains itself."""
    case = case_of(cell, dtype, evaluation="scan")
    right = observed_of(cell_named(cell).run(case))
    for name in equations_only(cell):
        fault = catalogue(cell)[name]
        observed = planted(case, fault)
        assert not compare(case, observed).explains, name
        assert not compare(case, right, fault).explains, name
        assert compare(case, observed, fault).explains, name


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("cell", POSITIVE)
def test_every_visible_fault_is_caught_with_logarithms(cell: str, dtype: str) -> None:
    """A mutant whose terms may be negative has no logarithms: it predicts nothing, and does not explain itself."""
    case = case_of(cell, dtype, evaluation="log-scan")
    for name in equations_only(cell):
        fault = catalogue(cell)[name]
        observed = planted(case, fault)
        assert not compare(case, observed).explains, name
        assert compare(case, observed, fault).explains or name in ("no_g", "tanh_new", "gate_tanh"), name


@pytest.mark.parametrize("cell", CELLS)
def test_faults_of_a_long_scan_are_caught_and_excluded(cell: str) -> None:
    """At T = 512 in float32 no fault hides in the bound, and none explains a correct sequence by a vast one.

    Each fault is planted in one of the cells that have it, in turn.
    """
    case = case_of(cell, "float32", time=512, evaluation="scan")
    right = observed_of(cell_named(cell).run(case))
    every = {each: equations_only(each) for each in CELLS}
    owners = {name: [each for each in CELLS if name in every[each]] for name in sorted({*chain(*every.values())})}
    mine = [name for i, (name, cells) in enumerate(owners.items()) if cells[i % len(cells)] == cell]
    assert mine
    for name in mine:
        fault = catalogue(cell)[name]
        assert not compare(case, planted(case, fault)).explains, name
        assert not compare(case, right, fault).explains, name


@pytest.mark.parametrize("evaluation", ["sequential", "scan", "log-scan"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_an_error_of_three_bounds_is_caught_where_it_is(cell: str, dtype: str, evaluation: Evaluation) -> None:
    """One element three bounds off is outside, and in a scan it is the only one."""
    if evaluation == "log-scan" and cell not in POSITIVE:
        pytest.skip("has no logarithms")
    case = case_of(cell, dtype, evaluation=evaluation)
    right = observed_of(cell_named(cell).run(case))
    outputs = right.outputs.copy()
    outputs[2, 7, 3] += 3.0 * compare(case, right).parts["outputs"].bound[7, 2, 3]
    share = compare(case, Observed(outputs=outputs, final_state=right.final_state)).parts["outputs"].share
    assert share[7, 2, 3] > 1.0
    assert evaluation == "sequential" or (share > 1.0).sum() == 1


def test_a_wrong_final_state_of_a_scan_is_caught() -> None:
    """The final state is compared, too."""
    case = case_of("mingru", "float32", evaluation="scan")
    right = observed_of(cell_named("mingru").run(case))
    found = compare(case, Observed(outputs=right.outputs, final_state=right.outputs[:, -2]))
    assert found.parts["outputs"].share.max() <= 1.0
    assert found.parts["final_state"].share.max() > 1.0


def test_a_scan_may_run_backwards() -> None:
    """A reversed case is the scan of the reversed inputs."""
    case = case_of("minlstm", "float32", evaluation="scan", reverse=True)
    flipped = scan(replace(case, x=case.x[:, ::-1], reverse=False), odd_even)
    observed = Observed(outputs=flipped.outputs[:, ::-1], final_state=flipped.final_state)
    assert compare(case, observed).worst <= 1.0
    assert not compare(replace(case, reverse=False), observed).explains


def test_saturated_gates_keep_their_logarithms() -> None:
    """1 - z is zero in float64 for a pre-activation of 60; the sum of logarithms and its bound are finite."""
    case = case_of("mingru_log", "float32", evaluation="log-scan")
    case = replace(case, parameters={**case.parameters, "b_z": np.full(8, 60.0)})
    found = compare(case, log_scan(case, doubling))
    assert found.bounded
    assert found.worst <= 1.0


@pytest.mark.parametrize("cell", POSITIVE)
def test_a_negative_initial_state_has_no_logarithm(cell: str) -> None:
    """With logarithms it is refused before anything is computed; zero is not."""
    case = case_of(cell, "float32", evaluation="log-scan")
    with pytest.raises(CaseError, match="undefined for an initial state that is negative"):
        cell_named(cell).run(replace(case, h0=-case.h0))
    cell_named(cell).run(replace(case, h0=0.0 * case.h0))


@pytest.mark.parametrize("evaluation", ["sequential", "scan"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_negative_initial_state_is_like_any_other(cell: str, evaluation: Evaluation) -> None:
    """Without logarithms it is judged within a finite bound, and its faults are caught."""
    case = case_of(cell, "float32", evaluation=evaluation)
    case = replace(case, h0=-np.abs(case.h0))
    found = compare(case, scan(case, odd_even) if evaluation == "scan" else observed_of(cell_named(cell).run(case)))
    assert found.bounded
    assert found.worst <= 1.0
    assert not compare(case, planted(case, catalogue(cell)["h0_ignored"])).explains


@pytest.mark.parametrize("evaluation", ["sequential", "scan", "log-scan"])
@pytest.mark.parametrize("cell", POSITIVE)
def test_a_state_through_g_is_named(cell: str, evaluation: Evaluation) -> None:
    """log g(h0) in place of log h0, as the paper's listing has it, and only when a state is passed."""
    for initial in ("given", "zeros"):
        case = case_of(cell, "float32", evaluation=evaluation, initial=initial)
        wrong = round_to("float32", np.where(case.h0 >= 0, case.h0 + 0.5, 0.0))
        through = replace(case, initial="given", h0=wrong)
        run = scan if evaluation == "scan" else log_scan
        faulty = catalogue(cell)["h0_through_g"]
        observed = planted(case, faulty) if evaluation == "sequential" else run(through, doubling)
        assert not compare(case, observed).explains
        shares = hypotheses(case, observed)
        assert sharpest(name for name, share in shares.items() if share <= 1.0) == ("h0_through_g",)
    assert "h0_through_g" not in visible_faults(cell, "omitted")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_scan_in_the_opposite_order_is_named(cell: str, dtype: str) -> None:
    """The operator of a scan is associative and not commutative; the mistake is named in scans, long ones as well."""

    def spoilt(prefix: Callable[[np.ndarray, Combine], np.ndarray]) -> Callable[[np.ndarray, Combine], np.ndarray]:
        def run(pairs: np.ndarray, combine: Combine) -> np.ndarray:
            # The initial state goes into the first step, in the right order; that keeps its a.
            first = np.stack([pairs[1:2, ..., 0], combine(pairs[:1], pairs[1:2])[..., 1]], axis=-1)
            own = prefix(np.concatenate([first, pairs[2:]]), lambda left, right: combine(right, left))
            return np.concatenate([pairs[:1], own])

        return run

    opposite = catalogue(cell)["scan_opposite"]
    for time in (12, 200):
        case = case_of(cell, dtype, time=time, evaluation="scan")
        observed = scan(case, spoilt(doubling))
        assert not compare(case, observed).explains
        assert compare(case, observed, opposite).explains
        assert not compare(case, scan(case, doubling), opposite).explains
    if dtype == "float32":
        case = case_of(cell, dtype, evaluation="scan")
        shares = hypotheses(case, scan(case, spoilt(doubling)))
        assert sharpest(name for name, share in shares.items() if share <= 1.0) == ("scan_opposite",)
    assert "scan_opposite" not in visible_faults(cell, "given")


@pytest.mark.parametrize("cell", POSITIVE)
def test_a_scan_in_two_calls_lies_within_its_bound(cell: str) -> None:
    """The second call starts from a rounded number: the bound says where, and is hardly wider."""
    for seed, time in enumerate((12, 64, 512)):
        for evaluation, run in (("scan", scan), ("log-scan", log_scan)):
            case = case_of(cell, "float32", time=time, seed=seed, evaluation=evaluation)
            first = run(replace(case, x=case.x[:, : time // 2]), doubling)
            second = run(replace(case, x=case.x[:, time // 2 :], h0=first.final_state), doubling)
            outputs = np.concatenate([first.outputs, second.outputs], axis=1)
            joined = Observed(outputs=outputs, final_state=second.final_state)
            found, whole = compare(case, joined, cut=time // 2), compare(case, joined)
            assert found.bounded
            assert found.worst <= 1.0
            assert np.median(found.parts["outputs"].bound / whole.parts["outputs"].bound) < 2.0
            outputs[:, time // 2 :] = run(replace(case, x=case.x[:, time // 2 :]), doubling).outputs
            assert not compare(case, Observed(outputs=outputs, final_state=outputs[:, -1]), cut=time // 2).explains


@pytest.mark.parametrize(
    ("cell", "changes", "message"),
    [
        ("mingru", {"evaluation": "log-scan"}, "no logarithms"),
        ("gru", {"evaluation": "scan"}, "not a linear recurrence"),
        ("minlstm", {"evaluation": "scan", "lengths": (12, 12, 5, 12)}, "rows of one length"),
    ],
)
def test_what_has_no_scan_is_refused(cell: str, changes: dict[str, Any], message: str) -> None:
    """A scan of a gated cell, logarithms of signed states, and rows of several lengths."""
    case = replace(case_of(cell, "float32"), **changes)
    with pytest.raises(CaseError, match=message):
        compare(case, observed_of(cell_named(cell).run(case)))


def test_equal_lengths_are_no_obstacle() -> None:
    """Lengths that all equal T are those of a plain case."""
    case = case_of("minlstm", "float32", evaluation="scan", lengths=(12,) * 4)
    assert compare(case, scan(case, blocks)).worst <= 1.0


@pytest.mark.parametrize(("cell", "count"), [("mingru", 43), ("mingru_log", 46), ("minlstm", 47), ("minlstm_log", 50)])
def test_the_catalogues_have_every_hypothesis(cell: str, count: int) -> None:
    """Names are unique, and every fault tells its right and its wrong equation."""
    faults = catalogue(cell)
    assert len(faults) == count
    assert all(fault.statement and fault.right and fault.equation != fault.right for fault in faults.values())


def test_the_number_of_additions_in_a_tree() -> None:
    """No term of an odd-even recursion passes more than 2 floor(log2 n) additions, which the bound relies on."""
    for n in range(1, 70):
        depths = odd_even(np.zeros(n), lambda left, right: np.maximum(left, right) + 1.0)
        assert depths.max() <= 2 * math.floor(math.log2(n))
