"""Parts of the tensor-core backward kernel: partial sums from block to block through L2.

For heads whose R no cluster can hold, and cards without clusters: CLUSTER blocks of a cooperative
launch share a head and a batch tile. Each has a mailbox in global memory with a place for every
sender, [slot][receiver][sender][m tile][n tile][row octet][quad], MAIL bytes a lane.

A word of 64 bits is a message of its own: it is written and read whole, and its lowest bit is the
*mark* that tells a new message from that of two steps ago. So there are no fences, flags or
barriers of the grid, which cost more than the data. The receiver asks for all that a thread is to
fetch, and asks again for what is not there yet.

Two slots are enough: nobody sends for step n + 2 before having received all of step n + 1, and each
block sends that after all its threads have fetched step n (a block barrier lies between). The marks
of a slot are 1, 0, 1, 0, ...; the mailbox is zeros before the launch.

The threads of a block take the 16-byte chunks of TAKERS senders at a time, add up what they have
taken, and leave TAKERS partial sums in shared memory, always in the same order.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def open_mail() -> None:
    """Where this warp's partial sums go, and which ones this thread takes."""
    box = ptx.global_at(ptx.global_address(mail), place_in_launch * GROUP_BYTES)
    m_tile = int32(m_group * M_TILES)
    outbox = ptx.global_at(
        box,
        int64(m_tile // OWN_TILES) * RECEIVER_BYTES
        + rank * MESSAGE_BYTES
        + m_tile % OWN_TILES * M_TILE_BYTES
        + (group * QUADS + quad) * MAIL,
    )
    taker = int32(tid // CHUNKS)
    if TAKERS * CHUNKS < THREADS:
        taker = int32(taker if taker < TAKERS else CLUSTER)
    inbox = ptx.global_at(box, int64(rank) * RECEIVER_BYTES + tid * 16)
    low = cuda.local.array(LETTERS, uint64)
    high = cuda.local.array(LETTERS, uint64)
    taken = cuda.local.array(32 // MAIL * 2, float32)
    # two units and columns each: 4 numbers
    leave_at = cuda.local.array(16 // MAIL, uint32)
    for e in unroll(16 // MAIL):
        four = int32(tid % CHUNKS * (16 // MAIL) + e)
        octet_row = int32(four // QUADS)
        to = octet_row * QUADS + (four % QUADS ^ swizzle(int32(octet_row % 8)))
        leave_at[e] = ptx.shared_at(
            shared, SUMS_AT + int32(tid // CHUNKS) * SOURCE_BYTES + int32(to) * 16
        )


def post_sums(first, count) -> None:
    """To each block the partial sums of its own units, from the m tiles that `acc` is of."""
    mark = uint32(1 - ((n >> 1) & 1))
    slot_out = ptx.global_at(outbox, (n & 1) * SLOT_BYTES)
    for m in unroll(count):
        for c in unroll(N_TILES):
            if quad < QUADS:
                post(
                    (m * N_TILES + c) * 4,
                    (first + m) // OWN_TILES * RECEIVER_BYTES
                    + (first + m) % OWN_TILES * M_TILE_BYTES
                    + c * (8 * QUADS * MAIL),
                )


def post(first, offset) -> None:
    to = ptx.global_at(slot_out, offset)
    if MAIL == 8:
        word = marked(pack(acc[first], acc[first + 2]), mark)
        ptx.st_relaxed_gpu_u64(to, joined(word, pack(acc[first + 1], acc[first + 3])))
    else:
        word = marked(ptx.f32_bits(acc[first]), mark)
        other = marked(ptx.f32_bits(acc[first + 1]), mark)
        ptx.st_relaxed_gpu_v2_u64(
            to,
            (
                joined(word, ptx.f32_bits(acc[first + 2])),
                joined(other, ptx.f32_bits(acc[first + 3])),
            ),
        )


def take_mail() -> None:
    """Adds up what this thread is to take, and leaves it where add_sums finds it."""
    expected = uint64(1 - ((n >> 1) & 1))
    slot_in = ptx.global_at(inbox, (n & 1) * SLOT_BYTES)
    for v in unroll(32 // MAIL * 2):
        taken[v] = real(0.0)
    for r in unroll(ROUNDS):
        await_letters(r)
        for i in unroll(LETTERS):
            add_letter(i)
    if EXACT or taker < CLUSTER:
        for e in unroll(16 // MAIL):
            ptx.st_shared_v4_f32(
                leave_at[e],
                (taken[4 * e], taken[4 * e + 1], taken[4 * e + 2], taken[4 * e + 3]),
            )


def await_letters(r) -> None:
    """The letters of a round: all on their way before the first is looked at."""
    for i in unroll(LETTERS):
        # what nobody sends: zeros that are there
        low[i] = expected
        high[i] = expected
        if EXACT or taker + ((r) * LETTERS + i) * TAKERS < CLUSTER:
            open_letter((r) * LETTERS + i, i)
    missing = int32(1)
    asked = int32(0)
    while missing != 0:
        missing = int32(0)
        for i in unroll(LETTERS):
            if ((low[i] ^ expected) | (high[i] ^ expected)) & uint64(1) != uint64(0):
                missing = int32(1)
                open_letter((r) * LETTERS + i, i)
        asked = int32(asked + 1)
        if asked > MOST_POLLS:
            ptx.trap()


def open_letter(number, i) -> None:
    letter = ptx.ld_relaxed_gpu_v2_u64(ptx.global_at(slot_in, (number) * (TAKERS * MESSAGE_BYTES)))
    low[i] = letter[0]
    high[i] = letter[1]


def add_letter(i) -> None:
    if MAIL == 8:
        add_pair(0, unmarked(low[i]))
        add_pair(2, uint32(low[i] >> uint64(32)))
        add_pair(4, unmarked(high[i]))
        add_pair(6, uint32(high[i] >> uint64(32)))
    else:
        taken[0] += ptx.bits_f32(unmarked(low[i]))
        taken[1] += ptx.bits_f32(uint32(low[i] >> uint64(32)))
        taken[2] += ptx.bits_f32(unmarked(high[i]))
        taken[3] += ptx.bits_f32(uint32(high[i] >> uint64(32)))


def add_pair(v, word) -> None:
    two = unpack(word)
    taken[v] += two[0]
    taken[v + 1] += two[1]
