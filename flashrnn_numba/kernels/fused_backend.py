"""The backend "fused": one launch runs all time steps, R stays on the chip.

Each direction takes the first kernel that has a tiling: tensor cores (tensor.py,
tensor_backward_run.py) for 16-bit dtypes and products in TF32, else plain arithmetic (fused.py).
What forward keeps is the same for both, so that any two go together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..tuning import Device, winners
from ..tuning.models.common import DIRECTIONS, batch_classes
from . import (
    fused,
    gpu,
    machine,
    tensor,
    tensor_backward_layout,
    tensor_backward_run,
    weight_gradients,
)
from .fused_layout import Direction
from .interface import Gradients, Inputs, Task
from .launch import Program
from .machine import Machine
from .passes import Backward, Forward, Kept

name = "fused"


def refuses(task: Task) -> str | None:
    reason = gpu.refuses_kind(task)
    if reason is not None:
        return reason
    device = machine.gpu().device()
    for direction in ("forward", "backward"):
        if not uses_tensor_cores(task, device, direction):
            reason = fused.no_tiling(task, device, direction)
            if reason is not None:
                return f"{reason}; and {_no_tensor_tiling(task, device, direction)}"
    return None


def uses_tensor_cores(task: Task, device: Device, direction: Direction) -> bool:
    """Whether the tensor-core kernel runs this direction of the task on this device."""
    return _no_tensor_tiling(task, device, direction) is None


def _no_tensor_tiling(task: Task, device: Device, direction: Direction) -> str | None:
    kernel = tensor if direction == "forward" else tensor_backward_run
    return kernel.no_tiling(task, device)


def prepare_forward(task: Task, inputs: Inputs, keep: bool) -> Forward:
    """`forward` for any inputs of the same metadata, on the current device."""
    on = machine.gpu()
    if keep:
        # compiled while forward's kernel is
        backward = _backward_kernel(task, on.device()).expected(on, task, inputs)
        on.expect([backward(task.B), *weight_gradients.expected(task)])
    tensor_cores = uses_tensor_cores(task, on.device(), "forward")
    kernel: Any = tensor if tensor_cores else fused
    planned: Forward = kernel.prepare_forward(on, task, inputs, keep)
    if not winners.measures():
        _expect_other_batches(on, task, inputs, keep)
    return planned


def _expect_other_batches(on: Machine, task: Task, inputs: Inputs, keep: bool) -> None:
    """The tensor-core kernels of batch sizes of all classes: they should be there when a batch of
    another size comes. (The portable kernel is the same for all.)"""
    device = on.device()
    variant = tensor.variant(on, task, inputs, keep)
    forward = tensor.expected(on, task, variant)
    backward = tensor_backward_run.expected(on, task, inputs)

    def programs() -> Iterator[Program]:
        for B in batch_classes(task.B):
            other = replace(task, B=B)
            if uses_tensor_cores(other, device, "forward"):
                yield forward(B)
            if keep and uses_tensor_cores(other, device, "backward"):
                yield backward(B)

    if any(uses_tensor_cores(task, device, direction) for direction in DIRECTIONS):
        # all that these depend on, in words that another process understands
        kind = task.cell.key, task.dtype, task.H, task.D, task.precision, winners.source()
        given = variant, inputs.reset is not None, tensor_backward_layout.largest_tile(task)
        on.expect_some_day((*kind, *given), programs)


def _backward_kernel(task: Task, device: Device) -> Any:
    return tensor_backward_run if uses_tensor_cores(task, device, "backward") else fused


def prepare_backward(task: Task, inputs: Inputs, dstates: Any, dlast: Any) -> Backward:
    """`backward` for any arrays of the same metadata, on the current device."""
    on = machine.gpu()
    kernel = _backward_kernel(task, on.device())
    return kernel.prepare_backward(on, task, inputs, dstates, dlast)


def forward(task: Task, inputs: Inputs, keep: bool = False) -> tuple[Any, Any, Kept | None]:
    return prepare_forward(task, inputs, keep)(inputs)


def backward(task: Task, inputs: Inputs, kept: Kept, dstates: Any, dlast: Any = None) -> Gradients:
    return prepare_backward(task, inputs, dstates, dlast)(inputs, kept, dstates, dlast)
