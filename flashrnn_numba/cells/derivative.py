"""Reverse-mode differentiation of cell expressions: expressions in, expressions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .expression import (
    Expression,
    add,
    compare,
    constant,
    divide,
    is_constant,
    multiply,
    negative,
    power,
    select,
    subtract,
    topological,
    unary,
)


def gradients(
    outputs: Sequence[Expression],
    cotangents: Sequence[Expression],
    inputs: Sequence[Expression],
) -> list[Expression]:
    """d(sum_i cotangent_i * output_i) / d input, one expression for each input."""
    zero = constant(0)
    nodes = list(topological(outputs))
    adjoint: dict[Expression, Expression] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        adjoint[output] = _sum(adjoint.get(output, zero), cotangent)
    for node in reversed(nodes):
        d = adjoint.get(node, zero)
        if is_constant(d, 0):
            continue
        for argument, contribution in _pull_back(node, d):
            adjoint[argument] = _sum(adjoint.get(argument, zero), contribution)
    return [adjoint.get(x, zero) for x in inputs]


def _pull_back(y: Expression, d: Expression) -> Sequence[tuple[Expression, Expression]]:
    """What each argument of y receives when y receives d."""
    a = y.arguments
    zero, one = constant(0), constant(1)
    match y.operation:
        case "add":
            return (a[0], d), (a[1], d)
        case "subtract":
            return (a[0], d), (a[1], _minus(d))
        case "negative":
            return ((a[0], _minus(d)),)
        case "multiply":
            return (a[0], _times(d, a[1])), (a[1], _times(d, a[0]))
        case "divide":
            through = _over(d, a[1])
            return (a[0], through), (a[1], _minus(_times(through, y)))
        case "power":
            return ((a[0], _times(d, multiply(constant(y.value), power(a[0], y.value - 1)))),)
        case "sigmoid":
            return ((a[0], _times(d, multiply(y, subtract(one, y)))),)
        case "tanh":
            return ((a[0], _times(d, subtract(one, multiply(y, y)))),)
        case "exp":
            return ((a[0], _times(d, y)),)
        case "log":
            return ((a[0], _over(d, a[0])),)
        case "sqrt":
            return ((a[0], _over(_times(d, constant(0.5)), y)),)
        case "softplus":
            return ((a[0], _times(d, unary("sigmoid", a[0]))),)
        case "log_sigmoid":
            # sigmoid(-x), not 1 - sigmoid(x), which cancels at large x
            return ((a[0], _times(d, unary("sigmoid", negative(a[0])))),)
        case "relu":
            return ((a[0], select(compare("less", zero, a[0]), d, zero)),)
        case "abs":
            positive, below = compare("less", zero, a[0]), compare("less", a[0], zero)
            return ((a[0], select(positive, d, select(below, _minus(d), zero))),)
        case "maximum" | "minimum":
            first, second = a if y.operation == "minimum" else (a[1], a[0])
            takes_first_argument = compare("less_equal", first, second)
            return (
                (a[0], select(takes_first_argument, d, zero)),
                (a[1], select(takes_first_argument, zero, d)),
            )
        case "where":
            return (a[1], select(a[0], d, zero)), (a[2], select(a[0], zero, d))
        case _:  # inputs, constants, comparisons and stop_gradient pass nothing on
            return ()


# A branch not taken passes no gradient on, not even where the derivative that comes next is
# infinite (0 times infinity is nan). So a mask where(c, d, 0) stays outside of what follows it,
# where(c, d * e, 0), and a sum of several masks is tested for 0.


def _is_mask(d: Expression) -> bool:
    return d.operation == "where" and any(is_constant(x, 0) for x in d.arguments[1:])


def _may_be_masked(d: Expression) -> bool:
    """Whether masks in d can make it 0: the factors of a product are not looked into."""
    a = d.arguments
    match d.operation:
        case "negative":
            return _may_be_masked(a[0])
        case "add" | "subtract":
            return _may_be_masked(a[0]) and _may_be_masked(a[1])
        case "where":
            return _is_mask(d) or _may_be_masked(a[1]) or _may_be_masked(a[2])
        case _:
            return False


def _times(d: Expression, factor: Expression) -> Expression:
    return _outside_masks(d, lambda x: multiply(x, factor))


def _over(d: Expression, divisor: Expression) -> Expression:
    return _outside_masks(d, lambda x: divide(x, divisor))


def _minus(d: Expression) -> Expression:
    if _is_mask(d):
        condition, a, b = d.arguments
        return select(condition, _minus(a), _minus(b))
    return negative(d)


def _outside_masks(d: Expression, scale: Callable[[Expression], Expression]) -> Expression:
    if _is_mask(d):
        condition, a, b = d.arguments
        return select(condition, _outside_masks(a, scale), _outside_masks(b, scale))
    if _may_be_masked(d):
        zero = constant(0)
        return select(compare("equal", d, zero), zero, scale(d))
    return scale(d)


def _sum(x: Expression, y: Expression) -> Expression:
    if _is_mask(x) and _is_mask(y) and x.arguments[0] is y.arguments[0]:
        condition, a, b = x.arguments
        return select(condition, _sum(a, y.arguments[1]), _sum(b, y.arguments[2]))
    return add(x, y)
