"""Why a problem has no tiling: constraints that cannot hold together, and how far off they are."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter

from .clock import Limit
from .expressions import Comparison, Constraint, Expression, as_expression, variables_of
from .models.common import evaluate, whole
from .problem import Problem, Requirement
from .search import Stats, solutions

__all__ = ["conflict", "shortfalls"]

RELAXED_NODES = 2_000  # of a search with a part of the constraints: beyond that it stays unsettled


def conflict(problem: Problem, nodes: int) -> list[str]:
    """Names of constraints that cannot hold together. One that cannot hold by itself says most: a
    limit of the device rather than the kernel's own shape, which some sets also contradict."""
    limits = [r for r in problem.constraints if r.unit is not None]
    alone = next((r.name for r in limits if _least(problem, [r.constraint], 0) == []), None)
    return problem.conflict(node_limit=nodes) if alone is None else [alone]


def shortfalls(problem: Problem, names: list[str]) -> list[str]:
    """For each limit of a conflict: the least that the others leave, and what there is."""
    core = [r for r in problem.constraints if r.name in set(names)]
    return [line for r in core for line in _shortfall(problem, core, r)]


def _shortfall(
    problem: Problem, core: list[Requirement], requirement: Requirement
) -> Iterable[str]:
    part = requirement.constraint
    if not isinstance(part, Comparison) or not _is_limit(part):
        return
    smaller_first = part.op in ("<", "<=")
    used, limit = (part.left, part.right) if smaller_first else (part.right, part.left)
    if variables_of(limit):
        return
    least = _least(problem, [r.constraint for r in core if r is not requirement], used)
    if least:
        unit = f" {requirement.unit}" if requirement.unit else ""
        there = whole(evaluate(limit))
        yield f"{requirement.name}: at least {whole(least[0])}{unit}, limit {there}"


def _is_limit(part: Comparison) -> bool:
    """Whether it bounds something from above. `threads >= 96` asks for enough: that is no limit."""
    if part.op in ("==", "!="):
        return False
    smaller = part.left if part.op in ("<", "<=") else part.right
    return bool(variables_of(smaller))


def _least(
    problem: Problem, constraints: list[Constraint], cost: Expression | int
) -> list[int] | None:
    """[the least cost] under these constraints, [] if nothing satisfies them, None: gave up."""
    objective, start = as_expression(cost), perf_counter()
    best: list[int] = []
    try:
        for _, found in solutions(
            problem.variables, constraints, objective, Stats(), start, RELAXED_NODES
        ):
            assert found is not None
            best = [found]
    except Limit:
        return None
    return best
