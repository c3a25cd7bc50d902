"""The alternating backend: a matrix product and a pointwise kernel a step, for heads of any size.

R is read again at every step, by cuBLAS; what it costs beyond that is the time between two kernels,
which CUDA graphs keep short (alternating_plan.py). Python is in the loop once every 128 steps.

The states that forward returns are read again by backward: they must not change in between.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import compute_dtype
from . import gpu, machine
from .alternating_plan import THREADS, Plan, pieces, plan
from .fused_names import ALIVE, HAS_DSTATES, KEEP_EXACT, KEEP_GATES, RESTART, START
from .interface import Gradients, Inputs, Task
from .machine import Machine
from .passes import Kept
from .weight_gradients import Sum, WeightGradients, take

name = "alternating"


def refuses(task: Task) -> str | None:
    return gpu.refuses_kind(task)


def forward(task: Task, inputs: Inputs, keep: bool = False) -> tuple[Any, Any, Kept | None]:
    return run_forward(machine.gpu(), task, inputs, keep)


def backward(task: Task, inputs: Inputs, kept: Kept, dstates: Any, dlast: Any = None) -> Gradients:
    return run_backward(machine.gpu(), task, inputs, kept, dstates, dlast)


def run_forward(
    on: Machine, task: Task, inputs: Inputs, keep: bool
) -> tuple[Any, Any, Kept | None]:
    """Forward on a machine."""
    B, T, H, D, S = task.B, task.T, task.H, task.D, len(task.cell.states)
    arrays, real, dtype = on.arrays, compute_dtype(task.dtype), inputs.Wx.dtype
    states = arrays.empty((S, B, T, H, D), dtype)
    gates = arrays.empty((B, T, len(task.cell.gates), H, D) if keep else (0,), real)
    exact = gpu.exact_states(on, task, states, keep)
    copy_exact = keep and dtype != real
    if B and T:
        p = plan(on, task, "forward")
        z, flags = p.buffers, step_flags(on, task, inputs)
        with p.lock:
            _stage(on, task, inputs, p)
            z.bias[:] = inputs.b
            z.current[:] = z.initial
            z.left[:] = z.initial[0].transpose(1, 0, 2).astype(dtype)
            for t, n in pieces(T, z.steps):
                z.flags[: n + 1] = flags[t : t + n + 1]
                z.x[:n] = inputs.Wx[:, t : t + n].swapaxes(0, 1)
                options = (KEEP_GATES if keep else 0) | (KEEP_EXACT if copy_exact else 0)
                _forward_piece(on, task, p, n, options)
                states[:, :, t : t + n] = z.states[:n].transpose(1, 2, 0, 3, 4)
                if keep:
                    gates[:, t : t + n] = z.gates[:n].swapaxes(0, 1)
                if copy_exact:
                    exact[:, :, t : t + n] = z.others[:n].transpose(1, 2, 0, 3, 4)
    last = states[:, :, -1:].copy() if T else _initial(on, task, inputs)[:, :, None].astype(dtype)
    return states, last, Kept(gates, states, exact) if keep else None


def run_backward(
    on: Machine, task: Task, inputs: Inputs, kept: Kept, dstates: Any, dlast: Any
) -> Gradients:
    """Backward on a machine."""
    B, T, H, D, S = task.B, task.T, task.H, task.D, len(task.cell.states)
    arrays, dtype = on.arrays, inputs.Wx.dtype
    dgates = arrays.empty((B, T, len(task.cell.gates), H, D), dtype)
    previous = arrays.empty((B, T, H, D), dtype)
    dinitial = arrays.zeros((S, B, 1, H, D), dtype)
    if B and T:
        p = plan(on, task, "backward")
        z, flags = p.buffers, step_flags(on, task, inputs)
        with p.lock:
            _stage(on, task, inputs, p)
            z.to_initial.fill(0)
            if dlast is None:
                z.current.fill(0)
            else:
                z.current[:] = dlast[:, :, 0]
            options = 0 if dstates is None else HAS_DSTATES
            for t, n in reversed(list(pieces(T, z.steps))):
                z.flags[: n + 1] = flags[t : t + n + 1]
                z.gates[:n] = kept.gates[:, t : t + n].swapaxes(0, 1)
                skip = 1 if t == 0 else 0  # before the first step there is nothing
                at = slice(t - 1 + skip, t - 1 + n)
                z.before[skip:n] = kept.states[0, :, at].swapaxes(0, 1)
                z.others[skip:n] = kept.exact[:, :, at].transpose(2, 0, 1, 3, 4)
                if dstates is not None:
                    z.states[:n] = dstates[:, :, t : t + n].transpose(2, 0, 1, 3, 4)
                _backward_piece(on, task, p, n, options)
                dgates[:, t : t + n] = z.dgates[:n].swapaxes(0, 1)
                previous[:, t : t + n] = z.previous[:n].swapaxes(0, 1)
            _launch_backward(on, task, p, -1, options)
            dinitial[:, :, 0] = z.to_initial + z.current
    elif dlast is not None:
        dinitial[:] = dlast
    dWx, dR = WeightGradients(on, task, dtype)(dgates, previous)
    sums = Sum(on, (B * T, *dgates.shape[2:]), dtype, dtype)(dgates)
    db = take(on, sums, task.cell.bias_gates, 0)
    return Gradients(dWx, dR, db, None if inputs.states is None else dinitial)


def _forward_piece(on: Machine, task: Task, p: Plan, n: int, options: int) -> None:
    z = p.buffers

    def work() -> None:
        for step in range(n):
            if task.cell.recurrent_gates:
                on.multiply(z.sums, z.left, z.weights.transpose(0, 2, 1), task.precision)
            on.launch(
                p.program,
                _grid(task),
                [
                    z.x, z.sums, z.bias, z.initial, z.flags, z.left, z.current, z.states, z.others,
                    z.gates, task.B, task.H, task.D, step, options,
                ],
            )  # fmt: skip

    on.replay(p.graphs, (n, options), work)


def _backward_piece(on: Machine, task: Task, p: Plan, n: int, options: int) -> None:
    z = p.buffers

    def work() -> None:
        for step in reversed(range(n)):
            _launch_backward(on, task, p, step, options)
            if task.cell.recurrent_gates:
                on.multiply(z.sums, z.left, z.weights, task.precision)

    on.replay(p.graphs, (n, options), work)


def _launch_backward(on: Machine, task: Task, p: Plan, step: int, options: int) -> None:
    z = p.buffers
    on.launch(
        p.program,
        _grid(task),
        [
            z.gates, z.before, z.others, z.initial, z.flags, z.states, z.sums, z.left, z.current,
            z.to_initial, z.dgates, z.previous, task.clip or 0.0, task.B, task.H, task.D, step,
            options,
        ],
    )  # fmt: skip


def _grid(task: Task) -> tuple[int, int, int]:
    return -(-task.B * task.H * task.D // THREADS), 1, 1


def _stage(on: Machine, task: Task, inputs: Inputs, p: Plan) -> None:
    """R and the initial states into the plan's buffers."""
    z, J = p.buffers, len(task.cell.recurrent_gates)
    weights = z.weights.reshape(task.H, J, task.D, task.D)
    weights[:] = inputs.R.swapaxes(0, 1)
    z.initial[:] = _initial(on, task, inputs)


def _initial(on: Machine, task: Task, inputs: Inputs) -> Any:
    """Initial states [S, B, H, D] in compute precision, s_0 rounded to the arrays' dtype."""
    real = compute_dtype(task.dtype)
    if inputs.states is not None:
        return inputs.states[:, :, 0].astype(real)
    first = on.arrays.empty((len(task.cell.states), task.B, task.H, task.D), real)
    for k, value in enumerate(task.cell.initial.values()):
        first[k].fill(value)
    first[0] = first[0].astype(inputs.Wx.dtype)
    return first


def step_flags(on: Machine, task: Task, inputs: Inputs) -> Any:
    """[T + 1, B] bytes of ALIVE, RESTART and START; nothing is alive after the end."""
    arrays = on.arrays
    alive = arrays.ones((task.T + 1, task.B), np.bool_)
    alive[task.T] = False
    if inputs.lengths is not None:
        alive &= arrays.arange(task.T + 1)[:, None] < inputs.lengths[None]
    flags = alive.astype(np.uint8) * ALIVE
    if inputs.reset is not None:
        flags[:-1] |= (inputs.reset.T & alive[:-1]).astype(np.uint8) * np.uint8(RESTART)
    if task.T:
        flags[0] |= START
    return flags
