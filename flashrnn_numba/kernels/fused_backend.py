"""The backend "fused": one launch runs all time steps, R stays on the chip.

Each direction takes the first kernel that has a tiling: tensor cores (tensor.py,
tensor_backward_run.py) for 16-bit dtypes, else plain arithmetic (fused.py). What forward keeps is
the same for both, so that any two go together.
"""

from __future__ import annotations

from typing import Any

from ..tuning import Device
from . import fused, gpu, machine, tensor, tensor_backward_run
from .fused import Kept
from .fused_layout import Direction
from .interface import Gradients, Inputs, Task

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


def forward(task: Task, inputs: Inputs, keep: bool = False) -> tuple[Any, Any, Kept | None]:
    given = gpu.received(task, inputs)
    with gpu.device_of(given.Wx):
        on = machine.gpu()
        if uses_tensor_cores(task, on.device(), "forward"):
            states, last, kept = tensor.forward(on, task, given, keep)
        else:
            states, last, kept = fused.run_forward(on, task, given, keep)
    return (*gpu.returned(task, inputs, states, last), kept)


def backward(task: Task, inputs: Inputs, kept: Kept, dstates: Any, dlast: Any = None) -> Gradients:
    given = gpu.received(task, inputs)
    dstates, dlast = gpu.received(task, Inputs(dstates, dlast, None))[:2]
    with gpu.device_of(given.Wx):
        on = machine.gpu()
        tensor_cores = uses_tensor_cores(task, on.device(), "backward")
        kernel: Any = tensor_backward_run if tensor_cores else fused
        gradients = kernel.run_backward(on, task, given, kept, dstates, dlast)
    return gpu.returned_gradients(task, inputs, gradients)
