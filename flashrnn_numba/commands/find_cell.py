"""A cell as the command line names it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from ..cells import Cell, get_cell, list_cells
from . import UsageError


def find_cell(text: str, option: str) -> Cell:
    """The registered cell of this name, or from "path/to/file.py:name" the one of that file.

    UsageError naming the option, what came and what there is. The file is executed.
    """
    path, colon, name = text.rpartition(":")
    if not colon:
        if text not in list_cells():
            raise UsageError(
                f"{option}: there is no cell {text!r}; expected one of "
                f"{', '.join(list_cells())}, or path/to/file.py:name"
            )
        return get_cell(text)
    if not Path(path).is_file():
        raise UsageError(f"{option}: there is no file {path!r} (from {text!r})")
    found = vars(_load(Path(path))).get(name)
    if not isinstance(found, Cell):
        raise UsageError(
            f"{option}: {path} has no cell {name!r}; expected a function decorated with "
            "flashrnn_numba.cell"
        )
    return found


def _load(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module
