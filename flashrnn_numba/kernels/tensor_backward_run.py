"""The tensor-core backward pass: one kernel for all time steps, then the weight gradients.

    gradients = run_backward(machine, task, inputs, kept, dstates, dlast)

`kept` is what the forward keeps (fused.Kept: pre-activations and the states but s_0 in float32).
"""

from __future__ import annotations

from typing import Any

from ..tuning import Device
from ..tuning.models.tensor_backward import LARGEST_TILE, choose
from . import gpu
from .fused_names import HAS_DLAST, HAS_DSTATES
from .gpu import strides
from .interface import Gradients, Inputs, Task
from .launch import Program
from .machine import Machine
from .tensor_backward import D_WORDS, Tiling, Wave, backward_program, waves
from .tensor_layout import too_large, unsuited
from .weight_gradients import bias_gradient, input_gradient, recurrent_gradient

_INDEX = (1 << 31) - 1  # indices within a step and a batch tile have 32 bits


def no_tiling(task: Task, device: Device) -> str | None:
    """Why the tensor-core kernel cannot run this task's backward on this device, or None."""
    reason = unsuited(task, device)
    if reason is None and plan(task, device) is None:
        reason = too_large(task, device)
    return reason


def plan(task: Task, device: Device) -> Tiling | None:
    """The tiling for a task. The batch counts by its next power of 2: other sizes compile nothing
    new."""
    rounded = 1 << max(0, task.B - 1).bit_length()
    largest = min(LARGEST_TILE, rows_within_index(task))
    choice = choose(task.cell, task.dtype, min(rounded, 4096), task.H, task.D, device, largest)
    return choice.tiling if choice else None


def rows_within_index(task: Task) -> int:
    """Batch rows of a tile whose pre-activations 32-bit indices reach."""
    step = len(task.cell.gates) * task.H * task.D
    return 1 + max(0, _INDEX - step) // max(1, task.T * step)


def run_backward(
    on: Machine,
    task: Task,
    inputs: Inputs,
    kept: Any,
    dstates: Any,
    dlast: Any,
    chosen: Tiling | None = None,
) -> Gradients:
    """Backward on a machine; `chosen` overrules the solver."""
    device = on.device()
    tiling = chosen or plan(task, device)
    if tiling is None:
        raise ValueError(no_tiling(task, device))
    B, T, H, D, S = task.B, task.T, task.H, task.D, len(task.cell.states)
    arrays, dtype = on.arrays, inputs.Wx.dtype
    dgates = arrays.empty((B, T, len(task.cell.gates), H, D), dtype)
    previous = arrays.empty((B, T, H, D), dtype)
    dinitial = arrays.empty((S, B, 1, H, D), dtype)
    _, R, _, initial, reset, lengths = gpu.prepared(on, inputs)
    dstates, dlast = gpu.readable(on, dstates), gpu.readable(on, dlast)
    if dstates is not None and not _reachable(dstates, tiling):
        dstates = arrays.ascontiguousarray(dstates)
    options = gpu.start_options(inputs)
    options |= HAS_DSTATES if dstates is not None else 0
    options |= HAS_DLAST if dlast is not None else 0
    options |= D_WORDS if dstates is not None and in_words(dstates) else 0
    program = backward_program(task.cell, task.dtype, D, tiling, resets=reset is not None)
    given = [
        R, strides(R, 4), initial, strides(initial, 5), reset, strides(reset, 2), lengths,
        kept.states, kept.exact, kept.gates, dstates, strides(dstates, 5), dlast,
        strides(dlast, 5), dgates, previous, dinitial,
    ]  # fmt: skip
    all_waves = waves(task.cell, D, tiling, B, H, device)
    launch(on, program, all_waves, given, [task.clip or 0.0, B, T, H, options])
    return Gradients(
        input_gradient(on, task, dgates),
        recurrent_gradient(on, task, dgates, previous),
        bias_gradient(on, task, dgates),
        None if inputs.states is None else dinitial,
    )


def launch(
    on: Machine, program: Program, all_waves: list[Wave], given: list[Any], sizes: list[Any]
) -> None:
    """All launches. given -- the kernel's arguments up to the mailbox; sizes -- from `clip` on."""
    for wave in all_waves:
        mail = on.arrays.zeros(wave.mail_words, "uint64") if wave.mail_words else None
        on.launch(program, wave.grid, [*given, mail, wave.first_group, *sizes])


def in_words(array: Any) -> bool:
    """Whether units 2 n and 2 n + 1 share an aligned word of 4 bytes."""
    *outer, last = strides(array, array.ndim)
    even = all(s % 2 == 0 for s in outer) and array.shape[-1] % 2 == 0
    return last == 1 and even and gpu.address(array) % 4 == 0


def _reachable(array: Any, tiling: Tiling) -> bool:
    """Whether 32-bit indices reach the rows and units of a tile."""
    row, unit = strides(array, 5)[1], strides(array, 5)[4]
    return (tiling.tile - 1) * abs(row) + (array.shape[4] - 1) * abs(unit) <= _INDEX
