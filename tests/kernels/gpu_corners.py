"""The ends of what the GPU kernels promise: all cells and dtypes, D from 1 to 2048, H from 1 to 64,
B from 0 to 256, T from 0 to 4096. The table is held against the solver without a GPU
(test_gpu_corners.py); the oracle takes three seconds of a core for a case at most."""

from __future__ import annotations

from gpu_support import CELLS, Case

from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import alternating, fused, tensor, tensor_backward_run
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.kernels.tensor_backward import Tiling, layout
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.models.common import DIRECTIONS
from flashrnn_numba.tuning.models.tensor_backward import groups_at_once
from flashrnn_numba.tuning.models.tensor_costs import Spread

TENSOR, PORTABLE, ALTERNATING = "tensor cores", "portable", "alternating"
BF, F = "bfloat16", "float16"

LARGE = {"B": 2, "T": 2, "H": 1}
# what runs them -> cases. With B = 5, H = 3, D = 24 kernels are those of test_every_cell_and_dtype
CORNERS = {
    (TENSOR, PORTABLE, ALTERNATING): [
        Case("gru", BF, B=5, T=4096, H=3, D=24),
        Case("elman", F, B=5, T=4096, H=3, D=24),
        Case("gru", BF, B=5, T=0, H=3, D=24),
        Case("slstm", F, B=0, T=9, H=3, D=24),
        Case("lstm", F, B=3, T=9, H=2, D=7),
        Case("slstm", F, B=5, T=6, H=64, D=31, clip=0.5),
        Case("gru", F, B=3, T=9, H=2, D=101),
        Case("elman", F, B=3, T=9, H=2, D=257, clip=0.5),
        Case("gru", BF, B=3, T=9, H=3, D=1),
        Case("slstm", BF, B=3, T=9, H=2, D=33),
        Case("gru", BF, B=256, T=4, H=12, D=64),
        Case("slstm", BF, B=256, T=4, H=12, D=64),
        Case("gru", BF, B=5, T=6, H=64, D=64),
    ],
    (TENSOR, ALTERNATING): [
        # in clusters
        *(Case(function, BF, B=5, T=9, H=1, D=384, clip=0.5) for function in ("elman", "gru")),
        Case("slstm", BF, B=5, T=9, H=1, D=384),
        Case("slstm", BF, B=3, T=9, H=2, D=257),
        Case("lstm", BF, B=3, T=4, H=64, D=128),
        Case("slstm", B=3, T=9, H=1, D=257, precision="tf32"),
        # through L2
        Case("gru", F, B=5, T=5, H=1, D=1024),
        Case("slstm", F, B=5, T=4, H=1, D=1024),
        Case("slstm", BF, B=3, T=4, H=1, D=1000, clip=0.5),
        Case("lstm", BF, B=3, T=4, H=1, D=1023),
        Case("elman", BF, B=3, T=4, H=1, D=2047),
        Case("gru", BF, **LARGE, D=2047),
        Case("gru", BF, B=256, T=2, H=1, D=768),
        Case("slstm", BF, B=256, T=2, H=1, D=768),
    ],
    (PORTABLE, ALTERNATING): [
        Case("gru", "float64", B=5, T=4096, H=3, D=24),
        Case("slstm", "float32", B=5, T=4096, H=3, D=24),
        *(Case(f, "float32", B=5, T=0, H=3, D=24) for f in ("gru", "slstm")),
        *(Case(f, "float64", B=5, T=0, H=3, D=24) for f in ("elman", "lstm")),
        *(Case(f, "float32", B=0, T=9, H=3, D=24) for f in ("elman", "lstm")),
        *(Case(f, "float64", B=0, T=9, H=3, D=24) for f in ("gru", "slstm")),
        Case("slstm", "float64", B=3, T=9, H=2, D=1),
        Case("gru", "float64", B=256, T=3, H=64, D=7),
        Case("slstm", "float32", B=256, T=3, H=64, D=17),
        # the largest odd heads
        Case("slstm", "float64", B=3, T=9, H=1, D=83),
        Case("gru", "float64", B=3, T=9, H=1, D=97, clip=0.5),
        Case("elman", "float64", B=3, T=9, H=2, D=167),
        Case("slstm", "float32", B=3, T=9, H=1, D=115),
        Case("gru", "float32", B=3, T=9, H=1, D=137),
        Case("elman", "float32", B=3, T=9, H=1, D=235),
    ],
    (ALTERNATING,): [
        Case(function, dtype, **LARGE, D=D)
        for function in CELLS
        for dtype in DTYPES
        for D in (129, 1023, 2048)
    ],
}  # fmt: skip


def task_of(case: Case) -> Task:
    """For arrays on a GPU."""
    cell = get_cell(case.function)
    sizes = case.B, case.T, case.H, case.D
    return Task(cell, *sizes, case.dtype, "cupy", case.clip, case.precision)


def refusal(task: Task, kernel: str, device: Device) -> str | None:
    """Why a kernel cannot run both directions of a task on a device, or None."""
    if kernel == ALTERNATING:
        return alternating.refuses(task)
    if kernel == PORTABLE:
        reasons = [fused.no_tiling(task, device, direction) for direction in DIRECTIONS]
    else:
        reasons = [module.no_tiling(task, device) for module in (tensor, tensor_backward_run)]
    return next((reason for reason in reasons if reason), None)


# three launches through L2, and a backward whose last wave runs beside weight gradients, on devices
# of compute capability 9.0 with 132 multiprocessors
IN_WAVES = Case("gru", BF, B=24, T=3, H=3, D=1024)


def forward_launches(task: Task, device: Device) -> int:
    """Of the tensor-core forward."""
    tiling = tensor.choose_tiling(task.cell, task.dtype, task.B, task.H, task.D, device)
    assert tiling is not None
    if not tiling.grid:
        return 1
    groups = -(-task.B // tensor.rows_of_group(task, tiling, device)) * task.H
    return -(-groups // tensor.groups_of_launch(tiling, device))


def backward_stages(task: Task, device: Device) -> int:
    """Of the tensor-core backward: two, where the last groups run beside weight gradients."""
    tiling = tensor_backward_run.plan(task, device)
    assert tiling is not None
    return len(tensor_backward_run.stages_of(task, tiling, device))


def one_cluster_too_many(device: Device) -> tuple[Case, Tiling]:
    """A small case whose backward has two stages with this tiling, where there are clusters of
    16."""
    case, tiling = Case("lstm", BF, B=0, T=3, H=1, D=256), Tiling(16, 1, 2, each=1, half=True)
    z = layout(get_cell(case.function), case.D, tiling)
    at_once = groups_at_once(Spread(tiling.cluster), device, z.threads, z.shared_bytes)
    return case.with_(B=at_once + 1), tiling
