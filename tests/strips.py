"""Run a cell's compiled pointwise functions by themselves."""

import numpy as np
from numba import njit

from flashrnn_numba.kernels import cpu_pointwise

W = cpu_pointwise.W


@njit
def _call(function, strip, count):
    function(strip, count)  # called from Python, a cfunc would run uncompiled


def run_strip(cell, which, inputs, dtype):
    """The results of "forward" or "vjp" on the rows of `inputs` [gates + states ..., N <= W]."""
    inputs = np.asarray(inputs, dtype)
    strip = np.zeros((cpu_pointwise.rows(cell, which), W), dtype)
    strip[: len(inputs), : inputs.shape[1]] = inputs
    _call(cpu_pointwise.compiled(cell, which, dtype), strip.reshape(-1), inputs.shape[1])
    return strip[len(inputs) :, : inputs.shape[1]]
