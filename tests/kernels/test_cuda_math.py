"""The cell language's functions and the conversions of 16-bit numbers as GPU code, emulated."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numba import cuda, float32, uint16

from flashrnn_numba.cells import numeric
from flashrnn_numba.kernels.cuda_math import FUNCTIONS
from flashrnn_numba.kernels.cuda_storage import STORAGE
from flashrnn_numba.kernels.emulator import emulate

SPECIAL = [0.0, -0.0, 1e-30, 0.3, -0.7, 1.5, 20.0, -20.0, 88.0, -88.0, 100.0, -104.0, 800.0, -800.0]
SPECIAL += [np.inf, -np.inf, np.nan]


def apply(function, *columns):
    """The device function on each row, in the emulator."""

    def unary(x, y, out):
        for i in range(len(x)):
            out[i] = function(x[i])

    def binary(x, y, out):
        for i in range(len(x)):
            out[i] = function(x[i], y[i])

    x, y = columns[0], columns[-1]
    out = np.zeros_like(x)
    emulate(unary if len(columns) == 1 else binary, 1, 1)(x, y, out)
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name", ["exp", "log", "sqrt", "sigmoid", "tanh", "softplus", "log_sigmoid", "relu"]
)
def test_functions_of_one_number(name, dtype):
    x = np.array(SPECIAL, dtype)
    with np.errstate(all="ignore"):
        expected = getattr(numeric, name)(x.astype(float)).astype(dtype)
        got = apply(FUNCTIONS[dtype][name], x)
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_nan_comes_through(name):
    x, y = (g.ravel() for g in np.meshgrid(np.float32([-1, 0, 2, np.inf, np.nan]), repeat(5)))
    got = apply(FUNCTIONS["float32"][name], x, y)
    np.testing.assert_array_equal(got, getattr(np, name)(x, y))


def repeat(n):
    return np.float32([-1, 0, 2, -np.inf, np.nan])[:n]


BITS = np.concatenate([np.arange(0, 65536, 37), [0x7F80, 0xFF80, 0x7C00, 0xFC00, 1, 0x8001]])
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@pytest.mark.parametrize("dtype", DTYPES)
def test_widening_is_exact(dtype):
    widen = STORAGE[dtype]["widen"]

    def kernel(bits, out):
        for i in range(len(bits)):
            out[i] = widen(bits[i])

    bits = BITS.astype(np.uint16)
    out = np.zeros(len(bits), np.float32)
    emulate(kernel, 1, 1)(bits, out)
    np.testing.assert_array_equal(out, bits.view(DTYPES[dtype]).astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_narrowing_rounds_to_nearest_even(dtype):
    narrow = STORAGE[dtype]["narrow"]
    random = np.random.default_rng(0)
    x = (random.standard_normal(500) * 10.0 ** random.integers(-8, 6, 500)).astype(np.float32)
    ties = np.float32([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 65520, 3.4e38, np.inf, -np.inf, 0])
    x = np.concatenate([x, ties, -ties])

    def kernel(values, out):
        for i in range(len(values)):
            out[i] = narrow(values[i])

    out = np.zeros(len(x), np.uint16)
    emulate(kernel, 1, 1)(np.append(x, np.float32(np.nan)), np.append(out, np.uint16(0)))
    emulate(kernel, 1, 1)(x, out)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out.view(DTYPES[dtype]), x.astype(DTYPES[dtype]))
    nan, one = np.float32([np.nan]), np.zeros(1, np.uint16)
    emulate(kernel, 1, 1)(nan, one)
    assert np.isnan(one.view(DTYPES[dtype]).astype(float))


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_numbers_in_a_word(dtype):
    pack, first, second = (STORAGE[dtype][n] for n in ("pack", "first", "second"))

    @cuda.jit(device=True)
    def through(a, b):
        word = pack(uint16(a), uint16(b))
        return float32(first(word)), float32(second(word))

    def kernel(bits, out):
        out[0], out[1] = through(bits[0], bits[1])

    bits = np.array([1.5, -0.25], DTYPES[dtype]).view(np.uint16)
    out = np.zeros(2, np.float32)
    emulate(kernel, 1, 1)(bits, out)
    np.testing.assert_array_equal(out, [1.5, -0.25])
