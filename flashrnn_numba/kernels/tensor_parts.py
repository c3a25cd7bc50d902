"""Parts of the tensor-core forward kernel, written into the template where they are called.

p: which of the thread's pairs (octet, n tile). The other names are the template's.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841, SIM102

from __future__ import annotations

# before the first step --------------------------------------------------------------------------


def fill_fragments(first, count, target, R, r_strides, r_base, head, unit0, split, group, quad):
    """Fragments of R from global memory to `target`, this lane's place in shared memory, where they
    are after settle_fragments. A device function (tensor_source.py): its text is compiled once,
    however often it is called.

    Numbered in the order of use (ptx.streamed_mma): in each k step the first RESIDENT m tiles (one
    more in the first MORE steps) are in registers, the others are streamed.
    """
    # written out, the addresses of all fragments would take registers that are R's
    f = uint32(0)
    while f < uint32(count):
        not_unrolled()
        index = first + int64(f)
        width = RESIDENT + 1
        begin = int64(0)
        if STREAMED:
            width = max(1, M_TILES - RESIDENT - 1)
            begin = int64(RESIDENT + 1)
        long = MORE * (RESIDENT + 1)
        if STREAMED:
            long = MORE * (M_TILES - RESIDENT - 1)
        k_index = index // width
        m = begin + index % width
        if index >= long:
            if STREAMED:
                k_index = MORE + (index - long) // max(1, M_TILES - RESIDENT)
                m = RESIDENT + (index - long) % max(1, M_TILES - RESIDENT)
            else:
                k_index = MORE + (index - long) // max(1, RESIDENT)
                m = (index - long) % max(1, RESIDENT)
        fragment_at = shared_at(target, f * uint32(512))
        place_fragment()
        f = unknown_u32(f + uint32(1))


def fragment_row(half):
    """Where row group + 8 half of m tile m begins, and whether it is one of R."""
    octet_row = 2 * m + half
    unit = unit0 + octet_row // RECURRENT * 8 + group
    at = octet_row % RECURRENT * r_strides[0] + head * r_strides[1] + unit * r_strides[2]
    valid = octet_row < OCTETS * RECURRENT and unit < D


def fill_buffers():
    """The initial s_0 into the first buffer, zeros elsewhere."""
    for i in range(thread, BUFFERS * BATCH * PADDED, THREADS):
        row = i // PADDED
        unit = i % PADDED
        bits = element(0)
        if row < BATCH and row0 + row < row_end and unit < D:
            if options & HAS_STATES:
                at = (row0 + row) * initial_strides[1] + head * initial_strides[3]
                bits = initial[at + unit * initial_strides[4]]
            else:
                bits = narrow(float32(INITIAL[0]))
        if SIZE == 4:
            bits = bits_f32(f32_to_tf32(bits))
        st_shared_number(shared_at(base, row * PITCH + unit * SIZE), bits)


def own_pairs():
    """Where this thread's pairs lie, and their states before the first step."""
    for p in unroll(OWN):
        # a warp without a pair reads what the last one has
        pair = min(p * SPLITS + split, int64(PAIRS - 1))
        octet = pair // N_TILES
        tile = pair % N_TILES
        local_unit = (strip * OCTETS + octet) * 8
        unit_of[p] = int32(rank * UNITS + local_unit + group)
        own_places(p)
        for j in unroll(BIASES):
            bias[p * BIASES + j] = float32(0.0)
            if unit_of[p] < D:
                bias[p * BIASES + j] = widen(
                    b[j * b_strides[0] + head * b_strides[1] + unit_of[p] * b_strides[2]]
                )
        for e in unroll(COLUMNS):
            row_of[p * COLUMNS + e] = int32(
                min(row0 + tile * TILE_ROWS + COLUMNS * quad + e, B - 1)
            )
            length[p * COLUMNS + e] = int32(T)
            if options & HAS_LENGTHS:
                length[p * COLUMNS + e] = int32(
                    min(max(lengths[row_of[p * COLUMNS + e]], int64(0)), T)
                )
            initial_states(p, e, row_of[p * COLUMNS + e], unit_of[p])
            if MASKED:
                fetch_reset(p, e, int32(1))


def own_chunks():
    """What this thread fetches of the inputs, and writes of the states: where from, where to."""
    for i in unroll(X_CHUNKS):
        item = thread + i * THREADS
        input_gate = min(item // (BATCH * CTA_CHUNKS), int64(INPUTS - 1))
        row = item // CTA_CHUNKS % BATCH
        chunk = item % CTA_CHUNKS
        unit = rank * UNITS + chunk * CHUNK
        x_left[i] = int32(0)
        if item < INPUTS * BATCH * CTA_CHUNKS and row < rows:
            x_left[i] = int32(D - unit)
        at = min(row0 + row, B - 1) * x_strides[0] + input_gate * x_strides[2]
        at += head * x_strides[3] + min(unit, D - 1) * x_strides[4]
        x_from[i] = global_at(global_address(Wx), at * SIZE)
        place = (input_gate * BATCH + row) * TILE_PITCH + chunk * 16
        x_to[i] = held_u32(shared_at(base, RING_AT + place))
    for k in unroll(STATES):
        for i in unroll(OUT_CHUNKS):
            # each state begins with other threads
            item = (thread + k * OUT_SHIFT) % THREADS + i * THREADS
            row = item // CTA_CHUNKS
            chunk = item % CTA_CHUNKS
            unit = rank * UNITS + chunk * CHUNK
            out_left[k * OUT_CHUNKS + i] = int32(0)
            if row < BATCH and row0 + row < row_end:
                out_left[k * OUT_CHUNKS + i] = int32(D - unit)
            at = (k * B + row0 + row) * T * H * D + head * D + unit
            out_to[k * OUT_CHUNKS + i] = global_at(global_address(states), at * SIZE)
            if k == 0 and OUT_FIRST == 1:
                out_from[k * OUT_CHUNKS + i] = held_u32(shared_at(base, row * PITCH + unit * SIZE))
            else:
                at = (k * BATCH + row) * TILE_PITCH + chunk * 16
                out_from[k * OUT_CHUNKS + i] = held_u32(shared_at(base, OUT_AT + at))


def initial_states(p, e, row, unit):
    for k in unroll(STATES):
        current[(p * COLUMNS + e) * STATES + k] = float32(INITIAL[k])
        if k == 0:
            # s_0 feeds R and has the dtype of the arrays
            current[(p * COLUMNS + e) * STATES] = widen(narrow(float32(INITIAL[0])))
        if options & HAS_STATES:
            at = k * initial_strides[0] + row * initial_strides[1]
            at += head * initial_strides[3] + min(unit, D - 1) * initial_strides[4]
            current[(p * COLUMNS + e) * STATES + k] = widen(initial[at])
    if RAGGED:
        if unit_of[p] >= D:
            current[(p * COLUMNS + e) * STATES] = float32(0.0)


# inputs -----------------------------------------------------------------------------------------


def fetch_input(slot):
    """Ask for the inputs of the next step not yet asked for; they belong into slot `slot`."""
    slot_at = (slot) * SLOT
    for i in unroll(X_CHUNKS):
        if X_EXACT or x_left[i] > int32(0):
            if WIDE:
                if GRID:
                    cp_async_cg_16_once(shared_at(x_to[i], slot_at), x_from[i])
                else:
                    cp_async_cg_16(shared_at(x_to[i], slot_at), x_from[i])
            else:
                for u in unroll(CHUNK):
                    if u < x_left[i]:
                        at = global_at(x_from[i], u * x_strides[4] * SIZE)
                        pending[i * CHUNK + u] = ld_global_nc_number(at)
    fetched = int32(fetched + 1)
    if fetched < T:
        for i in unroll(X_CHUNKS):
            x_from[i] = global_at(x_from[i], x_step)
    if WIDE:
        cp_async_commit()


def arrive_input():
    """The inputs of the next step are there (for others: after the next barrier)."""
    if WIDE:
        cp_async_wait_group(AHEAD - 2)
    else:
        for i in unroll(X_CHUNKS):
            if X_EXACT or x_left[i] > int32(0):
                for u in unroll(CHUNK):
                    at = slot_at + SIZE * u
                    st_shared_number(shared_at(x_to[i], at), pending[i * CHUNK + u])


def fetch_reset(p, e, step):
    """restart = does the state become the initial one before this step?"""
    restart[p * COLUMNS + e] = int32(0)
    if options & HAS_RESET and step < length[p * COLUMNS + e]:
        again = int32(unknown_u32(uint32(row_of[p * COLUMNS + e])))
        restart[p * COLUMNS + e] = int32(
            reset[again * reset_strides[0] + (step) * reset_strides[1]]
        )


def restart_states(p):
    for e in unroll(COLUMNS):
        if restart[p * COLUMNS + e] != int32(0):
            # computed again here: the addresses would stay in registers for all steps
            again = int32(unknown_u32(uint32(row_of[p * COLUMNS + e])))
            unit_again = int32(unknown_u32(uint32(unit_of[p])))
            initial_states(p, e, again, unit_again)
        fetch_reset(p, e, int32(t + 2))


# product ----------------------------------------------------------------------------------------


def whole_sums():
    """Each warp has the whole sums of its pairs."""
    for p in unroll(OWN):
        for r in unroll(RECURRENT):
            for e in unroll(COLUMNS):
                sums[(p * RECURRENT + r) * COLUMNS + e] = accumulators[
                    ((p // N_TILES * RECURRENT + r) // 2 * N_TILES + p % N_TILES) * 4
                    + (p // N_TILES * RECURRENT + r) % 2 * 2
                    + e
                ]


def combined_sums():
    """Warps hand the partial sums of pairs that are not theirs to the owner."""
    handed = cuda.local.array(SUM_WORDS, float32)
    for q in unroll(PAIRS):
        for i in unroll(SUM_WORDS):
            handed[i] = accumulators[
                ((q // N_TILES * RECURRENT + i // COLUMNS) // 2 * N_TILES + q % N_TILES) * 4
                + (q // N_TILES * RECURRENT + i // COLUMNS) % 2 * 2
                + i % COLUMNS
            ]
        if split == q % SPLITS:
            for i in unroll(SUM_WORDS):
                sums[q // SPLITS * SUM_WORDS + i] = handed[i]
        else:
            # the owner's own place is left out
            place = q * (SPLITS - 1) + split
            if split > q % SPLITS:
                place -= 1
            for c in unroll(SUM_WORDS // SUM_WIDTH):
                hand_on(shared_at(partial, place * (SUM_WORDS * 128) + c * (SUM_WIDTH * 128)), c)
    cuda.syncthreads()


def hand_on(place, c):
    if SUM_WIDTH == 4:
        st_shared_v4_f32(
            place,
            (handed[(c) * 4], handed[(c) * 4 + 1], handed[(c) * 4 + 2], handed[(c) * 4 + 3]),
        )
    elif SUM_WIDTH == 2:
        st_shared_v2_f32(place, (handed[(c) * 2], handed[(c) * 2 + 1]))
    else:
        st_shared_f32(place, handed[c])


def collect_sums():
    """The owner adds what it was handed."""
    for p in unroll(OWN):
        if EVEN or p * SPLITS + split < PAIRS:
            for s in unroll(SPLITS - 1):
                for c in unroll(SUM_WORDS // SUM_WIDTH):
                    place = ((p * SPLITS + split) * (SPLITS - 1) + s) * (SUM_WORDS * 128)
                    add_handed(shared_at(partial, place + c * (SUM_WIDTH * 128)), p, c)


def add_handed(place, p, c):
    if SUM_WIDTH == 4:
        all_four = ld_shared_v4_f32(place)
        for i in unroll(4):
            sums[(p) * SUM_WORDS + (c) * 4 + i] += all_four[i]
    elif SUM_WIDTH == 2:
        both = ld_shared_v2_f32(place)
        for i in unroll(2):
            sums[(p) * SUM_WORDS + (c) * 2 + i] += both[i]
    else:
        sums[(p) * SUM_WORDS + (c)] += ld_shared_f32(place)


# results ----------------------------------------------------------------------------------------


def load_states(side):
    """The states after the step before from their tiles into registers."""
    if WIDE:
        for k in unroll(STATES):
            for i in unroll(OUT_CHUNKS):
                if out_left[k * OUT_CHUNKS + i] > int32(0):
                    if k == 0 and OUT_FIRST == 1:
                        source = shared_at(out_from[i], (side) * uint32(BATCH * PITCH))
                    else:
                        source = shared_at(out_from[k * OUT_CHUNKS + i], (side) * uint32(OUT_TILE))
                    words_read = ld_shared_v4_u32(source)
                    for w in unroll(4):
                        out_words[(k * OUT_CHUNKS + i) * 4 + w] = words_read[w]


def write_states(side):
    """The states after the step before to global memory."""
    for k in unroll(STATES):
        for i in unroll(OUT_CHUNKS):
            if out_left[k * OUT_CHUNKS + i] > int32(0):
                if WIDE:
                    if GRID:
                        st_global_v4_u32_once(
                            out_to[k * OUT_CHUNKS + i],
                            (
                                out_words[(k * OUT_CHUNKS + i) * 4],
                                out_words[(k * OUT_CHUNKS + i) * 4 + 1],
                                out_words[(k * OUT_CHUNKS + i) * 4 + 2],
                                out_words[(k * OUT_CHUNKS + i) * 4 + 3],
                            ),
                        )
                    else:
                        st_global_v4_u32(
                            out_to[k * OUT_CHUNKS + i],
                            (
                                out_words[(k * OUT_CHUNKS + i) * 4],
                                out_words[(k * OUT_CHUNKS + i) * 4 + 1],
                                out_words[(k * OUT_CHUNKS + i) * 4 + 2],
                                out_words[(k * OUT_CHUNKS + i) * 4 + 3],
                            ),
                        )
                else:
                    if k == 0 and OUT_FIRST == 1:
                        source = shared_at(out_from[i], (side) * uint32(BATCH * PITCH))
                    else:
                        source = shared_at(out_from[k * OUT_CHUNKS + i], (side) * uint32(OUT_TILE))
                    for u in unroll(CHUNK):
                        if u < out_left[k * OUT_CHUNKS + i]:
                            st_global_number(
                                global_at(out_to[k * OUT_CHUNKS + i], SIZE * u),
                                ld_shared_number(shared_at(source, SIZE * u)),
                            )
            out_to[k * OUT_CHUNKS + i] = global_at(out_to[k * OUT_CHUNKS + i], H * D * SIZE)


def write_last():
    for p in unroll(OWN):
        pair = p * SPLITS + split
        for e in unroll(COLUMNS):
            own_row = int32(pair % N_TILES * TILE_ROWS + COLUMNS * quad + e)
            if (EVEN or pair < PAIRS) and own_row < rows and (RAGGED == 0 or unit_of[p] < D):
                for k in unroll(STATES):
                    last[((k * B + row0 + own_row) * H + head) * D + unit_of[p]] = narrow(
                        current[(p * COLUMNS + e) * STATES + k]
                    )


def gates_of(p, e):
    """The pre-activations of an item."""
    for j in unroll(GATES):
        gate[j] = float32(0.0)
        if FROM_X[j] >= 0:
            take_input(p, j, e)
        if FROM_B[j] >= 0:
            gate[j] += bias[p * BIASES + FROM_B[j]]
        if FROM_R[j] >= 0:
            gate[j] += sums[(p * RECURRENT + FROM_R[j]) * COLUMNS + e]
        if KEEP:
            kept[(p * COLUMNS + e) * GATES + j] = gate[j]


def keep_all_gates(step):
    for p in unroll(OWN):
        if EVEN or p * SPLITS + split < PAIRS:
            keep_gates(p, step)


def keep_gates(p, step):
    for e in unroll(COLUMNS):
        item_kept(p, e, step)
        if own_row < rows and (RAGGED == 0 or unit_of[p] < D):
            for i in unroll(GATES // GATE_CHUNK):
                write_gates(
                    global_at(global_address(gates), (kept_at * GATES + i * GATE_CHUNK) * 4),
                    (p * COLUMNS + e) * GATES + i * GATE_CHUNK,
                )


def item_kept(p, e, step):
    """Batch row of the tile, and place in what is kept, without the axis of the gates."""
    own_row = int32((p * SPLITS + split) % N_TILES * TILE_ROWS + COLUMNS * quad + e)
    kept_at = ((row_of[p * COLUMNS + e] * T + (step)) * H + head) * D + unit_of[p]


def write_gates(to, n):
    if GATE_CHUNK == 4:
        st_global_v4_f32(to, (kept[n], kept[(n) + 1], kept[(n) + 2], kept[(n) + 3]))
    elif GATE_CHUNK == 2:
        st_global_v2_f32(to, (kept[n], kept[(n) + 1]))
    else:
        st_global_f32(to, kept[n])
