"""The "fused" backend as a whole, its kernels in the emulator: who runs what, any two together."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from gpu_support import Case, build, compare, mixed

from flashrnn_numba.cells import cell, get_cell, sigmoid
from flashrnn_numba.kernels import fused_backend, machine
from flashrnn_numba.kernels.emulated import EmulatedMachine
from flashrnn_numba.kernels.interface import Task

FLAGS = ("states", "reset", "lengths", "strided", "dlast", "dstates")


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr(machine, "gpu", EmulatedMachine)
    return EmulatedMachine().device()


def run(case: Case) -> None:
    task, inputs, dstates, dlast = build(case)
    task = replace(task, kind="cupy")
    states, last, kept = fused_backend.forward(task, inputs, keep=True)
    gradients = fused_backend.backward(task, inputs, kept, dstates, dlast)
    compare(case, states, last, list(gradients))


@pytest.mark.parametrize("without", [*FLAGS, None])
def test_any_input_may_be_missing(emulated, without):
    flags = {f: f != without for f in FLAGS}
    run(Case("lstm", "bfloat16", B=3, T=3, H=2, D=24, **flags))


@pytest.mark.parametrize(
    ("function", "dtype"), [("lstm", "bfloat16"), ("gru", "float16"), ("lstm", "float64")]
)
def test_the_bias_gradient_is_summed_over_batch_rows_only(monkeypatch, function, dtype):
    """The kernels sum it over time: a product with ones over all steps would read all gate
    gradients again."""
    rows = []

    class Watched(EmulatedMachine):
        def multiply(self, out, a, b, precision="auto"):
            if out.shape[1] == 1:
                rows.append(b.shape)
            super().multiply(out, a, b, precision)

    monkeypatch.setattr(machine, "gpu", Watched)
    case = Case(function, dtype, B=3, T=4, H=2, D=16)
    run(case)
    biased = len(get_cell(function).bias_gates)
    assert rows == [(1, case.B, biased * case.H * case.D)]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_forward_says_which_kernels_backward_will_take(monkeypatch, dtype, keep):
    """They are compiled while forward's is."""
    expected = []

    class Watched(EmulatedMachine):
        def expect(self, programs):
            expected.extend(programs)

    on = Watched()
    monkeypatch.setattr(machine, "gpu", lambda: on)
    task, inputs, dstates, dlast = build(Case("lstm", dtype, B=3, T=2, H=2, D=16))
    task = replace(task, kind="cupy")
    _, _, kept = fused_backend.forward(task, inputs, keep=keep)
    if not keep:
        assert not expected
        return
    before = len(on.launched)
    fused_backend.backward(task, inputs, kept, dstates, dlast)
    ours = [p for p in expected if p.name != "narrow_product"]  # the emulator multiplies itself
    assert ours == on.launched[before:]
    assert len(expected) - len(ours) == (dtype == "bfloat16")


WIDE = Case("lstm", "bfloat16", B=3, T=1, H=1, D=128)


def plan(case: Case, keep: bool = True, **changes) -> None:
    task, inputs, dstates, dlast = build(case)
    task = replace(task, kind="cupy", **changes)
    fused_backend.prepare_forward(task, inputs, keep)
    if keep:
        fused_backend.prepare_backward(task, inputs, dstates, dlast)


@pytest.fixture
def watched(monkeypatch):
    """Digests of what is prepared, and what is asked for some day."""
    prepared, asked = set(), {}

    class Watched(EmulatedMachine):
        def prepare(self, program, grid, constants):
            prepared.add(program.digest)

        def expect_some_day(self, key, programs):
            asked.setdefault(key, programs)

    monkeypatch.setattr(machine, "gpu", Watched)
    return prepared, asked


@pytest.mark.parametrize("keep", [False, True])
def test_kernels_of_all_batch_sizes_are_named_at_the_first_call(watched, keep):
    """A batch of another size then needs nothing new."""
    prepared, asked = watched
    plan(WIDE, keep)
    first = set(prepared)
    (programs,) = asked.values()
    named = {p.digest for p in programs()}
    for B in (1, 6, 11, 20, 64, 130, 300):
        plan(WIDE.with_(B=B), keep)
    assert len(prepared) > len(first) + 2 * keep
    assert prepared <= named
    assert len(asked) == 1


@pytest.mark.parametrize(
    "change",
    [{"strided": True}, {"reset": False}],
    ids=str,
)
def test_kernels_of_other_calls_are_named_at_the_first_of_these(watched, change):
    """Of arrays that lie otherwise, for example: they take another kernel."""
    prepared, asked = watched
    other = WIDE.with_(**change)
    for case in (WIDE, other):
        plan(case)
    before = set(prepared)
    expected = {p.digest for programs in asked.values() for p in programs()}
    plan(other.with_(B=128))
    assert prepared - before
    assert prepared <= before | expected


def test_kernels_are_named_for_each_cell_dtype_size_and_precision(watched, monkeypatch, tmp_path):
    """And for what was measured; not for other lengths and clips."""
    monkeypatch.setenv("FLASHRNN_NUMBA_CACHE_DIR", str(tmp_path))
    _, asked = watched
    mine = cell(gates={"a": "xRb"}, states=("h",), name="elman")(lambda g, s: sigmoid(g.a))
    changes = ({"function": "gru"}, {"function": "elman"}, {"function": mine}, {"H": 2}, {"D": 64})
    changes += ({"dtype": "float16"}, {"precision": "exact"}, {"reset": False})
    for number, change in enumerate(changes, 1):
        plan(WIDE.with_(**change))
        assert len(asked) == number
    for change in ({"T": 2}, {"clip": 0.5}, {"states": False}, {"lengths": False}):
        plan(WIDE.with_(**change))
        assert len(asked) == number + 1  # that of WIDE itself
    (tmp_path / "tuning.json").write_text("{}")
    plan(WIDE)
    assert len(asked) == number + 2


def test_what_kernels_are_named_for_is_written_alike_in_every_process():
    script = (
        "from flashrnn_numba.kernels import fused_backend, machine\n"
        "from flashrnn_numba.kernels.emulated import EmulatedMachine\n"
        "from gpu_support import Case, build\n"
        "from dataclasses import replace\n"
        "machine.gpu = EmulatedMachine\n"
        "EmulatedMachine.expect_some_day = lambda on, *asked: print((on.device(), asked[0]))\n"
        "task, inputs, *_ = build(Case('slstm', 'bfloat16', D=16))\n"
        "fused_backend.prepare_forward(replace(task, kind='cupy'), inputs, True)\n"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    keys = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(keys) == 1
    assert " at 0x" not in keys.pop()


def test_kernels_of_sequences_too_long_for_large_tiles_are_named_for_themselves(watched):
    _, asked = watched
    for T in (1, 64, 1 << 20):
        plan(WIDE, T=T)
    assert len(asked) == 2


@pytest.mark.parametrize("function", ["gru", "slstm", "elman"])
def test_cells(emulated, function):
    run(Case(function, "float16", B=2, T=3, H=1, D=17, clip=0.5))


@pytest.mark.parametrize(("function", "D"), [("lstm", 16), ("gru", 17), (mixed, 24)])
def test_float32_with_products_in_tf32(emulated, function, D):
    case = Case(function, B=2, T=3, H=1, D=D, clip=0.5, precision="tf32")
    task, *_ = build(case)
    for direction in ("forward", "backward"):
        assert fused_backend.uses_tensor_cores(task, emulated, direction)
    run(case)


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "exact"), ("float32", "tf32")])
@pytest.mark.parametrize("directions", [(True, False), (False, True)], ids=str)
def test_either_direction_goes_with_either_kernel(
    emulated, monkeypatch, directions, dtype, precision
):
    of = dict(zip(("forward", "backward"), directions, strict=True))
    monkeypatch.setattr(
        fused_backend, "uses_tensor_cores", lambda task, device, direction: of[direction]
    )
    run(Case("lstm", dtype, B=2, T=3, H=1, D=16, precision=precision))


def test_who_runs_what(emulated):
    def task(dtype: str, D: int) -> Task:
        case_task, *_ = build(Case(D=1, T=1))
        return Task(case_task.cell, 4, 8, 1, D, dtype, "cupy")

    for direction in ("forward", "backward"):
        assert fused_backend.uses_tensor_cores(task("bfloat16", 64), emulated, direction)
        assert not fused_backend.uses_tensor_cores(task("float32", 64), emulated, direction)
