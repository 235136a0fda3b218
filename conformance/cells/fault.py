"""A fault: a named deliberate defect of a recurrence, as a mutated reference.

It serves twice: to diagnose (does the observed output follow *this* equation within its own bound?) and to
prove that the suite catches it (planted, it must diverge). A fault changes the parameters, the equations, the
wiring of time and state, or the initial state; nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.algebra import Algebra, Rounded
from conformance.case import Case, Parameters
from conformance.cells.cell import Sequence, Wiring, in_order
from conformance.cells.registry import cell_named
from conformance.rounding import Array, format_of

Transform = Callable[[Parameters], Mapping[str, Array]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One named defect.

    statement: what the implementation does wrong, as a sentence for a maintainer.
    equation, right: the wrong equation, and the right one beside which a report prints it.
    parameters: how the parameters are misread; equations, wiring: what replaces the correct ones;
    lane0: every row takes batch row 0's previous state; no_h0: the initial state is replaced by zeros.
    """

    name: str
    statement: str
    equation: str = ""
    right: str = ""
    parameters: Transform | None = None
    equations: Any = None
    wiring: Callable[[int], Wiring] = in_order
    lane0: bool = False
    no_h0: bool = False

    def misread(self, case: Case) -> Case:
        """The case as the faulty implementation understands it."""
        changes: dict[str, Any] = {}
        if self.parameters is not None:
            # A sum of two biases need not be a value of the dtype; the mutant folds it in that dtype.
            changes["parameters"] = {**case.parameters, **self.parameters(case.parameters)}
        if self.no_h0:
            changes["h0"] = np.zeros_like(case.h0)
        if not changes:
            return case
        return _unchecked(case, changes)

    def lanes(self, case: Case) -> NDArray[np.intp] | None:
        """The batch row from which each row takes its previous state, None for its own."""
        return np.zeros(case.shape.batch, dtype=np.intp) if self.lane0 else None

    def run(self, case: Case, ops: Algebra[Array] | None = None) -> Sequence:
        """Run the faulty implementation, emulated in the case's dtype unless another algebra is given."""
        algebra = ops if ops is not None else Rounded(format_of(case.dtype))
        cell = cell_named(case.cell)
        return cell.run(
            self.misread(case),
            ops=algebra,
            equations=self.equations,
            wiring=self.wiring(case.shape.time),
            lanes=self.lanes(case),
        )


def _unchecked(case: Case, changes: dict[str, Any]) -> Case:
    """A copy with changed arrays that skips the exactness check (a doubled bias may leave the dtype)."""
    copy = object.__new__(Case)
    for name in Case.__slots__:
        object.__setattr__(copy, name, changes.get(name, getattr(case, name)))
    return copy


def zeroed(*names: str) -> Transform:
    """These parameters are taken to be zero."""
    return lambda p: {name: np.zeros_like(p[name]) for name in names}


def scaled(factor: float, *names: str) -> Transform:
    """These parameters are taken `factor` times."""
    return lambda p: {name: factor * p[name] for name in names}
