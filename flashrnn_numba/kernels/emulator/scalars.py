"""Scalars that count as Numba's do on the GPU, not as Python's or NumPy's do.

Numba computes integers in 64 bits: signed ones are plain Python integers here; unsigned ones are
UInt, because unsigned with unsigned wraps at 2^64, while unsigned with signed is signed. Casts wrap
(int32(x), uint32(x)), as do stores. A float32 stays float32 with its like and becomes float64 with
anything else, the literals 1 and 0.5 included: np.float64.
"""

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np

_WORD = (1 << 64) - 1


class UInt(int):
    """An unsigned integer of up to 64 bits."""

    __slots__ = ()

    def __truediv__(self, other: Any) -> Any:
        return np.float64(int(self)) / other

    def __neg__(self) -> int:
        return -int(self)

    def __invert__(self) -> "UInt":
        return UInt(~int(self) & _WORD)


def _unsigned(name: str) -> Callable[[UInt, Any], Any]:
    plain = getattr(int, name)
    keeps = name in ("__lshift__", "__rshift__")  # a shift has the type of its left operand

    def method(self: UInt, other: Any) -> Any:
        result = plain(self, other)
        if (keeps or other.__class__ is UInt) and result is not NotImplemented:
            return UInt(result & _WORD)
        return result

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod", "lshift", "rshift", "and", "or", "xor"):
    setattr(UInt, f"__{_name}__", _unsigned(f"__{_name}__"))
    if _name not in ("lshift", "rshift"):
        setattr(UInt, f"__r{_name}__", _unsigned(f"__r{_name}__"))


class Float32(float):
    """A float32: its double value is exact, and every operation rounds."""

    __slots__ = ()

    def __neg__(self) -> "Float32":
        return Float32(-float(self))

    def __abs__(self) -> "Float32":
        return Float32(abs(float(self)))

    def __pow__(self, other: Any, modulo: None = None) -> Any:
        if isinstance(other, Float32 | int):
            return round32(np.power(np.float64(self), float(other)))
        return np.float64(self) ** other


def round32(value: Any) -> Float32:
    """Round a double once; for + - * / and sqrt that equals computing in float32."""
    return Float32(ctypes.c_float(value).value)


def _single(name: str) -> Callable[[Float32, Any], Any]:
    plain = getattr(float, f"__{name}__")
    double = getattr(np.float64, f"__{name}__")

    def method(self: Float32, other: Any) -> Any:
        if other.__class__ is Float32:
            try:
                return Float32(ctypes.c_float(plain(self, other)).value)
            except ZeroDivisionError:  # x / 0 is infinite or not a number on the GPU
                return round32(double(np.float64(self), float(other)))
        return double(np.float64(self), other)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod"):
    setattr(Float32, f"__{_name}__", _single(_name))
    setattr(Float32, f"__r{_name}__", _single(f"r{_name}"))


class Cast:
    """A type as a kernel uses it: called, it converts; as an argument, it is a dtype."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self.convert = converter(self.dtype)

    def __call__(self, value: Any = 0) -> Any:
        return self.convert(value)

    def __repr__(self) -> str:
        return str(self.dtype)


def converter(dtype: np.dtype[Any]) -> Callable[[Any], Any]:
    """The function that converts a scalar to `dtype` as a C cast does."""
    bits = 8 * dtype.itemsize
    mask, sign = (1 << bits) - 1, 1 << (bits - 1)
    if dtype.kind == "u":
        return lambda value: UInt(int(value) & mask)
    if dtype.kind == "i":
        return lambda value: ((int(value) + sign) & mask) - sign
    if dtype == np.float32:
        return round32
    if dtype == np.float64:
        return np.float64
    if dtype.kind == "b":
        return bool
    return dtype.type


def loaded(dtype: np.dtype[Any]) -> Callable[[Any], Any] | None:
    """What makes a kernel's scalar of the item of an array; None where the item will do."""
    if dtype.kind == "u":
        return UInt
    if dtype == np.float32:
        return Float32
    return np.float64 if dtype == np.float64 else None


_UFUNCS: dict[str, Any] = {
    **{name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p", "log2", "log10")},
    **{name: getattr(np, name) for name in ("sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: getattr(np, name) for name in ("floor", "ceil", "trunc", "fabs", "copysign", "exp2")},
    **{"asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2},
    **{"asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "hypot": np.hypot},
    **{"fmod": np.fmod, "pow": np.power, "erf": None, "erfc": None},
    "rsqrt": lambda x: 1 / np.sqrt(x),
}
_ROUNDING = {"floor", "ceil", "trunc"}


def math_function(name: str) -> Callable[..., Any]:
    """math.<name> as Numba has it: float32 in, float32 out; never an exception."""
    if name in ("isnan", "isinf", "isfinite"):
        test: Callable[..., Any] = getattr(math, name)
        return test
    if name not in _UFUNCS:
        raise AttributeError(f"the emulator has no math.{name}")
    function = _UFUNCS[name] or np.vectorize(getattr(math, name))

    def call(*values: Any) -> Any:
        result = function(*(np.float64(value) for value in values))
        if name in _ROUNDING:
            return int(result) if np.isfinite(result) else result
        single = all(value.__class__ is Float32 for value in values)
        return round32(result) if single else np.float64(result)

    return call
