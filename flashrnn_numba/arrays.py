"""Kinds of array and dtypes: what comes in is what goes out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

_kinds: dict[type, str] = {np.ndarray: "numpy"}  # where an array's type tells its kind


def dtype_name(array: Any) -> str:
    """The dtype's name as NumPy, CuPy and PyTorch give it: "float32", "bfloat16", ..."""
    return str(array.dtype).removeprefix("torch.")


def compute_dtype(dtype: str) -> np.dtype:
    """What a backend accumulates in and keeps all states but s_0 in: float64 or float32."""
    return np.dtype(np.float64 if dtype == "float64" else np.float32)


def kind_of(array: Any, name: str) -> str:
    """ "numpy", "cupy" or "dlpack" (any other array on a CUDA device). TypeError for anything else,
    naming the argument."""
    known = _kinds.get(type(array))
    if known is not None:
        return known
    if isinstance(array, np.ndarray):
        return "numpy"
    if package_of(array) == "cupy":
        _kinds[type(array)] = "cupy"
        return "cupy"
    if hasattr(array, "__dlpack_device__"):
        device_type = int(array.__dlpack_device__()[0])
        if device_type == 2:  # kDLCUDA
            return "dlpack"
        raise TypeError(
            f"{name} is a {type(array).__module__}.{type(array).__name__} that is not on a CUDA "
            "device; pass a NumPy array (for example numpy.asarray(x)) to compute on the CPU"
        )
    raise TypeError(
        f"{name} must be an array (NumPy, CuPy, or with __dlpack__ on a CUDA device), got "
        f"{type(array).__name__}"
    )


def to_cupy(array: Any) -> Any:
    """A CUDA array of another package as a CuPy array over the same memory.

    The producer's stream is waited for on the GPU, as the array protocol has it. bfloat16 goes as
    its bits where one side's exchange does not know it.
    """
    import cupy

    if hasattr(array, "detach"):  # PyTorch: an array that records its gradient is not exported
        array = array.detach()
    if dtype_name(array) == "bfloat16" and package_of(array) == "torch":
        import torch

        return cupy.from_dlpack(array.view(torch.int16)).view(DTYPES["bfloat16"])
    return cupy.from_dlpack(array)


def back_to(array: Any, package: str) -> Any:
    """A CuPy array as an array of this package (`package_of`), over the same memory where the
    package can read it there."""
    if package == "torch":
        import torch

        if dtype_name(array) == "bfloat16":
            return torch.from_dlpack(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_dlpack(array)
    if package in ("jax", "jaxlib"):
        # takes no views with gaps
        array = array if array.flags.c_contiguous else array.copy()
        return import_module("jax.dlpack").from_dlpack(array)
    return import_module(package).from_dlpack(array)


def package_of(array: Any) -> str:
    """The name of the package whose array this is."""
    return type(array).__module__.split(".")[0]
