"""The emulator beyond one block: clusters, grids, mbarriers, named barriers, and bugs in them."""

import numpy as np
import pytest

pytest.importorskip("greenlet", reason="the emulator's threads are greenlets")
pytest.importorskip("numba_cuda", reason="the building blocks are numba-cuda intrinsics")

from numba import cuda, float32, int32, uint32
from ptx_support import array, line_of, needs_ptxas

from flashrnn_numba.kernels import ptx
from flashrnn_numba.kernels.assemble import assemble, compile_ptx
from flashrnn_numba.kernels.emulator import (
    DeadlockError,
    EmulatorError,
    RaceError,
    emulate,
)

types = cuda.types
schedules = pytest.mark.parametrize("schedule", [None, 0, 1, 2])

# Clusters


def gather_st_async(blocks, steps, expect=True, barrier_between=True):
    """Every block sends 32 words to all blocks each step; two buffers, one mbarrier each.

    Two buffers do, because a block sends step t + 1 when all its threads have read step t - 1.
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
                    ptx.st_async_v4_u32(ptx.mapa(slot, other), value, ptx.mapa(barrier, other))
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
    emulate(kernel, blocks, 32, cluster=blocks, shared_bytes=shared, schedule=schedule, **options)(
        out
    )
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


def test_cluster_all_gather_without_race_detection():
    assert (run_gather(gather_bulk(4, 5), 4, races=False) == gathered(4, 5)).all()


def test_buffer_overwritten_while_others_read_is_found():
    """The first version of this very test had this bug; on a GPU it works nearly always."""
    with pytest.raises(RaceError, match="asynchronous copy"):
        run_gather(gather_st_async(4, 5, barrier_between=False), 4)


def test_missing_proxy_fence_is_found():
    with pytest.raises(RaceError, match="fence_proxy_async"):
        run_gather(gather_bulk(2, 1, fence=False), 2)


def test_leaving_while_copies_are_under_way_is_found():
    kernel = gather_bulk(4, 1, last_barrier=False)

    def several_schedules():
        for seed in range(20):
            run_gather(kernel, 4, seed)

    with pytest.raises(EmulatorError, match="has left the kernel"):
        several_schedules()


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


# Bulk loads from global memory


def pipeline(steps, wait=True, hand_back=True):
    """Thread 0 fetches 128 bytes a step into one buffer; 32 threads add them up."""

    def kernel(x, out):
        shared = cuda.shared.array(0, uint32)
        tid = int32(cuda.threadIdx.x)
        base = ptx.shared_address(shared)
        full, empty, data = base, ptx.shared_at(base, 8), ptx.shared_at(base, 16)
        if tid == 0:
            ptx.mbarrier_init(full, 1)
            ptx.mbarrier_init(empty, 32)
            ptx.fence_mbarrier_init()
        cuda.syncthreads()
        total = uint32(0)
        for step in range(steps):
            if tid == 0:
                if hand_back:
                    ptx.mbarrier_wait(empty, (step + 1) & 1)  # true at once in step 0
                ptx.mbarrier_expect(full, 64)
                ptx.mbarrier_arrive_expect(full, 64)
                source = ptx.global_at(ptx.global_address(x), 128 * step)
                ptx.bulk_copy_global_to_shared(data, source, 128, full)
            if wait:
                while not ptx.mbarrier_try_wait(full, step & 1):
                    pass
            total = uint32(total + shared[4 + tid])
            ptx.mbarrier_arrive(empty)
        out[tid] = total
        if not ptx.mbarrier_test(full, (steps + 1) & 1):
            out[tid] = 0
        cuda.syncthreads()
        if tid == 0:
            ptx.mbarrier_invalidate(full)

    return kernel


def run_pipeline(kernel, steps, schedule=None, **options):
    x, out = np.arange(32 * steps, dtype=np.uint32), np.zeros(32, np.uint32)
    emulate(kernel, 1, 32, shared_bytes=144, schedule=schedule, **options)(x, out)
    return (out == x.reshape(steps, 32).sum(0)).all()


@schedules
def test_pipeline_of_bulk_loads(schedule):
    assert run_pipeline(pipeline(5), 5, schedule)


def test_missing_wait_for_a_bulk_load_is_found():
    with pytest.raises(RaceError, match="asynchronous copy"):
        run_pipeline(pipeline(1, wait=False), 1)
    with pytest.raises(EmulatorError, match="while an asynchronous copy"):
        run_pipeline(pipeline(1, wait=False), 1, races=False)


def test_refilled_while_others_read_is_found():
    with pytest.raises(RaceError, match="asynchronous copy"):
        run_pipeline(pipeline(5, hand_back=False), 5)


@schedules
def test_arrival_at_another_blocks_mbarrier(schedule):
    """Block 1 writes into block 0 with ordinary stores, then each thread arrives there."""

    def kernel(out, arrive):
        shared = cuda.shared.array(0, uint32)
        tid = int32(cuda.threadIdx.x)
        base = ptx.shared_address(shared)
        if tid == 0:
            ptx.mbarrier_init(base, 32)
            ptx.fence_mbarrier_init()
        ptx.cluster_arrive()
        ptx.cluster_wait()
        if ptx.cluster_rank() == 1:
            ptx.st_cluster_u32(ptx.mapa(ptx.shared_at(base, 16 + 4 * tid), 0), tid + 7)
            if arrive:
                ptx.mbarrier_arrive_cluster(ptx.mapa(base, 0))
        else:
            while not ptx.mbarrier_try_wait_cluster(base, 0):
                pass
            out[tid] = shared[4 + 31 - tid]
        ptx.cluster_arrive()
        ptx.cluster_wait()

    run = emulate(kernel, 2, 32, cluster=2, shared_bytes=144, schedule=schedule)
    out = np.zeros(32, np.uint32)
    run(out, True)
    assert (out == np.arange(38, 6, -1)).all()
    with pytest.raises(DeadlockError, match="mbarrier try_wait"):
        run(out, False)


def test_uninitialised_mbarrier_and_too_many_arrivals():
    def nothing(x):
        ptx.mbarrier_arrive(ptx.shared_address(cuda.shared.array(8, uint32)))

    with pytest.raises(EmulatorError, match="call mbarrier_init"):
        emulate(nothing, 1, 1)(np.zeros(1))

    def twice(x):
        base = ptx.shared_address(cuda.shared.array(8, uint32))
        ptx.mbarrier_init(base, 1)
        ptx.mbarrier_arrive_expect(base, 16)
        ptx.mbarrier_arrive(base)

    with pytest.raises(EmulatorError, match="more arrivals in a phase than its count of 1"):
        emulate(twice, 1, 1)(np.zeros(1))


@schedules
def test_release_and_acquire_of_a_global_word(schedule):
    def kernel(data, flag, out, acquire):
        address = ptx.global_address(flag)
        if cuda.blockIdx.x == 0:
            data[0] = uint32(5)
            ptx.st_release_u32(address, 1)
        elif acquire:
            while ptx.ld_acquire_u32(address) == 0:
                pass
            out[0] = data[0] + ptx.ld_volatile_v4_u32(address)[0]
        else:
            while ptx.ld_relaxed_u32(address) == 0:
                pass
            out[0] = data[0]

    run = emulate(kernel, 2, 1, cooperative=True, schedule=schedule)
    data, out = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    run(data, np.zeros(4, np.uint32), out, True)
    assert out[0] == 6
    with pytest.raises(RaceError, match="global array data"):
        run(data, np.zeros(4, np.uint32), out, False)


def messages(checked):
    """Two blocks send each other 16 bytes a round; the first `checked` words are waited for."""

    def kernel(mail, out):
        own = int32(cuda.blockIdx.x)
        for t in range(6):
            slot = ptx.global_address(mail) + (t & 1) * 32
            value = uint32(2 * t + 2 + own)
            ptx.st_relaxed_gpu_v4_u32(slot + own * 16, (value, value, value, value))
            missing = True
            while missing:
                got = ptx.ld_relaxed_gpu_v4_u32(slot + (1 - own) * 16)
                missing = False
                for i in range(checked):
                    if got[i] != uint32(2 * t + 3 - own):
                        missing = True
            for i in range(4):
                out[own, t, i] = got[i]

    return kernel


def exchanged(kernel, schedule):
    out = np.zeros((2, 6, 4), np.uint32)
    emulate(kernel, 2, 1, cooperative=True, schedule=schedule)(np.zeros(16, np.uint32), out)
    return out


@schedules
def test_words_that_are_their_own_flags(schedule):
    want = 2 * np.arange(6)[None, :, None] + np.array([3, 2])[:, None, None]
    np.testing.assert_array_equal(exchanged(messages(4), schedule), want.repeat(4, 2))


def test_a_message_of_16_bytes_may_come_in_parts():
    torn = (len(np.unique(exchanged(messages(1), seed)[0, 0])) > 1 for seed in range(50))
    assert any(torn)


# Grids


def grid_sum(fence=True):
    def kernel(x, counter, out):
        block = cuda.blockIdx.x
        for step in range(3):
            if cuda.threadIdx.x == 0:
                x[step, block] = float32(block + step)
            if fence:
                ptx.grid_barrier(ptx.global_address(counter), uint32(cuda.gridDim.x * (step + 1)))
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


@needs_ptxas
def test_the_emulated_kernels_are_kernels():
    """What the emulator accepts above, the compiler does too."""
    words = array(types.uint32, 2)
    floats = array(types.float32, 2)
    for kernel, signature in (
        (gather_st_async(4, 5), types.void(words)),
        (gather_bulk(4, 5), types.void(words)),
        (pipeline(5), types.void(array(types.uint32), array(types.uint32))),
        (grid_sum(), types.void(floats, array(types.uint32), floats)),
    ):
        used = assemble(compile_ptx(kernel, signature, (9, 0), launch_bounds=256), (9, 0))
        assert used.spill_stores == 0
