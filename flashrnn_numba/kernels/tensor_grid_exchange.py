"""How the new s_0 reaches the CTAs of a cooperative launch that share a head: through L2.

For heads whose R no cluster can hold, and cards without clusters. The parts are called where those
of tensor_exchange.py are.

Each group of CTAs has a mailbox [T, 16 bytes of units, BATCH] in global memory, filled with NOTHING
before the launch. What a CTA computes it writes there, 4 bytes a lane, 128 side by side a
warp; who needs it reads it again and again until it is something. Each 32-bit word is its own
message: it is written and read whole, and no word is used twice, so that no fence, flag or barrier
of the grid is needed, which cost more than the data (docs/notes/tensor_forward.md). NOTHING are two
16-bit NaNs, or one of 32 bits, with all bits set; conversion from float32 makes other ones.

Warps that share a sum over k wait only for their own part of s_0, and take turns in fetching it.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def open_exchange():
    """What this thread fetches: 16 bytes of one batch row, of every (TAKERS / BATCH)-th octet."""
    taker = strip * 32 + lane
    mail_from = split * (K_STEPS * 2 * BATCH * 16) + taker * 16
    mail_to = shared_at(base, taker % BATCH * PITCH + (split * (K_STEPS * 2) + taker // BATCH) * 16)
    mail = global_at(
        global_address(mailbox), int64(cuda.blockIdx.x) // CLUSTER * T * (PADDED * BATCH * SIZE)
    )
    awaited = taker % BATCH < rows
    arrived = cuda.local.array(POLLS * 4, uint32)


def await_exchange():
    """s_0 into this step's buffer. What the warps of a split fetch only they read."""
    if t > 0:
        if awaited:
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
                        nothing = uint32(0)
                        for w in unroll(4):
                            if arrived[i * 4 + w] == uint32(0xFFFFFFFF):
                                nothing = uint32(1)
                        if nothing != uint32(0):
                            fetch_mail(i)
                            missing = uint32(1)
                asked = uint32(asked + uint32(1))
                if asked > uint32(MOST_POLLS):
                    trap()
            for i in unroll(POLLS):
                if POLLS_EXACT or taker + i * TAKERS < PART_CHUNKS:
                    st_shared_v4_u32(
                        shared_at(mail_to, odd * uint32(OTHER) + i * (TAKERS // BATCH * 16)),
                        (
                            arrived[i * 4],
                            arrived[i * 4 + 1],
                            arrived[i * 4 + 2],
                            arrived[i * 4 + 3],
                        ),
                    )
        mail = global_at(mail, PADDED * BATCH * SIZE)
        if SPLITS > 1:
            named_barrier_sync(uint32(1 + split), uint32(TAKERS))


def fetch_mail(i):
    piece = ld_relaxed_gpu_v4_u32(global_at(mail, mail_from + i * (TAKERS * 16)))
    for w in unroll(4):
        arrived[(i) * 4 + w] = piece[w]
