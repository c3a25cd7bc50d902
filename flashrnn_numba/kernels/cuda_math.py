"""What the names in a cell's scalar text mean on a GPU: float32 and float64 device functions.

Accurate forms throughout: CUDA's libdevice functions (errors of 1 to 3 units in the last place),
no hardware approximations. The source also runs as plain Python (Numba's simulator, the
emulator), where math.exp and math.log raise instead of returning infinity: hence the guards, which
cost a comparison.
"""

from __future__ import annotations

import math
from typing import Any

from numba import cuda, float32, float64

# above this exp() is infinite; just so much above that Python's double does not overflow
_LARGEST = {"float32": 89.0, "float64": 709.782712893384}


def _functions(real: Any, name: str) -> dict[str, Any]:
    zero, one, infinity = real(0.0), real(1.0), real(math.inf)
    nan, largest, near = real(math.nan), real(_LARGEST[name]), real(0.0)

    @cuda.jit(device=True)
    def exp(x):
        y = real(math.exp(x if x < largest else near))
        # the first comparison is false for nan too
        return y if x < largest else (x if x != x else infinity)

    @cuda.jit(device=True)
    def log(x):
        y = real(math.log(x if x > zero else one))
        if x > zero:
            return y
        return -infinity if x == zero else nan

    @cuda.jit(device=True)
    def sqrt(x):
        y = real(math.sqrt(x if x >= zero else zero))
        return y if x >= zero else nan

    @cuda.jit(device=True)
    def power(x, exponent):
        return real(math.pow(x, exponent))

    @cuda.jit(device=True)
    def sigmoid(x):
        e = real(math.exp(-abs(x)))
        return (one if x >= zero else e) / (one + e)

    @cuda.jit(device=True)
    def tanh(x):
        return real(math.tanh(x))

    @cuda.jit(device=True)
    def softplus(x):
        tail = real(math.log1p(real(math.exp(-abs(x)))))
        # written so that nan comes through
        return tail if x < zero else x + tail

    @cuda.jit(device=True)
    def log_sigmoid(x):
        tail = real(math.log1p(real(math.exp(-abs(x)))))
        return -tail if x > zero else x - tail

    @cuda.jit(device=True)
    def relu(x):
        return zero if x < zero else x

    @cuda.jit(device=True)
    def maximum(a, b):
        # nan in either argument gives nan, as np.maximum does
        return a if (a >= b or a != a) else b

    @cuda.jit(device=True)
    def minimum(a, b):
        return a if (a <= b or a != a) else b

    return {
        "real": real,
        "exp": exp,
        "log": log,
        "sqrt": sqrt,
        "power": power,
        "sigmoid": sigmoid,
        "tanh": tanh,
        "softplus": softplus,
        "log_sigmoid": log_sigmoid,
        "relu": relu,
        "maximum": maximum,
        "minimum": minimum,
    }


FUNCTIONS = {
    "float32": _functions(float32, "float32"),
    "float64": _functions(float64, "float64"),
}
