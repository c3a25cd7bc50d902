"""The tensor-core kernel, backward: all time steps, last to first. A template (template.py).

CLUSTER blocks run one head for TILE batch rows: a cluster or, with GRID, blocks of a cooperative
launch. Block `rank` owns UNITS units, with all their gates. One step:

- late: the cotangent-dependent part of the cell's vector-Jacobian product, at what each thread
  owns (*items*: a unit and a batch row). Gate gradients go to shared memory, the B operand.
- barrier; product: sums[u, row] = sum over own gates and units v of R[gate, v, u] dgate[v, row],
  for all previous units u of the head. R^T is the resident A operand.
- early: all of the step before that needs no cotangent, while tensor cores work. Its inputs were
  asked for AHEAD steps ago: each thread copies what it will need into its own words of a ring in
  shared memory (cp.async), so that no register waits for memory.
- the sums come home: in the accumulators where a warp has the whole sum of its own items, through
  shared memory where warps share a sum, and through the cluster or L2 (each block adds up what all
  blocks send it of its own units, in the order of their ranks) where a head has several blocks.

The gradient of each state stays in registers for all steps, and so does the sum of each bias gate's
gradients over the steps.
"""
# mypy: ignore-errors
# ruff: noqa: F821, F841

from __future__ import annotations

from typing import Any

from numba import cuda, int32, int64


def tensor_backward(
    R: Any,  # [Gr, H, D, D], strides in elements (likewise below)
    r_strides: Any,
    initial: Any,  # [S, B, 1, H, D], if HAS_STATES
    initial_strides: Any,
    reset: Any,  # [B, T] bytes, if RESETS
    reset_strides: Any,
    lengths: Any,  # [B], if HAS_LENGTHS
    states: Any,  # [1 or S, B, T, H, D] as forward wrote them: s_0 is read
    others: Any,  # [S - 1, B, T, H, D]: the other states
    gates: Any,  # [B, T, H, D, G] pre-activations
    dstates: Any,  # [S, B, T, H, D], if HAS_DSTATES
    d_strides: Any,
    dlast: Any,  # [S, B, 1, H, D], if HAS_DLAST
    dlast_strides: Any,
    dgates: Any,  # [B, T, G, H, D] out
    previous: Any,  # [B, T, H, D] out: s_0 before each step
    dinitial: Any,  # [S, B, 1, H, D] out
    dbias_rows: Any,  # [B, Gb, H, D] out: the bias's gradient, of each row
    mail: Any,  # zeros, if GRID
    first_group: Any,  # head and batch tile of the launch's first blocks
    clip: Any,  # bound of the recurrent gradient, 0 for none
    B: Any,
    T: Any,
    H: Any,
    options: Any,
) -> None:
    tid = int32(cuda.threadIdx.x)
    lane = int32(tid & 31)
    warp = int32(tid >> 5)
    group = int32(lane >> 2)
    quad = int32(lane & 3)
    # 32 bits without a sign: Python's division of int64 takes registers from all steps
    place_in_launch = uint32(cuda.blockIdx.x) // uint32(CLUSTER)
    team = uint32(uint32(first_group) + uint32(place_in_launch))
    head = int64(team % uint32(H))
    row0 = int64(team // uint32(H)) * TILE
    rank = int32(0)
    if GRID:
        rank = int32(int32(cuda.blockIdx.x) % CLUSTER)
    elif CLUSTER > 1:
        rank = int32(cluster_rank())
    shared = shared_address(cuda.shared.array(0, uint32, alignment=16))
    m_group = int32(warp % M_GROUPS)
    part = int32(warp // M_GROUPS)
    gate0 = int32(part % GATE_PARTS * PART_GATES)
    k0 = int32(part // GATE_PARTS)

    # R^T: rows are previous units, a pair of neighbours in the row octets of an m tile
    new_unit = rank * UNITS + k0 * K_UNITS + 4 // SIZE * quad
    old_unit = m_group * (16 * M_TILES) + 2 * group
    source = global_at(
        global_address(R),
        SIZE
        * (
            gate0 * r_strides[0]
            + head * r_strides[1]
            + new_unit * r_strides[2]
            + old_unit * r_strides[3]
        ),
    )
    scratch_at = shared_at(shared, warp * SCRATCH_BYTES + lane * 16)
    staged_at = shared_at(shared, STAGED_AT + warp * (STAGED * 512) + lane * 16)
    load_fragments()
    clear_padding()
    b_at = shared_at(
        shared,
        TILE_AT
        + (lane & 7) % TILE * TILE_PITCH
        + SIZE * K_UNITS * (k0 * RECURRENT + gate0)
        + (lane >> 3) * 16,
    )

    # what this thread owns: PAIRS of EACH neighbouring units of a batch row
    active = names(PAIRS)  # the pair exists, and its first unit in the head
    line = names(PAIRS)  # batch row of the tile, clamped to the batch
    unit_of = names(PAIRS)
    slot = names(PAIRS)  # in the B operand
    sum_at = names(PAIRS)  # partial sums
    stored = names(ITEMS)  # the item is part of the problem
    length = names(ITEMS)
    beside = names(ITEMS)  # elements from the pair's first unit
    shift = names(PAIRS)  # of a 16-bit number in its word
    own_pairs()

    restart = cuda.local.array(PAIRS, int32)  # of the step that was fetched
    coming = cuda.local.array(PAIRS, int32)  # of the coming step
    restarted = cuda.local.array(PAIRS, int32)  # of this step
    # a pair's inputs, and what the early half of their step leaves for the late one
    seen = names(PAIRS)
    half = names(PAIRS)
    if not ALL_ACTIVE:
        # nobody reads them of a pair that is not there: they need a value all the same
        for p in unroll(PAIRS):
            seen[p] = nothing_seen()
            half[p] = early_pair(seen[p])
    carry = names(ITEMS * STATES)
    to_initial = cuda.local.array(ITEMS * STATES, float32)
    bits = names(ITEMS * GATES)
    unrounded = names(ITEMS * GATES)  # gate gradients
    dbias = cuda.local.array(ITEMS * BIASED, float32)  # their sums over the steps so far
    sums = names(ITEMS)
    cotangent = names(STATES)
    bound = clip if clip > float32(0.0) else float32(INFINITY)
    others_in = cuda.local.array(STATES, uint64)
    d_in = names(STATES)
    gate_index = names(PAIRS)
    state_index = names(PAIRS)
    d_index = names(PAIRS)
    point_at_last_step()
    open_carry()
    open_exchange()
    steps = int32(T)
    for s in range(AHEAD):
        if s < steps:
            fetch(int32(steps - 1 - s))
        cp_async_commit()
    if steps > 0:
        cp_async_wait_group(AHEAD - 1)
        ask_reset(int32(steps - 1))
        early(int32(steps - 1))
        store_previous()
        ask_reset(int32(steps - 2))

    for count in range(steps):
        n = int32(count)
        t = int32(steps - 1 - n)
        tile = int32((n & 1) * TILE_BYTES)
        for i in unroll(ITEMS):
            for k in unroll(STATES):
                cotangent[k] = carry[i * STATES + k]
                cotangent[k] += seen[i // EACH][i % EACH * INPUTS + GATES + STATES + k]
            cell_late()
            for k in unroll(STATES):
                carry[i * STATES + k] = whole[GATES + k]
            pack_gates()
        for p in unroll(PAIRS):
            if RESETS:
                restarted[p] = coming[p]
            store_operand()
        cuda.syncthreads()
        add_to_bias()
        product()
        cp_async_wait_group(AHEAD - 2)
        early(t - 1)
        store_gates()
        if t >= 1:
            store_previous()
        ask_reset(t - 2)
        if t >= AHEAD:
            fetch(t - AHEAD)
        cp_async_commit()
        bring_home()
        for i in unroll(ITEMS):
            carry[i * STATES] = with_sum(carry[i * STATES], sums[i], bound, t < length[i])
        if RESETS:
            for i in unroll(ITEMS):
                for k in unroll(STATES):
                    back = carry[i * STATES + k] if restarted[i // EACH] != int32(0) else real(0.0)
                    to_initial[i * STATES + k] += back
                    carry[i * STATES + k] -= back

    for i in unroll(ITEMS):
        if stored[i] != 0:
            # computed here: sums of 64 bits would stay in registers for all steps
            # (which sum must be opaque for that differs: ptxas would spill 4 bytes)
            if RESETS:
                unit = unit_of[i // EACH] + int32(held_u32(uint32(beside[i])))
            else:
                unit = int32(held_u32(uint32(unit_of[i // EACH] + beside[i])))
            at = head * D + unit
            row = row0 + line[i // EACH]
            for k in unroll(STATES):
                total = carry[i * STATES + k]
                if RESETS:
                    total += to_initial[i * STATES + k]
                dinitial[(k * B + row) * units + at] = narrow(total)
            for q in unroll(BIASED):
                dbias_rows[(row * BIASED + q) * units + at] = dbias[i * BIASED + q]
    if CLUSTER > 1 and not GRID:
        # nobody leaves while others may still look at its shared memory
        cluster_arrive()
        cluster_wait()
