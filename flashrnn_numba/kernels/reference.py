"""The oracle: NumPy, float64, one time step after the other, no cleverness.

    gate_j(t) = x_j(t) + R_j s_0(t-1) + b_j
    s(t)      = cell(gates(t), s(t-1))

Every other backend is held to this file by tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .interface import Gradients, Inputs, Task

name = "reference"


def refuses(task: Task) -> str | None:
    if task.kind != "numpy":
        return f"it takes NumPy arrays, got {task.kind}"
    return None


def forward(task: Task, inputs: Inputs, keep: bool = False) -> tuple:
    Wx, R, b, first, reset, alive = prepare(task, inputs)
    s, states, kept = first, np.empty((len(first), task.B, task.T, task.H, task.D)), []
    for t in range(task.T):
        previous = np.where(reset[:, t], first, s)
        g = gates(task, Wx[:, t], R, b, previous[0])
        s = np.where(alive[:, t], task.cell.forward(list(g), list(previous)), s)
        states[:, :, t] = s
        kept.append((previous, g))
    dtype = inputs.Wx.dtype
    return states.astype(dtype), s[:, :, None].astype(dtype), kept if keep else None


def backward(task: Task, inputs: Inputs, kept: list, dstates: Any, dlast: Any = None) -> Gradients:
    cell, dtype = task.cell, inputs.Wx.dtype
    Wx, R, b, first, reset, alive = prepare(task, inputs)
    shape = (len(first), task.B, task.T, task.H, task.D)
    dstates = np.zeros(shape) if dstates is None else dstates.astype(float)
    d = np.zeros_like(first) if dlast is None else dlast[:, :, 0].astype(float)
    dfirst, dWx = np.zeros_like(first), np.zeros(Wx.shape)
    dR, db = np.zeros(R.shape), np.zeros(b.shape)
    for t in reversed(range(task.T)):
        previous, g = kept[t]
        d = d + dstates[:, :, t]
        dg, through = (np.array(a) for a in cell.vjp(g, previous, d))
        dg = np.where(alive[:, t], dg, 0)
        dr = dg[list(cell.recurrent_gates)]
        through[0] += np.einsum("gbhi,ghij->bhj", dr, R)
        if task.clip is not None:
            through[0] = np.clip(through[0], -task.clip, task.clip)
        dWx[:, t] = np.moveaxis(dg[list(cell.input_gates)], 0, 1)
        dR += np.einsum("gbhi,bhj->ghij", dr, previous[0])
        db += dg[list(cell.bias_gates)].sum(1)
        through = np.where(alive[:, t], through, d)
        restarted = reset[:, t]
        dfirst += np.where(restarted, through, 0)
        d = np.where(restarted, 0, through)
    dfirst = None if inputs.states is None else (dfirst + d)[:, :, None].astype(dtype)
    return Gradients(dWx.astype(dtype), dR.astype(dtype), db.astype(dtype), dfirst)


def gates(task: Task, x: np.ndarray, R: np.ndarray, b: np.ndarray, s0: np.ndarray) -> np.ndarray:
    """[G, B, H, D] pre-activations from x [B, Gx, H, D] and s0 [B, H, D]."""
    cell = task.cell
    g = np.zeros((len(cell.gates), task.B, task.H, task.D))
    g[list(cell.input_gates)] += np.moveaxis(x, 1, 0)
    g[list(cell.recurrent_gates)] += np.einsum("ghij,bhj->gbhi", R, s0)
    g[list(cell.bias_gates)] += b[:, None]
    return g


def prepare(task: Task, inputs: Inputs) -> tuple:
    """Inputs in float64; the initial states [S, B, H, D]; reset and alive as [B, T, 1, 1]."""
    # einsum sums in another order where strides differ: C order for the same bits
    Wx, R, b = (np.asarray(a).astype(float, "C") for a in (inputs.Wx, inputs.R, inputs.b))
    first = np.empty((len(task.cell.states), task.B, task.H, task.D))
    initial = np.array(list(task.cell.initial.values()))[:, None, None, None]
    first[:] = initial if inputs.states is None else inputs.states[:, :, 0].astype(float)
    steps = np.arange(task.T)[None]
    lengths = np.full(task.B, task.T) if inputs.lengths is None else inputs.lengths
    alive = steps < np.asarray(lengths)[:, None]
    reset = np.zeros_like(alive) if inputs.reset is None else inputs.reset & alive
    return Wx, R, b, first, reset[..., None, None], alive[..., None, None]
