"""Random problems for Hypothesis, and the brute-force answer to them."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass

from hypothesis import strategies as st

from flashrnn_numba.tuning import Problem, maximum, minimum
from flashrnn_numba.tuning.expressions import Comparison, Constraint, Expression, as_expression

COMPARISONS = ["==", "!=", "<", "<=", ">", ">="]


def combine(op: str, a: Expression, b: Expression) -> Expression:
    """`a op b`, with the exponent of ** kept small."""
    if op in ("min", "max"):
        return (minimum if op == "min" else maximum)(a, b)
    if op == "**":
        return a ** (minimum(b, 4) if isinstance(b, Expression) and b.op != "const" else 2)
    return {
        "+": lambda: a + b,
        "-": lambda: a - b,
        "*": lambda: a * b,
        "//": lambda: a // b,
        "%": lambda: a % b,
    }[op]()


def expressions(leaves: list[Expression], operators: list[str], constants: st.SearchStrategy):
    """Random trees over `leaves`."""
    leaf = st.sampled_from(leaves) | constants.map(as_expression)
    return st.recursive(
        st.sampled_from(leaves) | leaf,
        lambda inner: st.builds(combine, st.sampled_from(operators), inner, inner),
        max_leaves=5,
    )


def constraints(expression: st.SearchStrategy, combined: bool = True):
    """Random comparisons (products and divisibility often), memberships, and, or."""
    small = st.integers(0, 40)
    plain = st.builds(Comparison, st.sampled_from(COMPARISONS), expression, expression)
    bound = st.builds(
        Comparison, st.sampled_from(["<=", "==", ">="]), expression, small.map(as_expression)
    )
    divides = st.builds(
        lambda a, b: Comparison("==", a % b, as_expression(0)), expression, expression
    )
    member = st.builds(
        lambda a, values: a.isin(values), expression, st.lists(small, min_size=1, max_size=4)
    )
    single = plain | bound | divides | member
    if not combined:
        return single | st.lists(plain | bound | divides, min_size=2, max_size=2).map(
            lambda pair: pair[0] | pair[1]
        )
    return st.recursive(
        single,
        lambda inner: (
            st.builds(lambda a, b: a & b, inner, inner)
            | st.builds(lambda a, b: a | b, inner, inner)
        ),
        max_leaves=3,
    )


@dataclass
class Case:
    problem: Problem
    objective: Expression


ALL_OPERATORS = ["+", "-", "*", "*", "//", "%", "**", "min", "max"]
TEXT_OPERATORS = ["+", "*", "*", "%", "-", "//", "**"]


@st.composite
def problems(draw, text_form: bool = False, lowest: int = -6) -> Case:
    """A problem of 1 to 4 variables whose box has at most 1500 points."""
    problem = Problem()
    positive = text_form or draw(st.booleans())
    low = 1 if positive else lowest
    variables: list[Expression] = []
    points = 1
    for n in range(draw(st.integers(1, 4))):
        most = max(1, min(24, 1500 // points))
        if draw(st.booleans()):
            start = draw(st.integers(low, 8))
            values = range(start, start + draw(st.integers(1, most)), draw(st.integers(1, 3)))
        else:
            values = draw(
                st.lists(st.integers(low, 40), min_size=1, max_size=min(most, 8), unique=True)
            )
        points *= len(values)
        prefer = draw(st.sampled_from(["smallest", "largest"]))
        variables.append(problem.variable(f"v{n}", values, prefer=prefer))
    constants = st.integers(0 if positive else -4, 20)
    operators = TEXT_OPERATORS if text_form else ALL_OPERATORS
    expression = expressions(variables, operators, constants)
    if text_form:
        # A power of a constant only, as the text form has it.
        expression = expression.filter(lambda tree: "min" not in str(tree))
    for constraint in draw(
        st.lists(constraints(expression, combined=not text_form), min_size=0, max_size=5)
    ):
        problem.require(constraint)
    return Case(problem, draw(expression))


def evaluate(tree: Expression, values: dict[str, int]) -> int:
    """The expression's value, by Python's own operators."""
    if tree.op == "var":
        return values[tree.name]
    if tree.op == "const":
        return tree.value
    args = [evaluate(arg, values) for arg in tree.args]
    if tree.op in ("min", "max"):
        return (min if tree.op == "min" else max)(args)
    if tree.op == "**" and args[1] < 0:
        raise ZeroDivisionError
    return {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "//": lambda a, b: a // b,
        "%": lambda a, b: a % b,
        "**": lambda a, b: a**b,
    }[tree.op](*args)


def holds(constraint: Constraint, values: dict[str, int]) -> bool:
    """Whether the constraint holds; each comparison is false where it divides by zero."""
    kind = type(constraint).__name__
    if kind == "Truth":
        return constraint.value
    if kind == "All":
        return all(holds(item, values) for item in constraint.items)
    if kind == "Any":
        return any(holds(item, values) for item in constraint.items)
    try:
        if kind == "Member":
            return evaluate(constraint.expression, values) in constraint.values
        left, right = evaluate(constraint.left, values), evaluate(constraint.right, values)
    except ZeroDivisionError:
        return False
    return {
        "==": left == right,
        "!=": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
    }[constraint.op]


def box(problem: Problem):
    """Every assignment of the variables."""
    names = [v.name for v in problem.variables]
    for values in itertools.product(*[v.domain for v in problem.variables]):
        yield dict(zip(names, values, strict=True))


def brute_force(problem: Problem, requirements=None) -> list[dict[str, int]]:
    """All solutions, by trying the whole box."""
    wanted = problem.constraints if requirements is None else requirements
    return [values for values in box(problem) if all(holds(r.constraint, values) for r in wanted)]


def least(solutions: list[dict[str, int]], objective: Expression) -> list[int]:
    """The objective's values at the solutions where it has one, ascending."""
    costs = []
    for values in solutions:
        with contextlib.suppress(ZeroDivisionError):
            costs.append(evaluate(objective, values))
    return sorted(costs)
