"""Conversions between formats, and the fast approximate functions.

A 16-bit value travels as its bits (u16), a pair as one u32 with the first value in the low half.
PTX ISA: "cvt", "Floating Point Instructions: tanh, ex2, lg2, rcp". The twins of the approximate
functions are exact, but for tanh; the hardware's error is stated with each.
"""

import struct
from typing import Any

import numpy as np

from . import formats
from .asm import F32, U16, U32, U64, F32x2, instruction


@instruction("cvt.rn.bf16.f32 {out}, {value};", section="cvt", effects="none")
def f32_to_bf16(t: Any, value: F32) -> U16:
    """To nearest even; NaN becomes 0x7fff."""
    return formats.f32_to_bf16(value).item()


@instruction(
    "{{ .reg .b16 z; mov.b16 z, 0; mov.b32 {out}, {{z, {bits}}}; }}", section="mov", effects="none"
)
def bf16_to_f32(t: Any, bits: U16) -> F32:
    return formats.bf16_to_f32(bits).item()


@instruction("cvt.rn.bf16x2.f32 {out}, {high}, {low};", section="cvt", effects="none")
def f32x2_to_bf16x2(t: Any, low: F32, high: F32) -> U32:
    first, second = formats.f32_to_bf16([low, high]).tolist()
    return first | second << 16


@instruction(
    "{{ .reg .b16 lo, hi, z; mov.b16 z, 0; mov.b32 {{lo, hi}}, {bits};"
    " mov.b32 {out0}, {{z, lo}}; mov.b32 {out1}, {{z, hi}}; }}",
    section="mov",
    effects="none",
)
def bf16x2_to_f32x2(t: Any, bits: U32) -> F32x2:
    return tuple(formats.unpack(bits, "bf16").ravel().tolist())


@instruction("cvt.rn.f16.f32 {out}, {value};", section="cvt", effects="none")
def f32_to_f16(t: Any, value: F32) -> U16:
    """To nearest even, beyond 65504 to infinity; NaN becomes 0x7fff."""
    return formats.f32_to_f16(value).item()


@instruction("cvt.f32.f16 {out}, {bits};", section="cvt", effects="none")
def f16_to_f32(t: Any, bits: U16) -> F32:
    return formats.f16_to_f32(bits).item()


@instruction("cvt.rn.f16x2.f32 {out}, {high}, {low};", section="cvt", effects="none")
def f32x2_to_f16x2(t: Any, low: F32, high: F32) -> U32:
    first, second = formats.f32_to_f16([low, high]).tolist()
    return first | second << 16


@instruction(
    "{{ .reg .b16 lo, hi; mov.b32 {{lo, hi}}, {bits};"
    " cvt.f32.f16 {out0}, lo; cvt.f32.f16 {out1}, hi; }}",
    section="cvt",
    effects="none",
)
def f16x2_to_f32x2(t: Any, bits: U32) -> F32x2:
    return tuple(formats.unpack(bits, "f16").ravel().tolist())


@instruction("cvt.rna.tf32.f32 {out}, {value};", section="cvt", effects="none")
def f32_to_tf32(t: Any, value: F32) -> U32:
    """A float32 word with 10 bits of mantissa, as mma wants it; ties away from zero."""
    return formats.f32_to_tf32(value).item()


@instruction("mov.b32 {out}, {value};", section="mov", effects="none")
def f32_bits(t: Any, value: F32) -> U32:
    return struct.unpack("<I", struct.pack("<f", value))[0]


@instruction("mov.b32 {out}, {bits};", section="mov", effects="none")
def bits_f32(t: Any, bits: U32) -> F32:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


@instruction("tanh.approx.f32 {out}, {value};", section="tanh", effects="none")
def tanh_approx(t: Any, value: F32) -> F32:
    """Relative error up to 2^-11: too much for the default tolerances in float32. The twin keeps 11
    bits, so that it errs as much."""
    mantissa, exponent = np.frexp(np.tanh(float(value)))
    return float(np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent))


@instruction("ex2.approx.f32 {out}, {value};", section="ex2", effects="none")
def ex2_approx(t: Any, value: F32) -> F32:
    """2 to the power of value; relative error up to 2^-22."""
    return float(np.exp2(value))


@instruction("lg2.approx.f32 {out}, {value};", section="lg2", effects="none")
def lg2_approx(t: Any, value: F32) -> F32:
    """Logarithm to base 2; absolute error up to 2^-22 on (0.5, 2), relative beyond."""
    return float(np.log2(value))


@instruction("rcp.approx.f32 {out}, {value};", section="rcp", effects="none")
def rcp_approx(t: Any, value: F32) -> F32:
    """1 / value; error up to 1 ulp."""
    return float(np.float64(1) / np.float64(value))


@instruction("ex2.approx.ftz.f32 {out}, {value};", section="ex2", effects="none")
def ex2_approx_ftz(t: Any, value: F32) -> F32:
    """ex2_approx in one instruction: results below 2^-126 become zero."""
    return float(np.exp2(value))


@instruction("rcp.approx.ftz.f32 {out}, {value};", section="rcp", effects="none")
def rcp_approx_ftz(t: Any, value: F32) -> F32:
    """rcp_approx in one instruction: results below 2^-126 become zero."""
    return float(np.float64(1) / np.float64(value))


@instruction("mov.b32 {out}, {value};", section="mov", effects="order")
def held_u32(t: Any, value: U32) -> U32:
    """The value, held in a register: the compiler cannot compute it again where it is used."""
    return value


@instruction("mov.b64 {out}, {value};", section="mov", effects="order")
def held_u64(t: Any, value: U64) -> U64:
    """As held_u32, of 64 bits: an address that is worked out before it is waited for."""
    return value


@instruction('.pragma "nounroll";', section="pragma", effects="order")
def not_unrolled(t: Any) -> None:
    """At the top of a loop's body: the assembler does not write the loop out. It sees the count of
    a loop through any moves, and the addresses of many rounds at once would take registers."""
