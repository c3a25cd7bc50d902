"""Cases on a real GPU: arrays there and back, memory poisoned before each run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from gpu_support import Case, build, compare

from flashrnn_numba.kernels import backends
from flashrnn_numba.kernels.interface import Gradients
from flashrnn_numba.testing.transfer import from_backend, to_backend

POISON_BYTES = 256 << 20


def poison() -> None:
    """Memory that the pool hands out next is full of NaN: what a kernel forgets to write shows."""
    import cupy

    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    blocks = [cupy.empty(POISON_BYTES >> k, cupy.uint8) for k in range(20)]
    for block in blocks:
        block.fill(0xFF)


def run(
    case: Case, backend: str, prepare_memory: Callable[[], None] = poison
) -> tuple[Any, Any, Gradients]:
    """All results of a call, as NumPy arrays."""
    task, inputs, dstates, dlast = arrays_there(case)
    chosen = backends.choose(task, backend)
    prepare_memory()
    states, last, kept = chosen.forward(task, inputs, keep=True)
    return arrays_back(states, last, chosen.backward(task, inputs, kept, dstates, dlast))


def run_forward(
    case: Case, backend: str, prepare_memory: Callable[[], None] = poison
) -> tuple[Any, Any]:
    """(states, last) of a call without gradients, which keeps nothing: another kernel."""
    task, inputs, *_ = arrays_there(case)
    chosen = backends.choose(task, backend)
    prepare_memory()
    states, last, _ = chosen.forward(task, inputs, keep=False)
    return from_backend(states), from_backend(last)


def arrays_there(case: Case) -> tuple[Any, Any, Any, Any]:
    """The case's task, inputs and gradients of its outputs, on the GPU."""
    task, inputs, dstates, dlast = build(case)
    inputs = type(inputs)(*(to_backend(a, "cupy") for a in inputs))
    return replace(task, kind="cupy"), inputs, *(to_backend(a, "cupy") for a in (dstates, dlast))


def arrays_back(states: Any, last: Any, gradients: Gradients) -> tuple[Any, Any, Gradients]:
    host = [None if a is None else np.asarray(from_backend(a)) for a in gradients]
    return from_backend(states), from_backend(last), Gradients(*host)


def check(case: Case, backend: str, prepare_memory: Callable[[], None] = poison) -> None:
    compare(case, *run(case, backend, prepare_memory))
    compare(case, *run_forward(case, backend, prepare_memory), None)
