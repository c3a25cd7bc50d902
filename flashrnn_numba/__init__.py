"""Fast recurrent networks in pure Python: a cell is a few lines, its kernels follow from them."""

from .api import flashrnn, flashrnn_vjp
from .cells import Cell, CellError, cell, get_cell, list_cells, register_cell
from .kernels.interface import Gradients

__version__ = "0.1.0"

__all__ = [
    "Cell",
    "CellError",
    "Gradients",
    "__version__",
    "cell",
    "flashrnn",
    "flashrnn_vjp",
    "get_cell",
    "list_cells",
    "register_cell",
]
