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
        not_unrolled()
        r = int32(n // (K_STEPS // STAGE_STEPS))
        k = int32(n % (K_STEPS // STAGE_STEPS) * (STAGE_STEPS * K_UNITS // K_STEPS))
        m = int32((first + r) // PART_GATES)
        j = int32((first + r) % PART_GATES)
        at = j * r_strides[0] + k * r_strides[2] + 16 * m * r_strides[3]
        base = global_at(source, SIZE * at)
        unit = int32(old_unit + 16 * m)
        inside = int32(8 * (unit < D) + 8 * (unit + 1 < D))
        stage(
            (base,),
            SIZE * r_strides[3],
            SIZE * r_strides[2],
            (inside,),
            int32(D - new_unit - k),
            shared_at(target, n * (STAGE_STEPS * 512)),
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
        slot[p] = shared_at(shared, TILE_AT + column * TILE_PITCH + SIZE * place)
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
    sum_at[p] = shared_at(shared, SUMS_AT + place)
    unit = int32(rank * UNITS + tile_index // N_TILES * 16 + inner * EACH)
    column = int32(column + tile_index % N_TILES * 8)
    exists = exists and column < TILE
    column = int32(min(column, TILE - 1))


def point_at_last_step() -> None:
    """Addresses that all threads of the block share, and this thread's indices from there on."""
    units = H * D
    gate_step, state_step = GATES * units, units
    at = (row0 * T + T - 1) * units + head * D
    gates_in = global_at(global_address(gates), 4 * GATES * at)
    gates_out = global_at(global_address(dgates), SIZE * (at * GATES - head * D * (GATES - 1)))
    previous_out = global_at(global_address(previous), SIZE * at)
    s0_in = global_at(global_address(states), SIZE * (at - units))
    for k in unroll(STATES):
        if k > 0:
            others_in[k] = global_at(
                global_address(others), 4 * ((k - 1) * B * T * units + at - units)
            )
        d_in[k] = global_at(
            global_address(dstates),
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
            st_shared_u32(shared_at(shared, TILE_AT + (n * THREADS + tid) * 4), uint32(0))
        cuda.syncthreads()


def open_carry() -> None:
    """The gradient of the last states, and nothing yet from the steps."""
    for i in unroll(ITEMS):
        for k in unroll(STATES):
            carry[i * STATES + k] = state_or(
                real(0.0),
                options & HAS_DLAST,
                dlast,
                dlast_strides,
                k,
                row0 + line[i // EACH],
                head,
                unit_of[i // EACH] + beside[i],
            )
    # this thread's words of the ring: for values of 4 and of 8 bytes, and for gates
    ring4 = shared_at(shared, RING_AT + tid * 4)
    ring8 = shared_at(shared, RING_AT + tid * 8)
    gate_ring = shared_at(shared, RING_AT + tid * (4 * GATE_CHUNK))
    # where no gradient of the states comes in, its words stay 0
    for s in range(AHEAD):
        for p in unroll(PAIRS):
            if OWNERS == THREADS or tid < OWNERS:
                for k in unroll(STATES):
                    clear_pair(s * STAGE_BYTES + p * PAIR_BYTES + D_AT + k * NUMBER_SLOT * OWNERS)


def fetch(step) -> None:
    """Copy what the early half of a step needs into the ring; the shared addresses then are those
    of the step before."""
    stage_at = int32((step) & (AHEAD - 1)) * STAGE_BYTES
    for p in unroll(PAIRS):
        if ALL_ACTIVE or active[p] != 0:
            fetch_pair(
                shared_at(ring4, stage_at + p * PAIR_BYTES),
                shared_at(ring8, stage_at + p * PAIR_BYTES),
                shared_at(gate_ring, stage_at + p * PAIR_BYTES),
                (step) > 0,
                gates_in,
                s0_in,
                tuple_of(others_in, 0, STATES),
                state_index[p],
                tuple_of(d_in, 0, STATES),
                d_index[p],
                d_strides,
                shift[p],
                tuple_of(beside, p * EACH, EACH),
                line[p],
                unit_of[p],
                row0,
                head,
                initial,
                initial_strides,
                options,
            )
    gates_in = global_at(gates_in, -4 * gate_step)
    s0_in = global_at(s0_in, -SIZE * state_step)
    for k in unroll(STATES):
        if k > 0:
            others_in[k] = global_at(others_in[k], -4 * state_step)
        d_in[k] = global_at(d_in[k], -SIZE * d_strides[2])


def ask_reset(step) -> None:
    """Does the state become the initial one before this step?"""
    if RESETS and (step) >= 0:
        for p in unroll(PAIRS):
            restart[p] = int32(0)
            if (step) < length[p * EACH]:
                # not known to the compiler: the address cannot stay in a register for all steps
                again = row0 + int32(held_u32(uint32(line[p])))
                at = again * reset_strides[0] + (step) * reset_strides[1]
                restart[p] = int32(reset[at])


def early(step) -> None:
    """The early half of a step, from the ring; of no effect before the first step."""
    stage_at = int32((step) & (AHEAD - 1)) * STAGE_BYTES
    if ALL_ACTIVE:
        # all that is read first: the pairs' chains of arithmetic can then run side by side
        for p in unroll(PAIRS):
            see_pair(p)
        for p in unroll(PAIRS):
            half[p] = early_pair(seen[p])
    else:
        for p in unroll(PAIRS):
            if active[p] != 0:
                see_pair(p)
                half[p] = early_pair(seen[p])
    if RESETS:
        for p in unroll(PAIRS):
            coming[p] = restart[p]


def see_pair(p) -> None:
    seen[p] = read_pair(
        shared_at(ring4, stage_at + p * PAIR_BYTES),
        shared_at(ring8, stage_at + p * PAIR_BYTES),
        shared_at(gate_ring, stage_at + p * PAIR_BYTES),
        shift[p],
    )
    if RESETS:
        seen[p] = begin_again(
            seen[p],
            restart[p],
            tuple_of(beside, p * EACH, EACH),
            line[p],
            unit_of[p],
            row0,
            head,
            initial,
            initial_strides,
            options,
        )


def add_to_bias() -> None:
    """The gate gradients of this step, to the bias's. After the barrier: nobody waits for it, and
    the product waits for shared memory meanwhile."""
    for i in unroll(ITEMS):
        for j in unroll(GATES):
            if FROM_B[j] >= 0:
                dbias[i * BIASED + FROM_B[j]] += unrounded[i * GATES + j]
