"""emulate(kernel, grid, block)(*args): a whole launch in plain Python."""

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

from .errors import EmulatorError
from .machine import Machine, Shape, quiet_numpy
from .memory import SHARED_LIMIT
from .rebind import Rebinder, argument, arrays_in


def emulate(
    kernel: Any,
    grid: Any,
    block: Any,
    cluster: Any = (1, 1, 1),
    shared_bytes: int = 0,
    cooperative: bool = False,
    schedule: int | None = None,
    races: bool = True,
) -> Callable[..., None]:
    """A function that runs the kernel on NumPy arrays, in place.

    kernel: what would be given to cuda.jit, or what it returned. grid counts blocks, also with a
    cluster, which must divide it. shared_bytes: dynamic shared memory of a block. cooperative: all
    blocks live at once, as for a grid barrier; otherwise one cluster runs after the other.
    schedule: a seed that shuffles the order of the threads and of asynchronous copies; None runs
    them in order and lets copies land as late as they may. races: look for data races.
    """
    grid, block, cluster = _shape("grid", grid), _shape("block", block), _shape("cluster", cluster)
    _check(grid, block, cluster, shared_bytes)

    def launch(*args: Any) -> None:
        function = getattr(kernel, "py_func", kernel)
        names = list(inspect.signature(function).parameters)
        if len(names) != len(args):
            raise TypeError(f"the kernel takes {len(names)} arguments {names}, got {len(args)}")
        arrays: dict[str, Any] = {}
        for name, value in zip(names, args, strict=True):
            arrays |= arrays_in(name, value)
        machine = Machine(grid, block, cluster, shared_bytes, schedule, races, arrays)
        emulated = Rebinder(machine.codes).function(function)
        given = [
            argument(machine.globals.view, name, value)
            for name, value in zip(names, args, strict=True)
        ]
        with quiet_numpy():
            for positions in _groups(grid, cluster, cooperative):
                machine.run_group(positions, lambda: emulated(*given), cooperative)

    return launch


def _groups(grid: Shape, cluster: Shape, cooperative: bool) -> list[list[Shape]]:
    """The blocks that live at the same time."""
    every = [(x, y, z) for z, y, x in itertools.product(*(range(n) for n in reversed(grid)))]
    if cooperative:
        return [every]
    groups: dict[Shape, list[Shape]] = {}
    for x, y, z in every:
        groups.setdefault((x // cluster[0], y // cluster[1], z // cluster[2]), []).append((x, y, z))
    return list(groups.values())


def _shape(name: str, value: Any) -> Shape:
    sizes = tuple(value) if isinstance(value, tuple | list) else (value,)
    sizes = tuple(int(size) for size in sizes) + (1,) * (3 - len(sizes))
    if len(sizes) != 3 or min(sizes) < 1:
        raise EmulatorError(f"{name} is {value!r}, expected one to three positive sizes")
    return sizes[0], sizes[1], sizes[2]


def _check(grid: Shape, block: Shape, cluster: Shape, shared_bytes: int) -> None:
    if math.prod(block) > 1024:
        raise EmulatorError(f"block {block} has {math.prod(block)} threads, at most 1024 can be")
    if math.prod(cluster) > 16:
        raise EmulatorError(f"cluster {cluster} has {math.prod(cluster)} blocks, at most 16 can be")
    if any(blocks % size for blocks, size in zip(grid, cluster, strict=True)):
        raise EmulatorError(f"grid {grid} is not a multiple of cluster {cluster}")
    if not 0 <= shared_bytes <= SHARED_LIMIT:
        raise EmulatorError(f"shared_bytes is {shared_bytes}, expected 0 to {SHARED_LIMIT}")
