"""Bits and conversions in plain Python, for Numba's simulator, which has no inline PTX."""

from __future__ import annotations

from typing import Any

import numpy as np


def f32_bits(value: Any) -> np.uint32:
    return np.float32(value).view(np.uint32)


def bits_f32(bits: Any) -> np.float32:
    return np.uint32(bits).view(np.float32)


def f32_to_f16(value: Any) -> np.uint16:
    with np.errstate(over="ignore"):
        return np.float16(value).view(np.uint16)


def f16_to_f32(bits: Any) -> np.float32:
    return np.float32(np.uint16(bits).view(np.float16))
