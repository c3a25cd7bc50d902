"""The tensor-core forward kernel: the emulator runs its source, with clusters and race detection,
against the oracle; what the model says of shared memory is held to the kernel.
"""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="the kernel is built of numba-cuda intrinsics")
pytest.importorskip("greenlet", reason="the kernel runs in the emulator")
pytest.importorskip("ml_dtypes", reason="the reference for bfloat16")

from types import SimpleNamespace

from gpu_support import mixed, no_recurrence
from ptx_support import needs_ptxas

from flashrnn_numba.cells import get_cell
from flashrnn_numba.kernels import ptx, reference, tensor, tensor_layout
from flashrnn_numba.kernels.assemble import assemble
from flashrnn_numba.kernels.emulated import EmulatedMachine
from flashrnn_numba.kernels.emulator import RaceError, emulate
from flashrnn_numba.kernels.launch import compile_to_ptx
from flashrnn_numba.kernels.tensor_layout import Tiling, geometry
from flashrnn_numba.kernels.tensor_source import fast_division
from flashrnn_numba.testing.problem import exact, oracle_task, random_problem
from flashrnn_numba.testing.tolerances import relative_error, tolerance
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.models.common import cheapest
from flashrnn_numba.tuning.models.tensor import (
    Counts,
    choose_tiling,
    sizes,
    statements,
    tiling_of,
)

H200 = Device.named("H200")


def find(name):
    return {"mixed": mixed, "no_recurrence": no_recurrence}.get(name) or get_cell(name)


def tiling(cluster=1, n_tiles=1, octets=1, splits=1, registers=99, chains=1, **more):
    return Tiling(cluster, n_tiles, octets, splits, registers, chains, **more)


def errors(problem, machine, chosen, keep=True, inputs=None):
    """Relative errors of states, last states and what is kept for backward."""
    task = oracle_task(problem.cell, problem.inputs)
    states, last, kept = tensor.forward(machine, task, inputs or problem.inputs, keep, chosen)
    widened = exact(problem).inputs
    expected, expected_last, steps = reference.forward(
        oracle_task(problem.cell, widened), widened, keep=True
    )
    pairs = [(states, expected), (last, expected_last)]
    if keep and task.T:
        gates = np.stack([g for _, g in steps]).transpose(2, 0, 3, 4, 1)
        pairs += [(kept.gates, gates), (kept.exact, expected[1:])]
    return [relative_error(got.astype(float), wanted) for got, wanted in pairs if wanted.size]


def check(cell, dtype, shape, chosen, *, keep=True, schedule=None, machine=None, **options):
    B, T, _, D = shape
    problem = random_problem(find(cell), dtype, shape, **options)
    found = errors(problem, machine or EmulatedMachine(schedule=schedule), chosen, keep)
    assert max(found) < tolerance(dtype, T, D, B, "tf32"), found


@pytest.mark.parametrize(
    ("cell", "dtype", "shape", "chosen", "options"),
    [
        ("lstm", "bfloat16", (3, 4, 2, 64), tiling(registers=3, chains=2, early=2), {}),
        ("gru", "float16", (9, 3, 1, 40), tiling(n_tiles=2, registers=4), {"reset": True}),
        ("slstm", "bfloat16", (3, 4, 1, 24), tiling(), {"reset": True, "lengths": True}),
        ("elman", "float16", (5, 4, 1, 16), tiling(octets=2, spread=2), {"states": False}),
        ("mixed", "bfloat16", (2, 4, 2, 17), tiling(), {"lengths": True, "states": False}),
        ("lstm", "float16", (3, 3, 1, 32), tiling(octets=2, splits=2, registers=2), {}),
        ("lstm", "bfloat16", (17, 3, 1, 16), tiling(n_tiles=3, splits=1), {"lengths": True}),
        ("lstm", "float16", (2, 3, 1, 48), tiling(octets=3, splits=3, registers=5), {}),
        ("gru", "bfloat16", (6, 4, 1, 32), tiling(octets=2, spread=2), {"reset": True}),
        ("slstm", "float16", (1, 3, 1, 64), tiling(octets=4, splits=2, spread=2), {}),
        # inputs fetched more steps ahead than there are, and fewer; one number at a time
        ("gru", "bfloat16", (3, 5, 1, 16), tiling(ahead=8), {"reset": True, "lengths": True}),
        ("lstm", "bfloat16", (3, 10, 1, 16), tiling(octets=2, spread=2, ahead=8), {}),
        ("mixed", "float16", (2, 9, 1, 15), tiling(ahead=8), {}),
    ],
)
def test_one_cta_agrees_with_the_oracle(cell, dtype, shape, chosen, options):
    check(cell, dtype, shape, chosen, **options)


@pytest.mark.parametrize(
    ("cell", "dtype", "shape", "chosen", "options"),
    [
        ("lstm", "bfloat16", (3, 4, 1, 32), tiling(2, registers=3), {}),
        ("lstm", "float16", (3, 4, 1, 24), tiling(4, spread=2), {"reset": True}),
        ("gru", "bfloat16", (9, 3, 1, 32), tiling(2, 2, octets=2, splits=2), {"lengths": True}),
        ("slstm", "float16", (3, 4, 1, 32), tiling(2, octets=2, splits=2, registers=6), {}),
        ("mixed", "float16", (3, 3, 2, 16), tiling(2), {"reset": True, "lengths": True}),
        ("elman", "bfloat16", (2, 4, 1, 40), tiling(4, splits=1, chains=2), {}),
    ],
)
def test_clusters_agree_with_the_oracle(cell, dtype, shape, chosen, options):
    check(cell, dtype, shape, chosen, **options)


@pytest.mark.parametrize(
    ("cell", "dtype", "shape", "chosen", "options"),
    [
        ("lstm", "bfloat16", (3, 4, 1, 32), tiling(4, registers=3), {}),
        ("lstm", "bfloat16", (2, 3, 1, 32), tiling(4, n_tiles=2, splits=2, registers=2), {}),
        ("gru", "float16", (1, 3, 1, 48), tiling(3, splits=3), {"reset": True, "lengths": True}),
        ("slstm", "bfloat16", (3, 3, 1, 32), tiling(2, octets=2, splits=2, spread=2), {}),
        ("mixed", "float16", (2, 4, 1, 37), tiling(5), {"reset": True, "lengths": True}),
        ("elman", "bfloat16", (2, 4, 1, 24), tiling(3), {"states": False}),
        ("lstm", "float16", (3, 3, 1, 64), tiling(4, octets=2, splits=2, registers=7), {}),
        ("gru", "bfloat16", (3, 3, 1, 59), tiling(4, octets=2, splits=2), {"reset": True}),
        ("lstm", "bfloat16", (6, 3, 1, 64), tiling(8, splits=2, chains=2, spread=2), {}),
    ],
)
def test_ctas_that_exchange_through_l2_agree_with_the_oracle(cell, dtype, shape, chosen, options):
    """The words of a message arrive one by one, in any order."""
    check(cell, dtype, shape, replace(chosen, grid=True), schedule=3, **options)


@pytest.mark.parametrize(
    ("cell", "shape", "chosen", "options"),
    [
        ("lstm", (3, 4, 2, 32), tiling(registers=3, chains=2, early=2), {}),
        ("gru", (9, 3, 1, 40), tiling(n_tiles=2, registers=4), {"reset": True}),
        ("mixed", (2, 4, 2, 17), tiling(), {"lengths": True, "states": False}),
        ("elman", (5, 4, 1, 16), tiling(octets=2, splits=2, spread=2), {"states": False}),
        ("lstm", (9, 2, 1, 16), tiling(2, 2, registers=3), {}),
        ("lstm", (3, 4, 1, 24), tiling(4, spread=2), {"reset": True, "lengths": True}),
        ("slstm", (3, 4, 1, 32), tiling(2, octets=2, splits=2, spread=2), {}),
        ("gru", (1, 3, 1, 48), tiling(3, splits=3, grid=True), {"reset": True, "lengths": True}),
        ("lstm", (3, 3, 1, 32), tiling(4, splits=2, grid=True), {"lengths": True}),
    ],
)
def test_float32_with_products_in_tf32(cell, shape, chosen, options):
    """One CTA, clusters and through L2."""
    check(cell, "float32", shape, chosen, schedule=1, **options)


def test_tf32_is_used_where_it_is_asked_for():
    task = oracle_task(
        get_cell("lstm"), random_problem(get_cell("lstm"), "float32", (1, 1, 1, 16)).inputs
    )
    assert "precision='tf32'" in tensor.no_tiling(task, H200)
    assert tensor.no_tiling(replace(task, precision="tf32"), H200) is None
    assert "does not fit" in tensor.no_tiling(replace(task, precision="tf32", D=2048), H200)


def test_what_does_not_run_at_once_runs_in_further_launches():
    """Three heads and two batch tiles on a device that holds two groups of CTAs."""
    machine = EmulatedMachine(replace(H200, sms=5))
    problem = random_problem(get_cell("lstm"), "bfloat16", (9, 3, 3, 16))
    chosen = tiling(2, grid=True)
    assert max(errors(problem, machine, chosen)) < tolerance("bfloat16", 3, 16, 9)
    assert len(machine.launched) == 3
    assert all(p.cooperative and p.cluster == 1 for p in machine.launched)


def test_exchange_through_l2_is_chosen_for_heads_that_no_cluster_holds():
    small = replace(H200, sms=6, shared_per_block=5000, clusters=(), gpcs=(), max_cluster=1)
    machine = EmulatedMachine(small)
    problem = random_problem(get_cell("elman"), "float16", (2, 3, 1, 40))
    found = errors(problem, machine, None)
    assert max(found) < tolerance("float16", 3, 40, 2)
    assert machine.launched[0].cooperative


@pytest.mark.parametrize(
    ("chosen", "options"),
    [
        (tiling(2, grid=True), {}),
        (tiling(2, octets=2, splits=2, grid=True), {"reset": True, "lengths": True}),
        (tiling(4, splits=1, grid=True), {"reset": True}),  # alone
        (tiling(2, octets=2, splits=1, spread=2, grid=True), {}),  # alone
    ],
    ids=repr,
)
def test_slots_of_the_mailbox_serve_again(chosen, options, monkeypatch):
    monkeypatch.setattr(tensor_layout, "MAIL_BYTES", 0)
    tensor.program.cache_clear()
    check("lstm", "bfloat16", (2, 19, 1, 32), chosen, keep=False, schedule=5, **options)
    tensor.program.cache_clear()


class OneMailbox(EmulatedMachine):
    """One for all launches, as a stream has."""

    def __init__(self, schedule=None):
        super().__init__(schedule=schedule)
        self.words = np.full(1 << 16, 0xFFFFFFFF, np.uint32)

    def mailbox(self, words):
        assert words <= self.words.size
        return self.words


@pytest.mark.parametrize(
    ("D", "chosen", "dtype"),
    [
        (16, tiling(2, grid=True), "bfloat16"),
        # alone: planes of two rows
        (32, tiling(2, octets=2, splits=1, grid=True), "bfloat16"),
        (32, tiling(2, octets=2, splits=1, spread=2, grid=True), "float32"),
    ],
    ids=repr,
)
def test_the_mailbox_is_left_as_it_was_found(D, chosen, dtype, monkeypatch):
    """By launches of several groups, with fewer and with more steps than it has slots."""
    monkeypatch.setattr(tensor_layout, "MAIL_BYTES", 0)
    tensor.program.cache_clear()
    machine = OneMailbox(3)
    for B, T in ((9, 0), (9, 1), (3, 2), (9, 3), (3, 19), (9, 2)):
        check("lstm", dtype, (B, T, 2, D), chosen, keep=False, machine=machine)
        assert (machine.words == 0xFFFFFFFF).all(), T
    assert all(program.cooperative for program in machine.launched)
    tensor.program.cache_clear()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("splits", [1, 2])
def test_any_order_of_threads_and_copies_will_do(seed, splits):
    """Shuffled threads; stores to other CTAs land early or late."""
    chosen = tiling(2, splits=splits, registers=2, ahead=2, early=1, spread=2)
    check("lstm", "bfloat16", (2, 4, 1, 32), chosen, keep=False, schedule=seed)


@pytest.mark.parametrize("T", [0, 1, 2])
@pytest.mark.parametrize("chosen", [tiling(1), tiling(2), tiling(2, grid=True)], ids=repr)
def test_short_sequences(T, chosen):
    check("lstm", "bfloat16", (2, T, 1, 16), chosen, schedule=0)


@pytest.mark.parametrize("chosen", [tiling(1), tiling(2), tiling(2, grid=True)], ids=repr)
def test_no_batch_rows(chosen):
    problem = random_problem(get_cell("lstm"), "bfloat16", (0, 3, 2, 16))
    task, machine = oracle_task(problem.cell, problem.inputs), EmulatedMachine()
    states, last, _ = tensor.forward(machine, task, problem.inputs, True, chosen)
    assert states.shape == (2, 0, 3, 2, 16)
    assert last.shape == (2, 0, 1, 2, 16)


def test_strided_and_broadcast_inputs_are_read_in_place():
    problem = random_problem(get_cell("lstm"), "bfloat16", (3, 3, 2, 16))
    given = problem.inputs
    wide = np.zeros((*given.Wx.shape[:-1], 33), given.Wx.dtype)
    wide[..., 1::2] = given.Wx
    moved = np.ascontiguousarray(given.R.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    found = errors(
        problem, EmulatedMachine(), tiling(), inputs=given._replace(Wx=wide[..., 1::2], R=moved)
    )
    assert max(found) < tolerance("bfloat16", 3, 16, 3)
    repeated = np.broadcast_to(given.Wx[:1], given.Wx.shape)
    same = replace(problem, inputs=given._replace(Wx=repeated))
    assert max(errors(same, EmulatedMachine(), tiling())) < tolerance("bfloat16", 3, 16, 3)


def test_a_missing_barrier_is_found():
    """Without the warp barrier before sending, a lane that sends nothing may still be reading."""

    class Broken(EmulatedMachine):
        def run(self, program, grid, arguments):
            text = program.text.replace("sync_warp(uint32(0xFFFFFFFF))", "pass")
            text = text.replace("sync_warp(uint32(4294967295))", "pass")
            broken = replace(program, text=text)
            shared = program.shared_bytes
            run = emulate(broken.function(), grid, program.threads, program.cluster, shared)
            run(*arguments)

    problem = random_problem(get_cell("lstm"), "bfloat16", (3, 4, 1, 32))
    with pytest.raises(RaceError):
        errors(problem, Broken(), tiling(2, registers=3), keep=False)


def test_arguments_are_those_of_the_kernel():
    p = tensor.program(
        get_cell("lstm"), "bfloat16", 16, tiling(), tensor.Variant(False, False, True, True)
    )
    assert p.function().__code__.co_argcount == len(p.arguments)


def test_streamed_product_refuses_what_it_cannot_do():
    """(What it computes, the kernels above check.)"""
    assert ptx.resident_tiles(3, 4, 6) == [2, 2, 1, 1]
    for wrong in ((2, 1, 4, 9, 0, 80), (2, 1, 4, 4, 5, 80), (2, 1, 4, 4, 0, 72)):
        m_tiles, n_tiles, k_steps, registers, ahead, row_bytes = wrong
        with pytest.raises(ValueError, match="expected"):
            ptx.streamed_mma(m_tiles, n_tiles, k_steps, registers, ahead, "bf16", row_bytes)


@pytest.mark.parametrize(
    ("dtype", "precision", "coarse"),
    [("bfloat16", "auto", True), ("bfloat16", "exact", False), ("float16", "auto", False)],
)
def test_coarse_functions_only_where_they_do_not_show(dtype, precision, coarse):
    """c after one step is not rounded to 16 bits: it shows whether tanh errs by 2^-11."""
    problem = random_problem(get_cell("lstm"), dtype, (3, 1, 1, 16), states=False)
    task = replace(oracle_task(problem.cell, problem.inputs), precision=precision)
    _, _, kept = tensor.forward(EmulatedMachine(), task, problem.inputs, True, tiling())
    widened = exact(problem).inputs
    states, _, _ = reference.forward(oracle_task(problem.cell, widened), widened, keep=False)
    error = relative_error(kept.exact, states[1:])
    assert (error > 2**-16) == coarse
    assert error < 2**-11
    assert tensor.coarse(dtype, precision) == coarse


def test_divisions_become_calls():
    assert fast_division("a = b / c + d / (e / f)") == "a = divide(b, c) + divide(d, divide(e, f))"


@needs_ptxas
@pytest.mark.parametrize(
    ("cc", "cell", "D", "H", "B"),
    [
        ((8, 0), "lstm", 64, 12, 16),
        ((9, 0), "lstm", 64, 12, 128),
        ((9, 0), "lstm", 256, 3, 16),
        ((9, 0), "slstm", 128, 6, 16),
        ((10, 0), "lstm", 64, 12, 16),
    ],
)
def test_chosen_tilings_do_not_spill(cc, cell, D, H, B):
    """(A 768-unit head fills all registers and spills before the first step: see the notes.)"""
    assert_no_spills(cc, cell, "bfloat16", D, H, B)


@needs_ptxas
def test_tilings_for_tf32_do_not_spill():
    assert_no_spills((9, 0), "lstm", "float32", 128, 6, 16)


def assert_no_spills(cc, cell, dtype, D, H, B):
    device = {(8, 0): Device.named("A100"), (9, 0): H200, (10, 0): Device.named("B200")}[cc]
    chosen = choose_tiling(get_cell(cell), dtype, B, H, D, device)
    variant = tensor.Variant(True, masked=False, wide=True, coarse=tensor.coarse(dtype))
    p = tensor.program(get_cell(cell), dtype, D, chosen, variant)
    used = assemble(compile_to_ptx(p, cc), cc)
    assert (used.spill_stores, used.spill_loads, used.shared_bytes) == (0, 0, 0)
    assert H200.blocks_per_sm(p.threads, used.registers, p.shared_bytes) >= 1


@needs_ptxas
@pytest.mark.parametrize("D", [1024, 2048])
def test_tilings_through_l2_do_not_spill(D):
    chosen = choose_tiling(get_cell("lstm"), "bfloat16", 16, 1, D, H200)
    variant = tensor.Variant(keep=True, masked=False, wide=True, coarse=True)
    p = tensor.program(get_cell("lstm"), "bfloat16", D, chosen, variant)
    used = assemble(compile_to_ptx(p, (9, 0)), (9, 0))
    assert (used.spill_stores, used.spill_loads, used.shared_bytes) == (0, 0, 0)


PROBLEMS = [
    *(("lstm", D, H, B) for D, H in ((64, 12), (128, 6), (256, 3), (768, 1)) for B in (1, 16, 128)),
    *((name, D, 2, 5) for name in ("gru", "slstm", "elman", "mixed") for D in (17, 40, 512)),
]


THROUGH_L2 = [("lstm", D, 1, B, True, 2) for D in (768, 1024, 2048) for B in (1, 16)]
TF32 = [("lstm", D, H, 16, False, 4) for D, H in ((64, 12), (100, 6), (256, 3), (512, 1))]


@pytest.mark.parametrize(
    ("cell", "D", "H", "B", "grid", "size"),
    [*((*p, False, 2) for p in PROBLEMS), *THROUGH_L2, *TF32],
)
def test_the_model_counts_shared_memory_exactly(cell, D, H, B, grid, size):
    cell = find(cell)
    kinds = ("grid",) if grid else ("tensor", "cluster")
    found = cheapest(statements(cell, B, H, D, H200, size, kinds))
    _, solution = found[0]
    counts, z = Counts.of(cell), SimpleNamespace(**solution)
    s = sizes(counts, z)
    chosen = tiling_of(cell, solution)
    g = geometry(D, counts.recurrent, counts.inputs, counts.states, chosen, size)
    assert (s.shared_bytes, s.warps, s.in_shared) == (g.shared_bytes, g.warps, g.in_shared)
    assert g.shared_bytes <= H200.shared_per_block
    assert g.padded >= D


def test_where_no_tiling_exists_the_reason_is_given():
    lstm, none = get_cell("lstm"), find("no_recurrence")
    task = oracle_task(lstm, random_problem(lstm, "bfloat16", (1, 1, 1, 16)).inputs)
    assert tensor.no_tiling(task, H200) is None
    assert "does not fit" in tensor.no_tiling(replace(task, D=4096), H200)
    assert "compute capability" in tensor.no_tiling(task, Device.named("T4"))
    assert "tensor cores" in tensor.no_tiling(replace(task, dtype="float32"), H200)
    assert "no recurrent gate" in tensor.no_tiling(replace(task, cell=none), H200)


def test_rows_are_spread_over_all_clusters():
    lstm = get_cell("lstm")
    task = replace(oracle_task(lstm, random_problem(lstm, "bfloat16", (1, 1, 1, 16)).inputs), D=768)
    seven = replace(H200, clusters=((16, 7),))
    rows = [tensor.rows_of_group(replace(task, B=B), tiling(16), seven) for B in (1, 7, 16, 128)]
    assert rows == [1, 1, 3, 8]
    assert tensor.rows_of_group(replace(task, B=1), tiling(1), seven) == 8


def test_batch_sizes_of_a_class_share_a_tiling():
    lstm = get_cell("lstm")
    assert len({choose_tiling(lstm, "bfloat16", B, 12, 64, H200) for B in range(65, 129)}) == 1
