"""A row of float32 times a matrix, rounded to 16 bits: the kernel in the emulator."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from ptx_support import needs_ptxas

from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.kernels import cublas, narrow_product
from flashrnn_numba.kernels.assemble import assemble
from flashrnn_numba.kernels.cublas import View
from flashrnn_numba.kernels.emulated import EmulatedMachine
from flashrnn_numba.kernels.launch import compile_to_ptx
from flashrnn_numba.kernels.narrow_product import AT_ONCE, THREADS, NarrowProduct, program

HALVES = ("bfloat16", "float16")


def drawn(count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(count)
    draw = random.standard_normal
    return draw((1, 1, count), np.float32), draw((1, count, width), np.float32)


@pytest.fixture
def devices(monkeypatch):
    """Two GPUs, whose launches the emulator does; the current one can be changed."""
    found = SimpleNamespace(current=0, prepared=[])
    on = EmulatedMachine()

    def prepare(made, grid, constants):
        found.prepared.append((found.current, made.name))
        return on.prepare(made, grid, constants)

    device = SimpleNamespace(get_device_id=lambda: found.current)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(device=device)))
    monkeypatch.setattr(narrow_product, "prepare", prepare)
    return found


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("count", "width"),
    [(1, 1), (AT_ONCE - 1, THREADS + 1), (AT_ONCE, THREADS), (2 * AT_ONCE + 3, 2 * THREADS + 5)],
)
def test_rows_are_added_in_their_order_and_rounded_once(devices, count, width, dtype):
    a, b = drawn(count, width)
    a[:] = 1  # products are exact: what remains is the order of the sum
    out = np.zeros((1, 1, width), DTYPES[dtype])
    cublas.prepare(View.of(out), View.of(a), View.of(b))(out, a, b)
    want = np.zeros(width, np.float32)
    for row in b[0]:
        want += row
    np.testing.assert_array_equal(out[0, 0], want.astype(out.dtype))


def test_it_is_a_product(devices):
    a, b = drawn(20, 7)
    out = np.zeros((1, 1, 7), np.float16)
    cublas.prepare(View.of(out), View.of(a), View.of(b))(out, a, b)
    np.testing.assert_allclose(out, a @ b, rtol=2e-3, atol=2e-3)


def test_prepared_at_once_and_again_on_another_device(devices):
    a, b = drawn(3, 4)
    out = np.zeros((1, 1, 4), np.float16)
    made = cublas.prepare(View.of(out), View.of(a), View.of(b))
    assert devices.prepared == [(0, "narrow_product")]
    made(out, a, b)
    devices.current = 1
    made(out, a, b)
    made(out, a, b)
    assert devices.prepared == [(0, "narrow_product"), (1, "narrow_product")]


def test_what_it_cannot_read_is_an_error(devices):
    a, b = drawn(3, 4)
    out = np.zeros((1, 1, 4), np.float16)
    whole = [View.of(out), View.of(a), View.of(b)]
    for place, view in (
        (1, View.of(np.zeros((1, 2, 3), np.float32))),
        (2, View.of(drawn(3, 8)[1][:, :, ::2])),
        (2, View.of(drawn(3, 8)[1][:, :, :4])),
        (0, whole[0]._replace(offset=2)),
    ):
        with pytest.raises(ValueError, match="one row times one matrix, without gaps"):
            NarrowProduct(*(view if i == place else v for i, v in enumerate(whole)))


@needs_ptxas
@pytest.mark.parametrize("dtype", HALVES)
def test_no_branch_stands_between_the_loads(dtype):
    text = compile_to_ptx(program(dtype), (8, 0))
    used = assemble(text, (8, 0))
    assert used.spill_stores == used.stack_bytes == 0
    loads = [
        i for i, line in enumerate(text.splitlines()) if "ld.global" in line or "ld.f32" in line
    ]
    within = text.splitlines()[loads[0] : loads[-1]]
    assert len(loads) >= 2 * AT_ONCE
    assert not any("bra" in line for line in within)
