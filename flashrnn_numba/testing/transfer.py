"""The one place where arrays of a test go to a backend's device and come back."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from ..kernels import backends
from ..kernels.cpu_storage import flat
from ..kernels.interface import Task


def kind_for(backend: str, task: Task) -> tuple[str | None, str]:
    """The kind of array that the backend can do this task with here, or None and the reason."""
    reason = backends.get(backend).refuses(task)
    if reason is None:
        return task.kind, ""
    if not _has_cupy_device():
        return None, reason
    reason = backends.get(backend).refuses(replace(task, kind="cupy"))
    return ("cupy", "") if reason is None else (None, reason)


@cache
def _has_cupy_device() -> bool:
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount() > 0
    except Exception:  # not installed, no driver, no device: each raises something else
        return False


def to_backend(array: np.ndarray | None, kind: str) -> Any:
    """The array as one of this kind ("numpy", "cupy"), with the strides it has."""
    if array is None or kind == "numpy":
        return array
    if kind != "cupy":
        raise ValueError(f"kind must be 'numpy' or 'cupy', got {kind!r}")
    import cupy

    if not array.size:
        return cupy.empty(array.shape, array.dtype)
    memory, offset, strides = flat(array, array.dtype.name)
    start = cupy.asarray(memory).data + offset * array.itemsize
    steps = tuple(stride * array.itemsize for stride in strides)
    return cupy.ndarray(array.shape, array.dtype, start, steps)


def from_backend(array: Any) -> np.ndarray:
    """Back as a NumPy array; waits for the device."""
    return array if isinstance(array, np.ndarray) else array.get()
