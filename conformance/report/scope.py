"""How far an answer reaches: how much was tested, how the record was made, what it leaves open."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import groupby

from conformance.record import Finding, Record
from conformance.report.agreement import Agreement
from conformance.report.index import Index
from conformance.report.outcome import ORDER, diverging, gaps, outcome_of, unfound
from conformance.report.sources import source_items
from conformance.report.wording import count, label, listed, visible
from conformance.verdict import Agrees, Unrepresentable, Unsupported, core


def tested(index: Index, agreements: Sequence[Agreement]) -> tuple[tuple[str, str, str], ...]:
    """How much: every figure with what is to be added to it."""
    findings = index.findings
    dtypes = dict.fromkeys(label(f.dtype) for f in findings if not isinstance(f.verdict, Unsupported))
    phases = [f"{len(list(group)):,} {phase}" for phase, group in groupby(sorted(t.phase for t in index.record.trials))]
    blocks = index.record.blocks
    phases += [f"{sum(line.agreeing for line in blocks):,} in {count(len(blocks), 'block')}"] if blocks else []
    tried = len(index.record.trials) + sum(line.agreeing for line in blocks)
    trials = count(tried, "trial") + (f" ({', '.join(phases)})" if phases else "")
    numbers = sum(v.compared if isinstance(v, Agrees) else 0 for v in (core(f.verdict) for f in findings))
    numbers += sum(v.evidence.compared for _, v in diverging(findings))
    cases = len({trial.case.digest for trial in index.record.trials})
    cases += sum({line.digest: line.cases for line in blocks}.values())
    return (
        ("Candidates", str(len(index.results)), f"of {count(len(index.frameworks), 'framework')}"),
        ("Requirements", str(len(index.requirements)), f"in {listed(list(dtypes)) or 'no dtype'}"),
        ("Checks", f"{len(findings):,}", f"by {trials}"),
        ("Cases", f"{cases:,}", "different ones, digest by digest"),
        ("Numbers compared", f"{numbers:,}", "each against a bound of its own"),
        ("Faults ruled out", *_ruled_out(agreements)),
    )


def made(record: Record) -> tuple[tuple[str, str], ...]:
    """When and how the record came about."""
    header, footer = record.header, record.footer
    campaign = f"; a campaign of {header.cases:,} cases" if header.cases else ""
    campaign += f", {count(header.fresh_shapes, 'block')} in fresh shapes" if header.fresh_shapes else ""
    campaign += f", shard {header.shard[0]} of {header.shard[1]}" if header.shard[1] > 1 else ""
    return (
        ("Started", label(header.started)),
        ("Finished", "did not finish" if footer is None else label(footer.finished)),
        ("Seed", f"{header.seed}, {count(header.examples, 'generated case')} per check{campaign}"),
        ("Harness", f"rnn-conformance {label(header.harness)}"),
        ("Command", visible(shlex.join(["rnn-conformance", *map(label, header.arguments)]))),
        *source_items(record),
    )


def could_not(index: Index) -> tuple[tuple[str, str], ...]:
    """What the record leaves open, each with the anchor of its section."""
    findings = index.findings
    by_outcome = {o: [f for f in findings if outcome_of(f.verdict) == o] for o in ORDER}
    items = [(reason, "answer") for reason in gaps(index.record)]
    unasked = [label(name) for name in unfound(index.record) if not index.levels.decides(name)]
    if unasked:
        items.append(
            (
                f"no finding on {listed(unasked, most=5)}, which {'do' if unasked[1:] else 'does'} not decide",
                "answer",
            )
        )
    if not index.levels.must:
        items.append((which_decide(index), "answer"))
    if by_outcome["broken"]:
        items.append((f"{_checks(index, by_outcome['broken'])} broken: no observation", "broken"))
    if by_outcome["inconclusive"]:
        items.append((f"{_checks(index, by_outcome['inconclusive'])} inconclusive", "inconclusive"))
    places = dict.fromkeys(
        (f.candidate, f.verdict.parameters) for f in findings if isinstance(f.verdict, Unrepresentable)
    )
    for candidate, parameters in list(places)[:10]:
        names = listed([label(name) for name in parameters], most=8)
        items.append((f"{label(candidate)} has no place for {names}", "unrepresentable"))
    if len(places) > 10:
        items.append((f"{len(places) - 10} more candidates with parameters they cannot hold", "unrepresentable"))
    if by_outcome["unsupported"]:
        what = dict.fromkeys(
            label(f.verdict.what) for f in by_outcome["unsupported"] if isinstance(f.verdict, Unsupported)
        )
        told = f" ({listed(list(what), most=4)})" if what else ""
        items.append((f"{_checks(index, by_outcome['unsupported'])} declared unsupported{told}", "unsupported"))
    if index.record.incidents:
        items.append((f"{count(len(index.record.incidents), 'incident')} with workers", "broken"))
    return tuple(items)


def which_decide(index: Index) -> str:
    """How the levels are to be read, where there are several."""
    if not index.levels.must:
        return "No MUST requirement was asked, so the SHOULD and informational ones decide."
    if any(requirement.aside for requirement in index.requirements.values()):
        return "MUST requirements decide; what the SHOULD and informational ones find is told beside the answer."
    return ""


def _ruled_out(agreements: Sequence[Agreement]) -> tuple[str, str]:
    amounts = sorted({len(agreement.faults.faults) for agreement in agreements})
    if not amounts:
        return "none", "no check agrees"
    span = f"{amounts[0]}" if len(amounts) == 1 else f"{amounts[0]} to {amounts[-1]}"
    whole = all(agreement.open == "none" for agreement in agreements)
    return span, "per agreeing check" + (", every one that could show" if whole else "")


def _checks(index: Index, own: Sequence[Finding]) -> str:
    """How many checks, and how many of them do not decide."""
    others = sum(not index.levels.decides(finding.requirement) for finding in own)
    return count(len(own), "check") + (f" ({others} on requirements that do not decide)" if others else "")
