"""Threads of the CPU backend: how many, a pool that outlives calls, a barrier for compiled code.

The compiled time loops release the GIL. Their barrier is POSIX's, called through its address; where
there is none (macOS, Windows), no head is shared between threads and batch rows are split instead.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numba import cfunc, types

SIGNATURE = types.int32(types.int64)
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

    def __init__(self, address: int) -> None:
        self.address = address

    def __wrapper_address__(self) -> int:
        return self.address

    def signature(self) -> Any:
        return SIGNATURE


def _c_library() -> Any:
    library = ctypes.CDLL(None) if os.name == "posix" else None
    return library if hasattr(library, "pthread_barrier_wait") else None


_library = _c_library()
HAS_BARRIER = _library is not None


@cfunc(SIGNATURE)
def _no_wait(barrier):
    return 0


def waiting_function() -> Any:
    """What compiled code calls to wait at the barrier with the address it is given."""
    if _library is None:
        return _no_wait
    return _Native(ctypes.cast(_library.pthread_barrier_wait, ctypes.c_void_p).value or 0)


class Barrier:
    """A POSIX barrier for `count` threads; `address` is 0 where nobody needs to wait."""

    def __init__(self, count: int) -> None:
        self._memory = ctypes.create_string_buffer(64)  # sizeof(pthread_barrier_t) <= 64
        self.address = 0
        if count > 1:
            if _library is None:
                raise RuntimeError("this system has no pthread_barrier; do not share heads")
            error = _library.pthread_barrier_init(self._memory, None, ctypes.c_uint(count))
            if error:
                raise OSError(error, "pthread_barrier_init failed")
            self.address = ctypes.addressof(self._memory)

    def __del__(self) -> None:
        if self.address and _library is not None:
            _library.pthread_barrier_destroy(self._memory)


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
