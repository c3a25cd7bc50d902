"""The tensor-core forward: what the "fused" backend calls where a tiling exists.

tensor_forward.py is the kernel, tensor_source.py fits it to a cell, tuning/models/tensor.py picks
the tiling. What it keeps for backward is what the portable kernel keeps (passes.Kept).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ..cells import Cell
from ..tuning import Device
from ..tuning.models.tensor import choose_tiling, groups_of_launch, rows_of_group
from ..tuning.winners import winner
from . import gpu
from .interface import Inputs, Task
from .launch import Program
from .machine import Machine
from .passes import Forward, Kept, Launch, forward_strides
from .tensor_layout import (
    Tiling,
    geometry_of,
    number_bytes,
    too_large,
    unsuited,
)
from .tensor_source import source


@dataclass(frozen=True)
class Variant:
    """What a launch asks of the kernel's text: see tensor_source.source."""

    keep: bool
    masked: bool
    wide: bool
    coarse: bool


def arguments(dtype: str) -> tuple[str, ...]:
    """Types of the kernel's arguments: numbers of 16 bits are their bits."""
    number = "float32*" if dtype == "float32" else "uint16*"
    return (
        *(number, "int64x5", number, "int64x4", number, "int64x3", number, "int64x5"),
        *("uint8*", "int64x2", "int64*", number, number, "float32*", "float32*", "uint32*"),
        *("int64",) * 6,
    )


def no_tiling(task: Task, device: Device) -> str | None:
    """Why the tensor-core kernel cannot do the task on this device, or None."""
    reason = unsuited(task, device)
    if (
        reason is None
        and choose_tiling(task.cell, task.dtype, task.B, task.H, task.D, device) is None
    ):
        reason = too_large(task, device, grid=True)
    return reason


@cache
def program(cell: Cell, dtype: str, D: int, tiling: Tiling, variant: Variant) -> Program:
    z = geometry_of(cell, dtype, D, tiling)
    return Program(
        name="tensor_forward",
        text=source(cell, dtype, D, tiling, **vars(variant)),
        arguments=arguments(dtype),
        threads=z.threads,
        shared_bytes=z.shared_bytes,
        plan=f"tensor-core forward of {cell.name}, {dtype}, D = {D}, {tiling}",
        cluster=1 if tiling.grid else tiling.cluster,
        cooperative=tiling.grid,
    )


def prepare_forward(
    on: Machine, task: Task, inputs: Inputs, keep: bool, chosen: Tiling | None = None
) -> Forward:
    """Forward on a machine's current device; `chosen` overrules the solver."""
    tiling = chosen or tiling_for(on, task)
    given = gpu.prepared(on, inputs)
    span = rows_of_group(task, tiling, on.device())
    p = program(task.cell, task.dtype, task.D, tiling, _variant(task, given, keep))
    known = [*forward_strides(given), task.B, task.T, task.H, span]
    launch = _prepare_launches(on, task, tiling, p, known, gpu.start_options(inputs))
    return Forward(on, task, inputs, keep, launch)


def variant(on: Machine, task: Task, inputs: Inputs, keep: bool) -> Variant:
    """What `prepare_forward` asks of the kernel for these inputs."""
    given = inputs._replace(Wx=gpu.readable(on, inputs.Wx), R=gpu.readable(on, inputs.R))
    return _variant(task, given, keep)


def expected(on: Machine, task: Task, variant: Variant) -> Callable[[int], Program]:
    """The kernel that `prepare_forward` will take, by the number of batch rows."""

    def of(B: int) -> Program:
        tiling = tiling_for(on, replace(task, B=B))
        return program(task.cell, task.dtype, task.D, tiling, variant)

    return of


def tiling_for(on: Machine, task: Task) -> Tiling:
    """What was measured to be best, or else the solver's. ValueError where there is none."""
    found = winner(on, "tensor", task, "forward")
    found = found or choose_tiling(task.cell, task.dtype, task.B, task.H, task.D, on.device())
    if found is None:
        raise ValueError(no_tiling(task, on.device()))
    return found


def _variant(task: Task, given: Inputs, keep: bool) -> Variant:
    """given -- as the kernel will read them."""
    masked, size = given.reset is not None or given.lengths is not None, number_bytes(task.dtype)
    # words of R are two numbers of 16 bits
    wide = task.D * size % 16 == 0 and gpu.whole(given.Wx, 16)
    wide = wide and (size == 4 or gpu.whole(given.R, 4))
    return Variant(keep, masked, wide, coarse(task.dtype, task.precision))


def coarse(dtype: str, precision: str = "auto") -> bool:
    """Whether functions may err by 2^-11: beside bfloat16's rounding by 2^-8 that does not show."""
    return dtype == "bfloat16" and precision != "exact"


def forward(
    on: Machine, task: Task, inputs: Inputs, keep: bool, chosen: Tiling | None = None
) -> tuple[Any, Any, Kept | None]:
    """States, the last ones, and what backward needs; `chosen` overrules the solver."""
    return prepare_forward(on, task, inputs, keep, chosen)(inputs)


def _prepare_launches(
    on: Machine, task: Task, tiling: Tiling, p: Program, known: list[Any], options: int
) -> Launch:
    """known -- the kernel's constants up to a launch's first group. Groups that exchange through L2
    wait for their own CTAs only, but these must all run at once: as many groups a launch as the
    device holds."""
    tiles = -(-task.B // known[-1])
    if not tiling.grid:
        launch = on.prepare(p, (tiles * tiling.cluster, task.H, 1), [*known, 0, options])
        return lambda *arrays: launch(*arrays, None)
    groups, at_once = tiles * task.H, groups_of_launch(tiling, on.device())
    launches = [
        on.prepare(
            p, (min(at_once, groups - first) * tiling.cluster, 1, 1), [*known, first, options]
        )
        for first in range(0, groups, at_once)
    ]
    z = geometry_of(task.cell, task.dtype, task.D, tiling)
    words = min(groups, at_once) * z.mail_bytes // 4

    def one_after_another(*arrays: Any) -> None:
        for launch in launches:
            launch(*arrays, on.mailbox(words))

    return one_after_another
