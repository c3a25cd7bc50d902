"""The tensor-core backward kernel behind the planner's protocol: a cluster a head, or CTAs of the
grid that exchange through L2.

A solution has `cluster` (how many CTAs), `tile`, `grid` and `size` (bytes of a number) beside the
problem's own variables.
"""

from __future__ import annotations

from collections.abc import Container

from ...cells import Cell
from ...kernels import tensor_backward_layout as kernel
from ...kernels.interface import Task
from ...kernels.tensor_backward_layout import largest_tile
from ...kernels.tensor_layout import number_bytes
from ..hardware import Device
from . import tensor_backward
from .common import Footprint, Solution, Statement, batch_class
from .tensor_costs import KINDS, Pace, Spread


def statements(task: Task, device: Device, kinds: Container[str] = KINDS) -> tuple[Statement, ...]:
    """The kernel's own; the batch is rounded up as there."""
    size, largest = number_bytes(task.dtype), largest_tile(task)
    return tensor_backward.statements(*_shape(task), device, size, largest, kinds)


def easiest(task: Task, device: Device, kinds: Container[str] = KINDS) -> Statement:
    """The one that asks least of a CTA."""
    size = number_bytes(task.dtype)
    every = tensor_backward.spreads(task.D, device, size)
    spread = max(s for s in every if s.kind in kinds)
    return tensor_backward.statement(*_shape(task), device, spread, 1, size)


def _shape(task: Task) -> tuple[Cell, int, int, int]:
    return task.cell, batch_class(task.B), task.H, task.D


def tiling(task: Task, solution: Solution) -> kernel.Tiling:
    return tensor_backward.tiling_of(task.D, solution)


def _layout(task: Task, solution: Solution) -> kernel.Layout:
    size = number_bytes(task.dtype)
    return kernel.layout(task.cell, task.D, tiling(task, solution), size=size)


def step_ns(task: Task, device: Device, solution: Solution) -> float:
    """Of all waves together."""
    spread, tile = Spread(solution["cluster"], bool(solution["grid"])), solution["tile"]
    shape = *_shape(task), device
    statement = tensor_backward.statement(*shape, spread, tile, solution["size"])
    total = statement.value(solution)
    assert total is not None, "a solution that cannot run has no time"
    return total * Pace.of(device).cycle


def footprint(task: Task, device: Device, solution: Solution) -> Footprint:
    """Of the first launch, where what does not run at once follows in others."""
    z, chosen = _layout(task, solution), tiling(task, solution)
    first, *others = kernel.waves(task.cell, task.D, chosen, max(1, task.B), task.H, device)
    return Footprint(
        threads=z.threads,
        registers=device.registers_allowed(z.threads),
        shared_bytes=z.shared_bytes,
        blocks=first.groups * chosen.cluster,
        cluster=1 if chosen.grid else chosen.cluster,
        together=chosen.grid,
        launches=1 + len(others),
        needed=tensor_backward.registers_needed(task.cell, task.D, device, solution),
    )


def tell(task: Task, solution: Solution) -> dict[str, str]:
    z, chosen = _layout(task, solution), tiling(task, solution)
    shared = z.fragments - z.registers
    return {
        "batch tile": f"{chosen.tile} rows",
        "CTAs a head and batch tile" if chosen.grid else "blocks a cluster": str(chosen.cluster),
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
