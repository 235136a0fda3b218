"""Whole runs over the miniatures: every outcome, isolated from the others, and all of it in the record."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.candidate import Declared
from conformance.case import case_from_json
from conformance.discover import read_adapter
from conformance.examination import MAX_BROKEN_IN_A_ROW
from conformance.judge import visible_faults
from conformance.plan import Candidate, Spec, candidates_for, plan
from conformance.process import LAUNCH
from conformance.record import CandidateLine, Finding, Incident, Line, Trial
from conformance.requirement import REQUIREMENTS, select_requirements
from conformance.run import Silent, run
from conformance.settings import Settings
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive, Unrepresentable, Unsupported

MiniatureOf = Callable[[str], Candidate]
NONE = (REQUIREMENTS["gru_hidden_none"],)


def ran(
    candidates: Sequence[Candidate],
    *,
    requirements: Sequence[object] = NONE,
    examples: int = 10,
    seconds: float | None = None,
    database: Path | None = None,
    lines: list[Line] | None = None,
    shrink: bool = True,
) -> tuple[Finding, ...]:
    """Run candidates on requirements and return the findings; shrink: whether a smallest case is looked for."""
    collected = lines if lines is not None else []
    groups = plan(candidates, requirements)  # type: ignore[arg-type]
    settings = Settings(examples=examples, seed=0, database=database, shrink=shrink)
    return run(groups, settings, collected.append, Silent(), case_seconds=seconds)


def test_a_correct_cell_agrees_and_rules_out_every_visible_fault(miniature: MiniatureOf) -> None:
    """Agreement carries the full kill set."""
    (finding,) = ran([miniature("good")])
    assert isinstance(finding.verdict, Agrees)
    assert finding.verdict.excluded == visible_faults("gru", "omitted", dtype="float32")
    assert finding.trials == 16
    assert finding.verdict.compared > 1000


def test_a_fault_of_the_catalogue_is_named_and_shrunk(miniature: MiniatureOf) -> None:
    """The fault is named uniquely; the minimal case is tiny, still diverges and is still explained by it alone."""
    lines: list[Line] = []
    (finding,) = ran([miniature("drop_rbhn_t0")], lines=lines)
    assert isinstance(finding.verdict, Diverges)
    assert finding.verdict.faults == ("drop_rbhn_t0",)
    shipped = [line for line in lines if isinstance(line, Trial) and line.phase == "shipped"]
    assert len(shipped) == 6, "a first divergence must not end the shipped cases"
    assert finding.example is not None
    assert isinstance(finding.example.verdict, Diverges)
    assert finding.example.verdict.faults == ("drop_rbhn_t0",)
    numbers = [finding.example.case["x"], *finding.example.case["parameters"].values()]
    assert sum(str(n).count("0.5") for n in numbers) <= 16
    assert len(finding.example.observed_outputs[0]) <= 3


def test_a_fault_of_no_catalogue_is_localised_without_a_name(miniature: MiniatureOf) -> None:
    """An unknown fault diverges on every requirement; it gets no name, and the first wrong element is told."""
    findings = ran(
        [miniature("unknown")],
        requirements=[REQUIREMENTS["gru_hidden_none"], REQUIREMENTS["gru_hidden_given"]],
        examples=2,
        shrink=False,
    )
    for finding in findings:
        assert isinstance(finding.verdict, Diverges)
        assert finding.verdict.faults == ()
        assert finding.verdict.evidence.residuals
        assert finding.example is not None


FEATURED = ("gru_hidden_none", "gru_lengths", "gru_gradient", "gru_repeated", "gru_rows_alone")


def test_features_and_relations_agree_where_all_is_right(miniature: MiniatureOf) -> None:
    """Lengths, gradients and relations of a correct cell: each rules out what it exists for."""
    asked = [REQUIREMENTS[name] for name in FEATURED]
    findings = ran([miniature("featured")], requirements=asked, examples=5)
    assert [finding.requirement for finding in findings] == list(FEATURED)
    for finding, requirement in zip(findings, asked, strict=True):
        assert isinstance(finding.verdict, Agrees), finding
        assert set(requirement.aims) <= finding.verdict.excluded
        assert finding.verdict.excluded == set(finding.visible)
        assert finding.trials > 2


@pytest.mark.parametrize(
    ("variant", "requirement", "faults", "where"),
    [
        ("remembers", "gru_repeated", (), "the same call again"),
        ("lengths_ignored", "gru_lengths", ("lengths_ignored",), "padded"),
        ("state_detached", "gru_gradient", ("state_detached",), ""),
    ],
)
def test_what_is_wrong_in_one_situation_only_diverges_there(
    miniature: MiniatureOf, variant: str, requirement: str, faults: tuple[str, ...], where: str
) -> None:
    """The requirement about that situation diverges, with its name and its detour; the plain one agrees."""
    asked = [REQUIREMENTS["gru_hidden_given"], REQUIREMENTS[requirement]]
    lines: list[Line] = []
    plain, finding = ran([miniature(variant)], requirements=asked, examples=1, lines=lines)
    assert isinstance(plain.verdict, Agrees)
    assert isinstance(finding.verdict, Diverges)
    assert finding.verdict.faults == faults
    assert where in finding.verdict.evidence.where
    assert finding.example is not None
    assert isinstance(finding.example.verdict, Diverges)
    assert finding.example.verdict.faults == faults
    assert requirement in finding.example.command
    # The case that is kept is the one that was drawn, not the detour that shows it: it can be run again.
    case = case_from_json(finding.example.case)
    assert case.cell == "gru"


def test_a_feature_that_is_not_attested_is_inconclusive(miniature: MiniatureOf) -> None:
    """Right numbers do not show that the lengths reached the framework: the path says it."""
    (finding,) = ran([miniature("silent")], requirements=[REQUIREMENTS["gru_lengths"]])
    assert isinstance(finding.verdict, Inconclusive)
    assert "'loop'" in finding.verdict.why
    assert "loop +lengths" in finding.verdict.why


def test_what_a_variant_has_no_notion_of_is_not_asked(miniature: MiniatureOf) -> None:
    """A feature neither offered nor declared out makes no group; one declared out is unsupported, with its owner."""
    good = miniature("good")
    asked = [REQUIREMENTS["gru_hidden_none"], REQUIREMENTS["gru_lengths"], REQUIREMENTS["gru_gradient"]]
    assert [group.requirement.name for group in plan([good], asked)] == ["gru_hidden_none"]
    declared = Declared(owner="upstream", reason="no such argument", link="https://example.org")
    told = replace(good, variant=replace(good.variant, unsupported={"lengths": declared}))
    (plain, out) = plan([told], asked)
    assert plain.unsupported is None
    assert out.unsupported is not None
    assert (out.requirement.name, out.unsupported.what, out.unsupported.owner) == ("gru_lengths", "lengths", "upstream")


def test_dtypes_of_a_requirement_are_asked_unless_the_user_names_others(miniature: MiniatureOf) -> None:
    """Relations are asked in float32; --dtype asks for what it says."""
    wide = replace(miniature("good"), variant=replace(miniature("good").variant, dtypes=("float32", "float64")))
    asked = [REQUIREMENTS["gru_hidden_none"], REQUIREMENTS["gru_repeated"]]
    groups = [(group.requirement.name, group.dtype) for group in plan([wide], asked)]
    assert groups == [("gru_hidden_none", "float32"), ("gru_hidden_none", "float64"), ("gru_repeated", "float32")]
    assert [group.dtype for group in plan([wide], asked, ["float64"])] == ["float64", "float64"]


def test_a_declared_gap_is_unrepresentable_and_its_subspace_is_tested(miniature: MiniatureOf) -> None:
    """The missing parameter is reported with its owner and link, and everything else is still judged."""
    (finding,) = ran([miniature("no_b_hn")])
    verdict = finding.verdict
    assert isinstance(verdict, Unrepresentable)
    assert (verdict.parameters, verdict.owner) == (("b_hn",), "upstream")
    assert isinstance(verdict.subspace, Agrees)
    assert verdict.subspace.excluded == visible_faults("gru", "omitted", ("b_hn",), dtype="float32")
    assert "drop_bhn" not in verdict.subspace.excluded


@pytest.mark.parametrize(
    ("variant", "kind"),
    [("crash", "crash"), ("exit", "crash"), ("raises", "exception"), ("names", "contract"), ("dtype", "contract")],
)
def test_what_breaks_is_broken_with_its_kind(miniature: MiniatureOf, variant: str, kind: str) -> None:
    """Each kind of breakage ends the group early, as what it is."""
    (finding,) = ran([miniature(variant)])
    assert isinstance(finding.verdict, Broken)
    assert finding.verdict.kind == kind
    assert finding.trials == MAX_BROKEN_IN_A_ROW


def test_a_hang_is_broken(miniature: MiniatureOf) -> None:
    """A hanging candidate costs a few deadlines and ends as a hang."""
    (finding,) = ran([miniature("hang")], seconds=0.3)
    assert isinstance(finding.verdict, Broken)
    assert finding.verdict.kind == "hang"


def test_nan_diverges(miniature: MiniatureOf) -> None:
    """NaN where the reference is finite is a divergence that blames no fault."""
    (finding,) = ran([miniature("nan")], shrink=False)
    assert isinstance(finding.verdict, Diverges)
    assert not finding.verdict.evidence.finite
    assert finding.verdict.evidence.first[1] == 2


def test_a_substituted_path_is_inconclusive(miniature: MiniatureOf) -> None:
    """Right numbers from another path than the declared one do not pass."""
    (finding,) = ran([miniature("path")])
    assert isinstance(finding.verdict, Inconclusive)
    assert "shortcut" in finding.verdict.why


def test_one_crash_among_good_cases_spoils_only_itself(miniature: MiniatureOf) -> None:
    """A single crash is noted, the other cases are run in a new worker, and the group is not passed."""
    lines: list[Line] = []
    (finding,) = ran([miniature("crash_once")], lines=lines)
    trials = [line for line in lines if isinstance(line, Trial)]
    broken = [trial for trial in trials if isinstance(trial.verdict, Broken)]
    assert len(broken) == 1
    assert len(trials) == 16
    assert isinstance(finding.verdict, Broken)
    assert [line.signal for line in lines if isinstance(line, Incident)] == ["SIGABRT"]


def test_a_broken_candidate_leaves_the_others_alone(miniature: MiniatureOf) -> None:
    """Candidates run side by side: a crash, a hang and a missing framework do not touch a good one."""
    adapter = read_adapter(Path(__file__).parent / "miniatures" / "broken_import")
    missing = Candidate(spec=Spec(adapter="b", variant="only"), adapter=adapter, variant=adapter.variants["only"])
    lines: list[Line] = []
    candidates = [miniature("crash"), missing, miniature("hang"), miniature("good")]
    findings = ran(candidates, seconds=1.5, lines=lines)
    kinds = [f.verdict.kind if isinstance(f.verdict, Broken) else type(f.verdict).__name__ for f in findings]
    assert kinds == ["crash", "start", "hang", "Agrees"]
    assert {line.name for line in lines if isinstance(line, CandidateLine)} == {
        "wrong:crash",
        "wrong:hang",
        "wrong:good",
    }


def test_a_group_that_only_crashes_does_not_use_up_the_others(miniature: MiniatureOf) -> None:
    """Restarts are counted in a row: however often one requirement crashes, the next ones are answered."""
    group = REQUIREMENTS["gru_hidden_none"]
    crashing = [replace(group, name=f"gru_hidden_none_{number}") for number in range(3)]
    findings = ran([miniature("crash_omitted")], requirements=[*crashing, REQUIREMENTS["gru_hidden_given"]])
    kinds = [f.verdict.kind if isinstance(f.verdict, Broken) else type(f.verdict).__name__ for f in findings]
    assert kinds == ["crash", "crash", "crash", "Agrees"]


def test_an_environment_that_cannot_be_made_sinks_one_candidate(miniature: MiniatureOf, tmp_path: Path) -> None:
    """A path that is no interpreter breaks that candidate with a message; the others are judged."""
    good = miniature("good")
    bad = replace(good, spec=replace(good.spec, path=tmp_path))
    findings = ran([bad, good])
    assert isinstance(findings[0].verdict, Broken)
    assert findings[0].verdict.kind == "environment"
    assert str(tmp_path) in findings[0].verdict.message + findings[0].verdict.stderr_tail
    assert isinstance(findings[1].verdict, Agrees)


def test_a_worker_killed_in_the_middle_loses_no_other_result(miniature: MiniatureOf) -> None:
    """SIGKILL to the worker during a run: noted with its signal, restarted, and its case is asked again."""
    lines: list[Line] = []
    started = threading.Event()
    victims: list[int] = []

    class Watch(Silent):
        def trial(self, trial: Trial) -> None:  # noqa: ARG002 (the protocol's signature)
            if not started.is_set():
                started.set()
                victims.extend(workers())
                os.kill(victims[0], signal.SIGKILL)
                time.sleep(0.2)

    groups = plan([miniature("good")], NONE)
    (finding,) = run(groups, Settings(examples=10, seed=0), lines.append, Watch())
    trials = [line for line in lines if isinstance(line, Trial)]
    assert len(trials) == 16
    assert all(isinstance(trial.verdict, (Agrees, Inconclusive)) for trial in trials)
    assert [line.signal for line in lines if isinstance(line, Incident)] == ["SIGKILL"]
    assert isinstance(finding.verdict, Agrees)


def workers() -> list[int]:
    """Process ids of this process's workers."""
    task = Path(f"/proc/{os.getpid()}/task")
    children = [pid for thread in task.iterdir() for pid in (thread / "children").read_text().split()]
    return [int(pid) for pid in children if str(LAUNCH) in Path(f"/proc/{pid}/cmdline").read_text()]


def test_kept_failures_are_replayed(miniature: MiniatureOf, tmp_path: Path) -> None:
    """A failure found once is in Hypothesis's example database and is tried first the next time."""
    (first,) = ran([miniature("drop_rbhn_t0")], database=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"wrong_drop_rbhn_t0-gru_hidden_none-float32-{np.__version__}"
    assert any(path.is_file() for path in folder.rglob("*"))
    assert first.example is not None
    lines: list[Line] = []
    (again,) = ran([miniature("drop_rbhn_t0")], database=tmp_path, lines=lines)
    generated = [line for line in lines if isinstance(line, Trial) and line.phase == "generated"]
    assert isinstance(generated[0].verdict, Diverges)
    assert again.example is not None
    assert again.example.case["parameters"] == first.example.case["parameters"]


def test_the_same_seed_gives_the_same_trials(miniature: MiniatureOf) -> None:
    """Cases and verdicts depend on the seed only."""
    runs: list[list[Line]] = [[], []]
    for lines in runs:
        ran([miniature("good")], lines=lines)
    first, second = ([(t.case.digest, t.verdict) for t in lines if isinstance(t, Trial)] for lines in runs)
    assert first == second
    assert len({digest for digest, _ in first}) > 10


def test_no_cell_offered_is_unsupported(miniature: MiniatureOf) -> None:
    """A candidate that offers nothing of what was selected says so; it does not vanish."""
    (finding,) = ran([miniature("good")], requirements=select_requirements("gru_v1_hidden_none"))
    assert isinstance(finding.verdict, Unsupported)
    assert finding.verdict.what == "cell gru_v1"


def test_an_undeclared_dtype_is_unsupported(miniature: MiniatureOf) -> None:
    """Asking for a dtype that the variant does not declare is answered before the run."""
    (group,) = plan([miniature("good")], NONE, ["float64"])
    assert group.unsupported is not None
    assert group.unsupported.what == "dtype float64"


def test_default_candidates_are_the_default_variants(miniature: MiniatureOf) -> None:
    """Without specs, every adapter contributes its default variants."""
    adapter = miniature("good").adapter
    assert [c.name for c in candidates_for({adapter.name: adapter}, [])] == ["wrong:good"]


def test_a_divergence_survives_a_broken_repro_template(miniature: MiniatureOf, tmp_path: Path) -> None:
    """A malformed template of a third-party adapter costs the script, not the finding."""
    folder = tmp_path / "wrong"
    shutil.copytree(miniature("good").adapter.folder, folder)
    (folder / "repro.py.jinja").write_text("{% nonsense %}")
    adapter = read_adapter(folder)
    spec = Spec(adapter=adapter.name, variant="drop_rbhn_t0")
    candidate = Candidate(spec=spec, adapter=adapter, variant=adapter.variants["drop_rbhn_t0"])
    (finding,) = ran([candidate], shrink=False)
    assert isinstance(finding.verdict, Diverges)
    assert finding.example is not None
    assert finding.example.repro.startswith("# cannot write a repro script")
