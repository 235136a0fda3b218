"""The variants of MLX on real releases, and on a stand-in that plays a build with fused cells and a switch.

The real adapter runs on both. Every lie of the stand-in has to cost the agreement, in its own way.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest
from msgspec.structs import replace

from conformance.candidate import Spec
from conformance.case import Case, Initial
from conformance.cells import cell_named
from conformance.discover import find_adapters
from conformance.exchange import Observation
from conformance.host import Host
from conformance.judge import judge
from conformance.plan import Candidate, interpreter_of, plan
from conformance.record import Finding
from conformance.repro import render_repro
from conformance.requirement import REQUIREMENTS
from conformance.run import Silent, run
from conformance.settings import Settings
from conformance.signature import LATTICE, Signature, build
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


def released(variant: str, version: str | None = None, **environment: str) -> Candidate:
    """A variant on a release, the pinned one by default."""
    declared = MLX.variants[variant]
    return Candidate(
        spec=Spec(adapter="mlx", variant=variant, version=version),
        adapter=MLX,
        variant=replace(declared, environment={**declared.environment, **environment}),
    )


def found(candidate: Candidate, *requirements: str) -> tuple[Finding, ...]:
    """The findings on these requirements, in float32."""
    asked = [REQUIREMENTS[name] for name in requirements]
    groups = [group for group in plan([candidate], asked) if group.dtype in ("float32", "any")]
    findings = run(groups, Settings(examples=3, seed=0), lambda _: None, Silent())
    assert [finding.requirement for finding in findings] == list(requirements)
    return findings


def answers(candidate: Candidate, *cases: Case) -> list[Observation | Broken]:
    """What the worker answers to these cases."""
    interpreter = interpreter_of(candidate, print)
    host = Host(
        candidate.adapter, candidate.variant, interpreter, incident=lambda _: None, ready=lambda _version, _facts: None
    )
    with host:
        return [host.observe(case) for case in cases]


def observed(candidate: Candidate, *cases: Case) -> list[Observation]:
    """The same, where nothing may break."""
    given = [answer for answer in answers(candidate, *cases) if isinstance(answer, Observation)]
    assert len(given) == len(cases)
    return given


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
    for finding in found(acted("fast", "honest"), *(f"{cell}_{name}" for name in names)):
        assert isinstance(finding.verdict, Agrees), finding
    layer = f"mlx.nn.{cell.upper()}"
    cases = [
        a_case(cell),
        a_case(cell, features=("gradients",)),
        a_case(cell, "omitted"),
        a_case(cell, "omitted", steps=1),
        a_case(cell, steps=1),
    ]
    assert [answer.path for answer in observed(acted("fast", "honest"), *cases)] == [
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
    (finding,) = found(acted(variant, part), requirement)
    assert isinstance(finding.verdict, Agrees), finding
    (answer,) = observed(acted(variant, part), a_case(requirement.split("_", maxsplit=1)[0]))
    assert answer.path == path


@pytest.mark.parametrize(
    ("variant", "part", "requirement", "text"),
    [
        ("fast", "never_called", "gru_hidden_given", "mx.fast.gru_cell at 0 of"),
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
    (finding,) = found(acted(variant, part), requirement)
    assert isinstance(finding.verdict, Inconclusive), finding
    assert text in finding.verdict.why


def test_a_sequence_of_one_step_does_not_hide_that_nothing_is_fused() -> None:
    """With the state omitted the first step of the fork is never fused; whether others would be is tried out."""
    (answer,) = observed(acted("fast", "never_called"), a_case("gru", "omitted", steps=1))
    assert "mx.fast.gru_cell at 0 of 1 steps" in answer.path


@pytest.mark.parametrize("variant", ["fast", "fast-cell"])
def test_a_fused_cell_that_drops_a_term_is_named(variant: str) -> None:
    """The fused path ran, and what it computes has a name."""
    (finding,) = found(acted(variant, "drops_bhn"), "gru_hidden_given")
    assert isinstance(finding.verdict, Diverges), finding
    assert finding.verdict.faults == ("drop_bhn",)


@pytest.mark.parametrize(
    ("variant", "part", "cell"),
    [
        ("fast", "other_order", "gru"),
        ("fast", "other_order", "lstm"),
        ("fast-cell", "other_order", "lstm"),
        ("fast", "other_results", "lstm"),
        ("fast-cell", "other_results", "lstm"),
    ],
)
def test_arguments_or_results_in_another_order_diverge(variant: str, part: str, cell: str) -> None:
    """(h_proj, x_proj), (..., hidden, cell), or a result (hidden, cell): all of the same shapes."""
    case = a_case(cell)
    (answer,) = observed(acted(variant, part), case)
    assert isinstance(judge(case, answer.observed, ()), Diverges)
    (honest,) = observed(acted(variant, "honest"), case)
    assert not isinstance(judge(case, honest.observed, ()), Diverges)


def test_a_build_that_fails_without_a_batch_axis_is_broken_with_its_own_words() -> None:
    """The layer hands 1-D arrays to cells that take 2-D ones."""
    (finding,) = found(acted("fast", "unbatched_fails"), "gru_unbatched")
    assert isinstance(finding.verdict, Broken), finding
    assert "wanted 2-D arrays" in finding.verdict.message


# Real releases


@pytest.mark.parametrize(
    ("variant", "path"),
    [
        ("none", "mlx.nn.LSTM(x, hidden)"),
        ("legacy", "mlx.nn.LSTM(x, hidden), no switch in this release"),
        ("fast", "loop(x, hidden), mx.compile kernel at every step"),
        ("fast-cell", "loop(x, hidden), mx.compile kernel at every step"),
        ("compiled", "mlx.nn.LSTM(x, hidden), under mx.compile"),
    ],
)
def test_the_pinned_release_attests_what_it_runs(variant: str, path: str) -> None:
    """Without a switch and without fused cells; and the numbers are those of the reference."""
    case = a_case("lstm")
    (answer,) = observed(released(variant), case)
    assert answer.path == path
    assert not isinstance(judge(case, answer.observed, ()), Diverges)


def test_the_old_defect_is_the_layers_and_not_the_loops() -> None:
    """mlx.nn.GRU dropped r * b_hn on the first step where the state is omitted; the portable loop starts from zeros."""
    (layer,) = found(released("legacy", "0.31.1"), "gru_hidden_none")
    assert isinstance(layer.verdict, Diverges), layer
    assert layer.verdict.faults == ("drop_rbhn_t0",)
    (loop,) = found(released("fast", "0.31.1"), "gru_hidden_none")
    assert isinstance(loop.verdict, Agrees), loop


def test_the_memory_of_a_worker_does_not_grow_with_the_number_of_cases() -> None:
    """MLX keeps what a new layer has not drawn of its first weights: 9 KB a layer, for ever."""
    candidate, case = released("none"), a_case("gru", steps=1)
    interpreter = interpreter_of(candidate, print)
    host = Host(
        candidate.adapter, candidate.variant, interpreter, incident=lambda _: None, ready=lambda _version, _facts: None
    )
    with host:
        sizes = []
        for _ in range(2):
            assert all(isinstance(host.observe(case), Observation) for _ in range(500))
            sizes.append(psutil.Process(host.pid).memory_info().rss)
    assert sizes[1] - sizes[0] < 2**20, sizes


@pytest.fixture
def without_compiler(tmp_path: Path) -> str:
    """A PATH on which there is a shell, and no compiler."""
    (tmp_path / "sh").symlink_to("/bin/sh")
    return str(tmp_path)


@pytest.mark.parametrize("variant", ["fast", "fast-cell", "compiled"])
def test_without_a_compiler_nothing_agrees_and_the_reason_is_told(without_compiler: str, variant: str) -> None:
    """MLX from 0.32.0 on silently runs the plain operations: right numbers, and another path than the declared one."""
    (finding,) = found(released(variant, PATH=without_compiler), "gru_hidden_given")
    assert isinstance(finding.verdict, Inconclusive), finding
    assert "there is no C++ compiler: mx.compile on CPU needs g++ on PATH" in finding.verdict.why


def test_without_a_compiler_older_releases_break_and_the_reason_is_told(without_compiler: str) -> None:
    """They raise when the kernel is needed, from deep inside; the message says what to install."""
    (answer,) = answers(released("fast", "0.31.1", PATH=without_compiler), a_case("gru"))
    assert isinstance(answer, Broken)
    assert "there is no C++ compiler: mx.compile on CPU needs g++ on PATH" in answer.message


@pytest.mark.parametrize("level", ["layer", "cell"])
@pytest.mark.parametrize(
    ("variant", "part"),
    [
        *((name, "released") for name in ("none", "legacy", "fast", "compiled")),
        ("fast", "honest"),
        ("legacy", "honest"),
    ],
)
def test_prepared_calls_compute_the_case_and_attest_their_path(variant: str, part: str, level: str) -> None:
    """At both levels the same states again and again, by a path that the variant declares; all steps are looked at."""
    candidate = acted(variant, part)
    candidate = replace(
        candidate, variant=replace(candidate.variant, environment={**candidate.variant.environment, "LEVEL": level})
    )
    cases = [a_case("gru", "omitted"), a_case("lstm")]
    for case, answer in zip(cases, observed(candidate, *cases), strict=True):
        assert answer.path in candidate.variant.attestable(case.cell, case.initial)
        truth = cell_named(case.cell).run(case).outputs
        np.testing.assert_allclose(answer.observed.outputs, truth, rtol=0, atol=1e-5, strict=True)


def test_a_prepared_call_by_another_path_says_so() -> None:
    """Timing what never ran would be the worst of benchmarks."""
    candidate = acted("fast", "never_called")
    for level in ("layer", "cell"):
        variant = replace(candidate.variant, environment={**candidate.variant.environment, "LEVEL": level})
        (answer,) = observed(replace(candidate, variant=variant), a_case("gru", "omitted"))
        assert "mx.fast.gru_cell at 0 of" in answer.path


@pytest.mark.parametrize("variant", ["legacy", "fast", "fast-cell", "compiled"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_script_of_a_variant_runs_on_the_release(tmp_path: Path, cell: str, variant: str) -> None:
    """It needs MLX and NumPy alone, and says that no step differs."""
    python = interpreter_of(released(variant), print).python
    case = a_case(cell, steps=3)
    if cell == "lstm":  # the other spelling of the state, and no batch axis
        case = replace(a_case(cell, "omitted", steps=3), x=case.x[:1], h0=case.h0[:1] * 0, c0=case.h0[:1] * 0)
        case = replace(case, batched=False)
    path = tmp_path / "script.py"
    path.write_text(render_repro(MLX, variant, case), encoding="utf-8")
    done = subprocess.run([str(python), "-I", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no step alone differs" in done.stdout
