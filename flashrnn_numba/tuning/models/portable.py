"""The portable fused kernel behind the planner's protocol. Its problem is in fused.py."""

from __future__ import annotations

from ...kernels.fused import grid_of
from ...kernels.fused_layout import Tiling, layout
from ...kernels.interface import Task
from ..hardware import Device
from . import fused
from .common import Direction, Footprint, Model, Solution, Statement, evaluate


class Portable:
    name = "portable"
    title = "fused, portable: R in shared memory, plain arithmetic"
    backend = "fused"
    note = "one kernel serves every batch size; registers: what its launch bounds let a thread have"

    def kind(self, solution: Solution) -> str:
        return self.name

    def kinds(self) -> dict[str, Model]:
        return {self.name: self}

    def label(self, solution: Solution) -> str:
        return self.title

    def refuses(self, task: Task, device: Device, direction: Direction) -> str | None:
        return None

    def build(self, task: Task, device: Device, direction: Direction) -> tuple[Statement, ...]:
        shape = task.cell, task.dtype, task.D, task.H
        return (Statement(lambda: fused.model(*shape, direction, device)),)

    def easiest(self, task: Task, device: Device, direction: Direction) -> Statement:
        return self.build(task, device, direction)[0]

    def tiling(self, task: Task, direction: Direction, solution: Solution) -> dict[str, str]:
        z = solution
        return {
            "batch tile": f"{z['rows']} rows a block at most, {z['row_tile']} a thread",
            "heads a block": str(z["heads"]),
            "units a thread": f"{z['unit_tile']} in the product",
            "k-splits": str(z["split"]),
            "warps a block": str(z["threads"] // 32),
            "R": f"in shared memory, {len(task.cell.recurrent_gates)} gates",
        }

    def resources(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> Footprint:
        tiling = Tiling(**solution)
        s = layout(task.cell, task.dtype, task.D, direction, tiling)
        along_batch, along_heads, _ = grid_of(task, tiling, s.shared_bytes, device)
        return Footprint(
            threads=tiling.threads,
            # ptxas takes what the launch bounds allow, whatever the kernel needs
            registers=device.registers_allowed(tiling.threads),
            shared_bytes=s.shared_bytes,
            blocks=max(1, along_batch * along_heads),
        )

    def step_ns(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> dict[str, float]:
        tiling = Tiling(**solution)
        s = layout(task.cell, task.dtype, task.D, direction, tiling)
        _, _, rows = grid_of(task, tiling, s.shared_bytes, device)
        threads = s.product_threads * -(-rows // tiling.row_tile) * tiling.row_tile // tiling.rows
        cycles = fused._step(task.cell, task.dtype, tiling, s, threads, rows)
        return {"product, cell and barriers": evaluate(cycles) / device.clock_ghz}
