"""Number formats and register layouts of the tensor cores, in NumPy: what the twins compute with.

Everything takes and returns whole arrays. References are to the PTX ISA manual, "Data Movement and
Conversion Instructions: cvt" and "Matrix Fragments for mma.m16n8k16 / m16n8k8 / m8n8k4".
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[Any]

_QUIET_NAN = 0x7FFF  # cvt gives this NaN to both 16-bit formats


def f32_to_bf16(values: Any) -> Bits:
    """float32 -> bits of bfloat16, to nearest even (cvt.rn.bf16.f32)."""
    values = np.asarray(values, np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), _QUIET_NAN, rounded).astype(np.uint16)


def bf16_to_f32(bits: Any) -> NDArray[np.float32]:
    return (np.asarray(bits, np.uint16).astype(np.uint32) << 16).view(np.float32)


def f32_to_f16(values: Any) -> Bits:
    """float32 -> bits of float16, to nearest even (cvt.rn.f16.f32)."""
    values = np.asarray(values, np.float32)
    with np.errstate(all="ignore"):
        bits = values.astype(np.float16).view(np.uint16)
    return np.where(np.isnan(values), np.uint16(_QUIET_NAN), bits)


def f16_to_f32(bits: Any) -> NDArray[np.float32]:
    return np.asarray(bits, np.uint16).view(np.float16).astype(np.float32)


def f32_to_tf32(values: Any) -> Bits:
    """float32 -> float32 bits with 10 bits of mantissa, ties away from zero (cvt.rna.tf32.f32)."""
    values = np.asarray(values, np.float32)
    bits = values.view(np.uint32)
    finite = (bits & 0x7F800000) != 0x7F800000
    rounded = np.where(finite, bits + np.uint32(0x1000), bits) & np.uint32(0xFFFFE000)
    return np.where(np.isnan(values), np.uint32(0x7FFFE000), rounded)


def tf32_to_f32(bits: Any) -> NDArray[np.float32]:
    """What the tensor core reads: the low 13 bits of the word are ignored."""
    return (np.asarray(bits, np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def unpack(words: Any, dtype: str) -> NDArray[np.float32]:
    """32-bit words -> their values along a new last axis: two of 16 bits, or one of tf32."""
    words = np.ascontiguousarray(words, np.uint32)
    if dtype == "tf32":
        return tf32_to_f32(words)[..., None]
    halves = words.view(np.uint16).reshape(*words.shape, 2)
    return bf16_to_f32(halves) if dtype == "bf16" else f16_to_f32(halves)


# Fragments of a warp: lane = 4 * group + quad. A register holds `per` values along k.
_LANE = np.arange(32)
_GROUP, _QUAD = _LANE // 4, _LANE % 4


def fragment_a(words: Any, dtype: str) -> NDArray[np.float32]:
    """A[16, 32 bytes of k] from registers [32 lanes, 4]: rows group, group + 8, then k + 16 B."""
    values = unpack(words, dtype)
    per = values.shape[-1]
    matrix = np.empty((16, 8 * per), np.float32)
    for register in range(4):
        row = _GROUP + 8 * (register & 1)
        for i in range(per):
            matrix[row, per * (_QUAD + 4 * (register >> 1)) + i] = values[:, register, i]
    return matrix


def fragment_b(words: Any, dtype: str) -> NDArray[np.float32]:
    """B[32 bytes of k, 8] from registers [32 lanes, 2]: column group, k by quad."""
    values = unpack(words, dtype)
    per = values.shape[-1]
    matrix = np.empty((8 * per, 8), np.float32)
    for register in range(2):
        for i in range(per):
            matrix[per * (_QUAD + 4 * register) + i, _GROUP] = values[:, register, i]
    return matrix


def fragment_c(registers: Any) -> NDArray[np.float32]:
    """C[16, 8] from registers [32 lanes, 4]."""
    registers = np.asarray(registers, np.float32)
    matrix = np.empty((16, 8), np.float32)
    for register in range(4):
        matrix[_GROUP + 8 * (register >> 1), 2 * _QUAD + (register & 1)] = registers[:, register]
    return matrix


def registers_c(matrix: Any) -> NDArray[np.float32]:
    """The inverse of fragment_c: [16, 8] -> [32 lanes, 4]."""
    columns = [matrix[_GROUP + 8 * (r >> 1), 2 * _QUAD + (r & 1)] for r in range(4)]
    return np.stack(columns, axis=1).astype(np.float32)


def multiply_add(a: Any, b: Any, c: Any) -> NDArray[np.float32]:
    """a @ b + c, rounded once to float32 (the order of the hardware's additions is open)."""
    with np.errstate(all="ignore"):
        product = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
        return (product + np.asarray(c, np.float64)).astype(np.float32)
