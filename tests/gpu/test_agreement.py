"""The GPU backends against the oracle on a real GPU."""

from __future__ import annotations

import pytest
from device_support import check, names_for, run
from gpu_support import CELLS, Case, mixed, no_recurrence
from hypothesis import given, settings
from hypothesis import strategies as st

from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import fused
from flashrnn_numba.kernels.machine import gpu
from flashrnn_numba.tuning.models.fused import largest_head

BACKENDS = ("fused", "alternating")


@pytest.mark.parametrize(("dtype", "name"), [(d, n) for d in DTYPES for n in names_for(d)])
@pytest.mark.parametrize("function", [*CELLS, mixed, no_recurrence], ids=str)
def test_every_cell_and_dtype(function, dtype, name):
    check(Case(function, dtype, B=5, T=33, H=3, D=24, clip=0.5), name)


@settings(max_examples=50, deadline=None)
@given(
    backend=st.sampled_from(BACKENDS),
    function=st.sampled_from(CELLS),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    D=st.just(24),  # each compiles; other sizes and their tiles are tested elsewhere
    B=st.sampled_from([0, 1, 5, 33, 70]),
    T=st.integers(0, 70),
    H=st.integers(1, 64),
    flags=st.tuples(*[st.booleans()] * 6),
    seed=st.integers(0, 9999),
)
def test_random_problems(backend, function, dtype, D, B, T, H, flags, seed):
    names = ("states", "reset", "lengths", "strided", "dlast", "dstates")
    choice = dict(zip(names, flags, strict=True))
    check(Case(function, dtype, B=B, T=T, H=H, D=D, seed=seed, **choice), backend)


@pytest.mark.parametrize("D", [1, 2, 3, 17, 31, 33, 63, 65, 96, 100, 101, 128, 167])
def test_head_dimensions_of_the_fused_kernel(D):
    for dtype in ("float32", "bfloat16"):
        if largest_head(get_cell("lstm"), dtype, "backward", gpu().device()) >= D:
            check(Case("lstm", dtype, B=3, T=9, H=2, D=D), "fused")


@pytest.mark.parametrize("D", [1, 129, 257, 768, 1023, 2048])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_head_dimensions_of_alternating(D, dtype):
    check(Case("lstm", dtype, B=3, T=5, H=1, D=D), "alternating")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "case",
    [
        Case("lstm", B=256, T=17, H=2, D=32),
        Case("lstm", B=1, T=4096, H=1, D=32),
        Case("slstm", "bfloat16", B=2, T=1500, H=2, D=64),
        Case("gru", B=2, T=5, H=64, D=16),
        Case("elman", "float16", B=33, T=130, H=5, D=48),
    ],
    ids=repr,
)
def test_long_and_wide(case, backend):
    check(case, backend)


@pytest.mark.parametrize(
    ("dtype", "name"), [(d, n) for d in ("float32", "bfloat16") for n in names_for(d)]
)
def test_two_runs_are_bit_identical(dtype, name):
    case = Case("slstm", dtype, B=37, T=200, H=3, D=64)
    first, second = run(case, name), run(case, name)
    for a, b in zip([*first[:2], *first[2]], [*second[:2], *second[2]], strict=True):
        assert a.tobytes() == b.tobytes()


def test_the_largest_heads_run():
    """Of the portable kernel."""
    for dtype in DTYPES:
        cell = get_cell("lstm")
        limit = min(largest_head(cell, dtype, d, gpu().device()) for d in ("forward", "backward"))
        check(Case("lstm", dtype, B=2, T=4, H=1, D=limit), "portable")
        above = [
            fused.choose_tiling(cell, dtype, limit + 1, 1, d, gpu().device())
            for d in ("forward", "backward")
        ]
        assert None in above
