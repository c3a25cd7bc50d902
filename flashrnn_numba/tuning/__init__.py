"""Which sizes: the integer constraint solver, the devices' limits, the tuning cache.

See docs/notes/solver.md for how the solver works.
"""

from .expressions import Constraint, Expression, Variable, maximum, minimum
from .problem import Problem, Requirement
from .search import SearchLimit, Stats

__all__ = [
    "Constraint",
    "Expression",
    "Problem",
    "Requirement",
    "SearchLimit",
    "Stats",
    "Variable",
    "maximum",
    "minimum",
]
