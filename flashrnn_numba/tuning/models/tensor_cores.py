"""The tensor-core kernels behind the planner's protocol: one CTA a head, a cluster, or a grid: CTAs
of a cooperative launch that exchange through L2.

Their problems are in tensor.py (forward) and tensor_backward.py; here are their launches. The CTAs
of a grid wait for each other, so that all of a launch must run at once; heads and batch tiles for
which the device has no room follow in further launches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

from ...kernels.interface import Task
from ...kernels.tensor_layout import Geometry, Tiling, geometry_of, number_bytes, unsuited
from ..hardware import Device
from . import tensor, tensor_backward, tensor_backward_plan, tensor_costs
from .common import Direction, Footprint, Model, Solution, Statement, residency
from .tensor_backward_plan import tiling as backward_tiling
from .tensor_costs import KINDS, Spread


class TensorCores:
    """only -- the kinds that may be chosen."""

    title = "fused, tensor cores"
    backend = "fused"
    note = "R in registers and shared memory; registers: what its launch bounds let a thread have"
    # its own limits of threads are below the devices'
    limits = frozenset({"SMs", "registers", "shared memory", "cluster size"})
    # steps that are fetched ahead; R in registers, the more the better; whether two blocks share an
    # SM, which the kernel does not see
    details = frozenset({"ahead", "resident_rows", "pack"})

    def __init__(self, only: tuple[str, ...] = KINDS) -> None:
        self.only = only
        self.name = only[0] if len(only) == 1 else "tensor"

    def kind(self, solution: Solution) -> str:
        return Spread(solution["cluster"], bool(solution["grid"])).kind

    def kinds(self) -> dict[str, Model]:
        return {kind: TensorCores((kind,)) for kind in self.only}

    def label(self, solution: Solution) -> str:
        kind, count = self.kind(solution), solution["cluster"]
        if kind == "grid":
            return f"fused, tensor cores, {count} CTAs a head that exchange through L2"
        if kind == "cluster":
            return f"fused, tensor cores, a cluster of {count} blocks a head"
        return "fused, tensor cores, one block a head"

    def refuses(self, task: Task, device: Device, direction: Direction) -> str | None:
        reason = unsuited(task, device)
        if reason is not None:
            return reason
        if self._spreads(task, device, direction):
            return None
        four = number_bytes(task.dtype) == 4
        if self.only == ("grid",) and direction == "backward" and four:
            return "backward in float32 sends sums of 32 bits, and through L2 there are none"
        return f"no {' or '.join(self.only)} of this device shares a head of {task.D} units"

    def build(self, task: Task, device: Device, direction: Direction) -> tuple[Statement, ...]:
        if direction == "backward":
            return tensor_backward_plan.statements(task, device, self.only)
        shape = task.B, task.H, task.D
        size = number_bytes(task.dtype)
        return tensor.statements(task.cell, *shape, device, size, self.only)

    def easiest(self, task: Task, device: Device, direction: Direction) -> Statement:
        if direction == "backward":
            return tensor_backward_plan.easiest(task, device, self.only)
        spread = max(s for s in tensor.ways(task.D, device) if s.kind in self.only)
        shape = task.B, task.H, task.D
        return tensor.statement(task.cell, *shape, device, spread, number_bytes(task.dtype))

    def head_dims(
        self, task: Task, device: Device, direction: Direction, most: int
    ) -> Iterable[int]:
        """Whole octets forward, whole tiles of 16 units backward: what is smaller is padded."""
        step = 8 if direction == "forward" else 16
        every = [most] if most % step else []
        every += range(most // step * step, 0, -step)
        return (D for D in every if self._could_hold(replace(task, D=D), device, direction))

    def _could_hold(self, task: Task, device: Device, direction: Direction) -> bool:
        """By a bound that no tiling is needed for."""
        size, spreads = number_bytes(task.dtype), self._spreads(task, device, direction)
        if direction == "forward":
            found = (tensor.could_hold(task.cell, task.D, size, s, device) for s in spreads)
        else:
            found = (
                tensor_backward.could_hold(task.cell, size, s, task.D, device) for s in spreads
            )
        return any(found)

    def _spreads(self, task: Task, device: Device, direction: Direction) -> list[Spread]:
        if direction == "forward":
            every = tensor.ways(task.D, device)
        else:
            every = tensor_backward.spreads(task.D, device, number_bytes(task.dtype))
        return [spread for spread in every if spread.kind in self.only]

    def tiling(self, task: Task, direction: Direction, solution: Solution) -> dict[str, str]:
        tell = _tell_forward if direction == "forward" else tensor_backward_plan.tell
        return tell(task, solution)

    def fixed(self, statement: Statement) -> str:
        blocks, tile = statement.fixed["cluster"], statement.fixed.get("tile")
        words = [f"{blocks} {_sharers(bool(statement.fixed['grid']))}"]
        if tile is not None:
            words.append(f"a batch tile of {tile} row{'s' if tile > 1 else ''}")
        return " and ".join(words)

    def resources(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> Footprint:
        """Of the first launch, where what does not run at once follows in others."""
        if direction == "backward":
            return tensor_backward_plan.footprint(task, device, solution)
        tiling = forward_tiling(task, solution, device)
        z = forward_geometry(task, tiling)
        span = tensor.rows_of_group(task, tiling, device)
        groups = task.H * -(-max(1, task.B) // max(1, span))
        first = min(groups, tensor.groups_of_launch(tiling, device)) if tiling.grid else groups
        return Footprint(
            threads=z.threads,
            # ptxas takes what the launch bounds allow, whatever the kernel needs
            registers=device.registers_allowed(z.threads),
            shared_bytes=z.shared_bytes,
            blocks=first * tiling.cluster,
            cluster=1 if tiling.grid else tiling.cluster,
            together=tiling.grid,
            launches=-(-groups // first),
            needed=tensor.solved_sizes(task.cell, solution, device).registers,
        )

    def step_ns(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> dict[str, float]:
        """Of one wave of one launch."""
        z = self.resources(task, device, direction, solution)
        waves = residency(z, device).waves
        if direction == "backward":
            total = tensor_backward_plan.step_ns(task, device, solution)
            return {"product, cell, exchange and barriers": total / waves / z.launches}
        shape = task.B, task.H, task.D
        ns = tensor.step_ns(task.cell, *shape, device, solution) / waves / z.launches
        exchange = exchange_cycles(task, device, solution) / device.clock_ghz
        if waves > 1 or solution["cluster"] == 1:
            return {"product, cell, exchange and barriers": ns}
        return {"product, cell and barriers": ns - exchange, "exchange": exchange}


# -- forward -------------------------------------------------------------------------------------


def forward_tiling(task: Task, solution: Solution, device: Device | None = None) -> Tiling:
    return tensor.tiling_of(task.cell, solution, device)


def forward_geometry(task: Task, tiling: Tiling) -> Geometry:
    return geometry_of(task.cell, task.dtype, task.D, tiling)


def exchange_cycles(task: Task, device: Device, solution: Solution) -> int:
    """Of one wave, or of one launch."""
    s = tensor.solved_sizes(task.cell, solution, device)
    rows = tensor.rows_of_group(task, forward_tiling(task, solution, device), device)
    return int(tensor_costs.exchange(SimpleNamespace(**solution), s, rows))


def _sharers(grid: bool) -> str:
    return "CTAs a head and batch tile" if grid else "blocks a cluster"


def _tell_forward(task: Task, solution: Solution) -> dict[str, str]:
    tiling = forward_tiling(task, solution)
    z = forward_geometry(task, tiling)
    spread = ", every other column" if tiling.spread == 2 else ""
    return {
        "batch tile": f"{tiling.batch} rows in {tiling.n_tiles} n-tiles{spread}",
        _sharers(tiling.grid): str(tiling.cluster),
        "units a block": f"{z.units} of {z.padded}",
        "warps a block": f"{z.warps} = {z.groups} m-groups x {tiling.splits} k-splits",
        "octets a warp": f"{tiling.octets} of 8 units with all gates: {z.m_tiles} m-tiles",
        "k-steps a warp": f"{z.k_steps} of 16, in {tiling.chains} chains",
        "fragments of R a warp": f"{z.in_registers} in registers, {z.in_shared} in shared memory",
        "inputs fetched": f"{tiling.ahead} steps ahead",
    }


__all__ = ["TensorCores", "backward_tiling", "forward_tiling"]
