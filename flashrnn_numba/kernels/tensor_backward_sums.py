"""Parts of the tensor-core backward kernel: the product, and how its partial sums come home.

A source's partial sums lie [m tile][n tile][row octet][quad], CHUNK bytes a lane: columns 2 quad
and 2 quad + 1, of each two neighbouring units. swizzle() exchanges quads so that neighbouring units
of one column are read from different banks.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations


def product() -> None:
    if STRIP > 0:
        # what is sent of the first m tiles travels while the next ones are multiplied
        product_in_strips()
    elif REGISTERS > 0:
        acc = mma(fragments, staged_at, shared_at(b_at, tile))
    else:
        acc = mma(staged_at, shared_at(b_at, tile))
    if not DIRECT and STRIP == 0:
        part_with_sums(0, M_TILES)


def part_with_sums(first, count) -> None:
    """The sums of `count` m tiles, which `acc` is, leave this thread."""
    if GRID:
        post_sums(first, count)
    elif CLUSTER > 1:
        send_sums(first, count)
    else:
        store_sums()


def bring_home() -> None:
    """sums[i] = the product at the thread's items."""
    if DIRECT:
        take_accumulators()
    elif GRID:
        take_mail()
        cuda.syncthreads()
        add_sums(int32(0))
    elif CLUSTER > 1:
        mbarrier_wait_cluster(shared_at(shared, BARRIERS_AT + (n & 1) * 8), int32((n >> 1) & 1))
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
                even = shfl_idx_f32(FULL, acc[p * 4 + 2 * e], other)
                odd = shfl_idx_f32(FULL, acc[p * 4 + 2 * e + 1], other)
                sums[p * 2 + e] = odd if quad & 1 else even
        else:
            # lane 0 of the quad has both units and columns
            other = uint32(lane & 28)
            a = shfl_idx_f32(FULL, acc[p * 4], other)
            c = shfl_idx_f32(FULL, acc[p * 4 + 2], other)
            if TILE == 2:
                b = shfl_idx_f32(FULL, acc[p * 4 + 1], other)
                d = shfl_idx_f32(FULL, acc[p * 4 + 3], other)
                low = b if quad & 1 else a
                high = d if quad & 1 else c
                sums[p] = high if quad & 2 else low
            else:
                sums[p] = c if quad & 1 else a


def send_sums(first, count) -> None:
    """To each block the partial sums of its own units; they count on its mbarrier."""
    if first == 0 and tid == 0:
        mbarrier_arrive_expect(shared_at(shared, BARRIERS_AT + (n & 1) * 8), CLUSTER * SOURCE_BYTES)
    for m in unroll(count):
        for c in unroll(N_TILES):
            if quad < QUADS:
                to = shared_at(
                    target[(first + m) // TOGETHER],
                    (n & 1) * SUMS_BYTES
                    + ((first + m) % TOGETHER * N_TILES + c) * (8 * QUADS * CHUNK),
                )
                mbarrier = shared_at(counter[(first + m) // TOGETHER], (n & 1) * 8)
                if CHUNK == 8:
                    st_async_v2_u32(
                        to,
                        (
                            pack(acc[(m * N_TILES + c) * 4], acc[(m * N_TILES + c) * 4 + 2]),
                            pack(acc[(m * N_TILES + c) * 4 + 1], acc[(m * N_TILES + c) * 4 + 3]),
                        ),
                        mbarrier,
                    )
                else:
                    st_async_v4_u32(
                        to,
                        (
                            f32_bits(acc[(m * N_TILES + c) * 4]),
                            f32_bits(acc[(m * N_TILES + c) * 4 + 2]),
                            f32_bits(acc[(m * N_TILES + c) * 4 + 1]),
                            f32_bits(acc[(m * N_TILES + c) * 4 + 3]),
                        ),
                        mbarrier,
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
                to = shared_at(
                    target[m // TOGETHER], (m % TOGETHER * N_TILES + c) * (8 * QUADS * CHUNK)
                )
                st_shared_v4_f32(to, values)


def add_sums(buffer) -> None:
    """The partial sums of all sources, in their order."""
    for p in unroll(PAIRS):
        for e in unroll(EACH):
            sums[p * EACH + e] = real(0.0)
        for s in unroll(SOURCES):
            place = shared_at(sum_at[p], buffer + s * SOURCE_BYTES)
            if EACH == 2:
                if CHUNK == 8:
                    two = unpack(ld_shared_u32(place))
                else:
                    two = ld_shared_v2_f32(place)
                sums[p * 2] += two[0]
                sums[p * 2 + 1] += two[1]
            elif CHUNK == 8:
                sums[p] += widen(ld_shared_u16(place))
            else:
                sums[p] += ld_shared_f32(place)


def open_exchange() -> None:
    """Where this warp's partial sums go (TOGETHER m tiles lie with one block, side by side: one
    address does for them); and mbarriers, before anybody sends."""
    if GRID:
        open_mail()
    elif not DIRECT:
        target = cuda.local.array(M_TILES // TOGETHER, uint32)
        counter = cuda.local.array(M_TILES // TOGETHER, uint32)
        for m in unroll(M_TILES // TOGETHER):
            m_tile = int32(m_group * M_TILES + m * TOGETHER)
            local_tile = int32(m_tile % (UNITS // 16))
            place = int32((local_tile * (8 * N_TILES) + group) * QUADS)
            place = int32(place + (quad ^ swizzle(group))) * CHUNK
            if CLUSTER > 1:
                owner = int32(m_tile // (UNITS // 16))
                mine = shared_at(shared, SUMS_AT + rank * SOURCE_BYTES + place)
                target[m] = mapa(mine, owner)
                counter[m] = mapa(shared_at(shared, BARRIERS_AT), owner)
            else:
                target[m] = shared_at(shared, SUMS_AT + part * SOURCE_BYTES + place)
    if CLUSTER > 1 and not GRID:
        if tid == 0:
            mbarrier_init(shared_at(shared, BARRIERS_AT), 1)
            mbarrier_init(shared_at(shared, BARRIERS_AT + 8), 1)
            fence_mbarrier_init()
        cluster_arrive()
        cluster_wait()
