"""What runs beside the user's work: other processes, and jobs that nobody waits for."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

_GRACE = 2.0  # seconds in which processes end that were told to
_LEISURE = "flashrnn_numba: at leisure"
T = TypeVar("T")
Process = subprocess.Popen[bytes]


class Processes:
    """Python processes that this one begins. None is left when this one exits."""

    def __init__(self) -> None:
        self._alive: set[Process] = set()
        self._beginning = threading.Lock()
        self._over = False
        self._owner = os.getpid()
        atexit.register(self.end)

    def begin(self, script: str, given: bytes, environment: Mapping[str, str]) -> Process | None:
        """A process that finds `given` on its standard input; None where none can be begun. Someone
        must `reap` it."""
        # around the file, too: there may be no directory for it, and the disk may be full
        with contextlib.suppress(OSError), self._beginning, tempfile.TemporaryFile() as file:
            file.write(given)
            file.seek(0)
            if not self._over:
                process = subprocess.Popen(
                    [sys.executable, "-c", script],
                    stdin=file,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    process_group=0,  # with its forks
                )
                self._alive.add(process)
                return process
        return None

    def reap(self, process: Process) -> None:
        """Wait until it ends, so that no zombie is left."""
        process.wait()
        self._alive.discard(process)

    def settle(self, seconds: float) -> bool:
        """Wait until all have ended; whether they have."""
        deadline = time.monotonic() + seconds
        for process in self._alive.copy():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            if process.returncode is None:
                return False
        return True

    def end(self) -> None:
        """End those that still run, and begin no more."""
        if os.getpid() != self._owner:  # in a fork they are its parent's
            return
        with self._beginning:
            self._over = True
        for process in self._alive.copy():
            _terminate(process)
        self.settle(_GRACE)


def _terminate(process: Process) -> None:
    with contextlib.suppress(OSError):  # it has just ended
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.terminate()


def unhurried(items: Iterable[T]) -> Iterator[T]:
    """These, with a rest before each as long as it took to make it: other threads want Python's
    lock."""
    began = time.monotonic()
    for item in items:
        time.sleep(time.monotonic() - began)
        began = time.monotonic()
        yield item


class Queue:
    """Jobs that a daemon thread does, one after the other. There is a thread while there are
    jobs."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque()
        self._busy = False
        self._changing = threading.Condition()

    def put(self, job: Callable[[], None]) -> None:
        """What a job raises is dropped."""
        with self._changing:
            self._jobs.append(job)
            if not self._busy:
                with contextlib.suppress(RuntimeError):  # no thread now, perhaps at the next job
                    threading.Thread(target=self._work, name=_LEISURE, daemon=True).start()
                    self._busy = True

    def settle(self, seconds: float) -> bool:
        """Wait until all jobs are done; whether they are."""
        with self._changing:
            return self._changing.wait_for(lambda: not self._busy, seconds)

    def _work(self) -> None:
        while job := self._next():
            with contextlib.suppress(Exception):
                job()

    def _next(self) -> Callable[[], None] | None:
        with self._changing:
            if self._jobs:
                return self._jobs.popleft()
            self._busy = False
            self._changing.notify_all()
            return None
