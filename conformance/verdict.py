"""Verdicts: the closed union of what a trial, or a group of trials, can end with.

Never a bare boolean. `match` on the classes and end with `assert_never`. They are written to records as they
stand, so a change here is a change of the record's format.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, assert_never

from msgspec import Meta, Struct, field

Owner = Literal["ours", "upstream", "never"]
BrokenKind = Literal["crash", "hang", "exception", "contract", "start", "abandoned", "environment"]


# A number of elements or a place among them, as wide as any machine counts: records are read from strangers.
Size: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class StepRow(Struct, frozen=True, kw_only=True):
    """One time step of a divergence, reduced over batch and units by maximum.

    difference: free-running |observed - reference|; residual: teacher-forced |observed - predicted|;
    bound: the bound at the element with the largest share; share: max residual / bound. None: not finite.
    """

    step: Size
    difference: float | None
    residual: float | None
    bound: float | None
    share: float | None


class ShareMap(Struct, frozen=True, kw_only=True):
    """Where ``outputs`` lie against their bounds: the largest share over batch rows, per time step and unit.

    steps, units: how many of each one entry of `shares` stands for, by the largest of them. shares: row by row of time,
    to three digits, None where not finite.
    """

    steps: int
    units: int
    shares: tuple[tuple[float | None, ...], ...]


class Evidence(Struct, frozen=True, kw_only=True):
    """What a divergence looks like.

    Attributes
    ----------
    output: name of the observed array (``outputs`` or ``final_state``).
    first: (batch, time, unit) of the first element outside its bound; earliest in time, then largest share.
    expected, observed, bound: the numbers at `first`; None where not finite (a huge observed state makes even
        the prediction from it overflow).
    largest_difference: the largest free-running difference to the reference, None if not finite.
    share: the largest residual as a multiple of its bound (1 = at the bound), None if not finite.
    outside, compared: number of elements outside their bound, and compared.
    steps: per-step account of ``outputs``.
    residuals: for every fault hypothesis, the largest share of *its* bound (<= 1: it explains the output;
        capped at 1e300).
    intermediates: r, z, n, h of the reference at `first`.
    under, implied: the fault that explains the output most closely, and its intermediates at `first`: what the
        candidate computed there if that is what is wrong. "" and empty where no fault explains it.
    map: the outputs' shares over time and units; None where they have none.
    where: the place, or the detour, in words, where `first` alone does not tell it.
    pairs: where no single fault explains the output, the pairs of faults that do together.
    localisation: where nothing explains it, what can be told of the intermediate that went wrong, in sentences.
    lasting: faults that explain it from some step on, in sentences.
    """

    output: str
    first: tuple[Size, Size, Size]
    expected: float | None
    observed: float | None
    bound: float | None
    largest_difference: float | None
    share: float | None
    outside: Size
    compared: Size
    finite: bool = True
    steps: tuple[StepRow, ...] = ()
    residuals: dict[str, float] = field(default_factory=dict)
    intermediates: dict[str, float | None] = field(default_factory=dict)
    where: str = ""
    pairs: tuple[tuple[str, str], ...] = ()
    localisation: tuple[str, ...] = ()
    lasting: tuple[str, ...] = ()
    under: str = ""
    implied: dict[str, float | None] = field(default_factory=dict)
    map: ShareMap | None = None


class Agrees(Struct, frozen=True, kw_only=True, tag_field="verdict", tag="agrees"):
    """Inside the bound everywhere, and the faults in `excluded` would not have been."""

    excluded: frozenset[str]
    share: float
    compared: Size


class Diverges(Struct, frozen=True, kw_only=True, tag_field="verdict", tag="diverges"):
    """Outside the bound; `faults` is the set of hypotheses that explain every divergence seen."""

    faults: tuple[str, ...]
    evidence: Evidence


class Unrepresentable(Struct, frozen=True, kw_only=True, tag_field="verdict", tag="unrepresentable"):
    """The candidate has no place for a parameter; `subspace` is the verdict with that parameter at zero."""

    parameters: tuple[str, ...]
    owner: Owner
    reason: str
    link: str
    subspace: Agrees | Diverges | Inconclusive | Broken | None = None


class Unsupported(Struct, frozen=True, kw_only=True, tag_field="verdict", tag="unsupported"):
    """Declared before the run: the candidate does not offer this."""

    what: str
    owner: Owner
    reason: str
    link: str = ""


class Inconclusive(Struct, frozen=True, kw_only=True, tag_field="verdict", tag="inconclusive"):
    """Nothing diverged, but nothing is shown either.

    missing: the faults that were not ruled out; empty when the comparison itself means nothing, because another path
    than the requested one ran, or because the bound is infinite.
    blank: the case shows nothing, for or against, because its bound is infinite or a detour cannot be taken; other
        cases may.
    """

    why: str
    excluded: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    blank: bool = False


class Broken(Struct, frozen=True, kw_only=True, tag_field="verdict", tag="broken"):
    """No observation: the worker crashed, hung, raised, or answered outside its contract."""

    kind: BrokenKind
    message: str
    exit_code: Size | None = None
    signal: str = ""
    stderr_tail: str = ""


Verdict: TypeAlias = Agrees | Diverges | Unrepresentable | Unsupported | Inconclusive | Broken
Core: TypeAlias = Agrees | Diverges | Inconclusive | Broken | Unsupported | None


def core(verdict: Verdict) -> Core:
    """The verdict of the comparison itself: of the representable subspace, where that is all there is."""
    match verdict:
        case Unrepresentable():
            return verdict.subspace
        case Agrees() | Diverges() | Unsupported() | Inconclusive() | Broken():
            return verdict
        case _:
            assert_never(verdict)
