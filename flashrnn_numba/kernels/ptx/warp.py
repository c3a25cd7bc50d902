"""What the 32 lanes of a warp do together: ldmatrix, mma, shuffles.

PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions" and "Data Movement and Conversion
Instructions: shfl". All 32 lanes must arrive. Lane = 4 * group + quad in the layouts below.

    A of m16n8k16   4 x u32, two 16-bit values each: (group, 2 quad), (group + 8, 2 quad),
                    (group, 2 quad + 8), (group + 8, 2 quad + 8)
    B               2 x u32: (k = 2 quad, n = group), (k = 2 quad + 8, n = group)
    C, D            4 x f32: (group, 2 quad), (group, 2 quad + 1), then the same in row group + 8

m16n8k8 (tf32) has the same layout in bytes, one value a register: k = quad and quad + 4. So code
that moves fragments need not know the dtype: a k step is 32 bytes of a row of A or a column of B.
"""

from typing import Any

import numpy as np

from . import formats
from .asm import F32, F64, U32, F32x4, F64x2, U32x2, U32x4, instruction


def _ldmatrix(t: Any, name: str, address: int, count: int, transposed: bool) -> tuple[int, ...]:
    """Lane 8 i + r supplies the address of row r (16 bytes) of the i-th 8 x 8 matrix."""
    row = t.load("shared", address, "<8H") if t.lane < 8 * count else None

    def distribute(rows: list[Any]) -> list[tuple[int, ...]]:
        words = []
        for i in range(count):
            matrix = np.array(rows[8 * i : 8 * i + 8], np.uint16)  # 8 rows x 8 values of 16 bits
            if transposed:
                matrix = np.ascontiguousarray(matrix.T)
            words.append(matrix.view(np.uint32).reshape(32))  # [lane] = (row group, pair quad)
        return [tuple(lane) for lane in np.stack(words, axis=1).tolist()]

    return t.collective(name, row, distribute)


@instruction("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{{out}}}, [{address}];", section="ldmatrix")
def ldmatrix_x1(t: Any, address: U32) -> U32:
    """One 8 x 8 matrix of 16-bit values; lanes 0 to 7 give the addresses of its rows."""
    return _ldmatrix(t, "ldmatrix_x1", address, 1, False)[0]


@instruction("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {out}, [{address}];", section="ldmatrix")
def ldmatrix_x2(t: Any, address: U32) -> U32x2:
    return _ldmatrix(t, "ldmatrix_x2", address, 2, False)


@instruction("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {out}, [{address}];", section="ldmatrix")
def ldmatrix_x4(t: Any, address: U32) -> U32x4:
    """Four matrices, lanes 8 i to 8 i + 7 for the i-th: a whole A fragment, or B of two k steps."""
    return _ldmatrix(t, "ldmatrix_x4", address, 4, False)


@instruction(
    "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {{{out}}}, [{address}];", section="ldmatrix"
)
def ldmatrix_x1_trans(t: Any, address: U32) -> U32:
    """Each matrix transposed on the way."""
    return _ldmatrix(t, "ldmatrix_x1_trans", address, 1, True)[0]


@instruction(
    "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {out}, [{address}];", section="ldmatrix"
)
def ldmatrix_x2_trans(t: Any, address: U32) -> U32x2:
    return _ldmatrix(t, "ldmatrix_x2_trans", address, 2, True)


@instruction(
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {out}, [{address}];", section="ldmatrix"
)
def ldmatrix_x4_trans(t: Any, address: U32) -> U32x4:
    return _ldmatrix(t, "ldmatrix_x4_trans", address, 4, True)


@instruction(
    "movmatrix.sync.aligned.m8n8.trans.b16 {out}, {word};", section="movmatrix", effects="order"
)
def transpose_8x8(t: Any, word: U32) -> U32:
    """Transpose an 8 x 8 matrix of 16-bit values: a lane holds row `group`, columns 2 quad, + 1."""

    def compute(words: list[int]) -> list[int]:
        matrix = np.array(words, np.uint32).view(np.uint16).reshape(8, 8)
        return np.ascontiguousarray(matrix.T).reshape(-1).view(np.uint32).tolist()

    return t.collective("transpose_8x8", word, compute)


def _mma(t: Any, dtype: str, a: Any, b: Any, c: Any) -> Any:
    def compute(lanes: list[Any]) -> list[Any]:
        left = formats.fragment_a([lane[0] for lane in lanes], dtype)
        right = formats.fragment_b([lane[1] for lane in lanes], dtype)
        add = formats.fragment_c([lane[2] for lane in lanes])
        product = formats.registers_c(formats.multiply_add(left, right, add))
        return [tuple(lane) for lane in product.tolist()]

    return t.collective(f"mma_{dtype}", (a, b, c), compute)


@instruction(
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {out}, {a}, {b}, {c};",
    section="mma",
    effects="order",
)
def mma_bf16(t: Any, a: U32x4, b: U32x2, c: F32x4) -> F32x4:
    """D[16, 8] = A[16, 16] B[16, 8] + C, bfloat16 with float32 accumulation."""
    return _mma(t, "bf16", a, b, c)


@instruction(
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {out}, {a}, {b}, {c};",
    section="mma",
    effects="order",
)
def mma_f16(t: Any, a: U32x4, b: U32x2, c: F32x4) -> F32x4:
    """D[16, 8] = A[16, 16] B[16, 8] + C, float16 with float32 accumulation."""
    return _mma(t, "f16", a, b, c)


@instruction(
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {out}, {a}, {b}, {c};",
    section="mma",
    effects="order",
)
def mma_tf32(t: Any, a: U32x4, b: U32x2, c: F32x4) -> F32x4:
    """D[16, 8] = A[16, 8] B[8, 8] + C; convert with f32_to_tf32 first, or the low bits are cut."""
    return _mma(t, "tf32", a, b, c)


@instruction(
    "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {out}, {{{a}}}, {{{b}}}, {c};",
    section="mma",
    effects="order",
)
def mma_f64(t: Any, a: F64, b: F64, c: F64x2) -> F64x2:
    """D[8, 8] = A[8, 4] B[4, 8] + C: A (group, quad), B (quad, group), C (group, 2 quad + i)."""

    def compute(lanes: list[Any]) -> list[Any]:
        left = np.array([lane[0] for lane in lanes]).reshape(8, 4)
        right = np.array([lane[1] for lane in lanes]).reshape(8, 4).T
        add = np.array([lane[2] for lane in lanes]).reshape(8, 8)
        product = (left @ right + add).reshape(32, 2)
        return [tuple(lane) for lane in product.tolist()]

    return t.collective("mma_f64", (a, b, c), compute)


@instruction("shfl.sync.idx.b32 {out}, {value}, {n}, 31, {mask};", section="shfl", effects="order")
def shfl_idx(t: Any, mask: U32, value: U32, n: U32) -> U32:
    """The value of lane n."""
    return t.shuffle("shfl_idx", mask, value, n, lambda lane, n: n % 32)


@instruction("shfl.sync.bfly.b32 {out}, {value}, {n}, 31, {mask};", section="shfl", effects="order")
def shfl_bfly(t: Any, mask: U32, value: U32, n: U32) -> U32:
    """The value of lane (own lane xor n)."""
    return t.shuffle("shfl_bfly", mask, value, n, lambda lane, n: lane ^ n)


@instruction("shfl.sync.down.b32 {out}, {value}, {n}, 31, {mask};", section="shfl", effects="order")
def shfl_down(t: Any, mask: U32, value: U32, n: U32) -> U32:
    """The value of lane (own lane + n), or the own one past the end."""
    return t.shuffle("shfl_down", mask, value, n, lambda lane, n: lane + n)


@instruction("shfl.sync.idx.b32 {out}, {value}, {n}, 31, {mask};", section="shfl", effects="order")
def shfl_idx_f32(t: Any, mask: U32, value: F32, n: U32) -> F32:
    return t.shuffle("shfl_idx_f32", mask, value, n, lambda lane, n: n % 32)


@instruction("shfl.sync.bfly.b32 {out}, {value}, {n}, 31, {mask};", section="shfl", effects="order")
def shfl_bfly_f32(t: Any, mask: U32, value: F32, n: U32) -> F32:
    return t.shuffle("shfl_bfly_f32", mask, value, n, lambda lane, n: lane ^ n)


@instruction("shfl.sync.down.b32 {out}, {value}, {n}, 31, {mask};", section="shfl", effects="order")
def shfl_down_f32(t: Any, mask: U32, value: F32, n: U32) -> F32:
    return t.shuffle("shfl_down_f32", mask, value, n, lambda lane, n: lane + n)


@instruction(
    "{{ .reg .pred p; setp.ne.u32 p, {value}, 0; vote.sync.any.pred p, p, -1; "
    "selp.u32 {out}, 1, 0, p; }}",
    section="vote.sync",
    effects="order",
)
def vote_any(t: Any, value: U32) -> U32:
    """1 where any of the warp's 32 lanes has something other than 0. The compiler knows that all
    lanes get the same: a branch on it keeps them together."""
    return t.collective("vote_any", value, lambda values: [int(any(values))] * 32)


@instruction("bar.warp.sync {mask};", section="bar.warp.sync")
def sync_warp(t: Any, mask: U32) -> None:
    """Wait for the lanes of the mask; their memory accesses before it come before those after."""
    t.sync_warp(mask)


@instruction("mov.u32 {out}, %laneid;", section="%laneid", effects="none")
def lane_id(t: Any) -> U32:
    return t.lane


@instruction("nanosleep.u32 {time};", section="nanosleep", effects="order")
def nanosleep(t: Any, time: U32) -> None:
    """Suspend the thread for about `time` nanoseconds (0 to twice as long)."""
    t.pause()
