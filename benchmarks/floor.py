"""The floor: what the frameworks alone need for the cases of a campaign.

Nothing is drawn, sent or judged here. A case is: its weights in the framework's layout, one call of the layer, every
number of the answer in NumPy. As fast as the frameworks' public interfaces allow: layers are kept per size, programs
are compiled before they are timed, weights are arguments of compiled functions. It shares no code with the adapters.

    python floor.py         one request a line of standard input: {"candidate": NAME, "cases": FILE, "answers": FILE}

FILE is an ``.npz`` file: of cases ``0/W_xr``, ``0/x`` and so on for block 0, with an axis for the case in front, and
``0/h0`` where the layer is given a state; of answers ``0/outputs``. A line of JSON with the seconds of all cases is the
answer, or with why there are none.
"""

from __future__ import annotations

import json
import sys
import time
from functools import cache, partial

import numpy as np


def stacked(p, side, gates="rzn"):
    """The matrices or biases of one side, gates in rows."""
    return np.concatenate([p[f"{side}{gate}"] for gate in gates])


def folded(p):
    """Both biases as one, except in the candidate."""
    return np.concatenate([p["b_xr"] + p["b_hr"], p["b_xz"] + p["b_hz"], p["b_xn"]])


def torch_layer():
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    module = cache(partial(torch.nn.GRU, batch_first=True))

    def run(p):
        layer = module(p["x"].shape[-1], len(p["b_hn"]))
        layer.weight_ih_l0.copy_(torch.from_numpy(stacked(p, "W_x")))
        layer.weight_hh_l0.copy_(torch.from_numpy(stacked(p, "W_h")))
        layer.bias_ih_l0.copy_(torch.from_numpy(stacked(p, "b_x")))
        layer.bias_hh_l0.copy_(torch.from_numpy(stacked(p, "b_h")))
        x = torch.from_numpy(p["x"])
        outputs, final = layer(x, torch.from_numpy(p["h0"][None])) if "h0" in p else layer(x)
        return outputs.numpy(), final.numpy()

    return run


def mlx_gru():
    import mlx.core as mx
    import mlx.nn as nn

    module = cache(nn.GRU)

    def run(p):
        layer = module(p["x"].shape[-1], len(p["b_hn"]))
        layer.Wx, layer.Wh = mx.array(stacked(p, "W_x")), mx.array(stacked(p, "W_h"))
        layer.b, layer.bhn = mx.array(folded(p)), mx.array(p["b_hn"])
        x = mx.array(p["x"])
        return (np.array(layer(x, mx.array(p["h0"])) if "h0" in p else layer(x)),)

    return run


def linen_rnn():
    import jax
    from flax import linen

    @partial(jax.jit, static_argnums=0)
    def forward(layer, cell, x, h0):
        return layer.apply({"params": {"cell": cell}}, x, initial_carry=h0)

    @cache
    def layer_of(hidden):
        return linen.RNN(linen.GRUCell(hidden), return_carry=True)

    def run(p):
        cell = {}
        for gate in "rz":
            cell[f"i{gate}"] = {"kernel": p[f"W_x{gate}"].T, "bias": p[f"b_x{gate}"] + p[f"b_h{gate}"]}
            cell[f"h{gate}"] = {"kernel": p[f"W_h{gate}"].T}
        cell["in"] = {"kernel": p["W_xn"].T, "bias": p["b_xn"]}
        cell["hn"] = {"kernel": p["W_hn"].T, "bias": p["b_hn"]}
        final, outputs = forward(layer_of(len(p["b_hn"])), cell, p["x"], p.get("h0"))
        return np.asarray(outputs), np.asarray(final)

    return run


def nnx_rnn():
    import jax
    from flax import nnx

    @cache
    def forward_of(features, hidden):
        graph, state = nnx.split(nnx.RNN(nnx.GRUCell(features, hidden, rngs=nnx.Rngs(0)), return_carry=True))
        weights = nnx.to_pure_dict(state)

        @jax.jit
        def forward(input_kernel, kernel, bias, x, h0):
            weights["cell"] = {"dense_i": {"kernel": input_kernel, "bias": bias}, "dense_h": {"kernel": kernel}}
            nnx.replace_by_pure_dict(state, weights)
            return nnx.merge(graph, state)(x, initial_carry=h0)

        return forward

    def run(p):
        forward = forward_of(p["x"].shape[-1], len(p["b_hn"]))
        final, outputs = forward(stacked(p, "W_x").T, stacked(p, "W_h").T, folded(p), p["x"], p.get("h0"))
        return np.asarray(outputs), np.asarray(final)

    return run


FRAMEWORKS = {
    "torch:layer": torch_layer,
    "mlx:none": mlx_gru,
    "mlx:zeros": mlx_gru,
    "flax-linen:rnn": linen_rnn,
    "flax-nnx:rnn": nnx_rnn,
}


@cache
def made(candidate):
    return FRAMEWORKS[candidate]()


def timed(candidate, blocks):
    """The seconds and CPU seconds of all cases, and the outputs of each block."""
    run, warm = made(candidate), set()
    cases = [
        [{name: own[place] for name, own in block.items()} for place in range(len(block["x"]))] for block in blocks
    ]
    for first, *_ in cases:
        if (size := (first["x"].shape, first["b_hn"].shape)) not in warm:
            warm.add(size)
            run(first)
    wall, cpu = time.perf_counter(), time.process_time()
    answers = [[run(case) for case in block] for block in cases]
    took = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return took, [np.stack([answer[0] for answer in block]) for block in answers]


def main():
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["candidate"] not in FRAMEWORKS:
            print(json.dumps({"left_out": f"benchmarks/floor.py knows {', '.join(FRAMEWORKS)}"}), flush=True)
            continue
        blocks = {}
        with np.load(asked["cases"], allow_pickle=False) as stored:
            for key in stored.files:
                number, _, name = key.partition("/")
                blocks.setdefault(int(number), {})[name] = stored[key]
        took, outputs = timed(asked["candidate"], [blocks[number] for number in sorted(blocks)])
        np.savez(asked["answers"], **{f"{number}/outputs": own for number, own in enumerate(outputs)})
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
