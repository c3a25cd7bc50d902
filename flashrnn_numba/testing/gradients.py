"""A cell's gradient against finite differences: of its pointwise function, and of a sequence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..cells import Cell
from ..cells.expression import topological
from ..kernels import reference
from .evaluate import evaluate, inputs_of
from .problem import Problem, oracle_task, random_problem, solve

POINTWISE_TOLERANCE = 1e-8
SEQUENCE_TOLERANCE = 1e-6
# 4-point central difference: error h^4 |f'''''| / 30, plus the unit roundoff over h
STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
STEP = 1e-3
SEQUENCE_DRAWS = 20

Arrays = list[np.ndarray]


class Difference(NamedTuple):
    """How one gradient compares with finite differences."""

    what: str
    error: float
    tolerance: float
    compared: float  # fraction of the points where finite differences can tell


def pointwise_differences(cell: Cell, seed: int = 0) -> list[Difference]:
    """d(new states) / d(each gate and state) of `Cell.vjp` against finite differences.

    stop_gradient nodes keep the values that they have at the base point. Points are left out where
    a comparison, maximum, ... changes sides within the stencil, and where finite differences of
    step h and h/2 disagree (so near to a singularity they say nothing).
    """
    values = [v.astype(np.longdouble) for v in _reachable_points(cell, seed)]
    S = len(cell.states)
    cotangents = list(np.random.default_rng(seed).standard_normal((S, values[0].size)))
    plain = [v.astype(np.float64) for v in values]
    G = len(cell.gates)
    dg, ds = cell.vjp(plain[:G], plain[G:], cotangents)
    derived = [np.asarray(d, np.float64) for d in (*dg, *ds)]
    with np.errstate(all="ignore"):
        return [
            _compare(cell, values, cotangents, i, d, f"d({kind} {name})")
            for i, ((kind, name), d) in enumerate(zip(inputs_of(cell), derived, strict=True))
        ]


def _compare(
    cell: Cell, values: Arrays, cotangents: Arrays, i: int, derived: np.ndarray, what: str
) -> Difference:
    coarse, smooth = _slope(cell, values, cotangents, i, STEP)
    fine, _ = _slope(cell, values, cotangents, i, STEP / 2)
    size = np.abs(fine) + np.abs(coarse) + 1e-3
    told = smooth & (np.abs(coarse - fine) <= POINTWISE_TOLERANCE / 2 * size)
    if not told.any():
        return Difference(what, 0.0, POINTWISE_TOLERANCE, 0.0)
    wrong = np.abs(derived - fine) / size
    wrong = np.where(np.isfinite(derived), wrong, np.inf)[told]
    return Difference(what, float(wrong.max()), POINTWISE_TOLERANCE, float(told.mean()))


def _slope(
    cell: Cell, values: Arrays, cotangents: Arrays, i: int, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of sum_k cotangent_k * new state_k along input i; and where all the stencil is smooth."""
    base = evaluate(cell, values)
    scale = step * np.maximum(1, np.abs(values[i]))
    slope = np.zeros_like(values[i])
    smooth = np.isfinite(np.sum([np.abs(y) * np.ones_like(slope) for y in base.outputs], axis=0))
    for place, weight in STENCIL:
        moved = [v + place * scale if j == i else v for j, v in enumerate(values)]
        there = evaluate(cell, moved, base.frozen)
        total = sum(c * y for c, y in zip(cotangents, there.outputs, strict=True))
        slope += weight * total
        smooth &= np.isfinite(slope)
        for a, b in zip(base.branches, there.branches, strict=True):
            smooth &= a == b
    return slope / scale, smooth


def _reachable_points(cell: Cell, seed: int) -> list[np.ndarray]:
    """Pre-activations and previous states that occur in a sequence: [N] for each gate and state."""
    problem = random_problem(cell, "float64", (8, 4, 2, 5), seed=seed)
    task = oracle_task(cell, problem.inputs)
    kept = reference.forward(task, problem.inputs, keep=True)[2]
    steps = [np.concatenate([g, previous]) for previous, g in kept]
    return list(np.concatenate([np.reshape(s, (len(s), -1)) for s in steps], axis=1))


def sequence_differences(cell: Cell, seed: int = 0) -> list[Difference]:
    """The oracle's gradients of Wx, R, b and states against finite differences of its forward,
    along one random direction each, with resets and lengths. For cells without stop_gradient."""
    results = []
    for name, key in (("Wx", "dWx"), ("R", "dR"), ("b", "db"), ("states", "dstates")):
        what = f"{key} of a sequence"
        # a direction across a kink says nothing: two step sizes disagree, other numbers are tried
        tried = (_directional(cell, name, key, seed + i) for i in range(SEQUENCE_DRAWS))
        error = next((e for e in tried if e is not None), None)
        results.append(Difference(what, error or 0.0, SEQUENCE_TOLERANCE, float(error is not None)))
    return results


def _directional(cell: Cell, name: str, key: str, seed: int) -> float | None:
    """The error of <gradient, direction>; None where finite differences do not converge."""
    problem = random_problem(cell, "float64", (3, 5, 2, 3), seed=seed, reset=True, lengths=True)
    gradient, array = solve(problem)[key], getattr(problem.inputs, name)
    direction = np.random.default_rng(seed).standard_normal(array.shape)
    coarse, fine = (
        _sequence_slope(problem, name, array, direction, h) for h in (STEP / 4, STEP / 8)
    )
    size = float(np.linalg.norm(gradient) + abs(fine)) + 1e-3
    if not abs(coarse - fine) <= SEQUENCE_TOLERANCE / 4 * size:
        return None
    error = abs(float(np.vdot(gradient, direction)) - fine) / size
    return error if np.isfinite(error) else float("inf")


def _sequence_slope(
    problem: Problem, name: str, array: np.ndarray, direction: np.ndarray, step: float
) -> float:
    """Of <dstates, states> + <dlast, last>; nan where a branch changes sides in the stencil."""
    base, slope = _sequence(problem, name, array)[1], 0.0
    for place, weight in STENCIL:
        loss, sides = _sequence(problem, name, array + place * step * direction)
        if not np.array_equal(sides, base):
            return float("nan")
        slope += weight * loss / step
    return slope


def _sequence(problem: Problem, name: str, array: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss with one input replaced, and the sides that all branches take on the way."""
    inputs = problem.inputs._replace(**{name: array})
    states, last, kept = reference.forward(oracle_task(problem.cell, inputs), inputs, keep=True)
    loss = np.vdot(problem.dstates, states) + np.vdot(problem.dlast, last)
    values = [np.array([*g, *previous]) for previous, g in kept]
    with np.errstate(all="ignore"):
        sides = evaluate(problem.cell, list(np.stack(values, axis=1))).branches
    return float(loss), np.array([np.asarray(side, float) for side in sides])


def has_stop_gradient(cell: Cell) -> bool:
    return any(node.operation == "stop_gradient" for node in topological(cell.new_states))
