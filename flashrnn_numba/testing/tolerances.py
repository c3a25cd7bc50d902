"""How far a result may be from the oracle's: the only place where tolerances are decided.

The error of an array a against the oracle's b is ||a - b|| / ||b|| over all elements, in float64.

u(dtype) is the unit roundoff, the largest relative error of rounding once: 2^-53, 2^-24, 2^-11 and
2^-8 for float64, float32, float16 and bfloat16. c is the dtype that backends compute in: float64
for float64, else float32.

- A product over D terms and a sum over B T rows and steps (dR, db) err by about u(c) times the
  square root of the number of terms, because their rounding errors are independent; the steps
  contribute independently too. So u(c) sqrt(D + B T), times COMPUTE: room for functions that are a
  few units in the last place off, and for the chance of small arrays.
- In 16-bit dtypes s_0 is rounded at each step and every result once, which the oracle, float64
  throughout, does not do: STORAGE times u(dtype) more. It does not grow with T, because a cell that
  works at all forgets (or bounds) what it was disturbed by.

- tanh.approx, which tensor-core kernels take for bfloat16 unless precision="exact", errs by up to
  2^-11, a sixteenth of STORAGE times u.
- With precision="tf32" float32 products take operands rounded to 11 bits, s_0 at each step among
  them: as in float16.

Measured with the built-in cells on the CPU, T up to 500, D up to 200: errors reach 1/6 of the
tolerance in float64 and float32, 1/2 of it in float16 and bfloat16 (docs/testing.md).

A problem can be so ill-conditioned that no arithmetic of that precision solves it: a maximum whose
arguments all but tie, an expanding recurrence. The tolerance is not widened for those; they are
told apart before any backend runs, see `conditioning`.
"""

from __future__ import annotations

import numpy as np

UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
TF32 = 2.0**-11
COMPUTE = 16.0
STORAGE = 2.0


def compute_unit(dtype: str) -> float:
    """The unit roundoff of what backends accumulate in for arrays of this dtype."""
    return UNIT["float64" if dtype == "float64" else "float32"]


def tolerance(dtype: str, T: int, D: int = 1, B: int = 1, precision: str = "auto") -> float:
    """The largest accepted `relative_error` of a result: T steps, head dimension D, B rows;
    precision as in `flashrnn`."""
    if dtype not in UNIT:
        raise ValueError(f"dtype must be one of {', '.join(UNIT)}, got {dtype!r}")
    unit = TF32 if (dtype, precision) == ("float32", "tf32") else UNIT[dtype]
    stored = STORAGE * unit if unit > UNIT["float32"] else 0.0
    return stored + COMPUTE * compute_unit(dtype) * float(np.sqrt(max(1, D) + max(1, B * T)))


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """||got - expected|| / ||expected||. Infinite where the shapes differ, a number is not finite,
    or the oracle says zero throughout and the other does not."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if got.shape != expected.shape or not np.isfinite(got).all() or np.isnan(expected).any():
        return float("inf")
    scale = float(np.max(np.abs(expected), initial=0.0))
    if scale == 0:
        return float("inf") if got.any() else 0.0
    # scaled first: squares of tiny or huge numbers leave the range of float64
    return float(np.linalg.norm((got - expected) / scale) / np.linalg.norm(expected / scale))
