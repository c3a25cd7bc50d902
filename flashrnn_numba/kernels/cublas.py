"""Matrix products by cuBLAS, called directly: CuPy refuses to call it while a graph is captured.

`multiply(out, a, b)` computes out[n] = a[n] @ b[n] for a batch of matrices, reading any matrix
whose rows or columns are contiguous where it lies, transposed or not. What is handed to cuBLAS is
worked out by `describe`, which needs no GPU. float32 means float32: no TF32 unless asked for.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..arrays import dtype_name

# cudaDataType_t and cublasComputeType_t
_TYPES = {"float64": 1, "float32": 0, "float16": 2, "bfloat16": 14}
_COMPUTE = {"float64": 70, "float32": 68, "float16": 68, "bfloat16": 68, "tf32": 77}
_DEFAULT_ALGORITHM = -1
_WORKSPACE = 32 << 20  # bytes: what cuBLAS recommends for Hopper

_NO, _TRANSPOSE = 0, 1


class Product(NamedTuple):
    """A batched product as cublasGemmStridedBatchedEx takes it, column by column.

    operands: for A, B and C in turn (transposed, leading dimension, stride from one matrix of the
    batch to the next); A is b and B is a, because a row-major matrix is a column-major one
    transposed.
    """

    m: int
    n: int
    k: int
    batch: int
    operands: tuple[tuple[int, int, int], ...]


def describe(out: Any, a: Any, b: Any) -> Product:
    """out [N, p, r] = a [N, p, q] @ b [N, q, r]. ValueError if they cannot be read in place."""
    batch, p, r = out.shape
    q = a.shape[2]
    if a.shape != (batch, p, q) or b.shape != (batch, q, r):
        raise ValueError(f"out {out.shape} is no product of a {a.shape} and b {b.shape}")
    operands = [_layout("b", b), _layout("a", a), _layout("out", out)]
    if operands[2][0] != _NO:
        raise ValueError(f"out: rows must be contiguous, got strides {out.strides}")
    return Product(r, p, q, batch, tuple(operands))


def _layout(name: str, matrix: Any) -> tuple[int, int, int]:
    """(transposed, leading dimension, batch stride) in elements."""
    size = matrix.dtype.itemsize
    _, rows, columns = matrix.shape
    batch, row, column = (stride // size for stride in matrix.strides)
    if columns == 1:
        column = 1
    if rows == 1 and column == 1:
        row = columns
    if column == 1 and row >= columns:
        return _NO, max(1, row), batch
    if rows == 1:
        row = 1
    if row == 1 and column >= rows:
        return _TRANSPOSE, max(1, column), batch
    raise ValueError(
        f"{name} with shape {matrix.shape} and strides {matrix.strides} (bytes): expected "
        "contiguous rows or contiguous columns"
    )


def multiply(out: Any, a: Any, b: Any, precision: str = "exact") -> None:
    """out [N, p, r] = a [N, p, q] @ b [N, q, r] on the current CuPy stream; CuPy arrays of one
    dtype (out may be float32 where a and b have 16 bits)."""
    import cupy

    if 0 in out.shape:
        return
    if a.shape[2] == 0:
        out.fill(0)
        return
    product = describe(out, a, b)
    dtype, result = dtype_name(a), dtype_name(out)
    real = np.dtype(np.float64 if dtype == "float64" else np.float32)
    compute = _COMPUTE["tf32" if precision == "tf32" and dtype == "float32" else dtype]
    one, zero = (np.array(value, real) for value in (1, 0))
    handle = _handle(cupy.cuda.Device().id, threading.get_ident())
    handle.use(cupy.cuda.get_current_stream().ptr)
    (ta, lda, sa), (tb, ldb, sb), (_, ldc, sc) = product.operands
    code = _library().cublasGemmStridedBatchedEx(
        handle.pointer, ta, tb, product.m, product.n, product.k, _address(one),
        ctypes.c_void_p(b.data.ptr), _TYPES[dtype], lda, ctypes.c_longlong(sa),
        ctypes.c_void_p(a.data.ptr), _TYPES[dtype], ldb, ctypes.c_longlong(sb), _address(zero),
        ctypes.c_void_p(out.data.ptr), _TYPES[result], ldc, ctypes.c_longlong(sc),
        product.batch, compute, _DEFAULT_ALGORITHM,
    )  # fmt: skip
    if code:
        raise RuntimeError(
            f"cuBLAS refused a product (status {code}): {product}, {dtype} to {result}"
        )


def _address(scalar: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(scalar.ctypes.data)


class _Handle:
    """cuBLAS's state for one device and one thread, with a workspace of our own: under graph
    capture cuBLAS must not allocate, and results must not depend on what it could allocate."""

    def __init__(self) -> None:
        import cupy

        self.pointer = ctypes.c_void_p()
        code = _library().cublasCreate_v2(ctypes.byref(self.pointer))
        if code:
            raise RuntimeError(f"cuBLAS could not be started (status {code})")
        self.workspace = cupy.cuda.alloc(_WORKSPACE)

    def use(self, stream: int) -> None:
        library = _library()
        # setting the stream puts cuBLAS back to its own workspace
        for code in (
            library.cublasSetStream_v2(self.pointer, ctypes.c_void_p(stream)),
            library.cublasSetWorkspace_v2(
                self.pointer,
                ctypes.c_void_p(self.workspace.ptr),
                ctypes.c_size_t(_WORKSPACE),
            ),
        ):
            if code:
                raise RuntimeError(f"cuBLAS refused the stream or its workspace (status {code})")


@cache
def _handle(device: int, thread: int) -> _Handle:
    return _Handle()


@cache
def _library() -> Any:
    """The cuBLAS that belongs to CuPy's CUDA release."""
    import cupy

    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    name = f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}"
    try:
        return ctypes.CDLL(name)
    except OSError:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
