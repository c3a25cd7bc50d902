"""The portable fused kernel behind the planner's protocol. Its problem is in fused.py."""

from __future__ import annotations

from collections.abc import Iterable

from ...kernels.fused_layout import Layout, Tiling, grid_of, layout
from ...kernels.interface import Task
from ..hardware import Device
from . import fused, fused_time
from .common import Direction, Footprint, Model, Solution, Statement, evaluate


class Portable:
    name = "portable"
    title = "fused, portable: R in shared memory, plain arithmetic"
    backend = "fused"
    note = "one kernel serves every batch size; registers: what leaves room for its blocks on an SM"
    limits = frozenset({"SMs", "registers", "shared memory", "threads"})
    details = frozenset[str]()

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

    def head_dims(
        self, task: Task, device: Device, direction: Direction, most: int
    ) -> Iterable[int]:
        largest = fused.largest_head(task.cell, task.dtype, direction, device)
        return range(min(most, largest), 0, -1)

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

    def fixed(self, statement: Statement) -> str:
        return ""

    def resources(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> Footprint:
        z, s, per_sm = _laid_out(task, device, direction, solution)
        along_batch, along_heads, _ = grid_of(task, z, s.shared_bytes, device, per_sm)
        return Footprint(
            threads=z.threads,
            # what leaves room for as many blocks as the model counts on
            registers=device.registers_allowed(z.threads, per_sm),
            shared_bytes=s.shared_bytes,
            blocks=max(1, along_batch * along_heads),
            needed=evaluate(fused.registers(task.cell, task.dtype, direction, z, s)),
        )

    def step_ns(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> dict[str, float]:
        z, s, per_sm = _laid_out(task, device, direction, solution)
        own = fused_time.share(device, z, per_sm, max(1, task.B), task.H)
        product = fused_time.product(task.cell, task.dtype, device, z, s, own)
        pointwise = fused_time.pointwise(task.cell, task.dtype, direction, z, s, own)
        return {
            "product": evaluate(product) / device.clock_ghz,
            "cell and barriers": evaluate(pointwise) / device.clock_ghz,
        }


def _laid_out(
    task: Task, device: Device, direction: Direction, solution: Solution
) -> tuple[Tiling, Layout, int]:
    """(tiling, sizes that follow, blocks of an SM at once)."""
    z = Tiling(**solution)
    s = layout(task.cell, task.dtype, task.D, direction, z)
    return z, s, evaluate(fused.resident(task.cell, task.dtype, direction, device, z, s))
