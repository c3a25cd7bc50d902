"""The oracle against PyTorch's nn.RNN, nn.LSTM and nn.GRU: forward and all gradients, float64."""

import numpy as np
import pytest

import flashrnn_numba as fr

torch = pytest.importorskip("torch", reason="the peer of this test")

# ours -> for each of our gates the place in torch's stacked weights of its input and recurrent part
ELMAN = {"i": (0, 0)}
LSTM = {"i": (0, 0), "f": (1, 1), "z": (2, 2), "o": (3, 3)}
GRU = {"q": (None, 2), "r": (0, 0), "z": (1, 1), "n": (2, None)}
PEERS = {
    "elman": (torch.nn.RNN, ELMAN),
    "lstm": (torch.nn.LSTM, LSTM),
    "gru": (torch.nn.GRU, GRU),
}
SHAPES = [(1, 1, 1, 1), (3, 7, 1, 5), (2, 5, 3, 4)]  # B, T, H, D


def draw(name, shape):
    B, T, H, D = shape
    cell, random = fr.get_cell(name), np.random.default_rng(0)
    return {
        "Wx": random.normal(size=(B, T, len(cell.input_gates), H, D)),
        "R": random.normal(size=(len(cell.recurrent_gates), H, D, D)) / np.sqrt(D),
        "b": random.normal(size=(len(cell.bias_gates), H, D)),
        "states": random.normal(size=(len(cell.states), B, 1, H, D)),
        "weight": random.normal(size=(B, T, H, D)),
        "last weight": random.normal(size=(len(cell.states), B, 1, H, D)),
    }


def torch_run(name, arrays):
    """States of torch's module as [B, T, H, D], the last ones, and the gradients of all inputs.

    Torch multiplies its input by a matrix: the identity here, so that x is Wx. Heads become blocks
    on the diagonal of its recurrent matrix.
    """
    make, gates = PEERS[name]
    B, T, _, H, D = arrays["Wx"].shape
    cell, n = fr.get_cell(name), H * D
    leaf = {k: torch.tensor(arrays[k], requires_grad=True) for k in ("Wx", "R", "b", "states")}
    parts = [i for i, _ in gates.values() if i is not None]
    count = max(parts) + 1
    order = list(cell.gates)
    module = make(count * n, n, batch_first=True, dtype=torch.float64)
    x = [None] * count
    w_hh = [None] * count
    bias = {"ih": [torch.zeros(n, dtype=torch.float64)] * count}
    bias["hh"] = list(bias["ih"])
    for gate, (at_x, at_h) in gates.items():
        g = order.index(gate)
        if at_x is not None:
            x[at_x] = leaf["Wx"][:, :, cell.input_gates.index(g)].reshape(B, T, n)
        if at_h is not None:
            w_hh[at_h] = torch.block_diag(*leaf["R"][cell.recurrent_gates.index(g)])
        # torch has two biases; the recurrent one of the GRU's candidate is scaled by r, as our q
        side, place = ("hh", at_h) if at_x is None else ("ih", at_x)
        bias[side][place] = leaf["b"][cell.bias_gates.index(g)].reshape(n)
    weights = {
        "weight_ih_l0": torch.eye(count * n, dtype=torch.float64),
        "weight_hh_l0": torch.cat(w_hh),
        "bias_ih_l0": torch.cat(bias["ih"]),
        "bias_hh_l0": torch.cat(bias["hh"]),
    }
    first = tuple(s.reshape(1, B, n) for s in leaf["states"])
    out, last = torch.func.functional_call(
        module, weights, (torch.cat(x, -1), first if name == "lstm" else first[0])
    )
    last = torch.stack(last if isinstance(last, tuple) else (last,)).reshape(-1, B, 1, H, D)
    out = out.reshape(B, T, H, D)
    loss = (out * torch.tensor(arrays["weight"])).sum()
    (loss + (last * torch.tensor(arrays["last weight"])).sum()).backward()
    return out.detach(), last.detach(), {k: v.grad.numpy() for k, v in leaf.items()}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PEERS)
def test_results_and_gradients_are_those_of_torch(name, shape):
    arrays = draw(name, shape)
    out, last, expected = torch_run(name, arrays)
    inputs = {k: arrays[k] for k in ("Wx", "R", "b", "states")}
    states, our_last, vjp = fr.flashrnn_vjp(**inputs, function=name, backend="reference")
    np.testing.assert_allclose(states[0], out, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(our_last, last, rtol=1e-12, atol=1e-14)
    dstates = np.zeros(states.shape)
    dstates[0] = arrays["weight"]
    gradients = vjp(dstates, arrays["last weight"])._asdict()
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[key], rtol=1e-11, atol=1e-13, err_msg=key)
