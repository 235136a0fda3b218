"""A gate as JUnit XML: a test case for every change; a regression is a failure, what could not be told an error."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree as ET

from conformance.gate import Answer, Change, Kind, Outcome
from conformance.report.gate import MEANINGS, phrase
from conformance.report.known import problem_text
from conformance.report.wording import block, label

_ERRORS: Final[frozenset[Kind]] = frozenset(("inconclusive", "changed", "gone"))

_SAID: Final[dict[Answer, str]] = {
    "safe": "nothing that decides is worse",
    "regressed": "a check that decides is worse than before",
    "changed": "what was wrong or broke before is wrong or breaks in another way",
    "could not tell": "it is not known why",
}


def junit(outcome: Outcome) -> str:
    """The document, with the answer as a test case of its own: an answer other than safe never reads as a pass."""
    suite = ET.Element("testsuite", name=f"gate {label(outcome.gate.before)} -> {label(outcome.gate.after)}")
    _answer(suite, outcome)
    for change in outcome.changes:
        _case(suite, change)
    for problem in outcome.problems:
        name = label(f"{problem.kind}: {problem.requirement} {problem.dtype}")
        case = ET.SubElement(suite, "testcase", classname=f"known.{label(problem.candidate)}", name=name)
        _told(case, "failure", problem.kind, problem_text(problem))
    cases = list(suite)
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("errors", str(sum(case.find("error") is not None for case in cases)))
    suite.set("skipped", "0")
    root = ET.Element("testsuites")
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
