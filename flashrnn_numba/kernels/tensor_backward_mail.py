"""Parts of the tensor-core backward kernel: partial sums from block to block through L2.

For heads whose R no cluster can hold, and cards without clusters: CLUSTER blocks of a cooperative
launch share a head and a batch tile. Each has a mailbox in global memory with a place for every
sender, [slot][receiver][sender][m tile][n tile][row octet][quad], four 16-bit numbers a lane.

These 64 bits are a message of their own: they are written and read whole, and their lowest bit is
the *mark* that tells a new message from that of two steps ago. So there are no fences, flags or
barriers of the grid, which cost more than the data. The receiver asks for all that a thread is to
fetch, and for all of it again while something is missing.

Two slots are enough: nobody sends for step n + 2 before having received all of step n + 1, and each
block sends that after all its threads have fetched step n (a block barrier lies between). The marks
of a slot are 1, 0, 1, 0, ...; the mailbox is zeros before the launch.

A quad of lanes takes the same *letter* (16 bytes: the place of two lanes) of four senders, and of
other four in its next turns. Tensor cores add up: the letters are A (rows: quads; k: unit of the
pair, sender, lane's half), B is 1 where unit and half are those of the column.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def open_mail() -> None:
    """Where this warp's partial sums go, and which ones this thread takes."""
    box = global_at(global_address(mail), int64(place_in_launch) * GROUP_BYTES)
    m_tile = int32(m_group * M_TILES)
    outbox = global_at(
        box,
        int64(m_tile // OWN_TILES) * RECEIVER_BYTES
        + rank * MESSAGE_BYTES
        + m_tile % OWN_TILES * M_TILE_BYTES
        + (group * QUADS + quad) * 8,
    )
    letter = int32((tid >> 2) % LETTERS)
    source = int32((tid >> 2) // LETTERS)
    sender = int32(source * 4 + quad if source < SOURCES else CLUSTER)
    inbox = global_at(
        box,
        int64(rank) * RECEIVER_BYTES + (source * 4 + quad) * MESSAGE_BYTES + letter * 16,
    )
    mail_slot = int64(0)
    low = cuda.local.array(TURNS, uint64)
    high = cuda.local.array(TURNS, uint64)
    choose_unit = (
        uint32(ONE if group == 0 else ONE << 16 if group == 1 else 0),
        uint32(ONE if group == 2 else ONE << 16 if group == 3 else 0),
    )
    # lanes 0 and 1 of a quad have the letter's two lanes: two units and columns each
    four = int32(letter * 2 + (quad & 1))
    octet_row = int32(four // QUADS)
    four = int32(octet_row * QUADS + (four % QUADS ^ swizzle(int32(octet_row % 8))))
    leave_at = shared_at(shared, SUMS_AT + source * SOURCE_BYTES + four * 16)


def post_sums(first, count) -> None:
    """To each block the partial sums of its own units, from the m tiles that `acc` is of."""
    mark = uint32(1 - ((n >> 1) & 1))
    slot_out = global_at(outbox, mail_slot)
    for m in unroll(count):
        for c in unroll(N_TILES):
            if quad < QUADS:
                post(
                    (m * N_TILES + c) * 4,
                    (first + m) // OWN_TILES * RECEIVER_BYTES
                    + (first + m) % OWN_TILES * M_TILE_BYTES
                    + c * (64 * QUADS),
                )


def post(first, offset) -> None:
    st_relaxed_gpu_u64(
        global_at(slot_out, offset),
        joined(
            marked(pack(acc[first], acc[first + 2]), mark), pack(acc[first + 1], acc[first + 3])
        ),
    )


def take_mail() -> None:
    """Adds up what this thread's quad is to take, and leaves it where add_sums finds it."""
    expected = uint64(1 - ((n >> 1) & 1))
    slot_in = global_at(inbox, mail_slot)
    total = (real(0.0), real(0.0), real(0.0), real(0.0))
    for r in unroll(ROUNDS):
        await_letters(r)
        for i in unroll(TURNS):
            total = mma_step(
                (unmarked(low[i]), upper(low[i]), unmarked(high[i]), upper(high[i])),
                choose_unit,
                total,
            )
    if sender < CLUSTER and quad < 2:
        st_shared_v4_f32(leave_at, total)
    mail_slot = SLOT_BYTES - mail_slot


def await_letters(r) -> None:
    """The letters of a round: all on their way before the first is looked at, and all again while
    one is missing."""
    for i in unroll(TURNS):
        # what nobody sends: zeros that are there
        low[i] = expected
        high[i] = expected
    wrong = uint32(1)
    asked = int32(0)
    while wrong & uint32(1) != uint32(0):
        for i in unroll(TURNS):
            if EXACT or sender + ((r) * TURNS + i) * TAKERS < CLUSTER:
                open_letter((r) * TURNS + i, i)
        wrong = uint32(0)
        for i in unroll(TURNS):
            wrong |= differences(low[i], high[i], expected)
        asked = int32(asked + 1)
        if asked > MOST_POLLS:
            trap()


def open_letter(number, i) -> None:
    two = ld_relaxed_gpu_v2_u64(global_at(slot_in, (number) * (TAKERS * MESSAGE_BYTES)))
    low[i] = two[0]
    high[i] = two[1]
