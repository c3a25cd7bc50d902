"""The GPU kernels as machine code, without a GPU: no spills, shared memory as the model says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gpu_support import Case, build

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import alternating_plan, fused, launch
from flashrnn_numba.kernels.assemble import assemble
from flashrnn_numba.kernels.emulated import EmulatedMachine
from flashrnn_numba.kernels.emulator import OutOfBoundsError
from flashrnn_numba.kernels.fused_layout import Tiling
from flashrnn_numba.tuning import Device

ARCHITECTURES = ((8, 0), (9, 0), (10, 0))


def check(program: launch.Program, cc: tuple[int, int], architectures) -> None:
    ptx = launch.compile_to_ptx(program, cc)
    for target in architectures:
        used = assemble(ptx, target)
        assert (used.spill_stores, used.spill_loads, used.stack_bytes) == (0, 0, 0), target
        assert used.shared_bytes == 0, "all shared memory is dynamic, as counted by layout()"
        assert used.registers * program.threads <= 65536


# the widest vectors, most gates and states, and the largest register tiles
@pytest.mark.parametrize(
    ("function", "dtype", "D", "direction", "device"),
    [
        ("lstm", "float32", 64, "forward", "A100"),
        ("slstm", "bfloat16", 64, "backward", "A100"),
        ("slstm", "float64", 32, "backward", "H200"),
        ("gru", "float16", 96, "forward", "B200"),
    ],
)
def test_tuned_kernels_do_not_spill(function, dtype, D, direction, device):
    limits = Device.named(device)
    plan = fused.plan(get_cell(function), dtype, D, 12, direction, limits)
    assert plan.program.shared_bytes <= limits.shared_per_block
    newer = [cc for cc in ARCHITECTURES if cc >= limits.compute_capability]
    check(plan.program, limits.compute_capability, newer)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_pointwise_kernels_do_not_spill(direction):
    check(alternating_plan.program(get_cell("slstm"), "bfloat16", direction), (8, 0), ARCHITECTURES)


def test_loads_from_shared_memory_are_vectors():
    """16 bytes at a time: the product lives on shared-memory bandwidth."""
    tiling = Tiling(heads=1, rows=2, row_tile=2, unit_tile=1, split=1, threads=32)
    for dtype, weights in (("float32", "ld.shared.v4.f32"), ("bfloat16", "ld.shared.v4.u32")):
        program = fused.program(get_cell("elman"), dtype, 32, "forward", tiling)
        assert weights in launch.compile_to_ptx(program, (8, 0))


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_shared_memory_is_what_the_model_counts(dtype, direction):
    """With a few bytes less, the kernel's last access is out of bounds; with all, none is."""
    tiling = Tiling(heads=1, rows=2, row_tile=2, unit_tile=1, split=2, threads=32)
    task, inputs, dstates, dlast = build(Case("lstm", dtype, B=2, T=1, H=1, D=5))
    full = {
        d: fused.Plan(d, tiling, fused.program(task.cell, dtype, 5, d, tiling))
        for d in ("forward", "backward")
    }
    program = full[direction].program
    smaller = replace(program, shared_bytes=program.shared_bytes - 8)
    less = replace(full[direction], program=smaller)
    on = EmulatedMachine(replace(Device.named("H200"), sms=1, threads_per_sm=32))
    _, _, kept = fused.run_forward(on, task, inputs, True, full["forward"])

    def run(plan: fused.Plan) -> None:
        if direction == "forward":
            fused.run_forward(on, task, inputs, True, plan)
        else:
            fused.run_backward(on, task, inputs, kept, dstates, dlast, plan)

    run(full[direction])
    with pytest.raises(OutOfBoundsError):
        run(less)
