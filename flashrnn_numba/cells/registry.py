"""Cells by name."""

from __future__ import annotations

from .cell import Cell
from .elman import elman
from .gru import gru
from .lstm import lstm
from .slstm import slstm

_cells: dict[str, Cell] = {c.name: c for c in (elman, lstm, gru, slstm)}


def register_cell(cell: Cell, name: str | None = None, *, replace: bool = False) -> Cell:
    """Make `function=name` mean this cell; name defaults to the cell's own.

    Raises TypeError for anything but a Cell, ValueError for a name already taken by another cell
    unless replace=True. Returns the cell.
    """
    if not isinstance(cell, Cell):
        raise TypeError(
            f"cell must be a Cell (a function decorated with @cell), got {type(cell).__name__}"
        )
    name = name or cell.name
    if not replace and name in _cells and _cells[name].key != cell.key:
        raise ValueError(f"name {name!r} is taken by {_cells[name]!r}; pass replace=True or a name")
    _cells[name] = cell
    return cell


def list_cells() -> tuple[str, ...]:
    """The names that `function=` accepts."""
    return tuple(_cells)


def get_cell(function: str | Cell) -> Cell:
    """The cell of this name, or the cell itself. ValueError for an unknown name, TypeError else."""
    if isinstance(function, Cell):
        return function
    if not isinstance(function, str):
        raise TypeError(
            f"function must be a cell or the name of one, got {type(function).__name__}; "
            "decorate a Python function with flashrnn_numba.cells.cell to make it a cell"
        )
    if function not in _cells:
        raise ValueError(
            f"function: there is no cell {function!r}; registered are {', '.join(_cells)} "
            "(register_cell adds one, or pass the cell itself)"
        )
    return _cells[function]
