"""Kernels with a stage left out (benchmarks/profile.py) run on the device, too.

`memory` of a forward pass through L2 was an illegal instruction: ptxas 13.0 assembles cp.async with
a cache hint wrongly, where its target is a sum with a uniform register. Whether it is depends on
the code around it; nothing shorter is known that has one.
"""

from __future__ import annotations

import pytest

from benchmarks.profile import Case, Pass
from flashrnn_numba.kernels.machine import gpu


@pytest.fixture(scope="module")
def prepared():
    return Pass(gpu(), Case("lstm", 768, 1, 16), 64)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("stage", ["exchange", "barriers", "product", "pointwise", "memory"])
def test_a_variant_comes_to_its_end(prepared, direction, stage):
    import cupy

    variant = prepared.variant(direction, stage)
    assert variant is not None
    cupy.cuda.Device().synchronize()
