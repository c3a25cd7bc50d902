"""Which head dimensions a kernel can hold, and what else would make a task fit."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace

from ..kernels.interface import Task
from .candidates import NODES, Setting
from .hardware import Device
from .models.common import Direction, Model
from .search import SearchLimit
from .store import divisors

__all__ = ["fits", "largest_head", "remedies"]


def fits(model: Model, task: Task, device: Device, direction: Direction) -> bool:
    """Whether there is any tiling: what `evaluate_model` finds, but not which one is best."""
    return _fits(model, task, device, direction, set())


def _fits(
    model: Model, task: Task, device: Device, direction: Direction, empty: set[Hashable]
) -> bool:
    """empty -- problems known to have no tiling; more are added."""
    if model.refuses(task, device, direction) is not None:
        return False
    for statement in model.build(task, device, direction):
        if statement.alike is not None and statement.alike in empty:
            continue
        try:
            if statement.best(1, NODES):
                return True
        except SearchLimit:
            return False
        empty.add(statement.alike)
    return False


def largest_head(
    model: Model, task: Task, device: Device, direction: Direction, most: int = 8192
) -> int:
    """The largest head dimension up to `most` that the kernel can hold, other things equal; 0 for
    none. Some below it may not fit: a prime number of fragments cannot be spread."""
    # neighbouring head dimensions often lead to the same problem
    empty: set[Hashable] = set()
    for D in model.head_dims(task, device, direction, most):
        if _fits(model, replace(task, D=D), device, direction, empty):
            return D
    return 0


def remedies(setting: Setting) -> list[str]:
    """What would make a task fit that has no tiling."""
    return list(_remedies(setting))


def _remedies(setting: Setting) -> Iterator[str]:
    model, task, on = setting.model, setting.task, (setting.device, setting.direction)
    largest = largest_head(model, task, *on, task.D)
    if not largest:
        yield "no head dimension"
    else:
        yield f"a head dimension of {largest} (the largest)"
    for heads in divisors(task.D) or ():
        cut = replace(task, D=task.D // heads, H=task.H * heads)
        if heads > 1 and largest >= cut.D and fits(model, cut, *on):
            yield f"{cut.H} heads of {cut.D} instead of {task.H} of {task.D}"
            break
    if task.dtype in ("float32", "float64"):
        for dtype in ("float32", "bfloat16"):
            if dtype != task.dtype and fits(model, replace(task, dtype=dtype), *on):
                yield f"dtype {dtype}"
                break
