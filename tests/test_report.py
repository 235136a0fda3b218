"""Reports say what the record says, no more, and nothing in a record can make them do anything.

Problem: a report that hides a gap, or that a framework's error message can write script into, is worse than
none. Records are built from the real judge on planted faults; the HTML is parsed, not searched, where that
matters.
"""

from __future__ import annotations

import html
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console

from conformance.algebra import Rounded
from conformance.case import Case, case_to_json, make_case
from conformance.cells import cell_named
from conformance.compare import Observed
from conformance.faults import CATALOGUE
from conformance.judge import combine, judge, observed_of, planted, visible_faults
from conformance.record import (
    FORMAT,
    ArrayPair,
    CandidateLine,
    CaseSummary,
    Example,
    FaultEntry,
    Finding,
    Footer,
    Header,
    Incident,
    Record,
    RequirementEntry,
    Trial,
)
from conformance.recordfile import RecordWriter, read_record
from conformance.report.called import called_together
from conformance.report.failure import failure_message
from conformance.report.html import render_html
from conformance.report.minimal import place_text
from conformance.report.outcome import ORDER, exit_code, headline, outcome_of, overall
from conformance.report.paths import attested
from conformance.report.text import print_summary
from conformance.report.view import make_page
from conformance.report.wording import LIMIT, share, web_link
from conformance.requirement import REQUIREMENTS
from conformance.rounding import format_of
from conformance.verdict import (
    Agrees,
    Broken,
    Diverges,
    Evidence,
    Inconclusive,
    StepRow,
    Unrepresentable,
    Unsupported,
    Verdict,
)

MLX, NOW = "mlx:none==0.31.1", "mlx:none==0.32.4"
NONE = "gru_hidden_none"
ISSUE = "https://github.com/google/flax/issues/5594"
EVIL = "<script>alert(1)</script> ]]> <!-- \" ' & {{ 7*7 }} {% raw %}"


@cache
def the_case(
    requirement: str, dtype: str = "float32", zeroed: tuple[str, ...] = (), time: int = 6, seed: int = 0
) -> Case:
    """A generic case of a requirement, large enough to rule out every visible fault."""
    generator = np.random.default_rng(seed)
    entry = REQUIREMENTS[requirement]
    sizes = {"D": 3, "H": 4}
    case = make_case(
        cell=entry.cell,
        dtype=dtype,
        parameters={
            name: generator.uniform(-0.9, 0.9, tuple(sizes[letter] for letter in letters)).round(3)
            for name, letters in cell_named(entry.cell).parameters.items()
        },
        x=generator.normal(size=(2, time, 3)).round(3),
        initial=entry.initial,
        h0=generator.uniform(-1, 1, size=(2, 4)).round(3),
        origin=f"generic, seed {seed}",
    )
    return case.zeroed(zeroed) if zeroed else case


def observe(case: Case, fault: str | None) -> Observed:
    """What an implementation returns that computes in the case's dtype, with a planted fault or with none."""
    if fault is not None:
        return planted(case, CATALOGUE[case.cell][fault])
    sequence = cell_named(case.cell).run(case, ops=Rounded(format_of(case.dtype)))
    return observed_of(sequence)


def make_trial(candidate: str, requirement: str, case: Case, verdict: Verdict) -> Trial:
    """The trial line of a judged case."""
    size = case.shape
    return Trial(
        candidate=candidate,
        requirement=requirement,
        dtype=case.dtype,
        phase="generated",
        case=CaseSummary(
            digest=case.digest,
            origin=case.origin,
            shape=(size.batch, size.time, size.features, size.hidden),
            batched=case.batched,
            initial=case.initial,
        ),
        verdict=verdict,
        path="eager",
        seconds=0.001,
    )


def make_example(candidate: str, requirement: str, case: Case, observed: Observed, verdict: Verdict) -> Example:
    """The minimal case of a divergence."""
    truth = cell_named(case.cell).run(case)
    return Example(
        case=case_to_json(case),
        verdict=verdict,
        observed_outputs=plain(observed.outputs),
        observed_final_state=plain(observed.final_state),
        expected_outputs=plain(truth.outputs),
        expected_final_state=plain(truth.final_state),
        repro="import numpy as np\n\nx = np.array([0.5])\nprint(x)\n",
        command=f"rnn-conformance run '{candidate}' -k {requirement} --case 'reports/{requirement}.json'",
    )


def plain(values: Any) -> list[Any]:
    """Nested lists in which a number that is not finite is None."""
    result: list[Any] = np.where(np.isfinite(values), values.astype(object), None).tolist()
    return result


@dataclass
class Draft:
    """A record in the making."""

    findings: list[Finding] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    lines: dict[str, CandidateLine] = field(default_factory=dict)
    candidates: list[str] = field(default_factory=list)

    def candidate(self, name: str, *, came_up: bool = True, **facts: str) -> str:
        """Add a candidate, and its line when its worker came up."""
        self.candidates.append(name)
        adapter, _, variant = name.partition("==")[0].partition(":")
        if came_up:
            own = {"python": "3.11.7", "platform": "Linux x86_64", "threads": "OMP_NUM_THREADS=1", **facts}
            self.lines[name] = CandidateLine(
                name=name,
                adapter=adapter,
                variant=variant,
                title=f"{adapter} GRU, {variant}",
                version=own.get("version") or own.get(adapter.partition("-")[0], ""),
                environment=f"managed: {adapter}",
                facts=own,
            )
        return name

    def judged(
        self,
        candidate: str,
        requirement: str,
        dtype: str = "float32",
        *,
        fault: str | None = None,
        spoil: Callable[[Observed], Observed] = lambda observed: observed,
        zeroed: tuple[str, ...] = (),
        time: int = 6,
    ) -> Finding:
        """Add the finding of the real judge on two generic cases, observed with a planted fault."""
        entry = REQUIREMENTS[requirement]
        visible = visible_faults(entry.cell, entry.initial, zeroed, dtype=dtype)
        verdicts = []
        example = None
        for seed in (0, 1):
            # In 8 bits a hard sigmoid of the reset gate shows on more steps only.
            case = the_case(requirement, dtype, zeroed, 2 * time if dtype == "bfloat16" else time, seed)
            observed = spoil(observe(case, fault))
            verdict = judge(case, observed, visible)
            verdicts.append(verdict)
            self.trials.append(make_trial(candidate, requirement, case, verdict))
            if isinstance(verdict, Diverges):
                small = the_case(requirement, dtype, zeroed, 2, seed)
                seen = spoil(observe(small, fault))
                again = judge(small, seen, visible)
                example = make_example(candidate, requirement, small, seen, again)
        verdict = combine(verdicts, required=visible)
        overall_verdict: Verdict = verdict
        if zeroed:
            overall_verdict = Unrepresentable(
                parameters=zeroed, owner="upstream", reason="the cell has no such bias", link=ISSUE, subspace=verdict
            )
        finding = Finding(
            candidate=candidate,
            requirement=requirement,
            dtype=dtype,
            verdict=overall_verdict,
            trials=2,
            seconds=0.01,
            visible=tuple(sorted(visible)),
            example=example,
        )
        self.findings.append(finding)
        return finding

    def found(self, candidate: str, verdict: Verdict, requirement: str = NONE, dtype: str = "float32") -> None:
        """Add a finding with a given verdict."""
        trials = 0 if isinstance(verdict, Unsupported) else 1
        self.findings.append(
            Finding(
                candidate=candidate, requirement=requirement, dtype=dtype, verdict=verdict, trials=trials, seconds=0.0
            )
        )

    def record(self, *, problem: str = "", **changes: Any) -> Record:
        """The record as it would be read."""
        asked = dict.fromkeys(finding.requirement for finding in self.findings) or {NONE: None}
        cells = dict.fromkeys(r.cell for name, r in REQUIREMENTS.items() if name in asked) or {"gru": None}
        header = Header(
            format=FORMAT,
            harness="0.1.0",
            started="2031-05-06T07:08:09+00:00",
            seed=20141406,
            examples=60,
            arguments=("run", MLX, "-k", "gru"),
            candidates=tuple(self.candidates),
            requirements=tuple(
                RequirementEntry(
                    name=r.name,
                    level=r.level,
                    statement=r.statement,
                    source=r.source,
                    cell=r.cell,
                    initial=r.initial,
                    relation=r.relation,
                )
                for name, r in REQUIREMENTS.items()
                if name in asked
            ),
            faults={
                cell: tuple(
                    FaultEntry(name=f.name, statement=f.statement, equation=f.equation, right=f.right)
                    for f in CATALOGUE[cell].values()
                )
                for cell in cells
            },
        )
        whole = Record(
            path="sample.jsonl",
            header=header,
            candidates=tuple(self.lines.values()),
            trials=tuple(self.trials),
            incidents=tuple(self.incidents),
            findings=tuple(self.findings),
            footer=None
            if problem
            else Footer(finished="2031-05-06T07:10:11+00:00", trials=len(self.trials), findings=len(self.findings)),
            problem=problem,
            lines=1 + len(self.lines) + len(self.trials) + len(self.incidents) + len(self.findings),
        )
        return msgspec.structs.replace(whole, **changes)


CRASH = Broken(
    kind="crash",
    message="the worker ended while it ran a case",
    exit_code=139,
    signal="SIGSEGV",
    stderr_tail="mlx/backend/common/compiled.cpp: unevaluated parameters\nSegmentation fault (core dumped)\n",
)


@cache
def typical() -> Record:
    """A record with every kind of verdict, as a run over several candidates makes it."""
    draft = Draft()
    old = draft.candidate(MLX, mlx="0.31.1", device="Device(cpu, 0)")
    draft.judged(old, NONE, "float32", fault="drop_rbhn_t0", time=12)
    draft.judged(old, NONE, "bfloat16", fault="drop_rbhn_t0", time=12)
    draft.judged(old, "gru_hidden_zeros", "float32")
    draft.judged(old, "gru_hidden_zeros", "bfloat16")
    draft.judged(old, "gru_hidden_given", "float32")
    new = draft.candidate("mlx:none==0.31.2", mlx="0.31.2", device="Device(cpu, 0)")
    for name in (NONE, "gru_hidden_zeros", "gru_hidden_given"):
        draft.judged(new, name, "float32")
        draft.judged(new, name, "bfloat16")
    torch = draft.candidate("torch:layer", torch="2.13.0+cpu", device="cpu")
    draft.judged(torch, NONE, "float32")
    draft.judged(torch, NONE, "float64")
    draft.found(
        torch,
        Unsupported(what="dtype float16", owner="upstream", reason="no CPU kernel", link="https://pytorch.org/"),
        dtype="float16",
    )
    flax = draft.candidate("flax-nnx:lax-scan", flax="0.12.8", jax="0.9.0", device="cpu:0")
    draft.judged(flax, NONE, zeroed=("b_hn",))
    draft.judged(flax, "gru_hidden_given", zeroed=("b_hn",))
    cell = draft.candidate("mine:cell", mine="0.3")
    draft.judged(cell, "gru_v1_hidden_given", spoil=off_by_some, time=40)
    draft.judged(cell, "gru_v1_hidden_none", fault="update_flip")
    crashing = draft.candidate("mlx:none==0.29.2", mlx="0.29.2", device="Device(cpu, 0)")
    draft.found(crashing, CRASH, dtype="bfloat16")
    draft.judged(crashing, NONE)
    draft.incidents.append(
        Incident(
            candidate=crashing,
            what="the worker crashed and was replaced",
            exit_code=139,
            signal="SIGSEGV",
            stderr_tail=CRASH.stderr_tail,
        )
    )
    fast = draft.candidate("mlx:fast", mlx="0.31.2", device="Device(cpu, 0)")
    draft.found(fast, Inconclusive(why="another path ran: 'legacy', wanted 'fused'"), "gru_hidden_zeros")
    draft.candidate("torch:gone==9.9", came_up=False)
    draft.found(
        "torch:gone==9.9",
        Broken(kind="start", message="no release torch==9.9\n  hint: choose one that exists"),
    )
    return draft.record()


def off_by_some(observed: Observed) -> Observed:
    """An implementation that is wrong in a way that the catalogue does not hold."""
    return Observed(outputs=observed.outputs * 1.001, final_state=observed.final_state * 1.001)


def one(verdict: Verdict, **changes: Any) -> Record:
    """A record of one candidate with one finding."""
    draft = Draft()
    draft.found(draft.candidate("mlx:none", mlx="0.31.2"), verdict)
    return draft.record(**changes)


AGREES = Agrees(excluded=frozenset({"drop_bhn"}), share=0.43, compared=48)
EVIDENCE = Evidence(
    output="outputs",
    first=(1, 2, 3),
    expected=0.123456789012,
    observed=None,
    bound=1.5e-7,
    largest_difference=None,
    share=None,
    outside=3,
    compared=96,
    finite=False,
    steps=(
        StepRow(step=0, difference=0.0, residual=0.0, bound=1e-8, share=0.0),
        StepRow(step=1, difference=None, residual=None, bound=None, share=None),
        StepRow(step=2, difference=float("nan"), residual=float("inf"), bound=1e-8, share=float("nan")),
    ),
)


class Parsed(HTMLParser):
    """The elements of a page, and its text outside style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._raw = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("style", "script"):
            self._raw = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._raw:
            self._raw = ""

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a reader sees, in one line."""
        return " ".join(" ".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [value for _, attrs in self.elements if (value := attrs.get(attribute)) is not None]


def page(record: Record) -> Parsed:
    return Parsed(render_html(record))


def printed(record: Record, width: int = 80, **options: Any) -> str:
    stream = io.StringIO()
    print_summary(record, Console(file=stream, width=width, **options))
    return stream.getvalue()


CLOSED = frozenset({"type", "verdict", "kind", "owner", "phase", "output", "format"})
NAMED = frozenset({"facts", "residuals", "intermediates", "parameters", "faults"})
"""Fields with a closed choice of values, and fields that hold a mapping from free names."""


def every_string(value: Any, replace: Callable[[str], str], *, names: bool = False) -> Any:
    """The same JSON with every free string replaced; tags, closed choices and the fields' own names stay."""
    match value:
        case dict():
            return {
                replace(key) if names else key: item
                if key in CLOSED and isinstance(item, str)
                else every_string(item, replace, names=key in NAMED)
                for key, item in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [every_string(item, replace) for item in value]
        case str():
            return replace(value)
        case _:
            return value


def hostile(replace: Callable[[str], str]) -> Record:
    """The typical record with every string in it made hostile."""
    data = every_string(msgspec.to_builtins(typical()), replace)
    return msgspec.convert(data, Record)


def outcomes_of(record: Record) -> Iterable[str]:
    return (outcome_of(finding.verdict) for finding in record.findings)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.482123, "0.482"),
        (0.9996, "0.9996"),
        (0.9999984, "0.999998"),
        (0.99999999999, "0.99999999999"),
        (1.0, "1"),
        (1.0000001, "1.0000001"),
        (1.004, "1.004"),
        (12345.6, "12,346"),
        (None, "not finite"),
    ],
)
def test_a_share_is_never_rounded_to_the_bound(value: float | None, text: str) -> None:
    """Whether it is inside or outside can be read off; the bound itself is 1."""
    assert share(value) == text


def test_typical_has_every_outcome() -> None:
    """The record that these tests are made with holds every outcome a finding can have."""
    assert set(outcomes_of(typical())) == set(ORDER) - {"untested"}


# The answer


def test_headline_names_the_one_candidate_and_its_fault() -> None:
    """One diverging candidate with one fault is told with that fault's own sentence."""
    draft = Draft()
    draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    draft.judged(draft.candidate("torch:layer"), NONE)
    assert headline(draft.record()) == (
        "1 of 2 candidates diverges: mlx:none==0.31.1 behaves like drop_rbhn_t0 \N{EM DASH} "
        "the term r * b_hn is missing on the first step when the initial state is left out."
    )


def test_headline_of_agreement() -> None:
    """When every candidate agrees the sentence says so."""
    assert headline(one(AGREES)) == "mlx:none agrees with the reference."


def test_everything_that_could_not_be_told_stands_on_the_first_screen() -> None:
    """Each kind of open end, with a link to its section; the hint, too, that a catalogue is not everything."""
    page_ = make_page(typical())
    assert page_.could_not == (
        ("2 checks broken: no observation", "broken"),
        ("1 check inconclusive", "inconclusive"),
        ("flax-nnx:lax-scan has no place for b_hn", "unrepresentable"),
        ("1 check declared unsupported (dtype float16)", "unsupported"),
        ("1 incident with workers", "broken"),
    )
    text = render_html(typical())
    first = text[: text.index('id="matrix"')]
    for told, anchor in page_.could_not:
        assert f'<a href="#{anchor}">{html.escape(told)}</a>' in first
    assert "Agreement rules out the faults of the catalogue and says nothing about others." in first


def test_what_makes_it_no_full_answer_stands_in_a_banner() -> None:
    """Before anything else; and a requirement without a finding that does not decide is told among what is open."""
    record = one(AGREES, problem="incomplete: the last line was cut off")
    text = render_html(record)
    banner = text[text.index('<div class="banner"') : text.index('<nav aria-label="Sections"')]
    assert "Do not read this as a full answer." in banner
    assert "the last line was cut off" in banner
    whole = one(AGREES)
    aside = msgspec.structs.replace(whole.header.requirements[0], name=ASIDE, level="SHOULD")
    header = msgspec.structs.replace(whole.header, requirements=(*whole.header.requirements, aside))
    found = make_page(msgspec.structs.replace(whole, header=header))
    assert (f"no finding on {ASIDE}, which does not decide", "answer") in found.could_not
    assert found.warnings == ()


def test_a_place_is_told_as_row_step_and_unit() -> None:
    """None of the three stands for another."""
    record = typical()
    (lead,) = [cause.lead for cause in make_page(record).divergences if cause.lead.candidate == MLX]
    row, step, unit = lead.evidence.first
    assert lead.place.endswith(f"batch row {row}, step {step}, unit {unit}")
    moved = msgspec.structs.replace(lead.evidence, first=(1, 22, 333), where="")
    assert place_text(moved).endswith("batch row 1, step 22, unit 333")


def test_what_was_expected_stands_before_what_was_observed_on_further_checks() -> None:
    """To the last digit, in the columns that say so."""
    record = typical()
    (other, *_) = (other for cause in make_page(record).divergences for other in cause.others if other.numbers)
    text = render_html(record)
    row = text[text.index(f'<tr id="{other.anchor}">') :].partition("</tr>")[0]
    evidence = other.evidence
    assert evidence.expected != evidence.observed
    assert re.findall(r'<data value="([^"]+)"', row) == [
        repr(evidence.expected),
        repr(evidence.observed),
        repr(evidence.bound),
    ]


def test_of_very_many_candidates_those_that_are_not_fine_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are summed up in a sentence; answer and figures are those of all; nothing leads nowhere."""
    whole = make_page(typical())
    worst = [row.name for row in whole.candidates if row.outcome == "diverges"]
    assert whole.left_out == ""
    monkeypatch.setattr("conformance.report.view.CANDIDATES", len(worst) + 1)
    page_ = make_page(typical())
    names = [row.name for row in page_.candidates]
    assert len(names) == len(worst) + 1 < len(whole.candidates)
    assert set(worst) < set(names)
    lost = Counter(row.outcome for row in whole.candidates if row.name not in names)
    start = f"{len(names)} of {len(whole.candidates)} candidates are shown one by one"
    assert page_.left_out.startswith(start)
    assert all(f"{amount} {outcome}" in page_.left_out for outcome, amount in lost.items())
    for same in ("headline", "outcome", "warnings", "beside", "tested"):
        assert getattr(page_, same) == getattr(whole, same), same
    assert [text for text, _ in page_.could_not] == [text for text, _ in whole.could_not]
    text = render_html(typical())
    assert page_.left_out in html.unescape(text)
    parsed = Parsed(text)
    assert {one[1:] for one in parsed.values("href") if one.startswith("#")} <= set(parsed.values("id"))


@pytest.mark.parametrize("framework", ["MLX", "", "<b>MLX</b>"])
def test_a_framework_is_called_by_its_own_name(framework: str) -> None:
    """In the first sentence, with its release, the spec beside it; where nobody told it, the spec alone."""
    draft = Draft()
    draft.judged(draft.candidate(MLX, mlx="0.31.1"), NONE, fault="drop_rbhn_t0")
    draft.judged(draft.candidate(NOW, mlx="0.32.4"), NONE)
    for name, line in draft.lines.items():
        draft.lines[name] = msgspec.structs.replace(line, framework=framework)
    told = f"{framework} 0.31.1 (mlx:none)" if framework else MLX
    assert headline(draft.record()).startswith(f"1 of 2 candidates diverges: {told} behaves like drop_rbhn_t0 ")
    page = render_html(draft.record())
    assert page.count(f"<td>{html.escape(framework)} 0.32.4</td>" if framework else "<td>0.32.4</td>") == 1
    assert f"<h1>1 of 2 candidates diverges: {html.escape(told)} behaves like" in page
    apart = {name: line for name, line in draft.lines.items() if name == NOW}
    assert headline(one(AGREES)) == "mlx:none agrees with the reference."
    assert called_together(list(draft.lines.items())) == (
        f"{framework} 0.31.1 (mlx:none) and {framework} 0.32.4 (mlx:none)" if framework else f"{MLX} and {NOW}"
    )
    twins = [(name, apart[NOW]) for name in ("mlx:none", "mlx:zeros", "mlx:given")]
    beside = f"{framework} 0.32.4 (mlx:none and mlx:zeros)" if framework else "mlx:none, mlx:zeros"
    assert called_together(twins, most=2) == f"{beside} and 1 more"


def test_headline_does_not_claim_agreement_for_the_rest() -> None:
    """Without a divergence, what is broken or inconclusive is counted, not passed over."""
    draft = Draft()
    draft.found(draft.candidate("a:x"), AGREES)
    draft.found(draft.candidate("b:x"), CRASH)
    draft.found(draft.candidate("c:x"), Inconclusive(why="saturated"))
    text = headline(draft.record())
    assert "1 agrees" in text
    assert "1 is inconclusive" in text
    assert "1 is broken" in text
    assert "All" not in text


def test_a_fault_must_explain_every_divergence_to_be_the_name() -> None:
    """A candidate whose divergences have no fault in common is described by each in turn."""
    draft = Draft()
    name = draft.candidate("mine:cell")
    draft.judged(name, NONE, fault="drop_rbhn_t0")
    draft.judged(name, "gru_hidden_zeros", fault="reset_before")
    assert "behaves like drop_rbhn_t0 and reset_before" in headline(draft.record())


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((AGREES,), "agrees"),
        ((AGREES, Unsupported(what="x", owner="never", reason="y")), "agrees"),
        ((Unsupported(what="x", owner="never", reason="y"),), "unsupported"),
        ((AGREES, Unrepresentable(parameters=("b",), owner="ours", reason="", link="")), "unrepresentable"),
        ((Inconclusive(why="x"), Unrepresentable(parameters=("b",), owner="ours", reason="", link="")), "inconclusive"),
        ((Inconclusive(why="x"), CRASH), "broken"),
        ((CRASH, Diverges(faults=(), evidence=EVIDENCE), AGREES), "diverges"),
        ((), "untested"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_overall_is_the_worst(verdicts: tuple[Verdict, ...], expected: str) -> None:
    """The worst finding decides, and what is declared unsupported only where there is nothing else."""
    draft = Draft()
    draft.candidate("a:x")
    for verdict in verdicts:
        draft.found("a:x", verdict)
    assert overall(draft.findings) == expected


@pytest.mark.parametrize(
    ("subspace", "expected"),
    [
        (AGREES, "unrepresentable"),
        (Diverges(faults=(), evidence=EVIDENCE), "diverges"),
        (CRASH, "broken"),
        (Inconclusive(why="x"), "inconclusive"),
        (None, "unrepresentable"),
    ],
    ids=["agrees", "diverges", "broken", "inconclusive", "untried"],
)
def test_unrepresentable_counts_as_its_subspace_when_that_is_worse(subspace: Any, expected: str) -> None:
    """A parameter without a place does not excuse what goes wrong without it."""
    verdict = Unrepresentable(parameters=("b_hn",), owner="upstream", reason="", link="", subspace=subspace)
    assert outcome_of(verdict) == expected


def test_agreement_on_nothing_is_not_agreement() -> None:
    """An agreeing verdict that compared no number counts as inconclusive."""
    empty = msgspec.structs.replace(AGREES, compared=0)
    assert outcome_of(empty) == "inconclusive"
    assert "no comparison at all" in page(one(empty)).text


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (one(AGREES), 0),
        (one(Unrepresentable(parameters=("b",), owner="ours", reason="", link="", subspace=AGREES)), 0),
        (one(Diverges(faults=(), evidence=EVIDENCE)), 1),
        (one(CRASH), 3),
        (one(Inconclusive(why="x", missing=frozenset({"drop_bhn"}))), 3),
        (one(Unsupported(what="x", owner="never", reason="y")), 3),
        (one(Unrepresentable(parameters=("b",), owner="ours", reason="", link="")), 3),
        (one(AGREES, problem="incomplete: the last line was cut off"), 3),
        (one(Diverges(faults=(), evidence=EVIDENCE), problem="incomplete"), 1),
    ],
    ids=[
        "agrees",
        "unrepresentable",
        "diverges",
        "broken",
        "inconclusive",
        "only-unsupported",
        "never-tried",
        "incomplete",
        "incomplete-and-diverges",
    ],
)
def test_exit_code(record: Record, code: int) -> None:
    """0 only when something was compared, everything came to an answer and nothing diverges."""
    assert exit_code(record) == code


def test_exit_code_of_a_candidate_without_finding() -> None:
    """A candidate that the header promises and no finding mentions is not passed."""
    draft = Draft()
    draft.found(draft.candidate("a:x"), AGREES)
    draft.candidate("b:x")
    record = draft.record()
    assert exit_code(record) == 3
    assert "no finding for b:x" in page(record).text
    assert "no finding for b:x" in printed(record)


@pytest.mark.parametrize("show", [lambda r: page(r).text, printed], ids=["html", "text"])
def test_a_record_without_findings_says_that_nothing_was_compared(show: Callable[[Record], str]) -> None:
    """An empty record is announced as no evidence, and its exit code is not 0."""
    draft = Draft()
    draft.candidate(MLX)
    record = draft.record()
    assert "nothing was compared" in show(record)
    assert headline(record) == "Nothing was compared: this record is no evidence of agreement."
    assert exit_code(record) == 3


@pytest.mark.parametrize("show", [lambda r: page(r).text, printed], ids=["html", "text"])
def test_an_incomplete_record_says_so(show: Callable[[Record], str]) -> None:
    """A record that breaks off is announced as such, whatever it holds."""
    record = one(AGREES, problem="incomplete: the last line was cut off")
    assert "the last line was cut off" in show(record)
    assert "agrees with the reference" not in headline(record)


def test_a_divergence_in_a_check_that_was_not_finished_is_a_divergence() -> None:
    """A run that breaks off after a diverging trial cannot pass for one in which nothing diverged."""
    draft = Draft()
    draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    draft.findings = []
    record = draft.record(problem="incomplete: the run did not come to its end")
    assert headline(record).startswith("1 of 1 candidate diverges: mlx:none==0.31.1 behaves like drop_rbhn_t0")
    assert exit_code(record) == 1
    parsed = page(record)
    assert "the check was not finished" in parsed.text
    assert "the run did not come to its end" in parsed.text
    assert "no finding for mlx:none==0.31.1" in parsed.text


def test_a_whole_record_has_no_banner() -> None:
    """The warning stands out because it is absent otherwise."""
    assert "Do not read this as a full answer" not in page(one(AGREES)).text


# The page


def test_the_page_is_a_pure_function_of_the_record(tmp_path: Path) -> None:
    """Rendering twice, and rendering the record as read back from its file, gives the same bytes."""
    record = typical()
    path = tmp_path / "sample.jsonl"
    with RecordWriter(path, record.header) as writer:
        for line in (*record.candidates, *record.trials, *record.incidents, *record.findings):
            writer.write(line)
        assert record.footer is not None
        writer.write(record.footer)
    again = read_record(path)
    first = render_html(msgspec.structs.replace(record, lines=again.lines))
    assert first == render_html(again)
    assert printed(record) == printed(again)


@pytest.mark.parametrize(
    "record",
    [typical(), one(CRASH), one(Diverges(faults=("drop_bhn", "unheard_of"), evidence=EVIDENCE)), Draft().record()],
    ids=["typical", "broken", "unknown-fault", "empty"],
)
def test_every_link_inside_the_page_leads_somewhere(record: Record) -> None:
    """No anchor dangles, none is given twice, and every described element exists."""
    parsed = page(record)
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    wanted = {href[1:] for href in parsed.values("href") if href.startswith("#")}
    wanted |= {name for value in parsed.values("aria-labelledby") for name in value.split()}
    wanted |= set(parsed.values("data-copy"))
    assert wanted <= set(ids)


def test_every_finding_has_its_details() -> None:
    """Every verdict of the matrix links to details of its own."""
    record = typical()
    parsed = page(record)
    targets = {href for href in parsed.values("href") if re.fullmatch(r"#f\d+", href)}
    assert len(targets) == len(record.findings)


def test_the_page_loads_nothing() -> None:
    """Nothing in the page makes a browser ask for anything, and its policy would forbid it."""
    html = render_html(typical())
    parsed = Parsed(html)
    loading = {"link", "img", "iframe", "object", "embed", "source", "video", "audio", "base", "use", "image"}
    assert not loading & {tag for tag, _ in parsed.elements}
    assert not parsed.values("src")
    assert not parsed.values("style")
    assert not re.search(r"url\(|@import|@font-face|fetch\(|XMLHttpRequest", html)
    policy = next(a["content"] for t, a in parsed.elements if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none';")


def test_a_typical_report_is_small() -> None:
    """A report can be attached to a mail."""
    assert len(render_html(typical()).encode()) < 2_000_000


def test_many_findings_stay_readable() -> None:
    """A thousand divergences are all there, most of them in short, in a file of reasonable size."""
    draft = Draft()
    shown = draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    copies = [
        msgspec.structs.replace(shown, candidate=f"c{i % 50}:x", requirement=f"clause_{i // 50}") for i in range(1000)
    ]
    draft.candidates = [f"c{i}:x" for i in range(50)]
    draft.findings, draft.trials = copies, []
    html = render_html(draft.record())
    assert len(html.encode()) < 8_000_000
    assert html.count("<article") == 50
    assert html.count("on 19 further checks") == 50
    ids = Parsed(html).values("id")
    assert {f"f{index}" for index in range(1, 1001)} <= set(ids)
    assert "50 of 50 candidates diverge" in html


@pytest.mark.parametrize("tag", ["th", "table", "section", "article"])
def test_tables_and_sections_are_named(tag: str) -> None:
    """Header cells have a scope, tables a caption, sections and articles a name."""
    parsed = page(typical())
    found = [attrs for name, attrs in parsed.elements if name == tag]
    assert found
    match tag:
        case "th":
            assert all(attrs.get("scope") in ("row", "col") for attrs in found)
        case "table":
            assert len(found) == sum(name == "caption" for name, _ in parsed.elements)
        case "section":
            assert all(attrs.get("aria-labelledby") for attrs in found)
        case _:
            assert all(attrs.get("aria-labelledby") for attrs in found if attrs.get("id"))


def test_the_numbers_are_those_of_the_record() -> None:
    """Expected, observed, bound, share and difference appear with every bit that the record holds."""
    draft = Draft()
    finding = draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    assert isinstance(finding.verdict, Diverges)
    evidence = finding.verdict.evidence
    parsed = page(draft.record())
    shown = set(parsed.values("value"))
    wanted = [evidence.expected, evidence.observed, evidence.bound, evidence.largest_difference, evidence.share]
    wanted += [value for row in evidence.steps for value in (row.difference, row.residual, row.bound, row.share)]
    wanted += list(evidence.intermediates.values())
    assert {repr(value) for value in wanted} <= shown
    assert "batch row 0, step 0" in parsed.text or "batch row 1, step 0" in parsed.text


def test_the_wrong_equation_stands_beside_the_right_one() -> None:
    """A named fault comes with both of its equations."""
    draft = Draft()
    draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    fault = CATALOGUE["gru"]["drop_rbhn_t0"]
    words = "".join(page(draft.record()).words)
    assert fault.right in words
    assert 0 < words.index("Right" + fault.right) < words.index("Computed instead" + fault.equation)


def test_hypotheses_are_sorted_by_what_they_leave_unexplained() -> None:
    """The nearest fault comes first, and the text says by how much the next one misses."""
    draft = Draft()
    finding = draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    assert isinstance(finding.verdict, Diverges)
    ranked = sorted(finding.verdict.evidence.residuals.items(), key=lambda item: (item[1], item[0]))
    text = page(draft.record()).text
    table = text[text.index("at most 1 explains the output") :]
    places = [table.index(f" {name} ") for name, _ in ranked[:8]]
    assert places == sorted(places)
    assert f"The next best, {ranked[1][0]}, reaches" in text


def test_the_minimal_case_is_there_in_full() -> None:
    """Parameters, inputs and outputs of the minimal case appear to the last bit."""
    draft = Draft()
    finding = draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    assert finding.example is not None
    text = page(draft.record()).text
    for name, values in finding.example.case["parameters"].items():
        assert name in text
        assert all(repr(float(value)) in text for value in np.ravel(values))
    assert all(repr(float(value)) in text for value in np.ravel(finding.example.observed_outputs))
    assert finding.example.command in text
    assert "import numpy as np" in text


def test_numbers_that_are_not_finite_are_words() -> None:
    """A divergence into numbers that are not finite is shown, not dropped."""
    parsed = page(one(Diverges(faults=(), evidence=EVIDENCE)))
    assert "not finite" in parsed.text
    assert "NaN" in parsed.text
    assert "infinite" in parsed.text
    assert "None" not in parsed.text
    assert "not finite" in printed(one(Diverges(faults=(), evidence=EVIDENCE)))


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (StepRow(step=0, difference=0.0, residual=0.0, bound=0.0, share=0.0),),
        (StepRow(step=0, difference=None, residual=None, bound=None, share=None),),
        tuple(StepRow(step=i, difference=10.0**-i, residual=1e-300, bound=1e300, share=1e-9) for i in range(300)),
    ],
    ids=["none", "zeros", "lost", "many"],
)
def test_the_chart_holds_any_numbers(steps: tuple[StepRow, ...]) -> None:
    """Zero, lost and extreme numbers have a place on the logarithmic chart, inside its frame."""
    evidence = msgspec.structs.replace(EVIDENCE, steps=steps)
    parsed = page(one(Diverges(faults=(), evidence=evidence)))
    assert len(parsed.values("viewbox")) == (4 if steps else 0)
    for _, attrs in parsed.elements:
        for name in ("cx", "cy"):
            assert 0 <= float(attrs.get(name) or 0) <= 560


# Hostile records


@pytest.mark.parametrize(
    "poison",
    [
        EVIL,
        "</style></pre><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        '" autofocus onfocus="alert(1)',
        "javascript:alert(1)",
        "\x1b[31mred\x07\x00\u202e\ud800",
        "[bold red]markup[/] [link=https://evil.example]x[/link] [/nonsense]",
    ],
    ids=["script", "closing", "quote", "double-quote", "javascript", "control", "markup"],
)
def test_hostile_strings_are_inert(poison: str) -> None:
    """Strings of a record change neither the page's elements nor what the terminal is told to do."""
    record = hostile(lambda text: f"{poison}{text}")
    html = render_html(record)
    html.encode()
    parsed = Parsed(html)
    harmless = Parsed(render_html(hostile(lambda text: f"safe{text}")))
    assert {tag for tag, _ in parsed.elements} <= {tag for tag, _ in harmless.elements} | {"p"}
    assert sum(tag == "script" for tag, _ in parsed.elements) == 1
    assert not [name for _, attrs in parsed.elements for name in attrs if name.startswith("on")]
    assert all(re.match(r"#[\w-]+$|https?://", href) for href in parsed.values("href"))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", html)
    shown = printed(record, force_terminal=True, color_system=None)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown.replace("\x1b[0m", ""))
    if "[bold" in poison:
        assert "[bold" in shown


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "//evil.example",
        "https://",
        "https://a b",
        "https://a\nb",
        "http://[::1",
        "https://ex\u00e4mple.org",
    ],
)
def test_only_web_links_become_links(link: str) -> None:
    """Anything but a plain http or https address is shown as text."""
    verdict = Unsupported(what="x", owner="upstream", reason="y", link=link)
    assert web_link(link) == ""
    assert all(href.startswith("#") for href in page(one(verdict)).values("href"))


def test_a_web_link_is_a_link() -> None:
    """An https address can be followed, without telling where from."""
    verdict = Unsupported(what="x", owner="upstream", reason="y", link=ISSUE)
    links = [attrs for tag, attrs in page(one(verdict)).elements if tag == "a" and attrs.get("href") == ISSUE]
    assert [attrs["rel"] for attrs in links] == ["noopener noreferrer"]


def test_long_strings_are_cut_visibly() -> None:
    """A huge message does not make a huge report; the end of standard error is what is kept."""
    long = msgspec.structs.replace(CRASH, message="m" * 900_000, stderr_tail="s" * 900_000 + "the end")
    html = render_html(one(long))
    assert len(html) < 200_000
    text = Parsed(html).text
    assert f"{900_000 - LIMIT} characters left out" in text
    assert "the end" in text
    assert len(printed(one(long))) < 5_000


@pytest.mark.parametrize(
    "case",
    [{}, {"parameters": 3, "x": "abc", "h0": None}, {"parameters": {"W": [[1, [2]], "x", 10**400]}, "x": [[[]]]}],
    ids=["empty", "no-arrays", "ragged"],
)
def test_a_malformed_example_is_shown_as_far_as_it_goes(case: dict[str, Any]) -> None:
    """The case of an example is free JSON: whatever it holds, the report is made."""
    draft = Draft()
    finding = draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    assert finding.example is not None
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    odd = msgspec.structs.replace(
        finding.example, case=case, observed_outputs=[1.0, [None, [True, "x"]]], expected_outputs=deep, repro=""
    )
    draft.findings = [msgspec.structs.replace(finding, example=odd)]
    assert "The minimal case" in page(draft.record()).text


# The terminal


def test_the_summary_has_a_row_per_candidate_in_order() -> None:
    """Every candidate of the header has its row, in the header's order."""
    shown = printed(typical(), width=200)
    rows = [next(line for line in shown.splitlines() if line.startswith(n)) for n in typical().header.candidates]
    lines = shown.splitlines()
    assert [lines.index(row) for row in rows] == sorted(lines.index(row) for row in rows)
    words = [re.search("|".join(ORDER), row.split("  ", 1)[1]) for row in rows]
    assert [word[0] if word else "" for word in words] == [
        "diverges",
        "agrees",
        "agrees",
        "unrepresentable",
        "diverges",
        "broken",
        "inconclusive",
        "broken",
    ]


def test_the_summary_fits_eighty_columns() -> None:
    """At 80 columns only commands, which must be copied whole, are longer than a line."""
    lines = printed(typical()).splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("  see it again"))


def test_the_summary_of_a_divergence() -> None:
    """A divergence is told with its fault, both equations, expected and observed, and its command whole."""
    draft = Draft()
    finding = draft.judged(draft.candidate(MLX, mlx="0.31.1"), NONE, fault="drop_rbhn_t0")
    assert finding.example is not None
    shown = printed(draft.record())
    assert "drop_rbhn_t0: the term r * b_hn is missing on the first step" in shown
    assert "right: n = tanh" in shown
    assert "wrong: n = tanh(W_xn x + b_xn) at step 0" in shown
    assert re.search(r"expected -?[\d.]+, observed -?[\d.]+, bound", shown)
    assert f"see it again: {finding.example.command}\n" in shown


def test_the_summary_is_plain_when_not_on_a_terminal() -> None:
    """Nothing but text goes into a log."""
    assert "\x1b" not in printed(typical())


def test_the_summary_can_be_written_in_ascii() -> None:
    """An output that knows no other characters gets escapes instead of a crash."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    record = hostile(lambda text: f"{text}\N{SNOWMAN}")
    print_summary(record, Console(file=stream, width=80))
    stream.flush()
    assert b"\\u2603" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_the_version_is_what_the_worker_says() -> None:
    """The version comes from the framework; what was asked for is named only where no worker came up."""
    shown = printed(typical(), width=200)
    assert re.search(r"mlx:none==0.31.1 +0.31.1 +diverges", shown)
    assert re.search(r"flax-nnx:lax-scan +0.12.8 ", shown)
    assert "asked: 9.9" in shown


def test_the_summary_of_agreement_counts_what_is_ruled_out() -> None:
    """The least that any check rules out is told, never the most."""
    draft = Draft()
    name = draft.candidate("a:x")
    draft.found(name, AGREES)
    finding = msgspec.structs.replace(draft.findings[0], visible=("drop_bhn", "drop_bhr"))
    draft.findings = [finding]
    assert "1 of 2 visible faults ruled out; largest share of the bound 0.43; 1 trial" in printed(draft.record(), 200)
    assert "drop_bhr" in page(draft.record()).text


def test_the_terminal_counts_the_faults_that_are_ruled_out() -> None:
    """Agreement is shown with the size of its kill set, once for all candidates that share it; the page names it."""
    draft = Draft()
    for name in ("mine:one", "mine:two"):
        draft.candidate(name)
        draft.found(name, Agrees(excluded=frozenset({"swap_rz", "drop_bhn"}), share=0.1, compared=5))
        draft.found(name, Agrees(excluded=frozenset({"swap_rz", "drop_bhr"}), share=0.1, compared=5), "gru_split")
    shown = printed(draft.record(), 200)
    assert shown.count("Ruled out by what agrees of mine:one and mine:two: 3 faults of gru") == 1
    assert "swap_rz" not in shown
    assert {"drop_bhn", "drop_bhr", "swap_rz"} <= set(page(draft.record()).text.split())


def test_the_terminal_shows_what_a_broken_candidate_said_last() -> None:
    """The tail of stderr, or of an installer's message, stands below the table, inert."""
    draft = Draft()
    draft.candidate("mine:one", came_up=False)
    draft.found(
        "mine:one", Broken(kind="start", message="No such release", stderr_tail="first\n\x1b[31mno version of mlx==9")
    )
    shown = printed(draft.record(), 200)
    assert "mine:one is broken: No such release" in shown
    assert "no version of mlx==9" in shown
    assert "\x1b[31m" not in shown


# Levels


WRAPS = Diverges(
    faults=("length_zero_wraps",),
    evidence=msgspec.structs.replace(
        EVIDENCE, observed=0.25, finite=True, where="a row of length 0", largest_difference=0.1, share=7.0
    ),
)
ASIDE = "gru_length_zero"


def beside(verdict: Verdict, *candidates: str) -> Record:
    """Candidates that agree on a MUST requirement, and what the first of them gets on a SHOULD requirement."""
    draft = Draft()
    for name in candidates or ("a:x", "b:x"):
        draft.candidate(name)
        draft.found(name, AGREES)
        draft.found(name, verdict if len(draft.findings) == 1 else AGREES, ASIDE)
    return draft.record()


def test_a_should_divergence_is_told_and_does_not_decide() -> None:
    """The exit code stays 0, and headline, terminal and page say what differs."""
    record = beside(WRAPS)
    assert exit_code(record) == 0
    assert headline(record) == (
        "All 2 candidates agree with the reference; a:x differs on 1 SHOULD requirement"
        " (gru_length_zero: length_zero_wraps)."
    )
    shown = printed(record, 200)
    assert "a:x differs on 1 SHOULD requirement (gru_length_zero: length_zero_wraps)" in shown
    assert "a:x diverges on gru_length_zero in float32 (SHOULD: does not decide)" in shown
    assert re.search(r"a:x +unknown +agrees|a:x +\S* +agrees", shown)
    parsed = page(record)
    assert "Divergences that do not decide" in parsed.text
    assert "Beside the answer, on requirements that do not decide: a:x differs on 1 SHOULD" in parsed.text
    assert "Do not read this as a full answer" not in parsed.text
    assert any(tag == "details" and "open" in attrs for tag, attrs in parsed.elements)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [(CRASH, "a:x is broken on"), (Inconclusive(why="saturated"), "a:x is inconclusive on")],
    ids=["broken", "inconclusive"],
)
def test_what_else_is_not_fine_on_a_should_is_told(verdict: Verdict, words: str) -> None:
    """A breakage or an open question on a SHOULD requirement is no failure, and no secret."""
    record = beside(verdict)
    assert exit_code(record) == 0
    assert f"{words} 1 SHOULD requirement (gru_length_zero)" in headline(record)
    assert words in page(record).text
    assert words in printed(record, 200)


def test_levels_stand_apart_in_the_matrix() -> None:
    """MUST and SHOULD requirements are parts of their own, under a heading each, and can be chosen."""
    parsed = page(beside(Diverges(faults=("drop_bhn",), evidence=EVIDENCE), "mlx:none"))
    assert {attrs["data-level"] for tag, attrs in parsed.elements if tag == "tbody" and "data-level" in attrs} == {
        "MUST",
        "SHOULD",
    }
    headings = [attrs for tag, attrs in parsed.elements if tag == "th" and attrs.get("scope") == "rowgroup"]
    assert len(headings) == 2
    assert "level" in parsed.values("data-filter")


def test_candidates_that_differ_alike_share_a_clause() -> None:
    """Of several candidates with the same difference it is told once."""
    draft = Draft()
    for name in ("a:x", "b:x", "c:x"):
        draft.candidate(name)
        draft.found(name, AGREES)
        draft.found(name, WRAPS if name != "c:x" else AGREES, ASIDE)
        draft.found(name, CRASH if name != "c:x" else AGREES, "gru_kept_exactly")
    text = headline(draft.record())
    assert "a:x and b:x differ on 1 SHOULD requirement (gru_length_zero: length_zero_wraps)" in text
    assert "are broken on 1 informational requirement (gru_kept_exactly)" in text


def test_a_divergence_that_decides_is_told_first() -> None:
    """A MUST divergence gives the exit code and the start of the headline; the rest follows."""
    draft = Draft()
    draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    draft.found(MLX, WRAPS, ASIDE)
    record = draft.record()
    assert exit_code(record) == 1
    assert re.search(r"behaves like drop_rbhn_t0 .*\. Beside that, .* differs on 1 SHOULD", headline(record))
    (title,) = re.findall(r"<h1>(.*?)</h1>", render_html(record), re.DOTALL)
    assert "behaves like drop_rbhn_t0" in title
    assert "SHOULD" not in title, "that stands in the box below, and is not said twice"
    assert "differs on 1 SHOULD" in render_html(record).partition("</h1>")[2]
    shown = printed(record, 200)
    assert shown.index("diverges on gru_hidden_none") < shown.index("diverges on gru_length_zero")


def test_should_requirements_decide_where_no_must_was_asked() -> None:
    """`-k length_zero` asks SHOULD requirements only: then what they find is the answer, and it is said so."""
    draft = Draft()
    draft.found(draft.candidate("a:x"), WRAPS, ASIDE)
    record = draft.record()
    assert exit_code(record) == 1
    assert headline(record).startswith("1 of 1 candidate diverges")
    assert "No MUST requirement was asked" in printed(record, 200)
    assert "No MUST requirement was asked" in page(record).text
    draft.findings = []
    draft.found("a:x", AGREES, ASIDE)
    assert exit_code(draft.record()) == 0


def test_agreement_on_should_requirements_is_no_answer_to_the_others() -> None:
    """With MUST requirements in the record, a candidate without a finding on one of them is not passed."""
    draft = Draft()
    draft.found(draft.candidate("a:x"), AGREES)
    draft.found(draft.candidate("b:x"), AGREES, ASIDE)
    record = draft.record()
    assert exit_code(record) == 3
    assert "no finding on a MUST requirement for b:x" in page(record).text
    only = msgspec.structs.replace(record, findings=(msgspec.structs.replace(record.findings[1], candidate="a:x"),))
    assert exit_code(only) == 3
    assert headline(only) == "Nothing was compared on a MUST requirement: this record is no evidence of agreement."


@pytest.mark.parametrize("level", ["", "must", "May", "SHOULD ", "\u202eSHOULD"])
def test_a_level_that_is_none_counts_as_must(level: str) -> None:
    """What the record calls by another name cannot hide behind a weaker level."""
    record = beside(WRAPS)
    entries = tuple(
        msgspec.structs.replace(entry, level=level) if entry.name == ASIDE else entry
        for entry in record.header.requirements
    )
    assert exit_code(
        msgspec.structs.replace(record, header=msgspec.structs.replace(record.header, requirements=entries))
    )


def test_a_requirement_that_is_not_described_or_described_twice_counts_as_must() -> None:
    """Neither leaving out a requirement's entry nor adding a second one takes a divergence out of the answer."""
    record = beside(WRAPS)
    entry = next(entry for entry in record.header.requirements if entry.name == ASIDE)
    for entries in (
        tuple(e for e in record.header.requirements if e.name != ASIDE),
        (*record.header.requirements, msgspec.structs.replace(entry, level="MUST")),
    ):
        header = msgspec.structs.replace(record.header, requirements=entries)
        assert exit_code(msgspec.structs.replace(record, header=header)) == 1


# Many requirements


@cache
def large() -> Record:
    """Seven candidates on every requirement; MLX follows one fault on two of them, one has a gradient that is wrong."""
    draft = Draft()
    old = draft.candidate(MLX, mlx="0.31.1")
    for dtype in ("float32", "float16", "bfloat16"):
        draft.judged(old, NONE, dtype, fault="drop_rbhn_t0")
    shown = next(finding for finding in draft.findings if isinstance(finding.verdict, Diverges))
    assert isinstance(shown.verdict, Diverges)
    evidence = msgspec.structs.replace(shown.verdict.evidence, where="the state omitted")
    same = Diverges(faults=("drop_rbhn_t0", "other"), evidence=evidence)
    draft.findings.append(
        msgspec.structs.replace(shown, requirement="gru_omitted_is_zeros", verdict=same, dtype="float32")
    )
    names = [MLX, *(draft.candidate(f"frame{i}:layer") for i in range(6))]
    done = {(finding.candidate, finding.requirement) for finding in draft.findings}
    for name in names:
        for requirement, entry in REQUIREMENTS.items():
            if (name, requirement) in done:
                continue
            agrees = Agrees(excluded=frozenset(CATALOGUE[entry.cell]), share=0.4, compared=400)
            verdict: Verdict = agrees
            if "lengths" in entry.features:
                verdict = Unsupported(what="lengths", owner="upstream", reason="no such argument", link=ISSUE)
            if (name, requirement) == ("frame1:layer", "lstm_gradient"):
                verdict = Diverges(faults=("state_detached",), evidence=GRADIENT_EVIDENCE)
            if requirement == "lstm_empty_time":
                verdict = Inconclusive(why="not asked of anything")
            for dtype in ("float32",) if entry.dtypes else ("float32", "float16"):
                draft.found(name, verdict, requirement, dtype)
    return draft.record()


GRADIENT_EVIDENCE = Evidence(
    output="gradient of W_hn",
    first=(0, 0, 5),
    expected=1.25,
    observed=0.5,
    bound=1e-6,
    largest_difference=0.75,
    share=7.5e5,
    outside=12,
    compared=900,
    residuals={"state_detached": 0.3},
    where="row 1, column 1",
)


def test_every_requirement_fits_into_a_report_that_can_be_read() -> None:
    """Every requirement for seven candidates: small, folded where all is fine, and with every anchor."""
    record = large()
    assert len(record.header.requirements) > 250
    html = render_html(record)
    assert len(html.encode()) < 2_000_000
    parsed = Parsed(html)
    targets = {href for href in parsed.values("href") if re.fullmatch(r"#f\d+", href)}
    assert len(targets) == len(record.findings)
    opened = [attrs["id"] for _, attrs in parsed.elements if attrs.get("class") == "cell" and "open" in attrs]
    assert len(opened) == 2
    assert headline(record).startswith("2 of 7 candidates diverge: mlx:none==0.31.1 behaves like drop_rbhn_t0; ")
    assert "requirements on which all is fine" in parsed.text


def test_the_terminal_stays_short_however_many_requirements() -> None:
    """The summary grows with what is not fine, not with what is asked."""
    shown = printed(large(), 100)
    assert len(shown.splitlines()) < 90
    told = " ".join(shown.split())
    assert re.search(r"frame1:layer: lstm: 2 diverge, .*\(not fine: gradient and empty_time\)", told)
    assert told.count("and frame5:layer do not offer: lengths (owner upstream, https://") == 1


def test_one_fault_has_one_section() -> None:
    """Divergences of one candidate that one fault explains are led by one of them; the others are rows below it."""
    parsed = page(large())
    articles = [attrs for tag, attrs in parsed.elements if tag == "article" and attrs.get("id")]
    assert len(articles) == 2
    assert "The same fault on 3 further checks" in parsed.text
    assert "the state omitted" in parsed.text
    shown = printed(large(), 200)
    assert shown.count("mlx:none==0.31.1 diverges on") == 1
    assert "the same on gru_hidden_none in float16, bfloat16 and gru_omitted_is_zeros in float32" in shown


def test_divergences_without_a_name_are_grouped_by_clause() -> None:
    """The same clause of several cells, explained by nothing, is one section; another clause another one."""
    draft = Draft()
    name = draft.candidate("a:x")
    finite = msgspec.structs.replace(EVIDENCE, observed=0.5, finite=True)
    for requirement in ("gru_contract", "lstm_contract", "lstm_repeated"):
        draft.found(name, Diverges(faults=(), evidence=finite), requirement)
    parsed = page(draft.record())
    assert sum(tag == "article" for tag, _ in parsed.elements) == 2
    assert "The same clause on 1 further check" in parsed.text


def test_no_candidate_buries_the_others() -> None:
    """A candidate that is wrong everywhere in its own ways gets a few paragraphs; the rest is one line."""
    finite = msgspec.structs.replace(EVIDENCE, observed=0.5, finite=True)
    draft = Draft()
    for name in ("a:x", "b:x"):
        draft.candidate(name)
        for requirement in [clause for clause, entry in REQUIREMENTS.items() if entry.level == "MUST"][:15]:
            draft.found(name, Diverges(faults=(), evidence=finite), requirement)
    shown = printed(draft.record(), 200)
    assert shown.count("a:x diverges on") == shown.count("b:x diverges on") == 3
    assert "b:x also diverges on" in shown


def test_two_faults_together_and_the_place_are_told() -> None:
    """What a pair of faults explains is named after it; what nothing explains is told by its place."""
    finite = msgspec.structs.replace(EVIDENCE, observed=0.5, finite=True)
    pair = msgspec.structs.replace(finite, pairs=(("drop_bhn", "swap_rz"),))
    place = msgspec.structs.replace(finite, localisation=(f"wrong only at step 3 {EVIL}",), lasting=("from step 2 on",))
    draft = Draft()
    name = draft.candidate("a:x")
    draft.found(name, Diverges(faults=(), evidence=pair))
    draft.found(name, Diverges(faults=(), evidence=pair), "gru_hidden_zeros")
    draft.found(name, Diverges(faults=(), evidence=place), "gru_split")
    record = draft.record()
    assert "behaves like drop_bhn together with swap_rz, and elsewhere like none" in headline(record)
    for text in (page(record).text, printed(record, 300)):
        assert "drop_bhn together with swap_rz" in text
        assert "wrong only at step 3" in text
        assert "from step 2 on" in text
    assert "The same fault on 1 further check" in page(record).text
    assert "wrong only at step 3" in failure_message(draft.findings[2], {})


def test_numbers_that_are_not_finite_are_one_section() -> None:
    """A candidate that returns NaN everywhere does not get a section per clause."""
    draft = Draft()
    name = draft.candidate("a:x")
    for requirement in ("gru_contract", "lstm_split", "lstm_repeated"):
        draft.found(name, Diverges(faults=(), evidence=EVIDENCE), requirement)
    parsed = page(draft.record())
    assert sum(tag == "article" for tag, _ in parsed.elements) == 1
    assert "Numbers that are not finite on 2 further checks" in parsed.text


def test_one_broken_start_is_told_once() -> None:
    """A worker that never came up breaks every check; its message is there once."""
    draft = Draft()
    name = draft.candidate("a:x", came_up=False)
    for requirement in REQUIREMENTS:
        draft.found(name, Broken(kind="start", message="no release a==9.9"), requirement)
    parsed = page(draft.record())
    assert parsed.text.count("no release a==9.9") == 1
    assert {f"f{index}" for index in range(1, len(REQUIREMENTS) + 1)} <= set(parsed.values("id"))


# What diverges


def test_a_gradient_is_told_by_its_name_and_place() -> None:
    """The place of a gradient is in words; its flat index is no batch row, step or unit."""
    record = one(Diverges(faults=(), evidence=GRADIENT_EVIDENCE))
    for text in (page(record).text, printed(record, 200)):
        assert "gradient of W_hn, row 1, column 1" in text
        assert not re.search(r"batch row \d|first at step", text)
        assert "1.25" in text


def test_the_diverging_gradient_is_marked_in_the_minimal_case() -> None:
    """The element that diverges first is found by its flat index, and comes first."""
    draft = Draft()
    finding = draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    assert finding.example is not None
    pair = ArrayPair(
        name="gradient of W_hn", observed=[[0.0] * 4, [0.0, 0.5, 0.0, 0.0]], expected=[[0.0] * 4, [0.0, 1.25, 0.0, 0.0]]
    )
    verdict = Diverges(faults=(), evidence=GRADIENT_EVIDENCE)
    example = msgspec.structs.replace(finding.example, verdict=verdict, further=(pair,))
    draft.findings = [msgspec.structs.replace(finding, verdict=verdict, example=example)]
    text = page(draft.record()).text
    assert "gradient of W_hn 1, 1 1.25 0.5 0.75 first outside its bound" in text


def test_a_relation_says_what_it_asks_and_by_which_detour() -> None:
    """Where two ways of running disagree, both the clause and the way are told."""
    where = msgspec.structs.replace(EVIDENCE, where="each row run alone")
    draft = Draft()
    draft.found(draft.candidate("a:x"), Diverges(faults=(), evidence=where), "gru_rows_alone")
    statement = REQUIREMENTS["gru_rows_alone"].statement
    for text in (page(draft.record()).text, " ".join(printed(draft.record(), 200).split())):
        assert "batch row 1, step 2, unit 3 (each row run alone)" in text
        assert statement in text


def test_a_shape_that_is_wrong_has_no_numbers() -> None:
    """A broken promise of shape is told in words; no number is invented for it."""
    shape = Evidence(
        output="outputs",
        first=(0, 0, 0),
        expected=None,
        observed=None,
        bound=0.0,
        largest_difference=None,
        share=None,
        outside=1,
        compared=1,
        where="B = 0: shape (1, 4, 3), wanted (0, 4, 3)",
    )
    draft = Draft()
    draft.found(draft.candidate("a:x"), Diverges(faults=(), evidence=shape), "gru_empty_batch")
    for text in (page(draft.record()).text, printed(draft.record(), 200)):
        assert "shape (1, 4, 3), wanted (0, 4, 3)" in text
        assert "expected not finite" not in text
    assert "equality bit for bit" in page(draft.record()).text


def test_hostile_text_in_a_place_is_inert() -> None:
    """The place in words comes from the record as everything else."""
    for output in ("outputs", f"gradient of {EVIL}"):
        evidence = msgspec.structs.replace(EVIDENCE, output=output, where=f"{EVIL}\x1b[31m\u202e" + "x" * 5000)
        record = one(Diverges(faults=(), evidence=evidence))
        html = render_html(record)
        assert sum(tag == "script" for tag, _ in Parsed(html).elements) == 1
        assert "\u202e" not in html
        assert len(html) < 200_000
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", printed(record))


# Cases of every kind


def kinds_of_case() -> dict[str, Case]:
    """Cases with what a plain one has not."""
    plain_case = the_case("gru_hidden_given")
    lstm = cell_named("lstm")
    generator = np.random.default_rng(0)
    odd = plain_case.x.copy()
    odd[0, 1, 0], odd[1, 2, 1] = np.nan, -np.inf
    stacked = cell_named("gru").shapes({"D": 3, "H": 4, "P": 4}, 2, 2)
    return {
        "lengths": replace(plain_case, lengths=(3, 0), padding="free"),
        "reverse": replace(plain_case, reverse=True, strided=True, inputs_back=True),
        "no-steps": replace(plain_case, x=plain_case.x[:, :0]),
        "no-rows": replace(plain_case, x=plain_case.x[:0], h0=plain_case.h0[:0]),
        "special": replace(plain_case, x=odd, special=True),
        "cotangents": replace(plain_case, cotangents={"outputs": np.ones((2, 6, 4)), "final_state": np.ones((2, 4))}),
        "stacked": make_case(
            cell="gru",
            dtype="float32",
            parameters={name: generator.normal(size=shape) for name, shape in stacked.items()},
            x=generator.normal(size=(2, 3, 3)),
            initial="given",
            h0=generator.normal(size=(2, 16)),
            layers=2,
            directions=2,
        ),
        "memory": make_case(
            cell="lstm",
            dtype="float32",
            parameters={n: generator.normal(size=s) for n, s in lstm.shapes({"D": 3, "H": 4, "P": 4}, 1, 1).items()},
            x=generator.normal(size=(2, 3, 3)),
            initial="given",
            h0=generator.normal(size=(2, 4)),
            c0=generator.normal(size=(2, 4)),
        ),
    }


@pytest.mark.parametrize("kind", kinds_of_case())
@pytest.mark.parametrize("output", ["outputs", "final_state", "cells", "gradient of W_hn", "h0 after the call"])
def test_every_kind_of_case_can_be_shown(kind: str, output: str) -> None:
    """No case, and no array that may diverge on it, keeps a report or a test's message from being made."""
    case = kinds_of_case()[kind]
    requirement = f"{case.cell}_hidden_given"
    with np.errstate(all="ignore"):
        observed = observe(case, None)
    evidence = msgspec.structs.replace(EVIDENCE, output=output, where="somewhere", first=(1, 9, 3))
    verdict = Diverges(faults=("state_detached", "h0_ignored", "unheard_of"), evidence=evidence)
    with np.errstate(all="ignore"):
        example = make_example("a:x", requirement, case, observed, verdict)
    empty = ArrayPair(name="cells", observed=[], expected=[[[None]]])
    example = msgspec.structs.replace(example, further=(empty,))
    finding = Finding(
        candidate="a:x",
        requirement=requirement,
        dtype="float32",
        verdict=verdict,
        trials=1,
        seconds=0.0,
        example=example,
    )
    draft = Draft()
    draft.candidate("a:x")
    draft.findings = [finding]
    text = page(draft.record()).text
    assert "The minimal case" in text
    wanted = {
        "lengths": "lengths [3, 0]",
        "reverse": "reverse True",
        "special": "-infinite",
        "cotangents": "cotangent of outputs",
        "stacked": "layers 2",
        "memory": "c0",
    }
    assert wanted.get(kind, "outputs") in text
    assert "somewhere" in printed(draft.record(), 200)
    message = failure_message(finding, {"mlx": "0.31.2"})
    assert "somewhere" in message
    assert "unheard_of" in message
    assert f"required (MUST): {REQUIREMENTS[requirement].statement}" in message


def test_a_failing_test_shows_the_first_divergent_row() -> None:
    """The message of a failing test holds the state expected and observed at the first divergent step."""
    draft = Draft()
    finding = draft.judged(draft.candidate(MLX), NONE, fault="drop_rbhn_t0")
    message = failure_message(finding, {})
    assert "first divergent step: 0 (batch" in message
    assert re.search(r"step 0, batch \d: expected h = \[", message)
    assert "observed h = [" in message


def test_what_ran_is_told_once_without_the_features_of_cases() -> None:
    """The paths of a candidate's trials, by which somebody sees which code answered; features are the cases'."""
    record = one(AGREES)
    trial = make_trial("mlx:none", "gru_hidden_none", the_case("gru_hidden_none"), AGREES)
    paths = ("loop(x), fused <b>", "loop(x), fused <b> +lengths +gradients", "layer(x)", "")
    trials = tuple(msgspec.structs.replace(trial, path=path) for path in paths)
    told = msgspec.structs.replace(record, trials=trials)
    assert attested(told) == {"mlx:none": ("loop(x), fused <b>", "layer(x)")}
    assert "loop(x), fused <b>; layer(x)" in printed(told, width=200)
    assert "loop(x), fused <b>; layer(x)" in page(told).text
    assert "What ran" not in printed(record)
