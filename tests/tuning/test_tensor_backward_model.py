"""The model of the tensor-core backward kernel: its bytes, and which tilings it picks."""

from dataclasses import replace

import pytest

pytest.importorskip("numba_cuda", reason="the building blocks are numba-cuda intrinsics")

from flashrnn_numba.cells.elman import elman
from flashrnn_numba.cells.gru import gru
from flashrnn_numba.cells.lstm import lstm
from flashrnn_numba.cells.slstm import slstm
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.kernels.tensor_backward import layout, waves
from flashrnn_numba.kernels.tensor_backward_run import no_tiling, plan
from flashrnn_numba.kernels.tensor_layout import number_bytes
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.models import tensor_backward as tuner

BF, F = "bfloat16", "float16"

SHAPES = [
    (lstm, 64, 12, 16), (lstm, 64, 12, 128), (slstm, 256, 3, 16), (gru, 768, 1, 16),
    (lstm, 1024, 1, 16), (lstm, 1536, 1, 1), (slstm, 1100, 1, 40), (elman, 2048, 1, 128),
]  # fmt: skip


TF32 = [(lstm, 64, 12, 16), (slstm, 100, 6, 1), (gru, 128, 6, 128), (elman, 250, 3, 16)]


@pytest.mark.parametrize(
    ("cell", "D", "H", "B", "dtype"),
    [*((*s, BF) for s in SHAPES), *((*s, "float32") for s in [*TF32, (lstm, 256, 3, 16)])],
)
@pytest.mark.parametrize("name", ["H200", "A100"])
def test_model_counts_the_layouts_bytes(cell, D, H, B, dtype, name):
    device, size = Device.named(name), number_bytes(dtype)
    choice = tuner.choose(cell, dtype, B, H, D, device)
    if choice is None:
        assert (dtype, D, name) == ("float32", 256, "A100")
        return
    tiling = choice.tiling
    z = layout(cell, D, tiling, size=size)
    assert z.shared_bytes <= device.shared_per_block
    # one byte less than the layout takes, and the model finds no room for this tiling
    p, _ = tuner.model(
        cell, D, device, tuner.Spread(tiling.cluster, tiling.grid), tiling.tile, size
    )
    values = {v.name: v for v in p.variables}
    chosen = {
        "m_tiles": tiling.m_tiles,
        "gate_parts": tiling.gate_parts,
        "k_parts": tiling.k_parts,
        "each": z.each,
        "ahead": tiling.ahead,
        "resident_rows": z.registers // z.k_steps,
        "strip": tiling.strip or tiling.m_tiles,
    }
    for key, value in chosen.items():
        p.require(values[key] == value)
    (room,) = [r for r in p.constraints if r.name == "shared memory of a block"]
    assert p.solve() == chosen
    assert room.sides(chosen)[0] == z.shared_bytes


@pytest.mark.parametrize(("D", "B"), [(64, 1), (64, 16), (256, 1), (256, 16), (768, 16)])
def test_small_heads_stay_in_clusters(D, B):
    assert not tuner.choose(lstm, BF, B, 768 // D, D, Device.named("H200")).tiling.grid


@pytest.mark.parametrize(("cell", "D"), [(lstm, 1024), (slstm, 1536), (lstm, 2048), (gru, 2048)])
def test_large_heads_are_spread_over_the_grid(cell, D):
    """All blocks of a launch are resident, on a card with clusters and on one without."""
    for name, count in (("H200", 132), ("A100", 108)):
        choice = tuner.choose(cell, BF, 16, 1, D, Device.named(name))
        if choice is None:
            assert (name, D) == ("A100", 2048)
            continue
        assert choice.tiling.grid
        found = waves(cell, D, choice.tiling, 16, 1, Device.named(name))
        assert len(found) == choice.waves
        assert max(wave.groups * choice.tiling.cluster for wave in found) <= count


def test_float32_stays_in_clusters():
    device = Device.named("H200")
    task = replace(task_of(lstm, "float32", 16, 5, 1, 512), precision="tf32")
    tiling = plan(task, device)
    assert (tiling.cluster, tiling.half, tiling.grid) == (16, False, False)
    assert tuner.choose(lstm, "float32", 16, 1, 1024, device) is None
    assert "of 16 multiprocessors" in no_tiling(replace(task, D=1024), device)
    assert plan(replace(task, precision="exact"), device) is None


def task_of(cell, dtype, B, T, H, D):
    return Task(cell, B, T, H, D, dtype)


def test_plan_counts_the_batch_in_powers_of_two():
    device = Device.named("H200")
    assert plan(task_of(lstm, BF, 9, 5, 12, 64), device) == plan(
        task_of(lstm, BF, 16, 5, 12, 64), device
    )


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        (task_of(lstm, "float32", 16, 5, 12, 64), "H200", "where precision='tf32' is asked for"),
        (task_of(lstm, F, 16, 5, 12, 64), "T4", "compute capability below 8.0"),
        (task_of(lstm, BF, 16, 5, 1, 4096), "H200", "does not fit into the registers and shared"),
        (task_of(lstm, BF, 16, 5, 1, 2048), "A100", "multiprocessors of A100"),
    ],
)
def test_what_cannot_run_says_why(task, name, message):
    assert message in no_tiling(task, Device.named(name))


def test_long_sequences_take_smaller_tiles():
    """Indices within a tile have 32 bits."""
    device = Device.named("H200")
    task = task_of(lstm, BF, 128, 400_000, 12, 64)
    tile = plan(task, device).tile
    assert (tile - 1) * task.T * 4 * 12 * 64 + 4 * 12 * 64 < 2**31
    assert tile < plan(task_of(lstm, BF, 128, 1000, 12, 64), device).tile
