"""Cells by name, initial values, representation."""

import numpy as np
import pytest

import flashrnn_numba as fr
from flashrnn_numba.cells import cell, registry, tanh


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(registry, "_cells", dict(registry._cells))
    return cell(lambda g, s: tanh(g.a) + s.h / 2, gates=("a",), states=("h",), name="own")


def arrays(G, B=2, T=3, H=2, D=3):
    random = np.random.default_rng(0)
    return (
        random.normal(size=(B, T, G, H, D)),
        random.normal(size=(G, H, D, D)),
        random.normal(size=(G, H, D)),
    )


def test_built_in_cells_are_registered():
    assert set(fr.list_cells()) >= {"elman", "lstm", "gru", "slstm"}
    for name in fr.list_cells():
        assert fr.get_cell(name).name == name
        assert fr.get_cell(name).__doc__


def test_a_registered_cell_works_by_name_and_by_value(own):
    assert fr.register_cell(own) is own
    assert "own" in fr.list_cells()
    by_name = fr.flashrnn(*arrays(1), function="own")[0]
    np.testing.assert_array_equal(by_name, fr.flashrnn(*arrays(1), function=own)[0])


def test_another_name_may_be_given(own):
    fr.register_cell(own, "mine")
    assert fr.get_cell("mine") is own


def test_a_taken_name_is_refused_unless_replaced(own):
    with pytest.raises(ValueError, match=r"name 'lstm' is taken by <cell lstm: .*replace=True"):
        fr.register_cell(own, "lstm")
    fr.register_cell(own, "lstm", replace=True)
    assert fr.get_cell("lstm") is own


def test_the_same_cell_may_be_registered_again(own):
    fr.register_cell(own)
    fr.register_cell(cell(own.function, gates=("a",), states=("h",), name="own"))


def test_only_cells_are_registered():
    with pytest.raises(TypeError, match=r"cell must be a Cell .*got function"):
        fr.register_cell(lambda g, s: g.a)


def test_unknown_names_and_wrong_types():
    with pytest.raises(ValueError, match=r"there is no cell 'lstn'; registered are .*lstm"):
        fr.get_cell("lstn")
    with pytest.raises(TypeError, match="function must be a cell or the name of one, got int"):
        fr.get_cell(3)


def test_representation_tells_gates_sources_and_states():
    text = repr(fr.get_cell("gru"))
    assert text == "<cell gru: gates q: Rb, r: xRb, z: xRb, n: xb; states h>"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_initial_values(backend):
    made = cell(
        lambda g, s: (s.h + tanh(g.a), s.m * 2, s.n),
        gates=("a",),
        states=("h", "m", "n"),
        initial={"h": 0.5, "m": -3.0},
        name="f",
    )
    assert made.initial == {"h": 0.5, "m": -3.0, "n": 0.0}
    Wx, R, b = arrays(1)
    states, _ = fr.flashrnn(0 * Wx, 0 * R, 0 * b, function=made, backend=backend)
    for k, expected in enumerate(([0.5] * 3, [-6, -12, -24], [0] * 3)):
        np.testing.assert_array_equal(states[k, 0, :, 0, 0], expected)
    first = np.empty((3, 2, 1, 2, 3))
    first[:] = np.array([0.5, -3, 0])[:, None, None, None, None]
    given = fr.flashrnn(Wx, R, b, first, function=made, backend=backend)[0]
    np.testing.assert_array_equal(given, fr.flashrnn(Wx, R, b, function=made, backend=backend)[0])
