"""The mailbox of the exchange through L2: one for each stream, empty between two launches."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_support import Case, build

import flashrnn_numba as fr
from flashrnn_numba.kernels.machine import gpu
from flashrnn_numba.testing.transfer import to_backend

D = 768  # a head that is spread over the whole device


def arrays(B: int, T: int):
    case = Case("lstm", "bfloat16", B=B, T=T, H=1, D=D, states=False, reset=False, lengths=False)
    return [to_backend(a, "cupy") for a in build(case)[1][:3]]


def bits(array):
    import cupy

    return cupy.asnumpy(array.view(cupy.uint16))


def uses_mailbox() -> bool:
    from flashrnn_numba.tuning.models.tensor import choose_tiling

    tiling = choose_tiling(fr.get_cell("lstm"), "bfloat16", 1, 1, D, gpu().device())
    return tiling is not None and tiling.grid


@pytest.mark.parametrize("B", [1, 16, 37])
def test_every_launch_leaves_it_empty(B):
    if not uses_mailbox():
        pytest.skip("this device runs the head in a cluster")
    for T in (1, 2, 3, 70, 1100, 2):
        fr.flashrnn(*arrays(B, T))
        words = gpu().mailbox(1).get()
        assert words.size > 1
        assert (words == 0xFFFFFFFF).all(), T


def test_streams_have_their_own():
    """Two streams at once give what each gives alone."""
    import cupy

    given = [arrays(1, 300), arrays(1, 301)]
    expected = [bits(fr.flashrnn(*some)[0]) for some in given]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in given]
    for _ in range(5):
        found = []
        for some, stream in zip(given, streams, strict=True):
            with stream:
                found.append(fr.flashrnn(*some)[0])
        for stream in streams:
            stream.synchronize()
        assert all(np.array_equal(bits(a), b) for a, b in zip(found, expected, strict=True))


def test_a_graph_has_its_own():
    """It is replayed beside calls on the stream where it was captured."""
    import cupy

    some = arrays(1, 300)
    expected = bits(fr.flashrnn(*some)[0])
    stream, other = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    with stream:
        fr.flashrnn(*some)
        stream.begin_capture()
        captured = fr.flashrnn(*some)[0]
        graph = stream.end_capture()
    for _ in range(5):
        graph.launch(other)
        with stream:
            found = fr.flashrnn(*some)[0]
        stream.synchronize()
        other.synchronize()
        assert np.array_equal(bits(found), expected)
        assert np.array_equal(bits(captured), expected)
