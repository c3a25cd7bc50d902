"""Programs that will soon be needed are compiled by another process while this one is busy.

Who asks for a forward pass with gradients needs two kernels, and compiling holds Python's lock:
threads would take turns. The other process writes machine code into the cache directory, where this
one finds it. FLASHRNN_NUMBA_COMPILE_AHEAD=0 turns it off.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

_running: dict[Path, tuple[subprocess.Popen[bytes], float]] = {}


def start(programs: Mapping[Path, Program], cc: tuple[int, int], cache: Path) -> None:
    """Have programs compiled into these files of a cache directory. None are, where that would not
    help: no second processor, no Python to start, nothing can be written."""
    programs = {file: p for file, p in programs.items() if file not in _running}
    if not programs or not _possible(cache):
        return
    task = {"path": sys.path, "cc": cc, "programs": [asdict(p) for p in programs.values()]}
    with tempfile.TemporaryFile() as given, contextlib.suppress(OSError):
        given.write(json.dumps(task).encode())
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT],
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "FLASHRNN_NUMBA_CACHE_DIR": str(cache)},
        )
        _running.update(dict.fromkeys(programs, (process, time.monotonic() + _PATIENCE)))


def wait(file: Path) -> bool:
    """Wait for a file that was asked for; whether it was made. (What went wrong shows when this
    process compiles.)"""
    if file not in _running:
        return False
    process, deadline = _running[file]
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return file.exists()


def _possible(cache: Path) -> bool:
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
    """What the other process does: the first program itself, each of the others in a fork, where
    there are forks, of what has Numba already."""
    with no_collection():
        import numba.cuda  # noqa: F401

    from .launch import Program, machine_code

    major, minor = task["cc"]
    first, *others = (
        Program(**{**facts, "arguments": tuple(facts["arguments"])}) for facts in task["programs"]
    )
    if not hasattr(os, "fork"):
        for program in (first, *others):
            machine_code(program, (major, minor))
        return
    forks = []
    for program in others:
        forks.append(os.fork())
        if not forks[-1]:
            machine_code(program, (major, minor))
            os._exit(0)
    machine_code(first, (major, minor))
    for fork in forks:
        os.waitpid(fork, 0)
