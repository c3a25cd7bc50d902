"""A cell of your own: an LSTM with peephole connections (Gers and Schmidhuber 2000).

python examples/own_cell.py
flashrnn-numba check examples/own_cell.py:peephole_lstm
flashrnn-numba parity --cell examples/own_cell.py:peephole_lstm
"""

import numpy as np

import flashrnn_numba as fr
from flashrnn_numba.cells import sigmoid, tanh
from flashrnn_numba.testing import check_cell

FULL, PER_UNIT = "xRb", "b"  # b alone: a trainable weight for each unit


@fr.cell(
    gates={"i": FULL, "f": FULL, "z": FULL, "o": FULL}
    | dict.fromkeys(("pi", "pf", "po"), PER_UNIT),
    states=("h", "c"),
)
def peephole_lstm(g, s):
    i, f = sigmoid(g.i + g.pi * s.c), sigmoid(g.f + g.pf * s.c)
    c = f * s.c + i * tanh(g.z)
    return sigmoid(g.o + g.po * c) * tanh(c), c


def main() -> None:
    print(check_cell(peephole_lstm))  # its gradient was derived; every backend runs it

    B, T, H, D = 8, 50, 2, 16
    rng = np.random.default_rng(0)
    Wx = rng.standard_normal((B, T, 4, H, D), dtype=np.float32)
    R = rng.standard_normal((4, H, D, D), dtype=np.float32) / 4
    b = rng.standard_normal((7, H, D), dtype=np.float32) / 10  # 4 biases, 3 peephole weights
    states, last, vjp = fr.flashrnn_vjp(Wx, R, b, function=peephole_lstm)
    gradients = vjp(np.ones_like(states))
    print("states", states.shape, "last", last.shape, "gradient of b", gradients.b.shape)


if __name__ == "__main__":
    main()
