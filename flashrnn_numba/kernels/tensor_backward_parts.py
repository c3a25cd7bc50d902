"""Parts of the tensor-core backward kernel, written into the template where they are called.

EACH: neighbouring units that a thread owns together (1 or 2, a *pair* either way). WIDE: two, read
and written by one instruction, for which D must be even.
"""
# mypy: ignore-errors
# ruff: noqa: F821

from __future__ import annotations


def load_rows(first, count, target) -> None:
    """Rows of fragments (one m tile and gate each) from R to shared memory, in fragment order."""
    for r in range(count):
        m = int32((first + r) // PART_GATES)
        j = int32((first + r) % PART_GATES)
        base = ptx.global_at(source, 2 * (j * r_strides[0] + 16 * m * r_strides[3]))
        unit = int32(old_unit + 16 * m)
        inside = int32(8 * (unit < D) + 8 * (unit + 1 < D))
        stage(
            (base,),
            2 * r_strides[3],
            2 * r_strides[2],
            (inside,),
            D - new_unit,
            ptx.shared_at(target, r * (K_STEPS * 512)),
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
        active[p] = 1 if exists else 0
        line[p] = min(row, B - 1) - row0
        unit_of[p] = min(unit, D - EACH) if WIDE else min(unit, D - 1)
        local = unit - rank * UNITS
        place = local // K_UNITS * (RECURRENT * K_UNITS) + local % K_UNITS
        slot[p] = ptx.shared_at(shared, TILE_AT + column * TILE_PITCH + 2 * place)
        for e in unroll(EACH):
            inside = exists and row < B and unit + e < D
            stored[p * EACH + e] = 1 if inside else 0
            beside[p * EACH + e] = e if unit + e < D else 0
            steps = T
            if options & HAS_LENGTHS and inside:
                steps = min(max(int64(lengths[row]), int64(0)), T)
            length[p * EACH + e] = steps if inside else 0


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
    """Pair p of the block's units and rows, in the order of the partial sums: word by word."""
    index = int32(tid + p * THREADS)
    exists = index < PAIRS_TOTAL
    index = int32(min(index, PAIRS_TOTAL - 1))
    sum_at[p] = ptx.shared_at(shared, SUMS_AT + index * (4 * EACH))
    word = int32(index % (2 // EACH))
    chunk = int32(index // (2 // EACH))
    column = int32(chunk % COLUMNS)
    octet = int32(chunk // COLUMNS)
    tile_index = int32(octet // 8)
    column = int32(column + tile_index % N_TILES * 8)
    unit = int32(rank * UNITS + tile_index // N_TILES * 16 + octet % 8 * 2 + word)
    exists = exists and column < TILE
    column = int32(min(column, TILE - 1))


def point_at_last_step() -> None:
    """Addresses that all threads of the block share, and this thread's indices from there on."""
    units = H * D
    gate_step, state_step = GATES * units, units
    at = (row0 * T + T - 1) * units + head * D
    gates_in = ptx.global_at(ptx.global_address(gates), GATE_BYTES * (at * GATES - head * D * (GATES - 1)))
    gates_out = ptx.global_at(ptx.global_address(dgates), 2 * (at * GATES - head * D * (GATES - 1)))
    previous_out = ptx.global_at(ptx.global_address(previous), 2 * at)
    s0_in = ptx.global_at(ptx.global_address(states), 2 * (at - units))
    for k in unroll(STATES):
        if k > 0:
            others_in[k] = ptx.global_at(
                ptx.global_address(others), OTHER_BYTES * ((k - 1) * B * T * units + at - units)
            )
        d_in[k] = ptx.global_at(
            ptx.global_address(dstates),
            2 * (k * d_strides[0] + row0 * d_strides[1] + (T - 1) * d_strides[2] + head * d_strides[3]),
        )
    gate_pitch = int32(units)
    for p in unroll(PAIRS):
        gate_index[p] = line[p] * (T * GATES * units) + unit_of[p]
        state_index[p] = line[p] * (T * units) + unit_of[p]
        d_index[p] = line[p] * d_strides[1] + unit_of[p] * d_strides[4]


def open_carry() -> None:
    """The gradient of the last states, and nothing yet from the steps."""
    for i in unroll(ITEMS):
        for k in unroll(STATES):
            carry[i * STATES + k] = real(0.0)
            to_initial[i * STATES + k] = real(0.0)
            given[i * STATES + k] = real(0.0)
            raw_d[i * STATES + k] = uint16(0)
            if options & HAS_DLAST:
                at = k * dlast_strides[0] + (row0 + line[i // EACH]) * dlast_strides[1]
                at += head * dlast_strides[3]
                at += (unit_of[i // EACH] + beside[i]) * dlast_strides[4]
                carry[i * STATES + k] = widen(dlast[at])
    for p in unroll(PAIRS):
        restart[p] = 0
        coming[p] = 0


def fetch(step) -> None:
    """Ask for what the early half of a step needs; the addresses then are those of the step
    before."""
    for p in unroll(PAIRS):
        for j in unroll(GATES):
            read_gate(p, j, int32(gate_index[p] + j * gate_pitch))
    if (step) > 0:
        for p in unroll(PAIRS):
            read_s0(p)
            for k in unroll(STATES - 1):
                read_other(p, k + 1)
    else:
        for p in unroll(PAIRS):
            read_initial(p)
    if RESETS:
        for p in unroll(PAIRS):
            at = (row0 + line[p]) * reset_strides[0] + (step) * reset_strides[1]
            restart[p] = reset[at] if (step) < length[p * EACH] else 0
            if restart[p] != 0:
                read_initial(p)
    if options & HAS_DSTATES:
        for i in unroll(ITEMS):
            for k in unroll(STATES):
                at = int32(d_index[i // EACH] + beside[i] * int32(d_strides[4]))
                raw_d[i * STATES + k] = ptx.ld_global_nc_u16(global_index(d_in[k], at, 2))
    if AHEAD > 0:
        if (step) > AHEAD:
            prefetch()
    gates_in = ptx.global_at(gates_in, -GATE_BYTES * gate_step)
    s0_in = ptx.global_at(s0_in, -2 * state_step)
    for k in unroll(STATES):
        if k > 0:
            others_in[k] = ptx.global_at(others_in[k], -OTHER_BYTES * state_step)
        d_in[k] = ptx.global_at(d_in[k], -2 * d_strides[2])


def prefetch() -> None:
    """Bring what a later step needs into L2."""
    for p in unroll(PAIRS):
        far = ptx.global_at(gates_in, -AHEAD * GATE_BYTES * gate_step)
        for j in unroll(GATES):
            ptx.prefetch_l2(global_index(far, int32(gate_index[p] + j * gate_pitch), GATE_BYTES))
        far = ptx.global_at(s0_in, -AHEAD * 2 * state_step)
        ptx.prefetch_l2(global_index(far, state_index[p], 2))
        for k in unroll(STATES - 1):
            far = ptx.global_at(others_in[k + 1], -AHEAD * OTHER_BYTES * state_step)
            ptx.prefetch_l2(global_index(far, state_index[p], OTHER_BYTES))
        if options & HAS_DSTATES:
            for k in unroll(STATES):
                far = ptx.global_at(d_in[k], -AHEAD * 2 * d_strides[2])
                ptx.prefetch_l2(global_index(far, d_index[p], 2))


def read_gate(p, j, index) -> None:
    if GATE_BYTES == 4:
        if WIDE:
            two = ptx.ld_global_nc_v2_f32(global_index(gates_in, index, 4))
            raw_gate[p * 2 * GATES + j] = two[0]
            raw_gate[(p * 2 + 1) * GATES + j] = two[1]
        else:
            for e in unroll(EACH):
                raw_gate[(p * EACH + e) * GATES + j] = ptx.ld_global_nc_f32(
                    global_index(gates_in, int32(index + beside[p * EACH + e]), 4)
                )
    elif WIDE:
        raw_gate[p * 2 * GATES + j] = ptx.ld_global_nc_u32(global_index(gates_in, index, 2))
    else:
        for e in unroll(EACH):
            raw_gate[(p * EACH + e) * GATES + j] = ptx.ld_global_nc_u16(
                global_index(gates_in, int32(index + beside[p * EACH + e]), 2)
            )


def read_other(p, k) -> None:
    if OTHER_BYTES == 4:
        if WIDE:
            two = ptx.ld_global_nc_v2_f32(global_index(others_in[k], state_index[p], 4))
            raw_other[p * 2 * STATES + k] = two[0]
            raw_other[(p * 2 + 1) * STATES + k] = two[1]
        else:
            for e in unroll(EACH):
                raw_other[(p * EACH + e) * STATES + k] = ptx.ld_global_nc_f32(
                    global_index(others_in[k], int32(state_index[p] + beside[p * EACH + e]), 4)
                )
    elif WIDE:
        raw_other[p * 2 * STATES + k] = ptx.ld_global_nc_u32(
            global_index(others_in[k], state_index[p], 2)
        )
    else:
        for e in unroll(EACH):
            raw_other[(p * EACH + e) * STATES + k] = ptx.ld_global_nc_u16(
                global_index(others_in[k], int32(state_index[p] + beside[p * EACH + e]), 2)
            )


def read_s0(p) -> None:
    if WIDE:
        raw_s0[p * 2] = ptx.ld_global_nc_u32(global_index(s0_in, state_index[p], 2))
    else:
        for e in unroll(EACH):
            raw_s0[p * EACH + e] = ptx.ld_global_nc_u16(
                global_index(s0_in, int32(state_index[p] + beside[p * EACH + e]), 2)
            )


def read_initial(p) -> None:
    """The initial states in place of those of the step before."""
    for k in unroll(STATES):
        for e in unroll(EACH):
            value = real(INITIAL[k])
            if options & HAS_STATES:
                at = k * initial_strides[0] + (row0 + line[p]) * initial_strides[1]
                at += head * initial_strides[3]
                at += (unit_of[p] + beside[p * EACH + e]) * initial_strides[4]
                value = float32(widen(initial[at]))
            if k > 0 and OTHER_BYTES == 4:
                raw_other[(p * EACH + e) * STATES + k] = value
            elif WIDE:
                if e == 0:
                    first = value
                elif k == 0:
                    raw_s0[p * 2] = pack(first, value)
                else:
                    raw_other[p * 2 * STATES + k] = pack(first, value)
            elif k == 0:
                raw_s0[p * EACH + e] = narrow(value)
            else:
                raw_other[(p * EACH + e) * STATES + k] = narrow(value)


def early() -> None:
    """The early half of a step, from what was fetched; of no effect before the first step."""
    for i in unroll(ITEMS):
        for j in unroll(GATES):
            if GATE_BYTES == 4:
                gate[j] = raw_gate[i * GATES + j]
            elif WIDE:
                gate[j] = unpack(raw_gate[i // 2 * 2 * GATES + j])[i % 2]
            else:
                gate[j] = widen(raw_gate[i * GATES + j])
        for k in unroll(STATES):
            if k == 0:
                if WIDE:
                    state[0] = unpack(raw_s0[i // 2 * 2])[i % 2]
                else:
                    state[0] = widen(raw_s0[i])
            elif OTHER_BYTES == 4:
                state[k] = raw_other[i * STATES + k]
            elif WIDE:
                state[k] = unpack(raw_other[i // 2 * 2 * STATES + k])[i % 2]
            else:
                state[k] = widen(raw_other[i * STATES + k])
            given[i * STATES + k] = widen(raw_d[i * STATES + k])
        cell_early()
    if RESETS:
        for p in unroll(PAIRS):
            coming[p] = restart[p]


def store_previous() -> None:
    """s_0 before the step of the early half, as it was fetched."""
    for p in unroll(PAIRS):
        if WIDE:
            if stored[p * 2] != 0:
                ptx.st_global_u32(global_index(previous_out, state_index[p], 2), raw_s0[p * 2])
        else:
            for e in unroll(EACH):
                if stored[p * EACH + e] != 0:
                    ptx.st_global_u16(
                        global_index(previous_out, int32(state_index[p] + e), 2),
                        raw_s0[p * EACH + e],
                    )
    previous_out = ptx.global_at(previous_out, -2 * state_step)


def pack_gates() -> None:
    """The item's gate gradients in 16 bits; with WIDE pairs by the pair's second item."""
    for j in unroll(GATES):
        value = dgate[j] if alive else real(0.0)
        if WIDE:
            if i % 2 == 0:
                wide[i * GATES + j] = value
            else:
                bits[(i - 1) * GATES + j] = pack(wide[(i - 1) * GATES + j], value)
        else:
            bits[i * GATES + j] = narrow(value)


def store_operand() -> None:
    """The recurrent gates' gradients, for the product."""
    if active[p] != 0:
        for j in unroll(GATES):
            if FROM_R[j] >= 0:
                if WIDE:
                    ptx.st_shared_u32(
                        ptx.shared_at(slot[p], tile + FROM_R[j] * (2 * K_UNITS)),
                        bits[p * 2 * GATES + j],
                    )
                else:
                    for e in unroll(EACH):
                        ptx.st_shared_u16(
                            ptx.shared_at(slot[p], tile + FROM_R[j] * (2 * K_UNITS) + 2 * e),
                            bits[(p * EACH + e) * GATES + j],
                        )


def store_gates() -> None:
    """Gate gradients of this step, to global memory."""
    for p in unroll(PAIRS):
        if WIDE:
            if stored[p * 2] != 0:
                for j in unroll(GATES):
                    ptx.st_global_u32(
                        global_index(gates_out, int32(gate_index[p] + j * gate_pitch), 2),
                        bits[p * 2 * GATES + j],
                    )
        else:
            for e in unroll(EACH):
                if stored[p * EACH + e] != 0:
                    for j in unroll(GATES):
                        ptx.st_global_u16(
                            global_index(gates_out, int32(gate_index[p] + j * gate_pitch + e), 2),
                            bits[(p * EACH + e) * GATES + j],
                        )
    gates_out = ptx.global_at(gates_out, -2 * gate_step)


def product() -> None:
    if REGISTERS > 0:
        acc = mma(fragments, staged_at, ptx.shared_at(b_at, tile))
    else:
        acc = mma(staged_at, ptx.shared_at(b_at, tile))
    if CLUSTER > 1:
        send_sums()
    elif not DIRECT:
        store_sums()


def bring_home() -> None:
    """sums[i] = the product at the thread's items."""
    if DIRECT:
        take_accumulators()
    elif CLUSTER > 1:
        ptx.mbarrier_wait_cluster(
            ptx.shared_at(shared, BARRIERS_AT + (n & 1) * 8), int32((n >> 1) & 1)
        )
        add_sums(int32((n & 1) * SUMS_BYTES))
    else:
        cuda.syncthreads()
        add_sums(int32(0))


def take_accumulators() -> None:
    for p in unroll(PAIRS):
        if TILE >= 8:
            for e in unroll(2):
                sums[p * 2 + e] = acc[p // 2 * 4 + 2 * e + p % 2]
        elif TILE == 4:
            # column `quad` is with lane quad / 2
            other = uint32((lane & 28) + (quad >> 1))
            for e in unroll(2):
                even = ptx.shfl_idx_f32(FULL, acc[p * 4 + 2 * e], other)
                odd = ptx.shfl_idx_f32(FULL, acc[p * 4 + 2 * e + 1], other)
                sums[p * 2 + e] = odd if quad & 1 else even
        else:
            # lane 0 of the quad has both units and columns
            other = uint32(lane & 28)
            a = ptx.shfl_idx_f32(FULL, acc[p * 4], other)
            c = ptx.shfl_idx_f32(FULL, acc[p * 4 + 2], other)
            if TILE == 2:
                b = ptx.shfl_idx_f32(FULL, acc[p * 4 + 1], other)
                d = ptx.shfl_idx_f32(FULL, acc[p * 4 + 3], other)
                low = b if quad & 1 else a
                high = d if quad & 1 else c
                sums[p] = high if quad & 2 else low
            else:
                sums[p] = c if quad & 1 else a


def send_sums() -> None:
    """To each block the partial sums of its own units; they count on its mbarrier."""
    if tid == 0:
        ptx.mbarrier_arrive_expect(
            ptx.shared_at(shared, BARRIERS_AT + (n & 1) * 8), CLUSTER * SOURCE_BYTES
        )
    for m in unroll(M_TILES):
        for c in unroll(N_TILES):
            if quad < QUADS:
                words = (
                    ptx.f32_bits(acc[(m * N_TILES + c) * 4]),
                    ptx.f32_bits(acc[(m * N_TILES + c) * 4 + 2]),
                    ptx.f32_bits(acc[(m * N_TILES + c) * 4 + 1]),
                    ptx.f32_bits(acc[(m * N_TILES + c) * 4 + 3]),
                )
                ptx.st_async_v4_u32(
                    ptx.shared_at(target[m], (n & 1) * SUMS_BYTES + c * (128 * QUADS)),
                    words,
                    ptx.shared_at(counter[m], (n & 1) * 8),
                )


def store_sums() -> None:
    """The partial sums of this warp's part of k, for the whole block."""
    for m in unroll(M_TILES):
        for c in unroll(N_TILES):
            if quad < QUADS:
                values = (
                    acc[(m * N_TILES + c) * 4],
                    acc[(m * N_TILES + c) * 4 + 2],
                    acc[(m * N_TILES + c) * 4 + 1],
                    acc[(m * N_TILES + c) * 4 + 3],
                )
                ptx.st_shared_v4_f32(ptx.shared_at(target[m], c * (128 * QUADS)), values)


def add_sums(buffer) -> None:
    """The partial sums of all sources, in their order."""
    for p in unroll(PAIRS):
        for e in unroll(EACH):
            sums[p * EACH + e] = real(0.0)
        for s in unroll(SOURCES):
            if EACH == 2:
                two = ptx.ld_shared_v2_f32(ptx.shared_at(sum_at[p], buffer + s * SOURCE_BYTES))
                sums[p * 2] += two[0]
                sums[p * 2 + 1] += two[1]
            else:
                sums[p] += ptx.ld_shared_f32(ptx.shared_at(sum_at[p], buffer + s * SOURCE_BYTES))


def open_exchange() -> None:
    """Where this warp's partial sums go; and mbarriers, before anybody sends."""
    if not DIRECT:
        target = cuda.local.array(M_TILES, uint32)
        counter = cuda.local.array(M_TILES, uint32)
        for m in unroll(M_TILES):
            m_tile = int32(m_group * M_TILES + m)
            local_tile = int32(m_tile % (UNITS // 16))
            place = int32((local_tile * (8 * N_TILES) + group) * QUADS + quad) * 16
            if CLUSTER > 1:
                owner = int32(m_tile // (UNITS // 16))
                mine = ptx.shared_at(shared, SUMS_AT + rank * SOURCE_BYTES + place)
                target[m] = ptx.mapa(mine, owner)
                counter[m] = ptx.mapa(ptx.shared_at(shared, BARRIERS_AT), owner)
            else:
                target[m] = ptx.shared_at(shared, SUMS_AT + part * SOURCE_BYTES + place)
    if CLUSTER > 1:
        if tid == 0:
            ptx.mbarrier_init(ptx.shared_at(shared, BARRIERS_AT), 1)
            ptx.mbarrier_init(ptx.shared_at(shared, BARRIERS_AT + 8), 1)
            ptx.fence_mbarrier_init()
        ptx.cluster_arrive()
        ptx.cluster_wait()
