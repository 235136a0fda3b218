"""Examining one group: the trials of one candidate, requirement and dtype, up to their common verdict.

Shipped cases come first, then failures that are kept in Hypothesis' example database, then cases whose signatures
Hypothesis has drawn; `reduction` makes failures small, much faster than Hypothesis, which knows nothing of rows and
units. A case that breaks the worker is a verdict of its own and is not reduced: every attempt costs another worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from conformance.campaign import block_at, block_of, signature_at
from conformance.case import Case, Shape
from conformance.diagnosis import diagnosed, suspicion
from conformance.draws import Lattice, ordinary
from conformance.drift import probe
from conformance.examination import Examination, Failed, NotObserved
from conformance.host import Host
from conformance.inputs import lattice_of, plainly, shipped_cases
from conformance.judge import (
    TrialVerdict,
    combine,
    deviation,
    sharpest,
    visible_faults,
)
from conformance.plan import Group, slug
from conformance.process import Interrupted
from conformance.record import Example, Finding, Incident, Line
from conformance.reduction import reduced
from conformance.requirement import GRADIENT, REFERENCE
from conformance.settings import Settings
from conformance.signature import Signature, build
from conformance.verdict import Agrees, Diverges, Inconclusive, Verdict

# Of the generated cases that reference agreement gets, a relation gets one in so many.
RELATION_SHARE: Final = 5
# Reducing asks so often: a relation or a gradient is asked by several runs, or a costly judgement, each time.
_QUESTIONS: Final = 120
_COSTLY_QUESTIONS: Final = 40


def examine(group: Group, host: Host, settings: Settings, emit: Callable[[Line], None]) -> Finding:
    """Try every case of a group and return the finding (the caller appends it to the record)."""
    if group.unsupported is not None:
        return _finding(group, group.unsupported)
    visible = must_rule_out(group)
    state = Examination(group=group, host=host, settings=settings, emit=emit, remaining=set(visible))
    failed: Failed | None
    if settings.only is not None:
        failed = _only(state, settings.only)
        single = combine(state.verdicts, required=frozenset())
        if isinstance(single, Agrees) and not single.excluded:
            single = Inconclusive(why="this case rules out no fault", missing=visible)
        verdict = single
    else:
        shipped = None if settings.remembered is not None else _shipped(state)
        generated = _replayed(state) or _generated(state)
        marched = None if shipped or generated else _campaign(state)
        failed = generated or marched or shipped
        verdict = combine(state.verdicts, required=visible)
        # The shipped case tells faults apart best, the shrunk one is the easiest to read.
        telling = shipped or generated or marched
        unnamed = isinstance(verdict, Diverges) and not verdict.faults and group.requirement.relation == REFERENCE
        if unnamed and telling is not None:
            told = Diverges(faults=(), evidence=telling.verdict.evidence)
            verdict = diagnosed(telling.shown.case, telling.shown.observed, told)
    overall: Verdict = verdict
    if group.unrepresentable is not None:
        overall = replace(group.unrepresentable, subspace=verdict)
    return _finding(
        group,
        overall,
        trials=state.trials,
        seconds=state.seconds,
        visible=visible,
        example=None if failed is None else _example(group, settings, failed, host.version),
    )


def _example(group: Group, settings: Settings, failed: Failed, version: str) -> Example:
    from conformance.example import example_of  # noqa: PLC0415 - where something diverges

    return example_of(group, settings, failed, version)


def campaigned(group: Group, host: Host, settings: Settings, emit: Callable[[Line], None]) -> TrialVerdict:
    """The verdict on the cases of a campaign alone, which rules no fault out: what a benchmark repeats.

    Raises
    ------
    CaseError: not one case was tried.
    """
    state = Examination(group=group, host=host, settings=settings, emit=emit, remaining=set())
    _campaign(state)
    return combine(state.verdicts, required=frozenset())


def must_rule_out(group: Group) -> frozenset[str]:
    """The faults that a group has to rule out before it may agree."""
    requirement = group.requirement
    if requirement.relation == REFERENCE:
        return visible_faults(
            requirement.cell,
            requirement.initial,
            group.zeroed,
            features=requirement.features,
            dtype=group.dtype,
            padding=group.candidate.variant.padding,
            arithmetic=group.candidate.variant.arithmetic.get(group.dtype, ""),
        )
    if requirement.relation == GRADIENT:
        from conformance.gradient import visible_gradient_faults  # noqa: PLC0415 - where gradients are asked for

        return visible_gradient_faults(requirement.cell, group.zeroed)
    return frozenset(requirement.aims)


def _only(state: Examination, case: Case) -> Failed | None:
    return state.trial(case.zeroed(state.group.zeroed), "file").failure


def _shipped(state: Examination) -> Failed | None:
    group = state.group
    first: Failed | None = None
    leaning = plainly(group.requirement)
    padding = group.candidate.variant.padding
    probed = not plainly(group.requirement)
    shipped = shipped_cases(group.requirement, group.dtype, zeroed=group.zeroed, padding=padding)
    for case, after in _paired(state, shipped):
        if state.hopeless:
            break
        judged = state.judged(case, after=after)
        if not probed and judged.shown is not None:
            probed = True
            shown = judged.shown
            state.emit(probe(group.candidate.name, group.requirement.name, shown.case, shown.observed))
        if leaning and isinstance(judged.verdict, Agrees) and judged.shown is not None:
            # Once for every group, on its most telling case: it costs more than the rest of the judgement.
            leaning = False
            told = suspicion(case, judged.shown.observed)
            if told:
                judged = replace(judged, verdict=Inconclusive(why=told))
        state.record(judged, "shipped")
        first = first or judged.failure
    return first


def _replayed(state: Examination) -> Failed | None:
    """Try what is kept of earlier runs, up to the first case that diverges still.

    Not in a shard: what another one of the same campaign keeps would stop it.
    """
    group, chosen = state.group, state.settings
    database = _database(group, state.host.version, chosen)
    # Of what is not there nothing is replayed, and Hypothesis need not be imported to find that out.
    if database is None or not database.is_dir() or chosen.examples < 1 or state.hopeless:
        return None
    if chosen.campaign is not None and chosen.campaign.shard[1] > 1:
        return None
    from hypothesis.database import DirectoryBasedExampleDatabase  # noqa: PLC0415 - Hypothesis, only where it is used

    from conformance.memory import Place, replay  # noqa: PLC0415 - the same

    failure: Failed | None = None

    def fails(kept: Place) -> bool:
        """Whether it is to be kept: what could not be observed may diverge still."""
        nonlocal failure
        if state.hopeless:
            return True
        if kept.count:
            drawn = block_of(kept.signature, group, kept.index, kept.count).case(kept.place)
        else:
            drawn = _built(group, kept.signature)
        judged = state.trial(replace(drawn, origin=f"kept: {drawn.origin}"), "generated")
        failure = judged.failure
        return not isinstance(judged.verdict, Agrees)

    replay(DirectoryBasedExampleDatabase(database), group.requirement.cell, fails)
    return None if failure is None else _smallest(state, failure)


def _generated(state: Examination) -> Failed | None:
    """Try generated cases until one diverges, then make it small."""
    group, chosen = state.group, state.settings
    # A relation runs every case several times, on one shape: fewer of them.
    examples = chosen.examples if plainly(group.requirement) else -(-chosen.examples // RELATION_SHARE)
    if chosen.examples < 1 or chosen.remembered is not None or state.hopeless:
        return None
    name = f"{group.requirement.name} {group.dtype}"
    drawn = ordinary(chosen.seed, name, examples, group.requirement.cell, _lattice(state))
    built = (_built(group, signature) for signature in drawn)
    for signature, (case, after) in zip(drawn, _paired(state, built), strict=True):
        failure = state.trial(case, "generated", after=after).failure
        if failure is not None:
            _keep(state, signature, 0, 0, 0)
            return _smallest(state, failure)
        if state.hopeless:
            break
    return None


def _paired(state: Examination, cases: Iterable[Case]) -> Iterator[tuple[Case, Case | None]]:
    """Every case, as the candidate declares to compute it, and the one after it."""
    declared = map(state.group.candidate.variant.declared, cases)
    case = next(declared, None)
    while case is not None:
        after = next(declared, None)
        yield case, after
        case = after


def _built(group: Group, signature: Signature) -> Case:
    """The generated case of a signature: unbatched, and with all parameters, only where the candidate has it."""
    requirement, variant = group.requirement, group.candidate.variant
    return build(
        signature if variant.unbatched else replace(signature, batched=True),
        cell=requirement.cell,
        dtype=group.dtype,
        initial=requirement.initial,
        zeroed=group.zeroed,
        features=requirement.features,
        padding=variant.padding,
    )


def _lattice(state: Examination) -> Lattice:
    return lattice_of(state.group.requirement, state.group.dtype, wide=state.settings.wide)


def _campaign(state: Examination) -> Failed | None:
    """Try the blocks of a campaign, up to the first case that diverges.

    While the worker is at one block the one before it is judged.
    """
    group, chosen = state.group, state.settings
    campaign = chosen.campaign
    if campaign is None or not group.requirement.against_reference or state.hopeless:
        return None
    lattice = _lattice(state)
    for line in campaign.begun(group):
        state.recall(line)
    fresh = campaign.freshened(group)
    todo = (block_at(chosen.seed, group, index, count, lattice, fresh=fresh) for index, count in campaign.blocks(group))
    block = next(todo, None)
    begun = False
    while block is not None and not state.hopeless:
        if chosen.stopped():
            raise Interrupted
        if not begun:
            state.host.begin(block)
        answer = state.host.finish(block)
        after = next(todo, None)
        # The worker is needed for what the answer lacks before it can begin with the next block.
        begun = after is not None and not answer.apart
        if after is not None and begun:
            state.host.begin(after)
        failure = state.block(block, answer)
        if failure is not None:
            if after is not None and begun:
                state.host.finish(after)
            signature = signature_at(chosen.seed, group, block.index, lattice, fresh=fresh)
            digests = [block.case(place).digest for place in range(block.count)]
            _keep(state, signature, block.index, block.count, digests.index(failure.judged.case.digest))
            return _smallest(state, failure)
        block = after
    return None


def _keep(state: Examination, signature: Signature, index: int, count: int, place: int) -> None:
    """Have the example database keep a case: one of a block, or a generated one, of a block of none."""
    from hypothesis.database import DirectoryBasedExampleDatabase  # noqa: PLC0415 - Hypothesis, as in `_replayed`

    from conformance.memory import Place, keep  # noqa: PLC0415 - the same

    database = _database(state.group, state.host.version, state.settings)
    if database is not None:
        kept = Place(signature=signature, index=index, count=count, place=place)
        keep(DirectoryBasedExampleDatabase(database), kept)


def _smallest(state: Examination, failure: Failed) -> Failed:
    """The failure on a case that is made small, and recorded, where that is wanted.

    It is asked once more before: a candidate that does not fail again on the same case cannot be led to a smaller one.
    """
    again = state.judged(failure.judged.case)
    if again.shown is None:
        return failure
    if again.failure is None or not _alike(again.failure.verdict.faults, failure.verdict.faults):
        text = "a generated case diverged once and not again: the candidate is not deterministic"
        state.emit(Incident(candidate=state.group.candidate.name, what=text))
        return failure
    if not state.settings.shrink:
        return failure
    small = _reduced(state, failure, [shape for shape, _ in _lattice(state)])
    state.record(small.judged, "shrunk")
    return small


def _reduced(state: Examination, failure: Failed, shapes: Sequence[Shape]) -> Failed:
    """The failure on a smaller case that gets the same name; the same one where there is none."""
    names, case = failure.verdict.faults, failure.judged.case
    relation = state.group.requirement.relation
    differs = deviation if relation == REFERENCE else None
    if relation == GRADIENT:
        from conformance.gradient import gradient_deviation as differs  # noqa: PLC0415 - where gradients are asked for
    # The latest hypothesis that stood in the way is asked first the next time.
    rivals: dict[str, None] = {}
    lost = False

    def fails(smaller: Case) -> bool:
        nonlocal rivals, lost
        if lost:
            return False
        if differs is None:
            judged = state.judged(smaller, remaining=frozenset())
            lost = judged.shown is None
            return judged.failure is not None and _alike(judged.failure.verdict.faults, names)
        try:
            other = differs(smaller, state.run(smaller), names, rivals=rivals)
        except NotObserved:
            lost = True
            return False
        if other:
            rivals = {other: None} | rivals
        return other is None

    small = reduced(
        case,
        fails,
        at=failure.verdict.evidence.first,
        shapes=shapes,
        questions=_QUESTIONS if differs is deviation else _COSTLY_QUESTIONS,
    )
    if small is case:
        return failure
    again = state.judged(replace(small, origin=f"reduced from {case.origin}")).failure
    # It may not fail again where the candidate is not deterministic.
    return again if again is not None and _alike(again.verdict.faults, names) else failure


def _alike(found: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether these hypotheses tell the same name, and none that was not among them before."""
    return sharpest(found) == sharpest(wanted) and set(found) <= set(wanted)


def _database(group: Group, version: str, chosen: Settings) -> Path | None:
    """The folder of Hypothesis' example database."""
    if chosen.remembered is not None:
        return chosen.remembered
    # A folder per candidate and release, also where the candidate's name has none: Hypothesis forgets kept
    # examples that pass, and what one release passes must stay with the release that fails it.
    root = chosen.database
    return None if root is None else root / f"{slug(group)}-{version or 'unknown'}"


def _finding(
    group: Group,
    verdict: Verdict,
    *,
    trials: int = 0,
    seconds: float = 0.0,
    visible: frozenset[str] = frozenset(),
    example: Example | None = None,
) -> Finding:
    return Finding(
        candidate=group.candidate.name,
        requirement=group.requirement.name,
        dtype=group.dtype,
        verdict=verdict,
        trials=trials,
        seconds=seconds,
        visible=tuple(sorted(visible)),
        example=example,
    )
