"""Interpreters in which frameworks live: found beside the harness, made on demand, or named by a path.

Releases of one framework exclude each other, and the harness must not depend on any of them. So each
release gets a virtual environment of its own, made by uv and kept in the user's cache. What holds,
whatever happens:

- A managed environment is complete or absent. It is built in a ``*.partial`` folder, its facts file is
  written last, and only then does it get its name. A build that was killed leaves a partial folder, which
  the next build of the same environment clears, or `prune`.
- One process builds, under a lock per environment; others wait, for a limited time and not in silence.
- Same requirements, same Python, same platform, same local sources: same environment. Once complete, it
  is used without network, without pip and without uv.
- Distributions come from where pip would take them (see `installer`).
- What goes wrong is an `EnvironmentUnavailable` that says what to do.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
import platformdirs
from msgspec import Struct
from msgspec.structs import replace
from packaging.requirements import Requirement

from conformance import installer
from conformance.errors import EnvironmentUnavailable, SpecError
from conformance.pins import parse_requirement
from conformance.resolution import resolved

CACHE_VARIABLE: Final = "RNN_CONFORMANCE_CACHE"
PROGRAMS_VARIABLE: Final = "RNN_CONFORMANCE_PROGRAMS"
OLDEST_PYTHON: Final = (3, 11)

_FACTS: Final = "complete.json"
_LAYOUT: Final = 1  # part of every key: a harness that lays environments out differently does not meet ours
_WAIT_S: Final = 15 * 60.0
_PROBE_S: Final = 60.0

# What an interpreter tells about itself. The last line is the answer: a site's start-up code may print, too.
_PROBE: Final = """
import json, sys
packages = {}
if sys.version_info >= (3, 8):
    from importlib.metadata import distributions
    packages = {found.metadata["Name"]: found.version for found in distributions() if found.metadata["Name"]}
print(json.dumps({"python": list(sys.version_info[:3]), "packages": packages}))
"""

Progress = installer.Progress


def _silent(line: str) -> None:
    """Report progress to nobody."""


class Interpreter(Struct, frozen=True, kw_only=True):
    """What a worker is started with.

    Attributes
    ----------
    python: absolute path of the interpreter, symlinks unresolved (what a virtual environment's ``python``
        points to is the base interpreter, which does not see the environment's packages).
    kind: beside the harness, in a managed environment, or named by the user.
    label: the same for human readers.
    location: folder of the managed environment.
    makeshift: it is of one release, whose companions are not known to be of its time: that it does not start there
        tells nothing about the release.
    made: this very call has made it, and did not find it.
    """

    python: Path
    kind: Literal["current", "managed", "path"]
    label: str
    location: Path | None = None
    makeshift: bool = False
    made: bool = False


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the facts file of a complete environment says."""

    name: str
    requirements: tuple[str, ...]
    packages: dict[str, str]
    python: str
    created: str
    until: str = ""


class Managed(_Facts, frozen=True, kw_only=True):
    """A complete managed environment, as ``env list`` shows it.

    Attributes
    ----------
    key: folder name, unique; name: the readable part that it was asked for by.
    requirements: what was asked for; packages: distribution -> version, what came.
    python: version of its interpreter.
    until: nothing newer was taken, ISO 8601; "" where the newest that fit were.
    created, used: ISO 8601, UTC; when it was made, and when it was last handed out.
    bytes: apparent size; files may share their blocks with uv's cache.
    path: its folder.
    """

    key: str
    used: str
    bytes: int
    path: Path


# --- Found beside the harness, or named by a path ---


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution installed beside the harness, or None; import nothing of it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def current() -> Interpreter:
    """Return the interpreter that the harness itself runs in."""
    return Interpreter(python=Path(sys.executable).absolute(), kind="current", label="installed beside the harness")


def from_path(path: Path) -> Interpreter:
    """Return the interpreter that the user named: its file, or the folder of its virtual environment.

    Wheels and checkouts are not interpreters: give them to `requirements_for` and `managed`.

    Raises
    ------
    EnvironmentUnavailable: nothing is there, it is not a Python, or one too old to run a worker.
    """
    path = path.expanduser().absolute()
    python = _python_in(path) if path.is_dir() else path
    wanted = f"a Python {_dotted(OLDEST_PYTHON)} or newer, or the folder of a virtual environment"
    if not python.exists():
        what = "no interpreter there" if path.is_dir() else "no such file or folder"
        raise EnvironmentUnavailable(f"{path.name}: {what}", where=str(python), wanted=wanted)
    version, _ = _probe(python, f"{path.name} is not a Python that works", wanted=wanted)
    if version < OLDEST_PYTHON:
        what, got = f"{path.name} is too old to run a worker", f"Python {_dotted(version)}"
        raise EnvironmentUnavailable(what, where=str(python), got=got, wanted=wanted)
    return Interpreter(python=python, kind="path", label=f"interpreter {python}")


def _probe(python: Path, otherwise: str, *, wanted: str = "") -> tuple[tuple[int, ...], dict[str, str]]:
    """Ask an interpreter for its version and the distributions that it sees; raise what `otherwise` says."""
    command = [str(python), "-I", "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PROBE_S, check=False)
        out = done.stdout.decode("utf-8", "replace").strip()
        answer = json.loads(out.rpartition("\n")[2])
        return tuple(map(int, answer["python"])), {str(k): str(v) for k, v in answer["packages"].items()}
    except OSError as error:
        got = error.strerror or str(error)
    except subprocess.TimeoutExpired:
        got = f"no answer within {_PROBE_S:.0f} s"
    except (ValueError, TypeError, KeyError, AttributeError):
        said = done.stderr.decode("utf-8", "replace") or out
        got = f"exit code {done.returncode}\n{installer.tail(said)}".strip()
    raise EnvironmentUnavailable(otherwise, where=str(python), got=got, wanted=wanted)


def _python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


# --- Managed environments ---


def cache_root() -> Path:
    """Return the folder of what is kept for this user: ``$RNN_CONFORMANCE_CACHE``, or the platform's own."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("rnn-conformance")


def managed(
    name: str,
    requirements: Sequence[str],
    *,
    release_of: str = "",
    pinned: Sequence[str] = (),
    progress: Progress = _silent,
    wait_s: float = _WAIT_S,
) -> Interpreter:
    """Find the environment of these requirements, or make it.

    Local sources among them count by content: a wheel by its digest, a checkout by the names, sizes and
    times of its files, so that an edited checkout is built anew.

    Parameters
    ----------
    name: readable part of the environment's folder name.
    requirements: as `requirements_for` returns them; their order does not matter.
    release_of: the distribution of which one release was asked for, perhaps an old one: it gets the companions of its
        time, see `resolution`. pinned: requirement lines whose companions are taken where those would bring CUDA.
    progress: told one line per stage; nothing is said when the environment is there already.
    wait_s: how long to wait for another process that is making this environment.

    Raises
    ------
    SpecError: there are no requirements, or one of them cannot be read.
    EnvironmentUnavailable: it is not there and cannot be made: no such release, nothing can be downloaded,
        a source that does not build, uv or pip missing, the cache not writable, or the other process does
        not finish.
    """
    if not requirements:
        raise SpecError(f"No requirements for the environment {name}", wanted="at least the framework itself")
    lines = tuple(sorted({str(parse_requirement(line)) for line in requirements}))
    folder = _folder() / _key(name, lines)
    interpreter = Interpreter(
        python=_python_in(folder), kind="managed", label=f"managed: {', '.join(lines)}", location=folder
    )
    if _complete(folder):
        return _told(interpreter, folder, release_of, made=False)
    with _cache("written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, wait_s=wait_s, progress=progress):
            made = not _complete(folder)
            if made:  # else another process made it while we waited
                _remove(folder)
                _make(folder, name, lines, release_of, pinned, progress)
    return _told(interpreter, folder, release_of, made=made)


def _told(interpreter: Interpreter, folder: Path, release_of: str, *, made: bool) -> Interpreter:
    """What is known of a complete environment only."""
    found = _facts(folder)
    makeshift = bool(release_of) and found is not None and not found[0].until
    return replace(interpreter, makeshift=makeshift, made=made)


def list_environments() -> list[Managed]:
    """Return all complete managed environments, ordered by key.

    Raises
    ------
    EnvironmentUnavailable: the cache cannot be read.
    """
    folders: list[Path] = []
    with _cache("read"), suppress(FileNotFoundError):
        folders = sorted(path for path in _folder().iterdir() if path.suffix != ".partial")
    return [
        Managed(**msgspec.structs.asdict(found[0]), used=found[1], key=folder.name, bytes=_size(folder), path=folder)
        for folder in folders
        if (found := _facts(folder)) is not None
    ]


def prune(
    names: Collection[str] | None = None, *, unused_for: timedelta | None = None, progress: Progress = _silent
) -> list[Managed]:
    """Remove managed environments, and what interrupted builds have left; return those that were removed.

    When all are to go, so do the programs that workers have kept.

    An environment that another process is making is left alone. One that a worker runs in is not protected:
    remove those when nothing runs, or give `unused_for`.

    Parameters
    ----------
    names: names or keys of those to remove; None for all.
    unused_for: remove only what has not been handed out for so long.

    Raises
    ------
    EnvironmentUnavailable: the cache cannot be read or written.
    """
    removed = []
    for found in list_environments():
        unused = datetime.now(UTC) - datetime.fromisoformat(found.used)
        asked_for = names is None or found.name in names or found.key in names
        if asked_for and (unused_for is None or unused >= unused_for):
            with _cache("written"), suppress(EnvironmentUnavailable), _locked(found.path, wait_s=0.0):
                _remove(found.path)
                removed.append(found)
                progress(f"removed {found.key}")
    for folder in sorted({_place(path) for path in _folder().glob("*/")}):
        with _cache("written"), suppress(EnvironmentUnavailable), _locked(folder, wait_s=0.0):
            if not _facts(folder):
                _remove(folder)
            _clear_partials(folder)
    if names is None:
        _prune_programs(unused_for)
    return removed


def programs_folder() -> Path:
    """Return where workers keep what their frameworks have compiled, a folder per toolchain."""
    return cache_root() / "programs"


def _prune_programs(unused_for: timedelta | None) -> None:
    """Remove kept programs; a worker at work notices, and compiles. A folder's time is that of its last use."""
    for folder in programs_folder().glob("*/"):
        with suppress(OSError):
            unused = datetime.now(UTC) - datetime.fromtimestamp(folder.stat().st_mtime, UTC)
            if unused_for is None or unused >= unused_for:
                shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    return cache_root() / "environments"


def _key(name: str, requirements: Sequence[str]) -> str:
    """Readable name and a digest of all that decides what an environment contains."""
    urls = (urlsplit(Requirement(line).url or "") for line in requirements)
    sources = sorted(_source_digest(installer.local_path(url.path)) for url in urls if url.scheme == "file")
    here = (platform.python_version(), sysconfig.get_config_var("SOABI"), sysconfig.get_platform(), platform.machine())
    identity = json.dumps([_LAYOUT, list(requirements), sources, here])
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "environment"
    return f"{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _source_digest(source: Path) -> str:
    try:
        if source.is_dir():
            return hashlib.sha256("\n".join(_checkout_state(source)).encode()).hexdigest()
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        what = f"The source {source.name} cannot be read"
        raise EnvironmentUnavailable(what, where=str(source), got=str(error)) from None


def _checkout_state(checkout: Path) -> Iterator[str]:
    """Name, size and time of each file of a checkout, without what a build writes into it.

    git knows best which files those are. Elsewhere: all but hidden folders and what builds usually make.
    """
    # A git hook that runs the gate points these at its own repository.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        ask = ["git", "-C", str(checkout), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(ask, capture_output=True, stdin=subprocess.DEVNULL, env=inherited, check=True).stdout
        names = {os.fsdecode(name) for name in listed.split(b"\0") if name}
    except (OSError, subprocess.CalledProcessError):
        names = set()
    for name in sorted(names or _walk(checkout)):
        if "__pycache__" in Path(name).parts or ".egg-info" in name:
            continue  # a build's, also where nobody told git to ignore it
        with suppress(FileNotFoundError):  # tracked, but deleted
            facts = (checkout / name).lstat()
            yield f"{name!r} {facts.st_size} {facts.st_mtime_ns}"


def _walk(checkout: Path) -> Iterator[str]:
    made = re.compile(r"\..*|__pycache__|build|dist|.*\.egg-info")
    for folder, folders, files in os.walk(checkout):
        folders[:] = [name for name in folders if not made.fullmatch(name)]
        yield from (str((Path(folder) / name).relative_to(checkout)) for name in files)


def _complete(folder: Path) -> bool:
    """Tell whether an environment can be used, and note that it is: its facts file's time is its last use."""
    if not _facts(folder) or not _python_in(folder).exists():  # its base interpreter may have gone
        return False
    with suppress(OSError):  # somebody else's cache may be used, though not written
        os.utime(folder / _FACTS)
    return True


def _facts(folder: Path) -> tuple[_Facts, str] | None:
    """Return the facts of a complete environment and the time of its last use, None where there is none."""
    path = folder / _FACTS
    try:
        used = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
        return msgspec.json.decode(path.read_bytes(), type=_Facts), used
    except (OSError, ValueError):
        return None


def _size(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):  # workers write and remove bytecode meanwhile
                total += (Path(parent) / name).lstat().st_size
    return total


def _remove(folder: Path) -> None:
    """Take an environment away, in one step for whoever looks. The caller holds its lock."""
    if os.path.lexists(folder):
        folder.replace(_new_partial(folder) / "gone")
    _clear_partials(folder)


def _new_partial(folder: Path) -> Path:
    """Return a new folder to build in.

    Its name is new each time: the uv of a killed build may live on and must not write into the next build.
    """
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))


def _clear_partials(folder: Path) -> None:
    for partial in folder.parent.glob(f"{folder.name}.*.partial"):
        shutil.rmtree(partial, ignore_errors=True)  # what resists goes with the next call


def _place(folder: Path) -> Path:
    """Where an environment is, or would have been when its build had not been interrupted."""
    return folder.with_name(folder.stem.rpartition(".")[0]) if folder.suffix == ".partial" else folder


@contextmanager
def _locked(folder: Path, *, wait_s: float, progress: Progress = _silent) -> Iterator[None]:
    """Hold the lock of one environment; the system frees it when its holder dies."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - nothing is locked where all is there already

    path = folder.with_name(f"{folder.name}.lock")
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(f"waiting for another process that is making {folder.name}")
            lock.acquire(timeout=wait_s, poll_interval=0.1)
    except Timeout:
        raise EnvironmentUnavailable(
            "Another process has not finished making this environment",
            where=str(path),
            got=f"no end within {wait_s:.0f} s",
            hint="see whether another run still downloads or builds; end it if it hangs, and try again",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _cache(verb: str) -> Iterator[None]:
    """Tell what to do when the cache cannot be "read" or "written"."""
    try:
        yield
    except OSError as error:
        raise EnvironmentUnavailable(
            f"The cache of environments cannot be {verb}",
            where=str(_folder()),
            got=str(error),
            wanted="a folder that this user may write, with room for the framework",
            hint=f"set {CACHE_VARIABLE} to another folder",
        ) from None


def _make(
    folder: Path,
    name: str,
    requirements: tuple[str, ...],
    release_of: str,
    pinned: Sequence[str],
    progress: Progress,
) -> None:
    """Build an environment and give it its place. The caller holds its lock."""
    began = time.monotonic()
    progress(f"making {folder.name}")
    partial = _new_partial(folder)
    try:
        uv = installer.find_uv(progress)
        found = resolved(requirements, release_of, pinned=pinned, progress=progress, uv=uv) if release_of else None
        if found is None:
            installer.install(partial, requirements, progress=progress, uv=uv)
        else:
            pins, python = found.pins, found.python
            installer.install(partial, pins, progress=progress, python=python, exactly=True, build=found.built, uv=uv)
        version, packages = _probe(_python_in(partial), "The new environment's interpreter does not work")
        facts = _Facts(
            name=name,
            requirements=requirements,
            packages=dict(sorted(packages.items())),
            python=_dotted(version),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            until="" if found is None else found.until,
        )
        (partial / _FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(facts)))
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress(f"{folder.name} is complete: {len(packages)} packages in {time.monotonic() - began:.1f} s")
