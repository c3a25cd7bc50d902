"""R in shared memory, and the product with it: the part that forward and backward share.

A line of R is what one sum runs over: forward R_j[unit, :] (there are J = Gr lines a unit),
backward R[all gates, all new units, unit] (one line a unit, of length Gr * D). A left vector is
what a row brings: s_0, or backward the gradients of the recurrent gates.

Lines lie in shared memory one after the other, [j, head, unit], each padded with zeros to an odd
number of 16-byte vectors: 8 neighbouring threads, which read 8 neighbouring lines 16 bytes at a
time, then meet 8 different groups of banks. A thread computes ROW_TILE x UNIT_TILE x J sums over
1/SPLIT of a line; its units lie GROUPS apart, so that neighbours read neighbouring lines.
"""
# A template: read by template.py, never imported by the package.
# mypy: ignore-errors
# ruff: noqa: F821

from __future__ import annotations


def load_forward() -> None:
    """weights[(j, head, unit), k] = R[j, head, unit, k]."""
    for i in range(tid, LINES * COLUMNS * PITCH, THREADS):
        line, k = i // PITCH, i % PITCH * PER_WORD
        head = head0 + line % COLUMNS // D
        at = line // COLUMNS * r_strides[0] + head * r_strides[1] + line % D * r_strides[2]
        number = narrow(real(0.0))
        if k < DEPTH and head < H:
            number = R[at + k * r_strides[3]]
        if PER_WORD == 2:
            other = narrow(real(0.0))
            if k + 1 < DEPTH and head < H:
                other = R[at + (k + 1) * r_strides[3]]
            weights[i] = pack(number, other)
        else:
            weights[i] = number
    for i in range(tid, ROWS * HEADS * LEFT_PITCH, THREADS):
        work[LEFT_AT + i] = real(0.0)
    cuda.syncthreads()


def load_backward() -> None:
    """weights[(head, unit), (j, new unit)] = R[j, head, new unit, unit]; neighbouring threads take
    neighbouring units, which lie side by side in R."""
    for i in range(tid, LINES * COLUMNS * PITCH, THREADS):
        line, k = i % COLUMNS, i // COLUMNS * PER_WORD
        head = head0 + line // D
        at = head * r_strides[1] + line % D * r_strides[3]
        number = narrow(real(0.0))
        if k < DEPTH and head < H:
            number = R[at + k // D * r_strides[0] + k % D * r_strides[2]]
        if PER_WORD == 2:
            other = narrow(real(0.0))
            if k + 1 < DEPTH and head < H:
                other = R[at + (k + 1) // D * r_strides[0] + (k + 1) % D * r_strides[2]]
            weights[line * PITCH + i // COLUMNS] = pack(number, other)
        else:
            weights[line * PITCH + i // COLUMNS] = number
    for i in range(tid, ROWS * HEADS * LEFT_PITCH, THREADS):
        work[LEFT_AT + i] = real(0.0)
    cuda.syncthreads()


def product() -> None:
    """work[SUMS_AT + ((part, j), (row, head, unit))] = partial sums."""
    rows_at = tid // LANES % ROW_GROUPS * ROW_TILE
    if tid < PRODUCT_THREADS and rows_at < rows:
        head_at = tid % LANES // GROUPS
        group = tid % GROUPS
        part = tid // (LANES * ROW_GROUPS)
        sums = cuda.local.array(ROW_TILE * UNIT_TILE * LINES, real)
        left = cuda.local.array(ROW_TILE * VECTOR, real)
        bits = cuda.local.array(WORDS, word)
        line_at = cuda.local.array(UNIT_TILE, int64)
        for n in unroll(ROW_TILE * UNIT_TILE * LINES):
            sums[n] = real(0.0)
        for u in unroll(UNIT_TILE):
            # threads beyond the last unit repeat it; they store nothing
            unit = min(group + u * GROUPS, D - 1)
            line_at[u] = (head_at * D + unit) * PITCH + part * (CHUNKS * WORDS)
        row_at = LEFT_AT + (rows_at * HEADS + head_at) * LEFT_PITCH + part * (CHUNKS * VECTOR)
        for chunk in range(CHUNKS):
            for r in unroll(ROW_TILE):
                for v in unroll(VECTOR):
                    left[r * VECTOR + v] = work[
                        row_at + r * (HEADS * LEFT_PITCH) + v + chunk * VECTOR
                    ]
            for u in unroll(UNIT_TILE):
                for j in unroll(LINES):
                    # all loads of a vector first: then they become one
                    for w in unroll(WORDS):
                        bits[w] = weights[line_at[u] + j * (COLUMNS * PITCH) + w + chunk * WORDS]
                    for w in unroll(WORDS):
                        for r in unroll(ROW_TILE):
                            sums[(r * UNIT_TILE + u) * LINES + j] += (
                                first(bits[w]) * left[r * VECTOR + w * PER_WORD]
                            )
                            if PER_WORD == 2:
                                sums[(r * UNIT_TILE + u) * LINES + j] += (
                                    second(bits[w]) * left[r * VECTOR + w * PER_WORD + 1]
                                )
        for u in unroll(UNIT_TILE):
            if group + u * GROUPS < D:
                for r in unroll(ROW_TILE):
                    for j in unroll(LINES):
                        work[
                            SUMS_AT + (part * LINES + j) * OUTPUTS + (rows_at + r) * COLUMNS
                            + head_at * D + group + u * GROUPS
                        ] = sums[(r * UNIT_TILE + u) * LINES + j]  # fmt: skip
