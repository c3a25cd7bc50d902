"""The fused kernel, backward: all time steps, last to first, in one block. A template.

One step has three phases, with barriers before and after the product:

- pointwise: the cell's vector-Jacobian product at what each thread owns. The gradient of each
  state stays in its thread's registers from step to step, and so do the sums that become the
  bias's; gate gradients go to global memory and, where a gate is recurrent, into shared memory;
- product: sums[k, row, unit] = (part k of) sum over gates j and units v of dgate_j[v] R_j[v, unit];
- gather: the sums are added to the gradient of s_0, which is clipped; after a reset the gradient
  goes to the initial states instead.

What a step needs from global memory is asked for one step ahead, as in fused_forward.py.
"""
# A template: read by template.py, never imported by the package.
# mypy: ignore-errors
# ruff: noqa: F403, F405, F841

from __future__ import annotations

from typing import Any

from numba import cuda, int64

from .fused_names import *


def fused_backward(
    R: Any,  # [Gr, H, D, D], strides in elements (likewise below)
    r_strides: Any,
    initial: Any,  # [S, B, 1, H, D], if HAS_STATES
    initial_strides: Any,
    reset: Any,  # [B, T] bytes, if HAS_RESET
    reset_strides: Any,
    lengths: Any,  # [B], if HAS_LENGTHS
    states: Any,  # [S, B, T, H, D] as forward wrote them
    exact: Any,  # [S - 1, B, T, H, D]: states but s_0 in compute precision
    gates: Any,  # [B, T, H, D, G] pre-activations
    dstates: Any,  # [S, B, T, H, D], if HAS_DSTATES
    d_strides: Any,
    dlast: Any,  # [S, B, 1, H, D], if HAS_DLAST
    dlast_strides: Any,
    dgates: Any,  # [B, T, G, H, D] out
    previous: Any,  # [B, T, H, D] out: s_0 before each step
    dinitial: Any,  # [S, B, 1, H, D] out
    dbias_rows: Any,  # [B, Gb, H, D] out, in compute precision: the bias's gradient, of each row
    clip: Any,  # bound of the recurrent gradient, 0 for none
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

    owned = cuda.local.array(PER_THREAD, int64)
    left_at = cuda.local.array(PER_THREAD, int64)
    row_of = cuda.local.array(PER_THREAD, int64)
    head_of = cuda.local.array(PER_THREAD, int64)
    unit_of = cuda.local.array(PER_THREAD, int64)
    length = cuda.local.array(PER_THREAD, int64)
    restart = cuda.local.array(PER_THREAD, int64)  # at the coming step
    restarted = cuda.local.array(PER_THREAD, int64)  # at this step
    g = cuda.local.array(PER_THREAD * GATES, real)
    s_0 = cuda.local.array(PER_THREAD, element)
    others = cuda.local.array(PER_THREAD * STATES, real)
    ds = cuda.local.array(PER_THREAD * STATES, element)
    carry = cuda.local.array(PER_THREAD * STATES, real)
    to_initial = cuda.local.array(PER_THREAD * STATES, real)
    dbias = cuda.local.array(PER_THREAD * GB, real)
    gate = cuda.local.array(GATES, real)
    state = cuda.local.array(STATES, real)
    cotangent = cuda.local.array(STATES, real)
    dgate = cuda.local.array(GATES, real)
    dstate = cuda.local.array(STATES, real)
    units = H * D
    own_units()
    for i in unroll(PER_THREAD):
        if owned[i] != 0:
            for k in unroll(STATES):
                carry[i * STATES + k] = real(0.0)
                to_initial[i * STATES + k] = real(0.0)
                if options & HAS_DLAST:
                    at = k * dlast_strides[0] + row_of[i] * dlast_strides[1]
                    at += head_of[i] * dlast_strides[3] + unit_of[i] * dlast_strides[4]
                    carry[i * STATES + k] = widen(dlast[at])
            if T > 0:
                fetch_step(i, T - 1)

    for n in range(T):
        t = T - 1 - n
        for i in unroll(PER_THREAD):
            if owned[i] != 0:
                restarted[i] = restart[i]
                for j in unroll(GATES):
                    gate[j] = g[i * GATES + j]
                state[0] = widen(s_0[i])
                for k in unroll(STATES - 1):
                    state[k + 1] = others[i * STATES + k + 1]
                if t == 0 or restarted[i] != 0:
                    initial_state(i, state, 0)
                for k in unroll(STATES):
                    cotangent[k] = carry[i * STATES + k]
                    if options & HAS_DSTATES:
                        cotangent[k] += widen(ds[i * STATES + k])
                if t > 0:
                    fetch_step(i, t - 1)
                cell_vjp()
                at = (row_of[i] * T + t) * units + head_of[i] * D + unit_of[i]
                previous[at] = narrow(state[0])
                alive = t < length[i]
                for j in unroll(GATES):
                    value = dgate[j] if alive else real(0.0)
                    dgates[((row_of[i] * T + t) * GATES + j) * units + head_of[i] * D
                           + unit_of[i]] = narrow(value)  # fmt: skip
                    if FROM_R[j] >= 0:
                        work[left_at[i] + FROM_R[j] * D] = value
                    if FROM_B[j] >= 0:
                        dbias[i * GB + FROM_B[j]] += value
                for k in unroll(STATES):
                    carry[i * STATES + k] = dstate[k] if alive else cotangent[k]
        cuda.syncthreads()
        product()
        cuda.syncthreads()
        for i in unroll(PER_THREAD):
            if owned[i] != 0 and t < length[i]:
                total = carry[i * STATES]
                if J > 0:
                    for k in unroll(SPLIT):
                        total += work[SUMS_AT + k * OUTPUTS + tid + i * THREADS]
                if clip > real(0.0):
                    # comparisons, not min and max: those would hide nan
                    if total > clip:
                        total = clip
                    if total < -clip:
                        total = -clip
                carry[i * STATES] = total
                if restarted[i] != 0:
                    for k in unroll(STATES):
                        to_initial[i * STATES + k] += carry[i * STATES + k]
                        carry[i * STATES + k] = real(0.0)

    for i in unroll(PER_THREAD):
        if owned[i] != 0:
            for k in unroll(STATES):
                at = (k * B + row_of[i]) * units + head_of[i] * D + unit_of[i]
                dinitial[at] = narrow(to_initial[i * STATES + k] + carry[i * STATES + k])
            for q in unroll(GB):
                at = (row_of[i] * GB + q) * units + head_of[i] * D + unit_of[i]
                dbias_rows[at] = dbias[i * GB + q]
