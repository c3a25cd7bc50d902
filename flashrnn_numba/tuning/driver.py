"""The few calls of the CUDA driver that `Device.query` needs, through ctypes.

No package but the driver itself: libcuda speaks for any numba-cuda, CuPy or PyTorch beside us, and
its "current context" is theirs too.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

__all__ = ["DeviceNotFoundError", "Driver"]


class DeviceNotFoundError(RuntimeError):
    """There is no CUDA device to ask; `Device.named` plans without one."""


_EMPTY_KERNEL = b""".version 7.8
.target sm_90
.address_size 64
.visible .entry empty() { ret; }
\0"""


class _LaunchAttribute(ctypes.Structure):
    # CUlaunchAttribute: an id, padding to 8 bytes, a union of 64 bytes (here: the cluster's size).
    _fields_ = (
        ("id", ctypes.c_int),
        ("pad", ctypes.c_char * 4),
        ("value", ctypes.c_uint * 16),
    )


class _LaunchConfig(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_LaunchAttribute)),
        ("count", ctypes.c_uint),
    )


class Driver:
    """The few calls of libcuda that we need."""

    def __init__(self) -> None:
        library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        hint = "Device.named('H200') plans without a GPU"
        try:
            self.cuda: Any = ctypes.CDLL(library)
        except OSError as error:
            raise DeviceNotFoundError(f"no CUDA driver on this machine ({error}); {hint}") from None
        code = self.cuda.cuInit(0)
        if code:
            raise DeviceNotFoundError(f"the CUDA driver does not start (error {code}); {hint}")
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise DeviceNotFoundError(f"the CUDA driver sees no device; {hint}")
        self.count = count.value

    def call(self, function: str, *arguments: object) -> None:
        code = getattr(self.cuda, function)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self.cuda.cuGetErrorName(code, ctypes.byref(text))
            raise RuntimeError(f"{function} failed: {(text.value or b'?').decode()} ({code})")

    def device(self, ordinal: int | None) -> int:
        handle = ctypes.c_int()
        # Without a current context the driver answers with an error: then it is device 0.
        if ordinal is None and self.cuda.cuCtxGetDevice(ctypes.byref(handle)) == 0:
            return handle.value
        if ordinal is not None and not 0 <= ordinal < self.count:
            raise ValueError(f"ordinal: expected 0 to {self.count - 1}, got {ordinal}")
        self.call("cuDeviceGet", ctypes.byref(handle), ordinal or 0)
        return handle.value

    def attribute(self, handle: int, attribute: int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, handle)
        return value.value

    def name(self, handle: int) -> str:
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, 256, handle)
        return text.value.decode()

    def version(self) -> str:
        value = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(value))
        return f"{value.value // 1000}.{value.value % 1000 // 10}"

    def count_clusters(
        self, handle: int, shared: int, sizes: list[int]
    ) -> tuple[tuple[int, int], ...]:
        """(size, clusters at once) for blocks that take `shared` bytes: all that an SM has."""
        context, module, kernel = (ctypes.c_void_p() for _ in range(3))
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self.call("cuCtxPushCurrent_v2", context)
        try:
            self.call("cuModuleLoadData", ctypes.byref(module), _EMPTY_KERNEL)
            self.call("cuModuleGetFunction", ctypes.byref(kernel), module, b"empty")
            # Attributes of a function: 8 the dynamic shared memory allowed, 14 clusters above 8.
            self.call("cuFuncSetAttribute", kernel, 8, shared)
            if max(sizes) > 8:
                self.call("cuFuncSetAttribute", kernel, 14, 1)
            counts = tuple((size, self._clusters(kernel, size, shared)) for size in sizes)
            self.call("cuModuleUnload", module)
        finally:
            self.cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
            self.cuda.cuDevicePrimaryCtxRelease_v2(handle)
        return counts

    def _clusters(self, kernel: ctypes.c_void_p, size: int, shared: int) -> int:
        attribute = _LaunchAttribute(id=4)  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        attribute.value[0], attribute.value[1], attribute.value[2] = size, 1, 1
        config = _LaunchConfig(
            grid=(size * 1024, 1, 1),
            block=(32, 1, 1),
            shared=shared,
            attributes=ctypes.pointer(attribute),
            count=1,
        )
        found = ctypes.c_int()
        self.call("cuOccupancyMaxActiveClusters", ctypes.byref(found), kernel, ctypes.byref(config))
        return found.value
