"""How much the oracle's results change when each step rounds: which problems are worth checking.

`Noisy` stands in for a cell and disturbs what goes in and out of it by random errors of the size of
a dtype's rounding. What then changes by more than the tolerance is not a backend's fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from ..cells import Cell
from .problem import Problem, solve
from .tolerances import UNIT, compute_unit, relative_error, tolerance

STRENGTH = 1.5  # of the disturbance, in units of the rounding that it stands for
DISTURBANCES = 4
DRAWS = 40


class Noisy:
    """A cell whose pre-activations, states and gradients carry rounding errors."""

    def __init__(self, cell: Cell, dtype: str, D: int, seed: int) -> None:
        self._cell = cell
        self._random = np.random.default_rng(seed)
        self._compute = compute_unit(dtype)
        self._store = UNIT[dtype]
        self._product = self._compute * np.sqrt(D)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cell, name)

    def _disturb(self, values: Sequence[np.ndarray], unit: float) -> list[np.ndarray]:
        return [
            v * (1 + STRENGTH * unit * self._random.uniform(-1, 1, np.shape(v))) for v in values
        ]

    def forward(self, g: Sequence[np.ndarray], s: Sequence[np.ndarray]) -> list[np.ndarray]:
        new = self._cell.forward(self._disturb(g, self._product), s)
        return self._disturb(new[:1], self._store) + self._disturb(new[1:], self._compute)

    def vjp(self, g: Any, s: Any, d: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        gates, states = self._cell.vjp(g, s, d)
        return self._disturb(gates, self._product), self._disturb(states, self._compute)


def conditioning(problem: Problem, expected: dict[str, np.ndarray] | None = None) -> float:
    """The error that rounding in the problem's dtype causes by itself, in tolerances: with more
    than 1 no backend can be expected to pass. The worst of all arrays and disturbances."""
    expected = expected or solve(problem)
    B, T, _, D = problem.shape
    errors = [0.0]
    for seed in range(DISTURBANCES):
        disturbed = solve(problem, Noisy(problem.cell, problem.dtype, D, seed))
        errors += [relative_error(disturbed[name], expected[name]) for name in expected]
    return max(errors) / tolerance(problem.dtype, T, D, B)


def well_conditioned(draw: Callable[[int], Problem], draws: int = DRAWS) -> tuple[Problem, float]:
    """The first of the problems draw(0), draw(1), ... that rounding leaves within the tolerance, or
    after `draws` of them the best; and its conditioning."""
    best: tuple[Problem, float] | None = None
    for seed in count():
        problem = draw(seed)
        condition = conditioning(problem)
        if best is None or condition < best[1]:
            best = problem, condition
        if best[1] <= 1 or seed + 1 >= draws:
            return best
    raise AssertionError("unreachable")
