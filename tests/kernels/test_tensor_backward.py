"""The tensor-core backward kernel: the kernel's own source in the emulator, against the oracle."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="the building blocks are numba-cuda intrinsics")
pytest.importorskip("greenlet", reason="the kernels run in the emulator")
pytest.importorskip("ml_dtypes", reason="arrays of bfloat16")

from gpu_support import mixed
from ptx_support import needs_ptxas

from flashrnn_numba.cells import cell, exp, sigmoid, tanh
from flashrnn_numba.cells.elman import elman
from flashrnn_numba.cells.gru import gru
from flashrnn_numba.cells.lstm import lstm
from flashrnn_numba.cells.slstm import slstm
from flashrnn_numba.kernels import fused, reference
from flashrnn_numba.kernels.assemble import assemble
from flashrnn_numba.kernels.emulated import EmulatedMachine
from flashrnn_numba.kernels.fused_names import (
    HAS_DLAST,
    HAS_DSTATES,
    HAS_LENGTHS,
    HAS_RESET,
    HAS_STATES,
)
from flashrnn_numba.kernels.interface import Task
from flashrnn_numba.kernels.launch import compile_to_ptx
from flashrnn_numba.kernels.tensor_backward import (
    D_WORDS,
    Tiling,
    backward_program,
    layout,
    waves,
)
from flashrnn_numba.kernels.tensor_backward_cell import halves
from flashrnn_numba.kernels.tensor_backward_run import (
    in_words,
    prepare_waves,
    run_backward,
)
from flashrnn_numba.testing.problem import exact, oracle_task, random_problem, solve
from flashrnn_numba.testing.tolerances import relative_error, tolerance
from flashrnn_numba.tuning import Device
from flashrnn_numba.tuning.models import tensor_backward as tuner


@cell(gates={"a": "xRb", "p": "b", "v": "xR"}, states=("y", "u"), initial={"u": 0.5})
def own(g, s):
    """A gate without input, one without R, an initial value other than 0, a division."""
    u = sigmoid(g.a) * s.u + tanh(g.v) / (1 + exp(g.p))
    return tanh(u) + 0.5 * s.y, u


def elements(array, axes):
    if array is None:
        return (0,) * axes
    return tuple(stride // array.itemsize for stride in array.strides)


def backward(problem, tiling, words=True, schedule=None, sms=132):
    """What the kernel writes for a problem: dgates, s_0 before each step, dinitial, dbias_rows."""
    B, T, H, D = problem.shape
    cell, inputs, dtype = problem.cell, problem.inputs, problem.inputs.Wx.dtype
    S, G = len(cell.states), len(cell.gates)
    wide = exact(problem)
    task = oracle_task(cell, wide.inputs, wide.clip)
    states, _, steps = reference.forward(task, wide.inputs, keep=True)
    gates = np.zeros((B, T, H, D, G), np.float32)
    for t, (_, g) in enumerate(steps):
        gates[:, t] = np.moveaxis(g, 0, 3)
    out = [np.full(s, np.nan, dtype) for s in ((B, T, G, H, D), (B, T, H, D), (S, B, 1, H, D))]
    out.append(np.full((B, len(cell.bias_gates), H, D), np.nan, np.float32))
    reset = None if inputs.reset is None else inputs.reset.view(np.uint8)
    lengths = None if inputs.lengths is None else inputs.lengths.astype(np.int64)
    options = HAS_STATES * (inputs.states is not None) + HAS_RESET * (reset is not None)
    options += HAS_LENGTHS * (lengths is not None) + D_WORDS * (words and D % 2 == 0)
    options += HAS_DSTATES * (problem.dstates is not None) + HAS_DLAST * (problem.dlast is not None)
    program = backward_program(cell, dtype.name, D, tiling, resets=reset is not None)
    given = [
        inputs.R, elements(inputs.R, 4), inputs.states, elements(inputs.states, 5), reset,
        elements(reset, 2), lengths, states.astype(dtype), states[1:].astype(np.float32),
        gates, problem.dstates, elements(problem.dstates, 5), problem.dlast,
        elements(problem.dlast, 5), *out,
    ]  # fmt: skip
    on = EmulatedMachine(schedule=schedule)
    all_waves = waves(cell, D, tiling, B, H, replace(on.device(), sms=sms))
    strides = [value for value in given if isinstance(value, tuple)]
    sizes = [problem.clip or 0.0, B, T, H, options]
    launch = prepare_waves(on, program, tiling, all_waves, strides, sizes)
    launch(*[value for value in given if not isinstance(value, tuple)])
    return out


def check(problem, tiling, **options):
    """Every array that follows from the kernel's results agrees with the oracle's."""
    B, T, _, D = problem.shape
    cell, wide = problem.cell, exact(problem)
    task = oracle_task(cell, wide.inputs, wide.clip)
    kept = reference.forward(task, wide.inputs, keep=True)[2]
    zero = np.zeros((len(cell.states), B, T, *problem.shape[2:]))
    dstates = zero if wide.dstates is None else wide.dstates
    want = reference.backward(task, wide.inputs, kept, dstates, wide.dlast)
    results = (a.astype(float) for a in backward(problem, tiling, **options))
    dgates, previous, dinitial, dbias_rows = results
    got = {
        "dWx": (dgates[:, :, list(cell.input_gates)], want.Wx),
        "dR": (
            np.einsum("btghi,bthj->ghij", dgates[:, :, list(cell.recurrent_gates)], previous),
            want.R,
        ),
        "db": (dbias_rows.sum(0), want.b),
    }
    if want.states is not None:
        got["dinitial"] = (dinitial, want.states)
    limit = tolerance(problem.dtype, T, D, B, "tf32")
    errors = {name: relative_error(*pair) for name, pair in got.items()}
    assert max(errors.values()) <= limit, (errors, limit)


@cell(gates=dict.fromkeys("abcdef", "xRb"), states=("y", "u"))
def six(g, s):
    u = sigmoid(g.a) * s.u + tanh(g.b) * sigmoid(g.c)
    return tanh(u) * sigmoid(g.d) + tanh(g.e) * 0.5, u * sigmoid(g.f)


@cell(gates=dict.fromkeys("abcde", "xRb"), states=("y",))
def five(g, s):
    return sigmoid(g.a) * s.y + tanh(g.b) * sigmoid(g.c) - tanh(g.d) * sigmoid(g.e)


BF, F = "bfloat16", "float16"
ALL = {"reset": True, "lengths": True, "clip": 0.1}
CASES = [
    # one block a head, whole sums in the accumulators: every way to spread a batch tile over lanes
    (lstm, BF, (3, 5, 2, 16), Tiling(1, 1, 1), {}),
    (lstm, BF, (3, 5, 2, 16), Tiling(1, 2, 1), ALL),
    (slstm, F, (3, 4, 1, 24), Tiling(1, 4, 2), ALL),
    (gru, F, (9, 4, 1, 40), Tiling(1, 8, 3, registers=5), {"states": False}),
    (elman, BF, (17, 4, 1, 16), Tiling(1, 16, 1), ALL),
    # an odd head: no two numbers share an aligned word
    (lstm, BF, (3, 4, 1, 15), Tiling(1, 8, 1), ALL),
    (slstm, BF, (3, 4, 1, 15), Tiling(1, 2, 1), {}),
    (gru, BF, (2, 3, 1, 17), Tiling(1, 2, 1, k_parts=2, each=1), ALL),
    # warps that share a sum: by gates, by units, by both
    (slstm, BF, (5, 4, 1, 24), Tiling(1, 8, 1, gate_parts=2), {}),
    (elman, F, (3, 4, 1, 40), Tiling(1, 2, 3, k_parts=3, each=1), ALL),
    (lstm, BF, (3, 3, 1, 24), Tiling(1, 4, 2, gate_parts=4, k_parts=2, ahead=2), {"states": False}),
    # clusters
    (lstm, BF, (5, 5, 1, 24), Tiling(2, 4, 1), ALL),
    (elman, F, (9, 4, 2, 40), Tiling(2, 8, 2, half=True), {}),
    (slstm, F, (2, 4, 1, 40), Tiling(2, 1, 2, registers=9, each=1), ALL),
    (gru, BF, (4, 3, 1, 64), Tiling(4, 4, 2, each=1, half=True), ALL),
    (lstm, BF, (2, 3, 1, 33), Tiling(2, 2, 4, each=2, half=True), {"states": False}),
    # blocks of a grid: groups of them, threads without mail, blocks without units
    (lstm, BF, (5, 5, 2, 48), Tiling(3, 4, 3, each=1, half=True, grid=True), ALL),
    (slstm, F, (3, 4, 1, 64), Tiling(4, 2, 1, registers=2, half=True, grid=True), ALL),
    (gru, BF, (9, 2, 1, 50), Tiling(2, 8, 1, half=True, grid=True), ALL),
    (elman, F, (1, 5, 3, 40), Tiling(3, 1, 1, grid=True, half=True), {"states": False}),
    (lstm, BF, (9, 2, 1, 120), Tiling(8, 16, 2, registers=5, half=True, grid=True, strip=1), {}),
    (gru, F, (3, 3, 1, 60), Tiling(2, 4, 4, half=True, strip=2), ALL),
    (own, BF, (4, 4, 1, 33), Tiling(4, 4, 2, each=1, half=True, grid=True), ALL),
    (own, BF, (3, 4, 1, 24), Tiling(1, 4, 1), ALL),
    (own, F, (3, 4, 1, 24), Tiling(2, 2, 1, each=1), {"states": False}),
    # gates that are no 4 or 2: copies of 16 bytes for both units of a pair, of 4 bytes
    (six, BF, (5, 3, 1, 16), Tiling(1, 4, 1), ALL),
    (six, F, (3, 3, 1, 24), Tiling(2, 2, 1, each=1), {}),
    (five, BF, (5, 3, 1, 16), Tiling(1, 4, 1), {}),
    (five, F, (3, 3, 1, 15), Tiling(1, 4, 1), ALL),
]


@pytest.mark.parametrize(("cell", "dtype", "shape", "tiling", "options"), CASES)
def test_agrees_with_the_oracle(cell, dtype, shape, tiling, options):
    check(random_problem(cell, dtype, shape, **options), tiling)


@pytest.mark.parametrize(
    ("cell", "shape", "tiling", "options"),
    [
        (lstm, (3, 5, 2, 16), Tiling(1, 2, 1), ALL),
        (lstm, (3, 4, 1, 15), Tiling(1, 8, 1), ALL),
        (slstm, (3, 4, 1, 24), Tiling(1, 4, 2), ALL),
        (gru, (9, 4, 1, 40), Tiling(1, 8, 3, registers=10), {"states": False}),
        (elman, (17, 4, 1, 16), Tiling(1, 16, 1), ALL),
        (own, (3, 4, 1, 24), Tiling(1, 1, 1), ALL),
        # k steps are of 8 units: four warps can share the sum of 16
        (gru, (2, 3, 1, 17), Tiling(1, 2, 1, k_parts=4, each=1), ALL),
        (lstm, (3, 3, 1, 24), Tiling(1, 4, 2, gate_parts=4, k_parts=4, ahead=2), {}),
        (slstm, (3, 4, 1, 21), Tiling(1, 4, 1, gate_parts=2), ALL),
        (lstm, (5, 5, 1, 24), Tiling(2, 4, 1), ALL),
        (slstm, (2, 4, 1, 40), Tiling(2, 1, 2, registers=18, each=1), ALL),
        (elman, (9, 4, 2, 40), Tiling(2, 8, 2, strip=1), {}),
        (gru, (4, 3, 1, 64), Tiling(4, 4, 2, each=1), ALL),
        (mixed, (4, 4, 1, 33), Tiling(4, 4, 2, each=1), ALL),
        (lstm, (2, 3, 1, 33), Tiling(2, 2, 4, each=2), {"states": False}),
    ],
)
def test_float32_with_products_in_tf32(cell, shape, tiling, options):
    check(random_problem(cell, "float32", shape, **options), tiling)


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("D", [15, 16])
def test_strided_gradients_of_float32(D, each):
    problem = random_problem(lstm, "float32", (3, 4, 1, D), seed=3)
    store = np.zeros((2, 4, 1, 3, 3 * D), np.float32)
    dstates = store[:, :, :, :, ::3].transpose(0, 3, 1, 2, 4)
    dstates[:] = problem.dstates
    problem = type(problem)(lstm, problem.inputs, dstates, None)
    check(problem, Tiling(1, 2, 1, gate_parts=2, each=each), words=False)


def test_gate_gradients_of_float32_are_rounded_for_the_product_only():
    """With R = 0 there is no product, and nothing is rounded to TF32."""
    problem = random_problem(lstm, "float32", (3, 4, 1, 16), seed=6)
    inputs = problem.inputs._replace(R=np.zeros_like(problem.inputs.R))
    problem = type(problem)(lstm, inputs, problem.dstates, problem.dlast)
    dgates, previous, *_ = backward(problem, Tiling(1, 4, 1))
    states = reference.forward(oracle_task(lstm, inputs), exact(problem).inputs)[0]
    np.testing.assert_array_equal(previous[:, 1:], states[0, :, :-1].astype(np.float32))
    want = solve(problem)["dWx"]
    assert relative_error(dgates.astype(float), want) < tolerance("float32", 4, 16, 3)


def test_words_of_two_numbers():
    numbers = np.zeros(66, np.float32)
    first = 0 if numbers.ctypes.data % 8 == 0 else 1
    assert in_words(numbers[first : first + 64].reshape(1, 2, 2, 1, 16))
    assert not in_words(numbers[first + 1 : first + 65].reshape(1, 2, 2, 1, 16))
    assert in_words(numbers.view(np.float16)[2:66].reshape(1, 2, 2, 1, 16))


@pytest.mark.parametrize("each", [1, 2])
def test_strided_gradients_of_16_bits(each):
    """dstates with units 3 apart, steps and rows in another order: read where they lie."""
    problem = random_problem(lstm, F, (3, 4, 1, 16), seed=3)
    store = np.zeros((2, 4, 1, 3, 48), np.float16)
    dstates = store[:, :, :, :, ::3].transpose(0, 3, 1, 2, 4)
    dstates[:] = problem.dstates
    problem = type(problem)(lstm, problem.inputs, dstates, None)
    tiling = Tiling(1, 2, 1, gate_parts=2, each=each)
    check(problem, tiling, words=False)


def test_no_gradient_of_the_states_and_one_step():
    problem = random_problem(gru, BF, (3, 1, 1, 16), seed=5)
    check(type(problem)(gru, problem.inputs, None, problem.dlast), Tiling(1, 4, 1))


@pytest.mark.parametrize("dtype", [BF, "float32"])
def test_same_bits_in_any_order_of_threads_and_copies(dtype):
    problem = random_problem(lstm, dtype, (3, 3, 1, 24), seed=2, **ALL)
    tiling = Tiling(2, 4, 1, half=dtype == BF)
    first, second = (backward(problem, tiling, schedule=seed) for seed in (None, 11))
    for a, b in zip(first, second, strict=True):
        assert a.tobytes() == b.tobytes()


GRID = Tiling(3, 4, 1, each=1, half=True, grid=True)


@pytest.mark.parametrize("T", [0, 1, 2, 3])
def test_few_steps_through_mailboxes(T):
    problem = random_problem(lstm, BF, (3, max(T, 1), 1, 48), seed=4)
    if T:
        check(problem, GRID)
        return
    inputs = problem.inputs._replace(Wx=problem.inputs.Wx[:, :0])
    problem = type(problem)(lstm, inputs, problem.dstates[:, :, :0], problem.dlast)
    _, _, dinitial, dbias_rows = backward(problem, GRID)
    np.testing.assert_array_equal(dinitial, problem.dlast)
    assert not dbias_rows.any()


@pytest.mark.parametrize("dtype", [BF, F])
@pytest.mark.parametrize("D", [15, 16])
def test_the_bias_gradient_sums_what_is_not_rounded(dtype, D):
    """Of one step it is the gate gradients, before they become numbers of 16 bits."""
    problem = random_problem(own, dtype, (3, 1, 1, D), seed=8)
    dgates, _, _, dbias_rows = backward(problem, Tiling(1, 4, 1))
    biased = list(own.bias_gates)
    np.testing.assert_array_equal(dgates[:, 0, biased], dbias_rows.astype(dgates.dtype))
    wide = solve(problem)["dWx"][:, 0, :1]  # gate `a`, which is the first with a bias too
    assert relative_error(dbias_rows[:, :1].astype(float), wide) < 1e-5


def test_same_bits_through_mailboxes():
    """In any order of threads, also where the words of a message arrive one by one, and with
    fewer blocks at once."""
    problem = random_problem(lstm, BF, (5, 4, 1, 48), seed=2, **ALL)
    runs = [{}, {"schedule": 11}, {"schedule": 5, "sms": 5}]
    first, *others = (backward(problem, GRID, **options) for options in runs)
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_launches_hold_what_runs_at_once():
    device = replace(Device.named("H200"), sms=132)
    tiling = replace(GRID, cluster=64)
    found = waves(lstm, 1024, tiling, 10, 2, device)
    assert [(w.groups, w.first_group) for w in found] == [(2, 0), (2, 2), (2, 4)]
    with pytest.raises(ValueError, match="has 40 multiprocessors"):
        waves(lstm, 1024, tiling, 10, 2, replace(device, sms=40))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_marked_words(dtype):
    """The mark costs a bit of one number, without bias; infinity, nan and 0 stay what they are."""
    program = backward_program(lstm, BF, 48, GRID)
    functions = program.function().__globals__
    marked, unmarked = (functions[name].py_func for name in ("marked", "unmarked"))
    kind, scale = (np.float32, 8) if dtype == "float32" else (np.dtype(dtype), 1)
    bits = np.uint32 if dtype == "float32" else np.uint16
    values = np.random.default_rng(1).standard_normal(4000).astype(kind).view(bits)
    got = np.array([[unmarked(marked(np.uint32(v), np.uint32(m))) for m in (0, 1)] for v in values])
    assert {int(marked(np.uint32(v), np.uint32(1))) & 1 for v in values} == {1}
    np.testing.assert_array_equal(got[:, 0], got[:, 1])
    lost = values.astype(np.int64) - got[:, 0]
    assert set(lost) == {-1, 0, 1}
    assert abs(lost.mean()) < 0.05 * scale
    for value in (0.0, np.inf, -np.inf, np.nan):
        word = np.array(value, kind).view(bits)
        back = np.array(unmarked(marked(np.uint32(word), np.uint32(1)))).astype(bits).view(kind)
        np.testing.assert_array_equal(back.astype(float), value)


def test_early_half_has_all_that_needs_no_cotangent():
    two = halves(lstm)
    early, late = two.functions.split("def late_half")
    for name in ("sigmoid", "tanh"):
        assert name in early
        assert name not in late
    # the divisions by what is known early are products
    assert "divide" not in halves(slstm).functions.split("def late_half")[1]


def test_tilings_are_checked():
    for tiling, message in (
        (Tiling(1, 3, 1), "tile is 3"),
        (Tiling(1, 8, 3), "m_tiles to divide"),
        (Tiling(2, 8, 1, gate_parts=2), "every warp sums over all"),
        (Tiling(1, 8, 1, ahead=3), "power of 2"),
        (Tiling(1, 8, 1, half=True), "for several blocks a head"),
        (Tiling(1, 8, 1, grid=True), "for several blocks a head"),
        (Tiling(1, 8, 2, strip=1), "strip is for several blocks a head"),
        (Tiling(2, 8, 4, strip=3), "to divide m_tiles"),
        (Tiling(2, 8, 1, grid=True), "through L2 sums travel in 16 bits"),
        (Tiling(3, 8, 3, half=True, grid=True), "m_tiles to divide 2 of a block, or the reverse"),
        (Tiling(2, 16, 2, half=True, grid=True), "64 threads for messages of 64 letters"),
    ):
        with pytest.raises(ValueError, match=message):
            layout(lstm, 64, tiling)
    for grid in (False, True):
        with pytest.raises(ValueError, match="sums of float32 travel in 32 bits, and not through"):
            layout(lstm, 64, Tiling(2, 8, 1, half=True, grid=grid), size=4)


@pytest.mark.parametrize(("B", "T"), [(0, 3), (2, 0)])
def test_nothing_to_do(B, T):
    """Without steps the gradient of the last states is that of the initial ones."""
    problem = random_problem(lstm, BF, (2, 1, 1, 16), seed=1)
    inputs = problem.inputs._replace(
        Wx=problem.inputs.Wx[:B].repeat(T, 1), states=problem.inputs.states[:, :B]
    )
    task = Task(lstm, B, T, 1, 16, BF)
    on, dlast = EmulatedMachine(), problem.dlast[:, :B]
    kept = fused.run_forward(on, task, inputs, True)[2]
    got = run_backward(on, task, inputs, kept, problem.dstates[:, :B].repeat(T, 2), dlast)
    assert got.Wx.shape == (B, T, 4, 1, 16)
    assert not got.R.any()
    assert not got.b.any()
    np.testing.assert_array_equal(got.states, dlast)


@pytest.mark.parametrize("dtype", [BF, "float32"])
@pytest.mark.parametrize("options", [{}, ALL])
def test_whole_backward_after_the_portable_forward(options, dtype):
    """From the public inputs to all gradients, with the tiling that the solver picks."""
    problem = random_problem(lstm, dtype, (3, 4, 2, 16), **options)
    B, T, H, D = problem.shape
    task = Task(lstm, B, T, H, D, dtype, clip=problem.clip, precision="tf32")
    on = EmulatedMachine()
    kept = fused.run_forward(on, task, problem.inputs, True)[2]
    got = run_backward(on, task, problem.inputs, kept, problem.dstates, problem.dlast)
    assert on.launched[-1].name == "tensor_backward"
    want = solve(problem)
    for name, array in zip(("dWx", "dR", "db", "dstates"), got, strict=True):
        error = relative_error(array.astype(float), want[name])
        assert error <= tolerance(dtype, T, D, B, "tf32"), name


class Recorder(EmulatedMachine):
    """What was done in which order."""

    def __init__(self, device):
        super().__init__(device)
        self.events = []

    def launch(self, program, grid, arguments):
        if program.name == "tensor_backward":
            self.events.append(grid[0])
        super().launch(program, grid, arguments)

    def beside(self, launch, work):
        super().beside(launch, lambda: (self.events.append("beside"), work()))


@pytest.mark.parametrize(
    ("tiling", "H", "room", "events"),
    [
        # two clusters, then one beside the weight gradients of their tiles
        (Tiling(2, 2, 1, each=1, half=True), 1, 4, [4, 2, "beside"]),
        # four groups before the last two, which are rows 4 and 5 of both heads
        (replace(GRID, tile=2), 2, 14, [12, 6, "beside"]),
        # head 0 of the last tile with the first groups: its rows come later
        (replace(GRID, tile=2), 2, 16, [15, 3, "beside"]),
        (Tiling(2, 2, 1, each=1, half=True), 1, 6, [6]),
    ],
)
def test_weight_gradients_beside_the_last_groups(tiling, H, room, events):
    """Where these leave half of the multiprocessors idle. The same gate gradients as in one go."""
    device = Device.named("H200")
    small = replace(device, sms=room, gpcs=(room,), clusters=(), blocks_per_sm_limit=1)
    problem = random_problem(lstm, BF, (5, 3, H, 32), seed=4, **ALL)
    B, T, H, D = problem.shape
    task = Task(lstm, B, T, H, D, BF, clip=problem.clip)
    kept = fused.run_forward(EmulatedMachine(), task, problem.inputs, True)[2]
    given = (task, problem.inputs, kept, problem.dstates, problem.dlast, tiling)
    on = Recorder(small)
    got, at_once = run_backward(on, *given), run_backward(EmulatedMachine(), *given)
    assert on.events == events
    want = solve(problem)
    for name, array in zip(("dWx", "dR", "db", "dstates"), got, strict=True):
        error = relative_error(array.astype(float), want[name])
        assert error <= tolerance(BF, T, D, B, "tf32"), name
    for name in ("Wx", "b", "states"):
        assert getattr(got, name).tobytes() == getattr(at_once, name).tobytes()


@needs_ptxas
@pytest.mark.parametrize(
    ("cell", "D", "tiling", "cc"),
    [
        (lstm, 64, Tiling(1, 2, 1), (8, 0)),
        (lstm, 64, Tiling(2, 4, 1, half=True), (9, 0)),
        (gru, 256, Tiling(4, 4, 2, each=1), (10, 0)),
        (lstm, 768, Tiling(16, 4, 6, registers=39, each=1, half=True), (9, 0)),
        (lstm, 1024, Tiling(64, 8, 8, each=1, half=True, grid=True), (9, 0)),
        (lstm, 1024, Tiling(64, 8, 8, registers=28, each=1, half=True, grid=True), (8, 0)),
        (lstm, 1536, Tiling(96, 16, 12, 1, 1, 20, each=1, half=True, grid=True, strip=2), (9, 0)),
        (lstm, 2048, Tiling(128, 16, 16, 1, 1, 20, each=1, half=True, grid=True, strip=2), (9, 0)),
    ],
)
def test_assembles_without_spills(cell, D, tiling, cc):
    assert_no_spills(backward_program(cell, BF, D, tiling), cc)


@needs_ptxas
@pytest.mark.parametrize(
    ("D", "H", "name"), [(64, 12, "H200"), (128, 6, "H200"), (256, 3, "H200"), (64, 12, "A100")]
)
def test_tilings_for_tf32_do_not_spill(D, H, name):
    device = Device.named(name)
    tiling = tuner.choose(lstm, "float32", 16, H, D, device).tiling
    assert_no_spills(
        backward_program(lstm, "float32", D, tiling, resets=True), device.compute_capability
    )


def assert_no_spills(program, cc):
    used = assemble(compile_to_ptx(program, cc), cc)
    assert used.spill_stores == used.spill_loads == used.stack_bytes == 0
    assert used.shared_bytes == 0  # all of it is dynamic: what the layout counts
