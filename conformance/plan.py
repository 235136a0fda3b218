"""The plan: which candidate is tried on which requirement in which dtype, and what is declared out beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import requires
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from packaging.requirements import Requirement as PackageRequirement
from packaging.utils import canonicalize_name

from conformance.candidate import Adapter, Declared, Spec, Variant
from conformance.case import Initial
from conformance.discover import variants_of
from conformance.environments import (
    Interpreter,
    Progress,
    current,
    from_path,
    installed_version,
    managed,
)
from conformance.errors import EnvironmentUnavailable, SpecError
from conformance.pins import requirements_for
from conformance.requirement import Requirement
from conformance.rounding import DTYPES
from conformance.verdict import Unrepresentable, Unsupported

ANY_DTYPE: Final = "any"
DISTRIBUTION: Final = "rnn-conformance"


class Candidate(Struct, frozen=True, kw_only=True):
    """What is put under test; `spec` names its variant."""

    spec: Spec
    adapter: Adapter
    variant: Variant

    @property
    def name(self) -> str:
        """The candidate's name in records and reports."""
        return str(self.spec)


class Group(Struct, frozen=True, kw_only=True):
    """All trials of one candidate, requirement and dtype.

    zeroed: parameters held at zero because the candidate has no place for them; `unrepresentable` says so.
    unsupported: the group is declared out; it has no trials.
    """

    candidate: Candidate
    requirement: Requirement
    dtype: str
    zeroed: tuple[str, ...] = ()
    unrepresentable: Unrepresentable | None = None
    unsupported: Unsupported | None = None


def slug(group: Group) -> str:
    """A file name for a group."""
    text = f"{group.candidate.name}-{group.requirement.name}-{group.dtype}"
    return "".join(c if c.isalnum() or c in "-._=" else "_" for c in text)


def candidates_for(adapters: Mapping[str, Adapter], specs: Sequence[Spec]) -> tuple[Candidate, ...]:
    """The candidates that specs name; without specs every default variant of every adapter.

    Raises
    ------
    SpecError: unknown adapter or variant, or a candidate named twice.
    """
    wanted = list(specs) or [Spec(adapter=name) for name, a in adapters.items() if _has_default(a)]
    result: dict[str, Candidate] = {}
    for spec in wanted:
        for adapter, variant in variants_of(adapters, spec):
            exact = replace(spec, adapter=adapter.name, variant=variant.name)
            if str(exact) in result:
                raise SpecError("a candidate is named twice", got=str(exact))
            result[str(exact)] = Candidate(spec=exact, adapter=adapter, variant=variant)
    return tuple(result.values())


def beside(adapters: Mapping[str, Adapter]) -> list[Spec]:
    """The adapters whose framework is installed beside the harness.

    A framework that the harness itself depends on (NumPy) is always there and does not count: it is not what
    somebody who runs the suite after an upgrade wants to hear about.
    """
    own = {canonicalize_name(PackageRequirement(line).name) for line in requires(DISTRIBUTION) or ()}
    return [
        Spec(adapter=name)
        for name, adapter in adapters.items()
        if canonicalize_name(adapter.distribution) not in own and installed_version(adapter.distribution) is not None
    ]


def _has_default(adapter: Adapter) -> bool:
    return any(variant.default for variant in adapter.variants.values())


def interpreter_of(candidate: Candidate, progress: Progress) -> Interpreter:
    """The interpreter of a candidate's worker; makes its managed environment if there is none.

    No version and no path means the release installed beside the harness, else the pinned managed one.

    Raises
    ------
    EnvironmentUnavailable: the environment cannot be made, the path is no interpreter, or nothing is installed here.
    SpecError: a version is asked of an adapter without requirements.
    """
    adapter, spec = candidate.adapter, candidate.spec
    if spec.here:
        if adapter.requirements and installed_version(adapter.distribution) is None:
            raise EnvironmentUnavailable(
                f"{adapter.distribution} is not installed beside the harness",
                where=str(spec),
                hint=f"install it here, or name a release: {adapter.name}==VERSION",
            )
        return current()
    if spec.path is not None and not _is_source(spec):
        return from_path(spec.path)
    unpinned = spec.version is None and spec.path is None
    # An adapter without requirements has nothing to install: it runs in the harness's interpreter.
    if unpinned and (not adapter.requirements or installed_version(adapter.distribution) is not None):
        return current()
    lines = requirements_for(
        adapter.requirements, distribution=adapter.distribution, version=spec.version, source=spec.path
    )
    # Named after the framework: adapters of one framework with the same requirements share an environment.
    release_of = "" if spec.version is None else adapter.distribution
    pinned = requirements_for(adapter.requirements, distribution=adapter.distribution)
    return managed(adapter.distribution, lines, release_of=release_of, pinned=pinned, progress=progress)


def _is_source(spec: Spec) -> bool:
    path = spec.path
    if path is None:
        return False
    return path.suffix == ".whl" or (path / "pyproject.toml").is_file() or (path / "setup.py").is_file()


def plan(
    candidates: Iterable[Candidate], requirements: Sequence[Requirement], dtypes: Sequence[str] = ()
) -> tuple[Group, ...]:
    """The groups to run, in an order that gives the quickest answers first.

    dtypes: restricts to these; by default every dtype that a variant declares.
    """
    groups: list[Group] = []
    for candidate in candidates:
        variant = candidate.variant
        own: list[Group] = []
        for requirement in requirements:
            if requirement.cell in variant.cells:
                own.extend(_groups(candidate, requirement, dtypes))
        if not own:
            cells = ", ".join(variant.cells)
            out = Unsupported(
                what=f"cell {requirements[0].cell}",
                owner="ours",
                reason=f"the adapter offers the cells {cells}",
            )
            own.append(Group(candidate=candidate, requirement=requirements[0], dtype=ANY_DTYPE, unsupported=out))
        groups.extend(own)
    return tuple(groups)


def _groups(candidate: Candidate, requirement: Requirement, dtypes: Sequence[str]) -> list[Group]:
    variant = candidate.variant
    lacking = [feature for feature in requirement.features if not variant.offers(feature)]
    if lacking:
        # What a framework could be expected to offer is declared out; what it has no notion of is not asked.
        declared = next((name for name in lacking if name in variant.unsupported), None)
        if declared is None:
            return []
        return [_unsupported(candidate, requirement, ANY_DTYPE, _declared_out(declared, variant.unsupported[declared]))]
    if not _spellings(requirement) <= variant.paths.keys():
        if not requirement.against_reference:
            return []
        out = _declared_out(f"initial state {requirement.initial}", variant.unsupported.get(requirement.initial))
        return [_unsupported(candidate, requirement, ANY_DTYPE, out)]
    groups: list[Group] = []
    asked = [name for name in requirement.dtypes if name in variant.dtypes]
    for dtype in dtypes or asked or (*variant.dtypes, *(name for name in variant.unsupported if name in DTYPES)):
        if dtype not in variant.dtypes:
            out = _declared_out(f"dtype {dtype}", variant.unsupported.get(dtype))
            groups.append(_unsupported(candidate, requirement, dtype, out))
            continue
        missing = variant.missing.get(requirement.cell)
        if missing is None:
            groups.append(Group(candidate=candidate, requirement=requirement, dtype=dtype))
            continue
        parameters, why = missing
        unrepresentable = Unrepresentable(parameters=parameters, owner=why.owner, reason=why.reason, link=why.link)
        groups.append(
            Group(
                candidate=candidate,
                requirement=requirement,
                dtype=dtype,
                zeroed=parameters,
                unrepresentable=unrepresentable,
            )
        )
    return groups


def _spellings(requirement: Requirement) -> frozenset[Initial]:
    """The spellings of the initial state that a requirement uses."""
    if requirement.relation == "omitted_is_zeros":
        return frozenset((requirement.initial, "zeros"))
    return frozenset((requirement.initial,))


def _unsupported(candidate: Candidate, requirement: Requirement, dtype: str, out: Unsupported) -> Group:
    return Group(candidate=candidate, requirement=requirement, dtype=dtype, unsupported=out)


def _declared_out(what: str, declared: Declared | None) -> Unsupported:
    if declared is None:
        return Unsupported(what=what, owner="never", reason="the variant does not offer it")
    return Unsupported(what=what, owner=declared.owner, reason=declared.reason, link=declared.link)
