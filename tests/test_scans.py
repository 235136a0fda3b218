"""Whole runs over scans that are wrong on purpose: each is named, in the cell that has it, and a right one agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.candidate import Spec
from conformance.discover import find_adapters, read_adapter
from conformance.judge import visible_faults
from conformance.plan import Candidate, plan
from conformance.record import Finding
from conformance.requirement import REQUIREMENTS
from conformance.run import Silent, run
from conformance.settings import Settings
from conformance.verdict import Agrees, Broken, Diverges, Unsupported, Verdict

SCANS = read_adapter(Path(__file__).resolve().parent / "miniatures" / "scans")
FAULTS = {
    "off-by-one": "out_shift",
    "h0-ignored": "h0_ignored",
    "swapped-gates": "swap_zn",
    "flipped": "update_flip",
    "opposite": "scan_opposite",
    "through-g": "h0_through_g",
}


def ran(variant: str, *requirements: str, examples: int = 0) -> dict[str, Verdict]:
    """The verdicts of one miniature, by requirement."""
    spec = Spec(adapter=SCANS.name, variant=variant)
    candidate = Candidate(spec=spec, adapter=SCANS, variant=SCANS.variants[variant])
    groups = plan([candidate], [REQUIREMENTS[name] for name in requirements])
    findings: tuple[Finding, ...] = run(groups, Settings(examples=examples, seed=0), lambda line: None, Silent())  # noqa: ARG005 (the callback's signature)
    return {finding.requirement: finding.verdict for finding in findings}


@pytest.mark.parametrize(("variant", "fault"), FAULTS.items(), ids=FAULTS)
def test_a_fault_in_a_scan_is_named(variant: str, fault: str) -> None:
    """One name, and the right one, from the shipped cases."""
    (verdict,) = ran(variant, "mingru_log_hidden_given").values()
    assert isinstance(verdict, Diverges)
    assert verdict.faults == (fault,)


def test_a_fault_in_a_scan_of_the_other_cell_is_named() -> None:
    """The gates of a minLSTM."""
    (verdict,) = ran("swapped-gates", "minlstm_log_hidden_given").values()
    assert isinstance(verdict, Diverges)
    assert verdict.faults == ("swap_if",)


def test_a_right_scan_agrees_and_rules_out_what_can_show() -> None:
    """Agreement with the reference carries the full kill set, and the relations hold."""
    names = [f"mingru_log_{each}" for each in ("hidden_given", "hidden_none", "split", "causal", "sizes", "saturated")]
    verdicts = ran("right", *names, "mingru_log_negative_state")
    assert all(isinstance(verdict, Agrees) for verdict in verdicts.values()), verdicts
    given = verdicts["mingru_log_hidden_given"]
    assert isinstance(given, Agrees)
    assert given.excluded == visible_faults("mingru_log", "given", dtype="float32")


def test_a_detour_that_a_scan_gets_wrong_is_noticed() -> None:
    """A second call that ignores the state which is carried over follows h0_ignored in the plain run, and not here."""
    (verdict,) = ran("h0-ignored", "mingru_log_split").values()
    assert isinstance(verdict, Diverges)
    assert "split" in verdict.evidence.where


def test_nan_for_a_negative_state_is_named() -> None:
    """The divergence says what it looks like."""
    (verdict,) = ran("nan", "mingru_log_negative_state").values()
    assert isinstance(verdict, Diverges)
    assert "nan_for_negative_state" in verdict.evidence.where


def test_a_negative_state_that_is_refused_is_told() -> None:
    """The adapter's own message stands in the verdict."""
    (verdict,) = ran("refuses", "mingru_log_negative_state").values()
    assert isinstance(verdict, Broken)
    assert "no negative states, please" in verdict.message


def test_scans_with_logarithms_declare_negative_states_out() -> None:
    """Never asked, with the reason; every other variant of these cells is asked."""
    found = 0
    for adapter in find_adapters().values():
        for variant in adapter.variants.values():
            if not {"mingru_log", "minlstm_log"} & set(variant.cells):
                continue
            found += 1
            if variant.evaluation == "log-scan":
                assert "logarithm" in variant.unsupported["negative_state"].reason
                candidate = Candidate(
                    spec=Spec(adapter=adapter.name, variant=variant.name), adapter=adapter, variant=variant
                )
                (group,) = plan([candidate], [REQUIREMENTS["mingru_log_negative_state"]])
                assert isinstance(group.unsupported, Unsupported)
                assert group.unsupported.owner == "never"
            else:
                assert "negative_state" in variant.features
    assert found >= 10
