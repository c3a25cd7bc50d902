"""Seconds that a tiling takes on the device, for autotuning and for checking the models.

One runner for each kernel: it makes inputs once and returns a function that runs a tiling. Times
are medians of a few runs after one that compiles and warms up, and of the kernel alone: what comes
before and after it is the same for all tilings. `rehearsal` tells what a tiling compiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..arrays import DTYPES
from ..kernels import fused_layout
from ..kernels.cublas import View
from ..kernels.interface import Inputs, Task
from ..kernels.launch import Program
from ..kernels.machine import HostMachine, Machine, gpu
from .candidates import Setting
from .hardware import Device
from .models import tensor_cores
from .models.common import Direction, Solution

__all__ = ["RUNNERS", "kernel_tiling", "measurer", "rehearsal"]

STEPS = 512  # at most: all steps are alike
RUNS = 5

Run = Callable[[], object]
Prepare = Callable[[Machine, Task, Direction], Callable[[Solution], Run]]


def measurer(
    setting: Setting, machine: Machine | None = None, runs: int = RUNS
) -> Callable[[Solution], float]:
    """A function from a tiling to seconds of the whole pass, scaled to the task's steps.

    machine -- None: the current CuPy device and stream. ValueError for a kernel without a runner.
    """
    machine = gpu() if machine is None else machine
    steps = max(1, min(setting.task.T, STEPS))
    timed = _Timed(machine)
    prepared = _prepared(setting, timed, steps)

    def seconds(solution: Solution) -> float:
        run = prepared(solution)
        run()
        return statistics.median(timed.seconds(run) for _ in range(runs)) * setting.task.T / steps

    return seconds


def rehearsal(setting: Setting) -> Callable[[Solution], tuple[Program, ...]]:
    """A function from a tiling to what `measurer` would compile for it, the kernel that is timed
    last: found by a run that launches nothing. Needs no GPU."""
    machine = _DryRun(setting.device)
    prepared = _prepared(setting, machine, 1)
    before = tuple(machine.launched)

    def programs(solution: Solution) -> tuple[Program, ...]:
        machine.launched.clear()
        prepared(solution)()
        return before + tuple(machine.launched)

    return programs


def kernel_tiling(setting: Setting, solution: Solution) -> Any:
    """What the kernel is given for a solution: the same for some that differ in what the model
    alone sees. Can be compared and hashed."""
    if setting.model.name == "portable":
        return fused_layout.Tiling(**solution)
    if setting.direction == "forward":
        return tensor_cores.forward_tiling(setting.task, solution)
    return tensor_cores.backward_tiling(setting.task, solution)


def _prepared(setting: Setting, machine: Machine, steps: int) -> Callable[[Solution], Run]:
    name = setting.model.name
    if name not in RUNNERS:
        raise ValueError(f"kernel {name!r} cannot be measured; {', '.join(RUNNERS)} can")
    return RUNNERS[name](machine, replace(setting.task, T=steps), setting.direction)


class _OneKernel(HostMachine):
    """A machine on which the kernel is all that runs: no products after it, no graphs."""

    def __init__(self, arrays: Any, device: Device) -> None:
        self.arrays = arrays
        self._device = device

    def device(self) -> Device:
        return self._device

    def prepare_product(
        self, out: View, a: View, b: View, precision: str = "auto"
    ) -> Callable[..., None]:
        """Weight gradients are the same whatever the tiling."""
        return lambda *arrays: None


class _DryRun(_OneKernel):
    """Launches nothing and notes what it would have launched."""

    def __init__(self, device: Device) -> None:
        super().__init__(np, device)
        self.launched: list[Program] = []

    def launch(self, program: Program, grid: Sequence[int], arguments: Sequence[Any]) -> None:
        self.launched.append(program)


class _Timed(_OneKernel):
    """Another machine, with a clock around its launches."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.arrays, machine.device())
        self._machine = machine
        self._events = machine.arrays.__name__ == "cupy"
        self._taken = 0.0
        self._on = False

    def blocks_per_sm(self, program: Program) -> int | None:
        return self._machine.blocks_per_sm(program)

    def seconds(self, run: Run) -> float:
        """Of the kernels that `run` launches."""
        if self._events:
            # the GPU is busy with the first run while the host prepares the second, so that
            # nothing but the kernel lies between the events
            run()
        self._taken, self._on = 0.0, True
        try:
            run()
        finally:
            self._on = False
        return self._taken

    def prepare(
        self, program: Program, grid: Sequence[int], constants: Sequence[Any]
    ) -> Callable[..., None]:
        launch = self._machine.prepare(program, grid, constants)

        def timed(*arrays: Any, begun: Any = None) -> None:
            run = partial(launch, *arrays, begun=begun)
            if self._on:
                clock = _by_events if self._events else _by_clock
                self._taken += clock(run)
            else:
                run()

        return timed


def _by_events(launch: Run) -> float:
    import cupy

    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    launch()
    end.record()
    end.synchronize()
    return 1e-3 * cupy.cuda.get_elapsed_time(start, end)


def _by_clock(launch: Run) -> float:
    start = time.perf_counter()
    launch()
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

    def plan(solution: Solution) -> fused.Plan:
        tiling = fused_layout.Tiling(**solution)
        program = fused.program(task.cell, task.dtype, task.D, direction, tiling)
        return fused.Plan(direction, tiling, program)

    return _runner(machine, task, direction, fused.prepare_forward, fused.prepare_backward, plan)


def _tensor(machine: Machine, task: Task, direction: Direction) -> Callable[[Solution], Run]:
    from ..kernels import tensor, tensor_backward_run

    forward = direction == "forward"
    tiling = tensor_cores.forward_tiling if forward else tensor_cores.backward_tiling
    prepare = tensor.prepare_forward, tensor_backward_run.prepare_backward
    return _runner(machine, task, direction, *prepare, partial(tiling, task))


def _runner(
    machine: Machine,
    task: Task,
    direction: Direction,
    prepare_forward: Callable[..., Any],
    prepare_backward: Callable[..., Any],
    chosen: Callable[[Solution], Any],
) -> Callable[[Solution], Run]:
    """Runs a pass that was planned before, so that a run is little more than its launch."""
    inputs, dstates = random_inputs(machine, task)
    if direction == "forward":

        def forward(solution: Solution) -> Run:
            planned = prepare_forward(machine, task, inputs, False, chosen(solution))
            return partial(planned, inputs)

        return forward
    # with the tiling of the model
    _, _, kept = prepare_forward(machine, task, inputs, True)(inputs)

    def backward(solution: Solution) -> Run:
        planned = prepare_backward(machine, task, inputs, dstates, None, chosen(solution))
        return partial(planned, inputs, kept, dstates, None)

    return backward


RUNNERS: dict[str, Prepare] = {
    "tensor": _tensor,
    "cluster": _tensor,
    "grid": _tensor,
    "portable": _portable,
}
