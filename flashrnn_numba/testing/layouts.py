"""Arrays with equal numbers in other memory layouts."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from .problem import Problem


@dataclass(frozen=True)
class Layout:
    """order: seed of the axes' order in memory (None: C order); step: distance of neighbours along
    the last axis in memory; reverse: all strides negative; broadcast: an axis of stride 0, along
    which the array then repeats its first entry."""

    order: int | None = None
    step: int = 1
    reverse: bool = False
    broadcast: int | None = None

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The array's numbers in this layout (repeated along the broadcast axis)."""
        if self.broadcast is None or not array.ndim or not array.size:
            return self._spread(array)
        first = array.take([0], self.broadcast % array.ndim)
        return np.broadcast_to(self._spread(first), array.shape)

    def _spread(self, array: np.ndarray) -> np.ndarray:
        axes = list(range(array.ndim))
        if self.order is not None:
            random.Random(self.order).shuffle(axes)
        sizes = [array.shape[axis] for axis in axes]
        sizes[-1] *= self.step
        memory = np.zeros(sizes, array.dtype)[..., :: self.step]
        if self.reverse:
            memory = memory[(slice(None, None, -1),) * array.ndim]
        view = memory.transpose(np.argsort(axes))
        view[...] = array
        return view


def relayout(problem: Problem, layouts: dict[str, Layout]) -> Problem:
    """The problem with some of its arrays ("Wx", ..., "dstates", "dlast") in other layouts."""
    inputs = problem.inputs
    arrays = {**inputs._asdict(), "dstates": problem.dstates, "dlast": problem.dlast}
    for name, layout in layouts.items():
        if arrays[name] is not None:
            arrays[name] = layout.apply(arrays[name])
    outer = {name: arrays.pop(name) for name in ("dstates", "dlast")}
    return replace(problem, inputs=inputs._replace(**arrays), **outer)


def contiguous(problem: Problem) -> Problem:
    """The same numbers in C order."""
    names = [*problem.inputs._fields, "dstates", "dlast"]
    return relayout(problem, dict.fromkeys(names, Layout()))
