"""The tensor-core kernels with CTAs that are no cluster: they exchange through L2.

For heads that no cluster can hold, and for cards without clusters. The CTAs of a group wait for
each other, so that all of a launch must run at once (it is a cooperative launch, which refuses what
does not fit); heads and batch tiles for which the device has no room follow in further launches.
"""

from __future__ import annotations

from ...kernels import tensor as launching
from ...kernels.interface import Task
from ...kernels.tensor_layout import grid_exchange, number_bytes
from ..hardware import Device
from . import tensor, tensor_backward, tensor_backward_plan
from .common import Direction, Footprint, Solution, Statement, evaluate
from .tensor_cores import TensorCores, exchange_cycles, forward_geometry, forward_tiling


class Grid(TensorCores):
    name = "grid"
    title = "fused, tensor cores, CTAs of the grid share a head through L2"
    note = "used where FLASHRNN_NUMBA_GRID=1 is set: not yet tested on a GPU"

    @property
    def backend(self) -> str | None:  # type: ignore[override]
        return "fused" if grid_exchange() else None

    def kind(self, solution: Solution) -> str:
        return self.name

    def kinds(self, device: Device) -> dict[str, Device]:
        return {self.name: device}

    def label(self, solution: Solution) -> str:
        return f"fused, tensor cores, {solution['cluster']} CTAs a head that exchange through L2"

    def refuses(self, task: Task, device: Device, direction: Direction) -> str | None:
        reason = super().refuses(task, device, direction)
        if direction == "forward":
            some = bool(tensor.groups_of_ctas(task.D, device, True))
        else:
            some = bool(tensor_backward.spreads(task.D, device, True))
        if reason is None and direction == "backward" and number_bytes(task.dtype) == 4:
            reason = "backward in float32 sends sums of 32 bits, and through L2 there are none"
        if reason is None and not some:
            reason = f"no number of CTAs up to {device.sms} shares a head of {task.D} units"
        return reason

    def build(self, task: Task, device: Device, direction: Direction) -> tuple[Statement, ...]:
        if direction == "backward":
            return tensor_backward_plan.statements(task, device, grid=True)
        size = number_bytes(task.dtype)
        shape = task.B, task.H, task.D
        return (Statement(*tensor.model(task.cell, *shape, device, grid=True, size=size)),)

    def easiest(self, task: Task, device: Device, direction: Direction) -> Statement:
        if direction == "backward":
            return tensor_backward_plan.easiest(task, device, grid=True)
        return self.build(task, device, direction)[0]

    def tiling(self, task: Task, direction: Direction, solution: Solution) -> dict[str, str]:
        told = super().tiling(task, direction, solution)
        return {"CTAs a head and batch tile": told.pop("blocks a cluster")} | told

    def resources(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> Footprint:
        if direction == "backward":
            return tensor_backward_plan.footprint(task, device, solution)
        z = forward_geometry(task, forward_tiling(task, solution))
        return Footprint(
            threads=z.threads,
            registers=device.registers_allowed(z.threads),
            shared_bytes=z.shared_bytes,
            blocks=min(_groups(task, device, solution), solution["at_once"]) * solution["cluster"],
            together=True,
        )

    def step_ns(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> dict[str, float]:
        """Of all launches together: one step of each, one after the other."""
        if direction == "backward":
            total = tensor_backward_plan.step_ns(task, device, solution)
            return {"product, cell, exchange and barriers": float(total)}
        statement = self.build(task, device, direction)[0]
        launches = -(-_groups(task, device, solution) // solution["at_once"])
        whole = evaluate(statement.cost, solution) / device.clock_ghz
        exchange = exchange_cycles(task, solution) * launches / device.clock_ghz
        return {"product, cell and barriers": whole - exchange, "exchange through L2": exchange}


def _groups(task: Task, device: Device, solution: Solution) -> int:
    """Heads times batch tiles."""
    span = launching.rows_of_group(task, forward_tiling(task, solution), device)
    return task.H * -(-max(1, task.B) // max(1, span))
