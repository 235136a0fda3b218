"""PyTorch: ``torch.nn.GRU``, and ``torch.nn.GRUCell`` called step by step, on the CPU, without gradients."""

from __future__ import annotations

import numpy as np
import torch

from conformance.worker.api import Result, WorkerCase, assemble

# Gates r, z, n in rows, matrices (out, in), both biases kept: exactly the canonical form, stacked.
WEIGHTS = {
    "weight_ih": ["W_xr", "W_xz", "W_xn"],
    "weight_hh": ["W_hr", "W_hz", "W_hn"],
    "bias_ih": ["b_xr", "b_xz", "b_xn"],
    "bias_hh": ["b_hr", "b_hz", "b_hn"],
}


def facts() -> dict[str, str]:
    """Version and device as PyTorch reports them, and its switches for products of reduced precision."""
    return {
        "torch": torch.__version__,
        "device": str(torch.get_default_device()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cuda_matmul_allow_tf32": str(torch.backends.cuda.matmul.allow_tf32),
        "blas": next(
            (w for w in torch.__config__.show().replace(",", " ").split() if w.startswith("BLAS_INFO")), "not reported"
        ),
        "mkldnn": str(torch.backends.mkldnn.is_available()),
    }


@torch.no_grad()
def run(case: WorkerCase) -> Result:
    """Load the weights, run the variant, and name its outputs."""
    dtype = getattr(torch, case.dtype)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.tensor(values).to(dtype)

    weights = {name: tensor(assemble(recipe, case.parameters)) for name, recipe in WEIGHTS.items()}
    h0 = None if case.h0 is None else tensor(case.h0)
    unroll = {"layer": unroll_layer, "cell": unroll_cell}[case.variant]
    outputs, final_state, path = unroll(weights, tensor(case.x), h0)
    container = torch.float64 if outputs.dtype == torch.float64 else torch.float32
    return Result(
        outputs=outputs.to(container).numpy(),
        final_state=final_state.to(container).numpy(),
        dtype=str(outputs.dtype).rpartition(".")[2],
        path=path,
    )


def unroll_layer(
    weights: dict[str, torch.Tensor], x: torch.Tensor, h0: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, str]:
    """``nn.GRU``: x (B, T, D) or (T, D), its state (layers = 1, B, H) or (1, H)."""
    gru = torch.nn.GRU(x.shape[-1], weights["weight_hh"].shape[1], batch_first=True, dtype=x.dtype)
    gru.load_state_dict({f"{name}_l0": value for name, value in weights.items()})
    if h0 is None:
        path = "torch.nn.GRU(x)"
        outputs, final_state = gru(x)
    else:
        path = "torch.nn.GRU(x, hx)"
        outputs, final_state = gru(x, h0[None])
    return outputs, final_state[0], path


def unroll_cell(
    weights: dict[str, torch.Tensor], x: torch.Tensor, h0: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, str]:
    """``nn.GRUCell`` over the time axis: x_t (B, D) or (D,), its state (B, H) or (H,)."""
    cell = torch.nn.GRUCell(x.shape[-1], weights["weight_hh"].shape[1], dtype=x.dtype)
    cell.load_state_dict(weights)
    first, *rest = x.unbind(-2)
    if h0 is None:
        path = "torch.nn.GRUCell, first called without hx"
        states = [cell(first)]
    else:
        path = "torch.nn.GRUCell, first called with hx"
        states = [cell(first, h0)]
    for x_t in rest:
        states.append(cell(x_t, states[-1]))
    return torch.stack(states, dim=-2), states[-1], path
