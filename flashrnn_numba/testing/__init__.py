"""Check cells and kernels of your own: `check_cell`, tolerances, Hypothesis strategies.

    from flashrnn_numba.testing import check_cell
    print(check_cell(my_cell))

`check_cell` needs NumPy only; the strategies (`flashrnn_numba.testing.strategies`: cells, shapes,
layouts, problems, ...) need hypothesis. docs/testing.md tells more.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .check import CellCheckError, Report, check_cell, check_problem, compare
from .conditioning import conditioning, well_conditioned
from .layouts import Layout, contiguous, relayout
from .problem import Problem, random_problem, run, solve
from .tolerances import relative_error, tolerance
from .transfer import from_backend, kind_for, to_backend

__all__ = [
    "CellCheckError",
    "Layout",
    "Problem",
    "Report",
    "check_cell",
    "check_problem",
    "compare",
    "conditioning",
    "contiguous",
    "from_backend",
    "kind_for",
    "random_problem",
    "relative_error",
    "relayout",
    "run",
    "solve",
    "strategies",
    "to_backend",
    "tolerance",
    "well_conditioned",
]


def __getattr__(name: str) -> Any:
    if name != "strategies":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_module(".strategies", __name__)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "hypothesis":
            raise
        raise ImportError(
            "flashrnn_numba.testing.strategies needs hypothesis: pip install hypothesis (or "
            "flashrnn-numba[test]); check_cell works without it"
        ) from error
