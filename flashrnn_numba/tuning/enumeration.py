"""Small problems: all assignments at once, as a table of integers. A search is for the others.

The table grows by one variable at a time, and every constraint filters its rows as soon as all of
its variables are columns. NumPy does a row in nanoseconds where a propagator takes microseconds, so
this is the faster way for as long as the table stays short. What could not be told exactly is given
up: too many rows, or numbers that need more than 64 bits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any as Anything

import numpy as np

from .clock import Clock
from .expressions import (
    All,
    Any,
    Comparison,
    Constraint,
    Expression,
    Member,
    Truth,
    Variable,
    variables_of,
)
from .spans import Span, span_of

__all__ = ["Table", "enumerate_all"]

ROWS = 1 << 16  # the longest table
BOX = 1 << 34  # of values, all combined: beyond it a table would hardly stay short
LARGEST = 1 << 62  # numbers at most

Value = Anything  # an int, or an array of int64 with one number a row
Bad = Anything  # rows where something was divided by zero, or None

_COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PLAIN = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_PARTIAL: dict[str, Callable[[Value, Value], Value]] = {
    "//": operator.floordiv,
    "%": operator.mod,
    "**": np.power,
}


class TooLargeError(Exception):
    """A table cannot do this problem."""


class Table:
    """All assignments of some variables that satisfy the constraints on them.

    rows -- how many; seen -- how many were looked at on the way. clock -- for the time limit.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.rows = 1
        self.seen = 0
        self.columns: dict[int, np.ndarray] = {}
        self._known: dict[
            int, tuple[Value, Bad]
        ] = {}  # of subexpressions, for the rows as they are

    def extend(self, variable: Variable) -> None:
        """Each row once for each value."""
        domain = variable.domain if variable.prefer == "smallest" else variable.domain[::-1]
        if self.rows * len(domain) > ROWS:
            raise TooLargeError
        for key, column in self.columns.items():
            self.columns[key] = np.repeat(column, len(domain))
        self.columns[id(variable)] = np.tile(np.array(domain, np.int64), self.rows)
        self.rows *= len(domain)
        self.seen += self.rows
        self._known = {}

    def cheapest(self, objective: Expression) -> np.ndarray:
        """The numbers of the rows, the cheapest first; without those where it divides by zero."""
        _, bad = self.value(objective)
        if bad is not None:
            self.keep(~bad)
        return np.argsort(self.costs(objective), kind="stable")

    def costs(self, objective: Expression) -> np.ndarray:
        return np.broadcast_to(self.value(objective)[0], (self.rows,))

    def row(self, number: int, variables: Sequence[Variable]) -> list[int]:
        return [int(self.columns[id(v)][number]) for v in variables]

    def filter(self, constraints: Sequence[Constraint]) -> None:
        kept: Anything = True
        for constraint in constraints:
            self._clock.look()
            kept = kept & self.holds(constraint)
        if constraints:
            self.keep(kept)

    def keep(self, mask: Anything) -> None:
        """The rows where the mask is true; it may be one bool for all."""
        mask = np.broadcast_to(mask, (self.rows,))
        count = int(np.count_nonzero(mask))
        if count < self.rows:
            for key, column in self.columns.items():
                self.columns[key] = column[mask]
            self.rows = count
            self._known = {}

    def holds(self, part: Constraint) -> Anything:
        """For each row, or for all in one bool."""
        if isinstance(part, Comparison):
            (left, bad), (right, worse) = self.value(part.left), self.value(part.right)
            return _unless(_COMPARE[part.op](left, right), _either(bad, worse))
        if isinstance(part, Member):
            value, bad = self.value(part.expression)
            return _unless(np.isin(value, part.values), bad)
        if isinstance(part, Truth):
            return part.value
        assert isinstance(part, All | Any)
        all_of = isinstance(part, All)
        result: Anything = all_of
        for item in part.items:
            result = result & self.holds(item) if all_of else result | self.holds(item)
        return result

    def value(self, tree: Expression) -> tuple[Value, Bad]:
        if tree.op == "const":
            return tree.value, None
        if tree.op == "var":
            return self.columns[id(tree)], None
        if id(tree) not in self._known:
            self._known[id(tree)] = self._apply(tree)
        return self._known[id(tree)]

    def _apply(self, tree: Expression) -> tuple[Value, Bad]:
        values, bad = [], None
        for arg in tree.args:
            value, worse = self.value(arg)
            values.append(value)
            bad = _either(bad, worse)
        if tree.op in _PLAIN:
            return _PLAIN[tree.op](*values), bad
        if tree.op in ("min", "max"):
            pick = np.minimum if tree.op == "min" else np.maximum
            result = values[0]
            for value in values[1:]:
                result = pick(result, value)
            return result, bad
        left, right = values
        if tree.op == "**":
            wrong = np.less(right, 0)
        else:
            wrong = np.equal(right, 0)
        if wrong.any():
            bad = _either(bad, wrong)
            right = np.where(wrong, 1, right)
        return _PARTIAL[tree.op](left, right), bad


def _either(bad: Bad, worse: Bad) -> Bad:
    return bad if worse is None else worse if bad is None else bad | worse


def _unless(holds: Anything, bad: Bad) -> Anything:
    return holds if bad is None else holds & ~bad


def enumerate_all(
    variables: Sequence[Variable],
    constraints: Sequence[Constraint],
    others: Sequence[Expression],
    clock: Clock,
) -> Table | None:
    """The table of all solutions; None where a search must do it.

    others -- expressions that will be asked of the table. clock -- raises Limit in time.
    """
    if prod(len(v.domain) for v in variables) > BOX:
        return None
    parts = [(part, variables_of(part)) for whole in constraints for part in _parts(whole)]
    try:
        size = _Size()
        for part, _ in parts:
            size.check(part)
        table = _joined(variables, parts, Table(clock))
        # of a table without rows nothing is asked
        for expression in others if table.rows else ():
            size.span(expression)
        return table
    except TooLargeError:
        return None


def _joined(
    variables: Sequence[Variable], parts: list[tuple[Constraint, list[Variable]]], table: Table
) -> Table:
    missing = [(part, {id(v): v for v in scope}) for part, scope in parts]
    rest = {id(v): v for v in variables}
    table.filter([part for part, scope in missing if not scope])
    missing = [row for row in missing if row[1]]
    while rest and table.rows:
        variable = _next(rest, missing)
        table.extend(variable)
        del rest[id(variable)]
        for _, scope in missing:
            scope.pop(id(variable), None)
        table.filter([part for part, scope in missing if not scope])
        missing = [row for row in missing if row[1]]
    for key in rest:  # where nothing is left
        table.columns[key] = np.zeros(0, np.int64)
    return table


def _next(
    rest: dict[int, Variable], missing: list[tuple[Constraint, dict[int, Variable]]]
) -> Variable:
    """The smallest variable of the constraint that can filter soonest."""
    scopes = [scope for _, scope in missing] or [rest]
    soonest = min(scopes, key=lambda scope: prod(len(v.domain) for v in scope.values()))
    return min(soonest.values(), key=lambda v: len(v.domain))


def _parts(constraint: Constraint) -> list[Constraint]:
    """What must hold, in pieces with few variables: all of a conjunction, and of an alternative
    with one conjunction in it each of that with the rest."""
    if isinstance(constraint, All):
        return [part for item in constraint.items for part in _parts(item)]
    if isinstance(constraint, Any):
        items = [item for one in constraint.items for item in _alternatives(one)]
        whole = [item for item in items if isinstance(item, All)]
        if len(whole) == 1:
            rest = [item for item in items if item is not whole[0]]
            return [part for item in whole[0].items for part in _parts(Any((*rest, item)))]
    return [constraint]


def _alternatives(constraint: Constraint) -> list[Constraint]:
    if isinstance(constraint, Any):
        return [item for one in constraint.items for item in _alternatives(one)]
    return [constraint]


class _Size:
    """How large numbers can become, so that none overflows."""

    def __init__(self) -> None:
        self._known: dict[int, Span] = {}

    def check(self, part: Constraint) -> None:
        if isinstance(part, Comparison):
            self.span(part.left)
            self.span(part.right)
        elif isinstance(part, Member):
            self.span(part.expression)
            _small((min(part.values), max(part.values)))
        elif isinstance(part, All | Any):
            for item in part.items:
                self.check(item)

    def span(self, tree: Expression) -> Span:
        """Between which numbers an expression lies. TooLargeError where 64 bits may not do."""
        if isinstance(tree, Variable):
            return _small((tree.domain[0], tree.domain[-1]))
        if tree.op == "const":
            return _small((tree.value, tree.value))
        if id(tree) not in self._known:
            self._known[id(tree)] = _small(self._apply(tree))
        return self._known[id(tree)]

    def _apply(self, tree: Expression) -> Span:
        spans = [self.span(arg) for arg in tree.args]
        if tree.op == "**":
            (low, high), (_, most) = spans
            if max(-low, high) > 1 and most > 64:
                raise TooLargeError
        return span_of(tree.op, spans)


def _small(span: Span) -> Span:
    if max(-span[0], span[1]) > LARGEST:
        raise TooLargeError
    return span
