"""The gated recurrent unit, reset-before form ("v1"), cell ``gru_v1``.

    r  = sigmoid(W_xr x + b_xr + W_hr h + b_hr)
    z  = sigmoid(W_xz x + b_xz + W_hz h + b_hz)
    n  = tanh(W_xn x + b_xn + W_hn (r * h) + b_hn)
    h' = (1 - z) * n + z * h

Source: Cho et al. 2014, arXiv:1406.1078v1, equations 5-8. The reset gate masks the state *before* the matrix
product. Some texts (Chung et al. 2014, arXiv:1412.3555) let z mix in the candidate, h' = (1 - z) * h + z * n: see
`conformance.cells.gru.COMPLEMENT`. Only b_x + b_h matters here; both are kept so that one parameter set serves both
forms.
"""

from __future__ import annotations

from typing import Final

from conformance.cells.cell import Cell
from conformance.cells.gru import COMPLEMENT, PARAMETERS, Equations, emit, project, reset_before

GRU_V1: Final = Cell(
    name="gru_v1",
    title="GRU, reset before the matrix product (v1)",
    source="Cho et al. 2014, arXiv:1406.1078v1, equations 5-8",
    parameters=PARAMETERS,
    intermediates=("r", "z", "n", "h"),
    equations=Equations(reset=reset_before),
    project=project,
    emit=emit,
    complement=COMPLEMENT,
)
