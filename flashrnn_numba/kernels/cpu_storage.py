"""Reading and writing arrays of any dtype and strides from compiled CPU code.

Arrays are handed over flat, with an offset and strides in elements, so that one compiled function
serves every layout. bfloat16 travels as uint16 and float16 as int16; numba knows neither.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy import float32, int16, int32, uint16, uint32, uint64

_compile = njit(fastmath={"contract"}, error_model="numpy", nogil=True)
_inline = njit(fastmath={"contract"}, error_model="numpy", nogil=True, forceinline=True)
_BITS = {"float16": np.int16, "bfloat16": np.uint16}


def flat(array: np.ndarray, dtype: str) -> tuple[np.ndarray, int, tuple[int, ...]]:
    """(1-D view of the array's memory, offset of element 0, strides), the last two in elements.

    The array is copied only if its strides are no multiples of its item size.
    """
    if dtype in _BITS:
        array = array.view(_BITS[dtype])
    size = array.itemsize
    if any(stride % size for stride in array.strides) or not array.flags.aligned:
        array = np.ascontiguousarray(array)
    if array.size == 0:
        return np.empty(1, array.dtype), 0, (0,) * array.ndim
    strides = tuple(stride // size for stride in array.strides)
    reach = [(n - 1) * s for n, s in zip(array.shape, strides, strict=True)]
    low, high = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach)
    backward = tuple(slice(None, None, -1) if r < 0 else slice(None) for r in reach)
    return np.asarray(_Memory(array[backward], high - low + 1)), -low, strides


def writable(array: np.ndarray, dtype: Any) -> np.ndarray:
    """The array, contiguous and flat, of a dtype, as compiled code takes it (see _Memory)."""
    array = np.ascontiguousarray(array, dtype)
    return np.asarray(_Memory(array, array.size))


class _Memory:
    """So many items from an array's first one on, not marked as read-only.

    numba compiles anew for read-only arguments: seconds for each combination of arrays that are
    (numpy.broadcast_to, a memory map) and are not. The loops only read what a caller gave.
    """

    def __init__(self, array: np.ndarray, count: int) -> None:
        interface = array.__array_interface__
        self._owner = array
        self.__array_interface__ = {
            "version": 3,
            "typestr": interface["typestr"],
            "shape": (count,),
            "data": (interface["data"][0], False),
        }


@_compile
def widen_bfloat16(x):
    return uint32(uint32(x) << uint32(16)).view(np.float32)


@_compile
def widen_float16(x):
    bits = uint32(uint16(x))
    magnitude = bits & uint32(0x7FFF)
    # the exponent's bias differs by 112; scaling by 2**112 handles subnormal numbers too
    y = uint32(magnitude << uint32(13)).view(np.float32) * float32(5.192296858534828e33)
    special = uint32((magnitude << uint32(13)) | uint32(0x7F800000)).view(np.float32)
    y = special if magnitude >= uint32(0x7C00) else y
    return -y if bits & uint32(0x8000) else y


@_compile
def narrow_bfloat16(x):
    bits = float32(x).view(np.uint32)
    rounded = (bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1))) >> uint32(16)
    quiet_nan = (bits >> uint32(16)) | uint32(0x40)
    return uint16(rounded) if x == x else uint16(quiet_nan)


@_compile
def narrow_float16(x):
    bits = float32(x).view(np.uint32)
    sign = (bits >> uint32(16)) & uint32(0x8000)
    magnitude = bits & uint32(0x7FFFFFFF)
    odd = (magnitude >> uint32(13)) & uint32(1)
    normal = (magnitude - uint32(112 << 23) + uint32(0xFFF) + odd) >> uint32(13)
    # adding 0.5 rounds to multiples of 2**-24, the subnormal numbers' unit
    shifted = uint32(magnitude).view(np.float32) + float32(0.5)
    subnormal = float32(shifted).view(np.uint32) - uint32(0x3F000000)
    y = subnormal if magnitude < uint32(113 << 23) else normal
    y = uint32(0x7C00) if magnitude >= uint32(0x477FF000) else y  # 65520 and more: infinity
    y = uint32(0x7E00) if magnitude > uint32(0x7F800000) else y
    return int16(int32(y | sign))


def widen(x: Any) -> Any:
    """A stored number in compute precision."""
    raise NotImplementedError("compiled code only")


@overload(widen, inline="always")
def _widen(x):
    if x == types.uint16:
        return lambda x: widen_bfloat16(x)
    if x == types.int16:
        return lambda x: widen_float16(x)
    return lambda x: x


def store(array: Any, at: Any, value: Any) -> None:
    """array[at] = value, rounded to the array's dtype."""
    raise NotImplementedError("compiled code only")


@overload(store, inline="always")
def _store(array, at, value):
    def store_bfloat16(array, at, value):
        array[at] = narrow_bfloat16(value)

    def store_float16(array, at, value):
        array[at] = narrow_float16(value)

    def store_as_is(array, at, value):
        array[at] = value

    return {types.uint16: store_bfloat16, types.int16: store_float16}.get(array.dtype, store_as_is)


# Rows of n numbers. Indices are unsigned: numba would add a test for negative ones to each signed
# index, which stops vectorisation.


@_inline
def add_row(w, at, source, start, stride, n):
    """w[at : at + n] += the n stored numbers at source[start], stride apart."""
    a, count = uint64(at), uint64(n)
    if stride == 1:
        s = uint64(start)
        for j in range(count):
            w[a + j] += widen(source[s + j])
    else:
        for j in range(n):
            w[at + j] += widen(source[start + j * stride])


@_inline
def sum_row(w, at, base, base_at, source, start, stride, n):
    """w[at : at + n] = base[base_at : ...] + the n stored numbers at source[start]."""
    a, b, count = uint64(at), uint64(base_at), uint64(n)
    if stride == 1:
        s = uint64(start)
        for j in range(count):
            w[a + j] = base[b + j] + widen(source[s + j])
    else:
        for j in range(n):
            w[at + j] = base[base_at + j] + widen(source[start + j * stride])


@_inline
def copy_row(target, to, source, start, n):
    """target[to : to + n] = source[start : start + n], each with its own dtype."""
    a, b = uint64(to), uint64(start)
    for j in range(uint64(n)):
        store(target, a + j, widen(source[b + j]))


@_inline
def fill_row(target, to, value, n):
    """target[to : to + n] = value."""
    a = uint64(to)
    for j in range(uint64(n)):
        target[a + j] = value


def round_row(w: Any, at: int, like: Any, n: int) -> None:
    """Round w[at : at + n] to what an array of like's dtype can hold."""
    raise NotImplementedError("compiled code only")


@overload(round_row, inline="always")
def _round_row(w, at, like, n):
    def bfloat16(w, at, like, n):
        for j in range(at, at + n):
            w[j] = widen_bfloat16(narrow_bfloat16(w[j]))

    def float16(w, at, like, n):
        for j in range(at, at + n):
            w[j] = widen_float16(narrow_float16(w[j]))

    def as_it_is(w, at, like, n):
        pass

    return {types.uint16: bfloat16, types.int16: float16}.get(like.dtype, as_it_is)
