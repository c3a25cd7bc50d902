"""One kernel for one task: its best tiling and what that costs, or why it has none.

Cheap things are computed at once (the best tiling, its time), dear ones when asked for: the next
best tilings, what each limit costs, the conflict, and what would remove it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..kernels.interface import Task
from .binding import Binding, raised
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
from .models.weights import recurrent_ns
from .search import SearchLimit
from .why_not import conflict, shortfalls

# Enough for every model here many times over; a model that needs more is reported, not waited for.
NODES = 20_000
SOME = 4  # times as many tilings as are asked for are looked at first, for some that differ


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
        """Expected time of one step of all launches: each of their waves runs all its steps."""
        z = self.footprint
        return sum(self.parts.values()) * (self.residency.waves * z.launches if z.persistent else 1)

    @property
    def seconds(self) -> float:
        """Expected time of all steps, with the launch: what the kernel takes."""
        return (self.step_ns * self.setting.task.T + floors.LAUNCH) * 1e-9

    @cached_property
    def after(self) -> float:
        """Expected seconds of what follows the kernel: backward's matrix product over all steps."""
        s = self.setting
        return recurrent_ns(s.task, s.device) * 1e-9 if s.direction == "backward" else 0.0

    @property
    def whole(self) -> float:
        """Expected seconds of the direction."""
        return self.seconds + self.after

    def _footprint(self, solution: Solution) -> Footprint:
        s = self.setting
        return s.model.resources(s.task, s.device, s.direction, solution)

    def with_solution(self, solution: Solution, cost: int) -> Candidate:
        return Candidate(self.setting, solution, cost, self.nodes)

    def best(self, count: int) -> list[Candidate]:
        """The `count` tilings of least cost, this one first, without near copies."""
        if count == 1:
            return [self]
        for asked in (SOME * count, SOME * SOME * count):
            found = cheapest(self.setting.statements, asked, NODES)
            kept = [self]
            # of several of one cost the search may have met another first
            for cost, solution in found:
                other = self.with_solution(solution, cost)
                if not any(other.copies(one) for one in kept):
                    kept.append(other)
            if len(kept) >= count or len(found) < asked:
                break
        return kept[:count]

    def of_kind(self, kind: str) -> Candidate | None:
        """The best tiling of a kind of the kernel."""
        s = self.setting
        found = cheapest([one for one in s.statements if s.model.kind(one.fixed) == kind], 1, NODES)
        return self.with_solution(found[0][1], found[0][0]) if found else None

    def copies(self, better: Candidate) -> bool:
        """Whether nothing is new in this tiling: it costs no less and differs in details, or the
        same and differs in two variables at most."""
        own = self.solution.items()
        differ = {name for name, value in own if better.solution.get(name) != value}
        more = 1000 * (self.cost - better.cost)  # within a thousandth the costs are the same
        if differ <= self.setting.model.details:
            return more >= -better.cost
        return abs(more) <= better.cost and len(differ) <= 2

    def binding(self) -> list[Binding]:
        """What each limit of the device that the model counts costs, the dearest first."""
        s = self.setting
        rows = [
            Binding(name, there, _step_on(more, s, self.step_ns))
            for name, there, more in raised(s.device)
            if name in s.model.limits
        ]
        return sorted(rows, key=lambda row: row.step_ns)


def _step_on(device: Device, setting: Setting, now: float) -> float:
    """Nanoseconds of a step with the best tiling for a device that can do no less."""
    found = evaluate_model(setting.model, setting.task, device, setting.direction)
    return min(now, found.step_ns) if isinstance(found, Candidate) else now


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
        """The statement that asks least of a block."""
        s = self.setting
        return s.model.easiest(s.task, s.device, s.direction)

    def closest(self) -> str:
        """For what the conflict holds, where the model cuts its problem; or ""."""
        return "" if self.reason is not None else self.setting.model.fixed(self._closest)

    def conflict(self) -> list[str]:
        """Constraints that cannot hold together, by name; [] if there is another reason."""
        return [] if self.reason is not None else self._conflict

    @cached_property
    def _conflict(self) -> list[str]:
        return conflict(self._closest.problem, NODES)

    def shortfalls(self) -> list[str]:
        """For each limit of the conflict: the least that the others leave, and what there is."""
        return shortfalls(self._closest.problem, self.conflict())

    def remedies(self) -> list[str]:
        """What would make it fit, each found by solving again."""
        from .heads import remedies

        return remedies(self.setting) if self.reason is None else []


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
