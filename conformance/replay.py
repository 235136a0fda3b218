"""Kept failures, tried again: is each one fixed, is it still there, or has it become another one?

A failure is its case: the same input is given to the same candidate, as it is now. What holds:

- Fixed is only what was observed and lies inside its bound; a candidate that breaks, or runs another path, is an error.
- Where a fault was named that the requirement is about, the case must still be able to show it: an agreement that
  rules out none of these is an error, too.
- Nothing that a case file or record says is executed; folders of adapters have to be named by the user again.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, assert_never

from msgspec import Struct

from conformance.candidate import Adapter, parse_spec
from conformance.errors import ConformanceError, SpecError
from conformance.kept import Failure, Kept
from conformance.plan import Group, candidates_for, plan
from conformance.record import CandidateLine, Line, Trial
from conformance.report.wording import share as told
from conformance.requirement import REQUIREMENTS
from conformance.run import Silent, run
from conformance.settings import Settings
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, Verdict

Answer = Literal["FIXED", "STILL FAILS", "CHANGED", "ERROR"]
# Sums may be ordered otherwise on another machine; a change of size that matters is larger.
SAME_SIZE: Final = 0.05

_PLACE: Final = re.compile(
    r"(?P<candidate>[^=]+?)(?P<pin>==[^-]+)?-(?P<requirement>[a-z0-9_]+)-(?P<dtype>b?float\d+)-(?P<version>.+)"
)


class Replayed(Struct, frozen=True, kw_only=True):
    """What became of a kept failure. version: of the framework that it was tried on, "" if it did not come to that."""

    kept: Kept
    answer: Answer
    detail: str
    version: str


def replay(
    kept: Sequence[Kept],
    adapters: Mapping[str, Adapter],
    *,
    told: Callable[[str], None],
    case_seconds: float | None = None,
) -> tuple[Replayed, ...]:
    """Try every kept failure again, in their order; whatever goes wrong with one is its own error."""
    return tuple(_replayed(one, adapters, told, case_seconds) for one in kept)


def distinct(kept: Sequence[Kept]) -> tuple[Kept, ...]:
    """Each failure once: of those with the same candidate, requirement and case the first one."""
    found: dict[tuple[str, ...], Kept] = {}
    for one in kept:
        said = one.failure
        key = (one.source,) if said is None else (said.candidate, said.requirement, said.dtype, *_which(one))
        found.setdefault(key, one)
    return tuple(found.values())


def _which(one: Kept) -> tuple[str, ...]:
    return (one.source, "examples") if one.case is None else (one.case.digest,)


def remembered(folder: Path, adapters: Mapping[str, Adapter]) -> tuple[Kept, ...]:
    """What an example database (``examples`` in the cache) holds of failures of these adapters' candidates.

    Its folders are named after candidate, requirement, dtype and release, see `examine.slug`. Those of candidates named
    by a path are passed over: their names do not tell the path.
    """
    found: list[Kept] = []
    for place in sorted(folder.glob("*/")):
        match = _PLACE.fullmatch(place.name)
        if match is None or match["requirement"] not in REQUIREMENTS or not any(place.rglob("*")):
            continue
        name = next(
            (
                f"{adapter.name}:{variant}{match['pin'] or ''}"
                for adapter in adapters.values()
                for variant in adapter.variants
                if match["candidate"] == f"{adapter.name}_{variant}"
            ),
            None,
        )
        if name is not None:
            failure = Failure(
                candidate=name,
                version=match["version"],
                requirement=match["requirement"],
                dtype=match["dtype"],
                faults=(),
                size=None,
            )
            found.append(Kept(source=str(place), case=None, failure=failure))
    return tuple(found)


def exit_code(results: Sequence[Replayed]) -> int:
    """0: all fixed; 1: something still fails or has changed; 3: an error, or nothing was tried."""
    answers = {result.answer for result in results}
    if answers & {"STILL FAILS", "CHANGED"}:
        return 1
    return 0 if answers == {"FIXED"} else 3


def compared(failure: Failure, now: Verdict, visible: Sequence[str] = ()) -> tuple[Answer, str]:
    """What became of a failure whose case got this verdict now. visible: the faults that the requirement is about."""
    match now:
        case Agrees(excluded=excluded, share=share):
            named = frozenset(failure.faults) & frozenset(visible)
            if named and not excluded & named:
                return "ERROR", f"agrees, but this case cannot show {_names(sorted(named))}"
            return "FIXED", f"largest share of the bound {told(share)}"
        case Diverges(faults=faults, evidence=evidence):
            size = evidence.largest_difference
            sizes = f"{_size(failure.size)} before, {_size(size)} now"
            if frozenset(faults) != frozenset(failure.faults):
                return "CHANGED", f"{_names(failure.faults)} before, {_names(faults)} now; difference {sizes}"
            if not _same(failure.size, size):
                return "CHANGED", f"{_names(faults)}; difference {sizes}"
            return "STILL FAILS", f"{_names(faults)}; difference {_size(size)}"
        case Inconclusive(why=why):
            return "ERROR", why
        case Broken(message=message):
            return "ERROR", message
        case Unsupported(what=what, reason=reason):
            return "ERROR", f"not offered any more: {what}, {reason}"
        case Unrepresentable(parameters=parameters, subspace=subspace):
            if subspace is None:
                return "ERROR", f"no place for {', '.join(parameters)}"
            return compared(failure, subspace, visible)
        case _:
            assert_never(now)


def _replayed(
    kept: Kept, adapters: Mapping[str, Adapter], told: Callable[[str], None], case_seconds: float | None
) -> Replayed:
    failure = kept.failure
    if failure is None:
        text = "the file does not say whose failure it is; `rnn-conformance run CANDIDATE --case FILE` tries it"
        return Replayed(kept=kept, answer="ERROR", detail=text, version="")
    told(f"{failure.candidate}: {failure.requirement} {failure.dtype}")
    if kept.case is None:
        return _tried(kept, failure, adapters, case_seconds)
    lines: list[Line] = []
    try:
        group = _group(failure, adapters)
        settings = Settings(examples=0, seed=0, only=kept.case)
        (finding,) = run([group], settings, lines.append, Silent(), case_seconds=case_seconds)
    except ConformanceError as error:
        detail = str(error).replace("\n", "; ")
        return Replayed(kept=kept, answer="ERROR", detail=detail, version="")
    version = next((line.version for line in lines if isinstance(line, CandidateLine)), "")
    # The trial's verdict: that of the finding also asks for what one case cannot give.
    verdict = next((line.verdict for line in lines if isinstance(line, Trial)), finding.verdict)
    answer, detail = compared(failure, verdict, finding.visible)
    return Replayed(kept=kept, answer=answer, detail=detail, version=version)


def _tried(kept: Kept, failure: Failure, adapters: Mapping[str, Adapter], case_seconds: float | None) -> Replayed:
    """Try what an example database holds of one group."""
    lines: list[Line] = []
    try:
        with TemporaryDirectory() as folder:
            # A copy: Hypothesis forgets examples that pass, and another release may still fail them.
            copy = Path(folder) / "examples"
            shutil.copytree(kept.source, copy)
            settings = Settings(examples=1, seed=0, remembered=copy)
            (finding,) = run([_group(failure, adapters)], settings, lines.append, Silent(), case_seconds=case_seconds)
    except (ConformanceError, OSError) as error:
        return Replayed(kept=kept, answer="ERROR", detail=str(error).replace("\n", "; "), version="")
    version = next((line.version for line in lines if isinstance(line, CandidateLine)), "")
    verdicts = [line.verdict for line in lines if isinstance(line, Trial)]
    failing = next((verdict for verdict in verdicts if isinstance(verdict, Diverges)), None)
    answer: Answer = "ERROR"
    if failing is not None:
        answer, detail = "STILL FAILS", f"{_names(failing.faults)}; remembered examples"
    elif verdicts and all(isinstance(verdict, Agrees) for verdict in verdicts):
        answer, detail = "FIXED", f"{len(verdicts)} remembered examples agree"
    elif verdicts or isinstance(finding.verdict, Broken):
        detail = compared(failure, next((v for v in verdicts if not isinstance(v, Agrees)), finding.verdict))[1]
    else:
        detail = f"no remembered example fits this version of the harness; to forget them remove {kept.source}"
    return Replayed(kept=kept, answer=answer, detail=detail, version=version)


def _group(failure: Failure, adapters: Mapping[str, Adapter]) -> Group:
    """The group in which a failure was found; SpecError where there is no such candidate or requirement now."""
    spec = parse_spec(failure.candidate)
    if spec.adapter not in adapters:
        hint = "name a folder of your own with --adapter PATH"
        raise SpecError("unknown adapter", got=spec.adapter, wanted=" | ".join(adapters), hint=hint)
    requirement = REQUIREMENTS.get(failure.requirement)
    if requirement is None:
        raise SpecError("no such requirement any more", got=failure.requirement)
    groups = plan(candidates_for(adapters, [spec]), [requirement], [failure.dtype])
    if len(groups) != 1:
        raise SpecError("no longer one question", got=f"{failure.candidate} {failure.requirement} {failure.dtype}")
    return groups[0]


def _names(faults: Sequence[str]) -> str:
    return ", ".join(faults) or "none of the catalogue's faults"


def _size(size: float | None) -> str:
    return "not finite" if size is None else f"{size:.6g}"


def _same(before: float | None, now: float | None) -> bool:
    if before is None or now is None:
        return before is now
    return math.isclose(before, now, rel_tol=SAME_SIZE)
