"""The essence of `flashrnn-numba parity`: an LSTM learns the parity of bit strings, in NumPy.

python examples/train_parity.py
"""

import numpy as np

import flashrnn_numba as fr
from flashrnn_numba.training import Adam, parities, random_bits

H, D, BATCH = 1, 32, 32  # heads, units of a head, strings a step
rng = np.random.default_rng(0)


def normal(*shape: int, fan_in: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


p = {
    "W": normal(2, 4 * H * D, fan_in=1),  # each symbol's input part of the four gates
    "R": normal(4, H, D, D, fan_in=D),
    "b": np.zeros((4, H, D), np.float32),
    "V": normal(H * D, 2, fan_in=H * D),  # read-out
}
adam, length, steps = Adam(p), 4, 600
for step in range(steps):
    bits = random_bits(rng, BATCH, length)
    symbols, answers = np.eye(2, dtype=np.float32)[bits], np.eye(2)[parities(bits)]

    Wx = (symbols @ p["W"]).reshape(BATCH, length, 4, H, D)
    states, _, vjp = fr.flashrnn_vjp(Wx, p["R"], p["b"], function="lstm")
    h = states[0].reshape(BATCH, length, H * D)
    probability = np.exp(h @ p["V"])
    probability /= probability.sum(axis=-1, keepdims=True)

    error = ((probability - answers) / bits.size).astype(np.float32)  # of mean cross-entropy
    dstates = np.zeros_like(states)
    dstates[0] = (error @ p["V"].T).reshape(states[0].shape)
    d = vjp(dstates)
    gradients = {
        "W": np.einsum("bts,btn->sn", symbols, d.Wx.reshape(BATCH, length, -1)),
        "R": d.R,
        "b": d.b,
        "V": np.einsum("btn,btc->nc", h, error),
    }
    adam.step(gradients, learning_rate=3e-3 * min(1, 2 * (1 - step / steps)))

    accuracy = (probability.argmax(axis=-1) == parities(bits)).mean()
    if accuracy > 0.98:  # every prefix of a string counts; strings grow as they are learned
        length = min(40, length + 2)
    if step % 50 == 0:
        print(f"step {step:3}  length {length:2}  accuracy {accuracy:.3f}")

bits = random_bits(rng, 1000, 256)
Wx = (np.eye(2, dtype=np.float32)[bits] @ p["W"]).reshape(1000, 256, 4, H, D)
_, last = fr.flashrnn(Wx, p["R"], p["b"], function="lstm")
right = (last[0].reshape(1000, H * D) @ p["V"]).argmax(axis=-1) == parities(bits)[:, -1]
print(f"trained up to length 40; accuracy at length 256: {right.mean():.3f}")
