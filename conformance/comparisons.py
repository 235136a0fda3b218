"""The comparisons of speed that `rnn-conformance bench` makes by default, as data, and the cases they are made on.

The published figures are those of the fused cells of ml-explore/mlx pull request 3089, on Metal. They are shown
beside what is measured here, and never in its place.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from conformance.case import Case, Shape, make_case
from conformance.cells import cell_named
from conformance.record import Published
from conformance.worker.names import Level

Needs: TypeAlias = Literal["", "metal"]
SOURCE: Final = "https://github.com/ml-explore/mlx/pull/3089, on Metal"
SEED: Final = 20141406


class Comparison(Struct, frozen=True, kw_only=True):
    """One case, and the candidates that take turns on it.

    sides: names of candidates; the first is the baseline. needs: hardware without which it is not measured.
    """

    name: str
    title: str
    level: Level
    cell: str
    shape: Shape
    sides: tuple[str, ...]
    dtype: str = "float32"
    needs: Needs = ""
    published: Published | None = None


_LAYERS: Final = ("mlx:legacy", "mlx:fast", "mlx:compiled", "torch:layer", "flax-linen:rnn")
_STEPS: Final = ("mlx:legacy", "mlx:fast", "mlx:compiled", "torch:cell", "flax-linen:rnn")
_S2_LAYER: Final = Shape(batch=32, time=40, features=200, hidden=200)
_S2_CELL: Final = Shape(batch=64, time=20, features=200, hidden=200)


def _metal(level: Level, cell: str, ratio: float, milliseconds: tuple[float, float] | None = None) -> Comparison:
    before, after = (None, None) if milliseconds is None else (value / 1000 for value in milliseconds)
    return Comparison(
        name=f"metal-{level}-{cell}",
        title=f"{cell.upper()}, {level} level, on Metal",
        level=level,
        cell=cell,
        shape=_S2_LAYER if level == "layer" else _S2_CELL,
        sides=("mlx:legacy", "mlx:fast"),
        needs="metal",
        published=Published(ratio=ratio, source=SOURCE, baseline=before, other=after),
    )


def _here(level: Level, cell: str, shape: Shape, sides: tuple[str, ...]) -> Comparison:
    return Comparison(
        name=f"{level}-{cell}-{shape.batch}x{shape.time}x{shape.features}x{shape.hidden}",
        title=f"{cell.upper()}, {level} level",
        level=level,
        cell=cell,
        shape=shape,
        sides=sides,
    )


TABLE: Final[tuple[Comparison, ...]] = (
    *(_here("layer", cell, _S2_LAYER, _LAYERS) for cell in ("gru", "lstm")),
    *(_here("cell", cell, _S2_CELL, _STEPS) for cell in ("gru", "lstm")),
    *(_here("layer", cell, replace(_S2_LAYER, batch=1), _LAYERS) for cell in ("gru", "lstm")),
    *(_here("layer", "gru", shape, _LAYERS) for shape in (Shape(batch=32, time=40, features=64, hidden=64),)),
    _metal("layer", "gru", 3.9, (0.31, 0.08)),
    _metal("layer", "lstm", 2.25, (0.18, 0.08)),
    _metal("cell", "gru", 2.0, (0.10, 0.05)),
    _metal("cell", "lstm", 1.8),
)
"""What is compared by default."""


def case_of(cell: str, shape: Shape, dtype: str) -> Case:
    """The case of a comparison: generic, from one fixed seed, with weights of the size that training starts from.

    The initial state is given: where it is omitted, implementations may take another path on the first step.
    """
    generator = np.random.default_rng(SEED)
    kind = cell_named(cell)
    sizes = {"D": shape.features, "H": shape.hidden, "P": shape.output}
    limit = 1 / np.sqrt(shape.hidden)
    parameters = {name: generator.uniform(-limit, limit, size) for name, size in kind.shapes(sizes).items()}
    least = 0.125 if kind.positive else -1.0
    return make_case(
        cell=cell,
        dtype=dtype,
        parameters=parameters,
        x=generator.standard_normal((shape.batch, shape.time, shape.features)),
        initial="given",
        h0=generator.uniform(least, 1, (shape.batch, shape.output)),
        c0=generator.uniform(-1, 1, (shape.batch, shape.hidden)) if kind.carry is not None else None,
        origin="benchmark",
    )


def measurable(needs: Needs, facts: dict[str, str] | None) -> str:
    """Why a comparison that needs some hardware is not measured; "" where it can be.

    facts: what the baseline's worker says of itself, None where it never came up.
    """
    if not needs:
        return ""
    device = "unknown" if facts is None else facts.get("device", "unknown")
    system = "" if facts is None else facts.get("platform", "")
    if "gpu" in device.lower() and system.startswith("Darwin"):
        return ""
    return f"not measured here: it needs Metal, and the device is {device}"
