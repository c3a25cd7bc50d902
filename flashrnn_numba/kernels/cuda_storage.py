"""How numbers of each dtype lie in a GPU's memory, and their way to and from compute precision.

16-bit numbers travel as their bits (uint16), and two by two in words of 32 bits where R is kept in
shared memory. `bits_f32` and its like come from ptx.py, or in Numba's simulator, which knows no
PTX, from cuda_storage_simulator.py. bfloat16 is rounded with integer arithmetic, because the
instruction for it is missing before compute capability 8.0.
"""

from __future__ import annotations

from typing import Any

from numba import config, cuda, float32, float64, uint16, uint32

if config.ENABLE_CUDASIM:  # type: ignore[attr-defined]
    from .cuda_storage_simulator import bits_f32, f16_to_f32, f32_bits, f32_to_f16
else:
    from .ptx import bits_f32, f16_to_f32, f32_bits, f32_to_f16


@cuda.jit(device=True)
def _same(x):
    return x


@cuda.jit(device=True)
def _never(first, second):
    return first


@cuda.jit(device=True)
def _widen_bfloat16(x):
    return bits_f32(uint32(uint32(x) << uint32(16)))


@cuda.jit(device=True)
def _narrow_bfloat16(x):
    bits = uint32(f32_bits(float32(x)))
    odd = uint32(bits >> uint32(16)) & uint32(1)
    rounded = uint32(uint32(bits + uint32(0x7FFF) + odd) >> uint32(16))
    # rounding up must not carry a NaN's payload into infinity
    return uint16(rounded if x == x else uint32(0x7FFF))


@cuda.jit(device=True)
def _widen_float16(x):
    return f16_to_f32(x)


@cuda.jit(device=True)
def _narrow_float16(x):
    return uint16(f32_to_f16(float32(x)))


@cuda.jit(device=True)
def _pack(first, second):
    return uint32(uint32(first) | uint32(uint32(second) << uint32(16)))


@cuda.jit(device=True)
def _first_bfloat16(word):
    return bits_f32(uint32(word << uint32(16)))


@cuda.jit(device=True)
def _second_bfloat16(word):
    return bits_f32(uint32(word & uint32(0xFFFF0000)))


@cuda.jit(device=True)
def _first_float16(word):
    return f16_to_f32(uint16(word & uint32(0xFFFF)))


@cuda.jit(device=True)
def _second_float16(word):
    return f16_to_f32(uint16(word >> uint32(16)))


def _names(real: Any, element: Any, word: Any, *functions: Any) -> dict[str, Any]:
    names = ("widen", "narrow", "pack", "first", "second")
    types = {"real": real, "element": element, "word": word}
    return types | dict(zip(names, functions, strict=True))


_WHOLE = (_same, _same, _never, _same, _same)
_BFLOAT16 = (_widen_bfloat16, _narrow_bfloat16, _pack, _first_bfloat16, _second_bfloat16)
_FLOAT16 = (_widen_float16, _narrow_float16, _pack, _first_float16, _second_float16)

# what the templates' names mean (fused_names.py); formats.py has the types' sizes
STORAGE = {
    "float64": _names(float64, float64, float64, *_WHOLE),
    "float32": _names(float32, float32, float32, *_WHOLE),
    "bfloat16": _names(float32, uint16, uint32, *_BFLOAT16),
    "float16": _names(float32, uint16, uint32, *_FLOAT16),
}
