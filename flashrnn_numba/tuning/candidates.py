"""One kernel for one task: its best tiling and what that costs, or why it has none.

Cheap things are computed at once (the best tiling, its time), dear ones when asked for: the next
best tilings, what each limit costs, the conflict, and what would remove it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from ..kernels.interface import Task
from .binding import Binding, bindings, shortfalls
from .hardware import Device
from .models import floors
from .models.common import (
    Direction,
    Footprint,
    Model,
    Residency,
    Solution,
    Statement,
    cheapest,
    residency,
)
from .search import SearchLimit
from .store import divisors

# Enough for every model here many times over; a model that needs more is reported, not waited for.
NODES = 20_000


@dataclass(frozen=True)
class Setting:
    """What is planned: a kernel's model, a task, a device, a direction."""

    model: Model
    task: Task
    device: Device
    direction: Direction

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        return self.model.build(self.task, self.device, self.direction)

    def statement(self, solution: Solution) -> Statement | None:
        """The statement that a solution is of."""
        return next((s for s in self.statements if s.covers(solution)), None)


@dataclass(frozen=True)
class Candidate:
    """A kernel that can do the task, with its best tiling.

    nodes -- branches that all the searches took.
    """

    setting: Setting
    solution: Solution
    cost: int
    nodes: int

    @property
    def name(self) -> str:
        return self.setting.model.name

    @property
    def kind(self) -> str:
        return self.setting.model.kind(self.solution)

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
        found = cheapest(self.setting.statements, count, NODES)
        # of several of one cost the search may have met another first
        others = [pair for pair in found if pair[1] != self.solution][: count - 1]
        return [self, *(self.with_solution(solution, cost) for cost, solution in others)]

    def binding(self) -> list[Binding]:
        """Limits that are nearly used up, the dearest first."""
        statement = self.setting.statement(self.solution)
        assert statement is not None
        return bindings(statement, self.solution)


@dataclass(frozen=True)
class Refusal:
    """A kernel that cannot do the task."""

    setting: Setting
    reason: str | None  # None: no tiling exists, see conflict()

    @property
    def name(self) -> str:
        return self.setting.model.name

    @cached_property
    def _closest(self) -> Statement:
        """The statement that asks least of the device."""
        s = self.setting
        return s.model.easiest(s.task, s.device, s.direction)

    def closest(self) -> Solution:
        """The values for which the conflict holds, where the model cuts its problem by some."""
        return {} if self.reason is not None else self._closest.fixed

    def conflict(self) -> list[str]:
        """Constraints that cannot hold together, by name; [] if there is another reason."""
        return [] if self.reason is not None else self._conflict

    @cached_property
    def _conflict(self) -> list[str]:
        return self._closest.problem.conflict(node_limit=NODES)

    def shortfalls(self) -> list[str]:
        """For each limit of the conflict: the least that the others leave, and what there is."""
        return shortfalls(self._closest.problem, self.conflict())

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
    try:
        found = cheapest(setting.statements, 1, NODES)
    except SearchLimit as limit:
        return Refusal(setting, f"the tiling search was given up: {limit}")
    if not found:
        return Refusal(setting, None)
    ((cost, solution),) = found
    return Candidate(setting, solution, cost, sum(s.nodes for s in setting.statements))


def fits(model: Model, task: Task, device: Device, direction: Direction) -> bool:
    """Whether there is any tiling: quicker than the best one."""
    if model.refuses(task, device, direction) is not None:
        return False
    problem = model.easiest(task, device, direction).problem
    try:
        return problem.solve(node_limit=NODES) is not None
    except SearchLimit:
        return False


# -- what would make it fit ----------------------------------------------------------------------


def largest_head(
    model: Model, task: Task, device: Device, direction: Direction, most: int = 8192
) -> int:
    """The largest head dimension that the kernel can hold, other things equal; 0 for none.

    Among multiples of 16, where fits and misfits may alternate (a prime number of fragments cannot
    be spread): bisection, which looks at the next few before it holds a size for too large.
    """

    def holds(step: int) -> bool:
        return fits(model, replace(task, D=step * 16), device, direction)

    low, high = 0, most // 16 + 1
    while high - low > 1:
        middle = (low + high) // 2
        reach = range(middle, min(middle + 4, high))
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
