"""What the planner asks of a model, and what every launch has in common: the device's limits.

A model describes one kernel to the solver. `Model` is its protocol; files such as `portable.py` put
the kernels' own models behind it, and registry.py lists them. What a tiling takes of the device is
a `Footprint`; the arithmetic of limits is here, once for all kernels.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

from ...kernels.interface import Task
from ..expressions import Expression, Variable
from ..hardware import WARP, Device
from ..problem import Problem

Direction = Literal["forward", "backward"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
Solution = dict[str, int]


LARGEST_CLASS = 4096  # of batch sizes; from there on tilings do not change


def batch_class(B: int) -> int:
    """The next power of 2: batch sizes of a class share a tiling, and compile nothing new."""
    return min(1 << max(0, B - 1).bit_length(), LARGEST_CLASS)


def batch_classes(B: int) -> list[int]:
    """All of them, that of B first, the nearest next."""
    own, every = batch_class(B), [1 << n for n in range(LARGEST_CLASS.bit_length())]
    return sorted(every, key=lambda n: (abs(n.bit_length() - own.bit_length()), n))


@dataclass(frozen=True)
class Statement:
    """A tiling problem and its cost: an integer expression in the model's own unit.

    state -- makes (problem, cost) when they are first asked for: many statements never are.

    A model may cut its problem into several statements, one for each value of some variables:
    `fixed` are these, and part of every solution. `total` turns a solution of the problem into a
    cost that can be compared between statements, or to None if it cannot run after all; without
    `total` the cost itself can be compared. No solution costs less than `least`. Where several head
    dimensions lead to the same problem, these are `alike`; None: unknown.
    """

    state: Callable[[], tuple[Problem, Expression | int]]
    fixed: Solution = field(default_factory=dict)
    total: Callable[[Solution], int | None] | None = None
    least: int = 0
    alike: Hashable = None

    @cached_property
    def _stated(self) -> tuple[Problem, Expression | int]:
        return self.state()

    @property
    def problem(self) -> Problem:
        return self._stated[0]

    @property
    def cost(self) -> Expression | int:
        return self._stated[1]

    @property
    def nodes(self) -> int:
        """Branches of the latest search; 0 where there was none."""
        return self.problem.stats.nodes if self.stated else 0

    @property
    def stated(self) -> bool:
        """Whether anyone has asked for the problem."""
        return "_stated" in vars(self)

    def value(self, solution: Solution) -> int | None:
        """The cost of a solution, with or without the fixed values in it."""
        return evaluate(self.cost, solution) if self.total is None else self.total(solution)

    def best(self, count: int, node_limit: int | None = None) -> list[tuple[int, Solution]]:
        """(cost, whole solution) of the `count` best, cheapest first."""
        if count not in self._found:
            self._found[count] = list(self._best(count, node_limit))
        return sorted(self._found[count], key=lambda row: row[0])

    @cached_property
    def _found(self) -> dict[int, list[tuple[int, Solution]]]:
        """What was asked for before: kinds of a kernel share statements."""
        return {}

    def _best(self, count: int, node_limit: int | None) -> Iterable[tuple[int, Solution]]:
        for cost, own in self.problem.ranked(count, self.cost, node_limit=node_limit):
            value = cost if self.total is None else self.total(own)
            if value is not None:
                yield value, self.fixed | own

    def own(self, solution: Solution) -> Solution:
        """The problem's own part of a whole solution."""
        return {name: value for name, value in solution.items() if name not in self.fixed}

    def covers(self, solution: Solution) -> bool:
        """Whether a whole solution is one of this statement."""
        return self.fixed.items() <= solution.items()


def cheapest(
    statements: Sequence[Statement], count: int = 1, node_limit: int | None = None
) -> list[tuple[int, Solution]]:
    """(cost, whole solution) of the `count` best of all statements, cheapest first. What cannot
    cost less than the `count`-th best found so far is not even stated."""
    found: list[tuple[int, Solution]] = []
    for statement in sorted(statements, key=lambda s: s.least):
        if len(found) == count and statement.least >= found[-1][0]:
            break
        found += statement.best(count, node_limit)
        found = sorted(found, key=lambda row: row[0])[:count]
    return found


@dataclass(frozen=True)
class Footprint:
    """What one launch takes. Registers a thread, shared memory a block (dynamic and static).

    together -- all blocks must be on the device at once: they wait for each other.
    persistent -- a block runs all time steps, so every further wave repeats them all.
    launches -- how many such launches follow each other, the last one perhaps with fewer blocks.
    needed -- registers that a thread cannot do without, by the model's estimate; None: it has none.
    """

    threads: int
    registers: int
    shared_bytes: int
    blocks: int
    cluster: int = 1
    together: bool = False
    persistent: bool = True
    launches: int = 1
    needed: int | None = None


class Model(Protocol):
    """One kernel, as the planner sees it.

    name -- short; title -- for people; backend -- which backend runs it;
    note -- what else a reader should know, or "".
    limits -- what of the device (binding.py) its tilings and times count.
    details -- variables that make no other tiling: the best of those that differ only there stands
        for all.
    """

    name: str
    title: str
    backend: str
    note: str
    limits: frozenset[str]
    details: frozenset[str]

    def kind(self, solution: Solution) -> str:
        """Which kind of the kernel a solution is, in a word: the name where there is one kind."""

    def kinds(self) -> dict[str, Model]:
        """The kinds of the kernel, each as a model of that kind alone."""

    def label(self, solution: Solution) -> str:
        """The title of the kind that a solution is."""

    def refuses(self, task: Task, device: Device, direction: Direction) -> str | None:
        """Why this kernel is out of the question, whatever the tiling (dtype, device); or None."""

    def build(self, task: Task, device: Device, direction: Direction) -> tuple[Statement, ...]:
        """The tiling as an integer problem, or as several that are solved one by one."""

    def easiest(self, task: Task, device: Device, direction: Direction) -> Statement:
        """The one of them that asks least of a block: where none has a tiling, it tells why."""

    def head_dims(
        self, task: Task, device: Device, direction: Direction, most: int
    ) -> Iterable[int]:
        """Head dimensions up to `most`, the largest first, other things as in the task. Each other
        one that fits has one of these above it that fits, too."""

    def tiling(self, task: Task, direction: Direction, solution: Solution) -> dict[str, str]:
        """The solution in the kernel's vocabulary: name -> value with its unit."""

    def fixed(self, statement: Statement) -> str:
        """What a statement fixes, in the same vocabulary; "" where it fixes nothing."""

    def resources(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> Footprint:
        """What the launch takes; of several the first."""

    def step_ns(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> dict[str, float]:
        """Nanoseconds of one time step of one wave of one launch, by part; their sum is the
        step."""


class Limit(NamedTuple):
    """A resource: what is used, what there is, and in which unit."""

    name: str
    used: int
    limit: int
    unit: str


@dataclass(frozen=True)
class Residency:
    """How a launch lies on the device: blocks on one SM, blocks and clusters at once, waves."""

    blocks_per_sm: int
    blocks: int
    clusters: int
    waves: int


def residency(footprint: Footprint, device: Device) -> Residency:
    """Waves count whole clusters: no more at once than `Device.resident_clusters` promises."""
    z = footprint
    per_sm = device.blocks_per_sm(z.threads, z.registers, z.shared_bytes)
    at_once = device.resident_clusters(z.cluster, z.threads, z.registers, z.shared_bytes)
    clusters = -(-z.blocks // z.cluster)
    waves = -(-clusters // at_once) if at_once else 0
    return Residency(per_sm, min(z.blocks, at_once * z.cluster), min(clusters, at_once), waves)


def limits(footprint: Footprint, device: Device) -> list[Limit]:
    """The device's limits beside what the launch takes of them."""
    z = footprint
    lies = residency(z, device)
    warps = -(-z.threads // WARP)
    # as many on one SM as there are blocks for
    on_sm = min(lies.blocks_per_sm, -(-z.blocks // device.sms))
    shared = -(-(z.shared_bytes + device.shared_reserved) // device.shared_unit)
    rows = [
        Limit("threads a block", z.threads, device.threads_per_block, "threads"),
        Limit("registers a thread", z.registers, device.registers_per_thread, "registers"),
        Limit("shared memory a block", z.shared_bytes, device.shared_per_block, "bytes"),
        Limit("blocks an SM", on_sm, lies.blocks_per_sm, "blocks"),
        Limit("warps an SM", on_sm * warps, device.warps_per_sm, "warps"),
        Limit(
            "registers an SM",
            on_sm * warps * device.registers_per_warp(z.registers),
            device.registers_per_sm,
            "registers",
        ),
        Limit(
            "shared memory an SM",
            on_sm * shared * device.shared_unit,
            device.shared_per_sm,
            "bytes",
        ),
    ]
    if z.cluster > 1:
        rows.append(Limit("blocks a cluster", z.cluster, device.max_cluster, "blocks"))
    # what waits for a later wave is no violation, unless the blocks wait for each other
    needed = z.blocks if z.together else lies.blocks
    at_once = device.resident_clusters(z.cluster, z.threads, z.registers, z.shared_bytes)
    rows.append(Limit("blocks at once", needed, at_once * z.cluster, "blocks"))
    return rows


def exceeded(footprint: Footprint, device: Device) -> list[Limit]:
    """The limits that a launch would break; none for a launch that runs."""
    broken = [row for row in limits(footprint, device) if row.used > row.limit]
    lies = residency(footprint, device)
    if not lies.waves and not broken:
        broken = [Limit("blocks at once", 1, 0, "blocks")]
    return broken


def evaluate(expression: Any, solution: Solution | None = None) -> int:
    """The value of an expression (or a plain integer) at a solution."""
    if not isinstance(expression, Expression):
        return int(expression)
    return _value(expression, solution or {}, {})


def _value(tree: Expression, solution: Solution, known: dict[int, int]) -> int:
    """Each shared part once: as text, which `evaluator` compiles, it would be there many times."""
    if isinstance(tree, Variable):
        return solution[tree.name]
    if tree.op == "const":
        return tree.value
    if id(tree) not in known:
        known[id(tree)] = _APPLY[tree.op](*(_value(arg, solution, known) for arg in tree.args))
    return known[id(tree)]


_APPLY: dict[str, Callable[..., int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "min": min,
    "max": max,
}


def whole(value: Any) -> str:
    """A count with its thousands apart: 232 448."""
    return f"{value:,}".replace(",", " ")
