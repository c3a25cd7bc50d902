"""Arrays in and out of the GPU backends, and the replay of graphs, with stand-ins for CuPy."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import torch
from gpu_support import Case, build, compare

import flashrnn_numba as fr
from flashrnn_numba import arrays
from flashrnn_numba.kernels import alternating, backends, fused_backend, gpu, machine
from flashrnn_numba.kernels.emulated import EmulatedMachine
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.kernels.machine import CupyMachine
from flashrnn_numba.kernels.recent import Recent


@pytest.mark.parametrize("backend", ["fused", "alternating"])
def test_numpy_arrays_with_a_gpu_backend_are_an_error_that_says_so(backend):
    _, inputs, *_ = build(Case())
    with pytest.raises(ValueError, match=r"CUDA device .*got NumPy arrays; .*cupy\.asarray"):
        fr.flashrnn(*inputs[:3], backend=backend)


def test_auto_takes_the_cpu_for_numpy_arrays():
    task, *_ = build(Case())
    assert backends.choose(task, "auto").__name__.endswith(".cpu")


def test_auto_takes_fused_where_a_tiling_exists(monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: True)
    monkeypatch.setattr(machine, "gpu", EmulatedMachine)
    task, *_ = build(Case(D=64, T=1))
    small = Task(task.cell, 1, 1, 1, 64, "float32", "cupy")
    large = Task(task.cell, 1, 1, 1, 500, "float32", "cupy")
    assert backends.choose(small, "auto") is fused_backend
    assert backends.choose(large, "auto") is alternating
    with pytest.raises(ValueError, match=r"R of one head \(4 x 500 x 500 float32\).*alternating"):
        backends.choose(large, "fused")


def test_without_cupy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    task, *_ = build(Case())
    with pytest.raises(ValueError, match="pip install cupy"):
        backends.choose(Task(task.cell, 1, 1, 1, 4, "float32", "dlpack"), "auto")


@pytest.fixture
def exchange(monkeypatch):
    """NumPy in CuPy's place: the same protocol, on the host."""
    stand_in = SimpleNamespace(from_dlpack=np.from_dlpack)
    monkeypatch.setitem(sys.modules, "cupy", stand_in)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_torch_tensors_go_in_and_out_without_a_copy(exchange, dtype):
    tensor = torch.arange(6.0).reshape(2, 3).to(getattr(torch, dtype)).requires_grad_()
    array = arrays.to_cupy(tensor)
    assert array.dtype == arrays.DTYPES[dtype]
    assert array.__array_interface__["data"][0] == tensor.data_ptr()
    back = arrays.back_to(array, "torch")
    assert back.dtype == tensor.dtype
    assert back.data_ptr() == tensor.data_ptr()


def test_jax_is_given_what_it_can_read(monkeypatch):
    """It refuses views with gaps."""
    given = []
    module = SimpleNamespace(from_dlpack=given.append)
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(dlpack=module))
    monkeypatch.setitem(sys.modules, "jax.dlpack", module)
    whole = np.arange(24.0).reshape(2, 3, 4)
    arrays.back_to(whole, "jaxlib")
    arrays.back_to(whole[:, 1:], "jax")
    assert given[0] is whole
    assert given[1].flags.c_contiguous
    np.testing.assert_array_equal(given[1], whole[:, 1:])


def test_a_dlpack_call_returns_what_came_in(exchange, monkeypatch):
    """Whole calls with tensors, the kernels in the emulator; twice, the second one as planned."""
    on = EmulatedMachine()
    monkeypatch.setattr(machine, "gpu", lambda: on)
    monkeypatch.setattr(gpu, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.Tensor, "__dlpack_device__", lambda self: (2, 0))
    case = Case("gru", B=2, T=2, H=1, D=3)
    _, inputs, dstates, dlast = build(case)
    tensors = [None if a is None else torch.from_numpy(np.ascontiguousarray(a)) for a in inputs]
    Wx, R, b, initial, reset, lengths = tensors
    for backend in ("fused", "alternating") * 2:
        states, last, vjp = fr.flashrnn_vjp(
            Wx, R, b, initial, "gru", backend, reset=reset, lengths=lengths
        )
        gradients = vjp(torch.from_numpy(dstates), torch.from_numpy(dlast))
        assert all(isinstance(a, torch.Tensor) for a in (states, last, *gradients))
        compare(case, states.numpy(), last.numpy(), [g.numpy() for g in gradients])


def test_bfloat16_is_that_of_ml_dtypes():
    assert arrays.DTYPES["bfloat16"] == ml_dtypes.bfloat16


class Stream:
    """A CuPy stream that only counts."""

    def __init__(self, capturing=False):
        self.capturing, self.captured, self.launched, self.ptr = capturing, 0, 0, 5

    def is_capturing(self):
        return self.capturing

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def begin_capture(self, mode):
        self.captured += 1

    def end_capture(self):
        return self

    def launch(self, stream):
        self.launched += 1


def graph_machine(stream):
    on = CupyMachine.__new__(CupyMachine)
    runtime = SimpleNamespace(streamCaptureModeThreadLocal=1)
    on.arrays = SimpleNamespace(
        cuda=SimpleNamespace(
            get_current_stream=lambda: stream, Stream=lambda non_blocking: stream, runtime=runtime
        )
    )
    on._stream, on._held = (lambda: stream), []
    return on


@pytest.fixture
def products(monkeypatch):
    """cuBLAS is told which stream a graph is for."""
    told = []
    monkeypatch.setattr(
        machine.cublas, "capturing_for", lambda stream: told.append(stream) or nullcontext()
    )
    return told


def test_work_runs_once_then_is_captured_once_and_replayed(products):
    stream, done, graphs = Stream(), [], {}
    on = graph_machine(stream)
    for _ in range(4):
        on.replay(graphs, "key", lambda: done.append(1))
    assert (len(done), stream.captured, stream.launched) == (2, 1, 3)
    on.replay(graphs, "other", lambda: done.append(1))
    assert (len(done), stream.captured) == (3, 1)
    assert products == [stream]


def test_in_a_callers_capture_nothing_is_captured_by_us():
    stream, done, graphs = Stream(capturing=True), [], {}
    for _ in range(3):
        graph_machine(stream).replay(graphs, "key", lambda: done.append(1))
    assert (len(done), stream.captured, graphs) == (3, 0, {})


def test_what_a_callers_graph_uses_is_never_freed():
    cupy = pytest.importorskip("cupy")
    taken = []

    def allocate(size):
        memory = cupy.cuda.UnownedMemory(1 << 40, max(size, 1), None, 0)
        taken.append(cupy.cuda.MemoryPointer(memory, 0))
        return taken[-1]

    on = CupyMachine.__new__(CupyMachine)
    on.arrays, on._held = cupy, []
    with cupy.cuda.using_allocator(allocate):
        with on.holding():
            cupy.ndarray((3,), "float32")
        cupy.ndarray((3,), "float32")
    assert len(taken) == 2
    assert on._held == taken[:1]


class Ordered(Stream):
    """A stream that says what it does."""

    def __init__(self, name, said, capturing=False):
        super().__init__(capturing)
        self.name, self.said, self.ptr = name, said, 7

    def record(self, event):
        self.said.append((self.name, "records", event.number))

    def wait_event(self, event):
        self.said.append((self.name, "waits for", event.number))


@pytest.mark.parametrize(("driver", "capturing"), [(13000, False), (12020, False), (13000, True)])
def test_work_beside_a_launch(driver, capturing):
    """On another stream, when all before has ended and the launch has begun; and what comes next
    waits for it. In turn where a graph is captured, and with old drivers."""
    said, events = [], iter(range(3))
    main, companion = Ordered("main", said, capturing), Ordered("companion", said)
    on = graph_machine(main)
    cuda, on._companions = on.arrays.cuda, Recent(4)
    cuda.runtime.driverGetVersion = lambda: driver
    cuda.Stream = lambda non_blocking: companion
    cuda.Event = lambda disable_timing: SimpleNamespace(number=next(events))
    on.ordinal = lambda: 0
    on.beside(
        lambda begun: said.append(("launch", begun and begun.number)),
        lambda: said.append(("work",)),
    )
    if driver < 12030 or capturing:
        assert said == [("launch", None), ("work",)]
        return
    assert said == [
        ("main", "records", 0), ("launch", 1), ("companion", "waits for", 0),
        ("companion", "waits for", 1), ("work",), ("companion", "records", 2),
        ("main", "waits for", 2),
    ]  # fmt: skip
    events = iter(range(3))
    on.beside(lambda begun: None, lambda: None)
    assert len(on._companions) == 1
