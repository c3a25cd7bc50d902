"""Host time of the public calls: python -m benchmarks.call [--stub] [--steps 1024]

Microseconds until a call returns, for repeated calls: warm, and cold, with 40 MB written and other
Python code run in between, as in a training loop. `calls` is the number of functions that Python
enters, which tells the same on any machine. On a GPU nothing is left out. With --stub, for machines
without one, arrays are CuPy's over no memory, and kernels, cuBLAS and the allocator return at once:
what remains is Python's part of it.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

import flashrnn_numba as fr
from flashrnn_numba.arrays import DTYPES

# head dimension, heads, batch, dtype
SHAPES = ((64, 12, 16, "bfloat16"), (768, 1, 16, "bfloat16"), (64, 12, 16, "float32"))
WARM, COLD = 300, 50
_junk = np.zeros(5 << 20)


class _FirstDevice(nullcontext):
    id = 0


def stub() -> None:
    """Everything that needs a GPU does nothing."""
    import cupy

    from flashrnn_numba.kernels import cublas, driver, launch, machine
    from flashrnn_numba.tuning import Device

    def allocate(size: int) -> Any:
        memory = cupy.cuda.UnownedMemory(1 << 40, max(size, 1), None, 0)
        return cupy.cuda.MemoryPointer(memory, 0)

    nothing: Any = ctypes.CDLL(None).getpid
    nothing.restype = None
    stream = SimpleNamespace(ptr=0, is_capturing=lambda: False)
    handle = SimpleNamespace(value=1, use=lambda stream: None)
    cupy.cuda.set_allocator(allocate)
    cupy.cuda.device.get_device_id = lambda: 0
    cupy.cuda.get_current_stream = lambda: stream
    cupy.cuda.Device = _FirstDevice
    driver.launch_kernel = lambda: nothing
    launch._kernel = lambda program, device: SimpleNamespace(handle=1)
    launch._resident = lambda program, kernel: 1
    cublas._gemm = lambda: nothing
    cublas._handle = lambda device: handle
    machine._limits = lambda ordinal: Device.named("H200")
    launch._check_resident = lambda *grid: None
    machine.CupyMachine.filled = lambda self, shape, dtype, byte: cupy.ndarray(shape, dtype)
    machine.CupyMachine._lasting_ones = lambda self, count, dtype: cupy.ndarray(count, dtype)


def empty(shape: tuple[int, ...], dtype: str) -> Any:
    import cupy

    return cupy.ndarray(shape, DTYPES[dtype])


def calls_of(B: int, T: int, H: int, D: int, dtype: str) -> dict[str, Callable[[], object]]:
    make = partial(empty, dtype=dtype)
    arrays = make((B, T, 4, H, D)), make((4, H, D, D)), make((4, H, D))
    states, _, vjp = fr.flashrnn_vjp(*arrays)
    dstates = make(states.shape)

    def both() -> object:
        return fr.flashrnn_vjp(*arrays)[2](dstates)

    return {
        "forward": partial(fr.flashrnn, *arrays),
        "backward": partial(vjp, dstates),
        "both": both,
    }


def warm(function: Callable[[], object]) -> float:
    taken = []
    for _ in range(WARM):
        begin = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begin)
    return 1e6 * statistics.median(taken)


def cold(function: Callable[[], object], wait: Callable[[], object]) -> float:
    taken = []
    for _ in range(COLD):
        _junk[...] += 1
        [str(i) for i in range(20000)]
        wait()
        begin = time.perf_counter()
        function()
        taken.append(time.perf_counter() - begin)
    return 1e6 * statistics.median(taken)


def entered(function: Callable[[], object]) -> int:
    """How many functions, Python's and C's, are called."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count - 1  # the one that ends it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--stub", action="store_true", help="without a GPU")
    parser.add_argument("--steps", type=int, default=1024)
    options = parser.parse_args()
    wait: Callable[[], object] = lambda: None  # noqa: E731
    if options.stub:
        stub()
    else:
        import cupy

        wait = cupy.cuda.Device().synchronize
    print(f"{'LSTM':26} {'':9} {'warm us':>8} {'cold us':>8} {'calls':>6}")
    for D, H, B, dtype in SHAPES:
        shape = f"{D} x {H}, B {B}, {dtype}"
        for name, function in calls_of(B, options.steps, H, D, dtype).items():
            function()
            wait()
            row = warm(function), cold(function, wait), entered(function)
            print(f"{shape:26} {name:9} {row[0]:8.1f} {row[1]:8.1f} {row[2]:6}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
