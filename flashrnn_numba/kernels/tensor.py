"""The tensor-core forward: what the "fused" backend calls for 16-bit dtypes where a tiling exists.

tensor_forward.py is the kernel, tensor_source.py fits it to a cell, tuning/models/tensor.py picks
the tiling. What it keeps for backward is what the portable kernel keeps (fused.Kept).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..cells import Cell
from ..tuning import Device
from ..tuning.models.tensor import choose_tiling
from . import gpu
from .fused import Kept
from .gpu import strides
from .interface import Inputs, Task
from .launch import Program
from .machine import Machine
from .tensor_layout import Geometry, Tiling, geometry, too_large, unsuited
from .tensor_source import source

_BITS = "uint16*"
ARGUMENTS = (
    *(_BITS, "int64x5", _BITS, "int64x4", _BITS, "int64x3", _BITS, "int64x5"),
    *("uint8*", "int64x2", "int64*", _BITS, _BITS, "float32*", "float32*", _BITS),
    *("int64",) * 6,
)
NOTHING = 0xFFFF  # what a mailbox is filled with: tensor_grid_exchange.py


@dataclass(frozen=True)
class Variant:
    """What a launch asks of the kernel's text: see tensor_source.source."""

    keep: bool
    masked: bool
    wide: bool


def no_tiling(task: Task, device: Device) -> str | None:
    """Why the tensor-core kernel cannot do the task on this device, or None."""
    reason = unsuited(task, device)
    if (
        reason is None
        and choose_tiling(task.cell, task.dtype, task.B, task.H, task.D, device) is None
    ):
        reason = too_large(task, device)
    return reason


def geometry_of(cell: Cell, D: int, tiling: Tiling) -> Geometry:
    gates = len(cell.recurrent_gates), len(cell.input_gates)
    return geometry(D, *gates, len(cell.states), tiling)


@cache
def program(cell: Cell, dtype: str, D: int, tiling: Tiling, variant: Variant) -> Program:
    z = geometry_of(cell, D, tiling)
    options = {"keep": variant.keep, "masked": variant.masked, "wide": variant.wide}
    return Program(
        name="tensor_forward",
        text=source(cell, dtype, D, tiling, **options),
        arguments=ARGUMENTS,
        threads=z.threads,
        shared_bytes=z.shared_bytes,
        plan=f"tensor-core forward of {cell.name}, {dtype}, D = {D}, {tiling}",
        cluster=1 if tiling.grid else tiling.cluster,
        cooperative=tiling.grid,
    )


def forward(
    on: Machine, task: Task, inputs: Inputs, keep: bool, chosen: Tiling | None = None
) -> tuple[Any, Any, Kept | None]:
    """States, the last ones, and what backward needs; `chosen` overrules the solver."""
    tiling = chosen or choose_tiling(task.cell, task.dtype, task.B, task.H, task.D, on.device())
    if tiling is None:
        raise ValueError(no_tiling(task, on.device()))
    B, T, H, D, S = task.B, task.T, task.H, task.D, len(task.cell.states)
    arrays, dtype = on.arrays, inputs.Wx.dtype
    states, last = arrays.empty((S, B, T, H, D), dtype), arrays.empty((S, B, 1, H, D), dtype)
    gates = arrays.empty((B, T, len(task.cell.gates), H, D) if keep else (0,), arrays.float32)
    exact = gpu.exact_states(on, task, states, keep)
    Wx, R, b, initial, reset, lengths = gpu.prepared(on, inputs)
    masked = reset is not None or lengths is not None
    wide = D % 8 == 0 and _whole(Wx, 8) and _whole(R, 2)
    span = rows_of_group(task, tiling, on.device())
    p = program(task.cell, task.dtype, D, tiling, Variant(keep, masked, wide))
    for blocks, first, mailbox in _launches(on, task, tiling, span):
        on.launch(
            p,
            blocks,
            [
                Wx, strides(Wx, 5), R, strides(R, 4), b, strides(b, 3),
                initial, strides(initial, 5), reset, strides(reset, 2), lengths,
                states, last, exact, gates, mailbox, B, T, H, span, first,
                gpu.start_options(inputs),
            ],
        )  # fmt: skip
    return states, last, Kept(gates, states, exact) if keep else None


def rows_of_group(task: Task, tiling: Tiling, device: Device) -> int:
    """Batch rows of a group of CTAs: as few as all groups that run at once allow, because the fewer
    rows the less there is to exchange."""
    if tiling.cluster == 1:
        return tiling.batch
    at_once = max(1, groups_at_once(tiling, device) // task.H)
    return min(tiling.batch, -(-task.B // at_once))


def groups_at_once(tiling: Tiling, device: Device) -> int:
    """How many heads or batch tiles the device works on at a time, at one CTA an SM."""
    if tiling.grid:
        return device.sms // tiling.cluster
    return device.resident_clusters(tiling.cluster)


def _launches(
    on: Machine, task: Task, tiling: Tiling, span: int
) -> Iterator[tuple[tuple[int, int, int], int, Any]]:
    """(grid, its first group, mailbox) of each launch. Groups that exchange through L2 wait for
    their own CTAs only, but these must all run at once: as many groups a launch as the device
    holds."""
    tiles = -(-task.B // span)
    if not tiling.grid:
        yield (tiles * tiling.cluster, task.H, 1), 0, None
        return
    groups, at_once = tiles * task.H, groups_at_once(tiling, on.device())
    z = geometry_of(task.cell, task.D, tiling)
    mailbox = on.arrays.empty((min(groups, at_once), task.T, z.padded * tiling.batch), "uint16")
    for first in range(0, groups, at_once):
        mailbox.fill(NOTHING)
        yield (min(at_once, groups - first) * tiling.cluster, 1, 1), first, mailbox


def _whole(array: Any, count: int) -> bool:
    """Whether units lie side by side, and each `count` of them where one access reaches them."""
    *outer, last = strides(array, array.ndim)
    size = count * array.dtype.itemsize
    return last == 1 and all(s % count == 0 for s in outer) and gpu.address(array) % size == 0
