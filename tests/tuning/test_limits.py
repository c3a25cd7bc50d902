"""Limits hold wherever the time goes: building the model, tables, filters, conflicts."""

from __future__ import annotations

import itertools
from time import perf_counter

import pytest

from flashrnn_numba.tuning import Problem, SearchLimit, clock, maximum, problem
from flashrnn_numba.tuning.store import divisors

from .strategies import brute_force
from .test_problem import pigeons


def slow(count: int) -> Problem:
    """Constraints on single values, each of which takes most of a second to try on all of them."""
    p = Problem()
    for n in range(count):
        p.require(p.variable(f"x{n}", range(1, 16_000)) ** 4000 % (10**9 + n) > 3)
    return p


def test_time_limit_holds_while_the_model_is_built():
    start = perf_counter()
    with pytest.raises(SearchLimit, match=r"time_limit=0.05 reached after 0 nodes") as caught:
        slow(20).solve(time_limit=0.05)
    assert perf_counter() - start < 3
    assert caught.value.stats.seconds >= 0.05


def test_time_limit_holds_in_one_filter():
    p = Problem()
    x, y = p.variable("x", range(1, 16_000)), p.variable("y", [1])
    p.require((x**4000 * y) % (10**9 + 7) != 3)
    start = perf_counter()
    with pytest.raises(SearchLimit, match=r"time_limit=0.01"):
        p.solve(time_limit=0.01)
    assert perf_counter() - start < 0.5


class Ticking:
    """A clock that goes on by a second whenever someone looks at it."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return float(self.looks)


@pytest.fixture
def ticking(monkeypatch):
    found = Ticking()
    for module in (clock, problem):
        monkeypatch.setattr(module, "perf_counter", found)
    return found


def test_time_limit_holds_in_a_table(ticking):
    p = Problem()
    v = [p.variable(f"v{n}", range(10)) for n in range(4)]
    for a, b in itertools.combinations(v, 2):
        p.require(a != b)
    assert p.solve(minimize=sum(v)) is not None
    assert p.stats.rows
    with pytest.raises(SearchLimit, match=r"time_limit=3 reached after 0 nodes"):
        p.solve(minimize=sum(v), time_limit=3)


def test_time_limit_holds_within_one_run_of_propagation(ticking):
    """Bounds that creep: without a look in between, thousands of steps."""
    p = Problem()
    a, b, c = (p.variable(name, range(10**6)) for name in "abc")
    p.require((a < b) & (b < c) & (c < a))
    with pytest.raises(SearchLimit, match=r"time_limit=5 reached after 0 nodes"):
        p.solve(time_limit=5)
    assert 0 < p.stats.propagations < 300


POWERS = {
    "one variable": lambda x: x ** (10**7) > 3,
    "a difference": lambda x: (x - 3) ** (10**7) == 3,
    "a variable exponent": lambda x: 2 ** (x * 10**6) > 3,
    "an alternative": lambda x: (x ** (10**7) > 3) | (x == 2),
    "an alternative that divides": lambda x: (x ** (10**7) // x > 3) | (x == 2),
    "inside": lambda x: maximum(x ** (10**7) % 7, x) > 3,
    "of a power": lambda x: (x**4000) ** 4000 > 3,
    "of values": lambda x: (x ** (10**7)).isin([3]),
}


@pytest.mark.parametrize("constraint", POWERS.values(), ids=POWERS)
def test_powers_are_bounded_before_they_are_computed(constraint):
    p = Problem()
    x = p.variable("x", range(1, 10))
    p.require(constraint(x))
    start = perf_counter()
    for ask in (p.solve, p.conflict, lambda: p.solve(minimize=x)):
        with pytest.raises(ValueError, match=r"\*\*.*bits, expected at most 65536.*smaller domain"):
            ask()
    assert perf_counter() - start < 1


def test_powers_of_constants_are_bounded():
    with pytest.raises(ValueError, match=r"`2 \*\* 1000000000` can have 2000000000 bits"):
        Problem.parse("A == 4; 2 ^ 1000000000 == 4").solve()


def test_powers_that_the_bounds_allow_are_computed():
    p = Problem()
    x = p.variable("x", range(1, 8))
    p.require(x**4000 % 11 == 1)
    p.require((2 ** (x // 2) > 3) | (x == 1))
    assert list(p.solutions()) == [{"x": n} for n in (1, 4, 5, 6, 7)] == brute_force(p)


def test_bounds_count_for_powers_wherever_they_stand():
    p = Problem.parse("A ^ 5000 == B; A <= 9; 4 > A; B <= 3; A != 2")
    assert list(p.solutions()) == [{"A": 1, "B": 1}]


def test_a_variable_exponent_is_bounded_in_few_steps():
    """2 ** 32000 and all below it were computed to find that 2 ** 6 is the last."""
    p = Problem()
    x, y = p.variable("x", [2, 3]), p.variable("y", range(1, 30_000))
    z = p.variable("z", range(90, 101))
    p.require(x**y == z)
    start = perf_counter()
    assert p.solve() is None
    assert perf_counter() - start < 0.3


def test_divisors_of_huge_numbers_are_not_listed():
    assert divisors(3**200 * 5**200 * 7**200) is None
    assert divisors((1 << 5000) - 1) is None
    p = Problem()
    x, y = p.variable("x", range(1, 10**9)), p.variable("y", range(1, 10))
    p.require((3**2000 * 5**2000) % (x * y) == 0)
    p.require(x > y)
    start = perf_counter()
    assert p.solve() is not None
    assert perf_counter() - start < 2
    assert len(p.constraints[0].name) < 400


def test_conflict_has_a_time_limit():
    start = perf_counter()
    with pytest.raises(SearchLimit, match=r"time_limit=0.05 reached.*is not settled") as caught:
        pigeons(11).conflict(time_limit=0.05)
    assert perf_counter() - start < 1
    assert caught.value.conflict == []
    with pytest.raises(ValueError, match=r"time_limit: expected a number >= 0"):
        pigeons(3).conflict(time_limit=-1)


def test_conflict_hands_over_what_it_knows(ticking):
    p = pigeons(5)
    p.require(p.variables[0] >= 0, name="idle")
    before = ticking.looks
    names = p.conflict(time_limit=10**9)
    used = ticking.looks - before
    assert len(names) == 10
    with pytest.raises(SearchLimit, match=r"1[01] constraints .* in .conflict") as caught:
        p.conflict(time_limit=used * 0.8)
    assert set(names) <= set(caught.value.conflict)


def test_conflict_without_a_limit_that_would_bind():
    assert len(pigeons(4).conflict(node_limit=None, time_limit=60)) == 6
