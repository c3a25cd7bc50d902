"""Derived gradients: random cells against finite differences, kinks, ties, large arguments."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from strips import run_strip

from flashrnn_numba import cells
from flashrnn_numba.cells import (
    abs,
    cell,
    clip,
    exp,
    log,
    log_sigmoid,
    maximum,
    minimum,
    relu,
    sigmoid,
    softplus,
    sqrt,
    stop_gradient,
    tanh,
    where,
)
from flashrnn_numba.testing import strategies
from flashrnn_numba.testing.gradients import (
    has_stop_gradient,
    pointwise_differences,
    sequence_differences,
)

A = np.array([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 50.0])


def gradient(function, a, b=0.0, dtype="float64"):
    """d function(a, b) / da and / db, by NumPy or, in float32, by the compiled code."""
    made = cell(lambda g, s: function(g.a, g.b), gates=("a", "b"), states=("h",), name="f")
    a, b = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float))
    if dtype == "float64":
        return made.vjp([a, b], [0 * a], [0 * a + 1])[0]
    da, db, _ = run_strip(made, "vjp", [a, b, 0 * a, 0 * a + 1], dtype)
    return da, db


@settings(max_examples=150)
@given(strategies.cells())
def test_random_cells_against_finite_differences(made):
    for difference in pointwise_differences(made):
        assert difference.error <= difference.tolerance, difference


@settings(max_examples=25)
@given(strategies.cells(stop_gradient=False))
def test_sequences_of_random_cells_against_finite_differences(made):
    assert not has_stop_gradient(made)
    for difference in sequence_differences(made):
        assert difference.error <= difference.tolerance, difference


ANALYTIC = {
    "sigmoid": lambda x: sigmoid(x),
    "tanh": lambda x: tanh(x),
    "exp": lambda x: exp(x / 4),
    "log": lambda x: log(x * x + 0.5),
    "sqrt": lambda x: sqrt(x * x + 0.5),
    "softplus": lambda x: log(1 + exp(x)),
    "powers": lambda x: (x * x + 1) ** -1.5 + x**3 - (x**2 + 2) ** -2 + 2**x + x**5 / (x**4 + 1),
}


@pytest.mark.parametrize("name", ANALYTIC)
def test_analytic_functions_against_complex_steps(name):
    made = cell(lambda g, s: ANALYTIC[name](g.a), gates=("a",), states=("h",), name="f")
    x = np.linspace(-2, 2, 41)
    scope = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "sqrt": np.sqrt, "power": np.power}
    scope["sigmoid"] = lambda x: 1 / (1 + np.exp(-x))
    exec(made.source("forward", "numpy"), scope)
    expected = scope["forward"]([x + 1e-30j], [x])[0].imag / 1e-30
    derived = made.vjp([x], [x], [np.ones(41)])[0][0]
    np.testing.assert_allclose(derived, expected, rtol=1e-13, atol=1e-15)


# where(): a branch not taken passes nothing ------------------------------------------------------

SAFE = {
    "log": (lambda x: where(x > 0, log(x), 0), lambda x: 1 / x),
    "1 - log": (lambda x: where(x > 0, 1 - log(x), 0), lambda x: -1 / x),
    "abs log": (lambda x: where(x > 0, abs(log(x)), 0), lambda x: np.sign(np.log(x)) / x),
    "sqrt": (lambda x: where(x > 0, sqrt(x), 0), lambda x: 0.5 / np.sqrt(x)),
    "power": (lambda x: where(x > 0, x**-1.5, 0), lambda x: -1.5 * x**-2.5),
    "divide": (lambda x: where(x > 0, 2 / x, 0), lambda x: -2 / x**2),
    "of of": (lambda x: where(x > 0, sqrt(log(1 + x)), 0),
              lambda x: 0.5 / np.sqrt(np.log1p(x)) / (1 + x)),
    "quotient": (lambda x: where(x > 0, 1 / sqrt(x) - sqrt(x) / x, 0), lambda x: 0 * x),
    "nested": (lambda x: where(x > 0, where(x > 1, sqrt(x), log(x)), 0),
               lambda x: np.where(x > 1, 0.5 / np.sqrt(x), 1 / x)),
    "shared": (lambda x: where(x > 0, log(x), 0) + where(x > 1.5, log(x), 0),
               lambda x: np.where(x > 1.5, 2, 1) / x),
    "else branch": (lambda x: where(x <= 0, 0, log(x)), lambda x: 1 / x),
    "relu of log": (lambda x: where(x > 0, relu(log(x)), 0), lambda x: np.where(x > 1, 1 / x, 0)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SAFE)
def test_a_branch_not_taken_passes_no_gradient(name, dtype):
    function, derivative = SAFE[name]
    derived = gradient(lambda a, b: function(a), A, dtype=dtype)[0]
    expected = np.where(A > 0, derivative(np.where(A > 0, A, 1)), 0)
    unit = np.finfo(dtype).eps
    np.testing.assert_allclose(derived, expected, rtol=8 * unit, atol=unit)


def test_sqrt_at_0_has_an_infinite_gradient_where_it_is_taken():
    assert gradient(lambda a, b: sqrt(a), [0.0])[0] == np.inf


# ties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extreme", [maximum, minimum])
def test_at_a_tie_the_first_argument_takes_the_whole_gradient(extreme):
    a, b = np.array([1.0, 0.0, -0.0, 2.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0, 2.0])
    da, db = gradient(extreme, a, b)
    first = (a >= b) if extreme is maximum else (a <= b)
    np.testing.assert_array_equal(da, first)
    np.testing.assert_array_equal(db, ~first)
    da, db = gradient(lambda a, b: extreme(b, a), a, b)
    np.testing.assert_array_equal(db[:3], 1)
    np.testing.assert_array_equal(da[:3], 0)


def test_clip_keeps_the_gradient_on_its_bounds():
    derived = gradient(lambda a, b: clip(a, -1, 2), [-1.5, -1, 0, 2, 2.5])[0]
    np.testing.assert_array_equal(derived, [0, 1, 1, 1, 0])


@pytest.mark.parametrize("function", [relu, abs])
def test_relu_and_abs_have_gradient_0_at_0(function):
    np.testing.assert_array_equal(gradient(lambda a, b: function(a), [0.0, -0.0])[0], 0)


# large arguments -------------------------------------------------------------------------------

LARGE = {
    "sigmoid": (sigmoid, [0, 0]),
    "tanh": (tanh, [0, 0]),
    "softplus": (softplus, [0, 1]),
    "log_sigmoid": (log_sigmoid, [1, 0]),
    "relu": (relu, [0, 1]),
    "abs": (abs, [-1, 1]),
    "tanh of exp": (lambda x: tanh(exp(minimum(x, 80))), [0, 0]),
    "log of sigmoid": (lambda x: exp(log_sigmoid(x)), [0, 0]),
    "bounded exp": (lambda x: where(x < 10, exp(x), 3 * x), [0, 3]),
    "quotient": (lambda x: x / (1 + abs(x)), [(1 + 1e4) ** -2] * 2),
    "root": (lambda x: sqrt(1 + x * x), [-1, 1]),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", LARGE)
def test_gradients_at_large_arguments_are_finite_and_right(name, dtype):
    function, expected = LARGE[name]
    derived = gradient(lambda a, b: function(a), [-1e4, 1e4], dtype=dtype)[0]
    np.testing.assert_allclose(derived, expected, atol=2e-8 if dtype == "float64" else 1e-6)


@pytest.mark.parametrize("name", cells.list_cells())
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_built_in_cells_are_finite_at_large_arguments(name, dtype):
    made = cells.get_cell(name)
    G, S = len(made.gates), len(made.states)
    corners = np.array(np.meshgrid(*[[-1e4, 0, 1e4]] * G)).reshape(G, -1).astype(dtype)
    states = np.ones((S, corners.shape[1]), dtype)
    assert np.isfinite(run_strip(made, "forward", [*corners, *states], dtype)).all()
    assert np.isfinite(run_strip(made, "vjp", [*corners, *states, *states], dtype)).all()


# structure ---------------------------------------------------------------------------------------


def test_stop_gradient_cuts_the_gradient_and_nothing_else():
    da, db = gradient(lambda a, b: a * stop_gradient(b) + stop_gradient(a) * b, [2.0], [3.0])
    assert (da, db) == (3.0, 2.0)


def calls(made, name):
    return len(re.findall(rf"\b{name}\(", made.source("vjp")))


def test_shared_subexpressions_are_computed_once():
    def shared(g, s):
        return tanh(g.a) * sigmoid(g.b), tanh(g.a) + sigmoid(g.b) * tanh(g.a)

    made = cell(shared, gates=("a", "b"), states=("h", "c"))
    assert (calls(made, "tanh"), calls(made, "sigmoid")) == (1, 1)


def test_the_gradient_of_the_lstm_needs_no_more_functions_than_its_forward():
    lstm = cells.get_cell("lstm")
    assert (calls(lstm, "tanh"), calls(lstm, "sigmoid")) == (2, 3)


def test_the_gradient_of_a_long_chain_grows_with_its_length_only():
    def chain(length):
        def steps(g, s):
            x = g.a
            for _ in range(length):
                x = maximum(x * sigmoid(x), tanh(x) - x)
            return x

        return len(cell(steps, gates=("a",), states=("h",)).source("vjp").splitlines())

    assert chain(16) - chain(8) <= 2 * (chain(8) - chain(4)) + 8
