"""Emitted source: the same text and digest in every process, whatever was traced before."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from strips import run_strip

import flashrnn_numba
from flashrnn_numba.cells import (
    abs,
    cell,
    exp,
    get_cell,
    list_cells,
    log,
    log_sigmoid,
    relu,
    sigmoid,
    softplus,
    sqrt,
    tanh,
    where,
)
from flashrnn_numba.cells.expression import UNARY
from flashrnn_numba.testing import strategies

PROGRAM = """
from flashrnn_numba.cells import cell, get_cell, list_cells, tanh
{before}
for name in list_cells():
    made = get_cell(name)
    print(name, made.key)
    print(made.source("vjp"))

@cell(gates=("a",), states=("h",))
def own(g, s):
    return tanh(g.a) * s.h + 0.5
print(own.key)
"""
BEFORE = """
@cell(gates=("b", "a"), states=("c", "h"))
def other(g, s):
    return tanh(g.b) + s.h * 0.5, tanh(g.a)
"""


def run(program, seed):
    package = str(Path(flashrnn_numba.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": package, "PYTHONHASHSEED": str(seed)}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_text_and_digest_do_not_depend_on_the_process_or_on_what_was_traced_before():
    first = run(PROGRAM.format(before=""), seed=1)
    assert first == run(PROGRAM.format(before=BEFORE), seed=2)
    for name in list_cells():
        assert f"{name} {get_cell(name).key}" in first


def variants():
    def function(g, s):
        return tanh(g.a) + s.h

    base = {"gates": ("a",), "states": ("h",), "name": "f"}
    yield cell(function, **base)
    yield cell(function, **base | {"name": "g"})
    yield cell(function, **base | {"gates": {"a": "xR"}})
    yield cell(function, **base | {"gates": ("a", "b")})
    yield cell(function, **base | {"initial": {"h": 1.0}})
    yield cell(function, **base | {"vjp": lambda g, s, d: (d.h, d.h)})
    yield cell(lambda g, s: tanh(g.a) - s.h, **base)
    yield cell(lambda g, s: tanh(g.a) + 1 * s.h * 2, **base)


def test_equal_definitions_have_equal_keys_and_others_have_others():
    keys = [made.key for made in variants()]
    assert keys == [made.key for made in variants()]
    assert len(set(keys)) == len(keys)


def test_minus_zero_is_another_constant_than_zero():
    keys = {
        cell(lambda g, s, z=z: where(g.a > 0, g.a, z), gates=("a",), states=("h",), name="f").key
        for z in (0.0, -0.0)
    }
    assert len(keys) == 2


def test_scalar_text_names_nothing_but_inputs_and_the_language():
    names = {"real", "power", *UNARY, "maximum", "minimum"}
    for name in list_cells():
        for which in ("forward", "vjp"):
            tree = ast.parse(get_cell(name).source(which))
            called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call)}
            assert called <= names


@settings(max_examples=40)
@given(strategies.cells())
def test_each_assignment_of_the_text_is_used(made):
    for which in ("forward", "vjp"):
        tree = ast.parse(made.source(which))
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
        stored = {n.id for n in nodes if isinstance(n.ctx, ast.Store)}
        assert stored <= {n.id for n in nodes if isinstance(n.ctx, ast.Load)}


@settings(max_examples=40)
@given(strategies.cells())
def test_no_expression_is_computed_twice(made):
    for which in ("forward", "vjp"):
        lines = [
            line.split(" = ")[1] for line in made.source(which).splitlines() if " t" in line[:6]
        ]
        computed = [line for line in lines if any(c in line for c in "(+-*/")]
        assert len(set(computed)) == len(computed)


def everything(g, s):
    a, b = g.a, g.b
    return (
        sigmoid(a) + relu(b) * tanh(a) - log(1 + abs(b)) / softplus(a) + sqrt(2 + b),
        exp(-abs(a)) * log_sigmoid(b) + (2 + a) ** 1.5 + where(a <= b, a**3, b**-2) - s.c,
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_compiled_text_and_numpy_text_agree(dtype):
    made = cell(everything, gates=("a", "b"), states=("h", "c"))
    values = np.random.default_rng(0).uniform(-1, 1, (6, 200)).astype(dtype).astype(float)
    g, s, d = values[:2], values[2:4], values[4:]
    forward = run_strip(made, "forward", [*g, *s], dtype)
    vjp = run_strip(made, "vjp", [*g, *s, *d], dtype)
    dg, ds = made.vjp(g, s, d)
    rtol = 50 * np.finfo(dtype).eps
    np.testing.assert_allclose(forward, made.forward(g, s), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(vjp, [*dg, *ds], rtol=rtol, atol=10 * rtol)
