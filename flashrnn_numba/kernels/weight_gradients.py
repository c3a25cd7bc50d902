"""Gradients of Wx, R and b from the gate gradients of the whole sequence, as matrix products.

dgates [B, T, G, H, D] is what the backward kernels write, in the arrays' dtype; sums run in float32
or wider. dWx is a part of dgates, dR a product over all rows and steps, db a product with ones.
"""

from __future__ import annotations

from typing import Any

from .interface import Task
from .machine import Machine


def input_gradient(machine: Machine, task: Task, dgates: Any) -> Any:
    """dWx [B, T, Gx, H, D]: a view where the gates with input lie side by side."""
    return take(machine, dgates, task.cell.input_gates, 2)


def recurrent_gradient(machine: Machine, task: Task, dgates: Any, previous: Any) -> Any:
    """dR[g, h] = sum over rows and steps of dgate_g s_0(t-1)^T, [Gr, H, D, D]."""
    steps, H, D = task.B * task.T, task.H, task.D
    gates = task.cell.recurrent_gates
    dR = machine.arrays.empty((len(gates), H, D, D), dgates.dtype)
    if not steps:
        dR.fill(0)
        return dR
    d = dgates.reshape(steps, len(task.cell.gates), H, D)
    s = previous.reshape(steps, H, D).transpose(1, 0, 2)
    if H == 1 and len(gates) > 1 and _contiguous(gates):
        # with one head the gates lie side by side: one product for all of them
        first = gates[0]
        joined = d[:, first : first + len(gates)].reshape(1, steps, len(gates) * D)
        out = dR.reshape(1, len(gates) * D, D)
        machine.multiply(out, joined.transpose(0, 2, 1), s, task.precision)
        return dR
    for i, gate in enumerate(gates):
        machine.multiply(dR[i], d[:, gate].transpose(1, 2, 0), s, task.precision)
    return dR


def bias_gradient(machine: Machine, task: Task, dgates: Any) -> Any:
    """db [Gb, H, D]."""
    arrays, steps = machine.arrays, task.B * task.T
    G, H, D = dgates.shape[2:]
    if not steps:
        return arrays.zeros((len(task.cell.bias_gates), H, D), dgates.dtype)
    total = arrays.empty((1, 1, G * H * D), dgates.dtype)
    ones = arrays.ones((1, 1, steps), dgates.dtype)
    machine.multiply(total, ones, dgates.reshape(1, steps, G * H * D))
    return take(machine, total.reshape(G, H, D), task.cell.bias_gates, 0)


def take(machine: Machine, array: Any, indices: tuple[int, ...], axis: int) -> Any:
    """array[..., indices, ...]; a view where the indices follow each other."""
    before = (slice(None),) * axis
    if not indices or _contiguous(indices):
        start = indices[0] if indices else 0
        return array[(*before, slice(start, start + len(indices)))]
    # one by one: an index array would be copied from the host, which a graph cannot capture
    shape = (*array.shape[:axis], len(indices), *array.shape[axis + 1 :])
    result = machine.arrays.empty(shape, array.dtype)
    for place, index in enumerate(indices):
        result[(*before, place)] = array[(*before, index)]
    return result


def _contiguous(indices: tuple[int, ...]) -> bool:
    return indices == tuple(range(indices[0], indices[0] + len(indices)))
