"""The alternating backend in the emulator: its pointwise kernels and its pieces of time."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_support import CELLS, Case, build, compare, mixed, no_recurrence

from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import alternating, alternating_plan
from flashrnn_numba.kernels.emulated import EmulatedMachine


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    monkeypatch.setattr(alternating_plan, "THREADS", 32)
    monkeypatch.setattr(alternating, "THREADS", 32)
    monkeypatch.setattr(alternating_plan, "STEPS", 4)  # several pieces in a few steps
    alternating_plan._plans.clear()


def run(case: Case, machine: EmulatedMachine | None = None):
    machine = machine or EmulatedMachine()
    task, inputs, dstates, dlast = build(case)
    states, last, kept = alternating.run_forward(machine, task, inputs, True)
    return states, last, alternating.run_backward(machine, task, inputs, kept, dstates, dlast)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [*CELLS, mixed, no_recurrence], ids=str)
def test_every_cell_and_dtype(function, dtype):
    case = Case(function, dtype, B=3, T=7, H=2, D=5, clip=0.2)
    compare(case, *run(case))


@pytest.mark.parametrize(
    "case",
    [
        Case("lstm", strided=True, B=5, T=3, H=3, D=7),
        Case("slstm", states=False, B=2, T=5, H=1, D=40),
        Case("lstm", reset=False, lengths=False, B=1, T=1, H=1, D=1),
        Case("elman", dlast=False),
        Case("gru", dstates=False),
        Case("lstm", T=0),
        Case("lstm", B=0),
    ],
    ids=repr,
)
def test_shapes_and_what_may_be_missing(case):
    compare(case, *run(case))


def test_pieces_cover_the_sequence():
    for T in range(40):
        covered = list(alternating_plan.pieces(T, 8))
        assert [t for t, _ in covered] == list(np.cumsum([0, *(n for _, n in covered)])[:-1])
        assert sum(n for _, n in covered) == T
        assert all(n in (1, 2, 4, 8) for _, n in covered)


def test_one_kernel_for_all_sizes_and_one_plan_for_all_lengths():
    machine = EmulatedMachine()
    for case in (Case(T=3), Case(T=6), Case(T=6, B=2, D=3, strided=True)):
        task, inputs, *_ = build(case)
        alternating.run_forward(machine, task, inputs, False)
    assert len({p.digest for p in machine.launched}) == 1
    assert len(alternating_plan._plans) == 2  # T is no part of a plan, B and D are


def test_a_plan_that_runs_out_of_memory_is_not_kept(monkeypatch):
    def refuse(*arguments):
        raise MemoryError("out of memory")

    machine = EmulatedMachine()
    task, inputs, *_ = build(Case())
    with monkeypatch.context() as patch:
        patch.setattr(alternating_plan.Buffers, "__init__", refuse)
        with pytest.raises(MemoryError):
            alternating.run_forward(machine, task, inputs, False)
    assert not alternating_plan._plans
    alternating.run_forward(machine, task, inputs, False)


def test_old_plans_make_room():
    machine = EmulatedMachine()
    for B in range(1, alternating_plan.KEPT_PLANS + 3):
        task, inputs, *_ = build(Case("elman", B=B, T=1, H=1, D=1))
        alternating.run_forward(machine, task, inputs, False)
    assert len(alternating_plan._plans) == alternating_plan.KEPT_PLANS


def test_buffers_of_a_piece_are_bounded():
    large, *_ = build(Case("lstm", B=0, T=0, H=1, D=1))
    steps = [
        alternating_plan.piece_steps(type(large)(get_cell("lstm"), B, 4096, 1, 2048, "float32"))
        for B in (1, 64, 256)
    ]
    assert steps[0] == alternating_plan.STEPS
    assert steps == sorted(steps, reverse=True)
