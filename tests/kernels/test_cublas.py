"""What is handed to cuBLAS, checked by a product that reads memory as cuBLAS does."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from gpu_support import Case, build, oracle

from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.kernels import cublas, weight_gradients
from flashrnn_numba.kernels.cublas import describe
from flashrnn_numba.kernels.emulated import EmulatedMachine
from flashrnn_numba.kernels.recent import Recent
from flashrnn_numba.kernels.weight_gradients import Sum, WeightGradients


def matrix(array: np.ndarray, batch: int, rows: int, columns: int, operand) -> np.ndarray:
    """Matrix number `batch` of a column-major operand, from the memory behind `array`."""
    transposed, leading, stride = operand
    if transposed:
        rows, columns = columns, rows
    assert leading >= rows
    size = array.itemsize
    start = array.__array_interface__["data"][0] + batch * stride * size
    buffer = (ctypes.c_char * ((rows + (columns - 1) * leading) * size)).from_address(start)
    flat = np.frombuffer(buffer, array.dtype)
    view = np.lib.stride_tricks.as_strided(flat, (rows, columns), (size, leading * size))
    return view.T if transposed else view


def as_cublas(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    p = describe(out, a, b)
    for n in range(p.batch):
        left = matrix(b, n, p.m, p.k, p.operands[0])
        right = matrix(a, n, p.k, p.n, p.operands[1])
        matrix(out, n, p.m, p.n, p.operands[2])[:] = left @ right


def layouts(random, n, rows, columns):
    """The same kind of matrix in the layouts that occur."""
    yield random.standard_normal((n, rows, columns))
    yield random.standard_normal((n, columns, rows)).transpose(0, 2, 1)
    yield random.standard_normal((rows, n, columns)).transpose(1, 0, 2)
    yield random.standard_normal((columns, n, 3, rows))[:, :, 1].transpose(1, 2, 0)
    yield np.broadcast_to(random.standard_normal((1, rows, columns)), (n, rows, columns))


@pytest.mark.parametrize(("p", "q", "r"), [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1)])
def test_any_layout_gives_the_product(p, q, r):
    random = np.random.default_rng(0)
    for a in layouts(random, 2, p, q):
        for b in layouts(random, 2, q, r):
            out = np.full((2, p, r), np.nan)
            as_cublas(out, a, b)
            np.testing.assert_allclose(out, a @ b)


def test_what_cannot_be_read_in_place_is_an_error():
    out, b = np.empty((1, 2, 2)), np.empty((1, 2, 2))
    with pytest.raises(ValueError, match=r"a with shape .* contiguous rows or contiguous columns"):
        describe(out, np.empty((1, 4, 4))[:, ::2, ::2], b)
    with pytest.raises(ValueError, match="out: rows must be contiguous"):
        describe(out.transpose(0, 2, 1), b, b)
    with pytest.raises(ValueError, match="no product"):
        describe(out, np.empty((1, 2, 3)), b)


class CublasMachine(EmulatedMachine):
    def multiply(self, out, a, b, precision="auto"):
        as_cublas(out, a, b)


@pytest.mark.parametrize("least", [weight_gradients.LEAST_STEPS, 1])
@pytest.mark.parametrize("case", [Case("lstm"), Case("gru", H=3), Case("gru", H=1), Case(T=0)])
def test_weight_gradients(case, least, monkeypatch):
    """dR from gate gradients and states, in the layouts that the kernels write; in spans, too."""
    monkeypatch.setattr(weight_gradients, "LEAST_STEPS", least)
    case = case.with_(dtype="float64")
    task, *_ = build(case)
    random = np.random.default_rng(1)
    cell, T, H, D = task.cell, task.T, task.H, task.D
    dgates = random.standard_normal((task.B, T, len(cell.gates), H, D))
    previous = random.standard_normal((task.B, T, H, D))
    on = CublasMachine()
    spans = weight_gradients._spans(task, task.B * T)
    assert (spans > 1) == (least == 1 and H > 1 and T > 0)
    dWx, dR = WeightGradients(on, task, dgates.dtype)(dgates, previous)
    np.testing.assert_array_equal(dWx, dgates[:, :, list(cell.input_gates)])
    wanted = np.einsum("btghi,bthj->ghij", dgates[:, :, list(cell.recurrent_gates)], previous)
    np.testing.assert_allclose(dR, wanted, atol=1e-12)
    assert oracle(case)[2].R.shape == dR.shape
    parts = WeightGradients(on, task, dgates.dtype, cuts=[1, 2])
    np.testing.assert_allclose(parts(dgates, previous)[1], wanted, atol=1e-12)
    sums = parts.begin()
    for part in (2, 0, 1):  # each needs its own rows only
        rows = slice(*(0, 1, 2, task.B)[part : part + 2])
        own = [np.full_like(array, np.nan) for array in (dgates, previous)]
        own[0][rows], own[1][rows] = dgates[rows], previous[rows]
        parts.add(part, sums, *own)
    np.testing.assert_allclose(parts.total(sums), wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ("float64", "float64"),
        ("float32", "float32"),
        ("float32", "bfloat16"),
        ("float16", "float16"),
    ],
)
def test_a_sum_over_the_first_axis_is_rounded_once(given, dtype):
    array = np.random.default_rng(3).standard_normal((5, 2, 3, 4)).astype(given)
    got = Sum(EmulatedMachine(), array.shape, array.dtype, DTYPES[dtype])(array)
    wide = array.astype(np.float64 if given == "float64" else np.float32)
    assert got.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(got, (np.ones(5, wide.dtype) @ wide.reshape(5, -1))
                                  .reshape(2, 3, 4).astype(DTYPES[dtype]))  # fmt: skip


@pytest.mark.parametrize("shape", [(0, 2, 1, 3), (3, 0, 1, 3)])
def test_a_sum_of_nothing_is_zero(shape):
    got = Sum(EmulatedMachine(), shape, np.dtype(np.float32), DTYPES["bfloat16"])(np.ones(shape))
    assert got.shape == shape[1:]
    assert not got.any()


class Memory:
    def __init__(self, ptr):
        self.ptr = ptr


def stream(ptr, capturing=False):
    return SimpleNamespace(ptr=ptr, is_capturing=lambda: capturing)


@pytest.fixture
def told(monkeypatch):
    """What cuBLAS is told: streams, and workspaces, which lie at 1000, 2000, ..."""
    told: list[int] = []
    places = iter(range(1000, 99000, 1000))
    library = SimpleNamespace(
        cublasCreate_v2=lambda pointer: 0,
        cublasSetStream_v2=lambda handle, stream: told.append(stream.value) or 0,
        cublasSetWorkspace_v2=lambda handle, memory, size: told.append(memory.value) or 0,
    )
    cuda = SimpleNamespace(alloc=lambda size: Memory(next(places)))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(cublas, "_library", lambda: library)
    monkeypatch.setattr(cublas, "_workspaces", Recent(8))
    monkeypatch.setattr(cublas, "_captured", set())
    return told


def test_each_stream_has_a_workspace_and_is_set_once(told):
    one, other = cublas._Handle(0), cublas._Handle(0)
    for handle, ptr in ((one, 1), (one, 1), (one, 2), (other, 1), (one, 2), (one, 1)):
        handle.use(stream(ptr))
    assert told == [1, 1000, 2, 2000, 1, 1000, 1, 1000]


def test_a_graph_of_ours_gets_the_workspace_of_the_stream_it_is_replayed_on(told):
    """Captured on a stream of its own, after another stream was used, or by a new thread."""
    first, second = cublas._Handle(0), cublas._Handle(0)
    for ptr in (1, 2):
        first.use(stream(ptr))
    with first.capturing_for(stream(1)):
        first.use(stream(9, capturing=True))
    assert told[-2:] == [9, 1000]
    with second.capturing_for(stream(2)):
        second.use(stream(9, capturing=True))
    assert told[-2:] == [9, 2000]
    with second.capturing_for(stream(3)):  # allocated before the capture begins
        assert told[-2:] == [3, 3000]
        second.use(stream(9, capturing=True))
        assert told[-2:] == [9, 3000]
    second.use(stream(2))
    second.use(stream(9, capturing=True))  # the caller's
    assert told[-2:] == [9, 2000]


def test_a_stream_is_set_again_after_a_failure(told, monkeypatch):
    handle = cublas._Handle(0)
    handle.use(stream(1))
    library = cublas._library()
    with monkeypatch.context() as failing:
        failing.setattr(library, "cublasSetWorkspace_v2", lambda *_: 7)
        with pytest.raises(RuntimeError, match="status 7"):
            handle.use(stream(2))
    handle.use(stream(1))
    assert told[-2:] == [1, 1000]


def test_the_default_stream_is_not_asked_whether_it_is_captured(told):
    """To ask is an error while another thread captures."""
    cublas._Handle(0).use(SimpleNamespace(ptr=0, is_capturing=lambda: 1 / 0))


def test_workspaces_hold_their_streams(told):
    first = stream(1)
    cublas._Handle(0).use(first)
    assert cublas._workspaces.get((0, 1))[0] is first


def test_a_graph_gets_the_workspace_of_the_stream_used_before_for_good(told):
    handle = cublas._Handle(0)
    handle.use(stream(1))
    handle.use(stream(7, capturing=True))
    assert [m.ptr for m in cublas._captured] == [1000]
    handle.use(stream(7))  # another stream of this number, perhaps: not the graph's workspace
    handle.use(stream(1, capturing=True))
    assert told == [1, 1000, 7, 1000, 7, 2000, 1, 1000]
    for ptr in range(20, 60):  # many others come and go
        handle.use(stream(ptr))
    assert [m.ptr for m in cublas._captured] == [1000]


# cublasGemmStridedBatchedEx as cublas_api.h declares it
POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
GEMM = ctypes.CFUNCTYPE(
    *(INT, POINTER, INT, INT, INT, INT, INT, POINTER),
    *(POINTER, INT, INT, LONG, POINTER, INT, INT, LONG, POINTER, POINTER, INT, INT, LONG),
    *(INT, INT, INT),
)


def gemm(handle, ta, tb, m, n, k, alpha, a, at, lda, sa, b, bt, ldb, sb, beta, c, ct, ldc, sc,
         batch, compute, algorithm):  # fmt: skip
    """The product, in float32, on the host's memory."""
    assert (handle, at, bt, ct, compute, algorithm) == (77, 0, 0, 0, 68, -1)
    factors = [np.frombuffer(ctypes.string_at(x, 4), np.float32)[0] for x in (alpha, beta)]
    assert factors == [1, 0]

    def read(address, i, rows, columns, transposed, leading, stride):
        shape = (columns, rows) if transposed else (rows, columns)
        extent = shape[0] + (shape[1] - 1) * leading
        flat = (ctypes.c_float * extent).from_address(address + 4 * i * stride)
        matrix = np.lib.stride_tricks.as_strided(
            np.frombuffer(flat, np.float32), shape, (4, 4 * leading)
        )
        return matrix.T if transposed else matrix

    for i in range(batch):
        left, right = read(a, i, m, k, ta, lda, sa), read(b, i, k, n, tb, ldb, sb)
        read(c, i, m, n, 0, ldc, sc)[:] = left @ right
    return 0


class Array(np.ndarray):
    """Host memory with CuPy's name for its address."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


class CallingMachine(EmulatedMachine):
    """Products as on a GPU, from views in arrays to the arguments of the foreign call."""

    def prepare_product(self, out, a, b, precision="auto"):
        made = cublas.prepare(out, a, b, precision)
        return lambda *arrays: made(*(array.view(Array) for array in arrays))


@pytest.mark.parametrize("case", [Case("lstm"), Case("gru", H=3), Case("lstm", H=1)])
def test_the_foreign_call_gets_what_the_header_declares(monkeypatch, case):
    library = SimpleNamespace(cublasGemmStridedBatchedEx=GEMM(gemm))
    handle = SimpleNamespace(value=77, use=lambda stream: None)
    device = SimpleNamespace(get_device_id=lambda: 0)
    cuda = SimpleNamespace(device=device, get_current_stream=lambda: None)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(cublas, "_library", lambda: library)
    monkeypatch.setattr(cublas, "_handle", lambda device: handle)
    cublas._gemm.cache_clear()
    try:
        task, *_ = build(case)
        on = CallingMachine()
        random = np.random.default_rng(2)
        cell, B, T, H, D = task.cell, task.B, task.T, task.H, task.D
        dgates = random.standard_normal((B, T, len(cell.gates), H, D), np.float32)
        previous = random.standard_normal((B, T, H, D), np.float32)
        _, dR = WeightGradients(on, task, dgates.dtype)(dgates, previous)
        sums = Sum(on, (B * T, *dgates.shape[2:]), dgates.dtype, dgates.dtype)(dgates)
    finally:
        cublas._gemm.cache_clear()
    recurrent = list(cell.recurrent_gates)
    wanted = np.einsum("btghi,bthj->ghij", dgates[:, :, recurrent], previous)
    np.testing.assert_allclose(dR, wanted, atol=1e-4)
    np.testing.assert_allclose(sums, dgates.sum((0, 1)), atol=1e-4)
