"""A call like one before plans nothing; a call that differs is planned anew, and right. The kernels
run in the emulator, on NumPy arrays that pass for CuPy's."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
from gpu_support import Case, build, compare

import flashrnn_numba as fr
from flashrnn_numba import calls, checks
from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.kernels import gpu, machine
from flashrnn_numba.kernels.emulated import EmulatedMachine
from flashrnn_numba.kernels.recent import Recent

CASE = Case("lstm", "bfloat16", B=2, T=2, H=1, D=16)


class CountingMachine(EmulatedMachine):
    """Counts what it is asked to prepare."""

    def __init__(self):
        super().__init__()
        self.prepared = 0
        self.current = None

    def prepare(self, *arguments):
        self.prepared += 1
        return super().prepare(*arguments)


@pytest.fixture
def on(monkeypatch):
    made = CountingMachine()
    monkeypatch.setattr(machine, "gpu", lambda: made)
    monkeypatch.setattr(gpu, "find_spec", lambda name: True)
    for module in (calls, checks):
        monkeypatch.setattr(module, "kind_of", lambda array, name: "cupy")
    calls.forget()
    yield made
    calls.forget()


def run(case: Case, move=lambda a: a, **options) -> None:
    """Both directions against the oracle; `move` puts an array elsewhere."""
    _, inputs, dstates, dlast = build(case)
    inputs = [None if a is None else move(a) for a in inputs]
    d = [None if a is None else move(a) for a in (dstates, dlast)]
    Wx, R, b, initial, reset, lengths = inputs
    states, last, vjp = fr.flashrnn_vjp(
        *(Wx, R, b, initial, case.function, "fused", reset, lengths, case.clip), **options
    )
    compare(case, states, last, list(vjp(*d)))


def misaligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins 2 bytes after a multiple of 16; flags and lengths as they are."""
    if array.dtype.itemsize != 2:
        return array
    memory = np.empty(array.nbytes + 34, np.uint8)
    start = -memory.ctypes.data % 16 + 2
    moved = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def aligned(array: np.ndarray) -> np.ndarray:
    memory = np.empty(array.nbytes + 32, np.uint8)
    start = -memory.ctypes.data % 16
    moved = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def test_a_call_like_one_before_plans_nothing(on, monkeypatch):
    run(CASE, aligned)
    assert on.prepared == 2  # a kernel for each direction

    def never(*arguments, **options):
        raise AssertionError("planned again")

    for module, name in ((calls, "check_call"), (calls, "check_cotangents"), (calls, "choose")):
        monkeypatch.setattr(module, name, never)
    for name in ("prepared", "strides", "start_options"):
        monkeypatch.setattr(gpu, name, never)
    run(CASE.with_(seed=1), aligned)  # other values, other memory
    assert on.prepared == 2
    assert len(on.launched) == 4


VARIANTS = {
    "strides": CASE.with_(strided=True),
    "dtype": CASE.with_(dtype="float16"),
    "another kernel": CASE.with_(dtype="float32"),
    "no states": CASE.with_(states=False),
    "no reset": CASE.with_(reset=False),
    "no lengths": CASE.with_(lengths=False),
    "no dstates": CASE.with_(dstates=False),
    "no dlast": CASE.with_(dlast=False),
    "clip": CASE.with_(clip=0.1),
    "batch": CASE.with_(B=3),
    "steps": CASE.with_(T=3),
    "cell": CASE.with_(function="gru"),
    "no steps": CASE.with_(T=0),
    "no rows": CASE.with_(B=0),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_call_that_differs_is_planned_anew(on, name):
    for case in (CASE, VARIANTS[name], CASE, VARIANTS[name]):
        run(case, (lambda a: a) if case.strided else aligned)
    # of the cotangents only backward depends
    backward_only = name in ("no dstates", "no dlast")
    assert on.prepared == (3 if backward_only else 4)


def test_alignment_counts(on):
    """16-byte reads of aligned memory, others elsewhere."""
    for move in (aligned, misaligned, aligned, misaligned):
        run(CASE, move)
    assert on.prepared == 4
    assert on.launched[0] is not on.launched[2]


def test_strides_that_no_kernel_reads_are_copied_at_each_call(on):
    """Elements of a record with a gap: strides are no multiples of the item's size."""

    def packed(array):
        if array.dtype != DTYPES["bfloat16"]:
            return array.astype(np.int32) if array.dtype == np.int64 else array
        record = np.empty(array.shape, np.dtype({"names": ["x"], "formats": [array.dtype],
                                                 "itemsize": 3}))  # fmt: skip
        record["x"] = array
        return record["x"]

    run(CASE, packed)
    run(CASE.with_(seed=2), packed)
    assert on.prepared == 2


def test_optional_inputs_come_and_go_between_the_calls(on):
    run(CASE, aligned)
    run(CASE.with_(states=False, reset=False, lengths=False), aligned)
    run(CASE, aligned)


def test_errors_are_those_of_a_first_call(on):
    _, inputs, *_ = build(CASE)
    Wx, R, b = inputs[:3]
    fr.flashrnn(Wx, R, b, recurrent_gradient_clip=1.0)
    for wrong, message in (
        ({"recurrent_gradient_clip": True}, "must be a positive number"),
        ({"recurrent_gradient_clip": [1]}, "must be a positive number"),
        ({"backend": "quick"}, "backend must be one of"),
        ({"precision": "half"}, "precision must be"),
        ({"function": "lsmt"}, "there is no cell 'lsmt'"),
        ({"precision": ["exact"]}, "precision must be"),
    ):
        for _ in range(2):
            with pytest.raises((TypeError, ValueError), match=message):
                fr.flashrnn(Wx, R, b, **{"recurrent_gradient_clip": 1.0} | wrong)


def test_cotangents_are_checked_whenever_their_metadata_is_new(on):
    _, inputs, dstates, _ = build(CASE)
    _, _, vjp = fr.flashrnn_vjp(*inputs[:3])
    vjp(dstates)
    for _ in range(2):
        with pytest.raises(ValueError, match="dstates has shape"):
            vjp(dstates[:, :, :1])
        with pytest.raises(TypeError, match="dstates has dtype float32"):
            vjp(dstates.astype(np.float32))
    vjp(dstates)


def test_arrays_of_two_devices_are_an_error(on, monkeypatch):
    _, inputs, *_ = build(CASE)
    Wx, R, b = inputs[:3]
    metadata = on.metadata
    monkeypatch.setattr(on, "metadata", lambda a: (*metadata(a)[:-1], 1 if a is b else 0))
    with pytest.raises(ValueError, match="b is on CUDA device 1 but Wx is on 0"):
        fr.flashrnn(Wx, R, b)


def test_what_is_kept_holds_no_arrays(on):
    def call():
        _, inputs, dstates, _ = build(CASE)
        _, _, vjp = fr.flashrnn_vjp(*inputs[:3])
        vjp(dstates)
        return [weakref.ref(a) for a in (*inputs[:3], dstates)]

    arrays = call()
    gc.collect()
    assert [a() for a in arrays] == [None] * 4
    assert len(calls._calls) == 1


def test_calls_of_several_threads(on):
    failures = []

    def work(seed):
        try:
            for _ in range(3):
                run(CASE.with_(seed=seed), aligned)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_recent_forgets_what_is_not_asked_for():
    recent = Recent(3)
    for i in range(50):
        recent.put(i, str(i))
        assert recent.get(0) == "0"
        assert len(recent) <= 6
    assert recent.get(1) is None
    assert recent.get(49) == "49"
    recent.clear()
    assert recent.get(49) is None


def test_while_the_caller_captures_all_memory_is_held(on, monkeypatch):
    """Both directions, for each call: a graph may use it at any time."""
    held = []
    monkeypatch.setattr(on, "holding", lambda: nullcontext(held.append(1)))
    run(CASE)
    assert not held
    monkeypatch.setattr(on, "capturing", lambda: True)
    run(CASE)
    assert len(held) == 2
    calls.forget()
    run(CASE)  # what planning allocates, too
    assert len(held) == 6
