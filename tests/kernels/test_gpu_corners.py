"""The table of corner cases for a GPU, held against the solver without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gpu_corners import (
    ALTERNATING,
    CORNERS,
    IN_WAVES,
    PORTABLE,
    TENSOR,
    backward_stages,
    forward_launches,
    one_cluster_too_many,
    refusal,
    task_of,
)
from gpu_support import CELLS, build

from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.checks import check_call, check_cotangents
from flashrnn_numba.kernels import backends, gpu, machine, tensor, tensor_backward_run
from flashrnn_numba.kernels.emulated import EmulatedMachine

OF = {
    kernel: [case for kernels, cases in CORNERS.items() if kernel in kernels for case in cases]
    for kernel in (TENSOR, PORTABLE, ALTERNATING)
}


@pytest.fixture(params=["H100", "H200"])
def device(monkeypatch, request):
    on = EmulatedMachine(request.param)
    monkeypatch.setattr(machine, "gpu", lambda: on)
    monkeypatch.setattr(gpu, "find_spec", lambda name: True)
    return on.device()


@pytest.mark.parametrize("kernels", CORNERS, ids=str)
def test_corners_are_calls_that_pass_the_checks(kernels):
    for case in CORNERS[kernels]:
        case = case.with_(D=min(case.D, 64))  # large ones are all alike, and slow to make
        _, inputs, dstates, dlast = build(case)
        task = check_call(inputs, case.function, case.clip, case.precision)
        check_cotangents(task, dstates, dlast)
        assert replace(task, kind="cupy") == task_of(case)


@pytest.mark.parametrize("kernel", OF)
def test_kernels_hold_their_corners(device, kernel):
    backend = backends.get(ALTERNATING if kernel == ALTERNATING else "fused")
    for case in OF[kernel]:
        assert refusal(task_of(case), kernel, device) is None, case
        assert backend.refuses(task_of(case)) is None, case


@pytest.mark.parametrize("kernel", OF)
def test_corners_reach_the_ends(kernel):
    """But D = 2048 on tensor cores, which test_tensor_cores.py has."""
    cases = OF[kernel]
    dtypes = DTYPES if kernel != TENSOR else set(DTYPES) - {"float64"}
    assert {case.dtype for case in cases} == set(dtypes)
    assert {case.function for case in cases} == set(CELLS)
    for name, ends in {"T": (0, 4096), "B": (0, 256), "H": (1, 64)}.items():
        assert set(ends) <= {getattr(case, name) for case in cases}
    heads = [case.D for case in cases]
    assert min(heads) == 1
    assert max(heads) == {TENSOR: 2047, PORTABLE: 257, ALTERNATING: 2048}[kernel]


def test_cells_lie_in_blocks_clusters_and_grids(device):
    found = {function: set() for function in CELLS}
    for case in OF[TENSOR]:
        task = task_of(case)
        shape = task.cell, task.dtype, task.B, task.H, task.D
        tilings = {
            "forward": tensor.choose_tiling(*shape, device),
            "backward": tensor_backward_run.plan(task, device),
        }
        for direction, z in tilings.items():
            spread = "grid" if z.grid else "block" if z.cluster == 1 else "cluster"
            found[case.function].add((direction, spread))
    assert all(len(spreads) == 6 for spreads in found.values()), found


def test_a_case_of_several_launches_and_two_stages(device):
    task = task_of(IN_WAVES)
    assert forward_launches(task, device) == 3
    assert backward_stages(task, device) == 2


def test_a_small_case_of_two_stages(device):
    case, tiling = one_cluster_too_many(device)
    (first, rows), (last, every) = tensor_backward_run.stages_of(task_of(case), tiling, device)
    assert [wave.groups for wave in (*first, *last)] == [case.B - 1, 1]
    assert (rows, every) == (case.B - 1, case.B)
    assert case.B <= 8
