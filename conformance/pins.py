"""Pins: which requirement lines the environment of one candidate gets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from conformance.errors import SpecError


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
    parsed = [parse_requirement(line) for line in bare]
    if not any(canonicalize_name(requirement.name) == own for requirement in parsed):
        what = f"The requirements do not name {distribution}"
        raise SpecError(what, got=", ".join(bare) or "nothing", wanted=distribution)
    if version is None and source is None:
        return tuple(bare)
    try:
        pin = "" if version is None else f"=={Version(version)}"
    except InvalidVersion:
        what = f"Not a version of {distribution}"
        raise SpecError(what, got=str(version), wanted="a release such as 1.2.3") from None
    url = None if source is None else _source_url(source, own)
    for requirement in parsed:
        if canonicalize_name(requirement.name) == own:
            requirement.specifier, requirement.url = SpecifierSet(pin), url
        else:
            kept = (str(part) for part in requirement.specifier if part.operator not in ("==", "==="))
            requirement.specifier = SpecifierSet(",".join(kept))
    return tuple(map(str, parsed))


def parse_requirement(line: str, *, where: str = "") -> Requirement:
    """Parse one requirement line; SpecError, naming the file `where` it stands, when it is none."""
    try:
        return Requirement(line)
    except InvalidRequirement as error:
        wanted = "name[extras]==version; markers, without options"
        raise SpecError("Not a requirement", where=where, got=f"{line}\n{error}", wanted=wanted) from None


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
        what, hint = "Not the file name of a wheel", "it says what the wheel fits: keep the one that it was built with"
        raise SpecError(what, where=str(source), got=str(error), hint=hint) from None
    if name != own:
        raise SpecError("A wheel of another distribution", where=str(source), got=name, wanted=own)
    return source.as_uri()
