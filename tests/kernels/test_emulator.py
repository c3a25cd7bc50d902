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

from flashrnn_numba.kernels import ptx  # noqa: E402
from flashrnn_numba.kernels.emulator import (  # noqa: E402
    DeadlockError,
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


def line_of(function, text):
    """file:line of the line of a function that contains the text: what a message must name."""
    code = function.__code__
    with open(code.co_filename) as source:
        lines = source.readlines()
    for number in range(code.co_firstlineno, len(lines) + 1):
        if text in lines[number - 1]:
            return f"{code.co_filename}:{number}"
    raise AssertionError(f"{text!r} is not in {function.__name__}")


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


# Clusters


def gather_st_async(blocks, steps, expect=True, barrier_between=True):
    """Every block sends 32 words to all blocks each step; two buffers, one mbarrier each.

    What allows only two buffers: a block sends step t + 1 after all its threads have read step t - 1.
    """

    def kernel(out):
        shared = cuda.shared.array(0, uint32)
        tid = int32(cuda.threadIdx.x)
        rank = int32(ptx.cluster_rank())
        base = ptx.shared_address(shared)
        data = ptx.shared_at(base, 16)
        if tid == 0:
            ptx.mbarrier_init(base, 1)
            ptx.mbarrier_init(ptx.shared_at(base, 8), 1)
            ptx.fence_mbarrier_init()
        ptx.cluster_arrive()
        ptx.cluster_wait()
        total = uint32(rank)
        for step in range(steps):
            half = step & 1
            barrier = ptx.shared_at(base, 8 * half)
            if barrier_between:
                cuda.syncthreads()
            if tid == 0 and expect:
                ptx.mbarrier_arrive_expect(barrier, blocks * 128)
            if tid < 8:
                slot = ptx.shared_at(data, (half * blocks + rank) * 128 + tid * 16)
                value = (total + tid, total, uint32(step), uint32(rank))
                for other in range(blocks):
                    ptx.st_async_v4_u32(
                        ptx.mapa(slot, other), value, ptx.mapa(barrier, other)
                    )
            ptx.mbarrier_wait_cluster(barrier, step >> 1 & 1)
            total = uint32(0)
            for other in range(blocks):
                total = uint32(total + shared[4 + (half * blocks + other) * 32 + 1])
        out[rank, tid] = total
        ptx.cluster_arrive()
        ptx.cluster_wait()

    return kernel


def gather_bulk(blocks, steps, fence=True, last_barrier=True, first_barrier=True):
    """The same by bulk copies out of a staging buffer."""

    def kernel(out):
        shared = cuda.shared.array(0, uint32)
        tid = int32(cuda.threadIdx.x)
        rank = int32(ptx.cluster_rank())
        base = ptx.shared_address(shared)
        stage, data = ptx.shared_at(base, 16), ptx.shared_at(base, 16 + 2 * 128)
        if tid == 0:
            ptx.mbarrier_init(base, 1)
            ptx.mbarrier_init(ptx.shared_at(base, 8), 1)
            ptx.fence_mbarrier_init()
        cuda.syncthreads()
        if first_barrier:
            ptx.cluster_arrive()
            ptx.cluster_wait()
        total = uint32(rank)
        for step in range(steps):
            half = step & 1
            barrier = ptx.shared_at(base, 8 * half)
            shared[4 + half * 32 + tid] = total
            if fence:
                ptx.fence_proxy_async()
            cuda.syncthreads()
            if tid == 0:
                ptx.mbarrier_arrive_expect(barrier, blocks * 128)
            if tid < blocks:
                target = ptx.mapa(ptx.shared_at(data, (half * blocks + rank) * 128), tid)
                source = ptx.shared_at(stage, half * 128)
                ptx.bulk_copy_shared_to_cluster(target, source, 128, ptx.mapa(barrier, tid))
            ptx.mbarrier_wait_cluster(barrier, step >> 1 & 1)
            total = uint32(0)
            for other in range(blocks):
                total = uint32(total + shared[4 + 64 + (half * blocks + other) * 32 + tid])
        out[rank, tid] = total
        if last_barrier:
            ptx.cluster_arrive()
            ptx.cluster_wait()

    return kernel


def run_gather(kernel, blocks, schedule=None, **options):
    out = np.zeros((blocks, 32), np.uint32)
    shared = 16 + 256 + 2 * blocks * 128
    emulate(
        kernel, blocks, 32, cluster=blocks, shared_bytes=shared, schedule=schedule, **options
    )(out)
    return out


def gathered(blocks, steps):
    values = list(range(blocks))
    for _ in range(steps):
        values = [sum(values)] * blocks
    return values[0]


@schedules
@pytest.mark.parametrize("make", [gather_st_async, gather_bulk])
def test_cluster_all_gather(make, schedule):
    out = run_gather(make(4, 5), 4, schedule)
    assert (out == gathered(4, 5)).all()


def test_buffer_overwritten_while_others_read_is_found():
    """The first version of this very test had this bug; on a GPU it works nearly always."""
    with pytest.raises(RaceError, match="asynchronous copy"):
        run_gather(gather_st_async(4, 5, barrier_between=False), 4)


def test_missing_proxy_fence_is_found():
    with pytest.raises(RaceError, match="fence_proxy_async"):
        run_gather(gather_bulk(2, 1, fence=False), 2)


def test_leaving_while_copies_are_under_way_is_found():
    kernel = gather_bulk(4, 1, last_barrier=False)
    with pytest.raises(EmulatorError, match="has left the kernel"):
        for seed in range(20):
            run_gather(kernel, 4, seed)


def test_remote_access_before_a_cluster_barrier_is_found():
    with pytest.raises(EmulatorError, match="may not have started"):
        run_gather(gather_bulk(2, 1, first_barrier=False), 2)


def test_deadlock_says_who_waits_where():
    kernel = gather_st_async(2, 1, expect=False)
    with pytest.raises(DeadlockError, match="mbarrier, parity 0, 1 arrivals") as caught:
        run_gather(kernel, 2)
    assert line_of(kernel, "mbarrier_wait_cluster") in str(caught.value)
    assert "32 of block (1, 0, 0)" in str(caught.value)


def test_block_scope_wait_does_not_order_remote_data():
    def kernel(out):
        shared = cuda.shared.array(0, uint32)
        base = ptx.shared_address(shared)
        if cuda.threadIdx.x == 0:
            ptx.mbarrier_init(base, 1)
            ptx.fence_mbarrier_init()
        ptx.cluster_arrive()
        ptx.cluster_wait()
        other = 1 - ptx.cluster_rank()
        if cuda.threadIdx.x == 0:
            ptx.mbarrier_arrive_expect(base, 4)
            ptx.st_async_u32(ptx.mapa(ptx.shared_at(base, 16), other), 7, ptx.mapa(base, other))
        ptx.mbarrier_wait(base, 0)
        out[cuda.grid(1)] = shared[4]

    with pytest.raises(RaceError, match="asynchronous copy"):
        emulate(kernel, 2, 32, cluster=2, shared_bytes=32)(np.zeros(64, np.uint32))


def test_remote_shared_memory_and_cluster_barrier():
    def kernel(out):
        shared = cuda.shared.array(0, uint32)
        tid = cuda.threadIdx.x
        base = ptx.shared_address(shared)
        shared[tid] = uint32(100 * ptx.cluster_rank() + tid)
        ptx.cluster_arrive()
        ptx.cluster_wait()
        other = (ptx.cluster_rank() + 1) % ptx.cluster_size()
        out[cuda.blockIdx.x, tid] = ptx.ld_cluster_u32(
            ptx.mapa(ptx.shared_at(base, 4 * tid), other)
        )
        ptx.cluster_arrive_relaxed()
        ptx.cluster_wait()

    out = np.zeros((6, 32), np.uint32)
    emulate(kernel, 6, 32, cluster=3, shared_bytes=128)(out)
    ranks = np.array([1, 2, 0, 1, 2, 0])
    assert (out == 100 * ranks[:, None] + np.arange(32)).all()


# Grids


def grid_sum(fence=True):
    def kernel(x, counter, out):
        block = cuda.blockIdx.x
        for step in range(3):
            if cuda.threadIdx.x == 0:
                x[step, block] = float32(block + step)
            if fence:
                ptx.grid_barrier(
                    ptx.global_address(counter), uint32(cuda.gridDim.x * (step + 1))
                )
            total = float32(0)
            for other in range(cuda.gridDim.x):
                total += x[step, other]
            out[step, cuda.grid(1)] = total

    return kernel


def run_grid_sum(kernel, schedule=None):
    x, counter = np.zeros((3, 4), np.float32), np.zeros(1, np.uint32)
    out = np.zeros((3, 32), np.float32)
    emulate(kernel, 4, 8, cooperative=True, schedule=schedule)(x, counter, out)
    return out


@schedules
def test_grid_barrier(schedule):
    out = run_grid_sum(grid_sum(), schedule)
    assert (out == np.array([[6], [10], [14]])).all()


def test_missing_grid_barrier_is_a_race():
    with pytest.raises(RaceError, match="global array x"):
        run_grid_sum(grid_sum(fence=False))


def test_grid_barrier_without_all_blocks_is_a_deadlock():
    x, counter, out = np.zeros((3, 4), np.float32), np.zeros(1, np.uint32), np.zeros((3, 32), "f4")
    with pytest.raises(DeadlockError, match="a load in a loop"):
        emulate(grid_sum(), 4, 8, cooperative=False)(x, counter, out)


@schedules
def test_cooperative_groups_and_atomics(schedule):
    def kernel(counter, out):
        cuda.atomic.add(counter, 0, 1)
        cuda.cg.this_grid().sync()
        out[cuda.grid(1)] = counter[0]

    counter, out = np.zeros(1, np.int32), np.zeros(24, np.int32)
    emulate(kernel, 3, 8, cooperative=True, schedule=schedule)(counter, out)
    assert (out == 24).all()


@schedules
def test_threadfence_orders_a_flag(schedule):
    def kernel(data, flag, out, fence):
        if cuda.blockIdx.x == 0:
            data[0] = 5.0
            if fence:
                cuda.threadfence()
            cuda.atomic.exch(flag, 0, 1)
        else:
            while cuda.atomic.max(flag, 0, 0) == 0:
                cuda.nanosleep(20)
            cuda.threadfence()
            out[0] = data[0]

    data, flag, out = np.zeros(1), np.zeros(1, np.int32), np.zeros(1)
    run = emulate(kernel, 2, 1, cooperative=True, schedule=schedule)
    run(data, flag, out, True)
    assert out[0] == 5.0
    with pytest.raises(RaceError, match="global array data"):
        run(data, np.zeros(1, np.int32), out, False)


@schedules
def test_named_barriers_between_producer_and_consumer(schedule):
    def kernel(out):
        s = cuda.shared.array(32, float32)
        i = cuda.threadIdx.x
        if i < 32:
            for step in range(3):
                s[i] = float32(step)
                ptx.named_barrier_arrive(1, 64)
                ptx.named_barrier_sync(2, 64)
        else:
            for step in range(3):
                ptx.named_barrier_sync(1, 64)
                out[step, i - 32] = s[63 - i]
                ptx.named_barrier_arrive(2, 64)

    out = np.full((3, 32), np.nan, np.float32)
    emulate(kernel, 1, 64, schedule=schedule)(out)
    assert (out == np.arange(3)[:, None]).all()


def test_warp_divergence_and_missing_lanes():
    def split(x):
        if cuda.threadIdx.x < 16:
            ptx.shfl_idx(0xFFFFFFFF, 1, 0)
        else:
            ptx.shfl_bfly(0xFFFFFFFF, 1, 0)

    with pytest.raises(DivergenceError, match="shfl_idx|shfl_bfly"):
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
