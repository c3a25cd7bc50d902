"""What the alternating backend keeps between calls: kernels, buffers, captured graphs.

A graph replays launches with the addresses they were captured with, so everything a step touches
lies in buffers of the plan. Time is cut into pieces of 1, 2, 4, ... STEPS steps, with a graph for
each size: T is not part of the plan, and the buffers hold one piece, whatever T is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from ..arrays import DTYPES, compute_dtype
from ..cells import Cell
from .alternating_sizes import PIECE_BYTES, STEPS, THREADS
from .formats import FORMATS
from .fused_layout import Direction
from .fused_source import cell_constants, cell_text, header
from .interface import Task
from .launch import Program
from .machine import Graphs, Machine
from .template import Function, specialise

KEPT_PLANS = 8


def program(cell: Cell, dtype: str, direction: Direction) -> Program:
    """The pointwise kernel: one for a cell and a dtype, whatever the sizes."""
    name = f"alternating_{direction}"
    text = header(f"Pointwise {direction} of cell {cell.name!r}, {dtype}", dtype) + specialise(
        Function("alternating_kernels.py", name),
        cell_constants(cell) | {"THREADS": THREADS},
        {"cell_forward": cell_text(cell, "forward"), "cell_vjp": cell_text(cell, "vjp")},
    )
    element, real = FORMATS[dtype].element + "*", FORMATS[dtype].real + "*"
    arrays: tuple[str, ...]
    if direction == "forward":
        arrays = (element, real, element, real, "uint8*", element, real, element, real, real)
    else:
        arrays = (real, element, real, real, "uint8*", element, real, element, real, real)
        arrays += (element, element, real[:-1])
    return Program(
        name, text, (*arrays, *("int64",) * 5), THREADS, plan=f"pointwise {direction}, {cell.name}"
    )


class Buffers:
    """One direction's memory for a piece of time; shapes in alternating_kernels.py."""

    def __init__(self, on: Machine, task: Task, direction: Direction) -> None:
        B, H, D = task.B, task.H, task.D
        cell, arrays = task.cell, on.arrays
        G, S, J = len(cell.gates), len(cell.states), len(cell.recurrent_gates)
        real, element = compute_dtype(task.dtype), element_dtype(task)
        self.steps = n = piece_steps(task)
        self.weights = arrays.empty((H, J * D, D), element)
        self.initial = arrays.empty((S, B, H, D), real)
        self.flags = arrays.empty((n + 1, B), np.uint8)
        self.gates = arrays.empty((n, B, G, H, D), real)
        self.others = arrays.empty((n, S - 1, B, H, D), real)  # states but s_0
        self.states = arrays.empty((n, S, B, H, D), element)  # backward: their gradients
        if direction == "forward":
            self.x = arrays.empty((n, B, len(cell.input_gates), H, D), element)
            self.bias = arrays.empty((len(cell.bias_gates), H, D), element)
            self.sums = arrays.empty((H, B, J * D), real)
            self.left = arrays.empty((H, B, D), element)
            self.current = arrays.empty((S, B, H, D), real)
        else:
            self.before = arrays.empty((n, B, H, D), element)
            self.sums = arrays.zeros((H, B, D), real)
            self.left = arrays.empty((H, B, J * D), element)
            self.current = arrays.empty((S, B, H, D), real)
            self.to_initial = arrays.empty((S, B, H, D), real)
            self.dgates = arrays.empty((n, B, G, H, D), element)
            self.previous = arrays.empty((n, B, H, D), element)


class Plan:
    """One direction of a task of this cell, dtype and sizes (T apart) on one stream."""

    def __init__(self, on: Machine, task: Task, direction: Direction) -> None:
        self.program = program(task.cell, task.dtype, direction)
        self.buffers = Buffers(on, task, direction)
        self.graphs: Graphs = {}
        self.stream = on.held_stream()
        # a second thread on the same stream must not write into the buffers in between
        self.lock = threading.Lock()


_plans: OrderedDict[tuple, Plan] = OrderedDict()
# plans whose buffers a caller's own graph refers to: nobody tells when that graph is gone
_captured: set[Plan] = set()
_plans_lock = threading.Lock()


def plan(on: Machine, task: Task, direction: Direction) -> Plan:
    """The plan for a task: the last KEPT_PLANS are kept. One that runs out of memory is not."""
    key = (
        type(on), on.device(), on.stream(), task.cell.key, task.dtype, task.B, task.H, task.D,
        task.clip, task.precision, direction,
    )  # fmt: skip
    with _plans_lock:
        if key not in _plans:
            _plans[key] = Plan(on, task, direction)
            if len(_plans) > KEPT_PLANS:
                _plans.popitem(last=False)
        _plans.move_to_end(key)
        if on.capturing():
            _captured.add(_plans[key])
        return _plans[key]


def piece_steps(task: Task) -> int:
    """Steps of the largest piece."""
    cell = task.cell
    numbers = 3 * len(cell.gates) + 3 * len(cell.states)
    step = numbers * max(1, task.B) * task.H * task.D * compute_dtype(task.dtype).itemsize
    steps = STEPS
    while steps > 8 and steps * step > PIECE_BYTES:
        steps //= 2
    return steps


def pieces(T: int, largest: int) -> Iterator[tuple[int, int]]:
    """(first step, steps) that cover T steps in order: as many of the largest size as there is
    room for, then halves."""
    start, steps = 0, largest
    while start < T:
        while steps > T - start:
            steps //= 2
        yield start, steps
        start += steps


def element_dtype(task: Task) -> np.dtype:
    return DTYPES[task.dtype]
