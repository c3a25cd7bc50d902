"""The array module that suits a backend: numpy, or cupy for those on a GPU."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from ..kernels import backends

HOST = ("cpu", "reference")  # every other backend takes CuPy arrays


def array_module(backend: str) -> Any:
    """numpy or cupy. "auto" takes a GPU if there is one and a backend for it.

    RuntimeError where the backend needs CuPy or a GPU and there is none: what is missing.
    """
    if backend in HOST:
        return np
    if backend == "auto":
        if all(name in HOST for name in backends.AUTO):
            return np
        try:
            return _cupy()
        except RuntimeError:
            return np
    try:
        return _cupy()
    except RuntimeError as error:
        raise RuntimeError(f"backend {backend!r} runs on a GPU: {error}") from error


def _cupy() -> Any:
    try:
        cupy = importlib.import_module("cupy")
        devices = cupy.cuda.runtime.getDeviceCount()
    except ImportError:
        raise RuntimeError(
            "CuPy is not installed; install flashrnn-numba[cuda12] or [cuda13]"
        ) from None
    except Exception as error:  # cupy.cuda.runtime.CUDARuntimeError; the class needs a loaded cupy
        raise RuntimeError(f"CuPy finds no device ({error})") from error
    if not devices:
        raise RuntimeError("CuPy finds no device")
    return cupy
