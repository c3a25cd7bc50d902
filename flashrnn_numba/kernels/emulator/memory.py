"""The memories of a launch: a block's shared window, the global arrays, a thread's local arrays.

A shared address is (rank of the block in its cluster + 1) * WINDOW + offset, so it is unique in the
cluster and also the block's own address; a global address is the host's own.
"""

import ctypes
import struct
from typing import Any

import numpy as np
from greenlet import getcurrent

from .errors import EmulatorError, OutOfBoundsError
from .races import Detector
from .scalars import converter, loaded

WINDOW = 1 << 20
SHARED_LIMIT = 227 * 1024
RESERVED = 1024  # the first KiB of the window is the system's
POISON = 0xFF  # NaN in every float format, -1 in every signed integer

_LAYOUTS: dict[str, struct.Struct] = {}


def layout(form: str) -> struct.Struct:
    if form not in _LAYOUTS:
        _LAYOUTS[form] = struct.Struct(form)
    return _LAYOUTS[form]


class Memory:
    """A run of bytes at an address, with its shadow if races are to be found."""

    def __init__(self, name: str, data: Any, start: int, races: bool) -> None:
        self.name = name
        self.data = data  # uint8 array
        self.start = start
        self.used = len(data)  # bytes that may be touched by address
        self.buffer = memoryview(data)
        self.detector = Detector(name) if races else None


class Shared(Memory):
    """The shared memory of one block: dynamic first, then static arrays as they are met."""

    def __init__(self, block: Any, dynamic: int, races: bool) -> None:
        data = np.full(RESERVED + SHARED_LIMIT + 16, POISON, np.uint8)
        super().__init__(f"shared memory of {block.name}", data, (block.rank + 1) * WINDOW, races)
        self.block = block
        self.dynamic = dynamic
        self.used = RESERVED + dynamic
        self.static: dict[Any, ArrayView] = {}

    def array(self, site: Any, shape: Any, dtype: np.dtype[Any]) -> "ArrayView":
        """The array of a `cuda.shared.array` call: one for each place in the source."""
        if site not in self.static:
            self.static[site] = self._allocate(shape, dtype)
        return self.static[site]

    def _allocate(self, shape: Any, dtype: np.dtype[Any]) -> "ArrayView":
        if shape == (0,):  # all dynamic arrays begin at the same byte
            return self._view(RESERVED, (self.dynamic // dtype.itemsize,), dtype)
        offset = -(-self.used // 16) * 16
        size = int(np.prod(shape)) * dtype.itemsize
        if offset + size > RESERVED + SHARED_LIMIT:
            raise EmulatorError(
                f"{self.name}: {offset + size - RESERVED} bytes are asked for, "
                f"the largest device has {SHARED_LIMIT}"
            )
        self.used = offset + size
        return self._view(offset, shape, dtype)

    def _view(self, offset: int, shape: Any, dtype: np.dtype[Any]) -> "ArrayView":
        size = int(np.prod(shape)) * dtype.itemsize
        items = self.data[offset : offset + size].view(dtype).reshape(shape)
        return ArrayView(items, self, offset, "shared array")


class GlobalMemory:
    """The arrays that the launch was given, merged where they overlap, found by address."""

    def __init__(self, arrays: dict[str, Any], races: bool) -> None:
        extents = []
        for name, array in arrays.items():
            if array.size:
                low, high = np.lib.array_utils.byte_bounds(array)
                extents.append((low, high, name))
        self.memories: list[Memory] = []
        for low, high, names in _merge(sorted(extents)):
            raw: Any = (ctypes.c_uint8 * (high - low)).from_address(low)
            data = np.frombuffer(raw, np.uint8)
            self.memories.append(Memory(f"global array {names}", data, low, races))

    def view(self, name: str, array: Any) -> "ArrayView":
        if not array.size:
            return ArrayView(array, None, 0, f"global array {name}")
        memory = self.find(_address(array))
        return ArrayView(array, memory, _address(array) - memory.start, f"global array {name}")

    def find(self, address: int) -> Memory:
        for memory in self.memories:
            if memory.start <= address < memory.start + memory.used:
                return memory
        raise OutOfBoundsError(f"global address {address:#x} lies in no array of the launch")


class ArrayView:
    """An array as a kernel sees it: every access is checked, and recorded for races."""

    __slots__ = ("_convert", "_loaded", "_memory", "_name", "_origin", "items", "shape")

    def __init__(self, items: Any, memory: Memory | None, origin: int, name: str) -> None:
        self.items = items
        self.shape = items.shape
        self._memory = memory
        self._origin = origin
        self._name = name
        self._loaded = loaded(items.dtype)
        self._convert = converter(items.dtype) if items.dtype.kind in "iub" else None

    @property
    def memory(self) -> Memory | None:
        return self._memory

    @property
    def origin(self) -> int:
        return self._origin

    @property
    def dtype(self) -> Any:
        return self.items.dtype

    @property
    def ndim(self) -> int:
        return int(self.items.ndim)

    @property
    def size(self) -> int:
        return int(self.items.size)

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(self.items.strides)

    def __len__(self) -> int:
        return len(self.items)

    def locate(self, index: Any) -> tuple[Any, int]:
        """(index as a checked tuple, byte offset in the memory) of one element."""
        if index.__class__ is not tuple:
            index = (index,)
        if len(index) != len(self.shape):
            raise OutOfBoundsError(f"{self._name} has shape {self.shape}, the index is {index}")
        offset = self._origin
        for i, n, stride in zip(index, self.shape, self.items.strides, strict=True):
            if not 0 <= i < n:
                raise OutOfBoundsError(
                    f"{self._name} has shape {self.shape}, the index is {_plain(index)}"
                )
            offset += i * stride
        return index, offset

    def __getitem__(self, index: Any) -> Any:
        if self._partial(index):
            return self._part(index)
        index, offset = self.locate(index)
        if self._memory is not None:
            current().touch(self._memory, offset, self.items.itemsize, False)
        if self._loaded is not None:
            return self._loaded(self.items.item(index))
        return self.items.item(index) if self._convert else self.items[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if self._partial(index):
            raise EmulatorError(f"{self._name}: only single elements can be assigned in a kernel")
        index, offset = self.locate(index)
        if self._memory is not None:
            current().touch(self._memory, offset, self.items.itemsize, True)
        self.items[index] = self._convert(value) if self._convert else value

    def _partial(self, index: Any) -> bool:
        if index.__class__ is tuple:
            return len(index) < len(self.shape) or any(i.__class__ is slice for i in index)
        return index.__class__ is slice or len(self.shape) > 1

    def _part(self, index: Any) -> "ArrayView":
        """A subarray: fewer indices than axes, or slices."""
        for i, n in zip(index if isinstance(index, tuple) else (index,), self.shape, strict=False):
            if not isinstance(i, slice) and not 0 <= i < n:
                raise OutOfBoundsError(
                    f"{self._name} has shape {self.shape}, the index is {_plain(index)}"
                )
        items = self.items[index]
        origin = self._origin + (_address(items) - _address(self.items) if items.size else 0)
        return ArrayView(items, self._memory, origin, self._name)


def local_array(shape: Any, dtype: np.dtype[Any]) -> ArrayView:
    """A thread's own array, poisoned."""
    size = int(np.prod(shape)) * dtype.itemsize
    items = np.full(size, POISON, np.uint8).view(dtype).reshape(shape)
    return ArrayView(items, None, 0, "local array")


def current() -> Any:
    """The emulated thread that is running."""
    return getcurrent()


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def _plain(index: Any) -> Any:
    return tuple(int(i) for i in index) if isinstance(index, tuple) else index


def _merge(extents: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    merged: list[tuple[int, int, str]] = []
    for low, high, name in extents:
        if merged and low < merged[-1][1]:
            start, end, names = merged.pop()
            merged.append((start, max(end, high), f"{names}, {name}"))
        else:
            merged.append((low, high, name))
    return merged
