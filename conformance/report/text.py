"""The summary on a terminal: one row per candidate, and what a divergence comes down to.

Plain text in every respect: nothing from the record is read as markup, escape sequences are shown instead of
sent, and characters that the output's encoding lacks are written as escapes. Commands are never wrapped, so
that they can be copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, assert_never

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.record import Finding, Record
from conformance.report.minimal import place_text
from conformance.report.notes import ending, subspace_text
from conformance.report.outcome import (
    ORDER,
    Outcome,
    Result,
    behaves_like,
    core,
    diverging,
    fault_entry,
    fault_names,
    gaps,
    outcome_of,
    results,
)
from conformance.report.view import version_of
from conformance.report.wording import apart, count, label, listed, number, one_line, share, visible
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported

_STYLES: Final[dict[Outcome, str]] = {
    "diverges": "bold red",
    "broken": "bold yellow",
    "inconclusive": "yellow",
    "untested": "yellow",
    "unrepresentable": "magenta",
    "agrees": "green",
    "unsupported": "dim",
}
_PARAGRAPHS: Final = 12
_TAIL_LINES: Final = 8


def print_summary(record: Record, console: Console) -> None:
    """Print the table of candidates and a paragraph per divergence; the headline is left to the caller."""
    writer = _Writer(console)
    all_results = results(record)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("candidate", overflow="fold", min_width=10, max_width=24)
    table.add_column("version", overflow="fold", max_width=11)
    table.add_column("verdict", no_wrap=True)
    table.add_column("detail", overflow="fold", ratio=1)
    for result in all_results:
        table.add_row(
            writer.text(label(result.name)),
            writer.text(version_of(result)),
            writer.text("no finding" if result.outcome == "untested" else result.outcome, _STYLES[result.outcome]),
            writer.text(detail(result)),
        )
    console.print(table)
    for reason in gaps(record):
        writer.line(f"Not a full answer: {reason}.", "bold yellow")
    _ruled_out(all_results, writer)
    for result in all_results:
        _breakage(result, writer)
    pairs = [pair for result in all_results for pair in diverging(result.findings)]
    for finding, verdict in pairs[:_PARAGRAPHS]:
        _paragraph(record, finding, verdict, writer)
    if len(pairs) > _PARAGRAPHS:
        writer.line(f"... and {count(len(pairs) - _PARAGRAPHS, 'further divergence')} in the record.")
    console.print()


def _ruled_out(all_results: Sequence[Result], writer: _Writer) -> None:
    """Name the faults that agreeing checks rule out, once for all candidates with the same set."""
    groups: dict[frozenset[str], list[str]] = {}
    for result in all_results:
        agreeing = [inner for f in result.findings if isinstance(inner := core(f.verdict), Agrees)]
        if agreeing:
            faults = frozenset[str]().union(*(verdict.excluded for verdict in agreeing))
            groups.setdefault(faults, []).append(label(result.name))
    for faults, names in groups.items():
        writer.line("")
        writer.line(f"Ruled out by what agrees of {listed(names)} ({count(len(faults), 'fault')}):")
        writer.line(", ".join(label(fault) for fault in sorted(faults)), indent=2)


def _breakage(result: Result, writer: _Writer) -> None:
    """What a broken candidate said last, where that tells more than the table."""
    broken = [inner for f in result.findings if isinstance(inner := core(f.verdict), Broken) and inner.stderr_tail]
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
    others = Counter(outcome_of(f.verdict) for f in result.findings if outcome_of(f.verdict) != result.outcome)
    rest = listed([f"{others[outcome]} {_plural(outcome, others[outcome])}" for outcome in ORDER if others[outcome]])
    told = _detail(result, own)
    return f"{told} (other checks: {rest})" if rest else told


def _plural(outcome: Outcome, amount: int) -> str:
    verbs = {"diverges": "diverge", "agrees": "agree"}
    return verbs.get(outcome, outcome) if amount != 1 else outcome


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
            return "the record holds no finding"
        case _:
            assert_never(result.outcome)


def _diverges(own: Sequence[Finding]) -> str:
    pairs = diverging(own)
    first = min(v.evidence.first[1] for _, v in pairs)
    size = number(_largest([v.evidence.largest_difference for _, v in pairs]), 3)
    worst = share(_largest([v.evidence.share for _, v in pairs]))
    held = next((v for f in own if isinstance(v := f.verdict, Unrepresentable)), None)
    zero = "" if held is None else f"; with {listed([label(name) for name in held.parameters], most=4)} at zero"
    return (
        f"{behaves_like(own)}; first at step {first}; largest difference {size}; "
        f"largest share of the bound {worst}{zero}"
    )


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
        told = f"every visible fault ruled out, {few} or more" if few == visible else f"on one check only {told}"
    return f"{told}; largest share of the bound {share(max(v.share for v in verdicts))}; {trials}"


def _unrepresentable(own: Sequence[Finding]) -> str:
    """Parameters, owner and link, once for all checks that lack the same ones."""
    alike: dict[tuple[str, str], list[Unrepresentable]] = {}
    for finding in own:
        if isinstance(verdict := finding.verdict, Unrepresentable):
            names = listed([label(name) for name in verdict.parameters], most=4)
            place = f"{verdict.owner}, {one_line(verdict.link)}" if verdict.link else verdict.owner
            alike.setdefault((names, place), []).append(verdict)
    return "; ".join(f"no place for {n} (owner: {p}); {_subspaces(v)}" for (n, p), v in alike.items())


def _subspaces(verdicts: Sequence[Unrepresentable]) -> str:
    """What was found with the parameters at zero: the least that is ruled out, or what else is told."""
    told = list(dict.fromkeys(subspace_text(verdict) for verdict in verdicts))
    amounts = [len(inner.excluded) for v in verdicts if isinstance(inner := v.subspace, Agrees) and inner.compared]
    if len(told) == 1 or len(amounts) < len(verdicts):
        return "; ".join(told)
    return f"agrees where it can represent: {min(amounts)} or more faults ruled out"


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


def _paragraph(record: Record, finding: Finding, verdict: Diverges, writer: _Writer) -> None:
    """Where, what was expected, what came, what explains it, and how to see it again."""
    evidence = verdict.evidence
    expected, observed = apart(evidence.expected, evidence.observed)
    names = fault_names(verdict)
    entry = fault_entry(record, finding.requirement, names)
    writer.unwrapped("")
    writer.line(
        f"{label(finding.candidate)} diverges on {label(finding.requirement)} in {label(finding.dtype)}", "bold"
    )
    writer.line(f"{names}{'' if entry is None else f': {label(entry.statement)}'}", indent=2)
    if entry is not None and entry.equation:
        writer.line(f"right: {label(entry.right)}", indent=2)
        writer.line(f"wrong: {label(entry.equation)}", indent=2)
    writer.line(f"first at {place_text(evidence)}:", indent=2)
    writer.line(f"expected {expected}, observed {observed}, bound {number(evidence.bound, 3)}", indent=2)
    if finding.example is not None and finding.example.command:
        writer.unwrapped(f"  see it again: {one_line(finding.example.command)}")
