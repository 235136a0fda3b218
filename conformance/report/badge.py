"""A badge: the answer in two words, as a small SVG of its own or for shields.io.

Nothing in it comes from a record but numbers, and it loads nothing. https://shields.io/badges/endpoint-badge
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

from conformance.gate import outcome
from conformance.known import check_known
from conformance.record import Record
from conformance.report.answer import Word, answer
from conformance.report.outcome import results
from conformance.report.wording import count

LABEL: Final = "rnn-conformance"
# Names that shields.io knows, and their colours; white text is readable on each.
_COLOURS: Final[dict[Word, tuple[str, str]]] = {
    "passes": ("success", "#2a7a2a"),
    "fails": ("critical", "#b3261e"),
    "could not tell": ("inactive", "#6a6a6a"),
}
# DejaVu Sans at 11 pixels, which is what viewers without Verdana use, takes about this much a letter.
_LETTER: Final = 7.0


def message(record: Record) -> str:
    """The answer in a few words: ``3 of 3 agree``, ``1 of 4 diverges``, ``incomplete``."""
    said = answer(record)
    if record.gate is not None:
        return "list does not hold" if outcome(record).problems else outcome(record).answer
    all_results = results(record)
    counts, total = Counter(result.outcome for result in all_results), len(all_results)
    if record.known is not None and said.exit_code == 1:
        return f"{count(len(check_known(record)), 'difference')} to the known list"
    if said.exit_code == 1:
        wrong = counts["diverges"]
        return f"{wrong:,} of {total:,} {'diverges' if wrong == 1 else 'diverge'}"
    if said.exit_code == 0:
        if record.known is not None:
            return "as known"
        fine = counts["agrees"]
        partly = f", {counts['unrepresentable']:,} in part" if counts["unrepresentable"] else ""
        return f"{fine:,} of {total:,} {'agrees' if fine == 1 else 'agree'}{partly}"
    return "incomplete" if record.problem else "could not tell"


def shields(record: Record) -> str:
    """The JSON that shields.io takes from an endpoint."""
    told = {
        "schemaVersion": 1,
        "label": LABEL,
        "message": message(record),
        "color": _COLOURS[answer(record).word][0],
        "isError": answer(record).exit_code != 0,
    }
    return f"{json.dumps(told, indent=1)}\n"


def svg(record: Record) -> str:
    """The badge as an SVG that needs nothing but itself."""
    told, colour = message(record), _COLOURS[answer(record).word][1]
    left, right = (round(_LETTER * len(text)) + 12 for text in (LABEL, told))
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{LABEL}: {told}">
<title>{LABEL}: {told}</title>
<clipPath id="r"><rect width="{left + right}" height="20" rx="3"/></clipPath>
<g clip-path="url(#r)">
<rect width="{left}" height="20" fill="#444"/>
<rect x="{left}" width="{right}" height="20" fill="{colour}"/>
</g>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{left / 2:g}" y="14" textLength="{left - 12}">{LABEL}</text>
<text x="{left + right / 2:g}" y="14" textLength="{right - 12}">{told}</text>
</g>
</svg>
"""
