"""What the names in a cell's scalar text mean in the tensor-core kernels: fast, for 16-bit dtypes.

Built on the special function unit's ex2, lg2 and rcp, whose relative errors of about 2^-22 are far
below the rounding of a 16-bit result. Each function keeps its relative error small at small
arguments too. tanh.approx errs by 2^-11: an eighth of bfloat16's rounding, so it serves for tanh in
bfloat16 (unless precision="exact"); not for float16, and not for sigmoid, where it would change how
long a gate near 1 remembers (1 - f would be off by 2^-12).
"""

from __future__ import annotations

import math
from typing import Any

from numba import cuda, float32

from .cuda_math import FUNCTIONS
from .ptx import ex2_approx_ftz, lg2_approx, rcp_approx, rcp_approx_ftz, tanh_approx

_LOG2_E = float32(math.log2(math.e))
_MINUS_LOG2_E = float32(-math.log2(math.e))
_MINUS_TWO_LOG2_E = float32(-2 * math.log2(math.e))
_LN_2 = float32(math.log(2))
_ONE, _ZERO = float32(1), float32(0)
_HALF, _THIRD, _TWO_15THS = float32(0.5), float32(1 / 3), float32(2 / 15)
_SMALL, _TINY = float32(0.125), float32(0.015625)


@cuda.jit(device=True)
def _exp(x):
    return ex2_approx_ftz(x * _LOG2_E)


@cuda.jit(device=True)
def _divide(a, b):
    return a * rcp_approx(b)


@cuda.jit(device=True)
def _sigmoid(x):
    return rcp_approx_ftz(_ONE + ex2_approx_ftz(x * _MINUS_LOG2_E))


@cuda.jit(device=True)
def _tanh(x):
    a = abs(x)
    e = ex2_approx_ftz(a * _MINUS_TWO_LOG2_E)
    large = (_ONE - e) * rcp_approx_ftz(_ONE + e)
    square = x * x
    small = a * (_ONE - square * (_THIRD - square * _TWO_15THS))
    y = small if a < _SMALL else large
    return -y if x < _ZERO else y


@cuda.jit(device=True)
def _log_one_plus_exp_minus(a):
    """log(1 + exp(-a)) for a of at least 0."""
    e = ex2_approx_ftz(a * _MINUS_LOG2_E)
    series = e * (_ONE - e * (_HALF - e * _THIRD))
    return series if e < _TINY else lg2_approx(_ONE + e) * _LN_2


@cuda.jit(device=True)
def _softplus(x):
    tail = _log_one_plus_exp_minus(abs(x))
    return tail if x < _ZERO else x + tail


@cuda.jit(device=True)
def _log_sigmoid(x):
    tail = _log_one_plus_exp_minus(abs(x))
    return -tail if x > _ZERO else x - tail


@cuda.jit(device=True)
def _coarse_tanh(x):
    return tanh_approx(x)


FAST: dict[str, Any] = FUNCTIONS["float32"] | {
    "divide": _divide,
    "exp": _exp,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "softplus": _softplus,
    "log_sigmoid": _log_sigmoid,
}
COARSE = FAST | {"tanh": _coarse_tanh}
