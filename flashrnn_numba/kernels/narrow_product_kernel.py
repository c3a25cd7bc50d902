"""A row of numbers times a matrix of few rows, rounded once. A template (template.py).

A thread has one column, and adds its products up in the order of the rows. It asks for AT_ONCE rows
before it needs the first: a load from memory takes as long as a hundred additions.
"""
# mypy: ignore-errors
# ruff: noqa: F403, F405

from __future__ import annotations

from typing import Any

from numba import cuda, int64

from .fused_names import *


def narrow_product(
    left: Any,  # [count] in compute precision
    rows: Any,  # [count, width], likewise
    out: Any,  # [width]
    count: Any,
    width: Any,
) -> None:
    column = int64(cuda.blockIdx.x) * THREADS + int64(cuda.threadIdx.x)
    if column < width:
        value = cuda.local.array(AT_ONCE, real)
        total = real(0.0)
        for first in range(0, count, AT_ONCE):
            for i in unroll(AT_ONCE):
                # the last row again where there are no more: no branch between the loads
                row = min(first + i, count - 1)
                value[i] = left[row] * rows[row * width + column]
            for i in unroll(AT_ONCE):
                total += value[i] if first + i < count else real(0.0)
        out[column] = narrow(total)
