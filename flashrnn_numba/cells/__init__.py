"""Cells: what is computed. See `cell` for how to write one, and lstm.py for an example."""

from .cell import Cell, cell
from .elman import elman
from .expression import (
    CellError,
    clip,
    exp,
    log,
    log_sigmoid,
    maximum,
    minimum,
    relu,
    sigmoid,
    softplus,
    sqrt,
    stop_gradient,
    tanh,
    where,
)
from .expression import absolute as abs
from .gru import gru
from .lstm import lstm
from .registry import get_cell, list_cells, register_cell
from .slstm import slstm

__all__ = [
    "Cell",
    "CellError",
    "abs",
    "cell",
    "clip",
    "elman",
    "exp",
    "get_cell",
    "gru",
    "list_cells",
    "log",
    "log_sigmoid",
    "lstm",
    "maximum",
    "minimum",
    "register_cell",
    "relu",
    "sigmoid",
    "slstm",
    "softplus",
    "sqrt",
    "stop_gradient",
    "tanh",
    "where",
]
