"""How the new s_0 reaches the CTAs of a cooperative launch that share a head: through L2.

For heads whose R no cluster can hold, and cards without clusters. The parts are called where those
of tensor_exchange.py are.

Each group of CTAs has a mailbox in global memory, filled with NOTHING, with a slot for each of
SLOTS steps. What a CTA computes it writes there, 4 bytes a lane; who needs it reads it again and
again until it is something. Each 32-bit word is its own message, written and read whole, so that no
flag or barrier of the grid is needed, which cost more than the data (docs/notes/tensor_forward.md).
NOTHING are two 16-bit NaNs, or one of 32 bits, with all bits set; conversion from float32 makes
other ones. The mailbox is there for one launch after the other: the CTA that is the last to leave
sees to it that the next one finds it empty.

The mailbox is to stay in the L2 cache: inputs and states, which pass by, are marked as not worth
keeping there (cp_async_cg_16_once, st_global_v4_u32_once), and a slot serves again SLOTS steps
later. Who has received all of s_t knows that all have read s_{t-1}, and puts NOTHING over its own
words of it. That this is seen before the slot's next s_0 is asked for takes two fences in between,
of the writer and after it of the reader. Every thread has one in SLOTS / 4 steps, so both have been
SLOTS / 2 + 2 steps after s_{t-1} was sent; SLOTS is 8 at least.

Warps that share a sum over k wait only for their own part of s_0. Where several warps need a part
they take turns in fetching it, into shared memory. Where one warp alone needs it (ALONE) it goes
from L2 straight into registers as the columns of the product: 16 bytes of one batch row are two k
steps of a lane, for which the columns of R are in the same order (place_fragment).

The mailbox is [planes of PLANE batch rows, SLOTS, 16 bytes of units, PLANE]. A plane is the whole
batch where neighbouring lanes fetch neighbouring rows; ALONE it is two rows, 32 bytes that one CTA
writes, so that with few rows all that is asked for lies close together.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def open_exchange():
    """What this thread fetches: 16 bytes of a batch row, POLLS times, MAIL_STEP bytes apart."""
    taker = strip * 32 + lane
    mail_row = taker % BATCH
    chunk = split * (K_STEPS * 2) + taker // BATCH
    if ALONE:
        # lanes of rows that are not there do as those of the last one do: nobody looks at their
        # columns, and the warp stays together
        mail_row = min(group // SPREAD, int64(rows - 1))
        chunk = split * (K_STEPS * 2) + quad
    mail_from = chunk * CHUNK_STEP + mail_row // PLANE * PLANE_STEP + mail_row % PLANE * 16
    mail_to = shared_at(base, mail_row * PITCH + chunk * 16)
    mail = global_at(global_address(mailbox), int64(place_in_launch) * MAIL_BYTES)
    # the planes in use into L2: a word that is polled must not wait for memory
    lines = uint32((rows + PLANE - 1) // PLANE * (PLANE_STEP // 128))
    line = uint32(rank * THREADS + thread)
    while line < lines:
        not_unrolled()
        prefetch_l2(global_at(mail, int64(line) * 128))
        line = unknown_u32(line + uint32(CLUSTER * THREADS))
    awaited = int32(mail_row) < rows
    arrived = cuda.local.array(POLLS * 4, uint32)


def await_exchange():
    """s_0 into this step's buffer, or, ALONE, into `arrived`. What the warps of a split fetch only
    they read."""
    # where send_word writes, while there is time
    slot_out = held_u64(global_at(mail, int64(t & SLOTS - 1) * SLOT_STEP))
    slot_old = held_u64(global_at(mail, int64(t - 2 & SLOTS - 1) * SLOT_STEP))
    more = held_u32(uint32(t + 1 < T))
    if t > 0:
        if t % (SLOTS // 4) == 0:
            fence_gpu()
        slot_in = global_at(mail, int64(t - 1 & SLOTS - 1) * SLOT_STEP)
        if ALONE:
            await_part()
        else:
            if awaited:
                await_pieces()
            store_mail()
            named_barrier_sync(uint32(1 + split), uint32(TAKERS))
    elif ALONE:
        for i in unroll(POLLS):
            first_s0 = ld_shared_v4_u32(shared_at(mail_to, i * 64))
            for w in unroll(4):
                arrived[i * 4 + w] = first_s0[w]


def await_part():
    """A warp's whole part at once: what counts is the time from its arrival to the product. Its
    lanes leave the loop together, which makes the loop half as long."""
    absent = uint32(1)
    asked = uint32(0)
    while absent != uint32(0):
        for i in unroll(POLLS):
            fetch_mail(i)
        largest = uint32(0)
        for i in unroll(POLLS):
            take_largest(i)
        absent = vote_any(uint32(largest == uint32(NOTHING)))
        asked = uint32(asked + uint32(1))
        if asked > uint32(MOST_POLLS):
            trap()


def await_pieces():
    """Piece by piece: many bytes are on their way, and none shall come twice."""
    # all on their way before the first is looked at
    for i in unroll(POLLS):
        if POLLS_EXACT or taker + i * TAKERS < PART_CHUNKS:
            fetch_mail(i)
    missing = uint32(1)
    asked = uint32(0)
    while missing != uint32(0):
        missing = uint32(0)
        for i in unroll(POLLS):
            if POLLS_EXACT or taker + i * TAKERS < PART_CHUNKS:
                largest = uint32(0)
                take_largest(i)
                if largest == uint32(NOTHING):
                    fetch_mail(i)
                    missing = uint32(1)
        asked = uint32(asked + uint32(1))
        if asked > uint32(MOST_POLLS):
            trap()


def take_largest(i):
    """NOTHING is the largest word: it is among these if it is their maximum."""
    largest = max(
        max(largest, max(arrived[(i) * 4], arrived[(i) * 4 + 1])),
        max(arrived[(i) * 4 + 2], arrived[(i) * 4 + 3]),
    )


def store_mail():
    if awaited:
        for i in unroll(POLLS):
            if POLLS_EXACT or taker + i * TAKERS < PART_CHUNKS:
                st_shared_v4_u32(
                    shared_at(mail_to, i * (TAKERS // BATCH * 16)),
                    (
                        arrived[i * 4],
                        arrived[i * 4 + 1],
                        arrived[i * 4 + 2],
                        arrived[i * 4 + 3],
                    ),
                )


def fetch_mail(i):
    piece = ld_relaxed_gpu_v4_u32(global_at(slot_in, mail_from + i * MAIL_STEP))
    for w in unroll(4):
        arrived[(i) * 4 + w] = piece[w]


def send_word(place, word):
    """A word of s_{t+1}, and NOTHING over that of s_{t-1}, which everybody has read: all of s_t is
    here. s_{t+1} stands in slot t. (Before step 2 there is NOTHING already.)"""
    if more != uint32(0):
        st_relaxed_gpu_u32(global_at(slot_out, int64(place)), word)
    st_relaxed_gpu_u32(global_at(slot_old, int64(place)), uint32(NOTHING))


def close_exchange():
    """The last s_0 that was sent is still there. Who counts last knows that all have read it. (The
    counter begins and ends as NOTHING, like all of the mailbox: as -1.)"""
    if T > 1:
        if thread == 0:
            earlier = atom_acq_rel_add(global_at(mail, COUNTER_AT), uint32(1))
            st_shared_u32(base, earlier)
        cuda.syncthreads()
        if ld_shared_u32(base) == uint32(LAST_TO_LEAVE):
            slot_last = global_at(mail, int64(T - 2 & SLOTS - 1) * SLOT_STEP)
            word = uint32(thread)
            while word < uint32(BATCH // PLANE * SLOT_STEP // 4):
                not_unrolled()
                at = int64(word // uint32(SLOT_STEP // 4)) * PLANE_STEP
                at += int64(word % uint32(SLOT_STEP // 4)) * 4
                st_relaxed_gpu_u32(global_at(slot_last, at), uint32(NOTHING))
                word = unknown_u32(word + uint32(THREADS))
            if thread == 0:
                st_relaxed_gpu_u32(global_at(mail, COUNTER_AT), uint32(NOTHING))
