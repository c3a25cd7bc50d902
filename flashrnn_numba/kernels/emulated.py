"""A machine without a GPU: NumPy arrays, kernels in the emulator (emulator/). For tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..tuning import Device
from .cublas import describe
from .launch import Program
from .machine import HostMachine


class EmulatedMachine(HostMachine):
    """Runs the kernels' own source thread by thread; matrix products are NumPy's."""

    def __init__(self, device: Device | str = "H200", schedule: int | None = None) -> None:
        self._device = Device.named(device) if isinstance(device, str) else device
        self._schedule = schedule
        self.launched: list[Program] = []

    def device(self) -> Device:
        return self._device

    def launch(self, program: Program, grid: Sequence[int], arguments: Sequence[Any]) -> None:
        if 0 in grid:
            return
        self.launched.append(program)
        self.run(program, tuple(grid), host_arguments(program, arguments))

    def run(self, program: Program, grid: tuple[int, ...], arguments: list[Any]) -> None:
        from .emulator import emulate

        run = emulate(
            program.function(),
            grid,
            program.threads,
            (program.cluster, 1, 1),
            program.shared_bytes,
            program.cooperative,
            schedule=self._schedule,
        )
        run(*arguments)

    def multiply(self, out: Any, a: Any, b: Any, precision: str = "auto") -> None:
        describe(out, a, b)  # what cuBLAS could not read in place is an error here too
        real = np.float64 if a.dtype == np.float64 else np.float32
        out[:] = np.matmul(a.astype(real), b.astype(real)).astype(out.dtype)


class SimulatedMachine(EmulatedMachine):
    """Numba's own simulator, in a process started with NUMBA_ENABLE_CUDASIM=1."""

    def run(self, program: Program, grid: tuple[int, ...], arguments: list[Any]) -> None:
        from numba import cuda
        from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

        # as they are: of plain arrays the simulator makes copies, and some of ours overlap
        arguments = [FakeCUDAArray(a) if isinstance(a, np.ndarray) else a for a in arguments]
        # the simulator knows no alignment; arrays lie where NumPy puts them
        program = replace(program, text=program.text.replace(", alignment=16", ""))
        kernel = cuda.jit(program.function())
        kernel[grid, program.threads, 0, program.shared_bytes](*arguments)


def host_arguments(program: Program, arguments: Sequence[Any]) -> list[Any]:
    """Arrays flat, as the bits that the kernel's pointers mean, from element 0 on."""
    return [
        _flat(kind, value) if kind.endswith("*") else _scalar(kind, value)
        for kind, value in zip(program.arguments, arguments, strict=True)
    ]


def _flat(kind: str, array: Any) -> np.ndarray:
    dtype = np.dtype(kind[:-1])
    if array is None or array.size == 0:
        return np.zeros(0, dtype)
    if any(stride < 0 for stride in array.strides):
        raise ValueError(f"strides {array.strides}: the emulator reads from element 0 upwards")
    extent = 1 + sum(
        (n - 1) * s // dtype.itemsize for n, s in zip(array.shape, array.strides, strict=True)
    )
    return np.lib.stride_tricks.as_strided(array.view(dtype), (extent,), (dtype.itemsize,))


def _scalar(kind: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(int(v) for v in value)
    return int(value) if kind.startswith("int") else np.dtype(kind).type(value)
