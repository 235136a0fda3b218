"""Rows of findings in words, those of which the same is to be said together, for reports that are read in CI."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from conformance.report.outcome import fault_names
from conformance.report.rows import FindingRow, Standing
from conformance.report.wording import apart, label, listed, number, share


class Told(Struct, frozen=True, kw_only=True):
    """Findings of one candidate that stand alike and are explained alike; lead: the first of them.

    asked: requirements with their dtypes; said: what is found. Both are harmless and on one line.
    """

    candidate: str
    standing: Standing
    asked: str
    said: str
    lead: FindingRow


def alike(rows: Iterable[FindingRow], standing: Standing) -> tuple[Told, ...]:
    """The findings of one standing, grouped, in their order."""
    found: dict[tuple[str, ...], list[FindingRow]] = {}
    for row in rows:
        if row.standing == standing:
            what = () if row.outcome == "diverges" else (row.what,)
            found.setdefault((row.candidate, row.outcome, *row.faults, *what), []).append(row)
    return tuple(
        Told(
            candidate=label(own[0].candidate),
            standing=standing,
            asked=_asked(own),
            said=row_text(own[0]),
            lead=own[0],
        )
        for own in found.values()
    )


def _asked(own: Sequence[FindingRow]) -> str:
    dtypes: dict[str, list[str]] = {}
    for row in own:
        if row.requirement:
            dtypes.setdefault(row.requirement, []).append(label(row.dtype))
    told = [f"{label(name)} ({', '.join(dict.fromkeys(found))})" for name, found in dtypes.items()]
    return listed(told, most=6) or "every requirement"


def row_text(row: FindingRow) -> str:
    """What was found, with its first wrong number, in one line."""
    at = f"{label(row.what)}" if row.what else ""
    if row.outcome == "diverges":
        expected, observed = apart(row.expected, row.observed)
        place = f"{label(row.output)}[{row.first_batch}, {row.first_step}, {row.first_unit}]"
        numbers = f"expected {expected}, observed {observed}, bound {number(row.bound, 3)}"
        return f"diverges: {fault_names(row.faults)}; first at {place}: {numbers}{'; ' if at else ''}{at}"
    if row.outcome in ("agrees", "unrepresentable") and row.share is not None:
        ruled = f"{row.ruled_out} of {max(row.visible, row.ruled_out)} visible faults ruled out"
        return f"{row.outcome}: {ruled}; largest share of the bound {share(row.share)}{'; ' if at else ''}{at}"
    return f"{row.outcome}: {at}" if at else row.outcome
