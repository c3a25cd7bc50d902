"""Seconds that a tiling takes on the device, for autotuning and for checking the models.

One runner for each kernel: it makes inputs once and returns a function that runs a tiling. Times
are medians of a few runs after one that compiles and warms up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..arrays import DTYPES
from ..kernels.interface import Inputs, Task
from ..kernels.machine import Machine, gpu
from .candidates import Setting
from .models.common import Direction, Solution

__all__ = ["RUNNERS", "measurer"]

STEPS = 256  # at most: all steps are alike
RUNS = 5

Run = Callable[[], object]
Prepare = Callable[[Machine, Task, Direction], Callable[[Solution], Run]]


def measurer(
    setting: Setting, machine: Machine | None = None, runs: int = RUNS
) -> Callable[[Solution], float]:
    """A function from a tiling to seconds of the whole pass, scaled to the task's steps.

    machine -- None: the current CuPy device and stream. ValueError for a kernel without a runner.
    """
    name = setting.model.name
    if name not in RUNNERS:
        raise ValueError(f"kernel {name!r} cannot be measured; {', '.join(RUNNERS)} can")
    machine = gpu() if machine is None else machine
    steps = max(1, min(setting.task.T, STEPS))
    prepared = RUNNERS[name](machine, replace(setting.task, T=steps), setting.direction)
    clock = _events if machine.arrays.__name__ == "cupy" else _wall

    def seconds(solution: Solution) -> float:
        run = prepared(solution)
        run()
        return statistics.median(clock(run) for _ in range(runs)) * setting.task.T / steps

    return seconds


def _events(run: Run) -> float:
    import cupy

    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    run()
    end.record()
    end.synchronize()
    return 1e-3 * cupy.cuda.get_elapsed_time(start, end)


def _wall(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def random_inputs(machine: Machine, task: Task) -> tuple[Inputs, Any]:
    """(inputs, dstates) of moderate size, the same each time."""
    c, (B, T, H, D) = task.cell, (task.B, task.T, task.H, task.D)
    random = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> Any:
        values = scale * random.standard_normal(shape, np.float32)
        return machine.arrays.asarray(values.astype(DTYPES[task.dtype]))

    inputs = Inputs(
        normal(B, T, len(c.input_gates), H, D),
        normal(len(c.recurrent_gates), H, D, D, scale=D**-0.5),
        normal(len(c.bias_gates), H, D),
    )
    return inputs, normal(len(c.states), B, T, H, D)


def _portable(machine: Machine, task: Task, direction: Direction) -> Callable[[Solution], Run]:
    from ..kernels import fused
    from ..kernels.fused_layout import Tiling

    inputs, dstates = random_inputs(machine, task)
    kept = None
    if direction == "backward":
        _, _, kept = fused.run_forward(machine, task, inputs, keep=True)

    def prepare(solution: Solution) -> Run:
        tiling = Tiling(**solution)
        program = fused.program(task.cell, task.dtype, task.D, direction, tiling)
        chosen = fused.Plan(direction, tiling, program)
        if kept is None:
            return partial(fused.run_forward, machine, task, inputs, False, chosen)
        return partial(fused.run_backward, machine, task, inputs, kept, dstates, None, chosen)

    return prepare


def _tensor(machine: Machine, task: Task, direction: Direction) -> Callable[[Solution], Run]:
    from ..kernels import tensor, tensor_backward_run
    from .models.tensor_cores import backward_tiling, forward_tiling

    inputs, dstates = random_inputs(machine, task)
    if direction == "forward":
        return lambda solution: partial(
            tensor.forward, machine, task, inputs, False, forward_tiling(task, solution)
        )
    _, _, kept = tensor.forward(machine, task, inputs, True)
    return lambda solution: partial(
        tensor_backward_run.run_backward,
        *(machine, task, inputs, kept, dstates, None, backward_tiling(task, solution)),
    )


RUNNERS: dict[str, Prepare] = {"tensor": _tensor, "portable": _portable}
