"""Problems to check with: random inputs at realistic scales, and their solution by the oracle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..api import flashrnn_vjp
from ..arrays import DTYPES
from ..cells import Cell
from ..kernels import reference
from ..kernels.interface import Gradients, Inputs, Task
from .transfer import from_backend, to_backend

WARM_UP = 4  # steps that lead from the cell's initial values to the states a problem starts from
OUTPUTS = ("states", "last", "dWx", "dR", "db", "dstates")


@dataclass(frozen=True)
class Problem:
    """A call of `flashrnn_vjp` and the cotangents of its results, as NumPy arrays."""

    cell: Cell
    inputs: Inputs
    dstates: np.ndarray | None  # [S, B, T, H, D]
    dlast: np.ndarray | None  # [S, B, 1, H, D]
    clip: float | None = None

    @property
    def dtype(self) -> str:
        return self.inputs.Wx.dtype.name

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """B, T, H, D."""
        B, T, _, H, D = self.inputs.Wx.shape
        return B, T, H, D

    def __str__(self) -> str:
        B, T, H, D = self.shape
        given = [n for n in ("states", "reset", "lengths") if getattr(self.inputs, n) is not None]
        given += [] if self.clip is None else ["clip"]
        return f"B={B} T={T} H={H} D={D}" + (f" with {', '.join(given)}" if given else "")


def random_problem(
    cell: Cell,
    dtype: str,
    shape: tuple[int, int, int, int],
    *,
    seed: int | np.random.Generator = 0,
    states: bool = True,
    reset: bool = False,
    lengths: bool = False,
    clip: float | None = None,
) -> Problem:
    """Wx ~ N(0, 1), R ~ N(0, 1/D), b ~ N(0, 1/4), cotangents ~ N(0, 1); rounded to the dtype.

    shape: B, T, H, D. The initial states are reachable ones: those that the oracle arrives at a few
    steps after the cell's initial values (a cell may be defined on these alone).
    """
    random = np.random.default_rng(seed)
    B, T, H, D = shape

    def normal(*sizes: int, scale: float = 1.0) -> np.ndarray:
        return (scale * random.standard_normal(sizes)).astype(DTYPES[dtype])

    R = normal(len(cell.recurrent_gates), H, D, D, scale=D**-0.5)
    b = normal(len(cell.bias_gates), H, D, scale=0.5)
    inputs = Inputs(normal(B, T, len(cell.input_gates), H, D), R, b)
    if states:
        before = Inputs(normal(B, WARM_UP, len(cell.input_gates), H, D), R, b)
        last = reference.forward(oracle_task(cell, before), before)[1]
        inputs = inputs._replace(states=last)
    if reset:
        inputs = inputs._replace(reset=random.random((B, T)) < 0.2)
    if lengths:
        inputs = inputs._replace(lengths=random.integers(0, T + 1, B))
    S = len(cell.states)
    return Problem(cell, inputs, normal(S, B, T, H, D), normal(S, B, 1, H, D), clip)


def oracle_task(cell: Cell, inputs: Inputs, clip: float | None = None) -> Task:
    B, T, _, H, D = inputs.Wx.shape
    return Task(cell, B, T, H, D, inputs.Wx.dtype.name, clip=clip)


def exact(problem: Problem) -> Problem:
    """The same numbers in float64."""
    inputs = Inputs(*(_widen(array) for array in problem.inputs))
    return replace(
        problem, inputs=inputs, dstates=_widen(problem.dstates), dlast=_widen(problem.dlast)
    )


def _widen(array: Any) -> Any:
    return array if array is None or array.dtype.kind in "biu" else array.astype(np.float64)


def solve(problem: Problem, cell: Any = None) -> dict[str, np.ndarray]:
    """The oracle's results, in float64 from start to end. cell: one that stands in for its cell."""
    p = exact(problem)
    task = oracle_task(cell or p.cell, p.inputs, p.clip)
    states, last, kept = reference.forward(task, p.inputs, keep=True)
    return _named(states, last, reference.backward(task, p.inputs, kept, p.dstates, p.dlast))


def run(problem: Problem, backend: str, kind: str = "numpy") -> dict[str, np.ndarray]:
    """The results of a backend on arrays of a kind, in float64 (16-bit numbers widened)."""
    states, last, vjp = flashrnn_vjp(
        **{name: to_backend(a, kind) for name, a in problem.inputs._asdict().items()},
        function=problem.cell,
        backend=backend,
        recurrent_gradient_clip=problem.clip,
    )
    gradients = vjp(to_backend(problem.dstates, kind), to_backend(problem.dlast, kind))
    named = _named(states, last, gradients)
    return {name: _widen(from_backend(array)) for name, array in named.items()}


def _named(states: Any, last: Any, gradients: Gradients) -> dict[str, Any]:
    values = dict(zip(OUTPUTS, (states, last, *gradients), strict=True))
    return {name: array for name, array in values.items() if array is not None}
