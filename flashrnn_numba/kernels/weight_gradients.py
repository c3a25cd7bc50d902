"""Gradients of Wx, R and b from the gate gradients of the whole sequence, as matrix products.

dgates [B, T, G, H, D] is what the backward kernels write, in the arrays' dtype; sums run in float32
or wider. dWx is a part of dgates, dR a product over all rows and steps, db a product with ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .cublas import View
from .interface import Task
from .machine import Machine

Product = tuple[Any, Any, Any]  # out, a, b: views of outlines


class WeightGradients:
    """`dWx, dR, db = gradients(dgates, previous)` for a task, on the current device.

    dgates [B, T, G, H, D] and previous = s_0(t-1) [B, T, H, D] are contiguous, of one dtype.
    """

    def __init__(self, machine: Machine, task: Task, dtype: Any) -> None:
        G, H, D = len(task.cell.gates), task.H, task.D
        self._machine, self._task, self._dtype = machine, task, dtype
        self._array = machine.arrays.ndarray
        self._steps = task.B * task.T
        self._sums, self._weights = (G, H, D), (len(task.cell.recurrent_gates), H, D, D)
        outlines = (
            _outline(self._weights, dtype),
            _outline((self._steps, G, H, D), dtype),
            _outline((self._steps, H, D), dtype),
        )
        self._products = [
            _prepared(machine, product, outlines, task.precision)
            for product in _recurrent_products(task, *outlines)
        ]
        self._sum = _prepared(machine, *_sum_product(self._steps, G * H * D, dtype))

    def __call__(self, dgates: Any, previous: Any) -> tuple[Any, Any, Any]:
        cell, machine = self._task.cell, self._machine
        dR = self._array(self._weights, self._dtype)
        db = self._array(self._sums, self._dtype)
        if not self._steps:
            dR.fill(0)
            db.fill(0)
        else:
            for product in self._products:
                product(dR, dgates, previous)
            if cell.bias_gates:
                self._sum(db, machine.ones(self._steps, self._dtype), dgates)
        dWx = take(machine, dgates, cell.input_gates, 2)
        return dWx, dR, take(machine, db, cell.bias_gates, 0)


def _outline(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of this shape without memory, for views of it."""
    whole = np.dtype(dtype).itemsize * np.cumprod((1, *shape[:0:-1]), dtype=np.int64)
    return np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, whole[::-1].tolist())


def _prepared(
    machine: Machine, product: Product, outlines: Product, precision: str = "exact"
) -> Callable[..., None]:
    out, a, b = (
        View(view.shape, view.strides, view.dtype, view.ctypes.data - whole.ctypes.data)
        for view, whole in zip(product, outlines, strict=True)
    )
    return machine.prepare_product(out, a, b, precision)


def _recurrent_products(task: Task, dR: Any, d: Any, previous: Any) -> Iterator[Product]:
    """dR[g, h] [D, D] = sum over rows and steps of dgate_g s_0(t-1)^T."""
    gates, H, D = task.cell.recurrent_gates, task.H, task.D
    s, steps = previous.transpose(1, 0, 2), len(previous)
    if H == 1 and len(gates) > 1 and _contiguous(gates):
        # with one head the gates lie side by side: one product for all of them
        first, rows = gates[0], len(gates) * D
        joined = d[:, first : first + len(gates)].reshape(1, steps, rows)
        yield dR.reshape(1, rows, D), joined.transpose(0, 2, 1), s
        return
    for i, gate in enumerate(gates):
        yield dR[i], d[:, gate].transpose(1, 2, 0), s


def _sum_product(steps: int, width: int, dtype: Any) -> tuple[Product, Product]:
    """(the product with ones, its outlines)."""
    matrices = ((1, 1, width), (1, 1, steps), (1, steps, width))
    outlines = tuple(_outline(shape, dtype) for shape in matrices)
    return outlines, outlines  # type: ignore[return-value]


def take(machine: Machine, array: Any, indices: tuple[int, ...], axis: int) -> Any:
    """array[..., indices, ...]; the array itself or a view where the indices follow each other."""
    before = (slice(None),) * axis
    if not indices or _contiguous(indices):
        if len(indices) == array.shape[axis]:
            return array
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
