"""Adequacy: what the suite would catch. Every fault against every requirement, and against other people's oracles.

Each fault of the catalogue is planted (run as an implementation, emulated in a dtype) and judged exactly as a
candidate is. The same planted faults are shown to *replicas* of the oracles of other test suites: our own code,
written after what their sources check, so that a reader sees what a derived bound and generic cases gain. A
replica reproduces the comparison and the kind of input, not the suite around it.

Nothing here is a pass by default: a fault that no requirement catches, a requirement that catches nothing, and a
fault that gets another one's name are reported as problems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from conformance.behaviours import BEHAVIOURS, correct
from conformance.case import Case, Initial, Shape
from conformance.cells import cell_named
from conformance.cells.fault import Fault
from conformance.compare import Observed, compare
from conformance.errors import ShapeError
from conformance.faults import catalogue
from conformance.fitting import foretold
from conformance.gradient import Enclosed, judge_gradients, planted_gradients, visible_gradient_faults
from conformance.gradient_faults import gradient_catalogue
from conformance.inputs import shipped_cases
from conformance.judge import TrialVerdict, combine, judge, planted, visible_faults
from conformance.relation import implementation, judge_relation
from conformance.requirement import GRADIENT, REFERENCE, REQUIREMENTS, Requirement
from conformance.rounding import Array
from conformance.signature import CONSTANT, GENERIC, ZERO, Signature, build
from conformance.verdict import Broken, Diverges

Catch = Literal["named", "caught", "misnamed", "missed", "hidden"]
Implementation: TypeAlias = Callable[[Case], Observed]
Kind = Literal["fault", "gradient fault", "behaviour"]


class Oracle(Struct, frozen=True, kw_only=True):
    """A replica of another suite's check.

    source: whose check it imitates; accepts: whether an implementation passes it.
    """

    name: str
    source: str
    accepts: Callable[[Implementation, str, str], bool]


class Adequacy(Struct, frozen=True, kw_only=True):
    """The matrix of one cell and dtype.

    catches: what was planted -> requirement -> how it is caught; hidden: it cannot show there.
    kinds: what was planted: a mutated reference, a wrong gradient, or a behaviour.
    aims: requirement -> what it was written to catch.
    oracles: oracle -> the faults it catches; void: oracles that reject a correct implementation as well, so that
        what they catch means nothing.
    false_alarms: oracle (and "derived bound") -> conforming runs it rejects, out of `conforming`.
    """

    cell: str
    dtype: str
    catches: Mapping[str, Mapping[str, Catch]]
    kinds: Mapping[str, Kind]
    aims: Mapping[str, tuple[str, ...]]
    oracles: Mapping[str, frozenset[str]]
    void: frozenset[str]
    false_alarms: Mapping[str, int]
    conforming: int

    @property
    def caught(self) -> frozenset[str]:
        """What at least one requirement catches."""
        good = ("named", "caught", "misnamed")
        return frozenset(fault for fault, row in self.catches.items() if any(c in good for c in row.values()))

    @property
    def named(self) -> frozenset[str]:
        """What at least one requirement catches and names uniquely."""
        return frozenset(fault for fault, row in self.catches.items() if "named" in row.values())

    @property
    def nameable(self) -> frozenset[str]:
        """What can be a hypothesis, and so have its name told; behaviours cannot."""
        return frozenset(fault for fault, kind in self.kinds.items() if kind != "behaviour")

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the suite itself; empty when it is adequate."""
        planted = [fault for fault, row in self.catches.items() if set(row.values()) != {"hidden"}]
        found = [f"no requirement catches {fault}" for fault in planted if fault not in self.caught]
        for requirement, aims in self.aims.items():
            column = {fault: row[requirement] for fault, row in self.catches.items()}
            if not {"named", "caught"} & set(column.values()):
                found.append(f"{requirement} catches nothing")
            missed = [aim for aim in aims if column.get(aim) == "missed"]
            found += [f"{requirement} misses {aim}, for which it was written" for aim in missed]
        for fault, row in self.catches.items():
            found += [f"{requirement} gives {fault} another name" for requirement, c in row.items() if c == "misnamed"]
        return tuple(found)


def adequacy(cell: str, dtype: str, *, complete: bool = True) -> Adequacy:
    """Plant everything that can be wrong with `cell` in `dtype` and judge it under every requirement and oracle.

    complete: try relations on every fault; otherwise on those only for which they were written.

    Raises
    ------
    SpecError: the cell has no catalogue.
    """
    requirements = [
        requirement
        for requirement in REQUIREMENTS.values()
        if requirement.cell == cell and (not requirement.dtypes or dtype in requirement.dtypes)
    ]
    kinds: dict[str, Kind] = dict.fromkeys(catalogue(cell), "fault")
    kinds |= dict.fromkeys(gradient_catalogue(cell), "gradient fault")
    asked = {aim for requirement in requirements for aim in requirement.aims}
    kinds |= dict.fromkeys((name for name in BEHAVIOURS if name in asked), "behaviour")
    catches = {
        name: {requirement.name: _catch(requirement, name, kind, dtype, complete) for requirement in requirements}
        for name, kind in kinds.items()
    }
    cases = tuple(_conforming(cell, dtype))
    observed = [correct(case) for case in cases]
    alarms = {"derived bound": sum(not compare(c, o).explains for c, o in zip(cases, observed, strict=True))}
    for name, (relative, absolute) in TOLERANCES.items():
        alarms[name] = sum(not _close(c, o, relative, absolute) for c, o in zip(cases, observed, strict=True))
    return Adequacy(
        cell=cell,
        dtype=dtype,
        catches=catches,
        kinds=kinds,
        aims={requirement.name: requirement.aims for requirement in requirements},
        oracles=caught_by_oracles(cell, dtype),
        void=frozenset(oracle.name for oracle in ORACLES if not oracle.accepts(correct, cell, dtype)),
        false_alarms=alarms,
        conforming=len(cases),
    )


def caught_by_oracles(cell: str, dtype: str) -> dict[str, frozenset[str]]:
    """The faults of a cell that replicas of other suites' oracles catch, by the oracle's name."""
    oracles: dict[str, set[str]] = {oracle.name: set() for oracle in ORACLES}
    for name, fault in catalogue(cell).items():

        @lru_cache(maxsize=16)
        def implementation(case: Case, fault: Fault = fault) -> Observed:
            return planted(case, fault)

        for oracle in ORACLES:
            with np.errstate(over="ignore", invalid="ignore"):  # a mutant may overflow, and inf - inf is no number
                accepted = oracle.accepts(implementation, cell, dtype)
            if not accepted:
                oracles[oracle.name].add(name)
    return {name: frozenset(found) for name, found in oracles.items()}


def _catch(requirement: Requirement, name: str, kind: Kind, dtype: str, complete: bool) -> Catch:  # noqa: FBT001 (private)
    """How a requirement's cases, judged as a run judges them, deal with something planted."""
    if requirement.relation == GRADIENT:
        if kind != "gradient fault" or name not in visible_gradient_faults(requirement.cell):
            return "hidden"
        fault = gradient_catalogue(requirement.cell)[name]
        return _judged(
            requirement,
            name,
            dtype,
            lambda case: judge_gradients(case, planted_gradients(case, fault), (), _enclosed(case)),
        )
    if kind == "gradient fault":
        return "hidden"
    if requirement.relation == REFERENCE:
        if kind == "behaviour" or name not in _visible(requirement, dtype):
            return "hidden"
        mutant = catalogue(requirement.cell)[name]

        def against_all(case: Case) -> TrialVerdict:
            first = case is _cases(requirement, dtype)[0]
            return judge(case, _first(requirement, dtype)[name] if first else planted(case, mutant), ())

        return _judged(requirement, name, dtype, against_all)
    if name not in requirement.aims and (kind == "behaviour" or not complete):
        return "hidden"

    def ask(case: Case) -> TrialVerdict:
        try:
            return judge_relation(requirement.relation, case, implementation(case.cell, name), frozenset())[0]
        except ShapeError as refused:  # a shape that no observation may have
            return Broken(kind="contract", message=str(refused))

    return _judged(requirement, name, dtype, ask)


def _judged(requirement: Requirement, name: str, dtype: str, ask: Callable[[Case], TrialVerdict]) -> Catch:
    diverging: list[Diverges] = []
    for case in _cases(requirement, dtype):
        with np.errstate(over="ignore", invalid="ignore"):  # what is planted may overflow
            verdict = ask(case)
        if isinstance(verdict, Broken):
            return "caught"
        if not isinstance(verdict, Diverges):
            continue
        # A detour may look like another fault than the one that made it differ: only what is named is judged.
        if verdict.faults and name not in verdict.faults and requirement.against_reference:
            return "misnamed"
        diverging.append(verdict)
        together = combine(diverging, required=frozenset())
        if isinstance(together, Diverges) and together.faults == (name,):
            return "named"
        if not requirement.against_reference:
            return "caught"
    return "caught" if diverging else "missed"


# Faults are planted one by one under requirement after requirement; what they share is found once per requirement.


@lru_cache(maxsize=64)
def _cases(requirement: Requirement, dtype: str) -> tuple[Case, ...]:
    return tuple(shipped_cases(requirement, dtype))


@lru_cache(maxsize=64)
def _first(requirement: Requirement, dtype: str) -> Mapping[str, Observed]:
    """What every fault that can show gives on the first case, which names nearly all of them."""
    case, known = _cases(requirement, dtype)[0], catalogue(requirement.cell)
    names = sorted(_visible(requirement, dtype))
    given = [planted(case, known[name]) for name in names]
    return dict(zip(names, foretold(case, given, tuple(known.values())), strict=True))


@lru_cache(maxsize=64)
def _enclosed(case: Case) -> Enclosed:  # noqa: ARG001 (what is cached belongs to the case, whose forward pass is right)
    return {}


def _visible(requirement: Requirement, dtype: str) -> frozenset[str]:
    return visible_faults(requirement.cell, requirement.initial, features=requirement.features, dtype=dtype)


def _conforming(cell: str, dtype: str) -> Iterable[Case]:
    """Cases of correct runs on which a fixed tolerance may raise a false alarm: trained-like, chaotic, saturating."""
    for seed in range(5):
        for scale in (0.8, 6.0, 20.0):
            for shape in (GENERIC, Shape(batch=2, time=128, features=6, hidden=24)):
                signature = Signature(shape=shape, batched=True, seed=seed, scale=scale, decimals=12, fills=())
                yield build(signature, cell=cell, dtype=dtype, initial="given")


@lru_cache(maxsize=64)
def _reference(case: Case) -> Array:
    return cell_named(case.cell).run(case).outputs


def _close(case: Case, observed: Observed, relative: float, absolute: float) -> bool:
    """A fixed tolerance against the reference, as numpy.testing and torch.testing compare."""
    expected = _reference(case)
    return bool(np.all(np.abs(observed.outputs - expected) <= absolute + relative * np.abs(expected)))


@lru_cache(maxsize=16)
def _generic(cell: str, dtype: str, initial: Initial) -> Case:
    """The case of most oracles: one object, so that what an implementation gives on it is computed once for all."""
    signature = Signature(shape=GENERIC, batched=True, seed=7, scale=0.8, decimals=12, fills=())
    case = build(signature, cell=cell, dtype=dtype, initial="omitted" if initial == "zeros" else initial)
    return replace(case, initial=initial)


# --- Replicas of other suites' oracles ---

TOLERANCES: Final[Mapping[str, tuple[float, float]]] = {
    "rtol 1e-5, atol 1e-5": (1e-5, 1e-5),
    "rtol 1.3e-6, atol 1e-5": (1.3e-6, 1e-5),
    "rtol 1e-2, atol 1e-3": (1e-2, 1e-3),
}


def _shapes_only(implementation: Implementation, cell: str, dtype: str) -> bool:
    cases = [_generic(cell, dtype, initial) for initial in ("omitted", "given")]
    return all(implementation(case).outputs.shape == (4, 12, case.shape.hidden) for case in cases)


def _none_is_zeros(implementation: Implementation, cell: str, dtype: str) -> bool:
    cases = (_generic(cell, dtype, "omitted"), _generic(cell, dtype, "zeros"))
    one, other = (implementation(case).outputs for case in cases)
    return bool(np.all(np.abs(one - other) <= 1e-5 + 1.3e-6 * np.abs(other)))


def _within(relative: float, absolute: float) -> Callable[[Implementation, str, str], bool]:
    def accepts(implementation: Implementation, cell: str, dtype: str) -> bool:
        cases = [_generic(cell, dtype, initial) for initial in ("omitted", "given")]
        return all(_close(case, implementation(case), relative, absolute) for case in cases)

    return accepts


def _constant_weights(implementation: Implementation, cell: str, dtype: str) -> bool:
    """Every weight the same constant, hidden biases zero, three rows, one step, no initial state."""
    shape = Shape(batch=3, time=1, features=3, hidden=3)
    groups = {"W_x": CONSTANT, "W_h": CONSTANT, "b_x": CONSTANT, "b_h": ZERO}
    signature = Signature(shape=shape, batched=True, seed=0, scale=0.8, decimals=12, fills=tuple(groups.items()))
    case = build(signature, cell=cell, dtype=dtype, initial="omitted")
    return _close(case, implementation(case), 1e-3, 1e-7)


ORACLES: Final[Sequence[Oracle]] = (
    Oracle(
        name="shapes only",
        source="mlx python/tests/test_nn.py, test_gru, as of 0.31.1: asserts the shapes of the outputs",
        accepts=_shapes_only,
    ),
    Oracle(
        name="None == zeros",
        source="pytorch test/test_nn.py, test_rnn_initial_hidden_state: an omitted state against one of zeros",
        accepts=_none_is_zeros,
    ),
    Oracle(
        name="constant weights",
        source="onnx backend node tests of GRU: constant weights, one step, rtol 1e-3, atol 1e-7",
        accepts=_constant_weights,
    ),
    *(
        Oracle(
            name=name,
            source={
                "rtol 1e-5, atol 1e-5": "a tolerance often written by hand, on this suite's own generic cases",
                "rtol 1.3e-6, atol 1e-5": "torch.testing.assert_close defaults for float32, on the same cases",
                "rtol 1e-2, atol 1e-3": "NNSmith's default tolerances, on the same cases",
            }[name],
            accepts=_within(*tolerance),
        )
        for name, tolerance in TOLERANCES.items()
    ),
)
