"""Depth-first search over a `Model`: variable order, value order, branch and bound, limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from .lowering import Model

__all__ = ["Limit", "SearchLimit", "Stats", "search"]

ENUMERATE = 24  # a domain up to this size is branched value by value, a larger one is halved


@dataclass
class Stats:
    """What a search cost.

    nodes -- branches taken; failures -- branches that propagation or a final check refuted;
    propagations -- runs of a propagator; seconds -- wall time, with building the model;
    first -- wall time to the first solution, None if there was none; solutions -- how many came.
    """

    nodes: int = 0
    failures: int = 0
    propagations: int = 0
    seconds: float = 0.0
    first: float | None = None
    solutions: int = 0


class SearchLimit(RuntimeError):
    """The node or time limit was reached before the search was complete.

    `best` is the best solution so far, or None; it is not proven optimal. `stats` says what the
    search had cost.
    """

    def __init__(self, message: str, best: dict[str, int] | None, stats: Stats) -> None:
        super().__init__(message)
        self.best = best
        self.stats = stats


class Limit(Exception):
    """Inside the search: which limit was reached."""


def search(
    model: Model,
    stats: Stats,
    start: float,
    node_limit: int | None = None,
    time_limit: float | None = None,
    keep: int = 1,
) -> Iterator[tuple[list[int], int | None]]:
    """Yield (values, cost) of solutions; with an objective, each better than the keep-th best.

    Raises Limit when a limit is reached.
    """
    store, nodes = model.store, model.nodes
    best: list[int] = []  # the costs of the keep best solutions, ascending
    objective = model.objective
    falling = _falling(model)
    stack: list[tuple[int, int, list[Sequence[int]]]] = []
    if model.infeasible or not store.propagate():
        stats.failures += 1
        stats.propagations = store.propagations
        stats.seconds = perf_counter() - start
        return
    while True:
        x = _choose(model)
        if x is None:
            found = _accept(model)
            if found is None:
                stats.failures += 1
            else:
                stats.solutions += 1
                stats.seconds = perf_counter() - start
                stats.propagations = store.propagations
                if stats.first is None:
                    stats.first = stats.seconds
                cost = found[1]
                if cost is not None:
                    best.append(cost)
                    best.sort()
                    del best[keep:]
                yield found
        else:
            stack.append((len(store.trail), x, _branches(store.values(x), x in falling)))
        while stack:
            mark, x, branches = stack[-1]
            store.undo(mark)
            if not branches:
                stack.pop()
                continue
            branch = branches.pop()
            stats.nodes += 1
            if node_limit is not None and stats.nodes > node_limit:
                raise Limit(f"node_limit={node_limit}")
            if (
                time_limit is not None
                and not stats.nodes & 15
                and perf_counter() - start > time_limit
            ):
                raise Limit(f"time_limit={time_limit}")
            if len(branch) == 1:
                store.fix(x, branch[0])
            else:
                store.set_values(x, branch)
            if objective is not None and len(best) == keep and store.hi[objective] >= best[-1]:
                if store.lo[objective] >= best[-1]:
                    store._drop_queue()
                    stats.failures += 1
                    continue
                store.set_hi(objective, best[-1] - 1)
            if store.propagate():
                break
            stats.failures += 1
        else:
            stats.propagations = store.propagations
            stats.seconds = perf_counter() - start
            return


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


def _accept(model: Model) -> tuple[list[int], int | None] | None:
    """The complete assignment if it passes every exact test."""
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

    What the user prefers; with an objective, where it falls from the variable's smallest to its
    largest value, the others at their smallest.
    """
    if model.cost is None:
        return {
            x
            for x, variable in zip(model.nodes, model.variables, strict=True)
            if variable.prefer == "largest"
        }
    function, scope = model.cost
    lo, hi = model.store.lo, model.store.hi
    values = [lo[x] for x in scope]
    falling = set()
    for n, x in enumerate(scope):
        low = values[n]
        try:
            here = function(*values)
            values[n] = hi[x]
            if function(*values) < here:
                falling.add(x)
        except ZeroDivisionError:
            pass
        values[n] = low
    return falling
