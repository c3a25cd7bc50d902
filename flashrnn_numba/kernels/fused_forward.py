"""The fused kernel, forward: all time steps of some heads and batch rows in one block. A template.

One step has two phases with a barrier after each:

- product: sums[k, j, row, unit] = (part k of) sum over u of R_j[unit, u] s_0[row, u], from R and
  s_0 in shared memory (fused_product.py says which thread computes what);
- pointwise: each thread owns PER_THREAD (row, unit) pairs for the whole sequence. It adds up the
  gates, runs the cell on states that never leave its registers, writes the new states, and puts
  s_0 into shared memory for the next step. Right after a step's input has been used, the next
  one's is asked for: it has a whole step to arrive.
"""
# A template: read by template.py, never imported by the package.
# mypy: ignore-errors
# ruff: noqa: F403, F405, F841

from __future__ import annotations

from typing import Any

from numba import cuda, int64

from .fused_names import *


def fused_forward(
    Wx: Any,  # [B, T, Gx, H, D], strides in elements (likewise below)
    x_strides: Any,
    R: Any,  # [Gr, H, D, D]
    r_strides: Any,
    b: Any,  # [Gb, H, D]
    b_strides: Any,
    initial: Any,  # [S, B, 1, H, D], if HAS_STATES
    initial_strides: Any,
    reset: Any,  # [B, T] bytes, if HAS_RESET
    reset_strides: Any,
    lengths: Any,  # [B], if HAS_LENGTHS
    states: Any,  # [S, B, T, H, D] out
    last: Any,  # [S, B, 1, H, D] out
    exact: Any,  # [S - 1, B, T, H, D] out: states but s_0 in compute precision, if KEEP_EXACT
    gates: Any,  # [B, T, H, D, G] out: pre-activations, if KEEP_GATES
    B: Any,
    T: Any,
    H: Any,
    rows: Any,  # of a block in this launch: ROWS or fewer
    options: Any,
) -> None:
    tid = int64(cuda.threadIdx.x)
    row0 = int64(cuda.blockIdx.x) * rows
    head0 = int64(cuda.blockIdx.y) * HEADS
    weights = cuda.shared.array(0, word, alignment=16)
    work = cuda.shared.array(0, real, alignment=16)
    load_weights()

    # what this thread owns: (row, unit) pairs, their place in the arrays and their state
    owned = cuda.local.array(PER_THREAD, int64)
    left_at = cuda.local.array(PER_THREAD, int64)
    row_of = cuda.local.array(PER_THREAD, int64)
    unit_of = cuda.local.array(PER_THREAD, int64)
    head_of = cuda.local.array(PER_THREAD, int64)
    length = cuda.local.array(PER_THREAD, int64)
    restart = cuda.local.array(PER_THREAD, int64)
    x = cuda.local.array(PER_THREAD * max(1, GX), element)
    bias = cuda.local.array(PER_THREAD * max(1, GB), real)
    current = cuda.local.array(PER_THREAD * STATES, real)
    gate = cuda.local.array(GATES, real)
    state = cuda.local.array(STATES, real)
    new = cuda.local.array(STATES, real)
    units = H * D
    own_units()
    for i in unroll(PER_THREAD):
        if owned[i] != 0:
            initial_state(i, current, i * STATES)
            for j in unroll(GB):
                at = j * b_strides[0] + head_of[i] * b_strides[1] + unit_of[i] * b_strides[2]
                bias[i * GB + j] = widen(b[at])
            work[left_at[i]] = current[i * STATES]
            if T > 0:
                fetch_input(i, 0)
            fetch_reset(i, 1)
    cuda.syncthreads()

    for t in range(T):
        product()
        cuda.syncthreads()
        for i in unroll(PER_THREAD):
            if owned[i] != 0:
                for j in unroll(GATES):
                    gate[j] = real(0.0)
                    if FROM_R[j] >= 0:
                        gate[j] = work[SUMS_AT + FROM_R[j] * OUTPUTS + tid + i * THREADS]
                        for k in unroll(SPLIT - 1):
                            gate[j] += work[
                                SUMS_AT + ((k + 1) * J + FROM_R[j]) * OUTPUTS + tid + i * THREADS
                            ]
                    if FROM_X[j] >= 0:
                        gate[j] += widen(x[i * GX + FROM_X[j]])
                    if FROM_B[j] >= 0:
                        gate[j] += bias[i * GB + FROM_B[j]]
                if t + 1 < T:
                    fetch_input(i, t + 1)
                at = (row_of[i] * T + t) * units + head_of[i] * D + unit_of[i]
                if options & KEEP_GATES:
                    for j in unroll(GATES):
                        gates[at * GATES + j] = gate[j]
                for k in unroll(STATES):
                    state[k] = current[i * STATES + k]
                cell_forward()
                if t < length[i]:
                    current[i * STATES] = widen(narrow(new[0]))
                    for k in unroll(STATES - 1):
                        current[i * STATES + k + 1] = new[k + 1]
                states[at] = narrow(current[i * STATES])
                for k in unroll(STATES - 1):
                    states[(k + 1) * B * T * units + at] = narrow(current[i * STATES + k + 1])
                    if options & KEEP_EXACT:
                        exact[k * B * T * units + at] = current[i * STATES + k + 1]
                if restart[i] != 0:
                    initial_state(i, current, i * STATES)
                fetch_reset(i, t + 2)
                work[left_at[i]] = current[i * STATES]
        cuda.syncthreads()

    for i in unroll(PER_THREAD):
        if owned[i] != 0:
            for k in unroll(STATES):
                at = (k * B + row_of[i]) * units + head_of[i] * D + unit_of[i]
                last[at] = narrow(current[i * STATES + k])
