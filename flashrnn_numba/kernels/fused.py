"""The portable fused kernel: one launch runs all time steps, R stays in shared memory.

fused_forward.py and fused_backward.py are the kernels, fused_source.py fits them to a cell, and
tuning/models/fused.py picks the tile sizes. docs/kernels.md tells how it works.

Pre-activations are stored by forward ([B, T, G, H, D] in compute precision) and read by backward.
The states that forward returns are read again by backward: they must not change in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from ..arrays import compute_dtype
from ..cells import Cell
from ..tuning import Device
from ..tuning.models.fused import choose_tiling
from . import gpu
from .formats import FORMATS
from .fused_layout import Direction, Tiling, layout
from .fused_names import HAS_DLAST, HAS_DSTATES, KEEP_EXACT, KEEP_GATES
from .fused_source import source
from .gpu import strides
from .interface import Gradients, Inputs, Task
from .launch import Program
from .machine import Machine
from .weight_gradients import bias_gradient, input_gradient, recurrent_gradient


class Kept(NamedTuple):
    """What backward needs: pre-activations [B, T, G, H, D]; states as returned; all states but s_0
    in compute precision [S - 1, B, T, H, D] (a part of `states` where that is their dtype)."""

    gates: Any
    states: Any
    exact: Any


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
    return (element, "int64x4", *start, *given, element, element, element, real, *sizes)


def grid_of(task: Task, tiling: Tiling, shared_bytes: int, device: Device) -> tuple[int, int, int]:
    """(blocks along the batch, blocks along the heads, rows a block): rows are spread over as many
    blocks as run at once before a block takes more of them."""
    heads = -(-task.H // tiling.heads)
    per_sm = min(
        device.shared_per_sm // (shared_bytes + device.shared_reserved),
        device.threads_per_sm // tiling.threads,
    )
    at_once = max(1, device.sms * max(1, per_sm) // heads)
    rows = min(tiling.rows, max(1, -(-task.B // at_once)))
    return -(-task.B // rows), heads, rows


def run_forward(
    on: Machine, task: Task, inputs: Inputs, keep: bool, chosen: Plan | None = None
) -> tuple[Any, Any, Kept | None]:
    """Forward on a machine; `chosen` overrules the tuner."""
    device = on.device()
    p = chosen or plan(task.cell, task.dtype, task.D, task.H, "forward", device)
    B, T, H, D, S = task.B, task.T, task.H, task.D, len(task.cell.states)
    arrays, real, dtype = on.arrays, compute_dtype(task.dtype), inputs.Wx.dtype
    states, last = arrays.empty((S, B, T, H, D), dtype), arrays.empty((S, B, 1, H, D), dtype)
    gates = arrays.empty((B, T, len(task.cell.gates), H, D) if keep else (0,), real)
    exact = gpu.exact_states(on, task, states, keep)
    Wx, R, b, initial, reset, lengths = gpu.prepared(on, inputs)
    options = gpu.start_options(inputs)
    if keep:
        options |= KEEP_GATES | (KEEP_EXACT if dtype != real else 0)
    blocks, heads, rows = grid_of(task, p.tiling, p.program.shared_bytes, device)
    on.launch(
        p.program,
        (blocks, heads, 1),
        [
            Wx, strides(Wx, 5), R, strides(R, 4), b, strides(b, 3), initial, strides(initial, 5),
            reset, strides(reset, 2), lengths, states, last, exact, gates, B, T, H, rows, options,
        ],
    )  # fmt: skip
    return states, last, Kept(gates, states, exact) if keep else None


def run_backward(
    on: Machine,
    task: Task,
    inputs: Inputs,
    kept: Kept,
    dstates: Any,
    dlast: Any,
    chosen: Plan | None = None,
) -> Gradients:
    """Backward on a machine; `chosen` overrules the tuner."""
    device = on.device()
    p = chosen or plan(task.cell, task.dtype, task.D, task.H, "backward", device)
    B, T, H, D, S = task.B, task.T, task.H, task.D, len(task.cell.states)
    arrays, dtype = on.arrays, inputs.Wx.dtype
    dgates = arrays.empty((B, T, len(task.cell.gates), H, D), dtype)
    previous = arrays.empty((B, T, H, D), dtype)
    dinitial = arrays.empty((S, B, 1, H, D), dtype)
    _, R, _, initial, reset, lengths = gpu.prepared(on, inputs)
    dstates, dlast = gpu.readable(on, dstates), gpu.readable(on, dlast)
    options = gpu.start_options(inputs)
    options |= HAS_DSTATES if dstates is not None else 0
    options |= HAS_DLAST if dlast is not None else 0
    blocks, heads, rows = grid_of(task, p.tiling, p.program.shared_bytes, device)
    on.launch(
        p.program,
        (blocks, heads, 1),
        [
            R, strides(R, 4), initial, strides(initial, 5), reset, strides(reset, 2), lengths,
            kept.states, kept.exact, kept.gates, dstates, strides(dstates, 5), dlast,
            strides(dlast, 5), dgates, previous, dinitial, task.clip or 0.0, B, T, H, rows,
            options,
        ],
    )  # fmt: skip
    return Gradients(
        input_gradient(on, task, dgates),
        recurrent_gradient(on, task, dgates, previous),
        bias_gradient(on, task, dgates),
        None if inputs.states is None else dinitial,
    )
