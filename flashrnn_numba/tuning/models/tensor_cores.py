"""The tensor-core kernels behind the planner's protocol: one block a head, or a cluster a head.

Their problems are in tensor.py (forward) and tensor_backward.py; here are their launches.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from ...kernels import tensor as launching
from ...kernels.interface import Task
from ...kernels.tensor_layout import Geometry, Tiling, geometry_of, number_bytes, unsuited
from ..hardware import Device
from . import tensor, tensor_backward_plan
from .common import Direction, Footprint, Solution, Statement, evaluate, residency
from .tensor_backward_plan import tiling as backward_tiling


class TensorCores:
    name = "tensor"
    title = "fused, tensor cores"
    backend: str | None = "fused"
    note = "R in registers and shared memory; registers: what its launch bounds let a thread have"

    def kind(self, solution: Solution) -> str:
        return "tensor" if solution["cluster"] == 1 else "cluster"

    def kinds(self, device: Device) -> dict[str, Device]:
        alone = replace(device, max_cluster=1, portable_cluster=1, gpcs=(), clusters=())
        return {"tensor": alone} | ({"cluster": device} if device.max_cluster > 1 else {})

    def label(self, solution: Solution) -> str:
        if solution["cluster"] == 1:
            return "fused, tensor cores, one block a head"
        return f"fused, tensor cores, a cluster of {solution['cluster']} blocks a head"

    def refuses(self, task: Task, device: Device, direction: Direction) -> str | None:
        return unsuited(task, device)

    def build(self, task: Task, device: Device, direction: Direction) -> tuple[Statement, ...]:
        if direction == "backward":
            return tensor_backward_plan.statements(task, device)
        size = number_bytes(task.dtype)
        shape = task.B, task.H, task.D
        return (Statement(*tensor.model(task.cell, *shape, device, size=size)),)

    def easiest(self, task: Task, device: Device, direction: Direction) -> Statement:
        if direction == "backward":
            return tensor_backward_plan.easiest(task, device)
        return self.build(task, device, direction)[0]

    def tiling(self, task: Task, direction: Direction, solution: Solution) -> dict[str, str]:
        tell = _tell_forward if direction == "forward" else tensor_backward_plan.tell
        return tell(task, solution)

    def resources(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> Footprint:
        if direction == "backward":
            return tensor_backward_plan.footprint(task, device, solution)
        tiling = forward_tiling(task, solution)
        z = forward_geometry(task, tiling)
        span = launching.rows_of_group(task, tiling, device)
        return Footprint(
            threads=z.threads,
            # ptxas takes what the launch bounds allow, whatever the kernel needs
            registers=device.registers_allowed(z.threads),
            shared_bytes=z.shared_bytes,
            blocks=-(-max(1, task.B) // span) * tiling.cluster * task.H,
            cluster=tiling.cluster,
        )

    def step_ns(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> dict[str, float]:
        waves = residency(self.resources(task, device, direction, solution), device).waves
        if direction == "backward":
            total = tensor_backward_plan.step_ns(task, device, solution)
            return {"product, cell, exchange and barriers": total / waves}
        # the model's cycles are those of all waves together
        statement = self.build(task, device, direction)[0]
        whole = evaluate(statement.cost, solution) / waves / device.clock_ghz
        exchange = exchange_cycles(task, solution) / device.clock_ghz if waves == 1 else 0.0
        parts = {"product, cell and barriers": whole - exchange, "exchange": exchange}
        return {name: ns for name, ns in parts.items() if ns}


# -- forward -------------------------------------------------------------------------------------


def forward_tiling(task: Task, solution: Solution) -> Tiling:
    return tensor.tiling_of(task.cell, solution)


def forward_geometry(task: Task, tiling: Tiling) -> Geometry:
    return geometry_of(task.cell, task.dtype, task.D, tiling)


def exchange_cycles(task: Task, solution: Solution) -> int:
    z, s = SimpleNamespace(**solution), tensor.solved_sizes(task.cell, solution)
    if z.cluster == 1:
        return 0
    rows = min(s.batch, -(-max(1, task.B) // max(1, z.at_once // task.H)))
    return z.latency + z.slope * rows * s.units * z.size // 100


def _tell_forward(task: Task, solution: Solution) -> dict[str, str]:
    tiling = forward_tiling(task, solution)
    z = forward_geometry(task, tiling)
    spread = ", every other column" if tiling.spread == 2 else ""
    return {
        "batch tile": f"{tiling.batch} rows in {tiling.n_tiles} n-tiles{spread}",
        "blocks a cluster": str(tiling.cluster),
        "units a block": f"{z.units} of {z.padded}",
        "warps a block": f"{z.warps} = {z.groups} m-groups x {tiling.splits} k-splits",
        "octets a warp": f"{tiling.octets} of 8 units with all gates: {z.m_tiles} m-tiles",
        "k-steps a warp": f"{z.k_steps} of 16, in {tiling.chains} chains",
        "fragments of R a warp": f"{z.in_registers} in registers, {z.in_shared} in shared memory",
    }


__all__ = ["TensorCores", "backward_tiling", "forward_tiling"]
