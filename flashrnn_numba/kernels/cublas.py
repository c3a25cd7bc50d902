"""Matrix products by cuBLAS, called directly: CuPy refuses to call it while a graph is captured.
(And one that it does not have: narrow_product.py.)

`multiply(out, a, b)` computes out[n] = a[n] @ b[n] for a batch of matrices, reading any matrix
whose rows or columns are contiguous where it lies, transposed or not; `prepare` does all of it but
the call. What is handed to cuBLAS is worked out by `describe`, which needs no GPU. float32 means
float32: no TF32 unless asked for.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from ..arrays import dtype_name
from .narrow_product import NarrowProduct
from .recent import Recent

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


class View(NamedTuple):
    """Matrices [N, rows, columns] within an array that is only known later: strides and the offset
    of element 0 in bytes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    offset: int = 0

    @staticmethod
    def of(array: Any) -> View:
        return View(array.shape, array.strides, array.dtype)

    def within(self, array: np.ndarray) -> np.ndarray:
        return np.ndarray(self.shape, self.dtype, array, self.offset, self.strides)


def multiply(out: Any, a: Any, b: Any, precision: str = "auto") -> None:
    """out [N, p, r] = a [N, p, q] @ b [N, q, r] on the current CuPy stream; CuPy arrays of one
    dtype (out may be float32 where a and b have 16 bits, and with one row the reverse)."""
    _prepared(View.of(out), View.of(a), View.of(b), precision)(out, a, b)


def prepare(out: View, a: View, b: View, precision: str = "auto") -> Callable[..., None]:
    """`multiply` of what will lie so in the arrays that the returned function takes."""
    if 0 in out.shape:
        return _nothing
    if a.shape[2] == 0:
        return partial(_fill_with_zeros, out)
    if out.dtype.itemsize == 2 < a.dtype.itemsize:
        return NarrowProduct(out, a, b)
    return _Multiply(out, a, b, precision)


_prepared = lru_cache(maxsize=256)(prepare)


def _nothing(out: Any, a: Any, b: Any) -> None:
    """A product without elements."""


def _fill_with_zeros(view: View, out: Any, a: Any, b: Any) -> None:
    import cupy

    cupy.ndarray(view.shape, view.dtype, out.data + view.offset, view.strides).fill(0)


class _Multiply:
    """One call of cublasGemmStridedBatchedEx, on any device and thread."""

    def __init__(self, out: View, a: View, b: View, precision: str) -> None:
        import cupy

        p, dtype, result = describe(out, a, b), dtype_name(a), dtype_name(out)
        real = np.dtype(np.float64 if dtype == "float64" else np.float32)
        compute = _COMPUTE["tf32" if precision == "tf32" and dtype == "float32" else dtype]
        (ta, lda, sa), (tb, ldb, sb), (_, ldc, sc) = p.operands
        self._scalars = np.array((1, 0), real)
        one = self._scalars.ctypes.data
        zero = one + real.itemsize
        # the arguments, cut where the pointers come
        self._head = (ta, tb, p.m, p.n, p.k, one)
        self._left = (_TYPES[dtype], lda, sa)
        self._right = (_TYPES[dtype], ldb, sb, zero)
        self._tail = (_TYPES[result], ldc, sc, p.batch, compute, _DEFAULT_ALGORITHM)
        self._offsets = (b.offset, a.offset, out.offset)
        self._what = f"{p}, {dtype} to {result}"
        self._call = _gemm()
        self._device = cupy.cuda.device.get_device_id
        self._stream = cupy.cuda.get_current_stream

    def __call__(self, out: Any, a: Any, b: Any) -> None:
        handle = _handle(self._device())
        handle.use(self._stream())
        left, right, result = self._offsets
        code = self._call(
            handle.value,
            *self._head,
            b.data.ptr + left,
            *self._left,
            a.data.ptr + right,
            *self._right,
            out.data.ptr + result,
            *self._tail,
        )
        if code:
            raise RuntimeError(f"cuBLAS refused a product (status {code}): {self._what}")


class _Handle:
    """cuBLAS's state for one device and one thread."""

    def __init__(self, device: int) -> None:
        pointer = ctypes.c_void_p()
        code = _library().cublasCreate_v2(ctypes.byref(pointer))
        if code:
            raise RuntimeError(f"cuBLAS could not be started (status {code})")
        self.value = pointer.value
        self._device = device
        self._stream: int | None = None
        self._workspace: Any = None
        self._captured_for: Any = None

    def use(self, current: Any) -> None:
        """Work on this stream from now on."""
        stream = current.ptr
        capturing = bool(stream) and bool(current.is_capturing())  # the default stream never is
        if stream == self._stream and not capturing:
            return
        library, pointer = _library(), ctypes.c_void_p(self.value)
        self._stream = None  # until all of it is done
        self._workspace = self._workspace_for(current, capturing)
        # setting the stream puts cuBLAS back to its own workspace
        for code in (
            library.cublasSetStream_v2(pointer, ctypes.c_void_p(stream)),
            library.cublasSetWorkspace_v2(
                pointer, ctypes.c_void_p(self._workspace.ptr), ctypes.c_size_t(_WORKSPACE)
            ),
        ):
            if code:
                raise RuntimeError(f"cuBLAS refused the stream or its workspace (status {code})")
        self._stream = None if capturing else stream

    @contextmanager
    def capturing_for(self, stream: Any) -> Iterator[None]:
        """What is captured within, on whatever stream, will be replayed on this one only, and takes
        its workspace. To be entered before the capture begins."""
        self.use(stream)
        self._captured_for = self._workspace
        try:
            yield
        finally:
            self._captured_for = None

    def _workspace_for(self, current: Any, capturing: bool) -> Any:
        """Memory for cuBLAS, of our own: results must not depend on what it could allocate. One for
        each stream: on two of them products may overlap. None can be allocated under capture: a
        graph of the caller's gets that of the stream which this thread used last. A graph has its
        workspace for good."""
        import cupy

        place = self._device, current.ptr
        _, found = _workspaces.get(place) or (None, None)
        if capturing:
            found = self._captured_for or found or self._workspace
        if found is None:
            found = cupy.cuda.alloc(_WORKSPACE)
            # with the stream: while this is kept no other one can get its handle
            _workspaces.put(place, (current, found))
        if capturing:
            _captured.add(found)
        return found


_handles: dict[tuple[int, int], _Handle] = {}  # by device and thread
_workspaces = Recent(8)  # by device and stream
_captured: set[Any] = set()  # workspaces that a graph may use at any time


def capturing_for(stream: Any) -> AbstractContextManager[None]:
    """Of this thread's products on the current device; see `_Handle.capturing_for`."""
    import cupy

    return _handle(cupy.cuda.device.get_device_id()).capturing_for(stream)


def _handle(device: int) -> _Handle:
    key = device, threading.get_ident()
    found = _handles.get(key)
    if found is None:
        found = _handles[key] = _Handle(device)
    return found


@cache
def _gemm() -> Any:
    function = _library().cublasGemmStridedBatchedEx
    pointer, number, stride = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    matrix = (pointer, number, number, stride)
    function.argtypes = (
        *(pointer, *(number,) * 5, pointer),
        *(*matrix, *matrix, pointer, *matrix),
        *(number,) * 3,
    )
    function.restype = number
    return function


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
