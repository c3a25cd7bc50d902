"""The driver's launch call, with all that a kernel's next launch shares with its last one ready.

A launch through a general interface builds a configuration, a stream and a list of arguments each
time: some hundred Python objects, and several times as slow where other work has emptied the
processor's caches. Here pointers and the stream are written into memory that is laid out once, and
one foreign call follows. The structures are those of cuda.h; a test holds them against NVIDIA's.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

_COOPERATIVE, _CLUSTER_DIMENSION, _BEGUN = 2, 4, 12  # CUlaunchAttributeID
_BEGUN_SINCE = 12030  # the CUDA version that knows the last one
_INVALID_CONTEXT = 201  # CUresult: among others, when a thread has not used the device before


class Attribute(ctypes.Structure):
    """CUlaunchAttribute; of the union `value` only its first numbers are used."""

    _fields_ = (("id", ctypes.c_uint), ("padding", ctypes.c_uint), ("value", ctypes.c_uint * 16))


class Config(ctypes.Structure):
    """CUlaunchConfig; `grid` counts blocks, also with clusters."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(Attribute)),
        ("count", ctypes.c_uint),
    )


@cache
def launch_kernel() -> Callable[[int, int, int, None], int]:
    """cuLaunchKernelEx(config, kernel, parameters, extra)."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    function: Any = ctypes.CDLL(name).cuLaunchKernelEx
    function.argtypes = (ctypes.c_void_p,) * 4
    function.restype = ctypes.c_int
    return function


class Launch:
    """A kernel, its grid and all arguments but the pointers: `launch(*arrays)` puts it on the
    current stream.

    kernel -- the driver's handle. types -- of all arguments, as in launch.Program; constants --
    those that are no pointers, in their order. failed -- from the driver's status to an exception.
    The arrays of a launch are CuPy arrays, or None for a null pointer. Any thread may launch: each
    launch has a block of memory of its own, which the driver has copied when the call returns.

    begun -- of a launch: a CuPy event without timing, recorded when all its blocks have begun, as
    far as the driver can tell (cudaLaunchAttributeLaunchCompletionEvent).
    """

    def __init__(
        self,
        kernel: int,
        grid: Sequence[int],
        threads: int,
        shared_bytes: int,
        types: Sequence[str],
        constants: Sequence[Any],
        failed: Callable[[int], Exception],
        cluster: int = 1,
        cooperative: bool = False,
    ) -> None:
        import cupy

        self._runtime = cupy.cuda.runtime
        self._stream = cupy.cuda.get_current_stream
        self._call = launch_kernel()
        self._kernel = kernel
        self._failed = failed
        self._pointers = sum(kind.endswith("*") for kind in types)
        self._pack = struct.Struct(f"={self._pointers}Q").pack_into
        self._constants, self._places = _constants(types, constants)
        self._attributes = _attributes(cluster, cooperative)
        self._shape = ((*grid, 1, 1)[:3], (threads, 1, 1), shared_bytes)
        self._free: list[_Block] = []  # taken and given back in one step each: no lock

    def __call__(self, *arrays: Any, begun: Any = None) -> None:
        try:
            block = self._free.pop()
        except IndexError:
            block = self._block()
        self._pack(block.pointers, 0, *[0 if a is None else a.data.ptr for a in arrays])
        block.config.stream = self._stream().ptr
        if begun is not None:
            block.announce(begun.ptr)
        status = self._call(block.config_at, self._kernel, block.parameters_at, None)
        if status == _INVALID_CONTEXT:
            self._runtime.setDevice(self._runtime.getDevice())  # binds it to this thread
            status = self._call(block.config_at, self._kernel, block.parameters_at, None)
        if begun is not None:
            block.announce(None)
        self._free.append(block)
        if status:
            raise self._failed(status)

    def _block(self) -> _Block:
        pointers = (ctypes.c_uint64 * self._pointers)()
        starts = ctypes.addressof(self._constants), ctypes.addressof(pointers)
        parameters = (ctypes.c_void_p * len(self._places))(
            *[starts[pointer] + at for pointer, at in self._places]
        )
        grid, block, shared_bytes = self._shape
        own = (*self._attributes, Attribute(_BEGUN, 0))
        config = Config(grid, block, shared_bytes, None, (Attribute * len(own))(*own), len(own) - 1)
        return _Block(pointers, parameters, config)


class _Block:
    """What one launch writes to."""

    __slots__ = ("config", "config_at", "parameters", "parameters_at", "pointers")

    def __init__(self, pointers: Any, parameters: Any, config: Config) -> None:
        self.pointers = pointers
        self.parameters = parameters
        self.config = config
        self.parameters_at = ctypes.addressof(parameters)
        self.config_at = ctypes.addressof(config)

    def announce(self, event: int | None) -> None:
        """With an event: the last attribute counts, and has it."""
        count = self.config.count
        if event is None:
            self.config.count = count - 1
        else:
            self.config.attributes[count].value[:2] = (event & 0xFFFFFFFF, event >> 32)
            self.config.count = count + 1


def _constants(
    types: Sequence[str], constants: Sequence[Any]
) -> tuple[ctypes.Array, list[tuple[bool, int]]]:
    """(all constants side by side, for each parameter whether it is a pointer, and its place among
    the pointers or constants). The elements of a tuple are parameters of their own."""
    data, values = bytearray(), iter(constants)
    places: list[tuple[bool, int]] = []
    pointers = 0
    expected = sum(not kind.endswith("*") for kind in types)
    if len(constants) != expected:
        raise ValueError(f"{len(constants)} constants for the {expected} in {tuple(types)}")
    for kind in types:
        if kind.endswith("*"):
            places.append((True, 8 * pointers))
            pointers += 1
            continue
        value, form = next(values), {"float32": "=fxxxx", "float64": "=d"}.get(kind, "=q")
        for number in value if isinstance(value, tuple) else (value,):
            places.append((False, len(data)))
            data += struct.pack(form, number)
    return (ctypes.c_char * (len(data) + 1)).from_buffer_copy(data + b"\0"), places


def announces(driver_version: int) -> bool:
    """Whether the driver records when a launch's blocks have begun."""
    return driver_version >= _BEGUN_SINCE


def _attributes(cluster: int, cooperative: bool) -> list[Attribute]:
    wanted = []
    if cluster > 1:
        wanted.append(Attribute(_CLUSTER_DIMENSION, 0, (cluster, 1, 1)))
    if cooperative:
        wanted.append(Attribute(_COOPERATIVE, 0, (1,)))
    return wanted
