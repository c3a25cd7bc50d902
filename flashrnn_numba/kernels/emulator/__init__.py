"""Runs kernels on the CPU, thread by thread: for tests without a GPU, and for the debugger.

    emulate(kernel, grid=2, block=64, shared_bytes=4096)(array, other, 7)

Blocks, clusters, barriers and asynchronous copies behave as on the GPU; races, divergent barriers,
deadlocks and accesses out of bounds are errors. docs/emulator.md says more. One file an idea:
launch, machine (scheduler), thread, sync (barriers), copies, memory, races, scalars, names
(cuda.*), rebind (how a kernel's names get their meaning here).
"""

from .errors import (
    DeadlockError,
    DivergenceError,
    EmulatorError,
    KernelError,
    OutOfBoundsError,
    RaceError,
)
from .launch import emulate

__all__ = [
    "DeadlockError",
    "DivergenceError",
    "EmulatorError",
    "KernelError",
    "OutOfBoundsError",
    "RaceError",
    "emulate",
]
