"""The tensor-core kernels on a real GPU, one block a head and clusters, against the oracle."""

from __future__ import annotations

import pytest
from device_support import check, run
from gpu_corners import IN_WAVES, backward_stages, forward_launches, task_of
from gpu_support import CELLS, Case, mixed

from flashrnn_numba.kernels.machine import gpu


def check_on_tensor_cores(case: Case) -> None:
    check(case, "tensor cores")


def assert_bit_identical(case: Case) -> None:
    """Two runs."""
    first, second = run(case, "fused"), run(case, "fused")
    for a, b in zip([*first[:2], *first[2]], [*second[:2], *second[2]], strict=True):
        assert a is b is None or a.tobytes() == b.tobytes()


@pytest.mark.parametrize("D", [16, 40, 100, 129, 256, 384, 500, 768])
def test_head_dimensions(D):
    check_on_tensor_cores(Case("lstm", "bfloat16", B=11, T=40, H=1, D=D, clip=0.5))


@pytest.mark.parametrize("D", [40, 256])
@pytest.mark.parametrize("function", [*CELLS, mixed], ids=str)
def test_cells(function, D):
    check_on_tensor_cores(Case(function, "float16", B=5, T=33, H=2, D=D, clip=0.5))


@pytest.mark.parametrize("D", [17, 64, 128, 160])
@pytest.mark.parametrize("function", ["lstm", "gru"])
def test_float32_with_products_in_tf32(function, D):
    case = Case(function, B=11, T=40, H=2, D=D, precision="tf32")
    check_on_tensor_cores(case)
    check(case, "alternating")


@pytest.mark.parametrize("B", [1, 8, 33, 128, 256])
@pytest.mark.parametrize(("D", "H"), [(64, 12), (256, 3)])
def test_batches(B, D, H):
    check_on_tensor_cores(Case("lstm", "bfloat16", B=B, T=20, H=H, D=D))


@pytest.mark.parametrize(("D", "H"), [(64, 12), (128, 6), (768, 1)])
def test_two_runs_are_bit_identical(D, H):
    assert_bit_identical(Case("lstm", "bfloat16", B=37, T=150, H=H, D=D))


@pytest.mark.parametrize("D", [64, 256])
def test_long_sequences(D):
    check_on_tensor_cores(Case("gru", "bfloat16", B=2, T=2000, H=1, D=D))


@pytest.mark.parametrize(
    "case",
    [
        Case("lstm", "bfloat16", B=11, T=40, H=1, D=1024, clip=0.5),
        Case("lstm", "float16", B=3, T=20, H=1, D=2048),
        Case("gru", "bfloat16", B=20, T=20, H=2, D=1000),  # two heads at once, padded
        Case("slstm", "bfloat16", B=1, T=500, H=1, D=800),
        Case("lstm", "bfloat16", B=16, T=64, H=1, D=1024, reset=False, lengths=False),
        # slots of the mailbox serve again: s_0 straight into registers, and by way of shared memory
        Case("lstm", "bfloat16", B=1, T=1200, H=1, D=768),
        Case("lstm", "bfloat16", B=72, T=70, H=1, D=768, reset=False),
    ],
    ids=repr,
)
def test_exchange_through_l2(case):
    check_on_tensor_cores(case)
    assert_bit_identical(case)


def test_several_launches_and_weight_gradients_beside_the_last():
    task, device = task_of(IN_WAVES), gpu().device()
    if (device.sm, device.sms) != (90, 132):
        pytest.skip(f"{device.name} may hold all groups at once")
    assert forward_launches(task, device) == 3
    assert backward_stages(task, device) == 2
    check_on_tensor_cores(IN_WAVES)
    assert_bit_identical(IN_WAVES)


@pytest.mark.parametrize(("B", "T"), [(0, 5), (5, 0)])
def test_nothing_to_do(B, T):
    check(Case("lstm", "bfloat16", B=B, T=T, H=2, D=64), "fused")
