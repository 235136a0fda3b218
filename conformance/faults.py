"""The catalogue of faults by cell and name."""

from __future__ import annotations

from typing import Final

from conformance.cells.fault import Fault
from conformance.cells.gru_faults import gru_faults
from conformance.errors import SpecError

CATALOGUE: Final[dict[str, dict[str, Fault]]] = {
    form: {fault.name: fault for fault in gru_faults(form)} for form in ("gru", "gru_v1")
}


def catalogue(cell: str) -> dict[str, Fault]:
    """The faults of a cell by name."""
    try:
        return CATALOGUE[cell]
    except KeyError:
        raise SpecError("no fault catalogue for this cell", got=repr(cell), wanted=" | ".join(CATALOGUE)) from None
