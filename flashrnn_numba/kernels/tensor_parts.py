"""Parts of the tensor-core forward kernel, written into the template where they are called.

p: which of the thread's pairs (octet, n tile). The other names are the template's.
"""
# mypy: ignore-errors
# ruff: noqa: F821

from __future__ import annotations

# before the first step --------------------------------------------------------------------------


def fill_fragments(first, count, target):
    """Fragments of R from global memory to `target`, this lane's place in shared memory."""
    for f in range(count):
        m = (first + f) // K_STEPS
        k = (split * K_STEPS + (first + f) % K_STEPS) * 16 + 2 * quad
        for half in unroll(2):
            octet_row = 2 * m + half
            unit = unit0 + octet_row // RECURRENT * 8 + group
            at = octet_row % RECURRENT * r_strides[0] + head * r_strides[1] + unit * r_strides[2]
            valid = octet_row < OCTETS * RECURRENT and unit < D
            for k_half in unroll(2):
                low = uint32(0)
                high = uint32(0)
                if PAIRED:
                    if valid and k + 8 * k_half < D:
                        low = ld_global_nc_u32(global_at(r_base, (at + k + 8 * k_half) * 2))
                else:
                    if valid and k + 8 * k_half < D:
                        low = uint32(R[at + (k + 8 * k_half) * r_strides[3]])
                    if valid and k + 8 * k_half + 1 < D:
                        high = uint32(R[at + (k + 8 * k_half + 1) * r_strides[3]])
                words[half + 2 * k_half] = uint32(low | uint32(high << uint32(16)))
        st_shared_v4_u32(shared_at(target, f * 512), (words[0], words[1], words[2], words[3]))


def fill_buffers():
    """Both buffers of s_0: the initial one into the first, zeros elsewhere."""
    for i in range(thread, 2 * BATCH * PADDED, THREADS):
        row = i // PADDED
        unit = i % PADDED
        bits = uint16(0)
        if row < BATCH and row0 + row < B and unit < D:
            if options & HAS_STATES:
                at = (row0 + row) * initial_strides[1] + head * initial_strides[3]
                bits = initial[at + unit * initial_strides[4]]
            else:
                bits = narrow(float32(INITIAL[0]))
        st_shared_u16(shared_at(base, row * PITCH + unit * 2), bits)


def own_pairs():
    """Where this thread's pairs lie, and their states before the first step."""
    for p in unroll(OWN):
        pair = p * SPLITS + split
        valid = EVEN or pair < PAIRS
        octet = pair // N_TILES
        tile = pair % N_TILES
        row = row0 + tile * 8 + group
        unit = unit0 + octet * 8 + 2 * quad
        shared_of[p] = (tile * 8 + group) * PITCH + (unit0 + octet * 8) * 2
        stored[p] = 0
        if valid and row < B and unit < D:
            stored[p] = 1
        out_at[p] = (row * T * H + head) * D + unit
        x_at[p] = global_at(
            global_address(Wx),
            (min(row, B - 1) * x_strides[0] + head * x_strides[3] + min(unit, D - 1 - PAIRED) * x_strides[4])
            * 2,
        )
        unit_of[p] = unit0 + octet * 8 + group
        for j in unroll(BIASES):
            bias[p * BIASES + j] = float32(0.0)
            if unit_of[p] < D:
                bias[p * BIASES + j] = widen(
                    b[j * b_strides[0] + head * b_strides[1] + unit_of[p] * b_strides[2]]
                )
        for e in unroll(2):
            row_of[p * 2 + e] = min(row0 + tile * 8 + 2 * quad + e, B - 1)
            length[p * 2 + e] = T
            if options & HAS_LENGTHS:
                length[p * 2 + e] = min(max(lengths[row_of[p * 2 + e]], int64(0)), T)
            initial_states(p, e)
            if MASKED:
                fetch_reset(p, e, 1)
        written[p * STATES] = transpose_8x8(
            pack_two(current[p * 2 * STATES], current[(p * 2 + 1) * STATES])
        )
        transpose_others(p)


def initial_states(p, e):
    for k in unroll(STATES):
        current[(p * 2 + e) * STATES + k] = float32(INITIAL[k])
        if k == 0:
            # s_0 feeds R and has the dtype of the arrays
            current[(p * 2 + e) * STATES] = widen(narrow(float32(INITIAL[0])))
        if options & HAS_STATES:
            at = k * initial_strides[0] + row_of[p * 2 + e] * initial_strides[1]
            at += head * initial_strides[3] + min(unit_of[p], D - 1) * initial_strides[4]
            current[(p * 2 + e) * STATES + k] = widen(initial[at])
    if RAGGED:
        if unit_of[p] >= D:
            current[(p * 2 + e) * STATES] = float32(0.0)


# inputs -----------------------------------------------------------------------------------------


def fetch_input(slot):
    """Ask for the inputs of the next step not yet asked for."""
    for p in unroll(OWN):
        for j in unroll(INPUTS):
            if PAIRED:
                target = shared_at(
                    ring, ((slot) * (OWN * INPUTS) + p * INPUTS + j) * (4 * THREADS)
                )
                cp_async_ca_4(target, global_at(x_at[p], j * x_gate))
            else:
                low = uint32(ld_global_nc_u16(global_at(x_at[p], j * x_gate)))
                high = uint32(0)
                if unit0 + (p * SPLITS + split) // N_TILES * 8 + 2 * quad + 1 < D:
                    high = uint32(ld_global_nc_u16(global_at(x_at[p], j * x_gate + x_strides[4] * 2)))
                pending[p * INPUTS + j] = uint32(low | uint32(high << uint32(16)))
    fetched += 1
    if fetched < T:
        for p in unroll(OWN):
            x_at[p] = global_at(x_at[p], x_step)
    if PAIRED:
        cp_async_commit()


def read_input():
    """x = the inputs of this step, in the accumulators' view; then ask for a later step's."""
    if PAIRED:
        cp_async_wait_group(AHEAD - 1)
        slot_at = shared_at(ring, (t & (AHEAD - 1)) * (OWN * INPUTS * 4 * THREADS))
        for p in unroll(OWN):
            for j in unroll(INPUTS):
                pending[p * INPUTS + j] = ld_shared_u32(
                    shared_at(slot_at, (p * INPUTS + j) * (4 * THREADS))
                )
    for p in unroll(OWN):
        for j in unroll(INPUTS):
            both = widen_two(transpose_8x8(pending[p * INPUTS + j]))
            x[(p * INPUTS + j) * 2] = both[0]
            x[(p * INPUTS + j) * 2 + 1] = both[1]
    fetch_input(t & (AHEAD - 1))


def fetch_reset(p, e, step):
    """restart = does the state become the initial one before this step?"""
    restart[p * 2 + e] = 0
    if options & HAS_RESET and step < length[p * 2 + e]:
        restart[p * 2 + e] = reset[row_of[p * 2 + e] * reset_strides[0] + (step) * reset_strides[1]]


def restart_states(p):
    for e in unroll(2):
        if restart[p * 2 + e] != 0:
            initial_states(p, e)
        fetch_reset(p, e, t + 2)


# product ----------------------------------------------------------------------------------------


def whole_sums():
    """Each warp has the whole sums of its pairs."""
    for p in unroll(OWN):
        for r in unroll(RECURRENT):
            for e in unroll(2):
                sums[(p * RECURRENT + r) * 2 + e] = accumulators[
                    ((p // N_TILES * RECURRENT + r) // 2 * N_TILES + p % N_TILES) * 4
                    + (p // N_TILES * RECURRENT + r) % 2 * 2
                    + e
                ]


def combined_sums():
    """Warps hand the partial sums of pairs that are not theirs to the owner."""
    for q in unroll(PAIRS):
        if split == q % SPLITS:
            for r in unroll(RECURRENT):
                for e in unroll(2):
                    sums[(q // SPLITS * RECURRENT + r) * 2 + e] = accumulators[
                        ((q // N_TILES * RECURRENT + r) // 2 * N_TILES + q % N_TILES) * 4
                        + (q // N_TILES * RECURRENT + r) % 2 * 2
                        + e
                    ]
        else:
            # the owner's own place is left out
            place = q * (SPLITS - 1) + split
            if split > q % SPLITS:
                place -= 1
            for r in unroll(RECURRENT):
                st_shared_v2_f32(
                    shared_at(partial, (place * RECURRENT + r) * 256),
                    (
                        accumulators[
                            ((q // N_TILES * RECURRENT + r) // 2 * N_TILES + q % N_TILES) * 4
                            + (q // N_TILES * RECURRENT + r) % 2 * 2
                        ],
                        accumulators[
                            ((q // N_TILES * RECURRENT + r) // 2 * N_TILES + q % N_TILES) * 4
                            + (q // N_TILES * RECURRENT + r) % 2 * 2
                            + 1
                        ],
                    ),
                )
    named_barrier_sync(uint32(strip + 1), uint32(SPLITS * 32))
    for p in unroll(OWN):
        if EVEN or p * SPLITS + split < PAIRS:
            for s in unroll(SPLITS - 1):
                for r in unroll(RECURRENT):
                    place = (p * SPLITS + split) * (SPLITS - 1) + s
                    both = ld_shared_v2_f32(shared_at(partial, (place * RECURRENT + r) * 256))
                    sums[(p * RECURRENT + r) * 2] += both[0]
                    sums[(p * RECURRENT + r) * 2 + 1] += both[1]


# results ----------------------------------------------------------------------------------------


def transpose_others(p):
    """written = the states but s_0, rounded, in the memory view."""
    for k in unroll(STATES - 1):
        written[p * STATES + k + 1] = transpose_8x8(
            pack_two(current[p * 2 * STATES + k + 1], current[(p * 2 + 1) * STATES + k + 1])
        )


def write_states():
    """The states after the step before."""
    for p in unroll(OWN):
        if stored[p] != 0:
            for k in unroll(STATES):
                write_word(states, k * state_plane + out_at[p], written[p * STATES + k])
        out_at[p] += state_step


def write_last():
    for p in unroll(OWN):
        if stored[p] != 0:
            pair = p * SPLITS + split
            row = row0 + pair % N_TILES * 8 + group
            at = (row * H + head) * D + unit0 + pair // N_TILES * 8 + 2 * quad
            for k in unroll(STATES):
                write_word(last, k * B * H * D + at, written[p * STATES + k])


def write_word(array, at, word):
    if PAIRED:
        st_global_u32(global_at(global_address(array), (at) * 2), word)
    else:
        array[at] = uint16(word & uint32(0xFFFF))
        if unit0 + (p * SPLITS + split) // N_TILES * 8 + 2 * quad + 1 < D:
            array[at + 1] = uint16(word >> uint32(16))


def keep_gates(p, e):
    pair = p * SPLITS + split
    if row0 + pair % N_TILES * 8 + 2 * quad + e < B and unit_of[p] < D:
        at = ((row_of[p * 2 + e] * T + t) * GATES * H + head) * D + unit_of[p]
        for j in unroll(GATES):
            gates[at + j * H * D] = gate[j]


def keep_exact(p):
    pair = p * SPLITS + split
    for e in unroll(2):
        if row0 + pair % N_TILES * 8 + 2 * quad + e < B and unit_of[p] < D:
            at = ((row_of[p * 2 + e] * T + t) * H + head) * D + unit_of[p]
            for k in unroll(STATES - 1):
                exact[k * state_plane + at] = current[(p * 2 + e) * STATES + k + 1]
