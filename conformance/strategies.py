"""Hypothesis strategies of cases.

A case is drawn as a *signature*: a shape from a small lattice (JAX compiles a program per shape), one seed for
all numbers, and a few overlays: how each array is filled, the scale of the weights, how many decimals. Drawing
is cheap, and every choice shrinks toward the readable: small shapes, zeros, constants, one decimal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance.case import Case, Initial, Padding, Shape, make_case
from conformance.cells import cell_named
from conformance.rounding import Array

# Names every fault of the GRU from one generic case; small enough for a sharp bound.
GENERIC: Final = Shape(batch=4, time=12, features=6, hidden=8)

# Smallest first: Hypothesis shrinks toward the front. Unbatched shapes have B = 1. The widest one has odd sizes past
# the usual vector widths and blocks of kernels.
LATTICE: Final[tuple[tuple[Shape, bool], ...]] = (
    (Shape(batch=1, time=1, features=1, hidden=1), True),
    (Shape(batch=1, time=2, features=1, hidden=2), False),
    (Shape(batch=2, time=3, features=2, hidden=3), True),
    (Shape(batch=1, time=16, features=3, hidden=5), False),
    (GENERIC, True),
    (Shape(batch=3, time=5, features=17, hidden=67), True),
)

# In the other dtypes: every shape costs JAX a compilation in each of them.
SHORT_LATTICE: Final = (LATTICE[2], LATTICE[4], LATTICE[5])
# With `run --wide`: long and broad, where rounding accumulates and chaos shows.
WIDE_LATTICE: Final = (
    *LATTICE,
    (Shape(batch=1, time=512, features=3, hidden=8), True),
    (Shape(batch=2, time=128, features=6, hidden=24), True),
    (Shape(batch=2, time=12, features=64, hidden=256), True),
)
# Of relations and gradients: they run a case in several ways, in several shapes, so one shape must do.
RELATION: Final = Shape(batch=3, time=6, features=4, hidden=5)

# Of fresh shapes: how long every axis may be, and how many products a gate may need in all steps of a case. The widths
# at which vectors and blocks of kernels end, and their neighbours, are as likely as all others together.
LARGEST: Final = Shape(batch=9, time=33, features=65, hidden=129)
_PRODUCTS: Final = 300_000
_EDGES: Final = (1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)

# Weight scale relative to 1/sqrt(fan-in): trained-like, large (chaotic), tiny, saturating.
SCALES: Final = (0.8, 2.5, 1e-3, 20.0)
DECIMALS: Final = (1, 3, 12)
ZERO, CONSTANT = 0, 1
# A state that its activation does not bound grows past the range of float16 under larger weights.
_LARGEST_SCALE: Final = {"elman_relu": 0.8}
_FILLS = 16  # one draw in 16 is all zeros, one is constant, the rest are generic


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Everything a generated case depends on: the same signature gives the same case on every machine."""

    shape: Shape
    batched: bool
    seed: int
    scale: float
    decimals: int
    fills: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        odd = [f"{name}={'zeros' if fill == ZERO else 'constant'}" for name, fill in self.fills if fill <= CONSTANT]
        parts = [
            str(self.shape),
            f"seed {self.seed}",
            f"scale {self.scale:g}",
            f"decimals {self.decimals}",
            *odd,
        ]
        return ", ".join(parts if self.batched else [*parts, "unbatched"])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Numbers:
    """The arrays of a signature, not rounded yet; all with the same leading axes."""

    parameters: Mapping[str, Array]
    x: Array
    h0: Array
    c0: Array | None
    hidden: int
    output: int


def numbers(
    signature: Signature,
    generator: np.random.Generator,
    *,
    cell: str,
    layers: int = 1,
    directions: int = 1,
    lead: tuple[int, ...] = (),
) -> Numbers:
    """Draw the arrays of a signature; under a leading axis, where many cases are drawn at once.

    There every case has overlays of its own, and the signature's are not used: else 32 cases might be one.
    """
    kind, size = cell_named(cell), signature.shape
    blocks = layers * directions
    hidden = max(size.hidden, 2) if kind.projected else size.hidden
    output = max(1, 2 * hidden // 3) if kind.projected else hidden
    fills = dict(signature.fills)
    overlays: dict[str, NDArray[np.int64]] = {}
    largest = min(signature.scale, _LARGEST_SCALE.get(cell, signature.scale))

    def filled(name: str, shape: tuple[int, ...], scale: float, draw: Callable[[tuple[int, ...]], Array]) -> Array:
        generic = scale * draw((*lead, *shape))  # in any case: overlays must not shift the numbers of other arrays
        if lead:
            own = overlays.setdefault(_group(name), generator.integers(0, _FILLS, lead))
            values: Array = np.round(generic, signature.decimals)
            values[own == ZERO], values[own == CONSTANT] = 0.0, 0.5
            return values
        match fills.get(_group(name), _FILLS):
            case 0:
                return np.zeros(shape)
            case 1:
                return np.full(shape, 0.5)
            case _:
                rounded: Array = np.round(generic, signature.decimals)
                return rounded

    parameters = {}
    for name, shape in kind.shapes({"D": size.features, "H": hidden, "P": output}, layers, directions).items():
        scale = largest / np.sqrt(shape[-1]) if len(shape) == 2 else min(largest, 2.5)
        draw = generator.standard_normal if len(shape) == 2 else _away_from_zero(generator)
        parameters[name] = filled(name, shape, scale, draw)
    x = filled("x", (size.batch, size.time, size.features), 1.0, generator.standard_normal)
    least = 0.125 if kind.positive else -1.0
    h0 = filled("h0", (size.batch, blocks * output), 1.0, lambda shape: generator.uniform(least, 1.0, shape))
    if kind.positive:  # neither an overlay nor a rounding may make it zero
        h0 = np.maximum(h0, 0.125)
    memory = (size.batch, blocks * hidden)
    c0 = filled("c0", memory, 1.0, generator.standard_normal) if kind.carry is not None else None
    return Numbers(parameters=parameters, x=x, h0=h0, c0=c0, hidden=hidden, output=output)


def build(
    signature: Signature,
    *,
    cell: str,
    dtype: str,
    initial: Initial,
    zeroed: tuple[str, ...] = (),
    features: tuple[str, ...] = (),
    padding: Padding = "zeros",
) -> Case:
    """The case of a signature, with those of the features that a case can have."""
    layers, directions = (2 if "layers" in features else 1), (2 if "bidirectional" in features else 1)
    blocks = layers * directions
    size, kind = signature.shape, cell_named(cell)
    generator = np.random.default_rng(signature.seed)
    drawn = numbers(signature, generator, cell=cell, layers=layers, directions=directions)
    hidden, output = drawn.hidden, drawn.output
    memory = (size.batch, blocks * hidden)
    lengths, cotangents = None, {}
    if "lengths" in features:
        ends = generator.integers(1, size.time + 1, size.batch)
        ends[0] = size.time
        ends[-1] = min(ends[-1], max(size.time - 1, 1))
        lengths = tuple(int(n) for n in ends)
    if "gradients" in features:
        shapes = {"outputs": (size.batch, size.time, directions * output), "final_state": (size.batch, blocks * output)}
        if kind.carry is not None:
            shapes["final_cell"] = memory
        cotangents = {name: generator.standard_normal(shape) for name, shape in shapes.items()}
    case = make_case(
        cell=cell,
        dtype=dtype,
        parameters=drawn.parameters,
        x=drawn.x,
        initial=initial,
        h0=drawn.h0,
        c0=drawn.c0,
        batched=signature.batched,
        lengths=lengths,
        reverse="reverse" in features,
        layers=layers,
        directions=directions,
        padding=padding,
        cotangents=cotangents,
        origin=f"generated: {signature}",
    )
    return case.zeroed(zeroed)


def _away_from_zero(generator: np.random.Generator) -> Callable[[tuple[int, ...]], Array]:
    """Biases that are all clearly non-zero, so that none of their faults hides."""

    def draw(shape: tuple[int, ...]) -> Array:
        signs: Array = generator.choice([-1.0, 1.0], shape)
        return generator.uniform(0.2, 1.0, shape) * signs

    return draw


def _group(name: str) -> str:
    """Arrays that an overlay fills together: W_xr, W_xz, W_xn -> W_x; W_z, W_n -> W_."""
    own = name.rpartition(".")[2]
    return own[:-1] if own.startswith(("W_", "b_")) else own


# Every so often Hypothesis draws a constant of a module that is loaded, if it is in the range and above 100; which are
# loaded depends on how the harness is installed and started. Up here are none.
_ABOVE: Final = 2**80


def _integers(least: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(_ABOVE + least, _ABOVE + most).map(lambda drawn: drawn - _ABOVE)


_SEEDS: Final = _integers(0, 2**32 - 1)
_SCALES: Final = st.sampled_from(SCALES)
_DECIMALS: Final = st.sampled_from(DECIMALS)
_FILL: Final = st.integers(0, _FILLS - 1)


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    cell: str,
    dtype: str,
    initial: Initial,
    unbatched: bool = True,
    zeroed: tuple[str, ...] = (),
    features: tuple[str, ...] = (),
    padding: Padding = "zeros",
    lattice: tuple[tuple[Shape, bool], ...] = LATTICE,
) -> Case:
    """Cases of one cell, dtype and spelling of the initial state.

    unbatched: whether unbatched inputs are drawn too; zeroed: parameters held at zero; lattice: shapes to draw from.
    """
    signature = draw(signatures(cell=cell, lattice=lattice))
    if not unbatched:
        signature = replace(signature, batched=True)
    return build(signature, cell=cell, dtype=dtype, initial=initial, zeroed=zeroed, features=features, padding=padding)


@st.composite
def signatures(
    draw: st.DrawFn, *, cell: str, lattice: tuple[tuple[Shape, bool], ...] = LATTICE, overlays: bool = True
) -> Signature:
    """Signatures of cases of one cell, with overlays or without."""
    shape, batched = draw(st.sampled_from(lattice))
    groups = dict.fromkeys(_group(name) for name in (*cell_named(cell).parameters, "x", "h0"))
    return Signature(
        shape=shape,
        batched=batched,
        scale=draw(_SCALES),
        decimals=draw(_DECIMALS),
        fills=tuple((group, draw(_FILL)) for group in groups if overlays),
        seed=draw(_SEEDS),
    )


@st.composite
def fresh_shapes(draw: st.DrawFn) -> tuple[Shape, bool]:
    """Shapes of any kind, up to `LARGEST`, with whether they are batched: freely drawn, so each is a new program."""
    hidden, features = draw(_extents(LARGEST.hidden)), draw(_extents(LARGEST.features))
    steps = _PRODUCTS // (hidden * (hidden + features))
    time = draw(_extents(min(LARGEST.time, steps)))
    batch = draw(_extents(min(LARGEST.batch, steps // time)))
    unbatched = batch == 1 and draw(st.booleans())
    return Shape(batch=batch, time=time, features=features, hidden=hidden), not unbatched


def _extents(most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from([edge for edge in _EDGES if edge <= most]), _integers(1, most))
