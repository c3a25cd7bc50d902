"""Programs, their digests, the disk cache and the arguments of a launch; without a GPU."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from ptx_support import needs_ptxas

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import driver, generated, launch, tensor
from flashrnn_numba.kernels.assemble import find_ptxas, target_of
from flashrnn_numba.kernels.launch import Program
from flashrnn_numba.tuning import Device

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


def sections(cubin):
    """Of an ELF file, by name."""
    (at,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    found = [struct.unpack_from("<IIQQQQ", cubin, at + i * size) for i in range(count)]
    base = found[names][4]
    named = {cubin[base + s[0] :].split(b"\0", 1)[0].decode(): s for s in found}
    return {name: cubin[s[4] : s[4] + s[5]] for name, s in named.items()}


def kernel_of(cubin):
    """(its name, its code)"""
    ((name, code),) = ((n, c) for n, c in sections(cubin).items() if n.startswith(".text."))
    return name.removeprefix(".text."), code


def frame_bytes(cubin):
    """Local memory of a thread: .nv.info has attributes, 0x11 is this one."""
    info, at, found = sections(cubin)[".nv.info"], 0, []
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        if (form, attribute) == (4, 0x11):
            found.append(struct.unpack_from("<II", info, at + 4)[1])
        at += 4 + (size if form == 4 else 0)
    assert found
    return max(found)


@needs_ptxas
@pytest.mark.parametrize("cc", [(8, 0), (9, 0), (10, 0)])
def test_a_whole_program_is_what_ptxas_makes_of_it(cc, tmp_path):
    """So what `assemble` says of registers and spills is said of the code that is launched."""
    slstm, asked = get_cell("slstm"), tensor.Variant(True, True, True, True)
    tiling = tensor.choose_tiling(slstm, "bfloat16", 16, 6, 128, Device.named("A100"))
    forward = tensor.program(slstm, "bfloat16", 128, tiling, asked)
    for program in (DOUBLE, forward):
        entry, code = launch._compile(program, cc)
        name, kernel = kernel_of(code)
        assert entry == name
        assert frame_bytes(code) == 0
        ptx = launch.compile_to_ptx(program, cc)
        (tmp_path / "ptx").write_text(ptx)
        for how in ("-v", "-c"):
            command = [
                find_ptxas(),
                how,
                "-arch",
                target_of(cc),
                tmp_path / "ptx",
                "-o",
                tmp_path / how,
            ]
            subprocess.run(command, check=True)
        if cc == (8, 0):  # on sm_100 registers have other numbers
            assert kernel == kernel_of((tmp_path / "-v").read_bytes())[1]
    # of relocatable code that would not be true
    assert bool(frame_bytes((tmp_path / "-c").read_bytes())) == (cc == (8, 0))


def test_where_no_program_can_be_linked_whole_it_is_made_of_ptx(fresh, monkeypatch):
    core = pytest.importorskip("cuda.core")
    monkeypatch.setattr(core, "Linker", lambda *_, **__: 1 / 0)
    entry, code = launch._compile(DOUBLE, (8, 0))
    assert "double" in entry
    assert code[:4] == b"\x7fELF"


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
