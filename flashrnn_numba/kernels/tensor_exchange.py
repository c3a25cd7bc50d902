"""How the new s_0 reaches whoever multiplies with it: parts of the tensor-core kernels.

Within one CTA: a store and a barrier. In a cluster: all-gather by st.async. Each CTA sends what it
computed to all CTAs, itself included, and every store is counted, in bytes, on the receiver's
mbarrier of that buffer; a reader waits for the count. No cluster barrier is needed in a step,
because there are two buffers: nobody sends for step t + 2 before it has everything of step t + 1,
and a warp sends that after it has read step t. (So every warp that reads must send, or meet in a
barrier with one that does.)

Warps that share a sum over k wait only for their own part of s_0: CTAs r with the same
r // (CLUSTER / PARTS). They meet in combine_splits before any of them sends.

The bytes that count: `rows` batch rows of padded D numbers; rows beyond the batch are not sent.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def open_exchange():
    """An mbarrier for each buffer and part; the other CTAs' shared memory by address."""
    if thread == 0:
        for i in unroll(2 * PARTS):
            mbarrier_init(shared_at(base, BARRIERS_AT + 8 * i), 1)
        fence_mbarrier_init()
    cluster_arrive()
    cluster_wait()
    expected = uint32(rows * (PADDED * SIZE // PARTS))
    sent_at = BARRIERS_AT + 8 * (rank // (CLUSTER // PARTS))
    awaited = shared_at(base, BARRIERS_AT)
    if PARTS > 1:
        awaited = shared_at(base, BARRIERS_AT + 8 * split)
    four = cuda.local.array(4, uint32)
    sending_lanes()
    receivers = cuda.local.array(SENDS, uint32)
    for i in unroll(SENDS):
        # everybody begins with another receiver
        receivers[i] = mapa(base, uint32((rank + first_receiver + FANS * i) % CLUSTER))


def await_exchange():
    """Step t reads buffer t & 1, filled for the (t - 1) // 2-th time."""
    if t > 0:
        mbarrier_wait_cluster(shared_at(awaited, odd * uint32(8 * PARTS)), uint32((t - 1) >> 1 & 1))
    if thread == 0 and t + 1 < T:
        for i in unroll(PARTS):
            mbarrier_arrive_expect(
                shared_at(base, BARRIERS_AT + 8 * i + (1 - odd) * (8 * PARTS)), expected
            )


def send(p):
    """An octet of 8 batch rows, 16 bytes of one row at a time."""
    if t + 1 < T:
        if p == 0:
            # lanes that send nothing have read their buffer, and stored their states, too
            sync_warp(uint32(0xFFFFFFFF))
        gather_row(p)
        if int32(row) < rows:
            to = (uint32(1) - odd) * uint32(BATCH * PITCH) + place_of[p]
            count = (uint32(1) - odd) * uint32(8 * PARTS) + uint32(sent_at)
            for i in unroll(SENDS):
                if CLUSTER % FANS == 0 or first_receiver + FANS * i < CLUSTER:
                    st_async_v4_u32(
                        shared_at(receivers[i], to), row_words, shared_at(receivers[i], count)
                    )
