"""Cases on a real GPU: arrays there and back, memory poisoned before each run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from gpu_support import Case, build, compare

from flashrnn_numba.kernels import backends, fused, fused_backend, machine
from flashrnn_numba.kernels.interface import Gradients, Inputs, Task
from flashrnn_numba.testing.transfer import from_backend, to_backend
from flashrnn_numba.tuning.models.common import DIRECTIONS

POISON_BYTES = 256 << 20


def poison() -> None:
    """Memory that the pool hands out next is full of NaN: what a kernel forgets to write shows."""
    import cupy

    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    blocks = [cupy.empty(POISON_BYTES >> k, cupy.uint8) for k in range(20)]
    for block in blocks:
        block.fill(0xFF)


class Portable:
    """The backend "fused" without tensor cores, which otherwise serve all of 16 bits."""

    def forward(self, task: Task, inputs: Inputs, keep: bool) -> tuple[Any, Any, Any]:
        return fused.run_forward(machine.gpu(), task, inputs, keep)

    def backward(self, task: Task, inputs: Inputs, kept: Any, *d: Any) -> Gradients:
        return fused.run_backward(machine.gpu(), task, inputs, kept, *d)


def chosen(task: Task, name: str) -> Any:
    """What runs a task: a backend, or a kernel of "fused" ("portable", "tensor cores")."""
    if name == "portable":
        return Portable()
    if name == "tensor cores":
        device = machine.gpu().device()
        assert all(fused_backend.uses_tensor_cores(task, device, d) for d in DIRECTIONS)
        return fused_backend
    return backends.choose(task, name)


def names_for(dtype: str) -> tuple[str, ...]:
    """The backends, and the portable kernel where "fused" takes another."""
    return ("fused", "alternating", *(["portable"] if dtype in ("float16", "bfloat16") else []))


def run(
    case: Case, name: str, prepare_memory: Callable[[], None] | None = None
) -> tuple[Any, Any, Gradients]:
    """All results of a call, as NumPy arrays. prepare_memory -- instead of `poison`."""
    task, inputs, dstates, dlast = arrays_there(case)
    kernels = chosen(task, name)
    (prepare_memory or poison)()
    states, last, kept = kernels.forward(task, inputs, keep=True)
    return arrays_back(states, last, kernels.backward(task, inputs, kept, dstates, dlast))


def run_forward(
    case: Case, name: str, prepare_memory: Callable[[], None] | None = None
) -> tuple[Any, Any]:
    """(states, last) of a call without gradients, which keeps nothing: another kernel."""
    task, inputs, *_ = arrays_there(case)
    kernels = chosen(task, name)
    (prepare_memory or poison)()
    states, last, _ = kernels.forward(task, inputs, keep=False)
    return from_backend(states), from_backend(last)


def arrays_there(case: Case) -> tuple[Any, Any, Any, Any]:
    """The case's task, inputs and gradients of its outputs, on the GPU."""
    task, inputs, dstates, dlast = build(case)
    inputs = type(inputs)(*(to_backend(a, "cupy") for a in inputs))
    return replace(task, kind="cupy"), inputs, *(to_backend(a, "cupy") for a in (dstates, dlast))


def arrays_back(states: Any, last: Any, gradients: Gradients) -> tuple[Any, Any, Gradients]:
    host = [None if a is None else np.asarray(from_backend(a)) for a in gradients]
    return from_backend(states), from_backend(last), Gradients(*host)


def check(case: Case, name: str, prepare_memory: Callable[[], None] | None = None) -> None:
    compare(case, *run(case, name, prepare_memory))
    compare(case, *run_forward(case, name, prepare_memory), None)
