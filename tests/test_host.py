"""Worker processes that crash, hang, flood and lie: each has its own outcome, and the next case is run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from conformance.campaign import block_of
from conformance.candidate import Spec
from conformance.case import INITIALS, Case, Initial
from conformance.compare import check_shapes
from conformance.discover import read_adapter
from conformance.environments import PROGRAMS_VARIABLE, Interpreter, current, programs_folder
from conformance.exchange import Observation
from conformance.gradient import check_gradients
from conformance.host import MAX_RESTARTS, Host, signal_name
from conformance.judge import judge
from conformance.plan import Candidate, plan
from conformance.process import TAIL_BYTES
from conformance.requirement import REQUIREMENTS
from conformance.rounding import Array
from conformance.signature import LATTICE, Signature, build
from conformance.verdict import Agrees, Broken

MiniatureOf = Callable[[str], Candidate]


def a_case(*, hidden: int = 4, batched: bool = True) -> Case:
    """A small generic case."""
    shape, shape_batched = LATTICE[2] if batched else LATTICE[1]
    signature = Signature(shape=shape, batched=shape_batched, seed=5, scale=0.8, decimals=12, fills=())
    return build(signature, cell="gru", dtype="float32", initial="given")


class Watched:
    """A host and what it reported."""

    def __init__(self, candidate: Candidate, *, seconds: float = 20.0, python: Interpreter | None = None) -> None:
        self.incidents: list[Broken] = []
        self.facts: list[dict[str, str]] = []
        self.host = Host(
            candidate.adapter,
            candidate.variant,
            python or current(),
            incident=self.incidents.append,
            ready=lambda _, facts: self.facts.append(facts),
            case_seconds=seconds,
        )

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *exc: object) -> None:
        self.host.close()


@pytest.mark.parametrize("batched", [True, False])
def test_a_good_worker_answers_with_its_arrays_path_and_facts(miniature: MiniatureOf, batched: bool) -> None:
    """The observation is judged to agree, batched and unbatched, and the facts come once."""
    case = a_case(batched=batched)
    with Watched(miniature("good")) as watched:
        answers = [watched.host.observe(case) for _ in range(2)]
    for answer in answers:
        assert isinstance(answer, Observation)
        assert answer.path == "loop"
        assert isinstance(judge(case, answer.observed, {"update_flip"}), Agrees)
    assert [facts["framework"] for facts in watched.facts] == ["none"]
    assert {"python", "numpy", "platform", "threads"} <= watched.facts[0].keys()
    assert watched.incidents == []


def test_another_host_goes_on_with_a_worker(miniature: MiniatureOf) -> None:
    """It tells the same facts, once; one that was only launched is waited for, and one that is not there is started."""
    case = a_case()
    with Watched(miniature("good")) as first, Watched(miniature("good")) as second, Watched(miniature("good")) as third:
        second.host.adopt(first.host)
        assert second.host.pid is None
        first.host.launch()
        second.host.adopt(first.host)
        pid = second.host.pid
        assert pid is not None
        assert first.host.pid is None
        assert isinstance(second.host.observe(case), Observation)
        third.host.adopt(second.host)
        assert third.facts == second.facts
        assert isinstance(third.host.observe(case), Observation)
        assert third.host.pid == pid
        assert third.host.version == second.host.version
        assert isinstance(second.host.observe(case), Observation)
        assert second.host.pid != pid
    assert [len(watched.facts) for watched in (first, second, third)] == [0, 1, 1]
    assert first.incidents == second.incidents == third.incidents == []


@pytest.mark.parametrize(
    ("variant", "kind", "code", "name", "message"),
    [
        ("crash", "crash", -6, "SIGABRT", "exit code -6 \\(SIGABRT\\)"),
        ("exit", "crash", 7, "", "exit code 7"),
        ("raises", "exception", None, "", "ArithmeticError: no such luck <b>"),
        ("names", "contract", None, "", "returned dict"),
        ("shape", "contract", None, "", "outputs has shape \\(1, 5, 16\\), wanted \\(1, 16, 5\\)"),
        ("dtype", "contract", None, "", "float16, wanted float32"),
    ],
)
def test_what_breaks_has_its_own_outcome(
    miniature: MiniatureOf, variant: str, kind: str, code: int | None, name: str, message: str
) -> None:
    """Crash, early exit, exception and broken contract are told apart, with exit code and signal."""
    shape = LATTICE[3][0]
    signature = Signature(shape=shape, batched=True, seed=5, scale=0.8, decimals=12, fills=())
    case = build(signature, cell="gru", dtype="float32", initial="given")
    with Watched(miniature(variant)) as watched:
        answer = watched.host.observe(case)
    assert isinstance(answer, Broken)
    assert (answer.kind, answer.exit_code, answer.signal) == (kind, code, name)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(answer.message)


def test_the_tail_of_stderr_is_kept(miniature: MiniatureOf) -> None:
    """What a crashing worker said last stands in its verdict."""
    with Watched(miniature("crash")) as watched:
        answer = watched.host.observe(a_case())
    assert isinstance(answer, Broken)
    assert "about to abort" in answer.stderr_tail


def test_an_exception_keeps_the_worker(miniature: MiniatureOf) -> None:
    """An exception in the adapter costs no restart; its traceback is kept."""
    with Watched(miniature("raises")) as watched:
        first = watched.host.observe(a_case())
        pid = watched.host.pid
        watched.host.observe(a_case())
        assert watched.host.pid == pid
    assert isinstance(first, Broken)
    assert "adapter.py" in first.stderr_tail


def test_a_hanging_worker_is_killed_at_its_deadline(miniature: MiniatureOf) -> None:
    """A worker that does not answer costs its deadline and no more."""
    with Watched(miniature("hang"), seconds=0.5) as watched:
        answer = watched.host.observe(a_case())
        assert watched.host.pid is None
    assert isinstance(answer, Broken)
    assert answer.kind == "hang"
    assert "0.5 s" in answer.message


@pytest.mark.parametrize("variant", ["flood", "prints"])
def test_output_of_a_framework_does_no_harm(miniature: MiniatureOf, variant: str) -> None:
    """Megabytes on stderr and prints on stdout neither block the worker nor corrupt a frame."""
    case = a_case()
    with Watched(miniature(variant)) as watched:
        for _ in range(2):
            answer = watched.host.observe(case)
            assert isinstance(answer, Observation)
            assert isinstance(judge(case, answer.observed, {"update_flip"}), Agrees)


def test_a_flooded_stderr_is_bounded_in_memory(miniature: MiniatureOf) -> None:
    """Only the tail of what a worker writes is kept."""
    with Watched(miniature("flood")) as watched:
        watched.host.observe(a_case())
        pid = watched.host.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        answer = watched.host.observe(a_case())
    assert isinstance(answer, Broken)
    assert 0 < len(answer.stderr_tail) <= TAIL_BYTES


def test_a_worker_killed_by_hand_is_noted_and_replaced(miniature: MiniatureOf) -> None:
    """SIGKILL from outside costs one case; the next one runs in a new worker."""
    with Watched(miniature("hang"), seconds=30) as watched:

        def kill() -> None:
            while not watched.facts:  # it has started, however long that took
                time.sleep(0.01)
            time.sleep(0.5)
            pid = watched.host.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        answer = watched.host.observe(a_case())
        killer.join()
    assert isinstance(answer, Broken)
    assert (answer.kind, answer.exit_code, answer.signal) == ("crash", -9, "SIGKILL")
    assert watched.incidents == [answer]


def test_restarts_are_bounded(miniature: MiniatureOf) -> None:
    """A worker that only crashes is given up, and says so."""
    with Watched(miniature("crash")) as watched:
        answers = [watched.host.observe(a_case()) for _ in range(MAX_RESTARTS + 3)]
    kinds = [answer.kind for answer in answers if isinstance(answer, Broken)]
    assert kinds == ["crash"] * (MAX_RESTARTS + 1) + ["abandoned"] * 2


def wide() -> Case:
    """What `crash_once` dies of: a case of 30 features."""
    signature = Signature(
        shape=replace(LATTICE[2][0], features=30), batched=True, seed=5, scale=0.8, decimals=12, fills=()
    )
    return build(signature, cell="gru", dtype="float32", initial="given")


def outputs(answer: Observation | Broken) -> Array:
    assert isinstance(answer, Observation), answer
    return answer.observed.outputs


def test_a_case_may_be_sent_before_its_answer_is_wanted(miniature: MiniatureOf) -> None:
    """It is answered as ever, by the same worker; before there is a worker nothing is sent."""
    one, other = a_case(), a_case(batched=False)
    with Watched(miniature("good")) as watched:
        watched.host.foresee(other)
        assert watched.host.pid is None
        expected = outputs(watched.host.observe(other))
        watched.host.observe(one)
        first = watched.host.pid
        watched.host.foresee(other)
        watched.host.foresee(one)  # one at a time: this is not sent
        assert np.array_equal(outputs(watched.host.observe(other)), expected)
        assert watched.host.pid == first
    assert watched.incidents == []


def test_what_was_sent_and_is_not_wanted_is_dropped(miniature: MiniatureOf) -> None:
    """Another case, the same numbers in another case, a block: each gets an answer of its own."""
    one, other, candidate = a_case(), a_case(batched=False), miniature("good")
    (group,) = plan([candidate], (REQUIREMENTS["gru_hidden_given"],))
    signature = Signature(shape=LATTICE[2][0], batched=True, seed=5, scale=0.8, decimals=12, fills=())
    block = block_of(signature, group, 0, 3)
    with Watched(candidate) as watched:
        expected = outputs(watched.host.observe(one))
        first = watched.host.pid
        watched.host.foresee(other)
        assert np.array_equal(outputs(watched.host.observe(one)), expected)
        watched.host.foresee(other)
        assert np.array_equal(outputs(watched.host.observe(a_case())), expected)
        watched.host.foresee(other)
        watched.host.begin(block)
        answer = watched.host.finish(block)
        assert answer.observed is not None
        assert np.array_equal(answer.observed.outputs[1], outputs(watched.host.observe(block.case(1))))
        assert watched.host.pid == first
    assert watched.incidents == []


def test_a_worker_that_dies_of_a_case_sent_ahead_broke_on_it(miniature: MiniatureOf) -> None:
    """Whoever wants its answer is told; where nobody does it is noted, and the next case runs in a new worker."""
    with Watched(miniature("crash_once")) as watched:
        watched.host.observe(a_case())
        watched.host.foresee(fatal := wide())
        answer = watched.host.observe(fatal)
        assert isinstance(answer, Broken)
        assert (answer.kind, answer.signal) == ("crash", "SIGABRT")
        assert watched.incidents == [answer]
        watched.host.observe(a_case())
        watched.host.foresee(wide())
        assert isinstance(watched.host.observe(a_case()), Observation)
    assert [incident.signal for incident in watched.incidents] == ["SIGABRT", "SIGABRT"]


def test_a_worker_that_died_before_a_case_was_sent_ahead_is_not_passed_over(miniature: MiniatureOf) -> None:
    """The case that finds it dead is broken, as any other would be."""
    with Watched(miniature("good")) as watched:
        watched.host.observe(a_case())
        assert watched.host.pid is not None
        os.kill(watched.host.pid, signal.SIGKILL)
        time.sleep(0.2)
        watched.host.foresee(later := a_case())
        answer = watched.host.observe(later)
        assert isinstance(answer, Broken)
        assert (answer.kind, answer.signal) == ("crash", "SIGKILL")
        assert watched.incidents == [answer]
        assert isinstance(watched.host.observe(later), Observation)


def test_a_worker_may_be_started_before_there_is_a_case_for_it(miniature: MiniatureOf) -> None:
    """It answers as ever; one that dies meanwhile is noted and replaced; one that nobody asked leaves no trace."""
    case = a_case()
    with Watched(miniature("good")) as watched:
        watched.host.launch()
        first = watched.host.pid
        watched.host.launch()
        assert watched.host.pid == first
        assert watched.facts == []
        assert isinstance(watched.host.observe(case), Observation)
        assert (watched.host.pid, len(watched.facts)) == (first, 1)
    with Watched(miniature("good")) as watched:
        watched.host.launch()
        assert watched.host.pid is not None
        os.kill(watched.host.pid, signal.SIGKILL)
        assert isinstance(watched.host.observe(case), Broken)
        assert isinstance(watched.host.observe(case), Observation)
        assert [incident.signal for incident in watched.incidents] == ["SIGKILL"]
    with Watched(miniature("good")) as watched:
        watched.host.launch()
    assert watched.incidents == []


def test_a_framework_that_cannot_be_imported_is_a_start_failure() -> None:
    """A missing framework has one clear message, and is not tried again for every case."""
    adapter = read_adapter(Path(__file__).parent / "miniatures" / "broken_import")
    candidate = Candidate(
        spec=Spec(adapter=adapter.name, variant="only"), adapter=adapter, variant=adapter.variants["only"]
    )
    with Watched(candidate) as watched:
        answers = [watched.host.observe(a_case()) for _ in range(3)]
    assert {answer.kind for answer in answers if isinstance(answer, Broken)} == {"start"}
    assert all(
        isinstance(answer, Broken) and "No module named 'a_framework_that_is_not_installed'" in answer.message
        for answer in answers
    )
    assert len(watched.incidents) == 1


def test_beside_makeshift_companions_a_failed_start_accuses_nobody() -> None:
    """The same failure where the companions are not of the release's time: it had no environment, and that is said."""
    adapter = read_adapter(Path(__file__).parent / "miniatures" / "broken_import")
    makeshift = Interpreter(python=Path(sys.executable), kind="managed", label="managed: old", makeshift=True)
    told: list[Broken] = []
    host = Host(
        adapter, adapter.variants["only"], makeshift, incident=told.append, ready=lambda *_: pytest.fail("it came up")
    )
    with host:
        answer = host.observe(a_case())
    assert isinstance(answer, Broken)
    assert answer.kind == "environment"
    assert "no companions of its time were found" in answer.message
    assert told == [answer]


def test_an_interpreter_that_is_not_there_is_a_start_failure(miniature: MiniatureOf, tmp_path: Path) -> None:
    """A path without an interpreter breaks that candidate only, with the path in the message."""
    nowhere = Interpreter(python=tmp_path / "python", kind="path", label="nowhere", location=None)
    with Watched(miniature("good"), python=nowhere) as watched:
        answer = watched.host.observe(a_case())
    assert isinstance(answer, Broken)
    assert answer.kind == "start"
    assert str(tmp_path) in answer.message


def test_a_crash_after_the_last_answer_is_noted_only(miniature: MiniatureOf) -> None:
    """An abort at exit loses nothing: the answer stands, the incident is noted."""
    case = a_case()
    with Watched(miniature("late_crash")) as watched:
        answer = watched.host.observe(case)
    assert isinstance(answer, Observation)
    assert [incident.signal for incident in watched.incidents] == ["SIGABRT"]
    assert "after delivering every result" in watched.incidents[0].message


def test_nan_reaches_the_judge(miniature: MiniatureOf) -> None:
    """NaN is data, not breakage: the observation arrives with it."""
    with Watched(miniature("nan")) as watched:
        answer = watched.host.observe(a_case())
    assert isinstance(answer, Observation)
    assert np.isnan(answer.observed.outputs[:, 2:]).all()


def test_the_worker_sees_neither_the_harness_nor_its_dependencies(tmp_path: Path) -> None:
    """An adapter can import conformance.worker, and nothing else of the harness; the launcher's folder is hidden."""
    folder = tmp_path / "spy"
    folder.mkdir()
    (folder / "adapter.toml").write_text(
        '[adapter]\nname = "spy"\ntitle = "spy"\ndistribution = "numpy"\n'
        '[variants.only]\ntitle = "spy"\ncells = ["gru"]\ndtypes = ["float32"]\npaths = { given = "loop" }\n'
    )
    (folder / "adapter.py").write_text(
        "import sys\n"
        "def facts():\n"
        "    return {'hypothesis': str('hypothesis' in sys.modules), 'case': str('conformance.case' in sys.modules),\n"
        "            'shadow': str(any(p.endswith('worker') for p in sys.path))}\n"
        "def run(case): ...\n"
    )
    adapter = read_adapter(folder)
    candidate = Candidate(spec=Spec(adapter="spy", variant="only"), adapter=adapter, variant=adapter.variants["only"])
    with Watched(candidate) as watched:
        watched.host.observe(a_case())
    facts = watched.facts[0]
    assert (facts["hypothesis"], facts["case"], facts["shadow"]) == ("False", "False", "False")


@pytest.mark.parametrize(("code", "name"), [(-6, "SIGABRT"), (134, "SIGABRT"), (139, "SIGSEGV"), (1, ""), (None, "")])
def test_exit_codes_are_translated(code: int | None, name: str) -> None:
    """Both conventions for a death by signal are understood."""
    assert signal_name(code) == name


def test_no_worker_outlives_its_host(miniature: MiniatureOf) -> None:
    """Closing the host ends the process, even one that hangs."""
    with Watched(miniature("good")) as watched:
        watched.host.observe(a_case())
        pid = watched.host.pid
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_start_up_code_that_prints_does_no_harm(tmp_path: Path, miniature: MiniatureOf) -> None:
    """A site whose start-up code prints before anything else runs leaves the protocol alone."""
    (tmp_path / "sitecustomize.py").write_text("print('welcome to this site', flush=True)\n")
    case = a_case()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        with Watched(miniature("crash")) as watched:
            answer = watched.host.observe(case)
        with Watched(miniature("good")) as watched:
            good = watched.host.observe(case)
    assert isinstance(answer, Broken)
    assert "welcome to this site" in answer.stderr_tail, "the start-up code did not run: the test shows nothing"
    assert isinstance(good, Observation)


def test_a_worker_killed_during_its_start_is_started_again(tmp_path: Path) -> None:
    """A process that dies while it starts costs one case; one that cannot be imported is not tried again."""
    folder = tmp_path / "slow"
    shutil.copytree(Path(__file__).parent / "miniatures" / "wrong", folder)
    code = (folder / "adapter.py").read_text()
    once = f"import pathlib\nmark = pathlib.Path({str(tmp_path / 'mark')!r})\n"
    once += "if not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), 9)\n"
    (folder / "adapter.py").write_text(code.replace("LAST = {}", f"{once}LAST = {{}}"))
    adapter = read_adapter(folder)
    candidate = Candidate(spec=Spec(adapter="wrong", variant="good"), adapter=adapter, variant=adapter.variants["good"])
    with Watched(candidate) as watched:
        first, second = watched.host.observe(a_case()), watched.host.observe(a_case())
    assert isinstance(first, Broken)
    assert (first.kind, first.signal) == ("start", "SIGKILL")
    assert isinstance(second, Observation)
    assert watched.incidents == [first]


# The contract of features, kept by the host whatever an adapter returns


STUB = """
import json
import numpy as np
from conformance.worker.api import Result, attest

def facts():
    return {}

def run(case):
    lead, time = case.x.shape[:-2], case.x.shape[-2]
    blocks, directions = case.layers * case.directions, case.directions
    memory = case.hidden
    state = case.parameters["W_p"].shape[0] if "W_p" in case.parameters else memory
    ones = lambda *shape: np.ones(shape, np.float32)
    arrays = {"outputs": ones(*lead, time, directions * state), "final_state": ones(*lead, blocks * state)}
    if case.cell.startswith("lstm"):
        arrays |= {"cells": ones(*lead, time, directions * memory), "final_cell": ones(*lead, blocks * memory)}
    own = {**case.parameters, "x": case.x}
    own |= {name: value for name, value in (("h0", case.h0), ("c0", case.c0)) if value is not None}
    gradients = {name: ones(*value.shape) for name, value in own.items()} if case.cotangents else {}
    after = dict(own) if case.inputs_back else {}
    match case.variant:
        case "no_x":
            gradients.pop("x", None)
            after.pop("x", None)
        case "x_only":
            gradients = {name: value for name, value in gradients.items() if name == "x"}
            after = {name: value for name, value in after.items() if name == "x"}
            arrays.pop("cells", None)
            arrays.pop("final_cell", None)
        case "unknown_name":
            gradients = gradients and {**gradients, "W_q": ones(1)}
            after = after and {**after, "W_q": ones(1)}
        case "transposed":
            gradients = {name: value.T for name, value in gradients.items()}
            after = {name: value.T for name, value in after.items()}
            if "cells" in arrays:
                arrays["cells"] = arrays["cells"][..., :1]
        case "unasked":
            gradients = after = own
        case "memory":
            arrays["final_cell"] = arrays["final_state"]
        case "one_direction":
            arrays["outputs"] = arrays["outputs"][..., :state]
        case "one_layer":
            arrays["final_state"] = arrays["final_state"][..., :state]
        case "cut":
            arrays["outputs"] = arrays["outputs"][..., :-1, :]
    path = attest("stub", case.features)
    return Result(dtype=case.dtype, path=path, gradients=gradients, inputs_after=after, **arrays)
"""
EVERYTHING = ("lengths", "reverse", "bidirectional", "layers", "gradients")


def stubbed(folder: Path, good: Candidate) -> MiniatureOf:
    """A worker that answers any case with arrays of ones in its shapes, or breaks the contract, by variant name."""
    (folder / "adapter.py").write_text(STUB)

    def of(variant: str) -> Candidate:
        return replace(
            good,
            adapter=replace(good.adapter, folder=folder),
            variant=replace(good.variant, name=variant, features=frozenset(EVERYTHING)),
        )

    return of


@pytest.fixture
def stub(tmp_path: Path, miniature: MiniatureOf) -> MiniatureOf:
    """Stubs by variant name."""
    return stubbed(tmp_path, miniature("good"))


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Watched]]:
    """The worker of a stub, one for all tests that only ask it something, since it starts as slowly as a framework."""
    adapter = read_adapter(Path(__file__).resolve().parent / "miniatures" / "wrong")
    good = Candidate(spec=Spec(adapter=adapter.name, variant="good"), adapter=adapter, variant=adapter.variants["good"])
    of = stubbed(tmp_path_factory.mktemp("stub"), good)
    with ExitStack() as workers:
        yield cache(lambda variant: workers.enter_context(Watched(of(variant))))


def featured(cell: str, *features: str, initial: Initial = "given", batched: bool = True, **changes: Any) -> Case:
    """A small case with these features."""
    shape, _ = LATTICE[2] if batched else LATTICE[1]
    signature = Signature(shape=shape, batched=batched, seed=5, scale=0.8, decimals=12, fills=())
    case = build(signature, cell=cell, dtype="float32", initial=initial, features=features)
    return replace(case, **changes)


@pytest.mark.parametrize("initial", INITIALS)
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("cell", ["gru", "lstm", "lstm_projection"])
def test_everything_asked_for_comes_back_in_its_shape(
    standing: Callable[[str], Watched], cell: str, batched: bool, initial: Initial
) -> None:
    """Memories, gradients and inputs are batched again; what an omitted state has no gradient of is not missed."""
    case = featured(cell, *EVERYTHING, initial=initial, batched=batched, strided=batched, inputs_back=True)
    answer = standing("good").host.observe(case)
    assert isinstance(answer, Observation), answer
    assert answer.path == "stub " + " ".join(f"+{feature}" for feature in case.features)
    check_shapes(case, answer.observed)
    assert (answer.observed.final_cell is None) == (case.c0 is None)
    own = {**case.parameters, "x": case.x}
    if initial != "omitted":
        own |= {name: value for name, value in (("h0", case.h0), ("c0", case.c0)) if value is not None}
    for found in (answer.observed.gradients, answer.observed.inputs_after):
        assert {name: value.shape for name, value in found.items()} == {n: value.shape for n, value in own.items()}
    for name, value in own.items():
        np.testing.assert_array_equal(answer.observed.inputs_after[name], value)
    if cell == "gru":
        check_gradients(case, answer.observed)


@pytest.mark.parametrize(
    ("variant", "cell", "features", "message"),
    [
        ("no_x", "gru", ("gradients",), "gradient:x"),
        ("no_x", "gru", ("inputs_back",), "after:x"),
        ("unknown_name", "gru", ("gradients",), "gradient:W_q"),
        ("unknown_name", "gru", ("inputs_back",), "after:W_q"),
        ("transposed", "gru", ("gradients",), "has shape"),
        ("transposed", "gru", ("inputs_back",), "has shape"),
        ("transposed", "lstm", (), "cells has shape"),
        ("unasked", "gru", (), "gradient:"),
        ("unasked", "gru", ("gradients",), "after:"),
        ("unasked", "gru", ("inputs_back",), "gradient:"),
        ("memory", "gru", (), "final_cell"),
        ("memory", "mingru", ("lengths",), "final_cell"),
        ("memory", "lstm_projection", (), "final_cell has shape"),
        ("one_direction", "gru", ("bidirectional",), "outputs has shape"),
        ("one_layer", "gru", ("layers",), "final_state has shape"),
        ("cut", "gru", ("lengths",), "outputs has shape"),
    ],
)
def test_what_does_not_fit_the_features_breaks_the_contract(
    standing: Callable[[str], Watched], variant: str, cell: str, features: tuple[str, ...], message: str
) -> None:
    """Names too few, too many or unknown, and shapes of another situation: each is told, and costs no restart."""
    asked = [feature for feature in features if feature != "inputs_back"]
    case = featured(cell, *asked, inputs_back="inputs_back" in features)
    watched = standing(variant)
    answer = watched.host.observe(case)
    assert watched.host.pid is not None
    assert isinstance(answer, Broken)
    assert answer.kind == "contract"
    assert message in answer.message
    assert watched.incidents == []


def test_what_may_be_missing_may_be_missing(stub: MiniatureOf) -> None:
    """Gradients of x alone, and no memory, are an observation: what is short is for the judge to say."""
    case = featured("lstm", "gradients", inputs_back=True)
    with Watched(stub("x_only")) as watched:
        answer = watched.host.observe(case)
    assert isinstance(answer, Observation)
    assert (answer.observed.cells, answer.observed.final_cell) == (None, None)
    assert answer.observed.gradients.keys() == answer.observed.inputs_after.keys() == {"x"}


@pytest.mark.parametrize("cut", [np.s_[:, :0], np.s_[:0]], ids=["no steps", "no rows"])
def test_empty_cases_are_asked_and_answered(stub: MiniatureOf, cut: tuple[slice, ...]) -> None:
    """Arrays without elements pass the wire in both directions, in their shapes."""
    case = featured("lstm")
    rows = cut[0] if isinstance(cut, tuple) else cut
    case = replace(case, x=case.x[cut], h0=case.h0[rows], c0=None if case.c0 is None else case.c0[rows])
    with Watched(stub("good")) as watched:
        answer = watched.host.observe(case)
    assert isinstance(answer, Observation)
    assert answer.observed.outputs.shape == (case.shape.batch, case.shape.time, case.shape.hidden)
    assert answer.observed.final_state.shape == case.h0.shape


def test_an_adapter_of_several_files_sees_its_variants_environment_at_import(tmp_path: Path) -> None:
    """A switch that a framework reads once, when it is imported, is set before; adapter.py may have files beside it."""
    (tmp_path / "adapter.toml").write_text(
        '[adapter]\nname = "switch"\ntitle = "Switch"\ndistribution = "none"\n'
        '[variants.on]\ntitle = "on"\ncells = ["gru"]\ndtypes = ["float32"]\n'
        'paths = { given = "loop" }\nenvironment = { MY_SWITCH = "on" }\n'
    )
    (tmp_path / "switch.py").write_text('import os\n\nFOUND = os.environ.get("MY_SWITCH", "off")\n')
    (tmp_path / "adapter.py").write_text(
        'from .switch import FOUND\n\ndef facts():\n    return {"switch": FOUND}\n\ndef run(case):\n    return None\n'
    )
    adapter = read_adapter(tmp_path)
    with Watched(Candidate(spec=Spec(adapter="switch"), adapter=adapter, variant=adapter.variants["on"])) as watched:
        answer = watched.host.observe(a_case())
    assert isinstance(answer, Broken)
    assert answer.kind == "contract", "run() gave no Result"
    assert [facts["switch"] for facts in watched.facts] == ["on"]


def test_an_adapter_imports_modules_that_it_shares_as_its_own(tmp_path: Path) -> None:
    """What is beside adapter.py comes first; a shared module sees that, too, not what it was written beside."""
    own, shared = tmp_path / "own", tmp_path / "shared"
    for folder in (own, shared):
        folder.mkdir()
        (folder / "place.py").write_text(f'PLACE = "{folder.name}"\n')
    (shared / "tool.py").write_text("from .place import PLACE\n")
    (own / "adapter.py").write_text(
        "from . import place, tool\n\n"
        'def facts():\n    return {"own": place.PLACE, "seen": tool.PLACE}\n\n'
        "def run(case):\n    return None\n"
    )
    (own / "adapter.toml").write_text(
        '[adapter]\nname = "own"\ntitle = "Own"\ndistribution = "none"\n[variants.on]\ntitle = "on"\n'
        'cells = ["gru"]\ndtypes = ["float32"]\npaths = { given = "loop" }\n'
    )
    adapter = replace(read_adapter(own), shares=(shared,))
    with Watched(Candidate(spec=Spec(adapter="own"), adapter=adapter, variant=adapter.variants["on"])) as watched:
        assert isinstance(watched.host.observe(a_case()), Broken), "run() gave no Result"
    assert watched.facts[0]["own"] == watched.facts[0]["seen"] == "own"


@pytest.mark.parametrize("named", [None, "", "/elsewhere"])
def test_a_worker_is_told_where_programs_are_kept(
    miniature: MiniatureOf, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    """In the user's cache, unless the user names another folder, or says none by an empty name."""
    monkeypatch.delenv(PROGRAMS_VARIABLE, raising=False)
    if named is not None:
        monkeypatch.setenv(PROGRAMS_VARIABLE, named)
    seen: list[str] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]  # its signature is of no concern here
        def __init__(self, *args: Any, env: dict[str, str], **options: Any) -> None:
            seen.append(env[PROGRAMS_VARIABLE])
            super().__init__(*args, env=env, **options)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with Watched(miniature("good")) as watched:
        assert isinstance(watched.host.observe(a_case()), Observation)
    assert seen == [str(programs_folder()) if named is None else named]
