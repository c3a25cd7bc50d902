"""The CPU's float32 functions against float64, in units in the last place; special values."""

import re

import numpy as np
import pytest
from numba import njit, types

from flashrnn_numba.cells import numeric
from flashrnn_numba.kernels import cpu_math

INF, NAN = np.inf, np.nan
TINY = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)


def compiled(name, real="float32"):
    function = cpu_math.FUNCTIONS[real][name]

    @njit
    def over(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    def call(x):
        x = np.atleast_1d(np.asarray(x, real))
        y = np.empty_like(x)
        over(x, y)
        return y

    return call


def units_in_the_last_place(got, expected):
    """Distance in units of float32's spacing at the exact result (of normal numbers)."""
    spacing = np.spacing(np.maximum(np.abs(expected), TINY).astype(np.float32)).astype(float)
    return np.abs(got.astype(float) - expected) / spacing


# name -> (range, accepted error in units in the last place)
RANGES = {
    "exp": (-87.3, 88.72, 1.5),
    "log": (None, None, 1.5),
    "sigmoid": (-87, 87, 2.5),
    "tanh": (-20, 20, 2.0),
    "softplus": (-87, 87, 2.5),
    "log_sigmoid": (-87, 87, 2.5),
    "sqrt": (None, None, 0.5),
}


def samples(low, high):
    random = np.random.default_rng(0)
    if low is None:  # all positive numbers, subnormal ones too
        bits = random.integers(1, 0x7F800000, 400_000, dtype=np.uint32)
        near_one = np.linspace(0.5, 2, 100_000, dtype=np.float32)
        return np.concatenate([bits.view(np.float32), near_one])
    spread = random.uniform(low, high, 300_000)
    small = random.uniform(-2, 2, 200_000)
    tiny = np.exp(random.uniform(np.log(1e-37), 0, 50_000)) * random.choice([-1, 1], 50_000)
    return np.concatenate([spread, small, tiny]).astype(np.float32)


@pytest.mark.parametrize("name", RANGES)
def test_errors_in_units_in_the_last_place(name):
    low, high, accepted = RANGES[name]
    x = samples(low, high)
    expected = getattr(numeric, name)(x.astype(float))
    errors = units_in_the_last_place(compiled(name)(x), expected)
    assert errors.max() <= accepted, (x[errors.argmax()], errors.max())


SPECIAL = {
    "exp": {0: 1, INF: INF, -INF: 0, 88.75: INF, 1e30: INF, -104: 0, -1e30: 0},
    "log": {1: 0, 0: -INF, INF: INF, -1: NAN, -TINY: NAN, -INF: NAN,
            2.0**-149: -149 * np.log(2)},
    "sigmoid": {0: 0.5, INF: 1, -INF: 0, 1e4: 1, -1e4: 0, 1e30: 1, -1e30: 0},
    "tanh": {0: 0, INF: 1, -INF: -1, 1e4: 1, -1e4: -1, LARGEST: 1, -LARGEST: -1, 1e-40: 1e-40},
    "softplus": {0: np.log(2), INF: INF, -INF: 0, 1e4: 1e4, -1e4: 0, LARGEST: LARGEST},
    "log_sigmoid": {0: -np.log(2), INF: 0, -INF: -INF, 1e4: 0, -1e4: -1e4, -LARGEST: -LARGEST},
    "sqrt": {0: 0, INF: INF, -1: NAN},
    "relu": {-1: 0, 0: 0, 2: 2, INF: INF, -INF: 0},
}  # fmt: skip


@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name, real):
    cases = {**SPECIAL[name], NAN: NAN}
    if real == "float64":
        cases = {x: y for x, y in cases.items() if abs(x) not in (88.75, 104)}
    got = compiled(name, real)(list(cases))
    np.testing.assert_allclose(got, np.array(list(cases.values()), real), rtol=3e-7)


def test_exp_at_the_edges_of_its_range():
    """Right up to the largest result that float32 holds, and down to the smallest normal one."""
    x = np.linspace(88.70, 88.73, 2001, dtype=np.float32)
    exact = np.exp(x.astype(float))
    holds = exact <= LARGEST
    got = compiled("exp")(x)
    assert units_in_the_last_place(got[holds], exact[holds]).max() <= 1.5
    assert np.isinf(got[exact > LARGEST * (1 + 1e-7)]).all()
    x = np.linspace(-87.40, -87.30, 2001, dtype=np.float32)
    exact, got = np.exp(x.astype(float)), compiled("exp")(x)
    normal = exact >= TINY * (1 + 1e-5)
    assert units_in_the_last_place(got[normal], exact[normal]).max() <= 1.5
    assert (got[exact < TINY] <= TINY).all()


@pytest.mark.parametrize("real", ["float32", "float64"])
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_maximum_and_minimum_are_numpys_with_nan_in_either_place(name, real):
    values = np.array([-INF, -1, -0.0, 0, 2, INF, NAN], real)
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    function = cpu_math.FUNCTIONS[real][name]
    got = [function(p, q) for p, q in zip(a, b, strict=True)]
    np.testing.assert_array_equal(got, getattr(np, name)(a, b))


@pytest.mark.parametrize("exponent", [-0.5, 1.5, 9.0])
def test_power(exponent):
    x = np.linspace(0.01, 3, 1000, dtype=np.float32)
    power = cpu_math.FUNCTIONS["float32"]["power"]
    got = np.array([power(v, np.float32(exponent)) for v in x])
    np.testing.assert_allclose(got, x.astype(float) ** exponent, rtol=5e-7)


@pytest.mark.parametrize("name", sorted(set(cpu_math.FUNCTIONS["float32"]) - {"real", "power"}))
def test_a_loop_over_a_float32_function_is_vector_code(name):
    function = cpu_math.FUNCTIONS["float32"][name]
    arguments = "w[j], w[j + 256]" if name in ("maximum", "minimum") else "w[j]"
    scope = {"function": function}
    exec(f"def loop(w):\n for j in range(256):\n  w[512 + j] = function({arguments})", scope)
    loop = njit(types.void(types.float32[::1]), fastmath={"contract"}, error_model="numpy")(
        scope["loop"]
    )
    (llvm,) = loop.inspect_llvm().values()
    assert re.search(r"<\d+ x float>", llvm), f"{name} stops LLVM from vectorising a cell's loop"
