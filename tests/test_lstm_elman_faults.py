"""LSTM and simple recurrent networks: every visible fault is caught and named, no correct implementation is accused.

A framework returns all memories of an LSTM, only the last ones, or none at all; each is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.algebra import Rounded
from conformance.case import INITIALS, Case, Initial, make_case
from conformance.cells import cell_named
from conformance.cells.fault import Fault
from conformance.compare import Comparison, Observed, compare
from conformance.faults import catalogue
from conformance.judge import judge, observed_of, planted, probe, sharpest, visible_faults
from conformance.rounding import DTYPES, format_of, round_to
from conformance.verdict import Agrees, Diverges

LSTMS = ("lstm", "lstm_peephole", "lstm_projection")
ELMANS = ("elman", "elman_relu")
CELLS = LSTMS + ELMANS
FEATURES: tuple[tuple[str, ...], ...] = (
    ("lengths",),
    ("reverse",),
    ("lengths", "reverse"),
    ("bidirectional",),
    ("lengths", "bidirectional", "layers"),
)


STEPS = 6


@cache
def generic(cell: str, dtype: str, initial: Initial, features: tuple[str, ...] = ()) -> Case:
    """The first steps of the probe on which visibility is decided, in another dtype."""
    case = probe(cell, initial, features=features)
    return make_case(
        cell=cell,
        dtype=dtype,
        parameters=case.parameters,
        x=case.x[:, :STEPS],
        initial=initial,
        h0=case.h0,
        c0=case.c0,
        lengths=None if case.lengths is None else tuple(min(length, STEPS) for length in case.lengths),
        reverse=case.reverse,
        layers=case.layers,
        directions=case.directions,
        origin="probe",
    )


def drawn(cell: str, dtype: str, *, time: int, scale: float, seed: int, memory: float = 1.0) -> Case:
    """A random case with parameters of some size; memory: the largest initial c."""
    generator = np.random.default_rng(seed)
    kind = cell_named(cell)
    output = 3 if kind.projected else 7
    shapes = kind.shapes({"D": 5, "H": 7, "P": output})
    return make_case(
        cell=cell,
        dtype=dtype,
        parameters={name: generator.normal(size=shape) * scale for name, shape in shapes.items()},
        x=generator.normal(size=(2, time, 5)),
        initial="given",
        h0=generator.uniform(-1, 1, size=(2, output)),
        c0=generator.uniform(-memory, memory, size=(2, 7)) if kind.carry is not None else None,
        origin=f"seed {seed}",
    )


def emulated(case: Case) -> Observed:
    """The equations as they stand, rounded after every operation."""
    return observed_of(cell_named(case.cell).run(case, ops=Rounded(format_of(case.dtype))))


def fused(case: Case) -> Observed:
    """Another way to compute the same: one product for [x; h] and all gates, biases folded, few intermediate roundings.

    Plain NumPy in float32 (float64 for float64 cases); the states alone are rounded to a 16-bit dtype.
    """
    container = np.float64 if case.dtype == "float64" else np.float32

    def stored(values: np.ndarray) -> np.ndarray:
        return round_to(case.dtype, values.astype(np.float64)).astype(container)

    def sigmoid(a: np.ndarray) -> np.ndarray:
        return np.where(a >= 0, 1, np.exp(-np.abs(a))) / (1 + np.exp(-np.abs(a)))

    p = {name: values.astype(container) for name, values in case.parameters.items()}
    gates = "ogif" if case.c0 is not None else ("",)
    product = np.concatenate(
        [np.concatenate([p[f"W_h{gate}"] for gate in gates]), np.concatenate([p[f"W_x{gate}"] for gate in gates])],
        axis=1,
    ).T
    bias = stored(np.concatenate([p[f"b_h{gate}"] + p[f"b_x{gate}"] for gate in gates]))
    h, c = case.h0.astype(container), None if case.c0 is None else case.c0.astype(container)
    outputs, cells = [], []
    for x in np.swapaxes(case.x.astype(container), 0, 1):
        sums = bias + np.concatenate([h, x], axis=1) @ product
        if c is None:
            h = stored(np.tanh(sums) if case.cell == "elman" else np.maximum(sums, 0))
        else:
            o, g, i, f = np.split(sums, 4, axis=1)
            peepholes = "w_co" in p
            if peepholes:
                i, f = p["w_ci"] * c + i, p["w_cf"] * c + f
            c = stored((sigmoid(i) * np.tanh(g)) + c * sigmoid(f))
            h = np.tanh(c) * sigmoid(p["w_co"] * c + o if peepholes else o)
            h = stored(h @ p["W_p"].T if "W_p" in p else h)
            cells.append(c.astype(np.float64))
        outputs.append(h.astype(np.float64))
    sequence = np.stack(outputs, axis=1)
    memories = np.stack(cells, axis=1) if cells else None
    return Observed(
        outputs=sequence,
        final_state=sequence[:, -1],
        cells=memories,
        final_cell=None if memories is None else memories[:, -1],
    )


def views(observed: Observed) -> dict[str, Observed]:
    """The same computation as frameworks show it: with all memories, with the last ones, without any."""
    if observed.cells is None:
        return {"no memory": observed}
    last = replace(observed, cells=None)
    return {"all memories": observed, "last memory": last, "hidden memory": replace(last, final_cell=None)}


def compared(case: Case, observed: Observed, fault: Fault | None = None) -> dict[str, Comparison]:
    """The comparison of each view. Without any memory it is that with the last one, but for this one array."""
    shown = views(observed)
    hidden = shown.pop("hidden memory", None)
    found = {view: compare(case, one, fault) for view, one in shown.items()}
    if hidden is not None:
        last = found["last memory"]
        assert last.parts.keys() - hidden.arrays().keys() == {"final_cell"}
        found["hidden memory"] = replace(last, parts={name: last.parts[name] for name in hidden.arrays()})
    return found


IMPLEMENTATIONS: tuple[Callable[[Case], Observed], ...] = (emulated, fused)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("dtype", "initial"), [(dtype, INITIALS[(i + j) % 3]) for i, dtype in enumerate(DTYPES) for j in range(2)]
)
@pytest.mark.parametrize("cell", CELLS)
def test_correct_implementations_lie_inside_the_bound(
    cell: str, dtype: str, initial: Initial, implementation: Callable[[Case], Observed]
) -> None:
    """Two evaluation orders of the same equations agree, whatever is returned of the memory."""
    case = generic(cell, dtype, initial)
    for view, comparison in compared(case, implementation(case)).items():
        assert comparison.bounded, view
        assert comparison.worst <= 1.0, view


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_no_false_alarm_where_it_is_hard(cell: str, dtype: str, implementation: Callable[[Case], Observed]) -> None:
    """Saturated gates, a large memory, and 128 steps through which a hidden memory is carried."""
    largest = 0.35 if cell == "elman_relu" else 6.0  # relu does not saturate: larger weights overflow
    for case in (
        drawn(cell, dtype, time=12, scale=largest, seed=1, memory=30.0),
        drawn(cell, dtype, time=128, scale=0.3, seed=2),
        drawn(cell, dtype, time=128, scale=min(largest, 2.0), seed=3, memory=10.0),
    ):
        observed = implementation(case)
        assert observed.finite
        for view, comparison in compared(case, observed).items():
            assert comparison.worst <= 1.0, (case.shape, view)


# What lengths or directions alone make visible is visible in their combinations, too.
FEATURED = [(cell, each) for cell in CELLS for each in FEATURES if cell in ("lstm", "elman") or "lengths" in each[:-1]]


@pytest.mark.parametrize(("cell", "features"), FEATURED, ids=str)
def test_features_raise_no_false_alarm_and_hide_no_fault(cell: str, features: tuple[str, ...]) -> None:
    """Lengths, reversal, directions and layers, with the memory hidden: the faults of time and state are caught."""
    case = generic(cell, "float32", "given", features)
    assert all(comparison.worst <= 1.0 for comparison in compared(case, emulated(case)).values())
    plain = visible_faults(cell, "given", dtype="float32")
    new = visible_faults(cell, "given", features=features, dtype="float32") - plain
    assert bool(new) == (features != ("reverse",))
    for name in new | {"swap_if", "Wh_transposed", "h0_ignored"} & plain:
        for view, (reference, own) in _residuals(case, name).items():
            assert reference > 1.0, (name, view)
            assert own <= 1.0, (name, view)


HALF = ("float16", "bfloat16")
SITUATIONS: list[tuple[str, str, Initial]] = [
    each
    for i, cell in enumerate(CELLS)
    for each in (
        (cell, "float32", "given"),
        (cell, HALF[i % 2], "given"),
        (cell, HALF[1 - i % 2], "omitted"),
        (cell, "float64", "zeros"),
    )
    # Of the variants of a cell `rnn-conformance faults`, which CI runs, plants the other states.
    if cell in ("lstm", "elman") or each[2] == "given"
]


@pytest.mark.parametrize(("cell", "dtype", "initial"), SITUATIONS)
def test_every_visible_fault_is_caught_and_explained(cell: str, dtype: str, initial: Initial) -> None:
    """A planted fault lies outside the bound of the equations and inside its own, whatever is returned of c.

    A memory that is hidden for several steps of a 16-bit dtype has a wide bound: there another case may catch it.
    """
    narrow = dtype in HALF
    others = [drawn(cell, dtype, time=12, scale=2.0, seed=seed) for seed in (4, 5, 6)]
    for name in visible_faults(cell, initial, dtype=dtype):
        for view, (reference, own) in _residuals(generic(cell, dtype, initial), name).items():
            # A memory without an activation overflows in float16; what it does then is predicted of states only.
            assert own <= 1.0 or (name, dtype) == ("gate_identity", "float16"), (name, view)
            caught = reference > 1.0
            if not caught and narrow and view in ("last memory", "hidden memory"):
                caught = any(_residuals(case, name)[view][0] > 1.0 for case in others)
            assert caught, (name, view)


def _residuals(case: Case, name: str) -> dict[str, tuple[float, float]]:
    """Of every view of a planted fault: the largest shares of the equations' bound, and of the fault's own."""
    fault = catalogue(case.cell)[name]
    observed = planted(case, fault)
    own = compared(case, observed, fault)
    return {view: (reference.worst, own[view].worst) for view, reference in compared(case, observed).items()}


@pytest.mark.parametrize("cell", CELLS)
def test_verdicts_name_the_fault_and_almost_always_that_one_only(cell: str) -> None:
    """With the memory hidden, the verdict of `judge` names every planted fault; nearly all uniquely.

    Of the other LSTMs only what the plain one has not.
    """
    case = drawn(cell, "float32", time=3, scale=0.5, seed=4)
    visible = sorted(visible_faults(cell, "given", dtype="float32"))
    if cell in LSTMS[1:]:
        visible = [name for name in visible if name not in catalogue("lstm")]
    unique = 0
    for name in visible:
        hidden = list(views(planted(case, catalogue(cell)[name])).values())[-1]
        verdict = judge(case, hidden, ())
        assert isinstance(verdict, Diverges), name
        assert name in verdict.faults
        unique += sharpest(verdict.faults) == (name,)
    assert unique >= 0.97 * len(visible)


@pytest.mark.parametrize("cell", ELMANS)
def test_without_an_initial_state_two_faults_of_the_simple_network_are_one(cell: str) -> None:
    """From h = 0, a state that is not carried and recurrent matrices that are not used give the same outputs."""
    case = generic(cell, "float32", "omitted")
    for name in ("no_Wh", "state_not_carried"):
        verdict = judge(case, planted(case, catalogue(cell)[name]), ())
        assert isinstance(verdict, Diverges)
        assert verdict.faults == ("no_Wh", "state_not_carried")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_an_agreement_excludes_every_visible_fault_though_the_memory_is_hidden(cell: str, dtype: str) -> None:
    """What a pass excludes is not less where the framework does not return c."""
    case = generic(cell, dtype, "given")
    hidden = list(views(fused(case)).values())[-1]
    wanted = visible_faults(cell, "given", dtype=dtype)
    verdict = judge(case, hidden, wanted)
    assert isinstance(verdict, Agrees)
    assert verdict.excluded == wanted


@pytest.mark.parametrize("cell", LSTMS)
def test_a_wrong_last_memory_alone_is_caught(cell: str) -> None:
    """Right outputs do not excuse a final c that is that of the step before."""
    case = generic(cell, "float32", "given")
    right = emulated(case)
    assert right.cells is not None
    wrong = replace(right, cells=None, final_cell=right.cells[:, -2])
    comparison = compare(case, wrong)
    assert not comparison.explains
    assert {name for name, part in comparison.parts.items() if (part.share > 1.0).any()} == {"final_cell"}


@pytest.mark.parametrize(("cell", "own"), [("lstm", 54), ("lstm_peephole", 60), ("lstm_projection", 55)])
def test_the_lstm_catalogues_are_complete(cell: str, own: int) -> None:
    """Beside the faults of time, state and precision, which all cells have."""
    common = set(catalogue("gru")) & set(catalogue("elman"))
    assert {"drop_bh", "h0_ignored", "float32_inside"} <= common
    shared = {"drop_bh", "drop_bi", "bi_twice", "bh_twice", "Wh_transposed", "Wx_transposed", "no_Wh"}
    assert len(set(catalogue(cell)) - (common - shared)) == own


@pytest.mark.parametrize("cell", CELLS)
def test_every_fault_states_what_is_wrong(cell: str) -> None:
    """A report prints the statement, the right equation and the wrong one, which differ."""
    for name, fault in catalogue(cell).items():
        assert fault.name == name
        assert fault.statement
        assert fault.right
        assert fault.equation
        assert fault.right != fault.equation
