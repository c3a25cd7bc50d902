"""The ends of what the GPU kernels promise (gpu_corners.py), each on every kernel that holds it."""

from __future__ import annotations

import pytest
from device_support import check
from gpu_corners import CORNERS, refusal, task_of

from flashrnn_numba.kernels import machine

EVERY = [(case, kernels) for kernels, cases in CORNERS.items() for case in cases]
NAMES = [f"{c.function}-{c.dtype}-B{c.B}-T{c.T}-H{c.H}-D{c.D}" for c, _ in EVERY]


@pytest.mark.parametrize(("case", "kernels"), EVERY, ids=NAMES)
def test_corners(case, kernels):
    for kernel in kernels:
        reason = refusal(task_of(case), kernel, machine.gpu().device())
        if reason is not None:
            pytest.skip(reason)
        print(kernel)  # pytest shows it beside a failure
        check(case, kernel)
