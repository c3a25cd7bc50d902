"""Integer expressions and the constraints between them.

Everything here is a plain immutable tree; nothing is solved. `lowering.py` turns a tree into
propagators, `source.py` into Python source for exact evaluation.

The meaning of every operator is Python's for integers: `//` rounds to minus infinity and `%`
takes the sign of the divisor. A constraint in which something is divided by zero, or raised to a
negative power, is false.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

from .balancing import DEEPEST, regrouped
from .printing import number, shortened, text
from .source import Writer, evaluator

__all__ = [
    "All",
    "Any",
    "Comparison",
    "Constraint",
    "Expression",
    "Member",
    "Truth",
    "Variable",
    "as_expression",
    "evaluator",
    "maximum",
    "minimum",
    "variables_of",
]

ALTERNATIONS = 20  # of & and | inside each other, at most

_NO_TRUTH = (
    "{what} has no truth value before the problem is solved. "
    "Write `(a < b) & (b < c)` for the chain `a < b < c`, `&` for `and`, `|` for `or`, "
    "`!=` for `not ... ==`, and flashrnn_numba.tuning.minimum/maximum for min/max. Got: {text}"
)


_BRACKETS = (
    "{sign} joins constraints, got the integer expression `{text}`: {sign} binds more strongly "
    "than == and <, so put each comparison in brackets, `(x == 3) {sign} (y == 4)`"
)
_NO_NOT = (
    "constraints have no ~: write the opposite comparison, `!=` for `==` or `>` for `<=`, and `|` "
    "for `&` between them. Got: ~({text})"
)
_NO_EQUAL = (
    "constraints cannot be compared: where both or none shall hold, say so with their opposites, "
    "`((x > 3) & (y < 5)) | ((x <= 3) & (y >= 5))`. Got: `{text}` and `{other}`"
)


class Expression:
    """An integer expression: `op` applied to `args`.

    `op` is one of "var", "const", "+", "-", "*", "//", "%", "**", "min", "max".
    Built by arithmetic on the variables that `Problem.variable` returns. `depth` is how many
    operations are inside each other: bounded, so that trees can be walked by recursion.
    """

    __slots__ = ("args", "depth", "op", "value")

    # Tell numpy scalars to leave `numpy.int64(4) * expression` to __rmul__.
    __array_ufunc__ = None

    def __init__(
        self, op: str, args: tuple[Expression, ...] = (), value: int = 0, depth: int = 0
    ) -> None:
        self.op = op
        self.args = args
        self.value = value  # of a constant
        self.depth = depth

    def __add__(self, other: object) -> Expression:
        return _binary("+", self, other)

    def __radd__(self, other: object) -> Expression:
        return _binary("+", other, self)

    def __sub__(self, other: object) -> Expression:
        return _binary("-", self, other)

    def __rsub__(self, other: object) -> Expression:
        return _binary("-", other, self)

    def __mul__(self, other: object) -> Expression:
        return _binary("*", self, other)

    def __rmul__(self, other: object) -> Expression:
        return _binary("*", other, self)

    def __floordiv__(self, other: object) -> Expression:
        return _binary("//", self, other)

    def __rfloordiv__(self, other: object) -> Expression:
        return _binary("//", other, self)

    def __mod__(self, other: object) -> Expression:
        return _binary("%", self, other)

    def __rmod__(self, other: object) -> Expression:
        return _binary("%", other, self)

    def __pow__(self, other: object) -> Expression:
        exponent = as_expression(other)
        if exponent.op == "const" and exponent.value < 0:
            raise ValueError(
                f"exponent of **: got {exponent.value}, expected an integer >= 0; "
                "write a quotient as `a // b ** n`"
            )
        return _binary("**", self, exponent)

    def __rpow__(self, other: object) -> Expression:
        return _binary("**", other, self)

    def __truediv__(self, other: object) -> Expression:
        raise TypeError(
            f"/ gives a fraction and expressions are integers: write {self} // {other}, or "
            f"multiply out, with {self} % {other} == 0 if the quotient must be whole"
        )

    __rtruediv__ = __truediv__

    def __and__(self, other: object) -> Expression:
        raise TypeError(_BRACKETS.format(sign="&", text=shortened(str(self))))

    __rand__ = __and__

    def __or__(self, other: object) -> Expression:
        raise TypeError(_BRACKETS.format(sign="|", text=shortened(str(self))))

    __ror__ = __or__

    def __invert__(self) -> Expression:
        raise TypeError(_NO_NOT.format(text=shortened(str(self))))

    def __xor__(self, other: object) -> Expression:
        raise TypeError(
            f"a power is written `{self} ** {other}` in Python, `^` in the text form only"
        )

    def __neg__(self) -> Expression:
        return _binary("*", -1, self)

    def __pos__(self) -> Expression:
        return self

    def __eq__(self, other: object) -> Constraint:  # type: ignore[override]
        return Comparison("==", self, as_expression(other))

    def __ne__(self, other: object) -> Constraint:  # type: ignore[override]
        return Comparison("!=", self, as_expression(other))

    def __lt__(self, other: object) -> Constraint:
        return Comparison("<", self, as_expression(other))

    def __le__(self, other: object) -> Constraint:
        return Comparison("<=", self, as_expression(other))

    def __gt__(self, other: object) -> Constraint:
        return Comparison(">", self, as_expression(other))

    def __ge__(self, other: object) -> Constraint:
        return Comparison(">=", self, as_expression(other))

    __hash__ = object.__hash__

    def isin(self, values: Iterable[object]) -> Constraint:
        """The constraint that this expression takes one of `values` (integers)."""
        return Member(self, list(values))

    def __bool__(self) -> bool:
        raise TypeError(_NO_TRUTH.format(what="an integer expression", text=self))

    def __str__(self) -> str:
        return text(self)

    __repr__ = __str__

    def source(self, writer: Writer) -> str:
        """Itself as Python source."""
        return writer.strict([self])


class Variable(Expression):
    """An integer variable of one `Problem`; made by `Problem.variable`."""

    __slots__ = ("domain", "name", "owner", "prefer")

    def __init__(self, name: str, domain: range | tuple[int, ...], owner: object, prefer: str):
        super().__init__("var")
        self.name = name
        self.domain = domain
        self.owner = owner
        self.prefer = prefer


class Constraint:
    """What `Problem.require` takes. Combine with `&` (both) and `|` (at least one)."""

    __slots__ = ()
    depth: int = 0  # how many & and | are inside each other

    def __and__(self, other: object) -> Constraint:
        return All((self, as_constraint(other, "&")))

    __rand__ = __and__

    def __or__(self, other: object) -> Constraint:
        return Any((self, as_constraint(other, "|")))

    __ror__ = __or__

    def __invert__(self) -> Constraint:
        raise TypeError(_NO_NOT.format(text=shortened(str(self))))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        text = shortened(str(self))
        raise TypeError(_NO_EQUAL.format(text=text, other=shortened(str(other))))

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError(_NO_TRUTH.format(what="a constraint", text=self))

    def __repr__(self) -> str:
        return str(self)

    def source(self, writer: Writer) -> str:
        """Itself as Python source."""
        raise NotImplementedError


class Comparison(Constraint):
    """`left op right` with `op` one of == != < <= > >=."""

    __slots__ = ("left", "op", "right")

    def __init__(self, op: str, left: Expression, right: Expression) -> None:
        self.op = op
        self.left = left
        self.right = right

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right}"

    def source(self, writer: Writer) -> str:
        return writer.strict([self.left, self.right], f" {self.op} ")


class Member(Constraint):
    """`expression` is one of `values` (sorted, each once)."""

    __slots__ = ("expression", "values")

    def __init__(self, expression: Expression, values: Iterable[object]) -> None:
        numbers = [as_expression(v) for v in values]
        if not numbers or any(number.op != "const" for number in numbers):
            raise ValueError(f"isin: expected one or more integers, got {list(values)!r}")
        self.expression = expression
        self.values = tuple(sorted({number.value for number in numbers}))

    def __str__(self) -> str:
        return f"{self.expression} in [{', '.join(map(number, self.values))}]"

    def source(self, writer: Writer) -> str:
        values = ", ".join(map(number, self.values))
        return writer.strict([self.expression], end=f" in {{{values}}}")


class _Several(Constraint):
    """Constraints joined by & or |. Those of one kind inside each other are one: `a & b & c` has
    three items."""

    __slots__ = ("depth", "items")

    def __init__(self, items: Iterable[Constraint]) -> None:
        flat: list[Constraint] = []
        depth = 0
        for item in items:
            inner = item.depth
            if isinstance(item, _Several) and type(item) is type(self):
                flat += item.items
                inner -= 1
            else:
                flat.append(item)
            if inner > depth:
                depth = inner
        self.items: tuple[Constraint, ...] = tuple(flat)
        self.depth = depth + 1
        if self.depth > ALTERNATIONS:
            raise ValueError(
                f"& and | are inside each other {self.depth} levels deep, expected at most "
                f"{ALTERNATIONS}: require the parts of an & one by one, or give an inner part a "
                f"variable with the values 0 and 1. Got: {shortened(str(self))}"
            )


class All(_Several):
    """Every one of `items` holds."""

    __slots__ = ()

    def __str__(self) -> str:
        return " & ".join(f"({item})" for item in self.items)

    def source(self, writer: Writer) -> str:
        return f"({' and '.join([item.source(writer) for item in self.items]) or 'True'})"


class Any(_Several):
    """At least one of `items` holds."""

    __slots__ = ()

    def __str__(self) -> str:
        return " | ".join(f"({item})" for item in self.items)

    def source(self, writer: Writer) -> str:
        # a division by zero makes its own alternative false, not the others
        items = [
            writer.apart(item) if is_partial(item) else item.source(writer) for item in self.items
        ]
        return f"({' or '.join(items) or 'False'})"


class Truth(Constraint):
    """A constraint in which no variable was left: plainly true or plainly false."""

    __slots__ = ("value",)

    def __init__(self, value: bool) -> None:
        self.value = value

    def __str__(self) -> str:
        return str(self.value)

    def source(self, writer: Writer) -> str:
        return str(self.value)


def as_expression(value: object) -> Expression:
    """`value` as an expression; TypeError unless it is one or an integer."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, Constraint):
        raise TypeError(
            f"expected an integer or an expression, got the constraint `{value}`; "
            "a comparison cannot be used as a number, and `a < b < c` is `(a < b) & (b < c)`"
        )
    try:
        return Expression("const", (), operator.index(value))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"expected an integer or an expression, got {value!r} of type "
            f"{type(value).__name__}; expressions are integers: scale a fraction up "
            "(cost in picoseconds rather than 1.5 ns)"
        ) from None


def as_constraint(value: object, where: str) -> Constraint:
    """`value` as a constraint; a plain bool becomes a `Truth`."""
    if isinstance(value, Constraint):
        return value
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return Truth(bool(value))
    hint = (
        "compare it with something, for example `... == 0`, and put each comparison in brackets "
        "where several are joined by & or |"
        if isinstance(value, Expression)
        else "a comparison of expressions, such as `tile * count <= 512`"
    )
    raise TypeError(
        f"{where}: expected a constraint, got {value!r} of type {type(value).__name__}; {hint}"
    )


def minimum(first: object, *rest: object) -> Expression:
    """The smallest of several expressions or integers (Python's own `min` cannot see inside)."""
    return _extremum("min", first, rest)


def maximum(first: object, *rest: object) -> Expression:
    """The largest of several expressions or integers (Python's own `max` cannot see inside)."""
    return _extremum("max", first, rest)


def _extremum(op: str, first: object, rest: tuple[object, ...]) -> Expression:
    name = "minimum" if op == "min" else "maximum"
    if not rest:
        raise TypeError(f"{name}: expected two or more arguments, got one: {first!r}")
    made = _made(op, tuple([as_expression(arg) for arg in (first, *rest)]))
    return made if made.depth <= DEEPEST else _shallow(made)


def _made(op: str, args: tuple[Expression, ...]) -> Expression:
    return Expression(op, args, 0, 1 + max([arg.depth for arg in args]))


def _binary(op: str, left: object, right: object) -> Expression:
    # half of the time that models take to be stated is spent here
    if not isinstance(left, Expression):
        left = as_expression(left)
    if not isinstance(right, Expression):
        right = as_expression(right)
    inner, other = left.depth, right.depth
    made = Expression(op, (left, right), 0, (inner if inner > other else other) + 1)
    return made if made.depth <= DEEPEST else _shallow(made)


def _shallow(made: Expression) -> Expression:
    shallow = regrouped(made, _made)
    if shallow is None:
        raise ValueError(
            f"the expression is nested more than {DEEPEST} levels deep, and no grouping of its "
            "sums, products, minima and maxima makes it shallow: give an inner part a variable of "
            f"its own (`v == part`). Got: {shortened(str(made))}"
        )
    return shallow


def variables_of(tree: Expression | Constraint) -> list[Variable]:
    """The variables in `tree`, each once, in order of appearance."""
    return [part for part in parts_of(tree) if isinstance(part, Variable)]


def parts_of(tree: Expression | Constraint) -> list[Expression]:
    """All expressions in `tree`. Each once: models share subexpressions, and a tree can be far
    larger than its parts."""
    found: list[Expression] = []
    stack = _sides(tree)
    stack.reverse()
    met: set[int] = set()
    while stack:
        top = stack.pop()
        if id(top) not in met:
            met.add(id(top))
            found.append(top)
            stack += top.args[::-1]
    return found


def _sides(tree: Expression | Constraint) -> list[Expression]:
    """The whole expressions in a constraint."""
    if isinstance(tree, Comparison):
        return [tree.left, tree.right]
    if isinstance(tree, Expression):
        return [tree]
    if isinstance(tree, Member):
        return [tree.expression]
    if isinstance(tree, All | Any):
        return [side for item in tree.items for side in _sides(item)]
    return []


def is_partial(tree: Expression | Constraint) -> bool:
    """Whether evaluating `tree` can fail: a division, or a power that may be negative."""
    return any(
        part.op in ("//", "%") or (part.op == "**" and part.args[1].op != "const")
        for part in parts_of(tree)
    )
