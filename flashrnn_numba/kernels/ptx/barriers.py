"""What orders threads: mbarriers, cluster, named and grid barriers, and the copies they wait for.

PTX ISA, "Parallel Synchronization and Communication Instructions": mbarrier.*, barrier.cluster,
barrier, fence, red; "Data Movement and Conversion Instructions": mapa, st.async, cp.async.bulk.

An mbarrier is 8 bytes of shared memory, aligned to 8. Phase 0 is the first; it completes when the
expected arrivals have come and as many bytes as were expected. `parity` is the phase modulo 2 that
is waited for. Blocks named *_cluster take an address from `mapa`.
"""

from typing import Any

import numba.cuda

from .asm import U32, U64, Bool, U32x2, U32x4, U64x2, instruction

cuda: Any = numba.cuda


@instruction("mbarrier.init.shared::cta.b64 [{address}], {count};", section="mbarrier.init")
def mbarrier_init(t: Any, address: U32, count: U32) -> None:
    """One thread makes the mbarrier: `count` arrivals a phase. Others see it after a barrier."""
    t.mbarrier_init(address, count)


@instruction("mbarrier.inval.shared::cta.b64 [{address}];", section="mbarrier.inval")
def mbarrier_invalidate(t: Any, address: U32) -> None:
    """The 8 bytes may serve another purpose from here on."""
    t.mbarrier_invalidate(address)


@instruction("fence.mbarrier_init.release.cluster;", section="membar / fence", since=90)
def fence_mbarrier_init(t: Any) -> None:
    """Makes mbarrier_init visible to the cluster and to copies, before a cluster barrier."""


@instruction("fence.proxy.async.shared::cta;", section="membar / fence", since=90)
def fence_proxy_async(t: Any) -> None:
    """Make this thread's ordinary shared stores visible to bulk copies issued after a barrier."""
    t.fence_proxy_async()


@instruction("fence.proxy.async.global;", section="membar / fence", since=90)
def fence_proxy_async_global(t: Any) -> None:
    """The same for this thread's global stores."""
    t.fence_proxy_async()


@instruction(
    "{{ .reg .b64 s; mbarrier.arrive.shared::cta.b64 s, [{address}]; }}", section="mbarrier.arrive"
)
def mbarrier_arrive(t: Any, address: U32) -> None:
    t.mbarrier_arrive("shared", address)


@instruction(
    "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [{address}];",
    section="mbarrier.arrive",
    since=90,
)
def mbarrier_arrive_cluster(t: Any, address: U32) -> None:
    """Arrive at another block's mbarrier."""
    t.mbarrier_arrive("cluster", address)


@instruction(
    "{{ .reg .b64 s; mbarrier.arrive.expect_tx.shared::cta.b64 s, [{address}], {size}; }}",
    section="mbarrier.arrive",
    since=90,
)
def mbarrier_arrive_expect(t: Any, address: U32, size: U32) -> None:
    """Expect `size` more bytes in this phase, and arrive."""
    t.mbarrier_expect("shared", address, size)
    t.mbarrier_arrive("shared", address)


@instruction(
    "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [{address}], {size};",
    section="mbarrier.expect_tx",
    since=90,
)
def mbarrier_expect(t: Any, address: U32, size: U32) -> None:
    """Expect `size` more bytes in this phase, without arriving."""
    t.mbarrier_expect("shared", address, size)


def _try(name: str) -> str:
    return "{{ .reg .pred p; " + name + " p, [{address}], {parity}; selp.u32 {out}, 1, 0, p; }}"


def _wait(name: str) -> str:
    # ${{:uid}} makes the labels unique when LLVM or ptxas copies the text.
    return (
        "{{ .reg .pred p; WAIT_${{:uid}}: " + name + " p, [{address}], {parity}; "
        "@p bra DONE_${{:uid}}; bra WAIT_${{:uid}}; DONE_${{:uid}}: }}"
    )


@instruction(_try("mbarrier.test_wait.parity.shared::cta.b64"), section="mbarrier.test_wait")
def mbarrier_test(t: Any, address: U32, parity: U32) -> Bool:
    """Has the phase of this parity completed? Does not wait."""
    return t.mbarrier_try(address, parity)


@instruction(
    _try("mbarrier.try_wait.parity.shared::cta.b64"), section="mbarrier.try_wait", since=90
)
def mbarrier_try_wait(t: Any, address: U32, parity: U32) -> Bool:
    """The same, but the hardware may suspend the thread for a while first."""
    return t.mbarrier_try(address, parity)


@instruction(
    _try("mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64"),
    section="mbarrier.try_wait",
    since=90,
)
def mbarrier_try_wait_cluster(t: Any, address: U32, parity: U32) -> Bool:
    """mbarrier_try_wait that acquires what other blocks of the cluster released."""
    return t.mbarrier_try(address, parity, cluster_scope=True)


@instruction(
    _wait("mbarrier.try_wait.parity.shared::cta.b64"), section="mbarrier.try_wait", since=90
)
def mbarrier_wait(t: Any, address: U32, parity: U32) -> None:
    """Wait until the phase of this parity has completed."""
    t.mbarrier_wait(address, parity)


@instruction(
    _wait("mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64"),
    section="mbarrier.try_wait",
    since=90,
)
def mbarrier_wait_cluster(t: Any, address: U32, parity: U32) -> None:
    """mbarrier_wait that acquires what other blocks of the cluster released."""
    t.mbarrier_wait(address, parity, cluster_scope=True)


# Copies that complete on an mbarrier. Sizes are multiples of 16, as are the addresses.


@instruction(
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
    " [{target}], [{source}], {size}, [{mbarrier}];",
    section="cp.async.bulk",
    since=90,
)
def bulk_copy_global_to_shared(t: Any, target: U32, source: U64, size: U32, mbarrier: U32) -> None:
    """One thread copies `size` bytes of global memory into shared memory."""
    t.bulk_copy("cluster", target, "global", source, size, mbarrier)


@instruction(
    "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes"
    " [{target}], [{source}], {size}, [{mbarrier}];",
    section="cp.async.bulk",
    since=90,
)
def bulk_copy_shared_to_cluster(t: Any, target: U32, source: U32, size: U32, mbarrier: U32) -> None:
    """One thread copies into a block of the cluster; target, mbarrier are that block's (mapa)."""
    t.bulk_copy("cluster", target, "shared", source, size, mbarrier)


@instruction(
    "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32"
    " [{target}], {value}, [{mbarrier}];",
    section="st.async",
    since=90,
)
def st_async_u32(t: Any, target: U32, value: U32, mbarrier: U32) -> None:
    """Store 4 bytes into a block of the cluster and count them on its mbarrier (both from mapa)."""
    t.st_async(target, "<I", (value,), mbarrier)


@instruction(
    "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.u32"
    " [{target}], {value}, [{mbarrier}];",
    section="st.async",
    since=90,
)
def st_async_v2_u32(t: Any, target: U32, value: U32x2, mbarrier: U32) -> None:
    """The same with 8 bytes."""
    t.st_async(target, "<2I", value, mbarrier)


@instruction(
    "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.u32"
    " [{target}], {value}, [{mbarrier}];",
    section="st.async",
    since=90,
)
def st_async_v4_u32(t: Any, target: U32, value: U32x4, mbarrier: U32) -> None:
    """The same with 16 bytes."""
    t.st_async(target, "<4I", value, mbarrier)


# Clusters


@instruction(
    "mov.u32 {out}, %cluster_ctarank;", section="%cluster_ctarank", since=90, effects="none"
)
def cluster_rank(t: Any) -> U32:
    """Rank of this block in its cluster."""
    return t.block.rank


@instruction(
    "mov.u32 {out}, %cluster_nctarank;", section="%cluster_nctarank", since=90, effects="none"
)
def cluster_size(t: Any) -> U32:
    """Number of blocks in the cluster."""
    return len(t.block.cluster.blocks)


@instruction(
    "mapa.shared::cluster.u32 {out}, {address}, {rank};", section="mapa", since=90, effects="none"
)
def mapa(t: Any, address: U32, rank: U32) -> U32:
    """The address that is to block `rank` what `address` is to this block."""
    return t.mapa(address, rank)


# Without .aligned: the lanes of a warp need not arrive together.


@instruction("barrier.cluster.arrive.release;", section="barrier.cluster", since=90)
def cluster_arrive(t: Any) -> None:
    """First half of the cluster barrier: publishes this thread's writes."""
    t.cluster_arrive(release=True)


@instruction("barrier.cluster.arrive.relaxed;", section="barrier.cluster", since=90)
def cluster_arrive_relaxed(t: Any) -> None:
    """First half, publishing nothing: execution only."""
    t.cluster_arrive(release=False)


@instruction("barrier.cluster.wait.acquire;", section="barrier.cluster", since=90)
def cluster_wait(t: Any) -> None:
    """Second half: waits for all threads of the cluster that have not left."""
    t.cluster_wait()


# Named barriers inside a block: 16 of them, 0 is syncthreads'. `threads` is a multiple of 32.


@instruction("barrier.sync {number}, {threads};", section="bar / barrier")
def named_barrier_sync(t: Any, number: U32, threads: U32) -> None:
    """Arrive at barrier `number` and wait until `threads` threads have."""
    t.named_barrier(number, threads, wait=True)


@instruction("barrier.arrive {number}, {threads};", section="bar / barrier")
def named_barrier_arrive(t: Any, number: U32, threads: U32) -> None:
    """Arrive without waiting: the producer's half."""
    t.named_barrier(number, threads, wait=False)


# Grid barrier


@instruction("red.release.gpu.global.add.u32 [{address}], {value};", section="red")
def red_release_add(t: Any, address: U64, value: U32) -> None:
    """Add to a global counter; publishes what this thread has seen and written."""
    t.atomic("global", address, "<I", lambda old: old + value, release=True)


@instruction("atom.acq_rel.gpu.global.add.u32 {out}, [{address}], {value};", section="atom")
def atom_acq_rel_add(t: Any, address: U64, value: U32) -> U32:
    """Add to a global counter and get what it was: publishes what this thread has seen and written,
    and lets it see what those before it published."""
    before = t.atomic("global", address, "<I", lambda old: old + value, release=True)
    t.fence()  # takes in what those before it published
    return before


@instruction("ld.acquire.gpu.global.u32 {out}, [{address}];", section="ld")
def ld_acquire_u32(t: Any, address: U64) -> U32:
    """Read a global word together with all that was published before it was written."""
    return t.spin_load("global", address, "<I", acquire=True)[0]


@instruction("st.release.gpu.global.u32 [{address}], {value};", section="st")
def st_release_u32(t: Any, address: U64, value: U32) -> None:
    """Write a global word and publish."""
    t.atomic("global", address, "<I", lambda old: value, release=True)


@instruction("ld.relaxed.gpu.global.u32 {out}, [{address}];", section="ld")
def ld_relaxed_u32(t: Any, address: U64) -> U32:
    """Read a word that others may be writing, ordering nothing."""
    return t.spin_load("global", address, "<I", acquire=False)[0]


@instruction("ld.volatile.global.v4.u32 {out}, [{address}];", section="ld")
def ld_volatile_v4_u32(t: Any, address: U64) -> U32x4:
    """Read 16 bytes that others may be writing, ordering nothing."""
    return t.spin_load("global", address, "<4I", acquire=False)


@instruction("fence.acq_rel.gpu;", section="membar / fence")
def fence_gpu(t: Any) -> None:
    """What this thread wrote before, other blocks see before what it writes from here on; what it
    read before, it read before what it reads from here on."""
    t.fence()


# Messages that carry their own flag: each word of 32 or 64 bits is written and read whole; nothing
# more is promised, and no other access is ordered.


@instruction("ld.relaxed.gpu.global.v4.u32 {out}, [{address}];", section="ld")
def ld_relaxed_gpu_v4_u32(t: Any, address: U64) -> U32x4:
    """Read 16 bytes that another block may be writing."""
    return t.spin_load("global", address, "<4I", acquire=False)


@instruction("ld.relaxed.gpu.global.v2.u64 {out}, [{address}];", section="ld")
def ld_relaxed_gpu_v2_u64(t: Any, address: U64) -> U64x2:
    """Read 16 bytes that another block may be writing."""
    return t.spin_load("global", address, "<2Q", acquire=False)


@instruction("st.relaxed.gpu.global.v4.u32 [{address}], {value};", section="st")
def st_relaxed_gpu_v4_u32(t: Any, address: U64, value: U32x4) -> None:
    """Write 16 bytes that another block may be reading."""
    t.spin_store("global", address, "<I", value)


@instruction("st.relaxed.gpu.global.u32 [{address}], {value};", section="st")
def st_relaxed_gpu_u32(t: Any, address: U64, value: U32) -> None:
    """Write 4 bytes that another block may be reading."""
    t.spin_store("global", address, "<I", (value,))


@instruction("st.relaxed.gpu.global.u64 [{address}], {value};", section="st")
def st_relaxed_gpu_u64(t: Any, address: U64, value: U64) -> None:
    """Write 8 bytes that another block may be reading."""
    t.spin_store("global", address, "<Q", (value,))


@instruction("st.relaxed.gpu.global.v2.u64 [{address}], {value};", section="st")
def st_relaxed_gpu_v2_u64(t: Any, address: U64, value: U64x2) -> None:
    """Write 16 bytes that another block may be reading."""
    t.spin_store("global", address, "<Q", value)


@instruction("trap;", section="trap", effects="order")
def trap(t: Any) -> None:
    """End the launch with an error: what was waited for does not come."""
    raise RuntimeError("trap")


@cuda.jit(device=True)
def grid_barrier(counter: Any, target: Any) -> None:
    """All blocks of a cooperative launch wait for each other.

    counter: global address of a uint32 that was 0 at launch; target: number of blocks x how many
    barriers there have been, this one included.
    """
    cuda.syncthreads()
    if cuda.threadIdx.x == 0 and cuda.threadIdx.y == 0 and cuda.threadIdx.z == 0:
        red_release_add(counter, 1)
        while ld_acquire_u32(counter) < target:
            pass
    cuda.syncthreads()
