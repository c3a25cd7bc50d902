"""Streams, graphs, memory, other packages' arrays, compilations and errors, on a real GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gpu_support import Case, build, compare

import flashrnn_numba as fr
from flashrnn_numba import arrays, calls
from flashrnn_numba.kernels import driver, fused, launch, tensor_backward_run, weight_gradients
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
        "assert launch.settle(300)\n"
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_in_turn(backend):
    """Two, by one thread, that work at the same time: neither uses what the other computes with."""
    import cupy

    cases = [CASE.with_(T=200, seed=n) for n in range(8)]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    results = []
    for n, case in enumerate(cases):
        with streams[n % 2]:
            results.append(call(case, backend))
    for stream in streams:
        stream.synchronize()
    for case, result in zip(cases, results, strict=True):
        compare(case, *host(result))


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_on_one_stream(backend):
    import cupy

    cases = [CASE.with_(T=200, seed=n) for n in range(2)]
    results = []
    with cupy.cuda.Stream(non_blocking=True) as stream:

        def work(case):
            with stream:
                results.extend((case, call(case, backend)) for _ in range(4))

        threads = [threading.Thread(target=work, args=(case,)) for case in cases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stream.synchronize()
        assert len(results) == 8
        for case, result in results:
            compare(case, *host(result))


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weight_gradients_of_many_steps(dtype):
    """dR is a sum of sums over spans of the steps."""
    case = CASE.with_(dtype=dtype, B=8, T=128)
    assert weight_gradients._spans(build(case)[0], 8 * 128) > 1
    compare(case, *host(call(case, "fused")))


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


def tensors(case: Case):
    """Inputs and gradients of the outputs, as PyTorch's on the device."""
    torch = pytest.importorskip("torch")
    _, inputs, dstates, dlast = build(case)

    def tensor(array):
        if array is None:
            return None
        dtype = getattr(torch, array.dtype.name)
        known = array.astype(np.float32) if dtype is torch.bfloat16 else array
        return torch.from_numpy(np.ascontiguousarray(known)).to("cuda", dtype)

    return [tensor(array) for array in (*inputs, dstates, dlast)]


def compare_tensors(case: Case, states, last, gradients):
    results = (states, last, *gradients)
    found = [None if a is None else a.float().cpu().numpy() for a in results]
    compare(case, *found[:2], found[2:])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_tensors(backend, dtype, monkeypatch):
    """All of them are read and written where they lie: the library, and of "fused" the kernels, see
    the addresses that PyTorch does."""
    import cupy

    seen, reached, launched = [], set(), driver.Launch.__call__

    def to_cupy(tensor):
        seen.append(arrays.to_cupy(tensor))
        return seen[-1]

    def launch(self, *given, **options):
        reached.update(array.data.ptr for array in given if array is not None)
        launched(self, *given, **options)

    monkeypatch.setattr(calls, "to_cupy", to_cupy)
    monkeypatch.setattr(driver.Launch, "__call__", launch)
    case = CASE.with_(function="gru", dtype=dtype, states=True, reset=True, lengths=True)
    given = tensors(case)
    Wx, R, b, initial, reset, lengths, *d = given
    states, last, vjp = fr.flashrnn_vjp(Wx, R, b, initial, "gru", backend, reset, lengths)
    gradients = vjp(*d)
    addresses = [tensor.data_ptr() for tensor in given]
    assert [array.data.ptr for array in seen] == addresses
    if backend == "fused":
        assert {*addresses, states.data_ptr(), last.data_ptr()} <= reached
    for result in (states, last, *gradients):
        assert (result.device, result.dtype) == (Wx.device, Wx.dtype)
        place = cupy.cuda.runtime.pointerGetAttributes(result.data_ptr())
        assert place.type == cupy.cuda.runtime.memoryTypeDevice
    compare_tensors(case, states, last, gradients)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_that_are_still_to_be_written(backend):
    """By PyTorch's current stream, which is not CuPy's. It waits for the results, the host for
    nothing."""
    torch = pytest.importorskip("torch")
    Wx, R, b, _, _, _, *d = tensors(CASE)
    late = torch.full_like(Wx, float("nan"))
    torch.cuda.synchronize()

    def both():
        states, last, vjp = fr.flashrnn_vjp(late, R, b, backend=backend)
        return states, last, vjp(*d)

    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):  # compile, capture, and take memory
            both()
        torch.cuda.synchronize()
        torch.cuda._sleep(2_000_000_000)  # a second, or more
        late.copy_(Wx)
        results = both()
        assert not torch.cuda.current_stream().query()
        compare_tensors(CASE, *results)


JAX = """
import jax
import numpy as np
from gpu_support import Case, build, compare

import flashrnn_numba as fr


def check(case, backend):
    _, inputs, *d = build(case)
    Wx, R, b, initial, reset, lengths, *d = map(jax.device_put, (*inputs, *d))
    states, last, vjp = fr.flashrnn_vjp(Wx, R, b, initial, case.function, backend, reset, lengths)
    results = states, last, *vjp(*d)
    assert all(isinstance(a, jax.Array) and a.dtype == Wx.dtype for a in results)
    assert all(a.devices() == Wx.devices() for a in results)
    states, last, *gradients = map(np.asarray, results)
    compare(case, states, last, gradients)


if jax.default_backend() != "gpu":
    raise SystemExit("no GPU")
for backend in ("fused", "alternating"):
    for function in ("lstm", "gru"):
        for dtype in ("float32", "bfloat16"):
            check(Case(function, dtype, B=4, T=20, H=2, D=32), backend)
"""


def test_jax_arrays():
    """In a process of its own, which does not take most of the device's memory."""
    pytest.importorskip("jax")
    tests = Path(__file__).parents[1]
    paths = [str(tests / "kernels"), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    ran = subprocess.run(
        [sys.executable, "-c", JAX], env=environment, capture_output=True, text=True
    )
    if ran.stderr.strip().endswith("no GPU"):
        pytest.skip("JAX sees no GPU")
    assert ran.returncode == 0, ran.stderr[-4000:]


def test_the_drivers_errors_have_the_plan():
    cell, device = fr.get_cell("lstm"), gpu().device()
    plan = fused.plan(cell, "float32", 32, 2, "forward", device)
    too_much = replace(plan.program, shared_bytes=device.shared_per_block + 4096)
    with pytest.raises(LaunchError, match="plan: fused forward of lstm"):
        launch.launch(too_much, (1, 1, 1), [None] * 15 + [0] * 5)
    compare(CASE, *host(call(CASE, "fused")))  # the device is as it was


def with_more_and_more_memory(pool, work):
    """What `work` gives once the pool has enough, and how often it had not, at one place after the
    other."""
    import cupy

    for failures in range(20):
        pool.free_all_blocks()
        pool.set_limit(size=pool.total_bytes() + (1 << 16 + failures))
        try:
            return work(), failures
        except cupy.cuda.memory.OutOfMemoryError:
            pass
        finally:
            pool.set_limit(size=0)
    raise AssertionError("out of memory, however much there is")


@pytest.mark.parametrize("case", [CASE.with_(B=300), IN_TURNS], ids=repr)
@pytest.mark.parametrize("backend", BACKENDS)
def test_out_of_memory_leaves_no_state_behind(backend, case):
    """The next call, with the same plans, is right."""
    import cupy

    _, inputs, dstates, dlast = build(case)
    given = [to_backend(a, "cupy") for a in (*inputs[:3], dstates, dlast)]
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        (states, last, vjp), failures = with_more_and_more_memory(
            pool, lambda: fr.flashrnn_vjp(*given[:3], function=case.function, backend=backend)
        )
        assert failures
        gradients, failures = with_more_and_more_memory(pool, lambda: vjp(*given[3:]))
        assert failures
    compare(case, *host((states, last, gradients)))
    compare(case, *host(call(case, backend)))


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
