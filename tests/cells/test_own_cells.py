"""Cells that are not built in: any sources, several states, hand-written gradients."""

import itertools

import numpy as np
import pytest

import flashrnn_numba as fr
from flashrnn_numba.cells import (
    CellError,
    cell,
    clip,
    exp,
    get_cell,
    log_sigmoid,
    maximum,
    relu,
    sigmoid,
    softplus,
    stop_gradient,
    tanh,
    where,
)
from flashrnn_numba.testing import CellCheckError, check_cell, random_problem, run, solve

PEEPHOLE_GATES = dict.fromkeys("ifzo", "xRb") | {"pi": "b", "pf": "b", "po": "b"}


@cell(gates=PEEPHOLE_GATES, states=("h", "c"))
def peephole(g, s):
    """Gers and Schmidhuber (2000): the gates look at the cell state, one weight for each unit."""
    i, f = sigmoid(g.i + g.pi * s.c), sigmoid(g.f + g.pf * s.c)
    c = f * s.c + i * tanh(g.z)
    return sigmoid(g.o + g.po * c) * tanh(c), c


@cell(gates={"a": "xRb", "b": "xb", "c": "Rb"}, states=("h", "top"))
def branching(g, s):
    """maximum and where."""
    top = maximum(s.top * 0.9, tanh(g.a) + 0.5 * g.b)
    return where(g.c > 0, tanh(top), 0.5 * s.h - relu(g.b) / 4), clip(top, -2, 2)


@cell(
    gates={"a": "xRb", "b": "xRb", "c": "xR", "d": "Rb", "e": "x", "f": "b"},
    states=("h", "c", "n", "u", "v"),
    initial={"n": 1.0, "v": 0.5},
)
def large(g, s):
    """6 gates and 5 states."""
    i, f = exp(-softplus(g.a)), exp(log_sigmoid(g.b))
    c = f * s.c + i * tanh(g.c)
    n = f * s.n + i + 0.1
    u = sigmoid(g.d) * s.u + (1 - sigmoid(g.d)) * tanh(g.e)
    v = 0.5 * s.v + 0.5 * stop_gradient(u) * g.f
    return tanh(c / n + u) * sigmoid(v), c, n, u, v


@pytest.mark.parametrize("own", [peephole, branching, large], ids=lambda c: c.name)
def test_own_cells_pass_check_cell(own):
    report = check_cell(own)
    assert {row.check for row in report.rows} == {"gradient", "cpu", "reference"}
    assert {row.dtype for row in report.rows} == {"float64", "float32", "float16", "bfloat16"}
    assert not [note for note in report.notes if "float32" in note or "float64" in note]


def test_the_peephole_cell_by_flashrnn_vjp_against_its_equations():
    random = np.random.default_rng(0)
    B, T, H, D = 2, 4, 2, 3
    Wx, R = random.normal(size=(B, T, 4, H, D)), random.normal(size=(4, H, D, D))
    b, weight = random.normal(size=(7, H, D)), random.normal(size=(B, T, H, D))

    def sigma(x):
        return 1 / (1 + np.exp(-x))

    def loss(b):
        h, c = np.zeros((2, B, H, D))
        total = 0.0
        for t in range(T):
            g = Wx[:, t] + np.einsum("ghjk,bhk->bghj", R, h) + b[:4]
            i, f, z, o = np.moveaxis(g, 1, 0)
            c = sigma(f + b[5] * c) * c + sigma(i + b[4] * c) * np.tanh(z)
            h = sigma(o + b[6] * c) * np.tanh(c)
            total += np.sum(h * weight[:, t])
        return total

    states, _, vjp = fr.flashrnn_vjp(Wx, R, b, function=peephole)
    assert np.sum(states[0] * weight) == pytest.approx(loss(b), rel=1e-13)
    db = vjp(np.stack([weight, np.zeros_like(weight)])).b
    assert db.shape == (7, H, D)
    for entry in np.ndindex(b.shape):
        step = np.zeros_like(b)
        step[entry] = 1e-5
        expected = (loss(b + step) - loss(b - step)) / 2e-5
        assert db[entry] == pytest.approx(expected, rel=1e-7, abs=1e-8)


SOURCES = ["".join(s) for n in (1, 2, 3) for s in itertools.combinations("xRb", n)]


@pytest.mark.parametrize("first", SOURCES)
def test_gates_take_any_combination_of_sources(first):
    """A gate without a source behaves like one whose array is zero, in results and gradients."""

    def function(g, s):
        return tanh(g.a) * sigmoid(g.b) + 0.5 * s.h

    second = SOURCES[(SOURCES.index(first) + 3) % len(SOURCES)]
    made = cell(function, gates={"a": first, "b": second}, states=("h",))
    full = cell(function, gates=("a", "b"), states=("h",))
    problem = random_problem(full, "float64", (2, 5, 2, 3), seed=1, reset=True)
    where_used = {
        "Wx": (made.input_gates, 2, "dWx"), "R": (made.recurrent_gates, 0, "dR"),
        "b": (made.bias_gates, 0, "db"),
    }  # fmt: skip
    small, inputs = problem.inputs, problem.inputs
    for name, (used, axis, _) in where_used.items():
        array = getattr(problem.inputs, name).copy()
        small = small._replace(**{name: np.take(array, used, axis)})
        unused = [i for i in range(2) if i not in used]
        np.moveaxis(array, axis, 0)[unused] = 0
        inputs = inputs._replace(**{name: array})
    problem = problem.__class__(full, inputs, problem.dstates, problem.dlast)
    expected = solve(problem)
    for used, axis, key in where_used.values():
        expected[key] = np.take(expected[key], used, axis)
    own = problem.__class__(made, small, problem.dstates, problem.dlast)
    for backend in ("reference", "cpu"):
        for name, array in run(own, backend).items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-13, atol=1e-14)


# hand-written gradients --------------------------------------------------------------------------


def leaky(g, s):
    return tanh(g.a) + 0.5 * s.h


def test_a_hand_written_vjp_is_used_and_checked():
    def vjp(g, s, d):
        y = tanh(g.a)
        return d.h * (1 - y * y), 0.5 * d.h

    own = cell(leaky, gates=("a",), states=("h",), vjp=vjp)
    assert own.has_own_vjp
    check_cell(own, dtypes=["float64"])
    derived = cell(leaky, gates=("a",), states=("h",))
    x, d = np.linspace(-2, 2, 9), np.linspace(1, 3, 9)
    for ours, theirs in zip(own.vjp([x], [x], [d]), derived.vjp([x], [x], [d]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_a_wrong_hand_written_vjp_is_found():
    def vjp(g, s, d):
        y = tanh(g.a)
        return d.h * (1 - y), 0.5 * d.h

    wrong = cell(leaky, gates=("a",), states=("h",), vjp=vjp)
    with pytest.raises(CellCheckError, match=r"cell 'leaky': d\(gate a\) differs from finite"):
        check_cell(wrong)


def test_a_vjp_of_wrong_shape_is_an_error_at_definition_time():
    with pytest.raises(CellError, match="must return the gate gradients, the state gradients"):
        cell(leaky, gates=("a",), states=("h",), vjp=lambda g, s, d: d.h)
    with pytest.raises(CellError, match=r"must return the gate gradients in order, 1 \(a\), got 2"):
        cell(leaky, gates=("a",), states=("h",), vjp=lambda g, s, d: ((d.h, d.h), d.h))
    with pytest.raises(CellError, match="there is no cotangent 'c'; there are: h"):
        cell(leaky, gates=("a",), states=("h",), vjp=lambda g, s, d: (d.c, d.h))


# check_cell itself -----------------------------------------------------------------------------


def test_the_report_prints_as_a_table():
    report = check_cell("elman", dtypes=["float32"], shapes=[(2, 3, 1, 2)])
    text = str(report)
    assert "cell elman" in text
    assert any(line.split()[:2] == ["cpu", "float32"] for line in text.splitlines())
    assert all(row.error <= row.tolerance for row in report.rows)


def test_check_cell_refuses_unknown_backends():
    with pytest.raises(ValueError, match=r"backends must be of .*cpu.*; got 'gpu'"):
        check_cell("elman", backends=["gpu"])


class Wrong:
    """The CPU backend with one result changed."""

    def __init__(self, **changes):
        from flashrnn_numba.kernels import cpu

        self.cpu, self.changes, self.refuses = cpu, changes, cpu.refuses

    def forward(self, task, inputs, keep):
        states, last, kept = self.cpu.forward(task, inputs, keep)
        return self._change("states", states.copy()), last, kept

    def backward(self, task, inputs, kept, dstates, dlast):
        gradients = self.cpu.backward(task, inputs, kept, dstates, dlast)
        return gradients._replace(**{n: self._change(n, a) for n, a in gradients._asdict().items()})

    def _change(self, name, array):
        if name in self.changes and array is not None and array.size:
            array.flat[-1] = self.changes[name](array.flat[-1])
        return array


@pytest.mark.parametrize(
    ("changes", "array"),
    [
        ({"states": lambda x: x * 1.01}, "states"),
        ({"R": lambda x: float("nan")}, "dR"),
        ({"Wx": lambda x: x + 0.01}, "dWx"),
        ({"b": lambda x: x + 0.01}, "db"),
    ],
)
def test_check_cell_finds_a_backend_that_errs(changes, array, monkeypatch):
    from flashrnn_numba.kernels import backends

    get = backends.get
    monkeypatch.setattr(backends, "get", lambda n: Wrong(**changes) if n == "cpu" else get(n))
    message = rf"cell 'lstm', backend 'cpu', float32, B=.*: {array} differs .*tolerance"
    with pytest.raises(CellCheckError, match=message):
        check_cell(get_cell("lstm"), dtypes=["float32"])
