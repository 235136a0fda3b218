"""The gate: every class of change, an answer that is never safe by default, and drift apart from both."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from msgspec.structs import replace
from msgspec.structs import replace as replaced

from conformance.behaviours import correct
from conformance.candidate import identity
from conformance.compare import Observed
from conformance.drift import drifts, measured, probe
from conformance.errors import RecordError, SpecError
from conformance.faults import catalogue
from conformance.gate import KINDS, Kind, accepted, baseline, classify, outcome, paired
from conformance.inputs import shipped_cases
from conformance.judge import planted
from conformance.record import (
    FORMAT,
    CandidateLine,
    Finding,
    Footer,
    Gate,
    Header,
    Pair,
    Probe,
    Record,
    RequirementEntry,
)
from conformance.report.gate import gate_text
from conformance.requirement import REQUIREMENTS
from conformance.rounding import round_to
from conformance.verdict import Agrees, Broken, Diverges, Evidence, Inconclusive, Unrepresentable, Unsupported, Verdict

BEFORE, AFTER = "one:a==1", "one:a==2"
AGREES = Agrees(excluded=frozenset({"skip_t0"}), share=0.4, compared=100)
NOTHING = Agrees(excluded=frozenset(), share=0.0, compared=0)
BLANK = Inconclusive(why="another path ran")
CRASH = Broken(kind="crash", message="died", exit_code=-6, signal="SIGABRT")
RAISED = Broken(kind="exception", message="RuntimeError: no")
NO_ENVIRONMENT = Broken(kind="environment", message="no release one==2")
GIVEN_UP = Broken(kind="abandoned", message="the worker broke 11 times in a row")
OUT = Unsupported(what="dtype float16", owner="upstream", reason="not offered")


def diverges(*faults: str, size: float | None = 0.5) -> Diverges:
    """A divergence that these faults explain."""
    evidence = Evidence(
        output="outputs",
        first=(0, 0, 0),
        expected=0.0,
        observed=size,
        bound=1e-6,
        largest_difference=size,
        share=9.0,
        outside=1,
        compared=10,
        finite=size is not None,
    )
    return Diverges(faults=faults, evidence=evidence)


def within(verdict: Agrees | Diverges | Broken | Inconclusive | None) -> Unrepresentable:
    """The same where a parameter has no place."""
    return Unrepresentable(parameters=("b_hn",), owner="upstream", reason="none", link="", subspace=verdict)


def finding(candidate: str, verdict: Verdict, requirement: str = "gru_hidden_none", dtype: str = "float32") -> Finding:
    return Finding(candidate=candidate, requirement=requirement, dtype=dtype, verdict=verdict, trials=1, seconds=0.0)


def entry(name: str) -> RequirementEntry:
    r = REQUIREMENTS[name]
    return RequirementEntry(
        name=name, level=r.level, statement=r.statement, source=r.source, cell=r.cell, initial=r.initial
    )


def line(name: str, version: str = "1") -> CandidateLine:
    return CandidateLine(
        name=name,
        adapter="one",
        variant="a",
        title="One",
        version=version,
        environment="managed",
        facts={"platform": "Linux x86_64", "device": "cpu"},
    )


def record(*findings: Finding, names: tuple[str, ...] = (BEFORE, AFTER), whole: bool = True, **more: object) -> Record:
    """A gate's record with these findings."""
    requirements = dict.fromkeys(f.requirement for f in findings)
    header = Header(
        format=FORMAT,
        harness="0",
        started="2026-11-26T00:00:00+00:00",
        seed=0,
        examples=1,
        arguments=("gate",),
        candidates=names,
        requirements=tuple(entry(name) for name in requirements),
        faults={},
    )
    fields: dict[str, object] = {
        "gate": Gate(before=BEFORE, after=AFTER, pairs=(Pair(before=BEFORE, after=AFTER),)),
        "footer": Footer(finished="", trials=1, findings=len(findings)) if whole else None,
        "problem": "" if whole else "incomplete: the run did not come to its end",
        "candidates": tuple(line(name) for name in names),
        **more,
    }
    return Record(path="r.jsonl", header=header, findings=findings, **fields)  # type: ignore[arg-type]


def both(before: Verdict, after: Verdict, requirement: str = "gru_hidden_none") -> tuple[Finding, Finding]:
    return finding(BEFORE, before, requirement), finding(AFTER, after, requirement)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (AGREES, AGREES, "unchanged"),
        (AGREES, diverges("drop_rbhn_t0"), "regressed"),
        (AGREES, CRASH, "regressed"),
        (AGREES, BLANK, "inconclusive"),
        (AGREES, NOTHING, "inconclusive"),
        (AGREES, NO_ENVIRONMENT, "inconclusive"),
        (AGREES, GIVEN_UP, "inconclusive"),
        (AGREES, OUT, "gone"),
        (diverges("drop_rbhn_t0"), AGREES, "fixed"),
        (CRASH, AGREES, "fixed"),
        (CRASH, CRASH, "unchanged"),
        (CRASH, RAISED, "changed"),
        (CRASH, diverges("swap_rz"), "changed"),
        (diverges("swap_rz"), CRASH, "regressed"),
        (diverges("swap_rz"), diverges("swap_rz"), "unchanged"),
        (diverges("swap_rz"), diverges("update_flip"), "changed"),
        (diverges("swap_rz"), diverges(), "changed"),
        (diverges(), diverges(), "unchanged"),
        (diverges(), diverges(size=5.0), "changed"),
        (diverges("swap_rz"), diverges("swap_rz", size=None), "changed"),
        (diverges("swap_rz"), BLANK, "inconclusive"),
        (BLANK, AGREES, "new"),
        (BLANK, diverges("swap_rz"), "inconclusive"),
        (BLANK, BLANK, "inconclusive"),
        (OUT, AGREES, "new"),
        (OUT, diverges("swap_rz"), "new"),
        (within(AGREES), within(AGREES), "unchanged"),
        (within(AGREES), within(diverges("swap_rz")), "regressed"),
        (within(None), AGREES, "new"),
        (AGREES, within(None), "inconclusive"),
    ],
)
def test_every_pair_of_verdicts_has_its_class(before: Verdict, after: Verdict, kind: Kind) -> None:
    """What was shown before and what is shown after make the class; nothing shown is never a pass."""
    assert classify(*both(before, after))[0] == kind


def test_every_pair_of_verdicts_has_some_class() -> None:
    """No combination is forgotten, and none that ends without agreement is fixed or, from agreement, unchanged."""
    verdicts = [AGREES, NOTHING, BLANK, CRASH, NO_ENVIRONMENT, OUT, diverges("swap_rz"), within(AGREES), within(None)]
    for before, after in product([None, *verdicts], repeat=2):
        first, second = (None if v is None else finding("one:a", v) for v in (before, after))
        kind, _ = classify(first, second)
        assert kind in KINDS
        if after not in (AGREES, within(AGREES)):
            assert kind != "fixed"
            assert not (kind == "unchanged" and before == AGREES)


def test_an_unchanged_gate_is_safe() -> None:
    """Agreement on both sides is."""
    found = outcome(record(*both(AGREES, AGREES)))
    assert (found.answer, found.exit_code, found.doubts) == ("safe", 0, ())


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        (AGREES, diverges("swap_rz"), 1),
        (AGREES, CRASH, 1),
        (diverges("swap_rz"), AGREES, 0),
        (diverges("swap_rz"), diverges("swap_rz"), 0),
        (diverges("swap_rz"), diverges("update_flip"), 3),
        (AGREES, BLANK, 3),
        (AGREES, OUT, 3),
        (AGREES, NO_ENVIRONMENT, 3),
        (OUT, diverges("swap_rz"), 3),
        (BLANK, BLANK, 3),
        (OUT, OUT, 3),
        (NOTHING, NOTHING, 3),
    ],
)
def test_the_answer_follows_the_classes(before: Verdict, after: Verdict, code: int) -> None:
    """One check decides alone; a second one that is fine changes nothing unless nothing was compared."""
    assert outcome(record(*both(before, after))).exit_code == code
    fine = both(AGREES, AGREES, "gru_hidden_zeros")
    expected = 0 if (before, after) == (OUT, OUT) else code
    assert outcome(record(*both(before, after), *fine)).exit_code == expected


def test_what_is_wrong_in_another_way_is_neither_safe_nor_regressed() -> None:
    """All is known, and people must decide: not the same as an answer that could not be had."""
    for before, after in ((RAISED, diverges("drop_rbhn_t0")), (diverges("swap_rz"), diverges("update_flip"))):
        found = outcome(record(*both(before, after), *both(AGREES, AGREES, "gru_hidden_zeros")))
        assert (found.answer, found.exit_code, found.doubts) == ("changed", 3, ())
        doubted = outcome(record(*both(before, after), *both(AGREES, BLANK, "gru_hidden_zeros")))
        assert doubted.answer == "could not tell"


@pytest.mark.parametrize("broken", [CRASH, RAISED, Broken(kind="start", message="No module named 'jax.config'")])
def test_two_sides_without_any_answer_are_not_safe(broken: Broken) -> None:
    """Releases that do not even start are equally bad, which nobody may take for a pass."""
    found = outcome(record(*both(broken, broken)))
    assert (found.answer, found.exit_code) == ("could not tell", 3)
    assert found.doubts == ("neither side gave any answer to what decides",)
    fine = outcome(record(*both(broken, broken), *both(AGREES, AGREES, "gru_hidden_zeros")))
    assert fine.answer == "safe"


def test_what_does_not_decide_is_told_and_decides_nothing() -> None:
    """A SHOULD requirement that got worse is a regression of the list, not of the answer."""
    found = outcome(record(*both(AGREES, AGREES), *both(AGREES, diverges("swap_rz"), "gru_not_finite")))
    assert found.answer == "safe"
    assert [c.requirement for c in found.of("regressed", decides=False)] == ["gru_not_finite"]


def test_an_incomplete_record_is_not_safe_but_may_be_regressed() -> None:
    """What has not been asked could have regressed; what has regressed has."""
    assert outcome(record(*both(AGREES, AGREES), whole=False)).answer == "could not tell"
    assert outcome(record(*both(AGREES, CRASH), whole=False)).answer == "regressed"


def test_what_an_interrupted_gate_had_not_come_to_is_neither_new_nor_gone() -> None:
    """One side is ahead of the other: that says nothing about what they offer. A baseline was whole."""
    ahead = [*both(AGREES, AGREES), finding(BEFORE, AGREES, "gru_split"), finding(AFTER, AGREES, "gru_causal")]
    found = outcome(record(*ahead, whole=False))
    assert [(c.requirement, c.kind) for c in found.changes] == [("gru_hidden_none", "unchanged")]
    assert found.answer == "could not tell"
    kinds = {c.requirement: c.kind for c in outcome(record(*ahead)).changes}
    assert kinds == {"gru_hidden_none": "unchanged", "gru_split": "gone", "gru_causal": "new"}
    held = Gate(before=BEFORE, after=AFTER, pairs=(Pair(before=BEFORE, after=AFTER),), source="old.jsonl")
    late = record(finding(AFTER, AGREES, "gru_causal"), whole=False, gate=held)
    assert [c.kind for c in outcome(late).changes] == ["new"]


def test_a_side_without_findings_is_not_safe() -> None:
    """A candidate that never answered is no agreement."""
    found = outcome(record(finding(BEFORE, AGREES)))
    assert found.answer == "could not tell"
    assert any(AFTER in doubt for doubt in found.doubts)


def test_only_a_gates_record_has_an_answer() -> None:
    """Other records are refused."""
    with pytest.raises(RecordError, match="no gate's"):
        outcome(record(*both(AGREES, AGREES), gate=None))


def test_variants_are_paired_by_name() -> None:
    """Whatever the release; what only one side has is half a pair."""
    pairs = paired(["m:a==1", "m:b==1"], ["m:b==2", "m:c==2"])
    assert {(p.before, p.after) for p in pairs} == {("m:a==1", ""), ("m:b==1", "m:b==2"), ("", "m:c==2")}
    assert paired(["m:slow==1"], ["m:fast==1"]) == (Pair(before="m:slow==1", after="m:fast==1"),)
    assert identity("m:a@/some/path") == identity("m:a==1") == identity("m:a@here") == "m:a"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (["m:a==1", "m:b==1"], ["n:c==1", "n:d==1"], "no variant in common"),
        (["m:a==1"], ["m:a==1"], "same candidate"),
        (["m:a==1", "m:a==2"], ["m:a==3", "m:b==3"], "two releases"),
        ([], ["m:a"], "both sides"),
    ],
)
def test_sides_that_make_no_pairs_are_refused(before: list[str], after: list[str], words: str) -> None:
    """Each with its own message."""
    with pytest.raises(SpecError, match=words):
        paired(before, after)


def test_a_baseline_is_held_against_what_is_asked_now() -> None:
    """Requirements and dtypes outside the selection are not gone; those inside it that it lacks are new."""
    old = record(
        finding("one:a", AGREES),
        finding("one:a", AGREES, "gru_hidden_zeros"),
        finding("one:a", AGREES, dtype="float16"),
        names=("one:a", "two:b"),
        gate=None,
    )
    held = baseline(old, ("one:a",), source="old.jsonl", requested="one", asked=["gru_hidden_none"], dtypes=["float32"])
    assert [(f.requirement, f.dtype) for f in held.findings] == [("gru_hidden_none", "float32")]
    found = outcome(record(finding("one:a", CRASH), names=("one:a",), gate=held))
    assert [c.kind for c in found.changes] == ["regressed"]
    with pytest.raises(SpecError, match="none of these candidates"):
        baseline(old, ("three:c", "three:d"), source="old.jsonl", requested="three", asked=[], dtypes=[])


def test_a_gates_record_is_a_baseline_by_its_later_side() -> None:
    """So that each accepted gate can be the next one's baseline."""
    old = record(*both(diverges("swap_rz"), AGREES))
    assert accepted(old)["one:a", "gru_hidden_none", "float32"].verdict == AGREES
    two = record(*both(AGREES, AGREES), gate=None)
    with pytest.raises(SpecError, match="two releases"):
        accepted(two)


def probes(scale: float, fault: str = "", dtype: str = "float32") -> tuple[Probe, Probe]:
    """What the equations give, rounded, and the same moved by so many units in the last place, or with a fault."""
    case = next(iter(shipped_cases(REQUIREMENTS["lstm_hidden_given"], dtype)))
    first = correct(case)
    plain = planted(case, catalogue(case.cell)[fault]) if fault else first

    def moved(values: np.ndarray, by: float) -> np.ndarray:
        return round_to(dtype, values * (1.0 + by))

    def shifted(own: Observed, by: float) -> Observed:
        return replace(own, outputs=moved(own.outputs, by), final_state=moved(own.outputs, by)[:, -1])

    unit = {"float32": 2.0**-23, "bfloat16": 2.0**-7}[dtype]
    return probe("m:a==1", "lstm_hidden_given", case, shifted(first, 0.0)), probe(
        "m:a==2", "lstm_hidden_given", case, shifted(plain, scale * unit)
    )


PAIR = Pair(before="m:a==1", after="m:a==2")


def test_equal_bits_are_identical() -> None:
    """No drift without a moved bit, and something was looked at."""
    before, after = probes(0.0)
    found = measured(PAIR, before, after)
    assert (found.kind, found.moved, found.difference) == ("identical", 0, 0.0)
    assert found.compared > 100


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moved_bits_are_drift_with_figures(dtype: str) -> None:
    """A unit in the last place is measured as about one, in every dtype."""
    before, after = probes(1.0, dtype=dtype)
    found = measured(PAIR, before, after)
    assert found.kind == "drift"
    assert found.moved > 10
    assert 0.5 <= found.ulps <= 2.0
    assert 0.0 < found.share < 2.0
    assert [d.kind for d in drifts([before], [after], [PAIR])] == ["drift"]


def test_a_fault_is_no_drift() -> None:
    """Where one side is outside its bound, the verdicts tell of it."""
    before, after = probes(0.0, fault="skip_t0")
    assert after.share is None or after.share > 1.0
    assert measured(PAIR, before, after).kind == "beyond"


def test_probes_of_other_cases_or_of_no_numbers_are_not_measured() -> None:
    """A digest, a shape or a text that does not fit ends in no figures and no error."""
    before, after = probes(0.0)
    assert measured(PAIR, before, replaced(after, digest="other")).kind == "apart"
    for text in ("not base64!", "AAAA", ""):
        broken = replaced(after, values=dict.fromkeys(after.values, text))
        assert measured(PAIR, before, broken).kind == "apart"
    assert drifts([before], [replaced(after, candidate="m:b==2")], [PAIR]) == ()


OLD, NEW = "mlx:none==0.31.1", "mlx:none"
SAFE = "safe; 1 requirement fixed"


@pytest.mark.parametrize(
    ("before", "after", "source", "title", "said"),
    [
        (
            (OLD, "MLX", "0.31.1"),
            (NEW, "MLX", "0.32.4"),
            "",
            f"MLX 0.31.1 \N{RIGHTWARDS ARROW} 0.32.4: {SAFE}",
            "MLX 0.32.4",
        ),
        (
            (NEW, "MLX", "0.31.1"),
            (NEW, "MLX", "0.32.4"),
            "old.jsonl",
            f"MLX 0.31.1 \N{RIGHTWARDS ARROW} 0.32.4: {SAFE}",
            "MLX 0.32.4",
        ),
        (
            ("torch:layer", "PyTorch", "2.13.0"),
            (NEW, "MLX", "0.32.4"),
            "",
            f"PyTorch 2.13.0 \N{RIGHTWARDS ARROW} MLX 0.32.4: {SAFE}",
            "MLX 0.32.4",
        ),
        # Nothing tells the releases apart, so the candidates are told; nor is a framework guessed.
        (
            ("mlx:legacy", "MLX", "0.32.4"),
            ("mlx:fast", "MLX", "0.32.4"),
            "",
            f"mlx:legacy (0.32.4) \N{RIGHTWARDS ARROW} mlx:fast (0.32.4): {SAFE}",
            "mlx:fast (0.32.4)",
        ),
        (
            (OLD, "", "0.31.1"),
            ("mlx:none==0.32.4", "", "0.32.4"),
            "",
            f"mlx:none 0.31.1 \N{RIGHTWARDS ARROW} 0.32.4: {SAFE}",
            "mlx:none==0.32.4",
        ),
    ],
    ids=["releases", "baseline", "frameworks", "variants", "unnamed"],
)
def test_the_first_line_of_a_gate(
    before: tuple[str, str, str], after: tuple[str, str, str], source: str, title: str, said: str
) -> None:
    """Frameworks by their own names, releases beside an arrow; the answer's paragraph calls them the same."""
    pair = Pair(before=before[0], after=after[0])
    lines = tuple(replaced(line(name, version), framework=framework) for name, framework, version in (before, after))
    held = (lines[:1], (finding(before[0], diverges("drop_rbhn_t0")),)) if source else ((), ())
    own = (
        (finding(after[0], AGREES),)
        if source
        else (finding(before[0], diverges("drop_rbhn_t0")), finding(after[0], AGREES))
    )
    gate = Gate(before=before[0], after=after[0], pairs=(pair,), source=source, candidates=held[0], findings=held[1])
    found = record(
        *own,
        names=(after[0],) if source else (before[0], after[0]),
        gate=gate,
        candidates=lines[1:] if source else lines,
    )
    text = gate_text(found, outcome(found))
    assert text.title == title
    assert text.paragraph.startswith(f"Safe: nothing that decides is worse in {said} than in ")
