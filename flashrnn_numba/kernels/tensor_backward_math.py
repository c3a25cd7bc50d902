"""The cell language's functions for kernels on tensor cores: float32 without branches.

Built on the hardware's ex2, lg2 and rcp (errors up to 2^-22 relative or absolute, which does not
show beside numbers rounded to 16 bits or products in TF32). cuda_math.py's accurate forms call
libdevice, whose slow paths are branches: they would cut the kernels' straight-line code into pieces
that the compiler cannot overlap with tensor-core products.
"""

from __future__ import annotations

import math

from numba import cuda, float32

from . import cuda_math, ptx

_LOG2E = float32(math.log2(math.e))
_LN2 = float32(math.log(2.0))
_ZERO, _HALF, _ONE, _TWO = float32(0.0), float32(0.5), float32(1.0), float32(2.0)
_SMALL = float32(0.25)  # below this tanh is a polynomial
_TANH = tuple(float32(c) for c in (-1 / 3, 2 / 15, -17 / 315, 62 / 2835))
_TINY = float32(1e-3)  # below this log(1 + x) is a polynomial
_THIRD = float32(1 / 3)


@cuda.jit(device=True)
def exp(x):
    return float32(ptx.ex2_approx(x * _LOG2E))


@cuda.jit(device=True)
def log(x):
    return float32(ptx.lg2_approx(x)) * _LN2


@cuda.jit(device=True)
def sqrt(x):
    return float32(math.sqrt(x))


@cuda.jit(device=True)
def reciprocal(x):
    return float32(ptx.rcp_approx(x))


@cuda.jit(device=True)
def divide(x, y):
    return x * float32(ptx.rcp_approx(y))


@cuda.jit(device=True)
def sigmoid(x):
    # exp(-x) = infinity gives 0
    return float32(ptx.rcp_approx(_ONE + exp(-x)))


@cuda.jit(device=True)
def tanh(x):
    large = _ONE - _TWO * float32(ptx.rcp_approx(_ONE + exp(x + x)))
    y = x * x
    small = x + x * y * (_TANH[0] + y * (_TANH[1] + y * (_TANH[2] + y * _TANH[3])))
    return small if abs(x) < _SMALL else large


@cuda.jit(device=True)
def _log1p(x):
    """log(1 + x) for 0 <= x <= 1."""
    small = x * (_ONE - x * (_HALF - x * _THIRD))
    large = log(_ONE + x)
    return small if x < _TINY else large


@cuda.jit(device=True)
def softplus(x):
    tail = _log1p(exp(-abs(x)))
    return tail if x < _ZERO else x + tail


@cuda.jit(device=True)
def log_sigmoid(x):
    tail = _log1p(exp(-abs(x)))
    return -tail if x > _ZERO else x - tail


FUNCTIONS = cuda_math.FUNCTIONS["float32"] | {
    "exp": exp,
    "log": log,
    "sqrt": sqrt,
    "reciprocal": reciprocal,
    "divide": divide,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "softplus": softplus,
    "log_sigmoid": log_sigmoid,
}
