"""Candidates: adapter + variant + exact version, and the spec language that names them.

mlx                     every default variant of the adapter, beside the harness or managed
mlx:none                one variant
mlx:none==0.31.1        that release, always in a managed environment
mlx:none@PATH           an interpreter, a virtual environment, a wheel or a checkout
mlx:none@here           the release installed beside the harness, and no other (``@./here`` is a path)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace
from packaging.version import InvalidVersion, Version

from conformance.case import Case, Evaluation, Initial, Padding
from conformance.errors import SpecError
from conformance.rounding import Arithmetic
from conformance.verdict import Owner
from conformance.worker.names import Level, attest


class Declared(Struct, frozen=True, kw_only=True):
    """Something a variant cannot do, declared before the run: what, whose matter it is, why, and a link."""

    owner: Owner
    reason: str
    link: str


class Variant(Struct, frozen=True, kw_only=True):
    """One way in which an adapter runs a framework.

    paths: for every spelling of the initial state that it offers, the paths of which an observation must attest one,
        where ``{layer}`` stands for the framework's name of the cell's layer, from `layers`.
    features: what it offers beyond plain forward runs; padding: what its outputs past a row's length are.
    arithmetic: what it computes in, by dtype, where that is not the dtype throughout.
    evaluation: how it evaluates the recurrence, see `conformance.case.Case`.
    cell_paths: the paths of its cell called step by step, for benchmarks of that level; empty where they are the same.
    environment: variables of its worker's environment, set before anything is imported.
    missing: canonical parameters it has no place for, by cell; cases are run with those at zero.
    unsupported: declared reasons by dtype name, spelling of the initial state, or feature.
    """

    name: str
    title: str
    default: bool
    cells: tuple[str, ...]
    dtypes: tuple[str, ...]
    paths: Mapping[Initial, tuple[str, ...]]
    unbatched: bool
    missing: Mapping[str, tuple[tuple[str, ...], Declared]]
    unsupported: Mapping[str, Declared]
    layers: Mapping[str, str] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    padding: Padding = "zeros"
    arithmetic: Mapping[str, Arithmetic] = field(default_factory=dict)
    evaluation: Evaluation = "sequential"
    environment: Mapping[str, str] = field(default_factory=dict)
    cell_paths: tuple[str, ...] = ()

    def attestable(
        self, cell: str, initial: Initial, features: Sequence[str] = (), *, level: Level = "layer"
    ) -> tuple[str, ...]:
        """The paths of which an observation, or a call that is timed at some level, must attest one."""
        layer = self.layers.get(cell, cell)
        paths = self.cell_paths if level == "cell" and self.cell_paths else self.paths[initial]
        return tuple(attest(path.replace("{layer}", layer), features) for path in paths)

    def declared(self, case: Case) -> Case:
        """The case, to be judged by how the variant declares to compute it."""
        arithmetic = self.arithmetic.get(case.dtype, "")
        if (arithmetic, self.evaluation) == (case.arithmetic, case.evaluation):
            return case
        return replace(case, arithmetic=arithmetic, evaluation=self.evaluation)

    def offers(self, feature: str) -> bool:
        """Whether it offers a feature; unbatched calls are declared apart."""
        return self.unbatched if feature == "unbatched" else feature in self.features


class Adapter(Struct, frozen=True, kw_only=True):
    """A plug-in folder: its manifest as declared in ``adapter.toml``.

    distribution: the framework's distribution, whose installed version names the candidate.
    requirements: pinned requirement lines of its managed environment.
    start_seconds, case_seconds: deadlines of a worker's start and of one case.
    by_path: whether a user named the folder: a command that shows a result again must name it, too.
    shares: folders of other adapters whose modules this one imports as if they were its own.
    """

    name: str
    title: str
    folder: Path
    distribution: str
    requirements: tuple[str, ...]
    variants: Mapping[str, Variant]
    start_seconds: float
    case_seconds: float
    by_path: bool = False
    shares: tuple[Path, ...] = ()


HERE: Final = "here"
_SPEC = re.compile(
    r"(?P<adapter>[A-Za-z0-9][\w-]*)(?::(?P<variant>[\w-]+))?(?:==(?P<version>[^@]+)|@(?P<path>.+))?",
    re.ASCII,
)


class Spec(Struct, frozen=True, kw_only=True):
    """A parsed candidate spec; `variant` is None for "every default variant".

    here: the release installed beside the harness is meant, never a managed one.
    """

    adapter: str
    variant: str | None = None
    version: str | None = None
    path: Path | None = None
    here: bool = False

    def __str__(self) -> str:
        text = self.adapter if self.variant is None else f"{self.adapter}:{self.variant}"
        if self.version is not None:
            return f"{text}=={self.version}"
        if self.here:
            return f"{text}@{HERE}"
        return text if self.path is None else f"{text}@{self.path}"


def parse_spec(text: str) -> Spec:
    """Parse a candidate spec; SpecError when it does not follow the language."""
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise SpecError(
            "cannot read the candidate",
            got=repr(text),
            wanted="ADAPTER[:VARIANT][==VERSION|@PATH|@here], e.g. mlx:none==0.31.1",
        )
    version = match["version"]
    if version is not None:
        try:
            Version(version)
        except InvalidVersion:
            raise SpecError(
                "the candidate's version is no version", where=text, got=repr(version), wanted="e.g. 0.31.1"
            ) from None
    if match["path"] == HERE:
        return Spec(adapter=match["adapter"], variant=match["variant"], here=True)
    path = Path(match["path"]).expanduser() if match["path"] else None
    if path is not None and not path.exists():
        raise SpecError("the candidate's path does not exist", where=text, got=str(path))
    return Spec(adapter=match["adapter"], variant=match["variant"], version=version, path=path)


def named_apart(name: str, source: str) -> str:
    """A candidate's name where the record that it comes from must be told."""
    return f"{name} [{source}]"


def identity(name: str) -> str:
    """``adapter:variant`` of a candidate's name, whatever its release and record: what an upgrade keeps."""
    return re.split(r"==|@| \[", name, maxsplit=1)[0]
