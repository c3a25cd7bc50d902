"""Long sums, deep trees, shared subexpressions: solved, or refused with a word on what to do."""

from __future__ import annotations

import functools
import itertools
import operator

import pytest

from flashrnn_numba.tuning import Problem, maximum
from flashrnn_numba.tuning.balancing import DEEPEST
from flashrnn_numba.tuning.expressions import ALTERNATIONS, evaluator

from .strategies import brute_force, evaluate


def variables(count: int, values=range(3)):
    p = Problem()
    return p, [p.variable(f"v{i}", values) for i in range(count)]


@pytest.mark.parametrize("count", [150, 199, 700])
def test_a_long_sum(count):
    p, v = variables(count)
    p.require(sum(v) == 5)
    assert sum(p.solve().values()) == 5
    found = p.solve(maximize=sum(v[:9]) * 10 - sum(v))
    assert (sum(found.values()), sum(list(found.values())[:9])) == (5, 5)


def test_a_sum_of_thousands_is_built_in_no_time_and_keeps_its_order():
    _, v = variables(5000)
    total = sum(v)
    assert total.depth <= DEEPEST
    assert str(total).startswith("0 + v0 + v1 + v2 + ")
    assert len(str(total)) < 2100
    assert evaluate(total, {x.name: n for n, x in enumerate(v)}) == 5000 * 4999 // 2


CHAINS = {
    "from the left": lambda a, b, n, most: a + b - n % 3,
    "from the right": lambda a, b, n, most: b - a,
    "products": lambda a, b, n, most: a * (b // 2 + 1) if n % 200 == 0 else a + b,
    "largest of sums": lambda a, b, n, most: most(a, b) if n % 500 < 250 else a - b + 1,
}


@pytest.mark.parametrize("step", CHAINS.values(), ids=CHAINS)
def test_a_chain_of_thousands_means_the_same(step):
    def chain(v, most):
        return functools.reduce(lambda a, n: step(a, v[n % 3], n, most), range(3000), v[0])

    p, v = variables(3)
    tree = chain(v, maximum)
    costs = {point: chain(point, max) for point in itertools.product(range(3), repeat=3)}
    assert [evaluate(tree, dict(zip(("v0", "v1", "v2"), (2, 0, 1), strict=True)))] == [
        costs[2, 0, 1]
    ]
    least = min(costs.values())
    assert costs[tuple(p.solve(minimize=tree).values())] == least
    p.require(tree <= least)
    assert costs[tuple(p.solve().values())] == least


def test_a_long_product_and_a_long_maximum():
    p, v = variables(300, range(1, 3))
    p.require(functools.reduce(lambda a, b: a * b, v) == 8)
    p.require(functools.reduce(maximum, v[:200]) == 1)
    found = p.solve()
    assert sorted(found.values())[-4:] == [1, 2, 2, 2]
    assert all(found[f"v{n}"] == 1 for n in range(200))


@pytest.mark.parametrize("join", ["&", "|"])
def test_hundreds_of_conditions_are_one_level(join):
    p, v = variables(300)
    conditions = [x != 1 for x in v] if join == "&" else [x // 2 == 1 for x in v]
    p.require(functools.reduce(operator.and_ if join == "&" else operator.or_, conditions))
    (requirement,) = p.constraints
    assert (len(requirement.constraint.items), requirement.constraint.depth) == (300, 1)
    assert len(requirement.name) < 400
    found = p.solve().values()
    assert 1 not in found if join == "&" else 2 in found


def test_conditions_nested_as_deep_as_allowed_are_solved():
    def nested(levels):
        p, v = variables(3)
        part = v[0] // v[1] == 2
        for n in range(levels):
            other = (v[1] // v[2] == n % 2) if n % 2 else (v[2] // v[0] <= 1)
            part = part & other if n % 2 else part | other
        p.require(part)
        return p

    p = nested(ALTERNATIONS)
    assert p.solve() in brute_force(p)
    with pytest.raises(ValueError, match=r"21 levels deep, expected at most 20: .*0 and 1"):
        nested(ALTERNATIONS + 1)


def test_what_cannot_be_regrouped_is_refused_where_it_is_written():
    _, v = variables(2, range(1000, 2000))
    tree = functools.reduce(lambda tree, n: tree % (n + v[1]), range(DEEPEST - 1), v[0])
    assert tree.depth == DEEPEST
    with pytest.raises(ValueError, match=r"more than 100 levels deep.*`v == part`.*Got: .{,320}$"):
        tree % 7


def test_the_deepest_expression_is_solved_everywhere():
    """By the table, by the search, in an alternative that divides."""
    p, v = variables(2, range(1000, 1020))
    tree = v[0]
    for n in range(DEEPEST - 1):
        tree = tree % (n + v[1]) if n % 3 else maximum(tree, v[1] - n)
    assert tree.depth == DEEPEST
    p.require((tree <= 1000) | (v[0] // (v[1] - 1000) == 7))
    expected = min(evaluate(tree, s) for s in brute_force(p))
    assert evaluate(tree, p.solve(minimize=tree)) == expected
    assert p.stats.rows
    p.require(p.variable("big", range(10**15)) >= v[0] * 10**11)
    found = p.solve(minimize=tree, node_limit=20_000)
    assert p.stats.rows == 0
    assert evaluate(tree, found) == expected


def test_what_is_shared_is_computed_once():
    """x + x of x + x ...: a tree of 10 ** 15 leaves in 50 parts."""
    p, v = variables(2)
    tree = v[0] + v[1]
    for n in range(50):
        tree = tree + tree if n % 2 else maximum(tree, tree - 1)
    (value,) = evaluator([(tree, v)])
    assert value(1, 1) == 2**26
    assert len(str(tree)) < 2100
    p.require(tree == 2**27)
    assert p.solve() == {"v0": 2, "v1": 2}
    assert p.solve(minimize=tree) == {"v0": 2, "v1": 2}
