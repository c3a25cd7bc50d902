"""Parts of the tensor-core forward kernel for float32 with products in TF32.

A thread moves its own numbers, unit `group` of rows 2 quad and 2 quad + 1 (row quad where columns
are spread), one by one; only s_0 is rounded, on its way to who multiplies with it.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def place_fragment():
    """A lane's words of fragment (m, k_index) of R on their way to `fragment_at`."""
    k = (split * K_STEPS + k_index) * 8 + quad
    if ALONE:
        k = (split * K_STEPS + k_index) // 2 * 16 + 4 * quad + k_index % 2 * 2
    for half in unroll(2):
        fragment_row(half)
        for k_half in unroll(2):
            word_at = shared_at(fragment_at, 4 * half + 8 * k_half)
            if valid and k + K_HALF * k_half < D:
                number = (at + (k + K_HALF * k_half) * r_strides[3]) * 4
                cp_async_ca_4(word_at, global_at(r_base, number))
            else:
                st_shared_u32(word_at, uint32(0))


def settle_fragments(count, target):
    """What place_fragment asked for is there, for this lane, and rounded."""
    cp_async_wait_all()
    f = uint32(0)
    while f < uint32(count):
        not_unrolled()
        fragment_at = shared_at(target, f * uint32(512))
        exact_words = ld_shared_v4_f32(fragment_at)
        st_shared_v4_u32(
            fragment_at,
            (
                f32_to_tf32(exact_words[0]),
                f32_to_tf32(exact_words[1]),
                f32_to_tf32(exact_words[2]),
                f32_to_tf32(exact_words[3]),
            ),
        )
        f = unknown_u32(f + uint32(1))


def own_places(p):
    """Where the pair's s_0 goes, its states on their way out, and its inputs."""
    first_row = tile * TILE_ROWS + COLUMNS * quad
    place = (rank * UNITS + local_unit) * 4
    if GRID:
        chunk = rank * CTA_CHUNKS + (strip * OCTETS + octet) * 2 + group // 4
        place = chunk * CHUNK_STEP + first_row // PLANE * PLANE_STEP + first_row % PLANE * 16
        place_of[p] = held_u32(uint32(place + group % 4 * 4))
    elif CLUSTER > 1:
        sent = lane % (2 * TILE_ROWS)
        place += (tile * TILE_ROWS + sent // 2) * PITCH + sent % 2 * 16
        place_of[p] = held_u32(uint32(place))
    else:
        place_of[p] = held_u32(shared_at(base, first_row * PITCH + place + group * 4))
    place = first_row * TILE_PITCH + (local_unit + group) * 4
    out_of[p] = held_u32(shared_at(base, OUT_AT + place))
    x_of[p] = held_u32(shared_at(base, RING_AT + place))


def read_input():
    """x = the inputs of this step."""
    for p in unroll(OWN):
        for j in unroll(INPUTS):
            for e in unroll(COLUMNS):
                at = (t & (AHEAD - 1)) * SLOT + (j * BATCH + e) * TILE_PITCH
                x[p * X_WORDS + j * COLUMNS + e] = ld_shared_u32(shared_at(x_of[p], at))


def take_input(p, j, e):
    gate[j] = bits_f32(x[(p) * X_WORDS + FROM_X[j] * COLUMNS + e])


def publish_states(p):
    """The new states out, s_0 to who multiplies with it."""
    if MASKED:
        out_states(p)
        restart_states(p)
    publish(p)
    if MASKED == 0:
        out_states(p)


def out_states(p):
    for k in unroll(STATES):
        for e in unroll(COLUMNS):
            at = (uint32(1) - odd) * uint32(OUT_TILE)
            at += uint32(k * (BATCH * TILE_PITCH) + e * TILE_PITCH)
            st_shared_f32(shared_at(out_of[p], at), current[(p * COLUMNS + e) * STATES + k])


def sending_lanes():
    """A row of an octet is two times 16 bytes; 32 / (2 TILE_ROWS) lanes share the sending."""
    first_receiver = lane // (2 * TILE_ROWS)


def gather_row(p):
    """The 16 bytes that this lane sends, and their row of the tile."""
    sent = lane % (2 * TILE_ROWS)
    # who has the first of the four units, and in which of its columns
    holder = uint32(sent % 2 * 16 + sent // 2 // COLUMNS)
    for i in unroll(4):
        four[i] = shfl_idx(
            uint32(0xFFFFFFFF), f32_to_tf32(current[p * COLUMNS * STATES]), holder + uint32(4 * i)
        )
        if COLUMNS == 2:
            second = shfl_idx(
                uint32(0xFFFFFFFF),
                f32_to_tf32(current[(p * COLUMNS + 1) * STATES]),
                holder + uint32(4 * i),
            )
            if sent // 2 % 2 == 1:
                four[i] = second
    row_words = (four[0], four[1], four[2], four[3])
    row = (p * SPLITS + split) % N_TILES * TILE_ROWS + sent // 2


def store(p):
    """Within one CTA."""
    for e in unroll(COLUMNS):
        to = (uint32(1) - odd) * uint32(BATCH * PITCH) + uint32(e * PITCH)
        rounded = f32_to_tf32(current[(p * COLUMNS + e) * STATES])
        st_shared_u32(shared_at(place_of[p], to), rounded)


def post(p):
    """Into the mailbox."""
    for e in unroll(COLUMNS):
        row = (p * SPLITS + split) % N_TILES * TILE_ROWS + COLUMNS * quad + e
        if int32(row) < rows:
            rounded = f32_to_tf32(current[(p * COLUMNS + e) * STATES])
            send_word(place_of[p] + uint32(16 * e), rounded)
