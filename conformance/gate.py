"""The gate: what changes for a candidate when its framework is upgraded. A pure function of a record.

Two releases are asked the same questions, or one of them is a record accepted earlier. Every requirement of every
variant and dtype falls into one class. Only what decides (MUST) makes an answer, and nothing is safe by default: where
nothing was compared on both sides, or one of them could not tell, the answer is "could not tell"; where all is known,
and what was wrong is wrong in another way, it is "changed", for people to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from conformance.candidate import identity
from conformance.drift import Drift, drifts
from conformance.errors import RecordError, SpecError
from conformance.known import Problem, check_known, same_size
from conformance.record import CandidateLine, Finding, Pair, Probe, Record
from conformance.record import Gate as GateLine
from conformance.verdict import Agrees, Broken, Core, Diverges, Inconclusive, Unsupported, core

Kind = Literal["regressed", "changed", "inconclusive", "gone", "fixed", "new", "unchanged"]
KINDS: Final[tuple[Kind, ...]] = ("regressed", "changed", "inconclusive", "gone", "fixed", "new", "unchanged")
"""What asks for a reader first."""

Answer = Literal["safe", "regressed", "could not tell", "changed"]
# The same cases ran on both sides: a divergence of one cause keeps its size, whatever the rounding.
SIZE_FACTOR: Final = 4.0


class Change(Struct, frozen=True, kw_only=True):
    """One requirement, variant and dtype before and after. decides: whether it counts for the answer.

    why: what makes the class, where the verdicts do not tell by themselves.
    """

    pair: Pair
    requirement: str
    dtype: str
    kind: Kind
    before: Finding | None
    after: Finding | None
    decides: bool
    why: str = ""

    @property
    def variant(self) -> str:
        """``adapter:variant``."""
        return identity(self.pair.after or self.pair.before)


class Outcome(Struct, frozen=True, kw_only=True):
    """A gate's answer and all that it rests on.

    doubts: why it could not tell, as far as it could not. problems: where the list of known divergences does not hold.
    lines_before, lines_after: the candidates that came up, by name.
    """

    gate: GateLine
    answer: Answer
    changes: tuple[Change, ...]
    drifts: tuple[Drift, ...]
    doubts: tuple[str, ...]
    problems: tuple[Problem, ...]
    lines_before: dict[str, CandidateLine]
    lines_after: dict[str, CandidateLine]

    def of(self, kind: Kind, *, decides: bool | None = None) -> tuple[Change, ...]:
        """The changes of a class."""
        return tuple(c for c in self.changes if c.kind == kind and decides in (None, c.decides))

    @property
    def exit_code(self) -> int:
        """0 safe; 1 regressed, or the list of known divergences does not hold; 3 could not tell, or changed."""
        if self.problems:
            return 1
        match self.answer:
            case "safe":
                return 0
            case "regressed":
                return 1
            case "could not tell" | "changed":
                return 3
            case _:
                assert_never(self.answer)


def paired(before: Sequence[str], after: Sequence[str]) -> tuple[Pair, ...]:
    """Candidates by variant; a single one on each side is a pair, whatever it is called.

    Raises
    ------
    SpecError: nothing to pair, two releases of one variant on one side, or the same candidate on both.
    """
    if not before or not after:
        raise SpecError("a gate needs candidates on both sides", got=f"{len(before)} before, {len(after)} after")
    both = set(before) & set(after)
    if both:
        raise SpecError(
            "both sides of the gate are the same candidate",
            got=", ".join(sorted(both)),
            hint="name two releases, or the baseline's record: --baseline FILE",
        )
    if len(before) == len(after) == 1:
        return (Pair(before=before[0], after=after[0]),)
    first, second = _by_variant(before), _by_variant(after)
    if not first.keys() & second.keys():
        raise SpecError(
            "the two sides have no variant in common", got=f"{', '.join(first)} before, {', '.join(second)} after"
        )
    return tuple(
        Pair(before=first.get(name, ""), after=second.get(name, "")) for name in dict.fromkeys((*second, *first))
    )


def _by_variant(names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        if identity(name) in found:
            raise SpecError(
                "one side of a gate has two releases of a variant",
                got=f"{found[identity(name)]} and {name}",
                hint="keep one release to a record that shall be a baseline",
            )
        found[identity(name)] = name
    return found


def baseline(
    record: Record, after: Sequence[str], *, source: str, requested: str, asked: Iterable[str], dtypes: Sequence[str]
) -> GateLine:
    """A gate line that holds what an accepted record says about the variants of `after`, on what is asked now.

    A record that is a gate's own stands for the later of its two sides. Unlike in a run of both sides, a candidate may
    have the same name before and after: its release has changed.

    Raises
    ------
    SpecError: it says nothing about any of these variants, or about two releases of one.
    """
    names = _candidates(record)
    wanted = {identity(name) for name in after}
    own = names if len(names) == len(after) == 1 else tuple(name for name in names if identity(name) in wanted)
    if not own:
        raise SpecError(
            "the baseline has none of these candidates",
            where=source,
            got=", ".join(names),
            wanted=", ".join(sorted(wanted)),
        )
    first, second = _by_variant(own), _by_variant(after)
    if len(own) == len(after) == 1:
        pairs: tuple[Pair, ...] = (Pair(before=own[0], after=after[0]),)
    else:
        pairs = tuple(Pair(before=first.get(name, ""), after=second[name]) for name in second)
    requirements = set(asked)

    def chosen(line: Finding | Probe) -> bool:
        selected = not dtypes or line.dtype in (*dtypes, "any")
        return line.candidate in own and line.requirement in requirements and selected

    return GateLine(
        before=", ".join(own),
        after=requested,
        pairs=pairs,
        source=source,
        candidates=tuple(line for line in record.candidates if line.name in own),
        findings=tuple(replace(finding, example=None) for finding in record.findings if chosen(finding)),
        probes=tuple(line for line in record.probes if chosen(line)),
    )


def accepted(record: Record) -> dict[tuple[str, str, str], Finding]:
    """The findings of an accepted record by variant, requirement and dtype; of a gate's record those of its later side.

    Raises
    ------
    SpecError: the record has two releases of one variant.
    """
    names = _candidates(record)
    _by_variant(names)
    own = [finding for finding in record.findings if finding.candidate in names]
    return {(identity(finding.candidate), finding.requirement, finding.dtype): finding for finding in own}


def _candidates(record: Record) -> tuple[str, ...]:
    """The candidates that a record stands for as a baseline."""
    if record.gate is None:
        return record.header.candidates
    return tuple(pair.after for pair in record.gate.pairs if pair.after)


def outcome(record: Record) -> Outcome:
    """Classify everything that a gate's record holds.

    Raises
    ------
    RecordError: it is no gate's record.
    """
    gate = record.gate
    if gate is None:
        raise RecordError("the record is no gate's", where=record.path, hint="`rnn-conformance gate` writes one")
    earlier, probes, lines = record.findings, record.probes, record.candidates
    if gate.source:
        earlier, probes, lines = gate.findings, gate.probes, gate.candidates
    decides = _deciding(record)
    changes = tuple(
        sorted(
            _changes(gate, earlier, record.findings, decides, whole=not record.problem),
            key=lambda c: (KINDS.index(c.kind), not c.decides),
        )
    )
    doubts = tuple(_doubts(record, changes))
    kinds = {change.kind for change in changes if change.decides}
    if "regressed" in kinds:
        answer: Answer = "regressed"
    elif doubts:
        answer = "could not tell"
    else:
        answer = "changed" if "changed" in kinds else "safe"
    return Outcome(
        gate=gate,
        answer=answer,
        changes=changes,
        drifts=drifts(probes, record.probes, gate.pairs),
        doubts=doubts,
        problems=() if record.known is None else check_known(record),
        lines_before={line.name: line for line in lines},
        lines_after={line.name: line for line in record.candidates},
    )


def _deciding(record: Record) -> Callable[[str], bool]:
    """Whether a requirement decides: those of level MUST, or all where none of them is."""
    aside = {entry.name for entry in record.header.requirements if entry.level in ("SHOULD", "informational")}
    must = any(entry.name not in aside for entry in record.header.requirements)
    return lambda name: not must or name not in aside


def _changes(
    gate: GateLine,
    earlier: Iterable[Finding],
    later: Iterable[Finding],
    decides: Callable[[str], bool],
    *,
    whole: bool,
) -> Iterator[Change]:
    old = {(f.candidate, f.requirement, f.dtype): f for f in earlier}
    new = {(f.candidate, f.requirement, f.dtype): f for f in later}
    for pair in gate.pairs:
        keys = [(r, d) for c, r, d in new if c == pair.after] + [(r, d) for c, r, d in old if c == pair.before]
        for requirement, dtype in dict.fromkeys(keys):
            before = old.get((pair.before, requirement, dtype))
            after = new.get((pair.after, requirement, dtype))
            if not _offered(before) and not _offered(after):
                continue  # declared out on both sides: nothing was asked
            awaited = (after is None and pair.after) or (before is None and pair.before and not gate.source)
            if awaited and not whole:
                continue  # the run broke off before it came to this: neither new nor gone
            kind, why = classify(before, after)
            yield Change(
                pair=pair,
                requirement=requirement,
                dtype=dtype,
                kind=kind,
                before=before,
                after=after,
                decides=decides(requirement),
                why=why,
            )


def _offered(finding: Finding | None) -> bool:
    return finding is not None and not isinstance(core(finding.verdict), Unsupported)


def classify(before: Finding | None, after: Finding | None) -> tuple[Kind, str]:
    """The class of one requirement, and what makes it where the two verdicts do not tell by themselves."""
    if before is None or not _offered(before):
        return "new", "" if before is None else "it was declared unsupported"
    if after is None or not _offered(after):
        return "gone", "" if after is None else "it is declared unsupported"
    first, second = core(before.verdict), core(after.verdict)
    lost = [why for side, verdict in (("before", first), ("after", second)) if (why := _untold(side, verdict))]
    match second:
        case _ if lost:
            # What could not be told before and agrees now is no reason to stay.
            nothing_before = not _untold("after", second)
            return ("new", lost[0]) if nothing_before and isinstance(second, Agrees) else ("inconclusive", lost[-1])
        case Agrees():
            return ("unchanged" if isinstance(first, Agrees) else "fixed"), ""
        case Diverges() if isinstance(first, Diverges):
            return _divergences(first, second)
        case Diverges():
            return (
                ("regressed", "") if isinstance(first, Agrees) else ("changed", "it broke; now it answers, and wrongly")
            )
        case Broken() if isinstance(first, Broken):
            same = (first.kind, first.signal) == (second.kind, second.signal)
            return ("unchanged", "") if same else ("changed", "it breaks in another way")
        case Broken():
            return "regressed", ""
        case Inconclusive() | Unsupported() | None:
            raise AssertionError("handled above")
        case _:
            assert_never(second)


def _untold(side: str, verdict: Core) -> str:
    """Why a verdict shows nothing about its candidate, "" where it does."""
    match verdict:
        case Agrees(compared=compared):
            return "" if compared > 0 else f"{side}: nothing was compared"
        case Diverges() | Unsupported():
            return ""
        case Inconclusive(why=why):
            return f"{side}: {why}"
        case Broken(kind="environment" | "abandoned", message=message):
            return f"{side}: {message}"
        case Broken():
            return ""
        case None:
            return f"{side}: nothing was tried"
        case _:
            assert_never(verdict)


def _divergences(first: Diverges, second: Diverges) -> tuple[Kind, str]:
    """Two divergences: unchanged only where one fault, and one size, can be behind both."""
    if not set(first.faults) & set(second.faults) and (first.faults or second.faults):
        return "changed", "another fault"
    sizes = [v.evidence.largest_difference for v in (first, second)]
    if not same_size(*sizes, factor=SIZE_FACTOR):
        return "changed", "another size"
    return "unchanged", ""


def _doubts(record: Record, changes: Sequence[Change]) -> Iterator[str]:
    """Why the absence of a regression would not be safe."""
    if record.problem:
        yield f"the record is {record.problem}"
    own = [change for change in changes if change.decides]
    if not any(_compared(c.before) and _compared(c.after) for c in own):
        yield "nothing that decides was compared on both sides"
    elif not any(_answered(c.before) or _answered(c.after) for c in own):
        # Two releases that do not even start are as bad as each other, and neither is shown to be of any use.
        yield "neither side gave any answer to what decides"
    seen = {change.pair.after for change in changes if change.after is not None}
    for pair in record.gate.pairs if record.gate is not None else ():
        if pair.after and pair.after not in seen:
            yield f"there is no finding on {pair.after}"
    for kind, said in (
        ("inconclusive", "could not be told"),
        ("gone", "are not offered any more"),
    ):
        found = [c for c in own if c.kind == kind and (kind != "gone" or _compared(c.before))]
        if found:
            why = f" ({found[0].why})" if kind == "inconclusive" and found[0].why else ""
            yield f"{len(found)} of {len(own)} checks {said}{why}"
    wrong = [c for c in own if c.kind == "new" and not isinstance(c.after and core(c.after.verdict), Agrees)]
    if wrong:
        yield f"{len(wrong)} of {len(own)} checks have nothing to be held against, and do not agree"


def _compared(finding: Finding | None) -> bool:
    """Whether a side shows something about its candidate: an answer, or that there is none."""
    return finding is not None and _offered(finding) and not _untold("", core(finding.verdict))


def _answered(finding: Finding | None) -> bool:
    """Whether a side computed something, right or wrong."""
    return _compared(finding) and finding is not None and not isinstance(core(finding.verdict), Broken)
