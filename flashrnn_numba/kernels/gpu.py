"""What the GPU backends share: which tasks they take, arrays in and out, arguments of kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from ..arrays import back_to, compute_dtype, to_cupy
from .fused_names import HAS_LENGTHS, HAS_RESET, HAS_STATES
from .interface import Gradients, Inputs, Task
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


@contextmanager
def device_of(array: Any) -> Iterator[None]:
    """The array's device is the current one, for a while."""
    device: Any = getattr(array, "device", None)
    # NumPy's device is a name
    context = device if hasattr(device, "__enter__") else nullcontext()
    with context:
        yield


def received(task: Task, inputs: Inputs) -> Inputs:
    """The inputs as CuPy arrays, without a copy."""
    if task.kind != "dlpack":
        return inputs
    return Inputs(*(None if a is None else to_cupy(a) for a in inputs))


def returned(task: Task, inputs: Inputs, *results: Any) -> tuple[Any, ...]:
    """CuPy arrays as the kind that came in."""
    if task.kind != "dlpack":
        return results
    return tuple(None if r is None else back_to(r, inputs.Wx) for r in results)


def returned_gradients(task: Task, inputs: Inputs, gradients: Gradients) -> Gradients:
    return Gradients(*returned(task, inputs, *gradients))


def strides(array: Any, axes: int) -> tuple[int, ...]:
    """In elements; zeros for no array."""
    if array is None:
        return (0,) * axes
    return tuple(stride // array.dtype.itemsize for stride in array.strides)


def address(array: Any) -> int:
    """Where element 0 lies."""
    if hasattr(array, "__cuda_array_interface__"):
        return int(array.data.ptr)
    return int(array.ctypes.data)


def readable(machine: Machine, array: Any) -> Any:
    """The array, copied only where its strides are no multiples of its item size."""
    if array is None or all(s % array.dtype.itemsize == 0 for s in array.strides):
        return array
    return machine.arrays.ascontiguousarray(array)


def prepared(machine: Machine, inputs: Inputs) -> Inputs:
    """Inputs as the kernels read them: lengths as contiguous int64, all else where it lies."""
    lengths = inputs.lengths
    if lengths is not None:
        arrays = machine.arrays
        lengths = arrays.ascontiguousarray(lengths.astype(arrays.int64, copy=False))
    Wx, R, b, states, reset = (readable(machine, a) for a in inputs[:5])
    return Inputs(Wx, R, b, states, reset, lengths)


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
