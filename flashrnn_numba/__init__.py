"""Fast recurrent networks in pure Python: a cell is a few lines, its kernels follow from them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .cells import Cell, CellError, cell, get_cell, list_cells, register_cell

if TYPE_CHECKING:
    from .api import flashrnn, flashrnn_vjp
    from .kernels.interface import Gradients
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

# imported when asked for: those who only compute need no planner, and those who only plan nothing
# that launches kernels
_LATER = {
    "Gradients": ".kernels.interface",
    "flashrnn": ".api",
    "flashrnn_vjp": ".api",
    "Plan": ".tuning.plan",
    "plan": ".tuning.plan",
}
_PACKAGES = ("kernels", "tuning")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f".{name}", __name__)
    if name in _LATER:
        found = getattr(import_module(_LATER[name], __name__), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_PACKAGES})
