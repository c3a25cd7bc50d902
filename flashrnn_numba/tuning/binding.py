"""Which limits hold a tiling back, and by how much a limit is missed where there is no tiling.

A limit is a constraint that bounds something from above. It binds where it is nearly used up; what
it costs is found by solving again without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter

from .expressions import (
    Any,
    Comparison,
    Constraint,
    Expression,
    as_expression,
    evaluator,
    variables_of,
)
from .models.common import Solution, Statement, evaluate, whole
from .problem import Problem, Requirement
from .search import Limit, Stats, solutions

__all__ = ["TIGHT", "Binding", "bindings", "shortfalls"]

RELAXED_NODES = 2_000  # of a search without a limit: beyond that its price stays unknown
TIGHT = 0.9  # of a limit: from here on it counts as binding


@dataclass(frozen=True)
class Binding:
    """A constraint at its limit: the two sides, and the cost that the best tiling would have
    without it (None: not settled), relative to the cost with it."""

    name: str
    left: int
    sign: str
    right: int
    unit: str
    without: float | None


def bindings(statement: Statement, solution: Solution) -> list[Binding]:
    """Limits that a solution nearly uses up, the dearest first."""
    problem, cost = statement.problem, statement.cost
    now = evaluate(cost, solution)
    rows = []
    for requirement in problem.constraints:
        part = _at_work(requirement.constraint, solution)
        if part is None or not _is_limit(part):
            continue
        sides = Requirement(requirement.name, requirement.unit, part).sides(solution)
        if sides is None or not _tight(*sides):
            continue
        relaxed = _without(problem, requirement, cost, now)
        gain = None if relaxed is None else relaxed / max(1, now)
        left, sign, right = sides
        rows.append(Binding(requirement.name, left, sign, right, requirement.unit or "", gain))
    return sorted(rows, key=lambda row: 1.0 if row.without is None else row.without)


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


def _at_work(constraint: Constraint, solution: Solution) -> Comparison | None:
    """The comparison that holds at a solution; of alternatives, the only one that does."""
    if isinstance(constraint, Comparison):
        return constraint
    if isinstance(constraint, Any):
        holding = [item for item in constraint.items if _holds(item, solution)]
        if len(holding) == 1:
            return _at_work(holding[0], solution)
    return None


def _holds(constraint: Constraint, solution: Solution) -> bool:
    scope = variables_of(constraint)
    (function,) = evaluator([(constraint, scope)])
    try:
        return bool(function(*[solution[v.name] for v in scope]))
    except ZeroDivisionError:
        return False


def _is_limit(part: Comparison) -> bool:
    """Whether it bounds something from above. `threads >= 96` asks for enough: that is no limit."""
    if part.op in ("==", "!="):
        return False
    smaller = part.left if part.op in ("<", "<=") else part.right
    return bool(variables_of(smaller))


def _tight(left: int, sign: str, right: int) -> bool:
    used, limit = (left, right) if sign in ("<", "<=") else (right, left)
    limit -= len(sign) == 1  # the most that < or > allows
    return limit > 0 and used >= TIGHT * limit


def _without(
    problem: Problem, left_out: Requirement, cost: Expression | int, now: int
) -> int | None:
    """The least cost when one requirement is dropped; None if that takes too long."""
    rest = [r.constraint for r in problem.constraints if r is not left_out]
    # only what is better than now is looked for, which cuts most of the search
    better = _least(problem, [*rest, as_expression(cost) < now], cost)
    return None if better is None else min(now, better[0] if better else now)


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
