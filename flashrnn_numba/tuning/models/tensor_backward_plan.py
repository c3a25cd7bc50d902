"""The tensor-core backward kernel behind the planner's protocol: a cluster a head, or CTAs of the
grid that exchange through L2.

A solution has `cluster` (how many CTAs), `tile` and `grid` beside the problem's own variables.
"""

from __future__ import annotations

from ...kernels import tensor_backward as kernel
from ...kernels.interface import Task
from ...kernels.tensor_backward_run import rows_within_index
from ...kernels.tensor_layout import number_bytes
from ..hardware import Device
from . import tensor_backward
from .common import Footprint, Solution, Statement, batch_class
from .tensor_backward import Spread


def statements(task: Task, device: Device, grid: bool = False) -> tuple[Statement, ...]:
    """One for each number of CTAs and batch tile, in the order in which the kernel's own search
    looks at them; the batch is rounded up as there. Where no number of CTAs holds R, those of the
    most CTAs remain, to tell why."""
    largest = min(tensor_backward.LARGEST_TILE, rows_within_index(task))
    rows = batch_class(task.B)
    tiles = [n for n in tensor_backward.TILES if n <= largest and (n == 1 or n < 2 * rows)]
    spreads = tensor_backward.spreads(task.D, device, grid)
    size = number_bytes(task.dtype)
    able = [s for s in spreads if tensor_backward.could_hold(task.cell, size, s, task.D, device)]
    return tuple(
        _statement(task, device, spread, tile) for spread in able or spreads[-1:] for tile in tiles
    )


def easiest(task: Task, device: Device, grid: bool = False) -> Statement:
    """The one that asks least of a CTA."""
    spreads = tensor_backward.spreads(task.D, device, grid)
    return _statement(task, device, max(spreads, key=lambda spread: spread.blocks), 1)


def _statement(task: Task, device: Device, spread: Spread, tile: int) -> Statement:
    size = number_bytes(task.dtype)
    problem, cost = tensor_backward.model(
        task.cell, task.D, device, spread.blocks, tile, spread.grid, size
    )

    def total(solution: Solution) -> int | None:
        """Nanoseconds of a step of all waves, as in tensor_backward._best."""
        own = {name: value for name, value in solution.items() if name not in fixed}
        least = tensor_backward.solution_cost(cost, own, problem)
        z = _layout(task, fixed | own)
        groups = task.H * -(-batch_class(task.B) // tile)
        found = tensor_backward.in_turns(spread, least, groups, device, z.threads, z.shared_bytes)
        return found[0] * found[1] if found else None

    fixed = {"cluster": spread.blocks, "tile": tile, "grid": int(spread.grid)}
    return Statement(problem, cost, fixed, total)


def tiling(task: Task, solution: Solution) -> kernel.Tiling:
    z, size = solution, number_bytes(task.dtype)
    return tensor_backward.tiling_of(task.D, z["cluster"], z["tile"], z, bool(z["grid"]), size)


def _layout(task: Task, solution: Solution) -> kernel.Layout:
    size = number_bytes(task.dtype)
    return kernel.layout(task.cell, task.D, tiling(task, solution), size=size)


def step_ns(task: Task, device: Device, solution: Solution) -> int:
    """Of all waves together."""
    spread = Spread(solution["cluster"], bool(solution["grid"]))
    total = _statement(task, device, spread, solution["tile"]).value(solution)
    assert total is not None, "a solution that cannot run has no time"
    return total


def footprint(task: Task, device: Device, solution: Solution) -> Footprint:
    """Of the first launch, where what does not run at once follows in others."""
    z, chosen = _layout(task, solution), tiling(task, solution)
    first = kernel.waves(task.cell, task.D, chosen, max(1, task.B), task.H, device)[0]
    return Footprint(
        threads=z.threads,
        registers=device.registers_allowed(z.threads),
        shared_bytes=z.shared_bytes,
        blocks=first.grid[0] * first.grid[1],
        cluster=1 if chosen.grid else chosen.cluster,
        together=chosen.grid,
    )


def tell(task: Task, solution: Solution) -> dict[str, str]:
    z, chosen = _layout(task, solution), tiling(task, solution)
    shared = z.fragments - z.registers
    return {
        "batch tile": f"{chosen.tile} rows",
        "blocks a cluster": str(chosen.cluster),
        "units a block": str(z.units),
        "warps a block": (
            f"{z.warps} = {z.m_groups} m-groups x {chosen.gate_parts} parts of the gates x "
            f"{chosen.k_parts} k-splits"
        ),
        "m-tiles a warp": f"{chosen.m_tiles} of 16 previous units",
        "fragments of R a warp": f"{z.registers} in registers, {shared} in shared memory",
        "units a thread": f"{z.pairs} x {z.each} in the pointwise part",
        "inputs fetched": f"{chosen.ahead} steps ahead",
    }
