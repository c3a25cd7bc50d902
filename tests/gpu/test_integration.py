"""Streams, graphs, memory, other packages' arrays, compilations and errors, on a real GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from gpu_support import Case, build, compare

import flashrnn_numba as fr
from flashrnn_numba.kernels import fused, launch, tensor_backward_run
from flashrnn_numba.kernels.launch import LaunchError
from flashrnn_numba.kernels.machine import gpu
from flashrnn_numba.testing.transfer import from_backend, to_backend

BACKENDS = ("fused", "alternating")
CASE = Case("lstm", B=4, T=20, H=2, D=32, states=False, reset=False, lengths=False)


def call(case: Case, backend: str, kind: str = "cupy"):
    _, inputs, dstates, dlast = build(case)
    arrays = [to_backend(a, kind) for a in (*inputs[:3], dstates, dlast)]
    states, last, vjp = fr.flashrnn_vjp(*arrays[:3], function=case.function, backend=backend)
    return states, last, vjp(*arrays[3:])


def host(results):
    states, last, gradients = results
    return (
        from_backend(states),
        from_backend(last),
        [None if g is None else from_backend(g) for g in gradients],
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_length_and_strides_compile_nothing(backend):
    call(CASE, backend)
    before = launch.compilations()
    for case in (CASE.with_(B=19), CASE.with_(T=3), CASE.with_(strided=True)):
        compare(case, *host(call(case, backend)))
    assert launch.compilations() == before


def test_batches_of_any_size_compile_nothing(tmp_path):
    """Once what other batch sizes need on tensor cores was compiled beside other work."""
    script = (
        "import cupy, flashrnn_numba as fr\n"
        "from flashrnn_numba.kernels import launch\n"
        "def call(B):\n"
        "    shapes = (B, 3, 1, 1, 64), (1, 1, 64, 64), (1, 1, 64)\n"
        "    a = [cupy.ones(s, 'float16') for s in shapes]\n"
        "    states, _, vjp = fr.flashrnn_vjp(*a, function='elman')\n"
        "    vjp(cupy.ones_like(states))\n"
        "call(16)\n"
        "assert launch.settle(100)\n"
        "before = launch.compilations(), len(launch._loaded)\n"
        "for B in (1, 2, 7, 33, 100, 128, 256, 1000): call(B)\n"
        "print(launch.compilations() == before[0], len(launch._loaded) > before[1])\n"
    )
    environment = {**os.environ, "FLASHRNN_NUMBA_CACHE_DIR": str(tmp_path)}
    environment.pop("FLASHRNN_NUMBA_COMPILE_AHEAD", None)
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["True", "True"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_stream_of_the_callers(backend):
    import cupy

    for _ in range(3):  # run, capture, replay
        with cupy.cuda.Stream(non_blocking=True) as stream:
            results = call(CASE, backend)
            stream.synchronize()
            compare(CASE, *host(results))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_synchronises(backend):
    """A call returns while the GPU is still busy with what was asked before it."""
    import cupy

    call(CASE, backend)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        call(CASE, backend)
        call(CASE, backend)
        stream.synchronize()
        busy = cupy.RawKernel(
            'extern "C" __global__ void busy() { long long t = clock64();'
            " while (clock64() - t < 2000000000LL); }",
            "busy",
        )
        busy((1,), (1,), ())
        call(CASE, backend)
        assert not stream.done
        stream.synchronize()


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_that_have_not_used_the_device(backend):
    """Four at once, each on a stream of its own, several times the same call."""
    import cupy

    call(CASE, backend)
    results = []

    def work():
        with cupy.cuda.Stream(non_blocking=True) as stream:
            made = [call(CASE, backend) for _ in range(3)]
            stream.synchronize()
            results.extend(map(host, made))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12
    for result in results:
        compare(CASE, *result)


def test_a_planned_call_allocates_and_launches_only():
    """Other arrays of the same metadata, in another place: planned once, and right."""
    first, second = CASE.with_(dtype="bfloat16", D=64), CASE.with_(dtype="bfloat16", D=64, seed=1)
    for case in (first, second, first, second.with_(strided=True), first):
        compare(case, *host(call(case, "fused")))


@pytest.mark.parametrize("backend", BACKENDS)
def test_within_a_graph_of_the_callers(backend):
    import cupy

    _, inputs, *_ = build(CASE)
    Wx, R, b = (to_backend(a, "cupy") for a in inputs[:3])
    with cupy.cuda.Stream(non_blocking=True) as stream:
        fr.flashrnn(Wx, R, b, backend=backend)
        stream.synchronize()
        stream.begin_capture()
        states, last = fr.flashrnn(Wx, R, b, backend=backend)
        graph = stream.end_capture()
        states.fill(np.nan)
        graph.launch(stream)
        stream.synchronize()
        compare(CASE, from_backend(states), from_backend(last), None)


# on an H200 the clusters of the last rows run beside the weight gradients of the others
IN_TURNS = CASE.with_(dtype="bfloat16", B=120, T=8, H=1, D=768)


def test_weight_gradients_beside_the_last_groups():
    """In two stages; the same bits each time, on a stream of the caller's too."""
    import cupy

    task, *_ = build(IN_TURNS)
    device = gpu().device()
    if (device.sm, device.sms) != (90, 132):
        pytest.skip(f"{device.name} may hold all clusters at once")
    tiling = tensor_backward_run.plan(task, device)
    assert len(tensor_backward_run.stages_of(task, tiling, device)) == 2
    with cupy.cuda.Stream(non_blocking=True):
        runs = [host(call(IN_TURNS, "fused")) for _ in range(3)]
    runs.append(host(call(IN_TURNS, "fused")))
    compare(IN_TURNS, *runs[0])
    for _, _, gradients in runs[1:]:
        for one, other in zip(gradients, runs[0][2], strict=True):
            assert one is other is None or one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    "case", [CASE, CASE.with_(dtype="bfloat16", H=1, D=768), IN_TURNS], ids=repr
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_keeps_what_it_uses(backend, case):
    """Only the results are kept; memory that was freed is overwritten, and not by the graph."""
    import cupy

    _, inputs, dstates, dlast = build(case)
    given = [to_backend(a, "cupy") for a in (*inputs[:3], dstates, dlast)]

    def both():
        states, last, vjp = fr.flashrnn_vjp(*given[:3], backend=backend)
        return states, last, vjp(*given[3:])

    with cupy.cuda.Stream(non_blocking=True) as stream:
        both()
        stream.synchronize()
        stream.begin_capture()
        results = both()
        graph = stream.end_capture()
        sizes = [1 << n for n in range(9, 25)]
        others = [cupy.full(n, 0xAB, cupy.uint8) for n in sizes for _ in range(4)]
        for _ in range(2):
            graph.launch(stream)
        stream.synchronize()
        compare(case, *host(results))
        assert all(bool((other == 0xAB).all()) for other in others)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_tensors(backend, dtype):
    torch = pytest.importorskip("torch")
    case = CASE.with_(dtype=dtype)
    _, inputs, dstates, dlast = build(case)

    def tensor(array):
        wide = torch.from_numpy(np.ascontiguousarray(array).astype(np.float32))
        return wide.to("cuda", getattr(torch, dtype))

    Wx, R, b = (tensor(a) for a in inputs[:3])
    states, last, vjp = fr.flashrnn_vjp(Wx, R, b, function=case.function, backend=backend)
    gradients = vjp(tensor(dstates), tensor(dlast))
    assert states.is_cuda
    assert states.dtype == Wx.dtype
    results = [None if a is None else a.float().cpu().numpy() for a in (states, last, *gradients)]
    compare(case, *results[:2], results[2:])


def test_the_drivers_errors_have_the_plan():
    cell, device = fr.get_cell("lstm"), gpu().device()
    plan = fused.plan(cell, "float32", 32, 2, "forward", device)
    too_much = replace(plan.program, shared_bytes=device.shared_per_block + 4096)
    with pytest.raises(LaunchError, match="plan: fused forward of lstm"):
        launch.launch(too_much, (1, 1, 1), [None] * 15 + [0] * 5)
    compare(CASE, *host(call(CASE, "fused")))  # the device is as it was


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_of_memory_leaves_no_state_behind(backend):
    import cupy

    # a pool of its own: what others have left there is no room
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        call(CASE, backend)
        pool.free_all_blocks()
        pool.set_limit(size=pool.total_bytes() + (1 << 16))
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
            call(CASE.with_(B=300), backend)
        pool.set_limit(size=0)
    compare(CASE, *host(call(CASE, backend)))


def test_backwards_kernels_are_compiled_by_another_process(tmp_path):
    """While this one compiles forward's; another process afterwards finds all on disk."""
    script = (
        "import cupy, flashrnn_numba as fr\n"
        "from flashrnn_numba.kernels import launch\n"
        "here, plain = [], launch._compile\n"
        "launch._compile = lambda p, cc: (here.append(p.name), plain(p, cc))[1]\n"
        "a = [cupy.ones(s, 'float16') for s in ((2, 3, 4, 1, 32), (4, 1, 32, 32), (4, 1, 32))]\n"
        "states, _, vjp = fr.flashrnn_vjp(*a)\n"
        "vjp(cupy.ones_like(states))\n"
        "cupy.cuda.Device().synchronize()\n"
        "print(*here, len(launch.compilations()))\n"
    )
    environment = {**os.environ, "FLASHRNN_NUMBA_CACHE_DIR": str(tmp_path)}
    environment.pop("FLASHRNN_NUMBA_COMPILE_AHEAD", None)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert outputs == [["tensor_forward", "3"], ["0"]]
