"""JUnit XML: of a gate a test case for every change, of a run one for every finding.

What is worse, or diverges, is a failure; what could not be told an error; what is declared out is skipped. The answer
is a test case of its own, so that an answer other than a pass never reads as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, assert_never
from xml.etree import ElementTree as ET

from conformance.gate import Answer, Change, Kind, Outcome
from conformance.known import Problem, check_known
from conformance.record import Record
from conformance.report.answer import answer
from conformance.report.gate import MEANINGS, phrase
from conformance.report.known import problem_text
from conformance.report.rows import FindingRow, finding_rows
from conformance.report.telling import row_text
from conformance.report.wording import block, label

_ERRORS: Final[frozenset[Kind]] = frozenset(("inconclusive", "changed", "gone"))

_SAID: Final[dict[Answer, str]] = {
    "safe": "nothing that decides is worse",
    "regressed": "a check that decides is worse than before",
    "changed": "what was wrong or broke before is wrong or breaks in another way",
    "could not tell": "it is not known why",
}


def junit(outcome: Outcome) -> str:
    """The document of a gate."""
    suite = ET.Element("testsuite", name=f"gate {label(outcome.gate.before)} -> {label(outcome.gate.after)}")
    _answer(suite, outcome)
    for change in outcome.changes:
        _case(suite, change)
    _problems(suite, outcome.problems)
    return _document([suite])


def junit_of_run(record: Record) -> str:
    """The document of a run: a suite with the answer, and one for each candidate."""
    said = answer(record)
    first = ET.Element("testsuite", name="rnn-conformance")
    case = ET.SubElement(first, "testcase", classname="run", name="answer")
    if said.exit_code:
        tag = "failure" if said.exit_code == 1 else "error"
        ET.SubElement(case, tag, type=said.word, message=label(said.sentence)).text = block(said.sentence)
    else:
        ET.SubElement(case, "system-out").text = block(said.sentence)
    case = ET.SubElement(first, "testcase", classname="run", name="whole record")
    if record.problem:
        ET.SubElement(case, "error", type="incomplete", message=label(record.problem)).text = block(record.problem)
    _problems(first, check_known(record))
    suites: dict[str, ET.Element] = {}
    for row in finding_rows(record):
        if row.candidate not in suites:
            suites[row.candidate] = ET.Element("testsuite", name=label(row.candidate))
        _finding(suites[row.candidate], row)
    return _document([first, *suites.values()])


def _finding(suite: ET.Element, row: FindingRow) -> None:
    name = label(f"{row.requirement}[{row.dtype}]" if row.requirement else "no finding")
    case = ET.SubElement(suite, "testcase", classname=label(row.candidate), name=name, time=f"{row.seconds:.3f}")
    text = row_text(row)
    match row.standing:
        case "fails":
            ET.SubElement(case, "failure", type=row.outcome, message=label(text)).text = text
        case "doubtful":
            ET.SubElement(case, "error", type=row.outcome, message=label(text)).text = text
        case "not asked":
            ET.SubElement(case, "skipped", message=label(text)).text = text
        case "aside" | "known":
            aside = f"{row.level}: does not decide" if row.standing == "aside" else "listed as known"
            ET.SubElement(case, "system-out").text = f"{aside}: {text}"
        case "fine":
            ET.SubElement(case, "system-out").text = text
        case _:
            assert_never(row.standing)


def _problems(suite: ET.Element, problems: Iterable[Problem]) -> None:
    for problem in problems:
        name = label(f"{problem.kind}: {problem.requirement} {problem.dtype}")
        case = ET.SubElement(suite, "testcase", classname=f"known.{label(problem.candidate)}", name=name)
        _told(case, "failure", problem.kind, problem_text(problem))


def _document(suites: Sequence[ET.Element]) -> str:
    root = ET.Element("testsuites")
    for suite in suites:
        cases = list(suite)
        suite.set("tests", str(len(cases)))
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(name, str(sum(case.find(tag) is not None for case in cases)))
        root.append(suite)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _answer(suite: ET.Element, outcome: Outcome) -> None:
    case = ET.SubElement(suite, "testcase", classname="gate", name="answer")
    if outcome.answer != "safe":
        told = "; ".join(outcome.doubts) or _SAID[outcome.answer]
        _told(case, "failure" if outcome.answer == "regressed" else "error", outcome.answer, label(told))


def _case(suite: ET.Element, change: Change) -> None:
    name = label(f"{change.requirement}[{change.dtype}]")
    case = ET.SubElement(suite, "testcase", classname=f"gate.{label(change.variant)}", name=name)
    text = block(f"before: {phrase(change.before)}\nafter: {phrase(change.after)}\n{change.why}".rstrip())
    if change.kind == "regressed" and change.decides:
        _told(case, "failure", change.kind, text)
    elif change.kind in _ERRORS and change.decides:
        _told(case, "error", change.kind, text)
    elif change.kind != "unchanged":
        ET.SubElement(case, "system-out").text = f"{change.kind}\n{text}"


def _told(case: ET.Element, tag: str, kind: str, text: str) -> None:
    meaning = next((meaning for name, meaning in MEANINGS.items() if name == kind), kind)
    ET.SubElement(case, tag, type=kind, message=f"{kind}: {meaning}").text = text
