"""What the GPU backends share: which tasks they take, arguments of kernels."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from ..arrays import compute_dtype
from .fused_names import HAS_LENGTHS, HAS_RESET, HAS_STATES
from .interface import Inputs, Task
from .machine import Machine


def refuses_kind(task: Task) -> str | None:
    """Why a GPU backend cannot take this kind of array, or None."""
    if task.kind == "numpy":
        return (
            "it takes arrays on a CUDA device (CuPy, or any with __dlpack__), got NumPy arrays; "
            "move them with cupy.asarray(x), or use backend='cpu'"
        )
    if find_spec("cupy") is None:
        return "it needs CuPy, which is not installed: pip install cupy-cuda13x (or cupy-cuda12x)"
    return None


def strides(array: Any, axes: int) -> tuple[int, ...]:
    """In elements; zeros for no array."""
    if array is None:
        return (0,) * axes
    return tuple(stride // array.dtype.itemsize for stride in array.strides)


def address(array: Any) -> int:
    """Where element 0 lies."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def whole(array: Any, size: int) -> bool:
    """Whether units lie side by side, each `size` bytes of them where one access reaches them."""
    *outer, last = array.strides
    rest = (*outer, address(array))
    return last == array.dtype.itemsize and all(s % size == 0 for s in rest)


def readable(machine: Machine, array: Any) -> Any:
    """The array, copied only where its strides are no multiples of its item size."""
    if array is None or all(s % array.dtype.itemsize == 0 for s in array.strides):
        return array
    return machine.arrays.ascontiguousarray(array)


def prepared(machine: Machine, inputs: Inputs) -> Inputs:
    """Inputs as the kernels read them: lengths as contiguous int64, all else where it lies."""
    lengths, arrays = inputs.lengths, machine.arrays
    # CuPy's ascontiguousarray and astype give views of what needs no change
    if lengths is not None and not (
        lengths.dtype == arrays.int64 and (lengths.size < 2 or lengths.strides[0] == 8)
    ):
        lengths = arrays.ascontiguousarray(lengths.astype(arrays.int64, copy=False))
    Wx, R, b, states, reset = (readable(machine, a) for a in inputs[:5])
    return Inputs(Wx, R, b, states, reset, lengths)


def readable_as_given(machine: Machine, inputs: Inputs) -> bool:
    """Whether `prepared` has nothing to copy."""
    return all(a is b for a, b in zip(prepared(machine, inputs), inputs, strict=True))


def start_options(inputs: Inputs) -> int:
    """Bits of the kernels' argument `options`: which optional inputs there are."""
    bits = HAS_STATES if inputs.states is not None else 0
    bits |= HAS_RESET if inputs.reset is not None else 0
    return bits | (HAS_LENGTHS if inputs.lengths is not None else 0)


def exact_states(machine: Machine, task: Task, states: Any, keep: bool) -> Any:
    """Where all states but s_0 are kept in compute precision for backward, [S - 1, B, T, H, D]."""
    real = compute_dtype(task.dtype)
    if states.dtype == real:
        return states[1:]
    shape = (states.shape[0] - 1, *states.shape[1:])
    return machine.arrays.empty(shape if keep else (0,), real)
