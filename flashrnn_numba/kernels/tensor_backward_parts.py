"""Parts of the tensor-core backward kernel: what a thread owns, reads and writes.

EACH: neighbouring units that a thread owns together (1 or 2, a *pair* either way). WIDE: two, read
and written by one instruction, for which D must be even.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def load_rows(first, count, target) -> None:
    """Rows of fragments (one m tile and gate each) from R to shared memory, in fragment order."""
    for n in range(count * (K_STEPS // STAGE_STEPS)):
        # many addresses at once would take registers that are R's
        ptx.not_unrolled()
        r = int32(n // (K_STEPS // STAGE_STEPS))
        k = int32(n % (K_STEPS // STAGE_STEPS) * (STAGE_STEPS * K_UNITS // K_STEPS))
        m = int32((first + r) // PART_GATES)
        j = int32((first + r) % PART_GATES)
        at = j * r_strides[0] + k * r_strides[2] + 16 * m * r_strides[3]
        base = ptx.global_at(source, SIZE * at)
        unit = int32(old_unit + 16 * m)
        inside = int32(8 * (unit < D) + 8 * (unit + 1 < D))
        stage(
            (base,),
            SIZE * r_strides[3],
            SIZE * r_strides[2],
            (inside,),
            int32(D - new_unit - k),
            ptx.shared_at(target, n * (STAGE_STEPS * 512)),
        )


def own_pairs() -> None:
    """Which units and batch rows this thread owns for the whole sequence."""
    for p in unroll(PAIRS):
        if DIRECT:
            # where the accumulators of the product lie
            own_accumulators(p)
        else:
            own_sums(p)
        row = row0 + column
        if RAGGED:
            # threads of padding that all copied the last unit's inputs would keep everybody waiting
            exists = exists and unit < D
        active[p] = 1 if exists else 0
        line[p] = min(row, B - 1) - row0
        unit_of[p] = min(unit, D - EACH) if WIDE else min(unit, D - 1)
        shift[p] = (unit_of[p] & 1) * 16 if SIZE == 2 and EACH == 1 and D % 2 == 0 else 0
        local = unit - rank * UNITS
        place = local // K_UNITS * (RECURRENT * K_UNITS) + local % K_UNITS
        slot[p] = ptx.shared_at(shared, TILE_AT + column * TILE_PITCH + SIZE * place)
        for e in unroll(EACH):
            real_item = exists and row < B and unit + e < D
            stored[p * EACH + e] = 1 if real_item else 0
            beside[p * EACH + e] = e if unit + e < D else 0
            last = T
            if options & HAS_LENGTHS and real_item:
                last = min(max(int64(lengths[row]), int64(0)), T)
            length[p * EACH + e] = int32(last if real_item else 0)
        if WIDE:
            # both units of a pair are in the problem or out of it: one register for both
            length[p * 2 + 1] = length[p * 2]


def own_accumulators(p) -> None:
    """Pair p of M_TILES x N_TILES x (two columns); small tiles are spread over the quad's lanes."""
    m_tile = m_group * M_TILES + p // PAIRS_PER_TILE
    unit = int32(16 * m_tile + 2 * group)
    exists = True
    if TILE >= 8:
        column = int32(p % PAIRS_PER_TILE // 2 * 8 + 2 * quad + p % 2)
    elif TILE == 4:
        column = quad
    elif TILE == 2:
        column = int32(quad & 1)
        unit = int32(unit + (quad >> 1))
    else:
        column = int32(0)
        unit = int32(unit + (quad & 1))
        exists = quad < 2


def own_sums(p) -> None:
    """Pair p of the block's units and rows, and its place in the partial sums."""
    index = int32(tid + p * THREADS)
    exists = index < PAIRS_TOTAL
    index = int32(min(index, PAIRS_TOTAL - 1))
    # neighbouring lanes have neighbouring units: whole lines of global memory
    inner = int32(index % (16 // EACH))
    column = int32(index // (16 // EACH) % COLUMNS)
    tile_index = int32(index // (16 // EACH * COLUMNS))
    octet_row = int32(inner // (2 // EACH))
    place = int32((tile_index * 8 + octet_row) * QUADS + (column // 2 ^ swizzle(octet_row)))
    place = int32(place * CHUNK + column % 2 * (CHUNK // 2) + inner % (2 // EACH) * (CHUNK // 4))
    sum_at[p] = ptx.shared_at(shared, SUMS_AT + place)
    unit = int32(rank * UNITS + tile_index // N_TILES * 16 + inner * EACH)
    column = int32(column + tile_index % N_TILES * 8)
    exists = exists and column < TILE
    column = int32(min(column, TILE - 1))


def point_at_last_step() -> None:
    """Addresses that all threads of the block share, and this thread's indices from there on."""
    units = H * D
    gate_step, state_step = GATES * units, units
    at = (row0 * T + T - 1) * units + head * D
    gates_in = ptx.global_at(
        ptx.global_address(gates), GATE_BYTES * (at * GATES - head * D * (GATES - 1))
    )
    gates_out = ptx.global_at(
        ptx.global_address(dgates), SIZE * (at * GATES - head * D * (GATES - 1))
    )
    previous_out = ptx.global_at(ptx.global_address(previous), SIZE * at)
    s0_in = ptx.global_at(ptx.global_address(states), SIZE * (at - units))
    for k in unroll(STATES):
        if k > 0:
            others_in[k] = ptx.global_at(
                ptx.global_address(others), OTHER_BYTES * ((k - 1) * B * T * units + at - units)
            )
        d_in[k] = ptx.global_at(
            ptx.global_address(dstates),
            SIZE
            * (
                k * d_strides[0]
                + row0 * d_strides[1]
                + (T - 1) * d_strides[2]
                + head * d_strides[3]
            ),
        )
    gate_pitch = int32(units)
    for p in unroll(PAIRS):
        gate_index[p] = line[p] * (T * GATES * units) + unit_of[p]
        state_index[p] = line[p] * (T * units) + unit_of[p]
        d_index[p] = line[p] * d_strides[1] + unit_of[p] * d_strides[4]


def clear_padding() -> None:
    """Zeros in the B operand, which stay where a unit is padding."""
    if RAGGED:
        for n in range((2 * TILE_BYTES // 4 - tid + THREADS - 1) // THREADS):
            ptx.st_shared_u32(ptx.shared_at(shared, TILE_AT + (n * THREADS + tid) * 4), uint32(0))
        cuda.syncthreads()


def open_carry() -> None:
    """The gradient of the last states, and nothing yet from the steps."""
    for i in unroll(ITEMS):
        for k in unroll(STATES):
            carry[i * STATES + k] = real(0.0)
            to_initial[i * STATES + k] = real(0.0)
            given[i * STATES + k] = real(0.0)
            if options & HAS_DLAST:
                at = k * dlast_strides[0] + (row0 + line[i // EACH]) * dlast_strides[1]
                at += head * dlast_strides[3]
                at += (unit_of[i // EACH] + beside[i]) * dlast_strides[4]
                carry[i * STATES + k] = widen(dlast[at])
    for p in unroll(PAIRS):
        restart[p] = int32(0)
        coming[p] = int32(0)
    # this thread's words of the ring: for values of 4 and of 8 bytes
    ring4 = ptx.shared_at(shared, RING_AT + tid * 4)
    ring8 = ptx.shared_at(shared, RING_AT + tid * 8)
    # where no gradient of the states comes in, its words stay 0
    for s in range(AHEAD):
        for p in unroll(PAIRS):
            if OWNERS == THREADS or tid < OWNERS:
                for k in unroll(STATES):
                    clear_pair(s * STAGE_BYTES + p * PAIR_BYTES + D_AT + k * NUMBER_SLOT * OWNERS)


def find_again(p) -> None:
    """Where pair p lies, as values that the compiler does not know: addresses made of them cannot
    stay in registers for all steps."""
    line_again = int32(ptx.held_u32(uint32(line[p])))
    unit_again = int32(ptx.held_u32(uint32(unit_of[p])))


def start_value(i, k) -> None:
    """value = initial state k of item i, after find_again."""
    value = float32(real(INITIAL[k]))
    if options & HAS_STATES:
        at = k * initial_strides[0] + (row0 + line_again) * initial_strides[1]
        at += head * initial_strides[3]
        at += (unit_again + beside[i]) * initial_strides[4]
        value = float32(widen(initial[at]))
    elif k == 0:
        # s_0 feeds R and has the dtype of the arrays
        value = float32(widen(narrow(value)))


def fetch(step) -> None:
    """Copy what the early half of a step needs into the ring; the shared addresses then are those
    of the step before."""
    stage_at = int32((step) & (AHEAD - 1)) * STAGE_BYTES
    for p in unroll(PAIRS):
        if ALL_ACTIVE or active[p] != 0:
            fetch_pair(p, step)
    gates_in = ptx.global_at(gates_in, -GATE_BYTES * gate_step)
    s0_in = ptx.global_at(s0_in, -SIZE * state_step)
    for k in unroll(STATES):
        if k > 0:
            others_in[k] = ptx.global_at(others_in[k], -OTHER_BYTES * state_step)
        d_in[k] = ptx.global_at(d_in[k], -SIZE * d_strides[2])


def fetch_pair(p, step) -> None:
    for j in unroll(GATES):
        copy_number(
            GATE_BYTES,
            gates_in,
            int32(gate_index[p] + j * gate_pitch),
            p * PAIR_BYTES + j * GATE_SLOT * OWNERS,
        )
    if (step) > 0:
        copy_number(SIZE, s0_in, state_index[p], p * PAIR_BYTES + S0_AT)
        for k in unroll(STATES - 1):
            copy_number(
                OTHER_BYTES,
                others_in[k + 1],
                state_index[p],
                p * PAIR_BYTES + OTHER_AT + k * OTHER_SLOT * OWNERS,
            )
    else:
        start_numbers(p)
    if options & HAS_DSTATES:
        for k in unroll(STATES):
            if options & D_WORDS:
                copy_number(
                    SIZE, d_in[k], d_index[p], p * PAIR_BYTES + D_AT + k * NUMBER_SLOT * OWNERS
                )
            else:
                for e in unroll(EACH):
                    at = int32(d_index[p] + beside[p * EACH + e] * int32(d_strides[4]))
                    copy_item(d_in[k], at, p * PAIR_BYTES + D_AT + k * NUMBER_SLOT * OWNERS, e)


def copy_number(size, base, index, place) -> None:
    """The pair's numbers of `size` bytes at base[index], to its place in the ring."""
    if size == 4:
        if WIDE:
            ptx.cp_async_ca_8(
                ptx.shared_at(ring8, stage_at + place), ptx.global_index(base, index, 4)
            )
        elif EACH == 2:
            for e in unroll(2):
                ptx.cp_async_ca_4(
                    ptx.shared_at(ring8, stage_at + place + 4 * e),
                    ptx.global_index(base, int32(index + beside[p * EACH + e]), 4),
                )
        else:
            ptx.cp_async_ca_4(
                ptx.shared_at(ring4, stage_at + place), ptx.global_index(base, index, 4)
            )
    elif D % 2 == 0:
        # the word that the number is in
        ptx.cp_async_ca_4(
            ptx.shared_at(ring4, stage_at + place),
            ptx.global_index(base, int32(index - (shift[p] >> 4)), 2),
        )
    else:
        for e in unroll(EACH):
            at = int32(index + beside[p * EACH + e])
            store_half(place, e, ptx.ld_global_nc_u16(ptx.global_index(base, at, 2)))


def store_half(place, e, number) -> None:
    """A 16-bit number of item e of pair p, to where `early` finds it."""
    ptx.st_shared_u16(ptx.shared_at(ring4, stage_at + place + 2 * e + (shift[p] >> 3)), number)


def store_float(at, e, number) -> None:
    """A float32 of item e, likewise; at -- from this thread's first word."""
    ptx.st_shared_f32(ptx.shared_at(ring8 if EACH == 2 else ring4, at + 4 * e), number)


def start_numbers(p) -> None:
    """The initial states in place of those of the step before."""
    find_again(p)
    for e in unroll(EACH):
        for k in unroll(STATES):
            start_value(p * EACH + e, k)
            if k == 0:
                store_value(p * PAIR_BYTES + S0_AT, e)
            elif OTHER_BYTES == 2:
                store_half(
                    p * PAIR_BYTES + OTHER_AT + (k - 1) * OTHER_SLOT * OWNERS, e, narrow(value)
                )
            else:
                store_float(
                    stage_at + p * PAIR_BYTES + OTHER_AT + (k - 1) * OTHER_SLOT * OWNERS, e, value
                )


def ask_reset(step) -> None:
    """Does the state become the initial one before this step?"""
    if RESETS and (step) >= 0:
        for p in unroll(PAIRS):
            restart[p] = int32(0)
            if (step) < length[p * EACH]:
                find_again(p)
                at = (row0 + line_again) * reset_strides[0] + (step) * reset_strides[1]
                restart[p] = int32(reset[at])


def early(step) -> None:
    """The early half of a step, from the ring; of no effect before the first step."""
    stage_at = int32((step) & (AHEAD - 1)) * STAGE_BYTES
    if ALL_ACTIVE:
        # all that is read first: the pairs' chains of arithmetic can then run side by side
        for p in unroll(PAIRS):
            read_pair(p)
        for p in unroll(PAIRS):
            begin_again(p)
        for p in unroll(PAIRS):
            early_pair(p)
    else:
        for p in unroll(PAIRS):
            if active[p] != 0:
                read_pair(p)
                begin_again(p)
                early_pair(p)


def read_pair(p) -> None:
    for j in unroll(GATES):
        read_number(GATE_BYTES, p * PAIR_BYTES + j * GATE_SLOT * OWNERS)
        for e in unroll(EACH):
            gate[(p * EACH + e) * GATES + j] = number[e]
    for k in unroll(STATES):
        if k == 0:
            read_number(SIZE, p * PAIR_BYTES + S0_AT)
        else:
            read_number(OTHER_BYTES, p * PAIR_BYTES + OTHER_AT + (k - 1) * OTHER_SLOT * OWNERS)
        for e in unroll(EACH):
            state[(p * EACH + e) * STATES + k] = number[e]
        read_number(SIZE, p * PAIR_BYTES + D_AT + k * NUMBER_SLOT * OWNERS)
        for e in unroll(EACH):
            given[(p * EACH + e) * STATES + k] = number[e]


def begin_again(p) -> None:
    """The initial states in place of those of the step before, where a reset says so."""
    if RESETS and restart[p] != int32(0):
        find_again(p)
        for e in unroll(EACH):
            for k in unroll(STATES):
                start_value(p * EACH + e, k)
                state[(p * EACH + e) * STATES + k] = value


def early_pair(p) -> None:
    for e in unroll(EACH):
        before[p * EACH + e] = state[(p * EACH + e) * STATES]
        cell_early()
    if RESETS:
        coming[p] = restart[p]


def add_to_bias() -> None:
    """The gate gradients of this step, to the bias's. After the barrier: nobody waits for it, and
    the product waits for shared memory meanwhile."""
    for i in unroll(ITEMS):
        for j in unroll(GATES):
            if FROM_B[j] >= 0:
                dbias[i * BIASED + FROM_B[j]] += unrounded[i * GATES + j]


def read_number(size, place) -> None:
    """number[e] = what copy_number brought for item e."""
    if size == 4:
        if EACH == 2:
            two = ptx.ld_shared_v2_f32(ptx.shared_at(ring8, stage_at + place))
            number[0] = two[0]
            number[1] = two[1]
        else:
            number[0] = ptx.ld_shared_f32(ptx.shared_at(ring4, stage_at + place))
    else:
        word = ptx.ld_shared_u32(ptx.shared_at(ring4, stage_at + place))
        if EACH == 2:
            two = unpack(word)
            number[0] = two[0]
            number[1] = two[1]
        else:
            number[0] = widen(uint16(word >> uint32(shift[p])))
