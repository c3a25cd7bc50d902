"""The backend "fused": one launch runs all time steps, R stays on the chip.

Each direction takes the first kernel that has a tiling: tensor cores (tensor.py,
tensor_backward_run.py) for 16-bit dtypes and products in TF32, else plain arithmetic (fused.py).
What forward keeps is the same for both, so that any two go together.
"""

from __future__ import annotations

from typing import Any

from ..tuning import Device
from . import fused, gpu, machine, tensor, tensor_backward_run, weight_gradients
from .fused_layout import Direction
from .interface import Gradients, Inputs, Task
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
        backward = _backward_kernel(task, on.device())
        on.expect([backward.expected(on, task, inputs), *weight_gradients.expected(task)])
    tensor_cores = uses_tensor_cores(task, on.device(), "forward")
    kernel: Any = tensor if tensor_cores else fused
    return kernel.prepare_forward(on, task, inputs, keep)


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
