"""flashrnn_numba.testing itself: errors, tolerances, ill-conditioned problems, no hypothesis."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import flashrnn_numba as fr
from flashrnn_numba.cells import cell, maximum, tanh, where
from flashrnn_numba.testing import (
    CellCheckError,
    Layout,
    check_cell,
    conditioning,
    from_backend,
    random_problem,
    relative_error,
    solve,
    strategies,
    to_backend,
    tolerance,
)
from flashrnn_numba.testing.evaluate import evaluate, inputs_of

# relative_error and tolerance ------------------------------------------------------------------


def test_relative_error_is_the_norm_of_the_difference_over_the_norm():
    b = np.array([3.0, 4.0])
    assert relative_error(np.array([3.0, 4.05]), b) == pytest.approx(0.01)
    assert relative_error(b, b) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_passes(bad):
    b = np.ones(3)
    assert relative_error(np.array([1, 1, bad]), b) == np.inf
    assert relative_error(b, np.array([1, 1, np.nan])) == np.inf
    assert relative_error(np.array([bad] * 3), np.array([np.nan] * 3)) == np.inf


def test_zero_must_be_zero():
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.full(3, 1e-300), np.zeros(3)) == np.inf
    assert relative_error(np.zeros(0), np.zeros(0)) == 0


def test_other_shapes_never_pass():
    assert relative_error(np.ones((2, 3)), np.ones((3, 2))) == np.inf
    assert relative_error(np.ones(1), np.ones(3)) == np.inf


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_tiny_and_huge_numbers_neither_vanish_nor_overflow(scale):
    b = np.array([3.0, 4.0]) * scale
    assert relative_error(b * 1.01, b) == pytest.approx(0.01)


def test_tolerances_are_tight_and_grow_with_the_number_of_terms():
    sizes = {"T": 256, "D": 128, "B": 16}
    bounds = {"float64": 2e-13, "float32": 1e-4, "float16": 1.2e-3, "bfloat16": 8e-3}
    for dtype, bound in bounds.items():
        assert tolerance(dtype, 1) < tolerance(dtype, **sizes) < bound
    assert tolerance("float32", 20, 32) < 1e-5
    assert tolerance("float32", 20, 32, precision="tf32") == pytest.approx(2.0**-10, rel=0.01)
    assert tolerance("bfloat16", 9, precision="tf32") == tolerance("bfloat16", 9)
    with pytest.raises(ValueError, match=r"dtype must be one of float64, .* got 'int8'"):
        tolerance("int8", 1)


# conditioning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fr.list_cells())
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_built_in_cells_are_well_conditioned(name, dtype):
    assert conditioning(random_problem(fr.get_cell(name), dtype, (3, 20, 2, 8))) < 1


def test_an_expanding_recurrence_is_told_apart():
    expanding = cell(lambda g, s: 3 * s.h - tanh(g.a), gates={"a": "x"}, states=("h",), name="f")
    chaotic = cell(lambda g, s: 1 - 2 * s.h * s.h + 0 * g.a, gates=("a",), states=("h",), name="g")
    assert conditioning(random_problem(chaotic, "float32", (2, 40, 1, 3))) > 100
    assert conditioning(random_problem(expanding, "float32", (2, 20, 1, 3))) < 1


def test_near_ties_are_told_apart():
    """All gates all but equal: rounding decides which one a maximum passes its gradient to."""
    tied = cell(
        lambda g, s: where(g.a > g.b, tanh(s.h), maximum(g.a, g.b)),
        gates={"a": "xR", "b": "xR"}, states=("h",), name="f",
    )  # fmt: skip
    problem = random_problem(tied, "float32", (2, 5, 1, 3))
    assert conditioning(problem) < 1
    problem.inputs.Wx[:, :, 1] = problem.inputs.Wx[:, :, 0]
    problem.inputs.R[1] = problem.inputs.R[0] * (1 + 1e-7)
    assert conditioning(problem) > 1


def test_check_cell_notes_what_it_leaves_out():
    chaotic = cell(lambda g, s: 1 - 2 * s.h * s.h + 0 * g.a, gates=("a",), states=("h",), name="g")
    report = check_cell(chaotic, dtypes=["float32"], shapes=[(1, 3, 1, 2), (1, 60, 1, 2)])
    assert any("T=60" in note and "rounding alone" in note for note in report.notes)
    assert not any(row.problem == "B=1 T=60 H=1 D=2" for row in report.rows)
    assert any("T=3" in row.problem for row in report.rows)
    assert "note: float32" in str(report)


# problems, layouts, evaluation -------------------------------------------------------------------


def test_initial_states_are_reachable_ones():
    """sLSTM: n is positive wherever it can be, and the output stays in its bounds."""
    states = random_problem(fr.get_cell("slstm"), "float32", (4, 3, 2, 5)).inputs.states
    assert (states[2] > 0).all()
    assert (np.abs(states[0]) < 1).all()


def test_problems_are_the_same_for_the_same_seed_only():
    lstm = fr.get_cell("lstm")
    one, same, other = (random_problem(lstm, "float16", (2, 3, 1, 4), seed=i) for i in (1, 1, 2))
    for a, b, c in zip(one.inputs[:4], same.inputs[:4], other.inputs[:4], strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


@settings(max_examples=60)
@given(strategies.cells())
def test_node_by_node_evaluation_agrees_with_the_emitted_text(made):
    values = list(np.random.default_rng(0).normal(size=(len(inputs_of(made)), 50)))
    G = len(made.gates)
    got = evaluate(made, values).outputs
    expected = made.forward(values[:G], values[G:])
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.broadcast_to(a, b.shape), b, rtol=1e-12, atol=1e-13)


def test_the_oracle_is_not_rounded():
    problem = random_problem(fr.get_cell("lstm"), "bfloat16", (2, 3, 1, 4))
    states = solve(problem)["states"]
    assert states.dtype == np.float64
    assert (states.astype(problem.inputs.Wx.dtype).astype(float) != states).any()


def test_numpy_arrays_go_to_backends_as_they_are():
    array = Layout(reverse=True).apply(np.arange(4.0))
    assert to_backend(array, "numpy") is array
    assert from_backend(array) is array
    with pytest.raises(ValueError, match="kind must be 'numpy' or 'cupy', got 'list'"):
        to_backend(array, "list")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "int64"])
def test_arrays_come_back_from_a_gpu_with_the_strides_they_had(dtype):
    cupy = pytest.importorskip("cupy")
    from flashrnn_numba.testing.transfer import _has_cupy_device

    if not _has_cupy_device():
        pytest.skip("no CUDA device")
    for layout in (Layout(), Layout(order=1, step=2), Layout(reverse=True), Layout(broadcast=1)):
        array = layout.apply(np.arange(24).reshape(2, 3, 4).astype(dtype))
        there = to_backend(array, "cupy")
        assert isinstance(there, cupy.ndarray)
        assert there.strides == array.strides
        np.testing.assert_array_equal(from_backend(there), array)


# without hypothesis ------------------------------------------------------------------------------

WITHOUT = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hypothesis":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
from flashrnn_numba import testing
print(testing.check_cell("elman", backends=["reference"], dtypes=["float32"]).cell)
try:
    testing.strategies
except ImportError as error:
    print(error)
"""


def test_check_cell_works_without_hypothesis_and_strategies_say_what_they_need():
    package = str(Path(fr.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=package, capture_output=True, text=True
    )
    assert done.stdout.startswith("elman\n"), done.stderr
    assert "strategies needs hypothesis: pip install hypothesis" in done.stdout


def test_a_backend_asked_for_that_cannot_run_is_an_error(monkeypatch):
    from flashrnn_numba.kernels import cpu

    monkeypatch.setattr(cpu, "refuses", lambda task: "it rains")
    with pytest.raises(CellCheckError, match=r"backend 'cpu' could not be checked(.|\n)*it rains"):
        check_cell("elman", backends=["cpu"], dtypes=["float32"])
    report = check_cell("elman", dtypes=["float32"])
    assert "backend cpu refused all problems: it rains" in report.notes
    monkeypatch.setattr(cpu, "refuses", lambda task: "too wide" if task.D > 5 else None)
    report = check_cell("elman", backends=["cpu"], dtypes=["float32"])
    assert "backend cpu refused some problems: too wide" in report.notes
