"""The tensor-core kernel, forward: all time steps of one head and one tile of batch rows, by one
cluster of CTAs. A template (template.py); tensor_layout.py says who owns what.

A step:

- product: each warp multiplies its rows of R (registers, then shared memory) with s_0 of all units;
- meanwhile the states of the step before are written out, and the inputs of a later step asked for;
- pointwise: a thread has all gates of its (unit, row) pairs in its accumulators, and the states
  of these pairs in registers for the whole sequence; with KEEP it writes the pre-activations when
  s_0 is out, or, where one CTA has the head, while the next product runs;
- the new s_0 goes into the other buffer: of this CTA; or of all CTAs that share the head, by stores
  that are counted on the receiver's mbarrier (tensor_exchange.py), or through global memory
  (tensor_grid_exchange.py).

Inputs and states pass through tiles in shared memory, so that global memory sees 16 bytes a thread,
whole rows side by side. Who fetches or writes them is not who computes with them; what orders the
two is the barrier of the block that ends a step.

In the accumulators a thread has unit `group` and rows 2 quad and 2 quad + 1 of a pair (octet, n
tile); in memory units are neighbours. tensor_numbers_16.py and tensor_numbers_32.py lead from one
to the other, for numbers of 16 and of 32 bits.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841, SIM102

from __future__ import annotations


def tensor_forward(
    Wx,  # [B, T, Gx, H, D], strides in elements (likewise below)
    x_strides,
    R,  # [Gr, H, D, D]
    r_strides,
    b,  # [Gb, H, D]
    b_strides,
    initial,  # [S, B, 1, H, D], if HAS_STATES
    initial_strides,
    reset,  # [B, T] bytes, if HAS_RESET
    reset_strides,
    lengths,  # [B], if HAS_LENGTHS
    states,  # [S, B, T, H, D] out
    last,  # [S, B, 1, H, D] out
    exact,  # [S - 1, B, T, H, D] out: states but s_0 in float32, if KEEP
    gates,  # [B, T, H, D, G] out: pre-activations in float32, if KEEP
    mailbox,  # for each group [planes, SLOTS, 16 bytes of units, PLANE] and a counter, if GRID
    B,
    T,
    H,
    span,  # batch rows of a group of CTAs in this launch: BATCH or fewer
    first,  # this launch's first group, if GRID
    options,
):
    thread = int64(cuda.threadIdx.x)
    lane = thread & 31
    warp = thread >> 5
    group = lane >> 2
    quad = lane & 3
    strip = warp % GROUPS
    split = warp // GROUPS
    head = int64(cuda.blockIdx.y)
    row0 = int64(cuda.blockIdx.x) // CLUSTER * span
    rank = int64(0)
    if GRID:
        # 32 bits without a sign: Python's division of int64 takes registers from all steps
        place_in_launch = uint32(cuda.blockIdx.x) // uint32(CLUSTER)
        team = uint32(uint32(first) + uint32(place_in_launch))
        head = int64(team % uint32(H))
        row0 = int64(team // uint32(H)) * span
        rank = int64(uint32(cuda.blockIdx.x) % uint32(CLUSTER))
    elif CLUSTER > 1:
        rank = int64(cluster_rank())
    row_end = min(B, row0 + span)
    rows = int32(row_end - row0)
    unit0 = rank * UNITS + strip * (OCTETS * 8)
    base = shared_address(cuda.shared.array(0, uint32, alignment=16))

    r_base = global_address(R)
    resident = held_u32(shared_at(base, FRAGMENTS_AT + warp * (IN_SHARED * 512) + lane * 16))
    load_streamed()
    fill_buffers()
    open_exchange()

    # what this thread owns
    row_of = cuda.local.array(OWN * COLUMNS, int32)
    unit_of = cuda.local.array(OWN, int32)
    place_of = cuda.local.array(OWN, uint32)
    out_of = cuda.local.array(OWN, uint32)
    x_of = cuda.local.array(OWN * X_PLACES, uint32)
    length = cuda.local.array(OWN * COLUMNS, int32)
    restart = cuda.local.array(OWN * COLUMNS, int32)
    bias = cuda.local.array(OWN * max(1, BIASES), float32)
    current = cuda.local.array(OWN * COLUMNS * STATES, float32)
    x = cuda.local.array(OWN * X_WORDS, uint32)
    out_words = cuda.local.array(STATES * OUT_CHUNKS * 4, uint32)
    sums = cuda.local.array(OWN * RECURRENT * COLUMNS, float32)
    gate = cuda.local.array(GATES, float32)
    if KEEP:
        kept = cuda.local.array(OWN * COLUMNS * GATES, float32)
    state = cuda.local.array(STATES, float32)
    new = cuda.local.array(STATES, float32)
    own_pairs()
    # what this thread moves: 16 bytes of a row at a time
    x_from = cuda.local.array(X_CHUNKS, uint64)
    x_to = cuda.local.array(X_CHUNKS, uint32)
    x_left = cuda.local.array(X_CHUNKS, int32)
    pending = cuda.local.array(X_CHUNKS * CHUNK, element)
    out_from = cuda.local.array(STATES * OUT_CHUNKS, uint32)
    out_to = cuda.local.array(STATES * OUT_CHUNKS, uint64)
    out_left = cuda.local.array(STATES * OUT_CHUNKS, int32)
    own_chunks()
    x_step = x_strides[1] * SIZE
    state_plane = B * T * H * D
    fetched = int32(0)
    load_resident()
    cuda.syncthreads()
    if T > 0:
        for i in unroll(AHEAD - 1):
            fetch_input(i)
            if WIDE == 0:
                arrive_input()
        if WIDE:
            arrive_input()
    cuda.syncthreads()

    place = (lane & 7) // SPREAD * PITCH + (lane >> 3) * 16 + split * (K_STEPS * 32)
    operand = held_u32(shared_at(base, place))
    handed_at = SUMS_AT + strip * (PAIRS * (SPLITS - 1) * SUM_WORDS * 128)
    partial = shared_at(base, handed_at + lane * (SUM_WIDTH * 4))
    for t in range(int32(T)):
        odd = uint32(t & 1)
        load_early()
        if CLUSTER > 1:
            # while s_0 is on its way
            read_input()
            if WIDE:
                fetch_input((t + AHEAD - 1) & (AHEAD - 1))
            if t > 0:
                load_states(odd)
                write_states(odd)
        await_exchange()
        if CLUSTER == 1 and SPLITS == 1:
            read_input()
            load_states(odd)
        multiply()
        if KEEP and CLUSTER == 1:
            # while tensor cores work
            if t > 0:
                keep_all_gates(t - 1)
        combine_splits()
        if CLUSTER == 1 and SPLITS > 1:
            read_input()
            load_states(odd)
        if SPLITS > 1:
            collect_sums()
        if CLUSTER == 1:
            if t > 0:
                write_states(odd)
        if CLUSTER == 1 or WIDE == 0:
            fetch_input((t + AHEAD - 1) & (AHEAD - 1))
        for p in unroll(OWN):
            if EVEN or p * SPLITS + split < PAIRS:
                for e in unroll(COLUMNS):
                    gates_of(p, e)
                    for k in unroll(STATES):
                        state[k] = current[(p * COLUMNS + e) * STATES + k]
                    cell_forward()
                    if MASKED:
                        if t < length[p * COLUMNS + e]:
                            for k in unroll(STATES):
                                current[(p * COLUMNS + e) * STATES + k] = new[k]
                    else:
                        for k in unroll(STATES):
                            current[(p * COLUMNS + e) * STATES + k] = new[k]
                    if RAGGED:
                        if unit_of[p] >= D:
                            current[(p * COLUMNS + e) * STATES] = float32(0.0)
                publish_states(p)
                if KEEP and CLUSTER > 1:
                    # the others wait for s_0, not for this
                    keep_gates(p, t)
        arrive_input()
        cuda.syncthreads()
    if T > 0:
        load_states(uint32(T & 1))
        write_states(uint32(T & 1))
        if KEEP and CLUSTER == 1:
            keep_all_gates(T - 1)
    write_last()
    if GRID:
        close_exchange()
    elif CLUSTER > 1:
        cluster_arrive()
        cluster_wait()
