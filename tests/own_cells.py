"""Cells of users, right and with one mistake each, in every framework; written from the tutorial's rules alone."""

from __future__ import annotations

from dataclasses import dataclass

NUMPY_CELL = """
import numpy as np
CELL, UPDATE = "gru_v1", "mix"
def sigmoid(a):
    return 1 / (1 + np.exp(-a))
def step(params, x, h):
    xh = np.concatenate([x, h], axis=-1)
    r = sigmoid(xh @ params["W_r"] + params["b_r"])
    z = sigmoid(xh @ params["W_z"] + params["b_z"])
    n = np.tanh(np.concatenate([x, r * h], axis=-1) @ params["W_h"] + params["b_h"])
    return (1 - z) * h + z * n
class Layer:
    def __init__(self, input_size, hidden_size):
        self.hidden = hidden_size
        self.W_r, self.W_z, self.W_h = (np.random.randn(input_size + hidden_size, hidden_size) for _ in range(3))
        self.b_r, self.b_z, self.b_h = (np.zeros(hidden_size) for _ in range(3))
    def __call__(self, x):
        h, states = np.zeros(self.hidden, np.float32), []
        for t in range(x.shape[0]):
            h = step(vars(self), x[t], h)
            states.append(h)
        return np.stack(states)
"""
LINEN_CELL = """
import flax.linen as nn
import jax.numpy as jnp
CELL, UPDATE = "gru_v1", "mix"
class Cell(nn.Module):
    features: int
    def setup(self):
        self.r, self.z, self.n = (nn.Dense(self.features) for _ in range(3))
    def __call__(self, carry, x):
        h = carry
        xh = jnp.concatenate([x, h], axis=-1)
        r = nn.sigmoid(self.r(xh))
        z = nn.sigmoid(self.z(xh))
        n = nn.tanh(self.n(jnp.concatenate([x, r * h], axis=-1)))
        h = (1 - z) * h + z * n
        return h, h
"""
NNX_LAYER = """
import jax
import jax.numpy as jnp
from flax import nnx
CELL = "gru"
class Layer(nnx.Module):
    def __init__(self, in_features, hidden_features, *, rngs):
        self.cell = nnx.GRUCell(in_features, hidden_features, rngs=rngs)
        self.sizes = (in_features, hidden_features)
    def __call__(self, x):
        def step(carry, x_t):
            cell = self.cell
            return cell(carry, x_t)
        return jax.lax.scan(step, jnp.zeros((self.sizes[1],)), x)
"""
TORCH_CELL = """
import torch
from torch import nn
CELL, UPDATE = "gru", "keep"
class Cell(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.x_r, self.x_z, self.x_n = (nn.Linear(input_size, hidden_size) for _ in range(3))
        self.h_r, self.h_z, self.h_n = (nn.Linear(hidden_size, hidden_size) for _ in range(3))
    def forward(self, x, h):
        r = torch.sigmoid(self.x_r(x) + self.h_r(h))
        z = torch.sigmoid(self.x_z(x) + self.h_z(h))
        n = torch.tanh(self.x_n(x) + r * self.h_n(h))
        return (1 - z) * n + z * h
class Layer(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.sizes = (input_size, hidden_size)
        self.cell = nn.GRUCell(input_size, hidden_size)
    def forward(self, x):
        h, states = x.new_zeros(x.shape[0], self.sizes[1]), []
        for t in range(x.shape[1]):
            cell = self.cell
            h = cell(x[:, t], h)
            states.append(h)
        return torch.stack(states, dim=1)
"""
MLX_CELL = """
import mlx.core as mx
import mlx.nn as nn
CELL, UPDATE = "gru_v1", "mix"
class Cell(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.reset = nn.Linear(input_size + hidden_size, hidden_size)
        self.update_gate = nn.Linear(input_size + hidden_size, hidden_size)
        self.candidate = nn.Linear(input_size + hidden_size, hidden_size)
    def __call__(self, x, h):
        xh = mx.concatenate([x, h], axis=-1)
        r = mx.sigmoid(self.reset(xh))
        z = mx.sigmoid(self.update_gate(xh))
        n = mx.tanh(self.candidate(mx.concatenate([x, r * h], axis=-1)))
        return (1 - z) * h + z * n
"""


@dataclass(frozen=True)
class Planted:
    """A file with one mistake: the text that is replaced, by what, and the name that it must get ("" for none)."""

    framework: str
    text: str
    name: str
    right: str
    wrong: str
    fault: str

    @property
    def id(self) -> str:
        return f"{self.framework}-{self.name}-{self.fault or 'right'}"

    @property
    def source(self) -> str:
        assert self.right in self.text
        return self.text.replace(self.right, self.wrong)


HARNESS = tuple(
    Planted("numpy", NUMPY_CELL, name, right, wrong, fault)
    for name, right, wrong, fault in (
        ("step", "", "", ""),
        ("Layer", "", "", ""),
        ("step", "(1 - z) * h + z * n", "(1 - z) * n + z * h", "update_flip"),
        ("Layer", "(1 - z) * h + z * n", "(1 - z) * n + z * h", "update_flip"),
        ("step", "[x, r * h]", "[x, h]", "reset_ignored"),
        ("step", "np.tanh", "sigmoid", "sigmoid_new"),
        ("Layer", "return 1 / (1 + np.exp(-a))", "return np.tanh(a)", "gate_tanh"),
        ("step", 'z = sigmoid(xh @ params["W_z"]', 'z = sigmoid(xh @ params["W_r"]', "rz_share_matrix"),
        (
            "Layer",
            "x.shape[0]):\n            h = step(vars(self), x[t]",
            "x.shape[1]):\n            h = step(vars(self), x[:, t]",
            "x_transposed",
        ),
    )
)
FRAMEWORKS = (
    Planted("linen", LINEN_CELL, "Cell", "", "", ""),
    Planted("linen", LINEN_CELL, "Cell", "self.z(xh)", "self.r(xh)", "rz_share_parameters"),
    Planted(
        "nnx",
        NNX_LAYER,
        "Layer",
        "cell = self.cell",
        "cell = nnx.GRUCell(*self.sizes, rngs=nnx.Rngs(0))",
        "fresh_weights",
    ),
    Planted("nnx", NNX_LAYER, "Layer", ",)), x)", ",)), x.T)", "x_transposed"),
    Planted("torch", TORCH_CELL, "Cell", "", "", ""),
    Planted("torch", TORCH_CELL, "Cell", "r * self.h_n(h)", "self.h_n(h)", "reset_ignored"),
    Planted("torch", TORCH_CELL, "Layer", "cell = self.cell", "cell = nn.GRUCell(*self.sizes)", "fresh_weights"),
    Planted("mlx", MLX_CELL, "Cell", "", "", ""),
    Planted("mlx", MLX_CELL, "Cell", "(1 - z) * h + z * n", "(1 - z) * n + z * h", "update_flip"),
    Planted("mlx", MLX_CELL, "Cell", "z = mx.sigmoid", "z = mx.tanh", "z_tanh"),
)
