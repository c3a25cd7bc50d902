"""The expression language: its functions against NumPy, its errors at definition time."""

import inspect
import math
import operator

import numpy as np
import pytest

from flashrnn_numba import cells
from flashrnn_numba.cells import CellError, cell, clip, maximum, minimum, stop_gradient, where
from flashrnn_numba.cells.expression import ALLOWED

A = np.array([-1e4, -700.0, -3.5, -1.0, -0.25, -0.0, 0.0, 1e-9, 0.5, 1.0, 2.0, 30.0, 1e4])
B = np.array([2.0, -1.0, -3.5, 0.5, 0.0, 0.0, 1.0, -2.0, 0.5, -3.0, 4.0, 1e-3, 1e4])


def pointwise(function, *arguments):
    """What a cell h = function(a, b) computes with NumPy."""
    made = cell(lambda g, s: function(g.a, g.b), gates=("a", "b"), states=("h",), name="f")
    return made.forward(arguments, [np.zeros_like(arguments[0])])[0]


def sigmoid(x):
    return np.where(x > 0, 1 / (1 + np.exp(-x)), np.exp(x) / (1 + np.exp(x)))


FUNCTIONS = {
    "sigmoid": (cells.sigmoid, sigmoid),
    "tanh": (cells.tanh, np.tanh),
    "relu": (cells.relu, lambda x: np.maximum(x, 0)),
    "exp": (cells.exp, np.exp),
    "log": (cells.log, np.log),
    "sqrt": (cells.sqrt, np.sqrt),
    "abs": (cells.abs, np.abs),
    "builtin abs": (abs, np.abs),
    "softplus": (cells.softplus, lambda x: np.logaddexp(x, 0)),
    "log_sigmoid": (cells.log_sigmoid, lambda x: -np.logaddexp(-x, 0)),
    "stop_gradient": (stop_gradient, lambda x: x),
    "negative": (operator.neg, np.negative),
    "positive": (operator.pos, np.positive),
    "clip": (lambda x: clip(x, -0.75, 1.5), lambda x: np.clip(x, -0.75, 1.5)),
    "2 ** x": (lambda x: 2**x, lambda x: 2.0**x),
    **{f"{c} - x": (lambda x, c=c: c - x, lambda x, c=c: c - x) for c in (0, 1, 2.5)},
    **{f"{c} / x": (lambda x, c=c: c / x, lambda x, c=c: c / x) for c in (1, 2.5)},
    **{f"x / {c}": (lambda x, c=c: x / c, lambda x, c=c: x / c) for c in (1, 4)},
    **{f"{c} * x": (lambda x, c=c: c * x, lambda x, c=c: c * x) for c in (1, -1, 2.5)},
    **{
        f"x ** {c}": (lambda x, c=c: x**c, lambda x, c=c: np.power(x, c))
        for c in (-8.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 9.0)
    },
}
OPERATORS = {
    "+": (operator.add,) * 2,
    "-": (operator.sub,) * 2,
    "*": (operator.mul,) * 2,
    "/": (operator.truediv,) * 2,
    "maximum": (maximum, np.maximum),
    "minimum": (minimum, np.minimum),
    **{
        f"where {c.__name__}": (lambda x, y, c=c: where(c(x, y), x * 2, y),
                                lambda x, y, c=c: np.where(c(x, y), x * 2, y))
        for c in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_argument(name):
    ours, numpy = FUNCTIONS[name]
    with np.errstate(all="ignore"):
        expected = numpy(A)
    np.testing.assert_allclose(pointwise(lambda a, b: ours(a), A, B), expected, rtol=4e-15)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_and_functions_of_two_arguments(name):
    ours, numpy = OPERATORS[name]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(pointwise(ours, A, B), numpy(A, B))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "stop_gradient"])
def test_constants_are_folded_to_the_same_number(name):
    ours, numpy = FUNCTIONS[name]
    value = pointwise(lambda a, b: ours(0.3 + 0 * a) + 0 * b, A, B)
    np.testing.assert_allclose(value, np.broadcast_to(numpy(np.float64(0.3)), A.shape), rtol=4e-15)


def test_numpy_scalars_and_integers_are_constants():
    assert pointwise(lambda a, b: np.float32(0.5) * a + np.int64(2), A, B)[9] == 2.5


def test_a_comparison_of_constants_chooses_at_definition_time():
    made = cell(lambda g, s: where(1 > 2, g.a, 2 * s.h), gates=("a",), states=("h",), name="f")
    assert "where" not in made.source("forward", "numpy")
    assert made.forward([A], [B])[0] == pytest.approx(2 * B)


# errors ---------------------------------------------------------------------------------------

MISTAKES = {
    "a truth value": lambda g, s: g.a if g.a > 0 else s.h,
    "a chained comparison": lambda g, s: where(0 < g.a < 1, g.a, s.h),
    "conversion to a number": lambda g, s: math.exp(g.a),
    "a NumPy function": lambda g, s: np.exp(g.a),
    "indexing": lambda g, s: g.a[0],
    "a call": lambda g, s: g.a(1),
    "// or %": lambda g, s: g.a % 2,
    "@": lambda g, s: g.a @ s.h,
    "& | ^ ~": lambda g, s: where((g.a > 0) & (s.h > 0), g.a, s.h),
    "<< or >>": lambda g, s: g.a << 1,
    "** takes a constant exponent": lambda g, s: g.a**s.h,
    "the constant base of ** must be positive": lambda g, s: (-2) ** g.a,
    "a comparison stands as an operand of *": lambda g, s: (g.a > 0) * s.h,
    "where() takes a comparison": lambda g, s: where(g.a, g.a, s.h),
    "division by the constant 0": lambda g, s: g.a / 0,
    "log(-1.0) of a constant": lambda g, s: cells.log(-1) + g.a,
    "+ takes expressions and numbers, got str": lambda g, s: g.a + "1",
    "got an array of shape (3,)": lambda g, s: g.a * np.ones(3),
    "got bool True": lambda g, s: g.a * True,
    "there is no gate 'x'; there are: a": lambda g, s: g.x,
    "there is no state 'c'; there are: h": lambda g, s: s.c,
    "failed while it was traced: name 'undefined'": lambda g, s: undefined(g.a),  # noqa: F821
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_an_error_at_definition_time_that_names_the_line(message):
    mistake = MISTAKES[message]
    with pytest.raises(CellError) as caught:
        cell(mistake, gates=("a",), states=("h",), name="wrong")
    text = str(caught.value)
    assert (message in text) or (message == "a chained comparison" and "a truth value" in text)
    line = mistake.__code__.co_firstlineno
    assert f"{__file__}:{line}" in text
    assert inspect.getsource(mistake).strip().splitlines()[0][:20] in text
    if not message.startswith("there is no"):
        assert ALLOWED in text


def test_the_line_named_is_the_one_inside_of_the_function():
    def wrong(g, s):
        x = g.a + 1
        y = abs(x) // 2
        return x + y

    with pytest.raises(CellError, match=r"// or %.*no useful gradient") as caught:
        cell(wrong, gates=("a",), states=("h",))
    assert f"{__file__}:{wrong.__code__.co_firstlineno + 2}: `y = abs(x) // 2`" in str(caught.value)


def test_assignment_to_an_input_is_refused():
    def wrong(g, s):
        g.a = s.h
        return g.a

    with pytest.raises(CellError, match="'a' cannot be assigned; return the new states"):
        cell(wrong, gates=("a",), states=("h",))


def test_inputs_of_another_cell_are_refused():
    kept = []
    cell(lambda g, s: kept.append(g.a) or g.a, gates=("a",), states=("h",), name="first")
    with pytest.raises(CellError, match=r"uses gate.a of another cell or call"):
        cell(lambda g, s: kept[0] + g.a, gates=("a",), states=("h",), name="second")


RESULTS = {
    r"must return the new states in order, 2 \(h, c\), got 1": lambda g, s: g.a,
    r"got 3": lambda g, s: (g.a, s.h, s.c),
    r"returns NoneType None for 'c', expected an expression": lambda g, s: (g.a, None),
    r"a comparison stands as an operand of the new states \('h'\)": lambda g, s: (g.a > 0, s.c),
}


@pytest.mark.parametrize("message", RESULTS)
def test_wrong_results(message):
    with pytest.raises(CellError, match=message) as caught:
        cell(RESULTS[message], gates=("a",), states=("h", "c"), name="wrong")
    assert __file__ in str(caught.value)


DEFINITIONS = {
    "gates must name at least one": {"gates": ()},
    "states must name at least one": {"states": ()},
    "gates must differ from each other": {"gates": ("a", "a")},
    "'1a' is not a name Python can use": {"gates": ("1a",)},
    "'lambda' is not a name Python can use": {"states": ("lambda",)},
    "'_h' is not a name Python can use": {"states": ("_h",)},
    "gates must be a sequence of names": {"gates": "ab"},
    "gate 'a' has sources 'xy', expected some of 'x'": {"gates": {"a": "xy"}},
    "gate 'a' has sources 'xx'": {"gates": {"a": "xx"}},
    "gate 'a' has sources ''": {"gates": {"a": ""}},
    "gate 'a' has sources None": {"gates": {"a": None}},
    "initial names 'c', which is no state; the states are h": {"initial": {"c": 1.0}},
    "initial value of 'h' must be a number": {"initial": {"h": "one"}},
}


@pytest.mark.parametrize("message", DEFINITIONS)
def test_wrong_definitions(message):
    arguments = {"gates": ("a",), "states": ("h",), **DEFINITIONS[message]}
    with pytest.raises(CellError, match=message) as caught:
        cell(lambda g, s: g.a, **arguments)
    assert f"{__file__}:" in str(caught.value)


def test_a_cell_is_made_of_a_python_function():
    with pytest.raises(CellError, match="a cell is made of a Python function, got 3"):
        cell(3, gates=("a",), states=("h",), name="three")
