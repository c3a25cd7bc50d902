"""The emulator: correct kernels run and are not flagged, planted bugs are found and located."""

import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the emulator's threads are greenlets")
cuda = pytest.importorskip("numba.cuda", reason="needs numba-cuda for the names of kernels")
pytest.importorskip("numba_cuda", reason="needs numba-cuda, numba's own CUDA target is too old")

from numba import float32, int32, uint32, uint64  # noqa: E402
from ptx_support import line_of  # noqa: E402

from flashrnn_numba.kernels import ptx  # noqa: E402
from flashrnn_numba.kernels.emulator import (  # noqa: E402
    DivergenceError,
    EmulatorError,
    KernelError,
    OutOfBoundsError,
    RaceError,
    emulate,
)
from flashrnn_numba.kernels.ptx import formats  # noqa: E402

SCHEDULES = (None, 0, 1, 2)
schedules = pytest.mark.parametrize("schedule", SCHEDULES)


def random16(rng, *shape):
    """Random bfloat16 values: (bits, float32)."""
    bits = formats.f32_to_bf16(rng.standard_normal(shape).astype(np.float32))
    return bits, formats.bf16_to_f32(bits)


# Ordinary kernels


def reverse(barrier=True):
    def kernel(x):
        s = cuda.shared.array(64, float32)
        i = int32(cuda.threadIdx.x)
        s[i] = x[cuda.blockIdx.x, i]
        if barrier:
            cuda.syncthreads()
        x[cuda.blockIdx.x, i] = s[63 - i]

    return kernel


@schedules
def test_block_barrier(schedule):
    x = np.arange(128, dtype=np.float32).reshape(2, 64)
    emulate(reverse(), grid=2, block=64, schedule=schedule)(x)
    assert (x == np.arange(128).reshape(2, 64)[:, ::-1]).all()


@schedules
def test_missing_syncthreads_is_a_race(schedule):
    kernel = reverse(barrier=False)
    with pytest.raises(RaceError, match="no barrier between") as caught:
        emulate(kernel, grid=2, block=64, schedule=schedule)(np.zeros((2, 64), np.float32))
    assert line_of(kernel, "s[63 - i]") in str(caught.value)
    assert line_of(kernel, "s[i] = ") in str(caught.value)
    assert "thread (" in str(caught.value)


def test_without_race_detection_stale_poison_shows():
    x = np.ones((1, 64), np.float32)
    emulate(reverse(barrier=False), grid=1, block=64, races=False)(x)
    assert np.isnan(x).any()  # thread 0 reads what thread 63 has not written yet


def test_race_between_blocks_of_an_ordinary_grid():
    def kernel(x):
        x[0] = float32(cuda.blockIdx.x)

    with pytest.raises(RaceError, match=r"block \(0, 0, 0\)(.|\n)*block \(1, 0, 0\)"):
        emulate(kernel, grid=2, block=1)(np.zeros(1, np.float32))


def test_neighbours_in_one_word_are_no_race():
    def kernel(x):
        x[cuda.threadIdx.x] = cuda.threadIdx.x

    for dtype in (np.uint8, np.uint16):
        x = np.zeros(32, dtype)
        emulate(kernel, grid=1, block=32)(x)
        assert (x == np.arange(32)).all()


@schedules
def test_divergent_barrier(schedule):
    def kernel(x):
        if cuda.threadIdx.x < 32:
            cuda.syncthreads()
            x[cuda.threadIdx.x] = 1.0

    with pytest.raises(DivergenceError, match="has left the kernel") as caught:
        emulate(kernel, grid=1, block=64, schedule=schedule)(np.zeros(64, np.float32))
    assert line_of(kernel, "cuda.syncthreads()") in str(caught.value)


def test_barrier_in_two_branches():
    def kernel(x):
        if cuda.threadIdx.x < 32:
            cuda.syncthreads()
        else:
            x[0] = 1.0 if cuda.threadIdx.x == 32 else x[0]
            cuda.syncthreads()

    with pytest.raises(DivergenceError, match="while block"):
        emulate(kernel, grid=1, block=64, races=False)(np.zeros(64, np.float32))


def test_out_of_bounds_names_thread_and_line():
    def kernel(x):
        s = cuda.shared.array(8, float32)
        i = cuda.threadIdx.x
        s[i + 1] = x[i]

    with pytest.raises(OutOfBoundsError, match=r"shape \(8,\)(.|\n)*thread \(7, 0, 0\)") as caught:
        emulate(kernel, grid=1, block=8)(np.zeros(8, np.float32))
    assert line_of(kernel, "s[i + 1]") in str(caught.value)

    def local(x):
        a = cuda.local.array(4, float32)
        x[0] = a[-1]

    with pytest.raises(OutOfBoundsError, match="local array"):
        emulate(local, grid=1, block=1)(np.zeros(1, np.float32))

    def address(x):
        ptx.st_global_f32(ptx.global_at(ptx.global_address(x), 4 * 8), 1.0)

    with pytest.raises(OutOfBoundsError, match="no array of the launch"):
        emulate(address, grid=1, block=1)(np.zeros(8, np.float32))

    def misaligned(x):
        x[0] = ptx.ld_shared_v4_f32(
            ptx.shared_at(ptx.shared_address(cuda.shared.array(8, float32)), 4)
        )[0]

    with pytest.raises(OutOfBoundsError, match="not aligned to the 16 bytes"):
        emulate(misaligned, grid=1, block=1)(np.zeros(8, np.float32))


def test_exception_in_a_kernel_shows_its_line():
    def kernel(x):
        x[0] = 1 // int(x[0])

    with pytest.raises(KernelError, match="ZeroDivisionError") as caught:
        emulate(kernel, grid=1, block=1)(np.zeros(1, np.float32))
    assert line_of(kernel, "1 // int") in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_scalars_count_as_on_the_gpu():
    def kernel(i, f, half):
        i[0] = int32(2147483647) + 1  # 64 bits in Numba, wraps in the store
        i[1] = int32(uint32(1) - uint32(2))
        i[2] = (uint32(1) - uint32(2)) > 0  # unsigned in 64 bits
        i[3] = (uint32(1) - int32(2)) > 0  # signed
        i[4] = uint32(0xFFFFFFFF) + uint32(1) == uint64(1) << 32
        i[5] = int32(-7) // 2
        f[0] = float32(0.1) + float32(0.2)
        f[1] = float32(0.1) + 0.2  # float64, then rounded by the store
        f[2] = float32(1) / float32(0)
        f[3] = math.exp(float32(1))
        f[4] = math.sqrt(float32(-1))
        f[5] = half * 2

    i, f = np.zeros(6, np.int32), np.zeros(6, np.float32)
    emulate(kernel, grid=1, block=1)(i, f, np.float32(0.5))
    assert i.tolist() == [-2147483648, -1, 1, 0, 1, -4]
    single = np.float32
    expected = [single(0.1) + single(0.2), single(float(single(0.1)) + 0.2), np.inf, single(np.e)]
    assert f[:4].tolist() == [float(value) for value in expected]
    assert math.isnan(f[4])
    assert f[5] == 1.0


def test_device_functions_const_and_warp_votes():
    table = np.array([3.0, 4.0], np.float32)

    @cuda.jit(device=True)
    def scaled(value):
        return value * cuda.const.array_like(table)[1]

    def plain(value):
        return scaled(value) + table[0]

    def kernel(x, votes):
        i = cuda.grid(1)
        x[i] = plain(x[i])
        votes[i] = cuda.ballot_sync(0xFFFFFFFF, i % 2 == 0)
        total = x[i]
        for offset in (16, 8, 4, 2, 1):
            total += cuda.shfl_xor_sync(0xFFFFFFFF, total, offset)
        count = cuda.syncthreads_count(i < 5)
        x[i] = total + count

    x, votes = np.arange(32, dtype=np.float32), np.zeros(32, np.uint32)
    expected = (4 * x + 3).sum() + 5
    emulate(kernel, grid=1, block=32)(x, votes)
    assert (x == expected).all()
    assert (votes == 0x55555555).all()


def test_arguments_of_every_kind():
    """Strided views of one array, tuples, bytes, half precision, an array without elements."""

    def kernel(pair, strides, flags, half, empty, out):
        i = cuda.threadIdx.x
        if flags[i]:
            out[0][i] = pair[0][i] * strides[1] + pair[1][i, 1]
        else:
            out[0][i] = float32(half[i]) + empty.size
        out[1][uint64(i)] = pair[1][i][0]

    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    flags = np.array([True, False, True, False])
    half = np.arange(4, dtype=np.float16)
    out = (np.zeros(4, np.float32), np.zeros(8)[::-2])
    pair = (whole[::-1, 0], whole[:, 2:4])
    emulate(kernel, 1, 4)(pair, (np.int64(5), 2), flags, half, np.zeros((0, 3)), out)
    expected = np.where(flags, whole[::-1, 0] * 2 + whole[:, 3], half)
    assert (out[0] == expected).all()
    assert (out[1] == whole[:, 2]).all()

    def write(a, b):
        a[0] = 1.0
        b[cuda.threadIdx.x] = 2.0

    with pytest.raises(RaceError, match="global array a, b"):  # they overlap
        emulate(write, 1, 2)(whole[0, :2], whole[0, 1:])


# Tensor cores


def matmul(k_size, wait=True, barrier=True):
    """C[16, 8] = A[16, K] B[8, K]^T by one warp: cp.async, ldmatrix, mma.

    The 16 K + 8 K values of 16 bits are copied 16 bytes at a time into rows of pitch bytes.
    """
    pitch = 2 * k_size + 16
    vectors = 24 * k_size // 8

    def kernel(ab, c):
        lane = int32(cuda.threadIdx.x)
        base = ptx.shared_address(cuda.shared.array(0, uint32))
        source = ptx.global_address(ab)
        for v in range(lane, vectors, 32):
            row, column = v // (k_size // 8), v % (k_size // 8)
            target = ptx.shared_at(base, row * pitch + column * 16)
            ptx.cp_async_cg_16(target, ptx.global_at(source, v * 16))
        ptx.cp_async_commit()
        if wait:
            ptx.cp_async_wait_group(0)
        if barrier:
            cuda.syncwarp()
        acc = (float32(0), float32(0), float32(0), float32(0))
        for k in range(0, k_size, 16):
            a = ptx.ldmatrix_x4(ptx.shared_at(base, (lane & 15) * pitch + (lane >> 4) * 16 + 2 * k))
            row = 16 + (lane & 7)
            b = ptx.ldmatrix_x2(ptx.shared_at(base, row * pitch + (lane >> 3 & 1) * 16 + 2 * k))
            acc = ptx.mma_bf16(a, b, acc)
        group, quad = lane >> 2, lane & 3
        c[group, 2 * quad] = acc[0]
        c[group, 2 * quad + 1] = acc[1]
        c[group + 8, 2 * quad] = acc[2]
        c[group + 8, 2 * quad + 1] = acc[3]

    return kernel


def run_matmul(kernel, schedule=None, **options):
    bits, values = random16(np.random.default_rng(0), 24, 32)
    c = np.full((16, 8), np.nan, np.float32)
    emulate(kernel, 1, 32, shared_bytes=24 * 80, schedule=schedule, **options)(bits, c)
    return c, values[:16] @ values[16:].T


@schedules
def test_matmul_through_ldmatrix_and_mma(schedule):
    c, expected = run_matmul(matmul(32), schedule)
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5)


def test_missing_cp_async_wait_is_found():
    with pytest.raises(RaceError, match="asynchronous copy"):
        run_matmul(matmul(32, wait=False))
    c, _ = run_matmul(matmul(32, wait=False), races=False)
    assert np.isnan(c).all()  # the copies have not landed


def test_missing_syncwarp_after_cp_async_is_found():
    with pytest.raises(RaceError, match="asynchronous copy"):
        run_matmul(matmul(32, barrier=False))


def test_warp_divergence_and_missing_lanes():
    def split(x):
        if cuda.threadIdx.x < 16:
            ptx.shfl_idx(0xFFFFFFFF, 1, 0)
        else:
            ptx.shfl_bfly(0xFFFFFFFF, 1, 0)

    with pytest.raises(DivergenceError, match=r"shfl_(idx|bfly)"):
        emulate(split, 1, 32)(np.zeros(1))

    def short(x):
        cuda.syncwarp()

    with pytest.raises(DivergenceError, match="lane 20 does not exist"):
        emulate(short, 1, 20)(np.zeros(1))


def test_non_coherent_load_of_what_is_written_is_found():
    def kernel(x):
        i = cuda.threadIdx.x
        x[i] = 1.0
        x[i] = ptx.ld_global_nc_f32(ptx.global_at(ptx.global_address(x), 4 * i))

    with pytest.raises(RaceError, match=r"ld\.global\.nc"):
        emulate(kernel, 1, 4)(np.zeros(4, np.float32))


def test_launch_arguments_are_checked():
    def kernel(x):
        x[0] = 1.0

    for options, message in (
        ({"block": 2048}, "at most 1024"),
        ({"cluster": 2}, "not a multiple"),
        ({"grid": 0}, "positive"),
        ({"shared_bytes": 1 << 20}, "shared_bytes"),
    ):
        with pytest.raises(EmulatorError, match=message):
            emulate(kernel, **({"grid": 1, "block": 1} | options))(np.zeros(1))
    with pytest.raises(TypeError, match=r"1 arguments \['x'\], got 2"):
        emulate(kernel, 1, 1)(np.zeros(1), 2)


# As a debugger

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def run_python(arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT,
        **options,
    )


DEBUGGED = """
import numpy as np
from numba import cuda
from flashrnn_numba.kernels.emulator import emulate

def kernel(x):
    i = cuda.threadIdx.x
    if i == 3:
        breakpoint()
    y = 2 * i
    cuda.syncthreads()
    x[i] = y

x = np.zeros(32, np.int32)
emulate(kernel, 1, 32)(x)
print("sum", x.sum())
"""


def test_breakpoint_in_a_kernel(tmp_path):
    """pdb stops in thread 3 and steps across a barrier, on which other threads run meanwhile."""
    script = tmp_path / "debugged.py"
    script.write_text(textwrap.dedent(DEBUGGED))
    commands = "p ('i is', i)\nn\nn\nn\np ('y is', y)\nc\n"
    done = run_python([str(script)], input=commands)
    assert done.returncode == 0, done.stderr
    assert "('i is', 3)" in done.stdout
    assert "('y is', 6)" in done.stdout
    assert f"sum {sum(range(32)) * 2}" in done.stdout


def test_emulator_imports_with_numpy_and_greenlet_alone():
    code = f"""
import sys, types
for name in ("llvmlite", "numba"):
    sys.modules[name] = None
for name in ("flashrnn_numba", "flashrnn_numba.kernels"):  # without what they import themselves
    package = types.ModuleType(name)
    package.__path__ = [{str(ROOT)!r} + "/" + name.replace(".", "/")]
    sys.modules[name] = package
import flashrnn_numba.kernels.emulator
"""
    done = run_python(["-c", code])
    assert done.returncode == 0, done.stderr
