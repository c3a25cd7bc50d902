"""Deep expressions made shallow.

`sum(v)` over a thousand variables nests a thousand levels deep. Python's compiler takes no more
than 200 brackets, and the solver walks trees by recursion. Sums, products, minima and maxima may be
grouped in any way, so what grows too deep is regrouped as it is built, and every tree stays within
`DEEPEST`. Short expressions never come here.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .expressions import Expression

__all__ = ["DEEPEST", "regrouped"]

DEEPEST = 100  # levels of an expression at most
REGROUPED = 75  # after regrouping: what is added one by one is then regrouped now and then only
BLOCK = 12  # levels of a group that is left as it is, so that long sums take linear time

Make = Callable[[str, tuple["Expression", ...]], "Expression"]


def regrouped(tree: Expression, make: Make) -> Expression | None:
    """An expression that equals `tree`, at most REGROUPED levels deep; None if there is none."""
    for block in (BLOCK, 0):
        found = _Regrouping(make, block).of(tree)
        if found.depth <= REGROUPED:
            return found
    return None


class _Regrouping:
    def __init__(self, make: Make, block: int) -> None:
        self._make = make
        self._block = block
        self._known: dict[int, Expression] = {}  # what is shared stays shared

    def of(self, tree: Expression) -> Expression:
        if tree.depth <= self._block:
            return tree
        found = self._known.get(id(tree))
        if found is None:
            found = self._known[id(tree)] = self._anew(tree)
        return found

    def _anew(self, tree: Expression) -> Expression:
        if tree.op in ("+", "-"):
            terms = [(sign, self.of(term)) for sign, term in self._terms(tree, ("+", "-"))]
            plus = [term for sign, term in terms if sign > 0]
            minus = [term for sign, term in terms if sign < 0]
            total = self._grouped("+", plus)
            return self._make("-", (total, self._grouped("+", minus))) if minus else total
        if tree.op in ("*", "min", "max"):
            parts = [self.of(part) for _, part in self._terms(tree, (tree.op,))]
            if tree.op == "*":
                return self._grouped("*", parts)
            return self._make(tree.op, tuple(parts))
        return self._make(tree.op, tuple(map(self.of, tree.args)))

    def _terms(self, tree: Expression, ops: tuple[str, ...]) -> list[tuple[int, Expression]]:
        """(sign, term) of a chain of `ops`, from the left. A chain within it that comes a second
        time is one term: written out each time, x + x of x + x of ... would never end."""
        terms: list[tuple[int, Expression]] = []
        stack, met = [(1, tree)], set[int]()
        while stack:
            sign, top = stack.pop()
            if top.op in ops and id(top) not in met and top.depth > self._block:
                met.add(id(top))
                last = -sign if top.op == "-" else sign
                first, *rest = top.args
                stack += [(last, arg) for arg in reversed(rest)]
                stack.append((sign, first))
            else:
                terms.append((sign, top))
        return terms

    def _grouped(self, op: str, parts: list[Expression]) -> Expression:
        """The parts in pairs of pairs, the deepest ones at the top."""
        heap = [(part.depth, n, part) for n, part in enumerate(parts)]
        heapify(heap)
        while len(heap) > 1:
            # in the order of their first parts, for the sake of the text
            pair = sorted((heappop(heap)[1:], heappop(heap)[1:]))
            both = self._make(op, (pair[0][1], pair[1][1]))
            heappush(heap, (both.depth, pair[0][0], both))
        return heap[0][2]
