"""The public calls: errors, shapes and kinds, strides, repetition, threads."""

import itertools
import re

import ml_dtypes
import numpy as np
import pytest

import flashrnn_numba as fr
from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.testing import Layout, contiguous, random_problem, relayout, run

B, T, H, D = 2, 3, 2, 4
BACKENDS = ("reference", "cpu")


def arguments(dtype="float64", **changes):
    """A valid call of the lstm: G = 4, S = 2."""
    random = np.random.default_rng(0)
    valid = {
        "Wx": random.normal(size=(B, T, 4, H, D)).astype(DTYPES[dtype]),
        "R": random.normal(size=(4, H, D, D)).astype(DTYPES[dtype]),
        "b": random.normal(size=(4, H, D)).astype(DTYPES[dtype]),
        "states": random.normal(size=(2, B, 1, H, D)).astype(DTYPES[dtype]),
        "reset": np.zeros((B, T), bool),
        "lengths": np.full(B, T),
    }
    return {**valid, **changes}


def zeros(*shape, dtype=np.float64):
    return np.zeros(shape, dtype)


VALUE_ERRORS = {
    "Wx must have 5 axes [B, T, Gx, H, D], got 4: shape (2, 3, 4, 8)": {"Wx": zeros(2, 3, 4, 8)},
    "R must have 4 axes [Gr, H, D, D], got 3: shape (8, 4, 4)": {"R": zeros(8, 4, 4)},
    "b must have 3 axes [Gb, H, D], got 2": {"b": zeros(4, 8)},
    "states must have 5 axes [S, B, 1, H, D], got 4": {"states": zeros(2, B, H, D)},
    "reset must have 2 axes [B, T], got 1": {"reset": zeros(T, dtype=bool)},
    "lengths must have 1 axes [B], got 2": {"lengths": zeros(B, 1, dtype=int)},
    "Wx has 3 gates with input (axis 2), expected 4: cell 'lstm' has 4 (i, f, z, o)": {
        "Wx": zeros(B, T, 3, H, D)
    },
    "R has shape (3, 2, 4, 4), expected [Gr, H, D, D] = (4, 2, 4, 4) to fit Wx": {
        "R": zeros(3, H, D, D)
    },
    "R has shape (4, 1, 4, 4)": {"R": zeros(4, 1, D, D)},
    "R has shape (4, 2, 4, 3)": {"R": zeros(4, H, D, D - 1)},
    "R has shape (4, 2, 5, 5)": {"R": zeros(4, H, D + 1, D + 1)},
    "b has shape (5, 2, 4), expected [Gb, H, D] = (4, 2, 4)": {"b": zeros(5, H, D)},
    "b has shape (4, 2, 3)": {"b": zeros(4, H, D - 1)},
    "(gates with bias: 4 (i, f, z, o))": {"b": zeros(4, H + 1, D)},
    "states has shape (3, 2, 1, 2, 4), expected [S, B, 1, H, D] = (2, 2, 1, 2, 4) to fit Wx "
    "(states: 2 (h, c))": {"states": zeros(3, B, 1, H, D)},
    "states has shape (2, 3, 1, 2, 4)": {"states": zeros(2, B + 1, 1, H, D)},
    "states has shape (2, 2, 3, 2, 4)": {"states": zeros(2, B, T, H, D)},
    "reset has shape (2, 4), expected [B, T] = (2, 3)": {"reset": zeros(B, T + 1, dtype=bool)},
    "lengths has shape (3,), expected [B] = (2,)": {"lengths": zeros(B + 1, dtype=int)},
    "lengths[1] is -1, expected 0 to T = 3": {"lengths": np.array([0, -1])},
    "lengths[0] is 4, expected 0 to T = 3": {"lengths": np.array([4, 5])},
    "Wx has heads H = 0 (axis 3), expected at least 1": {"Wx": zeros(B, T, 4, 0, D)},
    "Wx has head dimension D = 0 (axis 4), expected at least 1": {"Wx": zeros(B, T, 4, H, 0)},
    "there is no cell 'lstn'; registered are": {"function": "lstn"},
    "backend must be one of auto, ": {"backend": "gpu"},
    "recurrent_gradient_clip must be positive and finite, got 0": {"recurrent_gradient_clip": 0},
    "must be positive and finite, got -1.5; None for no": {"recurrent_gradient_clip": -1.5},
    "must be positive and finite, got nan": {"recurrent_gradient_clip": float("nan")},
    "must be positive and finite, got inf": {"recurrent_gradient_clip": np.float32("inf")},
    "precision must be 'auto', 'exact' or 'tf32', got 'fast'": {"precision": "fast"},
}
TYPE_ERRORS = {
    "Wx must be an array (NumPy, CuPy, or with __dlpack__ on a CUDA device), got list": {
        "Wx": [[1.0]]
    },
    "b must be an array (NumPy, CuPy, or with __dlpack__ on a CUDA device), got NoneType": {
        "b": None
    },
    "states must be an array": {"states": 0.0},
    "lengths must be an array": {"lengths": [1, 2]},
    "Wx has dtype int64, expected one of float64, float32, float16, bfloat16": {
        "Wx": zeros(B, T, 4, H, D, dtype=np.int64)
    },
    "R has dtype complex128, expected one of": {"R": zeros(4, H, D, D, dtype=complex)},
    "b has dtype >f8, expected one of": {"b": zeros(4, H, D, dtype=">f8")},
    "R has dtype float32 but Wx has float64; all must be the same (convert with R.astype)": {
        "R": zeros(4, H, D, D, dtype=np.float32)
    },
    "states has dtype float16 but Wx has float64": {
        "states": zeros(2, B, 1, H, D, dtype=np.float16)
    },
    "b has dtype bfloat16 but Wx has float64": {"b": zeros(4, H, D, dtype=ml_dtypes.bfloat16)},
    "reset must be of dtype bool, got int64": {"reset": zeros(B, T, dtype=np.int64)},
    "lengths must be of an integer dtype, got float64": {"lengths": zeros(B)},
    "lengths must be of an integer dtype, got bool": {"lengths": zeros(B, dtype=bool)},
    "function must be a cell or the name of one, got function": {"function": lambda g, s: g},
    "recurrent_gradient_clip must be a positive number or None, got str": {
        "recurrent_gradient_clip": "1"
    },
    "recurrent_gradient_clip must be a positive number or None, got bool": {
        "recurrent_gradient_clip": True
    },
}


@pytest.mark.parametrize("call", [fr.flashrnn, fr.flashrnn_vjp])
@pytest.mark.parametrize("message", VALUE_ERRORS)
def test_wrong_values(message, call):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(**arguments(**VALUE_ERRORS[message]))


@pytest.mark.parametrize("call", [fr.flashrnn, fr.flashrnn_vjp])
@pytest.mark.parametrize("message", TYPE_ERRORS)
def test_wrong_types(message, call):
    with pytest.raises(TypeError, match=re.escape(message)):
        call(**arguments(**TYPE_ERRORS[message]))


@pytest.mark.parametrize("name", ["Wx", "R", "b", "states", "reset", "lengths"])
def test_torch_tensors_on_the_cpu_are_refused_with_the_way_out(name):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(arguments()[name])
    message = rf"{name} is a torch\.Tensor that is not on a CUDA device; pass a NumPy array"
    with pytest.raises(TypeError, match=message):
        fr.flashrnn(**arguments(**{name: tensor}))


COTANGENT_ERRORS = {
    "dstates has shape (2, 2, 1, 2, 4), expected [S, B, T, H, D] = (2, 2, 3, 2, 4)": (
        ValueError, (zeros(2, B, 1, H, D),)
    ),
    "dstates must have 5 axes [S, B, T, H, D], got 4": (ValueError, (zeros(B, T, H, D),)),
    "dlast has shape (2, 2, 3, 2, 4), expected [S, B, 1, H, D]": (
        ValueError, (None, zeros(2, B, T, H, D))
    ),
    "dstates has dtype float32, the inputs had float64": (
        TypeError, (zeros(2, B, T, H, D, dtype=np.float32),)
    ),
    "dlast must be an array": (TypeError, (None, 1.0)),
}  # fmt: skip


@pytest.mark.parametrize("message", COTANGENT_ERRORS)
def test_wrong_cotangents(message):
    error, cotangents = COTANGENT_ERRORS[message]
    vjp = fr.flashrnn_vjp(**arguments())[2]
    with pytest.raises(error, match=re.escape(message)):
        vjp(*cotangents)


# results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_numpy_arrays_of_the_inputs_dtype_and_shape(dtype, backend):
    given = arguments(dtype)
    states, last, vjp = fr.flashrnn_vjp(**given, backend=backend)
    gradients = vjp(states, last)
    assert states.shape == (2, B, T, H, D)
    assert last.shape == (2, B, 1, H, D)
    for array in (states, last, *gradients):
        assert type(array) is np.ndarray
        assert array.dtype == DTYPES[dtype]
    for name, array in gradients._asdict().items():
        assert array.shape == given[name].shape
    again, last_again = fr.flashrnn(**given, backend=backend)
    np.testing.assert_array_equal(again, states)
    np.testing.assert_array_equal(last_again, last)
    np.testing.assert_array_equal(last[:, :, 0], states[:, :, -1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rows", "steps"), [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("given", [True, False])
def test_empty_batches_and_sequences(rows, steps, given, backend):
    problem = random_problem(
        fr.get_cell("lstm"), "float32", (rows, steps, H, D), states=given, reset=True, lengths=True
    )
    results = run(problem, backend)
    assert results["states"].shape == (2, rows, steps, H, D)
    first = problem.inputs.states if given else np.zeros((2, rows, 1, H, D))
    np.testing.assert_array_equal(results["last"], first)
    for name in ("dWx", "dR", "db"):
        assert not results[name].any()
    assert ("dstates" in results) == given
    if given:
        np.testing.assert_array_equal(results["dstates"], problem.dlast)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gradient_of_states_where_none_were_given(backend):
    vjp = fr.flashrnn_vjp(**arguments(states=None), backend=backend)[2]
    assert vjp(zeros(2, B, T, H, D)).states is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_cotangents_may_be_left_out(backend):
    dstates, dlast = np.random.default_rng(0).normal(size=(2, 2, B, T, H, D))
    dlast = dlast[:, :, :1]
    vjp = fr.flashrnn_vjp(**arguments(), backend=backend)[2]
    for ours, first, second in zip(
        vjp(dstates, dlast), vjp(dstates), vjp(None, dlast), strict=True
    ):
        np.testing.assert_allclose(ours, first + second, rtol=1e-12, atol=1e-13)
    assert not any(gradient.any() for gradient in vjp(None, None))


LAYOUTS = [
    Layout(order=1),
    Layout(order=2, step=2),
    Layout(step=3, reverse=True),
    Layout(broadcast=0),
    Layout(order=5, reverse=True, broadcast=1),
    Layout(broadcast=4),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_strided_inputs_give_bitwise_what_contiguous_ones_give_and_stay_as_they_are(
    layout, dtype, backend
):
    names = ("Wx", "R", "b", "states", "reset", "lengths", "dstates", "dlast")
    problem = random_problem(
        fr.get_cell("lstm"), dtype, (3, 5, 2, 3), reset=True, lengths=True, clip=0.5
    )
    strided = relayout(problem, dict.fromkeys(names, layout))
    plain = contiguous(strided)
    before = contiguous(strided)
    expected = run(plain, backend)
    for name, array in run(strided, backend).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    for ours, kept in zip(strided.inputs, before.inputs, strict=True):
        np.testing.assert_array_equal(ours, kept)


def test_unaligned_inputs_work():
    given = arguments()
    memory = np.zeros(given["R"].nbytes + 1, np.uint8)[1:]
    unaligned = memory.view(np.float64).reshape(given["R"].shape)
    unaligned[...] = given["R"]
    assert not unaligned.flags.aligned
    states = fr.flashrnn(**given)[0]
    np.testing.assert_array_equal(fr.flashrnn(**{**given, "R": unaligned})[0], states)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vjp_may_be_called_again(dtype, backend):
    states, last, vjp = fr.flashrnn_vjp(**arguments(dtype), backend=backend)
    for one, other in zip(vjp(states, last), vjp(states, last), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_change_to_the_returned_states_does_not_change_the_gradient_unseen(backend):
    states, _, vjp = fr.flashrnn_vjp(**arguments(), backend=backend)
    cotangent = np.ones(states.shape)
    expected = vjp(cotangent)
    try:
        states[...] = 0
    except ValueError:
        return  # refused: as good
    for one, other in zip(vjp(cotangent), expected, strict=True):
        np.testing.assert_array_equal(one, other)


# repetition and threads ------------------------------------------------------------------------

SHAPES = [(5, 4, 3, 17), (16, 6, 1, 130), (9, 5, 4, 33)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_results_are_bitwise_the_same_with_any_number_of_threads(dtype, shape, monkeypatch):
    problem = random_problem(fr.get_cell("lstm"), dtype, shape, reset=True, lengths=True, clip=1)
    results = []
    for threads in ("1", "2", "3", "5", "2"):
        monkeypatch.setenv("FLASHRNN_NUMBA_THREADS", threads)
        results.append(run(problem, "cpu"))
    for one, other in itertools.pairwise(results):
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_threads_is_an_error(value, monkeypatch):
    monkeypatch.setenv("FLASHRNN_NUMBA_THREADS", value)
    message = f"FLASHRNN_NUMBA_THREADS must be a positive integer, got '{value}'"
    with pytest.raises(ValueError, match=re.escape(message)):
        fr.flashrnn(**arguments(), backend="cpu")
