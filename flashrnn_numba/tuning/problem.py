"""`Problem`: integer variables, constraints and a cost, solved to proven optimality.

p = Problem()
tile, count = p.variable("tile", [8, 16, 32]), p.variable("count", range(1, 65))
p.require(tile * count == 512, name="covers the head", unit="columns")
p.require(512 % (tile * 4) == 0)
p.solve(minimize=tile * 3 + count)      # {"tile": 8, "count": 64}
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

from . import constrint
from .clock import Clock, Limit
from .conflicts import Conflict
from .expressions import Any as AnyOf
from .expressions import (
    Comparison,
    Constraint,
    Expression,
    Variable,
    as_constraint,
    as_expression,
    evaluator,
    variables_of,
)
from .lowering import Model
from .printing import shortened
from .search import SearchLimit, Stats, solutions

__all__ = ["Problem", "Requirement"]


@dataclass(frozen=True)
class Requirement:
    """A constraint as `Problem.require` took it: what must hold, its name and its unit."""

    name: str
    unit: str | None
    constraint: Constraint

    def sides(self, solution: dict[str, int]) -> tuple[int, str, int] | None:
        """(left value, operator, right value) at a solution; None unless it is a comparison."""
        part = self.constraint
        if not isinstance(part, Comparison):
            return None
        values = []
        for side in (part.left, part.right):
            scope = variables_of(side)
            (function,) = evaluator([(side, scope)])
            values.append(function(*[solution[v.name] for v in scope]))
        return values[0], part.op, values[1]


class Problem:
    """An integer constraint problem.

    `variables` and `constraints` are what was added so far, in order. `stats` is what the latest
    search cost (see `Stats`); each search starts it anew.
    """

    def __init__(self) -> None:
        self.stats = Stats()
        self._variables: dict[str, Variable] = {}
        self._constraints: dict[str, Requirement] = {}

    @property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(self._variables.values())

    @property
    def constraints(self) -> tuple[Requirement, ...]:
        return tuple(self._constraints.values())

    def __repr__(self) -> str:
        return f"Problem({len(self._variables)} variables, {len(self._constraints)} constraints)"

    # -- stating -----------------------------------------------------------------------------

    def variable(self, name: str, values: Iterable[int], prefer: str = "smallest") -> Variable:
        """A new integer variable.

        name -- its key in solutions, unique in the problem.
        values -- the integers that it may take: a list, or a range (which is never spelled out,
            so `range(10 ** 9)` costs nothing).
        prefer -- "smallest" or "largest": what is tried first where the cost does not say. It
            changes how soon good solutions are found, never which one is optimal.

        Raises TypeError or ValueError, which say what was expected.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"name: expected a non-empty str, got {name!r}")
        if name in self._variables:
            raise ValueError(f"name: a variable {name!r} exists already; choose another name")
        if prefer not in ("smallest", "largest"):
            raise ValueError(f"prefer: expected 'smallest' or 'largest', got {prefer!r}")
        variable = Variable(name, _domain(name, values), self, prefer)
        self._variables[name] = variable
        return variable

    def require(
        self, constraint: Constraint | bool, name: str | None = None, unit: str | None = None
    ) -> None:
        """Add a constraint: a comparison, or several joined by `&` (all) or `|` (any).

        name -- what `conflict` and explanations call it, by default its own text (of a long one
            the ends). A second one of the same name gets ` (2)` after it.
        unit -- what both sides count ("bytes", "registers"), for explanations.

        A plain True (no variable was in the comparison) is accepted; a plain False makes the
        problem infeasible, and `conflict` names it.
        """
        part = as_constraint(constraint, "constraint")
        for variable in variables_of(part):
            self._check_owner(variable, "constraint", part)
        for label, text in (("name", name), ("unit", unit)):
            if text is not None and not isinstance(text, str):
                raise TypeError(f"{label}: expected a str or None, got {text!r}")
        name = self._another(shortened(str(part)) if name is None else name)
        self._constraints[name] = Requirement(name, unit, part)

    def exclude(self, solution: Mapping[str, int], name: str | None = None) -> None:
        """Add the constraint that the solution is another one: not all of these values at once.

        solution -- as `solve` returns it, or some of it: {"tile": 8} leaves no solution with that
            tile. name -- as in `require`.
        """
        parts = []
        for key, value in solution.items():
            if key not in self._variables:
                raise ValueError(
                    f"solution: no variable {key!r}, expected some of "
                    f"{', '.join(self._variables) or 'none'}"
                )
            parts.append(self._variables[key] != value)
        self.require(AnyOf(parts), name if name or parts else "another solution than {}")

    def _another(self, name: str) -> str:
        """`name`, or `name (2)`, `name (3)`, ... where it is taken."""
        chosen, n = name, 1
        while chosen in self._constraints:
            n += 1
            chosen = f"{name} ({n})"
        return chosen

    @classmethod
    def parse(cls, text: str, prefer: Mapping[str, str] | None = None) -> Problem:
        """A problem in ConstrINT's text form; see `constrint.py` for the grammar.

        prefer -- what is tried first, by the variable's name: {"TILE": "largest"}. All others
            start with their smallest value.

        Raises ValueError that quotes the statement which cannot be read, with line and column.
        """
        problem = cls()
        constrint.read(text, problem, prefer)
        return problem

    def to_text(self) -> str:
        """The problem in ConstrINT's text form. ValueError for what that form cannot say."""
        return constrint.write(self)

    # -- solving -----------------------------------------------------------------------------

    def solve(
        self,
        *,
        minimize: Expression | int | None = None,
        maximize: Expression | int | None = None,
        node_limit: int | None = None,
        time_limit: float | None = None,
    ) -> dict[str, int] | None:
        """A solution, or the best one, as {variable name: value}; None if there is none.

        With minimize or maximize the answer is proven optimal (branch and bound). A solution at
        which the objective divides by zero does not count.
        node_limit, time_limit (seconds) -- raise `SearchLimit` when reached; its `best` is the
            best solution found until then. A node is a branch of the search. A small problem with
            a cost is enumerated (see `Stats.rows`) and has no nodes, so it is answered under any
            node_limit: its table is never longer than 65,536 rows. time_limit holds for both.
        """
        if minimize is not None and maximize is not None:
            raise ValueError(
                "minimize and maximize: expected at most one of them; "
                "weigh the two in one expression"
            )
        if maximize is not None:
            minimize = -as_expression(maximize)
        if minimize is not None:
            found = self.best(1, minimize, node_limit=node_limit, time_limit=time_limit)
            return found[0] if found else None
        return next(self.solutions(node_limit=node_limit, time_limit=time_limit), None)

    def best(
        self,
        count: int,
        minimize: Expression | int,
        *,
        node_limit: int | None = None,
        time_limit: float | None = None,
    ) -> list[dict[str, int]]:
        """The `count` solutions of least cost, the best first (fewer if there are fewer)."""
        found = self.ranked(count, minimize, node_limit=node_limit, time_limit=time_limit)
        return [solution for _, solution in found]

    def ranked(
        self,
        count: int,
        minimize: Expression | int,
        *,
        node_limit: int | None = None,
        time_limit: float | None = None,
    ) -> list[tuple[int, dict[str, int]]]:
        """`best`, with the cost of each: (cost, solution)."""
        if operator.index(count) < 1:
            raise ValueError(f"count: expected at least 1, got {count}")
        rows: list[tuple[int, dict[str, int]]] = []
        try:
            objective = as_expression(minimize)
            for values, cost in self._search(objective, node_limit, time_limit, count):
                assert cost is not None
                rows.append((cost, self._named(values)))
                rows.sort(key=lambda pair: pair[0])
                del rows[count:]
        except Limit as limit:
            best = rows[0][1] if rows else None
            raise self._limit_error(limit, best) from None
        return rows

    def solutions(
        self, *, node_limit: int | None = None, time_limit: float | None = None
    ) -> Iterator[dict[str, int]]:
        """All solutions, each once, one at a time, in no particular order."""
        try:
            for values, _ in self._search(None, node_limit, time_limit, 1):
                yield self._named(values)
        except Limit as limit:
            raise self._limit_error(limit, None) from None

    def domains(self, *, time_limit: float | None = None) -> dict[str, Sequence[int]] | None:
        """The values that propagation alone leaves to each variable, ascending (a range or a
        tuple); None if it finds that there is no solution. No search: not each of the values need
        be part of a solution.

        time_limit (seconds) -- raises `SearchLimit` when reached.
        """
        _check_limits(None, time_limit)
        self.stats = stats = Stats()
        clock = Clock(perf_counter(), time_limit)
        try:
            model = Model(self.variables, [r.constraint for r in self.constraints], clock=clock)
            possible = not model.infeasible and model.store.propagate()
        except Limit as limit:
            stats.seconds = clock.seconds()
            raise self._limit_error(limit, None) from None
        stats.propagations, stats.seconds = model.store.propagations, clock.seconds()
        if not possible:
            return None
        values = [model.store.values(x) for x in model.nodes]
        return dict(zip(self._variables, values, strict=True))

    def conflict(
        self, *, node_limit: int | None = 50_000, time_limit: float | None = None
    ) -> list[str]:
        """The names of constraints that cannot hold together; [] if there is a solution.

        The set is irreducible: without any one of them the others have a solution. A constraint
        that cannot hold alone is named alone; otherwise plain constraints are preferred to
        alternatives (`|`). The variables' domains are taken for granted. `stats` is the sum over
        all subsets of constraints tried.
        node_limit -- for each subset. One that is not settled within it counts as solvable, so the
            set returned is still a conflict but may not be irreducible.
        time_limit -- for all of it, in seconds.

        Raises SearchLimit if the whole problem cannot be settled within node_limit, or when the
        time is over; its `conflict` has the names known so far.
        """
        _check_limits(node_limit, time_limit)
        requirements = self.constraints
        parts = [r.constraint for r in requirements]
        search = Conflict(self.variables, parts, node_limit, Clock(perf_counter(), time_limit))
        self.stats = search.stats
        try:
            places, reached = search.find(), None
        except Limit as limit:
            places, reached = search.core, limit
        names = [requirements[n].name for n in places]
        if reached is not None:
            raise self._conflict_error(reached, names)
        return names

    def _search(
        self,
        objective: Expression | None,
        node_limit: int | None,
        time_limit: float | None,
        keep: int,
    ) -> Iterator[tuple[list[int], int | None]]:
        _check_limits(node_limit, time_limit)
        start = perf_counter()
        if objective is not None:
            for variable in variables_of(objective):
                self._check_owner(variable, "objective", objective)
        self.stats = stats = Stats()
        constraints = [r.constraint for r in self.constraints]
        limits = node_limit, time_limit
        return solutions(self.variables, constraints, objective, stats, start, *limits, keep)

    def _named(self, values: list[int]) -> dict[str, int]:
        return dict(zip(self._variables, values, strict=True))

    def _limit_error(self, limit: Limit, best: dict[str, int] | None) -> SearchLimit:
        stats = self.stats
        return SearchLimit(
            f"{limit} reached after {stats.nodes} nodes and {stats.seconds:.3g} s; "
            f"{'a solution is in .best, not proven optimal' if best else 'no solution yet'}. "
            "Raise the limit, or give variables smaller domains",
            best,
            stats,
        )

    def _conflict_error(self, limit: Limit, names: list[str]) -> SearchLimit:
        known = (
            f"{len(names)} constraints that cannot hold together are in .conflict, though fewer "
            "may do"
            if names
            else "whether there is a solution is not settled"
        )
        return SearchLimit(
            f"{limit} reached after {self.stats.nodes} nodes and {self.stats.seconds:.3g} s; "
            f"{known}. Raise the limit, or give variables smaller domains",
            None,
            self.stats,
            names,
        )

    def _check_owner(self, variable: Variable, what: str, whole: Constraint | Expression) -> None:
        if variable.owner is not self:
            raise ValueError(
                f"{what} `{whole}`: variable {variable.name!r} belongs to another Problem; "
                "use the variables that this problem's variable() returned"
            )


def _check_limits(node_limit: int | None, time_limit: float | None) -> None:
    for label, limit in (("node_limit", node_limit), ("time_limit", time_limit)):
        if limit is not None and not limit >= 0:
            raise ValueError(f"{label}: expected a number >= 0 or None, got {limit!r}")


def _domain(name: str, values: Iterable[int]) -> range | tuple[int, ...]:
    """`values` as an ascending range or tuple."""
    if isinstance(values, range):
        domain: range | tuple[int, ...] = values if values.step > 0 else values[::-1]
    else:
        try:
            domain = tuple(sorted({operator.index(v) for v in values}))
        except TypeError:
            raise TypeError(
                f"variable {name!r}: values: expected a range or a list of integers, "
                f"got {values!r}; a fixed value is a list of one"
            ) from None
    if not domain:
        raise ValueError(f"variable {name!r}: values: expected at least one value, got none")
    return domain
