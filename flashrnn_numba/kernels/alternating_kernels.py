"""The pointwise kernels of the alternating backend, one time step each. Templates.

A thread has one unit of one row. Arrays of a piece of time begin with the step; `flags` has one
more step than the piece. All are contiguous and belong to the plan (alternating_plan.py).
"""
# A template: read by template.py, never imported by the package.
# mypy: ignore-errors
# ruff: noqa: F403, F405

from __future__ import annotations

from typing import Any

from numba import cuda, int64

from .fused_names import *


def alternating_forward(
    x: Any,  # [steps, B, Gx, H, D]
    sums: Any,  # [H, B, Gr, D]: R s_0 of this step
    bias: Any,  # [Gb, H, D]
    initial: Any,  # [S, B, H, D] in compute precision
    flags: Any,  # [steps + 1, B]
    left: Any,  # [H, B, D] in and out: s_0 for the next product
    current: Any,  # [S, B, H, D] in and out: states in compute precision
    states: Any,  # [steps, S, B, H, D] out
    exact: Any,  # [steps, S - 1, B, H, D] out, if KEEP_EXACT
    gates: Any,  # [steps, B, G, H, D] out, if KEEP_GATES
    B: Any,
    H: Any,
    D: Any,
    step: Any,
    options: Any,
) -> None:
    item = int64(cuda.blockIdx.x) * THREADS + int64(cuda.threadIdx.x)
    units = H * D
    if item < B * units:
        row = item // units
        place = item % units
        head = place // D
        unit = place % D
        line = head * B + row
        gate = cuda.local.array(GATES, real)
        state = cuda.local.array(STATES, real)
        new = cuda.local.array(STATES, real)
        for j in unroll(GATES):
            gate[j] = real(0.0)
            if FROM_R[j] >= 0:
                gate[j] += sums[(line * J + FROM_R[j]) * D + unit]
            if FROM_X[j] >= 0:
                gate[j] += widen(x[((step * B + row) * GX + FROM_X[j]) * units + place])
            if FROM_B[j] >= 0:
                gate[j] += widen(bias[FROM_B[j] * units + place])
            if options & KEEP_GATES:
                gates[((step * B + row) * GATES + j) * units + place] = gate[j]
        for k in unroll(STATES):
            state[k] = current[k * B * units + item]
        cell_forward()
        if flags[step * B + row] & ALIVE:
            state[0] = widen(narrow(new[0]))
            for k in unroll(STATES - 1):
                state[k + 1] = new[k + 1]
        for k in unroll(STATES):
            states[(step * STATES + k) * B * units + item] = narrow(state[k])
        for k in unroll(STATES - 1):
            if options & KEEP_EXACT:
                exact[(step * (STATES - 1) + k) * B * units + item] = state[k + 1]
        if flags[(step + 1) * B + row] & RESTART:
            for k in unroll(STATES):
                state[k] = initial[k * B * units + item]
        for k in unroll(STATES):
            current[k * B * units + item] = state[k]
        left[line * D + unit] = narrow(state[0])


def alternating_backward(
    gates: Any,  # [steps, B, G, H, D]
    before: Any,  # [steps, B, H, D]: s_0 before each step
    others: Any,  # [steps, S - 1, B, H, D]: the other states before each step
    initial: Any,  # [S, B, H, D] in compute precision
    flags: Any,  # [steps + 1, B]
    dstates: Any,  # [steps, S, B, H, D], if HAS_DSTATES
    sums: Any,  # [H, B, D]: the product of the step after this one
    left: Any,  # [H, B, Gr, D] out: gradients of the recurrent gates, for the next product
    carry: Any,  # [S, B, H, D] in and out: gradients of the states
    to_initial: Any,  # [S, B, H, D] in and out: what resets send to the initial states
    dgates: Any,  # [steps, B, G, H, D] out
    previous: Any,  # [steps, B, H, D] out: s_0 before each step, after resets
    clip: Any,
    B: Any,
    H: Any,
    D: Any,
    step: Any,  # -1: only take the last product
    options: Any,
) -> None:
    item = int64(cuda.blockIdx.x) * THREADS + int64(cuda.threadIdx.x)
    units = H * D
    if item < B * units:
        row = item // units
        place = item % units
        head = place // D
        unit = place % D
        line = head * B + row
        gate = cuda.local.array(GATES, real)
        state = cuda.local.array(STATES, real)
        cotangent = cuda.local.array(STATES, real)
        dgate = cuda.local.array(GATES, real)
        dstate = cuda.local.array(STATES, real)
        after = flags[(step + 1) * B + row]
        for k in unroll(STATES):
            cotangent[k] = carry[k * B * units + item]
        if after & ALIVE:
            if J > 0:
                cotangent[0] += sums[line * D + unit]
            if clip > real(0.0):
                # comparisons, not min and max: those would hide nan
                if cotangent[0] > clip:
                    cotangent[0] = clip
                if cotangent[0] < -clip:
                    cotangent[0] = -clip
            if after & RESTART:
                for k in unroll(STATES):
                    to_initial[k * B * units + item] += cotangent[k]
                    cotangent[k] = real(0.0)
        if step >= 0:
            now = flags[step * B + row]
            if options & HAS_DSTATES:
                for k in unroll(STATES):
                    cotangent[k] += widen(dstates[(step * STATES + k) * B * units + item])
            for j in unroll(GATES):
                gate[j] = gates[((step * B + row) * GATES + j) * units + place]
            if now & (RESTART | START):
                for k in unroll(STATES):
                    state[k] = initial[k * B * units + item]
            else:
                state[0] = widen(before[step * B * units + item])
                for k in unroll(STATES - 1):
                    state[k + 1] = others[(step * (STATES - 1) + k) * B * units + item]
            previous[step * B * units + item] = narrow(state[0])
            cell_vjp()
            alive = now & ALIVE
            for j in unroll(GATES):
                bits = narrow(dgate[j] if alive else real(0.0))
                dgates[((step * B + row) * GATES + j) * units + place] = bits
                if FROM_R[j] >= 0:
                    left[(line * J + FROM_R[j]) * D + unit] = bits
            for k in unroll(STATES):
                if alive:
                    cotangent[k] = dstate[k]
        for k in unroll(STATES):
            carry[k * B * units + item] = cotangent[k]
