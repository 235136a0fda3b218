"""A build of MLX with fused cells and a switch, acted by a stand-in on the released one: what is attested, and judged.

The real adapter runs on top of it. Every lie of the stand-in has to cost the agreement, in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.candidate import Spec
from conformance.case import Case, Initial
from conformance.discover import find_adapters
from conformance.examine import Settings
from conformance.host import Host, Observation
from conformance.plan import Candidate, interpreter_of, plan
from conformance.record import Finding
from conformance.requirement import REQUIREMENTS
from conformance.run import Silent, run
from conformance.strategies import LATTICE, Signature, build
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive

MLX = find_adapters()["mlx"]
FORK = Path(__file__).resolve().parents[1] / "miniatures" / "mlx_fork"


def acted(variant: str, part: str) -> Candidate:
    """A variant of the real manifest, on the stand-in that plays this part."""
    declared = MLX.variants[variant]
    return Candidate(
        spec=Spec(adapter="mlx", variant=variant),
        adapter=replace(MLX, folder=FORK),
        variant=replace(declared, environment={**declared.environment, "FORK": part}),
    )


def found(variant: str, part: str, requirements: Sequence[str]) -> tuple[Finding, ...]:
    """The findings of a variant on the stand-in, in float32."""
    asked = [REQUIREMENTS[name] for name in requirements]
    groups = [group for group in plan([acted(variant, part)], asked) if group.dtype in ("float32", "any")]
    findings = run(groups, Settings(examples=3, seed=0), lambda _: None, Silent())
    assert [finding.requirement for finding in findings] == list(requirements)
    return findings


def observed(variant: str, part: str, *cases: Case) -> list[Observation]:
    """What the worker answers to these cases."""
    candidate = acted(variant, part)
    interpreter = interpreter_of(candidate, print)
    host = Host(
        candidate.adapter, candidate.variant, interpreter, incident=lambda _: None, ready=lambda _version, _facts: None
    )
    with host:
        answers = [host.observe(case) for case in cases]
    assert [answer for answer in answers if isinstance(answer, Broken)] == []
    return [answer for answer in answers if isinstance(answer, Observation)]


def a_case(cell: str, initial: Initial = "given", *, steps: int | None = None, features: tuple[str, ...] = ()) -> Case:
    """A small case with generic numbers, cut to its first steps."""
    shape, batched = LATTICE[4]
    case = build(
        Signature(shape=shape, batched=batched, seed=1, scale=0.8, decimals=3, fills=()),
        cell=cell,
        dtype="float32",
        initial=initial,
        features=features,
    )
    return case if steps is None else replace(case, x=case.x[:, :steps])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_an_honest_build_agrees_and_its_fused_cells_are_attested(cell: str) -> None:
    """Forward, gradients, every spelling of the state, with and without a batch axis; the path says what was fused."""
    names = ("hidden_none", "hidden_given", "omitted_is_zeros", "gradient", "unbatched", "empty_batch")
    for finding in found("fast", "honest", [f"{cell}_{name}" for name in names]):
        assert isinstance(finding.verdict, Agrees), finding
    layer = f"mlx.nn.{cell.upper()}"
    cases = [
        a_case(cell),
        a_case(cell, features=("gradients",)),
        a_case(cell, "omitted"),
        a_case(cell, "omitted", steps=1),
        a_case(cell, steps=1),
    ]
    assert [answer.path for answer in observed("fast", "honest", *cases)] == [
        f"{layer}(x, hidden), fused at every step",
        f"{layer}(x, hidden), fused at every step +gradients",
        f"{layer}(x), fused at every step but the first",
        f"{layer}(x), fused at every step but the first",
        f"{layer}(x, hidden), fused at every step",
    ]


@pytest.mark.parametrize(
    ("variant", "part", "requirement", "path"),
    [
        ("fast", "held", "gru_hidden_given", "mlx.nn.GRU(x, hidden), fused at every step"),
        ("fast", "three_arguments", "gru_hidden_given", "mlx.nn.GRU(x, hidden), fused at every step"),
        ("legacy", "honest", "gru_hidden_given", "mlx.nn.GRU(x, hidden), switched to legacy"),
        ("fast-cell", "honest", "gru_hidden_given", "loop(x, hidden), mx.fast cell at every step"),
        ("fast-cell", "honest", "gru_gradient", "loop(x, hidden), mx.fast cell at every step"),
        ("fast-cell", "unbatched_fails", "gru_unbatched", "loop(x, hidden), mx.fast cell at every step"),
        ("fast-cell", "three_arguments", "gru_hidden_given", "loop(x, hidden), mx.fast cell at every step"),
        ("fast-cell", "honest", "lstm_hidden_given", "loop(x, hidden), mx.fast cell at every step"),
        ("fast-cell", "never_called", "lstm_gradient", "loop(x, hidden), mx.fast cell at every step"),
        ("fast", "metal", "gru_hidden_given", "loop(x, hidden), mx.fast.metal_kernel at every step"),
        ("fast", "metal", "lstm_gradient", "loop(x, hidden), mx.fast.metal_kernel at every step"),
        ("fast-cell", "cuda", "gru_hidden_given", "loop(x, hidden), mx.fast.cuda_kernel at every step"),
    ],
)
def test_other_honest_builds_agree(variant: str, part: str, requirement: str, path: str) -> None:
    """Cells held by another name, or of three arguments; the loop over them; devices with a kernel written for them."""
    (finding,) = found(variant, part, [requirement])
    assert isinstance(finding.verdict, Agrees), finding
    (answer,) = observed(variant, part, a_case(requirement.split("_", maxsplit=1)[0]))
    assert answer.path == path


@pytest.mark.parametrize(
    ("variant", "part", "requirement", "text"),
    [
        ("fast", "never_called", "gru_hidden_given", "mx.fast.gru_cell at 0 of"),
        ("fast", "never_called", "gru_hidden_none", "mx.fast.gru_cell at 0 of"),
        ("fast", "gpu_only", "gru_hidden_given", "mx.fast.gru_cell at 0 of"),
        ("fast", "some_steps", "gru_hidden_given", "the layer's own operations ran at the others"),
        ("fast", "some_steps", "lstm_hidden_none", "the layer's own operations ran at the others"),
        ("fast", "discards", "gru_hidden_given", "what it returned was not used"),
        ("fast", "says_legacy", "gru_hidden_given", "its switch says legacy"),
        ("legacy", "always", "gru_hidden_given", "mx.fast.gru_cell called"),
    ],
)
def test_another_path_than_the_fused_one_is_inconclusive(variant: str, part: str, requirement: str, text: str) -> None:
    """Right numbers do not help: what ran is told, and is no agreement."""
    (finding,) = found(variant, part, [requirement])
    assert isinstance(finding.verdict, Inconclusive), finding
    assert text in finding.verdict.why


def test_a_sequence_of_one_step_does_not_hide_that_nothing_is_fused() -> None:
    """With the state omitted the first step of the fork is never fused; whether others would be is tried out."""
    (answer,) = observed("fast", "never_called", a_case("gru", "omitted", steps=1))
    assert "mx.fast.gru_cell at 0 of 1 steps" in answer.path


@pytest.mark.parametrize(
    ("variant", "part", "requirement", "faults"),
    [
        ("fast", "drops_bhn", "gru_hidden_given", ("drop_bhn",)),
        ("fast-cell", "drops_bhn", "gru_hidden_given", ("drop_bhn",)),
        ("fast", "other_order", "gru_hidden_given", None),
        ("fast", "other_order", "lstm_hidden_given", None),
        ("fast-cell", "other_order", "lstm_hidden_given", None),
        ("fast", "other_results", "lstm_hidden_given", None),
    ],
)
def test_a_wrong_fused_cell_diverges(variant: str, part: str, requirement: str, faults: tuple[str, ...] | None) -> None:
    """A term that it drops has its name; arguments or results in another order have none of the catalogue's."""
    (finding,) = found(variant, part, [requirement])
    assert isinstance(finding.verdict, Diverges), finding
    if faults is not None:
        assert finding.verdict.faults == faults


def test_a_build_that_fails_without_a_batch_axis_is_broken_with_its_own_words() -> None:
    """The layer hands 1-D arrays to cells that take 2-D ones."""
    (finding,) = found("fast", "unbatched_fails", ["gru_unbatched"])
    assert isinstance(finding.verdict, Broken), finding
    assert "wanted 2-D arrays" in finding.verdict.message
