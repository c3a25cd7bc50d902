"""Conversions of bfloat16 and float16, and flat views of arrays in any layout."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.kernels import cpu_storage
from flashrnn_numba.kernels.cpu_storage import add_row, copy_row, flat, round_row, writable
from flashrnn_numba.testing import Layout, strategies

FORMATS = {"bfloat16": (ml_dtypes.bfloat16, np.uint16), "float16": (np.float16, np.int16)}


def convert(function, values, result):
    @njit
    def over(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    target = np.empty(values.size, result)
    over(values, target)
    return target


@pytest.mark.parametrize("name", FORMATS)
def test_widening_is_exact_for_all_65536_numbers(name):
    dtype, bits = FORMATS[name]
    numbers = np.arange(65536, dtype=np.uint16)
    got = convert(getattr(cpu_storage, f"widen_{name}"), numbers.view(bits), np.float32)
    expected = numbers.view(dtype).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    real = ~np.isnan(expected)
    np.testing.assert_array_equal(got[real].view(np.uint32), expected[real].view(np.uint32))


def float32_samples(name):
    """Random bit patterns; and all 16-bit numbers, the ties between them, and one unit beside."""
    random = np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint64)
    exact = np.arange(65536, dtype=np.uint16).view(FORMATS[name][0]).astype(np.float32)
    finite = np.sort(exact[np.isfinite(exact)])
    ties = ((finite[1:].astype(float) + finite[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(ties, np.float32(s)) for s in (np.inf, -np.inf)]
    overflow = np.float32([65504, 65519.996, 65520, 65536, 3.3895e38, 3.4e38, np.inf, 1e-45])
    return np.concatenate(
        [random.astype(np.uint32).view(np.float32), exact, ties, *beside, overflow, -overflow]
    )


@pytest.mark.parametrize("name", FORMATS)
def test_narrowing_rounds_to_nearest_even_as_ml_dtypes_and_numpy_do(name):
    dtype, bits = FORMATS[name]
    x = float32_samples(name)
    with np.errstate(all="ignore"):
        expected = x.astype(dtype)
    got = convert(getattr(cpu_storage, f"narrow_{name}"), x, bits).view(dtype)
    nan = np.isnan(x)
    assert np.isnan(got[nan].astype(np.float32)).all()
    np.testing.assert_array_equal(got[~nan].view(np.uint16), expected[~nan].view(np.uint16))


# flat ------------------------------------------------------------------------------------------

small_shapes = st.lists(st.integers(0, 4), min_size=1, max_size=5).map(tuple)


@given(small_shapes, strategies.layouts(), strategies.dtypes())
def test_flat_finds_each_element_of_any_layout(shape, layout, dtype):
    numbers = np.arange(np.prod(shape)).reshape(shape).astype(DTYPES[dtype])
    array = layout.apply(numbers)
    memory, at, strides = flat(array, dtype)
    assert memory.ndim == 1
    for index in np.ndindex(shape):
        place = at + sum(i * s for i, s in zip(index, strides, strict=True))
        assert 0 <= place < memory.size
        assert memory.view(DTYPES[dtype])[place] == array[index]
    if array.size and array.flags.aligned:
        assert np.shares_memory(memory, array)


def test_flat_copies_what_has_no_strides_in_elements():
    record = np.zeros(5, [("flag", np.int8), ("x", np.float32)])
    record["x"] = np.arange(5)
    memory, at, (stride,) = flat(record["x"], "float32")
    np.testing.assert_array_equal(memory[at :: stride or 1][:5], np.arange(5))
    assert not np.shares_memory(memory, record)


def test_read_only_arrays_are_handed_over_as_writable_ones_over_the_same_memory():
    """numba would compile anew for read-only ones."""
    array = np.arange(6.0)
    array.flags.writeable = False
    for view in (flat(array, "float64")[0], writable(array, np.float64)):
        assert view.flags.writeable
        assert np.shares_memory(view, array)
        np.testing.assert_array_equal(view, array)
    assert not array.flags.writeable


# rows ------------------------------------------------------------------------------------------


@njit
def _add(w, at, source, start, stride, n):
    add_row(w, at, source, start, stride, n)


@njit
def _copy(target, to, source, start, n):
    copy_row(target, to, source, start, n)


@njit
def _round(w, at, like, n):
    round_row(w, at, like, n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2, -1, 0])
def test_rows_are_added_and_stored_in_the_arrays_dtype(dtype, stride):
    real = np.float64 if dtype == "float64" else np.float32
    source = (np.arange(20) / 7).astype(DTYPES[dtype])
    memory, at, _ = flat(source, dtype)
    w = np.ones(12, real)
    _add(w, 2, memory, at + 10, stride, 5)
    expected = np.ones(12, real)
    expected[2:7] += source[10 + stride * np.arange(5)].astype(real)
    np.testing.assert_array_equal(w, expected)
    target = np.zeros(12, DTYPES[dtype])
    _copy(flat(target, dtype)[0], 3, w, 2, 5)
    np.testing.assert_array_equal(target[3:8], w[2:7].astype(DTYPES[dtype]))
    assert not target[:3].any()
    assert not target[8:].any()
    _round(w, 2, flat(target, dtype)[0], 4)
    expected[2:6] = expected[2:6].astype(DTYPES[dtype]).astype(real)
    np.testing.assert_array_equal(w, expected)


def test_a_layout_is_what_it_says():
    array = np.arange(24.0).reshape(2, 3, 4)
    assert all(s < 0 for s in Layout(reverse=True).apply(array).strides)
    assert Layout(broadcast=1).apply(array).strides[1] == 0
    assert Layout(step=2).apply(array).strides[2] == 16
    assert len({Layout(order=i).apply(array).strides for i in range(30)}) == 6
    np.testing.assert_array_equal(Layout(order=1, step=3, reverse=True).apply(array), array)
