"""minGRU-pytorch: ``minGRU`` and ``minLSTM`` of the package of that name, on the CPU.

Their linear map has no bias: x gets one more feature that is always one, whose weights are the biases. The projections
of the modules are switched off, so that they return their states.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from unittest.mock import patch

import numpy as np
import torch
from minGRU_pytorch.minGRU import minGRU
from minGRU_pytorch.minLSTM import minLSTM

from conformance.worker.api import Result, WorkerCase, assemble, attest, distribute

CLASSES = {"mingru_log": minGRU, "minlstm_log": minLSTM}
# Gates in rows, matrices (out, in), the candidate first.
RECIPES = {
    "mingru_log": {"weight": ["W_n", "W_z"], "bias": ["b_n", "b_z"]},
    "minlstm_log": {"weight": ["W_n", "W_f", "W_i"], "bias": ["b_n", "b_f", "b_i"]},
}
LINEAR = {"mingru_log": "to_hidden_and_gate", "minlstm_log": "to_hidden_and_f_i_gate"}
SCAN = "heinsen_associative_scan_log"


def facts() -> dict[str, str]:
    """Versions and device as the packages report them."""
    return {
        "minGRU-pytorch": version("minGRU-pytorch"),
        "torch": torch.__version__,
        "device": str(torch.get_default_device()),
    }


def build(case: WorkerCase) -> tuple[torch.nn.Module, str]:
    """The module with its weights, and its name as the module itself tells it."""
    weight, bias = (assemble(RECIPES[case.cell][part], case.parameters) for part in ("weight", "bias"))
    features = case.x.shape[-1] + 1
    # The module rounds features * expansion_factor down to its number of hidden units.
    module = CLASSES[case.cell](features, expansion_factor=(case.hidden + 0.5) / features, proj_out=False)
    module = module.to(getattr(torch, case.dtype))
    rows = np.concatenate([weight, bias[:, None]], axis=1)
    module.load_state_dict({f"{LINEAR[case.cell]}.weight": tensor(rows, case)})
    kind = type(module)
    return module, f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def tensor(values: np.ndarray, case: WorkerCase) -> torch.Tensor:
    """A contiguous copy in the case's dtype."""
    return torch.tensor(values).to(getattr(torch, case.dtype))


def array(values: torch.Tensor) -> np.ndarray:
    """To NumPy, which has no bfloat16: what is narrower than float32 comes in float32."""
    values = values.detach()
    return values.to(torch.promote_types(values.dtype, torch.float32)).numpy()


def with_ones(case: WorkerCase) -> torch.Tensor:
    """X with one more feature that is one, (B, T, D + 1)."""
    x = np.concatenate([case.x, np.ones_like(case.x[..., :1])], axis=-1)
    return tensor(x.swapaxes(0, 1), case).transpose(0, 1) if case.strided else tensor(x, case)


def run(case: WorkerCase) -> Result:
    """Run the module whole, and name its outputs."""
    module, layer = build(case)
    inputs = {"x": with_ones(case)}
    if case.h0 is not None:
        inputs["h0"] = tensor(case.h0[:, None], case)
    home = sys.modules[type(module).__module__]
    # The package's own scan runs, and tells that it did: for one step the modules take no logarithms.
    with patch.object(home, SCAN, wraps=getattr(home, SCAN)) as scan, torch.no_grad():
        states, last = module(inputs["x"], inputs.get("h0"), return_next_prev_hidden=True)
    path = "{layer}, one step"
    if scan.called:
        path = "{layer}, heinsen_associative_scan_log"
    return Result(
        outputs=array(states),
        final_state=array(last[:, 0]),
        dtype=str(states.dtype).rpartition(".")[2],
        path=attest(path.format(layer=layer), case.features),
        inputs_after=after(module, inputs, case) if case.inputs_back else {},
    )


def after(module: torch.nn.Module, inputs: dict[str, torch.Tensor], case: WorkerCase) -> dict[str, np.ndarray]:
    """Inputs and parameters by canonical name, as they are after the call."""
    rows = array(module.get_parameter(f"{LINEAR[case.cell]}.weight"))
    found = {"x": array(inputs["x"])[..., :-1]}
    if "h0" in inputs:
        found["h0"] = array(inputs["h0"])[:, 0]
    found |= distribute(RECIPES[case.cell]["weight"], rows[:, :-1])
    return found | distribute(RECIPES[case.cell]["bias"], rows[:, -1])
