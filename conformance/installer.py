"""Virtual environments by uv, of distributions from where pip would take them.

uv makes environments and fills them, fast and with one cache for all of them. But it does not read pip's
settings, in which a site names its mirrors and certificates. So pip is asked for them, and they are passed on in
uv's words. When uv fails, the message says what the user can do, and repeats what uv said.
"""

from __future__ import annotations

import ast
import math
import os
import platform
import re
import subprocess
import sys
import sysconfig
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from conformance.errors import EnvironmentUnavailable, Unreachable

Progress = Callable[[str], None]


class PipSettings(Struct, frozen=True, kw_only=True):
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


class Uv(Struct, frozen=True, kw_only=True):
    """uv, told pip's settings: arguments of its ``pip install`` and ``pip compile``, and variables for all of it."""

    binary: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str]

    def run(
        self, command: Sequence[str], requirements: Sequence[str], *, given: str = "", fresh: bool = False
    ) -> tuple[str, str]:
        """Run uv and return what it said on its two streams.

        given: its standard input; fresh: whether its answers must come from the network, not from its cache.

        Raises
        ------
        EnvironmentUnavailable: it failed, for one of the reasons of `install`.
        """
        variables = {**self.variables, **({"UV_NO_CACHE": "1"} if fresh else {})}
        return _run_uv(self.binary, command, variables, requirements, given)


def find_uv(progress: Progress) -> Uv:
    """Find uv, and tell it pip's settings; EnvironmentUnavailable when one of them is missing or cannot be read."""
    try:
        from uv import find_uv_bin  # noqa: PLC0415 - without uv, all but making environments works

        uv = str(find_uv_bin())
    except (ImportError, FileNotFoundError) as error:
        raise EnvironmentUnavailable(
            "uv is needed to make an environment, and is missing",
            where=sys.prefix,
            got=str(error),
            hint="pip install uv, beside rnn-conformance",
        ) from None
    arguments, variables = _for_uv(_existing(pip_settings(_pip_config()), progress))
    return Uv(binary=uv, arguments=tuple(arguments), variables=variables)


def install(
    folder: Path,
    requirements: Sequence[str],
    *,
    progress: Progress,
    python: Path | None = None,
    exactly: bool = False,
    build: bool = True,
    uv: Uv | None = None,
) -> None:
    """Make a virtual environment in an empty folder, and install into it.

    Its scripts stay usable when the folder is renamed. What a failure leaves in the folder is the caller's.

    python: its base interpreter, by default the harness's own. exactly: the requirements are everything.
    build: whether sources may be built. uv: found already.

    Raises
    ------
    EnvironmentUnavailable: no such release, nothing can be downloaded, a source that does not build, uv or pip
        missing, pip's settings not readable.
    """
    uv = uv or find_uv(progress)
    create = ["venv", "--no-project", "--relocatable", "--python", str(python or sys.executable), str(folder)]
    uv.run(create, requirements)
    progress(f"installing {', '.join(requirements)}")
    limits = [*(["--no-deps"] if exactly else []), *([] if build else ["--no-build"])]
    uv.run(["pip", "install", "--python", str(folder), *limits, *uv.arguments, *requirements], requirements)


def tail(text: str, *, lines: int = 12, characters: int = 1600) -> str:
    """Return the end of what a program said, indented to stand below a message."""
    kept = "\n".join(text.strip().splitlines()[-lines:])[-characters:]
    return textwrap.indent(kept, "    ").rstrip()


# --- uv ---


def _for_uv(settings: PipSettings) -> tuple[list[str], dict[str, str]]:
    """Say pip's settings in uv's words: arguments of ``uv pip install``, and variables for all of uv.

    Indexes go by variable: their URLs may hold passwords, and everybody can read arguments.
    """
    # pip takes the best version that any index has; uv alone would ask the first index that knows the name.
    arguments = ["--index-strategy", "unsafe-best-match"]
    arguments += ["--no-index"] if settings.no_index else []
    arguments += ["--prerelease", "allow"] if settings.pre else []
    arguments += [word for place in settings.find_links for word in ("--find-links", place)]
    arguments += [word for host in settings.trusted_hosts for word in ("--allow-insecure-host", host)]
    arguments += [word for file in settings.constraints for word in ("--constraints", file)]
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


def _run_uv(
    uv: str, arguments: Sequence[str], variables: Mapping[str, str], requirements: Sequence[str], given: str
) -> tuple[str, str]:
    """Run uv and return what it said; raise `EnvironmentUnavailable` with that when it failed."""
    command = [uv, *arguments, "--no-python-downloads", "--no-progress", "--color", "never"]
    # Which interpreter to use is said by argument; these would say otherwise.
    inherited = {name: value for name, value in os.environ.items() if name not in ("UV_PYTHON", "UV_SYSTEM_PYTHON")}
    variables = {**inherited, **variables}
    elsewhere = Path(uv).anchor  # the settings of a project that the user happens to stand in are not ours
    try:
        done = subprocess.run(
            command, cwd=elsewhere, env=variables, capture_output=True, input=given.encode(), check=False
        )
    except OSError as error:
        raise EnvironmentUnavailable(
            "uv cannot be run", where=uv, got=str(error), hint="reinstall uv, beside rnn-conformance"
        ) from None
    if done.returncode:
        said = _without_passwords(done.stderr.decode("utf-8", "replace"))
        raise _explained(said, requirements, f"exit code {done.returncode}\n{tail(said)}".strip())
    return done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def _without_passwords(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://****@", text)


class _Failure(NamedTuple):
    """A way in which uv fails, told by one of the `signs` in what it says, in words that a user can act on."""

    signs: tuple[str, ...]
    what: str
    hint: str = ""
    wanted: str = ""
    kind: type[EnvironmentUnavailable] = EnvironmentUnavailable


_OFFLINE: Final = _Failure(
    ("network was disabled", "network connectivity is disabled"),
    "uv is told to stay offline, and its cache does not have everything",
    "unset UV_OFFLINE, or make the environment while there is a network",
    kind=Unreachable,
)
_NO_RELEASE: Final = _Failure(
    (
        "no version of",
        "no usable wheels",
        "was not found in",
        "no wheels with a matching",
        "incompatible with the current",
    ),
    "No such release",
    "`pip index versions NAME` lists what there is",
    wanted=f"a release for Python {platform.python_version()} on {sysconfig.get_platform()}",
)
# The first that fits counts. A source may fail to build for want of a network: causes come before effects.
_FAILURES: Final = (
    _Failure(
        ("no space left", "os error 28"),
        "The disk is full",
        "make room, or set RNN_CONFORMANCE_CACHE and UV_CACHE_DIR to folders on another disk",
    ),
    _OFFLINE,
    _Failure(
        ("certificate",),
        "Nothing can be downloaded: the server's certificate is not trusted",
        "name your site's certificates: pip config set global.cert FILE",
        kind=Unreachable,
    ),
    _Failure(
        ("failed to fetch", "failed to download", "error sending request", "dns error"),
        "Nothing can be downloaded",
        "check the network, and index-url and proxy in `pip config list`; if find-links has everything, "
        "set PIP_NO_INDEX=1; what was made earlier still works",
        wanted="an index that answers",
        kind=Unreachable,
    ),
    _Failure(
        ("failed to build", "build backend", "failed to prepare distributions"),
        "A source does not build",
        "build it by hand to see more, or give a wheel",
    ),
    _Failure(
        ("the current python version", "the requested python version"),
        "It needs another Python",
        "install that Python where uv finds it (`uv python list --only-installed`), or make an environment yourself "
        "and name it: ADAPTER:VARIANT@PATH",
        wanted=f"a release for Python {platform.python_version()}, or another Python of at least 3.11",
    ),
    _NO_RELEASE,
    _Failure(
        ("no solution found",),
        "The requirements exclude each other",
        "ask for another release, or change the adapter's pins",
    ),
    _Failure(("",), "uv failed"),
)


def _explained(said: str, requirements: Sequence[str], got: str) -> EnvironmentUnavailable:
    text = " ".join(said.lower().split())  # older releases of uv wrap their lines
    failure = next(one for one in _FAILURES if any(sign in text for sign in one.signs))
    if failure is _NO_RELEASE and os.environ.get("UV_OFFLINE", "0").lower() not in ("", "0", "false"):
        failure = _OFFLINE  # offline, uv also calls a release missing that it merely has not cached
    what = f"{failure.what}; not installed: {', '.join(requirements)}"
    return failure.kind(what, where="uv", got=got, wanted=failure.wanted, hint=failure.hint)


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
    chosen = {name: value.strip() for values in found.values() for name, value in values.items() if value.strip()}

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
        timeout_s=_whole(chosen, "timeout" if "timeout" in chosen else "default-timeout"),
        retries=_whole(chosen, "retries"),
    )


def _absolute(place: str) -> str:
    """Make a path absolute, as uv runs in another folder; leave a URL as it is."""
    is_url = len(urlsplit(place).scheme) > 1  # a single letter is a Windows drive
    return place if is_url else str(Path(place).expanduser().absolute())


def _yes(chosen: Mapping[str, str], name: str) -> bool:
    value = chosen.get(name, "no").lower()
    if value in ("y", "yes", "t", "true", "on", "1", "n", "no", "f", "false", "off", "0"):
        return value in ("y", "yes", "t", "true", "on", "1")
    raise _setting_error(name, value, "yes or no")


def _whole(chosen: Mapping[str, str], name: str) -> int | None:
    try:
        return math.ceil(float(chosen[name])) if name in chosen else None
    except (ValueError, OverflowError):
        raise _setting_error(name, chosen[name], "a number") from None


def _setting_error(name: str, got: str, wanted: str) -> EnvironmentUnavailable:
    what = f"pip's setting {name} cannot be read"
    return EnvironmentUnavailable(what, where="pip config list", got=got, wanted=wanted)


def _pip_config() -> str:
    """Return what ``pip config list`` prints, with what holds appended where several files disagree."""
    listing = _pip("config", "list")
    distinct = {line.partition("=")[::2] for line in listing.splitlines()}
    # Newer releases of pip list every file, ordered by its path and not by its rank.
    several = [key for key, count in Counter(key for key, _ in distinct).items() if count > 1]
    settled = (f"{key}={_pip('config', 'get', key).strip()!r}" for key in several)
    return "\n".join([listing, *settled])


def index_versions(distribution: str, *, pre: bool) -> tuple[str, ...]:
    """The versions of which pip knows a wheel for this Python and platform, in no particular order; none is an answer.

    Raises
    ------
    EnvironmentUnavailable: pip is missing, or does not answer in its words.
    """
    words = ["index", "versions", "--only-binary", ":all:", *(["--pre"] if pre else []), distribution]
    done, command = _run_pip(*words)
    out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    if done.returncode and "no matching distribution" in err.lower():
        return ()
    label, found = "available versions:", [line.strip() for line in out.splitlines()]
    lines = [line[len(label) :] for line in found if line.lower().startswith(label)]
    if done.returncode or not lines:
        raise EnvironmentUnavailable(
            f"pip does not list the versions of {distribution}",
            where=" ".join(command),
            got=f"exit code {done.returncode}\n{tail(_without_passwords(err))}".strip(),
            hint="`pip index versions NAME` must work beside rnn-conformance",
        )
    return tuple(version.strip() for version in lines[0].split(",") if version.strip())


def _pip(*arguments: str) -> str:
    done, command = _run_pip(*arguments)
    if done.returncode:
        raise EnvironmentUnavailable(
            "pip's settings cannot be read, so it is unknown where to download from",
            where=" ".join(command),
            got=f"exit code {done.returncode}\n{tail(done.stderr.decode('utf-8', 'replace'))}".strip(),
            hint="pip must be installed beside rnn-conformance, and its configuration must be readable",
        )
    return done.stdout.decode("utf-8", "replace")


def _run_pip(*arguments: str) -> tuple[subprocess.CompletedProcess[bytes], list[str]]:
    # -P: the folder that the user stands in may hold a pip.py.
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False), command


def local_path(path: str) -> Path:
    """The file or folder that the path of a file URL means."""
    from urllib.request import url2pathname  # noqa: PLC0415 - brings a web client along, which few need

    return Path(url2pathname(path))


def _existing(settings: PipSettings, progress: Progress) -> PipSettings:
    """Leave out folders to look in that are not there: pip passes over them with a warning, uv fails."""
    kept = []
    for place in settings.find_links:
        parts = urlsplit(place)
        local = local_path(parts.path) if parts.scheme == "file" else Path(place)
        if (len(parts.scheme) > 1 and parts.scheme != "file") or local.exists():
            kept.append(place)
        else:
            progress(f"pip's find-links names {place}, which is not there: passed over")
    return replace(settings, find_links=tuple(kept))
