"""The solver agrees with trying everything, on random problems.

FLASHRNN_EXAMPLES sets how many problems each test draws (default 150).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings

from flashrnn_numba.tuning import Problem

from .strategies import brute_force, evaluate, holds, least, problems

EXAMPLES = int(os.environ.get("FLASHRNN_EXAMPLES", "150"))
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
def test_optimum(case):
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


@thorough
@given(problems())
def test_best_few(case):
    costs = least(brute_force(case.problem), case.objective)
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
