"""The tensor-core kernels behind the planner's protocol: one block a head, or a cluster a head.

Their problems are in tensor.py (forward) and tensor_backward.py; here are their launches.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from ...kernels import tensor as launching
from ...kernels import tensor_backward as backward_kernel
from ...kernels import tensor_backward_run as running
from ...kernels.interface import Task
from ...kernels.tensor_layout import Geometry, Tiling, geometry, number_bytes, unsuited
from ..hardware import Device
from . import tensor, tensor_backward
from .common import Direction, Footprint, Solution, Statement, evaluate, residency


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
        return unsuited(task, device, tf32=direction == "forward")

    def build(self, task: Task, device: Device, direction: Direction) -> tuple[Statement, ...]:
        if direction == "backward":
            return _backward_statements(task, device)
        size = number_bytes(task.dtype)
        shape = task.B, task.H, task.D
        return (Statement(*tensor.model(task.cell, *shape, device, size=size)),)

    def easiest(self, task: Task, device: Device, direction: Direction) -> Statement:
        if direction == "backward":
            return _backward_statement(task, device, _clusters(task, device)[-1], 1)
        return self.build(task, device, direction)[0]

    def tiling(self, task: Task, direction: Direction, solution: Solution) -> dict[str, str]:
        return (_tell_forward if direction == "forward" else _tell_backward)(task, solution)

    def resources(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> Footprint:
        if direction == "backward":
            return _backward_footprint(task, device, solution)
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
            statement = _backward_statement(task, device, solution["cluster"], solution["tile"])
            total = statement.value(solution)
            assert total is not None, "a solution that cannot run has no time"
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
    cell = task.cell
    gates = len(cell.recurrent_gates), len(cell.input_gates)
    return geometry(task.D, *gates, len(cell.states), tiling, number_bytes(task.dtype))


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


# -- backward ------------------------------------------------------------------------------------


def _backward_statements(task: Task, device: Device) -> tuple[Statement, ...]:
    """One for each cluster size and batch tile, in the order in which the kernel's own search
    looks at them; the batch is rounded up as there."""
    largest = min(tensor_backward.LARGEST_TILE, running.rows_within_index(task))
    tiles = [n for n in tensor_backward.TILES if n <= largest and (n == 1 or n < 2 * _rows(task))]
    return tuple(
        _backward_statement(task, device, cluster, tile)
        for cluster in _clusters(task, device)
        for tile in tiles
    )


def _backward_statement(task: Task, device: Device, cluster: int, tile: int) -> Statement:
    problem, cost = tensor_backward.model(task.cell, task.D, device, cluster, tile)

    def total(solution: Solution) -> int | None:
        """Nanoseconds of a step of all waves, as in tensor_backward._best."""
        own = {name: value for name, value in solution.items() if name not in fixed}
        step = tensor_backward.solution_cost(cost, own, problem)
        z = _backward_layout(task, fixed | own)
        registers = device.registers_allowed(z.threads)
        at_once = device.resident_clusters(cluster, z.threads, registers, z.shared_bytes)
        if not at_once:
            return None
        groups = task.H * -(-_rows(task) // tile)
        shared = -(-min(groups, at_once) * cluster // device.sms) - 1
        return step * (100 + 15 * shared) // 100 * -(-groups // at_once)

    fixed = {"cluster": cluster, "tile": tile}
    return Statement(problem, cost, fixed, total)


def _rows(task: Task) -> int:
    """The batch as the kernel's own search rounds it."""
    return min(1 << max(0, task.B - 1).bit_length(), 4096)


def _clusters(task: Task, device: Device) -> list[int]:
    most = min(device.max_cluster, -(-task.D // 16))
    return [n for n in tensor_backward.CLUSTERS if n <= most]


def backward_tiling(task: Task, solution: Solution) -> backward_kernel.Tiling:
    cluster, tile = solution["cluster"], solution["tile"]
    return tensor_backward.tiling_of(task.cell, task.D, cluster, tile, solution)


def _backward_layout(task: Task, solution: Solution) -> backward_kernel.Layout:
    return backward_kernel.layout(task.cell, task.D, backward_tiling(task, solution))


def _backward_footprint(task: Task, device: Device, solution: Solution) -> Footprint:
    z, tiling = _backward_layout(task, solution), backward_tiling(task, solution)
    along_batch, along_heads = backward_kernel.grid(tiling, max(1, task.B), task.H)
    return Footprint(
        threads=z.threads,
        registers=device.registers_allowed(z.threads),
        shared_bytes=z.shared_bytes,
        blocks=along_batch * along_heads,
        cluster=tiling.cluster,
    )


def _tell_backward(task: Task, solution: Solution) -> dict[str, str]:
    z, tiling = _backward_layout(task, solution), backward_tiling(task, solution)
    shared = z.fragments - z.registers
    return {
        "batch tile": f"{tiling.tile} rows",
        "blocks a cluster": str(tiling.cluster),
        "units a block": str(z.units),
        "warps a block": (
            f"{z.warps} = {z.m_groups} m-groups x {tiling.gate_parts} parts of the gates x "
            f"{tiling.k_parts} k-splits"
        ),
        "m-tiles a warp": f"{tiling.m_tiles} of 16 previous units",
        "fragments of R a warp": f"{z.registers} in registers, {shared} in shared memory",
        "units a thread": f"{z.pairs} x {z.each} in the pointwise part",
        "inputs fetched": f"{tiling.ahead} steps ahead",
    }


__all__ = ["TensorCores", "backward_tiling", "forward_tiling"]
