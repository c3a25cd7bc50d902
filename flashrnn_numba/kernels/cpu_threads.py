"""Threads of the CPU backend: how many, a pool that outlives calls, a meeting point.

The compiled time loops release the GIL. Where a head is shared, its threads meet at each step by
spinning: a step takes some hundred microseconds, a system's barrier tens of them. Processors on
which that is not safe split batch rows between threads instead.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numba import njit, types

SIGNATURE = types.int32(types.int64)
LINE = 8  # 64-bit numbers in a cache line
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def thread_count() -> int:
    """$FLASHRNN_NUMBA_THREADS, else the cores this process may use."""
    own = os.environ.get("FLASHRNN_NUMBA_THREADS")
    if own:
        if not own.isdigit() or int(own) < 1:
            raise ValueError(f"FLASHRNN_NUMBA_THREADS must be a positive integer, got {own!r}")
        return int(own)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Native(types.WrapperAddressProtocol):
    """A C function as a first-class function of numba."""

    def __init__(self, function: Any) -> None:
        self.address = ctypes.cast(function, ctypes.c_void_p).value or 0

    def __wrapper_address__(self) -> int:
        return self.address

    def signature(self) -> Any:
        return SIGNATURE


def _give_way() -> Any:
    """The system's call that lets other threads run."""
    if os.name == "nt":
        return _Native(ctypes.WinDLL("kernel32").SwitchToThread)  # type: ignore[attr-defined]
    return _Native(ctypes.CDLL(None).sched_yield)


# Threads meet by plain loads and stores, which other threads see in order on x86 only.
CAN_MEET = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
give_way = _give_way()


@njit(nogil=True, cache=True)
def meet(progress, threads, me, step, give_way):
    """Wait until all threads of a team have come to this step; progress: a cache line for each.

    The calls keep the compiler from moving loads and stores across; a thread that waits gives its
    core away, so more threads than cores are slow but not stuck.
    """
    give_way(0)
    progress[me * LINE] = step
    for other in range(threads):
        while progress[other * LINE] < step:
            give_way(0)
    give_way(0)


def run(jobs: Sequence[Callable[[], None]]) -> None:
    """Run the jobs at the same time, each in a thread of its own; the first one in this thread.

    Jobs may wait for each other, so no two calls share the pool: the lock is held throughout.
    """
    global _pool, _pool_size
    if len(jobs) == 1:
        jobs[0]()
        return
    with _lock:
        if _pool is None or _pool_size < len(jobs) - 1:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool_size = len(jobs) - 1
            _pool = ThreadPoolExecutor(_pool_size, thread_name_prefix="flashrnn_numba")
        futures = [_pool.submit(job) for job in jobs[1:]]
        jobs[0]()
        for future in futures:
            future.result()


def _after_fork() -> None:
    """Threads do not survive a fork; the child makes its own."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
