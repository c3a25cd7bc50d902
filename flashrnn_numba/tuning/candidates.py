"""One kernel for one task: its best tiling and what that costs, or why it has none.

Cheap things are computed at once (the best tiling, its time), dear ones when asked for: the next
best tilings, what each limit costs, the conflict, and what would remove it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter

from ..kernels.interface import Task
from .expressions import Comparison, Constraint, Expression, as_expression, variables_of
from .hardware import Device
from .lowering import Model as Lowered
from .models import floors
from .models.common import (
    Direction,
    Footprint,
    Model,
    Residency,
    Solution,
    Statement,
    evaluate,
    residency,
    whole,
)
from .problem import Problem, Requirement
from .search import Limit, Search, SearchLimit, Stats
from .store import divisors

# Enough for every model here many times over; a model that needs more is reported, not waited for.
NODES = 20_000
RELAXED_NODES = 2_000  # when a limit is left out, for "what does it cost"
TIGHT = 0.9  # of a limit: from here on it counts as binding


@dataclass(frozen=True)
class Setting:
    """What is planned: a kernel's model, a task, a device, a direction."""

    model: Model
    task: Task
    device: Device
    direction: Direction

    def build(self) -> tuple[Statement, ...]:
        return self.model.build(self.task, self.device, self.direction)

    def statement(self, solution: Solution) -> Statement | None:
        """The statement that a solution is of."""
        return next((s for s in self.build() if s.covers(solution)), None)


@dataclass(frozen=True)
class Binding:
    """A constraint at its limit: the two sides, and the cost the best tiling would have without it
    (None: not settled), relative to the cost with it."""

    name: str
    left: int
    sign: str
    right: int
    unit: str
    without: float | None


@dataclass(frozen=True)
class Candidate:
    """A kernel that can do the task, with its best tiling.

    firsts -- (cost, solution, number of the statement): the best of each statement, cheapest first.
    nodes -- branches that all the searches took.
    """

    setting: Setting
    solution: Solution
    cost: int
    nodes: int
    firsts: tuple[tuple[int, Solution, int], ...] = ()

    @property
    def name(self) -> str:
        return self.setting.model.name

    @cached_property
    def footprint(self) -> Footprint:
        return self._footprint(self.solution)

    @cached_property
    def residency(self) -> Residency:
        return residency(self.footprint, self.setting.device)

    @cached_property
    def tiling(self) -> dict[str, str]:
        s = self.setting
        return s.model.tiling(s.task, s.direction, self.solution)

    @cached_property
    def parts(self) -> dict[str, float]:
        """Nanoseconds of one step, by part."""
        s = self.setting
        return s.model.step_ns(s.task, s.device, s.direction, self.solution)

    @property
    def step_ns(self) -> float:
        """Expected time of one step of the whole launch: each wave runs all its steps."""
        waves = self.residency.waves if self.footprint.persistent else 1
        return sum(self.parts.values()) * waves

    @property
    def seconds(self) -> float:
        """Expected time of all steps, with the launch."""
        return (self.step_ns * self.setting.task.T + floors.LAUNCH) * 1e-9

    def _footprint(self, solution: Solution) -> Footprint:
        s = self.setting
        return s.model.resources(s.task, s.device, s.direction, solution)

    def with_solution(self, solution: Solution, cost: int) -> Candidate:
        return Candidate(self.setting, solution, cost, self.nodes)

    def best(self, count: int) -> list[Candidate]:
        """The `count` tilings of least cost, this one first."""
        statements = self.setting.build()
        found: list[tuple[int, Solution]] = []
        # whatever is among the best of all stands in one of the statements with the best firsts
        for _, _, number in self.firsts[:count]:
            found += statements[number].best(count, NODES)
        found.sort(key=lambda pair: pair[0])
        # of several of one cost the search may have met another first
        others = [pair for pair in found if pair[1] != self.solution][: count - 1]
        return [self, *(self.with_solution(solution, cost) for cost, solution in others)]

    def binding(self) -> list[Binding]:
        """Limits that are nearly used up, the dearest first."""
        statement = self.setting.statement(self.solution)
        assert statement is not None
        problem, cost = statement.problem, evaluate(statement.cost, self.solution)
        rows = []
        for requirement in problem.constraints:
            sides = requirement.sides(self.solution)
            if sides is None or not _is_limit(requirement) or not _tight(*sides):
                continue
            relaxed = _without(problem, requirement, statement.cost, cost)
            gain = None if relaxed is None else relaxed / max(1, cost)
            left, sign, right = sides
            rows.append(Binding(requirement.name, left, sign, right, requirement.unit or "", gain))
        return sorted(rows, key=lambda row: 1.0 if row.without is None else row.without)


@dataclass(frozen=True)
class Refusal:
    """A kernel that cannot do the task."""

    setting: Setting
    reason: str | None  # None: no tiling exists, see conflict()

    @property
    def name(self) -> str:
        return self.setting.model.name

    def _closest(self) -> Problem:
        """The statement that asks least of the device."""
        return self.setting.build()[-1].problem

    def closest(self) -> Solution:
        """The values for which the conflict holds, where the model cuts its problem by some."""
        return {} if self.reason is not None else self.setting.build()[-1].fixed

    def conflict(self) -> list[str]:
        """Constraints that cannot hold together, by name; [] if there is another reason."""
        if self.reason is not None:
            return []
        return self._closest().conflict(node_limit=NODES)

    def shortfalls(self) -> list[str]:
        """For each limit of the conflict: the least that the others leave, and what there is."""
        problem = self._closest()
        names = set(self.conflict())
        core = [r for r in problem.constraints if r.name in names]
        return [line for r in core for line in _shortfall(problem, core, r)]

    def remedies(self) -> list[str]:
        """What would make it fit, each found by solving again."""
        return list(_remedies(self.setting)) if self.reason is None else []


def evaluate_model(
    model: Model, task: Task, device: Device, direction: Direction
) -> Candidate | Refusal:
    """The model's best tiling for the task on the device, or the refusal."""
    setting = Setting(model, task, device, direction)
    reason = model.refuses(task, device, direction)
    if reason is not None:
        return Refusal(setting, reason)
    firsts, nodes = [], 0
    for number, statement in enumerate(setting.build()):
        try:
            found = statement.best(1, NODES)
        except SearchLimit as limit:
            return Refusal(setting, f"the tiling search was given up: {limit}")
        nodes += statement.problem.stats.nodes
        firsts += [(cost, solution, number) for cost, solution in found]
    if not firsts:
        return Refusal(setting, None)
    firsts.sort(key=lambda row: row[0])
    cost, solution, _ = firsts[0]
    return Candidate(setting, solution, cost, nodes, tuple(firsts))


def fits(model: Model, task: Task, device: Device, direction: Direction) -> bool:
    """Whether there is any tiling: quicker than the best one."""
    if model.refuses(task, device, direction) is not None:
        return False
    try:
        statements = reversed(model.build(task, device, direction))
        return any(s.problem.solve(node_limit=NODES) is not None for s in statements)
    except SearchLimit:
        return False


def _tight(left: int, sign: str, right: int) -> bool:
    used, limit = (left, right) if sign in ("<", "<=") else (right, left)
    limit -= len(sign) == 1  # the most that < or > allows
    return limit > 0 and used >= TIGHT * limit


def _shortfall(
    problem: Problem, core: list[Requirement], requirement: Requirement
) -> Iterable[str]:
    part = requirement.constraint
    if not isinstance(part, Comparison) or not _is_limit(requirement):
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


def _is_limit(requirement: Requirement) -> bool:
    """Whether it bounds something from above. `threads >= 96` asks for enough: that is no limit."""
    part = requirement.constraint
    if not isinstance(part, Comparison) or part.op in ("==", "!="):
        return False
    smaller = part.left if part.op in ("<", "<=") else part.right
    return bool(variables_of(smaller))


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
    lowered = Lowered(problem.variables, constraints, as_expression(cost))
    search = Search(lowered, Stats(), perf_counter(), RELAXED_NODES, None, 1)
    best: list[int] = []
    try:
        for _, found in search.solutions():
            assert found is not None
            best = [found]
    except Limit:
        return None
    return best


# -- what would make it fit ----------------------------------------------------------------------


def largest_head(
    model: Model, task: Task, device: Device, direction: Direction, most: int = 8192
) -> int:
    """The largest head dimension that the kernel can hold, other things equal; 0 for none.

    Among multiples of 16, where fits and misfits may alternate (a prime number of fragments cannot
    be spread): the bisection's answer fits, and so does none of the next few above it.
    """

    def holds(step: int) -> bool:
        return fits(model, replace(task, D=step * 16), device, direction)

    low, high = 0, most // 16 + 1
    while high - low > 1:
        middle = (low + high) // 2
        reach = range(middle, min(middle + 8, high))
        found = next((step for step in reversed(reach) if holds(step)), None)
        low, high = (found, high) if found is not None else (low, middle)
    return low * 16


def _remedies(setting: Setting) -> Iterable[str]:
    model, task, device, direction = (
        setting.model,
        setting.task,
        setting.device,
        setting.direction,
    )
    largest = largest_head(model, task, device, direction, task.D)
    yield (
        f"a head dimension of at most {largest}"
        if largest
        else "no head dimension (of the multiples of 16) fits"
    )
    for heads in divisors(task.D) or ():
        if heads > 1 and fits(
            model, replace(task, D=task.D // heads, H=task.H * heads), device, direction
        ):
            yield f"{task.H * heads} heads of {task.D // heads} instead of {task.H} of {task.D}"
            break
    if task.dtype in ("float32", "float64"):
        for dtype in ("float32", "bfloat16"):
            if dtype != task.dtype and fits(model, replace(task, dtype=dtype), device, direction):
                yield f"dtype {dtype}"
                break
