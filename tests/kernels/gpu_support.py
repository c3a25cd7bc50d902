"""Random problems for the GPU kernels, and their comparison with the oracle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from flashrnn_numba.arrays import DTYPES
from flashrnn_numba.cells import Cell, cell, get_cell, sigmoid, tanh
from flashrnn_numba.kernels import reference
from flashrnn_numba.kernels.interface import Gradients, Inputs, Task
from flashrnn_numba.testing.tolerances import relative_error, tolerance

CELLS = ("elman", "lstm", "gru", "slstm")


@cell(
    gates={"a": "x", "b": "Rb", "c": "b", "e": "xR"},
    states=("h", "m"),
    initial={"m": 0.5, "h": 0.25},
)
def mixed(g, s):
    """Every kind of gate, apart from each other, and initial values other than 0."""
    m = sigmoid(g.b) * s.m + g.a * g.c
    return tanh(g.a + g.b * m + g.e), m


@cell(gates={"a": "xb"}, states=("h",))
def no_recurrence(g, s):
    """No gate takes the recurrent state."""
    return tanh(g.a) + 0.5 * s.h


@dataclass(frozen=True)
class Case:
    """A problem; everything about its arrays follows from it."""

    function: str | Cell = "lstm"
    dtype: str = "float32"
    B: int = 3
    T: int = 5
    H: int = 2
    D: int = 4
    states: bool = True
    reset: bool = True
    lengths: bool = True
    clip: float | None = None
    strided: bool = False
    dlast: bool = True
    dstates: bool = True
    seed: int = 0
    precision: str = "auto"

    def with_(self, **changes: Any) -> Case:
        return replace(self, **changes)


def build(case: Case) -> tuple[Task, Inputs, Any, Any]:
    """(task, inputs, dstates, dlast) as NumPy arrays."""
    c = get_cell(case.function)
    B, T, H, D, S = case.B, case.T, case.H, case.D, len(c.states)
    random = np.random.default_rng(case.seed)
    dtype = DTYPES[case.dtype]

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        if case.strided:  # another order of axes in memory, and gaps
            wide = scale * random.standard_normal((*shape[::-1][:-1], 2 * shape[0] + 1))
            return wide.astype(dtype)[..., 1::2].transpose()
        return (scale * random.standard_normal(shape)).astype(dtype)

    Wx = normal(B, T, len(c.input_gates), H, D)
    R = normal(len(c.recurrent_gates), H, D, D, scale=D**-0.5)
    b = normal(len(c.bias_gates), H, D)
    states = normal(S, B, 1, H, D, scale=0.5) if case.states else None
    if states is not None and c.name == "slstm":
        states[2] = np.abs(states[2]) + dtype.type(0.5)  # a normaliser is positive
    reset = random.random((B, T)) < 0.3 if case.reset else None
    lengths = random.integers(0, T + 1, B) if case.lengths else None
    if lengths is not None and B:
        lengths[0] = T  # one row is whole, so that something happens at every step
    dstates = normal(S, B, T, H, D) if case.dstates else None
    dlast = normal(S, B, 1, H, D) if case.dlast else None
    task = Task(c, B, T, H, D, case.dtype, "numpy", case.clip, case.precision)
    return task, Inputs(Wx, R, b, states, reset, lengths), dstates, dlast


@lru_cache(2)
def oracle(case: Case) -> tuple[Any, Any, Gradients]:
    task, inputs, dstates, dlast = build(case)
    wide = Inputs(*(a if a is None or a.dtype.kind in "biu" else a.astype(float) for a in inputs))
    task = replace(task, dtype="float64")
    states, last, kept = reference.forward(task, wide, keep=True)
    d = [None if a is None else a.astype(float) for a in (dstates, dlast)]
    return states, last, reference.backward(task, wide, kept, *d)


def assert_close(name: str, got: Any, expected: Any, allowed: float) -> None:
    if expected is None:
        assert got is None, name
        return
    assert got.shape == expected.shape, f"{name}: {got.shape} instead of {expected.shape}"
    if expected.size:
        error = relative_error(np.asarray(got).astype(float), expected)
        assert error <= allowed, f"{name}: relative error {error:.2g}, allowed {allowed:.2g}"


def compare(case: Case, states: Any, last: Any, gradients: Any) -> None:
    """All results of a backend against the oracle."""
    expected_states, expected_last, expected = oracle(case)
    allowed = tolerance(case.dtype, max(1, case.T), case.D, max(1, case.B), case.precision)
    assert_close("states", states, expected_states, allowed)
    assert_close("last", last, expected_last, allowed)
    if gradients is not None:
        for name, got, wanted in zip(expected._fields, gradients, expected, strict=True):
            assert_close(f"gradient of {name}", got, wanted, allowed)
