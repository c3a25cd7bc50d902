"""The expression language of cells: scalar expressions as a graph of shared nodes.

A cell's forward function is run once on `Expression` objects; every operation adds a node. Equal
nodes are one object (hash-consing), so common subexpressions are shared without a pass of their
own. Constants are folded and the neutral elements of `+ - * /` removed as nodes are made.
"""

from __future__ import annotations

import linecache
import math
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

ALLOWED = (
    "allowed in a cell: + - * / and ** with constants, negation, comparisons inside where(), and "
    "sigmoid tanh relu exp log sqrt abs softplus log_sigmoid maximum minimum where clip "
    "stop_gradient from flashrnn_numba.cells"
)
_OWN_FILES = {
    os.path.join(os.path.dirname(__file__), name)
    for name in ("expression.py", "cell.py", "derivative.py")
}


class CellError(ValueError):
    """A cell's definition is wrong; the message names the file and line of the user's code."""


def user_line() -> str:
    """`file:line: source` of the innermost frame outside the expression language."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename in _OWN_FILES:
        frame = frame.f_back
    return describe_line(frame.f_code.co_filename, frame.f_lineno)


def describe_line(filename: str, line: int) -> str:
    source = linecache.getline(filename, line).strip()
    return f"{filename}:{line}" + (f": `{source}`" if source else "")


def _fail(what: str) -> NoReturn:
    raise CellError(f"{what}\n  at {user_line()}\n  {ALLOWED}")


def _refuse(what: str, instead: str) -> Callable[..., Any]:
    def method(self: Expression, *args: Any, **kwargs: Any) -> NoReturn:
        _fail(f"{what} is not possible on a cell's expression; {instead}")

    return method


class Expression:
    """One node: an operation, its arguments, and a value (of constants) or name (of inputs)."""

    __slots__ = ("arguments", "index", "operation", "value")
    operation: str
    arguments: tuple[Expression, ...]
    value: Any  # float for "constant", (kind, name) for "input", float exponent for "power"
    index: int  # creation order; arguments always have smaller ones

    def __init__(self) -> None:
        raise TypeError("expressions are made by tracing a cell, not by calling Expression()")

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        if self.operation == "constant":
            return repr(self.value)
        if self.operation == "input":
            return ".".join(self.value)
        inner = [repr(a) for a in self.arguments]
        if self.operation == "power":
            inner.append(repr(self.value))
        return f"{self.operation}({', '.join(inner)})"

    # arithmetic -------------------------------------------------------------------------------
    def __add__(self, other: Any) -> Expression:
        return add(as_number(self, "+"), as_number(other, "+"))

    def __radd__(self, other: Any) -> Expression:
        return add(as_number(other, "+"), as_number(self, "+"))

    def __sub__(self, other: Any) -> Expression:
        return subtract(as_number(self, "-"), as_number(other, "-"))

    def __rsub__(self, other: Any) -> Expression:
        return subtract(as_number(other, "-"), as_number(self, "-"))

    def __mul__(self, other: Any) -> Expression:
        return multiply(as_number(self, "*"), as_number(other, "*"))

    def __rmul__(self, other: Any) -> Expression:
        return multiply(as_number(other, "*"), as_number(self, "*"))

    def __truediv__(self, other: Any) -> Expression:
        return divide(as_number(self, "/"), as_number(other, "/"))

    def __rtruediv__(self, other: Any) -> Expression:
        return divide(as_number(other, "/"), as_number(self, "/"))

    def __neg__(self) -> Expression:
        return negative(as_number(self, "-"))

    def __pos__(self) -> Expression:
        return as_number(self, "+")

    def __abs__(self) -> Expression:
        return unary("abs", self)

    def __pow__(self, exponent: Any) -> Expression:
        exponent = as_number(exponent, "**")
        if exponent.operation != "constant":
            _fail("** takes a constant exponent; write exp(y * log(x)) for x ** y")
        return power(as_number(self, "**"), exponent.value)

    def __rpow__(self, base: Any) -> Expression:
        base = as_number(base, "**")
        if not base.value > 0:
            _fail(f"the constant base of ** must be positive, got {base.value}")
        return unary("exp", multiply(as_number(self, "**"), constant(math.log(base.value))))

    # comparisons: only where() may use them ------------------------------------------------------
    def __lt__(self, other: Any) -> Expression:
        return compare("less", self, other)

    def __le__(self, other: Any) -> Expression:
        return compare("less_equal", self, other)

    def __gt__(self, other: Any) -> Expression:
        return compare("less", other, self)

    def __ge__(self, other: Any) -> Expression:
        return compare("less_equal", other, self)

    def __eq__(self, other: Any) -> Expression:  # type: ignore[override]
        return compare("equal", self, other)

    def __ne__(self, other: Any) -> Expression:  # type: ignore[override]
        return compare("not_equal", self, other)

    # everything else is refused with a reason ----------------------------------------------------
    __bool__ = _refuse(
        "a truth value (if, and, or, not, while, a chained comparison)",
        "use where(condition, a, b)",
    )
    __float__ = __int__ = __complex__ = __index__ = __round__ = _refuse(
        "conversion to a number (math.exp and the like)",
        "use the functions of flashrnn_numba.cells",
    )
    __array__ = __array_function__ = _refuse(
        "a NumPy function", "use the functions of flashrnn_numba.cells"
    )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Expression:
        """NumPy calls this for numpy.float64(2) * x, and for numpy.exp(x), which is refused."""
        operation = _OPERATORS.get(ufunc.__name__)
        if operation is None or method != "__call__" or isinstance(inputs[0], Expression):
            _fail(
                f"a NumPy function ({ufunc.__name__}) is not possible on a cell's expression; use "
                "the functions of flashrnn_numba.cells"
            )
        return operation(as_number(inputs[0], ufunc.__name__), inputs[1])

    __getitem__ = __iter__ = __len__ = _refuse(
        "indexing, iteration or unpacking", "an expression is one number per unit"
    )
    __call__ = _refuse("a call", "an expression is one number per unit")
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = _refuse(
        "// or %", "they have no useful gradient"
    )
    __matmul__ = __rmatmul__ = _refuse(
        "@", "the recurrent product is given by the gates' sources; a cell is pointwise"
    )
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _refuse(
        "& | ^ ~", "nest where() to combine conditions"
    )
    __lshift__ = __rshift__ = __rlshift__ = __rrshift__ = _refuse("<< or >>", "use * or /")


# ufuncs by which NumPy's numbers stand left of an operator
_OPERATORS: dict[str, Callable[[Any, Any], Expression]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "true_divide": operator.truediv,
    "power": operator.pow,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
}
CONDITIONS: dict[str, Callable[[float, float], bool]] = {
    "less": operator.lt,
    "less_equal": operator.le,
    "equal": operator.eq,
    "not_equal": operator.ne,
}

_nodes: dict[tuple, Expression] = {}
_tracing = threading.RLock()


@contextmanager
def fresh_graph() -> Iterator[None]:
    """Trace into an empty table of nodes, so that a cell's text does not depend on what was traced
    before it (its digest names files in the disk cache)."""
    global _nodes
    with _tracing:
        outer, _nodes = _nodes, {}
        try:
            yield
        finally:
            _nodes = outer


def make(operation: str, arguments: Sequence[Expression] = (), value: Any = None) -> Expression:
    """The one node with this operation, these arguments and this value."""
    # repr() tells -0.0 from 0.0 and 1 from 1.0, which compare equal
    key = (operation, tuple(id(a) for a in arguments), repr(value))
    node = _nodes.get(key)
    if node is None:
        node = object.__new__(Expression)
        node.operation, node.arguments, node.value = operation, tuple(arguments), value
        node.index = len(_nodes)
        _nodes[key] = node
    return node


def constant(value: float) -> Expression:
    return make("constant", value=float(value))


def input_of(kind: str, name: str) -> Expression:
    """A leaf: kind is "gate", "state" or "cotangent" (of a new state)."""
    return make("input", value=(kind, name))


def is_constant(x: Expression, value: float | None = None) -> bool:
    return x.operation == "constant" and (value is None or x.value == value)


def as_number(x: Any, where: str) -> Expression:
    """x as a number-valued node, or an error that names the user's line."""
    if isinstance(x, Expression):
        if x.operation in CONDITIONS:
            _fail(f"a comparison stands as an operand of {where}; comparisons go inside where()")
        return x
    if isinstance(x, bool) or not hasattr(x, "__float__"):
        _fail(f"{where} takes expressions and numbers, got {type(x).__name__} {x!r}")
    if getattr(x, "ndim", 0):
        _fail(f"{where} takes expressions and numbers, got an array of shape {x.shape}")
    return constant(float(x))


# nodes of each operation, with the simplifications that hold exactly ---------------------------


def _commutative(operation: str, a: Expression, b: Expression) -> Expression:
    return make(operation, (a, b) if a.index <= b.index else (b, a))


def add(a: Expression, b: Expression) -> Expression:
    if is_constant(a) and is_constant(b):
        return constant(a.value + b.value)
    if is_constant(a, 0):
        return b
    if is_constant(b, 0):
        return a
    if b.operation == "negative":
        return subtract(a, b.arguments[0])
    if a.operation == "negative":
        return subtract(b, a.arguments[0])
    return _commutative("add", a, b)


def subtract(a: Expression, b: Expression) -> Expression:
    if is_constant(a) and is_constant(b):
        return constant(a.value - b.value)
    if is_constant(b, 0):
        return a
    if is_constant(a, 0):
        return negative(b)
    if b.operation == "negative":
        return add(a, b.arguments[0])
    return make("subtract", (a, b))


def negative(a: Expression) -> Expression:
    if is_constant(a):
        return constant(-a.value)
    if a.operation == "negative":
        return a.arguments[0]
    return make("negative", (a,))


def multiply(a: Expression, b: Expression) -> Expression:
    if is_constant(a) and is_constant(b):
        return constant(a.value * b.value)
    if is_constant(b):
        a, b = b, a
    if is_constant(a, 0):
        return a
    if is_constant(a, 1):
        return b
    if is_constant(a, -1):
        return negative(b)
    if a.operation == "negative":
        return negative(multiply(a.arguments[0], b))
    if b.operation == "negative":
        return negative(multiply(a, b.arguments[0]))
    return _commutative("multiply", a, b)


def divide(a: Expression, b: Expression) -> Expression:
    if is_constant(b, 0):
        _fail("division by the constant 0")
    if is_constant(a) and is_constant(b):
        return constant(a.value / b.value)
    if is_constant(b, 1) or is_constant(a, 0):
        return a
    if a.operation == "negative":
        return negative(divide(a.arguments[0], b))
    return make("divide", (a, b))


def power(a: Expression, exponent: float) -> Expression:
    if exponent == 0:
        return constant(1.0)
    if exponent == 1:
        return a
    if exponent == 2:
        return multiply(a, a)
    if exponent == 0.5:
        return unary("sqrt", a)
    if is_constant(a):
        return constant(a.value**exponent)
    return make("power", (a,), float(exponent))


def compare(operation: str, a: Any, b: Any) -> Expression:
    return make(operation, (as_number(a, "a comparison"), as_number(b, "a comparison")))


def select(condition: Expression, a: Expression, b: Expression) -> Expression:
    if a is b:
        return a
    return make("where", (condition, a, b))


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


# name -> the function on a Python float, which folds constants
UNARY: dict[str, Callable[[float], float]] = {
    "sigmoid": _sigmoid,
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "abs": abs,
    "softplus": _softplus,
    "log_sigmoid": lambda x: -_softplus(-x),
}


def unary(name: str, x: Any) -> Expression:
    x = as_number(x, f"{name}()")
    if is_constant(x):
        try:
            return constant(UNARY[name](x.value))
        except (ValueError, OverflowError) as error:
            _fail(f"{name}({x.value}) of a constant: {error}")
    return make(name, (x,))


# the functions users write -----------------------------------------------------------------------


def sigmoid(x: Any) -> Expression:
    """1 / (1 + exp(-x))."""
    return unary("sigmoid", x)


def tanh(x: Any) -> Expression:
    """Hyperbolic tangent."""
    return unary("tanh", x)


def relu(x: Any) -> Expression:
    """max(x, 0); its gradient at 0 is 0."""
    return unary("relu", x)


def exp(x: Any) -> Expression:
    """e to the power x."""
    return unary("exp", x)


def log(x: Any) -> Expression:
    """Natural logarithm."""
    return unary("log", x)


def sqrt(x: Any) -> Expression:
    """Square root."""
    return unary("sqrt", x)


def absolute(x: Any) -> Expression:
    """|x|; its gradient at 0 is 0. Python's own abs() does the same."""
    return unary("abs", x)


def softplus(x: Any) -> Expression:
    """log(1 + exp(x)), computed as max(x, 0) + log1p(exp(-|x|))."""
    return unary("softplus", x)


def log_sigmoid(x: Any) -> Expression:
    """log(sigmoid(x)) = -softplus(-x)."""
    return unary("log_sigmoid", x)


def _extreme(name: str, fold: Callable[[float, float], float], a: Any, b: Any) -> Expression:
    a, b = as_number(a, f"{name}()"), as_number(b, f"{name}()")
    if is_constant(a) and is_constant(b):
        return constant(fold(a.value, b.value))
    return a if a is b else make(name, (a, b))


def maximum(a: Any, b: Any) -> Expression:
    """The larger one; at a tie the first argument takes the whole gradient."""
    return _extreme("maximum", max, a, b)


def minimum(a: Any, b: Any) -> Expression:
    """The smaller one; at a tie the first argument takes the whole gradient."""
    return _extreme("minimum", min, a, b)


def clip(x: Any, low: Any, high: Any) -> Expression:
    """minimum(maximum(x, low), high); x keeps its gradient on the bounds themselves."""
    return minimum(maximum(x, low), high)


def where(condition: Any, a: Any, b: Any) -> Expression:
    """a where the comparison holds, else b. The branch not taken contributes no gradient at all,
    not even when its own derivative is infinite there."""
    if isinstance(condition, bool):
        return as_number(a if condition else b, "where()")
    if not isinstance(condition, Expression) or condition.operation not in CONDITIONS:
        _fail(f"where() takes a comparison such as x > 0 first, got {condition!r}")
    x, y = condition.arguments
    if is_constant(x) and is_constant(y):
        return as_number(a if CONDITIONS[condition.operation](x.value, y.value) else b, "where()")
    return select(condition, as_number(a, "where()"), as_number(b, "where()"))


def stop_gradient(x: Any) -> Expression:
    """x, as a constant for the gradient."""
    x = as_number(x, "stop_gradient()")
    return x if is_constant(x) else make("stop_gradient", (x,))


def topological(outputs: Sequence[Expression]) -> Iterator[Expression]:
    """Every node that the outputs need, arguments first."""
    seen: set[Expression] = set()
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(node.arguments)
    yield from sorted(seen, key=lambda node: node.index)
