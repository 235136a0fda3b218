"""The answer to somebody who wrote a cell: the verdict, the mistake by name, the equations, numbers, what to change.

Plain text like the summary of a run: nothing is read as markup, escape sequences are shown instead of sent.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, assert_never

from msgspec import Struct

from conformance.behaviours import BEHAVIOURS
from conformance.case import Evaluation
from conformance.cells import cell_named
from conformance.faults import catalogue
from conformance.record import Example, Finding
from conformance.report.wording import count, listed, number, visible
from conformance.verdict import Agrees, Broken, Diverges, Evidence, Inconclusive, Unsupported, core

FRESH: Final = "fresh_weights"
_UPDATES: Final[Mapping[Evaluation, str]] = {
    "sequential": "h' = (1 - z) * n + z * h (z keeps the state: --update keep)",
    "complement": "h' = (1 - z) * h + z * n (z mixes the candidate in: --update mix)",
}
_LINES: Final = 6
# What to do about the mistakes that are made most, beyond writing the right equation.
_ADVICE: Final[Mapping[str, str]] = {
    "update_flip": "exchange z and 1 - z in the last line; or, if you mean this convention, say --update {other}",
    "reset_ignored": "multiply by r in the candidate",
    "reset_before": "multiply r with the product W_hn h + b_hn; or, if you mean r * h inside, say --cell gru_v1",
    "reset_after": "multiply r with h before the product; or, if you mean r outside, say --cell gru",
    "gate_tanh": "the gates r and z are sigmoids, between 0 and 1",
    "activations_swapped": "sigmoid for r and z, tanh for the candidate",
    "sigmoid_new": "the candidate is a tanh",
    "relu_new": "the candidate is a tanh",
    "no_tanh": "the candidate is a tanh",
    "x_transposed": "x comes as (T, D), time first: step over the first axis, or transpose before the call",
    FRESH: "build the cell once, outside the step (in __init__ or setup), and use it in every step",
}


class Lesson(Struct, frozen=True, kw_only=True):
    """What is told. evaluation: what z does in the equations judged by; said: whether the user said which they are.

    others: other equations and what would be said under them, in sentences; mapping: of the user's arrays, (name,
    shape, canonical); again: the command that shows it again.
    """

    subject: str
    cell: str
    evaluation: Evaluation
    said: bool
    call: str
    mapping: Sequence[tuple[str, str, str]]
    findings: Sequence[Finding]
    others: Sequence[str] = ()
    remarks: Sequence[str] = ()
    user_line: str = ""
    again: str = ""


def told(lesson: Lesson) -> list[str]:
    """The answer, line by line; the first is the verdict in one sentence."""
    return [visible(line) for line in _told(lesson)]


def telling(findings: Sequence[Finding]) -> Finding | None:
    """The finding that the answer is about: a divergence with a name, weights not used, else the worst."""
    if not findings:
        return None

    def rank(finding: Finding) -> tuple[int, bool, bool, int]:
        inner = core(finding.verdict)
        faults = inner.faults if isinstance(inner, Diverges) else ()
        order = (Diverges, Broken, Inconclusive, Agrees)
        place = next((i for i, kind in enumerate(order) if isinstance(inner, kind)), len(order))
        # A catalogued mistake that explains the outputs shows that the loaded weights are used.
        return (place, not set(faults) - {FRESH}, FRESH not in faults, len(faults) or 99)

    return min(findings, key=rank)


def _told(lesson: Lesson) -> Iterator[str]:
    finding = telling(lesson.findings)
    if finding is None:
        yield f"{lesson.subject}: nothing was compared"
        return
    inner = core(finding.verdict)
    match inner:
        case Agrees():
            yield from _agrees(lesson, inner)
        case Diverges():
            yield from _diverges(lesson, finding, inner)
        case Broken():
            yield f"{lesson.subject} broke: {inner.message}"
            if lesson.user_line:
                yield f"  where: {lesson.user_line}"
            for line in inner.stderr_tail.strip().splitlines()[-_LINES:]:
                yield f"  {line}"
        case Inconclusive():
            yield f"{lesson.subject}: no answer: {inner.why}"
        case Unsupported():
            yield f"{lesson.subject}: {inner.what}: {inner.reason}"
        case None:
            yield f"{lesson.subject}: nothing was compared"
        case _:
            assert_never(inner)
    yield from _context(lesson)


def _context(lesson: Lesson) -> Iterator[str]:
    """What it was judged by and how it was understood, and what else could be meant."""
    yield from ("", "Judged by:")
    yield from (f"  {line}" for line in _judged_by(lesson))
    yield from ("", f"Understood as {lesson.call}")
    width = max((len(name) for name, _, _ in lesson.mapping), default=0)
    shapes = max((len(shape) for _, shape, _ in lesson.mapping), default=0)
    for name, shape, recipe in lesson.mapping:
        yield f"  {name:{width}}  {shape:{shapes}}  = {recipe}"
    if lesson.mapping:
        yield "  (matrices are (outputs, inputs); wrong? write WEIGHTS in your file, see docs/check-cell.md)"
    for remark in lesson.remarks:
        yield ""
        yield remark
    if lesson.others:
        yield ""
        yield "If you meant other equations:"
        yield from (f"  {line}" for line in lesson.others)
    if lesson.again:
        yield ""
        yield f"see it again: {lesson.again}"


def _judged_by(lesson: Lesson) -> Iterator[str]:
    cell = cell_named(lesson.cell)
    yield f"{cell.title}, --cell {lesson.cell}" + ("" if lesson.said else " (nobody said which: this fits best)")
    yield from equations(lesson.cell, lesson.evaluation)


def equations(cell: str, evaluation: Evaluation) -> tuple[str, ...]:
    """The equations that a cell is judged by, a line each."""
    return (*EQUATIONS[cell], *((_UPDATES[evaluation],) if cell.startswith("gru") else ()))


EQUATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "gru": (
        "r = sigmoid(W_xr x + b_xr + W_hr h + b_hr)",
        "z = sigmoid(W_xz x + b_xz + W_hz h + b_hz)",
        "n = tanh(W_xn x + b_xn + r * (W_hn h + b_hn))",
    ),
    "gru_v1": (
        "r = sigmoid(W_xr x + b_xr + W_hr h + b_hr)",
        "z = sigmoid(W_xz x + b_xz + W_hz h + b_hz)",
        "n = tanh(W_xn x + b_xn + W_hn (r * h) + b_hn)",
    ),
    "lstm": (
        "i, f, o = sigmoid(W_x. x + b_x. + W_h. h + b_h.)",
        "g = tanh(W_xg x + b_xg + W_hg h + b_hg)",
        "c' = f * c + i * g; h' = o * tanh(c')",
    ),
    "elman": ("h' = tanh(W_x x + b_x + W_h h + b_h)",),
    "elman_relu": ("h' = relu(W_x x + b_x + W_h h + b_h)",),
}


def _agrees(lesson: Lesson, verdict: Agrees) -> Iterator[str]:
    spoken = cell_named(lesson.cell).title
    z = ""
    if lesson.cell.startswith("gru"):
        z = "; z mixes the candidate in" if lesson.evaluation == "complement" else "; z keeps the state"
    yield f"{lesson.subject} agrees: it is a {spoken}{z}"
    trials = sum(finding.trials for finding in lesson.findings)
    checks = listed([finding.requirement for finding in lesson.findings])
    yield f"  {count(trials, 'case')} of {checks}; {count(len(verdict.excluded), 'fault')} ruled out"
    unasked = [f for f in lesson.findings if not isinstance(core(f.verdict), Agrees)]
    for finding in unasked:
        inner = core(finding.verdict)
        if isinstance(inner, Inconclusive):
            yield f"  {finding.requirement}: no answer: {inner.why}"


def _diverges(lesson: Lesson, finding: Finding, verdict: Diverges) -> Iterator[str]:
    evidence = verdict.evidence
    if verdict.faults:
        yield f"{lesson.subject} diverges: {' or '.join(verdict.faults)}"
        if len(verdict.faults) > 1:
            yield "  these cannot be told apart here; each explains everything that was seen"
        for name in verdict.faults:
            yield from _fault(lesson, name)
    else:
        yield f"{lesson.subject} diverges, and none of the catalogue's mistakes explains it"
        for pair in evidence.pairs:
            yield f"  two mistakes together do: {' and '.join(pair)}"
            for name in pair:
                yield from _fault(lesson, name)
        for sentence in (*evidence.lasting, *evidence.localisation):
            yield f"  {sentence}"
        if not evidence.finite:
            yield "  it returned NaN or infinity"
    if finding.example is not None:
        yield ""
        yield from _example(finding.example)


def _fault(lesson: Lesson, name: str) -> Iterator[str]:
    fault = catalogue(lesson.cell).get(name)
    if fault is None:
        yield f"  {name}: {BEHAVIOURS[name].statement}" if name in BEHAVIOURS else f"  {name}"
    else:
        words = fault.told(lesson.evaluation)
        yield f"  {name}: {words.statement}"
        if words.right:
            yield f"    right: {words.right}"
            yield f"    yours: {words.equation}"
            marks = difference(words.right, words.equation)
            if marks:
                yield f"           {marks}"
    advice = _ADVICE.get(name, "write the right equation")
    yield f"    to do: {advice.format(other='keep' if lesson.evaluation == 'complement' else 'mix')}"


def difference(right: str, wrong: str) -> str:
    """Marks below what differs in the second line; "" when most of it does."""
    blocks = difflib.SequenceMatcher(None, right, wrong, autojunk=False).get_opcodes()
    marks = [" "] * (len(wrong) + 1)
    for tag, _, _, start, end in blocks:
        if tag != "equal":
            marks[start : max(end, start + 1)] = "^" * max(end - start, 1)
    text = "".join(marks).rstrip()
    return text if 0 < text.count("^") <= len(wrong) / 2 else ""


def _example(example: Example) -> Iterator[str]:
    """The smallest case in numbers."""
    case: dict[str, Any] = example.case
    evidence: Evidence = example.verdict.evidence if isinstance(example.verdict, Diverges) else None  # type: ignore[assignment]
    if evidence is None:
        return
    row, step, unit = evidence.first
    yield f"The smallest case found, where it shows first (row {row}, step {step}, unit {unit}):"
    x = case["x"][row][step]
    states = example.observed_outputs[row]
    before = case["h0"][row] if step == 0 else states[step - 1]
    yield f"  x  = {_row(x)}"
    yield f"  h  = {_row(before)}" + ("" if step == 0 else "  (yours, from the step before)")
    local = {name: value for name, value in evidence.intermediates.items() if name != "h"}
    if local:
        yield "  " + ", ".join(f"{name} = {number(value)}" for name, value in local.items()) + "  (right)"
    yield f"  h' = {number(evidence.expected)} expected, {number(evidence.observed)} yours"


def _row(values: Sequence[float]) -> str:
    return f"[{', '.join(number(value) for value in values)}]"
