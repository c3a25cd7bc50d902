"""The alternating kernel: one matrix product and one pointwise kernel a step, in a CUDA graph.

It holds nothing on the SMs, so it always fits. A step costs two nodes of the graph, the time to
bring R to the SMs again (from L2 where it fits there), and the pointwise work. All that is left to
choose is the block of the pointwise kernel.
"""

from __future__ import annotations

from ...kernels.interface import Task
from ..hardware import WARP, Device
from ..problem import Problem
from . import floors
from .common import Direction, Footprint, Solution, Statement, element_bytes

REGISTERS = 64  # of a thread of the pointwise kernel, from above
L2_BYTES_PER_CLOCK = 32  # of one SM, estimate: about half of what the L2 can deliver at best


class Alternating:
    name = "alternating"
    title = "alternating: a matrix product and a pointwise kernel a step"
    backend: str | None = "alternating"
    note = "launched as one CUDA graph; times of its nodes are estimates"

    def refuses(self, task: Task, device: Device, direction: Direction) -> str | None:
        return None

    def build(self, task: Task, device: Device, direction: Direction) -> Statement:
        """threads of a pointwise block, and how many blocks cover all units of all rows."""
        p = Problem()
        items = max(1, task.B) * task.H * task.D
        threads = p.variable("threads", [64, 128, 256, 512, 1024])
        blocks = p.variable("blocks", range(1, items + 1))
        p.require(threads <= device.threads_per_block, "threads a block", "threads")
        p.require(
            threads * REGISTERS <= device.registers_per_block, "registers a block", "registers"
        )
        p.require(blocks * threads >= items, "every unit has a thread", "threads")
        p.require((blocks - 1) * threads < items, "no idle block", "threads")
        # rounds over the SMs first; then few blocks, but not fewer than SMs
        rounds = -(-blocks // device.sms)
        return Statement(p, rounds * (40 + threads // 4) + blocks // 64)

    def tiling(self, task: Task, direction: Direction, solution: Solution) -> dict[str, str]:
        return {
            "pointwise kernel": f"{solution['blocks']} blocks of {solution['threads']} threads",
            "nodes of the graph a step": "2",
        }

    def resources(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> Footprint:
        return Footprint(solution["threads"], REGISTERS, 0, solution["blocks"], persistent=False)

    def step_ns(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> dict[str, float]:
        gates, B, H, D = len(task.cell.recurrent_gates), max(1, task.B), task.H, task.D
        weights = gates * H * D * D * element_bytes(task.dtype)
        rows = B * H * D * (gates + 1) * element_bytes(task.dtype)
        clock = device.clock_ghz
        in_l2 = weights <= device.l2_bytes // 2
        rate = device.sms * L2_BYTES_PER_CLOCK * clock if in_l2 else device.memory_gb_s
        tensor = floors.products_per_clock(device, task.dtype)
        per_clock = tensor or floors.plain_products_per_clock(device, task.dtype)
        # products of a few rows reach an eighth of the peak, large ones half of it (estimate)
        share = min(1 / 2, 1 / 8 + B / 1024)
        compute = gates * H * D * D * B / (device.sms * per_clock * clock * share)
        parts = {
            "graph nodes": 2 * floors.GRAPH_NODE,
            "matrix product": max(floors.SMALL_PRODUCT, (weights + rows) / rate, compute),
            "pointwise": floors.POINTWISE + B * H * D * 40 / (device.sms * WARP * clock),
        }
        if direction == "backward":  # reads states and gates, writes gradients: twice the traffic
            parts["pointwise"] *= 1.5
        return parts
