"""The text form of FlashRNN's solver ConstrINT: reading it into a `Problem`, and writing it.

    # comment to the end of the line
    TILE == [8, 16, 32];
    TILE * COUNT == HEAD_DIM ^ 2;      # + * ^, lists, == <= < >= > !=
    HEAD_DIM % TILE * 4 == 0;          # % binds weaker than * and +: HEAD_DIM % (TILE * 4)
    COUNT <= 4 | COUNT == 64           # `|` (or `||`) between comparisons: either

Statements end with `;` and may run over several lines. A variable is whatever is not a number;
its domain is 1 .. 2 ** 30 (ConstrINT's) and shrinks to its list. A list stands alone on one side
of a comparison, which then holds if it holds for one of the values. `-` and `//` are read too
(ConstrINT has neither). The rules are those of
https://github.com/NX-AI/flashrnn/blob/main/flashrnn/autotune/constrint.py (the grammar in its
header); one differs: ConstrINT drops brackets, so `A * (B + C)` is `A * B + C` there. Here
brackets group. FlashRNN's own problems use them only where it makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from .expressions import (
    All,
    Any,
    Comparison,
    Constraint,
    Expression,
    Member,
    Variable,
    as_expression,
)

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["DOMAIN", "read", "write"]

DOMAIN = range(1, (1 << 30) + 1)

_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_]\w*)|(==|!=|<=|>=|\|\||//|[-<>%+*^()\[\],|]))")
_COMPARE = ("==", "!=", "<=", "<", ">=", ">")


def read(text: str, problem: Problem) -> None:
    """Add the variables and constraints of `text` to `problem`.

    Raises ValueError with the statement and the place where it cannot be read.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: expected a str, got {type(text).__name__}")
    bare = re.sub(r"#[^\n]*", "", text)
    variables: dict[str, Variable] = {}
    for statement in bare.split(";"):
        squeezed = " ".join(statement.split())
        if squeezed:
            problem.require(_Reader(squeezed, problem, variables).statement(), name=squeezed)


class _Reader:
    """A recursive-descent reader of one statement."""

    def __init__(self, text: str, problem: Problem, variables: dict[str, Variable]) -> None:
        self.text = text
        self.problem = problem
        self.variables = variables
        self.tokens: list[tuple[str, int]] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.error(at + len(text[at:]) - len(text[at:].lstrip()), "a known sign")
            self.tokens.append((match[0].strip(), match.end() - len(match[0].strip())))
            at = match.end()
        self.at = 0

    def error(self, place: int, expected: str) -> ValueError:
        found = repr(self.text[place : place + 12]) if place < len(self.text) else "the end"
        return ValueError(
            f"cannot read the statement `{self.text}`: at character {place + 1} expected "
            f"{expected}, found {found}"
        )

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, *signs: str) -> str:
        """The next token if it is one of `signs`, else an empty string."""
        token = self.peek()
        if token and token in signs:
            self.at += 1
            return token
        return ""

    def expected(self, what: str) -> ValueError:
        at_end = self.at >= len(self.tokens)
        return self.error(len(self.text) if at_end else self.tokens[self.at][1], what)

    def statement(self) -> Constraint:
        parts = [self.comparison()]
        while self.take("|", "||"):
            if self.peek():
                parts.append(self.comparison())
        if self.peek():
            raise self.expected("`;`, `|` or an operator")
        return parts[0] if len(parts) == 1 else Any(parts)

    def comparison(self) -> Constraint:
        left = self.side()
        op = self.take(*_COMPARE)
        if not op:
            raise self.expected("a comparison (" + " ".join(_COMPARE) + ")")
        right = self.side()
        if isinstance(left, list) and isinstance(right, list):
            raise self.error(0, "a list on one side only")
        if isinstance(left, list):
            return self.either(left, op, right, lambda v, x: Comparison(op, v, x))
        return self.either(right, op, left, lambda v, x: Comparison(op, x, v))

    def either(
        self,
        side: list[int] | Expression,
        op: str,
        other: list[int] | Expression,
        compare: Callable[[Expression, Expression], Constraint],
    ) -> Constraint:
        assert isinstance(other, Expression)
        if isinstance(side, Expression):
            return compare(side, other)
        if op == "==":
            return Member(other, side)
        return Any(compare(as_expression(v), other) for v in side)

    def side(self) -> list[int] | Expression:
        if not self.take("["):
            return self.remainder()
        values = []
        while True:
            token = self.peek()
            if not token.isdigit():
                raise self.expected("a number")
            values.append(int(token))
            self.at += 1
            if self.take("]"):
                return values
            if not self.take(","):
                raise self.expected("`,` or `]`")

    def remainder(self) -> Expression:
        value = self.sum()
        while self.take("%"):
            value = value % self.sum()
        return value

    def sum(self) -> Expression:
        value = self.product()
        while op := self.take("+", "-"):
            value = value + self.product() if op == "+" else value - self.product()
        return value

    def product(self) -> Expression:
        value = self.power()
        while op := self.take("*", "//"):
            value = value * self.power() if op == "*" else value // self.power()
        return value

    def power(self) -> Expression:
        base = self.atom()
        if not self.take("^"):
            return base
        token = self.peek()
        if not token.isdigit():
            raise self.expected("a number as the exponent of ^")
        self.at += 1
        return base ** int(token)

    def atom(self) -> Expression:
        token = self.peek()
        if token == "[":
            raise self.expected("a term (a list stands alone on one side of a comparison)")
        if self.take("("):
            inner = self.remainder()
            if not self.take(")"):
                raise self.expected("`)`")
            return inner
        if token.isdigit():
            self.at += 1
            return as_expression(int(token))
        if not token or not (token[0].isalpha() or token[0] == "_"):
            raise self.expected("a variable, a number or `(`")
        self.at += 1
        if token not in self.variables:
            self.variables[token] = self.problem.variable(token, DOMAIN)
        return self.variables[token]


# -- writing -----------------------------------------------------------------------------------

_STRENGTH = {"%": 1, "+": 2, "-": 2, "*": 3, "//": 3, "**": 4}


def write(problem: Problem) -> str:
    """`problem` in the text form, so that `read` gives the same solutions.

    Raises ValueError for what the form cannot say: domains with values below 1 or above 2 ** 30,
    min and max, variable exponents, negative constants, and `&` inside `|`.
    """
    lines = []
    for variable in problem.variables:
        lines += _domain(variable)
    for requirement in problem.constraints:
        lines += _statements(requirement.constraint)
    return "\n".join(f"{line};" for line in lines)


def _domain(variable: Variable) -> list[str]:
    name, domain = variable.name, variable.domain
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"variable {name!r}: the text form wants letters, digits and _ in a name")
    if domain[0] < DOMAIN[0] or domain[-1] > DOMAIN[-1]:
        raise ValueError(
            f"variable {name}: the text form holds values from 1 to 2 ** 30, got "
            f"{domain[0]}..{domain[-1]}"
        )
    if isinstance(domain, range) and domain.step == 1 and len(domain) > 1:
        return [f"{name} >= {domain[0]}", f"{name} <= {domain[-1]}"]
    return [f"{name} == [{', '.join(map(str, domain))}]"]


def _statements(constraint: Constraint) -> list[str]:
    if isinstance(constraint, All):
        return [line for item in constraint.items for line in _statements(item)]
    if isinstance(constraint, Any):
        return [" | ".join(_comparison(item) for item in constraint.items)]
    return [_comparison(constraint)]


def _comparison(item: Constraint) -> str:
    if isinstance(item, Comparison):
        return f"{_term(item.left)} {item.op} {_term(item.right)}"
    if isinstance(item, Member) and item.values[0] >= 0:
        return f"{_term(item.expression)} == [{', '.join(map(str, item.values))}]"
    raise ValueError(f"the text form cannot say `{item}`")


def _term(tree: Expression, outer: int = 0) -> str:
    if isinstance(tree, Variable):
        return tree.name
    if tree.op == "const" and tree.value >= 0:
        return str(tree.value)
    if tree.op == "**" and tree.args[1].op == "const":
        text = f"{_term(tree.args[0], 5)} ^ {tree.args[1].value}"
    elif tree.op in ("+", "-", "*", "//", "%"):
        strength = _STRENGTH[tree.op]
        text = f"{_term(tree.args[0], strength)} {tree.op} {_term(tree.args[1], strength + 1)}"
    else:
        raise ValueError(f"the text form cannot say `{tree}`")
    return f"({text})" if _STRENGTH[tree.op] < outer else text
