"""Parts of the tensor-core forward kernel for numbers of 16 bits.

In the accumulators a thread has unit `group` and rows 2 quad and 2 quad + 1 of a pair; in memory a
word has units 2 quad and 2 quad + 1 of row `group`. A transposed 8 x 8 matrix of 16-bit numbers
leads from one to the other (ldmatrix.trans, movmatrix).
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def place_fragment():
    """A lane's words of fragment (m, k_index) of R on their way to `fragment_at`."""
    k = (split * K_STEPS + k_index) * 16 + 2 * quad
    if ALONE:
        k = (split * K_STEPS + k_index) // 2 * 32 + 8 * quad + k_index % 2 * 4
    for half in unroll(2):
        fragment_row(half)
        for k_half in unroll(2):
            word_at = shared_at(fragment_at, 4 * half + 8 * k_half)
            if WIDE:
                if valid and k + K_HALF * k_half < D:
                    cp_async_ca_4(word_at, global_at(r_base, (at + k + K_HALF * k_half) * 2))
                else:
                    st_shared_u32(word_at, uint32(0))
            else:
                low = uint32(0)
                high = uint32(0)
                if valid and k + K_HALF * k_half < D:
                    low = uint32(R[at + (k + K_HALF * k_half) * r_strides[3]])
                if valid and k + K_HALF * k_half + 1 < D:
                    high = uint32(R[at + (k + K_HALF * k_half + 1) * r_strides[3]])
                st_shared_u32(word_at, uint32(low | uint32(high << uint32(16))))


def settle_fragments(count, target):
    """What place_fragment asked for is there, for this lane."""
    cp_async_wait_all()


def own_places(p):
    """Where the pair's s_0 goes, its states on their way out, and its inputs."""
    row = tile * TILE_ROWS + group // SPREAD
    place = row * PITCH + (rank * UNITS + local_unit) * 2
    if GRID:
        chunk = rank * CTA_CHUNKS + strip * OCTETS + octet
        place = chunk * CHUNK_STEP + row // PLANE * PLANE_STEP + row % PLANE * 16
        place_of[p] = held_u32(uint32(place + quad * 4))
    elif CLUSTER > 1:
        place_of[p] = held_u32(uint32(place))
    else:
        place_of[p] = held_u32(shared_at(base, place + quad * 4))
    place = row * TILE_PITCH + local_unit * 2 + quad * 4
    out_of[p] = held_u32(shared_at(base, OUT_AT + place))
    for i in unroll(X_LOADS):
        matrix = min(i * 4 + (lane >> 3), int64(INPUTS - 1))
        at = (matrix * BATCH + tile * TILE_ROWS + (lane & 7) // SPREAD) * TILE_PITCH
        x_of[p * X_PLACES + i] = held_u32(shared_at(base, RING_AT + at + local_unit * 2))


def read_input():
    """x = the inputs of this step as words of two batch rows, in the accumulators' view."""
    for p in unroll(OWN):
        for i in unroll(X_LOADS):
            at = (t & (AHEAD - 1)) * SLOT
            matrices = ldmatrix_x4_trans(shared_at(x_of[p * X_PLACES + i], at))
            for m in unroll(4):
                x[p * X_WORDS + i * 4 + m] = matrices[m]


def take_input(p, j, e):
    gate[j] = widen_two(x[(p) * X_WORDS + FROM_X[j]])[e]


def publish_states(p):
    """The new states out, s_0 rounded to who multiplies with it."""
    pack_state(p, 0)
    for e in unroll(COLUMNS):
        current[(p * COLUMNS + e) * STATES] = widen_two(word)[e]
    published = transpose_8x8(word)
    if MASKED:
        out_states(p, published)
        if KEEP:
            keep_exact(p)
        restart_states(p)
        pack_state(p, 0)
        published = transpose_8x8(word)
    publish(p)
    if MASKED == 0:
        out_states(p, published)
        if KEEP:
            keep_exact(p)


def pack_state(p, k):
    """word = state k of both batch rows; of the one and of nothing where columns are spread."""
    if COLUMNS == 2:
        word = pack_two(current[p * 2 * STATES + k], current[(p * 2 + 1) * STATES + k])
    else:
        word = pack_two(current[p * STATES + k], float32(0.0))


def out_states(p, first_state):
    """The new states into their tiles; s_0 only if it is not read from where it is published."""
    if OUT_FIRST == 0:
        out_state(p, 0, first_state)
    for k in unroll(STATES - 1):
        pack_state(p, k + 1)
        out_state(p, k + 1, transpose_8x8(word))


def out_state(p, k, transposed):
    at = (uint32(1) - odd) * uint32(OUT_TILE) + uint32((k) * (BATCH * TILE_PITCH))
    moved = transposed  # all lanes take part in what computes it
    if group % SPREAD == 0:
        st_shared_u32(shared_at(out_of[p], at), moved)


def keep_exact(p):
    """All states but s_0."""
    for e in unroll(COLUMNS):
        item_kept(p, e, t)
        if own_row < rows and (RAGGED == 0 or unit_of[p] < D):
            for k in unroll(STATES - 1):
                exact[k * state_plane + kept_at] = current[(p * COLUMNS + e) * STATES + k + 1]


def sending_lanes():
    """Four lanes together hold the 16 bytes of a row; where columns are spread, two rows of lanes
    share the sending of one."""
    first_receiver = quad + group % SPREAD * 4


def gather_row(p):
    """The 16 bytes that this lane sends, and their row of the tile."""
    first_lane = uint32(lane - quad - group % SPREAD * 4)
    row_words = (
        shfl_idx(uint32(0xFFFFFFFF), published, first_lane),
        shfl_idx(uint32(0xFFFFFFFF), published, first_lane + uint32(1)),
        shfl_idx(uint32(0xFFFFFFFF), published, first_lane + uint32(2)),
        shfl_idx(uint32(0xFFFFFFFF), published, first_lane + uint32(3)),
    )
    row = (p * SPLITS + split) % N_TILES * TILE_ROWS + group // SPREAD


def store(p):
    """Within one CTA."""
    if group % SPREAD == 0:
        to = (uint32(1) - odd) * uint32(BATCH * PITCH)
        st_shared_u32(shared_at(place_of[p], to), published)


def post(p):
    """Into the mailbox, a word a lane."""
    row = (p * SPLITS + split) % N_TILES * TILE_ROWS + group // SPREAD
    if group % SPREAD == 0 and int32(row) < rows:
        send_word(place_of[p], published)
