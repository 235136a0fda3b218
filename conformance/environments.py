"""Interpreters in which frameworks live: found beside the harness, made on demand, or named by a path.

Releases of one framework exclude each other, and the harness must not depend on any of them. So each
release gets a virtual environment of its own, made by uv and kept in the user's cache. What holds,
whatever happens:

- A managed environment is complete or absent. It is built in a ``*.partial`` folder, its facts file is
  written last, and only then does it get its name. A build that was killed leaves a partial folder, which
  the next one clears.
- One process builds, under a lock per environment; others wait, for a limited time and not in silence.
- Same requirements, same Python, same platform, same local sources: same environment. Once complete, it
  is used without network, without pip and without uv.
- Distributions come from where pip would take them. uv does not read pip's settings: they are passed on.
- What goes wrong is an `EnvironmentUnavailable` that says what to do.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import platformdirs
from filelock import FileLock, Timeout
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from conformance.errors import EnvironmentUnavailable, SpecError

CACHE_VARIABLE: Final = "RNN_CONFORMANCE_CACHE"
OLDEST_PYTHON: Final = (3, 11)

_FACTS: Final = "complete.json"
_LAYOUT: Final = 1  # part of every key: a harness that lays environments out differently does not meet ours
_WAIT_S: Final = 15 * 60.0
_PROBE_S: Final = 60.0

# What an interpreter tells about itself. The last line is the answer: a site's start-up code may print, too.
_PROBE: Final = """
import json, sys
packages = {}
try:
    from importlib.metadata import distributions
    for found in distributions():
        if found.metadata["Name"]:
            packages.setdefault(found.metadata["Name"], found.version)
except ImportError:
    pass
print(json.dumps({"python": list(sys.version_info[:3]), "packages": packages}))
"""

Progress = Callable[[str], None]


def _silent(line: str) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """What a worker is started with.

    Attributes
    ----------
    python: absolute path of the interpreter, symlinks unresolved (what a virtual environment's ``python``
        points to is the base interpreter, which does not see the environment's packages).
    kind: beside the harness, in a managed environment, or named by the user.
    label: the same for human readers.
    location: folder of the managed environment.
    """

    python: Path
    kind: Literal["current", "managed", "path"]
    label: str
    location: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Managed:
    """A complete managed environment, as ``env list`` shows it.

    Attributes
    ----------
    key: folder name, unique; name: the readable part that it was asked for by.
    requirements: what was asked for; packages: distribution -> version, what came.
    python: version of its interpreter.
    created, used: ISO 8601, UTC; when it was made, and when it was last handed out.
    bytes: apparent size; files may share their blocks with uv's cache.
    path: its folder.
    """

    key: str
    name: str
    requirements: tuple[str, ...]
    packages: Mapping[str, str]
    python: str
    created: str
    used: str
    bytes: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PipSettings:
    """Where pip takes distributions from, as far as uv can be told. Relative paths have become absolute."""

    index: str | None = None
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    trusted_hosts: tuple[str, ...] = ()
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    constraints: tuple[str, ...] = ()
    pre: bool = False
    timeout_s: int | None = None
    retries: int | None = None


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
    try:
        version, _ = _probe(python)
    except _ProbeError as found:
        raise EnvironmentUnavailable(
            f"{path.name} is not a Python that works", where=str(python), got=str(found), wanted=wanted
        ) from None
    if version < OLDEST_PYTHON:
        raise EnvironmentUnavailable(
            f"{path.name} is too old to run a worker",
            where=str(python),
            got=f"Python {_dotted(version)}",
            wanted=wanted,
        )
    return Interpreter(python=python, kind="path", label=f"interpreter {python}")


class _ProbeError(Exception):
    """An interpreter did not answer the probe; the message says how."""


def _probe(python: Path) -> tuple[tuple[int, ...], dict[str, str]]:
    """Ask an interpreter for its version and the distributions that it sees; raise `_ProbeError`."""
    command = [str(python), "-I", "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PROBE_S, check=False)
    except OSError as error:
        raise _ProbeError(error.strerror or str(error)) from None
    except subprocess.TimeoutExpired:
        raise _ProbeError(f"no answer within {_PROBE_S:.0f} s") from None
    out = done.stdout.decode("utf-8", "replace").strip()
    try:
        answer = json.loads(out.rpartition("\n")[2])
        return tuple(map(int, answer["python"])), {str(k): str(v) for k, v in answer["packages"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        said = done.stderr.decode("utf-8", "replace") or out
        raise _ProbeError(f"exit code {done.returncode}\n{_tail(said)}".strip()) from None


def _python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


# --- Requirements ---


def requirements_for(
    lines: Sequence[str], *, distribution: str, version: str | None = None, source: Path | None = None
) -> tuple[str, ...]:
    """Turn an adapter's pinned requirements into those of one candidate.

    With neither `version` nor `source` the pins stay. Otherwise the framework's own requirement is pinned to
    that release, or to that local wheel or checkout, and the ``==`` pins of all others are lifted (bounds,
    extras, markers and URLs stay): they belong to the release that the adapter was written against, and
    another one may need others.

    Parameters
    ----------
    lines: requirements as in a file of pip's, without options; blank lines and comments are dropped.
    distribution: name of the framework's distribution, in any spelling.
    version: a release, exactly.
    source: a ``.whl`` file, or a folder with ``pyproject.toml`` or ``setup.py``.

    Raises
    ------
    SpecError: a line is no requirement; `distribution` is not among them; `version` is no version; `source`
        is no wheel or checkout, or a wheel of something else; both are given.
    """
    if version is not None and source is not None:
        raise SpecError("A version and a local source exclude each other", got=f"version {version}, source {source}")
    own = canonicalize_name(distribution)
    bare = [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]
    parsed = [_requirement(line) for line in bare]
    if not any(canonicalize_name(requirement.name) == own for requirement in parsed):
        raise SpecError(
            f"The requirements do not name {distribution}",
            got=", ".join(bare) or "nothing",
            wanted=distribution,
        )
    if version is None and source is None:
        return tuple(bare)
    pin = "" if version is None else f"=={_version(version, distribution)}"
    url = None if source is None else _source_url(source, own)
    for requirement in parsed:
        if canonicalize_name(requirement.name) == own:
            requirement.specifier, requirement.url = SpecifierSet(pin), url
        else:
            requirement.specifier = _without_pins(requirement.specifier)
    return tuple(map(str, parsed))


def _requirement(line: str) -> Requirement:
    try:
        return Requirement(line)
    except InvalidRequirement as error:
        raise SpecError(
            "Not a requirement",
            got=f"{line}\n{error}",
            wanted="name[extras]==version; markers, without options",
        ) from None


def _version(text: str, distribution: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise SpecError(f"Not a version of {distribution}", got=text, wanted="a release such as 1.2.3") from None


def _source_url(source: Path, own: str) -> str:
    source = source.expanduser().absolute()
    if source.is_dir() and any((source / name).is_file() for name in ("pyproject.toml", "setup.py")):
        return source.as_uri()
    if not (source.is_file() and source.suffix == ".whl"):
        raise SpecError(
            "Not something that can be installed",
            where=str(source),
            got="a folder" if source.is_dir() else "a file" if source.exists() else "nothing there",
            wanted="a wheel, or a folder with pyproject.toml or setup.py",
        )
    try:
        name, *_ = parse_wheel_filename(source.name)
    except InvalidWheelFilename as error:
        raise SpecError(
            "Not the file name of a wheel",
            where=str(source),
            got=str(error),
            hint="a wheel's name says what it fits: keep the one that it was built with",
        ) from None
    if name != own:
        raise SpecError("A wheel of another distribution", where=str(source), got=name, wanted=own)
    return source.as_uri()


def _without_pins(specifiers: SpecifierSet) -> SpecifierSet:
    return SpecifierSet(",".join(str(part) for part in specifiers if part.operator not in ("==", "===")))


# --- Managed environments ---


def cache_root() -> Path:
    """Return the folder of what is kept for this user: ``$RNN_CONFORMANCE_CACHE``, or the platform's own."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("rnn-conformance")


def managed(
    name: str, requirements: Sequence[str], *, progress: Progress = _silent, wait_s: float = _WAIT_S
) -> Interpreter:
    """Find the environment of these requirements, or make it.

    Local sources among them count by content: a wheel by its digest, a checkout by the names, sizes and
    times of its files, so that an edited checkout is built anew.

    Parameters
    ----------
    name: readable part of the environment's folder name.
    requirements: as `requirements_for` returns them; their order does not matter.
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
    parsed = [_requirement(line) for line in requirements]
    lines = tuple(sorted({str(requirement) for requirement in parsed}))
    folder = _folder() / _key(name, lines, parsed)
    interpreter = Interpreter(
        python=_python_in(folder), kind="managed", label=f"managed: {', '.join(lines)}", location=folder
    )
    if _complete(folder):
        return interpreter
    with _writing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, wait_s=wait_s, progress=progress):
            if not _complete(folder):  # else another process made it while we waited
                _remove(folder)
                _make(folder, name=name, requirements=lines, progress=progress)
    return interpreter


def list_environments() -> list[Managed]:
    """Return all complete managed environments, ordered by key.

    Raises
    ------
    EnvironmentUnavailable: the cache cannot be read.
    """
    root = _folder()
    try:
        folders = sorted(path for path in root.iterdir() if path.suffix != ".partial")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _cache_error("read", root, error) from None
    return [
        Managed(
            key=folder.name,
            name=facts.name,
            requirements=facts.requirements,
            packages=facts.packages,
            python=facts.python,
            created=facts.created,
            used=facts.used.isoformat(timespec="seconds"),
            bytes=_size(folder),
            path=folder,
        )
        for folder in folders
        if (facts := _facts(folder)) is not None
    ]


def prune(
    names: Sequence[str] | None = None, *, unused_for: timedelta | None = None, progress: Progress = _silent
) -> list[Managed]:
    """Remove managed environments, and what interrupted builds have left; return those that were removed.

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
    root = _folder()
    now = datetime.now(UTC)
    removed = []
    for environment in list_environments():
        if names is not None and environment.name not in names and environment.key not in names:
            continue
        if unused_for is not None and now - datetime.fromisoformat(environment.used) < unused_for:
            continue
        with _writing(root), suppress(EnvironmentUnavailable), _locked(environment.path, wait_s=0.0):
            _remove(environment.path)
            removed.append(environment)
            progress(f"removed {environment.key}")
    for key in _leftovers(root):
        with _writing(root), suppress(EnvironmentUnavailable), _locked(root / key, wait_s=0.0):
            if _facts(root / key) is None:
                _remove(root / key)
            _clear_partials(root / key)
    return removed


def _folder() -> Path:
    return cache_root() / "environments"


def _key(name: str, lines: Sequence[str], parsed: Sequence[Requirement]) -> str:
    """Readable name and a digest of all that decides what an environment contains."""
    sources = sorted(_source_digest(source) for source in map(_source_of, parsed) if source is not None)
    here = (
        platform.python_version(),
        sysconfig.get_config_var("SOABI"),
        sysconfig.get_platform(),
        platform.machine(),
    )
    identity = json.dumps([_LAYOUT, list(lines), sources, here])
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "environment"
    return f"{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _source_of(requirement: Requirement) -> Path | None:
    parts = urlsplit(requirement.url or "")
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _source_digest(source: Path) -> str:
    try:
        if source.is_dir():
            return hashlib.sha256("\n".join(_checkout_state(source)).encode()).hexdigest()
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise EnvironmentUnavailable(
            f"The source {source.name} cannot be read", where=str(source), got=str(error)
        ) from None


def _checkout_state(checkout: Path) -> Iterator[str]:
    """Name, size and time of each file of a checkout, without what a build writes into it.

    git knows best which files those are. Elsewhere: all but hidden folders and what builds usually make.
    """
    # A git hook that runs the gate points these at its own repository.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        ask = ["git", "-C", str(checkout), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(ask, capture_output=True, stdin=subprocess.DEVNULL, env=inherited, check=True).stdout
        names = sorted({os.fsdecode(name) for name in listed.split(b"\0") if name})
    except (OSError, subprocess.CalledProcessError):
        names = []
    for name in names or sorted(_walk(checkout)):
        try:
            facts = (checkout / name).lstat()
        except FileNotFoundError:  # tracked, but deleted
            continue
        yield f"{name!r} {facts.st_size} {facts.st_mtime_ns}"


def _walk(checkout: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(checkout):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in ("__pycache__", "build", "dist")
            and not name.endswith(".egg-info")
        ]
        yield from (str((Path(folder) / name).relative_to(checkout)) for name in files)


def _complete(folder: Path) -> bool:
    """Tell whether an environment can be used, and note that it is: its facts file's time is its last use."""
    if _facts(folder) is None or not _python_in(folder).exists():  # its base interpreter may have gone
        return False
    with suppress(OSError):  # somebody else's cache may be used, though not written
        os.utime(folder / _FACTS)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What the facts file says, and when the environment was last handed out."""

    name: str
    requirements: tuple[str, ...]
    packages: Mapping[str, str]
    python: str
    created: str
    used: datetime


def _facts(folder: Path) -> _Facts | None:
    """Return the facts of a complete environment, None where there is none."""
    path = folder / _FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        used = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValueError):
        return None
    match facts:
        case {
            "name": str(name),
            "requirements": list(requirements),
            "packages": dict(packages),
            "python": str(python),
            "created": str(created),
        }:
            return _Facts(
                name=name,
                requirements=tuple(map(str, requirements)),
                packages={str(key): str(value) for key, value in packages.items()},
                python=python,
                created=created,
                used=used,
            )
        case _:
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


def _leftovers(root: Path) -> list[str]:
    """Keys of interrupted builds, and of folders whose facts cannot be read."""
    if not root.is_dir():
        return []
    folders = [path for path in root.iterdir() if path.is_dir()]
    partial = {path.name.removesuffix(".partial").rpartition(".")[0] for path in folders if path.suffix == ".partial"}
    broken = {path.name for path in folders if path.suffix != ".partial" and _facts(path) is None}
    return sorted(partial | broken)


@contextmanager
def _locked(folder: Path, *, wait_s: float, progress: Progress = _silent) -> Iterator[None]:
    """Hold the lock of one environment; the system frees it when its holder dies."""
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
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cache_error("written", root, error) from None


def _cache_error(verb: str, root: Path, error: OSError) -> EnvironmentUnavailable:
    return EnvironmentUnavailable(
        f"The cache of environments cannot be {verb}",
        where=str(root),
        got=str(error),
        wanted="a folder that this user may write, with room for the framework",
        hint=f"set {CACHE_VARIABLE} to another folder",
    )


def _make(
    folder: Path,
    *,
    name: str,
    requirements: tuple[str, ...],
    progress: Progress,
) -> None:
    """Build an environment and give it its place. The caller holds its lock."""
    began = time.monotonic()
    uv = _uv()
    settings = _existing(pip_settings(_pip_config()), progress)
    arguments, variables = _for_uv(settings)
    partial = _new_partial(folder)
    try:
        progress(f"making {folder.name}: {', '.join(requirements)}")
        # Relocatable, for the scripts' first lines: the environment is renamed when it is complete.
        create = ["venv", "--no-project", "--relocatable", "--python", sys.executable, str(partial)]
        _run_uv(uv, create, variables, requirements)
        progress(f"installing into {folder.name}")
        install = ["pip", "install", "--python", str(_python_in(partial)), *arguments, *requirements]
        _run_uv(uv, install, variables, requirements)
        try:
            version, packages = _probe(_python_in(partial))
        except _ProbeError as found:
            raise EnvironmentUnavailable(
                "The new environment's interpreter does not work", where=str(folder), got=str(found)
            ) from None
        facts = {
            "name": name,
            "requirements": requirements,
            "packages": dict(sorted(packages.items())),
            "python": _dotted(version),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        (partial / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress(f"{folder.name} is complete: {len(packages)} packages in {time.monotonic() - began:.1f} s")


# --- uv ---


def _uv() -> str:
    try:
        from uv import find_uv_bin  # here: without it, all but the making of environments works

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError) as error:
        raise EnvironmentUnavailable(
            "uv is needed to make an environment, and is missing",
            where=sys.prefix,
            got=str(error),
            hint="pip install uv, beside rnn-conformance",
        ) from None


def _for_uv(settings: PipSettings) -> tuple[list[str], dict[str, str]]:
    """Say pip's settings in uv's words: arguments of ``uv pip install``, and variables for all of uv.

    Indexes go by variable: their URLs may hold passwords, and everybody can read arguments.
    """
    # pip takes the best version that any index has; uv alone would ask the first index that knows the name.
    arguments = ["--index-strategy", "unsafe-best-match"]
    arguments += ["--no-index"] if settings.no_index else []
    arguments += ["--prerelease", "allow"] if settings.pre else []
    for option, values in (
        ("--find-links", settings.find_links),
        ("--allow-insecure-host", settings.trusted_hosts),
        ("--constraints", settings.constraints),
    ):
        arguments += [word for value in values for word in (option, value)]
    cert_is_folder = settings.cert is not None and Path(settings.cert).is_dir()
    variables = {
        "UV_DEFAULT_INDEX": settings.index,
        "UV_INDEX": " ".join(settings.extra_indexes),
        "SSL_CERT_DIR" if cert_is_folder else "SSL_CERT_FILE": settings.cert,
        "SSL_CLIENT_CERT": settings.client_cert,
        "UV_HTTP_TIMEOUT": None if settings.timeout_s is None else str(settings.timeout_s),
        "UV_HTTP_RETRIES": None if settings.retries is None else str(settings.retries),
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), settings.proxy),
    }
    return arguments, {name: value for name, value in variables.items() if value}


def _run_uv(uv: str, arguments: Sequence[str], variables: Mapping[str, str], requirements: Sequence[str]) -> None:
    """Run uv; raise `EnvironmentUnavailable` with what it said."""
    command = [uv, *arguments, "--no-python-downloads", "--no-progress", "--color", "never"]
    # Which interpreter to use is said by argument; these would say otherwise.
    inherited = {name: value for name, value in os.environ.items() if name not in ("UV_PYTHON", "UV_SYSTEM_PYTHON")}
    try:
        done = subprocess.run(
            command,
            # The settings of a project that the user happens to stand in are not ours.
            cwd=Path(uv).anchor,
            env={**inherited, **variables},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except OSError as error:
        raise EnvironmentUnavailable(
            "uv cannot be run", where=uv, got=str(error), hint="reinstall uv, beside rnn-conformance"
        ) from None
    if done.returncode:
        said = _without_passwords(done.stderr.decode("utf-8", "replace"))
        raise _explained(said, requirements, f"exit code {done.returncode}\n{_tail(said)}".strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """A way in which uv fails, told by what it says, in words that a user can act on."""

    signs: tuple[str, ...]
    what: str
    wanted: str = ""
    hint: str = ""


_OFFLINE: Final = _Failure(
    signs=("network was disabled", "network connectivity is disabled"),
    what="uv is told to stay offline, and its cache does not have everything",
    hint="unset UV_OFFLINE, or make the environment while there is a network",
)
_NO_RELEASE: Final = _Failure(
    signs=("no version of", "was not found in", "no wheels with a matching", "incompatible with the current"),
    what="No such release",
    wanted=f"a release for Python {platform.python_version()} on {sysconfig.get_platform()}",
    hint="`pip index versions NAME` lists what there is",
)
# The first that fits counts. A source may fail to build for want of a network: causes come before effects.
_FAILURES: Final = (
    _Failure(
        signs=("no space left", "os error 28"),
        what="The disk is full",
        hint=f"make room, or set {CACHE_VARIABLE} and UV_CACHE_DIR to folders on another disk",
    ),
    _OFFLINE,
    _Failure(
        signs=("certificate",),
        what="Nothing can be downloaded: the server's certificate is not trusted",
        hint="name your site's certificates: pip config set global.cert FILE",
    ),
    _Failure(
        signs=("failed to fetch", "failed to download", "error sending request", "dns error"),
        what="Nothing can be downloaded",
        wanted="an index that answers",
        hint="check the network, and index-url and proxy in `pip config list`; if find-links has everything, "
        "set PIP_NO_INDEX=1; what was made earlier still works",
    ),
    _Failure(
        signs=("failed to build", "build backend", "failed to prepare distributions"),
        what="A source does not build",
        hint="build it by hand to see more, or give a wheel",
    ),
    _NO_RELEASE,
    _Failure(
        signs=("no solution found",),
        what="The requirements exclude each other",
        hint="ask for another release, or change the adapter's pins",
    ),
    _Failure(signs=("",), what="uv failed"),
)


def _explained(said: str, requirements: Sequence[str], got: str) -> EnvironmentUnavailable:
    text = " ".join(said.lower().split())  # older releases of uv wrap their lines
    failure = next(one for one in _FAILURES if any(sign in text for sign in one.signs))
    if failure is _NO_RELEASE and os.environ.get("UV_OFFLINE", "0").lower() not in ("", "0", "false"):
        failure = _OFFLINE  # offline, uv also calls a release missing that it merely has not cached
    what = f"{failure.what}; not installed: {', '.join(requirements)}"
    return EnvironmentUnavailable(what, where="uv", got=got, wanted=failure.wanted, hint=failure.hint)


def _tail(text: str, *, lines: int = 12, characters: int = 1600) -> str:
    kept = "\n".join(text.strip().splitlines()[-lines:])[-characters:]
    return textwrap.indent(kept, "    ").rstrip()


def _without_passwords(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://****@", text)


# --- pip's settings ---


def pip_settings(listing: str) -> PipSettings:
    """Read what ``pip config list`` prints.

    pip's own precedence: variables, then the section of the command (``install``), then ``global``; an empty
    value overrides nothing; of equal keys the last one counts. Lines that are no settings are passed over.

    Raises
    ------
    EnvironmentUnavailable: a value that pip would refuse, too.
    """
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        section, dot, name = key.strip().partition(".")
        if equals and dot and section in found:
            with suppress(ValueError, SyntaxError):
                found[section][name.replace("_", "-").lower()] = str(ast.literal_eval(value.strip()))
    chosen: dict[str, str] = {}
    for values in found.values():
        chosen.update({name: value.strip() for name, value in values.items() if value.strip()})

    def words(name: str) -> tuple[str, ...]:
        return tuple(chosen.get(name, "").split())

    return PipSettings(
        index=chosen.get("index-url") or chosen.get("pypi-url"),
        extra_indexes=words("extra-index-url"),
        find_links=tuple(map(_absolute, words("find-links"))),
        no_index=_yes(chosen, "no-index"),
        trusted_hosts=words("trusted-host"),
        cert=_absolute(chosen["cert"]) if "cert" in chosen else None,
        client_cert=_absolute(chosen["client-cert"]) if "client-cert" in chosen else None,
        proxy=chosen.get("proxy"),
        constraints=tuple(map(_absolute, words("constraint"))),
        pre=_yes(chosen, "pre"),
        timeout_s=_whole(chosen, "timeout", "default-timeout"),
        retries=_whole(chosen, "retries"),
    )


def _absolute(place: str) -> str:
    """Make a path absolute, as uv runs in another folder; leave a URL as it is."""
    is_url = len(urlsplit(place).scheme) > 1  # a single letter is a Windows drive
    return place if is_url else str(Path(place).expanduser().absolute())


def _yes(chosen: Mapping[str, str], name: str) -> bool:
    value = chosen.get(name, "no").lower()
    if value in ("y", "yes", "t", "true", "on", "1"):
        return True
    if value in ("n", "no", "f", "false", "off", "0"):
        return False
    raise _setting_error(name, value, "yes or no")


def _whole(chosen: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        if name in chosen:
            try:
                return math.ceil(float(chosen[name]))
            except (ValueError, OverflowError):
                raise _setting_error(name, chosen[name], "a number") from None
    return None


def _setting_error(name: str, got: str, wanted: str) -> EnvironmentUnavailable:
    return EnvironmentUnavailable(
        f"pip's setting {name} cannot be read", where="pip config list", got=got, wanted=wanted
    )


def _pip_config() -> str:
    """Return what ``pip config list`` prints, with what holds appended where several files disagree."""
    listing = _pip("config", "list")
    values: dict[str, set[str]] = {}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            values.setdefault(key, set()).add(value)
    # Newer releases of pip list every file, ordered by its path and not by its rank.
    settled = (f"{key}={_pip('config', 'get', key).strip()!r}" for key, found in values.items() if len(found) > 1)
    return "\n".join([listing, *settled])


def _pip(*arguments: str) -> str:
    # -P: the folder that the user stands in may hold a pip.py.
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise EnvironmentUnavailable(
            "pip's settings cannot be read, so it is unknown where to download from",
            where=" ".join(command),
            got=f"exit code {done.returncode}\n{_tail(done.stderr.decode('utf-8', 'replace'))}".strip(),
            hint="pip must be installed beside rnn-conformance, and its configuration must be readable",
        )
    return done.stdout.decode("utf-8", "replace")


def _existing(settings: PipSettings, progress: Progress) -> PipSettings:
    """Leave out folders to look in that are not there: pip passes over them with a warning, uv fails."""
    kept = []
    for place in settings.find_links:
        parts = urlsplit(place)
        local = Path(url2pathname(parts.path)) if parts.scheme == "file" else Path(place)
        if (len(parts.scheme) > 1 and parts.scheme != "file") or local.exists():
            kept.append(place)
        else:
            progress(f"pip's find-links names {place}, which is not there: passed over")
    return replace(settings, find_links=tuple(kept))
