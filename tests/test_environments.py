"""Managed environments: requirements, pip's settings, and real, tiny environments made without a network."""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from conformance import environments
from conformance.environments import (
    Interpreter,
    PipSettings,
    cache_root,
    current,
    from_path,
    installed_version,
    list_environments,
    managed,
    pip_settings,
    prune,
    requirements_for,
)
from conformance.errors import EnvironmentUnavailable, SpecError

PINS = (
    "mlx[cpu]==0.31.1 ; sys_platform == 'linux'",
    "helper[fast]==2.0; python_version >= '3.8'",
    "numpy>=2,<3",
)


ask_pip = environments._pip_config


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


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with `tiny` 1.0 and 2.0, all that pip may see; the caches are empty."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        write_wheel(folder, "tiny", version, f"VERSION = {version!r}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    # What pip prints for variables, without the time that pip takes; processes that tests start ask pip itself.
    monkeypatch.setattr(environments, "_pip_config", settings_in_variables)
    return folder


# --- Requirements ---


def test_pins_stay_when_nothing_is_asked_for() -> None:
    """Without a version or a source, the adapter's own lines are used, less comments and blanks."""
    lines = ["# why", "", "mlx[cpu]==0.31.1  # gate", "numpy>=2"]
    assert requirements_for(lines, distribution="mlx") == ("mlx[cpu]==0.31.1", "numpy>=2")


def test_version_repins_the_framework_and_lifts_other_pins() -> None:
    """Extras, markers and bounds survive; only the pins of others go."""
    assert requirements_for(PINS, distribution="MLX", version="0.30.1") == (
        'mlx[cpu]==0.30.1; sys_platform == "linux"',
        'helper[fast]; python_version >= "3.8"',
        "numpy<3,>=2",
    )


def test_every_line_of_the_framework_is_repinned() -> None:
    """A framework may have one line per platform."""
    lines = ["mlx==1; sys_platform == 'darwin'", "mlx[cpu]==1; sys_platform == 'linux'"]
    assert requirements_for(lines, distribution="mlx", version="2") == (
        'mlx==2; sys_platform == "darwin"',
        'mlx[cpu]==2; sys_platform == "linux"',
    )


def test_source_takes_the_place_of_the_pin(tmp_path: Path) -> None:
    """A local wheel keeps the framework's extras and markers, and becomes a URL, spaces quoted."""
    folder = tmp_path / "my wheels"
    folder.mkdir()
    wheel = write_wheel(folder, "mlx", "9.0", "")
    own, helper, _ = requirements_for(PINS, distribution="mlx", source=wheel)
    assert own == f'mlx[cpu] @ {wheel.as_uri()} ; sys_platform == "linux"'
    assert "my%20wheels" in own
    assert helper == 'helper[fast]; python_version >= "3.8"'


def test_checkout_is_a_source(tmp_path: Path) -> None:
    """A folder with a pyproject.toml can be installed."""
    checkout = write_checkout(tmp_path / "tiny", "")
    assert requirements_for(["tiny==1"], distribution="tiny", source=checkout) == (f"tiny @ {checkout.as_uri()}",)


@pytest.mark.parametrize(
    ("lines", "version", "problem"),
    [
        pytest.param(["numpy"], None, "do not name mlx", id="framework-missing"),
        pytest.param(["mlx==1", "--no-index"], None, "Not a requirement", id="option-line"),
        pytest.param(["mlx==1"], "newest", "Not a version", id="no-version"),
    ],
)
def test_bad_requirements_are_spec_errors(lines: list[str], version: str | None, problem: str) -> None:
    """What cannot be read is the user's to mend."""
    with pytest.raises(SpecError, match=problem):
        requirements_for(lines, distribution="mlx", version=version)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param("absent.whl", "Not something that can be installed", id="absent"),
        pytest.param("notes.txt", "Not something that can be installed", id="no-wheel"),
        pytest.param("mlx.whl", "Not the file name of a wheel", id="renamed-wheel"),
        pytest.param("torch-1.0-py3-none-any.whl", "another distribution", id="other-wheel"),
        pytest.param("folder", "Not something that can be installed", id="no-checkout"),
    ],
)
def test_bad_sources_are_spec_errors(tmp_path: Path, name: str, problem: str) -> None:
    """A source that uv could not use is refused before anything starts."""
    (tmp_path / "folder").mkdir()
    for file in ("notes.txt", "mlx.whl", "torch-1.0-py3-none-any.whl"):
        (tmp_path / file).touch()
    with pytest.raises(SpecError, match=problem):
        requirements_for(["mlx==1"], distribution="mlx", source=tmp_path / name)


def test_version_and_source_exclude_each_other(tmp_path: Path) -> None:
    """Two answers to one question are refused."""
    with pytest.raises(SpecError, match="exclude each other"):
        requirements_for(["mlx"], distribution="mlx", version="1", source=tmp_path)


# --- pip's settings ---


def test_settings_follow_pips_precedence() -> None:
    """Variables beat the command's section, which beats the global one; empty values beat nothing."""
    listing = """\
global.index-url='https://global/simple'
install.index_url='https://install/simple'
global.retries='2'
:env:.retries=''
global.timeout='5'
:env:.timeout='7.5'
download.no-index='yes'
a warning that is no setting
"""
    assert pip_settings(listing) == PipSettings(index="https://install/simple", retries=2, timeout_s=8)


def test_settings_with_several_values_are_split() -> None:
    """Values are separated, as pip does it, by any white space, line breaks included."""
    settings = pip_settings("global.extra-index-url='\\nhttps://a/simple\\nfile:///b'\nglobal.find-links='/x /y'\n")
    assert settings.extra_indexes == ("https://a/simple", "file:///b")
    assert settings.find_links == ("/x", "/y")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's folder is not the one that uv runs in."""
    monkeypatch.chdir(tmp_path)
    settings = pip_settings(":env:.find-links='wheels https://x/wheels'\n:env:.cert='ca.pem'\n")
    assert settings.find_links == (str(tmp_path / "wheels"), "https://x/wheels")
    assert settings.cert == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("line", [":env:.no-index='perhaps'", "global.timeout='soon'"])
def test_unreadable_settings_are_told(line: str) -> None:
    """What pip refuses is refused here, too."""
    with pytest.raises(EnvironmentUnavailable, match="cannot be read"):
        pip_settings(line)


def test_the_higher_ranking_file_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pip lists a key once per file, ordered by path, pip is asked which value holds."""
    said = {
        ("config", "list"): "global.cert='/site.pem'\nglobal.cert='/user.pem'\nglobal.pre='1'\n",
        ("config", "get", "global.cert"): "/site.pem\n",
    }
    monkeypatch.setattr(environments, "_pip", lambda *arguments: said[arguments])
    assert pip_settings(environments._pip_config()) == PipSettings(cert="/site.pem", pre=True)


@pytest.mark.usefixtures("wheels")
def test_pip_prints_what_its_stand_in_prints() -> None:
    """The other tests may go without pip, because it would say the same."""
    assert pip_settings(ask_pip()) == pip_settings(settings_in_variables()) != PipSettings()


def test_settings_reach_uv(tmp_path: Path) -> None:
    """Each setting has its word in uv; URLs, which may hold passwords, are no arguments."""
    arguments, variables = environments._for_uv(
        PipSettings(
            index="https://me:secret@index/simple",
            extra_indexes=("https://a/simple", "https://b/simple"),
            find_links=("/x",),
            no_index=True,
            trusted_hosts=("a",),
            cert=str(tmp_path / "ca.pem"),
            client_cert="/client.pem",
            proxy="http://proxy",
            constraints=("/c.txt",),
            pre=True,
            timeout_s=7,
            retries=0,
        )
    )
    assert " ".join(arguments) == (
        "--index-strategy unsafe-best-match --no-index --prerelease allow "
        "--find-links /x --allow-insecure-host a --constraints /c.txt"
    )
    assert variables == {
        "UV_DEFAULT_INDEX": "https://me:secret@index/simple",
        "UV_INDEX": "https://a/simple https://b/simple",
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        "SSL_CLIENT_CERT": "/client.pem",
        "UV_HTTP_TIMEOUT": "7",
        "UV_HTTP_RETRIES": "0",
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://proxy"),
    }


# --- Failures in words ---


@pytest.mark.parametrize(
    ("said", "what"),
    [
        pytest.param("Because there is no\n   version of tiny==9 and", "No such release", id="release-wrapped"),
        pytest.param("tiny==9 has no wheels with a matching platform tag", "No such release", id="platform"),
        pytest.param("Failed to fetch: `x`\n dns error", "Nothing can be downloaded", id="network"),
        pytest.param("invalid peer certificate: UnknownIssuer", "not trusted", id="certificate"),
        pytest.param("Failed to build `x`\n error sending request", "Nothing can be downloaded", id="build-network"),
        pytest.param("Failed to build `x`\n CMake Error", "does not build", id="build"),
        pytest.param("No solution found: a needs b<1, you require b==2", "exclude each other", id="conflict"),
        pytest.param("No space left on device (os error 28)", "disk is full", id="disk"),
        pytest.param("something new", "uv failed", id="unknown"),
    ],
)
def test_failures_are_told_apart(said: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What uv says becomes what the user can do; the cause counts, not its effect."""
    monkeypatch.delenv("UV_OFFLINE", raising=False)
    error = environments._explained(said, ["tiny==9"], got=said)
    assert what in error.what
    assert "tiny==9" in error.what


def test_offline_is_not_called_a_missing_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stay offline, uv says "no version of" a release that it has not cached."""
    monkeypatch.setenv("UV_OFFLINE", "1")
    error = environments._explained("there is no version of tiny==1.0", ["tiny==1.0"], got="")
    assert "offline" in error.what


def test_passwords_are_not_repeated() -> None:
    """An index's password stays out of messages."""
    assert environments._without_passwords("at https://me:secret@index/x") == "at https://****@index/x"


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


# --- Managed environments ---


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
    assert managed("tiny", ["other", "tiny == 1.0"], progress=told.append) == made
    assert told == []


@pytest.mark.usefixtures("wheels")
def test_environment_without_its_interpreter_is_remade() -> None:
    """When the base interpreter went away, the environment does not count as complete."""
    made = managed("tiny", ["tiny==1.0"])
    made.python.unlink()
    made.python.symlink_to(made.python.with_name("gone"))
    assert run(managed("tiny", ["tiny==1.0"]), "import tiny; print(tiny.VERSION)") == "1.0"


@pytest.mark.usefixtures("wheels")
def test_missing_release_is_told() -> None:
    """The message names the release and repeats uv; nothing stays behind."""
    with pytest.raises(EnvironmentUnavailable, match=r"No such release; not installed: tiny==9\.0") as caught:
        managed("tiny", ["tiny==9.0"])
    assert "no version of tiny==9.0" in caught.value.got
    assert entries() == []


@pytest.mark.usefixtures("wheels")
def test_closed_index_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers, the message is about downloading, not about releases."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(EnvironmentUnavailable, match="Nothing can be downloaded"):
        managed("tiny", ["tiny==1.0"])
    assert entries() == []


def test_find_links_that_are_not_there_are_passed_over(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like pip, we warn and go on; uv would fail."""
    monkeypatch.setenv("PIP_FIND_LINKS", f"{wheels} {wheels / 'gone'}")
    told: list[str] = []
    managed("tiny", ["tiny==1.0"], progress=told.append)
    assert "passed over" in told[0]


@pytest.mark.usefixtures("wheels")
def test_missing_uv_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uv, the message says what to install."""

    def gone() -> str:
        raise FileNotFoundError("no uv in any of these places")

    monkeypatch.setattr("uv.find_uv_bin", gone)
    with pytest.raises(EnvironmentUnavailable, match="uv is needed") as caught:
        managed("tiny", ["tiny==1.0"])
    assert "pip install uv" in caught.value.hint


def test_cache_that_cannot_be_written_is_told(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be stops even the administrator."""
    file = wheels / "file"
    file.touch()
    monkeypatch.setenv("RNN_CONFORMANCE_CACHE", str(file))
    with pytest.raises(EnvironmentUnavailable, match="cannot be written") as caught:
        managed("tiny", ["tiny==1.0"])
    assert "RNN_CONFORMANCE_CACHE" in caught.value.hint


@pytest.mark.usefixtures("wheels")
def test_killed_build_is_cleared_and_repeated() -> None:
    """A process killed halfway leaves a partial folder: no environment, and gone at the next call."""
    code = (
        "import os, signal; from conformance.environments import managed\n"
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
    """Both ask while the lock is held; then one makes it, and the other uses it."""
    location = managed("tiny", ["tiny==1.0"]).location
    assert location is not None
    prune()
    code = (
        "import functools; from conformance.environments import managed\n"
        "tell = functools.partial(print, flush=True)\n"
        "tell('got', managed('tiny', ['tiny==1.0'], progress=tell).location)"
    )
    with FileLock(location.with_name(f"{location.name}.lock")):
        asking = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for process in asking:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("waiting for another process")
    said = [process.communicate(timeout=20)[0].splitlines() for process in asking]
    assert [lines[-1] for lines in said] == [f"got {location}"] * 2
    assert sum(line.startswith("making") for lines in said for line in lines) == 1
    assert entries() == [location.name]


@pytest.mark.usefixtures("wheels")
def test_waiting_has_an_end() -> None:
    """A lock that is never released ends in a message, and the wait was announced."""
    location = managed("tiny", ["tiny==1.0"]).location
    assert location is not None
    prune()
    told: list[str] = []
    with (
        FileLock(location.with_name(f"{location.name}.lock")),
        pytest.raises(EnvironmentUnavailable, match="Another process has not finished"),
    ):
        managed("tiny", ["tiny==1.0"], progress=told.append, wait_s=0.1)
    assert [line.split()[0] for line in told] == ["waiting"]


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
def test_checkout_is_rebuilt_when_edited(tmp_path: Path, ignored: str | None, product: str) -> None:
    """An unchanged checkout is reused although its build wrote into it; an edited one is built anew."""
    checkout = write_checkout(tmp_path / "tiny", "VERSION = 'before'", product=product)
    if ignored is not None:
        (checkout / ".gitignore").write_text(ignored)
        subprocess.run(["git", "init", "--quiet", str(checkout)], check=True)
    lines = requirements_for(["tiny==1.0"], distribution="tiny", source=checkout)
    before = managed("tiny", lines)
    assert (checkout / product).exists()
    assert managed("tiny", lines) == before
    (checkout / "src" / "tiny.py").write_text("VERSION = 'after edit'")
    after = managed("tiny", lines)
    assert run(before, "import tiny; print(tiny.VERSION)") == "before"
    assert run(after, "import tiny; print(tiny.VERSION)") == "after edit"


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
    for name, pin in (("a", "tiny==1.0"), ("b", "tiny==2.0"), ("c", "tiny")):
        managed(name, [pin])
    assert [one.name for one in prune(["b"])] == ["b"]
    (old,) = (one for one in list_environments() if one.name == "a")
    os.utime(old.path / "complete.json", (time.time() - 7200,) * 2)
    assert [one.name for one in prune(unused_for=timedelta(hours=1))] == ["a"]
    assert [one.name for one in prune()] == ["c"]
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
