"""Fast recurrent networks in pure Python: a cell is a few lines, its kernels follow from them."""

from typing import TYPE_CHECKING, Any

from .api import flashrnn, flashrnn_vjp
from .cells import Cell, CellError, cell, get_cell, list_cells, register_cell
from .kernels.interface import Gradients

if TYPE_CHECKING:
    from .tuning.plan import Plan, plan

__version__ = "0.1.0"

__all__ = [
    "Cell",
    "CellError",
    "Gradients",
    "Plan",
    "__version__",
    "cell",
    "flashrnn",
    "flashrnn_vjp",
    "get_cell",
    "list_cells",
    "plan",
    "register_cell",
]

_PLANNER = ("Plan", "plan")  # imported when asked for: those who only compute need no planner


def __getattr__(name: str) -> Any:
    if name in _PLANNER:
        from .tuning import plan as module

        globals().update({own: getattr(module, own) for own in _PLANNER})
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLANNER})
