"""Compiled programs of the JAX adapters: one per signature, kept from one worker to the next, and never a stale one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance.candidate import Adapter, Spec
from conformance.discover import find_adapters
from conformance.environments import PROGRAMS_VARIABLE
from conformance.plan import Candidate, interpreter_of
from conformance.process import LAUNCH

ADAPTERS = find_adapters()
# (variant, cell, gates, whether it has hidden weights and a memory) of each adapter.
SUBJECTS: dict[str, list[tuple[str, str, str, bool, bool]]] = {
    "flax-linen": [("rnn", "elman", "", True, False), ("concat", "gru_v1", "rzn", True, False)],
    "flax-nnx": [("lax-scan", "elman", "", True, False), ("rnn", "elman", "", True, False)],
    "jax": [("sequential", "mingru", "zn", False, False), ("scan", "minlstm", "fin", False, False)],
}

PRELUDE = """
import json, os, sys, types
from pathlib import Path
import numpy as np

package = types.ModuleType("conformance")
package.__path__ = [str(Path(sys.argv[1]).parent.parent)]
sys.modules["conformance"] = package
from conformance.worker.api import WorkerCase
from conformance.worker.serve import load_adapter
import jax

made, loaded = [], []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: made.append(event) if event == "/jax/core/compile/backend_compile_duration" else None
)
jax.monitoring.register_event_listener(
    lambda event, **_: loaded.append(event) if event == "/jax/compilation_cache/cache_hits" else None
)

def compiled():
    "Programs that were compiled since the last question; JAX counts loading as compiling, too."
    number = len(made) - len(loaded)
    made.clear(), loaded.clear()
    return number

told = json.loads(sys.stdin.read())
adapter = load_adapter(Path(told["folder"]), [Path(folder) for folder in told["shares"]])
programs = adapter.programs
compiled()

def case(subject, seed=0, shape=(2, 3, 2), hidden=3, gradients=False, dtype="float32"):
    variant, cell, gates, recurrent, memory = subject
    draw = np.random.default_rng(seed)
    container = np.float64 if dtype == "float64" else np.float32
    def array(*size): return draw.normal(size=size).astype(container)
    p = {}
    for gate in gates or ["x"]:
        own = gate if recurrent and gates else ""
        p["W_x" + own if recurrent else "W_" + gate] = array(hidden, shape[-1])
        p["b_x" + own if recurrent else "b_" + gate] = array(hidden)
        if recurrent: p |= {"W_h" + own: array(hidden, hidden), "b_h" + own: array(hidden)}
    state = array(shape[0], hidden)
    cotangents = {"outputs": array(shape[0], shape[1], hidden), "final_state": array(shape[0], hidden)}
    if memory: cotangents["final_cell"] = array(shape[0], hidden)
    return WorkerCase(cell=cell, variant=variant, dtype=dtype, parameters=p, x=array(*shape), h0=state, hidden=hidden,
                      batched=True, c0=array(shape[0], hidden) if memory else None,
                      cotangents=cotangents if gradients else None)

def bits(result):
    return [result.path, result.outputs.tobytes().hex(), *(v.tobytes().hex() for v in result.gradients.values())]

def again():
    "As a worker that was just started."
    jax.clear_caches()
    compiled()
    return programs.keep()

def tell(**answer): print("\\n" + json.dumps(answer))
"""

SWEEP = """
asked = [dict(), dict(gradients=True), dict(shape=(1, 1, 1), hidden=1), dict(shape=(2, 9, 17), hidden=67),
         dict(dtype="bfloat16"), dict(dtype="float64")]
asked = [dict(asked[int(i)]) for i in told["asked"]]
found, counts = [], []
for subject in told["subjects"]:
    for options in asked:
        if subject[0] == "scan": options = {**options, "gradients": False}
        compiled()
        found += [bits(adapter.run(case(subject, seed, **options))) for seed in range(3)]
        counts.append(compiled())
tell(found=found, counts=counts, fact=adapter.facts()["programs"])
"""


def run(
    script: str,
    folder: Path | None,
    *,
    adapter: Adapter = ADAPTERS["jax"],
    own: Path | None = None,
    variables: Mapping[str, str] | None = None,
    **told: Any,
) -> tuple[dict[str, Any], str]:
    """What a script tells in a new process of an adapter's environment, and what that process printed beside it.

    folder: where programs are kept; own: a copy of the adapter's folder, to be loaded in its place.
    """
    process = start(script, folder, adapter=adapter, own=own, variables=variables, **told)
    return finish(process)


def start(
    script: str,
    folder: Path | None,
    *,
    adapter: Adapter = ADAPTERS["jax"],
    own: Path | None = None,
    variables: Mapping[str, str] | None = None,
    **told: Any,
) -> subprocess.Popen[str]:
    """The same, begun."""
    variant = next(iter(adapter.variants.values()))
    candidate = Candidate(spec=Spec(adapter=adapter.name), adapter=adapter, variant=variant)
    environment = {**os.environ, PROGRAMS_VARIABLE: str(folder or ""), **(variables or {})}
    process = subprocess.Popen(
        [str(interpreter_of(candidate, print).python), "-I", "-c", PRELUDE + script, str(LAUNCH)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin
    shares = [str(path) for path in adapter.shares]
    process.stdin.write(json.dumps({"folder": str(own or adapter.folder), "shares": shares, **told}))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """Wait for it."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told: dict[str, Any] = {}
    for line in out.splitlines():
        told |= json.loads(line) if line.startswith("{") else {}
    return told, err


def kept(folder: Path) -> list[Path]:
    """The kept programs below a folder."""
    return sorted(folder.glob("*/*-cache.*"))


def sweep(folder: Path | None, adapter: Adapter = ADAPTERS["jax"], **options: Any) -> tuple[dict[str, Any], str]:
    """Three cases, alike but for their numbers, of every signature."""
    given = {"subjects": SUBJECTS[adapter.name], "asked": "0", **options}
    return run(SWEEP, folder, adapter=adapter, **given)


# One program per signature, once


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_a_signature_is_compiled_once_and_by_the_next_worker_not_at_all(name: str, tmp_path: Path) -> None:
    """Forward and gradients, three sets of numbers each; the next worker attests the same paths, with the same bits."""
    asked = "01" if name != "jax" else "015"
    first, _ = sweep(tmp_path, ADAPTERS[name], asked=asked)
    second, printed = sweep(tmp_path, ADAPTERS[name], asked=asked)
    wanted = [1] * (len(asked) * len(SUBJECTS[name]))
    if name == "jax":
        wanted[4] = 0  # a scan's gradients are not asked for: its plain program stands in
    assert first["counts"] == wanted
    assert second["counts"] == [0] * len(wanted)
    assert len(kept(tmp_path)) == sum(wanted)
    assert second["found"] == first["found"]
    assert second["fact"] == first["fact"] == "kept from one worker to the next"
    assert "damaged" not in printed


def test_a_program_per_case_would_be_noticed(tmp_path: Path) -> None:
    """An adapter that makes its jitted function anew for every case compiles three times where one is enough."""
    right = "            states = forward("
    wrong = "            states = jax.jit(lambda *a: forward(*a), static_argnums=(0, 1))("
    own = copy_of(ADAPTERS["jax"], tmp_path, "adapter.py", right, wrong)
    told, _ = sweep(None, own=own, subjects=SUBJECTS["jax"][:1])
    assert (told["counts"], told["fact"]) == ([3], "compiled by each worker")


def copy_of(adapter: Adapter, place: Path, file: str = "", before: str = "", after: str = "") -> Path:
    """A copy of an adapter's folder with a passage of a file replaced."""
    folder = place / adapter.name
    shutil.copytree(adapter.folder, folder)
    if file:
        text = (folder / file).read_text(encoding="utf-8")
        assert text.count(before) == 1
        (folder / file).write_text(text.replace(before, after), encoding="utf-8")
    return folder


# Never a stale one

PARTS = """
import importlib.metadata, platform, sysconfig
from unittest.mock import patch

subject = told["subjects"][0]
bits_before = bits(adapter.run(case(subject)))
again()
control = [bits(adapter.run(case(subject))) == bits_before, compiled()]

scratch = Path(told["scratch"])
(scratch / "cpuinfo").write_text("flags : one of a kind")
(scratch / "more.py").write_text("# another file of the adapter")
distribution = importlib.metadata.distribution
device = jax.devices()[0]

class Rebuilt:
    "A distribution of the same version, built anew."
    def __init__(self, name): self.real = distribution(name)
    version = property(lambda self: self.real.version)
    def read_text(self, name): return self.real.read_text(name) + "rebuilt"

def rebuilt(which): return lambda name: Rebuilt(name) if name == which else distribution(name)
processor, build_of = programs.processor, programs.build_of

changes = {
    "layout": [patch.object(programs, "LAYOUT", 0)],
    "python": [patch.object(sys, "version", "3.99"), patch.object(sysconfig, "get_config_var", lambda name: "else")],
    "jax": [patch.object(programs, "distribution", rebuilt("jax"))],
    "jaxlib": [patch.object(programs, "distribution", rebuilt("jaxlib"))],
    "flax": [patch.object(programs, "build_of", lambda name: ["0"] if name == "flax" else build_of(name))],
    "adapter": [patch.object(programs, "own_folders", lambda real=programs.own_folders(): [*real, str(scratch)])],
    "device": [patch.object(jax, "devices", lambda: [types.SimpleNamespace(
        platform=device.platform, device_kind="another", client=device.client)])],
    "processor": [patch.object(programs, "processor", lambda: processor(scratch / "cpuinfo"))],
    "cores": [patch.object(os, "sched_getaffinity", lambda _: range(999), create=True)],
    "system": [patch.object(platform, "machine", lambda: ""), patch.object(platform, "libc_ver", lambda: ("x", "1"))],
    "variables": [patch.dict(os.environ, {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"})],
    "options": [],
}
counts = {}
for part, patches in changes.items():
    for each in patches:
        with each: programs.keep()
        jax.clear_caches(), compiled()
        adapter.run(case(subject))
        counts.setdefault(part, []).append(compiled())
for option, value in {"jax_default_matmul_precision": "highest", "jax_cpu_enable_async_dispatch": False}.items():
    before = jax.config.values[option]
    jax.config.update(option, value)
    again()
    adapter.run(case(subject))
    counts.setdefault("options", []).append(compiled())
    jax.config.update(option, before)
again()
adapter.run(case(subject))
control.append(compiled())
tell(control=control, counts=counts, parts=sorted(programs.toolchain()))
"""


def test_a_program_of_another_toolchain_is_not_used(told: dict[str, Any]) -> None:
    """Every part of the toolchain, changed alone, makes the worker compile; unchanged, it does not."""
    assert told["control"] == [True, 0, 0]
    assert sorted(told["counts"]) == told["parts"], "a part of the toolchain that no change here touches"
    assert {part: set(counts) for part, counts in told["counts"].items()} == {part: {1} for part in told["parts"]}


BUILDS = """
place = Path(told["scratch"])
sys.path.insert(0, str(place))
info = place / "thing-1.0.dist-info"
info.mkdir(), (place / "thing").mkdir()
(info / "METADATA").write_text("Metadata-Version: 2.1\\nName: thing\\nVersion: 1.0\\n")
library = place / "thing" / "core.so"
def build(record="", content=b"one", at=1_000_000_000):
    (info / "RECORD").write_text(record)
    library.write_bytes(content)
    os.utime(library, ns=(at, at))
    return programs.build_of("thing")
plain = build()
left = place / "left"
left.mkdir()
def interrupted(*_): raise KeyboardInterrupt
with patch.object(Path, "replace", interrupted):
    try: programs.write(left / "file", b"content")
    except KeyboardInterrupt: pass
halves = sorted(os.listdir(left))
programs.write(left / "file", b"content")
tell(halves=halves, whole=[path.read_bytes() == b"content" for path in left.iterdir()])
others = [build(record="x"), build(content=b"three"), build(at=2_000_000_000)]
tell(same=build() == plain, differ=[other != plain for other in others],
     absent=programs.build_of("nothing-of-this-name"))
"""


def test_two_builds_of_one_version_are_told_apart(told: dict[str, Any]) -> None:
    """By the record of files, by the size of a library, by its time; the same build stays the same."""
    assert [told["same"], told["differ"], told["absent"]] == [True, [True, True, True], []]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process tells of toolchains, builds, and of programs that another worker keeps meanwhile."""
    place = tmp_path_factory.mktemp("toolchains")
    (place / "scratch").mkdir()
    (place / "jax").mkdir()
    paths = {"scratch": str(place / "scratch"), "jaxs": str(place / "jax")}
    return run(PARTS + BUILDS + SEEN, place / "kept", subjects=SUBJECTS["jax"], **paths)[0]


CHANGED = """
programs.digest_of = lambda files: "whatever the files are"
again()
subject = told["subjects"][0]
found, counts = [bits(adapter.run(case(subject)))], [compiled()]
again()
found.append(bits(adapter.run(case(subject))))
tell(found=found, counts=[*counts, compiled()])
"""


def test_another_program_of_the_same_toolchain_is_compiled(tmp_path: Path) -> None:
    """Were the adapter's files no part of the toolchain, a changed equation would be noticed all the same."""
    one, _ = run(CHANGED, tmp_path / "kept", subjects=SUBJECTS["jax"])
    own = copy_of(ADAPTERS["jax"], tmp_path, "adapter.py", "        return 1 - z, z", "        return z, 1 - z")
    other, _ = run(CHANGED, tmp_path / "kept", own=own, subjects=SUBJECTS["jax"])
    assert one["counts"] == other["counts"] == [1, 0]
    assert one["found"][0] == one["found"][1]
    assert other["found"][0] == other["found"][1] != one["found"][0]
    assert len(list((tmp_path / "kept").iterdir())) == 1 + 2, "the toolchain that both share, and each one's own"


LIE = """
programs.digest_of = lambda files: "whatever the files are"
again()
adapter.forms.FORMS["nnx-scan-not"] = adapter.forms.lax_scan
subject = ["lax-scan", *told["subjects"][0][1:]]
seen = [(adapter.run(case(subject)).path, compiled())]
for variant in ("lax-scan", "nnx-scan-not"):
    again()
    seen.append((adapter.run(case([variant, *subject[1:]])).path, compiled()))
tell(seen=seen)
"""


COSTS = """
subject = told["subjects"][0]
adapter.run(case(subject))
counts = [compiled()]
again()
adapter.run(case(subject))
counts.append(compiled())
adapter.compile_costs(case(subject))
counts.append(compiled() > 1)
adapter.run(case(subject, shape=(1, 1, 1), hidden=1))
tell(costs=[*counts, compiled()], files=len(list(Path(os.environ[programs.VARIABLE]).glob("*/*-cache.*"))))
"""


@pytest.fixture(scope="module")
def nnx(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process of Flax NNX tells."""
    place = tmp_path_factory.mktemp("nnx")
    return run(COSTS + LIE, place, adapter=ADAPTERS["flax-nnx"], subjects=SUBJECTS["flax-nnx"])[0]


def test_a_path_is_read_from_what_was_traced_though_the_program_was_kept(nnx: dict[str, Any]) -> None:
    """A form that is called after nnx.scan but runs lax.scan loads the kept program of lax.scan, and attests that."""
    path = "jax.lax.scan(flax.nnx.SimpleCell[tanh], carry, x)"
    assert nnx["seen"] == [[path, 1], [path, 0], [path, 0]]


def test_costs_of_compilation_are_measured_from_nothing(nnx: dict[str, Any]) -> None:
    """A kept program does not help them, they keep none themselves, and programs are kept after them as before."""
    assert (nnx["costs"], nnx["files"]) == ([1, 0, True, 1], 2)


# Files as they may be found

DAMAGED = """
subject = told["subjects"][0]
right = bits(adapter.run(case(subject)))
small = case(subject, shape=(1, 1, 1), hidden=1)
other = bits(adapter.run(small))
def files(): return sorted(Path(os.environ[programs.VARIABLE]).glob("*/*-cache.*"))
whole = {path: path.read_bytes() for path in files()}
one, two = whole
def flipped(content): return content[:200] + bytes([content[200] ^ 1]) + content[201:]
damages = {
    "bits": {one: flipped(whole[one]), two: whole[two][:-1]},
    "sizes": {one: b"", two: whole[two] + b"x"},
    "names": {one: whole[two], two: whole[one]},
}
seen = {}
for name, contents in damages.items():
    for path, content in contents.items(): path.write_bytes(content)
    again()
    seen[name] = [bits(adapter.run(case(subject))) == right, bits(adapter.run(small)) == other, compiled()]
    again()
    adapter.run(case(subject)), adapter.run(small)
    seen[name] += [compiled(), len(files())]
    again()
    for path in files(): path.unlink()
    for path, content in whole.items(): path.write_bytes(content)
elsewhere = one.parent.with_name("0" * 32)
one.parent.rename(elsewhere)
with_name = programs.Shelf(elsewhere, Path(told["scratch"]))
with_name.fetch()
tell(seen=seen, moved=[len(os.listdir(told["scratch"])), len(files())])
"""


def test_a_damaged_program_is_compiled_and_kept_again(tmp_path: Path) -> None:
    """However the bytes were damaged: right numbers, a note, then a sound file; one in a wrong place is damaged."""
    (tmp_path / "scratch").mkdir()
    told, printed = run(DAMAGED, tmp_path / "kept", subjects=SUBJECTS["jax"], scratch=str(tmp_path / "scratch"))
    names = ("bits", "sizes", "names")
    assert told["seen"] == {name: [True, True, 2, 0, 2] for name in names}
    assert told["moved"] == [0, 0]
    assert printed.count("a kept program is damaged and is compiled again") == 2 * len(names) + 2


def test_workers_that_start_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Two on an empty folder give the same bits, leave nothing half-written, and a third compiles nothing."""
    given = {"subjects": SUBJECTS["jax"], "asked": "0"}
    both = [start(SWEEP, tmp_path, **given) for _ in range(2)]
    told = [finish(process)[0] for process in both]
    third, printed = run(SWEEP, tmp_path, **given)
    assert told[0]["found"] == told[1]["found"] == third["found"]
    assert sum(third["counts"]) == 0
    assert "damaged" not in printed
    assert [path.name for path in tmp_path.glob("*/.*")] == []


def test_a_file_is_written_as_a_whole_or_not_at_all(told: dict[str, Any]) -> None:
    """A writer that is interrupted leaves nothing behind."""
    assert (told["halves"], told["whole"]) == ([], [True])


SEEN = """
programs.LAYOUT = -1
again()
(folder,) = (path for path in Path(os.environ[programs.VARIABLE]).iterdir() if not list(path.glob("*-cache.*")))
shelf = programs.Shelf(folder, Path(told["jaxs"]))
shelf.fetch()
adapter.run(case(subject))
before = len(os.listdir(shelf.scratch)), compiled()
shelf.fetch()
tell(shelf=[*before, len(os.listdir(shelf.scratch))])
"""


def test_what_one_worker_compiles_another_that_already_runs_may_use(told: dict[str, Any]) -> None:
    """A program that was kept after a worker's start is offered to it when it wants one."""
    assert told["shelf"] == [0, 1, 1]


VANISHES = """
import shutil
subject = told["subjects"][0]
shutil.rmtree(os.environ[programs.VARIABLE])
found = [bits(adapter.run(case(subject, seed))) for seed in range(3)]
bits(adapter.run(case(subject, shape=(1, 1, 1), hidden=1)))
tell(found=found, counts=[compiled()])
"""


def test_a_folder_that_cannot_be_used_costs_only_time(tmp_path: Path) -> None:
    """Where a file is in the way, or the folder goes meanwhile, programs are compiled, and that is told once.

    A user's own folder for JAX's programs is neither read nor filled in its place.
    """
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    (tmp_path / "users").mkdir()
    greedy = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "users"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    told, printed = sweep(tmp_path / "file" / "programs", variables=greedy)
    assert list((tmp_path / "users").iterdir()) == []
    assert (told["counts"], told["fact"]) == ([1, 1], "compiled by each worker")
    assert printed.count("compiled programs are not kept") == 1
    other, printed = run(VANISHES, tmp_path / "kept", subjects=SUBJECTS["jax"])
    assert (other["counts"], other["found"]) == ([2], told["found"][:3])
    assert printed.count("programs cannot be read") + printed.count("programs are not kept") == 1


BOUNDED = """
subject, most = told["subjects"][0], told["most"]
programs.HELD.most = most
sizes = [dict(shape=(1, time, 1), hidden=2) for time in (1, 2, 3, 4)]
found, held = [], []
for options in [*sizes, sizes[0]]:
    found.append(bits(adapter.run(case(subject, **options))))
    held.append(adapter.forward._cache_size())
tell(found=found, held=held)
"""


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_programs_that_are_no_longer_asked_for_are_let_go(name: str, tmp_path: Path) -> None:
    """What a worker holds is bounded, its answers are the same, and JAX says that it holds all of them otherwise."""
    given = {"adapter": ADAPTERS[name], "subjects": SUBJECTS[name]}
    every, _ = run(BOUNDED, tmp_path, most=64, **given)
    few, _ = run(BOUNDED, tmp_path, most=1, **given)
    assert every["held"] == [1, 2, 3, 4, 4]
    assert max(few["held"]) == 2
    assert few["found"] == every["found"]


ATTESTED = """
from dataclasses import replace
from conformance.worker.api import Place

subject, read = told["subjects"][0], []
path = adapter.Call.path
adapter.Call.path = lambda call, case: read.append(path(call, case)) or read[-1]

def block(count, **options):
    cases = [case(subject, seed, **options) for seed in range(count)]
    columns = {name: np.stack([one.parameters[name] for one in cases]) for name in cases[0].parameters}
    shared = {}
    return [replace(one, place=Place(columns, place, shared)) for place, one in enumerate(cases)]

together = [bits(adapter.run(one)) for one in block(3)]
once = len(read)
alone = [bits(adapter.run(replace(one, place=None))) for one in block(3)]
first, second = block(2)
del read[:]
adapter.run(first)
adapter.run(case(subject, shape=(1, 5, 1), hidden=2))
other = len(read)
adapter.run(second)
tell(once=once, same=together == alone, read=[other, len(read)])
"""


def test_a_path_is_read_once_for_a_block_and_again_after_another_program(tmp_path: Path) -> None:
    """Of cases that differ in their numbers only; what was compiled in between might be what the next one runs."""
    told, _ = run(ATTESTED, tmp_path, adapter=ADAPTERS["flax-nnx"], subjects=SUBJECTS["flax-nnx"])
    assert told == {"once": 1, "same": True, "read": [2, 3]}
