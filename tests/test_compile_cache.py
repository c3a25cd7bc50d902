"""Compiled code is kept on disk: a second process compiles nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flashrnn_numba

PROGRAM = """
import numpy as np
from numba.core.compiler import CompilerBase

compiled = []
original = CompilerBase.compile_extra
def counted(self, function):
    compiled.append(function.__qualname__)
    return original(self, function)
CompilerBase.compile_extra = counted

import flashrnn_numba as fr
from flashrnn_numba.cells import cell, tanh

@cell(gates=("a",), states=("h",))
def own(g, s):
    return tanh(g.a) * 0.5 + s.h * 0.25

shapes = (2, 3, 1, 1, 4), (1, 1, 4, 4), (1, 1, 4)
Wx, R, b = (np.ones(shape, np.float32) for shape in shapes)
states, last, vjp = fr.flashrnn_vjp(Wx, R, b, function=own, backend="cpu")
print(float(states.sum()), float(vjp(states).R.sum()))
print("compiled:", *compiled)
"""


def run(directory, **environment):
    package = str(Path(flashrnn_numba.__file__).parent.parent)
    variables = {
        **os.environ,
        "PYTHONPATH": package,
        "FLASHRNN_NUMBA_CACHE_DIR": str(directory),
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    numbers, compiled = done.stdout.splitlines()
    return numbers, compiled.split()[1:]


def test_a_second_process_compiles_neither_loops_nor_the_cell(tmp_path):
    numbers, first = run(tmp_path)
    assert {"forward", "vjp"} <= set(first)
    again, second = run(tmp_path)
    assert again == numbers
    kept = {"forward", "vjp", "forward_share", "backward_share", "product"}
    kept |= {name for name in first if name.startswith("pack_")}
    assert not kept & set(second), second


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_no_error(tmp_path):
    tmp_path.chmod(0o500)
    numbers, compiled = run(tmp_path)
    assert "forward" in compiled
    assert numbers == run(tmp_path.parent / "other")[0]


def test_a_cache_path_that_is_no_directory_is_no_error(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    numbers, compiled = run(file)
    assert {"forward", "vjp"} <= set(compiled)
    assert numbers == run(tmp_path / "directory")[0]
    assert file.read_text() == "in the way"
