"""Accuracy: how far the ways of computing a minGRU or minLSTM are from the exact states, as sequences get longer.

Where a scan with logarithms loses its digits: it computes ``h_t = exp(A_t + logcumsumexp(log b - A)_t)`` with
``A = cumsum(log a)``. A gate that keeps a fraction a of the state adds log a to A in every step, so |A_t| grows like t
times the mean of |log a|. A floating-point number as large as |A| is off by up to u |A|, and the exponents A_t - A_tau
of the terms that matter are small differences of two such numbers: their leading digits cancel, their errors stay, and
an absolute error of an exponent is a relative error of the state. So the loss is about u |A_T|, proportional to T. A
scan of (a, b) and the recurrence itself multiply numbers of at most one: their errors are forgotten as fast as the
state is.

Everything is measured in units of u (half the spacing of numbers next to one), relative to the exact state, and beside
the bound that the judgement would use. The exact states come from decimal arithmetic of 40 digits, since float64 is
itself under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from typing import Final, Literal, TypeAlias

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from conformance.case import Case, make_case
from conformance.cells import cell_named
from conformance.compare import Observed, compare
from conformance.errors import SpecError
from conformance.host import Host
from conformance.plan import Candidate, interpreter_of
from conformance.rounding import Array, format_of
from conformance.verdict import Broken

TIMES: Final = (16, 64, 256, 1024, 4096)
DTYPES: Final = ("float32", "float64")
CELLS: Final = ("mingru_log", "minlstm_log")
DIGITS: Final = 40
_NEGATIVE_TIME: Final = 16


class Measured(Struct, frozen=True, kw_only=True, tag="measured"):
    """The largest error of a state relative to it, in units of u, and the largest share of the bound.

    From a negative state, which passes through zero on its way, relative to the largest state of its unit.
    """

    error: float
    share: float


class Undefined(Struct, frozen=True, kw_only=True, tag="undefined"):
    """What came out where the evaluation is undefined, or where nothing came out; in words."""

    what: str


Outcome: TypeAlias = Measured | Undefined


class Row(Struct, frozen=True, kw_only=True):
    """One candidate at one length. state: of the case, "positive" or "negative" at the beginning."""

    candidate: str
    evaluation: str
    cell: str
    dtype: str
    time: int
    state: Literal["positive", "negative"]
    outcome: Outcome


def accuracy(
    candidates: Sequence[Candidate],
    cell: str,
    *,
    times: Sequence[int] = TIMES,
    dtypes: Sequence[str] = DTYPES,
    progress: Callable[[str], None],
) -> Iterator[Row]:
    """Measure every candidate, in every dtype that it offers, at every length, and from a negative state.

    Raises
    ------
    SpecError: a candidate does not offer the cell, or none of the dtypes.
    """
    longest = {dtype: _case(cell, dtype, max(times)) for dtype in dtypes}
    exact = {dtype: exact_states(case) for dtype, case in longest.items()}
    for candidate in candidates:
        variant = candidate.variant
        offered = [dtype for dtype in dtypes if dtype in variant.dtypes]
        if cell not in variant.cells or not offered:
            raise SpecError("nothing to measure", where=candidate.name, got=f"{cell} in {' or '.join(dtypes)}")
        progress(f"{candidate.name} ...")
        with Host(
            candidate.adapter,
            variant,
            interpreter_of(candidate, progress),
            incident=lambda _: None,  # the row's own outcome says it
            ready=lambda version, facts: None,  # noqa: ARG005 (the callback's signature)
        ) as host:
            for dtype in offered:
                whole = replace(longest[dtype], evaluation=variant.evaluation)
                for time in sorted(times):
                    case = replace(whole, x=whole.x[:, :time])
                    yield _row(candidate, case, "positive", _positive(host, case, exact[dtype][:time]))
                below = replace(whole, x=whole.x[:, :_NEGATIVE_TIME], h0=-whole.h0)
                yield _row(candidate, below, "negative", _negative(host, below))


def _row(candidate: Candidate, case: Case, state: Literal["positive", "negative"], outcome: Outcome) -> Row:
    return Row(
        candidate=candidate.name,
        evaluation=case.evaluation,
        cell=case.cell,
        dtype=case.dtype,
        time=case.shape.time,
        state=state,
        outcome=outcome,
    )


def _case(cell: str, dtype: str, time: int) -> Case:
    """One row of a generic sequence; a shorter one is its beginning. Gates keep about half of the state."""
    generator = np.random.default_rng(241001201)
    shapes = cell_named(cell).shapes({"D": 3, "H": 4, "P": 4})
    parameters = {name: generator.normal(size=shape) for name, shape in shapes.items()}
    h0 = generator.uniform(0.25, 1.0, size=(1, 4))
    x = np.concatenate([generator.normal(size=(1, 1, 3)) for _ in range(max(time, _NEGATIVE_TIME))], axis=1)
    return make_case(
        cell=cell, dtype=dtype, parameters=parameters, x=x, initial="given", h0=h0, origin=f"accuracy, T = {time}"
    )


def exact_states(case: Case) -> Array:
    """The states (T, B, H) of a mingru_log or minlstm_log case, each rounded once from `DIGITS` decimal digits."""
    size = case.shape
    states = np.empty((size.time, size.batch, size.hidden))
    with localcontext() as context:
        context.prec = DIGITS
        p = {name: value.tolist() for name, value in case.parameters.items()}
        one, half = Decimal(1), Decimal("0.5")

        def linear(gate: str, unit: int, x: list[Decimal]) -> Decimal:
            terms = (Decimal(w) * value for w, value in zip(p[f"W_{gate}"][unit], x, strict=True))
            return sum(terms, Decimal(p[f"b_{gate}"][unit]))

        def sigmoid(a: Decimal) -> Decimal:
            return one / (one + (-a).exp())

        def share(unit: int, x: list[Decimal]) -> Decimal:
            if case.cell == "mingru_log":
                return sigmoid(linear("z", unit, x))
            f, i = sigmoid(linear("f", unit, x)), sigmoid(linear("i", unit, x))
            return i / (f + i)

        for row in range(size.batch):
            h = [Decimal(float(value)) for value in case.h0[row]]
            for t in range(size.time):
                x = [Decimal(float(value)) for value in case.x[row, t]]
                for unit in range(size.hidden):
                    k, z = linear("n", unit, x), share(unit, x)
                    h[unit] = (one - z) * h[unit] + z * (k + half if k >= 0 else sigmoid(k))
                states[t, row] = [float(value) for value in h]
    return states


def _positive(host: Host, case: Case, exact: Array) -> Outcome:
    answer = host.observe(case)
    if isinstance(answer, Broken):
        return Undefined(what=f"{answer.kind}: {answer.message}")
    return _measured(case, answer.observed, exact)


def _negative(host: Host, case: Case) -> Outcome:
    """From a negative state; where logarithms are taken no number is right, and what happens is told in words."""
    answer = host.observe(case)
    if isinstance(answer, Broken):
        return Undefined(what=f"{answer.kind}: {answer.message.strip().splitlines()[-1]}")
    exact = exact_states(case)
    if case.evaluation != "log-scan":
        return _measured(case, answer.observed, exact)
    states = np.swapaxes(answer.observed.outputs, 0, 1)
    lost = int(np.isnan(states).sum())
    if lost:
        return Undefined(what=f"NaN in {lost} of {states.size} states")
    return Undefined(what=f"numbers that are off by up to {np.abs(states - exact).max():.2g}")


def _measured(case: Case, observed: Observed, exact: Array) -> Outcome:
    if not observed.finite:
        return Undefined(what="states that are not finite")
    states = np.swapaxes(observed.outputs, 0, 1)
    size = np.abs(exact) if np.all(case.h0 > 0) else np.abs(exact).max(axis=0)
    error = float((np.abs(states - exact) / size).max()) / format_of(case.dtype).storage
    return Measured(error=error, share=compare(case, observed).worst)
