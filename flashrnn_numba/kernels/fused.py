"""The portable fused kernel: one launch runs all time steps, R stays in shared memory.

fused_forward.py and fused_backward.py are the kernels, fused_source.py fits them to a cell, and
tuning/models/fused.py picks the tile sizes. docs/kernels.md tells how it works.

Pre-activations are stored by forward ([B, T, H, D, G] in compute precision) and read by backward.
The states that forward returns are read again by backward: they must not change in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..arrays import compute_dtype
from ..cells import Cell
from ..tuning import Device
from ..tuning.models.fused import choose_tiling
from ..tuning.winners import winner
from . import gpu
from .formats import FORMATS
from .fused_layout import Direction, Tiling, grid_of, layout
from .fused_names import KEEP_EXACT, KEEP_GATES
from .fused_source import source
from .interface import Gradients, Inputs, Task
from .launch import Program
from .machine import Machine
from .passes import (
    Backward,
    Forward,
    Kept,
    Stage,
    backward_options,
    backward_strides,
    forward_strides,
)


@dataclass(frozen=True)
class Plan:
    """A kernel for one direction: how it is cut, and the program that follows."""

    direction: Direction
    tiling: Tiling
    program: Program


def no_tiling(task: Task, device: Device, direction: Direction) -> str | None:
    """Why this device has no tiling for this direction of the task, or None."""
    if choose_tiling(task.cell, task.dtype, task.D, task.H, direction, device) is not None:
        return None
    gates = len(task.cell.recurrent_gates)
    return (
        f"R of one head ({gates} x {task.D} x {task.D} {task.dtype}) does not fit into the "
        f"{device.shared_per_block} bytes of shared memory of a block on {device.name} "
        f"({direction})"
    )


@cache
def plan(cell: Cell, dtype: str, D: int, H: int, direction: Direction, device: Device) -> Plan:
    """The kernel for a problem. Batch size, T and strides play no part: they compile nothing."""
    tiling = choose_tiling(cell, dtype, D, H, direction, device)
    if tiling is None:
        raise ValueError(
            f"no fused tiling for {cell.name} in {dtype} with D = {D} on {device.name}"
        )
    return Plan(direction, tiling, program(cell, dtype, D, direction, tiling))


def _planned(on: Machine, task: Task, direction: Direction) -> Plan:
    """As measured, else as the model has it."""
    tiling = winner(on, "portable", task, direction)
    if tiling is None:
        return plan(task.cell, task.dtype, task.D, task.H, direction, on.device())
    return Plan(direction, tiling, program(task.cell, task.dtype, task.D, direction, tiling))


def program(cell: Cell, dtype: str, D: int, direction: Direction, tiling: Tiling) -> Program:
    return Program(
        name=f"fused_{direction}",
        text=source(cell, dtype, D, direction, tiling),
        arguments=argument_types(dtype, direction),
        threads=tiling.threads,
        shared_bytes=layout(cell, dtype, D, direction, tiling).shared_bytes,
        plan=f"fused {direction} of {cell.name}, {dtype}, D = {D}, {tiling}",
    )


def argument_types(dtype: str, direction: Direction) -> tuple[str, ...]:
    """In the order of the kernels' parameters."""
    element, real = FORMATS[dtype].element + "*", FORMATS[dtype].real
    start = (element, "int64x5", "uint8*", "int64x2", "int64*")
    sizes = ("int64",) * 5
    if direction == "forward":
        inputs = (element, "int64x5", element, "int64x4", element, "int64x3")
        return (*inputs, *start, element, element, real + "*", real + "*", *sizes)
    given = (element, real + "*", real + "*", element, "int64x5", element, "int64x5")
    results = (element, element, element, real + "*")
    return (element, "int64x4", *start, *given, *results, real, *sizes)


def _grid(on: Machine, task: Task, p: Plan) -> tuple[int, int, int]:
    # an empty batch launches, and loads, nothing
    per_sm = on.blocks_per_sm(p.program) if task.B else None
    return grid_of(task, p.tiling, p.program.shared_bytes, on.device(), per_sm)


def prepare_forward(
    on: Machine, task: Task, inputs: Inputs, keep: bool, chosen: Plan | None = None
) -> Forward:
    """Forward on a machine's current device; `chosen` overrules the tuner."""
    p = chosen or _planned(on, task, "forward")
    given, options = gpu.prepared(on, inputs), gpu.start_options(inputs)
    if keep:
        options |= KEEP_GATES
        options |= KEEP_EXACT if inputs.Wx.dtype != compute_dtype(task.dtype) else 0
    blocks, heads, rows = _grid(on, task, p)
    constants = [*forward_strides(given), task.B, task.T, task.H, rows, options]
    launch = on.prepare(p.program, (blocks, heads, 1), constants)
    return Forward(on, task, inputs, keep, launch)


def prepare_backward(
    on: Machine, task: Task, inputs: Inputs, dstates: Any, dlast: Any, chosen: Plan | None = None
) -> Backward:
    """Backward on a machine's current device; `chosen` overrules the tuner."""
    p = chosen or _planned(on, task, "backward")
    given = gpu.prepared(on, inputs)
    d, last = gpu.readable(on, dstates), gpu.readable(on, dlast)
    options = backward_options(inputs, dstates, dlast)
    blocks, heads, rows = _grid(on, task, p)
    sizes = (task.clip or 0.0, task.B, task.T, task.H, rows, options)
    constants = [*backward_strides(given, d, last), *sizes]
    launch = on.prepare(p.program, (blocks, heads, 1), constants)
    return Backward(on, task, inputs, dstates, dlast, [Stage(launch, task.B)])


def expected(on: Machine, task: Task, inputs: Inputs) -> Callable[[int], Program]:
    """The kernel that `prepare_backward` will take, whatever the number of batch rows."""
    return lambda B: _planned(on, task, "backward").program


def run_forward(
    on: Machine, task: Task, inputs: Inputs, keep: bool, chosen: Plan | None = None
) -> tuple[Any, Any, Kept | None]:
    return prepare_forward(on, task, inputs, keep, chosen)(inputs)


def run_backward(
    on: Machine,
    task: Task,
    inputs: Inputs,
    kept: Kept | None,
    dstates: Any,
    dlast: Any,
    chosen: Plan | None = None,
) -> Gradients:
    planned = prepare_backward(on, task, inputs, dstates, dlast, chosen)
    return planned(inputs, kept, dstates, dlast)
