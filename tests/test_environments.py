"""Interpreters, and real, tiny environments made without a network."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from msgspec.structs import replace

from conformance import environments, installer
from conformance.environments import (
    Interpreter,
    cache_root,
    current,
    from_path,
    installed_version,
    list_environments,
    managed,
    programs_folder,
    prune,
)
from conformance.errors import EnvironmentUnavailable, SpecError
from conformance.installer import PipSettings, pip_settings
from conformance.pins import requirements_for

ask_pip = installer._pip_config


def write_wheel(folder: Path, name: str, version: str, body: str) -> Path:
    """Write the smallest wheel that installs a module `name` holding `body`."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", body)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def write_checkout(folder: Path, body: str, *, product: str = "build/made") -> Path:
    """Write a source tree of `tiny` that builds by a backend of its own, which leaves a `product` behind."""
    (folder / "src").mkdir(parents=True)
    build = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    (folder / "pyproject.toml").write_text(build + "[project]\nname = 'tiny'\nversion = '9'\n")
    (folder / "src" / "tiny.py").write_text(body)
    (folder / "backend.py").write_text(
        "from __future__ import annotations\nimport zipfile\nfrom pathlib import Path\n\n"
        + inspect.getsource(write_wheel)
        + "\ndef build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        f"    product = Path({product!r})\n"
        "    product.parent.mkdir(exist_ok=True)\n"
        "    product.write_text('by the build')\n"
        "    return write_wheel(Path(folder), 'tiny', '9', Path('src/tiny.py').read_text()).name\n"
    )
    return folder


def run(interpreter: Interpreter, code: str) -> str:
    """Return what the interpreter prints."""
    command = [str(interpreter.python), "-I", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def entries() -> list[str]:
    """Names of the folders among the environments, partial ones included."""
    return sorted(path.name for path in (cache_root() / "environments").iterdir() if path.is_dir())


def settings_in_variables() -> str:
    """Return what ``pip config list`` prints where no file configures pip."""
    named = sorted((name, value) for name, value in os.environ.items() if name.startswith("PIP_"))
    return "".join(f":env:.{name[4:].lower().replace('_', '-')}={value!r}\n" for name, value in named)


@pytest.fixture(scope="module")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv's cache of this module: tests share what uv knows of the interpreter."""
    return tmp_path_factory.mktemp("uv")


@pytest.fixture
def wheels(tmp_path: Path, uv_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with `tiny` 1.0 and 2.0, all that pip may see; there are no environments yet."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        write_wheel(folder, "tiny", version, f"VERSION = {version!r}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_cache))
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    # What pip prints for variables, without the time that pip takes.
    monkeypatch.setattr(installer, "_pip_config", settings_in_variables)
    return folder


# --- Beside the harness, or by path ---


def test_installed_version_does_not_import() -> None:
    """The version comes from the installation's metadata; what is not installed has none."""
    assert installed_version("filelock") is not None
    assert installed_version("no-such-distribution-here") is None


def test_current_is_the_harness_own_interpreter() -> None:
    """Its path is not resolved: resolved, it would be the base interpreter."""
    assert current().python == Path(sys.executable)
    assert current().kind == "current"


def test_interpreter_by_path_is_not_resolved(tmp_path: Path) -> None:
    """A virtual environment's python is a symlink, and must stay one to see its packages."""
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    found = from_path(link)
    assert (found.python, found.kind, found.location) == (link, "path", None)


def test_folder_of_a_virtual_environment_is_an_interpreter() -> None:
    """The folder stands for the python in it."""
    assert from_path(Path(sys.prefix)).python.parent == Path(sys.executable).parent


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        pytest.param("#!/bin/sh\necho hello\n", "not a Python that works", id="other-program"),
        pytest.param("no program", "not a Python that works", id="text"),
        pytest.param("""#!/bin/sh\necho '{"python": [3, 8, 1], "packages": {}}'\n""", "too old", id="old"),
        pytest.param(None, "no such file", id="absent"),
    ],
)
def test_what_is_no_python_is_told(tmp_path: Path, script: str | None, problem: str) -> None:
    """A path that cannot run a worker is refused at once, naming it."""
    path = tmp_path / "python"
    if script is not None:
        path.write_text(script)
        path.chmod(0o755)
    with pytest.raises(EnvironmentUnavailable, match=problem) as caught:
        from_path(path)
    assert str(path) in caught.value.where


def test_folder_without_interpreter_is_told(tmp_path: Path) -> None:
    """A folder that is no virtual environment is refused."""
    with pytest.raises(EnvironmentUnavailable, match="no interpreter there"):
        from_path(tmp_path)


# --- Managed environments, what takes long last ---


def test_cache_root_follows_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable decides; without it, the platform's folder for this user."""
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("RNN_CONFORMANCE_CACHE")
    assert "rnn-conformance" in cache_root().parts


@pytest.mark.usefixtures("wheels")
def test_no_requirements_are_refused() -> None:
    """An environment without a framework is a mistake."""
    with pytest.raises(SpecError, match="No requirements"):
        managed("tiny", [])


@pytest.mark.usefixtures("wheels")
def test_created_environment_works_in_its_place() -> None:
    """The interpreter sees its packages after the folder got its final name, and stages were told."""
    told: list[str] = []
    made = managed("tiny", ["tiny==1.0"], progress=told.append)
    assert made.kind == "managed"
    assert made.label == "managed: tiny==1.0"
    assert run(made, "import tiny, sys; print(tiny.VERSION, sys.prefix)") == f"1.0 {made.location}"
    assert [line.split()[0] for line in told[:2]] == ["making", "installing"]
    assert "complete: 1 packages" in told[-1]


def test_complete_environment_needs_nothing_else(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found again without uv, without pip, without starting any process, in any spelling and order."""
    write_wheel(wheels, "other", "1", "")
    made = managed("tiny", ["tiny==1.0", "other"])

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("gone")

    monkeypatch.setattr("uv.find_uv_bin", refuse)
    monkeypatch.setattr(subprocess, "run", refuse)
    told: list[str] = []
    assert managed("tiny", ["other", "tiny == 1.0"], progress=told.append) == replace(made, made=False)
    assert told == []


@pytest.mark.usefixtures("wheels")
def test_missing_release_is_told() -> None:
    """The message names the release and repeats uv; nothing stays behind."""
    with pytest.raises(EnvironmentUnavailable, match=r"No such release; not installed: tiny==9\.0") as caught:
        managed("tiny", ["tiny==9.0"])
    assert "no version of tiny==9.0" in caught.value.got
    assert entries() == []


def test_cache_that_cannot_be_written_is_told(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be stops even the administrator."""
    file = wheels / "file"
    file.touch()
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(file))
    with pytest.raises(EnvironmentUnavailable, match="cannot be written") as caught:
        managed("tiny", ["tiny==1.0"])
    assert "RNN_CONFORMANCE_CACHE" in caught.value.hint


@pytest.mark.usefixtures("wheels")
def test_waiting_has_an_end() -> None:
    """A lock that is never released ends in a message, and the wait was announced."""
    root = cache_root() / "environments"
    root.mkdir(parents=True)
    told: list[str] = []
    with (
        FileLock(root / f"{environments._key('tiny', ['tiny==1.0'])}.lock"),
        pytest.raises(EnvironmentUnavailable, match="Another process has not finished"),
    ):
        managed("tiny", ["tiny==1.0"], progress=told.append, wait_s=0.1)
    assert [line.split()[0] for line in told] == ["waiting"]


def test_vanished_source_is_told(wheels: Path) -> None:
    """A wheel that went away between naming and use has its message."""
    wheel = write_wheel(wheels, "tiny", "3.0", "")
    lines = requirements_for(["tiny"], distribution="tiny", source=wheel)
    wheel.unlink()
    with pytest.raises(EnvironmentUnavailable, match="cannot be read"):
        managed("tiny", lines)


@pytest.mark.usefixtures("wheels")
def test_listing_tells_what_came() -> None:
    """Each complete environment is listed with its request, its packages and its size."""
    assert list_environments() == []
    made = managed("tiny", ["tiny"])
    (listed,) = list_environments()
    assert (listed.name, listed.requirements, listed.packages) == ("tiny", ("tiny",), {"tiny": "2.0"})
    assert listed.path == made.location
    assert listed.python == ".".join(map(str, sys.version_info[:3]))
    assert listed.created <= listed.used
    assert listed.bytes > 1000
    assert json.loads((listed.path / "complete.json").read_text())["packages"] == {"tiny": "2.0"}


@pytest.mark.usefixtures("wheels")
def test_pruning_by_name_and_by_use() -> None:
    """Only what is named, or what was not used for so long, is removed; then everything is."""
    for name in ("a", "b", "c"):
        folder = cache_root() / "environments" / f"{name}-1"
        folder.mkdir(parents=True)
        facts = {"name": name, "requirements": ["tiny"], "packages": {}, "python": "3.11.0", "created": "2025-01-01"}
        (folder / "complete.json").write_text(json.dumps(facts))
    stale, fresh = (programs_folder() / name / "a-cache.0" for name in ("stale", "fresh"))
    for program in (stale, fresh):
        program.parent.mkdir(parents=True)
        program.write_bytes(b"code")
    os.utime(stale.parent, (1, 1))
    assert [one.name for one in prune(["b"])] == ["b"]
    assert (stale.exists(), fresh.exists()) == (True, True), "only one environment was to go"
    (old,) = (one for one in list_environments() if one.name == "a")
    os.utime(old.path / "complete.json", (time.time() - 7200,) * 2)
    assert [one.name for one in prune(unused_for=timedelta(hours=1))] == ["a"]
    assert (stale.exists(), fresh.exists()) == (False, True), "the programs of a toolchain that nothing has used since"
    assert [one.name for one in prune()] == ["c"]
    assert not fresh.exists()
    assert entries() == []


@pytest.mark.usefixtures("wheels")
def test_use_is_noted() -> None:
    """Handing an environment out protects it from being pruned as unused."""
    made = managed("tiny", ["tiny"])
    assert made.location is not None
    os.utime(made.location / "complete.json", (0, 0))
    managed("tiny", ["tiny"])
    assert prune(unused_for=timedelta(hours=1)) == []


@pytest.mark.usefixtures("wheels")
def test_pruning_leaves_what_another_process_makes() -> None:
    """Partial folders and folders without facts go when they are stale, and stay while their lock is held."""
    root = cache_root() / "environments"
    for name in ("busy-1.x.partial", "stale-1.x.partial", "broken-1"):
        (root / name).mkdir(parents=True)
    with FileLock(root / "busy-1.lock"):
        assert prune() == []
        assert entries() == ["busy-1.x.partial"]
    prune()
    assert entries() == []


@pytest.mark.usefixtures("wheels")
def test_environment_without_its_interpreter_is_remade() -> None:
    """When the base interpreter went away, the environment does not count as complete."""
    made = managed("tiny", ["tiny==1.0"])
    made.python.unlink()
    made.python.symlink_to(made.python.with_name("gone"))
    assert run(managed("tiny", ["tiny==1.0"]), "import tiny; print(tiny.VERSION)") == "1.0"


@pytest.mark.usefixtures("wheels")
def test_pip_prints_what_its_stand_in_prints() -> None:
    """The other tests may go without pip, because it would say the same."""
    assert pip_settings(ask_pip()) == pip_settings(settings_in_variables()) != PipSettings()


@pytest.mark.usefixtures("wheels")
def test_killed_build_is_cleared_and_repeated() -> None:
    """A process killed halfway leaves a partial folder: no environment, and gone at the next call."""
    code = (
        "import os, signal; from conformance import installer; from conformance.environments import managed\n"
        "installer._pip_config = str\n"
        "def die(line):\n"
        "    if line.startswith('installing'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "managed('tiny', ['tiny==1.0'], progress=die)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (left,) = entries()
    assert left.endswith(".partial")
    assert list_environments() == []
    made = managed("tiny", ["tiny==1.0"])
    assert run(made, "import tiny; print(tiny.VERSION)") == "1.0"
    assert made.location is not None
    assert entries() == [made.location.name]


@pytest.mark.usefixtures("wheels")
def test_two_processes_make_one_environment() -> None:
    """Another process that asks while we make the environment says so, waits, uses ours, and knows that it is ours."""
    code = (
        "import functools; from conformance.environments import managed\n"
        "tell = functools.partial(print, flush=True)\n"
        "found = managed('tiny', ['tiny==1.0'], progress=tell)\n"
        "tell('got', found.location, found.made)"
    )
    asking: list[subprocess.Popen[str]] = []
    said: list[str] = []

    def progress(line: str) -> None:
        if line.startswith("installing"):
            asking.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
            assert asking[0].stdout is not None
            said.append(asking[0].stdout.readline())

    ours = managed("tiny", ["tiny==1.0"], progress=progress)
    location = ours.location
    assert location is not None
    assert ours.made
    said += asking[0].communicate(timeout=20)[0].splitlines()
    assert said == [f"waiting for another process that is making {location.name}\n", f"got {location} False"]
    assert entries() == [location.name]


def test_changed_wheel_makes_another_environment(wheels: Path) -> None:
    """A wheel rebuilt under its old name is not taken for the old one, by us or by uv."""

    def built(body: str) -> Interpreter:
        wheel = write_wheel(wheels, "tiny", "3.0", body)
        return managed("tiny", requirements_for(["tiny==1.0"], distribution="tiny", source=wheel))

    first, second = built("VERSION = 'first'"), built("VERSION = 'second'")
    assert run(first, "import tiny; print(tiny.VERSION)") == "first"
    assert run(second, "import tiny; print(tiny.VERSION)") == "second"


@pytest.mark.parametrize(("ignored", "product"), [(None, "build/made"), ("*.gen", "made.gen")], ids=["plain", "git"])
@pytest.mark.usefixtures("wheels")
def test_checkout_is_rebuilt_when_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: str | None, product: str
) -> None:
    """An unchanged checkout is reused although its build wrote into it; an edited one is built anew."""
    checkout = write_checkout(tmp_path / "tiny", "VERSION = 'before'", product=product)
    if ignored is not None:
        (checkout / ".gitignore").write_text(ignored)
        subprocess.run(["git", "init", "--quiet", str(checkout)], check=True)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # the build shall write what builds write
    lines = requirements_for(["tiny==1.0"], distribution="tiny", source=checkout)
    before = managed("tiny", lines)
    assert (checkout / product).exists()
    assert (checkout / "__pycache__").exists()
    assert managed("tiny", lines) == replace(before, made=False)
    (checkout / "src" / "tiny.py").write_text("VERSION = 'after edit'")
    after = managed("tiny", lines)
    assert run(before, "import tiny; print(tiny.VERSION)") == "before"
    assert run(after, "import tiny; print(tiny.VERSION)") == "after edit"
