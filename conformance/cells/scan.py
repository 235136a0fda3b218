"""Linear recurrences: what minGRU and minLSTM compute, read as a sum, and the bound for prefix scans of it.

With gates that do not see the state, a step is ``h_t = a_t * h_{t-1} + b_t`` with coefficients of the input alone, and

    h_t = sum over tau <= t of  b_tau * prod(a_k, tau < k <= t)  +  h_{-1} * prod(a_k, k <= t)

so a sequence may be computed as a prefix scan, in any association, or with logarithms. Then h_t is *not* computed from
the h_{t-1} that is returned, and teacher forcing does not apply: `scanned` predicts the sequence from the inputs, with
a bound that follows every term of the sum. Because the recurrence is elementwise and its a_t are at most one, this
bound does not grow the way that of a free-running GRU would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
from msgspec.structs import replace

from conformance.algebra import Algebra, Bounded, RunningError
from conformance.case import Case, Parameters
from conformance.cells.cell import NO_INPUT, NOTHING, Cell, Trace, Variation, rows_of
from conformance.errors import CaseError
from conformance.rounding import Array, Format

V = TypeVar("V")

LINEAR: Final = frozenset({"mingru", "mingru_log", "minlstm", "minlstm_log"})
"""Cells whose step is linear in the state, with coefficients of the input alone."""

# exp of more is as good as infinite, and must not become one: infinity times zero is no bound.
_LARGEST_EXPONENT: Final = 600.0


def coefficients(cell: Cell[Any], p: Parameters, x: V, state: Array, ops: Algebra[V], eq: Any) -> tuple[V, V, V | None]:
    """``a`` and ``b`` (N, H) of ``h' = a * h + b`` for flattened rows x (N, D); the pre-activation k of a minGRU's z.

    A step is linear in h and the candidate n together, so a is what it makes of h = 1 and n = 0, and b of h = 0.
    state: (N, H) of any value, for its shape.
    """
    nothing, one = ops.lift(np.zeros_like(state)), ops.lift(np.ones_like(state))
    parts = cell.project(p, x, nothing, np.zeros(state.shape[0]), ops, eq)
    a = cell.emit(p, {**parts, "n": nothing}, one, None, ops, eq)["h"]
    return a, cell.emit(p, parts, nothing, None, ops, eq)["h"], parts.get("k")


def closed_form(a: Array, b: Array, h0: Array) -> Array:
    """All h_t (T, ...) by the sum above, term by term, from a and b (T, ...) and h0 (...)."""
    states = np.empty_like(b)
    for t in range(len(b)):
        states[t] = np.prod(a[: t + 1], axis=0) * h0
        for tau in range(t + 1):
            states[t] += b[tau] * np.prod(a[tau + 1 : t + 1], axis=0)
    return states


def scanned(cell: Cell[Any], case: Case, ops: RunningError, variation: Variation, *, cut: int = 0) -> Trace[Bounded]:
    """Predict a whole sequence from its inputs, with a bound for every scan of it.

    A term ``|b_tau| prod |a_k|`` is computed from coefficients that are off by e_a and e_b (the running error of the
    equations), in t - tau products and some additions. How many of these depends on the association: one for every
    later step where states are added in the order of time; at most ``2 floor(log2(T + 1))`` in a balanced tree (Hillis
    and Steele 1986; Blelloch 1990; the odd-even recursion of `jax.lax.associative_scan`), whose `levels` here count one
    more for a conversion at the end; their sum, where blocks of one are joined by the other. So the computed term is at
    most

        (|b_tau| + e_b) prod(|a_k| + e_a) (1 + u)^(2 (t - tau) + levels)

    and its error at most that less the term itself. The sums of both over tau follow two recursions, for the magnitude
    m and the excess d over it:

        alpha_t = (|a_t| + e_a) exp(q)                     q = 2 u
        m_t = |a_t| m_{t-1} + |b_t|
        d_t = alpha_t d_{t-1} + (alpha_t - |a_t|) m_{t-1} + e_b
        |computed - h_t| <= d_t + (m_t + d_t) (exp(s) - 1)       s = levels u

    With logarithms, ``h_t = exp(A_t + logcumsumexp(log b - A))`` and ``A = cumsum(log a)``, an absolute error of an
    exponent is a relative error of its term, and exponents are as large as A itself: where A_t - A_tau is small, its
    two values cancel, but not their errors. Let ``r_t = sum |log a_k| + max |log b_tau| + log(T + 2)``, which no
    exponent and no partial result up to time t exceeds. In the order of time A_t and A_tau share the errors made up to
    tau, and differ by one rounding, at most u r_k, for every later step k; a term meets another in every later addition
    of logcumsumexp, whose exponential and logarithm of values of order one add at most 6 u. In trees there are `levels`
    such roundings in A_t, in A_tau and in the sum. Six more: of log a (twice, once for A_t and once for A_tau), log b,
    log b_tau - A_tau, the sum with A_t, and the argument of the last exponential, whose kernel has c ulps:

        q_t = u (2 r_t + 6)        s_t = u (levels (3 r_t + 6) + 6 r_t + c)

    Underflow: of the products that end at step t, at most T + 1, each may lose `underflow` of what a partial sum (at
    most the largest m + d) is multiplied with, or of such a product itself; this adds to d_t.

    A sequence may have been computed in two calls (`cut`): then the second starts from a number that was returned,
    whose error is all of the bound at that step; in exponents as large as the logarithm of that number, no larger.

    Raises
    ------
    CaseError: the cell is not linear, or would need logarithms of negative numbers; the case has rows of several
        lengths, layers or directions.
    """
    _check(cell, case)
    size, fmt = case.shape, ops.format
    logarithms = case.evaluation == "log-scan"
    arithmetic = replace(ops, format=_logarithmic(fmt)) if logarithms else ops
    x = arithmetic.lift(np.swapaxes(case.x, 0, 1).reshape(-1, size.features))
    eq = variation.equations if variation.equations is not None else cell.equations
    a, b, k = coefficients(cell, case.parameters, x, np.zeros((len(x.value), size.hidden)), arithmetic, eq)
    h0 = arithmetic.lift(case.h0)
    if variation.h0_through is not None and case.initial != "omitted":
        h0 = arithmetic.apply(variation.h0_through, h0)

    def by_step(values: Array) -> Array:
        return values.reshape(size.time, size.batch, size.hidden)

    # Released code also computes 1 - z as the sigmoid of the negated argument, with the error of its kernel.
    a_value, b_value, b_error = by_step(a.value), by_step(b.value), by_step(b.error)
    a_error = by_step(a.error + fmt.sigmoid_ulps * fmt.storage * np.abs(a.value))
    log_a = by_step(_size_of_log_a(a.value, k)) if logarithms else np.zeros_like(a_value)
    log_b = _size_of_log(b_value) if logarithms else np.zeros_like(b_value)
    log_h0 = _size_of_log(h0.value) if logarithms else np.zeros_like(h0.value)
    levels = 2 * math.floor(math.log2(size.time + 1)) + 1
    u = fmt.storage

    if variation.opposite and not logarithms:
        return _opposite(by_step, Bounded(a.value, a_error.reshape(a.value.shape)), b, h0, levels, fmt)
    wiring = variation.wiring(rows_of(case))
    lanes = np.zeros(size.batch, dtype=np.intp) if variation.lane0 else np.arange(size.batch)
    # h, m, d, the largest m + d, sum |log a|, max |log b| and the bound, of NOTHING, INITIAL and slots 0 ... T.
    states = np.zeros((7, size.time + 3, size.batch, size.hidden))
    magnitude = np.abs(h0.value)
    states[:, 1] = h0.value, magnitude, h0.error, magnitude + h0.error, 0.0 * magnitude, log_h0, h0.error
    for slot in map(int, wiring.order):
        before = states[:, wiring.states[slot] - NOTHING, lanes]
        copied = (wiring.inputs[slot] == NO_INPUT)[:, None]
        if copied.all():
            states[:, slot - NOTHING] = before
            continue
        step = np.maximum(wiring.inputs[slot], 0), np.arange(size.batch)
        if cut:
            again = (wiring.states[slot] == cut - 1)[:, None]
            before = np.where(again, _restarted(before, fmt.underflow, logarithms=logarithms), before)
        h, m, d, largest, sum_a, max_b, _ = before
        sum_a, max_b = sum_a + log_a[step], np.maximum(max_b, log_b[step])
        r = sum_a + max_b + math.log(size.time + 2)
        q = u * (2.0 * r + 6.0) if logarithms else np.full_like(r, 2.0 * u)
        s = u * (levels * (3.0 * r + 6.0) + 6.0 * r + fmt.tanh_ulps) if logarithms else np.full_like(r, levels * u)
        a_t, b_t = a_value[step], b_value[step]
        # alpha - |a| without the cancellation of their difference.
        spread = np.expm1(np.minimum(q, _LARGEST_EXPONENT))
        excess = np.abs(a_t) * spread + a_error[step] * (1.0 + spread)
        d = (np.abs(a_t) + excess) * d + excess * m + b_error[step] + fmt.underflow * (size.time + 1) * (1.0 + largest)
        m = np.abs(a_t) * m + np.abs(b_t)
        largest = np.maximum(largest, m + d)
        bound = d + (m + d) * np.expm1(np.minimum(s, _LARGEST_EXPONENT))
        after = np.stack([a_t * h + b_t, m, d, largest, sum_a, max_b, bound])
        states[:, slot - NOTHING] = np.where(copied, before, after)
    value, bound = states[0, 2:], states[-1, 2:]
    return Trace(
        outputs=Bounded(value[:-1].reshape(-1, size.hidden), bound[:-1].reshape(-1, size.hidden)),
        final_state=Bounded(value[-1], bound[-1]),
        cells=None,
        final_cell=None,
        intermediates={},
    )


def _opposite(
    by_step: Callable[[Array], Array], a: Bounded, b: Bounded, h0: Bounded, levels: int, fmt: Format
) -> Trace[Bounded]:
    """What comes out where steps are composed in the opposite order, the initial state in the first of them.

    ``h_t = sum over tau <= t of b_tau prod(a_k, k < tau)`` with ``b_0 = a_0 h_{-1} + b_0``: the term of step tau has
    tau products, and at most t - tau additions and `levels` more.
    """
    values, errors = by_step(a.value), by_step(a.error)
    terms, wrong = by_step(b.value).copy(), by_step(b.error).copy()
    wrong[0] += np.abs(values[0]) * h0.error + errors[0] * (np.abs(h0.value) + h0.error)
    wrong[0] += 2.0 * fmt.storage * (np.abs(values[0] * h0.value) + np.abs(terms[0]))
    terms[0] += values[0] * h0.value

    def summed(factors: Array, ends: Array) -> Array:
        before = np.cumprod(np.concatenate([np.ones_like(factors[:1]), factors[:-1]]), axis=0)
        total: Array = np.cumsum(before * ends, axis=0)
        return total

    steps = np.arange(1, len(values) + 1)[:, None, None]
    least, most = summed(np.abs(values), np.abs(terms)), summed(np.abs(values) + errors, np.abs(terms) + wrong)
    grown = most * np.exp(np.minimum(fmt.storage * (2 * steps + levels), _LARGEST_EXPONENT))
    bound = grown - least + 2.0**-50 * grown + fmt.underflow * steps * (1.0 + grown)
    value = summed(values, terms)
    return Trace(
        outputs=Bounded(value.reshape(a.value.shape), bound.reshape(a.value.shape)),
        final_state=Bounded(value[-1], bound[-1]),
        cells=None,
        final_cell=None,
        intermediates={},
    )


def _restarted(state: Array, least: float, *, logarithms: bool) -> Array:
    """What `scanned` carries from step to step, once the state has been returned and given to a second call."""
    h, _, _, largest, _, _, bound = state
    nothing = np.zeros_like(h)
    ends = np.abs(np.log(np.maximum([h - bound, h + bound], least))).max(axis=0) if logarithms else nothing
    return np.stack([h, np.abs(h), bound, largest, nothing, ends, bound])


def _check(cell: Cell[Any], case: Case) -> None:
    size = case.shape
    if cell.name not in LINEAR:
        raise CaseError(f"{cell.name} is not a linear recurrence: there is no scan of it", where=case.origin)
    if case.evaluation == "log-scan" and not cell.positive:
        raise CaseError(f"states of {cell.name} may be negative and have no logarithms", where=case.origin)
    cell.check(case)
    if size.layers > 1 or size.directions > 1 or any(n != size.time for n in case.lengths or ()):
        raise CaseError("a scan is judged for one layer, one direction and rows of one length", where=case.origin)


def _logarithmic(fmt: Format) -> Format:
    """The arithmetic of coefficients that are kept as logarithms.

    ``log sigmoid(k) = -softplus(-k)`` is as large as |k| + log 2 and rounded relative to that, by its kernel and where
    logarithms are added or subtracted; an absolute error of it is a relative error of the sigmoid.
    """
    kernel = fmt.tanh_ulps / 2.0 + 2.0
    return replace(
        fmt,
        sigmoid_ulps=fmt.sigmoid_ulps + kernel,
        sigmoid_ulps_per_argument=max(fmt.sigmoid_ulps_per_argument, kernel),
    )


def _size_of_log(values: Array) -> Array:
    """|log v|; 0 for v = 0, whose term vanishes; NaN for v < 0, which no scan with logarithms can hold."""
    return np.abs(np.log(np.where(values == 0, 1.0, values)))


def _size_of_log_a(a: Array, k: Bounded | None) -> Array:
    """|log a|; from the pre-activation k where a = 1 - sigmoid(k) has lost its digits in float64."""
    size = np.abs(np.log(np.where(a == 0, np.finfo(np.float64).tiny, a)))
    return size if k is None else np.where(np.abs(a) < 2.0**-40, np.abs(k.value) + 1.0, size)
