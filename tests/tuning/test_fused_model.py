"""The portable fused kernel's model: what it picks fits, and what it calls impossible is."""

from __future__ import annotations

import itertools

import pytest

from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.cells import get_cell, list_cells
from flashrnn_numba.kernels.fused_layout import Tiling, layout
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.models.common import evaluate
from flashrnn_numba.tuning.models.fused import (
    REGISTERS,
    choose_tiling,
    cost,
    fits,
    largest_head,
    registers,
)

DIRECTIONS = ("forward", "backward")


def allowed(cell, dtype, D, direction, device, z: Tiling) -> bool:
    """The constraints, in plain arithmetic."""
    s = layout(cell, dtype, D, direction, z)
    needed = evaluate(registers(cell, dtype, direction, z, s))
    return (
        s.shared_bytes <= device.shared_per_block
        and s.product_threads <= z.threads
        and s.outputs <= 4 * z.threads
        and needed <= REGISTERS[z.threads]
    )


@pytest.mark.parametrize("device", ["T4", "A100", "H200"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_head_has_a_tiling_and_the_next_has_none(dtype, device):
    limits = Device.named(device)
    for name, direction in itertools.product(("elman", "lstm", "gru", "slstm"), DIRECTIONS):
        cell = get_cell(name)
        D = largest_head(cell, dtype, direction, limits)
        tiling = choose_tiling(cell, dtype, D, 3, direction, limits)
        assert tiling is not None, (name, direction, D)
        assert allowed(cell, dtype, D, direction, limits, tiling)
        assert choose_tiling(cell, dtype, D + 1, 3, direction, limits) is None
        assert not fits(cell, dtype, D + 1, direction, limits)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_tiling_is_the_cheapest_of_all(direction):
    cell, device, D, H = get_cell("gru"), Device.named("A100"), 24, 2
    chosen = choose_tiling(cell, "float32", D, H, direction, device)
    every = [
        Tiling(heads, rows, row_tile, unit_tile, split, threads)
        for heads, rows, row_tile, unit_tile, split, threads in itertools.product(
            (1, 2), (1, 2, 4, 8, 16), (1, 2, 4), (1, 2, 4), (1, 2, 4, 8), REGISTERS
        )
        if rows % row_tile == 0
    ]

    def cycles(z: Tiling) -> int:
        return evaluate(
            cost(cell, "float32", direction, z, layout(cell, "float32", D, direction, z))
        )

    possible = [z for z in every if allowed(cell, "float32", D, direction, device, z)]
    assert cycles(chosen) == min(map(cycles, possible))


def test_small_heads_share_a_block():
    device = Device.named("H200")
    assert choose_tiling(get_cell("lstm"), "float32", 8, 64, "forward", device).heads > 1
    assert choose_tiling(get_cell("lstm"), "float32", 8, 1, "forward", device).heads == 1


def test_every_size_up_to_the_largest_has_a_tiling():
    device = Device.named("H200")
    for name in list_cells()[:4]:
        for D in (*range(1, 12), 31, 32, 33, 63, 65, 80):
            for direction in DIRECTIONS:
                assert choose_tiling(get_cell(name), "bfloat16", D, 5, direction, device)
