"""Programs that another process compiles."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason="the other process compiles with numba-cuda")

from flashrnn_numba.kernels import ahead, inventory, launch
from flashrnn_numba.kernels.background import Processes, Queue, unhurried
from flashrnn_numba.kernels.launch import Program

TEXT = """
from numba import cuda


def triple(x, n):
    i = cuda.grid(1)
    if i < n:
        x[i] *= 3
"""
TRIPLE = Program("triple", TEXT, ("float32*", "int64"), threads=64)
OTHER = replace(TRIPLE, threads=32)


@pytest.fixture
def compiled_here(monkeypatch, tmp_path):
    """Digests of what this process compiles; no code in memory, an empty cache, two processors."""
    monkeypatch.setattr(launch, "_code", {})
    monkeypatch.setattr(launch, "_compiled", [])
    monkeypatch.setattr(launch, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(launch, "_some_day", set())
    monkeypatch.setattr(ahead, "_running", {})
    monkeypatch.setattr(ahead, "_processes", Processes())
    monkeypatch.setattr(ahead, "_leisure", Queue())
    monkeypatch.setattr(ahead, "_processors", lambda: 2)
    monkeypatch.delenv("FLASHRNN_NUMBA_COMPILE_AHEAD", raising=False)
    here, plain = [], launch._compile

    def counted(program, cc):
        here.append(program.digest)
        return plain(program, cc)

    monkeypatch.setattr(launch, "_compile", counted)
    yield here
    ahead._processes.end()


@pytest.fixture
def begun(compiled_here, monkeypatch):
    """The processes that were begun."""
    begun, plain = [], ahead._processes.begin
    monkeypatch.setattr(
        ahead._processes, "begin", lambda *task: begun.append(plain(*task)) or begun[-1]
    )
    return begun


def test_what_is_expected_is_compiled_elsewhere_and_counted(compiled_here):
    launch.expect([TRIPLE, OTHER], (9, 0))
    launch.expect([TRIPLE, OTHER], (9, 0))  # are under way
    assert len({id(process) for process, _ in ahead._running.values()}) == 1
    third = replace(TRIPLE, threads=96)
    launch.expect([TRIPLE, third], (9, 0))
    assert len({id(process) for process, _ in ahead._running.values()}) == 2
    assert launch.machine_code(third, (9, 0))[1]
    for program in (TRIPLE, OTHER):
        entry, code = launch.machine_code(program, (9, 0))
        assert entry in code.decode("latin1")
    assert compiled_here == []
    assert launch.compilations() == (third.digest, TRIPLE.digest, OTHER.digest)
    launch.expect([TRIPLE], (9, 0))
    assert len(ahead._running) == 3


def test_what_may_be_needed_some_day_is_there_then(compiled_here, begun):
    """Asked for once for each key; what is there already is left as it is."""
    asked = []
    for key in ("a", "a", "b"):
        launch.expect_some_day(key, lambda: asked.append(1) or [TRIPLE, OTHER], (9, 0))
        assert launch.settle(60)
    assert len(asked) == 2
    assert len(begun) == 1
    for program in (TRIPLE, OTHER):
        entry, code = launch.machine_code(program, (9, 0))
        assert entry in code.decode("latin1")
    assert compiled_here == []
    assert launch.compilations() == ()


def again(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(launch, "_some_day", set())


@pytest.fixture
def listed(compiled_here, tmp_path):
    """Programs that another process has compiled, and listed under "a"; where the list is."""
    for program in (TRIPLE, OTHER):
        launch._write(launch._cache_file(program, (9, 0)), ("entry", b"code"))
    launch.expect_some_day("a", lambda: [TRIPLE, OTHER], (9, 0))
    assert launch.settle(60)
    (path,) = (tmp_path / "kernels").glob("needed_*.json")
    return path


def asked_anew(monkeypatch, key="a"):
    asked = []
    again(monkeypatch)
    launch.expect_some_day(key, lambda: asked.append(1) or [TRIPLE, OTHER], (9, 0))
    assert launch.settle(60)
    return bool(asked)


def test_what_was_listed_and_is_there_is_not_worked_out_again(listed, begun, monkeypatch):
    assert not asked_anew(monkeypatch)
    assert asked_anew(monkeypatch, key="b")
    assert not begun
    launch._cache_file(OTHER, (9, 0)).unlink()
    assert asked_anew(monkeypatch)
    assert len(begun) == 1


@pytest.mark.parametrize(
    "damage", ["", "[", "{}", "3", '["gone.kernel"]', "[3]", '["\\u0000"]', "[" * 100000, None]
)
def test_a_list_that_is_damaged_counts_as_missing(listed, monkeypatch, damage):
    whole = listed.read_text()
    if damage is None:
        listed.unlink()
        listed.mkdir()
    else:
        listed.write_text(damage)
    assert asked_anew(monkeypatch)
    assert damage is None or listed.read_text() == whole


@pytest.mark.parametrize("change", ["source", "compilers", "device", "Python", None])
def test_a_list_is_for_one_package_and_its_compilers(listed, monkeypatch, change):
    if change == "source":
        monkeypatch.setattr(inventory, "_source", lambda: "of another version")
    elif change == "compilers":
        monkeypatch.setattr(launch, "_compilers", lambda: ("0.0",))
    elif change == "Python":
        monkeypatch.setattr(sys, "version", "4.0")
    cc = (8, 0) if change == "device" else (9, 0)
    place = inventory.place(listed.parent, repr("a"), str(cc), *launch._compilers())
    assert (place == listed) == (change is None)


def test_what_is_needed_soon_is_not_compiled_at_leisure_as_well(compiled_here, begun, monkeypatch):
    monkeypatch.setattr(ahead, "_SCRIPT", "import time; time.sleep(0.5)")
    launch.expect([TRIPLE], (9, 0))
    launch.expect_some_day("a", lambda: [TRIPLE], (9, 0))
    assert launch.settle(60)
    assert len(begun) == 1


def test_working_out_leaves_half_of_the_time_to_other_threads():
    def work():
        for i in range(4):
            time.sleep(0.05)
            yield i

    began = time.monotonic()
    assert list(unhurried(work())) == [0, 1, 2, 3]
    assert time.monotonic() - began >= 0.4


def test_what_may_be_needed_some_day_can_be_switched_off(compiled_here, monkeypatch):
    monkeypatch.setenv("FLASHRNN_NUMBA_COMPILE_AHEAD", "0")
    asked = []
    launch.expect_some_day("a", lambda: asked.append(1) or [TRIPLE], (9, 0))
    assert launch.settle(1)
    assert not asked


def test_processes_are_reaped_when_they_end(compiled_here, begun, monkeypatch):
    """Without anybody asking: where the code was found nobody does."""
    monkeypatch.setattr(ahead, "_SCRIPT", "")
    for threads in (32, 64, 96):
        launch.expect([replace(TRIPLE, threads=threads)], (9, 0))
    launch.expect_some_day("a", lambda: [replace(TRIPLE, threads=128)], (9, 0))
    deadline = time.monotonic() + 60
    while len(begun) < 4 or any(process.returncode is None for process in begun):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_process_at_a_time_compiles_at_leisure(compiled_here, begun, monkeypatch):
    """Also of those that wait for another program's. What goes wrong with one is its own affair."""
    monkeypatch.setattr(ahead, "_SCRIPT", "import time; time.sleep(0.2)")
    at_once = []

    def programs():
        at_once.append(sum(process.returncode is None for process in begun))
        return [TRIPLE]

    launch.expect_some_day("a", lambda: 1 / 0, (9, 0))
    for key in "bcde":
        launch.expect_some_day(key, programs, (9, 0))
    assert not launch.settle(0.1)
    assert launch.settle(60)
    assert at_once == [0] * 4
    assert len(begun) == 4


STUCK = """
import fcntl, os, time
held = open("held", "a")
fcntl.flock(held, fcntl.LOCK_SH)
os.fork()
held.write("x")
held.flush()
time.sleep(60)
"""
EXITING = f"""
import os, sys, time
from pathlib import Path
from flashrnn_numba.kernels import ahead, inventory, launch
from flashrnn_numba.kernels.launch import Program
ahead._processors = lambda: 2
ahead._SCRIPT = {STUCK!r}
programs = [Program("f", str(i), (), 32) for i in range(3)]
launch.expect(programs[:1], (9, 0))
launch.expect_some_day("a", lambda: programs[1:2], (9, 0))
launch.expect_some_day("b", lambda: programs[2:], (9, 0))
while not (held := Path("held")).exists() or held.stat().st_size < 4:
    time.sleep(0.01)
if fork := os.fork():
    os.waitpid(fork, 0)
else:
    sys.exit()
assert all(process.poll() is None for process in ahead._processes._alive)
print(len(ahead._processes._alive))
"""


def test_nothing_is_left_when_the_process_exits(tmp_path):
    """Neither processes and their forks nor warnings of them. A fork of this one ends nothing."""
    pytest.importorskip("fcntl")
    environment = {**os.environ, "FLASHRNN_NUMBA_CACHE_DIR": str(tmp_path)}
    environment.pop("FLASHRNN_NUMBA_COMPILE_AHEAD", None)
    forking = "ignore::DeprecationWarning"  # beside threads
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-W", forking, "-c", EXITING],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "2\n", "")
    with (tmp_path / "held").open() as held:
        deadline = time.monotonic() + 10
        while not ahead._locked(held):  # a process still holds it
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_one_process_compiles_at_a_time_while_its_parent_lives(monkeypatch, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(ahead.os, "nice", lambda by: by)
    done, lock = [], tmp_path / "lock"
    arguments = [TRIPLE, OTHER], done.append, os.getppid(), lock
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=ahead._one_at_a_time, args=arguments)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert not done
    waiting.join(30)
    assert done == [TRIPLE, OTHER]
    ahead._one_at_a_time([TRIPLE], done.append, os.getppid() + 1, lock)
    assert len(done) == 2


@pytest.mark.parametrize("code", ["ENOSYS", "ENOTSUP", "ENOLCK"])
def test_without_locks_on_files_several_compile_at_a_time(monkeypatch, tmp_path, code):
    fcntl = pytest.importorskip("fcntl")

    def refuse(file, how):
        raise OSError(getattr(errno, code), "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(ahead.os, "nice", lambda by: by)
    done = []
    arguments = [TRIPLE], done.append, os.getppid(), tmp_path / "lock"
    waiting = threading.Thread(target=ahead._one_at_a_time, args=arguments, daemon=True)
    waiting.start()
    waiting.join(5)
    assert done == [TRIPLE]


def test_paths_to_import_from_that_are_no_strings_are_left_out(compiled_here, monkeypatch):
    """As the import system does."""
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/somewhere"), None])
    launch.expect([TRIPLE], (9, 0))
    assert launch.machine_code(TRIPLE, (9, 0))[1]
    assert compiled_here == []


def refuse(path):
    raise PermissionError(path)


@pytest.mark.parametrize("trouble", ["no directory", "full", "no leave to look"])
def test_whatever_goes_wrong_this_process_compiles(compiled_here, monkeypatch, tmp_path, trouble):
    if trouble == "full" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    place, name, value = {
        "no directory": (tempfile, "tempdir", str(tmp_path / "missing")),
        "full": (tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b")),
        "no leave to look": (Path, "exists", refuse),
    }[trouble]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, value)
        launch.expect([TRIPLE], (9, 0))
    assert not ahead._running
    assert launch.machine_code(TRIPLE, (9, 0))[1]
    assert compiled_here == [TRIPLE.digest]


@pytest.mark.parametrize("trouble", ["dies", "hangs", "is not Python", "switched off", "one core"])
def test_without_the_other_process_this_one_compiles(compiled_here, monkeypatch, trouble):
    if trouble == "dies":
        monkeypatch.setattr(ahead, "_SCRIPT", "raise SystemExit(1)")
    elif trouble == "hangs":
        monkeypatch.setattr(ahead, "_SCRIPT", "import time; time.sleep(5)")
        monkeypatch.setattr(ahead, "_PATIENCE", 0.2)
    elif trouble == "is not Python":
        monkeypatch.setattr(sys, "executable", "/usr/bin/blender")
    elif trouble == "switched off":
        monkeypatch.setenv("FLASHRNN_NUMBA_COMPILE_AHEAD", "0")
    else:
        monkeypatch.setattr(ahead, "_processors", lambda: 1)
    launch.expect([TRIPLE], (9, 0))
    assert bool(ahead._running) == (trouble in ("dies", "hangs"))
    began = time.monotonic()
    assert launch.machine_code(TRIPLE, (9, 0))[0]
    assert time.monotonic() - began < 60
    assert compiled_here == [TRIPLE.digest]
    assert launch.compilations() == (TRIPLE.digest,)


def test_a_directory_that_cannot_be_written(compiled_here, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(launch, "cache_directory", lambda: blocked / "cache")
    launch.expect([TRIPLE], (9, 0))
    assert not ahead._running
    assert launch.machine_code(TRIPLE, (9, 0))[0]
