"""The tensor-core backward pass: one kernel for all time steps, then the weight gradients.

    gradients = run_backward(machine, task, inputs, kept, dstates, dlast)

`kept` is what the forward keeps (passes.Kept: pre-activations and the states but s_0 in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..tuning import Device
from ..tuning.models.common import batch_class
from ..tuning.models.tensor_backward import choose, groups_at_once
from ..tuning.models.tensor_costs import Spread
from ..tuning.winners import winner
from . import gpu
from .gpu import strides
from .interface import Gradients, Inputs, Task
from .launch import Program
from .machine import Machine
from .passes import Backward, Kept, Launch, Stage, backward_options, backward_strides
from .tensor_backward import D_WORDS, Tiling, Wave, backward_program, layout, waves
from .tensor_backward_layout import INDEX, largest_tile
from .tensor_layout import number_bytes, too_large, unsuited


def no_tiling(task: Task, device: Device) -> str | None:
    """Why the tensor-core kernel cannot run this task's backward on this device, or None."""
    reason = unsuited(task, device)
    if reason is None and plan(task, device) is None:
        reason = too_large(task, device, grid=number_bytes(task.dtype) == 2)
    return reason


def plan(task: Task, device: Device) -> Tiling | None:
    """The tiling for a task, if it is one for tensor cores. Batch sizes of a class
    share it."""
    if unsuited(task, device) is not None:
        return None
    rows = batch_class(task.B)
    choice = choose(task.cell, task.dtype, rows, task.H, task.D, device, largest_tile(task))
    return choice.tiling if choice else None


def prepare_backward(
    on: Machine, task: Task, inputs: Inputs, dstates: Any, dlast: Any, chosen: Tiling | None = None
) -> Backward:
    """Backward on a machine's current device; `chosen` overrules the solver."""
    tiling = chosen or _tiling(on, task)
    given = gpu.prepared(on, inputs)
    d, last = gpu.readable(on, dstates), gpu.readable(on, dlast)
    copied = d is not None and not _reachable(d, tiling)
    if copied:
        d = on.arrays.ascontiguousarray(d)
    options = backward_options(inputs, dstates, dlast)
    options |= D_WORDS if d is not None and in_words(d) else 0
    sizes = [task.clip or 0.0, task.B, task.T, task.H, options]
    program = _program(task, inputs.reset is not None, tiling)
    known = backward_strides(given, d, last), sizes
    stages = [
        Stage(prepare_waves(on, program, tiling, some, *known), rows)
        for some, rows in stages_of(task, tiling, on.device())
    ]
    return Backward(on, task, inputs, dstates, dlast, stages, copied)


def stages_of(task: Task, tiling: Tiling, device: Device) -> list[tuple[list[Wave], int]]:
    """The launches, and the batch rows that are done after them: all at once, or in two parts where
    the last groups leave half of the multiprocessors idle. (LSTM 768 x 1, 128 rows on an H200: 16
    clusters of 16, six or seven at once.)"""
    whole = waves(task.cell, task.D, tiling, task.B, task.H, device)
    z = layout(task.cell, task.D, tiling, size=number_bytes(task.dtype))
    spread = Spread(tiling.cluster, tiling.grid)
    at_once = groups_at_once(spread, device, z.threads, z.shared_bytes)
    groups = sum(wave.groups for wave in whole)
    before = (groups - 1) // at_once * at_once if at_once and groups else 0
    rows = before // task.H * tiling.tile
    if not rows or 2 * (groups - before) * tiling.cluster > device.sms:
        return [(whole, task.B)]
    if not tiling.grid:
        whole = [Wave(before, 0, 0), Wave(groups - before, before, 0)]
    return [(whole[:-1], rows), (whole[-1:], task.B)]


def expected(on: Machine, task: Task, inputs: Inputs) -> Callable[[int], Program]:
    """The kernel that `prepare_backward` will take, by the number of batch rows."""
    resets = inputs.reset is not None

    def of(B: int) -> Program:
        return _program(task, resets, _tiling(on, replace(task, B=B)))

    return of


def _tiling(on: Machine, task: Task) -> Tiling:
    tiling = winner(on, "tensor", task, "backward") or plan(task, on.device())
    if tiling is None:
        raise ValueError(no_tiling(task, on.device()))
    return tiling


def _program(task: Task, resets: bool, tiling: Tiling) -> Program:
    return backward_program(task.cell, task.dtype, task.D, tiling, resets=resets)


def run_backward(
    on: Machine,
    task: Task,
    inputs: Inputs,
    kept: Kept | None,
    dstates: Any,
    dlast: Any,
    chosen: Tiling | None = None,
) -> Gradients:
    planned = prepare_backward(on, task, inputs, dstates, dlast, chosen)
    return planned(inputs, kept, dstates, dlast)


def prepare_waves(
    on: Machine,
    program: Program,
    tiling: Tiling,
    some: list[Wave],
    strides: Sequence[tuple[int, ...]],
    sizes: list[Any],
) -> Launch:
    """Some launches, as one. sizes -- the kernel's constants from `clip` on."""
    launches = [
        (
            on.prepare(
                program,
                (wave.groups * tiling.cluster, 1),
                [*strides, wave.first_group, *sizes],
            ),
            wave.mail_words,
        )
        for wave in some
    ]

    def one_after_another(*arrays: Any, begun: Any = None) -> None:
        for i, (launch, words) in enumerate(launches, 1):
            mail = on.filled((words,), "uint64", 0) if words else None
            launch(*arrays, mail, begun=begun if i == len(launches) else None)

    return one_after_another


def in_words(array: Any) -> bool:
    """Whether units 2 n and 2 n + 1 lie side by side, where one access reaches them."""
    return array.shape[-1] % 2 == 0 and gpu.whole(array, 2 * array.itemsize)


def _reachable(array: Any, tiling: Tiling) -> bool:
    """Whether 32-bit indices reach the rows and units of a tile."""
    row, unit = strides(array, 5)[1], strides(array, 5)[4]
    return (tiling.tile - 1) * abs(row) + (array.shape[4] - 1) * abs(unit) <= INDEX
