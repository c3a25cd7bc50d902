"""Programs that will soon be needed are compiled by another process while this one is busy.

Who asks for a forward pass with gradients needs two kernels, and compiling holds Python's lock:
threads would take turns. The other process writes machine code into the cache directory, where this
one finds it. Programs that may be needed some day (other batch sizes) are compiled likewise, one at
a time on the whole machine, at the lowest priority, and only while the process lives that asked.
FLASHRNN_NUMBA_COMPILE_AHEAD=0 turns all of it off.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .background import Process, Processes, Queue
from .numba_passes import no_collection

if TYPE_CHECKING:
    from .launch import Program

_PATIENCE = 60  # seconds after which this process compiles for itself
_SCRIPT = """
import json, sys
task = json.load(sys.stdin)
sys.path[:] = task["path"]
from flashrnn_numba.kernels.ahead import work
work(task)
"""

_processes = Processes()
_leisure = Queue()
_running: dict[Path, tuple[Process, float]] = {}


def start(programs: Mapping[Path, Program], cc: tuple[int, int], cache: Path) -> None:
    """Have programs compiled into these files of a cache directory. None are, where that would not
    help: no second processor, no Python to start, nothing can be written."""
    programs = {file: p for file, p in programs.items() if file not in _running}
    if programs and possible(cache) and (process := _begin(list(programs.values()), cc, cache)):
        _running.update(dict.fromkeys(programs, (process, time.monotonic() + _PATIENCE)))
        threading.Thread(target=_processes.reap, args=(process,), daemon=True).start()


def at_leisure(find: Callable[[], Sequence[Program]], cc: tuple[int, int], cache: Path) -> None:
    """Likewise of programs that nobody waits for, by one process at a time. What they are a thread
    asks `find`."""

    def job() -> None:
        programs = find()
        if programs and (process := _begin(programs, cc, cache, leisure=True)):
            _processes.reap(process)

    _leisure.put(job)


def _begin(
    programs: Sequence[Program], cc: tuple[int, int], cache: Path, leisure: bool = False
) -> Process | None:
    task = {
        "path": [place for place in sys.path if isinstance(place, str)],  # imports use no others
        "cc": cc,
        "programs": [asdict(p) for p in programs],
        "parent": os.getpid(),
        "lock": str(cache / "leisure.lock") if leisure else None,
    }
    environment = {**os.environ, "FLASHRNN_NUMBA_CACHE_DIR": str(cache)}
    return _processes.begin(_SCRIPT, json.dumps(task).encode(), environment)


def under_way(file: Path) -> bool:
    """Whether a file was asked for that is needed soon."""
    return file in _running


def wait(file: Path) -> bool:
    """Wait for a file that is `under_way`; whether it was made. (What went wrong shows when this
    process compiles.)"""
    if file not in _running:
        return False
    process, deadline = _running[file]
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return file.exists()


def settle(seconds: float) -> bool:
    """Wait until nothing is compiled any more for this process; whether that is so."""
    deadline = time.monotonic() + seconds
    return _leisure.settle(seconds) and _processes.settle(deadline - time.monotonic())


def possible(cache: Path) -> bool:
    """Whether another process can compile into this directory, and helps."""
    if os.environ.get("FLASHRNN_NUMBA_COMPILE_AHEAD") == "0" or _processors() < 2:
        return False
    # in a program that embeds Python this may be the program
    if not Path(sys.executable or "").name.startswith(("python", "pypy")):
        return False
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    return os.access(cache, os.W_OK)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def work(task: dict[str, Any]) -> None:
    """What the other process does."""
    from .launch import Program, machine_code

    major, minor = task["cc"]
    compile_one = partial(machine_code, cc=(major, minor))
    programs = [
        Program(**{**facts, "arguments": tuple(facts["arguments"])}) for facts in task["programs"]
    ]
    if task["lock"]:
        _one_at_a_time(programs, compile_one, task["parent"], Path(task["lock"]))
    else:
        _side_by_side(programs, compile_one)


def _side_by_side(programs: Sequence[Program], compile_one: Callable[[Program], Any]) -> None:
    """The first program itself, each of the others in a fork, where there are forks, of what has
    Numba already."""
    with no_collection():
        import numba.cuda  # noqa: F401

    first, *others = programs
    if not hasattr(os, "fork"):
        for program in programs:
            compile_one(program)
        return
    forks = []
    for program in others:
        forks.append(os.fork())
        if not forks[-1]:
            compile_one(program)
            os._exit(0)
    compile_one(first)
    for fork in forks:
        os.waitpid(fork, 0)


def _one_at_a_time(
    programs: Sequence[Program], compile_one: Callable[[Program], Any], parent: int, lock: Path
) -> None:
    """In their order, while no other such process does, and while the parent is there."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(19)
    with lock.open("w") as file:
        while not _locked(file):
            if os.getppid() != parent:
                return
            time.sleep(0.2)
        for program in programs:
            if os.getppid() != parent:
                return
            with contextlib.suppress(Exception):  # shows when it is needed
                compile_one(program)


def _locked(file: IO[str]) -> bool:
    """Whether this process has the file for itself now, until it closes it. Where there are no
    locks (Windows, some file systems) it always has: several at a time."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True
