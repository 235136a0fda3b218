"""The cells by name."""

from __future__ import annotations

from typing import Any, Final

from conformance.cells.cell import Cell
from conformance.cells.elman import ELMAN, ELMAN_RELU
from conformance.cells.gru import GRU
from conformance.cells.gru_v1 import GRU_V1
from conformance.cells.lstm import LSTM, LSTM_PEEPHOLE, LSTM_PROJECTION
from conformance.cells.mingru import MINGRU, MINGRU_LOG
from conformance.cells.minlstm import MINLSTM, MINLSTM_LOG
from conformance.errors import CaseError

CELLS: Final[dict[str, Cell[Any]]] = {
    cell.name: cell
    for cell in (
        GRU,
        GRU_V1,
        LSTM,
        LSTM_PEEPHOLE,
        LSTM_PROJECTION,
        ELMAN,
        ELMAN_RELU,
        MINGRU,
        MINGRU_LOG,
        MINLSTM,
        MINLSTM_LOG,
    )
}


def cell_named(name: str) -> Cell[Any]:
    """The cell called `name`; CaseError when there is none."""
    try:
        return CELLS[name]
    except KeyError:
        raise CaseError("unknown cell", got=repr(name), wanted=" | ".join(CELLS)) from None
