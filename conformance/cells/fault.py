"""A fault: a named deliberate defect of a recurrence, as a mutated reference.

It serves twice: to diagnose (does the observed output follow *this* equation within its own bound?) and to
prove that the suite catches it (planted, it must diverge). A fault changes the parameters, the equations, the
wiring of time and state, the input, the initial state, or the arithmetic; nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from msgspec import Struct, field

from conformance.algebra import Activation, Algebra, Rounded
from conformance.case import Case, Evaluation, Parameters, unchecked
from conformance.cells.cell import Block, Rows, Sequence, Variation, Wiring, itself, wire
from conformance.cells.registry import cell_named
from conformance.rounding import Array, Format
from conformance.worker.names import block, prefix_of

Transform = Callable[[Parameters], Mapping[str, Array]]


class Told(Struct, frozen=True, kw_only=True):
    """What a fault is, for a reader: its statement, and the wrong equation beside the right one."""

    statement: str
    right: str
    equation: str

    def or_(self, other: Told) -> Told:
        """Both, where a reader may have either before them."""
        return Told(
            statement=f"{self.statement}, or {other.statement}",
            right=f"{self.right}; where z mixes the candidate in: {other.right}",
            equation=f"{self.equation}; where z mixes the candidate in: {other.equation}",
        )


class Fault(Struct, frozen=True, kw_only=True):
    """One named defect.

    statement: what the implementation does wrong, as a sentence for a maintainer.
    equation, right: the wrong equation, and the right one beside which a report prints it.
    complement: the same for cases evaluated as "complement", where that reads differently; see `told`.
    parameters: how the parameters of a layer are misread; inputs: how x (..., B, T, D) is, a permutation of each row;
    no_h0, no_c0: the initial state is replaced by zeros.
    equations, wiring, lane0, weights_of, states_of, swapped, h0_through, opposite: see
        `conformance.cells.cell.Variation`.
    arithmetic: the format computed in, from the declared one, for faults of precision; None where it does not apply.
    """

    name: str
    statement: str
    equation: str = ""
    right: str = ""
    complement: Told | None = None
    parameters: Transform | None = None
    inputs: Callable[[Array], Array] | None = None
    equations: Any = None
    wiring: Callable[[Rows], Wiring] = wire
    lane0: bool = False
    no_h0: bool = False
    no_c0: bool = False
    weights_of: Callable[[Block], Block] = itself
    states_of: Callable[[Block], Block] = itself
    swapped: bool = False
    h0_through: Activation | None = None
    opposite: bool = False
    arithmetic: Callable[[Format], Format | None] | None = field(default=None)

    @property
    def variation(self) -> Variation:
        """How the faulty sequence departs from the correct one."""
        return Variation(
            equations=self.equations,
            wiring=self.wiring,
            lane0=self.lane0,
            weights_of=self.weights_of,
            states_of=self.states_of,
            swapped=self.swapped,
            h0_through=self.h0_through,
            opposite=self.opposite,
        )

    def format(self, case: Case) -> Format:
        """The arithmetic in which the faulty implementation computes the case."""
        declared = case.format
        return (self.arithmetic(declared) if self.arithmetic is not None else None) or declared

    def told(self, *evaluations: Evaluation) -> Told:
        """Statement and equations as they read where cases are evaluated in these ways."""
        usual = Told(statement=self.statement, right=self.right, equation=self.equation)
        if self.complement is None or "complement" not in evaluations:
            return usual
        return self.complement if set(evaluations) == {"complement"} else usual.or_(self.complement)

    def misreading(self, case: Case) -> Transform | None:
        """How canonical parameters are misread: an implementation misreads its own, in the convention of the case."""
        complement = cell_named(case.cell).complement
        own = self.parameters
        if own is None or complement is None or case.evaluation != "complement":
            return own
        return lambda p: complement.parameters(own(complement.parameters(p)))

    def misread(self, case: Case) -> Case:
        """The case as the faulty implementation understands it."""
        changes: dict[str, Any] = {}
        misreading = self.misreading(case)
        if misreading is not None:
            # A sum of two biases need not be a value of the dtype; the mutant folds it in that dtype.
            changed = dict(case.parameters)
            for layer in range(case.layers):
                for direction in range(case.directions):
                    own = misreading(block(case.parameters, layer, direction))
                    changed |= {prefix_of(layer, direction) + name: value for name, value in own.items()}
            changes["parameters"] = changed
        if self.inputs is not None:
            changes["x"] = self.inputs(case.x)
        if self.no_h0:
            changes["h0"] = np.zeros_like(case.h0)
        if self.no_c0 and case.c0 is not None:
            changes["c0"] = np.zeros_like(case.c0)
        if not changes:
            return case
        return unchecked(case, changes)

    def run(self, case: Case, ops: Algebra[Array] | None = None) -> Sequence:
        """Run the faulty implementation, emulated in its arithmetic unless another algebra is given."""
        algebra = ops if ops is not None else Rounded(self.format(case))
        return cell_named(case.cell).run(self.misread(case), ops=algebra, variation=self.variation)


def zeroed(*names: str) -> Transform:
    """These parameters are taken to be zero."""
    return lambda p: {name: np.zeros_like(p[name]) for name in names}


def scaled(factor: float, *names: str) -> Transform:
    """These parameters are taken `factor` times."""
    return lambda p: {name: factor * p[name] for name in names}
