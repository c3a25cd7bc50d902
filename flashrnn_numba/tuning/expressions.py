"""Integer expressions and the constraints between them.

Everything here is a plain immutable tree; nothing is solved. `lowering.py` turns a tree into
propagators, `source()` turns it into Python source for exact evaluation.

The meaning of every operator is Python's for integers: `//` rounds to minus infinity and `%`
takes the sign of the divisor. A constraint in which something is divided by zero, or raised to a
negative power, is false.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator

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
]

_NO_TRUTH = (
    "{what} has no truth value before the problem is solved. "
    "Write `(a < b) & (b < c)` for the chain `a < b < c`, `&` for `and`, `|` for `or`, "
    "`!=` for `not ... ==`, and flashrnn_numba.tuning.minimum/maximum for min/max. Got: {text}"
)


class Expression:
    """An integer expression: `op` applied to `args`.

    `op` is one of "var", "const", "+", "-", "*", "//", "%", "**", "min", "max".
    Built by arithmetic on the variables that `Problem.variable` returns.
    """

    __slots__ = ("args", "op", "value")

    # Tell numpy scalars to leave `numpy.int64(4) * expression` to __rmul__.
    __array_ufunc__ = None

    def __init__(self, op: str, args: tuple[Expression, ...] = (), value: int = 0) -> None:
        self.op = op
        self.args = args
        self.value = value  # of a constant

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
        return Expression("**", (self, exponent))

    def __rpow__(self, other: object) -> Expression:
        return _binary("**", other, self)

    def __truediv__(self, other: object) -> Expression:
        raise TypeError(
            f"/ gives a fraction and expressions are integers: write {self} // {other}, or "
            f"multiply out, with {self} % {other} == 0 if the quotient must be whole"
        )

    __rtruediv__ = __truediv__

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
        return _text(self)

    __repr__ = __str__


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

    def __and__(self, other: object) -> Constraint:
        return All((self, as_constraint(other, "&")))

    __rand__ = __and__

    def __or__(self, other: object) -> Constraint:
        return Any((self, as_constraint(other, "|")))

    __ror__ = __or__

    def __bool__(self) -> bool:
        raise TypeError(_NO_TRUTH.format(what="a constraint", text=self))

    def __repr__(self) -> str:
        return str(self)


class Comparison(Constraint):
    """`left op right` with `op` one of == != < <= > >=."""

    __slots__ = ("left", "op", "right")

    def __init__(self, op: str, left: Expression, right: Expression) -> None:
        self.op = op
        self.left = left
        self.right = right

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right}"


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
        return f"{self.expression} in {list(self.values)}"


class All(Constraint):
    """Every one of `items` holds."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[Constraint]) -> None:
        self.items = tuple(items)

    def __str__(self) -> str:
        return " & ".join(f"({item})" for item in self.items)


class Any(Constraint):
    """At least one of `items` holds."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[Constraint]) -> None:
        self.items = tuple(items)

    def __str__(self) -> str:
        return " | ".join(f"({item})" for item in self.items)


class Truth(Constraint):
    """A constraint in which no variable was left: plainly true or plainly false."""

    __slots__ = ("value",)

    def __init__(self, value: bool) -> None:
        self.value = value

    def __str__(self) -> str:
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
        return Expression("const", value=operator.index(value))  # type: ignore[arg-type]
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
        "compare it with something, for example `... == 0`"
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
    return Expression(op, tuple(as_expression(arg) for arg in (first, *rest)))


def _binary(op: str, left: object, right: object) -> Expression:
    return Expression(op, (as_expression(left), as_expression(right)))


def variables_of(tree: Expression | Constraint) -> list[Variable]:
    """The variables in `tree`, each once, in order of appearance."""
    found: dict[int, Variable] = {}
    for leaf in _leaves(tree):
        if isinstance(leaf, Variable):
            found.setdefault(id(leaf), leaf)
    return list(found.values())


def _leaves(tree: Expression | Constraint) -> Iterator[Expression]:
    """Each once: models share subexpressions, and a tree can be far larger than its parts."""
    stack: list[Expression | Constraint] = [tree]
    met: set[int] = set()
    while stack:
        top = stack.pop()
        if isinstance(top, Expression):
            if id(top) in met:
                continue
            met.add(id(top))
            if top.args:
                stack.extend(reversed(top.args))
            else:
                yield top
        elif isinstance(top, Comparison):
            stack.extend((top.right, top.left))
        elif isinstance(top, Member):
            stack.append(top.expression)
        elif isinstance(top, All | Any):
            stack.extend(reversed(top.items))


def is_partial(tree: Expression | Constraint) -> bool:
    """Whether evaluating `tree` can fail: a division, or a power that may be negative."""
    if isinstance(tree, Expression):
        own = tree.op in ("//", "%") or (tree.op == "**" and tree.args[1].op != "const")
        return own or any(is_partial(arg) for arg in tree.args)
    if isinstance(tree, Comparison):
        return is_partial(tree.left) or is_partial(tree.right)
    if isinstance(tree, Member):
        return is_partial(tree.expression)
    if isinstance(tree, All | Any):
        return any(is_partial(item) for item in tree.items)
    return False


_STRENGTH = {"+": 1, "-": 1, "*": 2, "//": 2, "%": 2, "**": 4}


def _text(tree: Expression, outer: int = 0) -> str:
    """`tree` as Python source over the user's names, with no needless brackets."""
    if isinstance(tree, Variable):
        return tree.name
    if tree.op == "const":
        return str(tree.value) if tree.value >= 0 or not outer else f"({tree.value})"
    if tree.op in ("min", "max"):
        return f"{tree.op}({', '.join(_text(arg) for arg in tree.args)})"
    strength = _STRENGTH[tree.op]
    # ** groups to the right, all others to the left.
    left, right = (strength + 1, strength) if tree.op == "**" else (strength, strength + 1)
    text = f"{_text(tree.args[0], left)} {tree.op} {_text(tree.args[1], right)}"
    return f"({text})" if strength < outer else text


def source(tree: Expression | Constraint, names: dict[int, str]) -> str:
    """`tree` as Python source; `names` maps the id of each variable to an identifier."""
    if isinstance(tree, Variable):
        return names[id(tree)]
    if isinstance(tree, Expression):
        if tree.op == "const":
            return f"({tree.value})"
        args = [source(arg, names) for arg in tree.args]
        if tree.op in ("min", "max"):
            return f"{tree.op}({', '.join(args)})"
        if tree.op == "**" and tree.args[1].op != "const":
            return f"_power({args[0]}, {args[1]})"
        return f"({args[0]} {tree.op} {args[1]})"
    if isinstance(tree, Comparison):
        return f"({source(tree.left, names)} {tree.op} {source(tree.right, names)})"
    if isinstance(tree, Member):
        return f"({source(tree.expression, names)} in {set(tree.values)})"
    if isinstance(tree, All):
        return f"({' and '.join(source(item, names) for item in tree.items) or 'True'})"
    if isinstance(tree, Any):
        return f"({' or '.join(_alternative(item, names) for item in tree.items) or 'False'})"
    assert isinstance(tree, Truth)
    return str(tree.value)


def _alternative(tree: Constraint, names: dict[int, str]) -> str:
    # A division by zero makes its own alternative false, not the others.
    text = source(tree, names)
    return f"_holds(lambda: {text})" if is_partial(tree) else text


def _power(base: int, exponent: int) -> int:
    if exponent < 0:
        raise ZeroDivisionError("a negative power is not an integer")
    return int(base**exponent)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except ZeroDivisionError:
        return False


def evaluator(
    trees: list[tuple[Expression | Constraint, list[Variable]]],
) -> list[Callable[..., int]]:
    """One compiled function per (tree, variables); its arguments are the variables' values.

    Each may raise ZeroDivisionError. The names in the compiled source are ours (v0, v1, ...),
    so no text of the user's is ever executed.
    """
    parts = []
    for tree, variables in trees:
        names = {id(v): f"v{n}" for n, v in enumerate(variables)}
        parts.append(f"lambda {', '.join(names.values())}: {source(tree, names)}")
    scope = {"_power": _power, "_holds": _holds, "min": min, "max": max, "__builtins__": {}}
    return list(eval(f"[{', '.join(parts)}]", scope)) if parts else []
