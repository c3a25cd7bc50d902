"""Parts of the fused kernels' pointwise phases, written into the templates where they are called.

i: which of the thread's (row, unit) pairs. The other names are the template's.
"""
# A template: read by template.py, never imported by the package.
# mypy: ignore-errors
# ruff: noqa: F821

from __future__ import annotations


def own_units() -> None:
    """Which (row, unit) pairs this thread owns for the whole sequence."""
    for i in unroll(PER_THREAD):
        p = tid + i * THREADS
        row_of[i] = row0 + p // COLUMNS
        head_of[i] = head0 + p % COLUMNS // D
        unit_of[i] = p % D
        owned[i] = 0
        if p < rows * COLUMNS and row_of[i] < B and head_of[i] < H:
            owned[i] = 1
        left_at[i] = LEFT_AT + p // D * LEFT_PITCH + unit_of[i]
        restart[i] = 0
        length[i] = T
        if options & HAS_LENGTHS and owned[i] != 0:
            length[i] = min(max(lengths[row_of[i]], int64(0)), T)


def initial_state(i, target, offset) -> None:
    """target[offset : offset + STATES] = the states before the first step."""
    for k in unroll(STATES):
        if options & HAS_STATES:
            at = k * initial_strides[0] + row_of[i] * initial_strides[1]
            at += head_of[i] * initial_strides[3] + unit_of[i] * initial_strides[4]
            target[offset + k] = widen(initial[at])
        elif k == 0:
            # s_0 feeds R and has the dtype of the arrays
            target[offset] = widen(narrow(real(INITIAL[0])))
        else:
            target[offset + k] = real(INITIAL[k])


def fetch_input(i, step) -> None:
    """Ask for the input of a step."""
    for j in unroll(GX):
        at = row_of[i] * x_strides[0] + (step) * x_strides[1] + j * x_strides[2]
        at += head_of[i] * x_strides[3] + unit_of[i] * x_strides[4]
        x[i * GX + j] = Wx[at]


def fetch_reset(i, step) -> None:
    """restart = does the state become the initial one before this step?"""
    restart[i] = 0
    if options & HAS_RESET and step < length[i]:
        restart[i] = reset[row_of[i] * reset_strides[0] + (step) * reset_strides[1]]


def fetch_step(i, step) -> None:
    """Ask for what backward needs of a step: gates, the states before it, its states' gradients."""
    at = (row_of[i] * T + step) * units + head_of[i] * D + unit_of[i]
    for j in unroll(GATES):
        g[i * GATES + j] = gates[at * GATES + j]
    if step > 0:
        s_0[i] = states[at - units]
        for k in unroll(STATES - 1):
            others[i * STATES + k + 1] = exact[k * B * T * units + at - units]
    if options & HAS_DSTATES:
        for k in unroll(STATES):
            d_at = k * d_strides[0] + row_of[i] * d_strides[1] + (step) * d_strides[2]
            d_at += head_of[i] * d_strides[3] + unit_of[i] * d_strides[4]
            ds[i * STATES + k] = dstates[d_at]
    fetch_reset(i, step)
