"""Which problems are enumerated, and that nothing overflows."""

from __future__ import annotations

import itertools

import pytest

from flashrnn_numba.tuning import Problem, SearchLimit
from flashrnn_numba.tuning.expressions import maximum, minimum


def test_a_small_problem_is_enumerated():
    p = Problem()
    tile, count = p.variable("tile", [8, 16, 32]), p.variable("count", range(1, 65))
    p.require(tile * count == 512)
    assert p.solve(minimize=tile * 3 + count) == {"tile": 16, "count": 32}
    assert p.stats.rows == 3 + 3 * 64
    assert (p.stats.nodes, p.stats.propagations, p.stats.solutions) == (0, 0, 3)
    assert 0 < p.stats.first <= p.stats.seconds


def test_an_enumerated_problem_has_no_nodes_to_limit():
    p = Problem()
    a, b = p.variable("a", range(100)), p.variable("b", range(100))
    p.require(a * b == 36)
    assert p.solve(minimize=a + b, node_limit=0) == {"a": 6, "b": 6}
    assert p.stats.rows > 0 == p.stats.nodes
    with pytest.raises(SearchLimit, match="node_limit=0 reached after 1 nodes"):
        p.solve(node_limit=0)
    with pytest.raises(SearchLimit, match="time_limit=0 reached after 0 nodes"):
        p.solve(minimize=a + b, time_limit=0)


def test_a_table_stays_short_because_it_is_filtered_as_it_grows():
    """Sixteen values in each of eight variables: 4 * 10 ** 9 combinations, few of them met."""
    p = Problem()
    v = [p.variable(f"v{n}", range(16)) for n in range(8)]
    for a, b in itertools.pairwise(v):
        p.require(a * 2 == b)
    assert p.best(2, sum(v)) == [{f"v{n}": 0 for n in range(8)}]
    assert 0 < p.stats.rows < 2000


def test_what_is_large_is_searched():
    p = Problem()
    v = [p.variable(f"v{n}", range(1000)) for n in range(4)]
    p.require(v[0] + v[1] == 1500)
    p.require(v[2] * v[3] == 999 * 998)
    assert p.solve(minimize=v[0] + v[2])["v0"] == 501
    assert p.stats.rows == 0 < p.stats.nodes


@pytest.mark.parametrize("power", [2, 4, 40])
def test_numbers_beyond_64_bits_are_exact(power):
    p = Problem()
    a, b = p.variable("a", range(10**9, 10**9 + 20)), p.variable("b", [1, 10**9 + 7])
    p.require(a**power % b == 0)
    assert p.solve(maximize=b) == {"a": 10**9 + 7, "b": 10**9 + 7}
    assert (p.stats.rows > 0) == (power == 2)


def test_an_alternative_with_a_conjunction_filters_piece_by_piece():
    """A table of three values by ten thousand combinations would be too long."""
    p = Problem()
    kind = p.variable("kind", range(3))
    v = [p.variable(f"v{n}", range(100)) for n in range(4)]
    for n in range(3):
        known = (v[0] == n) & (v[1] == n + 1) & (v[2] == n + 2) & (v[3] == n * 2)
        p.require((kind != n) | known)
    assert p.best(3, -kind - v[3])[0] == {"kind": 2, "v0": 2, "v1": 3, "v2": 4, "v3": 4}
    assert 0 < p.stats.rows < 3000


def test_prefer_decides_between_equals():
    for prefer, expected in (("smallest", 1), ("largest", 9)):
        p = Problem()
        a, b = p.variable("a", range(1, 10), prefer=prefer), p.variable("b", range(5))
        p.require(maximum(a, b) <= 9)
        assert p.solve(minimize=b)["a"] == expected
        assert p.stats.rows


def test_an_objective_that_divides_by_zero_does_not_count():
    p = Problem()
    a = p.variable("a", range(-2, 3))
    assert p.solve(minimize=10 // a) == {"a": -1}
    assert p.best(9, 10 // a)[-1] == {"a": 1}
    assert len(p.best(9, 10 // a)) == 4
    assert p.ranked(2, 10 // a) == [(-10, {"a": -1}), (-5, {"a": -2})]
    p.require(a == 0)
    assert p.solve(minimize=10 // a) is None


def test_quotients_and_minima_keep_large_numbers_small():
    """2^60 * 2^60 would overflow; what is computed is smaller by far."""
    p = Problem()
    a, b = p.variable("a", [3, 1 << 60]), p.variable("b", [-5, 1 << 60])
    cost = minimum(a, 100) * minimum(b, 100) + (a // (1 << 40)) * (b % 1000)
    assert p.solve(minimize=cost) == {"a": 3, "b": -5}
    assert p.stats.nodes == 0
    p.require(a * b < 0)
    assert p.solve(minimize=cost) is not None
    assert p.stats.nodes > 0


def test_without_a_solution_a_large_objective_is_not_looked_at():
    """A search would translate it first, which takes longer than to see that nothing fits."""
    p = Problem()
    a, b = p.variable("a", range(1, 50)), p.variable("b", range(1, 50))
    p.require(a * b == 53)
    assert p.solve(minimize=(a + b) ** 40) is None
    assert p.stats.rows > 0 == p.stats.nodes
