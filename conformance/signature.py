"""Signatures: the few choices that a generated case depends on, and the case that they make.

A shape from a small lattice (JAX compiles a program per shape), one seed for all numbers, and a few overlays: how each
array is filled, the scale of the weights, how many decimals.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

import numpy as np
from msgspec import Struct
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

# Weight scale relative to 1/sqrt(fan-in): trained-like, large (chaotic), tiny, saturating.
SCALES: Final = (0.8, 2.5, 1e-3, 20.0)
DECIMALS: Final = (1, 3, 12)
ZERO, CONSTANT = 0, 1
# A state that its activation does not bound grows past the range of float16 under larger weights.
_LARGEST_SCALE: Final = {"elman_relu": 0.8}
FILLS = 16  # one draw in 16 is all zeros, one is constant, the rest are generic


class Signature(Struct, frozen=True, kw_only=True):
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


class Numbers(Struct, frozen=True, kw_only=True, eq=False):
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

    There every case has overlays of its own, and the signature's are not used: else all of a block might be one.
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
            own = overlays.setdefault(array_group(name), generator.integers(0, FILLS, lead))
            values: Array = np.round(generic, signature.decimals)
            values[own == ZERO], values[own == CONSTANT] = 0.0, 0.5
            return values
        match fills.get(array_group(name), FILLS):
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
    layers, directions = stack_of(features)
    blocks = layers * directions
    size, kind = signature.shape, cell_named(cell)
    generator = np.random.default_rng(signature.seed)
    drawn = numbers(signature, generator, cell=cell, layers=layers, directions=directions)
    hidden, output = drawn.hidden, drawn.output
    memory = (size.batch, blocks * hidden)
    lengths, cotangents = None, {}
    if "lengths" in features:
        lengths = ends(generator, size)
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


def stack_of(features: Collection[str]) -> tuple[int, int]:
    """How many layers and directions a case with these features has."""
    return (2 if "layers" in features else 1), (2 if "bidirectional" in features else 1)


def ends(generator: np.random.Generator, size: Shape) -> tuple[int, ...]:
    """Lengths of the rows: one has all steps, and one, if there are two, fewer."""
    drawn = generator.integers(1, size.time + 1, size.batch)
    drawn[0] = size.time
    drawn[-1] = min(drawn[-1], max(size.time - 1, 1))
    return tuple(int(n) for n in drawn)


def _away_from_zero(generator: np.random.Generator) -> Callable[[tuple[int, ...]], Array]:
    """Biases that are all clearly non-zero, so that none of their faults hides."""

    def draw(shape: tuple[int, ...]) -> Array:
        signs: Array = generator.choice([-1.0, 1.0], shape)
        return generator.uniform(0.2, 1.0, shape) * signs

    return draw


def overlaid(cell: str) -> tuple[str, ...]:
    """The groups of a cell's arrays that overlays fill, in the order in which they are drawn."""
    return tuple(dict.fromkeys(array_group(name) for name in (*cell_named(cell).parameters, "x", "h0")))


def array_group(name: str) -> str:
    """Arrays that an overlay fills together: W_xr, W_xz, W_xn -> W_x; W_z, W_n -> W_."""
    own = name.rpartition(".")[2]
    return own[:-1] if own.startswith(("W_", "b_")) else own
