"""Depth-first search over a `Model`: variable order, value order, branch and bound, limits.

`solutions` is what callers use: it leaves small problems with an objective to enumeration.py.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .clock import Clock, Limit
from .enumeration import enumerate_all
from .expressions import Constraint, Expression, Variable
from .lowering import Model

__all__ = ["Limit", "Search", "SearchLimit", "Stats", "solutions"]

ENUMERATE = 24  # a domain up to this size is branched value by value, a larger one is halved


@dataclass
class Stats:
    """What a search cost.

    nodes -- branches taken; failures -- branches that propagation or a final check refuted;
    propagations -- runs of a propagator; seconds -- wall time, with building the model;
    first -- wall time to the first solution, None if there was none; solutions -- how many came;
    rows -- (partial) assignments that were enumerated instead: then there are no branches, and
    node_limit does not apply.
    """

    nodes: int = 0
    failures: int = 0
    propagations: int = 0
    seconds: float = 0.0
    first: float | None = None
    solutions: int = 0
    rows: int = 0

    def enumerated(self, rows: int, solutions: int, seconds: float) -> None:
        self.rows, self.solutions, self.seconds = rows, solutions, seconds
        self.first = seconds if solutions else None

    def add(self, other: Stats, seconds: float) -> None:
        """Another search, which ended `seconds` after the start."""
        self.nodes += other.nodes
        self.failures += other.failures
        self.propagations += other.propagations
        self.seconds = seconds


class SearchLimit(RuntimeError):  # noqa: N818 -- the name in the public interface
    """The node or time limit was reached before the search was complete.

    `best` is the best solution so far, or None; it is not proven optimal. `stats` says what the
    search had cost. `conflict` are the names of constraints that `Problem.conflict` knows not to
    hold together, though fewer may do; [] if it had not got there.
    """

    def __init__(
        self,
        message: str,
        best: dict[str, int] | None,
        stats: Stats,
        conflict: list[str] | None = None,
    ) -> None:
        super().__init__(message)
        self.best = best
        self.stats = stats
        self.conflict = conflict or []


def solutions(
    variables: Sequence[Variable],
    constraints: Sequence[Constraint],
    objective: Expression | None,
    stats: Stats,
    start: float,
    node_limit: int | None = None,
    time_limit: float | None = None,
    keep: int = 1,
) -> Iterator[tuple[list[int], int | None]]:
    """(values, cost) of solutions: all of them, or with an objective some that get better and
    better, the `keep` best among them. Raises Limit."""
    clock = Clock(start, time_limit)
    table, model = None, None
    try:
        if objective is not None:
            table = enumerate_all(variables, constraints, [objective], clock)
        if table is None or objective is None:
            model = Model(variables, constraints, objective, clock)
            yield from Search(model, stats, clock, node_limit, keep).solutions()
            return
    except Limit:
        stats.seconds = clock.seconds()
        stats.propagations = 0 if model is None else model.store.propagations
        raise
    best = table.cheapest(objective)[:keep]
    costs = table.costs(objective)
    stats.enumerated(table.seen, table.rows, clock.seconds())
    for row in reversed(best.tolist()):
        yield table.row(row, variables), int(costs[row])


class Search:
    """One depth-first search.

    keep -- with an objective: how many of the best solutions are wanted. A branch is cut when it
        cannot beat the keep-th best so far.
    """

    def __init__(
        self,
        model: Model,
        stats: Stats,
        clock: Clock,
        node_limit: int | None = None,
        keep: int = 1,
    ) -> None:
        self.model = model
        self.stats = stats
        self.clock = clock
        self.node_limit = node_limit
        self.keep = keep
        self.costs: list[int] = []  # of the keep best solutions, ascending
        self.falling = _falling(model)
        # Where a variable was branched on: trail length before, variable, branches left (last
        # first).
        self.stack: list[tuple[int, int, list[Sequence[int]]]] = []

    def solutions(self) -> Iterator[tuple[list[int], int | None]]:
        """(values, cost) of each solution found. Raises Limit."""
        store = self.model.store
        if self.model.infeasible or not store.propagate():
            self.stats.failures += 1
            self._account()
            return
        alive = True
        while alive:
            x = _choose(self.model)
            if x is None:
                found = self._accept()
                if found is not None:
                    yield found
            else:
                branches = _branches(store.values(x), x in self.falling)
                self.stack.append((len(store.trail), x, branches))
            alive = self._advance()
        self._account()

    def _advance(self) -> bool:
        """Take the next branch that propagation does not refute; False when none is left."""
        store, stats, stack = self.model.store, self.stats, self.stack
        while stack:
            mark, x, branches = stack[-1]
            store.undo(mark)
            if not branches:
                stack.pop()
                continue
            branch = branches.pop()
            stats.nodes += 1
            if self.node_limit is not None and stats.nodes > self.node_limit:
                self._account()
                raise Limit(f"node_limit={self.node_limit}")
            if len(branch) == 1:
                store.fix(x, branch[0])
            else:
                store.set_values(x, branch)
            if self._bound() and store.propagate():
                return True
            stats.failures += 1
        return False

    def _bound(self) -> bool:
        """Demand a cost below the keep-th best; False if this branch cannot have one."""
        objective = self.model.objective
        if objective is None or len(self.costs) < self.keep:
            return True
        store, most = self.model.store, self.costs[-1] - 1
        if store.lo[objective] > most:
            store.drop_queue()
            return False
        if store.hi[objective] > most:
            store.set_hi(objective, most)
        return True

    def _accept(self) -> tuple[list[int], int | None] | None:
        """The complete assignment, if it passes every exact test; and remember its cost."""
        found = _checked(self.model)
        if found is None:
            self.stats.failures += 1
            return None
        self.stats.solutions += 1
        self._account()
        if self.stats.first is None:
            self.stats.first = self.stats.seconds
        if found[1] is not None:
            insort(self.costs, found[1])
            del self.costs[self.keep :]
        return found

    def _account(self) -> None:
        self.stats.propagations = self.model.store.propagations
        self.stats.seconds = self.clock.seconds()


def _choose(model: Model) -> int | None:
    """The open variable with the fewest values for its weight (dom/wdeg); None if all are fixed.

    The weight counts the variable's constraints and the failures that they caused so far.
    """
    store = model.store
    lo, hi, vals, weight = store.lo, store.hi, store.vals, store.weight
    chosen, least = None, 0.0
    for x in model.nodes:
        if lo[x] != hi[x]:
            held = vals[x]
            size = (hi[x] - lo[x] + 1 if held is None else len(held)) / weight[x]
            if chosen is None or size < least:
                chosen, least = x, size
    return chosen


def _branches(vals: Sequence[int], falling: bool) -> list[Sequence[int]]:
    """What to try for a variable, the first one last."""
    if len(vals) <= ENUMERATE:
        ordered: list[Sequence[int]] = [(v,) for v in vals]
    else:
        half = len(vals) // 2
        ordered = [vals[:half], vals[half:]]
    if not falling:
        ordered.reverse()
    return ordered


def _checked(model: Model) -> tuple[list[int], int | None] | None:
    """(values, cost) of the complete assignment if it passes every exact test."""
    lo = model.store.lo
    try:
        for test, scope in model.checks:
            if not test(*[lo[x] for x in scope]):
                return None
        cost = None
        if model.cost is not None:
            function, scope = model.cost
            cost = function(*[lo[x] for x in scope])
    except ZeroDivisionError:
        return None
    return [lo[x] for x in model.nodes], cost


def _falling(model: Model) -> set[int]:
    """The variables to try from their largest value down.

    Where the objective changes from the variable's smallest to its largest value (the others at
    their smallest), what lowers it; elsewhere what the user prefers.
    """
    falling = {
        x
        for x, variable in zip(model.nodes, model.variables, strict=True)
        if variable.prefer == "largest"
    }
    if model.cost is None:
        return falling
    function, scope = model.cost
    lo, hi = model.store.lo, model.store.hi
    values = [lo[x] for x in scope]
    for n, x in enumerate(scope):
        try:
            values[n] = hi[x]
            there = function(*values)
            values[n] = lo[x]
            here = function(*values)
        except ZeroDivisionError:
            values[n] = lo[x]
            continue
        if there < here:
            falling.add(x)
        elif there > here:
            falling.discard(x)
    return falling
