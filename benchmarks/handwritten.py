"""What the harness replaces: a check of GRU implementations as an engineer writes it in an afternoon.

Shapes and numbers are random; the layers of MLX (state omitted, and zeros), PyTorch, Flax linen and Flax NNX run
on the same weights; a loop in NumPy says what is right; ``assert_allclose`` decides. It is kept honest, so that
``rnn-conformance bench harness`` compares the harness with something that somebody would write: no framework is used
badly, nothing is done twice, and every result is evaluated once. NNX has no place for b_hn, which is zero there.

    python handwritten.py           one case a line of standard input; a line of JSON with its times for each
"""

from __future__ import annotations

import json
import sys
import time

BEGAN = time.perf_counter(), time.process_time()

import jax  # noqa: E402  the imports are part of what is measured
import jax.numpy as jnp  # noqa: E402
import mlx.core as mx  # noqa: E402
import mlx.nn  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from flax import linen, nnx  # noqa: E402

RTOL, ATOL = 1e-4, 1e-5


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def numpy_gru(p, x):
    """The documented equations, one step after another; p: the weights by gate, x: (B, T, D)."""
    h = np.zeros((x.shape[0], p["W_hn"].shape[0]))
    states = []
    for x_t in np.swapaxes(x, 0, 1):
        r = sigmoid(x_t @ p["W_xr"].T + p["b_r"] + h @ p["W_hr"].T)
        z = sigmoid(x_t @ p["W_xz"].T + p["b_z"] + h @ p["W_hz"].T)
        n = np.tanh(x_t @ p["W_xn"].T + p["b_n"] + r * (h @ p["W_hn"].T + p["b_hn"]))
        h = (1 - z) * n + z * h
        states.append(h)
    return np.stack(states, axis=1)


def stacked(p, side):
    return np.concatenate([p[f"W_{side}{gate}"] for gate in "rzn"])


def mlx_gru(p, x, *, zeros):
    layer = mlx.nn.GRU(x.shape[-1], len(p["b_n"]))
    biases = np.concatenate([p["b_r"], p["b_z"], p["b_n"]])
    layer.load_weights(
        [
            ("Wx", mx.array(stacked(p, "x"))),
            ("Wh", mx.array(stacked(p, "h"))),
            ("b", mx.array(biases)),
            ("bhn", mx.array(p["b_hn"])),
        ]
    )
    x = mx.array(x)
    return np.array(layer(x, mx.zeros((x.shape[0], len(p["b_n"])))) if zeros else layer(x))


def torch_gru(p, x):
    layer = torch.nn.GRU(x.shape[-1], len(p["b_n"]), batch_first=True)
    zero = np.zeros_like(p["b_n"])
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.from_numpy(stacked(p, "x")))
        layer.weight_hh_l0.copy_(torch.from_numpy(stacked(p, "h")))
        layer.bias_ih_l0.copy_(torch.from_numpy(np.concatenate([p["b_r"], p["b_z"], p["b_n"]])))
        layer.bias_hh_l0.copy_(torch.from_numpy(np.concatenate([zero, zero, p["b_hn"]])))
        return layer(torch.from_numpy(x))[0].numpy()


def linen_gru(p, x):
    layer = linen.RNN(linen.GRUCell(features=len(p["b_n"])))
    cell = {}
    for gate in "rzn":
        cell[f"i{gate}"] = {"kernel": p[f"W_x{gate}"].T, "bias": p[f"b_{gate}"]}
        cell[f"h{gate}"] = {"kernel": p[f"W_h{gate}"].T}
    cell["hn"]["bias"] = p["b_hn"]
    return np.asarray(jax.jit(layer.apply)({"params": {"cell": cell}}, x))


def nnx_gru(p, x):
    cell = nnx.GRUCell(x.shape[-1], len(p["b_n"]), rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...] = jnp.asarray(stacked(p, "x").T)
    cell.dense_i.bias[...] = jnp.asarray(np.concatenate([p["b_r"], p["b_z"], p["b_n"]]))
    cell.dense_h.kernel[...] = jnp.asarray(stacked(p, "h").T)
    return np.asarray(nnx.jit(lambda layer, x: layer(x))(nnx.RNN(cell), x))


def check(batch, steps, features, hidden, number):
    """All implementations on one case; returns what disagrees with the loop."""
    rng = np.random.default_rng(number)
    p = {}
    for gate in "rzn":
        p[f"W_x{gate}"] = rng.normal(size=(hidden, features)).astype(np.float32) / np.float32(np.sqrt(features))
        p[f"W_h{gate}"] = rng.normal(size=(hidden, hidden)).astype(np.float32) / np.float32(np.sqrt(hidden))
        p[f"b_{gate}"] = rng.normal(size=hidden).astype(np.float32)
    p["b_hn"] = rng.normal(size=hidden).astype(np.float32)
    x = rng.normal(size=(batch, steps, features)).astype(np.float32)
    without = {**p, "b_hn": np.zeros_like(p["b_hn"])}
    wrong = []
    for name, run, own in (
        ("mlx none", lambda q: mlx_gru(q, x, zeros=False), p),
        ("mlx zeros", lambda q: mlx_gru(q, x, zeros=True), p),
        ("torch", lambda q: torch_gru(q, x), p),
        ("linen", lambda q: linen_gru(q, x), p),
        ("nnx", lambda q: nnx_gru(q, x), without),
    ):
        try:
            np.testing.assert_allclose(run(own), numpy_gru(own, x), rtol=RTOL, atol=ATOL)
        except AssertionError:
            wrong.append(name)
    return wrong


def drawn(number):
    """Shapes and seeds of cases, without end. Drawn by Hypothesis every other case would be of one unit and step."""
    rng = np.random.default_rng(number)
    while True:
        yield (*(int(rng.integers(1, most + 1)) for most in (4, 24, 16, 64)), int(rng.integers(2**32)))


def main():
    """A case for every line of standard input; the times of the first one count from the start, imports included."""
    cases = drawn(0)
    began = BEGAN
    for _ in sys.stdin:
        wall, cpu = began or (time.perf_counter(), time.process_time())
        began = None
        wrong = check(*next(cases))
        took = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "wrong": wrong}
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
