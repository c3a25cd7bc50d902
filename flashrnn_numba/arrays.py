"""Kinds of array and dtypes: what comes in is what goes out."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def dtype_name(array: Any) -> str:
    """The dtype's name as NumPy, CuPy and PyTorch give it: "float32", "bfloat16", ..."""
    return str(array.dtype).removeprefix("torch.")


def compute_dtype(dtype: str) -> np.dtype:
    """What a backend accumulates in and keeps all states but s_0 in: float64 or float32."""
    return np.dtype(np.float64 if dtype == "float64" else np.float32)


def kind_of(array: Any, name: str) -> str:
    """ "numpy", "cupy" or "dlpack" (any other array on a CUDA device). TypeError for anything else,
    naming the argument."""
    if isinstance(array, np.ndarray):
        return "numpy"
    if type(array).__module__.split(".")[0] == "cupy":
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
