"""The recurrent product on the CPU: a few rows times a packed matrix that is used at every step.

BLAS packs its operands anew in each call, which at 16 rows costs as much as it saves: against
OpenBLAS on R [G*D, D], 16 rows, one Zen 4 core, float32, this is 1.3 times as fast at D = 256 and
D = 768 (docs/notes/cpu.md). The matrix is kept as panels [K][W], so that the inner loop is
contiguous, and 4 rows by 4 steps of k make 16 multiply-adds for 8 loads and 4 stores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types, uint64
from numba.extending import intrinsic

from .cpu_pointwise import W

ROW_BLOCK = 16  # rows whose panel of accumulators stays in the L1 cache
AHEAD = 8  # rows of the panel between what is used and what is prefetched
ONE, TWO, THREE = np.uint64(1), np.uint64(2), np.uint64(3)
_compile = njit(fastmath={"contract"}, error_model="numpy", nogil=True, cache=True)


@intrinsic
def _prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index], for reading; an address out of bounds is harmless."""

    def codegen(context, builder, signature, arguments):
        integer = context.get_value_type(types.int32)
        pointer = context.get_value_type(types.voidptr)
        # numba's own void is a pointer; llvm.assume is declared with LLVM's
        assume = builder.module.declare_intrinsic("llvm.assume").function_type
        kind = type(assume)(assume.return_type, [pointer, integer, integer, integer])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
        read, locality, cache_of_data = (context.get_constant(types.int32, i) for i in (0, 2, 1))
        builder.call(function, [address, read, locality, cache_of_data])
        return context.get_dummy_value()

    return types.void(array, types.uint64), codegen


@_compile
def product(acc, acc_at, x, x_at, x_stride, panel, panel_at, K, columns, rows):
    """acc[rows, :columns] += x[rows, K] @ panel[K, :columns].

    Rows of acc and of the panel are W numbers apart, rows of x are x_stride apart. The panel is
    prefetched: it comes from a cache far away, and processors do not look beyond a page of 4 KiB.
    """
    # unsigned indices: numba would add a test for negative ones, which stops vectorisation
    n = uint64(columns)
    line = 64 // panel.itemsize
    for first in range(0, rows, ROW_BLOCK):
        last = min(first + ROW_BLOCK, rows)
        groups = max(1, (last - first) // 4)
        for k in range(0, K - K % 4, 4):
            r = uint64(panel_at + k * W)
            row = first
            while row + 4 <= last:
                for ahead in range((row - first) // 4, 4, groups):
                    next_row = panel_at + (k + AHEAD + ahead) * W
                    for j in range(0, columns, line):
                        _prefetch(panel, uint64(next_row + j))  # type: ignore[call-arg]
                a, stride = uint64(x_at + row * x_stride + k), uint64(x_stride)
                b, c, d = a + stride, a + stride + stride, a + stride + stride + stride
                a0, a1, a2, a3 = x[a], x[a + ONE], x[a + TWO], x[a + THREE]
                b0, b1, b2, b3 = x[b], x[b + ONE], x[b + TWO], x[b + THREE]
                c0, c1, c2, c3 = x[c], x[c + ONE], x[c + TWO], x[c + THREE]
                d0, d1, d2, d3 = x[d], x[d + ONE], x[d + TWO], x[d + THREE]
                o = uint64(acc_at + row * W)
                # each sum in four statements: four fused multiply-adds, and no addition beside
                for j in range(n):
                    r0, r1 = panel[r + j], panel[r + uint64(W) + j]
                    r2, r3 = panel[r + uint64(2 * W) + j], panel[r + uint64(3 * W) + j]
                    s = acc[o + j] + a0 * r0
                    s += a1 * r1
                    s += a2 * r2
                    acc[o + j] = s + a3 * r3
                    s = acc[o + uint64(W) + j] + b0 * r0
                    s += b1 * r1
                    s += b2 * r2
                    acc[o + uint64(W) + j] = s + b3 * r3
                    s = acc[o + uint64(2 * W) + j] + c0 * r0
                    s += c1 * r1
                    s += c2 * r2
                    acc[o + uint64(2 * W) + j] = s + c3 * r3
                    s = acc[o + uint64(3 * W) + j] + d0 * r0
                    s += d1 * r1
                    s += d2 * r2
                    acc[o + uint64(3 * W) + j] = s + d3 * r3
                row += 4
            while row < last:
                a = uint64(x_at + row * x_stride + k)
                a0, a1, a2, a3 = x[a], x[a + ONE], x[a + TWO], x[a + THREE]
                o = uint64(acc_at + row * W)
                for j in range(n):
                    s = acc[o + j] + a0 * panel[r + j]
                    s += a1 * panel[r + uint64(W) + j]
                    s += a2 * panel[r + uint64(2 * W) + j]
                    acc[o + j] = s + a3 * panel[r + uint64(3 * W) + j]
                row += 1
        for k in range(K - K % 4, K):
            r = uint64(panel_at + k * W)
            for row in range(first, last):
                a0 = x[x_at + row * x_stride + k]
                o = uint64(acc_at + row * W)
                for j in range(n):
                    acc[o + j] += a0 * panel[r + j]
