"""Gradients of Wx, R and b from the gate gradients of the whole sequence, as matrix products.

dgates [B, T, G, H, D] is what the backward kernels write, in the arrays' dtype; sums run in float32
or wider. dWx is a part of dgates, dR a product over all rows and steps. db is a product with ones:
over the batch rows where the kernel has summed the gradients over time, else over rows and steps,
which reads all of dgates again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np

from ..arrays import compute_dtype
from . import narrow_product
from .cublas import View
from .formats import FORMATS
from .interface import Task
from .launch import Program
from .machine import Machine

Product = tuple[Any, Any, Any]  # out, a, b: views of outlines of dR, dgates and previous
# In 32 and 64 bits cuBLAS gives a head's product over all steps to one block, which takes
# milliseconds: it gets at most so many spans of them at once, each of at least so many steps, one
# head after the other. Where there are many heads and few steps that takes longer.
MOST_SPANS, LEAST_STEPS = 64, 256


class WeightGradients:
    """`dWx, dR = gradients(dgates, previous)` for a task, on the current device.

    dgates [B, T, G, H, D] and previous = s_0(t-1) [B, T, H, D] are contiguous, of one dtype.
    cuts -- batch rows at which dR is cut into parts, each of which needs its own rows only:

        sums = gradients.begin()
        gradients.add(part, sums, dgates, previous)  # of each part, in any order
        dR = gradients.total(sums)

    Parts are summed in compute precision and rounded once.
    """

    def __init__(self, machine: Machine, task: Task, dtype: Any, cuts: Sequence[int] = ()) -> None:
        G, H, D = len(task.cell.gates), task.H, task.D
        self._machine, self._task = machine, task
        self._array = machine.arrays.ndarray
        self._steps = task.B * task.T
        weights: tuple[int, ...] = (len(task.cell.recurrent_gates), H, D, D)
        self._shape, self._dtype = weights, dtype
        self._total = None
        bounds = [row * task.T for row in (0, *cuts, task.B)]
        spans = [_spans(task, last - first) for first, last in pairwise(bounds)]
        if sum(spans) > 1:
            self._shape, self._dtype = (sum(spans), *weights), compute_dtype(task.dtype)
            self._total = Sum(machine, self._shape, self._dtype, dtype)
        outlines = (
            _outline(self._shape, self._dtype),
            _outline((self._steps, G, H, D), dtype),
            _outline((self._steps, H, D), dtype),
        )
        sums, d, previous = outlines
        every = sums if self._total else sums[None]
        starts = accumulate(spans, initial=0)
        self._parts = [
            [
                _prepared(machine, product, outlines, task.precision)
                for product in _recurrent_products(
                    task, every[begin:end], d[first:last], previous[first:last]
                )
            ]
            for (begin, end), (first, last) in zip(pairwise(starts), pairwise(bounds), strict=True)
        ]

    def __call__(self, dgates: Any, previous: Any) -> tuple[Any, Any]:
        sums = self.begin()
        for part in range(len(self._parts)):
            self.add(part, sums, dgates, previous)
        return self.inputs(dgates), self.total(sums)

    def begin(self) -> Any:
        """Room for the parts of dR."""
        sums = self._array(self._shape, self._dtype)
        if not self._steps:
            sums.fill(0)
        return sums

    def add(self, part: int, sums: Any, dgates: Any, previous: Any) -> None:
        if self._steps:
            for product in self._parts[part]:
                product(sums, dgates, previous)

    def total(self, sums: Any) -> Any:
        """dR"""
        return self._total(sums) if self._total else sums

    def inputs(self, dgates: Any) -> Any:
        """dWx"""
        return take(self._machine, dgates, self._task.cell.input_gates, 2)


def expected(task: Task) -> list[Program]:
    """The kernels of ours that `Sum` takes."""
    return [narrow_product.program(task.dtype)] if _narrow(task) else []


def _narrow(task: Task) -> bool:
    """Whether numbers have fewer bits than their sums."""
    form = FORMATS[task.dtype]
    return form.element != form.real


class Sum:
    """`total = sum(array)` over the first axis, rounded once, on the current device.

    shape, given -- of the array, which is contiguous: the dtype of the result, or its compute
    precision. dtype -- of the result.
    """

    def __init__(self, machine: Machine, shape: tuple[int, ...], given: Any, dtype: Any) -> None:
        self._machine, self._given, self._dtype = machine, given, dtype
        self._count, *self._shape = shape
        width = prod(self._shape)
        self._empty = not self._count * width
        outlines = (
            _outline((1, 1, width), dtype),
            _outline((1, 1, self._count), given),
            _outline((1, self._count, width), given),
        )
        self._product = _prepared(machine, outlines, outlines)

    def __call__(self, array: Any) -> Any:
        total = self._machine.arrays.ndarray(self._shape, self._dtype)
        if self._empty:
            total.fill(0)
        else:
            self._product(total, self._machine.ones(self._count, self._given), array)
        return total


def _outline(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of this shape without memory, for views of it."""
    whole = np.dtype(dtype).itemsize * np.cumprod((1, *shape[:0:-1]), dtype=np.int64)
    return np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, whole[::-1].tolist())


def _prepared(
    machine: Machine, product: Product, outlines: Product, precision: str = "auto"
) -> Callable[..., None]:
    out, a, b = (
        View(view.shape, view.strides, view.dtype, view.ctypes.data - whole.ctypes.data)
        for view, whole in zip(product, outlines, strict=True)
    )
    return machine.prepare_product(out, a, b, precision)


def _spans(task: Task, steps: int) -> int:
    """How many sums of equal spans of the steps make up dR."""
    if _narrow(task) or task.H == 1 or steps < LEAST_STEPS * task.H:
        return 1
    most = min(MOST_SPANS, steps // LEAST_STEPS)
    return max(n for n in range(1, most + 1) if steps % n == 0)


def _recurrent_products(task: Task, dR: Any, d: Any, previous: Any) -> Iterator[Product]:
    """dR[n, g, h] [D, D] = sum over the rows and steps of span n of dgate_g s_0(t-1)^T."""
    gates, H, D = task.cell.recurrent_gates, task.H, task.D
    spans, steps = len(dR), len(previous)
    if spans > 1:
        for i, gate in enumerate(gates):
            for h in range(H):
                cut = spans, steps // spans, D
                left, right = (array.reshape(cut) for array in (d[:, gate, h], previous[:, h]))
                yield dR[:, i, h], left.transpose(0, 2, 1), right
        return
    s = previous.transpose(1, 0, 2)
    if H == 1 and len(gates) > 1 and _contiguous(gates):
        # with one head the gates lie side by side: one product for all of them
        first, rows = gates[0], len(gates) * D
        joined = d[:, first : first + len(gates)].reshape(1, steps, rows)
        yield dR.reshape(1, rows, D), joined.transpose(0, 2, 1), s
        return
    for i, gate in enumerate(gates):
        yield dR[0, i], d[:, gate].transpose(1, 2, 0), s


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
