"""Elman, J. L. (1990), Finding structure in time. Cognitive Science 14."""

from .cell import cell
from .expression import tanh


@cell(gates=("i",), states=("h",))
def elman(g, s):
    """The plain recurrent network."""
    return tanh(g.i)
