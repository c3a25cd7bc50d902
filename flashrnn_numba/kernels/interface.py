"""What a backend is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..cells import Cell


@dataclass(frozen=True)
class Task:
    """One call, checked: what to compute, apart from the arrays.

    dtype: "float64", "float32", "float16" or "bfloat16". kind: "numpy" or "cupy".
    clip: bound of the gradient that flows back through the recurrence, or None.
    """

    cell: Cell
    B: int
    T: int
    H: int
    D: int
    dtype: str
    kind: str = "numpy"
    clip: float | None = None
    precision: str = "exact"


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
