"""What else goes into the environment of one release: the companions of its time, found without downloading them.

An old release beside today's companions often does not even import: it was written against others, and declared no
upper bounds. So nothing newer than the release itself is taken, where the index tells dates. What holds:

- Everything is decided before anything of size is downloaded, from metadata alone.
- A release that exists as source alone is not built: that takes minutes and compilers, and its result is nobody's
  release. A companion is, where no wheel of its time fits (JAX was pure Python and came as source until 2023).
- No CUDA: what would bring gigabytes of it is refused. Who wants it makes the environment and names it by its path.
- A release that does not support the harness's Python gets another one, if uv finds one that is installed already.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conformance.errors import EnvironmentUnavailable, Unreachable
from conformance.installer import Progress, Uv, find_uv
from conformance.pins import parse_requirement

OLDEST_PYTHON: Final = (3, 11)
# The files of one release, and the distributions that it consists of, come within hours of each other.
GRACE: Final = timedelta(days=2)

_CUDA_NAMES: Final = re.compile(r"(nvidia|cuda)[-_].*|.*[-_]cu1\d", re.IGNORECASE)
# What uv says of a release that is there for no Python at all.
_NOWHERE: Final = "there is no version of"
_WHEELS: Final = ("--no-build",)
# Companions whose build takes a compiler and many minutes.
_SOURCES: Final = ("--only-binary", "numpy", "--only-binary", "scipy")


class Resolution(Struct, frozen=True, kw_only=True):
    """Everything that an environment gets.

    pins: requirement lines, each of one version, dependencies included.
    python: its base interpreter.
    until: nothing newer was taken, ISO 8601; "" where the newest that fit were.
    built: some of it may have to be built from source.
    """

    pins: tuple[str, ...]
    python: Path
    until: str = ""
    built: bool = False


class Offer(Struct, frozen=True, kw_only=True):
    """What an index says of one release. uploaded: None where it tells no dates; yanked: why, "" where it is not."""

    uploaded: datetime | None
    yanked: str


def resolved(
    requirements: Sequence[str],
    distribution: str,
    *,
    pinned: Sequence[str] = (),
    progress: Progress,
    uv: Uv | None = None,
) -> Resolution:
    """Decide what the environment of one release of `distribution` gets; the rest of `requirements` is for all.

    pinned: requirement lines whose companions are taken where those of its time would bring CUDA.

    Raises
    ------
    EnvironmentUnavailable: no such release, none with a wheel for a Python that is installed, requirements that exclude
        each other, CUDA, nothing can be downloaded, uv or pip missing.
    """
    uv = uv or find_uv(progress)
    own = next(line for line in requirements if _names(line, distribution))
    first: EnvironmentUnavailable | None = None
    for python in _pythons(uv):
        try:
            offer = offered(uv, own, python=python)
        except Unreachable:
            raise
        except EnvironmentUnavailable as error:
            if _NOWHERE in error.got:
                raise
            first = first or error
            continue
        if first is not None:
            progress(f"{own} does not support this Python: {python} does")
        found = _companions(uv, requirements, offer, python, progress)
        if _cuda(found.pins):
            found = _pinned(uv, own, distribution, pinned, python, progress) or found
        _without_cuda(found.pins, own)
        return found
    assert first is not None
    raise first


def offered(uv: Uv, requirement: str, *, python: Path | None = None, fresh: bool = False) -> Offer:
    """Ask what an index says of the one release that `requirement` names, for a Python (the harness's own).

    fresh: the answer must come from the network.

    Raises
    ------
    EnvironmentUnavailable: no such release, none with a wheel for this Python, nothing can be downloaded.
    """
    bare = parse_requirement(requirement)
    bare.extras = set()
    command = ["pip", "compile", "-", "--format", "pylock.toml", "--no-deps", *_on(python), "--no-header", "--no-build"]
    out, err = uv.run([*command, *uv.arguments], [requirement], given=str(bare), fresh=fresh)
    packages: list[dict[str, Any]] = []
    with suppress(ValueError):  # told by the assertion below as an answer without the release
        packages = tomllib.loads(out).get("packages", [])
    chosen = [found for found in packages if canonicalize_name(str(found.get("name"))) == canonicalize_name(bare.name)]
    times = [wheel.get("upload-time") for found in chosen for wheel in found.get("wheels", [])]
    dates = [time.astimezone(UTC) for time in times if isinstance(time, datetime)]
    yanked = re.search(r"is yanked(?: \(reason: \"(?P<why>.*)\"\))?", err)
    return Offer(
        uploaded=max(dates, default=None),
        yanked="" if yanked is None else yanked["why"] or "no reason given",
    )


def _companions(uv: Uv, requirements: Sequence[str], offer: Offer, python: Path, progress: Progress) -> Resolution:
    """Companions of the release's time, as wheels or else from source; or else the newest that fit."""
    asked = ", ".join(requirements)
    if offer.uploaded is not None:
        until = (offer.uploaded + GRACE).strftime("%Y-%m-%dT%H:%M:%SZ")
        for how in (_WHEELS, _SOURCES):
            try:
                pins = _pins(uv, requirements, python, [*how, "--exclude-newer", until])
            except Unreachable:
                raise
            except EnvironmentUnavailable:
                continue
            return Resolution(pins=pins, python=python, until=until, built=how is _SOURCES)
        progress(f"{asked}: no companions until {until} fit, taking the newest that do")
    return Resolution(pins=_pins(uv, requirements, python, _WHEELS), python=python)


def _pins(uv: Uv, requirements: Sequence[str], python: Path, limits: Sequence[str]) -> tuple[str, ...]:
    command = ["pip", "compile", "-", *_on(python), "--no-header", "--no-annotate", "--quiet", *limits, *uv.arguments]
    out, _ = uv.run(command, requirements, given="\n".join(requirements))
    lines = (line.strip() for line in out.splitlines())
    return tuple(line for line in lines if line and not line.startswith(("#", "-")))


def _pinned(
    uv: Uv, own: str, distribution: str, pinned: Sequence[str], python: Path, progress: Progress
) -> Resolution | None:
    """The release beside pinned companions, None where they do not fit it, or there are none."""
    others = [line for line in pinned if not _names(line, distribution)]
    if not others:
        return None
    try:
        pins = _pins(uv, [own, *others], python, _WHEELS)
    except Unreachable:
        raise
    except EnvironmentUnavailable:
        return None
    progress(f"{own}: companions of its time would bring CUDA libraries, taking {', '.join(others)}")
    return Resolution(pins=pins, python=python)


def _cuda(pins: Sequence[str]) -> list[str]:
    """The names of what brings CUDA libraries."""
    found = [Requirement(pin) for pin in pins]
    return sorted(one.name for one in found if _CUDA_NAMES.fullmatch(one.name) or "+cu" in str(one.specifier))


def _without_cuda(pins: Sequence[str], own: str) -> None:
    """Refuse what would bring CUDA libraries."""
    if cuda := _cuda(pins):
        raise EnvironmentUnavailable(
            f"It would bring CUDA libraries, gigabytes of them; not installed: {own}",
            where="uv pip compile",
            got=f"{len(cuda)} of {len(pins)} packages: {', '.join(cuda[:4])}, ...",
            wanted="a build for the CPU",
            hint="name a folder or page with CPU builds of this release by pip's find-links (PIP_FIND_LINKS), or make "
            "the environment yourself and name it: ADAPTER:VARIANT@PATH",
        )


def _on(python: Path | None) -> list[str]:
    return ["--python", str(python or sys.executable)]


def _names(line: str, distribution: str) -> bool:
    return canonicalize_name(parse_requirement(line).name) == canonicalize_name(distribution)


def _pythons(uv: Uv) -> Iterator[Path]:
    """The harness's own Python; then, if asked on, others that are installed, one per minor version."""
    yield Path(sys.executable)
    seen = {sys.version_info[:2]}
    listing: list[dict[str, Any]] = []
    with suppress(EnvironmentUnavailable, ValueError):
        listing = json.loads(uv.run(["python", "list", "--only-installed", "--output-format", "json"], [])[0])
    for found in listing:
        parts = found.get("version_parts") or {}
        version = (parts.get("major", 0), parts.get("minor", 0))
        usable = found.get("implementation") == "cpython" and found.get("variant") == "default" and found.get("path")
        if usable and version >= OLDEST_PYTHON and version not in seen:
            seen.add(version)
            yield Path(found["path"])
