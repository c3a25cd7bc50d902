"""The solver agrees with trying everything, on random problems.

FLASHRNN_EXAMPLES sets how many problems each test draws (default 100).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashrnn_numba.tuning import Problem, enumeration

from .strategies import brute_force, evaluate, holds, least, problems

EXAMPLES = int(os.environ.get("FLASHRNN_EXAMPLES", "100"))
thorough = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


def key(solutions):
    return sorted(tuple(sorted(s.items())) for s in solutions)


@thorough
@given(problems())
def test_all_solutions(case):
    expected = brute_force(case.problem)
    assert key(case.problem.solutions()) == key(expected)
    found = case.problem.solve()
    assert (found is not None) == bool(expected)


@thorough
@given(problems())
def test_domains_hold_all_solutions(case):
    expected = brute_force(case.problem)
    domains = case.problem.domains()
    assert domains is not None or not expected
    for variable in case.problem.variables if domains else ():
        values = list(domains[variable.name])
        assert values == sorted(set(values) & set(variable.domain))
        assert {s[variable.name] for s in expected} <= set(values)


@thorough
@given(problems(), st.data())
def test_excluded_solutions_are_gone(case, data):
    expected = brute_force(case.problem)
    gone = data.draw(st.lists(st.sampled_from(expected), max_size=3)) if expected else []
    for solution in gone:
        case.problem.exclude(solution)
    assert key(case.problem.solutions()) == key([s for s in expected if s not in gone])


@contextlib.contextmanager
def solved_by(way: str):
    """Small problems are enumerated unless none counts as small."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "search":
            patch.setattr(enumeration, "BOX", 0)
        yield


@pytest.mark.parametrize("way", ["table", "search"])
@thorough
@given(case=problems())
def test_optimum(way, case):
    with solved_by(way):
        check_optimum(case)
    if way == "search":
        assert case.problem.stats.rows == 0


def check_optimum(case):
    costs = least(brute_force(case.problem), case.objective)
    best = case.problem.solve(minimize=case.objective)
    worst = case.problem.solve(maximize=case.objective)
    if not costs:
        assert best is None
        assert worst is None
        return
    for found, cost in ((best, costs[0]), (worst, costs[-1])):
        assert found is not None
        assert evaluate(case.objective, found) == cost
        assert all(holds(r.constraint, found) for r in case.problem.constraints)


@pytest.mark.parametrize("way", ["table", "search"])
@thorough
@given(case=problems())
def test_best_few(way, case):
    costs = least(brute_force(case.problem), case.objective)
    with solved_by(way):
        found = case.problem.best(3, case.objective)
    assert [evaluate(case.objective, s) for s in found] == costs[:3]
    assert len(set(key(found))) == len(found)


@thorough
@given(problems())
def test_conflict_is_irreducible(case):
    problem = case.problem
    names = problem.conflict()
    if brute_force(problem):
        assert names == []
        return
    core = [r for r in problem.constraints if r.name in names]
    assert len(core) == len(names) > 0
    assert not brute_force(problem, core)
    for left_out in core:
        assert brute_force(problem, [r for r in core if r is not left_out])


@thorough
@given(problems(text_form=True))
def test_text_form_round_trip(case):
    expected = brute_force(case.problem)
    again = Problem.parse(case.problem.to_text())
    names = {v.name for v in again.variables}
    assert names == {v.name for v in case.problem.variables}
    assert key(again.solutions()) == key(expected)


# -- text written by hand, read by splitting ---------------------------------------------------

numbers = st.integers(0, 12).map(str)
factors = st.one_of(
    st.sampled_from("ABC"), numbers, st.builds("{} ^ {}".format, st.sampled_from("ABC"), st.just(2))
)
products = st.lists(factors, min_size=1, max_size=4).map(" * ".join)
sums = st.lists(products, min_size=1, max_size=3).map(" + ".join)
statements = st.one_of(
    st.builds("{} {} {}".format, sums, st.sampled_from(["==", "<=", "<", ">=", ">"]), sums),
    st.builds("{} % {} == 0".format, sums, sums),
    st.builds("{} | {} == {}".format, st.builds("{} <= {}".format, sums, sums), sums, sums),
)


def by_splitting(text: str, values: dict[str, int]) -> int | bool:
    """What a text without brackets means, by splitting it at the weakest sign as ConstrINT does."""
    text = text.strip()
    for sign, combine in (
        (";", lambda parts: all(parts)),
        ("|", lambda parts: any(parts)),
        ("<=", lambda parts: parts[0] <= parts[1]),
        (">=", lambda parts: parts[0] >= parts[1]),
        ("==", lambda parts: parts[0] == parts[1]),
        ("<", lambda parts: parts[0] < parts[1]),
        (">", lambda parts: parts[0] > parts[1]),
        ("%", lambda parts: parts[0] % parts[1] if parts[1] else -1),
        ("+", sum),
        ("*", math.prod),
        ("^", lambda parts: parts[0] ** parts[1]),
    ):
        if sign in text:
            return combine([by_splitting(part, values) for part in text.split(sign)])
    return values[text] if text in values else int(text)


@thorough
@given(
    st.lists(statements, min_size=1, max_size=5),
    st.tuples(*[st.lists(st.integers(1, 24), min_size=1, max_size=8, unique=True)] * 3),
)
def test_text_means_what_splitting_says(lines, lists):
    domains = dict(zip("ABC", lists, strict=True))
    text = ";\n".join(lines)
    given_lists = "; ".join(f"{name} == {values}" for name, values in domains.items())
    found = Problem.parse(f"{given_lists};\n# then\n{text}").solutions()
    expected = [
        dict(zip("ABC", point, strict=True))
        for point in itertools.product(*domains.values())
        if by_splitting(text, dict(zip("ABC", point, strict=True)))
    ]
    assert key(found) == key(expected)
