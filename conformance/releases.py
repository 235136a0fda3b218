"""Which releases of a distribution there are: asked of the package index by its own clients, and remembered.

pip lists them (it knows the site's mirrors, certificates and find-links, and leaves out what has no file for this
Python and platform), uv tells of each whether it was yanked. What they said is kept in the user's cache: it is used
again for an hour, and, if nobody can be asked, for as long as there is nothing better, which is said.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from conformance.environments import cache_root
from conformance.errors import EnvironmentUnavailable, SpecError, Unreachable
from conformance.installer import Progress, Uv, find_uv, index_versions
from conformance.resolution import offered

FRESH: Final = timedelta(hours=1)
_ASKED_AT_ONCE: Final = 4


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A version list as it is kept. yanked: version -> reason, of the versions that were asked about, "" if not."""

    fetched: str
    versions: tuple[str, ...]
    yanked: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A range of releases, as a user names it: both ends count, "" where it is open."""

    first: str
    last: str

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first}..{self.last}"

    def __contains__(self, version: Version) -> bool:
        after = not self.first or Version(self.first) <= version
        return after and (not self.last or version <= Version(self.last))

    @property
    def ends(self) -> tuple[Version, ...]:
        """The ends that were named."""
        return tuple(Version(text) for text in dict.fromkeys((self.first, self.last)) if text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The releases of a range. left_out: version -> why it is not among them."""

    versions: tuple[str, ...]
    left_out: dict[str, str]


def parse_span(text: str) -> Span:
    """Parse ``FIRST..LAST``, ``FIRST..``, ``..LAST`` or one release; SpecError when it is none of them."""
    first, dots, last = (part.strip() for part in text.partition(".."))
    span = Span(first=first, last=last if dots else first)
    try:
        ends = span.ends
    except InvalidVersion as error:
        what = "cannot read the range of releases"
        raise SpecError(what, got=f"{text!r}: {error}", wanted="FIRST..LAST, e.g. 0.26.5..0.32.4") from None
    if not ends or (len(ends) == 2 and ends[0] > ends[1]):
        what = "the range of releases is empty" if ends else "the range of releases has no end"
        raise SpecError(what, got=repr(text), wanted="FIRST..LAST, the older release first, e.g. 0.26.5..0.32.4")
    return span


def releases(distribution: str, span: Span, *, pre: bool = False, yanked: bool = False, progress: Progress) -> Listing:
    """The releases of a distribution in a range, oldest first; those that have a file for this Python and platform.

    pre: pre-releases, too (also when an end of the range is one); yanked: those that were withdrawn, too.

    Raises
    ------
    SpecError: none is left.
    EnvironmentUnavailable: the index cannot be asked, and nothing is remembered.
    """
    pre = pre or any(end.is_prerelease for end in span.ends)
    path = _path(distribution, pre=pre)
    kept = _read(path)
    if kept is None or datetime.now(UTC) - datetime.fromisoformat(kept.fetched) > FRESH:
        kept = _asked(distribution, kept, pre=pre, progress=progress)
        _write(path, kept)
    inside = [version for version in kept.versions if Version(version) in span]
    if not yanked and (unasked := [version for version in inside if version not in kept.yanked]):
        kept = msgspec.structs.replace(kept, yanked=kept.yanked | _yanked(distribution, unasked, progress))
        _write(path, kept)
    left_out = {
        str(end): _why_missing(distribution, str(end), progress) for end in span.ends if str(end) not in kept.versions
    }
    if not yanked:
        left_out |= {version: f"yanked: {why}" for version in inside if (why := kept.yanked.get(version, ""))}
    versions = tuple(version for version in inside if version not in left_out)
    if not versions:
        raise SpecError(
            f"no release of {distribution} to try",
            got=f"{span}; " + "; ".join(f"{version}: {why}" for version, why in left_out.items()),
            wanted=f"releases for this Python and platform; there are {_some(kept.versions)}",
        )
    return Listing(versions=versions, left_out=left_out)


def _some(versions: Sequence[str]) -> str:
    return ", ".join(versions) if len(versions) <= 6 else f"{len(versions)}, {versions[0]} to {versions[-1]}"


def _asked(distribution: str, kept: _Kept | None, *, pre: bool, progress: Progress) -> _Kept:
    """Ask the index; where that fails and an older answer is there, say so and keep it."""
    progress(f"asking the index for the releases of {distribution}")
    try:
        uv = find_uv(progress)
        _reached(uv, distribution)
        versions = index_versions(distribution, pre=pre)
    except EnvironmentUnavailable as error:
        if kept is None:
            raise EnvironmentUnavailable(
                f"The releases of {distribution} cannot be listed, and no earlier list is kept",
                where=error.where,
                got=f"{error.what}\n{error.got}".strip(),
                hint=error.hint,
            ) from None
        progress(f"{error.what}: using the list of releases of {kept.fetched}")
        return kept
    # What differs in its local part only (2.13.0, 2.13.0+cpu) is one release.
    found = sorted({Version(Version(version).public) for version in versions})
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return _Kept(fetched=now, versions=tuple(map(str, found)), yanked={} if kept is None else kept.yanked)


def _reached(uv: Uv, distribution: str) -> None:
    """Raise Unreachable where an index does not answer: pip would pass over it and list what the others have."""
    try:
        offered(uv, distribution, fresh=True)
    except Unreachable:
        raise
    except EnvironmentUnavailable:
        pass  # its newest release may not fit this Python: the index has answered


def _why_missing(distribution: str, version: str, progress: Progress) -> str:
    """Why the index lists no such release for this Python and platform, in one line."""
    try:
        offered(find_uv(progress), f"{distribution}=={version}")
    except EnvironmentUnavailable as error:
        cause = re.search(r"cause: (?:Because )?(.*?)(?:, we can conclude.*)?$", error.got, re.MULTILINE)
        return error.what.partition(";")[0] + ("" if cause is None else f": {cause[1]}")
    return "not among the releases that pip lists for this Python and platform"


def _yanked(distribution: str, versions: Sequence[str], progress: Progress) -> dict[str, str]:
    """Which of these were withdrawn, and why; one about which nothing is to be had is missing from the answer."""
    found: dict[str, str] = {}
    try:
        uv = find_uv(progress)
    except EnvironmentUnavailable as error:
        progress(f"{error.what}: it is unknown which releases were yanked")
        return found

    def ask(version: str) -> tuple[str, str | None]:
        try:
            return version, offered(uv, f"{distribution}=={version}").yanked
        except EnvironmentUnavailable:
            return version, None

    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return {version: why for version, why in pool.map(ask, versions) if why is not None}


# --- What is remembered ---


def _path(distribution: str, *, pre: bool) -> Path:
    """A file per distribution and all that decides what an index answers."""
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith(("PIP_", "UV_")))
    identity = [canonicalize_name(distribution), pre, sys.version, sysconfig.get_platform(), variables]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    return cache_root() / "releases" / f"{re.sub('[^a-z0-9-]', '-', canonicalize_name(distribution))}-{digest}.json"


def _read(path: Path) -> _Kept | None:
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        datetime.fromisoformat(kept.fetched)
        _ = [Version(version) for version in kept.versions]
    except (OSError, ValueError):
        return None  # a list that cannot be read is made anew
    return kept


def _write(path: Path, kept: _Kept) -> None:
    """Keep a list, whole or not at all; a cache that cannot be written costs time only."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
            file.write(msgspec.json.format(msgspec.json.encode(kept)))
        Path(file.name).replace(path)
