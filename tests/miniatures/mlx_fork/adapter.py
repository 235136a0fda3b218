"""Released MLX, dressed up as a build with fused cells and a switch, and then the real adapter of MLX on top of it.

The contract is that of ml-explore/mlx pull request 3089: ``MLX_RNN_IMPL`` is read once, ``nn.get_rnn_implementation()``
tells; ``mx.fast.gru_cell`` and ``lstm_cell`` take 2-D arrays; the layers call them where a state is given. The variable
FORK chooses what is honest about it, and what is not; LEVEL asks for the calls that benchmarks time.
"""

import os
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from conformance.worker.api import Result
from conformance.worker.serve import load_adapter

FORK = os.environ.get("FORK", "honest")
IMPLEMENTATION = os.environ.get("MLX_RNN_IMPL", "fast")


def two_dimensional(*arrays):
    for value in arrays:
        if value.ndim != 2:
            raise ValueError(f"[fused cell] wanted 2-D arrays, got one of shape {value.shape}")


def gates(input_proj, hidden_proj, hidden, bhn, *, by_difference=True):
    x_r, x_z, x_n = mx.split(input_proj, 3, axis=-1)
    h_r, h_z, h_n = mx.split(hidden_proj, 3, axis=-1)
    z = mx.sigmoid(x_z + h_z)
    n = mx.tanh(x_n + mx.sigmoid(x_r + h_r) * (h_n if bhn is None else h_n + bhn))
    return n + z * (hidden - n) if by_difference else (1 - z) * n + z * hidden


def memory(input_proj, hidden_proj, cell):
    i, f, g, o = mx.split(input_proj + hidden_proj, 4, axis=-1)
    cell = mx.sigmoid(f) * cell + mx.sigmoid(i) * mx.tanh(g)
    return cell, mx.sigmoid(o) * mx.tanh(cell)


def gru_cell(input_proj, hidden_proj, hidden, bhn=None):
    two_dimensional(input_proj, hidden_proj, hidden)
    if FORK == "drops_bhn":
        bhn = None
    if FORK == "other_order":
        input_proj, hidden_proj = hidden_proj, input_proj
    return gates(input_proj, hidden_proj, hidden, bhn)


if FORK == "three_arguments":

    def gru_cell(input_proj, hidden_proj, hidden):
        two_dimensional(input_proj, hidden_proj, hidden)
        return gates(input_proj, hidden_proj, hidden, None)


def lstm_cell(input_proj, hidden_proj, cell, hidden):
    two_dimensional(input_proj, hidden_proj, cell, hidden)
    if FORK == "other_order":
        cell, hidden = hidden, cell
    cell, hidden = memory(input_proj, hidden_proj, cell)
    return (hidden, cell) if FORK == "other_results" else (cell, hidden)


def fused(t, hidden):
    """Whether the layers call a fused cell at this step."""
    if FORK == "never_called" or (IMPLEMENTATION == "legacy" and FORK != "always"):
        return False
    if FORK == "gpu_only":
        return mx.default_device() == mx.gpu
    if FORK == "some_steps" and t % 3 == 2:
        return False
    return hidden is not None


class GRU(nn.GRU):
    def __call__(self, x, hidden=None):
        x, states = x @ self.Wx.T + self.b, []
        for t in range(x.shape[-2]):
            hidden = self.step(t, x[..., t, :], hidden)
            states.append(hidden)
        return mx.stack(states, axis=-2)

    def step(self, t, x, hidden):
        given = mx.zeros((*x.shape[:-1], self.hidden_size), dtype=x.dtype) if hidden is None else hidden
        projected = given @ self.Wh.T
        own = gates(x, projected, given, self.bhn, by_difference=False)
        if not fused(t, hidden):
            return own
        if FORK == "three_arguments":
            padded = mx.concatenate([mx.zeros((2 * self.hidden_size,), dtype=x.dtype), self.bhn])
            arguments, further = (x, projected + padded, given), ()
        else:
            arguments, further = (x, projected, given), (self.bhn,)
        # The name in this module, or the one in mx.fast: a build may use either.
        cell = gru_cell if FORK == "held" else mx.fast.gru_cell
        if x.ndim == 1 and FORK != "unbatched_fails":
            result = cell(*(value[None] for value in arguments), *further)[0]
        else:
            result = cell(*arguments, *further)
        return own if FORK == "discards" else result


class LSTM(nn.LSTM):
    def __call__(self, x, hidden=None, cell=None):
        x, states, cells = x @ self.Wx.T + self.bias, [], []
        for t in range(x.shape[-2]):
            cell, hidden = self.step(t, x[..., t, :], cell, hidden)
            states.append(hidden)
            cells.append(cell)
        return mx.stack(states, axis=-2), mx.stack(cells, axis=-2)

    def step(self, t, x, cell, hidden):
        zeros = mx.zeros((*x.shape[:-1], self.hidden_size), dtype=x.dtype)
        given = zeros if hidden is None else hidden
        arguments = (x, given @ self.Wh.T, zeros if cell is None else cell, given)
        if not fused(t, hidden):
            return memory(*arguments[:3])
        if x.ndim == 1 and FORK != "unbatched_fails":
            return tuple(value[0] for value in mx.fast.lstm_cell(*(value[None] for value in arguments)))
        return mx.fast.lstm_cell(*arguments)


def pretended(kind):
    """A maker of kernels for a device that is not here: it checks what it is given, and computes the gates plainly."""

    def make(*, name, input_names, output_names, source, header):
        assert "gate_sigmoid" in source
        assert "gate_sigmoid" in header

        def kernel(*, inputs, template, grid, threadgroup, output_shapes, output_dtypes):
            named = dict(zip(input_names, inputs, strict=True))
            hidden = named["hidden"]
            assert dict(template) == {"T": hidden.dtype, "H": hidden.shape[1]}
            assert grid == (hidden.size, 1, 1)
            assert 1 <= threadgroup[0] <= min(grid[0], 1024)
            assert output_shapes == [hidden.shape] * len(output_names)
            assert output_dtypes == [hidden.dtype] * len(output_names)
            if name.endswith("gru"):
                return [gates(named["input_proj"], named["hidden_proj"], hidden, named["bhn"])]
            return list(memory(named["input_proj"], named["hidden_proj"], named["cell"]))

        return kernel

    mx.default_device = lambda: mx.gpu
    mx.metal.is_available = lambda: kind == "metal"
    setattr(mx.fast, f"{kind}_kernel", make)


if FORK in ("metal", "cuda"):
    pretended(FORK)
elif FORK != "released":
    nn.GRU, nn.LSTM = GRU, LSTM
    mx.fast.gru_cell, mx.fast.lstm_cell = gru_cell, lstm_cell
    nn.get_rnn_implementation = lambda: "legacy" if FORK == "says_legacy" else IMPLEMENTATION

_adapter = load_adapter(Path(__file__).resolve().parents[3] / "adapters" / "mlx")
facts, run, prepare = _adapter.facts, _adapter.run, _adapter.prepare

if "LEVEL" in os.environ:

    def run(case):
        """The prepared call, made twice more, in place of a plain run."""
        prepared = prepare(case, os.environ["LEVEL"])
        prepared.call()
        outputs = np.array(prepared.call().astype(mx.float32))
        np.testing.assert_array_equal(outputs, prepared.outputs)
        return Result(outputs=outputs, final_state=outputs[..., -1, :], dtype=case.dtype, path=prepared.path)
