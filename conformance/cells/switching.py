"""The switching reading of minGRU and minLSTM: an oracle that shares no code with their recurrence or its scans.

A latent unit starts at h_0. At step t it is drawn afresh with probability z_t, with mean n_t, and is otherwise copied.
Before it was last drawn nothing matters, so that with

    w_tau(t) = z_tau prod(1 - z_k, tau < k <= t)        it was last drawn at step tau
    w_0(t)   = prod(1 - z_k, k <= t)                    it was never drawn

which are the probabilities of all that may have happened and sum to one, its expectation is

    E[latent_t] = w_0(t) h_0 + sum over tau <= t of  w_tau(t) n_tau

and that is the state of a minGRU: ``h_t = (1 - z_t) h_{t-1} + z_t n_t``. A minLSTM is the same system with z = i',
since its normalised gates sum to one. The equations are written down here once more, on purpose.

Source: Feng et al. 2024, arXiv:2410.01201, for the cells; Audibert, Munos and Szepesvari 2009, "Exploration-
exploitation tradeoff using variance estimates in multi-armed bandits", theorem 1, for the confidence bound.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from conformance.case import Case
from conformance.errors import CaseError
from conformance.rounding import Array

NEVER: Final = 0
"""The index of "it was never drawn" among the weights; that of step tau (from 0) is tau + 1."""


class System(Struct, frozen=True, kw_only=True, eq=False):
    """A switching system: probabilities z (T, B, H) of a draw, means n (T, B, H) of what is drawn, h0 (B, H)."""

    z: Array
    n: Array
    h0: Array

    @property
    def weights(self) -> Array:
        """Probabilities (T, T + 1, B, H) of when each unit was last drawn, `NEVER` first, as known after every step."""
        time = len(self.z)
        found = np.zeros((time, time + 1, *self.h0.shape))
        for t in range(time):
            found[t, NEVER] = np.prod(1.0 - self.z[: t + 1], axis=0)
            for tau in range(t + 1):
                found[t, tau + 1] = self.z[tau] * np.prod(1.0 - self.z[tau + 1 : t + 1], axis=0)
        return found

    @property
    def expectation(self) -> Array:
        """The expected latent state after every step (T, B, H)."""
        values = np.concatenate([self.h0[None], self.n])
        result: Array = np.einsum("tkbh,kbh->tbh", self.weights, values)
        return result


def system(case: Case) -> System:
    """The switching system whose expectation a minGRU or minLSTM computes.

    Raises
    ------
    CaseError: the cell is another one, or the case has lengths, layers, two directions or is reversed.
    """
    plain = case.lengths is None and not case.reverse and case.layers == 1 and case.directions == 1
    if case.cell not in ("mingru", "mingru_log", "minlstm", "minlstm_log") or not plain:
        raise CaseError(
            "no switching system", where=case.origin, got=case.cell, wanted="one layer of a minGRU or minLSTM"
        )
    p, x = case.parameters, np.swapaxes(case.x, 0, 1)

    def sigmoid(a: Array) -> Array:
        result: Array = 0.5 + 0.5 * np.tanh(0.5 * a)
        return result

    n = x @ p["W_n"].T + p["b_n"]
    if case.cell.endswith("_log"):
        n = np.where(n >= 0, n + 0.5, sigmoid(n))
    if case.cell.startswith("mingru"):
        return System(z=sigmoid(x @ p["W_z"].T + p["b_z"]), n=n, h0=case.h0)
    f, i = sigmoid(x @ p["W_f"].T + p["b_f"]), sigmoid(x @ p["W_i"].T + p["b_i"])
    return System(z=i / (f + i), n=n, h0=case.h0)


class Simulation(Struct, frozen=True, kw_only=True, eq=False):
    """Means over simulated latent paths (T, B, H), their standard errors, and what bounds every value that can occur.

    range: the largest possible value less the smallest, by step and unit.
    """

    mean: Array
    error: Array
    range: Array
    paths: int

    def confidence(self, chance: float) -> Array:
        """Half the width (T, B, H) of intervals around `mean`; some expectation lies outside with at most this chance.

        The empirical Bernstein bound: for n values in an interval of length R with empirical variance V,
        ``|mean - E| <= sqrt(2 V log(3 / d) / n) + 3 R log(3 / d) / n`` but with probability d. It holds for any
        distribution and any n, unlike a quantile of the normal one: latent states are discrete and skewed. d is
        `chance` divided by the number of means, so that all of them hold together (Bonferroni).
        """
        logarithm = math.log(3.0 * self.mean.size / chance)
        return self.error * math.sqrt(2.0 * logarithm) + 3.0 * self.range * logarithm / self.paths


def simulate(made: System, *, paths: int, seed: int, noise: float = 0.5) -> Simulation:
    """Simulate the generative model: at every step each latent unit is copied, or drawn from around n_t.

    noise: half the width of the uniform distribution around n_t that is drawn from; its mean is all that matters.
    """
    generator = np.random.default_rng(seed)
    latent = np.broadcast_to(made.h0, (paths, *made.h0.shape)).copy()
    lowest, highest = made.h0.copy(), made.h0.copy()
    means, errors, ranges = [], [], []
    for z, n in zip(made.z, made.n, strict=True):
        switches: NDArray[np.bool_] = generator.random(latent.shape) < z
        latent = np.where(switches, n + generator.uniform(-noise, noise, latent.shape), latent)
        lowest, highest = np.minimum(lowest, n - noise), np.maximum(highest, n + noise)
        means.append(latent.mean(axis=0))
        errors.append(latent.std(axis=0) / math.sqrt(paths))
        ranges.append(highest - lowest)
    return Simulation(mean=np.array(means), error=np.array(errors), range=np.array(ranges), paths=paths)
