"""Planning only: the tensor-core kernel with its blocks spread over the grid, for cards without
clusters. NO KERNEL DOES THIS YET, so a plan never chooses it; it tells what one could reach.

A head and a batch tile belong to a group of blocks. Each block keeps the rows of R of its units,
in registers and in shared memory; each step it gives its part of s_0 to the group through L2 and
waits at a barrier of the whole grid. A grid barrier needs all blocks on the device at once (a
cooperative launch; it hangs otherwise), so one launch runs as many groups as fit, at one block an
SM, and the rest of the heads and batch tiles take further rounds.
"""

from __future__ import annotations

from typing import Any

from ...kernels.interface import Task
from ..hardware import WARP, Device
from ..problem import Problem
from . import floors
from .common import Direction, Footprint, Solution, Statement

FRAGMENT = 512  # bytes of 16 x 16 numbers of R, as mma.sync takes them
FRAGMENT_REGISTERS = 4
OTHER_REGISTERS = 48  # addresses, states, the cell
ROW_PADDING = 8  # numbers after each row of s_0, so that rows begin in different banks
MMA = 16 * 8 * 16  # multiply-adds of one mma.sync


class Grid:
    name = "grid"
    title = "fused, tensor cores, the grid shares a head through L2"
    backend: str | None = None
    note = "no kernel yet: a planning model, never chosen"

    def kind(self, solution: Solution) -> str:
        return self.name

    def kinds(self, device: Device) -> dict[str, Device]:
        return {self.name: device}

    def label(self, solution: Solution) -> str:
        return self.title

    def refuses(self, task: Task, device: Device, direction: Direction) -> str | None:
        if direction == "backward":
            return "only the forward pass is modelled"
        if task.dtype not in ("bfloat16", "float16"):
            return f"tensor cores take bfloat16 and float16 here, got {task.dtype}"
        if not floors.products_per_clock(device, task.dtype) or device.sm < 80:
            return f"{device.name} has no mma.sync m16n8k16 for {task.dtype}"
        if not task.cell.recurrent_gates:
            return f"cell {task.cell.name!r} has no recurrent gate"
        if task.D % 16:
            return f"the head dimension must be a multiple of 16, got {task.D}"
        return None

    def build(self, task: Task, device: Device, direction: Direction) -> tuple[Statement, ...]:
        """
        batch_tile  rows of s_0 that a group works on
        spread      blocks of a group; units = D / spread
        groups      groups at once; rounds until all heads and batch tiles are done
        m_groups    warps side by side along the gate rows; m_tiles of 16 rows each
        k_splits    warps that share the sum over the previous units
        r_registers, r_shared  fragments of R a warp keeps here and there
        """
        p = Problem()
        D, gates = task.D, len(task.cell.recurrent_gates)
        batch = max(1, task.B)
        batch_tile = p.variable("batch_tile", [8, 16, 32])
        spread = p.variable("spread", range(2, device.sms + 1))
        units = p.variable("units", range(1, D + 1))
        groups = p.variable("groups", range(1, device.sms + 1), prefer="largest")
        rounds = p.variable("rounds", range(1, task.H * batch + 1))
        warps = p.variable("warps", [4, 8, 12, 16])
        m_groups = p.variable("m_groups", range(1, 17))
        m_tiles = p.variable("m_tiles", range(1, 9))
        k_splits = p.variable("k_splits", [1, 2, 4, 8])
        r_registers = p.variable("r_registers", range(0, 41), prefer="largest")
        r_shared = p.variable("r_shared", range(0, 1025))

        p.require(units * spread == D, "units of all blocks", "units")
        p.require(m_groups * k_splits == warps, "warps", "warps")
        p.require(m_groups * m_tiles * 16 >= gates * units, "gate rows of a block", "rows")
        p.require((m_groups * m_tiles - 1) * 16 < gates * units + 16, "no idle warp", "rows")
        p.require(D % (k_splits * 16) == 0, "k-splits divide the head")
        steps = D // (16 * k_splits)
        p.require(m_tiles * steps == r_registers + r_shared, "fragments of R", "fragments")
        registers = _registers(r_registers, m_tiles, batch_tile)
        p.require(registers <= device.registers_per_thread, "registers a thread", "registers")
        p.require(
            registers * warps * WARP <= device.registers_per_block, "registers a block", "registers"
        )
        shared = _shared_bytes(task, r_shared * warps, batch_tile, k_splits * units)
        p.require(shared <= device.shared_per_block, "shared memory a block", "bytes")
        p.require(groups * spread <= device.sms, "all blocks on the device at once", "blocks")
        p.require(batch_tile < batch + 8, "no batch tile wider than the batch", "rows")
        tiles = task.H * -(-batch // batch_tile)
        p.require(groups * rounds >= tiles, "groups cover heads and batch", "groups")
        p.require(groups <= tiles, "no idle group", "groups")

        per_clock = floors.products_per_clock(device, task.dtype)
        mma = max(1, round(4 * MMA / per_clock / 0.6))  # a sub-partition's cycles, at 60 percent
        product = steps * m_tiles * (batch_tile // 8) * (warps // 4) * mma
        reads = r_shared * warps * 4  # 128 bytes a cycle
        pointwise = 60 * -(-batch_tile * units // (warps * WARP))
        exchange = batch_tile * units // 24 + 2 * groups * spread
        cycles = product + reads + pointwise + 25 * k_splits + exchange
        return (Statement(p, rounds * (2400 + cycles)),)

    def easiest(self, task: Task, device: Device, direction: Direction) -> Statement:
        return self.build(task, device, direction)[0]

    def tiling(self, task: Task, direction: Direction, solution: Solution) -> dict[str, str]:
        z = solution
        return {
            "batch tile": f"{z['batch_tile']} rows",
            "blocks a head and batch tile": str(z["spread"]),
            "units a block": str(z["units"]),
            "warps a block": f"{z['warps']} = {z['m_groups']} m-groups x {z['k_splits']} k-splits",
            "m-tiles a warp": f"{z['m_tiles']} of 16 gate rows",
            "fragments of R a warp": f"{z['r_registers']} in registers, {z['r_shared']} in shared",
            "groups at once": f"{z['groups']}, {z['rounds']} rounds",
        }

    def resources(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> Footprint:
        z = solution
        fragments, columns = z["r_shared"] * z["warps"], z["k_splits"] * z["units"]
        return Footprint(
            threads=z["warps"] * WARP,
            registers=_registers(z["r_registers"], z["m_tiles"], z["batch_tile"]),
            shared_bytes=_shared_bytes(task, fragments, z["batch_tile"], columns),
            blocks=z["groups"] * z["spread"],
            together=True,
        )

    def step_ns(
        self, task: Task, device: Device, direction: Direction, solution: Solution
    ) -> dict[str, float]:
        """The rounds are within the step: one step of all groups, one round after the other."""
        z = solution
        clock, steps = device.clock_ghz, task.D // (16 * z["k_splits"])
        per_clock = floors.products_per_clock(device, task.dtype) * 0.6
        products = steps * z["m_tiles"] * (z["batch_tile"] // 8) * z["warps"]
        outputs = z["batch_tile"] * z["units"]
        parts = {
            "product": products * MMA / per_clock / clock,
            "R from shared memory": z["r_shared"] * z["warps"] * 4 / clock,
            "pointwise": 60 * -(-outputs // (z["warps"] * WARP)) / clock,
            "reduction": 25 * z["k_splits"] / clock,
            "what depends on it": floors.DEPENDENT,
            "grid barrier": floors.grid_barrier(z["groups"] * z["spread"]),
            "exchange through L2": floors.exchange_through_l2(z["spread"], 2 * outputs),
        }
        return {name: ns * z["rounds"] for name, ns in parts.items()}


def _registers(r_registers: Any, m_tiles: Any, batch_tile: Any) -> Any:
    """Of a thread: fragments of R, sums, and the rest."""
    return r_registers * FRAGMENT_REGISTERS + m_tiles * (batch_tile // 8) * 4 + OTHER_REGISTERS


def _shared_bytes(task: Task, fragments: Any, batch_tile: Any, columns: Any) -> Any:
    """Of a block: fragments of R, two buffers of s_0, the k-splits' sums of each gate and unit."""
    state = 2 * batch_tile * (task.D + ROW_PADDING) * 2
    sums = columns * len(task.cell.recurrent_gates) * (batch_tile + 2) * 4
    return fragments * FRAGMENT + state + sums
