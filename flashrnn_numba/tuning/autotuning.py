"""Autotuning: measure the solver's best tilings on the device at hand, keep the winner.

Off by default: `tune` then returns the model's best tiling. With FLASHRNN_NUMBA_AUTOTUNE=k, or
count=k, it measures the k best ones the first time that it meets a kernel and a shape on a device,
and remembers the fastest in the tuning cache (cache.py). What is remembered must still satisfy the
problem as it is stated today; if it does not, it is measured again. The backends come here through
winners.py.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from ..kernels.interface import Task
from .cache import CacheWarning, Key, TuningCache
from .cache import autotune as measure_all
from .candidates import Refusal, Setting, evaluate_model
from .expressions import evaluator, variables_of
from .hardware import Device
from .models.common import Direction, Solution, batch_class
from .problem import Problem

__all__ = ["AUTOTUNE", "is_tiling", "key_of", "remembered", "satisfies", "tries", "tune"]

AUTOTUNE = "FLASHRNN_NUMBA_AUTOTUNE"

Measure = Callable[[Solution], float]


def tries() -> int:
    """How many tilings to measure: FLASHRNN_NUMBA_AUTOTUNE, 0 (off) by default."""
    text = os.environ.get(AUTOTUNE, "").strip() or "0"
    if not text.isdecimal():  # "²" is a digit, and no number
        raise ValueError(
            f"{AUTOTUNE} must be the number of tilings to measure, 0 for none; got {text!r}"
        )
    return int(text)


def key_of(name: str, task: Task, device: Device, direction: Direction) -> Key:
    """What the winner depends on. T is no part of it: every step is alike. Batch sizes of a class
    share their tilings, so that a new one compiles nothing."""
    from .. import __version__

    shape = f"{task.cell.name} {task.cell.key} {task.dtype} H{task.H} D{task.D}"
    shape += f" B{batch_class(task.B)}"
    if task.precision != "auto":
        shape += f" {task.precision}"
    return Key(device.name, device.driver or "none", __version__, f"{name} {direction}", shape)


def tune(
    setting: Setting,
    measure: Measure,
    count: int | None = None,
    cache: TuningCache | None = None,
) -> Solution | None:
    """The fastest of the model's `count` best tilings, or None where it has none.

    measure -- seconds that a tiling takes (measure.py does it on the device). count -- None:
        `tries()`; with 0 or 1 the model's best is returned unmeasured. cache -- None: the user's.

    Raises RuntimeError if none of the tilings could be measured.
    """
    count = tries() if count is None else count
    s = setting

    def best() -> list[Solution]:
        found = evaluate_model(s.model, s.task, s.device, s.direction)
        if isinstance(found, Refusal):
            return []
        return [candidate.solution for candidate in found.best(max(1, count))]

    if count <= 1:
        return next(iter(best()), None)
    key = key_of(s.model.name, s.task, s.device, s.direction)
    valid = _Valid(s, TuningCache() if cache is None else cache)
    known = valid.get(key)
    if known is not None:
        return known
    tilings = best()
    return measure_all(tilings, measure, key, valid) if tilings else None


def remembered(setting: Setting, cache: TuningCache | None = None) -> Solution | None:
    """The winner, if it was measured before and is still a tiling. cache -- None: the user's."""
    s = setting
    key = key_of(s.model.name, s.task, s.device, s.direction)
    return _Valid(s, TuningCache() if cache is None else cache).get(key)


def is_tiling(setting: Setting, solution: Solution) -> bool:
    """Whether a solution is a tiling of the kernel for the task, as stated today."""
    s = setting
    if s.model.refuses(s.task, s.device, s.direction) is not None:
        return False
    statement = s.statement(solution)
    return statement is not None and satisfies(statement.problem, statement.own(solution))


def satisfies(problem: Problem, solution: Solution) -> bool:
    """Whether a solution names the problem's variables and holds all its constraints."""
    if {v.name for v in problem.variables} != set(solution):
        return False
    if any(solution[v.name] not in v.domain for v in problem.variables):
        return False
    for requirement in problem.constraints:
        scope = variables_of(requirement.constraint)
        (holds,) = evaluator([(requirement.constraint, scope)])
        try:
            if not holds(*[solution[v.name] for v in scope]):
                return False
        except ZeroDivisionError:
            return False
    return True


class _Valid(TuningCache):
    """A cache that forgets what is no solution of the problem at hand."""

    def __init__(self, setting: Setting, cache: TuningCache) -> None:
        super().__init__(cache.path.parent)
        self._setting = setting

    def get(self, key: Key) -> Solution | None:
        known = super().get(key)
        if known is None or is_tiling(self._setting, known):
            return known
        warnings.warn(
            f"the tuning cache {self.path} has {known} for {key.kernel}, {key.shape}, which is no "
            "tiling of this version: it does not count",
            CacheWarning,
            stacklevel=4,
        )
        return None
