"""The tensor-core forward: what the "fused" backend calls for 16-bit dtypes where a tiling exists.

tensor_forward.py is the kernel, tensor_source.py fits it to a cell, tuning/models/tensor.py picks
the tiling. What it keeps for backward is what the portable kernel keeps (fused.Kept).
"""

from __future__ import annotations

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
from .tensor_layout import Tiling, geometry, too_large, unsuited
from .tensor_source import source

_BITS = "uint16*"
ARGUMENTS = (
    *(_BITS, "int64x5", _BITS, "int64x4", _BITS, "int64x3", _BITS, "int64x5"),
    *("uint8*", "int64x2", "int64*", _BITS, _BITS, "float32*", "float32*"),
    *("int64",) * 5,
)


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


@cache
def program(cell: Cell, dtype: str, D: int, tiling: Tiling, variant: Variant) -> Program:
    z = geometry(D, len(cell.recurrent_gates), len(cell.input_gates), len(cell.states), tiling)
    options = {"keep": variant.keep, "masked": variant.masked, "wide": variant.wide}
    return Program(
        name="tensor_forward",
        text=source(cell, dtype, D, tiling, **options),
        arguments=ARGUMENTS,
        threads=z.threads,
        shared_bytes=z.shared_bytes,
        plan=f"tensor-core forward of {cell.name}, {dtype}, D = {D}, {tiling}",
        cluster=tiling.cluster,
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
    span = rows_of_cluster(task, tiling, on.device())
    p = program(task.cell, task.dtype, D, tiling, Variant(keep, masked, wide))
    on.launch(
        p,
        (-(-B // span) * tiling.cluster, H, 1),
        [
            Wx, strides(Wx, 5), R, strides(R, 4), b, strides(b, 3), initial, strides(initial, 5),
            reset, strides(reset, 2), lengths, states, last, exact, gates, B, T, H, span,
            gpu.start_options(inputs),
        ],
    )  # fmt: skip
    return states, last, Kept(gates, states, exact) if keep else None


def rows_of_cluster(task: Task, tiling: Tiling, device: Device) -> int:
    """Batch rows of a cluster: as few as all clusters that run at once allow, because the fewer
    rows the less there is to exchange."""
    if tiling.cluster == 1:
        return tiling.batch
    at_once = max(1, device.resident_clusters(tiling.cluster) // task.H)
    return min(tiling.batch, -(-task.B // at_once))


def _whole(array: Any, count: int) -> bool:
    """Whether units lie side by side, and each `count` of them where one access reaches them."""
    *outer, last = strides(array, array.ndim)
    size = count * array.dtype.itemsize
    return last == 1 and all(s % count == 0 for s in outer) and gpu.address(array) % size == 0
