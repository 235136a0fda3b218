"""The float64 truth: one file per cell."""

from conformance.cells.cell import Cell, Sequence
from conformance.cells.gru import GRU
from conformance.cells.gru_v1 import GRU_V1
from conformance.cells.registry import CELLS, cell_named

__all__ = ["CELLS", "GRU", "GRU_V1", "Cell", "Sequence", "cell_named"]
