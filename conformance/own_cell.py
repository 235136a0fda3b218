"""A user's own cell as a candidate: which framework, which equations, and the requirements that it is asked.

The file is executed in the framework's interpreter only; here it is parsed for its imports. Which equations a cell is
meant to compute can be said, or is found by trying every *reading*: a form of the recurrence and a convention of its
update gate. A cell that follows one of them agrees with that one; a cell with a mistake is read as the one under which
one fault explains it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from conformance.candidate import Adapter, Declared, Spec, Variant
from conformance.case import Case, Initial, Shape, unchecked
from conformance.cells import cell_named
from conformance.discover import data_folder, find_adapters
from conformance.environments import Interpreter, from_path
from conformance.errors import ConformanceError, SpecError
from conformance.exchange import Observation
from conformance.host import Host
from conformance.judge import combine, judge
from conformance.plan import Candidate, Group, interpreter_of
from conformance.requirement import REQUIREMENTS, Requirement
from conformance.signature import Signature, build
from conformance.verdict import Agrees, Broken, Diverges, Inconclusive

Update = Literal["keep", "mix"]
Kind = Literal["", "cell", "layer"]
UPDATES: Final[tuple[Update, ...]] = get_args(Update)
FOLDER: Final = "own-cell"
VARIABLE: Final = "RNN_CONFORMANCE_OWN_CELL"
# Where nothing is said: the from-scratch text lets z mix the candidate in, the frameworks' layers let it keep h.
USUAL: Final[Mapping[str, Update]] = {
    "gru_v1": "mix",
    "gru": "keep",
    "lstm": "keep",
    "elman": "keep",
    "elman_relu": "keep",
}
CELLS: Final = tuple(USUAL)
# The shipped adapter whose environment a file with such an import runs in; the first that is imported.
_FRAMEWORKS: Final = {"torch": "torch", "mlx": "mlx", "flax": "flax-nnx", "jax": "flax-nnx"}
_SHAPES: Final = (
    (Shape(batch=2, time=4, features=3, hidden=5), 0.8, 11),
    (Shape(batch=2, time=4, features=3, hidden=5), 1.6, 12),
    (Shape(batch=2, time=4, features=3, hidden=5), 0.4, 13),
)
_SQUARE: Final = (
    (Shape(batch=1, time=2, features=2, hidden=2), 0.8, 21),
    (Shape(batch=2, time=4, features=4, hidden=5), 0.8, 22),
    (Shape(batch=2, time=4, features=4, hidden=5), 1.6, 23),
)


class OwnCellError(ConformanceError):
    """The user's file cannot be run, or what is in it cannot be understood."""


class Understood(Struct, frozen=True, kw_only=True):
    """What the worker made of the user's object; see `adapters/own-cell/understanding.py`."""

    name: str
    kind: str
    framework: str
    call: str
    stateful: bool
    optional: bool
    transposed: bool
    leaves: Mapping[str, tuple[int, ...]]
    recipes: Mapping[str, Mapping[str, str]]
    problems: Mapping[str, str]
    fresh: str
    cell: str
    update: str


class Reading(Struct, frozen=True, kw_only=True):
    """Equations that a cell may be meant to compute: a form, and what z does.

    found: the verdict of a few cases, which were to rule out nothing.
    """

    cell: str
    update: Update
    found: Agrees | Diverges | Inconclusive | Broken

    @property
    def usual(self) -> bool:
        """Whether z does what it usually does in this form."""
        return USUAL[self.cell] == self.update

    @property
    def faults(self) -> tuple[str, ...]:
        """The faults that explain it under this reading."""
        return self.found.faults if isinstance(self.found, Diverges) else ()


class OwnCell(Struct, frozen=True, kw_only=True):
    """A user's object before anything is known of it."""

    file: Path
    name: str
    framework: str
    adapter: Adapter
    python: Path | None

    def candidate(self, update: Update, understood: Understood | None = None) -> Candidate:
        """The object as a candidate, z read in one of the two ways."""
        variant = self.adapter.variants[update]
        if understood is not None:
            variant = _offered(variant, understood)
        adapter = replace(self.adapter, variants={update: variant})
        spec = Spec(adapter=self.adapter.name, variant=update, path=self.python)
        return Candidate(spec=spec, adapter=adapter, variant=variant)


def framework_of(file: Path) -> str:
    """The framework that a Python file imports, by the name of the shipped adapter; ``numpy`` where it imports none.

    Raises
    ------
    OwnCellError: no such file, or it is no Python.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise OwnCellError("cannot read the file", where=str(file), got=str(error)) from None
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}: {(error.text or '').strip()}" if isinstance(error, SyntaxError) else ""
        raise OwnCellError("the file is no valid Python", where=f"{file}{line}", got=str(error)) from None
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append(node.module.partition(".")[0])
    return next((_FRAMEWORKS[name] for name in _FRAMEWORKS if name in found), "numpy")


def own_cell(
    text: str, *, python: Path | None = None, kind: Kind = "", cell: str = "", seconds: float = 60.0
) -> OwnCell:
    """The object that ``FILE.py:NAME`` names.

    Raises
    ------
    OwnCellError: it is not of that form, or the file cannot be read.
    """
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise OwnCellError(
            "cannot read what to check", got=repr(text), wanted="FILE.py:NAME, e.g. my_cell.py:MyGRUCell"
        )
    file = Path(path).expanduser().resolve()
    framework = framework_of(file)
    shipped = find_adapters()[framework]
    options = {"file": str(file), "name": name, "framework": framework, "kind": kind, "cell": cell}
    environment = {VARIABLE: json.dumps(options), "JAX_PLATFORMS": "cpu"}

    def variant(update: Update) -> Variant:
        return Variant(
            name=update,
            title=f"{name} of {file.name}",
            default=True,
            cells=CELLS,
            dtypes=("float32",),
            paths={},
            unbatched=False,
            missing={},
            unsupported={},
            evaluation="complement" if update == "mix" else "sequential",
            environment=environment,
        )

    adapter = Adapter(
        name=name,
        title=f"{name} in {file.name} on {shipped.title}",
        folder=data_folder("adapters") / FOLDER,
        shares=shipped.shares,
        distribution=shipped.distribution,
        requirements=shipped.requirements,
        variants={update: variant(update) for update in UPDATES},
        start_seconds=max(shipped.start_seconds, seconds),
        case_seconds=seconds,
    )
    return OwnCell(file=file, name=name, framework=framework, adapter=adapter, python=python)


def _offered(variant: Variant, it: Understood) -> Variant:
    """The variant with what the object offers."""
    paths: dict[Initial, tuple[str, ...]] = {}
    if it.stateful:
        path = (f"{it.name}, a {it.kind}, state h0",)
        paths |= {"zeros": path, "given": path}
    if it.kind == "layer" and (it.optional or not it.stateful):
        paths["omitted"] = (f"{it.name}, a {it.kind}, state omitted",)
    why = Declared(owner="ours", reason=f"{it.name} has no such parameter", link="")
    missing = {cell: (names, why) for cell in it.recipes if (names := _absent(it, cell))}
    return replace(variant, paths=paths, missing=missing, cells=tuple(it.recipes) or CELLS)


def _absent(it: Understood, cell: str) -> tuple[str, ...]:
    """Biases without a place; a matrix, or a bias, that stands for several gates leaves none without."""
    used = set(re.findall(r"\w+", " ".join(it.recipes[cell].values())))
    if not any(name.startswith("b_") for name in used):
        return tuple(name for name in cell_named(cell).parameters if name.startswith("b_"))
    absent = []
    for name in cell_named(cell).parameters:
        own = f"W_x{name[3:]}" in used
        if name.startswith("b_") and name not in used and own:
            absent.append(name)
    return tuple(absent)


class Probe:
    """A worker with the user's object, asked a few cases under every reading; `host` may hand it over afterwards."""

    def __init__(self, own: OwnCell) -> None:
        self._own = own
        self._facts: dict[str, str] = {}
        candidate = own.candidate("keep")
        self.interpreter: Interpreter = (
            from_path(own.python) if own.python is not None else interpreter_of(candidate, lambda _: None)
        )
        self.host = Host(
            candidate.adapter,
            candidate.variant,
            self.interpreter,
            incident=lambda _: None,
            ready=lambda _, facts: self._facts.update(facts),
        )

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.host.close()

    def understood(self) -> Understood:
        """What the worker made of the object.

        Raises
        ------
        OwnCellError: the file cannot be run, or the object cannot be called.
        """
        first = self.host.observe(_built(_SHAPES[0], "gru", self._initial(None)))
        if "understood" not in self._facts:
            assert isinstance(first, Broken)
            raise _not_started(first, self._own)
        told: dict[str, Any] = json.loads(self._facts["understood"])
        roles = told["roles"]
        return Understood(
            name=told["name"],
            kind=told["kind"],
            framework=told["framework"],
            call=told["call"],
            stateful=told["stateful"],
            optional=told["optional"],
            transposed=told["transposed"],
            leaves={name: tuple(shape) for name, shape in told["leaves"].items() if roles},
            recipes=told["recipes"],
            problems=told["problems"],
            fresh=told["fresh"],
            cell=told["cell"],
            update=told["update"],
        )

    def _initial(self, it: Understood | None) -> Initial:
        return "given" if it is None or it.stateful else "omitted"

    def readings(self, it: Understood, cells: Sequence[str], updates: Sequence[Update]) -> list[Reading]:
        """Every reading with the verdict of a few cases."""
        found = []
        for cell in cells:
            for update in updates if cell.startswith("gru") else UPDATES[:1]:
                candidate = self._own.candidate(update, it)
                group = group_of(candidate, REQUIREMENTS[f"{cell}_hidden_{'given' if it.stateful else 'none'}"])
                found.append(Reading(cell=cell, update=update, found=self._tried(group, it)))
        return found

    def _tried(self, group: Group, it: Understood) -> Agrees | Diverges | Inconclusive | Broken:
        verdicts = []
        for each in _SQUARE if it.transposed else _SHAPES:
            case = _built(each, group.requirement.cell, self._initial(it)).zeroed(group.zeroed)
            case = group.candidate.variant.declared(case)
            sent = case if case.evaluation == "sequential" else replace(native(case), evaluation="sequential")
            answer = self.host.observe(sent)
            if not isinstance(answer, Observation):
                return answer
            verdicts.append(judge(case, answer.observed, ()))
        return combine(verdicts, required=frozenset())

    def steady(self, it: Understood, cell: str) -> bool:
        """Whether the same call gives the same numbers twice."""
        case = _built(_SQUARE[1] if it.transposed else _SHAPES[0], cell, self._initial(it))
        answers = [self.host.observe(case) for _ in range(2)]
        outputs = [a.observed.outputs for a in answers if isinstance(a, Observation)]
        return len(outputs) < 2 or bool(np.array_equal(outputs[0], outputs[1], equal_nan=True))


def native(case: Case) -> Case:
    """The case with the parameters of the update gate negated, for a worker that lets z keep the state."""
    negated = {name: -value if name.endswith("z") else value for name, value in case.parameters.items()}
    return unchecked(case, {"parameters": negated})


def group_of(candidate: Candidate, requirement: Requirement) -> Group:
    """The group of one requirement in float32."""
    missing = candidate.variant.missing.get(requirement.cell, ((), None))[0]
    return Group(candidate=candidate, requirement=requirement, dtype="float32", zeroed=missing)


def _built(each: tuple[Shape, float, int], cell: str, initial: Initial) -> Case:
    shape, scale, seed = each
    signature = Signature(shape=shape, batched=True, seed=seed, scale=scale, decimals=3, fills=())
    return build(signature, cell=cell, dtype="float32", initial=initial)


def square_case(reading: Reading, it: Understood, zeroed: tuple[str, ...]) -> Case:
    """A case with as many steps as features, for a layer that runs on no other."""
    return _built(_SQUARE[0], reading.cell, "given" if it.stateful else "omitted").zeroed(zeroed)


def chosen(readings: Sequence[Reading]) -> Reading:
    """The reading to judge by: one that is met, else one under which a single fault explains what was seen.

    Where z does the opposite of what it usually does, and nothing else is wrong, that is what is told: whoever means
    it says so.

    Raises
    ------
    SpecError: there are none.
    """
    if not readings:
        raise SpecError("no reading to judge by")
    usual = [reading for reading in readings if reading.usual] or list(readings)
    for group in (usual, readings):
        met = [reading for reading in group if isinstance(reading.found, Agrees)]
        if met:
            other = [r for r in usual if r.cell == met[0].cell]
            return met[0] if met[0] in usual or not other else other[0]
    for most in (1, 100):
        for group in (usual, readings):
            named = [reading for reading in group if 1 <= len(reading.faults) <= most]
            if named:
                return named[0]
    return min(usual, key=_distance)


def _distance(reading: Reading) -> float:
    found = reading.found
    if isinstance(found, Diverges):
        return found.evidence.share if found.evidence.share is not None else 1e300
    return 1e301


def _not_started(broken: Broken, own: OwnCell) -> OwnCellError:
    """What the worker said, with the last line of the user's own file in the traceback."""
    error = OwnCellError(
        "the cell cannot be run" if broken.kind == "start" else "the worker broke",
        where=last_line(broken.stderr_tail, own.file) or str(own.file),
        got=broken.message.partition("): ")[2] or broken.message,
        hint="see docs/check-cell.md: signatures, make(input_size, hidden_size), WEIGHTS; or name another --python",
    )
    if broken.signal or broken.exit_code is not None or "no answer" in broken.message:
        error.exit_code = 3
    return error


def last_line(trace: str, file: Path) -> str:
    """The place in the user's file where an exception came from, "" when it is not in the traceback."""
    found = re.findall(rf'File "{re.escape(str(file))}", line (\d+), in (\S+)\n +(.*)', trace)
    return f"{file}, line {found[-1][0]}, in {found[-1][1]}: {found[-1][2]}" if found else ""
