"""The text form of FlashRNN's solver ConstrINT: reading it into a `Problem`, and writing it.

    # comment to the end of the line
    TILE == [8, 16, 32];
    TILE * COUNT == HEAD_DIM ^ 2;      # + * ^, lists, == <= < >= > !=
    HEAD_DIM % TILE * 4 == 0;          # % binds weaker than * and +: HEAD_DIM % (TILE * 4)
    COUNT <= 4 | COUNT == 64           # `|` (or `||`) between comparisons: either

Statements end with `;` and may run over several lines. A variable is whatever is not a number;
its domain is 1 .. 2 ** 30 (ConstrINT's) and shrinks to its list. A list stands alone on one side
of a comparison, which then holds if it holds for one of the values. `-` and `//` are read too
(ConstrINT has neither). `//` divides and starts no comment: what stands behind it must have been
named before, so that a comment meant for another language is an error and not a divisor.

The rules are those of https://github.com/NX-AI/flashrnn/blob/main/flashrnn/autotune/constrint.py
(the grammar in its header) but for two: ConstrINT drops brackets, so `A * (B + C)` is `A * B + C`
there; here brackets group. It also skips an empty alternative (`A == 3 |`), which is an error here.
FlashRNN's own problems use brackets only where it makes no difference.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
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
from .printing import shortened

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["DOMAIN", "read", "write"]

DOMAIN = range(1, (1 << 30) + 1)
DIGITS = 4000  # of a number, at most

_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_]\w*)|(==|!=|<=|>=|\|\||//|[-<>%+*^()\[\],|]))")
_COMPARE = ("==", "!=", "<=", "<", ">=", ">")
_STRENGTH = {"%": 1, "+": 2, "-": 2, "*": 3, "//": 3, "**": 4}
_APPLY: dict[str, Callable[[Expression, Expression], Expression]] = {
    "%": operator.mod,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "**": operator.pow,
}


def read(text: str, problem: Problem, prefer: Mapping[str, str] | None = None) -> None:
    """Add the variables and constraints of `text` to `problem`.

    prefer -- for some variables, by name: "smallest" or "largest", see `Problem.variable`.

    Raises ValueError with the statement, and the line and column where it cannot be read.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: expected a str, got {type(text).__name__}")
    bare = re.sub(r"#[^\n]*", lambda comment: " " * len(comment[0]), text)  # places stay
    names = _Names(problem, prefer or {})
    for match in re.finditer(r"[^;]+", bare):
        if match[0].strip():
            reader = _Reader(bare, match.start(), match.end(), names)
            problem.require(reader.statement(), name=reader.quoted)
    names.check()


class _Names:
    """The variables of a text, which come into being when they are first named."""

    def __init__(self, problem: Problem, prefer: Mapping[str, str]) -> None:
        self._problem = problem
        self._prefer = prefer
        self.known: dict[str, Variable] = {}

    def variable(self, name: str) -> Variable:
        if name not in self.known:
            prefer = self._prefer.get(name, "smallest")
            self.known[name] = self._problem.variable(name, DOMAIN, prefer)
        return self.known[name]

    def check(self) -> None:
        for name in self._prefer:
            if name not in self.known:
                raise ValueError(
                    f"prefer: the text has no variable {name!r}, expected some of "
                    f"{', '.join(self.known) or 'none'}"
                )


class _Reader:
    """A reader of one statement, from `start` to `stop` of the text."""

    def __init__(self, text: str, start: int, stop: int, names: _Names) -> None:
        self.text = text
        self.stop = start + len(text[start:stop].rstrip())
        self.names = names
        self.quoted = " ".join(text[start:stop].split())
        self.tokens: list[tuple[str, int]] = []
        self.at = 0
        place = start
        while place < self.stop:
            match = _TOKEN.match(text, place, self.stop)
            if match is None:
                raise self.error(self.stop - len(text[place : self.stop].lstrip()), "a known sign")
            token = match[0].lstrip()
            place = match.end()
            self.tokens.append((token, place - len(token)))
        self.tokens.append(("", self.stop))

    # -- tokens ------------------------------------------------------------------------------

    def error(self, place: int, expected: str) -> ValueError:
        found = self.text[place : min(place + 12, self.stop)].partition("\n")[0]
        return self.refusal(
            place, f"expected {expected}, found {repr(found) if found else 'the end'}"
        )

    def refusal(self, place: int, reason: str) -> ValueError:
        line = self.text.count("\n", 0, place) + 1
        column = place - self.text.rfind("\n", 0, place)
        divides = any(token == "//" for token, _ in self.tokens)
        hint = " (`//` divides; a comment starts with `#`)" if divides else ""
        return ValueError(
            f"line {line}, column {column}: cannot read the statement `{shortened(self.quoted)}`: "
            f"{reason}{hint}"
        )

    def peek(self) -> str:
        return self.tokens[self.at][0]

    def place(self) -> int:
        return self.tokens[self.at][1]

    def take(self, *signs: str) -> str:
        """The next token if it is one of `signs`, else an empty string."""
        token = self.tokens[self.at][0]
        if token not in signs:
            return ""
        self.at += 1
        return token

    def expected(self, what: str) -> ValueError:
        return self.error(self.place(), what)

    def number(self, what: str) -> int:
        token = self.peek()
        if not token.isdigit():
            raise self.expected(what)
        if len(token) > DIGITS:
            raise self.expected(f"a number of at most {DIGITS} digits")
        self.at += 1
        return int(token)

    # -- statements --------------------------------------------------------------------------

    def statement(self) -> Constraint:
        parts = [self.comparison()]
        while self.take("|", "||"):
            parts.append(self.comparison())
        if self.peek():
            raise self.expected("`;`, `|` or an operator")
        return parts[0] if len(parts) == 1 else Any(parts)

    def comparison(self) -> Constraint:
        place = self.place()
        left = self.side()
        op = self.take(*_COMPARE)
        if not op:
            raise self.expected("a comparison (" + " ".join(_COMPARE) + ")")
        right = self.side()
        if isinstance(left, list) and isinstance(right, list):
            raise self.error(place, "a list on one side only")
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
            return self.expression()
        values = []
        while True:
            values.append(self.number("a number"))
            if self.take("]"):
                return values
            if not self.take(","):
                raise self.expected("`,` or `]`")

    # -- expressions: a loop, since brackets may be many -----------------------------------------

    def expression(self) -> Expression:
        values: list[Expression] = []
        waiting: list[str] = []  # operators and open brackets
        while True:
            while self.take("("):
                waiting.append("(")
            values.append(self.power(self.atom()))
            while "(" in waiting and self.take(")"):
                self.apply(values, waiting, 0)
                waiting.pop()
                values.append(self.power(values.pop()))
            op = self.take("%", "+", "-", "*", "//")
            if not op:
                if "(" in waiting:
                    raise self.expected("`)`")
                self.apply(values, waiting, 0)
                return values[0]
            self.apply(values, waiting, _STRENGTH[op])
            waiting.append(op)

    def apply(self, values: list[Expression], waiting: list[str], strength: int) -> None:
        """Operators that bind at least so strongly, back to the last open bracket."""
        while waiting and waiting[-1] != "(" and _STRENGTH[waiting[-1]] >= strength:
            right, left = values.pop(), values.pop()
            values.append(self.combined(waiting.pop(), left, right))

    def combined(self, op: str, left: Expression, right: Expression) -> Expression:
        try:
            return _APPLY[op](left, right)
        except ValueError as error:  # nested too deep
            raise self.refusal(self.place(), str(error)) from None

    def power(self, base: Expression) -> Expression:
        if not self.take("^"):
            return base
        exponent = as_expression(self.number("a number as the exponent of ^"))
        return self.combined("**", base, exponent)

    def atom(self) -> Expression:
        token = self.peek()
        if token == "[":
            raise self.expected("a term (a list stands alone on one side of a comparison)")
        if token.isdigit():
            return as_expression(self.number("a number"))
        if not token or not (token[0].isalpha() or token[0] == "_"):
            raise self.expected("a variable, a number or `(`")
        if token not in self.names.known and self.at and self.tokens[self.at - 1][0] == "//":
            raise self.expected(
                f"a number or a variable that was named before, such as by `{token} >= 1;`"
            )
        self.at += 1
        return self.names.variable(token)


# -- writing -----------------------------------------------------------------------------------


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
