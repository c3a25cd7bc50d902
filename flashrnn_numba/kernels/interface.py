"""What a backend is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeGuard

from ..cells import Cell

PRECISIONS = ("auto", "exact", "tf32")


@dataclass(frozen=True)
class Task:
    """One call, checked: what to compute, apart from the arrays.

    dtype: "float64", "float32", "float16" or "bfloat16". kind: of the caller's arrays, "numpy",
    "cupy" or "dlpack"; backends are given NumPy or CuPy arrays, on the current device.
    clip: bound of the gradient that flows back through the recurrence, or None.
    precision: one of PRECISIONS, as in `flashrnn`.
    """

    cell: Cell
    B: int
    T: int
    H: int
    D: int
    dtype: str
    kind: str = "numpy"
    clip: float | None = None
    precision: str = "auto"


def check_precision(precision: Any) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'auto', 'exact' or 'tf32', got {precision!r}")


class Inputs(NamedTuple):
    """The arrays of a call, shaped as in the table of `flashrnn`. states, reset and lengths may be
    None: the cell's initial values, no resets, all rows of full length."""

    Wx: Any
    R: Any
    b: Any
    states: Any = None
    reset: Any = None
    lengths: Any = None


class Gradients(NamedTuple):
    """Gradients shaped like the inputs; states is None where no initial states were given."""

    Wx: Any
    R: Any
    b: Any
    states: Any


class Backend(Protocol):
    """A way to run a task. A backend that cannot do a task says why, and what could."""

    name: str

    def refuses(self, task: Task) -> str | None:
        """None, or the reason why this backend cannot do the task."""

    def forward(self, task: Task, inputs: Inputs, keep: bool) -> tuple[Any, Any, Any]:
        """All states [S, B, T, H, D], the last ones [S, B, 1, H, D], and (if keep) what backward
        needs."""

    def backward(
        self, task: Task, inputs: Inputs, kept: Any, dstates: Any, dlast: Any
    ) -> Gradients:
        """The vector-Jacobian product; dstates and dlast may be None (zero)."""


class PlanningBackend(Backend, Protocol):
    """A backend that can do beforehand what depends on the arrays' metadata only. What is prepared
    holds for other arrays of the same metadata, on the same device."""

    def prepare_forward(
        self, task: Task, inputs: Inputs, keep: bool
    ) -> Callable[[Inputs], tuple[Any, Any, Any]]:
        """A function of the inputs."""

    def prepare_backward(
        self, task: Task, inputs: Inputs, dstates: Any, dlast: Any
    ) -> Callable[..., Gradients]:
        """A function of inputs, kept, dstates and dlast."""


def plans(backend: Backend) -> TypeGuard[PlanningBackend]:
    return hasattr(backend, "prepare_forward")
