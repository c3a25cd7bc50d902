"""What the weight gradients take after a backward kernel: dR, a matrix product over all rows and
steps (kernels/weight_gradients.py). The bias's gradient is a sum over rows, and costs next to
nothing.
"""

from __future__ import annotations

from ...kernels.formats import FORMATS
from ...kernels.interface import Task
from ..hardware import Device
from .floors import plain_products_per_clock, products_per_clock

TILE = 64  # rows and columns of a block of cuBLAS here: one multiprocessor's work
# of the peak that a product reaches. dR on an H200 took so many milliseconds
# (docs/notes/tensor_backward.md; in brackets by this model): LSTM 64 x 12 B 128 0.80 (0.82),
# 768 x 1 B 128 0.82 (0.89), B 16 0.17 (0.11)
TENSOR, PLAIN = 0.7, 0.5


def recurrent_ns(task: Task, device: Device) -> float:
    """Nanoseconds of dR, by arithmetic or by memory; without launches, which small ones consist of
    (they took 0.05 to 0.1 ms)."""
    gates, steps, H, D = len(task.cell.recurrent_gates), task.B * task.T, task.H, task.D
    # the gates of one head are one product, which cuBLAS can also cut along the sum; else each gate
    # is one, batched over the heads
    products = 1 if H == 1 else gates
    busy = 1.0 if H == 1 else min(1.0, H * (-(-D // TILE)) ** 2 / device.sms)
    rate = device.sms * busy * _products_per_clock(task, device) * device.clock_ghz
    size = FORMATS[task.dtype].element_bytes
    traffic = steps * H * D * (gates + products) * size / device.memory_gb_s
    return max(steps * gates * H * D * D / rate, traffic)


def _products_per_clock(task: Task, device: Device) -> float:
    tensor = products_per_clock(device, task.dtype)
    if task.dtype == "float32" and task.precision == "tf32":
        tensor = products_per_clock(device, "bfloat16") / 2
    return TENSOR * tensor if tensor else PLAIN * plain_products_per_clock(device, task.dtype)
