"""Hand cases of the solver: answers, cost of the search, limits, conflicts, error messages."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from flashrnn_numba.tuning import Problem, SearchLimit, maximum, minimum
from flashrnn_numba.tuning.store import divisors

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.solver import flashrnn_lstm, tiling

LARGE = range(1, (1 << 30) + 1)


def test_example_of_the_design():
    p = Problem()
    tile, count = p.variable("tile", [8, 16, 32]), p.variable("count", range(1, 65))
    p.require(tile * count == 512)
    p.require(512 % (tile * 4) == 0)
    assert p.solve() in [{"tile": t, "count": 512 // t} for t in (8, 16, 32)]
    # 8 * 3 + 64 = 88, 16 * 3 + 32 = 80, 32 * 3 + 16 = 112
    assert p.solve(minimize=tile * 3 + count) == {"tile": 16, "count": 32}
    assert p.solve(maximize=tile * 3 + count) == {"tile": 32, "count": 16}
    assert len(list(p.solutions())) == 3
    assert p.stats.nodes > 0
    assert p.stats.solutions == 3
    assert p.stats.seconds > 0


def test_divisibility_leaves_divisors_without_search():
    p = Problem()
    tile = p.variable("tile", LARGE)
    p.require(512 % (tile * 4) == 0)
    found = sorted(s["tile"] for s in p.solutions())
    assert found == [1, 2, 4, 8, 16, 32, 64, 128]
    assert p.stats.nodes == 8  # one per divisor: nothing was tried in vain
    assert p.stats.failures == 0


def test_product_of_large_ranges_is_factored():
    p = Problem()
    a, b, c = (p.variable(name, LARGE) for name in "abc")
    p.require(a * b * c == 768 * 1024)
    n = len(list(p.solutions()))
    expected = sum(
        1 for x, y in itertools.product(divisors(768 * 1024), repeat=2) if 768 * 1024 % (x * y) == 0
    )
    assert n == expected
    assert p.stats.failures <= n


def test_creeping_bounds_over_large_ranges():
    p = Problem()
    a, b = p.variable("a", range(10**6)), p.variable("b", range(10**6))
    c = p.variable("c", range(10**6))
    p.require((a < b) & (b < c))
    assert p.solve() is not None
    p.require(c < a)  # around the circle each bound moves by one: refuted by halving instead
    assert p.solve() is None
    assert p.stats.propagations < 4 * 10**6


def test_contradicting_sums_are_seen_at_once():
    p = Problem()
    a, b = p.variable("a", range(10**9)), p.variable("b", range(10**9))
    p.require(a < b)
    p.require((b <= a) | (a == 5))  # an alternative contradicts nothing
    assert p.solve()["a"] == 5
    p.require(b - a <= 0)
    assert p.solve() is None
    assert p.stats.propagations < 50


def test_large_ranges_are_not_spelled_out():
    p = Problem()
    x = p.variable("x", range(0, 10**12, 16))
    y = p.variable("y", range(10**12))
    p.require(x % 24 == 0)
    p.require(y == x + 5)
    p.require(x >= 10**9)
    assert p.solve(minimize=x) == {"x": 1000000032, "y": 1000000037}
    assert p.stats.seconds < 0.5


def test_bounds_are_cut_from_domains_before_anything_else():
    p = Problem()
    x = p.variable("x", range(-(10**12), 10**12, 5))
    y = p.variable("y", [3, 1, 4, 15, 9, 2, 6])
    for constraint in (x > -20, x <= 17, x != 5, y > 3, y < 15, y.isin([1, 6, 4, 8]), x < y):
        p.require(constraint)
    expected = [(x, y) for x in range(-15, 20, 5) for y in (4, 6) if x != 5 and x < y]
    assert sorted(tuple(s.values()) for s in p.solutions()) == expected
    p.require(y == 4)
    assert {s["y"] for s in p.solutions()} == {4}
    p.require(y > 5)
    assert p.solve() is None
    assert p.stats.propagations == 0
    assert len(p.conflict()) == 2


def test_python_semantics_of_division():
    p = Problem()
    a, b = p.variable("a", range(-7, 8)), p.variable("b", range(-3, 4))
    q, r = p.variable("q", range(-10, 11)), p.variable("r", range(-10, 11))
    p.require((a // b == q) & (a % b == r))
    found = {(s["a"], s["b"], s["q"], s["r"]) for s in p.solutions()}
    expected = {(a, b, *divmod(a, b)) for a in range(-7, 8) for b in range(-3, 4) if b}
    assert found == expected


def test_division_by_zero_makes_only_its_own_alternative_false():
    p = Problem()
    a, b = p.variable("a", range(4)), p.variable("b", range(4))
    p.require((a // b == 1) | (a == 2))
    found = {(s["a"], s["b"]) for s in p.solutions()}
    assert found == {(a, b) for a in range(4) for b in range(4) if (b and a // b == 1) or a == 2}


def test_objective_that_divides_by_zero_does_not_count():
    p = Problem()
    a = p.variable("a", range(3))
    assert p.solve(minimize=10 // a) == {"a": 2}
    assert p.solve(maximize=10 // a) == {"a": 1}


def test_minimum_maximum_power_and_membership():
    p = Problem()
    a, b = p.variable("a", range(1, 9)), p.variable("b", range(1, 9))
    p.require(maximum(a, b, 3) - minimum(a, b) == 2)
    p.require((2**a).isin([8, 32, 128]))
    p.require(b**2 <= 40)
    found = {(s["a"], s["b"]) for s in p.solutions()}
    assert found == {
        (a, b)
        for a in (3, 5, 7)
        for b in range(1, 9)
        if max(a, b, 3) - min(a, b) == 2 and b * b <= 40
    }


def test_order_of_values_follows_preference():
    p = Problem()
    p.variable("a", range(5), prefer="largest")
    p.variable("b", range(5))
    assert p.solve() == {"a": 4, "b": 0}


def test_solutions_seen_can_be_excluded():
    p = Problem.parse("A == [1, 2]; B == [3, 4]")
    seen = []
    while (found := p.solve()) is not None:
        seen.append(found)
        p.exclude(found)
    assert seen == [{"A": a, "B": b} for a in (1, 2) for b in (3, 4)]
    assert p.constraints[-1].name == "(A != 2) | (B != 4)"
    q = Problem.parse("A == [1, 2]; B == [3, 4]")
    q.exclude({"A": 1}, name="seen")
    assert [s["A"] for s in q.solutions()] == [2, 2]
    again = Problem.parse(p.to_text())  # exclusions are part of the text
    assert again.solve() is None
    with pytest.raises(ValueError, match=r"solution: no variable 'C', expected some of A, B"):
        q.exclude({"A": 1, "C": 3})
    q.exclude({})  # nothing can be different from nothing
    assert q.solve() is None


def test_domains_are_what_propagation_leaves():
    p = Problem.parse("512 % A * 4 == 0; A * B == 512; B <= 100; C >= 7; C <= 9")
    found = p.domains()
    assert set(found["A"]) == {8, 16, 32, 64, 128}
    assert set(found["B"]) == {4, 8, 16, 32, 64}
    assert found["C"] == range(7, 10)
    assert (p.stats.nodes, p.stats.rows) == (0, 0)
    assert p.stats.propagations > 0
    p.require(p.variables[0] * 3 == p.variables[2])
    assert p.domains() is None
    assert Problem().domains() == {}
    large = Problem()
    large.variable("x", range(0, 10**12, 16))
    assert large.domains() == {"x": range(0, 10**12, 16)}
    with pytest.raises(SearchLimit, match=r"time_limit=0 reached"):
        pigeons(5).domains(time_limit=0)


def test_best_few_are_the_cheapest_in_order():
    p = Problem()
    a, b = p.variable("a", range(1, 30)), p.variable("b", range(1, 30))
    p.require(a * b >= 100)
    costs = sorted(3 * x + 2 * y for x in range(1, 30) for y in range(1, 30) if x * y >= 100)
    found = p.best(5, 3 * a + 2 * b)
    assert [3 * s["a"] + 2 * s["b"] for s in found] == costs[:5]


def test_a_cost_that_a_constraint_bounds_is_proven_at_once():
    p = Problem()
    v = [p.variable(f"v{n}", range(100)) for n in range(10)]
    p.require(sum(v[1:], v[0]) * 2 >= 999)
    p.require(v[0] * 3 - v[1] * 6 <= 20)
    assert sum(p.solve(minimize=sum(v)).values()) == 500
    assert p.stats.nodes < 1000
    found = p.solve(maximize=v[0] - v[1] * 2)
    assert found["v0"] - found["v1"] * 2 == 6
    assert p.stats.nodes < 1000


def test_numpy_integers_mix_with_expressions():
    p = Problem()
    a = p.variable("a", np.arange(1, 9))
    p.require(np.int64(4) * a == np.int32(24))
    p.require(np.int64(12) % a == 0)
    p.require(np.bool_(True))
    assert p.solve() == {"a": 6}
    assert type(p.solve()["a"]) is int


def test_solutions_are_lazy():
    p = Problem()
    for n in range(12):
        p.variable(f"v{n}", range(100))
    first = list(itertools.islice(p.solutions(), 5))
    assert len({tuple(s.values()) for s in first}) == 5


def test_empty_problem_has_one_solution():
    assert Problem().solve() == {}
    assert list(Problem().solutions()) == [{}]


# -- limits and conflicts ------------------------------------------------------------------------


def pigeons(n: int) -> Problem:
    """n pigeons in n - 1 holes: no solution, and hard to refute by propagation."""
    p = Problem()
    holes = [p.variable(f"v{i}", range(n - 1)) for i in range(n)]
    for a, b in itertools.combinations(holes, 2):
        p.require(a != b)
    return p


def test_node_limit_raises_a_named_error():
    p = pigeons(9)
    with pytest.raises(SearchLimit, match=r"node_limit=50 reached after 51 nodes") as caught:
        p.solve(node_limit=50)
    assert caught.value.best is None
    assert caught.value.stats.nodes == 51


def test_time_limit_raises_a_named_error():
    with pytest.raises(SearchLimit, match=r"time_limit=0.02 reached"):
        pigeons(12).solve(time_limit=0.02)


def test_limit_hands_over_the_best_so_far():
    p = Problem()
    v = [p.variable(f"v{i}", range(20)) for i in range(6)]
    p.require(sum(v[1:], v[0]) % 7 == 3)
    with pytest.raises(SearchLimit) as caught:
        p.solve(maximize=sum((a * b) % 11 for a, b in itertools.pairwise(v)), node_limit=40)
    assert sum(caught.value.best.values()) % 7 == 3


def test_conflict_names_the_constraints():
    p = Problem()
    tile, warps = p.variable("tile", [8, 16, 32, 64]), p.variable("warps", range(1, 33))
    p.require(warps <= 16, name="threads")
    p.require(tile * warps >= 1500, name="covers", unit="rows")
    p.require(tile % 8 == 0, name="fragment")
    p.require(tile * 4096 <= 300_000, name="shared memory", unit="bytes")
    assert sorted(p.conflict()) == ["covers", "threads"]
    assert p.constraints[1].unit == "rows"


def test_conflict_is_empty_where_there_is_a_solution():
    p = Problem()
    p.require(p.variable("a", range(3)) > 1)
    assert p.conflict() == []


def test_conflict_that_needs_search():
    p = pigeons(5)
    names = p.conflict()
    assert len(names) == 10  # every pair of pigeons is needed
    p.require(p.variables[0] >= 0, name="idle")
    assert "idle" not in p.conflict()


def test_conflict_respects_its_limit():
    with pytest.raises(SearchLimit, match="node_limit=10"):
        pigeons(9).conflict(node_limit=10)


def test_plain_false_is_named():
    p = Problem()
    a = p.variable("a", range(3))
    p.require(a > 0)
    p.require(1 < 2, name="fine")
    p.require(48 * 1024 > 99 * 1024, name="shared memory")
    assert p.solve() is None
    assert p.conflict() == ["shared memory"]


def test_sides_of_a_requirement():
    p = Problem()
    a = p.variable("a", range(10))
    p.require(a * 3 <= a + 8, name="limit", unit="bytes")
    assert p.constraints[0].sides({"a": 4}) == (12, "<=", 12)


def test_names_that_repeat_are_told_apart():
    p = Problem()
    a = p.variable("a", range(10))
    p.require(a > 3)
    p.require(a > 3)
    p.require(a < 2)
    assert [r.name for r in p.constraints] == ["a > 3", "a > 3 (2)", "a < 2"]
    assert len(p.conflict()) == 2


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "kind", "message"),
    [
        (lambda p, a: bool(a < 3), TypeError, r"no truth value.*\(a < b\) & \(b < c\)"),
        (lambda p, a: p.require(1 < a < 3), TypeError, r"no truth value"),
        (lambda p, a: bool(a + 1), TypeError, r"no truth value.*a \+ 1"),
        (lambda p, a: min(a, 3), TypeError, r"minimum/maximum"),
        (lambda p, a: a * 1.5, TypeError, r"got 1.5 of type float.*scale"),
        (lambda p, a: a / 2, TypeError, r"write a // 2"),
        (lambda p, a: a**-1, ValueError, r"got -1, expected an integer >= 0"),
        (lambda p, a: (a < 3) + 1, TypeError, None),
        (lambda p, a: a + (a < 3), TypeError, r"got the constraint `a < 3`"),
        (lambda p, a: p.require(a), TypeError, r"expected a constraint, got a .*compare it"),
        (lambda p, a: p.require(3), TypeError, r"expected a constraint, got 3 of type int"),
        (lambda p, a: p.require(a < 3, name=3), TypeError, r"name: expected a str or None, got 3"),
        (lambda p, a: a == 3 & a, TypeError, r"& joins.*`a`.*brackets, `\(x == 3\) & \(y == 4\)`"),
        (lambda p, a: a < 3 | a + 1, TypeError, r"\| joins.*`a \+ 1`.*\(x == 3\) \| \(y == 4\)"),
        (lambda p, a: a & (a < 3), TypeError, r"& joins.*brackets"),
        (lambda p, a: (a < 3) & a, TypeError, r"&: expected a constraint, got a .*in brackets"),
        (lambda p, a: ~(a == 3), TypeError, r"no ~.*`!=` for `==`.*Got: ~\(a == 3\)"),
        (lambda p, a: ~a, TypeError, r"no ~.*`!=`"),
        (lambda p, a: a ^ 2, TypeError, r"written `a \*\* 2`"),
        (
            lambda p, a: p.require((a > 3) == (a < 5)),
            TypeError,
            r"cannot be compared.*both or none",
        ),
        (lambda p, a: p.require((a > 3) != True), TypeError, r"cannot be compared"),  # noqa: E712
        (lambda p, a: p.variable("a", [1]), ValueError, r"'a' exists already"),
        (lambda p, a: p.variable("", [1]), TypeError, r"non-empty str"),
        (lambda p, a: p.variable("b", []), ValueError, r"'b'.*at least one value"),
        (lambda p, a: p.variable("b", 5), TypeError, r"'b'.*got 5; a fixed value is a list of one"),
        (lambda p, a: p.variable("b", [1.5]), TypeError, r"list of integers"),
        (lambda p, a: p.variable("b", [1], prefer="big"), ValueError, r"'largest', got 'big'"),
        (lambda p, a: p.solve(minimize=a, maximize=a), ValueError, r"at most one"),
        (lambda p, a: p.solve(minimize=1.5), TypeError, r"got 1.5"),
        (lambda p, a: p.solve(node_limit=-1), ValueError, r"node_limit.*got -1"),
        (lambda p, a: p.best(0, a), ValueError, r"count: expected at least 1, got 0"),
        (lambda p, a: p.require(Problem().variable("x", [1]) < a), ValueError, r"another Problem"),
        (lambda p, a: minimum(a), TypeError, r"two or more"),
        (lambda p, a: a.isin([]), ValueError, r"one or more integers"),
    ],
)
def test_error_says_what_to_do(do, kind, message):
    p = Problem()
    a = p.variable("a", range(10))
    with pytest.raises(kind, match=message):
        do(p, a)


def test_power_too_long_to_compute():
    p = Problem()
    a, n = p.variable("a", LARGE), p.variable("n", LARGE)
    p.require(a**n == 8)
    with pytest.raises(ValueError, match=r"a \*\* n.*smaller domain"):
        p.solve()


# -- cost of the search: counted, not timed --------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 12), (256, 3), (768, 1), (1024, 1)])
def test_flashrnn_problem_is_solved_in_few_steps(shape):
    p, cost = flashrnn_lstm(*shape)
    assert len(p.variables) >= 28
    found = p.solve()
    assert p.stats.nodes < 100
    assert p.stats.seconds < 1.0  # 5 ms on the machine of benchmarks/results
    for requirement in p.constraints:
        sides = requirement.sides(found)
        assert sides is not None
        assert eval(f"{sides[0]} {sides[1]} {sides[2]}")
    p.solve(minimize=cost)
    assert p.stats.nodes < 3000


@pytest.mark.parametrize(
    "shape", [(64, 12, 16), (256, 3, 16), (512, 1, 16), (768, 1, 16), (64, 12, 128)]
)
def test_tiling_problem_is_solved_in_few_steps(shape):
    p, cost = tiling(*shape)
    assert p.solve(minimize=cost) is not None
    assert p.stats.nodes < 1000
    assert p.stats.propagations < 20000


def test_tiling_that_does_not_fit_names_what_binds():
    p, cost = tiling(1024, 1, 16)
    assert p.solve(minimize=cost) is None
    names = p.conflict()
    assert 0 < len(names) < 10


# -- against CP-SAT ------------------------------------------------------------------------------


def linear_cp_sat(seed: int):
    """A random problem with products, divisibility and a linear cost, twice: ours and CP-SAT's."""
    cp_model = pytest.importorskip("ortools.sat.python.cp_model")
    rng = np.random.default_rng(seed)
    ours, theirs = Problem(), cp_model.CpModel()
    n = 9
    domains = [
        sorted(set(rng.integers(1, 200, size=rng.integers(5, 30)).tolist())) for _ in range(n)
    ]
    v = [ours.variable(f"v{i}", d) for i, d in enumerate(domains)]
    w = [
        theirs.new_int_var_from_domain(cp_model.Domain.from_values(d), f"v{i}")
        for i, d in enumerate(domains)
    ]

    def product(i, j):
        z = theirs.new_int_var(0, 200 * 200, "")
        theirs.add_multiplication_equality(z, [w[i], w[j]])
        return z

    for _ in range(6):
        i, j, k = rng.choice(n, size=3, replace=False)
        match rng.integers(4):
            case 0:
                bound = int(rng.integers(500, 20000))
                ours.require(v[i] * v[j] <= bound)
                theirs.add(product(i, j) <= bound)
            case 1:
                a, b, c = (int(x) for x in rng.integers(1, 9, size=3))
                ours.require(a * v[i] + b * v[j] >= c * v[k])
                theirs.add(a * w[i] + b * w[j] >= c * w[k])
            case 2:
                m = int(rng.integers(2, 5))
                ours.require((v[i] + v[j]) % m == 0)
                t = theirs.new_int_var(0, 1000, "")
                theirs.add(w[i] + w[j] == m * t)
            case _:
                ours.require(v[i] * v[j] >= 3 * v[k])
                theirs.add(product(i, j) >= 3 * w[k])
    costs = [int(c) for c in rng.integers(-5, 10, size=n)]
    cost = sum(c * x for c, x in zip(costs, v, strict=True))
    theirs.minimize(sum(c * x for c, x in zip(costs, w, strict=True)))
    return cp_model, ours, theirs, cost, costs


@pytest.mark.parametrize("seed", range(25))
def test_optimum_agrees_with_cp_sat(seed):
    cp_model, ours, theirs, cost, costs = linear_cp_sat(seed)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    status = solver.solve(theirs)
    found = ours.solve(minimize=cost, node_limit=100_000)
    if found is None:
        assert status == cp_model.INFEASIBLE
        return
    assert status == cp_model.OPTIMAL
    assert sum(c * x for c, x in zip(costs, found.values(), strict=True)) == round(
        solver.objective_value
    )
