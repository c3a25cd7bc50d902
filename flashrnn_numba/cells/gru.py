"""Cho, K. et al. (2014), in the form of cuDNN: the reset gate r scales the recurrent product q."""

from .cell import cell
from .expression import sigmoid, tanh


@cell(gates={"q": "Rb", "r": "xRb", "z": "xRb", "n": "xb"}, states=("h",))
def gru(g, s):
    """Gated recurrent unit: recurrent part q of the candidate, reset r, update z, candidate n."""
    r, z = sigmoid(g.r), sigmoid(g.z)
    return z * s.h + (1 - z) * tanh(g.n + r * g.q)
