"""What the names in a cell's scalar text mean on the CPU.

The float32 functions are branch-free polynomials, so that LLVM turns a loop over them into vector
code (calls into libm would stop it). Coefficients: Cephes (Moshier), expf, logf and tanhf. Errors
against float64, measured in tests/kernels/test_cpu_math.py: below 2 units in the last place.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy import float32, int32

# inlined always: a call that LLVM finds too large to inline would stop vectorisation
_compile = njit(fastmath={"contract"}, error_model="numpy", nogil=True, forceinline=True)
INFINITY = np.float32(np.inf)
NAN = np.float32(np.nan)


@_compile
def exp32(x):
    # exp(x) = 2**n * exp(r), |r| <= log(2) / 2
    clamped = min(max(x, float32(-87.33654)), float32(88.722839))
    n = np.floor(clamped * float32(1.44269504088896341) + float32(0.5))
    r = clamped - n * float32(0.693359375)
    r = r - n * float32(-2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    y = p * (r * r) + r + float32(1)
    # two factors: 2**128 alone is no float32
    half = int32(n) >> int32(1)
    y = y * int32((half + int32(127)) << int32(23)).view(np.float32)
    y = y * int32((int32(n) - half + int32(127)) << int32(23)).view(np.float32)
    y = INFINITY if x > float32(88.722839) else y
    y = float32(0) if x < float32(-87.33654) else y  # below: subnormal
    return y if x == x else x


@_compile
def log32(x):
    # x = m * 2**e with sqrt(1/2) <= m < sqrt(2); subnormal numbers are scaled up first
    tiny = x < float32(1.17549435e-38)
    scaled = x * float32(8388608.0) if tiny else x
    bits = float32(scaled).view(np.int32)
    e = float32((bits >> int32(23)) - int32(126)) - (float32(23) if tiny else float32(0))
    m = int32((bits & int32(0x007FFFFF)) | int32(0x3F000000)).view(np.float32)
    low = m < float32(0.707106781186547524)
    e = e - float32(1) if low else e
    m = m + m - float32(1) if low else m - float32(1)
    z = m * m
    p = float32(7.0376836292e-2)
    p = p * m + float32(-1.1514610310e-1)
    p = p * m + float32(1.1676998740e-1)
    p = p * m + float32(-1.2420140846e-1)
    p = p * m + float32(1.4249322787e-1)
    p = p * m + float32(-1.6668057665e-1)
    p = p * m + float32(2.0000714765e-1)
    p = p * m + float32(-2.4999993993e-1)
    p = p * m + float32(3.3333331174e-1)
    y = m * z * p + e * float32(-2.12194440e-4) - float32(0.5) * z
    y = m + y + e * float32(0.693359375)
    y = y if x < INFINITY else x
    y = -INFINITY if x == float32(0) else y
    return NAN if x < float32(0) else y


@_compile
def log1p32(u):
    # for 0 <= u <= 1: log(1 + u), corrected for what 1 + u rounds away
    w = float32(1) + u
    return log32(w) + (u - (w - float32(1))) / w


@_compile
def sigmoid32(x):
    return float32(1) / (float32(1) + exp32(-x))


@_compile
def tanh32(x):
    a = abs(x)
    z = x * x
    p = float32(-5.70498872745e-3)
    p = p * z + float32(2.06390887954e-2)
    p = p * z + float32(-5.37397155531e-2)
    p = p * z + float32(1.33314422036e-1)
    p = p * z + float32(-3.33332819422e-1)
    near = p * z * x + x
    far = float32(1) - float32(2) / (exp32(a + a) + float32(1))
    far = far if x >= float32(0) else -far
    return near if a < float32(0.625) else far


@_compile
def softplus32(x):
    return max(x, float32(0)) + log1p32(exp32(-abs(x)))


@_compile
def log_sigmoid32(x):
    return min(x, float32(0)) - log1p32(exp32(-abs(x)))


@_compile
def sigmoid64(x):
    return 1.0 / (1.0 + math.exp(-x))


@_compile
def softplus64(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@_compile
def log_sigmoid64(x):
    return -softplus64(-x)


@_compile
def exp64(x):
    return math.exp(x)


@_compile
def tanh64(x):
    return math.tanh(x)


@_compile
def log64(x):
    return np.log(x)


@_compile
def sqrt(x):
    return np.sqrt(x)


@_compile
def power(x, exponent):
    return x**exponent


@_compile
def relu32(x):
    return float32(0) if x < float32(0) else x


@_compile
def relu64(x):
    return 0.0 if x < 0.0 else x


# nan in either argument gives nan, as np.maximum does


@_compile
def maximum(a, b):
    return a if (a >= b or a != a) else b


@_compile
def minimum(a, b):
    return a if (a <= b or a != a) else b


_SHARED = {"sqrt": sqrt, "power": power, "maximum": maximum, "minimum": minimum}
FUNCTIONS = {
    "float32": {
        "real": float32,
        "relu": relu32,
        "exp": exp32,
        "log": log32,
        "sigmoid": sigmoid32,
        "tanh": tanh32,
        "softplus": softplus32,
        "log_sigmoid": log_sigmoid32,
        **_SHARED,
    },
    "float64": {
        "real": float,
        "relu": relu64,
        "exp": exp64,
        "log": log64,
        "sigmoid": sigmoid64,
        "tanh": tanh64,
        "softplus": softplus64,
        "log_sigmoid": log_sigmoid64,
        **_SHARED,
    },
}
