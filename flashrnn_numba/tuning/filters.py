"""Propagators for whole constraints: exact filtering by trial, and alternatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .propagators import Run
from .store import TRIALS, Fail, Store

__all__ = ["any_of", "filter_by"]


def any_of(store: Store, branches: Sequence[Sequence[Run]]) -> Run:
    """At least one branch holds; a branch is its propagators (none: we cannot tell)."""

    def alive(branch: Sequence[Run]) -> bool:
        mark = len(store.trail)
        try:
            for run in branch:
                run()
        except Fail:
            return False
        finally:
            store.undo(mark)
        return True

    def run() -> None:
        only = None
        for branch in branches:
            if alive(branch):
                if only is not None:  # two will do: which of them is left open
                    return
                only = branch
        if only is None:
            raise Fail
        for step in only:
            step()

    return run


def filter_by(
    store: Store, test: Callable[..., int], scope: Sequence[int], most: int, pairs: int
) -> Run:
    """Exact filtering once one variable of `scope` is open, or two with few pairs of values.

    most, pairs -- how many values, or pairs of values, are tried at most.
    """
    lo, hi = store.lo, store.hi

    def holds(args: list[int]) -> bool:
        try:
            return bool(test(*args))
        except ZeroDivisionError:
            return False

    def one(n: int, args: list[int]) -> None:
        x = scope[n]
        vals = store.values(x)
        if len(vals) > most:
            return
        kept = []
        for start in range(0, len(vals), TRIALS):
            store.look()
            for v in vals[start : start + TRIALS]:
                args[n] = v
                if holds(args):
                    kept.append(v)
        if len(kept) < len(vals):
            store.set_values(x, tuple(kept))

    def two(n: int, m: int, args: list[int]) -> None:
        xs, ys = store.values(scope[n]), store.values(scope[m])
        if len(xs) * len(ys) > pairs:
            return
        kept, supported = [], set()
        for v in xs:
            args[n] = v
            some = False
            for w in ys:
                args[m] = w
                if holds(args):
                    some = True
                    supported.add(w)
            if some:
                kept.append(v)
        if len(kept) < len(xs):
            store.set_values(scope[n], tuple(kept))
        if len(supported) < len(ys):
            store.set_values(scope[m], tuple(sorted(supported)))

    def run() -> None:
        free = []
        for n, x in enumerate(scope):
            if lo[x] != hi[x]:
                free.append(n)
                if len(free) > 2:
                    return
        args = [lo[x] for x in scope]
        if len(free) == 1:
            one(free[0], args)
        elif len(free) == 2:
            two(free[0], free[1], args)
        elif not free and not holds(args):
            raise Fail

    return run
