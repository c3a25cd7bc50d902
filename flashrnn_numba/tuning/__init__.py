"""Which sizes: the integer constraint solver, the devices' limits, the tuning cache.

docs/notes/solver.md says how the solver works.
"""

from .cache import CacheWarning, Key, TuningCache, autotune, cache_directory
from .expressions import Constraint, Expression, Variable, maximum, minimum
from .hardware import Device, DeviceNotFoundError
from .problem import Problem, Requirement
from .search import SearchLimit, Stats

__all__ = [
    "CacheWarning",
    "Constraint",
    "Device",
    "DeviceNotFoundError",
    "Expression",
    "Key",
    "Problem",
    "Requirement",
    "SearchLimit",
    "Stats",
    "TuningCache",
    "Variable",
    "autotune",
    "cache_directory",
    "maximum",
    "minimum",
]
