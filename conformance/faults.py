"""The catalogue of faults by cell and name."""

from __future__ import annotations

from typing import Final

from conformance.cells.elman_faults import elman_faults
from conformance.cells.fault import Fault
from conformance.cells.gru_faults import gru_faults
from conformance.cells.lstm_faults import lstm_faults
from conformance.cells.min_faults import mingru_faults, minlstm_faults
from conformance.errors import SpecError

# Third parties add to it with `register`.
CATALOGUE: Final[dict[str, dict[str, Fault]]] = {
    form: {fault.name: fault for fault in faults_of(form)}
    for faults_of, forms in (
        (gru_faults, ("gru", "gru_v1")),
        (lstm_faults, ("lstm", "lstm_peephole", "lstm_projection")),
        (elman_faults, ("elman", "elman_relu")),
        (mingru_faults, ("mingru", "mingru_log")),
        (minlstm_faults, ("minlstm", "minlstm_log")),
    )
    for form in forms
}


def register(cell: str, fault: Fault) -> None:
    """Add a third party's fault to a cell's catalogue: it is planted, ruled out and named like any other from then on.

    Call it before anything is judged; a distribution does so through the entry point group of `conformance.discover`.

    Raises
    ------
    SpecError: there is no such cell, or the cell has a fault of that name.
    """
    known = catalogue(cell)
    if fault.name in known:
        raise SpecError("a fault of that name is registered already", where=cell, got=fault.name)
    known[fault.name] = fault


def catalogue(cell: str) -> dict[str, Fault]:
    """The faults of a cell by name."""
    try:
        return CATALOGUE[cell]
    except KeyError:
        raise SpecError("no fault catalogue for this cell", got=repr(cell), wanted=" | ".join(CATALOGUE)) from None
