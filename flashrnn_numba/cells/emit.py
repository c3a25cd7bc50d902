"""Source text from expressions: NumPy (whole arrays) and scalar code (numba on CPU and GPU).

Both name the same functions (`sigmoid`, `softplus`, ...), one line per node; what a name means is
decided by the namespace in which the text is executed. Scalar text wraps constants in `real(...)`,
which that namespace binds to float32 or float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from .expression import Expression, topological

Dialect = Literal["numpy", "scalar"]

_INFIX = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "less": "<",
    "less_equal": "<=",
    "equal": "==",
    "not_equal": "!=",
}


def assignments(
    outputs: Sequence[Expression], name_input: Callable[[str, str], str], dialect: Dialect
) -> tuple[list[str], list[str]]:
    """Lines that compute the outputs, and the name or literal of each output.

    name_input(kind, name) gives the text that reads an input ("gate", "state", "cotangent").
    """
    names: dict[Expression, str] = {}
    lines: list[str] = []
    for node in topological(outputs):
        if node.operation == "constant":
            names[node] = _constant(node.value, dialect)
        elif node.operation == "input":
            names[node] = name_input(*node.value)
        elif node.operation == "stop_gradient":
            names[node] = names[node.arguments[0]]
        else:
            names[node] = f"t{len(lines)}"
            text = _operation(node, [names[a] for a in node.arguments], dialect)
            lines.append(f"{names[node]} = {text}")
    return lines, [names[output] for output in outputs]


def _constant(value: float, dialect: Dialect) -> str:
    text = repr(value) if abs(value) < float("inf") else f'float("{value}")'
    if dialect == "numpy":
        return f"({text})" if value < 0 else text
    return f"real({text})"


def _operation(node: Expression, a: list[str], dialect: Dialect) -> str:
    operation = node.operation
    if operation in _INFIX:
        return f"{a[0]} {_INFIX[operation]} {a[1]}"
    if operation == "negative":
        return f"-{a[0]}"
    if operation == "where":
        return f"{a[1]} if {a[0]} else {a[2]}" if dialect == "scalar" else f"where({', '.join(a)})"
    if operation == "power":
        return _power(a[0], node.value, dialect)
    return f"{operation}({', '.join(a)})"


def _power(base: str, exponent: float, dialect: Dialect) -> str:
    """Small whole exponents as products (exact at negative bases, fast), others as power()."""
    if exponent.is_integer() and 2 < abs(exponent) <= 8:
        product = " * ".join([base] * int(abs(exponent)))
        return product if exponent > 0 else f"{_constant(1.0, dialect)} / ({product})"
    if exponent == -1:
        return f"{_constant(1.0, dialect)} / {base}"
    if exponent == -2:
        return f"{_constant(1.0, dialect)} / ({base} * {base})"
    return f"power({base}, {_constant(exponent, dialect)})"


def function(
    name: str,
    parameters: str,
    outputs: Sequence[Expression],
    read: Callable[[str, str], str],
    write: Callable[[int, str], str],
    dialect: Dialect,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    indent: str = "    ",
) -> str:
    """`def name(parameters):` that reads inputs, computes, and writes output i as write(i, text).

    Inputs are read once, at the top. `before` and `after` stand around the computation; the
    computation is indented by `indent`.
    """
    used = {n.value for n in topological(outputs) if n.operation == "input"}
    local = {value: f"{value[0][0]}_{value[1]}" for value in used}
    reads = [f"{local[v]} = {read(*v)}" for v in sorted(used, key=lambda v: local[v])]
    lines, results = assignments(outputs, lambda kind, n: local[kind, n], dialect)
    body = [*reads, *lines, *(write(i, text) for i, text in enumerate(results))]
    return "\n".join(
        [
            f"def {name}({parameters}):",
            *(f"    {line}" for line in before),
            *(f"{indent}{line}" for line in body),
            *(f"    {line}" for line in after),
            "",
        ]
    )
