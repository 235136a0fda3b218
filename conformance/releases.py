"""Which releases of a distribution there are: asked of the package index by its own clients, and remembered.

pip lists them: it knows the site's mirrors, certificates and find-links, and leaves out what has no wheel for this
Python and platform, and what was yanked. uv tells why one that was named is not among them. What pip said is kept in
the user's cache: it is used again for an hour, and, if nobody can be asked, for as long as there is nothing better,
which is said.
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
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from conformance.environments import cache_root
from conformance.errors import EnvironmentUnavailable, SpecError, Unreachable
from conformance.installer import Progress, Uv, find_uv, index_versions
from conformance.resolution import offered

FRESH: Final = timedelta(hours=1)


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A version list as it is kept, oldest first."""

    fetched: str
    versions: tuple[str, ...]


class Span(Struct, frozen=True, kw_only=True):
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


class Listing(Struct, frozen=True, kw_only=True):
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


def releases(
    distribution: str, span: Span, *, pre: bool = False, also: Sequence[str] = (), progress: Progress
) -> Listing:
    """The releases of a distribution in a range, oldest first, that have a wheel for this Python and platform.

    pre: pre-releases, too (also when an end of the range is one). also: releases to try although pip does not list
        them, because they were yanked or are pre-releases.

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
    inside = {version for version in kept.versions if Version(version) in span} | set(also)
    left_out = {
        str(end): _why_missing(distribution, str(end), progress)
        for end in span.ends
        if str(end) not in kept.versions and str(end) not in also
    }
    if not inside:
        raise SpecError(
            f"no release of {distribution} to try",
            got="; ".join([str(span), *(f"{version}: {why}" for version, why in left_out.items())]),
            wanted=f"releases for this Python and platform; there are {_some(kept.versions) or 'none'}",
        )
    return Listing(versions=tuple(sorted(inside, key=Version)), left_out=left_out)


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
        progress(f"{error.what.partition(';')[0]}: using the list of releases of {kept.fetched}")
        return kept
    # What differs in its local part only (2.13.0, 2.13.0+cpu) is one release.
    found = sorted({Version(Version(version).public) for version in versions})
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return _Kept(fetched=now, versions=tuple(map(str, found)))


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
        offer = offered(find_uv(progress), f"{distribution}=={version}")
    except EnvironmentUnavailable as error:
        cause = re.search(r"cause: (?:Because )?(.*?)(?:, we can conclude.*)?$", error.got, re.MULTILINE)
        return error.what.partition(";")[0] + ("" if cause is None else f": {cause[1]}")
    hint = f"; --also {version} tries it all the same"
    return (f"yanked: {offer.yanked}" if offer.yanked else "not among the releases that pip lists") + hint


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
