"""A few constraints that cannot hold together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .clock import Clock, Limit
from .expressions import All, Any, Constraint, Variable, variables_of
from .lowering import Model
from .search import Search, Stats

__all__ = ["Conflict"]

ALONE = 200  # nodes to see that a constraint cannot hold even alone


class Conflict:
    """The search for a conflict among `constraints`, which are told by their places.

    core -- the fewest known so far that cannot hold together; empty until that is settled.
    stats -- the sum over all subsets tried.
    """

    def __init__(
        self,
        variables: Sequence[Variable],
        constraints: Sequence[Constraint],
        node_limit: int | None,
        clock: Clock,
    ) -> None:
        self.core: list[int] = []
        self.stats = Stats()
        self._variables = variables
        self._constraints = constraints
        self._scopes = [{id(v) for v in variables_of(part)} for part in constraints]
        self._node_limit = node_limit
        self._clock = clock

    def find(self) -> list[int]:
        """The places of an irreducible conflict; [] if there is a solution. Raises Limit.

        What cannot hold alone says most. Otherwise one constraint after the other is left out for
        good if the others have no solution either; alternatives first, so that plain ones stay.
        """
        places = range(len(self._constraints))
        order = sorted(places, key=lambda n: _has_alternatives(self._constraints[n]))
        limit = ALONE if self._node_limit is None else min(ALONE, self._node_limit)
        for n in order:
            if self._subset_solvable([n], limit) is False:
                self.core = [n]
                return self.core
        verdict = self._solvable(places, self._node_limit)
        if verdict is None:
            raise Limit(f"node_limit={self._node_limit}")
        if not verdict:
            self.core = list(places)
            for n in sorted(places, key=lambda n: not _has_alternatives(self._constraints[n])):
                rest = [other for other in self.core if other != n]
                if self._subset_solvable(rest, self._node_limit) is False:
                    self.core = rest
        return self.core

    def _subset_solvable(self, places: Iterable[int], node_limit: int | None) -> bool | None:
        try:
            return self._solvable(places, node_limit)
        except ValueError:  # a power too long to compute without the constraints left out
            return None

    def _solvable(self, places: Iterable[int], node_limit: int | None) -> bool | None:
        """Whether some constraints alone have a solution; None if that was not settled."""
        needed = set().union(*[self._scopes[n] for n in places])
        variables = [v for v in self._variables if id(v) in needed]
        parts = [self._constraints[n] for n in places]
        stats = Stats()
        try:
            model = Model(variables, parts, clock=self._clock)
            found = next(Search(model, stats, self._clock, node_limit).solutions(), None)
        except Limit:
            self._clock.look()
            return None
        finally:
            self.stats.add(stats, self._clock.seconds())
        return found is not None


def _has_alternatives(part: Constraint) -> bool:
    return isinstance(part, Any) or (
        isinstance(part, All) and any(map(_has_alternatives, part.items))
    )
