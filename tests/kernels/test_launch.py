"""Programs, their digests, the disk cache and the arguments of a launch; without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from flashrnn_numba.kernels import driver, generated, launch
from flashrnn_numba.kernels.launch import Program

TEXT = """
from numba import cuda


def double(x, strides, scale, n):
    i = cuda.grid(1)
    if i < n:
        x[i * strides[1]] *= scale
"""
DOUBLE = Program("double", TEXT, ("float32*", "int64x2", "float32", "int64"), threads=64, plan="p")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No code in memory, an empty cache directory."""
    monkeypatch.setattr(launch, "_code", {})
    monkeypatch.setattr(launch, "_compiled", [])
    monkeypatch.setattr(launch, "cache_directory", lambda: tmp_path)
    return tmp_path


def forget(monkeypatch):
    monkeypatch.setattr(launch, "_code", {})


def test_a_program_is_compiled_once_and_then_read_from_disk(fresh, monkeypatch):
    first = launch.machine_code(DOUBLE, (9, 0))
    assert first[1][:4] == b"\x7fELF"
    assert launch.machine_code(DOUBLE, (9, 0)) == first
    assert launch.compilations() == (DOUBLE.digest,)
    forget(monkeypatch)
    assert launch.machine_code(DOUBLE, (9, 0)) == first
    assert launch.compilations() == (DOUBLE.digest,)
    launch.machine_code(DOUBLE, (8, 0))  # another architecture is other code
    assert len(launch.compilations()) == 2


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"not json", None])
def test_a_damaged_file_is_compiled_anew(fresh, monkeypatch, damage):
    launch.machine_code(DOUBLE, (9, 0))
    (path,) = (fresh / "kernels").iterdir()
    path.write_bytes(path.read_bytes()[:-7] if damage is None else damage)
    forget(monkeypatch)
    code = launch.machine_code(DOUBLE, (9, 0))
    assert len(launch.compilations()) == 2
    forget(monkeypatch)
    assert launch.machine_code(DOUBLE, (9, 0)) == code  # and the file is whole again


def test_without_a_directory_to_write_it_still_compiles(fresh, monkeypatch):
    blocked = fresh / "file"
    blocked.write_text("")
    monkeypatch.setattr(launch, "cache_directory", lambda: blocked)
    assert launch.machine_code(DOUBLE, (9, 0))[1]


def test_nothing_is_left_of_a_file_that_cannot_be_written(fresh, monkeypatch):
    def refuse(*paths):
        raise OSError("full")

    monkeypatch.setattr(generated.os, "replace", refuse)
    launch._write(fresh / "kernels" / "file", ("entry", b"code"))
    assert not list((fresh / "kernels").iterdir())


def test_what_is_another_program():
    others = [
        replace(DOUBLE, text=TEXT + "# changed"),
        replace(DOUBLE, arguments=("float64*", "int64x2", "float64", "int64")),
        replace(DOUBLE, threads=128),
    ]
    assert len({p.digest for p in (DOUBLE, *others)}) == 4
    # shared memory is chosen at launch, the plan is for people
    assert replace(DOUBLE, shared_bytes=64, plan="other").digest == DOUBLE.digest


def test_parameters_fit_the_compiled_kernel():
    arrays, constants = launch.apart(DOUBLE, ["x", (7, 8), 0.5, 3])
    assert (arrays, constants) == (["x"], [(7, 8), 0.5, 3])
    assert launch.together(DOUBLE, arrays, constants) == ["x", (7, 8), 0.5, 3]
    data, places = driver._constants(DOUBLE.arguments, constants)
    assert places == [(True, 0), (False, 0), (False, 8), (False, 16), (False, 24)]
    assert np.frombuffer(data, np.int64, 2).tolist() == [7, 8]
    assert np.frombuffer(data, np.float32, 1, 16) == 0.5
    ptx = launch.compile_to_ptx(DOUBLE, (8, 0))
    parameters = re.findall(r"^\s*\.param \.(\w+)", ptx, re.MULTILINE)
    assert parameters == ["u64", "u64", "u64", "f32", "u64"]


def test_errors_have_the_plan():
    text = launch._explain(replace(DOUBLE, shared_bytes=9), (4, 2), "out of memory")
    for part in ("double", "out of memory", "plan: p", "64 threads", "9 bytes", "(4, 2)"):
        assert part in text


def test_a_warm_process_neither_compiles_nor_imports_numba(tmp_path):
    """The second process finds everything on disk."""
    script = (
        "import sys\n"
        "from flashrnn_numba.cells import get_cell\n"
        "from flashrnn_numba.kernels import fused, launch\n"
        "from flashrnn_numba.tuning import Device\n"
        "plan = fused.plan(get_cell('elman'), 'float32', 4, 1, 'forward', Device.named('H200'))\n"
        "launch.machine_code(plan.program, (9, 0))\n"
        "print(len(launch.compilations()), 'numba' in sys.modules)\n"
    )
    environment = {**os.environ, "FLASHRNN_NUMBA_CACHE_DIR": str(tmp_path)}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert outputs == [["1", "True"], ["0", "False"]]
