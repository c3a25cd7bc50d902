"""The portable fused kernels, forward and backward, in the emulator, against the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gpu_support import CELLS, Case, build, compare, mixed, no_recurrence
from hypothesis import given, settings
from hypothesis import strategies as st

from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import fused
from flashrnn_numba.kernels.emulated import EmulatedMachine
from flashrnn_numba.kernels.fused_layout import Tiling, layout
from flashrnn_numba.tuning import Device

SMALL = Tiling(heads=1, rows=2, row_tile=1, unit_tile=1, split=1, threads=32)
BLOCKED = Tiling(heads=2, rows=4, row_tile=2, unit_tile=2, split=2, threads=64)


def crowded(tiling: Tiling, schedule: int | None = None) -> EmulatedMachine:
    """A device with room for one block: blocks get as many rows as they can take."""
    device = replace(Device.named("H200"), sms=1, threads_per_sm=tiling.threads)
    return EmulatedMachine(device, schedule)


def run(case: Case, tiling: Tiling, machine: EmulatedMachine | None = None):
    """All results of one call with this tiling; outputs poisoned before."""
    machine = machine or crowded(tiling)
    task, inputs, dstates, dlast = build(case)
    plans = [
        fused.Plan(d, tiling, fused.program(task.cell, task.dtype, task.D, d, tiling))
        for d in ("forward", "backward")
    ]
    states, last, kept = fused.run_forward(machine, task, inputs, True, plans[0])
    gradients = fused.run_backward(machine, task, inputs, kept, dstates, dlast, plans[1])
    return states, last, gradients


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What a kernel does not write is not a number."""

    def empty(shape, dtype=float):
        array = np.zeros(shape, dtype)
        array.fill(np.nan)
        return array

    class Poisoned:
        def __getattr__(self, name):
            return empty if name == "empty" else getattr(np, name)

    monkeypatch.setattr(EmulatedMachine, "arrays", Poisoned())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [*CELLS, mixed, no_recurrence], ids=str)
def test_every_cell_and_dtype(function, dtype):
    case = Case(function, dtype, B=2, T=4, H=2, D=3, clip=0.2)
    compare(case, *run(case, SMALL))


@pytest.mark.parametrize(
    "case",
    [
        Case("lstm", strided=True, B=5, T=3, H=3, D=5),
        Case("gru", "bfloat16", strided=True, B=5, T=3, H=3, D=5),
        Case("slstm", states=False, B=3, T=3, H=1, D=7),
        Case("lstm", reset=False, lengths=False, B=1, T=1, H=1, D=1),
        Case("elman", "float16", B=5, T=2, H=5, D=9, dlast=False),
        Case("lstm", B=2, T=3, H=2, D=4, dstates=False),
        Case("lstm", B=2, T=0, H=2, D=4),
        Case("lstm", B=0, T=3, H=2, D=4),
    ],
    ids=repr,
)
def test_shapes_and_what_may_be_missing(case):
    compare(case, *run(case, BLOCKED))


@st.composite
def tilings(draw):
    row_tile = draw(st.sampled_from([1, 2, 4]))
    return {
        "heads": draw(st.integers(1, 3)),
        "rows": row_tile * draw(st.integers(1, 2)),
        "row_tile": row_tile,
        "unit_tile": draw(st.sampled_from([1, 2, 4])),
        "split": draw(st.integers(1, 3)),
    }


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    tiling=tilings(),
    extra=st.integers(0, 2),
    dtype=st.sampled_from(list(DTYPES)),
    D=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_tiling_gives_the_same(tiling, extra, dtype, D, seed):
    case = Case("gru", dtype, B=3, T=2, H=2, D=D, seed=seed)
    z = Tiling(**tiling, threads=1024)
    needs = layout(get_cell("gru"), dtype, D, "forward", z).product_threads
    threads = min(1024, -(-needs // 32) * 32 + 32 * extra)
    compare(case, *run(case, Tiling(**tiling, threads=threads)))


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_blocks_with_fewer_rows_than_they_could_take(rows):
    """A launch chooses the rows of a block by the batch and the room on the device."""
    case = Case("lstm", B=5, T=3, H=2, D=5)
    room = {1: 5, 3: 2, 4: 1}[rows]
    device = replace(Device.named("H200"), sms=room, threads_per_sm=BLOCKED.threads)
    task, *_ = build(case)
    assert fused.grid_of(task, BLOCKED, 4096, device) == (-(-5 // rows), 1, rows)
    compare(case, *run(case, BLOCKED, EmulatedMachine(device)))


def test_the_tuned_tiling_and_order_of_threads():
    case = Case("lstm", B=3, T=2, H=2, D=6)
    machine = EmulatedMachine(schedule=7)
    task, inputs, dstates, dlast = build(case)
    states, last, kept = fused.run_forward(machine, task, inputs, True)
    gradients = fused.run_backward(machine, task, inputs, kept, dstates, dlast)
    compare(case, states, last, gradients)


def test_two_runs_are_bit_identical():
    case = Case("slstm", "bfloat16", B=2, T=3, H=1, D=5)
    first, second = run(case, BLOCKED), run(case, BLOCKED, crowded(BLOCKED, schedule=3))
    for a, b in zip([*first[:2], *first[2]], [*second[:2], *second[2]], strict=True):
        assert a.tobytes() == b.tobytes()


def test_without_keep_nothing_is_stored_for_backward():
    task, inputs, *_ = build(Case("lstm", B=1, T=2, H=1, D=2))
    plan = fused.Plan("forward", SMALL, fused.program(task.cell, "float32", 2, "forward", SMALL))
    _, _, kept = fused.run_forward(EmulatedMachine(), task, inputs, False, plan)
    assert kept is None


def test_batch_length_and_strides_compile_nothing():
    machine = EmulatedMachine()
    cell = get_cell("lstm")
    small = Case("lstm", B=1, T=1, H=2, D=4)
    for case in (small, small.with_(B=3, T=2), small.with_(strided=True, reset=False)):
        task, inputs, dstates, dlast = build(case)
        _, _, kept = fused.run_forward(machine, task, inputs, True)
        fused.run_backward(machine, task, inputs, kept, dstates, dlast)
    assert len({p.digest for p in machine.launched}) == 2  # forward and backward
    other = fused.plan(cell, "float32", 5, 2, "forward", machine.device()).program
    assert other.digest not in {p.digest for p in machine.launched}


def test_rows_are_spread_over_the_device():
    device = Device.named("H200")
    tiling = Tiling(heads=1, rows=8, row_tile=4, unit_tile=1, split=1, threads=512)
    task, *_ = build(Case("lstm", B=4, T=0, H=2, D=64, states=False))
    assert fused.grid_of(task, tiling, 100_000, device) == (4, 2, 1)
    many, *_ = build(Case("lstm", B=4096, T=0, H=2, D=64, states=False))
    assert fused.grid_of(many, tiling, 100_000, device) == (512, 2, 8)


def test_a_kernel_whose_registers_leave_room_for_one_block_is_spread_accordingly():
    """LSTM 64 x 12: two blocks of 8 warps would fit by shared memory and threads."""

    class Full(EmulatedMachine):
        def blocks_per_sm(self, program):
            return 1

    case = Case("lstm", B=16, T=1, H=12, D=2)
    task, inputs, *_ = build(case)
    tiling = Tiling(heads=1, rows=4, row_tile=1, unit_tile=1, split=1, threads=32)
    program = fused.program(task.cell, "float32", 2, "forward", tiling)
    grids = []
    for on in (EmulatedMachine(), Full()):
        on.prepare = lambda program, grid, constants: grids.append(grid) or (lambda *arrays: None)
        fused.prepare_forward(on, task, inputs, False, fused.Plan("forward", tiling, program))
    assert grids == [(16, 12, 1), (8, 12, 1)]


def test_a_tiling_that_does_not_hold_together_is_an_error():
    with pytest.raises(ValueError, match=r"rows .3. is no multiple of row_tile .2."):
        Tiling(heads=1, rows=3, row_tile=2, unit_tile=1, split=1, threads=32)
    with pytest.raises(ValueError, match="heads: expected a positive int, got 0"):
        Tiling(heads=0, rows=2, row_tile=2, unit_tile=1, split=1, threads=32)
    with pytest.raises(ValueError, match="the product needs 64"):
        fused.program(get_cell("lstm"), "float32", 64, "forward", Tiling(1, 1, 1, 1, 1, threads=32))
