"""The summary on a terminal: one row per candidate, sums by cell, and what the divergences come down to.

A run has a hundred checks per candidate and more: what is fine is counted, what is not is named, and divergences that
one fault explains share one paragraph.

Plain text in every respect: nothing from the record is read as markup, escape sequences are shown instead of
sent, and characters that the output's encoding lacks are written as escapes. Commands are never wrapped, so
that they can be copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, assert_never

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.known import check_known
from conformance.record import Finding, Record, RequirementEntry
from conformance.report.grouping import Place, by_requirement, cells, places, spoken, tally
from conformance.report.known import known_sentence, problem_text
from conformance.report.minimal import STATES, STEPWISE, figures_text, place_text
from conformance.report.notes import ending, subspaces_text
from conformance.report.outcome import (
    NOT_IN_CATALOGUE,
    OPEN,
    ORDER,
    Cause,
    Levels,
    Outcome,
    Result,
    behaves_like,
    beside,
    causes,
    diverging,
    fault_entry,
    gaps,
    levels,
    outcome_of,
    results,
    version_of,
)
from conformance.report.paths import attested, what_ran
from conformance.report.sources import source_items
from conformance.report.speed import is_benchmark
from conformance.report.speed_text import print_speed
from conformance.report.wording import count, label, listed, number, one_line, share, visible
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported, core

_STYLES: Final[dict[Outcome, str]] = {
    "diverges": "bold red",
    "broken": "bold yellow",
    "inconclusive": "yellow",
    "untested": "yellow",
    "unrepresentable": "magenta",
    "agrees": "green",
    "unsupported": "dim",
}
_CANDIDATES: Final = 100
_NAMES: Final = 24
_PARAGRAPHS: Final = 12
_PER_CANDIDATE: Final = 3
_ALIKE: Final = 12
_SENTENCES: Final = 4
_TAIL_LINES: Final = 8
_FEW: Final = 4


def print_summary(record: Record, console: Console) -> None:
    """Print the table of candidates and a paragraph per divergence; the headline is left to the caller."""
    writer = _Writer(console)
    if is_benchmark(record):
        print_speed(record, console, writer)
        return
    all_results = results(record)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("candidate", overflow="fold", min_width=10, max_width=24)
    table.add_column("version", overflow="fold", max_width=11)
    table.add_column("verdict", no_wrap=True)
    table.add_column("detail", overflow="fold", ratio=1)
    for result in _rows(all_results):
        table.add_row(
            writer.text(label(result.name)),
            writer.text(version_of(result)),
            writer.text("no finding" if result.outcome == "untested" else result.outcome, _STYLES[result.outcome]),
            writer.text(detail(result)),
        )
    console.print(table)
    if len(all_results) > _CANDIDATES:
        counts = Counter(result.outcome for result in all_results)
        told = listed([f"{counts[name]:,} {name}" for name in ORDER if counts[name]])
        writer.line(
            f"{_CANDIDATES} of {len(all_results):,} candidates are shown, the worst of them. All: {told}.", "bold"
        )
    for reason in gaps(record):
        writer.line(f"Not a full answer: {reason}.", "bold yellow")
    known = places(record)
    _beside(record, all_results, writer)
    _by_cell(all_results, known, writer)
    _ran(record, writer)
    _merged(record, writer)
    _not_offered(all_results, writer)
    _ruled_out(all_results, known, writer)
    shown = _rows(all_results)
    for result in shown[:_PARAGRAPHS] if len(all_results) > _CANDIDATES else shown:
        _breakage(result, writer)
    _divergences(record, shown, known, writer)
    if record.benches or record.scans or record.harness:
        print_speed(record, console, writer)
    console.print()


def _rows(all_results: Sequence[Result]) -> Sequence[Result]:
    """All candidates, or the worst where there are too many to read."""
    if len(all_results) <= _CANDIDATES:
        return all_results
    return sorted(all_results, key=lambda result: ORDER.index(result.outcome))[:_CANDIDATES]


def print_known(record: Record, console: Console) -> None:
    """Whether the list of known divergences holds, where the run is held to one, and everything that is wrong."""
    if record.known is not None:
        writer, problems = _Writer(console), check_known(record)
        writer.line(known_sentence(record), "bold red" if problems else "")
        for problem in problems:
            writer.line(problem_text(problem), "red", indent=2)


def _ran(record: Record, writer: _Writer) -> None:
    """The paths that really ran, where somebody asked for few candidates."""
    ran = attested(record)
    if 0 < len(ran) <= _FEW:
        writer.line("")
        writer.line("What ran:")
        for name, paths in ran.items():
            writer.line(f"{label(name)}: {what_ran(paths)}", indent=2)


def _merged(record: Record, writer: _Writer) -> None:
    """Where a merged record is from."""
    items = source_items(record)
    if items:
        writer.line("")
        writer.line(f"Merged from {count(len(record.header.merged), 'record')}:")
        for name, text in items:
            writer.line(f"{name}: {text}", indent=2)


def _beside(record: Record, all_results: Sequence[Result], writer: _Writer) -> None:
    """What requirements found that do not decide, or that all of them decide."""
    if not levels(record).must:
        writer.line("No MUST requirement was asked: the SHOULD and informational ones decide.", "yellow")
    own = [finding for result in all_results for finding in result.beside]
    if own:
        writer.line("")
        told = "; ".join(beside(record))
        text = f"SHOULD and informational requirements (they do not decide): {tally(own)}"
        writer.line(f"{text}: {told}." if told else f"{text}.", "yellow" if told else "")


def _by_cell(all_results: Sequence[Result], known: Mapping[str, Place], writer: _Writer) -> None:
    """Of each candidate one line per cell where something is not fine, and one for its other cells."""
    if len(cells(known)) < 2:
        return
    told: dict[tuple[str, ...], list[str]] = {}
    for result in all_results:
        told.setdefault(tuple(_sums(result, known)), []).append(label(result.name))
    writer.line("")
    writer.line("Checks by cell:")
    for lines, names in told.items():
        if lines:
            writer.line(f"{listed(names, most=_NAMES)}:", indent=2)
        for line in lines:
            writer.line(line, indent=4)


def _sums(result: Result, known: Mapping[str, Place]) -> Iterator[str]:
    own: dict[str, list[Finding]] = {}
    for finding in result.all:
        own.setdefault(known[finding.requirement].cell, []).append(finding)
    fine = {cell: found for cell, found in own.items() if not {outcome_of(f.verdict) for f in found}.intersection(OPEN)}
    for cell, found in own.items():
        if cell not in fine:
            yield f"{spoken(cell)}: {tally(found)}{_which(found, known)}"
    if fine:
        total = tally([finding for found in fine.values() for finding in found])
        yield f"{listed([spoken(cell) for cell in fine], most=4)}: {total}"


def _which(own: Sequence[Finding], known: Mapping[str, Place]) -> str:
    """The clauses that are not fine."""
    names = [label(known[f.requirement].clause) for f in own if outcome_of(f.verdict) in OPEN]
    return f" (not fine: {listed(list(dict.fromkeys(names)), most=6)})" if names else ""


def _not_offered(all_results: Sequence[Result], writer: _Writer) -> None:
    """What was declared out before the run, in one line for all candidates with the same gaps."""
    lines: dict[str, list[str]] = {}
    for result in all_results:
        told: dict[tuple[str, str], list[str]] = {}
        for finding in result.all:
            if isinstance(inner := core(finding.verdict), Unsupported):
                owner = f"owner {inner.owner}, {one_line(inner.link)}" if inner.link else f"owner {inner.owner}"
                told.setdefault((owner, inner.reason), []).append(label(inner.what))
        if told:
            parts = [f"{', '.join(dict.fromkeys(names))} ({owner})" for (owner, _), names in told.items()]
            lines.setdefault("; ".join(parts), []).append(label(result.name))
    if lines:
        writer.line("")
    for line, names in lines.items():
        writer.line(f"{listed(names, most=_NAMES)} {'do' if names[1:] else 'does'} not offer: {line}")


def _ruled_out(all_results: Sequence[Result], known: Mapping[str, Place], writer: _Writer) -> None:
    """Count the faults that agreeing checks rule out, once for all candidates with the same ones."""
    groups: dict[tuple[tuple[str, frozenset[str]], ...], list[str]] = {}
    for result in all_results:
        faults: dict[str, frozenset[str]] = {}
        for finding in result.all:
            if isinstance(inner := core(finding.verdict), Agrees) and inner.compared:
                cell = known[finding.requirement].cell
                faults[cell] = faults.get(cell, frozenset()) | inner.excluded
        if faults:
            groups.setdefault(tuple(sorted(faults.items())), []).append(label(result.name))
    if groups:
        writer.line("")
    for ruled_out, names in groups.items():
        counts = [f"{count(len(found), 'fault')} of {spoken(cell)}" for cell, found in ruled_out]
        writer.line(
            f"Ruled out by what agrees of {listed(names, most=_NAMES)}: {listed(counts)} (the report names them)."
        )


def _breakage(result: Result, writer: _Writer) -> None:
    """What a broken candidate said last, where that tells more than the table."""
    broken = [inner for f in result.all if isinstance(inner := core(f.verdict), Broken) and inner.stderr_tail]
    if broken:
        writer.line("")
        writer.line(f"{label(result.name)} is broken: {label(broken[0].message)}", _STYLES["broken"])
        for line in broken[0].stderr_tail.strip().splitlines()[-_TAIL_LINES:]:
            writer.line(label(line), indent=2)


class _Writer:
    """Text that the console's encoding can show, without markup."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._encoding = console.encoding

    def text(self, content: str, style: str = "") -> Text:
        content = visible(content)
        try:
            content.encode(self._encoding)
        except UnicodeEncodeError:
            content = content.encode(self._encoding, "backslashreplace").decode(self._encoding)
        except LookupError:
            content = ascii(content)[1:-1]
        return Text(content, style=style)

    def line(self, content: str, style: str = "", *, indent: int = 0) -> None:
        for piece in self.text(content, style).wrap(self._console, self._console.width - indent):
            piece.rstrip()
            piece.pad_left(indent)
            self._console.print(piece)

    def unwrapped(self, content: str) -> None:
        """A line that the terminal may wrap, but nothing else does."""
        self._console.print(self.text(content), soft_wrap=True)


def detail(result: Result) -> str:
    """What a candidate's outcome comes down to, and how many checks ended otherwise."""
    own = [f for f in result.findings if outcome_of(f.verdict) == result.outcome]
    others = [f for f in result.findings if outcome_of(f.verdict) != result.outcome]
    rest = [f"other checks: {tally(others)}"] * bool(others) + [f"beside: {tally(result.beside)}"] * bool(result.beside)
    told = _detail(result, own)
    return f"{told} ({'; '.join(rest)})" if rest else told


def _detail(result: Result, own: Sequence[Finding]) -> str:
    match result.outcome:
        case "diverges":
            return _diverges(own)
        case "agrees":
            return _agrees(own)
        case "unrepresentable":
            return _unrepresentable(own)
        case "broken" | "inconclusive" | "unsupported":
            return _told_apart(own)
        case "untested":
            return "no finding on a MUST requirement" if result.beside else "the record holds no finding"
        case _:
            assert_never(result.outcome)


def _diverges(own: Sequence[Finding]) -> str:
    pairs = diverging(own)
    timed = (*STEPWISE, *STATES)
    first = min((v.evidence.first[1] for _, v in pairs if v.evidence.output in timed), default=None)
    since = "" if first is None else f"; first at step {first}"
    size = number(_largest([v.evidence.largest_difference for _, v in pairs]), 3)
    worst = share(_largest([v.evidence.share for _, v in pairs]))
    held = next((v for f in own if isinstance(v := f.verdict, Unrepresentable)), None)
    zero = "" if held is None else f"; with {listed([label(name) for name in held.parameters], most=4)} at zero"
    checks = "" if len(pairs) == 1 else f" on {count(len(pairs), 'check')}"
    return f"{behaves_like(own)}{checks}{since}; largest difference {size}; largest share of the bound {worst}{zero}"


def _largest(values: Sequence[float | None]) -> float | None:
    """The largest value; one that is not finite is larger than any."""
    return None if None in values else max(value for value in values if value is not None)


def _agrees(own: Sequence[Finding]) -> str:
    verdicts = [v for f in own if isinstance(v := core(f.verdict), Agrees)]
    ruled_out = {(len(v.excluded), len(v.excluded | set(f.visible))) for f, v in zip(own, verdicts, strict=True)}
    few, visible = min(ruled_out, key=lambda pair: (pair[0] - pair[1], pair[0]))
    trials = count(sum(f.trials for f in own), "trial")
    told = f"{few} of {count(visible, 'visible fault')} ruled out"
    if len(ruled_out) > 1:
        whole = f"every fault that could show ruled out on each of {len(own)} checks"
        told = whole if few == visible else f"on one check only {told}"
    return f"{told}; largest share of the bound {share(max(v.share for v in verdicts))}; {trials}"


def _unrepresentable(own: Sequence[Finding]) -> str:
    """Parameters, owner and link, once for all checks that lack the same ones."""
    alike: dict[tuple[str, str], list[Unrepresentable]] = {}
    for finding in own:
        if isinstance(verdict := finding.verdict, Unrepresentable):
            names = listed([label(name) for name in verdict.parameters], most=4)
            place = f"{verdict.owner}, {one_line(verdict.link)}" if verdict.link else verdict.owner
            alike.setdefault((names, place), []).append(verdict)
    return "; ".join(f"no place for {n} (owner: {p}); {subspaces_text(v)}" for (n, p), v in alike.items())


def _told_apart(own: Sequence[Finding]) -> str:
    """The reasons of findings that have no comparison to speak of; equal ones once."""
    told = []
    for finding in own:
        verdict = core(finding.verdict)
        match verdict:
            case Broken():
                told.append(f"{ending(verdict)}: {label(verdict.message)}")
            case Inconclusive():
                told.append(label(verdict.why))
            case Unsupported():
                told.append(f"{label(verdict.what)}: {label(verdict.reason)}")
            case Agrees():
                told.append("it claims agreement on no comparison at all")
            case Diverges() | None:
                pass
            case _:
                assert_never(verdict)
    return _first_of(told)


def _first_of(told: Sequence[str]) -> str:
    unlike = list(dict.fromkeys(told))
    more = f"; and {count(len(unlike) - 1, 'other reason')}" if len(unlike) > 1 else ""
    return f"{unlike[0]}{more}" if unlike else ""


def _divergences(record: Record, all_results: Sequence[Result], known: Mapping[str, Place], writer: _Writer) -> None:
    """A paragraph per cause; those that decide come first."""
    clause = {name: place.clause for name, place in known.items()}
    found = [causes(result.findings, clause) for result in all_results]
    found += [causes(result.beside, clause) for result in all_results]
    entries = {entry.name: entry for entry in record.header.requirements}
    asked = levels(record)
    shown = 0
    for own in found:
        # No candidate may bury the others.
        told = own[: min(_PER_CANDIDATE, _PARAGRAPHS - shown)]
        shown += len(told)
        for cause in told:
            _paragraph(record, cause, entries.get(cause.members[cause.lead][0].requirement), asked, writer)
        rest = [finding for cause in own[len(told) :] for finding, _ in cause.members]
        if rest:
            names = list(dict.fromkeys(label(finding.requirement) for finding in rest))
            writer.line("")
            also = "also diverges" if told else "diverges"
            writer.line(f"{label(rest[0].candidate)} {also} on {listed(names, most=_ALIKE)} (see the report).")


def _paragraph(
    record: Record, cause: Cause, requirement: RequirementEntry | None, asked: Levels, writer: _Writer
) -> None:
    """Where, what was expected, what came, what explains it, how to see it again, and where else it shows."""
    finding, verdict = cause.members[cause.lead]
    evidence = verdict.evidence
    names = cause.name or NOT_IN_CATALOGUE
    entry = fault_entry(record, finding.requirement, names)
    aside = asked.aside(finding.requirement)
    writer.unwrapped("")
    writer.line(
        f"{label(finding.candidate)} diverges on {label(finding.requirement)} in {label(finding.dtype)}"
        + (f" ({aside}: does not decide)" if aside else ""),
        "bold",
    )
    if requirement is not None and requirement.relation not in ("", "reference"):
        writer.line(f"required: {label(requirement.statement)}", indent=2)
    writer.line(f"{names}{': ' + label(entry.statement) if entry is not None and entry.statement else ''}", indent=2)
    if entry is not None and entry.equation:
        writer.line(f"right: {label(entry.right)}", indent=2)
        writer.line(f"wrong: {label(entry.equation)}", indent=2)
    figures = figures_text(evidence)
    writer.line(f"first at {place_text(evidence)}{':' if figures else ''}", indent=2)
    if figures:
        writer.line(figures, indent=2)
    for sentence in (*evidence.lasting, *evidence.localisation)[:_SENTENCES]:
        writer.line(label(sentence), indent=2)
    if finding.example is not None and finding.example.command:
        writer.unwrapped(f"  see it again: {one_line(finding.example.command)}")
    others = [other for place, (other, _) in enumerate(cause.members) if place != cause.lead]
    if others:
        told = [f"{label(name)} in {', '.join(map(label, dtypes))}" for name, dtypes in by_requirement(others)]
        writer.line(f"the same on {listed(told, most=_ALIKE)}", indent=2)
