"""Finding adapters: the shipped folders, those of installed distributions, and those named by ``--adapter``.

An installed distribution offers adapters through the entry point group ``rnn_conformance.adapters``; the entry
point names a package whose folder holds ``adapter.toml`` and ``adapter.py``. Nothing of an adapter is imported
here: its code runs in its worker only.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from conformance.candidate import Adapter, Declared, Spec, Variant
from conformance.case import Evaluation, Initial, Padding
from conformance.cells import CELLS
from conformance.errors import CaseError, SpecError
from conformance.pins import parse_requirement
from conformance.rounding import Arithmetic, DtypeName, arithmetic_of
from conformance.verdict import Owner

ENTRY_POINTS: Final = "rnn_conformance.adapters"
FAULT_ENTRY_POINTS: Final = "rnn_conformance.faults"
PACKAGE: Final = Path(__file__).resolve().parent


Feature = Literal[
    "lengths",
    "reverse",
    "bidirectional",
    "layers",
    "strided",
    "gradients",
    "negative_state",
    "inputs_back",
    "empty_rows",
    "empty_time",
    "empty_batch",
]

Name = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Text = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[float, Meta(gt=0)]
Variable = Annotated[str, Meta(pattern="^[A-Z][A-Z0-9_]*$")]


class AdapterEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[adapter]`` of a manifest; shares: shipped adapters whose modules it imports as if they were its own."""

    name: Name
    title: Text
    distribution: Text
    start_seconds: Seconds = 180.0
    case_seconds: Seconds = 60.0
    shares: tuple[Name, ...] = ()


class MissingEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of a cell for which a variant has no place."""

    cell: Text
    parameters: Annotated[tuple[str, ...], Meta(min_length=1)]
    owner: Owner
    reason: Text
    link: str


class UnsupportedEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dtype, a spelling of the initial state, or a feature, that a variant does not offer, and why."""

    what: DtypeName | Initial | Feature
    owner: Owner
    reason: Text
    link: str = ""


class VariantEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[variants.NAME]`` of a manifest, after `_inherited` has filled in what ``like`` names."""

    title: Text
    cells: Annotated[tuple[str, ...], Meta(min_length=1)]
    dtypes: Annotated[tuple[DtypeName, ...], Meta(min_length=1)]
    paths: Annotated[dict[Initial, Text | Annotated[tuple[Text, ...], Meta(min_length=1)]], Meta(min_length=1)]
    default: bool = False
    unbatched: bool = True
    missing: tuple[MissingEntry, ...] = ()
    unsupported: tuple[UnsupportedEntry, ...] = ()
    layers: dict[str, Text] = field(default_factory=dict)
    features: tuple[Feature, ...] = ()
    padding: Padding = "zeros"
    arithmetic: dict[DtypeName, Arithmetic] = field(default_factory=dict)
    evaluation: Evaluation = "sequential"
    environment: dict[Variable, str] = field(default_factory=dict)
    cell_path: Text | tuple[Text, ...] = ()


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of ``adapter.toml``."""

    adapter: AdapterEntry
    variants: Annotated[dict[Name, VariantEntry], Meta(min_length=1)]


@cache
def _entry_points() -> Any:  # of another type in every version of Python
    """Those of all distributions: finding them takes longer than everything else that is done here."""
    return entry_points()


def offered(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group, as they were when a process asked first."""
    return tuple(_entry_points().select(group=group))


def load_faults() -> None:
    """Register the faults of installed distributions.

    Each entry point of the group ``rnn_conformance.faults`` names a function without arguments that gives pairs of a
    cell's name and a `conformance.cells.fault.Fault`.

    Raises
    ------
    SpecError: an entry point cannot be loaded, gives something else, or repeats a name.
    """
    points = offered(FAULT_ENTRY_POINTS)
    if not points:
        return
    from conformance.cells.fault import Fault  # noqa: PLC0415 - most have none, and wait for their first answer
    from conformance.faults import catalogue, register  # noqa: PLC0415 - the same

    for point in points:
        try:
            found = list(point.load()())
        except Exception as error:  # whatever a third party's code does, it is told by its name
            text = f"{type(error).__name__}: {error}"
            raise SpecError("cannot load faults", where=f"{FAULT_ENTRY_POINTS}: {point.name}", got=text) from error
        for item in found:
            match item:
                case (str() as cell, Fault() as fault):
                    if catalogue(cell).get(fault.name) is not fault:
                        register(cell, fault)
                case _:
                    raise SpecError(
                        "an entry point gives no fault",
                        where=f"{FAULT_ENTRY_POINTS}: {point.name}",
                        got=str(item)[:80],
                        wanted="pairs of a cell's name and a Fault",
                    )


def data_folder(name: str) -> Path:
    """The folder of shipped data: inside the installed package, or beside it in a checkout.

    name: ``adapters`` or ``fixtures``.
    """
    installed = PACKAGE / f"_{name}"
    return installed if installed.is_dir() else PACKAGE.parent / name


def find_adapters(extra: Iterable[Path] = ()) -> dict[str, Adapter]:
    """All adapters by name.

    extra: folders of further adapters; they may not take the name of another one.

    Raises
    ------
    SpecError: a manifest that is missing or malformed, two adapters with one name.
    """
    folders = [path.parent for path in sorted(data_folder("adapters").glob("*/adapter.toml"))]
    for point in offered(ENTRY_POINTS):
        spec = find_spec(point.value)
        locations = None if spec is None else spec.submodule_search_locations
        if not locations:
            raise SpecError("an entry point names no package", where=f"{ENTRY_POINTS}: {point.name}", got=point.value)
        folders.append(Path(next(iter(locations))))
    found = [read_adapter(folder) for folder in folders]
    found += [replace(read_adapter(path.resolve()), by_path=True) for path in extra]
    adapters: dict[str, Adapter] = {}
    for adapter in found:
        if adapter.name in adapters:
            raise SpecError(
                "two adapters have one name",
                where=str(adapter.folder),
                got=adapter.name,
                wanted=f"a name other than that of {adapters[adapter.name].folder}",
            )
        adapters[adapter.name] = adapter
    return adapters


def read_adapter(folder: Path) -> Adapter:
    """Read a folder's manifest and pinned requirements."""
    manifest = folder / "adapter.toml"
    try:
        raw = tomllib.loads(manifest.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            "cannot read an adapter's manifest",
            where=str(manifest),
            got=error.strerror or str(error),
            hint="an adapter is a folder with adapter.toml and adapter.py",
        ) from None
    except ValueError as error:
        raise SpecError("an adapter's manifest is not TOML", where=str(manifest), got=str(error)) from None
    try:
        data = msgspec.convert({**raw, "variants": _inherited(raw.get("variants"), manifest)}, Manifest)
    except msgspec.ValidationError as error:
        raise SpecError("an adapter's manifest is malformed", where=str(manifest), got=str(error)) from None
    if not (folder / "adapter.py").is_file():
        raise SpecError("an adapter has no adapter.py", where=str(folder))
    head = data.adapter
    return Adapter(
        name=head.name,
        title=head.title,
        folder=folder,
        distribution=head.distribution,
        requirements=_requirements(folder),
        variants={name: _variant(name, entry, manifest) for name, entry in data.variants.items()},
        start_seconds=head.start_seconds,
        case_seconds=head.case_seconds,
        shares=tuple(_shared(name, manifest) for name in head.shares),
    )


def _shared(name: str, manifest: Path) -> Path:
    """The folder of the shipped adapter that a manifest shares modules with."""
    folder = data_folder("adapters") / name
    if not (folder / "adapter.py").is_file():
        raise SpecError(
            "an adapter shares the modules of one that is not shipped",
            where=f"{manifest}, adapter.shares",
            got=name,
            wanted=" | ".join(sorted(path.parent.name for path in folder.parent.glob("*/adapter.toml"))),
        )
    return folder


def _inherited(variants: object, manifest: Path) -> object:
    """The variants' tables, each upon that of the variant it names with ``like``: what it says itself wins.

    Inner tables (paths, layers) are laid upon each other key by key; everything else is replaced. What is said of cells
    that the variant does not offer is not inherited.
    """
    if not isinstance(variants, dict):
        return variants  # msgspec says what is wrong with it

    def table(name: object, seen: tuple[object, ...] = ()) -> object:
        own = variants.get(name)
        if not isinstance(own, dict) or "like" not in own:
            return own
        other = own["like"]
        if other not in variants or other in (*seen, name):
            raise SpecError(
                "a variant is like no other",
                where=f"{manifest}, variants.{name}.like",
                got=repr(other),
                wanted="another variant of this manifest, without going in a circle",
            )
        base = table(other, (*seen, name))
        if not isinstance(base, dict):
            return own
        both = {**base, **{key: value for key, value in own.items() if key != "like"}}
        for key, value in own.items():
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                both[key] = {**base[key], **value}
        return {**both, **_of_cells(base, own)}

    return {name: table(name) for name in variants}


def _of_cells(base: dict[str, object], own: dict[str, object]) -> dict[str, object]:
    """Layers and missing parameters, as a variant with cells of its own takes them over from `base`."""
    cells, layers, missing = own.get("cells"), base.get("layers"), base.get("missing")
    if not isinstance(cells, list):
        return {}
    found: dict[str, object] = {}
    if isinstance(layers, dict):
        said = own.get("layers", {})
        kept = {cell: layer for cell, layer in layers.items() if cell in cells}
        found["layers"] = {**kept, **said} if isinstance(said, dict) else said
    if isinstance(missing, list) and "missing" not in own:
        found["missing"] = [each for each in missing if not isinstance(each, dict) or each.get("cell") in cells]
    return found


def _requirements(folder: Path) -> tuple[str, ...]:
    """The requirements that apply on this machine, without their markers."""
    path = folder / "requirements.txt"
    if not path.is_file():
        return ()
    applicable: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if not text:
            continue
        requirement = parse_requirement(text, where=str(path))
        if requirement.marker is None or requirement.marker.evaluate():
            requirement.marker = None
            applicable.append(str(requirement))
    return tuple(applicable)


def _variant(name: str, entry: VariantEntry, manifest: Path) -> Variant:
    unknown = set(entry.cells) - CELLS.keys()
    if unknown:
        raise SpecError(
            "a variant names an unknown cell",
            where=f"{manifest}, variants.{name}.cells",
            got=", ".join(sorted(unknown)),
            wanted=" | ".join(CELLS),
        )
    if entry.evaluation == "complement" and any(CELLS[cell].complement is None for cell in entry.cells):
        raise SpecError(
            "only a GRU's update gate has a complement",
            where=f"{manifest}, variants.{name}",
            got=f"evaluation = 'complement' with cells {', '.join(entry.cells)}",
            wanted=" | ".join(cell for cell, kind in CELLS.items() if kind.complement is not None),
        )
    for dtype, arithmetic in entry.arithmetic.items():
        try:
            arithmetic_of(dtype, arithmetic)
        except CaseError as error:
            raise SpecError(
                "a variant declares an arithmetic that its dtype cannot have",
                where=f"{manifest}, variants.{name}.arithmetic",
                got=f"{dtype} = {arithmetic!r}",
            ) from error
    return Variant(
        name=name,
        title=entry.title,
        default=entry.default,
        cells=entry.cells,
        dtypes=entry.dtypes,
        cell_paths=(entry.cell_path,) if isinstance(entry.cell_path, str) else entry.cell_path,
        paths={key: (path,) if isinstance(path, str) else path for key, path in entry.paths.items()},
        unbatched=entry.unbatched,
        missing={
            item.cell: (item.parameters, Declared(owner=item.owner, reason=item.reason, link=item.link))
            for item in entry.missing
        },
        unsupported={
            item.what: Declared(owner=item.owner, reason=item.reason, link=item.link) for item in entry.unsupported
        },
        layers=entry.layers,
        features=frozenset(entry.features),
        padding=entry.padding,
        arithmetic={str(dtype): arithmetic for dtype, arithmetic in entry.arithmetic.items()},
        evaluation=entry.evaluation,
        environment=entry.environment,
    )


def variants_of(adapters: Mapping[str, Adapter], spec: Spec) -> tuple[tuple[Adapter, Variant], ...]:
    """The variants a spec names; SpecError for an unknown adapter or variant."""
    adapter = adapters.get(spec.adapter)
    if adapter is None:
        raise SpecError(
            "unknown adapter",
            where=str(spec),
            got=spec.adapter,
            wanted=" | ".join(sorted(adapters)),
            hint="name a folder of your own with --adapter PATH",
        )
    if spec.variant is None:
        chosen = tuple((adapter, variant) for variant in adapter.variants.values() if variant.default)
        return chosen or tuple((adapter, variant) for variant in adapter.variants.values())
    variant = adapter.variants.get(spec.variant)
    if variant is None:
        raise SpecError(
            f"{adapter.name} has no such variant",
            where=str(spec),
            got=spec.variant,
            wanted=" | ".join(adapter.variants),
        )
    return ((adapter, variant),)
