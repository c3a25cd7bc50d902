"""Hochreiter, S. and Schmidhuber, J. (1997), Long short-term memory; forget gate: Gers (2000)."""

from .cell import cell
from .expression import sigmoid, tanh


@cell(gates=("i", "f", "z", "o"), states=("h", "c"))
def lstm(g, s):
    """Long short-term memory: input, forget, cell-input and output gate; output h, cell state c."""
    c = sigmoid(g.f) * s.c + sigmoid(g.i) * tanh(g.z)
    return sigmoid(g.o) * tanh(c), c
